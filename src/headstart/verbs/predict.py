"""`headstart predict RUN PATH... --out FILE.csv`: classify new images.

With a competition's sample submission, the file is that sample, filled in (`kaggle_api.submission`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import MissingData, RecipeError, WriteError
from headstart.evaluation.conformal import prediction_sets
from headstart.exporters.exported_classifier import ExportedClassifier
from headstart.exporters.open_classifier import OpenedClassifier, open_classifier
from headstart.images.given_images import GivenImages, each_image, places_among
from headstart.io.folders import check_keeps
from headstart.io.given_options import as_path
from headstart.io.progress import log
from headstart.io.result_repr import Result
from headstart.io.text_table import columns, few, plain
from headstart.kaggle_api.submission import (
    Submission,
    SubmissionFormat,
    SubmissionOptions,
    clip_of,
    filling_of,
    shape_of,
    submission_rows,
    write_submission,
)
from headstart.model.inference.classifier import Classifier
from headstart.model.inference.predictions import Predictions, write_predictions
from headstart.pipeline.images_at import images_at, require_readable
from headstart.pipeline.sort_images import SortedImages, check_sort_place, sort_images
from headstart.runs.outside_runs import check_out_file
from headstart.scale.shard_jobs import predict_in_shards
from headstart.scale.shard_options import ShardOptions, as_shards, only_shards
from headstart.scale.shard_run import ShardResult

MOST_SHOWN = 20


@dataclass(frozen=True, eq=False, repr=False)
class PredictResult(Result):
    """Result of `predict`, with a `submission` if a sample submission was given, and the images `sorted` into folders."""

    predictions: Predictions
    classifier: Classifier | ExportedClassifier
    out: str
    submission: Submission | None = None
    sorted: SortedImages | None = None

    def check(self) -> None:
        """Raise `NoImages` if there are images, and none of them could be read."""
        require_readable(len(self.predictions), len(self.predictions.errors))

    def summary(self) -> str:
        """Return the number of predictions, and where they were written."""
        return self.predictions.summary() + (f"; written to {self.out}" if self.out else "")

    def facts(self) -> list[tuple[str, str]]:
        """Return the class of each image."""
        return self.predictions.facts()

    def to_json(self) -> dict[str, Any]:
        """Return the document of `predict --json`: for each path its class, probabilities, and prediction set at
        alpha."""
        more = {} if self.submission is None else {"submission": self.submission.to_json()}
        more |= {} if self.sorted is None else {"sorted": asdict(self.sorted)}
        p = self.predictions
        calibration = self.classifier.calibration
        sets_NK = prediction_sets(p.probabilities, calibration.conformal_threshold)
        rows = [
            {
                "path": path,
                "predicted": p.classes[k],
                "probabilities": dict(zip(p.classes, map(float, chances), strict=True)),
                "set": [c for c, held in zip(p.classes, held_K, strict=True) if held],
            }
            for path, k, chances, held_K in zip(p.paths, p.predicted, p.probabilities, sets_NK, strict=True)
        ]
        return {
            "model": p.model,
            "alpha": calibration.conformal_alpha,
            "predictions": rows,
            "errors": dict(p.errors),
        } | more

    def table(self) -> str:
        """Format as plain text for a terminal: the first twenty images, and the first twenty that could not be read."""
        p = self.predictions
        shown = p.take(np.arange(len(p)) < MOST_SHOWN)
        rows = [
            (plain(p.classes[k]), f"{chances[k]:.1%}", plain(path))
            for path, k, chances in zip(shown.paths, shown.predicted, shown.probabilities, strict=True)
        ]
        failed = [("not read", reason, plain(path)) for path, reason in list(p.errors.items())[:MOST_SHOWN]]
        lines = columns([*rows, *failed], "<><")
        more = len(p) + len(p.errors) - len(lines)
        lines += [f"and {more:,} more (--out FILE.csv writes them all)"] if more and not self.out else []
        lines += [self._sorted_line()] if self.sorted is not None else []
        if self.submission is not None:
            s = self.submission
            return "\n".join([*lines, f"{len(s.rows):,} rows written to {self.out}: {plain(s.filling.sentence)}"])
        return "\n".join([*lines, *([f"{len(p):,} predictions written to {self.out}"] if self.out else [])])

    def _sorted_line(self) -> str:
        if self.sorted is None:
            return ""
        listed = few([f"{plain(name)} {n:,}" for name, n in self.sorted.classes.items()])
        lost = f"; {len(self.predictions.errors):,} could not be read" if self.predictions.errors else ""
        how = "linked into" if self.sorted.links else "copied into"
        n = len(self.sorted.places)
        return f"{n:,} image{'s' * (n != 1)} {how} {plain(self.sorted.folder)}: {listed or 'none'}{lost}"


def predict(
    run: Path,
    *paths: GivenImages,
    out: Path | None = None,
    sort_into: Path | None = None,
    link: bool = False,
    submission: SubmissionOptions = SubmissionOptions(),
    shards: Path | ShardOptions = ShardOptions(),
) -> PredictResult | ShardResult:
    """Predict the class of images. Predictions are keyed by path; unreadable images are listed. Example:

        headstart predict run holiday/ one.jpg --out predictions.csv

    Args:
        run: Run folder written by `headstart train`, or an export of one.
        paths: Images, folders or archives of images, or tables of their paths; in Python also bytes of files, PIL
            images and arrays, or lists of these.
        out: CSV to write: path, label (empty), predicted, one probability per class, error.
        sort_into: Folder to write: a copy of each image in a folder named after its predicted class.
        link: With --sort-into, make links instead of copies.
        submission: A competition's sample submission to fill in, and how.
        shards: For more images than fit into memory: where to write the parts, and what makes them.

    Raises:
        RunError, ExportError: the run folder or the export is missing or damaged.
        MissingData: a path does not exist.
        DataError: something given is not an image.
        NoImages: a folder has no images.
        BadSubmission: the sample does not fit the classes or the images.
        RecipeError: an option has no effect here or is invalid.
        WriteError: `out` cannot be written, or would replace an input.
        OtherPlan, ShardFailed, StoreError: with `shards`.
    """
    if not paths:
        raise MissingData("No images were given.", hint=f"headstart predict {run} image.jpg")
    images = each_image(paths)
    in_shards = as_shards(shards)
    if in_shards != ShardOptions():
        only_shards(in_shards, out=out, sort_into=sort_into, link=link, **dict.fromkeys(_given(submission), True))
        return predict_in_shards(as_path(run, "run"), images, in_shards)
    places = places_among(images)
    out = None if out is None else as_path(out, "out")
    sort_into = None if sort_into is None else as_path(sort_into, "sort_into")
    if out is not None:
        check_out_file(out)  # beside the images is allowed
        check_keeps(out, places)
    shape = _shape(submission, out)
    opened = open_classifier(run)
    _check_sorting(sort_into, link, places, out, opened)
    classifier = opened.classifier
    bound = clip_of(submission.clip, opened.calibration, len(opened.classes)) if shape is not None else 0.0
    if shape is not None:  # report a mismatch before any work
        log.info("%s: %s.", shape.file, plain(filling_of(shape, classifier.classes, submission).sentence))
    found = images_at(images)
    if out is not None:
        check_keeps(out, found.files)
    predictions = opened.predictor.predict(found.refs, found.names)
    predictions = replace(predictions, errors={**found.lost, **predictions.errors})
    made = None
    if shape is not None:
        made = submission_rows(shape, predictions, opened.training_prior, submission, clip=bound)
        for sentence in made.warnings():
            log.warning("%s", sentence)
    in_folders = None
    if sort_into is not None:
        files = dict(zip(found.names, found.refs, strict=True))
        in_folders = sort_images(sort_into, predictions, files, links=link)
    if out is not None and made is not None:
        write_submission(out, made)
    elif out is not None:
        write_predictions(out, predictions)
    return PredictResult(predictions, classifier, str(out or ""), made, in_folders)


def _check_sorting(
    into: Path | None, link: bool, places: Sequence[Path], out: Path | None, opened: OpenedClassifier
) -> None:
    """Refuse a folder that images cannot be sorted into, and an option that needs one."""
    if into is not None:
        check_sort_place(into, [*places, *filter(None, [opened.trained_on])], out)
    elif link:
        raise RecipeError("link: has no effect without --sort-into.", hint="Add --sort-into DIR.")


def _given(options: SubmissionOptions) -> list[str]:
    """Return the names of the options that are not as usual."""
    usual = SubmissionOptions()
    return [f.name for f in fields(options) if getattr(options, f.name) != getattr(usual, f.name)]


def _shape(options: SubmissionOptions, out: Path | None) -> SubmissionFormat | None:
    """Return the sample submission, if given; without one, refuse options that need it."""
    sample = options.sample_submission
    if sample is None:
        for name in _given(options):
            raise RecipeError(f"{name}: applies to submissions only.", hint="Add --sample-submission SAMPLE.csv.")
        return None
    if out is None:
        raise RecipeError(f"sample_submission: no output file for the filled {sample}.", hint="Add --out FILE.csv.")
    if out.exists() and Path(sample).exists() and out.samefile(sample):
        raise WriteError(f"{out}: is the sample submission itself.", hint="Choose another --out.")
    return shape_of(sample)
