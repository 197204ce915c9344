"""Figures of a classifier, its training and its images: functions of arrays that return a matplotlib `Figure`.

>>> figure = confusion_figure(np.array([[48, 2], [1, 49]]), ["cat", "dog"])
>>> figure.savefig("confusion.pdf")                                                              # doctest: +SKIP

They need no run folder and no global matplotlib state, and stay readable 480 px wide, with one class or with 200:
labels are thinned, or only the lowest 30 are shown. Names are always shown as plain text. `save_figure` writes PNG and
SVG, `to_svg` makes an element for a page. The six figures of a run with two classes and 300 test images take 0.5 s of
one core as PNG and SVG, after 0.4 s for importing matplotlib. Not interactive: the page has tables for that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.evaluation.calibration import bin_of, reliability
from headstart.evaluation.image_groups import ImageGroups, groups_of
from headstart.evaluation.intervals import Estimate, proportion
from headstart.evaluation.selective import coverage_curve
from headstart.reports.comparison_plots import differences_figure, pareto_figure
from headstart.reports.figure_style import (
    BLUE,
    BROAD,
    INK,
    MUTED,
    PURPLE,
    RED,
    SIZE,
    SPLIT_COLOURS,
    WIDE,
    as_percent,
    blank,
    key,
    note,
    number,
    panel,
    percent,
    png_of,
    save_figure,
    shown,
    spread,
    text_width,
    thinned,
    to_svg,
)
from headstart.reports.training_verdict import best_round, verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "balance_figure",
    "classes_figure",
    "confusion_figure",
    "coverage_figure",
    "curves_figure",
    "differences_figure",
    "pareto_figure",
    "png_of",
    "rates_figure",
    "reliability_figure",
    "save_figure",
    "sizes_figure",
    "to_svg",
    "verdict",
]

MOST_NAMED = 30
"""Up to this number of classes, each has its own line in a figure."""
MOST_COUNTED = 14
"""Up to this number of classes, a confusion matrix has numbers in its cells."""


# ------------------------------------------------------------------------------------------------- of the test images
def confusion_figure(counts_KK: np.ndarray, classes: Sequence[str]) -> Figure:
    """Plot a confusion matrix from counts (K, K), rows the true class: blue where right, red where wrong.

    Opacity is the fraction of the row (to the power 0.6, so that a few mistakes are visible); a row without images
    stays empty.
    """
    counts_KK = np.asarray(counts_KK, np.int64).reshape(len(classes), len(classes))
    k, names = len(classes), [shown(c, 18) for c in classes]
    left = min(text_width(names), 130) + 24
    wide = WIDE - left - 10
    rotated = k > 1 and text_width(names) > wide / k - 4
    below = (min(text_width(names), 130) * 0.72 + 10 if rotated else 14) + 20
    high = max(40.0, min(wide, k * 44))
    figure = blank(WIDE, high + below + 8)
    box = (left, below, WIDE - 10, below + high)
    axes = panel(figure, box, x="predicted class", y="true class", grid="", gap=left)
    _draw_cells(axes, counts_KK)
    across, down = thinned(k, wide / 1.45) if rotated else list(range(k)), thinned(k, high)
    turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if rotated else {}
    axes.set_xticks(across, [names[i] for i in across], parse_math=False, **turned)
    axes.set_yticks(down, [names[i] for i in down], parse_math=False)
    axes.tick_params(length=0)
    if rotated:
        axes.tick_params(axis="x", pad=1)
    axes.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5))
    return figure


def _draw_cells(axes: Axes, counts_KK: np.ndarray) -> None:
    """Draw the matrix itself: squares and numbers, or one image if there are very many."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgb

    k = len(counts_KK)
    share_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    rgba_KK4, least = np.empty((k, k, 4)), 0.06 if k <= MOST_NAMED else 0.25
    rgba_KK4[..., :3] = to_rgb(RED)
    rgba_KK4[np.arange(k), np.arange(k), :3] = to_rgb(BLUE)
    rgba_KK4[..., 3] = np.where(share_KK > 0, least + (1 - least) * share_KK**0.6, 0)
    rows, columns = (side.tolist() for side in np.nonzero(counts_KK))
    if len(rows) > 1000:
        axes.imshow(rgba_KK4, aspect="auto", interpolation="none", extent=(-0.5, k - 0.5, k - 0.5, -0.5))
    else:
        gap = 0.48 if k <= MOST_NAMED else 0.5
        corners = np.array([[-gap, -gap], [gap, -gap], [gap, gap], [-gap, gap]])
        squares = np.stack([columns, rows], axis=1)[:, None, :] + corners
        axes.add_collection(PolyCollection(list(squares), facecolors=rgba_KK4[rows, columns], linewidths=0))
    if k <= MOST_COUNTED:
        size = SIZE if k <= 10 else SIZE - 2
        for i, j in zip(rows, columns, strict=True):
            ink = "#ffffff" if rgba_KK4[i, j, 3] > 0.85 and i == j else INK
            note(axes, j, i, f"{counts_KK[i, j]:,}", color=ink, ha="center", fontsize=size)


