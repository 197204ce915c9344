"""Training, validation and test set: stratified, seeded, and without copies of one image in two of them.

A split is a small CSV with a hash, so that two people can refer to the same one. A split that came with the data is
used as it is; missing sets are split off from its training set.

Guarantees, in order of priority: named groups stay whole; each class has its share of each set; near-copies stay whole
(`make_split`). `data.deal` assigns the groups in an order that depends on the seed and on a path of each group (not on
the order of rows, nor on other groups), so that one more image moves few others. Costs about 2 s per 100,000 images.
Not for time series, nor for holding out whole classes: give a split for those (a `split` column).
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headstart.data.dataset import SPLITS, Dataset, hash_rows
from headstart.data.deal import Deal, Group, deal_out, tolerated
from headstart.data.duplicates import group_pairs, joined, merge_groups
from headstart.data.earlier_split import EarlierSplit
from headstart.errors import BadSplit, near_names
from headstart.io.files import write_csv
from headstart.io.progress import log
from headstart.io.text_table import few, number_of


class SplitRow(NamedTuple):
    """A row of split.csv. `label` is '' where it is unknown, `split` one of train, val, test and ''."""

    path: str
    label: str
    split: str
    group: int
    sha256: str


SPLIT_HEADER = SplitRow._fields
"""Columns of split.csv. Only path and split are required for reading."""
SETS = {"train": "training set", "val": "validation set", "test": "test set"}
"""The names of the sets in sentences."""
MIN_PER_SET = 5
"""With fewer images of a class, a set says almost nothing about it: 5 of 5 correct is the minimum that shows, at 95 %,
that more than half of a class is recognised (0.05 ** (1 / 5) = 0.55; for 4 of 4 it is 0.47). Calibration needs no more
per class, since temperature and threshold are fitted to all classes together."""


def make_split(
    dataset: Dataset, *, seed: int = 0, val_size: float = 0.2, test_size: float = 0.2, near: np.ndarray | None = None
) -> Dataset:
    """Assign each labelled image to a set. `val_size` and `test_size` are fractions of the images that are split;
    `near` int64 (N,) has one number for images that are near-copies of each other.

    - No split given: all labelled images are split.
    - train, val and test given: nothing changes. One of val and test missing: it is split off from train (a share of 0
      omits it). No train given: labelled images that are in no set are the training set.
    - The groups of the dataset stay together, whatever the shares.
    - Each class has its share of each new set: to within one image if the groups allow it, else as near as they do.
      With three groups or more, each set has at least one of them; with fewer, train comes first. A deviation of more
      than one image and 2 % of the class causes a warning that says why.
    - Near-copies stay together as far as the shares allow. Groups of them that prevent the shares are split, the
      largest first, with a warning.
    - A group with images in a given val or test set is used only if a class has nothing else.
    - A warning names classes with too few images in the validation or the test set (`sets_too_small`).

    Unlabelled images get ''. The groups of the result are those of the dataset, joined with the groups of near-copies;
    of a group that was split, the images in the validation set are one group, and those in the test set another.

    Raises `BadSplit` for shares outside 0..1, and for a class with validation or test images but none to train on.
    """
    _check_shares(val_size, test_size)
    wanted = {name: share for name, share in (("test", test_size), ("val", val_size)) if share > 0}
    split = _given_split(dataset)
    shares = {name: share for name, share in wanted.items() if not (split == name).any()}
    if shares and (dataset.split[dataset.labels >= 0] != "").any():
        missing = " and ".join(f"{name} ({share:.0%})" for name, share in shares.items())
        log.info("The split of the data has no %s; split off from train with seed %d.", missing, seed)
    made = _with_new_sets(dataset, split, shares, near, seed)
    _require_training(made, made.split)
    for sentence in sets_too_small(made):
        log.warning("%s", sentence)
    return made


def undivided_copies(dataset: Dataset, near: np.ndarray) -> np.ndarray:
    """int64 (N,): the groups of the dataset, joined with those groups of near-copies that its sets do not divide. As `near`
    of `make_split`, they repeat the groups of the split that divided the others."""
    undecided = np.full_like(dataset.split, "")
    return _groups_kept(dataset.groups, joined(dataset.groups, group_pairs(near)), undecided, dataset.split)


def _check_shares(val_size: float, test_size: float) -> None:
    """Raise `BadSplit` for shares outside 0..1."""
    if not (0 <= val_size < 1 and 0 <= test_size < 1 and val_size + test_size < 1):
        raise BadSplit(
            f"val_size={val_size:g} and test_size={test_size:g}: expected shares from 0 to 1 that leave something for "
            "training.",
            hint="The usual val_size=0.2 and test_size=0.2 leave 60 % for training.",
        )


def require_sets(
    dataset: Dataset, names: Sequence[str], *, hint: str = "Add images, or give a split of your own with --split."
) -> None:
    """Raise `BadSplit` with the hint unless there are images in each of these sets ('train', 'val', 'test')."""
    for name in names:
        if not (dataset.split == name).any():
            count = {2: "two", 3: "three"}[len(names)]
            groups = len(set(dataset.groups.tolist()))
            those = f" in {number_of(groups, 'group')}" if groups < len(dataset) else ""
            raise BadSplit(
                f"{dataset.root}: no images are left for the {SETS[name]}: {number_of(len(dataset), 'image')}{those} are too "
                f"few for {count} sets.",
                hint=hint.replace("Add images", "Add images of other groups") if those else hint,
            )


def _given_split(dataset: Dataset) -> np.ndarray:
    """'<U5' (N,): the split in the data; if it has no training set, images in no set become it."""
    labelled = dataset.labels >= 0
    split = np.where(labelled, dataset.split, "").astype("<U5")
    undecided = labelled & (split == "")
    if not (split == "train").any():
        split[undecided] = "train"
    elif undecided.any():
        n = int(undecided.sum())
        log.info(
            "%s no set in the given split; %s not used.",
            *((f"{n:,} labelled images have", "they are") if n > 1 else ("1 labelled image has", "it is")),
        )
    return split


def _with_new_sets(
    dataset: Dataset, split: np.ndarray, shares: Mapping[str, float], near: np.ndarray | None, seed: int
) -> Dataset:
    """The dataset with sets of these shares split off from the training set of `split`."""
    joined_N = dataset.groups
    if near is not None:
        joined_N = merge_groups(len(dataset), group_pairs(dataset.groups), group_pairs(near))
    if not shares:
        return replace(dataset, split=split, groups=joined_N)
    groups = _pool(dataset, split, joined_N, seed)
    deals = deal_out(groups, shares)
    assigned = split.copy()
    for deal in deals:
        for group, name in zip(deal.groups, deal.set_of, strict=True):
            assigned[group.members] = name
    kept_N = joined_N if near is None else _groups_kept(dataset.groups, joined_N, split, assigned)
    for sentence in (*_shares_missed(dataset, deals), *_copies_divided(dataset, joined_N, kept_N)):
        log.warning("%s", sentence)
    return replace(dataset, split=assigned, groups=kept_N)


def split_hash(dataset: Dataset) -> str:
    """SHA-256 (hexadecimal) over the sorted (path, split): equal hashes mean the same split."""
    return hash_rows(sorted((path, str(name)) for path, name in zip(dataset.paths, dataset.split, strict=True)))


def groups_hash(rows: Iterable[SplitRow]) -> str:
    """SHA-256 (hexadecimal) over path and group of the rows of a split.csv: equal hashes mean the same groups."""
    return hash_rows((row.path, str(row.group)) for row in rows)


def split_rows(dataset: Dataset, sha256s: Sequence[str]) -> list[SplitRow]:
    """The rows of split.csv, sorted by path; groups are numbered in that order."""
    order = sorted(range(len(dataset)), key=lambda i: dataset.paths[i])
    numbers: dict[int, int] = {}
    groups = [numbers.setdefault(int(dataset.groups[i]), len(numbers)) for i in order]
    return [
        SplitRow(
            path=dataset.paths[i],
            label=dataset.label_name(i),
            split=str(dataset.split[i]),
            group=group,
            sha256=sha256s[i],
        )
        for i, group in zip(order, groups, strict=True)
    ]


def write_split(path: Path, dataset: Dataset, sha256s: Sequence[str]) -> None:
    """Write split.csv (`SPLIT_HEADER`). Raises `WriteError`."""
    write_csv(path, SPLIT_HEADER, split_rows(dataset, sha256s))


# A split that grows


@dataclass(frozen=True)
class GrownSplit:
    """A dataset with the sets of an earlier split for the images in it, and new ones for the others.

    `kept` and `gone` count images of the earlier split; `new` has the new ones by set, '' for those in none.
    """

    dataset: Dataset
    kept: int
    new: dict[str, int]
    gone: int


def grow_split(
    path: Path,
    dataset: Dataset,
    sha256s: Sequence[str],
    *,
    seed: int = 0,
    val_size: float = 0.2,
    test_size: float = 0.2,
    near: np.ndarray | None = None,
) -> GrownSplit:
    """Keep the sets of an earlier split.csv, and deal the images that are not in it. `near` is as for `make_split`.

    - An image of the earlier split keeps its set, also under another name (`data.earlier_split`), and with another label.
    - A new image that is a copy of such an image, or in a group with one, goes into the same set; groups and identical
      files come before near-copies. If they are in different sets, it goes into none, with a warning: in any of them it
      would be a leak.
    - A new image whose set is given in the data gets that one.
    - The other new images are dealt so that, old and new together, each class has its shares; a share of 0 adds nothing
      to that set. With both shares 0, all of them go into the training set.

    Raises `BadSplit` as `read_split` and `make_split` do.
    """
    _check_shares(val_size, test_size)
    earlier = EarlierSplit.read(path, dataset, sha256s)
    others = earlier.other_labels()
    if others:
        log.warning("%s: images whose label has changed since, which keep their set: %s.", path, few(others, 3))
    new_N = earlier.new_images()
    before = np.where(new_N, dataset.split, earlier.sets())
    before[dataset.labels < 0] = ""
    hard_N = merge_groups(len(dataset), group_pairs(dataset.groups), group_pairs(earlier.groups()))
    joined_N = hard_N if near is None else merge_groups(len(dataset), group_pairs(hard_N), group_pairs(near))
    before, _ = _with_their_copies(before, new_N, hard_N)
    before, apart = _with_their_copies(before, new_N, joined_N)
    if apart:
        log.warning("%s", _between_sets(path, [dataset.paths[i] for i in apart]))
    pool_N = new_N & (before == "")
    pool_N[apart] = False
    dealt = np.where(pool_N, "train", before).astype("<U5")
    shares = {name: share for name, share in (("test", test_size), ("val", val_size)) if share > 0}
    deals = _deal_pool(replace(dataset, groups=hard_N), pool_N, joined_N, before, shares, seed)
    for deal in deals:
        for group, name in zip(deal.groups, deal.set_of, strict=True):
            dealt[group.members] = name
    kept_N = _groups_kept(hard_N, joined_N, np.where(pool_N, "train", before), dealt)
    made = replace(dataset, split=dealt, groups=kept_N)
    _require_training(made, dealt)
    for sentence in (
        *_shares_missed(dataset, deals),
        *_copies_divided(dataset, joined_N, kept_N),
        *sets_too_small(made),
    ):
        log.warning("%s", sentence)
    counts = {name: int((dealt[new_N] == name).sum()) for name in (*SPLITS, "")}
    kept = {i for i, _ in earlier.matched.found} - set(np.flatnonzero(new_N).tolist())
    return GrownSplit(made, len(kept), counts, len(earlier.matched.gone))


def _with_their_copies(before: np.ndarray, new_N: np.ndarray, joined_N: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The sets, with that of their group for new images; and the new images whose group is in several sets."""
    sets_of: defaultdict[int, set[str]] = defaultdict(set)
    for group, name in zip(joined_N.tolist(), before.tolist(), strict=True):
        if name:
            sets_of[group].add(name)
    split, apart = before.astype("<U5"), []
    for i in np.flatnonzero(new_N & (before == "")).tolist():
        names = sets_of.get(int(joined_N[i]), set())
        if len(names) == 1:
            split[i] = next(iter(names))
        elif names:
            apart.append(i)
    return split, apart


