"""Assign groups of images to the sets of a split, so that each class has its share of each set.

`deal_out` keeps groups whole, except that some may be split into smaller ones if the shares cannot be met otherwise. In
this order:

1. Each group with several classes goes to the set that lacks most of its classes and has room for all of them.
2. Groups with one class fill the remaining room, class by class, in an order that depends only on their keys.
3. Where a class is off its share by more than one image, groups are moved and exchanged as long as that helps.

Step 3 tries moving one group and exchanging two, so it does not find the exact optimum, which is a knapsack problem. Of
1,342 random classes with 3 to 13 groups of up to 20 images that can be assigned to within one image, according to an
exhaustive search, it misses that in 27. 100,000 images take 1 to 2 s; 3.4 s if all of 1,000 classes share 5,000 groups.
Not for time series, where the order must decide, not the shares.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from headstart.data.duplicates import merge_groups

TOLERANCE = 0.02
"""A class may be off its share by this fraction of its images (or by one image) before groups are split for it."""
STEPS = 300
"""Maximum number of searches for an exchange, in classes that share groups."""
CELLS = 200_000
"""Maximum number of values compared in one search for an exchange; the rest is not tried."""


@dataclass(frozen=True, eq=False, slots=True)
class Group:
    """Images that go into one set together."""

    key: bytes
    """Sort key."""
    members: list[int]
    counts: tuple[tuple[int, int], ...]
    """(class, images), by class."""
    free: bool = True
    """False if a given set holds images of this group: it is moved only if nothing else is available."""
    parts: tuple[Group, ...] = ()
    """The groups that it may be split into; none if it must stay whole."""


class Deal:
    """Groups, and the set of each: 'train' at first. `wanted`: number of images by (set, class).

    `have` are images, by (set, class), that are in a set already and stay there; they count as one group for each.
    """

    def __init__(
        self, groups: Sequence[Group], wanted: Mapping[tuple[str, int], int], have: Mapping[tuple[str, int], int]
    ) -> None:
        self.groups = groups
        self.wanted = wanted
        self.have = have
        self.new_sets = list(dict.fromkeys(name for name, _ in wanted))
        self.set_of = ["train"] * len(groups)
        self.images: Counter[tuple[str, int]] = Counter(have)
        self.holding: Counter[tuple[str, int]] = Counter(dict.fromkeys(have, 1))
        """Number of groups with images of a class in a set."""
        self.groups_of: defaultdict[int, list[int]] = defaultdict(list)
        self.total = _per_class(have)
        """Images of each class, in all sets."""
        for g, group in enumerate(groups):
            for label, count in group.counts:
                self.images["train", label] += count
                self.total[label] += count
                self.holding["train", label] += 1
                self.groups_of[label].append(g)

    def move(self, g: int, name: str) -> None:
        """Move group g into another set."""
        before, self.set_of[g] = self.set_of[g], name
        for label, count in self.groups[g].counts:
            self.images[before, label] -= count
            self.images[name, label] += count
            self.holding[before, label] -= 1
            self.holding[name, label] += 1

    def off(self, name: str, label: int) -> int:
        """Number of images by which a class exceeds its share of a set; negative if it falls short."""
        return self.images[name, label] - self.wanted[name, label]

    def can_spare(self, g: int) -> bool:
        """Whether the set of group g has other groups with each of its classes."""
        return all(self.holding[self.set_of[g], label] > 1 for label, _ in self.groups[g].counts)


def deal_out(
    groups: Sequence[Group],
    shares: Mapping[str, float],
    have: Mapping[tuple[str, int], int] = MappingProxyType({}),
) -> list[Deal]:
    """Assign groups, in the order of their keys, to 'train' and to the sets with a share.

    The shares are those of these images and of the images that the sets `have`, together.

    Return one deal per block of classes that groups connect. In it, groups that kept a class from its shares are
    replaced by their parts: those with a class that is off by more than `TOLERANCE` or has no image in a set, and would
    be nearer to its share without them. The largest are split first, as few as necessary.
    """
    return [_deal_block(block, shares, have) for block in _blocks(groups)]


def tolerated(total: int) -> float:
    """Number of images by which a class of `total` images may miss its share of a set."""
    return max(1.0, TOLERANCE * total)


def _blocks(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups by connected classes."""
    most = max((group.counts[-1][0] for group in groups), default=-1) + 1
    pairs = [(group.counts[0][0], label) for group in groups for label, _ in group.counts[1:]]
    block_of = merge_groups(most, np.array(pairs, dtype=np.int64).reshape(-1, 2)).tolist()
    blocks: defaultdict[int, list[Group]] = defaultdict(list)
    for group in groups:
        blocks[block_of[group.counts[0][0]]].append(group)
    return [blocks[first] for first in sorted(blocks)]


