"""Decide which pairs are copies of one image, after `data.near_duplicates.find_copies` has compared them.

Among x-rays, digits or products on one table, all images look alike, and a fixed threshold would call them copies. So a
pair has to agree well, and (`MARGIN`) several times better than either image agrees with any other in the same dataset.
If look-alikes in this dataset might agree as well (`sure_score`), fine structure must agree too, unless look-alikes
share that as well. If A is a copy of B and B of C, A and C need not be copies: one member of a group (such as the
original) confirms the others, and a group that is large or has several labels needs strong evidence.

The labels are a free check: true copies rarely have two labels; look-alikes do, at a rate that the dataset shows.
`Copies.false_share` follows from that. The thresholds were chosen on nine datasets (see LOG.md), and
`benchmarks/duplicates.py` measures their effect. Costs microseconds per pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush

import numpy as np

from headstart.data.duplicates import merge_groups

FLOOR = 0.6
"""Minimum score of copies: at most 0.25 of the variance differs."""
LOWEST, CEILING = 1.2, 1.6
"""Bounds of `sure_score`: 0.06 and 0.025 of the variance differ."""
MARGIN = 0.55
"""Powers of ten by which a copy must differ less than the most similar other image: a factor of 3.5."""
REACH = 2.6
"""Distance of `sure_score` from the median of the look-alikes, in units of the 90th percentile's distance."""
FINE = 0.8
"""Correlation of fine structure that confirms an unsure pair."""
CONTRARY = 0.2
"""Correlation of fine structure below which even a sure pair is rejected, such as stripes of the same kind."""
SHARED_DETAIL = 0.6
"""If the fine structure of a tenth of the look-alikes agrees by more than this, it confirms nothing in this dataset."""
STRONG = 0.3
"""Powers of ten above `sure_score` at which no further evidence is needed; pairs with two labels and members of a large
group must reach it."""
LARGE = 10
"""Images above which a group is large."""

DetailOf = Callable[[np.ndarray], np.ndarray]
ScoreOf = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Copies:
    """Pairs of N images that count as copies of each other, the surest first; M pairs.

    `pairs_M2` int64, i < j. `difference_M` float64: the fraction of the images' variance that differs once they are
    aligned, 0 for the same pixels. `certain_M` bool: the same file, or the same pixels. `groups_N` int64: one number
    per group of images that confirm each other as copies. `limit`: the largest difference of certain copies in this
    dataset. `doubted_K2`: pairs that agree as well, but whose group was too large or had several labels, and was split
    up. `false_share`: the estimated fraction of wrong pairs among the uncertain ones, from how many of them have two
    labels; None if it cannot be estimated.
    """

    pairs_M2: np.ndarray
    difference_M: np.ndarray
    certain_M: np.ndarray
    groups_N: np.ndarray
    limit: float = 0.0
    doubted_K2: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    false_share: float | None = None

    @classmethod
    def none(cls, n: int) -> Copies:
        """No copies among n images."""
        return cls(np.empty((0, 2), np.int64), np.empty(0), np.empty(0, bool), np.arange(n))

    def without(self, pairs: Sequence[tuple[int, int]]) -> Copies:
        """The same without pairs that a person says are not copies; groups that only they held together are split."""
        refused = {(min(pair), max(pair)) for pair in pairs}
        keep = np.array([tuple(pair) not in refused for pair in self.pairs_M2.tolist()], bool)
        groups_N = self.groups_N.copy()
        for group in {int(self.groups_N[i]) for pair in refused for i in pair}:
            members = np.flatnonzero(self.groups_N == group)
            groups_N[members] = members
        left = self.pairs_M2[keep]
        inside = left[self.groups_N[left[:, 0]] == self.groups_N[left[:, 1]]]
        return replace(
            self,
            pairs_M2=left,
            difference_M=self.difference_M[keep],
            certain_M=self.certain_M[keep],
            groups_N=merge_groups(len(groups_N), inside),
        )

    def among(self, places_N: np.ndarray, n: int) -> Copies:
        """The same among n images, of which these N have the indices `places_N`; the others have no copies."""
        _, first, which = np.unique(self.groups_N, return_index=True, return_inverse=True)
        groups_n = np.arange(n, dtype=np.int64)
        groups_n[places_N] = places_N[first][which]
        return replace(self, pairs_M2=places_N[self.pairs_M2], groups_N=groups_n, doubted_K2=places_N[self.doubted_K2])


