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

import json
import platform
import sysconfig
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.errors import MissingWeights, PackagingError
from headstart.io.files import copy_file, csv_bytes, sha256_bytes, sha256_file, write_bytes, write_json, write_zip
from headstart.io.folders import (
    MANIFEST,
    check_out_file,
    check_outside_run,
    check_replaceable,
    folder_aside,
    temporary_folder,
)
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
from headstart.model.backbones.registry import STARTER, Backbone, at_hand, find_backbone
from headstart.model.backbones.weights_source import WeightsSource, as_weights_source

BundleContents = dict[str, bytes | Path]
"""Name in the bundle -> what the file holds, or the file to copy."""

README = """\
headstart {version}, for a machine without network

Made on {machine} with Python {python}, which the wheels need too.

1. Install, from within this folder, into a virtual environment of Python {python}:

       pip install {no_index}--find-links wheels -r requirements.txt
{left_out}
2. Train, with DIR for this folder:

       headstart train DATA --out run --weights-dir DIR --offline

   HEADSTART_WEIGHTS=DIR in the environment does the same for all commands.

Weights (licences.csv has where they come from, and the licences of all packages):

{weights}

manifest.json has the SHA-256 of every file. headstart refuses weights that differ from it.
"""

LEFT_OUT = """
   Only headstart's own wheel is in here; pip takes the others from the index that it knows. To be without one:
   `headstart bundle --wheels`.
"""


@dataclass(frozen=True)
class BundledWeights:
    """The weights of one backbone in a bundle: `bytes` and `sha256` of its safetensors file."""

    name: str
    licence: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class BundleResult:
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


def weights_table(backbones: tuple[BundledWeights, ...]) -> str:
    """A line per backbone: name, size, licence."""
    rows = [[plain(b.name), f"{b.bytes / 1e6:,.1f} MB", plain(b.licence)] for b in backbones]
    return "\n".join(columns(rows, "<><"))


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
    zipped = out.suffix.lower() == ".zip"
    (check_out_file if zipped else check_replaceable)(out)
    check_outside_run(out.parent)
    if wheels and weights.offline:
        raise PackagingError(
            "--wheels fetches packages, which --offline forbids.", hint="Leave one of the two out, and run it again."
        )
    found = _found(backbones, weights)
    packages = needed_packages()
    with temporary_folder() as room:
        files = [own_wheel(room)]
        if wheels:
            files += fetch_wheels([p for p in packages if p.name != SELF], room / "wheels")
        contents: BundleContents = {f"wheels/{file.name}": file for file in files}
        rows = tuple(_add_weights(contents, backbone) for backbone in found)
        _add_papers(contents, found, rows, packages, files)
        _write_zipped(out, contents, room) if zipped else _write_folder(out, contents)
        size = sum(len(c) if isinstance(c, bytes) else c.stat().st_size for c in contents.values())
    return BundleResult(str(out), rows, tuple(map(str, packages)), len(files), size)


def _found(names: str, weights: WeightsSource) -> list[Backbone]:
    """Those that are named, each once; else all at hand; else the one that is downloaded. Raises `BackboneError`."""
    if names:
        wanted = [name.strip() for name in names.split(",")]
        named = [find_backbone(name, weights) for name in wanted]
        return list({backbone.name: backbone for backbone in named}.values())
    return at_hand(weights) or [find_backbone(STARTER, weights)]


def _add_weights(contents: BundleContents, backbone: Backbone) -> BundledWeights:
    weights = backbone.weights
    if weights is None:
        raise MissingWeights(f"{backbone.name}: has no weights file.", hint="Name a pretrained backbone.")
    b = backbone
    spec = BackboneConfig(b.architecture, b.model_args, b.preprocess, b.licence, _origin(b))
    contents[f"{WEIGHTS}/{b.name}.json"] = _json(config_of(spec))
    contents[f"{WEIGHTS}/{b.name}.safetensors"] = weights
    return BundledWeights(b.name, b.licence, weights.stat().st_size, b.sha256)


def _origin(backbone: Backbone) -> str:
    """Where the weights come from, unless that is but their place on this machine."""
    return "" if backbone.origin == str(backbone.weights) else backbone.origin


def _add_papers(
    contents: BundleContents,
    found: Sequence[Backbone],
    rows: tuple[BundledWeights, ...],
    packages: Sequence[Package],
    wheels: Sequence[Path],
) -> None:
    """README.txt, requirements.txt, the licences, and bundle.json."""
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
    """The same as one archive, in which all lies in a folder of its name."""
    listed = {n: sha256_bytes(c) if isinstance(c, bytes) else sha256_file(c) for n, c in contents.items()}
    write_json(room / MANIFEST, {"sha256": dict(sorted(listed.items()))})
    packed = {**contents, MANIFEST: room / MANIFEST}
    write_zip(out, {f"{out.stem}/{name}": content for name, content in sorted(packed.items())})