def reliability_figure(
    probabilities_NK: np.ndarray, labels_N: np.ndarray, groups_N: np.ndarray | None = None, *, bins: int = 15
) -> Figure:
    """Plot accuracy by confidence with Wilson intervals, and the number of images: is the classifier right as often as
    it claims?

    From probabilities (N, K), labels (N,), -1 for unknown, and groups (N,) of images, if any; equal-width bins of the top
    class's probability (Guo et al. 2017, figure 1). On the line, confidence equals accuracy; below it, the classifier is
    overconfident.
    """
    table = reliability(_two_columns(probabilities_NK), labels_N, bins)
    full = np.flatnonzero(table.count)
    figure = blank(WIDE, 300)
    axes = panel(figure, (54, 104, WIDE - 20, 292), y="accuracy", grid="both", gap=54)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    note(axes, 0.03, 0.95, "above: underconfident", va="top")
    note(axes, 0.98, 0.05, "below: overconfident", ha="right", va="bottom")
    sure_N, right_N, groups = _answers(_two_columns(probabilities_NK), labels_N, groups_N)
    place_N = bin_of(sure_N, bins)
    bounds = [proportion(right_N, place_N == b, groups) for b in full]
    sure = table.confidence[full]
    axes.vlines(sure, [e.low for e in bounds], [e.high for e in bounds], color=BLUE, linewidth=1.4)
    axes.plot(sure, [e.value for e in bounds], color=BLUE, marker="o", markersize=5, linestyle="none")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02))
    axes.tick_params(labelbottom=False)
    as_percent(axes, "y")
    box, confidence = (54, 38, WIDE - 20, 92), "confidence (probability of the predicted class)"
    below = panel(figure, box, x=confidence, y="images", ticks=(5, 2), gap=54)
    below.bar(table.edges[:-1], table.count, width=0.92 / bins, align="edge", color=BLUE, alpha=0.55)
    below.set(xlim=(0, 1.01), ylim=(0, max(table.count.max(), 1) * 1.1))
    as_percent(below, "x")
    return figure


def _answers(
    probabilities_NK: np.ndarray, labels_N: np.ndarray, groups_N: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, ImageGroups | None]:
    """Return confidence, whether it is right, and groups of the labelled images."""
    known = np.flatnonzero(np.asarray(labels_N) >= 0)
    chances_NK = np.asarray(probabilities_NK, np.float64)[known]
    groups = None if groups_N is None else groups_of(groups_N[known])
    return chances_NK.max(axis=1), chances_NK.argmax(axis=1) == np.asarray(labels_N)[known], groups


