"""Near-duplicates: the same picture re-encoded, resized, brightened, mirrored or with its edges cut, among many.

    k nearest by features and by perceptual hash -> a cheap bound on both -> thumbnails laid over each other -> pairs

Features and hashes only propose: a cosine that finds a crop also finds the next forest. What decides is pixels: a pair's
grey thumbnails are aligned (shift, scale, mirror, gain) and their fine structure must agree. So look-alikes are told
from copies, whatever the backbone, and groups do not chain. Two shots of a burst agree if little has moved.

Neighbours come from a forest of trees that halve the pictures at each level, so the cost is N log N whatever they
show.
Only pictures in a proposed pair are decoded again (0.5 ms at 64 px) and take 4 kB each while it runs; a proposed pair
costs about 0.2 ms. Not for rotated pictures, larger cuts, or a picture inside another; nor for drawings of one straight
horizon at one height, which it takes for one picture; nor for pictures without structure (blank pages, clear skies),
which are never called copies here: `exact_groups` finds those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from headstart.data.duplicates import MAX_DISTANCE, MIN_DETAIL, count_bits, detail, mirrored_hashes, unit_rows
from headstart.errors import UnreadableImage
from headstart.progress import bar, log
from headstart.vision.decode import decode
from headstart.vision.memory import Source, as_rgb
from headstart.vision.screen import Facts, cores

NEIGHBOURS = 10
"""How many nearest pictures are proposed for each, by features; half as many by hash."""
MAX_BITS = 18
"""Bits in which the hashes of a proposed pair may differ (plain or mirrored); unrelated pictures differ in 25."""
ALONE_BITS = 16
"""The same where there are no features: of mirrored copies with 3 % cut off each edge 98 to 99 % are found (10 bits: 80 to
99 %), and verifying what is proposed takes 0.3 ms a picture more."""
AGREEMENT, RICH = 0.75, 60.0
"""Correlation of fine structure from which on two pictures of at least that `richness` are one (see `bound`)."""

SIDE = 64
"""Thumbnails have so many pixels a side, whatever the picture's shape."""
LEAF = 256
TREES = 12
EXACT = 2048
"""Up to so many rows each is compared with every other: that costs less than the trees (0.02 s for 1,000, not 0.05 s)."""
AXES = 64
BATCH = 256
LEAST_STRUCTURE = 1.0
"""Grey levels (of 255, standard deviation) of fine structure below which a thumbnail says nothing."""
COARSE_AGREEMENT = 0.8
"""Correlation at 16 x 16 pixels that a pair must reach to be looked at closely."""
MAX_SCALE, MAX_SHIFT = 1.15, 0.14
"""How far an alignment may go: a cut of 5 % off each edge is a scale of 0.9 and shifts up to 0.1 (of half a side)."""


def near_pairs(features_ND: np.ndarray | None, sources: Sequence[Source], facts: Sequence[Facts]) -> np.ndarray:
    """int64 (M, 2): pairs i < j of pictures that are the same one, as far as their pixels show.

    `features_ND` are those of any backbone, in the order of `sources` and `facts`; without them (None) the hashes alone
    propose, which finds fewer crops. Identical files are chained without a look, a picture that cannot be read again is
    in no other pair. The same pictures give the same pairs. See `benchmarks/duplicates.py` for recall and precision.
    """
    _, first, which = np.unique(
        [f.sha256 or str(i) for i, f in enumerate(facts)], return_index=True, return_inverse=True
    )
    same = np.stack([first[which], np.arange(len(facts))], axis=1).astype(np.int64)
    chosen = np.sort(first)
    hashes = np.array([facts[i].dhash & 0xFFFF_FFFF_FFFF_FFFF for i in chosen], dtype=np.uint64)
    proposed, mirror = propose(hashes, None if features_ND is None else features_ND[chosen])
    found = verify([sources[i] for i in chosen], proposed, mirror)
    pairs = np.concatenate([same[same[:, 0] != same[:, 1]], chosen[found]])
    return np.unique(np.sort(pairs, axis=1), axis=0)


