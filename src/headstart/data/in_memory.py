"""Data in the memory of a Python program, written to a table in the cache: frames, lists of paths and labels, images.

    headstart.train(frame, out="run")                a table of pandas, polars or arrow, or {column: values}
    headstart.train((paths, labels), out="run")      images and their labels; also a list of pairs, or of rows as dicts
    headstart.train({"cats": paths, "dogs": others}) the images of each class
    headstart.embed([Path("1.jpg"), array, image])   images alone: paths, bytes of files, PIL images, arrays of pixels

The columns are found as in a file (`data.tables`), and cells become text as in JSON Lines, which is what is written: to
the user's cache, under a hash of the contents, so that other processes and later commands can open the data as well.
Relative paths are relative to the current folder at that moment. Images that are not files are written beside the table,
bytes unchanged and pixels without loss (PNG; 32 bits as TIFF), with the number of the row as their name; those of a
second column also have the number of the column.

Costs a second per 100,000 rows, and about 10 ms and the disk space per image that is not a file. Not for arrays that
fill the memory: save those as files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart.data.dataset import IMAGES, Dataset, hash_rows
from headstart.data.tables import CODE_COLUMNS, ID_COLUMNS, PATH_COLUMNS, LabelRow
from headstart.errors import BadLabels, DataError, MissingData, UnreadableImage, WriteError
from headstart.images.image_refs import lossless_bytes
from headstart.io.addresses import DOWNLOAD_FIRST, is_address
from headstart.io.files import cache_dir, json_bytes, read_json, sha256_bytes, write_pieces
from headstart.io.folders import folder_aside
from headstart.io.progress import log

TABLE = "table.jsonl"
RECORD = "from-memory.json"
EXPECTED = (
    "Expected a folder, a table or an archive by its path; a data frame, or {column: values}; (images, labels); or a list "
    "of images."
)
_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"GI": ".gif", b"RI": ".webp", b"BM": ".bmp"}


@dataclass(frozen=True)
class KeptTable:
    """A table from memory: what it was, and the folder that its paths are relative to."""

    was: str
    root: Path

    def located(self, rows: Sequence[LabelRow]) -> list[LabelRow]:
        """The rows with absolute paths. Raises `BadLabels` if no image exists."""
        address = next((row.path for row in rows if is_address(row.path)), "")
        if address:
            raise BadLabels(f"{self.was}: {address!r} is an address, which is not fetched.", hint=DOWNLOAD_FIRST)
        found = [replace(row, path=os.path.join(self.root, row.path) if row.path else "") for row in rows]
        if not any(os.path.isfile(row.path + suffix) for row in found for suffix in ("", *IMAGES)):
            raise BadLabels(
                f"{self.was}: none of its {len(rows):,} rows names an existing image; the first is {rows[0].path!r}, "
                f"looked for at {found[0].path}.",
                hint="Paths are relative to the current folder. Add the folder and the extension, if they are missing: "
                "'images/' + name + '.jpg'.",
            )
        return found

    def named(self, dataset: Dataset) -> Dataset:
        """The dataset of `located` rows, named by their paths relative to the root; others stay absolute."""
        above = os.path.join(self.root, "")
        names = [path.removeprefix(above) for path in dataset.paths]
        rejected = tuple((path.removeprefix(above), reason) for path, reason in dataset.rejected)
        order = sorted(range(len(names)), key=names.__getitem__)
        renamed = replace(dataset, root=self.root, paths=tuple(names), rejected=rejected)
        return renamed.take(np.array(order, np.int64))


def kept_table(place: Path) -> KeptTable | None:
    """What a file is a copy of, if it was written by `place_of`."""
    if place.name != TABLE or not (place.parent / RECORD).is_file():
        return None
    record = read_json(place.parent / RECORD)
    return KeptTable(str(record["was"]), Path(record["root"]) if record["root"] else place.parent.absolute())


def missing_table(place: Path) -> MissingData | None:
    """The error for data from memory whose copy is gone; None for any other path."""
    if place.name != TABLE or place.parent.parent.name != "memory":
        return None
    return MissingData(
        f"{place}: this was data in memory, and its copy in the cache has been deleted.",
        hint="Give the data itself again; for a run, with --data (in Python, data=).",
    )


def place_of(data: object) -> Path:
    """The path of the data: as given, or of the table that it is kept in. Raises `DataError`, `WriteError`."""
    if isinstance(data, str | os.PathLike):
        place = os.fspath(data)
        if isinstance(place, bytes) or not place:
            raise DataError(f"data is {place!r}, which is not a path.", hint=EXPECTED)
        return Path(place)
    columns, was = _columns(data)
    columns = {name: _as_text(values) for name, values in columns.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name!r} {n:,}" for name, n in lengths.items())
        raise DataError(f"{was}: its columns differ in length: {listed}.", hint="Give one value for each image.")
    if not columns or not max(lengths.values()):
        raise DataError(f"{was}: is empty.", hint=EXPECTED)
    return _kept(columns, was)


# Columns


def _columns(data: object) -> tuple[dict[str, list[Any]], str]:
    """The columns by name, and what the data is, for messages. Raises `DataError`."""
    if isinstance(data, Mapping):
        columns = {str(name): _values(column) for name, column in data.items()}
        return _of_classes(columns) or columns, "data in memory"
    if hasattr(data, "columns") or hasattr(data, "column_names"):
        return _of_frame(data), f"{type(data).__name__} in memory"
    if (
        isinstance(data, tuple)
        and len(data) == 2
        and _is_column(data[0])
        and (_is_column(data[1]) or _is_flat(data[1]))
    ):
        return {"path": _values(data[0]), "label": _labels(data[1])}, "images and labels in memory"
    if _is_column(data):
        return _of_list(_values(data))
    shown = repr(data) if data is None or isinstance(data, int | float) else f"of type {type(data).__name__}"
    raise DataError(f"data is {shown}, which cannot be opened.", hint=EXPECTED)


def _of_classes(columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The columns of {class: images}, which has no column with a usual name, and nothing but images; else none.

    Some paths may be wrong. A class without images is logged.
    """
    known = {*PATH_COLUMNS, *ID_COLUMNS, *CODE_COLUMNS}
    images = [(value, name) for name, values in columns.items() for value in values]
    if len(columns) < 2 or any(name.strip().casefold() in known for name in columns):
        return {}
    if not images or not all(_are_images(values) for values in columns.values() if values):
        return {}
    for name in (name for name, values in columns.items() if not values):
        log.warning("data in memory: the class %r has no images; it is left out.", name)
    return {"path": [image for image, _ in images], "label": [name for _, name in images]}


