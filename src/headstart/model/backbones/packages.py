"""The packages that headstart runs with, as installed here, for a machine without access to a package index.

`needed_packages` follows headstart's requirements through the metadata of installed packages, with this machine's
markers, so it lists what this environment runs with, not what an index would offer today. `own_wheel` makes headstart's
wheel from the running code: this needs no build tool and includes unreleased changes. pip fetches the other wheels,
with its own settings (index, proxy, cache: ``PIP_INDEX_URL`` and so on).

Costs: a second for the list. The wheels were 3.2 GB on Linux, mostly torch and CUDA, and need that disk space twice.
When not to use it: for another operating system, CPU or Python version: the wheels are for this machine.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import headstart
from headstart.errors import PackagingError
from headstart.io.extras import is_installed
from headstart.io.files import sha256_file, write_zip
from headstart.io.progress import bar, log

SELF = "headstart"
PAGES = ("homepage", "home", "repository", "source", "source code", "github", "documentation")
"""Labels of the most informative project address, best first."""


@dataclass(frozen=True)
class Package:
    """An installed package: `name` as on indexes, exact `version`, and `licence` from its metadata."""

    name: str
    version: str
    licence: str
    page: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def needed_packages() -> list[Package]:
    """Return headstart and all its requirements here, by name: those for training too where torch is installed.

    Other extras are left out unless a requirement asks for them. Raises `PackagingError` if a requirement is not
    installed.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    waiting = [(SELF, extra, SELF) for extra in ("", *(["train"] if is_installed("torch") else []))]
    seen: dict[tuple[str, str], None] = {}
    while waiting:
        name, extra, wanted_by = waiting.pop()
        if (name, extra) in seen:
            continue
        seen[name, extra] = None
        for text in _requirements(name, wanted_by):
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                waiting += [(needed, of, name) for of in ("", *requirement.extras)]
    return [_package(name) for name in sorted({name for name, _ in seen})]


def _requirements(name: str, wanted_by: str) -> Sequence[str]:
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise PackagingError(
            f"{name}: is not installed, but {wanted_by} requires it.",
            hint=f"Install it (`pip install {name}`), then run the same command again.",
        ) from None
    project = _editable_project(distribution)
    if name == SELF and project is not None:  # metadata from its installation may be older than the code
        stated = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        optional = [f"{text}; extra == 'train'" for text in stated.get("optional-dependencies", {}).get("train", [])]
        return [*stated["dependencies"], *optional]
    return distribution.requires or ()


def _editable_project(distribution: importlib.metadata.Distribution) -> Path | None:
    """Return the pyproject.toml of a package installed with `pip install -e`."""
    direct_url = json.loads(distribution.read_text("direct_url.json") or "{}")
    address = urlsplit(direct_url.get("url", ""))
    if address.scheme != "file" or not direct_url.get("dir_info", {}).get("editable"):
        return None
    project = Path(url2pathname(address.path)) / "pyproject.toml"
    return project if project.is_file() else None


def _package(name: str) -> Package:
    metadata = importlib.metadata.distribution(name).metadata

    def first(key: str) -> str:
        return next(iter(metadata.get_all(key) or ()), "").strip()

    classifiers = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier") or () if c.startswith("License ::")]
    words = first("License")
    short = words if len(words) <= 60 and "\n" not in words else ""  # some put the whole text there
    licence = first("License-Expression") or short or ", ".join(classifiers) or "unknown"
    pages = [tuple(url.split(", ", 1)) for url in metadata.get_all("Project-URL") or () if ", " in url]
    named = {label.casefold(): page for label, page in reversed(pages)}
    page = first("Home-page") or next((named[label] for label in PAGES if label in named), "")
    return Package(name, metadata["Version"], licence, page)


def licence_text() -> str:
    """Return the text of headstart's licence, the Apache License 2.0."""
    return importlib.metadata.distribution(SELF).read_text("licenses/LICENSE") or ""


def requirements_text(packages: Sequence[Package], wheels: Iterable[Path]) -> str:
    """Return the lines of a requirements.txt; with a wheel for each, also its SHA-256, which pip then requires."""
    from packaging.utils import parse_wheel_filename

    hashes = {str(parse_wheel_filename(wheel.name)[0]): sha256_file(wheel) for wheel in wheels}
    complete = all(package.name in hashes for package in packages)
    lines = [f"{p} --hash=sha256:{hashes[p.name]}" if complete else str(p) for p in packages]
    return "\n".join([*lines, ""])


def own_wheel(folder: Path) -> Path:
    """Make headstart's own wheel from the running code and the metadata of its installation.

    Format: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
    """
    distribution = importlib.metadata.distribution(SELF)
    version = distribution.version
    info = f"{SELF}-{version}.dist-info"
    package = Path(headstart.__file__).parent
    files = (p for p in sorted(package.rglob("*")) if p.is_file() and "__pycache__" not in p.parts)
    contents = {f"{SELF}/{p.relative_to(package).as_posix()}": p.read_bytes() for p in files}
    for name in ("METADATA", "entry_points.txt", "licenses/LICENSE"):
        contents[f"{info}/{name}"] = (distribution.read_text(name) or "").encode()
    tag = f"Wheel-Version: 1.0\nGenerator: {SELF} {version}\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    contents[f"{info}/WHEEL"] = tag.encode()
    record = [f"{name},sha256={_unpadded(data)},{len(data)}" for name, data in contents.items()]
    contents[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    wheel = folder / f"{SELF}-{version}-py3-none-any.whl"
    write_zip(wheel, contents)
    return wheel


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def fetch_wheels(packages: Sequence[Package], folder: Path) -> list[Path]:
    """Fetch wheels of those packages into `folder`, with this environment's pip settings.

    A package without a wheel is built into one. Raises `PackagingError` with pip's own reason.
    """
    command = [sys.executable, "-P", "-m", "pip", "--no-input", "--disable-pip-version-check", "wheel", "--no-deps"]
    command += ["--wheel-dir", str(folder), *map(str, packages)]
    log.info("pip is fetching %d wheels; torch's are large.", len(packages))
    lines: list[str] = []
    with (
        bar("Wheels", len(packages)) as advance,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as pip,
    ):
        for line in pip.stdout or ():
            lines.append(line.strip())
            advance(line.startswith("Collecting "))
    if pip.returncode:
        raise _pip_error(lines)
    return sorted(folder.glob("*.whl"))


def _pip_error(lines: Sequence[str]) -> PackagingError:
    """Make an error from pip's output: the last lines marked as errors, or the very last line."""
    if any("No module named pip" in line for line in lines):
        return PackagingError(
            f"{sys.executable}: has no pip, which is needed to fetch the wheels.",
            hint="Install it with `python -m ensurepip`, or leave out --wheels and fetch the wheels yourself.",
        )
    errors = [_without_passwords(line.removeprefix("ERROR: ")) for line in lines if line.startswith("ERROR: ")]
    reason = " ".join(errors[-2:] or lines[-1:] or ["no reason given"])
    return PackagingError(
        f"pip could not fetch the wheels: {reason.rstrip('.')}.",
        hint="Check the network. A torch build that is not on the index needs its own index: set PIP_EXTRA_INDEX_URL.",
    )


def _without_passwords(text: str) -> str:
    return re.sub(r"(\w+://)[^/@\s]+@", r"\1", text)
