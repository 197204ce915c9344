"""`headstart report RUN`: rewrite the page of a run from its folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.io.extras import require
from headstart.io.files import write_bytes
from headstart.io.folders import add_to_folder, temporary_folder
from headstart.io.given_options import as_path
from headstart.io.result_repr import Result
from headstart.pipeline.run_report import run_report, write_page
from headstart.reports.run_page import report_page
from headstart.runs.outside_runs import check_out_file
from headstart.runs.run_folder import REPORT, RunFolder


@dataclass(frozen=True, repr=False)
class ReportResult(Result):
    """Result of `report`."""

    out: str
    bytes: int
    mistakes: int
    notes: tuple[str, ...]

    def summary(self) -> str:
        """Return the size and place of the page."""
        return self.table().splitlines()[-1]

    def to_json(self) -> dict[str, Any]:
        """Return the document of `report --json`."""
        return asdict(self)

    def table(self) -> str:
        """Format as plain text for a terminal."""
        return "\n".join([*self.notes, f"{self.bytes / 1e6:.1f} MB written to {self.out}"])


def report(run: Path, *, data: Path | None = None, out: Path | None = None, heat: bool = True) -> ReportResult:
    """Write the report of a run again: metrics, plots, mistakes with heat maps, suspected labels, copies. Example:

        headstart report run --out run.html

    Args:
        run: Run folder written by `headstart train`.
        data: The images; by default where they were during training.
        out: HTML file to write; by default report.html in the run folder, with its plots in the folder plots.
        heat: Add heat maps to the mistakes; loads torch and takes a few seconds per backbone.

    Raises:
        RunError: the run folder is missing or damaged.
        DataError: `data` is not a dataset.
        WriteError: `out` cannot be written.
    """
    require(REPORT, "matplotlib")
    run, out = as_path(run, "run"), None if out is None else as_path(out, "out")
    if out is not None:
        check_out_file(out)
    opened = RunFolder(run)
    found = run_report(opened, data, heat=heat)
    if out is not None:
        place, page = out, report_page(found).encode("utf-8")
        write_bytes(place, page)
    else:
        place = run / REPORT
        with temporary_folder() as folder:
            write_page(folder, found)
            files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        page = files[REPORT]
        add_to_folder(run, files, listed=opened.files)
    return ReportResult(str(place), len(page), len(found.mistakes), tuple(found.missing.values()))
