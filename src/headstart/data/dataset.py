"""`Dataset`: images with their labels, and the split that came with them; and the meaning of file and folder names.

Every data source (see `data.open_source`) ends up in `dataset_of`. No image is opened: whether a file is an image is
checked later, so that `headstart check` reports a bad one instead of it being skipped silently. Costs about 300 bytes
per image.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from headstart.data.class_names import class_name
from headstart.data.duplicates import merge_groups
from headstart.data.left_out import reject_reason
from headstart.images.file_part import FilePart, ImageFile
from headstart.images.formats import SUFFIXES
from headstart.io.result_repr import OneLineRepr, short_facts
from headstart.io.text_table import few

IMAGES = SUFFIXES
"""Extensions of images, including formats that cannot be decoded: such files are reported, never skipped silently."""
OTHERS = (
    *(".txt", ".md", ".csv", ".tsv", ".parquet", ".json", ".jsonl", ".xml", ".yaml", ".yml"),
    *(".aae", ".xmp", ".pp3", ".dop", ".ini", ".db", ".lnk", ".url"),  # put beside images by cameras and systems
    *(".html", ".py", ".ipynb", ".log", ".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers", ".mat"),
)
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".7z", ".rar", ".gz", ".zst")
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
"""Extensions of tables."""
SPLITS = ("train", "val", "test")

_SPLIT_NAME = re.compile(r"(?:seg_)?(?:(train(?:ing)?)|(val(?:id(?:ation)?)?)|(test(?:ing)?))(?:[ _-]?set)?")
_UNLABELLED_NAME = re.compile(
    r"(?:seg_)?(?:pred|predict(?:ions?)?|(?:un|not[ _-]?(?:yet[ _-]?)?)labell?ed|unsup(?:ervised)?|"
    r"(?:no|without|to)[ _-]?labels?|to[ _-]?(?:be[ _-]?labell?ed|predict))(?:[ _-]?(?:images?|imgs?|data|set))?"
)
_MERE = r"(?:images?|imgs?|pictures?|photos?|pics?|files|jpe?gs?|pngs?)"
_MERE_NAME = re.compile(rf"{_MERE}(?:[ _-]?(?:\d++|{_MERE}))*")
_PLAIN = rf"(?:{_MERE}|data|dataset)"
_PLAIN_NAME = re.compile(
    rf"(?=[a-z])(?:{_PLAIN}[ _-]?)?(?:(train(?:ing)?)|(val(?:id(?:ation)?)?)|(test(?:ing)?))?"
    rf"(?:[ _-]?(?:set|stg|stage|\d++|{_PLAIN}))*"
)
_BESIDE = re.compile(
    r"masks?|ann(?:ot(?:ation)?)?s?|labels?|trimaps?|seg(?:mentation)?s?|(?:ground)?truths?|gts?|b?box(?:es)?|xmls?|txts?"
)
_BESIDE_TOO = re.compile(
    r"train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?|ground|bounding|images?|imgs?|pngs?|jpe?gs?|json|class|object|binary|semantic|instance|coco|yolo|voc"
)
_DOUBTFUL_NAME = re.compile(
    r"unknown|unsorted|uncategori[sz]ed|unclassified|unassigned|untagged|unannotated|unreviewed|to[ _-]?do|to[ _-]?sort"
)
_AND = "\0"  # between the names of the groups of one image
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_]+")


@dataclass(frozen=True, eq=False, repr=False)
class Split(OneLineRepr):
    """The rows of a dataset in each set: int64 arrays, in ascending order."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    def summary(self) -> str:
        """The number of images in each set, as text."""
        return ", ".join(f"{name} {count}" for name, count in self.facts())

    def facts(self) -> list[tuple[str, str]]:
        """The sets and their sizes."""
        return [(name, f"{len(getattr(self, name)):,}") for name in SPLITS]

    @property
    def train_val(self) -> np.ndarray:
        """The rows of the training and the validation set, in ascending order."""
        return np.sort(np.concatenate([self.train, self.val]))


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(OneLineRepr):
    """Images with their labels. N images, K classes.

    Only labelled images have a split; the others have ``''``.
    """

    root: Path
    """Folder that `paths` are relative to."""
    paths: tuple[str, ...]
    """N paths with ``/`` as separator, sorted; names that are not Unicode are surrogate-escaped."""
    labels: np.ndarray
    """int64 (N,): index into `classes`, -1 = unknown."""
    classes: tuple[str, ...]
    """K names, sorted as text. A class may have no images: see `require_trainable`."""
    split: np.ndarray
    """'<U5' (N,): 'train', 'val', 'test', or '' = undecided."""
    groups: np.ndarray
    """int64 (N,): images with the same number stay in one set of a split."""
    rejected: tuple[tuple[str, str], ...] = ()
    """(path, reason) of files and rows that could not be used."""
    unused: str = ""
    """A sentence about unused columns of its table, '' if there are none."""
    proposal: str = ""
    """A sentence about a column of its table that looks like groups, '' if none does or groups are named."""
    merged: tuple[tuple[str, ...], ...] = ()
    """Names that were read as one class, see `class_name`."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """{path: class} of the images of classes that options or corrections left out (`data.chosen_classes`)."""

    parts: Mapping[str, FilePart] = field(default_factory=dict)
    """{path: part of a file} of the images of a pack."""

    def __len__(self) -> int:
        return len(self.paths)

    def summary(self) -> str:
        """The number of images and classes, and where they are."""
        return f"{len(self):,} images, {len(self.classes)} classes, in {self.root}"

    def facts(self) -> list[tuple[str, str]]:
        """Images, sets of the split, and classes."""
        sets = {name: int((self.split == name).sum()) for name in ("train", "val", "test")}
        counts = {name: int((self.labels == k).sum()) for k, name in enumerate(self.classes)}
        sizes = {name: n for name, n in sets.items() if n} | {"unlabelled": int((self.labels < 0).sum()) or None}
        return list(short_facts({"root": str(self.root), "images": len(self), **sizes, "classes": counts}))

    @property
    def sets(self) -> Split:
        """The rows of the training, validation and test set."""
        return Split(*(np.flatnonzero(self.split == name) for name in SPLITS))

    @property
    def lost(self) -> dict[str, str]:
        """{path: reason} of `rejected`, without what was never meant to be an image."""
        return {path: code for path, code in self.rejected if reject_reason(code).lost}

    def file(self, i: int) -> ImageFile:
        """The file of image `i`, or the part of a file."""
        return self.parts.get(self.paths[i]) or self.root / self.paths[i]

    @property
    def files(self) -> tuple[ImageFile, ...]:
        """The files of the images."""
        return tuple(map(self.file, range(len(self))))

    @property
    def places(self) -> tuple[Path, ...]:
        """The files on the disk that hold the images."""
        if not self.parts:
            return tuple(self.root / path for path in self.paths)
        return tuple(dict.fromkeys(part.file for part in self.parts.values()))

    def packed_in(self, parts: Mapping[str, FilePart]) -> Dataset:
        """The same images, as parts of larger files: {path: part}."""
        return replace(self, parts=parts)

    def take(self, keep: np.ndarray) -> Dataset:
        """Select images by a bool mask (N,) or by indices, in that order; `classes` and `rejected` stay the same."""
        chosen = np.arange(len(self))[np.asarray(keep)]
        return replace(
            self,
            paths=tuple(self.paths[i] for i in chosen),
            labels=self.labels[chosen],
            split=self.split[chosen],
            groups=self.groups[chosen],
        )

    def label_name(self, i: int) -> str:
        """The class name of image `i`, '' where it is unknown."""
        return self.classes[self.labels[i]] if self.labels[i] >= 0 else ""


@dataclass(frozen=True)
class FoundImages:
    """Images as (path, class name or '', split or ''), class names, and files left out, as (path, reason)."""

    images: list[tuple[str, str, str]] = field(default_factory=list)
    classes: set[str] = field(default_factory=set)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    """{name of a class: the name to give it}."""


def dataset_of(root: Path, found: FoundImages, groups: Sequence[str] = ()) -> Dataset:
    """Build a dataset from `found`; `groups` holds one name per image, '' for a group of its own."""
    order = sorted(range(len(found.images)), key=found.images.__getitem__)
    spelled = {name: class_name(found.renamed.get(name, name)) for name in _names(found)}
    images = [(path, spelled.get(name, ""), split) for path, name, split in (found.images[i] for i in order)]
    classes = tuple(sorted({spelled[name] for name in found.classes}))
    index = {name: k for k, name in enumerate(classes)}
    return Dataset(
        root=root,
        paths=tuple(path for path, _, _ in images),
        labels=np.array([index.get(name, -1) for _, name, _ in images], dtype=np.int64),
        classes=classes,
        split=np.array([split if name else "" for _, name, split in images], dtype="<U5"),
        groups=group_numbers([groups[i] for i in order] if groups else [""] * len(order)),
        rejected=tuple(sorted(set(found.rejected))),
        merged=_merged(spelled),
    )


def _names(found: FoundImages) -> set[str]:
    return (found.classes | {name for _, name, _ in found.images}) - {""}


def _merged(spelled: dict[str, str]) -> tuple[tuple[str, ...], ...]:
    """The names that are spelled alike, if there are several."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(spelled):
        groups[spelled[name]].append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def group_numbers(names: Sequence[str]) -> np.ndarray:
    """int64 (N,): equal names (see `class_name`) get one number, that of the first; an empty one is a group of its own.

    An image in several groups (see `both_groups`) makes them one.

    >>> group_numbers(["p1", "p2", "p1 ", "", ""])
    array([0, 1, 0, 3, 4])
    >>> group_numbers(["p1", "p2", "p3", both_groups("p3", "p1")])
    array([0, 1, 0, 0])
    """
    first: dict[str, int] = {}
    keys = {name: list(map(class_name, name.split(_AND))) for name in set(names)}
    numbers = [[first.setdefault(key, i) for key in keys[name]] if name else [i] for i, name in enumerate(names)]
    pairs = [(own[0], other) for own in numbers for other in own[1:]]
    return (
        merge_groups(len(names), np.array(pairs, np.int64))[[own[0] for own in numbers]] if names else np.empty(0, int)
    )