def propose(hashes_N: np.ndarray, features_ND: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Pairs int64 (M, 2) that are worth a look, and bool (M,): whether the second is to be mirrored for it.

    By hash and features: at most `MAX_BITS` bits apart, and the more bits, the nearer by features: a cosine (of centred
    features on their `AXES` main axes) of 0.3 up to 4 bits, 0.03 more for each further bit. Of 1,000 changed copies of
    real pictures all pass; of the pairs of each of 8,078 pictures with its ten nearest a tenth do. Hashes of some detail
    that nearly agree (`duplicates.perceptual_pairs`) are looked at whatever the features say, which may be of colours.
    By hash alone: `ALONE_BITS`.
    """
    n = len(hashes_N)
    mirrors_N = mirrored_hashes(hashes_N)
    plain, turned = _signs(hashes_N), _signs(mirrors_N)
    k = NEIGHBOURS // 2
    asked = [neighbours(plain, k)]
    if features_ND is None:
        both = neighbours(np.concatenate([plain, turned]), k)[:n]
        asked.append(np.where(both >= n, both - n, both))
    else:
        axes = main_axes(features_ND)
        asked.append(neighbours(axes, NEIGHBOURS))
    pairs = _pairs_of(asked)
    bits = count_bits(hashes_N[pairs[:, 0]] ^ hashes_N[pairs[:, 1]])
    mirrored_bits = count_bits(mirrors_N[pairs[:, 0]] ^ hashes_N[pairs[:, 1]])
    least = np.minimum(bits, mirrored_bits)
    if features_ND is None:
        worth = least <= ALONE_BITS
    else:
        cosine = np.einsum("md,md->m", axes[pairs[:, 0]], axes[pairs[:, 1]])
        worth = (least <= MAX_BITS) & (cosine >= 0.3 + 0.03 * np.maximum(least - 4, 0))
        worth |= least <= np.minimum(MAX_DISTANCE, detail(hashes_N)[pairs].min(axis=1) - MIN_DETAIL + 1)
    ways = [(bits, False), (mirrored_bits, True)]  # both ways where they are about as good
    tried = [(worth & (b <= np.minimum(least + 4, MAX_BITS)), way) for b, way in ways]
    return (
        np.concatenate([pairs[chosen] for chosen, _ in tried]),
        np.concatenate([np.full(int(chosen.sum()), way) for chosen, way in tried]),
    )


def _signs(hashes_N: np.ndarray) -> np.ndarray:
    """float32 (N, 64): each bit as -1 or 1, all of length 1."""
    bits = np.unpackbits(hashes_N.astype(">u8").view(np.uint8).reshape(-1, 8), axis=1)
    return (bits.astype(np.float32) * 2 - 1) / 8


def _pairs_of(lists: Sequence[np.ndarray]) -> np.ndarray:
    """(M, 2), i < j, each once, from neighbour lists (N, k) in which -1 means none."""
    stacked = []
    for near_Nk in lists:
        i = np.repeat(np.arange(len(near_Nk)), near_Nk.shape[1])
        j = near_Nk.ravel()
        keep = (j >= 0) & (i != j)
        stacked.append(np.stack([np.minimum(i, j)[keep], np.maximum(i, j)[keep]], axis=1))
    return np.unique(np.concatenate(stacked).astype(np.int64).reshape(-1, 2), axis=0)


# Neighbours


def main_axes(features_ND: np.ndarray, *, axes: int = AXES, sample: int = 4096) -> np.ndarray:
    """float32 (N, axes): centred features on the main axes of a sample of them, each of length 1 (zero: no feature)."""
    features_ND = np.asarray(features_ND)
    some = np.random.default_rng(0).permutation(len(features_ND))[:sample]
    rows_SD = unit_rows(features_ND[np.sort(some)])
    mean_D = rows_SD.mean(axis=0, dtype=np.float64).astype(np.float32) if len(rows_SD) else 0
    rows_SD = rows_SD - mean_D
    axes_DA = _range(rows_SD, axes)
    out = np.empty((len(features_ND), axes_DA.shape[1]), np.float32)
    for start in range(0, len(out), 4096):
        out[start : start + 4096] = (unit_rows(features_ND[start : start + 4096]) - mean_D) @ axes_DA
    length = np.linalg.norm(out, axis=1, keepdims=True)
    return np.divide(
        out, length, out=np.zeros_like(out), where=length > 1e-6 * max(float(length.max(initial=0)), 1e-30)
    )


def _range(rows_SD: np.ndarray, axes: int) -> np.ndarray:
    """float32 (D, axes): about the main axes of rows, by subspace iteration (Halko, Martinsson & Tropp 2011, section 4.5).

    All of them in closed form took 0.35 s for 1,280 features, more than all the rest for 1,000 pictures.
    """
    width = min(axes + 16, rows_SD.shape[1])
    basis_DW = np.random.default_rng(0).standard_normal((rows_SD.shape[1], width)).astype(np.float32)
    for _ in range(3):
        basis_DW = np.linalg.qr(rows_SD.T @ (rows_SD @ basis_DW))[0]
    along_SW = rows_SD @ basis_DW
    main_WA = np.linalg.eigh(along_SW.T @ along_SW)[1][:, -axes:].astype(np.float32)
    return basis_DW @ main_WA


def neighbours(rows_ND: np.ndarray, k: int, *, leaf: int = LEAF, trees: int = TREES) -> np.ndarray:
    """int64 (N, k): those of the rows (of length 1) with the largest cosine to each, nearest first; -1 = none.

    Exact up to `EXACT` rows; beyond that, a row's neighbours are looked for in its leaf of each tree. A tree halves the
    rows of each node at the median of a direction between two of them, so that leaves are equal and near rows tend to
    share one (Dasgupta & Freund, "Random projection trees and low dimensional manifolds", STOC 2008; the direction as
    in Annoy). Costs ``trees x N x (leaf + log N) x D``; recall is in `tests/test_near.py` and the benchmark.
    """
    n = len(rows_ND)
    best = np.full((n, k), -1, np.int64)
    cosine = np.full((n, k), -np.inf, np.float32)
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
    """(m, about leaf) row numbers: the leaves of one tree, several of one size at a time."""
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
    """Take the nearest within each leaf, members (m, s), into the lists of its rows, in place."""
    size, k = members.shape[1], best.shape[1]
    rows = rows_ND[members]
    found = rows @ rows.transpose(0, 2, 1)
    found[:, np.arange(size), np.arange(size)] = -np.inf
    few = min(k, size - 1)
    nearest = np.argpartition(-found, few - 1, axis=2)[:, :, :few]
    owners = members.ravel()
    ids = np.concatenate(
        [
            best[owners],
            np.take_along_axis(members[:, None, :], nearest.reshape(len(members), 1, -1), axis=2).reshape(-1, few),
        ],
        axis=1,
    )
    values = np.concatenate([cosine[owners], np.take_along_axis(found, nearest, axis=2).reshape(-1, few)], axis=1)
    by_id = np.argsort(ids, axis=1, kind="stable")
    ids, values = np.take_along_axis(ids, by_id, axis=1), np.take_along_axis(values, by_id, axis=1)
    values[:, 1:][ids[:, 1:] == ids[:, :-1]] = -np.inf
    top = np.argsort(-values, axis=1, kind="stable")[:, :k]
    cosine[owners] = np.take_along_axis(values, top, axis=1)
    best[owners] = np.where(np.isfinite(cosine[owners]), np.take_along_axis(ids, top, axis=1), -1)


# Pixels


def verify(sources: Sequence[Source], pairs_M2: np.ndarray, mirror_M: np.ndarray) -> np.ndarray:
    """Those of the pairs, int64 (K, 2), whose pixels agree; the second picture is mirrored where `mirror_M` says so."""
    if not len(pairs_M2):
        return np.empty((0, 2), np.int64)
    wanted, places = np.unique(pairs_M2, return_inverse=True)
    places = places.reshape(-1, 2)
    with ThreadPoolExecutor(cores()) as pool, bar("Comparing look-alikes", len(wanted) + len(pairs_M2)) as advance:
        thumbs = np.zeros((len(wanted), SIDE, SIDE), np.uint8)
        readable = np.zeros(len(wanted), bool)

        def fill(start: int) -> None:
            for place in range(start, min(start + BATCH, len(wanted))):
                grey = thumbnail(sources[wanted[place]])
                if grey is not None:
                    thumbs[place], readable[place] = grey, True
            advance(min(BATCH, len(wanted) - start))

        def compare(start: int) -> np.ndarray:
            first, second = places[start : start + BATCH].T
            turned = thumbs[second]
            flip = mirror_M[start : start + BATCH]
            turned[flip] = turned[flip][:, :, ::-1]
            advance(len(first))
            return same_picture(thumbs[first], turned) & readable[first] & readable[second]

        list(pool.map(fill, range(0, len(wanted), BATCH)))
        same = np.concatenate(list(pool.map(compare, range(0, len(places), BATCH))))
    if not readable.all():
        log.info("%d pictures could not be read again; they are not compared.", int((~readable).sum()))
    return np.unique(pairs_M2[same], axis=0)


def thumbnail(source: Source) -> np.ndarray | None:
    """uint8 (SIDE, SIDE): a picture's greys, squashed into a square; None if it cannot be read."""
    try:
        picture = decode(source.read_bytes(), at_least=(SIDE, SIDE)) if isinstance(source, Path) else as_rgb(source)
    except (UnreadableImage, OSError):
        return None
    return np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0))