def _deal_pool(
    dataset: Dataset,
    pool_N: np.ndarray,
    joined_N: np.ndarray,
    split: np.ndarray,
    shares: Mapping[str, float],
    seed: int,
) -> list[Deal]:
    """Deal the groups of the pool, in addition to the images that have a set."""
    labels = dataset.labels.tolist()
    have = Counter((str(name), labels[i]) for i, name in enumerate(split.tolist()) if name and labels[i] >= 0)
    return deal_out(_pool(dataset, np.where(pool_N, "train", ""), joined_N, seed), shares, have) if shares else []


def _between_sets(path: Path, paths: Sequence[str]) -> str:
    one = len(paths) == 1
    return (
        f"{number_of(len(paths), 'image')} that {path} does not list {'has' if one else 'have'} copies, or members of "
        f"{'its group' if one else 'their groups'}, in different sets of it: {few(list(map(repr, paths)), 3)}. "
        f"{'It is' if one else 'They are'} put into no set, because {'it' if one else 'they'} would be a leak in any set."
    )


# Groups


def _pool(dataset: Dataset, split: np.ndarray, joined_N: np.ndarray, seed: int) -> list[Group]:
    """The groups `joined_N` with images in the training set, by key; their parts are the hard groups."""
    hard, joined = dataset.groups.tolist(), joined_N.tolist()
    listed: dict[int, dict[int, list[int]]] = {}
    for i in sorted(np.flatnonzero(split != "").tolist(), key=dataset.paths.__getitem__):
        listed.setdefault(joined[i], {}).setdefault(hard[i], []).append(i)
    labels, sets = dataset.labels.tolist(), split.tolist()
    groups: list[Group] = []
    for by_hard in listed.values():
        parts = [_group(dataset.paths, labels, sets, members, seed) for members in by_hard.values()]
        if len(parts) > 1:
            whole = sorted((i for members in by_hard.values() for i in members), key=dataset.paths.__getitem__)
            parts = [_group(dataset.paths, labels, sets, whole, seed, tuple(filter(None, parts)))]
        groups += filter(None, parts)
    return sorted(groups, key=lambda group: group.key)


