"""`DataSource`: what a user gives: where images are, where their labels come from, and which of them belong together.

    DataSource(Path("photos"), label_from="^(cat|dog)")          from Python
    headstart train photos --label-from "^(cat|dog)"             on the command line, where each field is an option

A value that goes into the run folder. `data.open_source` opens it and lists the kinds of places.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from headstart.data.chosen_classes import listed_classes
from headstart.data.in_memory import kept_table, place_of
from headstart.io.addresses import named_place


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
        object.__setattr__(self, "place", place_of(self.place))  # text and in-memory data are accepted too
        given: object = self.classes
        classes = listed_classes(self.classes) if given is not None else ""  # a list of names and None are accepted too
        object.__setattr__(self, "classes", classes)

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

    @property
    def title(self) -> str:
        """What the data is called on pages: the name of its folder or file."""
        kept = kept_table(self.place)
        return kept.was if kept else self.place.resolve().name or str(self.place)


def as_source(data: object) -> DataSource:
    """A source unchanged; a path, or data in memory (`data.in_memory`), as a source without options.

    Raises `DataError` for anything else.
    """
    return data if isinstance(data, DataSource) else DataSource(place_of(data))
