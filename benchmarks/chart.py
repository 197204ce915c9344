"""The chart of the README: accuracy against time, headstart beside Keras, fastai and a plain timm loop.

    python benchmarks/peers.py DATA --weights-dir DIR --rounds 3 --out benchmarks/results/peers.json
    python benchmarks/chart.py benchmarks/results/peers.json --out docs/figures

Writes peers-light.svg and peers-dark.svg, for GitHub's two themes; the same input gives the same bytes. Each dot is one
entry. Horizontally: the median of its minutes (log scale), with a thin line from the shortest run to the longest. Vertically:
the mean of its accuracies, with the 95 % Wilson interval of one test set of that size; three runs on one test set are not
three test sets, so more runs do not make the interval narrower. `--time cpu` draws minutes of CPU instead of minutes on the
clock: use it if the machine had other work, which stretches the clock more than the CPU. Prints the figures as a Markdown
table. Several files are combined if their data and machine are the same.

A file of an older run, for which only the lowest and highest figures are recorded, has `"ranges"` in place of `"measured"`:
{entry: {"runs": n, "seconds": [low, high], "accuracy": [low, high]}}. Its entries are bars without a dot, and their interval
extends from the lower bound for the lowest accuracy to the upper bound for the highest.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.evaluation.intervals import wilson

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
"""GitHub's own colours for text and lines; blue and sky blue are from Okabe and Ito's palette."""
WIDTH, HEIGHT = 640, 300
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


SECONDS = {"wall": "seconds", "cpu": "cpu_seconds"}


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One entry: its times and its accuracy."""

    entry: str
    runs: int
    minutes: dict[str, tuple[float, float, float]]
    """Shortest, median (NaN if not recorded) and longest, for `wall` and `cpu`."""
    accuracy: tuple[float, float, float]
    """Lower bound, mean (of the extremes if only those were recorded), upper bound."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="JSON that benchmarks/peers.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for peers-light.svg and peers-dark.svg")
    parser.add_argument("--time", choices=list(SECONDS), default="wall")
    given = parser.parse_args()
    results = together([json.loads(file.read_text(encoding="utf-8")) for file in given.results])
    found = dots(results, given.time)
    print(table(found))
    for theme in THEMES:
        svg = drawn(found, results, theme, given.time)
        (given.out / f"peers-{theme}.svg").write_text(svg, encoding="utf-8")


def together(files: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The measurements of several files as one."""
    for other in files[1:]:
        for key in ("data", "images", "backbone", "cores"):
            if other[key] != files[0][key]:
                raise SystemExit(f"These files do not belong together: {key} is {files[0][key]} and {other[key]}.")
    return {**files[0], "measured": [m for file in files for m in file.get("measured", [])]}


def dots(results: dict[str, Any], time: str) -> list[Dot]:
    """One dot per entry, fastest first."""
    n_test, found = results["images"]["test"], [ranged(results, entry) for entry in results.get("ranges", {})]
    for entry in dict.fromkeys(m["entry"] for m in results["measured"]):
        runs = [m for m in results["measured"] if m["entry"] == entry]
        minutes = {name: sorted(m[key] / 60 for m in runs) for name, key in SECONDS.items()}
        mean = statistics.fmean(m["accuracy"] for m in runs)
        interval = wilson(round(mean * n_test), n_test)
        found.append(
            Dot(
                entry=entry,
                runs=len(runs),
                minutes={name: (of[0], statistics.median(of), of[-1]) for name, of in minutes.items()},
                accuracy=(interval.low, mean, interval.high),
            )
        )
    return sorted(found, key=lambda dot: dot.minutes[time][0])


def ranged(results: dict[str, Any], entry: str) -> Dot:
    """The dot of an entry for which only the extremes were recorded."""
    recorded, n_test = results["ranges"][entry], results["images"]["test"]
    (shortest, longest), (worst, best) = recorded["seconds"], recorded["accuracy"]
    low, high = (wilson(round(share * n_test), n_test) for share in (worst, best))
    minutes = {"wall": (shortest / 60, math.nan, longest / 60), "cpu": (math.nan,) * 3}
    return Dot(entry=entry, runs=recorded["runs"], minutes=minutes, accuracy=(low.low, (worst + best) / 2, high.high))


def table(found: Sequence[Dot]) -> str:
    """The figures as a table in Markdown."""
    rows = [
        f"| {NAMES[dot.entry]} | {dot.runs} | {span(dot.minutes['wall'])} | {span(dot.minutes['cpu'])} | "
        f"{dot.accuracy[1]:.3f} [{dot.accuracy[0]:.3f}, {dot.accuracy[2]:.3f}] |"
        for dot in found
    ]
    head = ["| | runs | minutes | minutes of CPU | test accuracy |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows])


def span(minutes: tuple[float, float, float]) -> str:
    """Median and range, in minutes.

    >>> span((0.5, 0.75, 2.0)), span((0.5, 0.5, 0.5))
    ('0.75 (0.50 to 2.00)', '0.50')
    """
    shortest, median, longest = minutes
    if math.isnan(median):
        return "" if math.isnan(shortest) else f"{shortest:.2f} to {longest:.2f}"
    return f"{median:.2f}" + (f" ({shortest:.2f} to {longest:.2f})" if shortest < longest else "")


def drawn(found: Sequence[Dot], results: dict[str, Any], theme: str, time: str) -> str:
    """The chart as an SVG file with a transparent background."""
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
        shortest, median, longest = dot.minutes[time]
        bar = math.isnan(median)
        median = (shortest * longest) ** 0.5 if bar else median
        axes.plot([shortest, longest], [mean, mean], color=ink, linewidth=8 if bar else 1, solid_capstyle="round")
        axes.plot([median, median], [low, high], color=ink, linewidth=1.6, solid_capstyle="butt")
        if not bar:
            axes.plot(median, mean, "o" if ours else "s", color=ink, markersize=9 if ours else 7)
        offset, weight = (8, 5), "bold" if ours else "normal"
        axes.annotate(
            NAMES[dot.entry],
            (longest if bar else median, mean),
            offset,
            textcoords="offset points",
            color=ink,
            fontsize=11,
            fontweight=weight,
        )
    low_end, high_end = min(d.minutes[time][0] for d in found), max(d.minutes[time][2] for d in found)
    axes.set_xlim(low_end / 1.25, high_end * 1.9)
    axes.xaxis.set_major_locator(FixedLocator([t for t in TICKS if low_end / 1.25 <= t <= high_end * 1.9]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} min"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    axes.set_ylim(top=1.0)
    axes.set_ylabel("test accuracy", color=colour["muted"], fontsize=10)
    n = results["images"]
    across = f"minutes on {results['cores']} CPU cores" if time == "wall" else "minutes of CPU time"
    axes.set_xlabel(
        f"{across} (log); {n['train']:,} training images, {n['test']:,} test images",
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
