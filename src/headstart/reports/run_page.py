"""`report.html`: the results of a run on one page that opens offline and makes no requests.

`ReportData` holds the content; `report_page` makes the page. A section whose data is missing shows one sentence that
says why. Images are thumbnails inside the page, each included once.

Drawing and writing it takes 1 to 2 s of one core (figures, thumbnails). Not for a comparison of several runs: that is
`reports.compare_page`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files as package_files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.io.text_table import plain
from headstart.reports import sections
from headstart.reports.report_data import ReportData

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def page_css() -> str:
    """Return the style of all pages."""
    return page_part("page.css")


def content_policy(script: str) -> str:
    """Return the content security policy of a page: no requests; only exactly `script` may run."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{digest}'"
    )


LABELS = {
    "confusion": "Confusion matrix",
    "reliability": "Reliability diagram: how often predictions of a given confidence are right",
    "coverage": "Accuracy against the fraction of images answered",
    "classes": "F1 per class, with intervals",
    "curves": "Loss and accuracy per epoch, training and validation",
    "rates": "Learning rate and loss per step",
    "balance": "Images per class and set",
    "sizes": "Distribution of sizes and aspect ratios",
}
"""The figures' names and their descriptions for screen readers."""


def report_figures(report: ReportData) -> dict[str, Figure]:
    """Draw the figures of a report that there is data for, by name."""
    from headstart.reports import plots

    classes, predictions, metrics = report.metrics.classes, report.predictions, report.metrics
    labels_N = predictions.labels if predictions.labels is not None else np.full(len(predictions), -1)
    chances_NK = predictions.probabilities
    groups_N = report.groups_N if metrics.groups else None  # else their intervals are over images too
    found = {
        "confusion": plots.confusion_figure(metrics.confusion, classes),
        "reliability": plots.reliability_figure(chances_NK, labels_N, groups_N),
        "coverage": plots.coverage_figure(chances_NK, labels_N, groups_N),
        "classes": plots.classes_figure(list(classes), [metrics.per_class[c]["f1"] for c in classes]),
    }
    if report.epochs:
        found["curves"] = plots.curves_figure(report.epochs, best=report.best_epoch)
    if report.steps:
        found["rates"] = plots.rates_figure(report.steps)
    if report.balance:
        found["balance"] = plots.balance_figure(report.balance)
    if report.sizes_N2 is not None and len(report.sizes_N2):
        found["sizes"] = plots.sizes_figure(report.sizes_N2[:, 0], report.sizes_N2[:, 1])
    return found


def drawn_figures(report: ReportData, folder: Path | None = None) -> dict[str, str]:
    """Return the figures as SVG elements for the page; with a folder, also save them there as PNG and SVG.

    Raises `WriteError`.
    """
    from headstart.reports import plots

    figures = report_figures(report)
    if folder is None:
        return {name: plots.to_svg(figure, label=LABELS[name]) for name, figure in figures.items()}
    return {name: plots.save_figure(figure, folder, name, label=LABELS[name]) for name, figure in figures.items()}


def report_page(report: ReportData, figures: Mapping[str, str] | None = None) -> str:
    """Return the page: one self-contained HTML document. `figures` are those of `drawn_figures`, if already drawn."""
    drawn = drawn_figures(report) if figures is None else figures
    script = page_part("page.js") + page_part("report.js")
    return render(
        "report.html.j2", css=page_css() + page_part("report.css"), script=script, **sections.context(report, drawn)
    )


def render(template: str, *, css: str, script: str, **values: Any) -> str:
    """Render a template of `pages/`. Everything is escaped except `Markup`, the style and the script."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(page_part),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": sections.percent, "name": sections.name, "estimate": sections.estimate}
    environment.filters |= {"plain": plain, "coded": sections.coded}
    policy = content_policy(script)
    return environment.get_template(template).render(css=Markup(css), script=Markup(script), policy=policy, **values)


def page_part(name: str) -> str:
    """Return the text of a file in `pages/`."""
    return (package_files("headstart.reports") / "pages" / name).read_text(encoding="utf-8")