def _group(
    paths: Sequence[str],
    labels: Sequence[int],
    sets: Sequence[str],
    listed: Sequence[int],
    seed: int,
    parts: tuple[Group, ...] = (),
) -> Group | None:
    """The images of a group in the training set; None if there are none. `listed` is sorted by path."""
    members = [i for i in listed if sets[i] == "train"]
    if not members:
        return None
    key = hashlib.sha256(f"{seed}\0{paths[members[0]]}".encode("utf-8", "surrogatepass")).digest()
    counts = (
        tuple(sorted(Counter([labels[i] for i in members]).items())) if len(members) > 1 else ((labels[members[0]], 1),)
    )
    return Group(key=key, members=members, counts=counts, free=len(members) == len(listed), parts=parts)


def _groups_kept(hard_N: np.ndarray, joined_N: np.ndarray, before_N: np.ndarray, after_N: np.ndarray) -> np.ndarray:
    """int64 (N,): `joined_N`, except for groups assigned to several sets.

    Their images in the validation set are one group, and those in the test set another: they are right or wrong together.
    In the training set they stay in their hard groups: a class that is all copies would have no model without them.
    """
    within_N = joined_N * 4 + np.unique(after_N, return_inverse=True)[1]  # a number for each group in each set
    used = after_N != ""
    numbers, sets = np.unique(np.unique(within_N[used]) // 4, return_counts=True)
    moved_N = np.isin(joined_N, joined_N[before_N != after_N])
    divided_N = moved_N & np.isin(joined_N, numbers[sets > 1])
    held = np.flatnonzero(divided_N & np.isin(after_N, ("val", "test")))
    return np.where(divided_N, joined(hard_N, held[group_pairs(within_N[held])]), joined_N)


NEW_IMAGES = (
    "`headstart split DATA --keep SPLIT.csv --out NEW.csv` gives new images a set; --classes names those to use."
)


def _require_training(dataset: Dataset, split: np.ndarray) -> None:
    """Raise `BadSplit` that names every class with images, but none in the training set."""
    sets_of = {name: split[dataset.labels == label] for label, name in enumerate(dataset.classes)}
    trained = [name for name, sets in sets_of.items() if (sets == "train").any()]
    without = {name: sets for name, sets in sets_of.items() if len(sets) and name not in trained}
    if not without:
        return
    several, undecided = len(without) > 1, any((sets == "").any() for sets in without.values())
    listed = [f"{name!r} ({_untrained(sets)})" for name, sets in without.items()]
    first, sets = next(iter(without.items()))
    raise BadSplit(
        f"{dataset.root}: {len(without)} classes have no images to train on: {few(listed)}."
        if several
        else f"{dataset.root}: class {first!r} has {_untrained(sets)}, but none to train on.",
        hint=("" if several else near_names(first, trained))
        or (
            NEW_IMAGES
            if undecided
            else f"Move some of them into the training set, or remove the class{'es' * several}."
        ),
    )


def _untrained(sets: np.ndarray) -> str:
    """Where the images of a class are that has none in the training set."""
    held, no_set = int((sets != "").sum()), int((sets == "").sum())
    parts = [f"{number_of(held, 'image')} for validation or test"] if held else []
    return " and ".join([*parts, *([f"{number_of(no_set, 'image')} in no set of the given split"] if no_set else [])])


# Warnings


def sets_too_small(dataset: Dataset) -> list[str]:
    """A sentence each for the validation and the test set, if it has images, but fewer than `MIN_PER_SET` of a class in
    the data."""
    classes = sorted(set(dataset.labels.tolist()) - {-1})
    sentences = []
    for name, purpose in (
        ("val", "for model selection and calibration"),
        ("test", "to tell how well it is recognised"),
    ):
        counts = Counter(dataset.labels[dataset.split == name].tolist())
        few = sorted((counts[k], k) for k in classes if counts[k] < MIN_PER_SET)
        if counts and few:
            listed = _listed(
                [
                    f"{n if position else number_of(n, 'image')} of {dataset.classes[k]!r}"
                    for position, (n, k) in enumerate(few)
                ]
            )
            one = len(few) == 1
            purpose = purpose if one else purpose.replace("it is", "they are")
            sentences.append(
                f"The {SETS[name]} has {listed}: too few {purpose}. "
                f"Add images of {'this class' if one else 'these classes'}, or make the set larger."
            )
    return sentences


def _shares_missed(dataset: Dataset, deals: Sequence[Deal]) -> list[str]:
    """A sentence for each class that misses its shares (`tolerated`), the worst first; of many, for the first 3."""
    ranked = []
    for deal in deals:
        off = {cell: abs(deal.off(*cell)) for cell in deal.wanted}
        for label in {label for (_, label), by in off.items() if by > tolerated(deal.total[label])}:
            worst = max(by for (_, of), by in off.items() if of == label) / deal.total[label]
            ranked.append((-worst, label, _share_missed(dataset, deal, label)))
    sentences = [sentence for _, _, sentence in sorted(ranked)]
    more = [f"{len(sentences) - 3:,} more classes miss their shares."] if len(sentences) > 4 else sentences[3:]
    return [*sentences[:3], *more]


def _share_missed(dataset: Dataset, deal: Deal, label: int) -> str:
    got = [
        f"{number_of(deal.images[name, label], 'image')} in the {SETS[name]} where {deal.wanted[name, label]:,} "
        f"{'was' if deal.wanted[name, label] == 1 else 'were'} wanted"
        for name in deal.new_sets
        if abs(deal.off(name, label)) > tolerated(deal.total[label])
    ]
    return f"Class {dataset.classes[label]!r} has {' and '.join(got)}, because {_reason(deal, label)}."


def _reason(deal: Deal, label: int) -> str:
    """Why a class misses its shares: groups with images in a given set, its largest group, or other classes."""
    groups = [deal.groups[g] for g in deal.groups_of[label]]
    kept = sum(n for (_, of), n in deal.have.items() if of == label)
    if kept:
        return f"{kept:,} of its {deal.total[label]:,} images keep their set"
    bound = sum(dict(group.counts)[label] for group in groups if not group.free)
    largest = max(groups, key=lambda group: dict(group.counts)[label])
    count, total = dict(largest.counts)[label], deal.total[label]
    mixed = sum(len(group.counts) > 1 for group in groups)
    if bound > count:
        return f"{bound:,} of its {total:,} images are in groups with images in a given set"
    if mixed and count < 0.1 * total:
        return f"{mixed:,} of its {len(groups):,} groups have images of other classes too"
    others = ", which has images of other classes too" if len(largest.counts) > 1 else ""
    return f"{f'{count:,} of ' if count < total else ''}its {total:,} images are one group{others}"


def _copies_divided(dataset: Dataset, joined_N: np.ndarray, kept_N: np.ndarray) -> list[str]:
    """A sentence about near-copies in different sets, if there are any."""
    divided = (joined_N != kept_N) & (dataset.labels >= 0)
    divided = np.isin(joined_N, joined_N[divided]) & (dataset.labels >= 0)
    if not divided.any():
        return []
    names = _listed([repr(dataset.classes[k]) for k in sorted(set(dataset.labels[divided].tolist()))])
    return [
        f"{number_of(int(divided.sum()), 'image')} of {names} are near-copies of one another, but are in different sets, so "
        "the test may be too easy. Kept together, they would leave a set without its share of a class. Groups that you name "
        "(--group-column, --group-from) are always kept together."
    ]


def _listed(texts: Sequence[str]) -> str:
    """The texts joined by commas and 'and'; of more than four, the first three and the number of the others."""
    if len(texts) > 4:
        texts = [*texts[:3], f"{len(texts) - 3:,} more"]
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))
