"""From a dataset to a run folder: the whole of `headstart train`.

    open -> scan -> split -> fit (`pipeline.fit`) -> test once -> run folder, report, model card

Layers are fitted on the training set. Backbones are chosen by leave-one-out on training and validation set; the validation
set selects head, epoch and temperature (with few images, cross-validation on both selects head and temperature); a closed-form
head is then refitted on both. The test set is used once, at the very end. With `test_size` 0 there is none: then the
figures are those on the validation set, from layers fitted on the training set only, and are marked as such.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import headstart
from headstart.data.corrections import read_corrections
from headstart.data.curation import Curation
from headstart.data.data_source import DataSource
from headstart.data.dataset import Dataset, hash_rows
from headstart.data.earlier_split import EarlierSplit
from headstart.data.findings import Finding
from headstart.data.not_copies import copy_rows, read_not_copies
from headstart.data.open_dataset import open_dataset, require_trainable
from headstart.data.splits import groups_hash, make_split, require_sets, split_hash, split_rows, undivided_copies
from headstart.evaluation.metrics import Metrics, compute_metrics
from headstart.images.limits import REASONS
from headstart.io.addresses import absolute
from headstart.io.files import png_bytes, sha256_file
from headstart.io.folders import MANIFEST, check_outside_data, folder_aside
from headstart.io.progress import log
from headstart.io.result_repr import Result
from headstart.io.stores.store import check_online
from headstart.io.text_table import few, plain
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.inference.classifier import Classifier
from headstart.model.inference.predictions import Predictions
from headstart.pipeline.fit import FitResult, ResolvedBackbones, fit_classifier, resolve_backbones
from headstart.pipeline.fit_heads import FittedHead
from headstart.pipeline.fit_task import NO_CHOICES, Clock, EarlierChoices, FitTask
from headstart.pipeline.run_report import training_report, write_report
from headstart.pipeline.scan import ScannedDataset, prepare_groups, scan, with_named_groups
from headstart.reports.model_card import ON_VALIDATION, model_card
from headstart.runs.outside_runs import check_run_place
from headstart.runs.provenance import (
    CopiesRecord,
    CorrectionsRecord,
    DataRecord,
    FinetuneRecord,
    HeadRecord,
    Provenance,
)
from headstart.runs.run_folder import (
    RunFolder,
    RunMetrics,
    RunRecord,
    TrainingLog,
    write_metrics,
    write_model_card,
    write_run,
)
from headstart.training.checkpoint import Checkpoint
from headstart.training.history import HistoryRow
from headstart.training.recipe import Recipe
from headstart.training.resume import ResumePoint

if TYPE_CHECKING:
    from headstart.training.finetune import FinetuneResult


HEAT_SECONDS = 10.0
"""Seconds of the budget that have to be left for heat maps in the report."""
NO_TEST = "No test set is kept (--test-size 0): all images are used for training and validation."
KEPT_TEST = "A test set comes with the data or the split. It is kept: --test-size 0 means only that none is split off."


@dataclass(frozen=True)
class TrainRequest:
    """Arguments of a training run. `earlier` is what to take over from the run that is being repeated."""

    source: DataSource
    out: Path
    recipe: Recipe
    weights: WeightsSource = WeightsSource()
    split: Path | None = None
    curation: Curation = Curation()
    restart: bool = False
    report: bool = True
    earlier: EarlierChoices = NO_CHOICES


def train_run(asked: TrainRequest) -> TrainResult:
    """Train, and write the run folder. Raises what `headstart.train` raises."""
    with ExitStack() as at_end:
        return _train_run(asked, at_end)


def _train_run(asked: TrainRequest, at_end: ExitStack) -> TrainResult:
    """Train, write the run folder, and leave to `at_end` what is to be done whether it could be written or not."""
    source, out, recipe, split = asked.source, asked.out, asked.recipe, asked.split
    clock = Clock()
    check_online(source.place, offline=asked.weights.offline)
    check_run_place(out)
    check_outside_data(out, source.place, name="run")
    corrections, opened = read_corrections(asked.curation.corrections), open_dataset(source)
    refused = read_not_copies(asked.curation.not_copies).checked(opened)
    corrections = corrections.spelled_as(opened)
    changes = corrections.changing(opened)
    opened = corrections.applied_to(opened)
    if split is None:
        prepare_groups(opened, source)
    resolved = resolve_backbones(recipe, weights=asked.weights, earlier=asked.earlier, images=len(opened))
    scanned = scan(source, opened=opened, not_copies=refused)
    require_trainable(scanned.dataset)
    given, near = scanned.dataset, scanned.copies.groups_N
    if split is not None:
        table = EarlierSplit.read(Path(split), given, scanned.images.sha256s, corrections)
        given = with_named_groups(table.applied(), scanned, source)
        near = undivided_copies(given, near) if table.joins_copies() else near
    dataset = make_split(given, seed=recipe.seed, val_size=recipe.val_size, test_size=recipe.test_size, near=near)
    unfinished = _unfinished(out, dataset, scanned, recipe, resolved)
    if asked.restart:
        unfinished.path.unlink(missing_ok=True)
    Checkpoint(unfinished.path, unfinished.key).refuse_another()
    tested = bool((dataset.split == "test").any())
    require_sets(dataset, ("train", "val", "test") if recipe.test_size else ("train", "val"))
    if not recipe.test_size:
        log.info("%s", KEPT_TEST if tested else NO_TEST)
    choices = _interrupted(unfinished, asked.earlier)
    task = FitTask(
        dataset=dataset,
        images=scanned.images,
        recipe=recipe,
        runtime=resolved.runtime,
        clock=clock,
        resume=unfinished,
        earlier=choices,
    )
    result = fit_classifier(task, resolved)
    if result.finetuned is not None:
        at_end.callback(result.finetuned.discard)
    classifier = result.classifier
    classes = dataset.classes
    predictions = _predict(result, dataset, tested=tested)
    val_N, test_N = (dataset.groups[dataset.split == name] for name in ("val", "test"))
    val = compute_metrics(result.val_logits_NK, result.val_labels_N, classes, groups=val_N, seed=recipe.seed)
    judged = _labelled(predictions, dataset, "test")
    test = compute_metrics(*judged, classes, groups=test_N, seed=recipe.seed) if tested else None
    clock.lap("judge")
    corrected = CorrectionsRecord(changes.relabelled, changes.dropped) if corrections else None
    provenance = _provenance(source, dataset, scanned, result, corrected)
    found = scanned.findings(replace(dataset, groups=given.groups), scanned.copies)
    earlier = (out / MANIFEST).is_file()
    with folder_aside(out) as folder:
        record = RunRecord(
            classifier=classifier,
            provenance=provenance,
            split=split_rows(dataset, scanned.images.sha256s),
            predictions=_reported(predictions, dataset, scanned, "test" if tested else "val"),
            history=result.history,
            findings=found,
            copies=copy_rows(scanned.copies, scanned.dataset, scanned.images.sha256s),
            corrections=corrections,
            not_copies=refused,
            training=_training_log(result.finetuned or result.attempt, classes),
        )
        write_run(folder, record)
        clock.lap("write")
        if asked.report:
            metrics = RunMetrics(test, val, clock.laps)
            heat = task.seconds_left > HEAT_SECONDS
            write_report(
                folder, lambda: training_report(out, source, scanned, result, record, predictions, metrics, heat=heat)
            )
            clock.lap("report")
        write_metrics(folder, RunMetrics(test, val, clock.laps))
        write_model_card(folder, model_card(classifier, provenance, test, val, found))
    if result.finetuned is not None or result.attempt is not None:
        unfinished.path.unlink(missing_ok=True)
    elif unfinished.path.exists():
        log.info("The unfinished training in %s is kept.", unfinished.path)
    if earlier:
        log.info("The earlier run is kept as %s.previous, replacing any before it.", out)
    return TrainResult(
        out=str(out),
        classifier=RunFolder(out).classifier if result.finetuned is not None else classifier,
        provenance=provenance,
        test=test,
        val=val,
        findings=found,
        seconds=clock.laps,
    )


def _unfinished(
    out: Path, dataset: Dataset, scanned: ScannedDataset, recipe: Recipe, resolved: ResolvedBackbones
) -> ResumePoint:
    """Return where to keep snapshots of this training, beside its run folder, and the key that they must match.

    The key has the sets and groups as they were made: copies and options of the data decide them, not the recipe.
    """
    names = [f.name for f in fields(Recipe) if f.name not in ("budget", "device")]
    key = {name: str(getattr(recipe, name)) for name in names}
    key |= {"images": scanned.fingerprint, "split": split_hash(dataset), "not copies": scanned.not_copies.hash}
    key["groups"] = groups_hash(split_rows(dataset, scanned.images.sha256s))
    key |= {f"weights of {b.name}": b.sha256 or "random" for b in resolved.backbones}
    key |= {**_versions("torch"), "headstart's own source": _source_hash()}
    place = out.resolve()  # --out . has no name of its own
    return ResumePoint(place.with_name(f"{place.name}.unfinished"), key)


def _interrupted(unfinished: ResumePoint, otherwise: EarlierChoices) -> EarlierChoices:
    """Return the choices of the unfinished training that this one resumes: with more or less time left they might be others,
    which do not fit its weights."""
    made = Checkpoint(unfinished.path, unfinished.key).recorded_choices()
    if not made:
        return otherwise
    log.info("The unfinished training in %s is resumed with %s.", unfinished.path, few(made["backbones"], 5))
    trials = [HistoryRow(**row) for row in made["trials"]]
    return replace(otherwise, backbones=made["backbones"], two_inputs=made.get("two_inputs"), trials=trials)


def _training_log(tuned: FinetuneResult | None, classes: Sequence[str]) -> TrainingLog | None:
    """Return epochs and steps, and some images as the network received them."""
    from headstart.images.contact_sheet import contact_sheet

    if tuned is None:
        return None
    seen = contact_sheet(tuned.seen_NSS3, [classes[k] for k in tuned.seen_labels])
    return TrainingLog(tuned.epochs, tuned.steps, png_bytes(seen))


def _predict(result: FitResult, dataset: Dataset, *, tested: bool) -> Predictions:
    """Return predictions for all images; without a test set, those on validation come from layers that have not seen it."""
    classifier = result.classifier
    logits_NK = classifier.logits(result.features)
    if not tested:
        logits_NK[dataset.sets.val] = result.val_logits_NK
    return Predictions(
        paths=dataset.paths,
        classes=dataset.classes,
        logits=logits_NK,
        labels=dataset.labels,
        errors={},
        model=classifier.id,
    )


def _reported(predictions: Predictions, dataset: Dataset, scanned: ScannedDataset, split: str) -> Predictions:
    """Return the content of `predictions.csv`: one set, unlabelled images, and the names of unreadable ones."""
    held = predictions.take((dataset.split == split) | (dataset.labels < 0))
    return replace(held, errors=scanned.unreadable)


def _labelled(predictions: Predictions, dataset: Dataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    mask = dataset.split == split
    return predictions.logits[mask], dataset.labels[mask]


def _provenance(
    source: DataSource,
    dataset: Dataset,
    scanned: ScannedDataset,
    result: FitResult,
    corrections: CorrectionsRecord | None,
) -> Provenance:
    """Return the provenance to record: enough for `headstart reproduce`."""
    packages = ("headstart", "numpy", "openvino", "pillow", "timm", "torch")
    return Provenance(
        recipe=result.recipe,
        chosen=result.chosen,
        two_inputs=result.two_inputs,
        heads=tuple(_head_record(fitted) for fitted in result.heads),
        tuned=_finetune_record(result.finetuned),
        attempt=_finetune_record(result.attempt, speed=False),  # equal runs give byte-identical files
        why=result.why,
        data=DataRecord(
            source=replace(source, place=absolute(source.place)),
            images=len(dataset),
            fingerprint=scanned.fingerprint,
        ),
        corrections=corrections,
        copies=CopiesRecord(limit=round(scanned.copies.limit, 5), refused=len(scanned.not_copies.rows)),
        split_hash=split_hash(dataset),
        versions={
            "python": platform.python_version(),
            **_versions(*packages),
            "headstart's own source": _source_hash(),
        },
    )


def _versions(*packages: str) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _head_record(fitted: FittedHead) -> HeadRecord:
    strength = None if math.isnan(fitted.head.strength) else fitted.head.strength
    return HeadRecord(fitted.head.kind, strength, fitted.kernel)


def _finetune_record(tuned: FinetuneResult | None, *, speed: bool = True) -> FinetuneRecord | None:
    if tuned is None:
        return None
    return FinetuneRecord(
        approach=tuned.recipe.approach,
        backbone=tuned.extractor.backbone.name,
        trained=tuple(tuned.trained),
        epochs=len(tuned.epochs),
        best_epoch=tuned.fit.best_epoch,
        stopped=tuned.fit.stopped,
        replanned=tuned.fit.replanned,
        lr=tuned.recipe.lr,
        wise_ft=None if math.isnan(tuned.wise_ft) else tuned.wise_ft,
        images_per_second=round(tuned.images_per_second, 1) if speed else None,
    )


@dataclass(frozen=True, eq=False, repr=False)
class TrainResult(Result):
    """Result of `train`: the run folder `out`, its classifier, its provenance, and the metrics.

    `test` is None if no test set was kept (`test_size` 0); then `val` has the only figures.
    """

    out: str
    classifier: Classifier
    provenance: Provenance
    test: Metrics | None
    val: Metrics
    findings: list[Finding]
    seconds: dict[str, float]

    def summary(self) -> str:
        """Return the run folder, the backbones, and the test accuracy, or that on validation if there is no test."""
        judged = self._metrics.judged
        what = "test" if self.test else "no test set; validation"
        return f"{self.out}: {self.classifier.backbones}; {what} accuracy {judged['accuracy']}, {judged.n:,} images"

    def facts(self) -> list[tuple[str, str]]:
        """Return the metrics on the test set, or on the validation set if there is no test."""
        judged = self._metrics.judged.facts()
        return judged if self.test else [(f"validation {name.replace('_', ' ')}", text) for name, text in judged]

    @property
    def _metrics(self) -> RunMetrics:
        return RunMetrics(self.test, self.val, self.seconds)

    def to_json(self) -> dict[str, Any]:
        """Return the document of `train --json`."""
        return {
            "out": self.out,
            "model": self.classifier.id,
            "backbones": [str(p.extractor) for p in self.classifier.members],
            "runtime": str(self.classifier.runtime),
            "temperature": self.classifier.calibration.temperature,
            "test": self.test.to_json() if self.test else None,
            "val": self.val.to_json(),
            "findings": [asdict(f) for f in self.findings],
            "seconds": self.seconds,
        }

    def table(self) -> str:
        """Format as plain text for a terminal."""
        # files that cannot be used were said while reading them
        found = [f for f in self.findings if f.severity != "info" and f.check not in REASONS]
        problems = [f"{f.severity}: {plain(f.message)}" for f in found]
        took = f"{self.seconds['total']:.1f} s"
        judged = f"Test: {self.test.table()}" if self.test else f"{ON_VALIDATION}\nValidation: {self.val.table()}"
        return "\n".join([*problems, f"{self.classifier.backbones}; {took}; written to {self.out}", "", judged])


def _source_hash() -> str:
    """Return a short hash of the package's code, because the version number does not change between releases."""
    package = Path(headstart.__file__).parent
    return hash_rows((p.relative_to(package).as_posix(), sha256_file(p)) for p in sorted(package.rglob("*.py")))[:16]