def score(difference: np.ndarray) -> np.ndarray:
    """Powers of ten by which a difference is less than 1, at most 5.

    >>> score(np.array([1.0, 0.1, 0.0]))
    array([-0.,  1.,  5.])
    """
    return -np.log10(np.maximum(difference, 1e-5))


def confirm(
    n: int, pairs_M2: np.ndarray, score_M: np.ndarray, labels_N: np.ndarray, *, detail_of: DetailOf, score_of: ScoreOf
) -> Copies:
    """Select the copies among pairs i < j, each with a `score` and listed once, and group them.

    `detail_of` and `score_of` return the agreement of fine structure and the score of further pairs (K, 2). `certain_M`
    is False: the caller checks for equal pixels.
    """
    apart_M = (score_M >= FLOOR) & (margins(n, pairs_M2, score_M) >= MARGIN)
    sure = sure_score(n, pairs_M2[~apart_M], score_M[~apart_M])
    accepted_M = _accepted(pairs_M2, score_M, apart_M, sure, detail_of)
    needed_M = np.where(_two_labels(pairs_M2, labels_N), sure + STRONG, 0)
    strong_M = accepted_M & (score_M >= needed_M)
    groups_N = _groups(n, pairs_M2[strong_M], score_M[strong_M], sure, score_of)
    kept_M = accepted_M & (groups_N[pairs_M2[:, 0]] == groups_N[pairs_M2[:, 1]])
    order = np.argsort(-score_M[kept_M], kind="stable")
    return Copies(
        pairs_M2[kept_M][order],
        10.0 ** -score_M[kept_M][order],
        np.zeros(int(kept_M.sum()), bool),
        groups_N,
        limit=float(10.0**-sure),
        doubted_K2=pairs_M2[accepted_M & ~kept_M],
        false_share=_false_share(pairs_M2, labels_N, accepted_M, (score_M > 0) & ~apart_M),
    )


def margins(n: int, pairs_M2: np.ndarray, score_M: np.ndarray) -> np.ndarray:
    """(M,): how much better each pair agrees than its images agree with images that are not their copies.

    The copies of an image come before the widest gap in its list of scores, best first; the margin of a pair is the
    widest gap after it, for either image, whichever is smaller. So ten copies of one image do not rule each other out.

    >>> margins(4, np.array([[0, 1], [0, 2], [1, 3]]), np.array([2.0, 0.5, 0.25])).tolist()
    [1.5, 0.5, 0.25]
    """
    order = np.concatenate([np.arange(len(pairs_M2))] * 2)
    image = pairs_M2.T.ravel()
    by_score = np.lexsort((-score_M[order], image))
    image, order = image[by_score], order[by_score]
    after = np.zeros(len(order))
    follows = image[1:] == image[:-1]
    after[:-1][follows] = score_M[order[1:]][follows]
    gap = score_M[order] - np.maximum(after, 0)
    for k in range(len(gap) - 2, -1, -1):
        if image[k] == image[k + 1]:
            gap[k] = max(gap[k], gap[k + 1])
    out = np.full(len(pairs_M2), np.inf)
    np.minimum.at(out, order, gap)
    return out


def sure_score(n: int, pairs_M2: np.ndarray, score_M: np.ndarray) -> float:
    """The score that look-alikes do not reach, from the look-alike pairs of n images.

    Computed from each image's best score: the median, plus `REACH` times the distance to the 90th percentile.
    """
    best_N = np.zeros(n)
    for column in (0, 1):
        np.maximum.at(best_N, pairs_M2[:, column], score_M)
    middle, upper = np.quantile(best_N, [0.5, 0.9]) if n else (0.0, 0.0)
    return float(np.clip(middle + REACH * (upper - middle), LOWEST, CEILING))


