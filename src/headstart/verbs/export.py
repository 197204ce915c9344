"""`headstart export RUN --out EXPORT`: a classifier as files that run without headstart, verified before they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from headstart.errors import RecipeError
from headstart.exporters.export_run import FORMATS, ExportRequest, export_run
from headstart.exporters.parity import Parity
from headstart.exporters.run_formats import NEXT, RUN_FORMATS
from headstart.exporters.web_folder import WebOptions
from headstart.io.given_options import as_path, names_given
from headstart.io.result_repr import Result
from headstart.io.text_table import columns, plain


@dataclass(frozen=True, eq=False, repr=False)
class Exported(Result):
    """Result of `export`: the folder `out`, the content of its export.json, and the figures (None with --check 0)."""

    out: str
    export: dict[str, Any]
    parity: Parity | None
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return the document of `export --json`."""
        figures = None if self.parity is None else self.parity.to_json()
        return {"out": self.out, "bytes": self.bytes, "export": self.export, "parity": figures}

    def summary(self) -> str:
        """Return the folder, its formats and size."""
        formats = " and ".join(self.export["formats"])
        return f"{self.out}: {formats}, {self.bytes / 1e6:,.1f} MB"

    def table(self) -> str:
        """Format as plain text for a terminal: the differences by runtime, and what they mean for decisions."""
        (first, *_) = self.export["formats"]
        if first in RUN_FORMATS:
            return f"Written to {plain(self.summary())}. Next: {NEXT[first].format(out=plain(self.out))}"
        lines = [
            f"Written to {plain(self.summary())}. Next: headstart verify {plain(self.out)}",
            *_page(self.out, self.export),
        ]
        if self.parity is None:
            return "\n".join(["Not compared with the run (--check 0).", *lines])
        int8 = [self.export["int8"]["sentence"]] if "int8" in self.export else []
        return "\n".join([*_runtimes(self.parity), "", *_decisions(self.parity, self.export), *int8, *lines])


def _page(out: str, export: dict[str, Any]) -> list[str]:
    if "web" not in export:
        return []
    if export["web"]["one_file"]:
        return [f"The page opens from the disk: {plain(out)}/index.html"]
    return [f"To try the page: python -m http.server -d {plain(out)}, then http://localhost:8000"]


def _runtimes(parity: Parity) -> list[str]:
    header = ("against torch, equal pixels", "images", "logits", "probabilities", "other class")
    rows = [
        (each.runtime, f"{each.images:,}", f"{each.logit:.1e}", f"{each.probability:.1e}", f"{each.swapped:,}")
        for each in parity.runtimes
    ]
    whole = [
        (f"{each.runtime}, whole images", f"{each.images:,}", f"{each.logit:.1e}", "", f"{each.swapped:,}")
        for each in parity.whole_images
    ]
    return columns([header, *rows, *whole])


def _decisions(parity: Parity, export: dict[str, Any]) -> list[str]:
    path = parity.path
    lines = [
        parity.about,
        f"Different class from predict: {path.flips:.2%} of {path.images:,} images; counting only those where predict had a "
        f"clear favourite: {path.clear_flips.value:.2%} of all",
    ]
    pair = path.accuracy
    if pair is not None:
        difference = f"{pair.value:+.4f} [{pair.low:+.4f}, {pair.high:+.4f}]"
        if path.metrics is None:
            lines.append(
                f"Accuracy of the export minus the run's: {difference} on {pair.n:,} validation images, which training used: "
                "they cannot say how good either is"
            )
        else:
            run, exported = (path.metrics[who]["accuracy"] for who in ("run", "export"))
            lines.append(f"Accuracy {run} by the run, {exported} by the export; difference {difference}")
    (fitted,) = export["calibration"].values()
    if path.coverage is not None:
        lines.append(
            f"Coverage of the prediction sets: {path.coverage:.1%} for the export, {path.run_coverage:.1%} for the run "
            f"(target {1 - fitted['conformal_alpha']:.0%})"
        )
    return lines


def export(
    run: Path,
    *,
    out: Path,
    to: str | Sequence[str] = ",".join(FORMATS),
    check: int = 1_000,
    samples: int = 12,
    samples_from: Literal["rendered", "own"] = "rendered",
    data: Path | None = None,
    int8: bool = False,
    ort: Path | None = None,
    one_file: bool = False,
    offline: bool = False,
) -> Exported:
    """Export a classifier to ONNX and OpenVINO, from pixels to calibrated probabilities. Example:

        headstart export run --out exported

    Args:
        run: Run folder written by `headstart train`.
        out: Folder to write: models, preprocessing, samples, verify.py, and how they compare with the run.
        to: Formats, comma-separated: onnx, openvino, web (a page that classifies in the browser); or one that keeps the
            network: hub (for timm and transformers), mlflow.
        check: Number of validation images, and of test images, on which the export is compared with the run; 0
            compares nothing.
        samples: Number of images to write with expected results, for `headstart verify`.
        samples_from: rendered (scenes that headstart draws), or own (some of the run's test images).
        data: Where the run's images are now; by default where they were during training.
        int8: Also try int8 for OpenVINO, which is written only if it is faster here and as accurate.
        ort: onnxruntime-web for --to web: npm's .tgz, or a folder; by default it is downloaded once.
        one_file: Make the page of --to web a single HTML file that can be opened from disk.
        offline: Make no outgoing connections; only --to web would make one, for onnxruntime-web.

    Raises:
        RunError: the run folder is missing or damaged.
        MissingExtra: a package that exporting needs is not installed.
        ExportError: the network cannot be converted, or the result does not answer as the run does.
        RecipeError: an option is invalid.
        DataError: `data` has none of the run's images.
        RemoteError: onnxruntime-web could not be downloaded.
        WriteError: `out` cannot be written, is not empty, or is in a run folder or the data.
    """
    out = as_path(out, "out")
    if samples_from not in ("rendered", "own"):
        raise RecipeError(f"samples_from {samples_from!r} is not known: expected rendered or own.")
    asked = ExportRequest(
        run=as_path(run, "run"),
        out=out,
        formats=tuple(dict.fromkeys(filter(None, map(str.strip, names_given(to, "to").split(","))))),
        check=check,
        samples=samples,
        own_samples=samples_from == "own",
        data=None if data is None else as_path(data, "data"),
        int8=int8,
        web=WebOptions(None if ort is None else as_path(ort, "ort"), one_file, offline),
    )
    made = export_run(asked)
    return Exported(str(out), dict(made.facts), made.parity, made.bytes)
