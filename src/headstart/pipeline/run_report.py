"""Collect the content of reports; `reports` lays it out.

    training_report      for a training run that has just ended: everything is in memory
    run_report           for a run folder: features come from the cache, or images are embedded again
    evaluation_report    for a classifier on other images

Without the images, the page is still made and says what is missing.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.data.data_source import DataSource
from headstart.data.dataset import Dataset
from headstart.data.open_dataset import open_dataset
from headstart.errors import BackboneError, DataError, HeadstartError, MissingExtra, StoreError, WriteError
from headstart.evaluation.metrics import Metrics
from headstart.images.file_part import ImageFile
from headstart.images.image_refs import Images
from headstart.images.validate import ImageInfo, validate_images
from headstart.io.extras import require
from headstart.io.files import write_text
from headstart.io.progress import log
from headstart.io.text_table import few, plain
from headstart.model.inference.classifier import Classifier
from headstart.model.inference.features import Embedder, embed_images
from headstart.model.inference.predictions import Predictions
from headstart.pipeline.nearest_images import mean_cosines, nearest, unit_rows
from headstart.pipeline.scan import ScannedDataset
from headstart.reports.model_card import made_by
from headstart.reports.report_data import ReportData, SimilarImage, Suspect, mistakes, sides_of
from headstart.reports.run_page import drawn_figures, report_page
from headstart.reports.sections import MOST_MISTAKES
from headstart.runs.provenance import Provenance
from headstart.runs.run_folder import PLOTS, REPORT, RunFolder, RunMetrics, RunRecord, TrainingLog
from headstart.training.history import KERNEL, HistoryRow

if TYPE_CHECKING:
    from headstart.pipeline.fit import FitResult


NEAREST = 3
MOST_HEAT = 24
VERSIONS_SHOWN = ("headstart", "torch", "timm", "openvino")


def write_report(folder: Path, made: Callable[[], ReportData]) -> None:
    """Write `report.html` and `plots/` with the content from `made` into a new folder. Raises `WriteError`.

    A page that cannot be made only causes a warning, so that the run is not lost.
    """
    try:
        require(REPORT, "matplotlib", hint="Then `headstart report` adds it to a run.")
        write_page(folder, made())
    except MissingExtra as error:
        log.warning("%s", error)
    except WriteError:
        raise
    except HeadstartError as error:
        log.warning("%s could not be made: %s Try again with `headstart report`.", REPORT, error.message)
    except Exception as error:
        log.warning("%s could not be made: %r. Try again with `headstart report`.", REPORT, error, exc_info=error)


def write_page(folder: Path, found: ReportData) -> None:
    figures = drawn_figures(found, folder / PLOTS)
    write_text(folder / REPORT, report_page(found, figures))


# Content


NOTHING_TRAINED = "Nothing was trained by gradient descent: the pretrained networks are unchanged, with new heads."


def training_report(
    out: Path,
    source: DataSource,
    scanned: ScannedDataset,
    result: FitResult,
    record: RunRecord,
    predictions: Predictions,
    metrics: RunMetrics,
    *,
    heat: bool = True,
) -> ReportData:
    """Collect the report of a training run that has just ended. `predictions` are those of all its images.

    With `heat`, mistakes have heat maps if gradient descent was tried: torch is loaded then, and they take seconds.
    """
    classifier, made, judged = record.classifier, record.provenance, result.dataset.split == metrics.split
    bare = ReportData(
        **_of_tables(result.dataset),
        title=_title(source, classifier),
        predictions=_judged(predictions.take(judged)),
        metrics=metrics.judged,
        split=metrics.split,
        groups_N=result.dataset.groups[judged],
        val=metrics.val if metrics.test else None,
        facts=_facts(classifier, made),
        trials=result.history,
        taken=_taken(classifier, made, result.history),
        **_of_training(record.training, made),
        findings=tuple(record.findings),
        pairs=tuple(record.copies),
        copy_limit=scanned.copies.limit,
        seconds=metrics.seconds,
        costs=_costs(classifier, made, len(result.dataset)),
        commands=_commands(str(out), source),
    )
    known = _ReportImages(
        result.dataset,
        tuple(scanned.images.infos),
        result.dataset.files,
        result.features,
    )
    tried_tuning = heat and any(trial.stage == "finetune" for trial in result.history)
    return _with_images(bare, known, classifier, heat=tried_tuning and "torch" in sys.modules)


def evaluation_report(
    run: RunFolder,
    source: DataSource,
    predictions: Predictions,
    metrics: Metrics,
    split: str,
    known: int,
    dataset: Dataset,
    images: Images,
) -> ReportData:
    """Collect the report of an evaluation on the images of a dataset, of which the run was trained on `known`.

    `images` are those of the dataset, in its order.
    """
    judged = _judged(predictions)
    place = {path: i for i, path in enumerate(dataset.paths)}
    rows = np.array([place[path] for path in judged.paths], np.int64)
    elsewhere = "Not part of an evaluation; see the report of the run, {}."
    missing = {key: elsewhere.format(plain(str(run.file(REPORT)))) for key in ("compared", "training")}
    missing |= {
        "labels": "Not part of an evaluation; use `headstart check DATA --labels`.",
        "copies": "Not part of an evaluation; use `headstart check DATA`.",
        "checks": "Not part of an evaluation; use `headstart check DATA`.",
        "near": "Nearest training images are in the report of the training run.",
    }
    return ReportData(
        title=f"{_title(source, run.classifier)}: evaluation",
        predictions=judged,
        metrics=metrics,
        split=split,
        known=known,
        groups_N=dataset.groups[rows],
        facts=_facts(run.classifier, run.provenance),
        sizes_N2=images.take(rows).sizes_N2,
        commands=(("Re-evaluate:", shlex.join(["headstart", "evaluate", str(run.path), *source.words()])),),
        files={path: dataset.file(i) for path, i in zip(judged.paths, rows, strict=True)},
        missing=missing,
    )


def run_report(run: RunFolder, data: Path | None, *, heat: bool) -> ReportData:
    """Collect the report of a run folder, with images if they are at their recorded place or at `data`."""
    classifier, made = run.classifier, run.provenance
    source = made.source(data)
    predictions = _judged(run.predictions)
    listed = _listed(run)
    group = dict(zip(listed.paths, listed.groups.tolist(), strict=True))
    bare = ReportData(
        **_of_tables(listed),
        title=_title(source, classifier),
        predictions=predictions,
        metrics=run.metrics.judged,
        split=run.metrics.split,
        groups_N=np.array([group.get(path, -1 - i) for i, path in enumerate(predictions.paths)], np.int64),
        val=run.metrics.val if run.metrics.test else None,
        facts=_facts(classifier, made),
        trials=run.history,
        taken=_taken(classifier, made, run.history),
        **_of_training(run.training, made),
        findings=run.findings,
        pairs=run.copies,
        copy_limit=made.copies.limit,
        seconds=run.metrics.seconds,
        commands=_commands(str(run.path), source),
    )
    known = _known_of_run(run, listed, source, given=data is not None)
    if isinstance(known, str):
        return _without_images(replace(bare, missing={"images": known}))
    bare = replace(
        bare, missing=_some_missing(len(listed) - len(known.files)), costs=_costs(classifier, made, len(listed))
    )
    return _with_images(bare, known, classifier, heat=heat)


def _listed(run: RunFolder) -> Dataset:
    """Return the images of split.csv, whether they are still there or not."""
    number = {c: k for k, c in enumerate(run.classifier.classes)}
    return Dataset(
        root=run.path,
        paths=tuple(row.path for row in run.split),
        labels=np.array([number.get(row.label, -1) for row in run.split], np.int64),
        classes=run.classifier.classes,
        split=np.array([row.split for row in run.split], "<U5"),
        groups=np.array([row.group for row in run.split], np.int64),
    )


def _of_tables(dataset: Dataset) -> dict[str, Any]:
    """Return the report's fields about the images of the run that need only its tables."""
    return {
        "balance": sides_of(dataset.classes, dataset.labels, dataset.split),
        "groups": _groups(dataset),
        "labels": {path: dataset.label_name(i) for i, path in enumerate(dataset.paths)},
        "splits": {path: str(split) for path, split in zip(dataset.paths, dataset.split, strict=True)},
    }


