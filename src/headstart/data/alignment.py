"""Two small images of one thing laid over each other, and how much they still differ: arrays only, many pairs at a time.

    place      shift and scale by least squares, from coarse (`place_coarsely`) to fine
    warp       one image read at that place
    differing  what is left of the difference where it is largest
    detail     whether the fine structure agrees where there is most of it

Images are float32 (P, n, n) greys or (P, C, n, n) colours. Not for rotation, perspective, or a part of
an image within another: shift and scale stay within `MAX_SHIFT` and `MAX_SCALE`.
"""

from __future__ import annotations

import numpy as np

COARSEST = 0.45
"""Correlation of what is finer than shading, at 16 x 16 pixels, below which a pair is given up: of 100 copies 99 have more
(of pages of text 96), of the nearest other photographs one in ten."""
COARSE, LIKELY = 0.7, 0.3
"""Correlation of what is finer than shading, at 32 x 32 pixels, that a pair must reach to be looked at closely (of 1,000
copies 99 in 100 have 0.8 and more), and below which no other place is tried."""
MAX_SCALE, MAX_SHIFT = 1.15, 0.14
"""How far an alignment may go: 5 % cut off each edge is a scale of 0.9, and shifts up to 0.1 (of half the image)."""
BLOCKS, WORST = 8, 4
"""An image is compared in 8 x 8 blocks; the mean over the 4 with the largest difference counts."""
WHITE = 250.0
"""Level from which on a pixel may have been cut off at white."""
BUSY, DULLEST = 8, 2
"""Of the 8 blocks with the most fine structure, the mean over the 2 that agree least counts."""

_CROPS = np.array(
    [[(s, x, s, y) for x in (-0.05, 0, 0.05) for y in (-0.05, 0, 0.05)] for s in (1 / 0.95, 0.95)], np.float32
)
"""Where one image may be a part of the other, to begin with."""


