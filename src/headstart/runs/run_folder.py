"""Names of files in a run folder.

Imports nothing. Not for what is in those files: `model.inference.classifier` reads and writes the classifier.
"""

from __future__ import annotations

PAGE = "report.html"


FIGURES = ("balance", "classes", "confusion", "coverage", "curves", "rates", "reliability", "sizes")


WRITTEN = frozenset({PAGE, *(f"plots/{name}.{kind}" for name in FIGURES for kind in ("png", "svg"))})
"""Files of a run folder that are written again with its page."""