# Groups that may be split


def _deal_block(groups: Sequence[Group], shares: Mapping[str, float], have: Mapping[tuple[str, int], int]) -> Deal:
    parts = _split_up(groups, {group.key for group in groups})
    wanted = _wanted(parts, shares, have)
    deal = _make_deal(groups, wanted, have)
    if not any(group.parts for group in groups) or not _far_off(deal, None):
        return deal
    ideal = _make_deal(parts, wanted, have)
    apart: set[bytes] = set()
    while labels := _far_off(deal, ideal):
        hindering = [g for g in groups if g.parts and g.key not in apart and any(k in labels for k, _ in g.counts)]
        if not hindering:
            return ideal
        hindering.sort(key=lambda group: (-len(group.members), group.key))
        apart = _fewest(groups, apart, [group.key for group in hindering], labels, ideal)
        deal = _make_deal(_split_up(groups, apart), wanted, have)
    return deal


def _fewest(
    groups: Sequence[Group], apart: set[bytes], more: Sequence[bytes], labels: set[int], ideal: Deal
) -> set[bytes]:
    """The keys in `apart`, and as few of the first of `more` as bring `labels` near their shares (bisection)."""
    few, enough = 1, len(more)
    while few < enough:
        middle = (few + enough) // 2
        deal = _make_deal(_split_up(groups, apart | set(more[:middle])), ideal.wanted, ideal.have)
        if labels & _far_off(deal, ideal):
            few = middle + 1
        else:
            enough = middle
    return apart | set(more[:enough])


def _split_up(groups: Sequence[Group], apart: set[bytes]) -> list[Group]:
    pieces = [piece for g in groups for piece in (g.parts if g.parts and g.key in apart else (g,))]
    return sorted(pieces, key=lambda group: group.key) if len(pieces) > len(groups) else pieces


def _far_off(deal: Deal, ideal: Deal | None) -> set[int]:
    """Classes that are too far from a share, where `ideal` is nearer."""
    labels = set()
    for name, label in deal.wanted:
        off, limit = abs(deal.off(name, label)), tolerated(deal.total[label])
        best = abs(ideal.off(name, label)) if ideal is not None else 0
        missing = not deal.images[name, label] and (ideal.images[name, label] if ideal else deal.wanted[name, label])
        if missing or off > (limit if best <= limit else best + limit):
            labels.add(label)
    return labels


def _per_class(have: Mapping[tuple[str, int], int]) -> Counter[int]:
    """Number of images of each class in all sets."""
    total: Counter[int] = Counter()
    for (_, label), count in have.items():
        total[label] += count
    return total


def _wanted(
    groups: Sequence[Group], shares: Mapping[str, float], have: Mapping[tuple[str, int], int]
) -> dict[tuple[str, int], int]:
    """Number of images by (set, class): the rounded share; at least one where a class has three groups."""
    images = _per_class(have)
    holding = Counter(label for _, label in have)
    for group in groups:
        for label, count in group.counts:
            images[label] += count
            holding[label] += 1
    return {
        (name, label): max(int(share * images[label] + 0.5), int(holding[label] >= 3))
        for name, share in shares.items()
        for label in sorted({label for group in groups for label, _ in group.counts})
    }


# One deal