def place_coarsely(a: np.ndarray, b: np.ndarray, scale_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (P, 4), where to read b to come nearest to a, both (P, 16, 16), and (P,) how far they correlate there.

    Begins with `scale_P`. The correlation is of what is finer than shading; below `COARSEST` they are no copies.
    """
    placed = np.stack([scale_P, 0 * scale_P, scale_P, 0 * scale_P], axis=1).astype(np.float32)
    placed = align(a, b, steps=4, start=placed)
    return placed, _unshaded(a, b, placed, 0.8)


def place(a: np.ndarray, b: np.ndarray, placed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for greys (P, 64, 64), beginning at `placed`, at 32 x 32 and (if they correlate by `COARSE`) 64 x 64 pixels.

    Where that leads nowhere but some likeness is there, crops at other places are tried: lines of text are one pixel high.
    """
    a2, b2 = (blurred(shrunk(x, 2), 0.7) for x in (a, b))
    placed, alike = _placed_again(a2, b2, align(a2, b2, steps=4, start=placed))
    near = np.flatnonzero(alike >= COARSE)
    if len(near):
        placed[near] = align(blurred(a[near], 0.7), blurred(b[near], 0.7), steps=3, start=placed[near])
    return placed, alike


def _placed_again(a: np.ndarray, b: np.ndarray, placed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best of this place and those that the likeliest crops lead to, and the correlation there."""
    alike = _unshaded(a, b, placed, 1.5)
    poor = np.flatnonzero((alike < 0.9) & (alike >= LIKELY))
    if len(poor):
        a, b = a[poor], b[poor]
        smaller = (placed[poor, 0] < 1).astype(int)  # whether a is the part, or b
        crops = _CROPS[smaller]
        at_start = np.stack([correlation(a, *warp(b, crops[:, k])) for k in range(crops.shape[1])])
        for likeliest in np.argsort(-at_start, axis=0)[:2]:
            other = align(a, b, steps=5, start=crops[np.arange(len(poor)), likeliest])
            now = _unshaded(a, b, other, 1.5)
            better = now > alike[poor]
            placed[poor[better]], alike[poor[better]] = other[better], now[better]
    return placed, alike


def _unshaded(a: np.ndarray, b: np.ndarray, placed: np.ndarray, sigma: float) -> np.ndarray:
    """(P,): correlation of a with b read at `placed`, of all that is finer than shading: skies and lamps make no copy."""
    over, inside = warp(b, placed)
    return correlation(a - blurred(a, sigma), over - blurred(over, sigma), inside)


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


def shrunk(greys: np.ndarray, by: int) -> np.ndarray:
    """float32 (P, n / by, n / by): means of blocks of by x by pixels."""
    p, n, _ = greys.shape
    return greys.reshape(p, n // by, by, n // by, by).mean(axis=(2, 4), dtype=np.float32)


def blurred(greys: np.ndarray, sigma: float) -> np.ndarray:
    """Blurred by a Gaussian of `sigma` pixels, its weights renormalised at the edges."""
    p, n, _ = greys.shape
    at = np.arange(n)
    weights = np.exp(-((at[:, None] - at) ** 2) / (2 * sigma**2))
    weights[weights < 1e-20] = 0  # as float32 some would be subnormal numbers: the same result, 25 times slower
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32).T
    across = (greys.reshape(p * n, n) @ weights).reshape(p, n, n)
    down = np.ascontiguousarray(across.transpose(0, 2, 1)).reshape(p * n, n) @ weights
    return np.ascontiguousarray(down.reshape(p, n, n).transpose(0, 2, 1))


def correlation(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(P,): correlation of a and b (P, n, n) where `inside` is 1; -1 where either is flat."""
    count = np.maximum(inside.sum(axis=(1, 2), keepdims=True), 1)
    a = (a - (a * inside).sum(axis=(1, 2), keepdims=True) / count) * inside
    b = (b - (b * inside).sum(axis=(1, 2), keepdims=True) / count) * inside
    power_a, power_b = ((x * x).sum(axis=(1, 2)) for x in (a, b))
    product = (a * b).sum(axis=(1, 2)) / np.sqrt(np.maximum(power_a * power_b, 1e-12))
    floor = 1e-6 * count[:, 0, 0]
    return np.where((power_a < floor) | (power_b < floor), np.float32(-1), product)


def differing(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(P,): how much of the variance of two aligned images (P, C, n, n) differs, in the `WORST` blocks; `inside` (P, n, n).

    Each is made as bright as the other in turn (`as_bright`), and the better one counts: the mean squared difference of
    these blocks, divided by the variance of the plainer image.
    """
    return np.minimum(_differing(a, b, inside), _differing(b, a, inside))


def _differing(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> np.ndarray:
    where = inside[:, None]
    gain, offset = as_bright(a, b, where)
    matched = np.minimum(gain * b + offset, np.maximum(a.max(axis=(2, 3), keepdims=True), WHITE))
    squares = ((a - matched) ** 2 * where).sum(axis=1)
    count, total = (_block_sums(x) for x in (inside, squares))
    enough = count >= count.max(axis=1, keepdims=True) / 2
    mean = np.where(enough, total / np.maximum(count, 1), 0)
    worst = np.sort(mean, axis=1)[:, -WORST:].mean(axis=1)
    return worst / np.maximum(np.minimum(_variance(a, where), _variance(matched, where)), a.shape[1])


def as_bright(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gain and offset (P, C, 1, 1) of least squares that make b (P, C, n, n) as bright as a; what does not fit counts little.

    Two rounds of weights 1 / (1 + r^2 / mean r^2) over the pixels that are not cut off at white.
    """
    axes = (2, 3)
    whole = inside * (a < WHITE) * (b < WHITE)
    few = whole.sum(axis=axes, keepdims=True) < 0.2 * inside.sum(axis=axes, keepdims=True)
    weights = whole = np.where(few, inside, whole)
    for _ in range(3):
        count = np.maximum(weights.sum(axis=axes, keepdims=True), 1e-3)
        mean_a, mean_b = ((x * weights).sum(axis=axes, keepdims=True) / count for x in (a, b))
        above = b - mean_b
        spread = (weights * above * above).sum(axis=axes, keepdims=True)
        both = (weights * (a - mean_a) * above).sum(axis=axes, keepdims=True)
        gain = np.clip(both / np.maximum(spread, 1e-6 * count), 0.2, 5.0)
        matched = gain * above + mean_a
        squares = (a - matched) ** 2
        usual = (weights * squares).sum(axis=axes, keepdims=True) / count
        weights = whole / (1 + squares / np.maximum(usual, 4.0))
    return gain, mean_a - gain * mean_b


def richness(images: np.ndarray) -> np.ndarray:
    """(P,): over how many frequencies the fine structure of greys (P, n, n) is spread (participation number of its power).

    Stripes have 1 to 5, drawn digits 5 to 40, photographs 10 to 150.
    """
    fine = images - blurred(images, 1.5)
    power = np.abs(np.fft.rfft2(fine - fine.mean(axis=(1, 2), keepdims=True))) ** 2
    spread: np.ndarray = power.sum(axis=(1, 2)) ** 2 / np.maximum((power**2).sum(axis=(1, 2)), 1e-12)
    return spread


def _variance(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(P,): variance over weighted pixels, summed over channels."""
    count = np.maximum(weights.sum(axis=(2, 3), keepdims=True), 1)
    mean = (values * weights).sum(axis=(2, 3), keepdims=True) / count
    squares: np.ndarray = ((values - mean) ** 2 * weights / count).sum(axis=(1, 2, 3))
    return squares


def _block_sums(values: np.ndarray) -> np.ndarray:
    """(P, BLOCKS * BLOCKS): sums over the blocks of (P, n, n)."""
    p, n, _ = values.shape
    sums: np.ndarray = values.reshape(p, BLOCKS, n // BLOCKS, BLOCKS, n // BLOCKS).sum(axis=(2, 4))
    return sums.reshape(p, -1)


def detail(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(P,): correlation of fine structure in those of the `BUSY` blocks that agree least; aligned greys (P, n, n)."""
    fine_a, fine_b = ((x - blurred(x, 3)) * inside for x in (a, b))
    power_a, power_b, both, count = map(_block_sums, (fine_a**2, fine_b**2, fine_a * fine_b, inside))
    noise = 2 * count + 1e-6  # grey levels squared, so that flat blocks do not agree by chance
    agreement = both / np.sqrt((power_a + noise) * (power_b + noise))
    power = np.where(count >= count.max(axis=1, keepdims=True) / 2, np.maximum(power_a, power_b), 0)
    busy = np.argsort(-power, axis=1)[:, :BUSY]
    return np.sort(np.take_along_axis(agreement, busy, axis=1), axis=1)[:, :DULLEST].mean(axis=1)


def within(inside: np.ndarray, edge: int) -> np.ndarray:
    """`inside` (P, n, n) less `edge` pixels at each border of either image, where blurring had nothing to go by."""
    out = inside.copy()
    for axis in (1, 2):
        for by in (-edge, edge):
            shifted = np.roll(inside, by, axis=axis)
            border = [slice(None)] * 3
            border[axis] = slice(None, edge) if by > 0 else slice(-edge, None)
            shifted[tuple(border)] = 0
            out *= shifted
    return out