def _are_images(values: Sequence[Any]) -> bool:
    """Whether values are images or paths, one of which is there or all of which are called like images."""
    paths = [value for value in values if not _is_image(value)]
    if not all(isinstance(path, str | os.PathLike) for path in paths):
        return False
    there = len(paths) < len(values) or any(os.path.isfile(path) for path in paths)
    return there or all(os.fspath(path).lower().endswith(IMAGES) for path in paths)


def _of_list(items: list[Any]) -> tuple[dict[str, list[Any]], str]:
    """The columns of a list: of images, of (image, label), or of rows as dicts."""
    if items and all(isinstance(item, tuple) and len(item) == 2 for item in items):
        return {
            "path": [image for image, _ in items],
            "label": [label for _, label in items],
        }, "images and labels in memory"
    if items and all(isinstance(item, Mapping) and not _is_image(item) for item in items):
        names = dict.fromkeys(name for item in items for name in item)
        return {str(name): [item.get(name) for item in items] for name in names}, "rows in memory"
    return {"path": items}, "images in memory"


def _of_frame(frame: Any) -> dict[str, list[Any]]:
    """The columns of a data frame; of pandas, with an index that has a name."""
    indexed = [name for name in getattr(getattr(frame, "index", None), "names", ()) if name is not None]
    if indexed and not set(indexed) & set(frame.columns):
        frame = frame.reset_index()
    names = list(frame.column_names if hasattr(frame, "column_names") else frame.columns)
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise BadLabels(
            f"{type(frame).__name__} in memory: has the column {twice[0]!r} more than once.", hint="Rename one of them."
        )
    features = getattr(frame, "features", {}) if hasattr(frame, "column_names") else {}
    try:
        return {str(name): _with_names(_values(frame[name]), features, name) for name in names}
    except (TypeError, KeyError) as error:
        raise DataError(
            f"data is of type {type(frame).__name__}, whose columns cannot be read: {error}.", hint=EXPECTED
        ) from None


def _with_names(values: list[Any], features: Any, column: str) -> list[Any]:
    """Class names for numbers of classes, where a data set of Hugging Face says what they mean."""
    names = getattr(features[column], "names", None) if isinstance(features, Mapping) and column in features else None
    return [names[v] if isinstance(v, int) and 0 <= v < len(names) else v for v in values] if names else values


def _is_column(value: object) -> bool:
    """Whether a value holds several others: a list, an array of several images, a column of a frame."""
    if isinstance(value, np.ndarray):
        return value.ndim == 1 or value.ndim == 4 or (value.ndim == 3 and value.shape[2] not in (1, 3, 4))
    if isinstance(value, list | tuple | range) or hasattr(value, "to_list") or hasattr(value, "to_pylist"):
        return True
    return isinstance(value, Iterator)


