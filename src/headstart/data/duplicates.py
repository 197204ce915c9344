"""Identical files, and groups of images that must stay together in a split.

`exact_groups` is certain, and free once the SHA-256 is known. `merge_groups` joins groups and pairs from any
source: a million pairs take about a second. It joins through chains, so it is not for pairs that merely look alike:
`data.near_duplicates` finds out which of those are copies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def exact_groups(sha256s: Sequence[str]) -> np.ndarray:
    """int64 (N,): files with the same hash get one number, the index of the first; an empty hash equals no other.

    >>> exact_groups(["a", "b", "a", "", ""])
    array([0, 1, 0, 3, 4])
    """
    first: dict[str, int] = {}
    return np.array([first.setdefault(s, i) if s else i for i, s in enumerate(sha256s)], dtype=np.int64)


def joined(groups_N: np.ndarray, pairs_M2: np.ndarray) -> np.ndarray:
    """int64 (N,): the groups, joined where a pair connects them."""
    return merge_groups(len(groups_N), group_pairs(groups_N), pairs_M2)


def merge_groups(n: int, *pairs: np.ndarray) -> np.ndarray:
    """int64 (n,): connected components of the pairs (M, 2); a group's number is its smallest member.

    >>> merge_groups(5, np.array([[3, 1]]), np.array([[1, 4]]))
    array([0, 1, 2, 1, 1])
    """
    edges = np.concatenate(
        [np.empty((0, 2), dtype=np.int64), *(np.asarray(p, dtype=np.int64).reshape(-1, 2) for p in pairs)]
    )
    if len(edges) and (edges.min() < 0 or edges.max() >= n):
        raise ValueError(f"pairs name members {edges.min()} to {edges.max()}; expected 0 to {n - 1}")
    group_n = np.arange(n, dtype=np.int64)
    while len(edges):
        np.minimum.at(group_n, edges.max(1), edges.min(1))  # a group becomes part of the smallest that it meets
        while (group_n[group_n] != group_n).any():
            group_n = group_n[group_n]
        edges = group_n[edges]
        edges = edges[edges[:, 0] != edges[:, 1]]
    return group_n


def group_pairs(groups: np.ndarray) -> np.ndarray:
    """(M, 2): pairs that chain the members of each group, so that `merge_groups` can join one grouping to another."""
    order = np.argsort(groups, kind="stable")
    same = groups[order[1:]] == groups[order[:-1]]
    return np.stack([order[:-1][same], order[1:][same]], axis=1)
