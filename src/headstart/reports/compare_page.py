"""`report.html` of a comparison: advice, all trials with intervals, trade-offs, paired differences, learning curves.

`ComparePageData` holds the content, `comparison_figures` draws the figures, and `compare_page` makes one self-contained
HTML page in the style of the other pages. For eight trials that takes 1.5 s of one core. No tests are computed here:
the differences and their verdicts come from `headstart.evaluation.paired_tests`. Not for a single run: that is
`headstart.reports.run_page`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.evaluation.image_groups import about_groups
from headstart.evaluation.intervals import Estimate
from headstart.evaluation.paired_tests import Difference
from headstart.evaluation.pareto import on_front

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = {
    "accuracy": "Accuracy",
    "f1_weighted": "F1",
    "roc_auc": "ROC area",
    "log_loss": "Log-loss",
    "ece": "ECE",
}
"""The metrics in the table, with their column headings. comparison.csv has more."""
METRICS = {"accuracy": "accuracy", "log_loss": "log-loss"}
LABELS = {
    "latency": "Test error against milliseconds per image, one point per trial",
    "training": "Test error against seconds of training, one point per trial",
    "differences-accuracy": "Paired differences in accuracy with their intervals",
    "differences-log_loss": "Paired differences in log-loss with their intervals",
}
"""The figures' names and their descriptions for screen readers."""


@dataclass(frozen=True, eq=False)
class TrialSummary:
    """One trial: test metrics by name (none if it ended with an `error`), costs (NaN or 0 where not measured), and its
    epochs, if it was trained by gradient descent (rows of epochs.csv; `best_epoch` is the index of the one kept, `stopped` the
    reason for which it ended before the last)."""

    name: str
    recipe: str
    backbones: str
    figures: Mapping[str, Estimate]
    train_seconds: float
    peak_memory_mb: float
    file_bytes: int
    latency_ms: float
    pareto_optimal: bool
    error: str = ""
    epochs: Sequence[Mapping[str, Any]] = ()
    best_epoch: int | None = None
    stopped: str = ""


@dataclass(frozen=True, eq=False)
class ComparePageData:
    """Content of a comparison's page. `contenders` are sorted, best first; `taken` names the recommended one."""

    title: str
    advice: str
    taken: str
    contenders: Sequence[TrialSummary]
    pairs: Sequence[Difference]
    notes: Sequence[str]
    facts: Sequence[tuple[str, str]]
    """What was compared, as pairs of a name and a text."""
    command: str
    groups: int = 0
    """Number of groups of images that intervals and tests are over; 0 if each image is on its own."""

    @property
    def finished(self) -> list[TrialSummary]:
        """The trials with test metrics."""
        return [c for c in self.contenders if c.figures]


def comparison_figures(compared: ComparePageData) -> dict[str, Figure]:
    """Draw the figures that there is data for, by name: trade-offs, differences, and curves-1, curves-2 ..."""
    from headstart.reports import plots

    found: dict[str, Figure] = {}
    done = compared.finished
    errors = [[1 - x for x in (e.value, e.high, e.low)] for e in (c.figures["accuracy"] for c in done)]
    costs = {
        "latency": ([c.latency_ms for c in done], [c.pareto_optimal for c in done], "milliseconds per image"),
        "training": ([c.train_seconds for c in done], None, "seconds of training"),
    }
    for name, (cost, front, label) in costs.items():
        if len(done) > 1 and any(map(math.isfinite, cost)):
            both_T2 = np.array([[e[0], x] for e, x in zip(errors, cost, strict=True)])
            value, low, high = zip(*errors, strict=True)
            found[name] = plots.pareto_figure(
                [c.name for c in done],
                cost,
                value,
                on_front(both_T2, (False, False)).tolist() if front is None else front,
                cost_label=label,
                error_label="test error",
                lows=low,
                highs=high,
            )
    for metric, text in METRICS.items():
        pairs = [p for p in compared.pairs if p.metric == metric]
        if pairs:
            found[f"differences-{metric}"] = plots.differences_figure(
                [f"{p.a} − {p.b}" for p in pairs],
                *([getattr(p, end) for p in pairs] for end in ("value", "low", "high")),
                ties=[not p.winner for p in pairs],
                label=f"difference in {text}",
                share=metric == "accuracy",
            )
    return found | _curves(compared.contenders)


def _curves(contenders: Sequence[TrialSummary]) -> dict[str, Figure]:
    """Draw the learning curves of each trial that has them, all on the same scales."""
    from headstart.reports import plots

    trained = [c for c in contenders if c.epochs]
    limits = {
        f"{name}_limits": _limits([c.epochs for c in trained], (f"train_{name}", f"val_{name}"))
        for name in ("loss", "accuracy")
    }
    drawn = [plots.curves_figure(c.epochs, best=c.best_epoch, **limits) for c in trained]
    return {f"curves-{i}": figure for i, figure in enumerate(drawn, 1)}


def _limits(tables: Sequence[Sequence[Mapping[str, Any]]], names: Sequence[str]) -> tuple[float, float] | None:
    """Return the range of these columns over all tables, with a margin; None if they hold no numbers."""
    texts = [row.get(name, "") for table in tables for row in table for name in names]
    values = [x for x in (float(text) for text in texts if text != "") if math.isfinite(x)]
    if not values:
        return None
    margin = 0.05 * max(max(values) - min(values), 0.05 * abs(max(values)), 1e-6)
    return min(values) - margin, max(values) + margin


def drawn_comparison(compared: ComparePageData, folder: Path | None = None) -> dict[str, str]:
    """Return the figures as SVG elements; with a folder, also save them there as PNG and SVG. Raises `WriteError`."""
    from headstart.reports import plots

    curves = [f"Learning curves of {c.name}" for c in compared.contenders if c.epochs]
    labels = LABELS | {f"curves-{i}": text for i, text in enumerate(curves, 1)}
    figures = comparison_figures(compared)
    if folder is None:
        return {name: plots.to_svg(figure, label=labels[name]) for name, figure in figures.items()}
    return {name: plots.save_figure(figure, folder, name, label=labels[name]) for name, figure in figures.items()}


def compare_page(compared: ComparePageData, figures: Mapping[str, str] | None = None) -> str:
    """Return the page: one self-contained HTML document that makes no requests. `figures` are those of
    `drawn_comparison`, if already drawn. Names and messages are always escaped."""
    from markupsafe import Markup

    from headstart.reports.run_page import page_css, page_part, render
    from headstart.reports.training_verdict import verdict

    drawn = drawn_comparison(compared) if figures is None else figures
    trained = [(f"curves-{i}", c) for i, c in enumerate((c for c in compared.contenders if c.epochs), 1)]
    decided = [p for p in compared.pairs if p.winner]
    return render(
        "compare.html.j2",
        css=page_css(),
        script=page_part("page.js"),
        compared=compared,
        about_groups=about_groups(compared.groups),
        columns=FIGURES,
        metrics=METRICS,
        finished=compared.finished,
        failed=[c for c in compared.contenders if not c.figures],
        pairs=[*decided, *(p for p in compared.pairs if not p.winner)],
        decided=len(decided),
        figures={name: Markup(svg) for name, svg in drawn.items()},
        curves=[{"key": key, "name": c.name, "verdict": verdict(c.epochs, c.stopped)} for key, c in trained],
        finite=math.isfinite,
    )
