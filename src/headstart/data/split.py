"""Train, validation and test: stratified, seeded, and never with copies of one picture on two sides.

A split is a small CSV with a hash, so that two people can speak of the same one. A split that came with the data is
used as it is; what is missing is carved from its training part.

Each class is dealt out by itself: its groups are put into an order that depends on the seed and on a path of theirs
only (neither on the order of rows nor on other groups), and taken one by one as long as they fit. So adding a picture
moves few others. Costs about 2 s per 100,000 pictures. Not for time series or for data in which whole classes
must be held out: give a split for those (a `split` column), or groups (a `group` column).
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.dataset import SPLITS, Dataset, hash_rows, split_name
from headstart.data.duplicates import joined
from headstart.data.fixes import Fixes, given_and_left_out
from headstart.data.near import near_pairs
from headstart.data.table import csv_lines
from headstart.errors import BadSplit, near_names
from headstart.files import write_csv
from headstart.progress import log
from headstart.vision.memory import Source
from headstart.vision.screen import Facts

SPLIT_HEADER = ("path", "label", "split", "group", "sha256")
"""Columns of split.csv. Only path and split must be there when it is read."""


def make_split(dataset: Dataset, *, seed: int = 0, val: float = 0.2, test: float = 0.2) -> Dataset:
    """The data set with every labelled picture on one side. `val` and `test` are shares of what they are taken from.

    - No split given: all labelled pictures are dealt out.
    - train, val and test given: nothing changes. One of val and test missing: it is carved from train (a share of 0
      leaves it out). No train given: labelled pictures that are not decided are the training part.
    - Groups stay together. In each class, a side has at most its share and lacks less than the class's largest group
      of it; with three groups or more, each side gets one at least; with fewer, train comes first.
    - A group that a given val or test holds already is not carved from unless a class has nothing else.
    - A group with several labels counts for its most frequent one. Unlabelled pictures get ''.

    Raises `BadSplit` for shares outside 0..1, and for a class with test or validation pictures but none to train on.
    """
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise BadSplit(
            f"val={val:g} and test={test:g}: expected shares from 0 to 1 that leave something for training.",
            hint="The usual val=0.2 and test=0.2 leave 60 % for training.",
        )
    labelled = dataset.labels >= 0
    split = np.where(labelled, dataset.split, "").astype("<U5")
    wanted = {side: share for side, share in (("test", test), ("val", val)) if share > 0}
    shares = {side: share for side, share in wanted.items() if not (split == side).any()}
    if not (split == "train").any():
        split[labelled & (split == "")] = "train"
    elif (labelled & (split == "")).any():
        log.info(
            "%d labelled pictures have no side in the given split; they are not used.", (labelled & (split == "")).sum()
        )
    given = set(dataset.split[labelled].tolist()) - {""}
    if given and shares:
        carved = " and ".join(f"{side} ({share:.0%})" for side, share in shares.items())
        log.info("The split of the data has no %s; carved from train with seed %d.", carved, seed)
    _deal(dataset, split, shares, seed)
    _require_training(dataset, split)
    return replace(dataset, split=split)


def split_hash(dataset: Dataset) -> str:
    """SHA-256 (hexadecimal) over the sorted (path, split): equal hashes mean the same split."""
    return hash_rows(sorted((path, str(side)) for path, side in zip(dataset.paths, dataset.split, strict=True)))


def write_split(path: Path, dataset: Dataset, sha256s: Sequence[str]) -> None:
    """Write split.csv (`SPLIT_HEADER`), sorted by path; groups are numbered in that order. Raises `WriteError`."""
    order = sorted(range(len(dataset)), key=lambda i: dataset.paths[i])
    numbers: dict[int, int] = {}
    groups = [numbers.setdefault(int(dataset.groups[i]), len(numbers)) for i in order]
    rows = [
        (dataset.paths[i], dataset.label_name(i), str(dataset.split[i]), group, sha256s[i])
        for i, group in zip(order, groups, strict=True)
    ]
    write_csv(path, SPLIT_HEADER, rows)


def read_split(path: Path, dataset: Dataset, fixes: Fixes | None = None) -> Dataset:
    """The data set with the split (and the groups, where there is such a column) of a split.csv.

    Pictures that it does not list get '' and a group of their own. With `fixes`, that are applied to the data set
    already, it may have been made before them: what they leave out has no side, and what they relabel keeps its side.
    Raises `BadSplit` if there is no such table, or if it does not fit: unknown split names, paths that are not in the
    data, labels that disagree, one path on two sides.
    """
    rows = _read_rows(path) if not fixes else _corrected(path, _read_rows(path), dataset, fixes)
    index = {name: i for i, name in enumerate(dataset.paths)}
    strangers = [row["path"] for row in rows if row["path"] not in index]
    hint = f"Expected paths relative to {dataset.root}. Was the split made for other data?"
    _refuse(path, "a path that is not in the data", strangers, hint)
    unknown = [f"{row['path']}: {row['split']!r}" for row in rows if not _known(row["split"])]
    _refuse(path, "an unknown split name", unknown, "Expected 'train', 'val', 'test', or nothing.")
    here = {row["path"]: dataset.label_name(index[row["path"]]) for row in rows}
    others = [row for row in rows if row.get("label", here[row["path"]]) != here[row["path"]]]
    differing = [f"{row['path']}: {row['label']!r}, here {here[row['path']]!r}" for row in others]
    hint = "Make a new split with `headstart split`, or give the data that this one was made for."
    _refuse(path, "another label than the data has", differing, hint)
    split = np.full(len(dataset), "", dtype="<U5")
    twice = []
    for row in rows:
        i, side = index[row["path"]], split_name(row["split"])
        if split[i] and split[i] != side:
            twice.append(row["path"])
        split[i] = side
    _refuse(path, "a second side for a picture", twice, "Keep one row for each picture.")
    return replace(dataset, split=split, groups=_groups_of(dataset, rows, index))


# Dealing out


@dataclass(frozen=True)
class _Group:
    """The pictures of one group that are to be dealt out."""

    key: bytes
    """Its place in the order: a hash of the seed and its first path."""
    members: list[int]
    label: int
    elsewhere: frozenset[str]
    """Given sides that hold pictures of this group already."""


def _deal(dataset: Dataset, split: np.ndarray, shares: dict[str, float], seed: int) -> None:
    """Move groups from 'train' to the sides that are to be carved, in place."""
    if not shares:
        return
    groups = _pool(dataset, split, seed)
    by_label: dict[int, list[_Group]] = {}
    for group in groups:
        by_label.setdefault(group.label, []).append(group)
    for own in by_label.values():
        for side, chosen in _deal_class(own, shares).items():
            for group in chosen:
                split[group.members] = side
    _keep_classes(dataset, split, groups)


def _pool(dataset: Dataset, split: np.ndarray, seed: int) -> list[_Group]:
    """The groups with pictures in train, in the order of their keys."""
    labels, sides, numbers = dataset.labels.tolist(), split.tolist(), dataset.groups.tolist()
    by_number: dict[int, list[int]] = {}
    for i in sorted(range(len(dataset)), key=dataset.paths.__getitem__):
        by_number.setdefault(numbers[i], []).append(i)
    groups = []
    for listed in by_number.values():
        members = [i for i in listed if sides[i] == "train"]
        if members:
            text = f"{seed}\0{dataset.paths[members[0]]}".encode("utf-8", "surrogatepass")
            counts = Counter(labels[i] for i in members)
            label = min(counts, key=lambda k: (-counts[k], k)) if len(counts) > 1 else labels[members[0]]
            others = frozenset(sides[i] for i in listed) - {"train", ""}
            groups.append(_Group(hashlib.sha256(text).digest(), members, label, others))
    return sorted(groups, key=lambda group: group.key)


def _deal_class(groups: list[_Group], shares: dict[str, float]) -> dict[str, list[_Group]]:
    """Groups of one class for each side to be carved; the rest, one at least, stays in train."""
    total = sum(len(group.members) for group in groups)
    left = list(groups)
    dealt: dict[str, list[_Group]] = {}
    for n, (side, share) in enumerate(shares.items()):
        everyone = len(groups) >= 3  # enough for each side and train: then each gets one
        reserve = 1 + (len(shares) - n - 1 if everyone else 0)
        clean = [group for group in left if not group.elsewhere]
        target = int(share * total + 0.5)
        chosen = _fill(clean, target, min(len(clean), len(left) - reserve))
        if not chosen and everyone and len(left) > reserve:
            chosen = [min(clean or left, key=lambda group: len(group.members))]
        dealt[side] = chosen
        taken = {group.key for group in chosen}
        left = [group for group in left if group.key not in taken]
    return dealt


def _fill(groups: list[_Group], target: int, most: int) -> list[_Group]:
    """Groups in order, each that still fits into `target` pictures, `most` groups at most."""
    chosen: list[_Group] = []
    size = 0
    for group in groups:
        if len(chosen) < most and size + len(group.members) <= target:
            chosen.append(group)
            size += len(group.members)
    return chosen


def _keep_classes(dataset: Dataset, split: np.ndarray, groups: list[_Group]) -> None:
    """Bring back groups of several labels until each class that was there to train on is again in train."""
    for label in range(len(dataset.classes)):
        if not ((split == "train") & (dataset.labels == label)).any():
            holding = [group for group in groups if (dataset.labels[group.members] == label).any()]
            if holding:
                split[holding[0].members] = "train"


def _require_training(dataset: Dataset, split: np.ndarray) -> None:
    for label, name in enumerate(dataset.classes):
        sides = split[dataset.labels == label]
        held = int(np.isin(sides, ("val", "test")).sum())
        if held and not (sides == "train").any():
            trained = [c for k, c in enumerate(dataset.classes) if (split[dataset.labels == k] == "train").any()]
            near = near_names(name, trained)
            raise BadSplit(
                f"{dataset.root}: class {name!r} has {held:,} pictures for validation or test, but none to train on.",
                hint=near or "Move some of them into train, or remove the class.",
            )


# Reading


def _read_rows(path: Path) -> list[dict[str, str]]:
    hint = "`headstart split DATA --out split.csv` writes one."
    try:
        lines = [line for line in csv_lines(path) if any(line)]
    except FileNotFoundError:
        raise BadSplit(f"{path}: there is no such file.", hint=hint) from None
    except (OSError, csv.Error) as error:
        raise BadSplit(f"{path}: cannot be read as a split: {error}.", hint=hint) from None
    header = [name.strip().casefold() for name in lines[0]] if len(lines) > 1 else []
    if not {"path", "split"} <= set(header):
        found = ", ".join(lines[0]) if header else "no rows"
        raise BadSplit(
            f"{path}: is not a split: expected the columns path and split, found {found}.",
            hint=hint,
        )
    uneven = [n for n, line in enumerate(lines[1:], 2) if len(line) != len(header)]
    if uneven:
        raise BadSplit(
            f"{path}: row {uneven[0]} has {len(lines[uneven[0] - 1])} cells where the header has {len(header)}.",
            hint="A name with a comma in it must stand in double quotes.",
        )
    return [dict(zip(header, line, strict=True)) for line in lines[1:]]


def _corrected(path: Path, rows: list[dict[str, str]], dataset: Dataset, fixes: Fixes) -> list[dict[str, str]]:
    """The rows of a split that was made before the corrections, with their labels and without what they leave out."""
    left_out = {fix.path for fix in fixes.rows if fix.drop}
    given = {fix.path: fix for fix in fixes.rows if fix.new_label}
    kept = [row for row in rows if row["path"] not in left_out]
    changed = 0
    for n, row in enumerate(kept):
        fix, label = given.get(row["path"]), row.get("label")
        if (
            fix is not None
            and label != fix.new_label
            and label in ([fix.label] if fix.label else ["", *dataset.classes])
        ):
            kept[n] = {**row, "label": fix.new_label}
            changed += 1
    if changed or len(kept) < len(rows):
        words = given_and_left_out(changed, len(rows) - len(kept))
        log.info("%s was made before the corrections; it stays as it is but for them: %s.", path, words)
    return kept


def _known(text: str) -> bool:
    return not text.strip() or split_name(text) in SPLITS


def _refuse(path: Path, problem: str, bad: Sequence[str], hint: str) -> None:
    if bad:
        more = f" and {len(bad) - 3:,} more" if len(bad) > 3 else ""
        raise BadSplit(
            f"{path}: {len(bad):,} {'row' if len(bad) == 1 else 'rows'} with {problem}: {'; '.join(bad[:3])}{more}.",
            hint=hint,
        )


def _groups_of(dataset: Dataset, rows: list[dict[str, str]], index: dict[str, int]) -> np.ndarray:
    """Groups by the table's names; pictures without one are alone. Without such a column, those of the data."""
    if not rows or "group" not in rows[0]:
        return dataset.groups
    groups = np.arange(len(dataset), dtype=np.int64)
    first: dict[str, int] = {}
    for row in rows:
        if row["group"]:
            groups[index[row["path"]]] = first.setdefault(row["group"], index[row["path"]])
    return groups


