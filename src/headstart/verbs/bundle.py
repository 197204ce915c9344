"""`headstart bundle`: collect weights, exact requirements and (optionally) wheels for an offline machine.

    bundle/README.txt           how to install and run on the other machine
    bundle/requirements.txt     headstart and its dependencies, names and versions as installed here
    bundle/licences.csv         licences of the weights and of every package; LICENSE.txt is the Apache License
    bundle/weights/             NAME.safetensors and NAME.json of each backbone
    bundle/wheels/              headstart's own wheel; with --wheels, all others too
    bundle/bundle.json, manifest.json   target platform and versions; SHA-256 of every file

`--weights-dir` accepts the folder directly. Weights that differ from the manifest are refused by name.

Costs: copying; with --wheels, a download (3.2 GB on Linux with CUDA libraries). A run from a bundle gives the same
numbers as here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.errors import PackagingError
from headstart.io.given_options import names_given
from headstart.io.result_repr import Result
from headstart.io.text_table import plain
from headstart.model.backbones.offline_kit import MARK
from headstart.model.backbones.weights_source import NamedWeights, WeightsSource, as_weights_source
from headstart.model.backbones.write_bundle import (
    BundledWeights,
    backbones_to_bundle,
    is_zip,
    weights_table,
    write_bundle,
)
from headstart.runs.outside_runs import check_earlier, check_out_file


@dataclass(frozen=True, repr=False)
class BundleResult(Result):
    """What `bundle` wrote to `out`. `wheels` is their number; `packages` lists all requirements as
    ``name==version``."""

    out: str
    backbones: tuple[BundledWeights, ...]
    packages: tuple[str, ...]
    wheels: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return the document of `bundle --json`."""
        return asdict(self)

    def table(self) -> str:
        """Format as plain text for a terminal."""
        wheels = "all wheels" if self.wheels == len(self.packages) else "headstart's wheel"
        size = f"{self.bytes / 1e6:,.1f} MB"
        head = f"{plain(self.out)}: {size}; {len(self.packages)} packages listed, {wheels} included."
        return "\n".join([head, "Its README.txt explains how to use it.", "", weights_table(self.backbones)])


def bundle(
    *, out: Path, backbones: str = "", weights: NamedWeights = WeightsSource(), wheels: bool = False
) -> BundleResult:
    """Collect weights and requirements into a folder or a zip for an offline machine. Example:

        headstart bundle --out bundle --wheels

    Args:
        out: Folder or .zip to write. An earlier bundle in that folder is kept as OUT.previous.
        backbones: Comma-separated names, downloaded if needed; by default all with weights on this machine, else
            mobilenetv2_100.
        weights: Where to look for weights: a file, a folder, or only this machine.
        wheels: Also fetch the wheels of all packages with pip, for this operating system and Python.

    Raises:
        BackboneError: the backbone is unknown, or its weights are not available.
        PackagingError: a required package is not installed here, or pip could not fetch its wheel.
        WriteError: `out` cannot be written, is in a run folder, or holds something other than a bundle.
    """
    out, weights, backbones = Path(out), as_weights_source(weights), names_given(backbones, "backbones")
    if is_zip(out):
        check_out_file(out)
    else:
        check_earlier(out, "bundle", lambda names: MARK in names)
    if wheels and weights.offline:
        raise PackagingError(
            "--wheels fetches packages, which --offline forbids.", hint="Remove one of the two options."
        )
    written = write_bundle(out, backbones_to_bundle(backbones, weights), all_wheels=wheels)
    return BundleResult(
        out=str(out),
        backbones=written.backbones,
        packages=tuple(map(str, written.packages)),
        wheels=written.wheels,
        bytes=written.bytes,
    )
