"""Align pairs of small images and measure how much they still differ: arrays only, many pairs at a time.

    place      shift and scale by least squares, from coarse (`place_coarsely`) to fine
    warp       one image resampled at that shift and scale
    differing  the remaining difference, where it is largest
    detail     whether fine structure agrees, where there is most of it

Images are float32 (P, n, n) grey or (P, C, n, n) colour. Not for rotation, perspective, or one image inside another:
shift and scale stay within `MAX_SHIFT` and `MAX_SCALE`.
"""

from __future__ import annotations

import numpy as np

COARSEST = 0.45
"""Correlation of everything finer than shading, at 16 x 16 pixels, below which a pair is discarded: 99 of 100 copies
exceed it (96 for pages of text), but only one in ten of the nearest other photographs."""
COARSE, LIKELY = 0.7, 0.3
"""Correlation of everything finer than shading, at 32 x 32 pixels: the minimum for a close comparison (of 1,000 copies,
99 % have at least 0.8), and the minimum for trying other crops."""
MAX_SCALE, MAX_SHIFT = 1.15, 0.14
"""Limits of an alignment: cutting 5 % off each edge is a scale of 0.9, and shifts up to 0.1 (of half the image)."""
BLOCKS, WORST = 8, 4
"""Images are compared in 8 x 8 blocks; the result is the mean over the 4 with the largest difference."""
WHITE = 250.0
"""Level from which a pixel may be clipped at white."""
BUSY, DULLEST = 8, 2
"""`detail` is the mean over the 2 blocks that agree least, of the 8 with the most fine structure."""

_CROPS = np.array(
    [[(s, x, s, y) for x in (-0.05, 0, 0.05) for y in (-0.05, 0, 0.05)] for s in (1 / 0.95, 0.95)], np.float32
)
"""Starting points for one image being a crop of the other."""