def _some_missing(count: int) -> dict[str, str]:
    if not count:
        return {}
    if count == 1:
        return {"images": "1 image of the run is missing or changed, and is not shown; counts and figures include it."}
    return {
        "images": f"{count:,} images of the run are missing or changed, and are not shown; counts and figures include them."
    }


def _of_training(kept: TrainingLog | None, made: Provenance) -> dict[str, Any]:
    """Return the report's fields about gradient descent."""
    return {
        "epochs": tuple(asdict(row) for row in kept.epochs) if kept else (),
        "steps": tuple(asdict(row) for row in kept.steps) if kept else (),
        "best_epoch": made.training.best_epoch if made.training else None,
        "stopped": made.training.stopped if made.training else "",
        "trained": not made.attempt,
        "outcome": _outcome(made),
        "seen": kept.images_png if kept else b"",
    }


@dataclass(frozen=True, eq=False)
class _ReportImages:
    """Available images, all in one order: the dataset with split and groups, validation results, files, and features
    for each member of the classifier, float32 (N, D)."""

    dataset: Dataset
    infos: tuple[ImageInfo, ...]
    files: tuple[ImageFile, ...]
    features: tuple[np.ndarray, ...]


def _known_of_run(run: RunFolder, listed: Dataset, source: DataSource, *, given: bool) -> _ReportImages | str:
    """Return the images of split.csv that are unchanged, or a sentence saying that they are gone."""
    try:
        opened = open_dataset(source)
    except (DataError, StoreError, MissingExtra):
        if given:
            raise
        gone = f"The images are no longer at {plain(source.where)}"
        return f"{gone}, so none are shown: give their place with --data DATA."
    classifier = run.classifier
    rows = {row.path: row for row in run.split}
    there = [i for i, path in enumerate(opened.paths) if path in rows]
    infos = validate_images([opened.file(i) for i in there])
    kept = [(i, f) for i, f in zip(there, infos, strict=True) if f.sha256 == rows[opened.paths[i]].sha256]
    if not kept:
        gone = f"None of the run's images are at {plain(source.where)}, or all have changed"
        return f"{gone}, so none are shown{'.' if given else ': give their place with --data DATA.'}"
    extractors = [member.extractor for member in classifier.members]
    files = [opened.file(i) for i, _ in kept]
    features, failed = embed_images(Images(tuple(files), tuple(f for _, f in kept)), extractors, classifier.runtime)
    good = np.array([j for j in range(len(kept)) if j not in failed], np.int64)
    row_of = {path: i for i, path in enumerate(listed.paths)}
    dataset = listed.take(np.array([row_of[opened.paths[kept[j][0]]] for j in good], np.int64))
    taken = tuple(x[good] for x in features)
    return _ReportImages(dataset, tuple(kept[j][1] for j in good), tuple(files[j] for j in good), taken)