def split_apart(given: Dataset, sources: Sequence[Source], facts: Sequence[Facts], **dealt: Any) -> Dataset:
    """`make_split` with its options `dealt`, and re-encoded, cut and mirrored copies on one side too (`mend_split`).

    Pixels alone show them, of pictures `sources` of which `facts` are known: about 0.7 ms a picture, and fewer crops
    are found than where features propose as well.
    """
    groups = joined(given.groups, near_pairs(None, sources, facts))
    return mend_split(make_split(given, **dealt), given, groups, **dealt)


def mend_split(dataset: Dataset, given: Dataset, groups: np.ndarray, *, known: bool = False, **dealt: Any) -> Dataset:
    """The split data set with groups int64 (N,) that were found after splitting, each on one side where that is ours to say.

    `given` is the data set before `make_split`, `dealt` its options. Only pictures whose side was carved are moved (test
    before val before train): a given side stays, and a leak that the data brought is for the checks to report. Where so
    much is alike (frames of a film) that a tenth of the training part would leave it, or all of a class, the split is
    dealt anew. A group with half of all pictures is no group of copies, and groups that leave a side without pictures
    (classes that are a group each) are none either: then the features tell too little, and nothing changes.

    With `known` the labels of train and val have been used already, and none of these pictures may become test: groups
    leave the test side instead (train before val before test), which may shrink.
    """
    mended = dataset
    if np.unique(groups, return_counts=True)[1].max() <= max(len(dataset) // 2, 1):
        mended = _mended(dataset, given, groups, known, **dealt)
    if mended is dataset or set(mended.split.tolist()) != set(dataset.split.tolist()):
        log.warning("Most pictures look alike: look-alikes are not kept on one side of the split.")
        return dataset
    return mended


def _mended(dataset: Dataset, given: Dataset, groups: np.ndarray, known: bool, **dealt: Any) -> Dataset:
    order = ("train", "val", "test") if known else ("test", "val", "train")
    carved = set(dataset.split.tolist()) - set(given.split.tolist())
    movable = np.isin(given.split, ("", "train")) & (dataset.split != "") & bool(carved)
    split = dataset.split.copy()
    by_group: dict[int, list[int]] = {}
    for i in np.flatnonzero(movable):
        by_group.setdefault(int(groups[i]), []).append(int(i))
    for members in by_group.values():
        sides = {str(split[i]) for i in members}
        if len(sides) > 1:
            split[members] = next(side for side in order if side in sides)
    before, after = dataset.split == "train", split == "train"
    if not known and (after.sum() < 0.9 * before.sum() or set(dataset.labels[before]) != set(dataset.labels[after])):
        log.info("Many pictures look alike: the split is dealt anew, to keep them on one side.")
        return make_split(replace(given, groups=groups), **dealt)
    return replace(dataset, split=split, groups=groups)