def coverage_figure(probabilities_NK: np.ndarray, labels_N: np.ndarray, groups_N: np.ndarray | None = None) -> Figure:
    """Plot the accuracy on the remaining images if the least confident predictions are declined, with Wilson's band.

    From probabilities (N, K), labels (N,), -1 for unknown, and groups (N,) of images, if any. See
    `headstart.evaluation.selective`.
    """
    covered_M, accuracy_M = coverage_curve(_two_columns(probabilities_NK), labels_N)
    figure = blank(WIDE, 250)
    axes = panel(
        figure, (62, 38, WIDE - 20, 240), x="images answered, most confident first", y="accuracy", grid="both", gap=62
    )
    as_percent(axes, "xy")
    axes.set(xlim=(0, 1.0), ylim=(0, 1.005))
    if not len(covered_M):
        note(axes, 0.5, 0.5, "no labelled images", ha="center")
        return figure
    n = int((np.asarray(labels_N) >= 0).sum())
    kept = np.unique(np.linspace(0, len(covered_M) - 1, 200).astype(int))
    sure_N, right_N, groups = _answers(_two_columns(probabilities_NK), labels_N, groups_N)
    place_N = np.argsort(np.argsort(-sure_N, kind="stable"))
    bounds = [proportion(right_N, place_N < round(covered_M[i] * n), groups) for i in kept]
    axes.fill_between(
        covered_M[kept], [e.low for e in bounds], [e.high for e in bounds], color=BLUE, alpha=0.18, linewidth=0
    )
    axes.plot(
        covered_M, accuracy_M, color=BLUE, linewidth=1.8, drawstyle="steps-pre" if len(covered_M) == 1 else "default"
    )
    axes.plot([1], [accuracy_M[-1]], color=BLUE, marker="o", markersize=5, clip_on=False)
    low = min(accuracy_M[-1], *(e.low for e, i in zip(bounds, kept, strict=True) if covered_M[i] >= 0.2))
    axes.set_ylim(max(0.0, low - 0.35 * (1 - low)), 1 + 0.03 * (1 - low + 1e-3))
    overall = f"all: {percent(round(float(accuracy_M[-1]), 3))}"
    axes.annotate(
        overall, (1, accuracy_M[-1]), (-4, -9), textcoords="offset points", color=INK, fontsize=SIZE, ha="right"
    )
    half = covered_M[1 - accuracy_M <= (1 - accuracy_M[-1]) / 2]
    if accuracy_M[-1] < 1 and len(half) and half[-1] > 0.05:
        at = accuracy_M[covered_M == half[-1]][0]
        axes.plot([half[-1]], [at], color=BLUE, marker="D", markersize=4.5)
        halved = f"◆ error rate halves at {percent(round(half[-1], 2))} answered"
        note(axes, 0.04, 0.06, halved, color=INK, transform=axes.transAxes)
    return figure


def classes_figure(names: Sequence[str], estimates: Sequence[Estimate], *, label: str = "F1") -> Figure:
    """Plot one metric per class with its interval, the lowest at the top; with more than 30 classes, the 30 lowest."""
    order = sorted(range(len(names)), key=lambda i: (estimates[i].undefined, estimates[i].value))
    shown_ones = order[:MOST_NAMED]
    texts = [shown(names[i]) for i in shown_ones]
    left, k = min(text_width(texts), 150) + 12, max(len(texts), 1)
    figure = blank(WIDE, k * 17 + 62)
    title = label if len(order) <= MOST_NAMED else f"{label}: the {MOST_NAMED} lowest of {len(order):,} classes"
    axes = panel(figure, (left, 38, WIDE - 14, 54 + k * 17), x=title, grid="x", ticks=(5, 5))
    axes.set_yticks(range(len(texts)), texts, parse_math=False)
    for row, i in enumerate(shown_ones):
        e = estimates[i]
        if e.undefined:
            note(axes, 0.02, row, "undefined", transform=axes.get_yaxis_transform())
        else:
            axes.hlines(row, e.low, e.high, color=BLUE, linewidth=1.4)
            axes.plot([e.value], [row], color=BLUE, marker="o", markersize=5, clip_on=False)
    lows = [estimates[i].low for i in shown_ones if not estimates[i].undefined]
    axes.set(ylim=(len(texts) - 0.4, -0.6), xlim=(math.floor(min(lows, default=0) * 20 - 0.1) / 20, 1.005))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def _two_columns(probabilities_NK: np.ndarray) -> np.ndarray:
    """Add a second class of probability 0 to a classifier with a single class."""
    probabilities_NK = np.asarray(probabilities_NK, np.float64)
    return np.pad(probabilities_NK, ((0, 0), (0, 1))) if probabilities_NK.shape[1] == 1 else probabilities_NK


