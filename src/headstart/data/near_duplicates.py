"""Copies of one image among many: re-encoded, resized, brightened, mirrored, or with cropped edges.

    nearest by 16 x 16 greys -> aligned at 16, 32, 64 px -> remaining difference -> groups

This module proposes and compares pairs; `data.copies` decides which look-alikes are copies. No backbone and no features
are involved, so every verb finds the same copies, before any split is made. About 0.6 ms of a core per photograph (1.2
ms among 100,000); if all images look alike, 4 to 16 ms. Not for rotated images, larger crops, one image inside another,
or images without structure (blank pages, clear skies): of those, only identical files are found. See
`benchmarks/duplicates.py` for recall and precision.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

from headstart.data.alignment import (
    COARSE,
    COARSEST,
    align,
    as_bright,
    blurred,
    detail,
    differing,
    place,
    place_coarsely,
    richness,
    warp,
    within,
)
from headstart.data.copies import CEILING, FLOOR, Copies, confirm, score
from headstart.data.duplicates import exact_groups, group_pairs, merge_groups
from headstart.data.neighbours import neighbours
from headstart.errors import UnreadableImage
from headstart.images.image_refs import ImageRef, Images, read_image
from headstart.images.validate import ImageInfo, cores
from headstart.images.validate_worker import GREYS_SIDE
from headstart.images.value_ranges import ValueRanges, from_own_range, is_deep
from headstart.io.progress import bar, log

SIDE = 64
"""Pixels per side of a thumbnail, whatever the image's shape."""
FINE = 128
"""The same for comparing fine structure."""
AXES = 64
MANY = 5_000
"""Above this number of images, fewer pairs are proposed: all would take 15 minutes if all images were alike."""
NEIGHBOURS = 12, 6
"""Nearest images proposed for each, among all images, their mirror images and their middles; and above `MANY`."""
LIKENESS = 0.5, 0.6
"""Cosine (of whitened 16 x 16 greys) below which a pair is not compared; and above `MANY` images. 95 of 100 cropped
copies have at least 0.6, the nearest other photograph has 0.5."""
ALL_ONE = 1e-3
"""Mean fraction of the variance of 16 x 16 greys that differs, below which all images may be copies of a single one:
0.0001 to 0.001 for one saved again and again, 0.27 for chest x-rays."""
MIDDLE = 0.95
CLOSE = FLOOR - 0.1
"""Score in greys from which a pair is also compared in colour."""
BRIGHTER = 1.08
"""Gain from which the darker image of a pair is brightened before it is shrunk."""
NEAR_WHITE = 225.0
"""Level (of a thumbnail) from which pixels of the brighter image may be clipped at white."""
RICH = 14.0
"""`richness` below which a score is reduced in proportion: simple images agree by chance once they are aligned."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in grey (ITU-R BT.601, as in Pillow and most programs)."""
BATCH = 128
"""Pairs compared at a time: more do not fit the CPU's cache."""
WHOLE = 4
"""Pairs of images that are in memory at full size at a time."""


def find_copies(images: Images, labels_N: np.ndarray | None = None) -> Copies:
    """The copies among N images; `labels_N` int64, -1 = unknown, only serve as a check.

    Identical files are copies without comparison; an image that cannot be read again is in no other pair. The same
    images give the same copies.
    """
    n = len(images)
    labels_N = np.full(n, -1, np.int64) if labels_N is None else np.asarray(labels_N)
    first_N = exact_groups(images.sha256s)
    chosen, again = np.unique(first_N), np.flatnonzero(first_N != np.arange(n))
    same_file = np.stack([first_N[again], again], axis=1)
    with threadpool_limits(1):  # small products on all threads: 20 times slower beside other work
        found = _CopySearch(images.take(chosen), images.ranges).copies(labels_N[chosen])
    near = chosen[found.pairs_M2]
    same_pixels = _same_pixels(near, found.difference_M, images)
    pairs = np.concatenate([same_file, near])
    difference = np.concatenate([np.zeros(len(same_file)), np.where(same_pixels, 0, found.difference_M)])
    certain = np.concatenate([np.ones(len(same_file), bool), same_pixels])
    order = np.lexsort((pairs[:, 1], pairs[:, 0], difference, ~certain))
    return replace(
        found,
        pairs_M2=pairs[order],
        difference_M=difference[order],
        certain_M=certain[order],
        groups_N=merge_groups(n, same_file, chosen[group_pairs(found.groups_N)]),
        doubted_K2=chosen[found.doubted_K2],
    )