def _with_images(bare: ReportData, known: _ReportImages, classifier: Classifier, *, heat: bool) -> ReportData:
    """Add everything that needs the images."""
    dataset, missing = known.dataset, dict(bare.missing)
    files = dict(zip(dataset.paths, known.files, strict=True))
    maps: dict[int, np.ndarray] = {}
    if heat and bare.mistakes:
        maps, missing["heat"] = _heat(bare, files, classifier)
    elif bare.mistakes:
        missing["heat"] = "To add heat maps, run `headstart report`."
    suspects, missing["labels"] = _suspects(known, classifier)
    if not bare.epochs:
        missing |= {"training": NOTHING_TRAINED, "seen": ""}
    return replace(
        bare,
        sizes_N2=np.array([(f.width, f.height) for f in known.infos]).reshape(-1, 2),
        near=_nearest(bare, known, classifier),
        heat=maps,
        suspects=suspects,
        files=files,
        missing={key: text for key, text in missing.items() if text},
    )


def _without_images(bare: ReportData) -> ReportData:
    """Complete the report from tables alone."""
    missing = {**bare.missing, "labels": "The images are not available. Suspected labels need them.", "near": ""}
    if not bare.epochs:
        missing["training"] = NOTHING_TRAINED
    return replace(bare, missing={key: text for key, text in missing.items() if text})


