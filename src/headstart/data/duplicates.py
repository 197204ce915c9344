"""Which pictures are copies of each other: by their bytes, by a perceptual hash.

Copies on both sides of a split make a test easier than the world is, so they share a group, and a split keeps groups
together. Both ways give groups or pairs, and `merge_groups` joins them.

- `exact_groups`: the same file. Certain, and free once the SHA-256 is known.
- `perceptual_pairs`: the same picture saved again (re-encoded, resized, slightly brightened). Precision first: see
  there for what it leaves to `data.near`. 7,000 hashes take 0.03 s, a million 5 s.

`data.near` finds more (crops, mirrored ones, bursts), by looking at the pixels again.

Not for finding pictures that merely look alike: groups are joined through chains, and loose bounds make one big group.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np

MAX_DISTANCE = 4
"""Bits in which the hashes of two copies may differ (see `perceptual_pairs` for how it was chosen)."""
MIN_DETAIL = 6
"""Of 56 places where a row of the hash can differ from the row above it, so many must, or it tells too little."""


def exact_groups(sha256s: Sequence[str]) -> np.ndarray:
    """int64 (N,): files with the same hash get one number, the place of the first; an empty hash equals no other.

    >>> exact_groups(["a", "b", "a", "", ""])
    array([0, 1, 0, 3, 4])
    """
    first: dict[str, int] = {}
    return np.array([first.setdefault(s, i) if s else i for i, s in enumerate(sha256s)], dtype=np.int64)


def perceptual_groups(dhashes: Sequence[int], *, max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """int64 (N,): groups of the pairs that `perceptual_pairs` finds, joined through chains."""
    return merge_groups(len(dhashes), perceptual_pairs(dhashes, max_distance=max_distance))


def perceptual_pairs(dhashes: Sequence[int], *, max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """int64 (M, 2): copies by 64-bit difference hash (8 rows of 8 bits; -1 = none), `max_distance` bits apart at most.

    A hash whose rows are nearly all alike (a sky, a sunset over the sea, a blank page) says little, and many pictures
    of a beach share it. So two hashes must have some `detail`, and the less they have, the nearer they must be: 6 of
    56 allow 1 bit, 7 allow 2, 8 allow 3. Measured on 7,078 scenes (25 million pairs): distance <= 4 alone gives 760
    pairs, nearly all of them just alike; with this rule there are 13, each a copy to the eye, and 6 bits bring in the
    first wrong pair. Of pictures saved again at quality 50, at half or double size, squashed to a square, or 10 %
    brighter, 94 to 95 % are found; 30 % brighter 86 %, with 2 % cropped off each edge 62 %. The rest is for
    `data.near`.

    Of pictures with the very same hash only neighbours in a chain are returned, so that M stays small; the groups are
    the same. Search by multi-index hashing: 64 bits in ``max_distance + 2`` bands, of which two must agree exactly
    (pigeonhole; Norouzi et al., "Fast Search in Hamming Space with Multi-Index Hashing", CVPR 2012, section 3).
    """
    if not 0 <= max_distance <= 16:
        raise ValueError(f"max_distance is {max_distance}; expected 0 to 16 bits")
    hashes = np.array([value & 0xFFFF_FFFF_FFFF_FFFF for value in dhashes], dtype=np.uint64)
    known = detail(hashes)
    telling = np.flatnonzero(known >= MIN_DETAIL)
    order = telling[np.argsort(hashes[telling], kind="stable")]
    values, first = np.unique(hashes[order], return_index=True)
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    pairs = [np.stack([order[same], order[same + 1]], axis=1)]
    if max_distance:
        near, distance = _near_values(values, max_distance)
        near = near[distance <= known[order[first]][near].min(axis=1) - MIN_DETAIL + 1]
        pairs.append(order[first][near])
    return _sorted_pairs(np.concatenate(pairs))


def detail(hashes: np.ndarray) -> np.ndarray:
    """int64 (N,): in how many of 56 places a row of the 8 x 8 hash differs from the row above it."""
    eight = np.uint64(8)
    return count_bits((hashes >> eight) ^ (hashes & np.uint64(0x00FF_FFFF_FFFF_FFFF)))


def count_bits(values: np.ndarray) -> np.ndarray:
    """int64, same shape: how many bits of each uint64 are set."""
    parts = np.ascontiguousarray(values, dtype=np.uint64).reshape(-1, 1).view(np.uint16)
    return _BITS_OF_16[parts].sum(axis=1, dtype=np.int64).reshape(values.shape)


def mirrored_hashes(hashes_N: np.ndarray) -> np.ndarray:
    """uint64 (N,): the hashes of the pictures seen in a mirror (exactly so where no two neighbouring greys are equal).

    Each row of 8 bits is read backwards and complemented: what was darker than its right neighbour is now brighter.

    >>> mirrored_hashes(np.array([0xFF00_0000_0000_0001], dtype=np.uint64)) == np.uint64(0x00FF_FFFF_FFFF_FF7F)
    array([ True])
    """
    rows = np.ascontiguousarray(hashes_N, dtype=np.uint64).view(np.uint8)
    return _BACKWARDS[rows].view(np.uint64)


_BITS_OF_16 = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(
    axis=1, dtype=np.uint8
)
_BACKWARDS = (
    255 - np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8).reshape(-1, 1), axis=1)[:, ::-1], axis=1).ravel()
)


def _near_values(values: np.ndarray, max_distance: int) -> tuple[np.ndarray, np.ndarray]:
    """(M, 2) indices into distinct hashes that differ in at most `max_distance` bits, and (M,) in how many."""
    found = [np.empty((0, 2), dtype=np.int64)]
    for mask in _masks(max_distance):
        keys = values & mask
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        left = np.arange(len(keys))
        step = 0
        while len(left):  # compare each with its 1st, 2nd ... successor, as long as the key is the same
            step += 1
            left = left[left + step < len(keys)]
            left = left[keys[left] == keys[left + step]]
            a, b = order[left], order[left + step]
            near = count_bits(values[a] ^ values[b]) <= max_distance
            found.append(np.stack([a[near], b[near]], axis=1))
    pairs = _sorted_pairs(np.concatenate(found))
    return pairs, count_bits(values[pairs[:, 0]] ^ values[pairs[:, 1]])


def _masks(max_distance: int) -> list[np.uint64]:
    """One mask for each two of ``max_distance + 2`` bands: whoever is that near agrees under one of them."""
    edges = np.linspace(0, 64, max_distance + 3).astype(int)
    bands = [((1 << b) - 1) ^ ((1 << a) - 1) for a, b in pairwise(edges.tolist())]
    return [np.uint64(a | b) for a, b in combinations(bands, 2)]


def unit_rows(features_BD: np.ndarray) -> np.ndarray:
    """float32, same shape: each row divided by its length; zeros where a row has none, or a value that is not finite."""
    rows_BD = np.asarray(features_BD, dtype=np.float32)
    rows_BD = np.where(np.isfinite(rows_BD).all(axis=1, keepdims=True), rows_BD, np.float32(0))
    largest = np.abs(rows_BD).max(axis=1, keepdims=True, initial=0)  # taken out first: squares must not overflow
    rows_BD = np.divide(rows_BD, largest, out=np.zeros_like(rows_BD), where=largest > 0)
    length = np.sqrt((rows_BD * rows_BD).sum(axis=1, keepdims=True))
    return np.divide(rows_BD, length, out=rows_BD, where=length > 0)


def joined(groups_N: np.ndarray, pairs_M2: np.ndarray) -> np.ndarray:
    """int64 (N,): the groups, with those joined that a pair connects."""
    return merge_groups(len(groups_N), group_pairs(groups_N), pairs_M2)


def merge_groups(n: int, *pairs: np.ndarray) -> np.ndarray:
    """int64 (n,): connected components of the pairs (M, 2); a group's number is its smallest member.

    >>> merge_groups(5, np.array([[3, 1]]), np.array([[1, 4]]))
    array([0, 1, 2, 1, 1])
    """
    groups = np.arange(n, dtype=np.int64)
    edges = np.concatenate(
        [np.empty((0, 2), dtype=np.int64), *(np.asarray(p, dtype=np.int64).reshape(-1, 2) for p in pairs)]
    )
    if len(edges) and (edges.min() < 0 or edges.max() >= n):
        raise ValueError(f"pairs name members {edges.min()} to {edges.max()}; expected 0 to {n - 1}")
    while True:  # hook the larger root under the smaller, then shorten all ways to the root
        a, b = groups[edges[:, 0]], groups[edges[:, 1]]
        apart = a != b
        if not apart.any():
            return groups
        edges, a, b = edges[apart], a[apart], b[apart]
        np.minimum.at(groups, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(groups, groups[groups]):
            groups = groups[groups]


def group_pairs(groups: np.ndarray) -> np.ndarray:
    """(M, 2): pairs that chain the members of each group, so that `merge_groups` can join one grouping to another."""
    order = np.argsort(groups, kind="stable")
    same = groups[order[1:]] == groups[order[:-1]]
    return np.stack([order[:-1][same], order[1:][same]], axis=1)


def _sorted_pairs(pairs: np.ndarray) -> np.ndarray:
    return np.unique(np.sort(pairs.astype(np.int64), axis=1), axis=0)
