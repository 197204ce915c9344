"""The run folder: the only module that knows its files and keys. `train` writes it, everything else reads it.

    run = RunFolder(Path("run"))
    run.classifier, run.provenance, run.metrics.test["accuracy"]

Each file is compared with the manifest and parsed on first use: a SHA-256 before any parser sees a byte. So an edited
model card, or a table that is gone, harms only what reads it, and files that are not in the manifest (`.DS_Store`,
`.git`, a note) are never read. Files can grow: unknown keys and columns are ignored, and `FORMAT` changes only when a
known one changes its meaning or is removed.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import numpy as np

from headstart.data.corrections import Corrections, read_corrections
from headstart.data.findings import CHECKS_HEADER, Finding, checks_rows, read_checks
from headstart.data.not_copies import CopyRow, NotCopies, copy_row, read_not_copies, write_copies
from headstart.data.splits import SPLIT_HEADER, SplitRow
from headstart.errors import BadWeights, DamagedRun, HeadstartError, MissingRun, RunError, UnsupportedRun
from headstart.evaluation.metrics import Metrics
from headstart.io.files import copy_file, read_csv, read_json, write_bytes, write_csv, write_json, write_text
from headstart.io.folders import MANIFEST, RESTORE, check_listed, read_manifest, write_manifest
from headstart.io.given_options import as_path
from headstart.io.text_table import few
from headstart.model.inference.classifier import Classifier
from headstart.model.inference.predictions import Predictions, read_predictions, write_predictions
from headstart.runs.provenance import Provenance
from headstart.runs.saved_classifier import member_files, origin_without_path, read_classifier, write_classifier
from headstart.training.history import HistoryRow
from headstart.training.hooks import EpochRow, StepRow

FORMAT = 2

CLASSIFIER = "headstart.json"
SPLIT = "split.csv"
PREDICTIONS = "predictions.csv"
METRICS = "metrics.json"
CHECKS = "checks.csv"
COPIES = "copies.csv"
CORRECTIONS = "corrections.csv"
NOT_COPIES = "not_copies.csv"
HISTORY = "history.csv"
EPOCHS = "epochs.csv"
STEPS = "steps.csv"
TRAINING_IMAGES = "training_images.png"
MODEL_CARD = "README.md"
REPORT = "report.html"
EXPORTED = "export.json"
"""A file that only exports contain."""
PLOTS = "plots"

FIGURES = ("balance", "classes", "confusion", "coverage", "curves", "rates", "reliability", "sizes")
REPORT_FILES = frozenset({REPORT, *(f"{PLOTS}/{name}.{kind}" for name in FIGURES for kind in ("png", "svg"))})
"""Files of a run folder that `headstart report` rewrites."""

_TableRow = TypeVar("_TableRow")


@dataclass(frozen=True)
class RunMetrics:
    """Content of metrics.json: metrics on the test and validation set, and seconds by step.

    `test` is None if no test set was kept (`--test-size 0`).
    """

    test: Metrics | None
    val: Metrics
    seconds: Mapping[str, float]

    @property
    def judged(self) -> Metrics:
        """The metrics to report: on the test set, else on the validation set."""
        return self.val if self.test is None else self.test

    @property
    def split(self) -> str:
        """The set that `judged` is about: 'test' or 'val'."""
        return "val" if self.test is None else "test"


@dataclass(frozen=True, eq=False)
class TrainingLog:
    """Records of gradient descent: epochs, steps, and a PNG of some images as the network received them."""

    epochs: Sequence[EpochRow]
    steps: Sequence[StepRow]
    images_png: bytes


@dataclass(frozen=True, eq=False, kw_only=True)
class RunRecord:
    """Results of a training run to write: all of a run folder except metrics, report and model card."""

    classifier: Classifier
    provenance: Provenance
    split: Sequence[SplitRow]
    predictions: Predictions
    history: Sequence[HistoryRow]
    findings: Sequence[Finding]
    copies: Sequence[CopyRow]
    corrections: Corrections
    not_copies: NotCopies
    training: TrainingLog | None = None


class RunFolder:
    """A run folder, open for reading.

    Opening raises `MissingRun` (there is none), `DamagedRun` (the manifest or `headstart.json` differ from what was
    written) and `UnsupportedRun` (another format). Any other file that differs or cannot be parsed raises `DamagedRun`
    on first use.
    """

    def __init__(self, path: Path) -> None:
        self.path = as_path(path, "run")
        if not self.path.is_dir():
            raise self._no_folder()
        if not (self.file(MANIFEST).is_file() or self.file(CLASSIFIER).is_file()):
            raise self._not_a_run()
        self.files: Mapping[str, str] = read_manifest(self.path, RESTORE)
        """{relative path: SHA-256} of the files as they were written."""
        if CLASSIFIER not in self.files:
            raise self._not_a_run()
        with self._as_written(CLASSIFIER):
            self._described: Mapping[str, Any] = read_json(self.checked(CLASSIFIER))
            _check_format(self.path, self._described["format"])

    def _no_folder(self) -> MissingRun:
        if not self.path.is_file():
            return MissingRun(
                f"{self.path}: there is no such run folder.", hint="`headstart train DATA --out RUN` writes one."
            )
        if (self.path.parent / CLASSIFIER).is_file():
            return MissingRun(f"{self.path}: is a file of a run folder.", hint=f"Give the folder: {self.path.parent}")
        return MissingRun(
            f"{self.path}: is a file; expected a run folder.",
            hint="If it is an archive of one, unpack it, and give the folder.",
        )

    def _not_a_run(self) -> MissingRun:
        if self.file(EXPORTED).is_file():
            return MissingRun(
                f"{self.path}: is an export of a run, not the run folder.",
                hint="`headstart predict`, `evaluate` and `verify` accept an export; give the run folder itself here.",
            )
        inside = [str(file.parent) for of in ("*", "runs/*") for file in sorted(self.path.glob(f"{of}/{CLASSIFIER}"))]
        return MissingRun(
            f"{self.path}: is not a run folder (it has no {CLASSIFIER}).",
            hint=f"It holds {few(inside, 3)}: give the run folder itself."
            if inside
            else "`headstart train` writes one.",
        )

    def file(self, name: str) -> Path:
        """Return the path of a file of that name, whether it exists or not."""
        return self.path / name

    def checked(self, name: str) -> Path:
        """Return the path of a file that is as it was written. Raises `DamagedRun`."""
        return check_listed(self.path, name, self.files)

    def check(self) -> None:
        """Compare every file with the manifest, except those that are only for people. Raises `DamagedRun`."""
        for name in self.files:
            if name != MODEL_CARD and name not in REPORT_FILES:
                self.checked(name)

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier, ready to predict."""
        with self._as_written(CLASSIFIER):
            for name in member_files(self._described):
                self.checked(name)
            return read_classifier(self.path, self._described)

    @cached_property
    def provenance(self) -> Provenance:
        """The classifier's provenance. Raises `UnsupportedRun` for a folder from `copy_classifier`."""
        if "provenance" not in self._described:
            raise UnsupportedRun(
                f"{self.path}: holds a classifier only, without the record of its training.",
                hint="`headstart predict` can use it. Otherwise, give the run folder that it was exported from.",
            )
        with self._as_written(CLASSIFIER):
            return Provenance.from_json(self._described["provenance"])

    @cached_property
    def split(self) -> tuple[SplitRow, ...]:
        """Every usable image with its set."""
        return self._rows(SPLIT, _split_row)

    @property
    def training_rows(self) -> list[SplitRow]:
        """The images used to make the classifier: the training and the validation set."""
        return [row for row in self.split if row.split in ("train", "val")]

    @property
    def training_sha256s(self) -> frozenset[str]:
        """SHA-256 of the files of `training_rows`."""
        return frozenset(row.sha256 for row in self.training_rows)

    @property
    def training_prior(self) -> np.ndarray:
        """float64 (K,): frequency of each class among `training_rows`."""
        counts = Counter(row.label for row in self.training_rows)
        counts_K = np.array([counts[name] for name in self.classifier.classes], np.float64)
        return counts_K / counts_K.sum() if counts_K.any() else np.full(len(counts_K), 1 / len(counts_K))

    @cached_property
    def predictions(self) -> Predictions:
        """Predictions for the test set and unlabelled images; unreadable images by name.

        Without a test set, those for the validation set, by layers that were fitted on the training set only.
        """
        with self._as_written(PREDICTIONS):
            return read_predictions(self.checked(PREDICTIONS))

    @cached_property
    def metrics(self) -> RunMetrics:
        """Test and validation metrics, and seconds by step."""
        with self._as_written(METRICS):
            read = read_json(self.checked(METRICS))
            seconds = {str(name): float(value) for name, value in read["seconds"].items()}
            test = None if read["test"] is None else Metrics.from_json(read["test"])
            return RunMetrics(test, Metrics.from_json(read["val"]), seconds)

    @cached_property
    def history(self) -> tuple[HistoryRow, ...]:
        """All trials of the training run."""
        return self._rows(HISTORY, _parser(HistoryRow))

    @cached_property
    def epochs(self) -> tuple[EpochRow, ...]:
        """Epochs of gradient descent, if any."""
        return self._rows(EPOCHS, _parser(EpochRow), optional=True)

    @cached_property
    def steps(self) -> tuple[StepRow, ...]:
        """Steps of gradient descent, if any."""
        return self._rows(STEPS, _parser(StepRow), optional=True)

    @cached_property
    def training_images_png(self) -> bytes:
        """A PNG of some images as the network received them in gradient descent; empty if there was none."""
        return self.checked(TRAINING_IMAGES).read_bytes() if self.has(TRAINING_IMAGES) else b""

    @property
    def training(self) -> TrainingLog | None:
        """Records of gradient descent, if any."""
        return TrainingLog(self.epochs, self.steps, self.training_images_png) if self.has(EPOCHS) else None

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """Findings of the data checks."""
        rows = self._rows(CHECKS, lambda row: tuple(row[c] for c in CHECKS_HEADER))
        with self._as_written(CHECKS):
            return read_checks(rows)

    @cached_property
    def copies(self) -> tuple[CopyRow, ...]:
        """What was taken for copies, pair by pair."""
        return self._rows(COPIES, lambda row: copy_row(dict(row)), optional=True)

    @cached_property
    def corrections(self) -> Corrections:
        """The corrections of labels that were applied; none is false."""
        with self._as_written(CORRECTIONS):
            return read_corrections(self.checked(CORRECTIONS) if self.has(CORRECTIONS) else None)

    @cached_property
    def not_copies(self) -> NotCopies:
        """The pairs marked as not copies; false if there are none."""
        with self._as_written(NOT_COPIES):
            return read_not_copies(self.checked(NOT_COPIES) if self.has(NOT_COPIES) else None)

    def has(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        return name in self.files

    def _rows(
        self, name: str, parsed: Callable[[Mapping[str, str]], _TableRow], *, optional: bool = False
    ) -> tuple[_TableRow, ...]:
        if optional and not self.has(name):
            return ()
        with self._as_written(name):
            return tuple(parsed(row) for row in read_csv(self.checked(name)))

    @contextmanager
    def _as_written(self, name: str) -> Iterator[None]:
        """Turn any error while parsing a file into `DamagedRun`."""
        try:
            yield
        except RunError:
            raise
        except BadWeights as error:
            raise DamagedRun(
                error.message, hint="Its weights were not written by headstart, or are damaged: train again."
            ) from error
        except (
            *(KeyError, TypeError, ValueError, AttributeError, IndexError, OSError, RecursionError, OverflowError),
            HeadstartError,
        ) as error:
            raise DamagedRun(
                f"{self.file(name)}: is not a valid file of format {FORMAT}: {error!r}.",
                hint="It may be from a newer version: update headstart, or train again.",
            ) from error


def load_classifier(run: Path) -> Classifier:
    """Load the classifier of a run folder, whose files have to be as they were written. Raises `MissingRun`, `DamagedRun`,
    `UnsupportedRun`."""
    return RunFolder(run).classifier


def copy_classifier(run: RunFolder, folder: Path) -> None:
    """Write a run folder that holds a run's classifier and nothing else: no path, no list of images.

    Raises `DamagedRun`, `WriteError`.
    """
    described = {key: value for key, value in read_json(run.checked(CLASSIFIER)).items() if key != "provenance"}
    members = [{**each, "origin": origin_without_path(each["origin"])} for each in described["members"]]
    described["members"] = members
    for name in member_files(described):
        copy_file(run.checked(name), folder / name)
    write_json(folder / CLASSIFIER, described)
    write_manifest(folder)


def write_run(folder: Path, run: RunRecord) -> None:
    """Write the results of a training run into a new folder (`folder_aside`). Raises `WriteError`."""
    described = write_classifier(folder, run.classifier)
    write_json(folder / CLASSIFIER, {"format": FORMAT, **described, "provenance": run.provenance.to_json()})
    write_csv(folder / SPLIT, SPLIT_HEADER, run.split)
    write_csv(folder / CHECKS, CHECKS_HEADER, checks_rows(run.findings))
    write_predictions(folder / PREDICTIONS, run.predictions)
    _write_rows(folder / HISTORY, HistoryRow, run.history)
    if run.corrections:
        run.corrections.write(folder / CORRECTIONS)
    if run.not_copies:
        run.not_copies.write(folder / NOT_COPIES)
    if run.copies:
        write_copies(folder / COPIES, run.copies)
    if run.training is not None:
        _write_rows(folder / EPOCHS, EpochRow, run.training.epochs)
        _write_rows(folder / STEPS, StepRow, run.training.steps)
        write_bytes(folder / TRAINING_IMAGES, run.training.images_png)


def write_metrics(folder: Path, metrics: RunMetrics) -> None:
    """Write metrics.json, separately from `write_run` because it includes the time for that. Raises `WriteError`."""
    test = None if metrics.test is None else metrics.test.to_json()
    named = {"test": test, "val": metrics.val.to_json(), "seconds": dict(metrics.seconds)}
    write_json(folder / METRICS, named)


def write_evaluation(folder: Path, predictions: Predictions, metrics: Metrics, split: str, known: int) -> None:
    """Write an evaluation's predictions and metrics of one `split` ('test' or 'all'), and how many of its images are
    `known` from the training. Raises `WriteError`.

    Not a run folder: it has no classifier.
    """
    write_predictions(folder / PREDICTIONS, predictions)
    write_json(folder / METRICS, {split: metrics.to_json(), "known": known})


def write_model_card(folder: Path, text: str) -> None:
    """Write README.md. Raises `WriteError`."""
    write_text(folder / MODEL_CARD, text)


def _check_format(run: Path, found: Any) -> None:
    """Raise `UnsupportedRun` for another format, `ValueError` for an invalid one."""
    if isinstance(found, bool) or not isinstance(found, int):
        raise ValueError(f"format {found!r}")
    if found < FORMAT:
        raise UnsupportedRun(
            f"{run}: was written by an earlier headstart (format {found}, expected {FORMAT}).",
            hint="Train again: `headstart train DATA --out RUN`.",
        )
    if found > FORMAT:
        raise UnsupportedRun(
            f"{run}: was written by a newer headstart (format {found}, expected {FORMAT}).",
            hint="Update headstart: `pip install --upgrade headstart`.",
        )


def _split_row(cells: Mapping[str, str]) -> SplitRow:
    """Parse a row. Raises `ValueError` for an invalid hash, because files are looked up by it."""
    row = _parser(SplitRow)(cells)
    if not re.fullmatch("[0-9a-f]{64}", row.sha256):
        raise ValueError(f"sha256 {row.sha256!r}")
    return row


def _float(text: str) -> float:
    return float(text) if text else math.nan


@cache
def _parser(row: type[_TableRow]) -> Callable[[Mapping[str, str]], _TableRow]:
    """Return a parser from a CSV row to `row`: each column by the type of the field of that name."""
    kinds: dict[type, Callable[[str], Any]] = {str: str, int: int, float: _float}
    columns = {name: kinds[kind] for name, kind in get_type_hints(row).items()}
    optional = _optional(row)
    return lambda cells: row(
        **{name: parsed(cells[name]) for name, parsed in columns.items() if name in cells or name not in optional}
    )


def _write_rows(path: Path, row: type, rows: Sequence[Any]) -> None:
    defaults = _optional(row)
    left_out = {name for name, value in defaults.items() if all(_same(getattr(r, name), value) for r in rows)}
    names = [f.name for f in fields(row) if f.name not in left_out]
    write_csv(path, names, [tuple(getattr(r, name) for name in names) for r in rows])


def _same(one: Any, other: Any) -> bool:
    return bool(one == other or (one != one and other != other))  # nan is nan


def _optional(row: type) -> dict[str, Any]:
    """Return the default of each column that is left out where all rows have it: those that were added later."""
    if not is_dataclass(row):
        return {}
    return {f.name: f.default for f in fields(row) if f.metadata.get("optional")}