def _make_deal(
    groups: Sequence[Group], wanted: Mapping[tuple[str, int], int], have: Mapping[tuple[str, int], int]
) -> Deal:
    deal = Deal(groups, wanted, have)
    _deal_mixed(deal)
    for label in sorted(deal.groups_of):
        _deal_class(deal, label)
    for name, label in wanted:
        if deal.wanted[name, label] and not deal.holding[name, label] and len(deal.groups_of[label]) >= 3:
            _give_one(deal, name, label)
    if any(abs(deal.off(name, label)) > 1 for name, label in wanted):
        _improve(deal)
    return deal


def _deal_mixed(deal: Deal) -> None:
    """Put each group with several classes into the set that has room for it and lacks most of its classes."""
    settled = Counter({label: n for (name, label), n in deal.have.items() if name == "train"})
    """Images of each class that stay in train, which also holds those not yet assigned."""
    for g, group in enumerate(deal.groups):
        if len(group.counts) > 1:
            best, most = "train", _lacking(deal, "train", group, settled)
            for name in reversed(deal.new_sets if group.free and deal.can_spare(g) else []):
                fits = all(count <= -deal.off(name, label) for label, count in group.counts)
                if fits and (lacking := _lacking(deal, name, group, settled)) >= most:
                    best, most = name, lacking
            deal.move(g, best)
            settled.update(dict(group.counts) if best == "train" else {})


def _lacking(deal: Deal, name: str, group: Group, settled: Counter[int]) -> float:
    """The fraction of its wanted images that a set lacks, averaged over the classes of a group."""
    parts = []
    for label, _ in group.counts:
        if name == "train":
            wanted = deal.total[label] - sum(deal.wanted[new, label] for new in deal.new_sets)
            lacking = wanted - settled[label]
        else:
            wanted, lacking = deal.wanted[name, label], -deal.off(name, label)
        parts.append(lacking / max(wanted, 1))
    return sum(parts) / len(parts)


def _deal_class(deal: Deal, label: int) -> None:
    """Assign the groups with only this class: in order, each that still fits. At least one stays in train."""
    left = [g for g in deal.groups_of[label] if len(deal.groups[g].counts) == 1]
    everyone = len(deal.groups_of[label]) >= 3  # enough to leave one for each set
    for n, name in enumerate(deal.new_sets):
        later = [other for other in deal.new_sets[n + 1 :] if not deal.holding[other, label]]
        reserve = int(deal.holding["train", label] == len(left)) + len(later) * everyone
        free = [g for g in left if deal.groups[g].free]
        chosen = _fill(deal, free, -deal.off(name, label), min(len(free), len(left) - reserve))
        for g in chosen:
            deal.move(g, name)
        left = [g for g in left if deal.set_of[g] == "train"]


def _fill(deal: Deal, groups: Sequence[int], room: int, most: int) -> list[int]:
    """Groups in order, each that still fits, at most `most` of them."""
    chosen: list[int] = []
    for g in groups:
        if len(chosen) < most and len(deal.groups[g].members) <= room:
            chosen.append(g)
            room -= len(deal.groups[g].members)
    return chosen


def _give_one(deal: Deal, name: str, label: int) -> None:
    """Give a set without this class the smallest group with it that another set can spare, if there is one."""
    spare = [g for g in deal.groups_of[label] if deal.can_spare(g)]
    if spare:
        deal.move(min(spare, key=lambda g: (not deal.groups[g].free, len(deal.groups[g].members))), name)


# Improvement


Pile = tuple[int, str]
"""Groups with equal counts in one set: (number of their kind, set)."""


class _Exchange(NamedTuple):
    gain: float
    out: Pile | None
    into: Pile | None
    other: str


class _Piles:
    """The groups of a deal that may be moved, by kind and set, in the order of their keys."""

    def __init__(self, deal: Deal) -> None:
        self.kinds: dict[tuple[tuple[int, int], ...], int] = {}
        self.of: defaultdict[Pile, list[int]] = defaultdict(list)
        self.kinds_of: defaultdict[int, list[int]] = defaultdict(list)
        for g, group in enumerate(deal.groups):
            if group.free:
                if group.counts not in self.kinds:
                    self.kinds[group.counts] = len(self.kinds)
                    for label, _ in group.counts:
                        self.kinds_of[label].append(self.kinds[group.counts])
                self.of[self.kinds[group.counts], deal.set_of[g]].append(g)
        self.counts = list(self.kinds)

    def move(self, deal: Deal, pile: Pile | None, name: str) -> None:
        """Move the last group of a pile into another set."""
        if pile is not None:
            g = self.of[pile].pop()
            deal.move(g, name)
            self.of[pile[0], name].append(g)


