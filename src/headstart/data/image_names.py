"""The names that tables use for images, and the images that they mean.

An image is called by its path or its file name, with or without the extension; where nothing is called exactly so, by
another spelling (`data.path_cells`). The same name often occurs in several sets (train/7.jpg, test/7.jpg): then the set
that a table is about decides, so that the row of a deleted image does not label one of another set. Costs about 2 s per
100,000 cells. Not for paths of files that need not be below the folder: `data.match_files` looks for those.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from headstart.data.dataset import set_of_path
from headstart.data.path_cells import loose, number, plain_path, relocation
from headstart.data.set_columns import set_name
from headstart.data.tables import are_images, is_index, path_rank

_TRIED = 300  # rows tried to find the column of paths
_TOKEN = 0.05  # a fraction of the cells that says nothing about the table


class Names:
    """The images of a folder by every name that a table may use for them."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = frozenset(paths)
        self._parts: dict[object, Names] = {}

    @cached_property
    def _exactly(self) -> tuple[_FileNames, ...]:
        """The images by their file names, with and without their suffix."""
        return _FileNames(self.paths, str, str), _FileNames(self.paths, _stem, str)

    @cached_property
    def _by_spelling(self) -> tuple[tuple[Callable[[str], str], _FileNames], ...]:
        """Looser keys of file names, and the images by them."""
        keys = (loose, lambda name: _stem(loose(name)), number)
        return tuple((key, _FileNames(self.paths, key, loose)) for key in keys)

    @cached_property
    def sets(self) -> dict[str, list[str]]:
        """The images of each set, by the folders that they are in; '' for those that are in none."""
        folders: defaultdict[str, list[str]] = defaultdict(list)
        for path in sorted(self.paths):
            folders[path.rpartition("/")[0]].append(path)
        sets: defaultdict[str, list[str]] = defaultdict(list)
        for folder, paths in folders.items():
            sets[set_of_path(f"{folder}/")] += paths
        return dict(sets)

    def in_sets(self, sets: Collection[str]) -> Names:
        """Only the images of these sets."""
        if set(sets) >= set(self.sets):
            return self
        return self._part(frozenset(sets), lambda: (path for name in sets for path in self.sets.get(name, [])))

    def below(self, folder: str) -> Names:
        """Only the images below a folder, whose path ends with ``/``."""
        return self._part(folder, lambda: (path for path in self.paths if path.startswith(folder)))

    def _part(self, key: object, paths: Callable[[], Iterable[str]]) -> Names:
        if key not in self._parts:
            self._parts[key] = Names(paths())
        return self._parts[key]

    def find(self, cell: str, base: str = "") -> list[str]:
        """The images that a cell can mean, by the first rule with a match; `base` is the folder of its table.

        >>> names = Names(["train_images/0a1b.png", "test/1.jpg", "train/1.jpg", "x/007.jpg"])
        >>> names.find("0a1b"), names.find("1.jpg"), names.find("train/1"), names.find("2")
        (['train_images/0a1b.png'], ['test/1.jpg', 'train/1.jpg'], ['train/1.jpg'], [])
        >>> names.find("0A1B.png"), names.find("X/7.0")
        (['train_images/0a1b.png'], ['x/007.jpg'])
        """
        exact = self.find_exactly(cell, base)
        above, _, name = plain_path(cell).rpartition("/")
        return exact or (self._respelled(loose(above), name) if name else [])

    def find_exactly(self, cell: str, base: str = "") -> list[str]:
        """Like `find`, but only images with exactly this name, with or without their suffix."""
        text = plain_path(cell)
        for exact in (base + cell, base + text, text):
            if exact in self.paths:
                return [exact]
        above, _, name = text.rpartition("/")
        return next(filter(None, (index.find(above, name) for index in self._exactly)), [])

    def _respelled(self, above: str, name: str) -> list[str]:
        """The images whose folders and names are a cell's in another spelling."""
        return next(filter(None, (index.find(above, key(name)) for key, index in self._by_spelling)), [])


class _FileNames:
    """Images by a key of their file names, alone and with the folder that they are in: where each folder has a 0001.jpg,
    the file name alone leaves as many candidates as there are folders."""

    def __init__(self, paths: Iterable[str], key: Callable[[str], str], spelled: Callable[[str], str]) -> None:
        self._by_name: defaultdict[str, list[str]] = defaultdict(list)
        self._by_folder: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        self._above: dict[str, str] = {}
        for path in sorted(paths):
            folder, _, name = path.rpartition("/")
            if folder not in self._above:
                self._above[folder] = spelled(folder)
            if key(name):
                self._by_name[key(name)].append(path)
                self._by_folder[self._above[folder].rpartition("/")[2], key(name)].append(path)

    def find(self, above: str, name: str) -> list[str]:
        """The images with this key, in folders whose path, as it is spelled here, ends with `above`."""
        if not above:
            return self._by_name.get(name, [])
        here = self._by_folder.get((above.rpartition("/")[2], name), [])
        return [path for path in here if f"/{self._above[path.rpartition('/')[0]]}".endswith(f"/{above}")]


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def pick(candidates: Sequence[str], split: str) -> list[str]:
    """Of several images that a name fits, those in the split of its table; if it has none, all but test images."""
    if len(candidates) < 2:
        return list(candidates)
    own = [path for path in candidates if set_of_path(path) == split] if split else []
    return own or [path for path in candidates if set_of_path(path) != "test"] or list(candidates)


