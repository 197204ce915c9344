"""The chart of the README: accuracy against time, headstart beside Keras, fastai and a plain timm loop.

    python benchmarks/peers.py DATA --weights-dir DIR --rounds 3 --out benchmarks/results/peers.json
    python benchmarks/chart.py benchmarks/results/peers.json --out docs/figures

Writes peers-light.svg and peers-dark.svg, for GitHub's two themes; the same file gives the same bytes. Each dot is one
entry: across, the median of its minutes (log scale) and a thin line from the shortest run to the longest; upwards, the mean
of its accuracies with the 95 % Wilson interval of one test set of that size. Three runs on one test set are not three test
sets, so the interval does not get narrower with their number. Prints the same figures as a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.evaluation.intervals import quantile_of_normal

NAMES = {
    "keras": "Keras",
    "fastai": "fastai",
    "timm": "timm loop",
    "headstart-linear": "headstart, --approach linear",
    "headstart": "headstart",
    "headstart-auto": "headstart, backbone chosen",
}
THEMES = {
    "light": {"ink": "#1f2328", "muted": "#59636e", "grid": "#d1d9e0", "ours": "#0072b2", "peer": "#59636e"},
    "dark": {"ink": "#f0f6fc", "muted": "#9198a1", "grid": "#3d444d", "ours": "#56b4e9", "peer": "#9198a1"},
}
"""GitHub's own text and line colours; blue and sky blue are Okabe and Ito's."""
WIDTH, HEIGHT = 640, 300
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One entry: minutes and accuracy, each with its ends."""

    entry: str
    minutes: tuple[float, float, float]
    """Shortest, median, longest."""
    cpu_minutes: float
    accuracy: tuple[float, float, float]
    """Lower bound, mean, upper bound."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON that benchmarks/peers.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for peers-light.svg and peers-dark.svg")
    given = parser.parse_args()
    results = json.loads(given.results.read_text(encoding="utf-8"))
    found = dots(results)
    print(table(found))
    for theme in THEMES:
        (given.out / f"peers-{theme}.svg").write_text(drawn(found, results, theme), encoding="utf-8")


def dots(results: dict[str, Any]) -> list[Dot]:
    """One dot per entry, quickest first."""
    n_test, found = results["images"]["test"], []
    for entry in dict.fromkeys(m["entry"] for m in results["measured"]):
        runs = [m for m in results["measured"] if m["entry"] == entry]
        minutes = sorted(m["seconds"] / 60 for m in runs)
        mean = statistics.fmean(m["accuracy"] for m in runs)
        low, high = wilson(mean, n_test)
        found.append(
            Dot(
                entry=entry,
                minutes=(minutes[0], statistics.median(minutes), minutes[-1]),
                cpu_minutes=statistics.median(m["cpu_seconds"] / 60 for m in runs),
                accuracy=(low, mean, high),
            )
        )
    return sorted(found, key=lambda dot: dot.minutes[1])


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % Wilson interval of a share of n, which may be a mean of several (Wilson 1927).

    >>> [round(x, 3) for x in wilson(0.9, 100)]
    [0.826, 0.945]
    """
    z = quantile_of_normal(0.95)
    middle, reach = share + z * z / (2 * n), z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return (middle - reach) / (1 + z * z / n), (middle + reach) / (1 + z * z / n)


def table(found: Sequence[Dot]) -> str:
    """The figures as a table in Markdown."""
    rows = [
        f"| {NAMES[dot.entry]} | {dot.minutes[1]:.2f} ({dot.minutes[0]:.2f} to {dot.minutes[2]:.2f}) | "
        f"{dot.cpu_minutes:.2f} | {dot.accuracy[1]:.3f} [{dot.accuracy[0]:.3f}, {dot.accuracy[2]:.3f}] |"
        for dot in found
    ]
    head = ["| | minutes, median (range) | CPU minutes | test accuracy [95 % interval] |", "|---|---|---|---|"]
    return "\n".join([*head, *rows])


def drawn(found: Sequence[Dot], results: dict[str, Any], theme: str) -> str:
    """The chart as an SVG file with a transparent ground."""
    import io

    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    colour = THEMES[theme]
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
    axes = figure.add_axes((0.095, 0.165, 0.885, 0.80))
    axes.set_xscale("log")
    for dot in found:
        ours = dot.entry.startswith("headstart")
        ink, (low, mean, high) = colour["ours" if ours else "peer"], dot.accuracy
        shortest, median, longest = dot.minutes
        axes.plot([shortest, longest], [mean, mean], color=ink, linewidth=1)
        axes.plot([median, median], [low, high], color=ink, linewidth=1.6, solid_capstyle="butt")
        axes.plot(median, mean, "o" if ours else "s", color=ink, markersize=9 if ours else 7)
        offset, weight = (8, 5), "bold" if ours else "normal"
        axes.annotate(
            NAMES[dot.entry],
            (median, mean),
            offset,
            textcoords="offset points",
            color=ink,
            fontsize=11,
            fontweight=weight,
        )
    low_end, high_end = min(d.minutes[0] for d in found), max(d.minutes[2] for d in found)
    axes.set_xlim(low_end / 1.25, high_end * 1.9)
    axes.xaxis.set_major_locator(FixedLocator([t for t in TICKS if low_end / 1.25 <= t <= high_end * 1.9]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} min"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    axes.set_ylim(top=1.0)
    axes.set_ylabel("test accuracy", color=colour["muted"], fontsize=10)
    n = results["images"]
    axes.set_xlabel(
        f"wall time, {results['cores']} CPU cores (log); {n['train']:,} training images, {n['test']:,} test images",
        color=colour["muted"],
        fontsize=10,
    )
    axes.grid(axis="y", color=colour["grid"], linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=3, width=0.7, color=colour["muted"], labelcolor=colour["ink"], labelsize=10)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=colour["muted"], linewidth=0.7)
    axes.set_facecolor("none")
    figure.patch.set_alpha(0)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "headstart"}):
        FigureCanvasSVG(figure).print_svg(file, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


if __name__ == "__main__":
    main()
