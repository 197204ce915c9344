"""Where weights of backbones come from: one file, a folder of them, the hub, or from nowhere but this machine.

    WeightsSource(folder="weights", offline=True)    only what is in that folder, in the hub's cache, or in the package

`headstart.model.backbones.registry` looks there, in that order. Costs nothing; it opens no file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from headstart.errors import BackboneError
from headstart.io.options import OnlyFields


@dataclass(frozen=True)
class WeightsSource:
    """Where to look for the weights of backbones: a file, else a folder, else the hub's cache, else the hub.

    >>> WeightsSource(file="resnet18.a1_in1k.safetensors").file.stem
    'resnet18.a1_in1k'
    """

    file: Path | None = field(default=None, metadata={"option": "weights"})
    """Weights file (.safetensors) for the backbone that is named."""
    folder: Path | None = field(default=None, metadata={"option": "weights_dir"})
    """Folder of NAME.safetensors and NAME.json."""
    offline: bool = False
    """Never open a socket."""

    def __post_init__(self) -> None:
        for name in ("file", "folder"):  # where text was given
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))


WeightsFolder = Annotated[Path | WeightsSource, OnlyFields("folder", "offline")]
"""For verbs that look at several backbones, of which a single file could be but one."""


def as_weights_source(weights: Path | str | WeightsSource) -> WeightsSource:
    """A source as it is; a path as the weights file or the folder that it is.

    >>> as_weights_source("weights/resnet18.a1_in1k.safetensors").file.name, as_weights_source("weights").folder.name
    ('resnet18.a1_in1k.safetensors', 'weights')
    """
    if isinstance(weights, WeightsSource):
        return weights
    place = Path(weights)
    is_file = place.is_file() or place.suffix == ".safetensors"
    return WeightsSource(file=place) if is_file else WeightsSource(folder=place)


def as_weights_folder(weights: Path | str | WeightsSource) -> WeightsSource:
    """The same where a single file cannot be meant. Raises `BackboneError` for one."""
    source = as_weights_source(weights)
    if source.file is not None:
        raise BackboneError(
            f"{source.file}: is given as a weights file, and a folder of weights was expected.",
            hint="Give the folder that holds NAME.safetensors and NAME.json for each backbone.",
        )
    return source
