"""Figures of a comparison: error against cost, and paired differences with their intervals. See `headstart.reports.plots`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.reports.figure_style import (
    BLUE,
    INK,
    MUTED,
    SIZE,
    WIDE,
    as_percent,
    blank,
    key,
    note,
    panel,
    shown,
    text_width,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def pareto_figure(
    names: Sequence[str],
    costs: Sequence[float],
    errors: Sequence[float],
    on_front: Sequence[bool],
    *,
    cost_label: str,
    error_label: str,
    lows: Sequence[float] | None = None,
    highs: Sequence[float] | None = None,
) -> Figure:
    """Plot error against cost (lower is better in both): filled and named on the Pareto front, hollow elsewhere.

    `lows` and `highs` are the errors' intervals. Points with a NaN are left out. An axis whose values span more than a
    factor of ten is logarithmic. The caller decides what is on the front: it may consider more than these two.
    """
    cost_T, error_T, front_T = np.asarray(costs, float), np.asarray(errors, float), np.asarray(on_front, bool)
    figure = blank(WIDE, 276)
    axes = panel(figure, (58, 38, WIDE - 12, 250), x=cost_label, y=error_label, grid="both", gap=58)
    key(figure, [("●", BLUE, "on the Pareto front"), ("○", MUTED, "not on it")], 58)
    as_percent(axes, "y")
    known = np.flatnonzero(np.isfinite(cost_T) & np.isfinite(error_T)).tolist()
    if not len(known):
        note(axes, 0.5, 0.5, "nothing was measured", ha="center", transform=axes.transAxes)
        return figure
    if lows is not None and highs is not None:
        for t in known:
            axes.vlines(cost_T[t], lows[t], highs[t], color=BLUE if front_T[t] else MUTED, linewidth=1, alpha=0.55)
    for t in known:
        color, size = (BLUE, 7.0) if front_T[t] else (MUTED, 6.0)
        how: dict[str, Any] = {"color": color, "markersize": size, "markerfacecolor": color if front_T[t] else "none"}
        axes.plot([cost_T[t]], [error_T[t]], marker="o", linestyle="none", **how)
    top = np.nanmax(error_T[known] if highs is None else np.asarray(highs, float)[known])
    _scale(axes, "x", cost_T[known], float(cost_T[known].max()) * 1.12)
    _scale(axes, "y", error_T[known], float(top) * 1.05)
    _name_points(
        axes,
        [(t, shown(names[t], 28)) for t in sorted(known, key=lambda t: (not front_T[t], error_T[t]))],
        cost_T,
        error_T,
        front_T,
    )
    return figure


def _scale(axes: Axes, which: str, value_M: np.ndarray, top: float) -> None:
    """Scale an axis from 0, or logarithmically with plain numbers if values differ more than tenfold."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axis, low, high = (axes.xaxis if which == "x" else axes.yaxis), float(value_M.min()), float(value_M.max())
    limit = axes.set_xlim if which == "x" else axes.set_ylim
    if low <= 0 or high / low <= 10:
        limit(0, top or 1)
        return
    shape = axis.get_major_formatter()
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    limit(low / 1.6, max(top, high * 1.3))
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = (1, 3) if high / low > 100 else (1, 2, 5)
    axis.set_major_locator(FixedLocator([s * 10.0**p for p in powers for s in steps]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(shape)


def _name_points(
    axes: Axes, texts: Sequence[tuple[int, str]], cost_T: np.ndarray, error_T: np.ndarray, front_T: np.ndarray
) -> None:
    """Write a name beside each point that has room for one, in the order given; skip the others."""
    place = axes.transData.transform(np.stack([cost_T, error_T], axis=1)) * (72 / axes.figure.dpi)
    frame = axes.get_window_extent()
    left, bottom, right, top = (x * 72 / axes.figure.dpi for x in frame.extents)
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in place[[t for t, _ in texts]]]
    for t, text in texts:
        (x, y), width = place[t], text_width([text], SIZE - 0.5) * 0.92
        for dx, dy, side in (
            (8, 0, "left"),
            (-8, 0, "right"),
            (8, 11, "left"),
            (8, -11, "left"),
            (-8, 11, "right"),
            (-8, -11, "right"),
        ):
            start = x + dx - (width if side == "right" else 0)
            box = (start, y + dy - 6, start + width, y + dy + 6)
            free = all(box[2] < o[0] or o[2] < box[0] or box[3] < o[1] or o[3] < box[1] for o in taken)
            if free and box[0] > left and box[2] < right and box[1] > bottom and box[3] < top + 8:
                taken.append(box)
                axes.annotate(
                    text,
                    (cost_T[t], error_T[t]),
                    (dx, dy),
                    textcoords="offset points",
                    parse_math=False,
                    annotation_clip=False,
                    ha=side,
                    va="center",
                    color=INK if front_T[t] else MUTED,
                    fontsize=SIZE - 0.5,
                )
                break


def differences_figure(
    labels: Sequence[str],
    values: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    *,
    ties: Sequence[bool] | None = None,
    label: str = "difference",
    share: bool = False,
) -> Figure:
    """Plot differences with their intervals, one line each, around zero; `ties` are hollow and grey. `share`: as
    percentages.

    With more than 40, show 40: those that are not ties first, then the largest.
    """
    tied = [False] * len(labels) if ties is None else list(ties)
    order = list(range(len(labels)))
    if len(order) > 40:
        order = sorted(order, key=lambda i: (tied[i], -abs(values[i])))[:40]
    texts, k = [shown(labels[i], 44) for i in order], max(len(order), 1)
    left = text_width(texts, SIZE - 0.5) + 12
    wide = max(WIDE, left + 190)
    figure = blank(wide, k * 18 + 64)
    axes = panel(figure, (left, 38, wide - 14, 56 + k * 18), x=label, grid="x", ticks=(4, 4))
    axes.axvline(0, color=INK, linewidth=0.9)
    for row, i in enumerate(order):
        color = MUTED if tied[i] else BLUE
        if math.isfinite(values[i]):
            axes.hlines(row, lows[i], highs[i], color=color, linewidth=1.4)
            fill = "none" if tied[i] else color
            axes.plot([values[i]], [row], color=color, marker="o", markersize=5, markerfacecolor=fill)
    axes.set_yticks(range(len(texts)), texts, parse_math=False, fontsize=SIZE - 0.5)
    for tick, i in zip(axes.get_yticklabels(), order, strict=True):
        tick.set_color(MUTED if tied[i] else INK)
    axes.set_ylim(k - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if share:
        as_percent(axes, "x")
    return figure
