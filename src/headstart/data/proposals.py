"""Groups that nobody named but that names suggest: `person12_bacteria_48.jpeg`, a column `patient_id`.

Images of one patient in both the training set and the test set make the test too easy, which is usually noticed too
late. So a note proposes the option that would keep them together; nothing is done without it.

A name must say what it counts (patient, camera, video ...), or be an id with a running number that restarts for each id
(`c12f4_003.png`). The groups must join images, and none may hold more than a fifth of them. Plain running numbers
(`cat.12.jpg`, `IMG_0001.jpg`) suggest nothing. Costs about 1 s per 100,000 images. Not a test of whether images are
alike: see `data.near_duplicates` for that.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from headstart.data.dataset import Dataset, split_name
from headstart.data.tables import Columns, unused_columns
from headstart.io.text_table import few

SURE = ("patient", "participant", "person", "subject", "specimen", "donor", "lesion", "individual")
"""Words that name a group wherever a number follows them."""
LIKELY = (
    *("camera", "cam", "session", "burst", "video", "clip", "sequence"),
    *("case", "study", "device", "serial", "slide", "scan"),
)
"""Words that name a group unless they follow another number, whose parts they may count."""
NUMBERS = ("id", "ids", "no", "nr", "num", "number", "name", "code", "key", "uid", "uuid", "index")
"""Words that may follow them in the name of a column: patient_id, device_serial_number."""

LARGEST = 0.2
"""Maximum fraction of the images in one group."""
SHARED = 0.2
"""Minimum fraction of the images in groups of two or more."""


def about_columns(
    table: str, header: Sequence[str], cells: Sequence[list[str]], columns: Columns, labels: Sequence[str]
) -> tuple[str, str]:
    """Sentences for `Dataset.unused` and `Dataset.proposal` about the columns of a table (N rows), '' for none."""
    unused = unused_columns(header, columns)
    if not unused:
        return "", ""
    note = unused_note(table, unused)
    by_name = dict(zip(header, cells, strict=True))
    likely = (name for name in unused if _named_like_groups(name) and _suitable(by_name[name], labels))
    name = next(likely, "") if not columns.group else ""
    return note, _column_note(name, by_name[name]) if name else ""


def unused_note(table: str, unused: Sequence[str]) -> str:
    """A sentence for `Dataset.unused`, '' if all columns are used."""
    listed = few([repr(name) for name in unused], 6)
    columns, verb = ("columns", "are") if len(unused) > 1 else ("column", "is")
    return f"The {columns} {listed} of {table} {verb} not used." if unused else ""


def proposal(dataset: Dataset) -> str:
    """A sentence about groups that a column or the paths suggest, '' if nothing does or the data has groups already."""
    if dataset.proposal or len(set(dataset.groups.tolist())) < len(dataset):
        return dataset.proposal
    pattern = likely_pattern([_inner(dataset, i) for i in range(len(dataset))])
    groups = _groups(dataset.paths, pattern) if pattern else []
    labels = [dataset.label_name(i) for i in range(len(dataset))]
    return _name_note(dataset, pattern, groups) if groups and _suitable(groups, labels) else ""


def likely_pattern(paths: Sequence[str]) -> str:
    """A pattern for groups that N paths suggest, '' for none. Omit folders of classes and splits from the paths.

    >>> likely_pattern([f"person{n // 4}_virus_{n}.jpeg" for n in range(40)])
    'person(\\\\d+)'
    >>> likely_pattern([f"c{n // 4}f_{n % 4:03}.png" for n in range(120)])
    '([^/]+)_\\\\d+\\\\.\\\\w+$'
    >>> likely_pattern([f"cat.{n}.jpg" for n in range(40)])
    ''
    """
    distinct = sorted(set(paths))  # a path in two sets: both have running numbers from 1
    found = (pattern for pattern in _by_words(distinct) if _joins(_groups(distinct, pattern)))
    return next(found, "") or _by_counters(distinct)


# Columns


def _named_like_groups(name: str) -> bool:
    """Whether the name of a column ends in a word for groups, ignoring words for numbers.

    >>> [_named_like_groups(name) for name in ("patient_id", "DeviceSerialNumber", "Patient Age", "scan date", "id")]
    [True, True, False, False, False]
    """
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold())
    while words and words[-1] in NUMBERS:
        words.pop()
    return bool(words) and words[-1].removesuffix("s") in {word.removesuffix("s") for word in (*SURE, *LIKELY)}


def _column_note(name: str, cells: Sequence[str]) -> str:
    values = {cell.strip() for cell in cells} - {""}
    return (
        f"The column {name!r} looks like groups ({len(values):,} values in {len(cells):,} rows): "
        f"keep each in one set with --group-column {shlex.quote(name)}."
    )


# File names


def _inner(dataset: Dataset, i: int) -> str:
    """The path of an image without folders named like a split or its class."""
    *folders, name = dataset.paths[i].split("/")
    label = dataset.label_name(i)
    return "/".join([*(folder for folder in folders if folder != label and not split_name(folder)), name])


def _by_words(paths: Sequence[str]) -> Iterator[str]:
    """Patterns of words in the paths that precede a number, the surest word first."""
    numbered = re.compile(rf"(?:{'|'.join((*SURE, *LIKELY))})[ _-]*[0-9]", re.IGNORECASE)
    paths = [path for path in paths if numbered.search(path)]
    for words, before in ((SURE, ""), (LIKELY, "[^0-9]*?")):
        for word in words:
            spelled = re.compile(rf"{'^' if before else ''}{before}(?<![a-z])({word})([ _-]*)[0-9]", re.IGNORECASE)
            found = Counter((match[1], match[2]) for path in paths if (match := spelled.search(path)))
            if found:
                yield _pattern(paths, found, spelled)


def _pattern(paths: Sequence[str], found: Counter[tuple[str, str]], spelled: re.Pattern[str]) -> str:
    """The pattern for these spellings of a word and the gap after it; with a boundary only where necessary."""
    words, gaps = sorted({word for word, _ in found}), sorted({gap for _, gap in found})
    gap = gaps[0] if len(gaps) == 1 else "[ _-]*"
    simple = f"{'(?i)' if len(words) > 1 else ''}{words[0]}{gap}(\\d+)"
    inside = any(re.search(simple, path) and not spelled.search(path) for path in paths)
    return simple if not inside else simple.replace(words[0], f"(?<![A-Za-z]){words[0]}", 1)


def _by_counters(paths: Sequence[str]) -> str:
    """A pattern for ids before a running number that restarts for each id, '' unless the evidence is clear."""
    numbered = re.compile(r"(?:.*/)?([^/]*[0-9][^/]*)([_-])([0-9]{1,4})\.\w+")
    found = [match.groups() for path in paths if (match := numbered.fullmatch(path))]
    marks = {mark for _, mark, _ in found}
    if len(found) < 0.95 * len(paths) or len(marks) != 1:
        return ""
    runs: defaultdict[str, list[int]] = defaultdict(list)
    for name, _, number in found:
        runs[name].append(int(number))
    whole = sum(len(run) for run in runs.values() if _counts_up(run))
    dates = any(re.search(r"(?:19|20)\d\d[_-]?\d\d$", name) for name in runs)
    convincing = len(runs) >= 20 and whole >= 0.8 * len(paths) and max(map(len, runs.values())) <= 0.05 * len(paths)
    return rf"([^/]+){marks.pop()}\d+\.\w+$" if convincing and not dates else ""


def _counts_up(run: Sequence[int]) -> bool:
    """Whether there are at least two numbers, from 0 or 1 without a gap."""
    return len(run) > 1 and sorted(run) in (list(range(len(run))), list(range(1, len(run) + 1)))


def _groups(paths: Sequence[str], pattern: str) -> list[str]:
    """The group of each path, '' for none."""
    expression = re.compile(pattern)
    return [match[1] if (match := expression.search(path)) else "" for path in paths]


def _joins(groups: Sequence[str]) -> bool:
    """Whether names of groups (of N images, '' for none) join images, and none joins too many."""
    counts = Counter(group.strip() for group in groups)
    counts.pop("", None)
    shared = sum(n for n in counts.values() if n > 1)
    named = counts.total()
    enough = named >= 0.2 * len(groups) and shared >= SHARED * named
    return bool(counts) and enough and max(counts.values()) <= LARGEST * named


def _suitable(groups: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether these groups (of N images, '' for none) join images, and no class is a single one of them."""
    by_label: defaultdict[str, list[str]] = defaultdict(list)
    for group, label in zip(groups, labels, strict=True):
        by_label[label].append(group)
    lone = (label and own[0] and len(own) > 1 and len(set(own)) == 1 for label, own in by_label.items())
    return _joins(groups) and not any(lone)


def _name_note(dataset: Dataset, pattern: str, groups: Sequence[str]) -> str:
    named = [path for path, group in zip(dataset.paths, groups, strict=True) if group]
    example = named[0].rpartition("/")[2]
    where, example = ("File names", example) if re.search(pattern, example) else ("Paths", named[0])
    word = re.search(r"[A-Za-z]{3,}", pattern.removeprefix("(?<![A-Za-z])"))
    what = f"look like they name a {word[0].casefold()}" if word else "look like an id and a number"
    return (
        f"{where} {what} ({example!r}): {len(set(groups) - {''}):,} groups in {len(named):,} images. "
        f"{_advice(dataset)} --group-from {shlex.quote(pattern)}."
    )


def _advice(dataset: Dataset) -> str:
    """What the option would do: a split that came with the data stays as it is."""
    if {"train", "test"} <= set(dataset.split.tolist()):
        return "To learn which of them are in two sets, use"
    return "Keep each in one set with"
