"""The supported data sources, and how each becomes a `Dataset`.

| given | opened by | labels |
|---|---|---|
| a folder | `data.image_folder` | its class folders, else a table beside them or the file names (`data.infer_labels`) |
| a folder and `label_from` | `data.match_files` | the file names, or the paths |
| a folder and columns | `data.infer_labels` | the table in it that has these columns |
| a table (CSV, TSV, parquet, JSON, JSON Lines), a list | `data.match_files` | its label column, or a column per class |
| parquet with images, WebDataset shards; a folder of them, `shard-{000..009}.tar` | `data.shards.writing` | their own |
| a pack, written by `headstart pack` | `data.packs.pack_dataset` | its own |
| an archive (zip, tar, tar.gz, ...) of any of these | `data.archives.unpacking` | as above |
| a URL of a bucket (s3://, gs://, az://) with any of these below it | `data.from_store` | as above |
| from Python: a data frame, lists of images and labels | `data.in_memory` | as in a table |

Images that belong together (one patient, one camera) are named by a column or by a pattern in their paths
(`data.groups`). Archives and shards are unpacked once, into the user's cache, and what is in a bucket is downloaded
there. Not for other URLs: download the data first. Files of any other kind are refused by a message that names their format
(`data.foreign_formats`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from headstart.data.archives.unpacking import is_archive, unpacked
from headstart.data.chosen_classes import names_in_list, only_classes
from headstart.data.data_source import DataSource
from headstart.data.dataset import ARCHIVES, Dataset
from headstart.data.foreign_formats import FOREIGN, not_a_dataset, refuse_foreign
from headstart.data.from_store import local_copy
from headstart.data.groups import check_group_column, groups_from_paths, with_groups
from headstart.data.image_folder import open_folder
from headstart.data.in_memory import kept_table, missing_table
from headstart.data.infer_labels import groups_beside, open_recognised, open_with_columns
from headstart.data.match_files import compiled, labels_from_names, open_by_pattern, open_table
from headstart.data.packs.pack_dataset import is_pack, open_pack
from headstart.data.proposals import about_columns, unused_note
from headstart.data.shards.writing import shards_at, unused_in, written_out
from headstart.data.table_files import FORMATS, READABLE, read_cells
from headstart.data.tables import LabelRow, choose_columns, rows_by, rows_of
from headstart.errors import BadLabels, DataError, MissingData
from headstart.io.addresses import refuse_address, store_url
from headstart.io.missing_paths import hint_for_missing
from headstart.io.progress import log


def open_source(source: DataSource) -> Dataset:
    """Open the images with their labels; unused columns of a table are logged.

    Raises `DataError`, and `WriteError` if the cache cannot be written.
    """
    opened = _opened(source)
    if opened.unused:
        log.info("%s", opened.unused)
    return only_classes(opened, names_in_list(source.classes)) if source.classes else opened


def _opened(source: DataSource) -> Dataset:
    """The images of all classes."""
    _check_options(source)
    url = store_url(source.place)
    if url is not None:
        return _from_store(source, url)
    refuse_address(source.place)
    if is_pack(source.place):
        return _from_pack(source)
    shards = shards_at(source.place, source.path_column)
    if shards:
        return _from_shards(source, shards)
    if source.place.is_dir():
        return _from_folder(source)
    if source.place.is_file() and source.place.suffix.lower() in READABLE:
        return _from_table(source)
    if source.place.is_file() and source.place.suffix.lower() in FOREIGN:
        refuse_foreign(source.place)
    if source.place.is_file() and (is_archive(source.place) or source.place.name.lower().endswith(ARCHIVES)):
        return _opened(replace(source, place=unpacked(source.place)))
    if source.place.is_file():
        raise not_a_dataset(source.place, FORMATS)
    no_such = MissingData(f"{source.place}: there is no such folder or table.", hint=hint_for_missing(source.place))
    raise missing_table(source.place) or no_such


def _from_store(source: DataSource, url: str) -> Dataset:
    """The images below a URL, from their copies in the cache; messages name the URL."""
    copy = local_copy(url)
    try:
        return _opened(replace(source, place=copy))
    except DataError as error:
        error.message = error.message.replace(str(copy), url.rstrip("/"))
        error.hint = error.hint.replace(str(copy), url.rstrip("/"))
        raise


def _check_options(source: DataSource) -> None:
    """Raise `BadLabels` for an invalid pattern, and for two options that contradict each other."""
    if source.label_from:
        compiled(source.label_from)
    if source.group_from:
        compiled(source.group_from, what="group")
    if source.label_from and source.label_column:
        raise BadLabels(
            f"label_from {source.label_from!r} and label_column {source.label_column!r} are both given; give only one.",
            hint="Give label_from for labels in file names, label_column for those in a table.",
        )
    if source.group_from and source.group_column:
        raise BadLabels(
            f"group_from {source.group_from!r} and group_column {source.group_column!r} are both given; give only one.",
            hint="Give group_from for groups in the paths of the images, group_column for those in a table.",
        )


def _from_folder(source: DataSource) -> Dataset:
    dataset = _from_labelled_folder(source)
    if not source.group_column:
        return _grouped_by_paths(source, dataset)
    groups = groups_beside(
        source.place, dataset.paths, path_column=source.path_column, group_column=source.group_column
    )
    check_group_column(source.place, source.group_column, groups, what="images")
    return with_groups(dataset, groups)


def _from_labelled_folder(source: DataSource) -> Dataset:
    if source.label_from:
        return open_by_pattern(source.place, source.label_from)
    if source.label_column or (source.path_column and not source.group_column):
        return open_with_columns(
            source.place,
            path_column=source.path_column,
            label_column=source.label_column,
            group_column=source.group_column,
        )
    recognised = open_recognised(source.place, group_column=source.group_column)
    if recognised is None:
        return open_folder(source.place)
    layout, dataset = recognised
    log.info("%s", layout.sentence)
    return dataset


def _from_table(source: DataSource) -> Dataset:
    header, cells = read_cells(source.place)
    kept = kept_table(source.place)
    table = Path(kept.was) if kept else source.place
    columns = choose_columns(
        table,
        header,
        cells,
        path_column=source.path_column or None,
        label_column=source.label_column or None,
        group_column=source.group_column or None,
        unlabelled=bool(source.label_from),
    )
    columns = replace(columns, group="" if source.group_from else columns.group)
    rows = rows_by(table, header, cells, columns)
    _check_groups(source, rows)
    rows = _with_pattern(source, rows, [row.path for row in rows])
    opened = open_table(table, rows) if kept is None else kept.named(open_table(table, kept.located(rows)))
    dataset = _grouped_by_paths(source, opened)
    used = replace(columns, group=columns.group or source.group_from)
    unused, proposal = about_columns(table.name, header, cells, used, [row.label for row in rows])
    return replace(dataset, unused=unused, proposal=proposal)


def _from_pack(source: DataSource) -> Dataset:
    for name in ("label_column", "path_column", "group_column"):
        if getattr(source, name):
            raise BadLabels(f"{source.place}: is a pack, so {name} has no effect.", hint=f"Leave {name} out.")
    return _grouped_by_paths(source, open_pack(source.place, source.label_from))


def _from_shards(source: DataSource, shards: list[Path]) -> Dataset:
    column = source.label_column if not source.label_from else ""
    table = written_out(
        source.place,
        shards,
        image_column=source.path_column,
        label_column=column,
        group_column=source.group_column,
    )
    header, cells = read_cells(table)
    rows = rows_of(table, header, cells, path_column="path", label_column="label")
    _check_groups(source, rows)
    names = cells[header.index("name")]
    dataset = open_table(table, _with_pattern(source, rows, names))
    dataset = replace(dataset, unused=unused_note(source.place.name, unused_in(table)))
    return _grouped_by_paths(source, dataset, dict(zip(cells[header.index("path")], names, strict=True)))


def _check_groups(source: DataSource, rows: list[LabelRow]) -> None:
    if source.group_column:
        check_group_column(source.place, source.group_column, [row.group for row in rows])


def _grouped_by_paths(source: DataSource, dataset: Dataset, names: Mapping[str, str] = MappingProxyType({})) -> Dataset:
    """The dataset with groups by `group_from`, if given; `names`: {path: name of the image in its shard}."""
    if not source.group_from:
        return dataset
    paths = [names.get(path) or path for path in dataset.paths]
    return with_groups(dataset, groups_from_paths(source.place, paths, source.group_from))


def _with_pattern(source: DataSource, rows: list[LabelRow], names: list[str]) -> list[LabelRow]:
    """The rows, with labels by `label_from`, if given."""
    if not source.label_from:
        return rows
    labels = labels_from_names(source.place, names, source.label_from)
    return [replace(row, label=label) for row, label in zip(rows, labels, strict=True)]