def both_groups(one: str, other: str) -> str:
    """The name for an image in the groups of two names, each of which may be '' or be of several groups itself."""
    return _AND.join(dict.fromkeys(filter(None, (*one.split(_AND), *other.split(_AND)))))


def in_several_groups(name: str) -> bool:
    """Whether a name is one of `both_groups`."""
    return _AND in name


def decided(images: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Return (path, class, split); the split is made undecided unless train and another set have labels.

    In the folder of a competition, only the training images have labels; the name train alone does not make a split.
    """
    splits = {split for _, name, split in images if name and split}
    if "train" in splits and len(splits) > 1:
        return list(images)
    return [(path, name, "") for path, name, _ in images]


def fingerprint(dataset: Dataset, sha256s: Sequence[str]) -> str:
    """SHA-256 (hexadecimal) over the sorted (path, SHA-256 of the file, label name): does not depend on row order."""
    rows = sorted((path, sha256s[i], dataset.label_name(i)) for i, path in enumerate(dataset.paths))
    return hash_rows(rows)


def hash_rows(rows: Iterable[Sequence[str]]) -> str:
    """SHA-256 (hexadecimal) of rows of text; different lists of rows never hash the same bytes."""
    state = hashlib.sha256()
    for row in rows:
        cells = [cell.encode("utf-8", "surrogatepass") for cell in row]
        state.update(b"".join(len(cell).to_bytes(8, "big") + cell for cell in cells))
    return state.hexdigest()


def split_name(text: str) -> str:
    """'train', 'val' or 'test' for the usual spellings, else ''.

    >>> split_name("Validation"), split_name("test_set"), split_name("cats")
    ('val', 'test', '')
    """
    match = _SPLIT_NAME.fullmatch(text.strip().casefold())
    return next((name for name, part in zip(SPLITS, match.groups(), strict=True) if part), "") if match else ""


def is_unlabelled_name(name: str) -> bool:
    """Whether a folder with this name holds images without labels.

    >>> [is_unlabelled_name(name) for name in ("seg_pred", "_Unlabeled", "no_label", "cats", "unknown")]
    [True, True, True, False, False]
    """
    return bool(_UNLABELLED_NAME.fullmatch(name.strip(" _-").casefold()))


def is_doubtful_name(name: str) -> bool:
    """Whether a folder with this name may hold unlabelled images, or else a class for what belongs to no other.

    >>> is_doubtful_name("Unknown"), is_doubtful_name("other")
    (True, False)
    """
    return bool(_DOUBTFUL_NAME.fullmatch(name.strip(" _-").casefold()))


def is_beside_name(name: str) -> bool:
    """Whether a folder with this name, beside folders of images or sets, holds their masks or annotations.

    >>> [is_beside_name(name) for name in ("masks", "labelTxt", "SegmentationClass", "seg_train", "cats", "images")]
    [True, True, True, False, False, False]
    """
    if split_name(name) or is_unlabelled_name(name):
        return False
    words = [word.casefold() for word in _WORDS.findall(name) if not word.isdigit()]
    return any(map(_BESIDE.fullmatch, words)) and all(_BESIDE.fullmatch(w) or _BESIDE_TOO.fullmatch(w) for w in words)


def is_plain_name(name: str) -> bool:
    """Whether a folder with this name merely holds images: it is not a class if labels come from elsewhere.

    >>> [is_plain_name(name) for name in ("images", "train_images", "test1", "jpg", "cats", "streets")]
    [True, True, True, True, False, False]
    """
    return bool(_PLAIN_NAME.fullmatch(name.casefold()))


def says_nothing(name: str) -> bool:
    """Whether a folder with this name is not a class even beside others: it only says that it holds images.

    >>> [says_nothing(name) for name in ("images", "img_2", "jpg", "stage1", "set1", "data1", "cats")]
    [True, True, True, False, False, False, False]
    """
    return bool(_MERE_NAME.fullmatch(name.casefold()))


def set_of_path(path: str) -> str:
    """The split named by the folders of a path, loosely spelled: 'train', 'val', 'test', or ''.

    >>> set_of_path("train_images/1.png"), set_of_path("data/test1/2.jpg"), set_of_path("cats/test.jpg")
    ('train', 'test', '')
    """
    for part in path.split("/")[:-1]:
        match = _PLAIN_NAME.fullmatch(part.casefold()) or _SPLIT_NAME.fullmatch(part.casefold())
        split = next((name for name, text in zip(SPLITS, match.groups(), strict=True) if text), "") if match else ""
        if split:
            return split
        if is_unlabelled_name(part):
            return "test"
    return ""


def counted(names: Sequence[str], counts: Iterable[int]) -> str:
    """The first ten names with their counts, for messages."""
    return few([f"{name!r}: {count:,}" for name, count in zip(names, counts, strict=True)])
