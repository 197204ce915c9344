"""`parity.html` of an export: what was compared with the run, on which images, and how large the differences are.

`ParityPageData` holds the content; `parity_page` makes one HTML document of it that makes no requests, in the style of
the other pages. Takes milliseconds. It shows figures and judges nothing: an export whose figures are beyond their limits is
never written (`headstart.exporters.parity`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headstart.evaluation.intervals import Estimate


@dataclass(frozen=True, eq=False)
class ParityPageData:
    """Content of the page: the classifier in words, export.json, and parity.json (None if nothing was compared)."""

    title: str
    facts: Mapping[str, Any]
    parity: Mapping[str, Any] | None


def parity_page(shown: ParityPageData) -> str:
    """Return the page as HTML."""
    from headstart.reports.run_page import page_css, page_part, render

    return render(
        "parity.html.j2",
        css=page_css(),
        script=page_part("page.js"),
        shown=shown,
        parity=shown.parity,
        calibration=next(iter(shown.facts["calibration"].values())),
        as_estimate=Estimate.from_json,
        images_of={"test": "test images", "val": "validation images, which training used"},
        figures={"accuracy": "Accuracy", "log_loss": "Log-loss", "ece": "ECE"},
    )