# ------------------------------------------------------------------------------------------------------ of the training
def curves_figure(
    epochs: Sequence[Mapping[str, float]],
    *,
    best: int | None = None,
    loss_limits: tuple[float, float] | None = None,
    accuracy_limits: tuple[float, float] | None = None,
) -> Figure:
    """Plot loss and accuracy after each epoch, on training and validation images, from rows of epochs.csv.

    `best` is the index of the epoch that was kept; by default the one with the lowest validation loss. Set the limits
    if figures are to be compared. Training images are augmented, so their loss may well be the higher one.
    """
    best = best_round(epochs) if best is None else best
    rounds = [int(float(row["epoch"])) + 1 for row in epochs]
    figure = blank(BROAD, 212)
    key(figure, [("●", BLUE, "validation"), ("○", MUTED, "training"), ("┆", INK, "epoch kept")], 52)
    limits = {"loss": loss_limits, "accuracy": accuracy_limits}
    for place, name in ((52, "loss"), (BROAD / 2 + 54, "accuracy")):
        box = (place, 38, place + BROAD / 2 - 64, 184)
        axes = panel(figure, box, x="epoch", y=name, whole="x", gap=54 if place > 52 else 52)
        if best is not None and rounds:
            axes.axvline(rounds[best], color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        for split, color, filled in (("train", MUTED, "none"), ("val", BLUE, BLUE)):
            values = [_finite(row.get(f"{split}_{name}", math.nan)) for row in epochs]
            marker = "o" if len(rounds) <= 40 else ""
            axes.plot(rounds, values, color=color, linewidth=1.6, marker=marker, markersize=4, markerfacecolor=filled)
        if rounds:
            axes.set_xlim(min(rounds) - 0.3, max(rounds) + 0.3)
        else:
            note(axes, 0.5, 0.5, "no epochs", ha="center", transform=axes.transAxes)
        if name == "accuracy":
            as_percent(axes, "y")
        spread(axes, 0.02 if name == "accuracy" else 0.05 * axes.get_ylim()[1])
        if limits[name] is not None:
            axes.set_ylim(limits[name])
    return figure


def rates_figure(steps: Sequence[Mapping[str, float]]) -> Figure:
    """Plot learning rate and training loss per step (batch), from rows of steps.csv; the loss also as a running
    mean."""
    numbers = np.array([[_finite(row[name]) for name in ("step", "lr", "loss")] for row in steps]).reshape(-1, 3)
    numbers = _binned(numbers)
    figure = blank(BROAD, 198)
    power = math.floor(math.log10(top)) if (top := float(np.nanmax(numbers[:, 1], initial=0))) > 0 else 0
    unit = "" if -2 <= power <= 3 else f", 1e{power}".replace("-", "−")
    left = panel(
        figure, (52, 38, BROAD / 2 - 8, 190), x="step", y=f"learning rate{unit}", ticks=(4, 5), whole="x", gap=52
    )
    marker = "o" if len(numbers) < 5 else ""
    rates = numbers[:, 1] / (10.0**power if unit else 1)
    left.plot(numbers[:, 0], rates, color=PURPLE, linewidth=1.6, marker=marker)
    left.set_ylim(bottom=0)
    right = panel(
        figure, (BROAD / 2 + 52, 38, BROAD - 12, 190), x="step", y="training loss", ticks=(4, 5), whole="x", gap=46
    )
    right.plot(numbers[:, 0], numbers[:, 2], color=MUTED, linewidth=0.7, alpha=0.6)
    right.plot(numbers[:, 0], _running_mean(numbers[:, 2]), color=BLUE, linewidth=1.8, marker=marker)
    return figure


def _binned(numbers_S3: np.ndarray, most: int = 400) -> np.ndarray:
    """Average equal intervals, so that there are at most `most` points."""
    if len(numbers_S3) <= most:
        return numbers_S3
    return np.array([part.mean(axis=0) for part in np.array_split(numbers_S3, most)])


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Average over a window of a twentieth of the steps, shorter at the ends; steps without a number do not count."""
    if not len(values):
        return values
    window = np.ones(max(1, len(values) // 20))
    known = np.isfinite(values)
    sums, counts = (np.convolve(x, window, "same") for x in (np.where(known, values, 0.0), known.astype(float)))
    return np.divide(sums, counts, out=np.full(len(values), math.nan), where=counts > 0)[: len(values)]


def _finite(value: float | str) -> float:
    """Parse a number of a table; NaN if it is missing or infinite."""
    read = float(value) if value != "" else math.nan
    return read if math.isfinite(read) else math.nan


# ------------------------------------------------------------------------------------------------------ of the images
def balance_figure(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """Plot images per class, {class: {set: images}}, stacked by set; with more than 30 classes, their outline, largest
    first."""
    splits = [s for s in SPLIT_COLOURS if any(row.get(s, 0) for row in counts.values())]
    splits += sorted({s for row in counts.values() for s in row if row[s]} - set(splits))
    many = len(counts) > MOST_NAMED
    names = sorted(counts, key=lambda c: -sum(counts[c].values())) if many else list(counts)
    table_KS = np.array([[counts[c].get(s, 0) for s in splits] for c in names], float).reshape(len(names), len(splits))
    starts_KS, totals_K = np.cumsum(table_KS, axis=1) - table_KS, table_KS.sum(axis=1)
    draw = _balance_of_many if many else _balance_of_few
    figure = draw(names, totals_K, [(_split_colour(s), starts_KS[:, i], table_KS[:, i]) for i, s in enumerate(splits)])
    entries = [("■", _split_colour(s), shown(s) or "not assigned") for s in splits]
    key(figure, entries if len(splits) > 1 or "" not in splits else [], 56 if many else 12)
    return figure


_Stack = Sequence[tuple[str, np.ndarray, np.ndarray]]


def _split_colour(split: str) -> str:
    return SPLIT_COLOURS.get(split, PURPLE)


def _balance_of_few(names: Sequence[str], totals_K: np.ndarray, stack: _Stack) -> Figure:
    texts, k = [shown(c) for c in names], max(len(names), 1)
    left = min(text_width(texts), 150) + 12
    figure = blank(WIDE, k * 19 + 66)
    axes = panel(figure, (left, 38, WIDE - 40, 44 + k * 19), x="images", grid="x")
    for color, starts_K, widths_K in stack:
        axes.barh(range(len(names)), widths_K, left=starts_K, height=0.72, color=color, linewidth=0)
    axes.set_yticks(range(len(names)), texts, parse_math=False)
    axes.set(ylim=(k - 0.4, -0.6), xlim=(0, max(totals_K.max(initial=0), 1) * 1.02))
    for row, total in enumerate(totals_K):
        axes.annotate(
            f"{total:,.0f}", (total, row), (4, 0), textcoords="offset points", va="center", color=INK, fontsize=SIZE
        )
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def _balance_of_many(names: Sequence[str], totals_K: np.ndarray, stack: _Stack) -> Figure:
    k = len(names)
    figure = blank(WIDE, 230)
    axes = panel(figure, (56, 38, WIDE - 16, 200), x=f"{k:,} classes, the largest first", y="images", gap=56)
    for color, starts_K, heights_K in stack:
        edges = np.arange(k + 1) + 0.5
        axes.stairs(starts_K + heights_K, edges, baseline=starts_K, fill=True, color=color, linewidth=0)
    axes.set(xlim=(0.5, k + 0.5), ylim=(0, max(totals_K.max(), 1) * 1.12))
    ends = ((0, 0.02, "left"), (k - 1, 0.98, "right"))
    for i, x, side in ends:
        height = 0.97 if side == "left" else min(0.9, totals_K[i] / max(totals_K.max(), 1) + 0.06)
        note(axes, x, height, f"{shown(names[i])}: {totals_K[i]:,.0f}", color=INK, ha=side, transform=axes.transAxes)
    return figure


def sizes_figure(widths_N: np.ndarray, heights_N: np.ndarray) -> Figure:
    """Plot widths and heights in pixels on a grid, darker for more images, and the distribution of width / height. The
    cross is the mean size."""
    widths_N, heights_N = np.asarray(widths_N, np.float64), np.asarray(heights_N, np.float64)
    figure = blank(BROAD, 216)
    left = panel(figure, (58, 38, BROAD / 2, 190), x="width, px", y="height, px", grid="both", ticks=(4, 5), gap=58)
    right = panel(figure, (BROAD / 2 + 60, 38, BROAD - 12, 190), x="width / height", y="images", ticks=(4, 5), gap=56)
    if not len(widths_N):
        note(left, 0.5, 0.5, "no images", ha="center", transform=left.transAxes)
        return figure
    _draw_sizes(left, widths_N, heights_N)
    middle = float(widths_N.mean()), float(heights_N.mean())
    left.plot(*[[x] for x in middle], color=RED, marker="+", markersize=11, markeredgewidth=2, linestyle="none")
    left.set(xlim=(0, widths_N.max() * 1.12), ylim=(0, heights_N.max() * 1.12))
    key(figure, [("+", RED, f"mean size {middle[0]:,.0f} × {middle[1]:,.0f} px")], 58)
    ratios_N = np.log2(widths_N / np.maximum(heights_N, 1))
    reach = max(float(np.abs(ratios_N).max()), 0.6)
    counts_B, edges = np.histogram(ratios_N, bins=25, range=(-reach, reach))
    right.stairs(counts_B, edges, fill=True, color=BLUE, alpha=0.7, linewidth=0)
    right.set(xlim=(-reach, reach), ylim=(0, counts_B.max() * 1.08))
    marks: tuple[float, ...] = (
        (0.5, 2 / 3, 1, 1.5, 2) if reach < 1.5 else (0.25, 0.5, 1, 2, 4) if reach < 3 else (1 / 16, 0.25, 1, 4, 16)
    )
    marks = tuple(ratio for ratio in marks if abs(math.log2(ratio)) <= reach)
    right.set_xticks([math.log2(r) for r in marks], [number(round(r, 2)) for r in marks])
    return figure


def _draw_sizes(axes: Axes, widths_N: np.ndarray, heights_N: np.ndarray, cells: int = 26) -> None:
    """Draw the squares of a grid, each with an opacity that grows with the square root of its images."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    size_N2 = np.stack([widths_N, heights_N], axis=1)
    side = np.maximum(size_N2.max(axis=0) * 1.1 / cells, 1)
    found_U2, counts_U = np.unique(np.floor(size_N2 / side), axis=0, return_counts=True)
    squares = (found_U2[:, None, :] + np.array([[0, 0], [1, 0], [1, 1], [0, 1]])) * side
    colors = np.array([to_rgba(BLUE)] * len(counts_U))
    colors[:, 3] = 0.15 + 0.85 * np.sqrt(counts_U / counts_U.max())
    axes.add_collection(PolyCollection(list(squares), facecolors=colors, linewidths=0))