def _same_pixels(pairs_M2: np.ndarray, difference_M: np.ndarray, images: Images) -> np.ndarray:
    """bool (M,): which pairs have the same pixels; images are read again only if that is possible."""
    sizes, refs = images.sizes_N2, images.refs
    same_size_M = (sizes[pairs_M2[:, 0]] == sizes[pairs_M2[:, 1]]).all(axis=1)
    possible = np.flatnonzero((difference_M < 1e-3) & same_size_M)

    def compare(k: int) -> bool:
        i, j = pairs_M2[k].tolist()
        return _equal(refs[i], refs[j], images.ranges)

    same_M = np.zeros(len(pairs_M2), bool)
    same_M[possible] = _each(compare, possible.tolist(), "Comparing pixels", threads=WHOLE)
    return same_M


class _CopySearch:
    """The search among n different files; `pairs_M3` are two indices, and whether the second image is mirrored."""

    def __init__(self, images: Images, ranges: ValueRanges) -> None:
        self.refs, self.ranges, self.greys = images.refs, ranges, small_greys(images.infos, ranges)
        self.placed: dict[tuple[int, int], tuple[float, bool, np.ndarray]] = {}
        """Closely compared pairs: the score, whether mirrored, where the second was read."""

    def copies(self, labels_N: np.ndarray) -> Copies:
        """The confirmed copies; `certain_M` is not known yet."""
        pairs_M3, scale_M = propose(self.greys)
        pairs_M2, score_M = _best_way(pairs_M3, self._scores(pairs_M3, scale_M))
        n = len(self.refs)
        return confirm(n, pairs_M2, score_M, labels_N, detail_of=self._detail, score_of=self._score_again)

    def _scores(self, pairs_M3: np.ndarray, scale_M: np.ndarray) -> np.ndarray:
        """(M,): how well each pair agrees once aligned, in greys and (if close) in colours; 0 if hardly."""
        placed, likely = self._placed(pairs_M3, scale_M)
        out, cut_off = np.zeros(len(pairs_M3)), np.zeros(len(pairs_M3), bool)
        out[likely], cut_off[likely], placed[likely] = self._in_greys(pairs_M3[likely], placed[likely])
        close = np.flatnonzero((out >= CLOSE) | cut_off)
        in_colour = self._in_colour(pairs_M3[close], placed[close])
        out[close] = np.where(cut_off[close], in_colour, np.minimum(out[close], in_colour))
        for k in close.tolist():
            i, j, mirrored = pairs_M3[k].tolist()
            if (i, j) not in self.placed or out[k] > self.placed[i, j][0]:
                self.placed[i, j] = (float(out[k]), bool(mirrored), placed[k])
        return out

    def _placed(self, pairs_M3: np.ndarray, scale_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32 (M, 4), roughly where the second of each pair is read; and indices of pairs that may be copies."""

        def compare(start: int) -> np.ndarray:
            some = slice(start, start + BATCH)
            first, second, mirrored = pairs_M3[some].T
            return np.column_stack(place_coarsely(*_pair(self.greys, first, second, mirrored), scale_M[some]))

        if not len(pairs_M3):
            return np.empty((0, 4), np.float32), np.empty(0, np.int64)
        found = np.concatenate(_each(compare, range(0, len(pairs_M3), BATCH), "Looking for copies"))
        return found[:, :4].astype(np.float32), np.flatnonzero(found[:, 4] >= COARSEST)

    def _in_greys(self, pairs_M3: np.ndarray, placed_M4: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores (M,) in greys, whether they may be too low (M,), and exactly where the second is read (M, 4)."""
        if not len(pairs_M3):
            return np.empty(0), np.empty(0, bool), placed_M4
        wanted, places = np.unique(pairs_M3[:, :2], return_inverse=True)
        places_M2 = places.reshape(-1, 2)
        greys = self._thumbnails(wanted, SIDE, "L")

        def compare(start: int) -> np.ndarray:
            some = slice(start, start + BATCH)
            a, b = _pair(greys, places_M2[some, 0], places_M2[some, 1], pairs_M3[some, 2])
            return _greys_compared(a, b, placed_M4[some])

        found = np.concatenate(_each(compare, range(0, len(pairs_M3), BATCH), "Comparing look-alikes"))
        return found[:, 0], found[:, 1] > 0, found[:, 2:].astype(np.float32)

    def _in_colour(self, pairs_M3: np.ndarray, placed_M4: np.ndarray) -> np.ndarray:
        """(M,): scores in colour, the second read at `placed_M4`; better ones where the darker image is brightened."""
        if not len(pairs_M3):
            return np.empty(0)
        wanted, places = np.unique(pairs_M3[:, :2], return_inverse=True)
        places_M2 = places.reshape(-1, 2)
        colours = self._thumbnails(wanted, SIDE, "RGB")

        def compare(start: int) -> np.ndarray:
            some = slice(start, start + BATCH)
            a, b = _pair(colours, places_M2[some, 0], places_M2[some, 1], pairs_M3[some, 2])
            return np.column_stack(_colours_compared(a, b, placed_M4[some]))

        found = np.concatenate(_each(compare, range(0, len(pairs_M3), BATCH), "Comparing in colour"))
        out, gain_M3, offset_M3 = found[:, 0], found[:, 1:4], found[:, 4:7]
        brighter = np.maximum(gain_M3, 1 / gain_M3).mean(axis=1) >= BRIGHTER
        for k in np.flatnonzero(brighter & (out < CEILING)).tolist():
            a, b = self._brightened(pairs_M3[k], colours[places_M2[k]], gain_M3[k], offset_M3[k])
            out[k] = max(out[k], _colours_compared(a, b, placed_M4[k : k + 1])[0][0])
        return out

    def _brightened(
        self, pair_3: np.ndarray, colours: np.ndarray, gain_3: np.ndarray, offset_3: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """float32, twice (1, SIDE, SIDE, 3): one pair, its darker image brightened and clipped at white, then shrunk.

        In the other order, the means of partly clipped pixels are too bright: black print on a white label. An image
        that cannot be read again stays unchanged. `gain_3` and `offset_3` make the second as bright as the first.
        """
        darker = int(gain_3.mean() > 1)
        if not darker:
            gain_3, offset_3 = 1 / gain_3, -offset_3 / gain_3
        table = np.clip(gain_3[:, None] * np.arange(256) + offset_3[:, None], 0, 255).round().astype(int)
        source = self.refs[int(pair_3[darker])]
        levels = table.ravel().tolist()
        made = thumbnail(source, SIDE, "RGB", ranges=self.ranges, at_least=4 * SIDE, table=levels)
        if made is not None:
            colours[darker] = made
        return _pair(colours, np.array([0]), np.array([1]), pair_3[2:])

    def _score_again(self, pairs_K2: np.ndarray) -> np.ndarray:
        """(K,): scores of pairs that were not proposed."""
        pairs_M3 = np.concatenate([np.insert(pairs_K2, 2, way, axis=1) for way in (0, 1)])
        score_M = self._scores(pairs_M3, np.ones(len(pairs_M3)))
        return score_M.reshape(2, -1).max(axis=0)

    def _detail(self, pairs_K2: np.ndarray) -> np.ndarray:
        """(K,): how well fine structure agrees in closely compared pairs; -1 for others."""
        out = np.full(len(pairs_K2), -1.0)
        compared = [k for k, pair in enumerate(pairs_K2.tolist()) if tuple(pair) in self.placed]
        wanted, places = np.unique(pairs_K2[compared], return_inverse=True)
        places = places.reshape(-1, 2)
        fine = self._thumbnails(wanted, FINE, "L")
        for start in range(0, len(compared), BATCH):
            some = compared[start : start + BATCH]
            ways = [self.placed[tuple(pairs_K2[k].tolist())] for k in some]
            first, second = places[start : start + BATCH].T
            a, b = _pair(fine, first, second, np.array([way[1] for way in ways]))
            out[some] = _fine_agreement(a, b, np.stack([placed for _, _, placed in ways]))
        return out

    def _thumbnails(self, wanted: Sequence[int] | np.ndarray, side: int, mode: str, title: str = "") -> np.ndarray:
        """uint8 (n, side, side) or (n, side, side, 3); an image that cannot be read again is black."""
        out = np.zeros((len(wanted), side, side, *((3,) if mode == "RGB" else ())), np.uint8)
        lost = []

        def fill(start: int) -> None:
            for k in range(start, min(start + BATCH, len(out))):
                image = thumbnail(self.refs[int(wanted[k])], side, mode, ranges=self.ranges)
                if image is None:
                    lost.append(k)
                else:
                    out[k] = image

        _each(fill, range(0, len(out), BATCH), title)
        if lost:
            words = ("1 image", "is") if len(lost) == 1 else (f"{len(lost):,} images", "are")
            log.info("%s could not be read again and %s not compared.", *words)
        return out


def _pair(
    images: np.ndarray, first: np.ndarray, second: np.ndarray, mirrored: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """float32, twice (P, n, n) or (P, n, n, 3); the second is mirrored where `mirrored`."""
    a, b = images[first].astype(np.float32), images[second].astype(np.float32)
    turned = mirrored.astype(bool)
    b[turned] = b[turned][:, :, ::-1]
    return a, b


def _best_way(pairs_M3: np.ndarray, score_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each pair once (M, 2), plain or mirrored, whichever agrees better, and its score."""
    order = np.lexsort((-score_M, pairs_M3[:, 1], pairs_M3[:, 0]))
    _, first = np.unique(pairs_M3[order][:, :2], axis=0, return_index=True)
    chosen = order[first]
    return pairs_M3[chosen][:, :2], score_M[chosen]


def propose(greys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 (M, 3): pairs i < j that may be copies and whether j is mirrored, and float (M,): the initial scale.

    `greys` uint8 (n, 16, 16). For each image the nearest among all images, their mirror images, and their middles (an
    image with cropped edges resembles the middle of the whole one), by the cosine of `descriptors`.
    """
    n = len(greys)
    if n < 2:
        return np.empty((0, 3), np.int64), np.empty(0)
    rows = descriptors(greys)
    near = neighbours(rows, NEIGHBOURS[n > MANY], asked=n)
    i, index = np.repeat(np.arange(n), near.shape[1]), near.ravel()
    keep = (index >= 0) & (i != index % n)
    i, index = i[keep], index[keep]
    kind, j = index // n, index % n
    cosine = np.concatenate([_cosine(rows, i[k : k + 4096], index[k : k + 4096]) for k in range(0, len(i) + 1, 4096)])
    keep = cosine >= LIKENESS[n > MANY]
    i, j, kind, cosine = i[keep], j[keep], kind[keep], cosine[keep]
    pairs_M3 = np.stack([np.minimum(i, j), np.maximum(i, j), kind == 1], axis=1).astype(np.int64)
    scale_M = np.where(kind == 2, np.where(j > i, MIDDLE, 1 / MIDDLE), 1.0)
    order = np.lexsort((-cosine, pairs_M3[:, 2], pairs_M3[:, 1], pairs_M3[:, 0]))
    found, first = np.unique(pairs_M3[order], axis=0, return_index=True)
    return found, scale_M[order][first]


def small_greys(infos: Sequence[ImageInfo], ranges: ValueRanges = ValueRanges()) -> np.ndarray:
    """uint8 (n, 16, 16): the small greys recorded during validation, as `ranges` scale them; black if unreadable."""
    side = GREYS_SIDE
    rows = [base64.b64decode(info.greys) or bytes(side * side) for info in infos]
    greys = np.frombuffer(bytearray(b"".join(rows)), np.uint8).reshape(-1, side, side)
    for row, info in zip(greys, infos, strict=True):
        if is_deep(info.mode) and (line := from_own_range((info.mode, info.low, info.high), ranges)) is not None:
            row[...] = np.clip(row * line[0] + line[1], 0, 255).round()
    return greys


def _cosine(rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    product: np.ndarray = np.einsum("md,md->m", rows[first], rows[second])
    return product


def descriptors(greys: np.ndarray, *, sample: int = 4096) -> np.ndarray:
    """float32 (3 n, AXES), rows of length 1: n of the images, n of their mirror images, n of their middles.

    Greys at 16 x 16 pixels on the main axes of a sample of them, half whitened, so that what all images have in common
    counts less. On x-rays this ranks the original of a cropped copy first in 98 of 100 cases (88 without it).
    """
    n = len(greys)
    some = _flat(greys[np.sort(np.random.default_rng(0).permutation(n)[:sample])])
    mean = _in_common(some)
    power, axes = np.linalg.eigh((some - mean).T @ (some - mean) / len(some))
    power, axes = power[::-1][:AXES], axes[:, ::-1][:, :AXES]
    onto = (axes / np.maximum(power, 1e-6 * max(float(power[0]), 1e-12)) ** 0.25).astype(np.float32)
    out = np.empty((3, n, onto.shape[1]), np.float32)
    for start in range(0, n, 1024):
        part = greys[start : start + 1024].astype(np.float32)
        middle, _ = warp(part, np.tile(np.array([MIDDLE, 0, MIDDLE, 0], np.float32), (len(part), 1)))
        for k, way in enumerate((part, part[:, :, ::-1], middle)):
            out[k, start : start + 1024] = _unit((_flat(way) - mean) @ onto)
    return out.reshape(3 * n, -1)


def _flat(greys: np.ndarray) -> np.ndarray:
    """float32 (n, side * side): greys as rows, minus their mean, of length 1."""
    rows = greys.reshape(len(greys), -1).astype(np.float32)
    return _unit(rows - rows.mean(axis=1, keepdims=True))


def _in_common(rows: np.ndarray) -> np.ndarray:
    """The mean of rows of length 1; zeros if only noise would remain without it, and for two rows (then opposites)."""
    mean: np.ndarray = rows.mean(axis=0)
    return mean if len(rows) > 2 and 1 - mean @ mean >= ALL_ONE else np.zeros_like(mean)


def thumbnail(
    source: ImageRef,
    side: int,
    mode: str = "L",
    *,
    ranges: ValueRanges = ValueRanges(),
    at_least: int = 0,
    table: Sequence[int] = (),
) -> np.ndarray | None:
    """uint8 (side, side) greys or (side, side, 3) colours, squashed into a square; None if the image cannot be read.

    With a `table` (3 x 256 levels), its colours are mapped first, at `at_least` pixels per side if it has as many.
    """
    decoded = (max(side, at_least),) * 2
    try:
        image = read_image(source, at_least=decoded, ranges=ranges)
    except UnreadableImage:
        return None
    image = image.convert("RGB").point(list(table)) if table else image.convert(mode)
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0))


def _greys_compared(a: np.ndarray, b: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """(P, 6): scores of greys (P, n, n), 0 for those that hardly agree; 1 if one may be brighter and clipped at white,
    so that the score is too low; where b was read. Starts from `placed`."""
    placed, alike = place(a, b, placed)
    out = np.zeros((len(a), 6))
    out[:, 2:] = placed
    near = np.flatnonzero(alike >= COARSE)
    if len(near):
        a, b, inside = _aligned(a[near, None], b[near, None], placed[near])
        out[near, 0] = _score(a, b, inside)
        gain = as_bright(a, b, inside[:, None])[0][:, 0, 0, 0]
        brightest = np.where(gain > 1, a.max(axis=(1, 2, 3)), b.max(axis=(1, 2, 3)))
        out[near, 1] = (np.maximum(gain, 1 / gain) >= BRIGHTER) & (brightest >= NEAR_WHITE) & (out[near, 0] > 0)
    return out


def _colours_compared(a: np.ndarray, b: np.ndarray, placed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (P,) of colours (P, n, n, 3), or of greys if only one has colours; gain and offset of b (P, 3)."""
    grey = _is_grey(a) != _is_grey(b)
    for images in (a, b):
        images[grey] = (images[grey] @ LUMA)[..., None]
    a, b, inside = _aligned(a.transpose(0, 3, 1, 2), b.transpose(0, 3, 1, 2), placed)
    gain, offset = as_bright(a, b, inside[:, None])
    return _score(a, b, inside), gain[:, :, 0, 0], offset[:, :, 0, 0]


def _score(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(P,): the score of aligned images (P, C, n, n), reduced for simple ones."""
    rich = np.minimum(richness(a.mean(axis=1)), richness(b.mean(axis=1)))
    return score(differing(a, b, inside)) * np.minimum(1, rich / RICH)


def _aligned(a: np.ndarray, b: np.ndarray, placed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(P, C, n, n), twice: a, and b read at `placed`, both blurred by a pixel; and (P, n, n), which pixels count."""
    p, c, n, _ = a.shape
    flat_a, flat_b = (x.reshape(p * c, n, n) for x in (a, b))
    over, inside = warp(blurred(flat_b, 0.7), np.repeat(placed, c, axis=0))
    shape = (p, c, n, n)
    return (
        blurred(flat_a, 1.0).reshape(shape),
        blurred(over, 0.7).reshape(shape),
        within(inside.reshape(shape)[:, 0], 2),
    )


def _is_grey(images: np.ndarray) -> np.ndarray:
    """bool (P,): whether images (P, n, n, 3) have practically no colour."""
    grey: np.ndarray = np.abs(images - images.mean(axis=3, keepdims=True)).mean(axis=(1, 2, 3)) < 2
    return grey


def _fine_agreement(a: np.ndarray, b: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """(P,): `detail` of greys (P, FINE, FINE), aligned again at that size."""
    a, b = blurred(a, 0.8), blurred(b, 0.8)
    over, inside = warp(b, align(a, b, steps=3, start=placed))
    return detail(a, over, within(inside, 3))


def _unit(rows: np.ndarray) -> np.ndarray:
    """Each row divided by its length; zeros where it has none."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-6)


def _equal(first: ImageRef, second: ImageRef, ranges: ValueRanges) -> bool:
    """Whether two images have the same pixels."""
    try:
        a, b = read_image(first, ranges=ranges), read_image(second, ranges=ranges)
    except UnreadableImage:
        return False
    return a.size == b.size and a.tobytes() == b.tobytes()


def _each(work: Callable[[int], Any], starts: Sequence[int], title: str = "", *, threads: int = 0) -> list[Any]:
    """The results of `work` for each start, in order, on all cores, or at most this number."""
    with (
        ThreadPoolExecutor(min(cores(), threads or cores())) as pool,
        bar(title, len(starts)) if title else nullcontext(_nothing) as advance,
    ):
        out = []
        for result in pool.map(work, starts):
            out.append(result)
            advance(1)
        return out


def _nothing(_: int) -> None:
    """Show no progress."""