def _nearest(bare: ReportData, known: _ReportImages, classifier: Classifier) -> dict[int, tuple[SimilarImage, ...]]:
    """Find the training images (train and val) nearest to each mistake, by row of the predictions: by cosine of the
    features, averaged over the backbones. Identical files are not shown as neighbours."""
    dataset = known.dataset
    place = {path: i for i, path in enumerate(dataset.paths)}
    asked = [i for i in mistakes(bare.predictions)[:MOST_MISTAKES] if bare.predictions.paths[i] in place]
    training = dataset.sets.train_val
    if not asked or not len(training):
        return {}
    rows = [place[bare.predictions.paths[i]] for i in asked]
    own = Embedder([m.extractor for m in classifier.members], classifier.runtime).own(known.features)
    cosines_MN = mean_cosines([x[rows] for x in own], [unit_rows(x[training]) for x in own])
    sha256s = [known.infos[j].sha256 for j in training]
    found = {}
    for i, row, cosines_N in zip(asked, rows, cosines_MN, strict=True):
        near = [(training[j], cosine) for j, cosine in nearest(cosines_N, sha256s, known.infos[row].sha256, NEAREST)]
        found[i] = tuple(SimilarImage(dataset.paths[j], dataset.label_name(j), cosine) for j, cosine in near)
    return found


def _heat(
    bare: ReportData, files: Mapping[str, ImageFile], classifier: Classifier
) -> tuple[dict[int, np.ndarray], str]:
    """Return heat maps of the first mistakes, and a sentence if there are none."""
    from headstart.model.inference.heat_maps import heat_maps

    rows = [i for i in bare.mistakes[:MOST_HEAT] if bare.predictions.paths[i] in files]
    try:
        maps = heat_maps(classifier, [files[bare.predictions.paths[i]] for i in rows], bare.predictions.predicted[rows])
    except (BackboneError, DataError) as error:
        return {}, f"No heat maps: {error.message}"
    except MissingExtra as error:
        return {}, error.message
    return dict(zip(rows, maps, strict=True)), ""


def _suspects(known: _ReportImages, classifier: Classifier) -> tuple[tuple[Suspect, ...] | None, str]:
    """Return suspected labels, the worst first, by features of networks not trained on these labels; or why there are
    none."""
    from headstart.pipeline.label_errors import CANNOT_TELL, suspected_labels

    dataset = known.dataset
    frozen = [
        x for x, p in zip(known.features, classifier.members, strict=True) if not p.extractor.backbone.trained_here
    ]
    if not frozen:
        return None, (
            "The network was trained on these labels, so it cannot check them. `headstart check DATA --labels` finds wrong "
            "labels with a frozen backbone."
        )
    labelled = np.flatnonzero(dataset.labels >= 0)
    labels_N = dataset.labels[labelled]
    # The first backbone is the best; joining two would cost four times as much.
    found = suspected_labels([frozen[0][labelled]], labels_N, dataset.groups[labelled], len(dataset.classes))
    if found is None:
        return None, CANNOT_TELL
    return tuple(
        Suspect(
            path=dataset.paths[i],
            label=dataset.label_name(i),
            suggested=dataset.classes[k],
            label_quality=float(quality),
            split=str(dataset.split[i]),
        )
        for i, k, quality in zip(labelled[found.order], found.suggested, found.label_quality, strict=True)
    ), ""