def _improve(deal: Deal) -> None:
    """Move and exchange groups until each class is within one image of its shares, or nothing helps.

    Minimises the sum of squared deviations beyond one image, as fractions of the class. No set loses its last group of
    a class.
    """
    piles = _Piles(deal)
    hopeless: set[tuple[str, int]] = set()
    for _ in range(STEPS):
        cells = [cell for cell in deal.wanted if cell not in hopeless and abs(deal.off(*cell)) > 1]
        if not cells:
            return
        worst = max(cells, key=lambda cell: (abs(deal.off(*cell)) - 1) / deal.total[cell[1]])
        exchanges = [
            _best_exchange(deal, piles, *worst, other) for other in ("train", *deal.new_sets) if other != worst[0]
        ]
        best = max(exchanges, key=lambda exchange: exchange.gain)
        if best.gain <= 1e-12:
            hopeless.add(worst)
        else:
            piles.move(deal, best.out, best.other)
            piles.move(deal, best.into, worst[0])
            hopeless.clear()


def _best_exchange(deal: Deal, piles: _Piles, name: str, label: int, other: str) -> _Exchange:
    """The change that helps most: a group with this class out of a set, one from another set into it, or both."""
    here, there = ([(k, s) for k in piles.kinds_of[label] if piles.of.get((k, s))] for s in (name, other))
    labels = sorted({j for kind, _ in (*here, *there) for j, _ in piles.counts[kind]})
    most = max(8, int((CELLS / max(len(labels), 1)) ** 0.5))
    outs, intos = (None, *here[:most]), (None, *there[:most])
    out_AL, into_BL = _table(piles, outs, labels), _table(piles, intos, labels)
    change_ABL = into_BL[None] - out_AL[:, None]
    groups_ABL = (into_BL > 0)[None].astype(np.int64) - (out_AL > 0)[:, None]
    gain_AB = _gain(deal, name, labels, change_ABL, groups_ABL) + _gain(deal, other, labels, -change_ABL, -groups_ABL)
    a, b = np.unravel_index(int(gain_AB.argmax()), gain_AB.shape)
    return _Exchange(float(gain_AB[a, b]), outs[a], intos[b], other)


def _table(piles: _Piles, chosen: Sequence[Pile | None], labels: Sequence[int]) -> np.ndarray:
    """int64 (piles, labels): images of each class in one group of a pile; zeros for none."""
    column = {label: n for n, label in enumerate(labels)}
    table = np.zeros((len(chosen), len(labels)), dtype=np.int64)
    for row, pile in zip(table, chosen, strict=True):
        for label, count in piles.counts[pile[0]] if pile is not None else ():
            row[column[label]] = count
    return table


def _gain(deal: Deal, name: str, labels: Sequence[int], change_ABL: np.ndarray, groups_ABL: np.ndarray) -> np.ndarray:
    """float64 (A, B): how much nearer a set is to its shares after changes of images and groups; -inf if it would lose
    its last group of a class."""
    holding_L = np.array([deal.holding[name, label] for label in labels])
    emptied_AB = ((holding_L + groups_ABL < 1) & (holding_L > 0)).any(axis=-1)
    if name == "train":
        return np.where(emptied_AB, -np.inf, 0.0)
    off_L = np.array([deal.off(name, label) for label in labels])
    total_L = np.array([deal.total[label] for label in labels])
    after_AB = _badness(off_L + change_ABL, total_L)
    return np.where(emptied_AB, -np.inf, _badness(off_L, total_L) - after_AB)


def _badness(off: np.ndarray, total_L: np.ndarray) -> np.ndarray:
    return np.asarray((np.maximum(np.abs(off) - 1, 0) / total_L) ** 2).sum(axis=-1)
