"""Where weights of backbones come from: a file, a folder, the hub, or only this machine.

    WeightsSource(folder="weights", offline=True)    only that folder, the hub's cache and the package

`headstart.model.backbones.registry` searches them in that order. Costs nothing; it opens no file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from headstart.errors import BackboneError
from headstart.io.given_options import as_path
from headstart.io.options import OnlyFields


@dataclass(frozen=True)
class WeightsSource:
    """Where to look for the weights of backbones: a file, else a folder, else the hub's cache, else the hub.

    >>> WeightsSource(file="resnet18.a1_in1k.safetensors").file.stem
    'resnet18.a1_in1k'
    """

    file: Path | None = field(default=None, metadata={"option": "weights"})
    """Weights file (.safetensors) of a backbone; name the backbone too if there is no JSON file beside it."""
    folder: Path | None = field(default=None, metadata={"option": "weights_dir"})
    """Folder of NAME.safetensors and NAME.json."""
    offline: bool = False
    """Make no outgoing connections; URLs of buckets are refused."""
    max_download: int = 500
    """Limit in megabytes for weights that headstart chooses and downloads if no backbone is named; 0 downloads none."""

    def __post_init__(self) -> None:
        for name in ("file", "folder"):  # if given as text
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_path(getattr(self, name), name))
        if not (isinstance(self.max_download, int | float) and self.max_download >= 0):
            raise BackboneError(
                f"max_download {self.max_download!r} is not a number of megabytes.",
                hint="For example 500, or 0 to download no weights that are not named.",
            )


WeightsFolder = Annotated[Path | WeightsSource, OnlyFields("folder", "offline")]
"""For verbs that use several backbones, where a single file makes no sense, and that choose none to download."""

WeightsPool = Annotated[Path | WeightsSource, OnlyFields("folder", "offline", "max_download")]
"""The same for verbs that may choose some to download."""

NamedWeights = Annotated[Path | WeightsSource, OnlyFields("file", "folder", "offline")]
"""For verbs that download only what is named."""


def as_weights_source(weights: Path | str | WeightsSource) -> WeightsSource:
    """Return a source unchanged; turn a path into one, as a weights file or a folder.

    >>> as_weights_source("weights/resnet18.a1_in1k.safetensors").file.name, as_weights_source("weights").folder.name
    ('resnet18.a1_in1k.safetensors', 'weights')
    """
    if isinstance(weights, WeightsSource):
        return weights
    place = as_path(weights, "weights")
    is_file = place.is_file() or place.suffix == ".safetensors"
    return WeightsSource(file=place) if is_file else WeightsSource(folder=place)


def as_weights_folder(weights: Path | str | WeightsSource) -> WeightsSource:
    """Do the same where a single file makes no sense. Raises `BackboneError` for one."""
    source = as_weights_source(weights)
    if source.file is not None:
        raise BackboneError(
            f"{source.file}: is a weights file, expected a folder of weights.",
            hint="Give the folder that holds NAME.safetensors and NAME.json for each backbone.",
        )
    return source