def _groups(dataset: Dataset) -> tuple[tuple[str, ...], ...]:
    """Return paths of copies: groups with different labels first, then in different sets, then the largest."""
    members: dict[int, list[int]] = {}
    for i, group in enumerate(dataset.groups.tolist()):
        members.setdefault(group, []).append(i)
    found = [g for g in members.values() if len(g) > 1]
    found.sort(key=lambda g: (-len(set(dataset.labels[g])), -len(set(dataset.split[g])), -len(g), g[0]))
    return tuple(tuple(dataset.paths[i] for i in group) for group in found)


# Helpers


def _title(source: DataSource, classifier: Classifier) -> str:
    classes = classifier.classes
    shown = few([plain(c) for c in classes], 6) if len(classes) <= 6 else f"{len(classes)} classes"
    return f"{plain(source.title)}: {shown}"


def _facts(classifier: Classifier, made: Provenance) -> tuple[tuple[str, str], ...]:
    listed = [
        ("made by", made_by(made)),
        ("backbones", classifier.backbones),
        ("images", f"{made.data.images:,} images"),
        ("seed", f"seed {made.seed}"),
        ("model", f"model {classifier.id}"),
        ("versions", ", ".join(f"{k} {v}" for k, v in made.versions.items() if k in VERSIONS_SHOWN)),
    ]
    return tuple((key, text) for key, text in listed if text)


def _outcome(made: Provenance) -> str:
    """Describe the result of fine-tuning if it was one of two options."""
    return f"Fine-tuning was tried, but is not part of this classifier. {made.why}" if made.attempt else made.why


def _taken(classifier: Classifier, made: Provenance, trials: Sequence[HistoryRow]) -> frozenset[int]:
    """Return the numbers of the trials that the classifier's members come from.

    A run that recorded the first of several heads only has no other trial marked.
    """
    headed = zip((member.extractor for member in classifier.members), made.heads, strict=False)  # fine-tuned ones last
    heads = {
        (e.backbone.name, str(e.spec), e.pooling, *kind)
        for e, head in headed
        for kind in ((head.kind, head.strength), (KERNEL, head.kernel))
    }
    return frozenset(
        i
        for i, t in enumerate(trials)
        if (t.stage == "finetune" and made.tuned)
        or (t.stage == "head" and (t.backbone, t.input, t.pooling, t.head, _number(t.strength)) in heads)
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _costs(classifier: Classifier, made: Provenance, images: int) -> tuple[tuple[str, str], ...]:
    features = sum(m.layer.n_features for m in classifier.members)
    speed = made.tuned.images_per_second if made.tuned else None
    listed = [
        ("images", f"{images:,}"),
        ("networks per image", str(len(classifier.members))),
        ("features per image", f"{features:,}"),
        ("input", ", ".join(dict.fromkeys(f"{p.extractor.spec.image_size} px" for p in classifier.members))),
        ("computed on", str(classifier.runtime)),
        ("images per second in training", f"{speed:g}" if speed else ""),
    ]
    return tuple((key, text) for key, text in listed if text)


def _commands(run: str, source: DataSource) -> tuple[tuple[str, str], ...]:
    place = shlex.quote(source.where)
    return (
        ("Train again, and compare every prediction:", f"headstart reproduce {shlex.quote(run)} --data {place}"),
        ("Predict:", f"headstart predict {shlex.quote(run)} IMAGE... --out predictions.csv"),
    )


def _judged(predictions: Predictions) -> Predictions:
    """Return the predictions for labelled images, which the metrics are computed on."""
    labels_N = predictions.labels
    return predictions if labels_N is None else predictions.take(labels_N >= 0)