@dataclass(frozen=True)
class _TableCells:
    """Cells of a table in the folder `base`, whose rows are in the set `split` ('' if that is unknown)."""

    texts: frozenset[str]
    base: str
    split: str
    exactly: bool

    def among(self, names: Names, texts: Iterable[str] | None = None) -> dict[str, list[str]]:
        """The images that each cell (or some of them) can mean, of those with these names."""
        find = names.find_exactly if self.exactly else names.find
        chosen = self.texts if texts is None else texts
        return {cell: pick(find(cell, self.base), self.split) for cell in chosen}


def images_named(
    names: Names, table: str, cells: Iterable[str], split: str = "", *, exactly: bool = False
) -> dict[str, list[str]]:
    """{cell: the images that it can mean}, for the cells of a table. Its path is relative to the folder of the images.

    A cell with the folder of a set in it is taken at its word. The others mean the images

    - below the folder of the table, if that is the folder of a set (train/labels.csv) with images in it;
    - else those in no set and in the sets that the table is about: the ones in its name (or `split`), all but the test
      set if there is none, and other sets that it clearly names as well (see `_also_about`).

    So the row of a deleted image does not mean another image of its name in another set. Only if no cell means any of
    these images, all images count. With `exactly`, other spellings do not count.
    """
    base, said = table[: table.rfind("/") + 1], {split} if split else set(_sets_said(Path(table)))
    split = split or set_of_path(table) or set_of_table(Path(table))
    given = _TableCells(frozenset(cells), base, split, exactly)
    if set_of_path(table) and names.below(base).paths:
        found = given.among(names.below(base))
    else:
        found = _in_own_sets(names, said or ({split} if split else {"train", "val"}), given)
    return found | given.among(names, (cell for cell in given.texts if set_of_path(plain_path(cell))))


def _in_own_sets(names: Names, own: set[str], given: _TableCells) -> dict[str, list[str]]:
    """The images in no set, in the sets `own`, and in those that the table is about as well; else all."""
    near = names.in_sets({*own, ""})
    found = given.among(near)
    if near is names:
        return found
    if not any(found.values()):
        return given.among(names)
    more = _also_about(names, found, given)
    return given.among(names.in_sets({*own, "", *more})) if more else found


def _also_about(names: Names, found: dict[str, list[str]], given: _TableCells) -> set[str]:
    """The sets of which the cells that fit nothing in `found` name more than half.

    For a table without a set in its name also those that such cells name often: more than 5 % of the cells, and more than
    those that fit images in `found` and in this set alike.
    """
    elsewhere = given.among(names, (cell for cell, images in found.items() if not images))
    alone = {images[0] for images in elsewhere.values() if len(images) == 1}
    more = set()
    for name, n in Counter(map(set_of_path, alone)).items():
        both = sum(map(bool, given.among(names.in_sets({name}), (cell for cell in found if found[cell])).values()))
        often = not given.split and n > max(both, _TOKEN * len(found))
        more |= {name} if often or n > len(names.sets[name]) / 2 else set()
    return more


def set_of_table(table: Path) -> str:
    """The set that the name of a table says its rows are in, '' if it says none.

    >>> [set_of_table(Path(name)) for name in ("trainLabels.csv", "labels_val.csv", "LABELS_TEST.csv", "labels.csv")]
    ['train', 'val', 'test', '']
    """
    return next(iter(_sets_said(table)), "")


def _sets_said(table: Path) -> dict[str, None]:
    """The sets in the name of a table, such as train_val.csv, in this order."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", table.stem)
    found = (set_of_path(f"{table.stem.casefold()}/"), *map(set_name, words))
    return dict.fromkeys(filter(None, found))


# Columns


def naming_column(header: Sequence[str], cells: Sequence[list[str]], names: Names, table: str, split: str = "") -> str:
    """The column that names the images, in a sample of rows; '' if none does.

    Labels 0 and 1 may be names of images too, as may numbers of rows; these are left out if they merely count. Of the
    columns that name at least half as many images as the best one does, that with a usual name is taken, else that of
    file names, else the one with the most images. Other spellings count for file names, and if nothing is exact.
    """
    step = max(len(cells[0]) // _TRIED, 1)
    samples = {name: c[::step] for name, c in zip(header, cells, strict=True) if not is_index(name, c)}
    for loosely in (False, True):
        images = {
            name: _images_in(sample, names, table, split, exactly=not (loosely or are_images(sample)))
            for name, sample in samples.items()
        }
        most = max(map(len, images.values()), default=0)
        if most:
            best = [name for name in samples if len(images[name]) >= most / 2]
            return min(best, key=lambda name: (path_rank(name, samples[name]), -len(images[name])))
    return next((name for name, sample in samples.items() if relocation(sample, names.paths)), "")


def _images_in(cells: Sequence[str], names: Names, table: str, split: str, *, exactly: bool) -> set[str]:
    """The images that some cells of a table mean; of file names, also if their paths come from another machine."""
    found = images_named(names, table, cells, split, exactly=exactly)
    if not any(found.values()) and are_images(cells) and (rule := relocation(cells, names.paths)):
        found = images_named(names, table, map(rule.applied_to, cells), split)
    return {one[0] for one in found.values() if len(one) == 1}
