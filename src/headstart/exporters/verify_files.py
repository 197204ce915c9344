"""Part of verify.py: compares the files of an export with its manifest before anything opens them; reads the samples.

It imports nothing of headstart, because it is part of every export (`golden_samples.verify_script`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


class RefusedExport(Exception):
    """A folder that is not an export, or whose files are not as they were written; the message says which."""


@dataclass(frozen=True)
class ExpectedSample:
    """One golden image: its file, and what is expected after every step."""

    name: str
    data: bytes
    decoded: np.ndarray
    resized: Mapping[str, np.ndarray]
    logits: np.ndarray
    probabilities: np.ndarray
    label: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class ExpectedSamples:
    """The samples of an export, with what is needed to judge them."""

    samples: tuple[ExpectedSample, ...]
    contracts: Mapping[str, Mapping[str, Any]]
    classes: tuple[str, ...]
    threshold: float
    tolerances: Mapping[str, Mapping[str, float]]


def check_files(folder: Path) -> dict[str, str]:
    """Compare every file with the manifest; return {relative path: SHA-256}. Call it before anything opens them.

    Raises `RefusedExport`: a file is missing, was changed or was added, or an ONNX file has data in another file.
    """
    listed = _manifest(folder)
    present = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    for name in listed:
        if name not in present:
            raise RefusedExport(f"{folder / name}: is missing.")
        if not present[name].is_file() or sha256_as_written(present[name]) != listed[name]:
            raise RefusedExport(f"{folder / name}: has changed since it was written (SHA-256 differs).")
    for name in present:
        if name not in listed and name != "manifest.json" and not is_of_the_system(name):
            raise RefusedExport(f"{folder / name}: is not in the manifest. Remove it, or export again.")
    for name in listed:
        if name.endswith(".onnx") and has_external_data(memoryview(present[name].read_bytes())):
            raise RefusedExport(f"{folder / name}: has its weights in another file, which headstart never writes.")
    return listed


NUMBERS = ("image_size", "resize", "shorter_side", "interpolation", "margin", "ranges")
"""The fields of a pixel contract that are used."""
SYSTEM_NAMES = ("__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir")
"""Names, in lower case, of files and folders that systems put into an export, besides hidden ones."""
EXPORTED_TEXTS = (".json", ".md", ".txt", ".html", ".py", ".xml")
"""Extensions of the texts in an export."""


def is_of_the_system(name: str) -> bool:
    """Return whether a system, not a person, put the file of that relative path into an export.

    >>> is_of_the_system("samples/Thumbs.db"), is_of_the_system("@eaDir/x"), is_of_the_system("samples/x.png")
    (True, True, False)
    """
    return any(part.startswith(".") or part.casefold() in SYSTEM_NAMES for part in name.split("/"))


def _manifest(folder: Path) -> dict[str, str]:
    try:
        listed = json.loads((folder / "manifest.json").read_bytes())["sha256"]
        names = [name for name in listed if name.startswith("/") or "\\" in name or ".." in name.split("/")]
        if names or "export.json" not in listed or not all(isinstance(each, str) for each in listed.values()):
            raise ValueError(names)
    except OSError as error:
        raise RefusedExport(f"{folder}: is not an export: manifest.json cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RefusedExport(f"{folder / 'manifest.json'}: is not a manifest that headstart wrote.") from error
    return dict(listed)


def sha256_as_written(path: Path) -> str:
    """Return a file's SHA-256; text is first given its original line endings (git changes them on Windows)."""
    data = path.read_bytes()
    return hashlib.sha256(data.replace(b"\r\n", b"\n") if path.suffix in EXPORTED_TEXTS else data).hexdigest()


_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external", 14: "external"},
}
"""The fields of ONNX messages (onnx.proto) that lead to a tensor's `external_data` and `data_location`."""


def has_external_data(message: memoryview, kind: str = "model") -> bool:
    """Return whether an ONNX message contains a tensor with data in another file, or is not an ONNX message at all."""
    try:
        for number, value in _fields(message):
            inner = _INSIDE[kind].get(number)
            if inner == "external":
                if value != 0:
                    return True
            elif inner and (not isinstance(value, memoryview) or has_external_data(value, inner)):
                return True
    except (IndexError, RecursionError):
        return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield number and value of each field of a protobuf message. Raises `IndexError` if it is truncated."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        size, at = _varint(message, at) if key & 7 == 2 else ({1: 8, 5: 4}.get(key & 7, len(message) + 1), at)
        if at + size > len(message):
            raise IndexError
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
        if shift > 63:
            raise IndexError


def expected_samples(folder: Path, listed: Mapping[str, str]) -> ExpectedSamples:
    """Read the samples of an export, whose files are `listed` in its manifest. Raises `RefusedExport`."""
    try:
        expected = json.loads((folder / "samples" / "expected.json").read_bytes())
        inputs = json.loads((folder / "preprocess.json").read_bytes())["inputs"]
        return ExpectedSamples(
            samples=tuple(_sample(folder / "samples", each, listed) for each in expected["samples"]),
            contracts={name: _contract(each["contract"]) for name, each in inputs.items()},
            classes=tuple(expected["classes"]),
            threshold=float(expected["conformal_threshold"]),
            tolerances=expected["tolerances"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RefusedExport(f"{folder / 'samples'}: cannot be used: {error!r}.") from error


def _contract(numbers: Mapping[str, Any]) -> Mapping[str, Any]:
    missing = [name for name in NUMBERS if name not in numbers]
    if missing:
        raise ValueError(f"preprocess.json has no {', '.join(missing)}")
    return numbers


def _sample(folder: Path, described: Mapping[str, Any], listed: Mapping[str, str]) -> ExpectedSample:
    resized = {name: _pixels(folder, each) for name, each in described["resized"].items()}
    if f"samples/{described['file']}" not in listed:
        raise ValueError(f"{described['file']} is not in the manifest")
    return ExpectedSample(
        name=described["file"],
        data=(folder / described["file"]).read_bytes(),
        decoded=_pixels(folder, described["decoded"]),
        resized=resized,
        logits=np.array(described["logits"], np.float64),
        probabilities=np.array(described["probabilities"], np.float64),
        label=described["class"],
        labels=tuple(described["set"]),
    )


def _pixels(folder: Path, described: Mapping[str, str]) -> np.ndarray:
    with Image.open(folder / described["file"]) as image:
        pixels = np.asarray(image)
    if hashlib.sha256(pixels.tobytes()).hexdigest() != described["sha256"]:
        raise ValueError(f"{described['file']} does not have the pixels of expected.json")
    return pixels