def place_coarsely(a: np.ndarray, b: np.ndarray, scale_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (P, 4), where to read b so that it best matches a, both (P, 16, 16), and (P,), their correlation there.

    Starts from `scale_P`. The correlation is of everything finer than shading; below `COARSEST` they are not copies.
    """
    placed = np.stack([scale_P, 0 * scale_P, scale_P, 0 * scale_P], axis=1).astype(np.float32)
    placed = align(a, b, steps=4, start=placed)
    return placed, _unshaded(a, b, placed, 0.8)


def place(a: np.ndarray, b: np.ndarray, placed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for greys (P, 64, 64), starting from `placed`, at 32 x 32 and (if they correlate by `COARSE`) 64 x 64
    pixels.

    If that fails but there is some likeness, other crops are tried: lines of text are one pixel high.
    """
    a2, b2 = (blurred(shrunk(x, 2), 0.7) for x in (a, b))
    placed, alike = _best_crop(a2, b2, align(a2, b2, steps=4, start=placed))
    near = np.flatnonzero(alike >= COARSE)
    if len(near):
        placed[near] = align(blurred(a[near], 0.7), blurred(b[near], 0.7), steps=3, start=placed[near])
    return placed, alike


def _best_crop(a: np.ndarray, b: np.ndarray, placed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best of this placement and those that the likeliest crops lead to, and the correlation there."""
    alike = _unshaded(a, b, placed, 1.5)
    poor = np.flatnonzero((alike < 0.9) & (alike >= LIKELY))
    if len(poor):
        a, b = a[poor], b[poor]
        smaller = (placed[poor, 0] < 1).astype(int)  # whether a or b is the crop
        crops = _CROPS[smaller]
        at_start = np.stack([correlation(a, *warp(b, crops[:, k])) for k in range(crops.shape[1])])
        for likeliest in np.argsort(-at_start, axis=0)[:2]:
            other = align(a, b, steps=5, start=crops[np.arange(len(poor)), likeliest])
            now = _unshaded(a, b, other, 1.5)
            better = now > alike[poor]
            placed[poor[better]], alike[poor[better]] = other[better], now[better]
    return placed, alike


def _unshaded(a: np.ndarray, b: np.ndarray, placed: np.ndarray, sigma: float) -> np.ndarray:
    """(P,): correlation of a with b read at `placed`, without shading: skies and lamps look alike anyway."""
    over, inside = warp(b, placed)
    return correlation(a - blurred(a, sigma), over - blurred(over, sigma), inside)


def align(a: np.ndarray, b: np.ndarray, *, steps: int, start: np.ndarray | None = None) -> np.ndarray:
    """float32 (P, 4), scale and shift in x, then in y: where to read b so that it best matches a, both (P, n, n).

    Gauss-Newton steps on the squared difference, solving for gain and offset at the same time (Lucas & Kanade 1981;
    Baker & Matthews, "Lucas-Kanade 20 years on", IJCV 2004, section 2, and part 3 for gain and bias). Coordinates go
    from -1 to 1; scale and shift stay within `MAX_SCALE` and `MAX_SHIFT`.
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
    """b (P, n, n) resampled at scale and shift, bilinearly; and float32 (P, n, n), 1 inside b and 0 elsewhere."""
    n = b.shape[1]
    across, inside_x = _reading(placed[:, :2], n)
    down, inside_y = _reading(placed[:, 2:], n)
    return down @ b @ across.transpose(0, 2, 1), inside_y[:, :, None] * inside_x[:, None, :]


def _reading(placed: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(P, n, n) weights that resample n pixels at scale and shift (P, 2), and (P, n): which samples are inside."""
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
    """Blur with a Gaussian of `sigma` pixels, its weights renormalised at the edges."""
    p, n, _ = greys.shape
    at = np.arange(n)
    weights = np.exp(-((at[:, None] - at) ** 2) / (2 * sigma**2))
    weights[weights < 1e-20] = 0  # subnormal float32 numbers: the same result, 25 times slower
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
    """(P,): fraction of the variance of aligned images (P, C, n, n) that differs, in the `WORST` blocks; `inside` (P,
    n, n).

    Each is matched in brightness to the other in turn (`as_bright`), and the better result counts: the mean squared
    difference of these blocks, divided by the variance of the plainer image.
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
    """Least-squares gain and offset (P, C, 1, 1) that make b (P, C, n, n) as bright as a, with outliers weighted down.

    Reweighted twice by 1 / (1 + r^2 / mean r^2), over the pixels that are not clipped at white.
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
    """(P,): number of frequencies over which the fine structure of greys (P, n, n) spreads (participation number of
    power).

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
    """(P,): correlation of fine structure in the `BUSY` blocks that agree least; aligned greys (P, n, n)."""
    fine_a, fine_b = ((x - blurred(x, 3)) * inside for x in (a, b))
    power_a, power_b, both, count = map(_block_sums, (fine_a**2, fine_b**2, fine_a * fine_b, inside))
    noise = 2 * count + 1e-6  # in squared grey levels; flat blocks must not agree by chance
    agreement = both / np.sqrt((power_a + noise) * (power_b + noise))
    power = np.where(count >= count.max(axis=1, keepdims=True) / 2, np.maximum(power_a, power_b), 0)
    busy = np.argsort(-power, axis=1)[:, :BUSY]
    return np.sort(np.take_along_axis(agreement, busy, axis=1), axis=1)[:, :DULLEST].mean(axis=1)


def within(inside: np.ndarray, edge: int) -> np.ndarray:
    """`inside` (P, n, n) without `edge` pixels at each border of either image, where the blur lacked neighbours."""
    out = inside.copy()
    for axis in (1, 2):
        for by in (-edge, edge):
            shifted = np.roll(inside, by, axis=axis)
            border = [slice(None)] * 3
            border[axis] = slice(None, edge) if by > 0 else slice(-edge, None)
            shifted[tuple(border)] = 0
            out *= shifted
    return out
