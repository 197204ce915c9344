"""The supported data sources, and how each becomes a `Dataset` of files.

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
| from Python: a data frame, lists of images and labels | `data.in_memory` | as of a table |

Images that belong together (one patient, one camera) are named by a column or by a pattern in their paths
(`data.groups`). Archives and shards are unpacked once, into the user's cache, and what is in a bucket is downloaded
there. Not for other addresses: download the data first. Other files are refused by what they are
(`data.foreign_formats`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType

from headstart.data.archives.unpacking import is_archive, unpacked
from headstart.data.chosen_classes import class_names, listed_classes, no_name, only_classes
from headstart.data.dataset import ARCHIVES, Dataset
from headstart.data.foreign_formats import FOREIGN, not_a_dataset, refuse_foreign
from headstart.data.from_store import local_copy
from headstart.data.groups import check_group_column, groups_from_paths, with_groups
from headstart.data.image_folder import nearest, open_folder
from headstart.data.in_memory import kept_table, missing_table, place_of
from headstart.data.infer_labels import groups_beside, open_recognised, open_with_columns
from headstart.data.match_files import compiled, labels_from_names, open_by_pattern, open_table
from headstart.data.packs.pack_dataset import is_pack, open_pack
from headstart.data.proposals import about_columns
from headstart.data.shards.writing import shards_at, written_out
from headstart.data.table_files import FORMATS, READABLE, read_cells
from headstart.data.tables import LabelRow, choose_columns, rows_by, rows_of
from headstart.errors import BadLabels, DataError, MissingData
from headstart.io.addresses import named_place, refuse_address, store_url
from headstart.io.progress import log


@dataclass(frozen=True)
class DataSource:
    """Images, the source of their labels, and which of them belong together. Only the place is required.

    >>> DataSource(Path("photos"), label_from="^(cat|dog)").options
    {'label_from': '^(cat|dog)'}
    """

    place: Path
    """Folder of class folders or of split folders (train, val, test); a table with a path and a label column; an
    archive of these; or shards of images (parquet, WebDataset). Or the URL of a bucket that has them (s3://, gs://, az://)."""
    label_from: str = field(default="", metadata={"section": "Labels and groups"})
    """Regular expression for the labels in the file names, such as '^(cat|dog)': the group called label, or the first
    one, or the whole match is the label. With a / in it, it is matched against the path."""
    label_column: str = ""
    """Column of the labels, in a table or in shards; for WebDataset an extension (cls) or a key of the .json."""
    path_column: str = ""
    """Column with the paths of the images, or with the images."""
    group_column: str = ""
    """Column whose equal values mark images that have to stay in one set of a split (a patient, a camera), in a table
    or in shards; without it, a column called group."""
    group_from: str = ""
    """Regular expression for such groups in the paths of the images, such as 'person(\\d+)': the group called group, or
    the first one, or the whole match names the group."""
    classes: str = ""
    """Classes to use, separated by commas, such as cats,dogs; images of other classes are left out. A name that contains
    a comma is put in double quotes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", place_of(self.place))  # text and data in memory are accepted
        given: object = self.classes
        classes = listed_classes(self.classes) if given is not None else ""  # so is a list of names, and None
        if not (classes or given is None or isinstance(given, str)):
            raise no_name()
        object.__setattr__(self, "classes", classes)

    def open(self) -> Dataset:
        """Open the images with their labels; unused columns of a table are logged.

        Raises `DataError`, and `WriteError` if the cache cannot be written.
        """
        opened = self._opened()
        if opened.unused:
            log.info("%s", opened.unused)
        return only_classes(opened, class_names(self.classes)) if self.classes else opened

    def _opened(self) -> Dataset:
        """The images of all classes."""
        self._check_options()
        url = store_url(self.place)
        if url is not None:
            return self._open_store(url)
        refuse_address(self.place)
        if is_pack(self.place):
            return self._open_pack()
        shards = shards_at(self.place, self.path_column)
        if shards:
            return self._open_shards(shards)
        if self.place.is_dir():
            return self._open_folder()
        if self.place.is_file() and self.place.suffix.lower() in READABLE:
            return self._open_table()
        if self.place.is_file() and self.place.suffix.lower() in FOREIGN:
            refuse_foreign(self.place)
        if self.place.is_file() and (is_archive(self.place) or self.place.name.lower().endswith(ARCHIVES)):
            return replace(self, place=unpacked(self.place))._opened()
        if self.place.is_file():
            raise not_a_dataset(self.place, FORMATS)
        no_such = MissingData(f"{self.place}: there is no such folder or table.", hint=nearest(self.place))
        raise missing_table(self.place) or no_such

    def _open_store(self, url: str) -> Dataset:
        """The images below a URL, from their copies in the cache; messages name the URL."""
        copy = local_copy(url)
        try:
            return replace(self, place=copy)._opened()
        except DataError as error:
            error.message = error.message.replace(str(copy), url.rstrip("/"))
            error.hint = error.hint.replace(str(copy), url.rstrip("/"))
            raise

    def _check_options(self) -> None:
        """Raise `BadLabels` for an invalid pattern, and for two options that contradict each other."""
        if self.label_from:
            compiled(self.label_from)
        if self.group_from:
            compiled(self.group_from, what="group")
        if self.label_from and self.label_column:
            raise BadLabels(
                f"label_from {self.label_from!r} and label_column {self.label_column!r} are both given; expected one.",
                hint="Give label_from for labels in file names, label_column for those in a table.",
            )
        if self.group_from and self.group_column:
            raise BadLabels(
                f"group_from {self.group_from!r} and group_column {self.group_column!r} are both given; expected one.",
                hint="Give group_from for groups in the paths of the images, group_column for those in a table.",
            )

    @property
    def groups_named_by(self) -> str:
        """The source of the groups, as worded in messages."""
        if self.group_from:
            return f"--group-from {shlex.quote(self.group_from)}"
        return f"--group-column {shlex.quote(self.group_column)}" if self.group_column else "the column of groups"

    def as_dict(self) -> dict[str, str]:
        """The fields as text, for a run folder; `from_dict` reads them."""
        return {**asdict(self), "place": self.where}

    @classmethod
    def from_dict(cls, values: Mapping[str, str]) -> DataSource:
        """The source that `as_dict` described; missing keys are empty, unknown keys are ignored."""
        texts = {field.name: str(values.get(field.name, "")) for field in fields(cls) if field.name != "place"}
        return cls(Path(values["place"]), **texts)

    @property
    def where(self) -> str:
        """The place as a user writes it: a path, or the URL of a store."""
        return named_place(self.place)

    @property
    def options(self) -> dict[str, str]:
        """The given fields, without the place."""
        return {name: value for name, value in self.as_dict().items() if value and name != "place"}

    def words(self) -> list[str]:
        """The source as written on a command line: the place, then the given options."""
        options = (f"--{name.replace('_', '-')}={value}" for name, value in self.options.items())
        return [self.where, *options]

    def _open_folder(self) -> Dataset:
        dataset = self._open_labelled_folder()
        if not self.group_column:
            return self._grouped_by_paths(dataset)
        groups = groups_beside(self.place, dataset.paths, path_column=self.path_column, group_column=self.group_column)
        check_group_column(self.place, self.group_column, groups, what="images")
        return with_groups(dataset, groups)

    def _open_labelled_folder(self) -> Dataset:
        if self.label_from:
            return open_by_pattern(self.place, self.label_from)
        if self.label_column or (self.path_column and not self.group_column):
            return open_with_columns(
                self.place,
                path_column=self.path_column,
                label_column=self.label_column,
                group_column=self.group_column,
            )
        recognised = open_recognised(self.place, group_column=self.group_column)
        if recognised is None:
            return open_folder(self.place)
        layout, dataset = recognised
        log.info("%s", layout.sentence)
        return dataset

    @property
    def title(self) -> str:
        """What the data is called on pages: the name of its folder or file."""
        kept = kept_table(self.place)
        return kept.was if kept else self.place.resolve().name or str(self.place)

    def _open_table(self) -> Dataset:
        header, cells = read_cells(self.place)
        kept = kept_table(self.place)
        table = Path(kept.was) if kept else self.place
        columns = choose_columns(
            table,
            header,
            cells,
            path_column=self.path_column or None,
            label_column=self.label_column or None,
            group_column=self.group_column or None,
            unlabelled=bool(self.label_from),
        )
        columns = replace(columns, group="" if self.group_from else columns.group)
        rows = rows_by(table, header, cells, columns)
        self._check_groups(rows)
        rows = self._with_pattern(rows, [row.path for row in rows])
        opened = open_table(table, rows) if kept is None else kept.named(open_table(table, kept.located(rows)))
        dataset = self._grouped_by_paths(opened)
        used = replace(columns, group=columns.group or self.group_from)
        unused, proposal = about_columns(table.name, header, cells, used, [row.label for row in rows])
        return replace(dataset, unused=unused, proposal=proposal)

    def _open_pack(self) -> Dataset:
        for name in ("label_column", "path_column", "group_column"):
            if getattr(self, name):
                raise BadLabels(f"{self.place}: is a pack, so {name} has no effect.", hint=f"Leave {name} out.")
        return self._grouped_by_paths(open_pack(self.place, self.label_from))

    def _open_shards(self, shards: list[Path]) -> Dataset:
        column = self.label_column if not self.label_from else ""
        table = written_out(
            self.place,
            shards,
            image_column=self.path_column,
            label_column=column,
            group_column=self.group_column,
        )
        header, cells = read_cells(table)
        rows = rows_of(table, header, cells, path_column="path", label_column="label")
        self._check_groups(rows)
        names = cells[header.index("name")]
        dataset = open_table(table, self._with_pattern(rows, names))
        return self._grouped_by_paths(dataset, dict(zip(cells[header.index("path")], names, strict=True)))

    def _check_groups(self, rows: list[LabelRow]) -> None:
        if self.group_column:
            check_group_column(self.place, self.group_column, [row.group for row in rows])

    def _grouped_by_paths(self, dataset: Dataset, names: Mapping[str, str] = MappingProxyType({})) -> Dataset:
        """The dataset with groups by `group_from`, if given; `names`: {path: name of the image in its shard}."""
        if not self.group_from:
            return dataset
        paths = [names.get(path) or path for path in dataset.paths]
        return with_groups(dataset, groups_from_paths(self.place, paths, self.group_from))

    def _with_pattern(self, rows: list[LabelRow], names: list[str]) -> list[LabelRow]:
        """The rows, with labels by `label_from`, if given."""
        if not self.label_from:
            return rows
        labels = labels_from_names(self.place, names, self.label_from)
        return [replace(row, label=label) for row, label in zip(rows, labels, strict=True)]


def as_source(data: object) -> DataSource:
    """A source unchanged; a path, or data in memory (`data.in_memory`), as a source without options.

    Raises `DataError` for anything else.
    """
    return data if isinstance(data, DataSource) else DataSource(place_of(data))
