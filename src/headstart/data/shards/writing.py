"""Extract the images in parquet files or WebDataset shards once into the cache, and open them from there.

    train-00000-of-00003.parquet     an image column (struct of bytes and path, as Hugging Face writes it, or plain
                                     bytes) and a label column; class names come from Hugging Face's metadata
    shard-000000.tar, or compressed  KEY.jpg beside KEY.cls, KEY.txt or KEY.json (WebDataset)

The split is read from the names of shards and their folders (`train-...`, `validation/...`). The images are written to
the user's cache, into a folder named after the SHA-256 of the shards, under generated names: one folder per shard, with
the number in the shard first. `labels.csv` beside them has their original names. Costs the disk space again, a hash of
the shards each time, and the memory for reading them (see `parquet`, `webdataset`). Not for shards on a web server:
download them first.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from shutil import disk_usage

from headstart.data.archives.members import limits_for
from headstart.data.dataset import IMAGES, hash_rows, split_name
from headstart.data.folder_walk import files_below
from headstart.data.shards.parquet import has_images, table_samples
from headstart.data.shards.samples import Sample, kind_of
from headstart.data.shards.webdataset import has_samples, tar_samples
from headstart.errors import BadArchive, BadLabels, MissingData, WriteError
from headstart.io.files import cache_dir, csv_bytes, read_json, sha256_bytes, sha256_file, write_json, write_pieces
from headstart.io.folders import files_and_bytes, folder_aside, remove_folder, require_whole
from headstart.io.progress import bar, log
from headstart.io.text_table import few

LABELS = "labels.csv"
_SUM = "written.json"
VERSION = "2"
"""Change it to discard all extracted shards: when the output changes."""
_HEADER = ("path", "label", "split", "name", "group")
_MOST_UNUSED = 1_000  # names kept
_MAX_NAMES = 100_000  # shards that braces may expand to
_Row = tuple[str, str, str, str, str]  # as `_HEADER`
_ShardColumns = tuple[str, str, str]  # of images, labels and groups; '' if not named


# Which shards


def shards_at(place: Path, image_column: str = "") -> list[Path]:
    """Return the shards given by braces, a file, or a folder with shards and no images. Empty if it is none of these.

    Raises `MissingData` if a file that the braces expand to is missing.
    """
    if place.is_dir():
        return _shards_in(place, image_column)
    if place.is_file():
        return [place] if is_shard(place, image_column) else []
    return expanded(place) if _BRACES.search(place.name) else []


def is_shard(file: Path, image_column: str = "") -> bool:
    """Return whether a file is a parquet file with images, or a tar of samples."""
    if file.suffix.lower() == ".parquet":
        return has_images(file, image_column)
    return has_samples(file) if ".tar" in file.name.lower() or file.suffix.lower() == ".tgz" else False


def _shards_in(folder: Path, image_column: str) -> list[Path]:
    candidates: list[str] = []
    for path in files_below(folder):
        if path.lower().endswith(IMAGES):
            return []
        if path.lower().endswith((".parquet", ".tar", ".tar.gz", ".tgz")):
            candidates.append(path)
    return [folder / path for path in sorted(candidates) if is_shard(folder / path, image_column)]


_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


def expanded(place: Path) -> list[Path]:
    """Return the files that the braces expand to. Raises `MissingData` if some are missing.

    `shard-{000..002}.tar` is three files, `{train,val}.tar` two.
    """
    pieces: list[list[str]] = []
    at, total = 0, 1
    for match in _BRACES.finditer(place.name):
        begin, end, listed = match.groups()
        span = range(int(begin), int(end) + 1) if begin else range(0)
        if len(span) > _MAX_NAMES or total * max(len(span), 1) > _MAX_NAMES:
            raise MissingData(
                f"{place}: expands to more than {_MAX_NAMES:,} files.", hint="Give the folder they are in."
            )
        names = [str(n).zfill(len(begin)) for n in span] if begin else listed.split(",")
        pieces += [[place.name[at : match.start()]], names]
        at, total = match.end(), total * max(len(names), 1)
    files = [place.with_name("".join(parts) + place.name[at:]) for parts in product(*pieces)]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise MissingData(
            f"{place}: {len(missing):,} of the {len(files):,} files that this expands to are missing: "
            f"{few([repr(name) for name in missing], 3)}.",
            hint="Correct the numbers, or give the folder that the shards are in.",
        )
    return files


# Extracting


def written_out(
    place: Path, shards: Sequence[Path], *, image_column: str = "", label_column: str = "", group_column: str = ""
) -> Path:
    """Return the table of these shards' images, which are beside it in the cache; extract them if not yet done.

    Raises `BadLabels` (no label column, labels that are not text), `BadArchive` (a damaged tar, a repeated key),
    `WriteError`.
    """
    root = place if place.is_dir() else place.parent
    names = [shard.relative_to(root).as_posix() for shard in shards]
    hashes = [sha256_file(shard) for shard in shards]
    columns = (image_column, label_column, group_column)
    key = hash_rows([("shards", VERSION, *columns), *zip(names, hashes, strict=True)])
    folder = cache_dir() / "unpacked" / f"shards-{key[:32]}"
    if _is_whole(folder):
        return folder / LABELS
    try:
        if os.path.lexists(folder):
            log.info("%s: has changed since it was written; extracting again.", folder)
            remove_folder(folder)
        with folder_aside(folder, fresh=True) as aside:
            n, counts, unused = _write(aside, shards, names, columns)
            require_whole(aside, *counts)
            write_json(aside / _SUM, {"bytes": counts, "unused": unused})
    except WriteError as error:
        if _is_whole(folder):  # another process was faster
            return folder / LABELS
        hint = f"{error.hint}\nHEADSTART_CACHE=DIR moves the cache elsewhere."
        raise WriteError(error.message, hint=hint) from error
    log.info("%s: extracted %s images to %s, for this run and later ones.", place, f"{n:,}", folder)
    return folder / LABELS


def unused_in(table: Path) -> list[str]:
    """Return the columns, fields and keys of the shards that were not used for a table of `written_out`."""
    return [str(name) for name in read_json(table.with_name(_SUM))["unused"]]


def _is_whole(folder: Path) -> bool:
    """Return whether a cached folder still has the size that was written."""
    try:
        files, size = read_json(folder / _SUM)["bytes"]
        return files_and_bytes(folder) == (files + 1, size + os.lstat(folder / _SUM).st_size)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(
    aside: Path, shards: Sequence[Path], names: Sequence[str], columns: _ShardColumns
) -> tuple[int, tuple[int, int], list[str]]:
    """Fill a folder; return its images, its files and their bytes, and the names of what was not used.

    Stops before it exceeds the limits for an archive of that size.
    """
    rows: list[_Row] = []
    packed = sum(shard.stat().st_size for shard in shards)
    limits = limits_for(packed, disk_usage(aside).free)
    keys: defaultdict[str, set[str]] = defaultdict(set)
    unused: dict[str, None] = {}
    written = images = 0
    with bar("Extracting images", packed) as advance:
        for shard, name, folder in zip(shards, names, _folders_of(names), strict=True):
            split = split_of_shard(name)
            for n, sample in enumerate(_samples(shard, columns, keys[split])):
                written += len(sample.data or b"")
                if written > limits.bytes:
                    raise BadArchive(
                        f"{shard}: more than {limits.bytes:,} bytes of images; {limits.because}.",
                        hint="HEADSTART_CACHE=DIR moves the cache to another disk.",
                    )
                path = f"{folder}/{_file_name(n, sample)}"
                if sample.data is not None:
                    images += 1
                    write_pieces(aside / path, [sample.data])
                rows.append((path, sample.label, sample.split or split, sample.name, sample.group))
                if len(unused) < _MOST_UNUSED:
                    unused |= dict.fromkeys(sample.unused)
            advance(shard.stat().st_size)
    if not images:
        raise BadLabels(f"{shards[0]}: contains no image data.", hint="Give shards that contain the images themselves.")
    _require_groups(shards[0], columns[2], rows)
    written += write_pieces(aside / LABELS, [csv_bytes(_HEADER, _with_usable_split(rows))])
    return images, (images + 1, written), list(unused)


def _require_groups(shard: Path, column: str, rows: list[_Row]) -> None:
    """Raise `BadLabels` if groups are requested but no sample has one: before the folder is kept."""
    if column and not any(group for *_, group in rows):
        raise BadLabels(
            f"{shard}: none of {len(rows):,} samples has a value for {column!r} (group_column).",
            hint="group_column names a column; in WebDataset an ending, such as 'cls', or a key in the .json.",
        )


def _with_usable_split(rows: list[_Row]) -> list[_Row]:
    """Return the rows, without their split unless train and another set have labels."""
    splits = {split_name(split) for _, label, split, _, _ in rows if label} - {""}
    return (
        rows
        if "train" in splits and len(splits) > 1
        else [(p, label, "", name, group) for p, label, _, name, group in rows]
    )


def split_of_shard(name: str) -> str:
    """Return the split in the name of a shard or its folders, '' if none or several.

    >>> split_of_shard("data/validation-00000-of-00002.parquet"), split_of_shard("shard-000001.tar")
    ('val', '')
    """
    splits = {split_name(word) for word in re.split(r"[^a-zA-Z]+", name)} - {""}
    return splits.pop() if len(splits) == 1 else ""


def _folders_of(names: Sequence[str]) -> list[str]:
    """Return a folder name for each shard; names that become the same are told apart by a hash of the whole name.

    >>> _folders_of(["a b.tar", "c.tar", "a_b.parquet"])
    ['a_b-b416a080', 'c', 'a_b-ed501d24']
    """
    folders = [_folder_of(name) for name in names]
    times = Counter(folder.casefold() for folder in folders)
    return [
        f"{folder}-{sha256_bytes(os.fsencode(name))[:8]}" if times[folder.casefold()] > 1 else folder
        for folder, name in zip(folders, names, strict=True)
    ]


def _folder_of(name: str) -> str:
    """Return a folder name for the images of a shard: its path, with only characters that every file system allows."""
    parts = re.sub(r"\.(?:parquet|tar|tgz|tar\.gz)$", "", name, flags=re.IGNORECASE).split("/")
    return "/".join(_safe(part) or "_" for part in parts)


def _file_name(n: int, sample: Sample) -> str:
    stem, _, suffix = sample.name.rpartition("/")[2].partition(".")
    kind = kind_of(sample.data)
    given = f".{suffix.rpartition('.')[2].lower()}"
    return f"{n:06}{'-' if _safe(stem) else ''}{_safe(stem)}{kind or (given if given in IMAGES else '.bin')}"


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60].strip("_")


def _samples(shard: Path, columns: _ShardColumns, keys: set[str]) -> Iterator[Sample]:
    image, label, group = columns
    if shard.suffix.lower() == ".parquet":
        return table_samples(shard, image, label, group)
    return tar_samples(shard, image, label, keys, group)
