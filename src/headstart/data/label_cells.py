"""What the cells of a label column mean: a class, no label, a number that became a float, or several labels.

    "cat ", "007"                cat, 007           unchanged, without blanks around them
    "", "nan", "NULL", "#N/A"    no label           what programs write for a missing cell (noted)
    "None", "NA", "?"            classes            unless the column says otherwise: a note names them
    "1.0", "2.0"                 1, 2               if all labels are whole numbers (noted)
    "['cat']"                    cat                a list with one label (noted)
    "cat,indoor", "cat|dog"      refused            if their parts are labels too: several labels per image

A name with a comma in it ("crane, bird") stays one class, with a note: parts make a cell several labels only if they
occur alone, or in several combinations. Only distinct labels are looked at, so a million rows cost about 0.3 s. Not for
columns of zeros and ones: see `data.one_hot`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from headstart.data.path_cells import DECIMALS
from headstart.errors import BadLabels
from headstart.io.progress import log
from headstart.io.text_table import few, number_of

_MISSING = frozenset({"nan", "-nan", "<na>", "#n/a", "#na", "n/a", "null", "nat"})
_DOUBTFUL = frozenset({"none", "na", "?", "-", "unknown", "unlabeled", "unlabelled", "missing"})
_WHOLE = re.compile(rf"([+-]?\d+)(?:{DECIMALS})?")
_THOUSANDS = re.compile(r"\d{1,3}(?:,000)+")
_LIST = re.compile(r"\[.*\]|\{.*\}", re.DOTALL)
_ITEM = re.compile(r"'([^']*)'|\"([^\"]*)\"|([^\s,'\"]+(?: [^\s,'\"]+)*)")
_MARKS = (",", ";", "|")
_WEAK_MARKS = (" ", "/", "+", "&")
_FEW = 0.05
"""Fraction of the rows up to which those with several labels are left out; more are an error."""
SEVERAL = "\0several labels"
"""What `labels_of` gives for a row to leave out."""


def no_label(cell: str) -> bool:
    """Whether this is what programs write for a missing cell, or empty.

    >>> no_label(" NaN"), no_label("#N/A"), no_label("None")
    (True, True, False)
    """
    text = cell.strip().casefold()
    return not text or text in _MISSING


def labels_of(table: Path, column: str, cells: Sequence[str], paths: Sequence[str]) -> list[str]:
    """The class of each of N rows, '' for no label, `SEVERAL` for several. Logs what was not taken literally.

    Raises `BadLabels` if more than 5 % of the labels are several labels each.
    """
    counts = Counter(cell.strip() for cell in cells)
    names = {text: "" if no_label(text) else text for text in counts}
    names |= _from_lists(table, column, names)
    names |= _from_floats(table, column, names)
    names |= _from_several(table, column, names, counts, cells, paths)
    _note_missing(table, column, names, counts)
    return [names[cell.strip()] for cell in cells]


def group_names(table: Path, column: str, cells: Sequence[str]) -> list[str]:
    """The group of each of N rows, '' for none; whole numbers without ``.0``, which is logged, as for labels."""
    names = {text: "" if no_label(text) else text.strip() for text in dict.fromkeys(cells)}
    names |= _from_floats(table, column, names, "groups")
    return [names[cell] for cell in cells]


def _note_missing(table: Path, column: str, names: Mapping[str, str], counts: Counter[str]) -> None:
    written = [text for text, name in names.items() if text and not name]
    if written:
        n = sum(counts[text] for text in written)
        log.info(
            "%s: %s in the column %r mean%s no label (%s).",
            *(table, few([repr(text) for text in written], 3), column, "s" * (len(written) == 1), number_of(n, "row")),
        )
    doubtful = [text for text, name in names.items() if name and name.casefold() in _DOUBTFUL]
    if doubtful:
        listed = few([f"{text!r} ({number_of(counts[text], 'row')})" for text in doubtful], 3)
        log.info(
            "%s: %s in the column %r %s taken as a class. If it means no label, empty these cells.",
            *(table, listed, column, "is" if len(doubtful) == 1 else "are each"),
        )


# Lists and floats


def _from_lists(table: Path, column: str, names: Mapping[str, str]) -> dict[str, str]:
    """Labels written as lists, if all are: their only item; several items are joined by a bar."""
    given = {text: name for text, name in names.items() if name}
    if not given or not all(_LIST.fullmatch(name) for name in given.values()):
        return {}
    items = {
        text: [next(filter(None, found), "") for found in _ITEM.findall(name[1:-1])] for text, name in given.items()
    }
    first = next(iter(given))
    log.info(
        "%s: the labels in the column %r are lists; %r is read as %r.", table, column, first, "|".join(items[first])
    )
    return {text: "|".join(parts) for text, parts in items.items()}


def _from_floats(table: Path, column: str, names: Mapping[str, str], what: str = "labels") -> dict[str, str]:
    """Labels (or groups) without ``.0``, if all are whole numbers and some have it, as after an empty cell in pandas.

    ``1,000`` and ``1.000`` may mean a thousand: a column with such a cell stays as it is.
    """
    given = {text: match for text, name in names.items() if name and (match := _WHOLE.fullmatch(name))}
    longer = [text for text, match in given.items() if match[1] != names[text]]
    if not longer or len(given) < sum(map(bool, names.values())):
        return {}
    log.info(
        "%s: the %s in the column %r are whole numbers; %r is read as %r.",
        *(table, what, column, names[longer[0]], given[longer[0]][1]),
    )
    return {text: match[1] for text, match in given.items()}


# Several labels in a cell


def _from_several(
    table: Path,
    column: str,
    names: Mapping[str, str],
    counts: Counter[str],
    cells: Sequence[str],
    paths: Sequence[str],
) -> dict[str, str]:
    """`SEVERAL` for the cells with several labels. Raises `BadLabels` if there are many."""
    labels = {name for name in names.values() if name and not _THOUSANDS.fullmatch(name)}
    found = [combinations(labels, mark) for mark in _MARKS]
    several = set().union(*(sure for sure, _ in found))
    texts = {text for text, name in names.items() if name in several}
    n, labelled = sum(counts[text] for text in texts), sum(counts[text] for text, name in names.items() if name)
    if n > _FEW * labelled:
        i = next(i for i, cell in enumerate(cells) if cell.strip() in texts)
        raise BadLabels(
            f"{table}: {n:,} of {labelled:,} cells in the column {column!r} hold several labels for one image, such as "
            f"{cells[i].strip()!r} for {paths[i]!r}. headstart gives each image one class.",
            hint="Keep one label in each row, or leave these rows out. If each combination is a class of its own, join "
            "its parts with another character, such as cat-indoor.",
        )
    if labelled >= 2 * len(labels):  # else these are captions
        _note_names(table, column, sorted(set().union(*(unsure for _, unsure in found)) - several))
    if not several:
        _note_weak(table, column, labels)
    return dict.fromkeys(texts, SEVERAL)


def combinations(labels: set[str], mark: str) -> tuple[set[str], set[str]]:
    """The labels that are several labels joined by `mark`, and those that have the mark but are taken as names.

    >>> sorted(combinations({"cat", "dog", "cat,dog"}, ",")[0])
    ['cat,dog']
    >>> combinations({"crane, bird", "crane, machine", "eagle"}, ",") == (set(), {"crane, bird", "crane, machine"})
    True
    >>> combinations({"tench, Tinca tinca", "eagle"}, ",")
    (set(), {'tench, Tinca tinca'})
    """
    parts = {name: [part.strip() for part in name.split(mark)] for name in labels if mark in name}
    parts = {name: own for name, own in parts.items() if all(own)}
    alone = labels - set(parts)
    uses = Counter(part for own in parts.values() for part in set(own))
    shared = {part for part, n in uses.items() if n > 1 or part in alone}
    whole = {name for name, own in parts.items() if shared.issuperset(own)}
    certain = any(part in alone for name in whole for part in parts[name]) or (
        len(whole) > 1 and len(whole) == len(parts)
    )
    several = {name for name, own in parts.items() if certain and shared.intersection(own)}
    return several, set(parts) - several


def _note_names(table: Path, column: str, names: Sequence[str]) -> None:
    if names:
        log.info(
            "%s: %s in the column %r %s taken as the whole name of a class. If these are several labels per image: "
            "headstart gives each image one class.",
            *(table, few([repr(name) for name in names], 3), column, "is" if len(names) == 1 else "are each"),
        )


def _note_weak(table: Path, column: str, labels: set[str]) -> None:
    for mark in _WEAK_MARKS:
        parts = {name: name.split(mark) for name in labels if mark in name.strip(mark)}
        if len(parts) > 1 and all(labels.issuperset(own) for own in parts.values()):
            log.info(
                "%s: labels such as %r in the column %r may be several labels of one image; each is taken as a class of "
                "its own.",
                *(table, min(parts), column),
            )
