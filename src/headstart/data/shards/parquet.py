"""Images in the cells of parquet files, as Hugging Face writes datasets, or as plain bytes.

The image column is the one that contains structs with bytes, or bytes that begin like an image; the columns of the labels
and groups are found by their usual names, and numeric classes get their names from Hugging Face's metadata.

Costs memory for about two row groups: a group's pages are loaded whole, however little is read. Files with 100 images
per group, as Hugging Face writes them, need tens of megabytes. Not for tables of paths: see `data.tables`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from headstart.data.set_columns import set_name
from headstart.data.shards.samples import Sample, as_label, kind_of
from headstart.data.tables import (
    GROUP_COLUMNS,
    LABEL_COLUMNS,
    PATH_COLUMNS,
    SPLIT_COLUMNS,
    Columns,
    plain_name,
    unused_columns,
    usual_group,
)
from headstart.errors import BadLabels, near_names
from headstart.io.extras import require

_ROWS = 8  # in memory at a time
_BUFFER = 1 << 20  # bytes read at a time; by default pyarrow reads a whole row group of a column


def has_images(file: Path, image_column: str) -> bool:
    require(str(file), "pyarrow")
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False) as table:
            return bool(_image_columns(table, image_column))
    except (pyarrow.ArrowException, OSError):
        return False  # reading it as a table of labels reports the problem


def _image_columns(table: Any, wanted: str) -> list[str]:
    """Return the columns of a parquet file with images: structs with bytes, or bytes that begin like an image."""
    import pyarrow.types as types

    def binary(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    columns = []
    for column in table.schema_arrow:
        if wanted and column.name != wanted:
            continue
        if types.is_struct(column.type):
            columns += [column.name] if any(f.name == "bytes" and binary(f.type) for f in column.type) else []
        elif binary(column.type):
            start = next(table.iter_batches(batch_size=4, columns=[column.name], use_threads=False), None)
            values = [value for value in (start.column(0).to_pylist() if start is not None else []) if value]
            columns += [column.name] if any(map(kind_of, values)) else []
    return columns


def table_samples(shard: Path, image_column: str, label_column: str, group_column: str = "") -> Iterator[Sample]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(shard, buffer_size=_BUFFER, pre_buffer=False) as table:
            image = _one_image_column(shard, _image_columns(table, image_column), table.schema_arrow.names)
            group = _group_column(shard, table.schema_arrow, image, group_column, label_column)
            label = _label_column(shard, table.schema_arrow, image, label_column, group)
            split = next((name for name in table.schema_arrow.names if name.casefold() in SPLIT_COLUMNS), "")
            classes = _class_names(table.schema_arrow.metadata or {}, label)
            columns = [name for name in dict.fromkeys((image, label, split, group)) if name]
            unused = tuple(unused_columns(table.schema_arrow.names, Columns(image, label, split, group)))
            n = 0
            for batch in table.iter_batches(batch_size=_ROWS, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    n += 1
                    name, data = _content(row[image])
                    where = f"{shard}, row {n}"
                    yield Sample(
                        name=name,
                        data=data,
                        label=_class_of(where, row[label], classes) if label else "",
                        split=set_name(as_label(where, row[split])) if split else "",
                        group=as_label(where, row[group], what="group") if group else "",
                        unused=unused,
                    )
    except (pyarrow.ArrowException, OSError) as error:
        problem = str(error).splitlines()[0].rstrip(".")
        raise BadLabels(f"{shard}: cannot be read: {problem}.", hint="Download or write it again.") from error


def _one_image_column(shard: Path, candidates: Sequence[str], columns: Sequence[str]) -> str:
    usual = [name for name in candidates if name.casefold() in PATH_COLUMNS]
    if len(candidates) == 1 or len(usual) == 1:
        return (candidates if len(candidates) == 1 else usual)[0]
    listed = ", ".join(repr(name) for name in candidates or columns)
    problem = f"the images could be in {listed}" if candidates else f"none of the columns {listed} contains images"
    raise BadLabels(f"{shard}: {problem}.", hint="path_column names the image column.")


def _group_column(shard: Path, schema: Any, image: str, wanted: str, label: str) -> str:
    """Return the requested group column, else the one with a usual name, '' if there is none.

    Raises `BadLabels` if the requested one does not exist, or several have the same usual name.
    """
    import pyarrow.types as types

    names = [name for name in schema.names if name != image]
    if not wanted:
        single = [name for name in names if not types.is_nested(schema.field(name).type)]
        return usual_group(shard, [name for name in single if name != label])
    if wanted not in names:
        raise BadLabels(
            f"{shard}: has no column {wanted!r} (group_column); its columns are {', '.join(map(repr, names))}.",
            hint=near_names(wanted, names) or "Choose one of these.",
        )
    return wanted


def _label_column(shard: Path, schema: Any, image: str, wanted: str, group: str) -> str:
    """Return the label column, '' if no column can be one. Raises `BadLabels` if several could be."""
    import pyarrow.types as types

    names = [name for name in schema.names if name not in (image, group)]
    if wanted:
        if wanted in names:
            return wanted
        raise BadLabels(
            f"{shard}: has no column {wanted!r} (label_column); its columns are {', '.join(map(repr, names))}.",
            hint=near_names(wanted, names) or "Choose one of these.",
        )
    usual = [name for name in names if name.strip().casefold() in LABEL_COLUMNS]
    single = [
        name
        for name in names
        if plain_name(name) not in (*SPLIT_COLUMNS, *GROUP_COLUMNS)
        and (types.is_integer(schema.field(name).type) or types.is_string(schema.field(name).type))
    ]
    if len(usual) == 1 or (len(single) == 1 and not usual):
        return (usual or single)[0]
    if not usual and not single:
        return ""
    raise BadLabels(
        f"{shard}: the labels could be in {', '.join(map(repr, usual or single))}.",
        hint="label_column names the label column.",
    )


def _class_names(metadata: dict[bytes, bytes], column: str) -> list[str]:
    """Return the class names of a numeric column from Hugging Face's metadata; empty if there are none."""
    try:
        feature = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"][column]
        names = feature["names"] if feature["_type"] == "ClassLabel" else []
        return [str(name) for name in names]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _class_of(where: str, value: object, classes: Sequence[str]) -> str:
    if not classes or not isinstance(value, int):
        return as_label(where, value)
    if value == -1:
        return ""  # how Hugging Face marks withheld labels
    if not 0 <= value < len(classes):
        raise BadLabels(
            f"{where}: has the label {value}; expected 0 to {len(classes) - 1}, as the file names {len(classes)} classes.",
            hint="Write the file again.",
        )
    return as_label(where, classes[value])


def _content(value: Any) -> tuple[str, bytes | None]:
    """Return the name and the bytes of a cell."""
    if isinstance(value, dict):
        name, data = value.get("path"), value.get("bytes")
        return name if isinstance(name, str) else "", data if isinstance(data, bytes) else None
    return "", value if isinstance(value, bytes) else None