def same_picture(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """bool (P,): whether two thumbnails, each uint8 (P, SIDE, SIDE), show one picture: `agreement` reaches `bound`."""
    correlation_P = agreement(first, second)
    out = correlation_P >= AGREEMENT
    close = np.flatnonzero(out)
    if len(close):
        rich = np.minimum(richness(first[close]), richness(second[close]))
        out[close] = correlation_P[close] >= bound(rich)
    return out


def bound(richness_P: np.ndarray) -> np.ndarray:
    """(P,): the correlation that the poorer picture of a pair asks for: `AGREEMENT` from `RICH` on, 1 at 0, straight between.

    What is simple agrees by chance once it is aligned: stripes (richness 1 to 5), digits (10 to 30), a sun over the sea
    (20 to 40); photographs of land, streets and animals have 40 to 170. Among 37,000 pairs of nearest pictures of real
    scenes, all above this bound are copies or shots of one burst to the eye, and the nearest of simple ones are below.
    """
    return 1 - (1 - AGREEMENT) * np.minimum(1, richness_P / RICH)


def richness(thumbs: np.ndarray) -> np.ndarray:
    """(P,): over how many frequencies the fine structure of thumbnails is spread (participation number of its power)."""
    details = _details(thumbs.astype(np.float32))
    power = np.abs(np.fft.rfft2(details - details.mean(axis=(1, 2), keepdims=True))) ** 2
    return power.sum(axis=(1, 2)) ** 2 / np.maximum((power**2).sum(axis=(1, 2)), 1e-12)


def agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 (P,): how well two thumbnails, each uint8 (P, SIDE, SIDE), agree in fine structure once aligned; -1 to 1.

    The second is laid over the first with the shift, scale, gain and offset of least squares, first at 16 x 16 pixels
    (those that do not correlate there are given up and get -1), then at 32 x 32. Then details between 1 and 2 pixels
    (of 64; a difference of Gaussians) are correlated where both have pixels: skies and shading are not in them.
    """
    out = np.full(len(first), -1, np.float32)
    a, b = _shrunk(first, 4), _shrunk(second, 4)
    placed = align(a, b, steps=5)
    near = np.flatnonzero(_correlation(a, *warp(b, placed)) >= COARSE_AGREEMENT)
    if len(near):
        a, b, placed = first[near], second[near], placed[near]
        placed = align(_blurred(_shrunk(a, 2), 0.7), _blurred(_shrunk(b, 2), 0.7), steps=4, start=placed)
        over, inside = warp(b.astype(np.float32), placed)
        out[near] = _correlation(_details(a.astype(np.float32)), _details(over), inside, least=LEAST_STRUCTURE)
    return out


def align(a: np.ndarray, b: np.ndarray, *, steps: int, start: np.ndarray | None = None) -> np.ndarray:
    """float32 (P, 4), scale and shift in x, then in y: where to read b, both float32 (P, n, n), to come nearest to a.

    Gauss-Newton steps on the squared difference with gain and offset solved for along with it (Lucas & Kanade 1981;
    Baker & Matthews, "Lucas-Kanade 20 years on", IJCV 2004, section 2, and part 3 for gain and bias). Coordinates go from
    -1 to 1; scale and shift stay within `MAX_SCALE` and `MAX_SHIFT`.
    """
    n = a.shape[1]
    placed = np.tile(np.array([1, 0, 1, 0], np.float32), (len(a), 1)) if start is None else start.copy()
    at_n = _coordinates(n)
    for _ in range(steps):
        over, inside = warp(b, placed)
        across, down = np.gradient(over, axis=2) * (n / 2), np.gradient(over, axis=1) * (n / 2)
        slopes = (across * at_n, across, down * at_n[:, None], down, over, np.ones_like(over))
        slopes_P6X = np.stack(slopes, axis=1).reshape(len(a), 6, n * n)
        weighted_P6X = slopes_P6X * inside.reshape(len(a), 1, n * n)
        normal_P66 = weighted_P6X @ slopes_P6X.transpose(0, 2, 1)
        six = np.arange(6)
        normal_P66[:, six, six] = normal_P66[:, six, six] * 1.0001 + 1e-3
        step_P6 = np.linalg.solve(normal_P66, weighted_P6X @ a.reshape(len(a), n * n, 1))[:, :, 0]
        gain = step_P6[:, 4:5]
        placed += np.clip(step_P6[:, :4] / np.where(np.abs(gain) < 0.1, 0.1, gain), -0.1, 0.1)
        placed[:, ::2] = np.clip(placed[:, ::2], 1 / MAX_SCALE, MAX_SCALE)
        placed[:, 1::2] = np.clip(placed[:, 1::2], -MAX_SHIFT, MAX_SHIFT)
    return placed


def warp(b: np.ndarray, placed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """b (P, n, n) read at scale and shift, bilinear; and float32 (P, n, n), 1 where that is inside b and 0 elsewhere."""
    n = b.shape[1]
    across, inside_x = _reading(placed[:, :2], n)
    down, inside_y = _reading(placed[:, 2:], n)
    return down @ b @ across.transpose(0, 2, 1), inside_y[:, :, None] * inside_x[:, None, :]


def _reading(placed: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(P, n, n) weights that read n pixels at scale and shift (P, 2) from n pixels, and (P, n): which are inside."""
    at = (placed[:, :1] * _coordinates(n) + placed[:, 1:] + 1) * (n / 2) - 0.5
    inside = ((at > -1) & (at < n)).astype(np.float32)
    at = np.clip(at, 0, n - 1)
    return np.maximum(0, 1 - np.abs(at[:, :, None] - np.arange(n, dtype=np.float32))), inside


def _coordinates(n: int) -> np.ndarray:
    return (np.arange(n, dtype=np.float32) + 0.5) * (2 / n) - 1


def _shrunk(greys: np.ndarray, by: int) -> np.ndarray:
    p, n, _ = greys.shape
    return greys.reshape(p, n // by, by, n // by, by).mean(axis=(2, 4), dtype=np.float32)


def _blurred(greys: np.ndarray, sigma: float) -> np.ndarray:
    """Blurred by a Gaussian of `sigma` pixels, weights renormalised at the edges."""
    at = np.arange(greys.shape[1])
    weights = np.exp(-((at[:, None] - at) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights @ greys @ weights.T


def _details(greys: np.ndarray) -> np.ndarray:
    fine = _blurred(greys, 1)
    return fine - _blurred(fine, np.sqrt(3))


def _correlation(a: np.ndarray, b: np.ndarray, inside: np.ndarray, *, least: float = 0.0) -> np.ndarray:
    """(P,): correlation of a and b (P, n, n) where `inside` is 1; -1 where either varies less than `least`."""
    count = np.maximum(inside.sum(axis=(1, 2), keepdims=True), 1)
    a = (a - (a * inside).sum(axis=(1, 2), keepdims=True) / count) * inside
    b = (b - (b * inside).sum(axis=(1, 2), keepdims=True) / count) * inside
    power_a, power_b = ((x * x).sum(axis=(1, 2)) for x in (a, b))
    floor = max(least, 1e-3) ** 2 * count[:, 0, 0]
    product = (a * b).sum(axis=(1, 2)) / np.sqrt(np.maximum(power_a * power_b, 1e-12))
    return np.where((power_a < floor) | (power_b < floor), np.float32(-1), product)
