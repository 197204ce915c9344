"""What is taken for copies of one image, with the evidence: made by `data.near.find_copies`, used by splits and checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from headstart.data.duplicates import merge_groups


@dataclass(frozen=True, eq=False)
class Copies:
    """Pairs of N images that are taken for copies of each other, the surest first; M pairs.

    `pairs_M2` int64, i < j. `difference_M` float64: the part of the images' variance that differs once they are laid over
    each other, 0 for the same pixels. `certain_M` bool: the same file, or the same pixels. `groups_N` int64: one number
    for the images that confirm each other as copies. `limit`: the largest difference that counts as a copy in this data.
    `doubted_K2`: pairs that agree as well, but whose group was too large or had several labels, and was taken apart.
    `false_share`: the estimated share of wrong pairs among those that are not certain, from how many of them have two
    labels; None where that cannot be told.
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
        """The same without pairs that somebody says are no copies; the groups that they held together fall apart."""
        refused = {(min(pair), max(pair)) for pair in pairs}
        keep = np.array([tuple(pair) not in refused for pair in self.pairs_M2.tolist()], bool)
        groups_N = self.groups_N.copy()
        for group in {int(self.groups_N[i]) for pair in refused for i in pair}:
            members = np.flatnonzero(self.groups_N == group)
            groups_N[members] = members
        left = self.pairs_M2[keep]
        inside = left[self.groups_N[left[:, 0]] == self.groups_N[left[:, 1]]]
        return replace(
            self, pairs_M2=left, difference_M=self.difference_M[keep], certain_M=self.certain_M[keep],
            groups_N=merge_groups(len(groups_N), inside),
        )  # fmt: skip

    def among(self, places_N: np.ndarray, n: int) -> Copies:
        """The same among n images, where these N have the places `places_N`; the others are copies of nothing."""
        _, first, which = np.unique(self.groups_N, return_index=True, return_inverse=True)
        groups_n = np.arange(n, dtype=np.int64)
        groups_n[places_N] = places_N[first][which]
        return replace(self, pairs_M2=places_N[self.pairs_M2], groups_N=groups_n, doubted_K2=places_N[self.doubted_K2])