def _is_flat(value: object) -> bool:
    """Whether a value is an array, or a frame, of rows and columns."""
    return hasattr(value, "__array__") and np.ndim(value) == 2


def _labels(column: Any) -> list[Any]:
    """The label of each image; of an array of rows, its only column, or the number of the column that holds the 1
    (one-hot, as Keras has labels). Raises `BadLabels` for several ones in a row, or none."""
    if not _is_flat(column):
        return _values(column)
    rows = np.asarray(column)
    if rows.shape[1] == 1:
        return list(rows[:, 0])
    if not (np.isin(rows, (0, 1)).all() and (rows.sum(1) == 1).all()):
        raise BadLabels(
            f"images and labels in memory: the labels have {rows.shape[1]} columns, but some rows are not one-hot.",
            hint="Give one label for each image, such as labels.argmax(1) for probabilities.",
        )
    return list(rows.argmax(1))


def _values(column: Any) -> list[Any]:
    for listing in ("to_pylist", "to_list"):
        if hasattr(column, listing):
            return list(getattr(column, listing)())
    return list(column)


# Cells


def _as_text(values: list[Any]) -> list[Any]:
    """Text for bytes, if all values are bytes of text, as HDF5 and numpy keep names; else the values, such as files."""
    if not values or not all(isinstance(value, bytes) for value in values):
        return values
    if not all(value.decode("utf-8", "surrogateescape").isprintable() for value in values):  # the first file ends it
        return values
    return [value.decode("utf-8", "surrogateescape") for value in values]


def _kept(columns: dict[str, list[Any]], was: str) -> Path:
    """Write the table and its images into the cache, unless they are there, and return its path."""
    files: dict[str, bytes] = {}
    pixels = [name for name, values in columns.items() if any(map(_is_image, values))]
    ends = {name: f"-{n}" if n else "" for n, name in enumerate(pixels)}
    cells = {
        name: [_cell(value, i, files, was, end=ends.get(name)) for i, value in enumerate(values)]
        for name, values in columns.items()
    }
    rows = zip(*cells.values(), strict=True)
    table = "".join(f"{json.dumps(dict(zip(cells, row, strict=True)))}\n" for row in rows).encode()
    root = "" if files else os.getcwd()
    record = json_bytes({"was": was, "root": root})
    parts = [(name, sha256_bytes(data)) for name, data in sorted(files.items())]
    key = hash_rows([(sha256_bytes(table), sha256_bytes(record)), *parts])
    folder = cache_dir() / "memory" / key[:32]
    if not (folder / TABLE).is_file():
        _write(folder, {**files, RECORD: record, TABLE: table})
    return folder / TABLE


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    try:
        with folder_aside(folder, fresh=True) as aside:
            for name, data in contents.items():
                write_pieces(aside / name, [data])
    except WriteError as error:
        if not (folder / TABLE).is_file():  # else another process was faster
            raise WriteError(
                error.message, hint=f"{error.hint}\nHEADSTART_CACHE=DIR moves the cache elsewhere."
            ) from error


def _is_image(value: object) -> bool:
    """Whether a cell is an image itself, not its path."""
    if isinstance(value, bytes | bytearray | memoryview | Image.Image):
        return True
    if isinstance(value, Mapping):
        return isinstance(value.get("bytes"), bytes)
    return not isinstance(value, np.generic) and hasattr(value, "__array__") and np.ndim(value) > 1


def _cell(value: Any, row: int, files: dict[str, bytes], was: str, *, end: str | None) -> object:
    """The value as JSON has it; for an image, its name in `files`; paths beside such images become absolute.

    `end` distinguishes the names of one column of images from those of the others; None if the column has no images.
    """
    if _is_image(value):
        data = _encoded(value, f"{was}, row {row}")
        name = f"{row:06}{end or ''}{_SUFFIXES.get(data[:2], '.tif')}"
        files[name] = data
        return name
    if isinstance(value, Mapping) and "path" in value:
        value = value["path"]
    if isinstance(value, os.PathLike):
        value = os.fsdecode(value)
    if isinstance(value, str):
        return os.path.abspath(value) if end is not None and value else str(value)
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _encoded(value: Any, where: str) -> bytes:
    """An image as the bytes of a file. Raises `DataError`."""
    if isinstance(value, Mapping):
        value = value["bytes"]
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    try:
        return lossless_bytes(value if isinstance(value, Image.Image) else np.asarray(value))
    except UnreadableImage as error:
        raise DataError(f"{where}: {error.message}", hint=EXPECTED) from None
