"""Reading weights files: the only module that does so, and only as safetensors.

A safetensors file is 8 bytes of length, that many bytes of JSON, then raw numbers: reading it runs no code from its
author. All other formats for weights (``.pt``, ``.pth``, ``.bin``, ``.pkl``, gzipped, or any of these renamed to
``.safetensors``) can be a pickle, which *is* code; such a file is rejected by its content and never opened by anything
that could run it. The header is checked here, in plain Python, before the native parser sees the file.

Costs: `read_header` reads about 30 kB and takes about a millisecond; `weights_sha256` reads the whole file (about 0.5 s
per GB) once per process. `load_tensors` imports torch; nothing else here does. When not to use it: a run folder has a
manifest, which `headstart.io.folders.check_manifest` verifies first.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import BadWeights, MissingWeights
from headstart.io.files import sha256_file
from headstart.io.text_table import few

if TYPE_CHECKING:
    import numpy as np
    import torch

SafetensorsHeader = dict[str, tuple[str, tuple[int, ...]]]
"""Tensor name -> (dtype in safetensors' notation, such as ``F32``; shape)."""

MAX_HEADER_BYTES = 16 << 20
"""Longest accepted header. The format allows 100 MB; the largest of timm's models needs about 1 MB."""

_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
_CONVERT = (
    "Only safetensors are loaded. If you trust the file, convert it with safetensors.torch.save_file(state_dict, FILE)"
    " and use the result."
)
_FETCH_AGAIN = "Copy or download the file again."


# ---------------------------------------------------------------------------------------------- safetensors headers
def read_header(path: Path) -> SafetensorsHeader:
    """Read names, dtypes and shapes of the tensors in a safetensors file, each checked against the file's size.

    Format: https://huggingface.co/docs/safetensors, section Format. Offsets must be in bounds, of the size that dtype
    and shape give, without gaps or overlaps, and end where the file ends.

    Raises `MissingWeights` if there is no such file, `BadWeights` if it is not a complete safetensors file.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise MissingWeights(f"{path}: no such weights file.", hint="Check the path given with --weights.")
        if not path.is_file():
            raise BadWeights(f"{path}: is not a file, so it cannot be weights.", hint="Give a .safetensors file.")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(512)
            _refuse_other_formats(path, start, size)
            length = struct.unpack("<Q", start[:8])[0]
            file.seek(8)
            text = file.read(length)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadWeights(f"{path}: cannot be read: {reason}.", hint="Check the file and its permissions.") from error
    return _checked_entries(path, _parse_header(path, text), size - 8 - length)


def parameter_count(header: SafetensorsHeader) -> int:
    """Count the trained values of a network, including its last layer but not the statistics of batch normalisation."""
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return sum(math.prod(shape) for name, (_, shape) in header.items() if not name.endswith(buffers))


def _refuse_other_formats(path: Path, start: bytes, size: int) -> None:
    """Raise `BadWeights`, naming the format, unless the first bytes can be those of safetensors."""
    if size == 0:
        raise BadWeights(f"{path}: is empty (0 bytes).", hint=_FETCH_AGAIN)
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
    if 2 <= length < 1 << 40 and start[8:9] == b"{":
        if length > size - 8:
            raise BadWeights(
                f"{path}: truncated safetensors: the header alone has {length:,} bytes, the file {size:,}.",
                hint=_FETCH_AGAIN,
            )
        if length > MAX_HEADER_BYTES:
            raise BadWeights(
                f"{path}: its header has {length:,} bytes, above the limit of {MAX_HEADER_BYTES:,}.",
                hint="Save the tensors again with safetensors.",
            )
        return
    raise BadWeights(f"{path}: is {_format_name(start)}, not safetensors.", hint=_CONVERT)


def _format_name(start: bytes) -> str:
    """Guess the format of a file other than safetensors from its first bytes. Never parses a pickle."""
    if start.startswith(b"PK"):
        return "a zip archive (as torch.save writes, with a pickle inside)"
    if start[:1] == b"\x80" and len(start) > 1 and 2 <= start[1] <= 5:
        return f"a pickle (protocol {start[1]})"
    for magic, name in (
        (b"\x1f\x8b", "a gzip file"),
        (b"BZh", "a bzip2 file"),
        (b"\xfd7zXZ", "an xz file"),
        (b"\x28\xb5\x2f\xfd", "a zstd file"),
        (b"\x89HDF", "an HDF5 file (as Keras writes)"),
        (b"\x93NUMPY", "a NumPy file"),
        (b"version https://git-lfs", "a Git LFS pointer (the weights themselves were not fetched)"),
        (b"<", "a web page or XML"),
    ):
        if start.startswith(magic):
            return name
    if start[257:262] == b"ustar":
        return "a tar archive"
    if start[:1] in b"(]})cNKMJIFSVUXTGL" and start[:1]:
        return "a pickle (protocol 0 or 1) or text"
    return "a file of unknown format"


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    """Parse the header's JSON object. Rejects duplicate names, which two parsers could resolve differently."""

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name occurs twice")
        return found

    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=no_duplicates)
        if not isinstance(entries, dict):
            raise ValueError("is not an object")
        metadata = entries.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("__metadata__ is not an object of strings")
        "".join(entries).encode("utf-8")  # lone surrogates: valid JSON escapes that the native parser rejects
    except (ValueError, RecursionError) as error:
        raise BadWeights(f"{path}: damaged safetensors header: {error}.", hint=_FETCH_AGAIN) from None
    if not entries:
        raise BadWeights(f"{path}: holds no tensors.", hint="Give the weights of a network.")
    return entries


