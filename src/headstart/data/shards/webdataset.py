"""WebDataset shards: tars in which the files of one sample follow each other, named KEY.jpg, KEY.cls, KEY.json ...

The key ends at the first dot of the file name. The label is in .cls, else in .txt, else under a usual key of .json, or
where `label_column` says. The group is in .group or under that key of .json, or where `group_column` says. Reads front to
back, also tars compressed with gzip, bzip2, xz or zstandard (for the rules see `data.archives.tars`: no links, nothing
truncated).

Costs memory for one sample. Not for tars of class folders: `data.archives.unpacking` unpacks those.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from headstart.data.archives.members import shown
from headstart.data.archives.tars import is_tar, tar_entries
from headstart.data.dataset import IMAGES
from headstart.data.shards.samples import Sample, as_label
from headstart.data.tables import GROUP_COLUMNS, LABEL_COLUMNS, plain_name
from headstart.errors import BadArchive, BadLabels
from headstart.images.limits import MAX_FILE_BYTES
from headstart.io.text_table import few

_PEEKED = 64  # entries read to recognise a shard
_MAX_FIELD = 1 << 20  # bytes of a .cls, .txt or .json
_CODECS = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


def has_samples(file: Path) -> bool:
    """Return whether one of the first entries is a label with the name of the image beside it."""
    fields: dict[str, set[str]] = {}
    try:
        with open(file, "rb") as opened:
            codec = _codec(opened)
            if codec is None:
                return False
            for entry in islice(tar_entries(str(file), opened, codec), _PEEKED):
                key, field = _key(entry.member.name)
                fields.setdefault(key, set()).add(field)
    except BadArchive:
        return False  # opening it as an archive reports the problem
    beside = [own for own in fields.values() if any(_is_image(field) for field in own)]
    folders = {key.rpartition("/")[0] for key in fields}
    plain = any("cls" in own for own in beside)
    return plain or (len(folders) == 1 and any({"json", "txt"} & own for own in beside))


def _codec(file: BinaryIO) -> str | None:
    """Return the compression of a tar, '' for none; None if it is not a tar."""
    head = file.read(512)
    return "" if is_tar(head) else _CODECS.get(head[:2])


def _key(name: str) -> tuple[str, str]:
    """Split an entry's name into key and field, as WebDataset does: at the first dot of the file name.

    >>> _key("a/0001.seg.png")
    ('a/0001', 'seg.png')
    """
    above, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, field = base.partition(".")
    return f"{above}{slash}{stem}", field.lower()


def _is_image(field: str) -> bool:
    return f".{field}" in IMAGES


def tar_samples(
    shard: Path, image_field: str, label_field: str, keys: set[str], group_field: str = ""
) -> Iterator[Sample]:
    """Yield the samples of a tar. `keys` are those of earlier shards in its set: a repeated key is refused."""
    key, fields = "", dict[str, bytes]()
    for name, field, data in _tar_fields(shard):
        if name != key:
            if fields:
                yield _sample(shard, key, fields, image_field, label_field, group_field)
            if name in keys:
                raise BadArchive(
                    f"{shard}: the key {shown(name)} appears more than once in the shards.",
                    hint="The files of a sample must follow each other under a unique key. Write the shards again.",
                )
            keys.add(name)
            key, fields = name, {}
        if field in fields:
            raise BadArchive(f"{shard}: {shown(f'{name}.{field}')} appears twice.", hint="Write the shard again.")
        fields[field] = data
    if fields:
        yield _sample(shard, key, fields, image_field, label_field, group_field)


def _tar_fields(shard: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, field and bytes of the files in a tar. Fields other than images are truncated at 1 MB."""
    with open(shard, "rb") as file:
        for entry in tar_entries(str(shard), file, _codec(file) or ""):
            member = entry.member
            if member.kind == "folder":
                continue
            if member.kind != "file":
                raise BadArchive(f"{shard}: {shown(member.name)} is a {member.kind}.", hint="Write the shard again.")
            name, field = _key(member.name)
            most = MAX_FILE_BYTES if _is_image(field) else _MAX_FIELD
            yield name, field, _up_to(entry.pieces(), most)