def _accepted(
    pairs_M2: np.ndarray, score_M: np.ndarray, apart_M: np.ndarray, sure: float, detail_of: DetailOf
) -> np.ndarray:
    """bool (M,): pairs with a strong score; sure pairs whose fine structure does not contradict; others whose fine
    structure agrees, unless that of look-alikes does too."""
    accepted_M = apart_M & (score_M >= sure + STRONG)
    unsure = np.flatnonzero(apart_M & ~accepted_M)
    if len(unsure):
        alike = np.flatnonzero(~apart_M)
        alike = alike[np.argsort(-score_M[alike], kind="stable")][:400]
        informative = not len(alike) or np.quantile(detail_of(pairs_M2[alike]), 0.9) <= SHARED_DETAIL
        needed = np.where(score_M[unsure] >= sure, CONTRARY, FINE if informative else np.inf)
        accepted_M[unsure] = detail_of(pairs_M2[unsure]) >= needed
    return accepted_M


def _two_labels(pairs_M2: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    first, second = labels_N[pairs_M2].T
    different: np.ndarray = (first != second) & (first >= 0) & (second >= 0)
    return different


def _groups(n: int, pairs_M2: np.ndarray, score_M: np.ndarray, sure: float, score_of: ScoreOf) -> np.ndarray:
    """int64 (n,): each group is the best connected of the connected images and those it confirms; then the rest."""
    connected_N = merge_groups(n, pairs_M2)
    near: dict[int, dict[int, float]] = {}
    for (i, j), value in zip(pairs_M2.tolist(), score_M.tolist(), strict=True):
        near.setdefault(i, {})[j] = near.setdefault(j, {})[i] = value
    groups_N = np.arange(n, dtype=np.int64)
    by_component: dict[int, list[int]] = {}
    for i in near:
        by_component.setdefault(int(connected_N[i]), []).append(i)
    for members in by_component.values():
        for group in _stars(sorted(members), near, sure, score_of):
            groups_N[group] = min(group)
    return groups_N


def _stars(members: list[int], near: dict[int, dict[int, float]], sure: float, score_of: ScoreOf) -> list[list[int]]:
    """Group the members around the best connected one, then the rest around the best connected of those, and so on."""
    left, stars = set(members), []
    queue = [_connections(i, left, near) for i in members]
    heapify(queue)
    while queue:
        *_, hub = best = heappop(queue)
        if hub not in left:
            continue
        if (now := _connections(hub, left, near)) != best:  # it has lost some, so another one may be better
            heappush(queue, now)
            continue
        left.remove(hub)
        confirmed = _confirmed(hub, left, near, sure, score_of)
        left.difference_update(confirmed)
        stars.append([hub, *confirmed])
    return stars


def _connections(image: int, among: set[int], near: dict[int, dict[int, float]]) -> tuple[int, float, int]:
    """A key that is least for the image with the most pairs among these; of several, for the highest scores."""
    scores = [value for other, value in near[image].items() if other in among]
    return -len(scores), -sum(scores), image


def _confirmed(
    hub: int, among: set[int], near: dict[int, dict[int, float]], sure: float, score_of: ScoreOf
) -> dict[int, float]:
    """{image: score} of those that are copies of the hub: its pairs, then what is paired with them, and so on.

    The others are compared now. Only neighbours of confirmed images are, so that a long chain of look-alikes, such as
    the frames of a video, costs a number of comparisons in proportion to its length.
    """
    new = confirmed = {i: value for i, value in near[hub].items() if i in among}
    seen = {hub, *confirmed}
    while True:
        needed = sure + STRONG if len(confirmed) >= LARGE else 0
        further = sorted({j for i in new if new[i] >= needed for j in near[i] if j in among} - seen)
        if not further:
            return {i: value for i, value in confirmed.items() if value >= needed}
        seen.update(further)
        values = score_of(np.array([(min(hub, i), max(hub, i)) for i in further])).tolist()
        new = {i: value for i, value in zip(further, values, strict=True) if value >= sure}
        confirmed = confirmed | new


def _false_share(
    pairs_M2: np.ndarray, labels_N: np.ndarray, accepted_M: np.ndarray, alike_M: np.ndarray
) -> float | None:
    """Fraction of the accepted pairs that is wrong if wrong ones have two labels as often as other look-alikes."""
    labelled_M = (labels_N[pairs_M2] >= 0).all(axis=1)
    two_M = _two_labels(pairs_M2, labels_N)
    accepted, alike = labelled_M & accepted_M, labelled_M & alike_M
    if not accepted.any() or (two_M & alike).sum() < 5:
        return None
    return float(min(1.0, two_M[accepted].mean() / two_M[alike].mean()))
