"""`headstart bundle`: weights, exact requirements and, if asked for, wheels in one place, for a machine without network.

    bundle/README.txt           how to install and run, on the other machine
    bundle/requirements.txt     headstart and all that it needs, names and versions as installed here
    bundle/licences.csv         of the weights and of every package; LICENSE.txt is the text of the Apache License
    bundle/weights/             NAME.safetensors and NAME.json of each backbone
    bundle/wheels/              headstart's own wheel; with --wheels all others
    bundle/bundle.json, manifest.json   what it was made for and with; SHA-256 of every file

`--weights-dir` takes the folder as it is. Weights that are not to the byte what the manifest says are refused by name.

Costs: the copying; with --wheels a download (3.2 GB on Linux with CUDA's libraries). A run from a bundle gives the
numbers that it gives here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.errors import PackagingError
from headstart.io.folders import check_replaceable
from headstart.io.result_repr import Result
from headstart.io.text_table import plain
from headstart.model.backbones.weights_source import WeightsSource, as_weights_source
from headstart.model.backbones.write_bundle import (
    BundledWeights,
    backbones_to_bundle,
    is_zip,
    weights_table,
    write_bundle,
)
from headstart.runs.outside_runs import check_out_file, check_outside_run


@dataclass(frozen=True, repr=False)
class BundleResult(Result):
    """What `bundle` wrote to `out`. `wheels` counts those in it; `packages` are all that it needs, ``name==version``."""

    out: str
    backbones: tuple[BundledWeights, ...]
    packages: tuple[str, ...]
    wheels: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """The document of `bundle --json`."""
        return asdict(self)

    def table(self) -> str:
        """Plain text for a terminal."""
        wheels = "the wheels of all" if self.wheels == len(self.packages) else "headstart's wheel"
        size = f"{self.bytes / 1e6:,.1f} MB"
        head = f"{plain(self.out)}: {size}; {len(self.packages)} packages named, {wheels} included."
        return "\n".join([head, "README.txt in it says how to use it.", "", weights_table(self.backbones)])


def bundle(
    *, out: Path, backbones: str = "", weights: Path | WeightsSource = WeightsSource(), wheels: bool = False
) -> BundleResult:
    """Collect weights and requirements into a folder or a zip, for a machine without network. Example:

        headstart bundle --out bundle --wheels

    Args:
        out: Folder to write, or a .zip. An earlier bundle of that folder is kept as OUT.previous.
        backbones: Names joined by commas, downloaded if need be; by default all with weights on this machine, or else
            mobilenetv2_100.
        weights: Where to look for weights: a file, a folder, only on this machine.
        wheels: Fetch the wheels of all packages too, by pip, for this operating system and Python.

    Raises:
        BackboneError: no such backbone, or no weights for it here.
        PackagingError: a package that is needed is not installed here, or pip could not fetch its wheel.
        WriteError: `out` cannot be written.
    """
    out, weights = Path(out), as_weights_source(weights)
    (check_out_file if is_zip(out) else check_replaceable)(out)
    check_outside_run(out.parent)
    if wheels and weights.offline:
        raise PackagingError(
            "--wheels fetches packages, which --offline forbids.", hint="Leave one of the two out, and run it again."
        )
    written = write_bundle(out, backbones_to_bundle(backbones, weights), all_wheels=wheels)
    return BundleResult(
        out=str(out),
        backbones=written.backbones,
        packages=tuple(map(str, written.packages)),
        wheels=written.wheels,
        bytes=written.bytes,
    )