def _checked_entries(path: Path, entries: dict[str, Any], data_bytes: int) -> SafetensorsHeader:
    header: SafetensorsHeader = {}
    spans = []
    for name, entry in entries.items():
        try:
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            known = isinstance(dtype, str) and dtype in _ITEM_BYTES and isinstance(shape, list) and len(entry) == 3
            if not known or not all(type(n) is int and 0 <= n < 1 << 48 for n in (*shape, begin, end)):
                raise ValueError
        except (TypeError, KeyError, ValueError):
            raise BadWeights(
                f"{path}: damaged safetensors header: tensor {name!r} is {short_repr(entry)}, expected a known dtype,"
                " a shape and two data_offsets.",
                hint=_FETCH_AGAIN,
            ) from None
        expected = math.prod(shape) * _ITEM_BYTES[dtype]
        if end - begin != expected:
            raise BadWeights(
                f"{path}: damaged safetensors header: tensor {name!r} has {end - begin:,} bytes,"
                f" {dtype} {tuple(shape)} needs {expected:,}.",
                hint=_FETCH_AGAIN,
            )
        header[name] = (dtype, tuple(shape))
        spans.append((begin, end, name))
    _check_spans(path, sorted(spans), data_bytes)
    return header


def _check_spans(path: Path, spans: list[tuple[int, int, str]], data_bytes: int) -> None:
    reached = 0
    for begin, end, name in spans:
        if begin != reached:
            raise BadWeights(
                f"{path}: damaged safetensors header: tensor {name!r} begins at byte {begin:,}, expected {reached:,}.",
                hint=_FETCH_AGAIN,
            )
        reached = end
    if reached > data_bytes:
        raise BadWeights(
            f"{path}: truncated safetensors ({data_bytes:,} of {reached:,} bytes of numbers).", hint=_FETCH_AGAIN
        )
    if reached < data_bytes:
        raise BadWeights(
            f"{path}: has {data_bytes - reached:,} bytes after its last tensor, which safetensors never has.",
            hint=_FETCH_AGAIN,
        )


# --------------------------------------------------------------------------------------------- hash, fit and tensors
_hashes: dict[tuple[str, int, int, int], str] = {}