def _up_to(pieces: Iterable[bytes], most: int) -> bytes:
    kept = bytearray()
    for piece in pieces:
        kept += piece
        if len(kept) > most:
            break
    return bytes(kept[: most + 1])


def _sample(
    shard: Path, key: str, fields: dict[str, bytes], image_field: str, label_field: str, group_field: str
) -> Sample:
    where = f"{shard}, {shown(key)}"
    images = [field for field in fields if _is_image(field)]
    if image_field:
        images = [field for field in fields if field == image_field.lower().removeprefix(".")]
    if len(images) > 1:
        raise BadLabels(
            f"{where}: has the images {few([repr(field) for field in images], 3)}.",
            hint="path_column names the ending to use, such as 'jpg'.",
        )
    field = images[0] if images else "jpg"
    keys = _keys_in_json(fields)
    grouped_by = group_field or _usual_group({**keys, **fields}, label_field)
    group = _group_of(where, fields, grouped_by) if grouped_by else ""
    label_at, label = _label_of(where, fields, label_field)
    used = {field, "json", label_at, grouped_by, grouped_by.lower().removeprefix(".")}
    unused = tuple(name for name in (*fields, *keys) if name not in used)
    return Sample(f"{key}.{field}", fields.get(field), label, group=group, unused=unused)


def _usual_group(cells: Mapping[str, object], label: str) -> str:
    """Return the field or the key with a usual name for groups, '' if there is none with a single value."""
    labels = (label, label.lower().removeprefix("."))
    named = {
        plain_name(name): name
        for name, value in cells.items()
        if name not in labels and not isinstance(value, list | dict)
    }
    return next((named[name] for name in GROUP_COLUMNS if name in named), "")


def _group_of(where: str, fields: dict[str, bytes], wanted: str) -> str:
    """Return the group of a sample: the requested field, or a key of its .json; '' if it has neither."""
    field = wanted.lower().removeprefix(".")
    if field in fields:
        return as_label(where, fields[field], what="group")
    value = _json_of(where, fields["json"]) if "json" in fields else {}
    return as_label(where, value.get(wanted), what="group") if isinstance(value, dict) else ""


def _label_of(where: str, fields: dict[str, bytes], wanted: str) -> tuple[str, str]:
    """Return where the label of a sample is, and the label: the requested field, its .cls, its .txt, or a key of its
    .json; '' for both if it has none."""
    named = [wanted.lower().removeprefix(".")] if wanted else ["cls", "txt"]
    for field in named:
        if field in fields:
            return field, as_label(where, fields[field])
    if "json" not in fields:
        if not wanted:
            return "", ""
        raise BadLabels(
            f"{where}: has no {wanted!r} (label_column); it has {', '.join(repr(field) for field in fields)}.",
            hint="label_column names an ending, such as 'cls', or a key in the .json.",
        )
    return _label_in_json(where, fields["json"], wanted)


def _json_of(where: str, data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise BadLabels(f"{where}: its .json is invalid: {data[:40]!r}.", hint="Write the shard again.") from None


def _keys_in_json(fields: dict[str, bytes]) -> dict[str, Any]:
    """Return what a .json holds that may not be needed: nothing if it is invalid."""
    try:
        value = json.loads(fields.get("json", b"{}"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _label_in_json(where: str, data: bytes, wanted: str) -> tuple[str, str]:
    value = _json_of(where, data)
    if not isinstance(value, dict):
        return "json", as_label(where, value)
    candidates = [wanted] if wanted else [key for key in value if key.casefold() in LABEL_COLUMNS]
    if len(candidates) == 1 and candidates[0] in value:
        return candidates[0], as_label(where, value[candidates[0]])
    if not wanted and not candidates:
        return "", ""
    raise BadLabels(
        f"{where}: no single key of its .json is the label: it has {few([repr(key) for key in value], 6)}.",
        hint="label_column names the key.",
    )
