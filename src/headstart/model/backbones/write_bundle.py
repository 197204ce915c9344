"""Writing a bundle: weights, exact requirements and wheels in one folder or zip, for an offline machine.

`headstart.model.backbones.offline_kit` reads its weights. Costs the copying, and a download if all wheels are included.
"""

from __future__ import annotations

import json
import platform
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import MissingWeights
from headstart.io.files import copy_file, csv_bytes, sha256_bytes, sha256_file, write_bytes, write_json, write_zip
from headstart.io.folders import MANIFEST, folder_aside, temporary_folder
from headstart.io.text_table import columns, plain
from headstart.model.backbones.config import BackboneConfig, config_of
from headstart.model.backbones.offline_kit import MARK, WEIGHTS
from headstart.model.backbones.packages import (
    SELF,
    Package,
    fetch_wheels,
    licence_text,
    needed_packages,
    own_wheel,
    requirements_text,
)
from headstart.model.backbones.registry import STARTER, Backbone, at_hand, find_backbone, free_to_choose
from headstart.model.backbones.weights_source import WeightsSource

BundleContents = dict[str, bytes | Path]
"""Name in the bundle -> contents, or the file to copy."""

README = """\
headstart {version}, for a machine without an internet connection

Made on {machine} with Python {python}, which the wheels need too.

1. Install from inside this folder into a virtual environment with Python {python}:

       pip install {no_index}--find-links wheels -r requirements.txt
{left_out}
2. Train, with DIR for this folder:

       headstart train DATA --out run --weights-dir DIR --offline

   Setting HEADSTART_WEIGHTS=DIR in the environment does the same for all commands.

Weights (licences.csv lists their origin, and the licences of all packages):

{weights}

manifest.json has the SHA-256 of every file. headstart rejects weights that do not match it.
"""

LEFT_OUT = """
   Only headstart's own wheel is included; pip takes the others from its index. To need no index, use `headstart bundle
   --wheels`.
"""


@dataclass(frozen=True)
class BundledWeights:
    """The weights of one backbone in a bundle: `bytes` and `sha256` of its safetensors file."""

    name: str
    licence: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class WrittenBundle:
    """Contents of a bundle: weights, number of wheels, required packages, and total bytes."""

    backbones: tuple[BundledWeights, ...]
    packages: tuple[Package, ...]
    wheels: int
    bytes: int


def weights_table(backbones: tuple[BundledWeights, ...]) -> str:
    """Format one line per backbone: name, size, licence."""
    rows = [[plain(b.name), f"{b.bytes / 1e6:,.1f} MB", plain(b.licence)] for b in backbones]
    return "\n".join(columns(rows, "<><"))


def backbones_to_bundle(names: str, weights: WeightsSource) -> list[Backbone]:
    """Return the named backbones, each once; else all here that are free to choose (where they are unpacked, training
    chooses among them); else the downloaded one. Raises `BackboneError`."""
    if names:
        wanted = [name.strip() for name in names.split(",")]
        named = [find_backbone(name, weights) for name in wanted]
        return list({backbone.name: backbone for backbone in named}.values())
    return free_to_choose(at_hand(weights)) or [find_backbone(STARTER, weights)]


def write_bundle(out: Path, backbones: Sequence[Backbone], *, all_wheels: bool) -> WrittenBundle:
    """Write the bundle as a zip or folder, by its name. Raises `MissingWeights`, `PackagingError`, `WriteError`."""
    packages = needed_packages()
    with temporary_folder() as room:
        files = [own_wheel(room)]
        if all_wheels:
            files += fetch_wheels([p for p in packages if p.name != SELF], room / "wheels")
        contents: BundleContents = {f"wheels/{file.name}": file for file in files}
        rows = tuple(_add_weights(contents, backbone) for backbone in backbones)
        _add_papers(contents, backbones, rows, packages, files)
        _write_zipped(out, contents, room) if is_zip(out) else _write_folder(out, contents)
        size = sum(len(c) if isinstance(c, bytes) else c.stat().st_size for c in contents.values())
    return WrittenBundle(rows, tuple(packages), len(files), size)


def is_zip(out: Path) -> bool:
    """Return whether a bundle of that name is a zip file."""
    return out.suffix.lower() == ".zip"


def _add_weights(contents: BundleContents, backbone: Backbone) -> BundledWeights:
    weights = backbone.weights
    if weights is None:
        raise MissingWeights(f"{backbone.name}: has no weights file.", hint="Name a pretrained backbone.")
    config = BackboneConfig(
        architecture=backbone.architecture,
        model_args=backbone.model_args,
        preprocess=backbone.preprocess,
        licence=backbone.licence,
        origin=_origin(backbone),
    )
    contents[f"{WEIGHTS}/{backbone.name}.json"] = _json(config_of(config))
    contents[f"{WEIGHTS}/{backbone.name}.safetensors"] = weights
    return BundledWeights(backbone.name, backbone.licence, weights.stat().st_size, backbone.sha256)


def _origin(backbone: Backbone) -> str:
    """Return the origin of the weights, unless it is just a path on this machine."""
    return "" if backbone.origin == str(backbone.weights) else backbone.origin


def _add_papers(
    contents: BundleContents,
    found: Sequence[Backbone],
    rows: tuple[BundledWeights, ...],
    packages: Sequence[Package],
    wheels: Sequence[Path],
) -> None:
    """Add README.txt, requirements.txt, the licences, and bundle.json."""
    made_for = {"python": ".".join(platform.python_version_tuple()[:2]), "machine": sysconfig.get_platform()}
    version = next(package.version for package in packages if package.name == SELF)
    how = {"no_index": "--no-index ", "left_out": ""}
    if len(wheels) < len(packages):
        how = {"no_index": "", "left_out": LEFT_OUT}
    text = README.format(version=version, weights=_indented(weights_table(rows)), **how, **made_for)
    licences = [("weights", b.name, b.sha256[:12], b.licence, _origin(b)) for b in found]
    licences += [("package", p.name, p.version, p.licence, p.page) for p in packages]
    contents["README.txt"] = text.encode("utf-8", "surrogateescape")
    contents["requirements.txt"] = requirements_text(packages, wheels).encode()
    contents["licences.csv"] = csv_bytes(("what", "name", "version", "licence", "from"), licences)
    contents["LICENSE.txt"] = licence_text().encode()
    contents[MARK] = _json({"format": 1, SELF: version, **made_for, "backbones": [b.name for b in rows]})


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _write_folder(out: Path, contents: BundleContents) -> None:
    with folder_aside(out) as folder:
        for name, content in contents.items():
            if isinstance(content, Path):
                copy_file(content, folder / name)
            else:
                write_bytes(folder / name, content)


def _write_zipped(out: Path, contents: BundleContents, room: Path) -> None:
    """Write one archive, with everything inside a folder of its name."""
    listed = {n: sha256_bytes(c) if isinstance(c, bytes) else sha256_file(c) for n, c in contents.items()}
    write_json(room / MANIFEST, {"sha256": dict(sorted(listed.items()))})
    packed = {**contents, MANIFEST: room / MANIFEST}
    write_zip(out, {f"{out.stem}/{name}": content for name, content in sorted(packed.items())})
