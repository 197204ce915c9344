"""`headstart verify EXPORT`: does an export give the expected results on this machine, step by step?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.errors import DamagedExport, ExportError, ParityFailed
from headstart.exporters.export_folder import AGAIN, ExportFolder
from headstart.exporters.verify_export import VerifyReport
from headstart.exporters.verify_export import verify as verified
from headstart.exporters.verify_files import RefusedExport
from headstart.io.given_options import as_path
from headstart.io.result_repr import Result
from headstart.io.text_table import plain


@dataclass(frozen=True, eq=False, repr=False)
class Verification(Result):
    """Result of `verify`: what was compared, in every runtime installed here."""

    export: str
    report: VerifyReport

    def summary(self) -> str:
        """Return the export, and that everything agrees."""
        return f"{self.export}: everything agrees" if self.report.ok else f"{self.export}: does not agree"

    def to_json(self) -> dict[str, Any]:
        """Return the document of `verify --json`."""
        return {"export": self.export, "ok": self.report.ok, **asdict(self.report)}

    def table(self) -> str:
        """Format as plain text for a terminal: a row per runtime, a column per step."""
        return "\n".join(plain(line) for line in str(self.report).splitlines())


def verify(export: Path) -> Verification:
    """Check an export on this machine: its files, then each sample image step by step in every runtime. Example:

        headstart verify exported

    Args:
        export: Folder written by `headstart export`.

    Raises:
        ExportError: the export is missing or damaged, written by a newer headstart, or gives other results here.
    """
    place = as_path(export, "export")
    ExportFolder(place)
    try:
        report = verified(place)
    except RefusedExport as refusal:
        raise DamagedExport(str(refusal), hint=AGAIN) from refusal
    result = Verification(str(place), report)
    if report.first is not None:
        raise ParityFailed(f"{place}: {plain(report.first.sentence())}", hint="\n".join(map(plain, report.lines())))
    if not report.complete:
        raise ExportError(
            f"{place}: cannot be checked: {_incomplete(report)}",
            hint="Install a runtime (pip install onnxruntime), or export again with samples.",
        )
    return result


def _incomplete(report: VerifyReport) -> str:
    missing = [note for note in report.notes if "is not installed" in note]
    return plain(" ".join(missing)) or "it has no samples, or no model."