def weights_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a weights file, cached in this process until size, time or inode change."""
    resolved = Path(path).resolve()
    facts = resolved.stat()
    key = (str(resolved), facts.st_size, facts.st_mtime_ns, facts.st_ino)
    if key not in _hashes:
        _hashes[key] = sha256_file(resolved)
    return _hashes[key]


def check_fits(
    path: Path, module_state_shapes: Mapping[str, Sequence[int]], *, classifier: Sequence[str] = (), name: str = ""
) -> None:
    """Raise `BadWeights` unless the file has every tensor of a network, in its shape, and no others.

    Args:
        path: A safetensors file; only its header is read.
        module_state_shapes: Shape of each entry of the network's `state_dict`.
        classifier: Names of the network's classifier modules, such as ``("fc",)``. Their tensors may be in the file in
            any shape (they are dropped), or missing.
        name: The network's name, for the message.

    Counters of batch normalisation (``num_batches_tracked``) may be missing: inference does not read them.
    """
    shapes = {key: shape for key, (_, shape) in read_header(path).items()}
    problem = misfit(shapes, module_state_shapes, classifier)
    if problem:
        raise wrong_architecture(path, name, problem)


def wrong_architecture(path: Path, name: str, problem: str) -> BadWeights:
    """Return the error for weights of another network; `problem` is the phrase from `misfit`."""
    return BadWeights(
        f"{path}: these are not the weights of {name or 'this network'}: {problem}.",
        hint="Name the backbone that the file was saved from (--backbone NAME), or use another file.",
    )


def misfit(found: Mapping[str, Sequence[int]], needed: Mapping[str, Sequence[int]], classifier: Sequence[str]) -> str:
    """Describe how the found shapes differ from the needed ones, as a phrase; empty if they match.

    >>> misfit({"a": (1,), "b": (2,)}, {"a": (3,), "c": (4,)}, ())
    '1 missing (c); 1 unexpected (b); 1 of another shape (a: (1,), expected (3,))'
    >>> misfit({"a": (1,), "fc.weight": (10, 1)}, {"a": (1,)}, ("fc",))
    ''
    """
    found = {key: tuple(shape) for key, shape in found.items() if not is_classifier(key, classifier)}
    needed = {key: tuple(shape) for key, shape in needed.items() if not is_classifier(key, classifier)}
    missing = [key for key in needed if key not in found and not key.endswith("num_batches_tracked")]
    unexpected = sorted(
        (key for key in found if key not in needed), key=lambda key: key.endswith("num_batches_tracked")
    )
    reshaped = [
        f"{key}: {found[key]}, expected {needed[key]}" for key in needed if found.get(key, needed[key]) != needed[key]
    ]
    groups = ((missing, "missing"), (unexpected, "unexpected"), (reshaped, "of another shape"))
    return "; ".join(f"{len(names):,} {what} ({few(names, 3)})" for names, what in groups if names)


def is_classifier(tensor: str, classifier: Sequence[str]) -> bool:
    """Return whether a tensor belongs to one of the named classifier modules.

    >>> is_classifier("head.fc.weight", ["head.fc"]), is_classifier("head.fc2.weight", ["head.fc"])
    (True, False)
    """
    return any(tensor.startswith(f"{module}.") for module in classifier)


def load_tensors(path: Path, *, sha256: str = "") -> dict[str, torch.Tensor]:
    """Load all tensors of a safetensors file on the CPU, after checking its header, and its hash if given.

    Raises `MissingWeights` or `BadWeights`.
    """
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = _load(Path(path), load_file, sha256)
    return tensors


def load_arrays(path: Path, *, sha256: str = "") -> dict[str, np.ndarray]:
    """Do as `load_tensors`, without torch: NumPy arrays of a file that stores no BF16 and no 8-bit floats."""
    from safetensors.numpy import load_file

    arrays: dict[str, np.ndarray] = _load(Path(path), load_file, sha256)
    return arrays


def _load(path: Path, load_file: Callable[[Path], Any], sha256: str) -> Any:
    read_header(path)
    if sha256 and weights_sha256(path) != sha256:
        raise BadWeights(
            f"{path}: has changed since it was selected (SHA-256 {weights_sha256(path)[:12]}, expected {sha256[:12]}).",
            hint="Run the same command again.",
        )
    from safetensors import SafetensorError

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadWeights(f"{path}: damaged safetensors: {error}.", hint=_FETCH_AGAIN) from error


def short_repr(value: object, most: int = 80) -> str:
    """Return `repr`, shortened to fit a message."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."
