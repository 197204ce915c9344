"""Nearest neighbours among rows by cosine: exact for few rows, by a forest of trees for many.

The trees halve the rows at each level, so the cost is N log N for any data; recall is in `tests/test_neighbours.py`.
With matrix products on two threads and 12 trees: about 20 s per 100,000 rows of 64 values. Not for exact search beyond
2,048 rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

LEAF = 256
TREES = 12
EXACT = 2048
"""Up to this many rows, each is compared with every other: faster than the trees (for 1,000: 0.02 s, not 0.05 s)."""


def neighbours(
    rows_ND: np.ndarray, k: int, *, asked: int | None = None, leaf: int = LEAF, trees: int = TREES
) -> np.ndarray:
    """int64 (N, k): the rows (of length 1) with the largest cosine to each row, nearest first; -1 = none.

    With `asked`, (asked, k): only for that many first rows, among all rows, which is faster.

    Exact up to `EXACT` rows; beyond that, a row's neighbours are searched in its leaf of each tree. A tree halves the
    rows of each node at the median of a direction between two of them, so that leaves are equal and near rows tend to
    share one (Dasgupta & Freund, "Random projection trees and low dimensional manifolds", STOC 2008; the direction as
    in Annoy). Costs ``trees x N x (leaf + log N) x D``; recall is in `tests/test_neighbours.py`.
    """
    n = len(rows_ND)
    asked = n if asked is None else asked
    best = np.full((asked, k), -1, np.int64)
    cosine = np.full((asked, k), -np.inf, np.float32)
    rng = np.random.default_rng(0)
    if n <= EXACT:
        if n > 1:
            _improve(rows_ND, np.arange(n)[None], best, cosine)
        return best
    for _ in range(trees):
        for members in _leaves(rows_ND, rng, leaf):
            _improve(rows_ND, members, best, cosine)
    return best


def _leaves(rows_ND: np.ndarray, rng: np.random.Generator, leaf: int) -> Iterator[np.ndarray]:
    """(m, about leaf) row numbers: the leaves of one tree, several of equal size at a time."""
    n = len(rows_ND)
    order = rng.permutation(n)
    edges = np.array([0, n])
    while np.diff(edges).max(initial=0) > leaf:
        sizes = np.diff(edges)
        ends = edges[:-1] + rng.integers(0, 1 << 30, (2, len(sizes))) % sizes
        direction = rows_ND[order[ends[0]]] - rows_ND[order[ends[1]]]
        node = np.repeat(np.arange(len(sizes)), sizes)
        along = np.empty(n, np.float32)
        for start in range(0, n, 1 << 15):
            part = slice(start, start + (1 << 15))
            along[part] = np.einsum("nd,nd->n", rows_ND[order[part]], direction[node[part]])
        order = order[np.lexsort((along, node))]
        edges = np.unique(np.concatenate([edges, (edges[:-1] + edges[1:]) // 2]))
    sizes = np.diff(edges)
    for size in np.unique(sizes[sizes > 1]):
        starts = edges[:-1][sizes == size]
        for some in range(0, len(starts), 16):
            yield order[starts[some : some + 16, None] + np.arange(size)]


def _improve(rows_ND: np.ndarray, members: np.ndarray, best: np.ndarray, cosine: np.ndarray) -> None:
    """Merge the nearest within each leaf, members (m, s), into the lists of its requested rows, in place."""
    k, few = best.shape[1], min(best.shape[1], members.shape[1] - 1)
    owned, near, near_cosine = [], [], []
    for leaf in members:
        owners = leaf[leaf < len(best)]
        product = rows_ND[owners] @ rows_ND[leaf].T
        product[owners[:, None] == leaf] = -np.inf
        nearest = np.argpartition(-product, few - 1, axis=1)[:, :few]
        owned.append(owners)
        near.append(leaf[nearest])
        near_cosine.append(np.take_along_axis(product, nearest, axis=1))
    owners = np.concatenate(owned)
    ids = np.concatenate([best[owners], np.concatenate(near)], axis=1)
    values = np.concatenate([cosine[owners], np.concatenate(near_cosine)], axis=1)
    by_id = np.argsort(ids, axis=1, kind="stable")
    ids, values = np.take_along_axis(ids, by_id, axis=1), np.take_along_axis(values, by_id, axis=1)
    values[:, 1:][ids[:, 1:] == ids[:, :-1]] = -np.inf
    top = np.argsort(-values, axis=1, kind="stable")[:, :k]
    cosine[owners] = np.take_along_axis(values, top, axis=1)
    best[owners] = np.where(np.isfinite(cosine[owners]), np.take_along_axis(ids, top, axis=1), -1)
