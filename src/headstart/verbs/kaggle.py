"""`headstart kaggle SLUG`: from a competition or dataset name to labelled images; with `--train`, to a submission.

    download -> unpack -> recognise the layout (-> scan, mean size -> train -> predict the unlabelled images -> submission)

`headstart.pipeline.kaggle_folder` has the steps before the bracket; the others are the verbs of those names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headstart.errors import DataError, RecipeError
from headstart.io.progress import log
from headstart.io.result_repr import Result
from headstart.io.text_table import few, plain
from headstart.kaggle_api.client import parse_slug
from headstart.kaggle_api.submission import SubmissionOptions, check_submission_options, filling_of, shape_of
from headstart.model.backbones.weights_source import WeightsSource, as_weights_source
from headstart.pipeline.kaggle_folder import (
    KaggleFolder,
    check_kaggle_places,
    fetch,
    mean_image_size,
    next_steps,
    open_folder,
    require_submittable,
)
from headstart.pipeline.train_run import TrainResult
from headstart.training.recipe import Recipe
from headstart.verbs.predict import PredictResult, predict
from headstart.verbs.train import train as train_run


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class KaggleResult(Result, KaggleFolder):
    """Result of `kaggle`: the folder `out` and its contents; the `run` if trained, and the submission file if any."""

    mean_size: tuple[float, float] | None = None
    """Mean width and height of the training images in pixels; None without training."""
    run: TrainResult | None = None
    submission: str = ""
    filled: str = ""
    """Content of the submission's columns."""
    next: tuple[str, ...] = ()
    """Suggested next commands."""

    def to_json(self) -> dict[str, Any]:
        """Return the document of `kaggle --json`."""
        return {
            "slug": self.slug,
            "out": self.out,
            "files": self.files,
            "bytes": self.bytes,
            "recognised": self.recognised,
            "images": self.images,
            "classes": self.classes,
            "unlabelled": self.unlabelled,
            "sample_submission": self.sample_submission,
            "mean_size": list(self.mean_size) if self.mean_size else None,
            "run": self.run.to_json() if self.run else None,
            "submission": self.submission,
            "filled": self.filled,
            "next": list(self.next),
        }

    def table(self) -> str:
        """Format as plain text for a terminal."""
        counts = few([f"{plain(name)} {n:,}" for name, n in self.classes.items()])
        without = self.images - sum(self.classes.values())
        lines = [f"{self.slug}: {self.files:,} files, {self.bytes / 1e6:,.1f} MB, in {plain(self.out)}"]
        if self.images:
            lines.append(
                f"{self.images:,} images: {counts or 'no labels'}{f', unlabelled {without:,}' * (without > 0)}"
            )
        if self.mean_size:
            lines.append("Mean size of the training images: {:.0f} x {:.0f} pixels".format(*self.mean_size))
        if self.run:
            lines += ["", self.run.table(), ""]
        if self.submission:
            lines.append(f"Submission: {plain(self.submission)}: {plain(self.filled)}")
        commands = [f"    {plain(command)}".replace(" --sample", " \\\n        --sample") for command in self.next]
        return "\n".join([*lines, *(["Next:"] if commands else []), *commands])


def kaggle(
    slug: str,
    *,
    out: Path | None = None,
    train: bool = False,
    run: Path | None = None,
    submit_file: Path | None = None,
    submission: SubmissionOptions = SubmissionOptions(),
    recipe: Recipe = Recipe(),
    weights: Path | WeightsSource = WeightsSource(),
) -> KaggleResult:
    """Download a Kaggle competition or dataset, unpack it, and find the labels; with --train, write a submission.

    Credentials are those of Kaggle's own client. Existing downloads are reused. Example:

        headstart kaggle dogs-vs-cats-redux-kernels-edition --train

    Args:
        slug: Name of a competition, OWNER/NAME of a dataset, or the URL of its page.
        out: Folder to write; by default the slug's name, in the current folder.
        train: Train on the data, and write a submission if there are unlabelled images and a sample submission.
        run: Run folder to write, or to read if --submit-file is given without --train; by default OUT-run.
        submit_file: CSV to write, in the format of the sample submission; with --train, by default OUT-submission.csv.
        submission: The sample submission to fill in (by default the competition's), and how.
        recipe: How to train.
        weights: Where to look for weights: a file, a folder, only on this machine; offline, the data must already be
            downloaded.

    Raises:
        RemoteError: Kaggle cannot be reached, does not know the slug, or requires credentials or accepting its rules.
        MissingExtra: the kaggle package is not installed.
        DataError: with `train`: no images or labels were found, or they cannot be trained on.
        RecipeError: an option of the submission is invalid, or does not fit the classes.
        WriteError: the folder exists with other content, or the disk is full.
    """
    source = parse_slug(slug)
    place = Path(out) if out is not None else Path(source.name)
    run = Path(run) if run is not None else _beside(place, "-run")
    submit_file = Path(submit_file) if submit_file is not None else None
    check_kaggle_places(train, run, submit_file)
    check_submission_options(submission)
    if submission.sample_submission is not None:
        shape_of(submission.sample_submission)  # report an invalid sample before any work
    weights = as_weights_source(weights)
    folder = fetch(source, place, offline=weights.offline)
    if submission.sample_submission:
        folder = replace(folder, sample_submission=str(submission.sample_submission))
    try:
        dataset, folder = open_folder(folder)
    except DataError as error:
        if train:
            raise
        log.warning("%s", error)  # the download is useful anyway
    made = KaggleResult(**vars(folder))
    if train:
        _check_submission(made, run, submit_file, submission)
        mean_size = mean_image_size(folder, dataset)
        done = train_run(place, out=run, recipe=recipe, weights=weights)
        made = replace(made, mean_size=mean_size, run=done)
    if submit_file is not None:
        made = _submitted(made, run, submit_file, submission)
    elif train and made.sample_submission and made.unlabelled:
        try:
            made = _submitted(made, run, _beside(place, "-submission.csv"), submission)
        except (DataError, RecipeError) as error:
            log.warning("No submission was written: %s", error)  # it was not requested explicitly, and the run exists
    return replace(made, next=next_steps(made, source, run, trained=train, submission=made.submission))


def _beside(place: Path, ending: str) -> Path:
    """Return the path beside a folder that has its name with an ending; '.' and '..' have no name of their own."""
    named = Path(os.path.abspath(place)) if place.name in ("", "..") else place
    return named.parent / f"{named.name}{ending}"


def _check_submission(made: KaggleResult, run: Path, submit_file: Path | None, how: SubmissionOptions) -> None:
    """Raise before training what would prevent a submission: wrong options, and if it was requested, any error."""
    if not made.classes:
        return  # which the training reports
    check_submission_options(how, tuple(made.classes))
    if submit_file is not None:
        require_submittable(made, run, submit_file)
        filling_of(shape_of(Path(made.sample_submission)), tuple(made.classes), how)


def _submitted(made: KaggleResult, run: Path, submit_file: Path, how: SubmissionOptions) -> KaggleResult:
    """Write a submission and add it to the result."""
    require_submittable(made, run, submit_file)
    options = replace(how, sample_submission=Path(made.sample_submission))
    done = predict(run, Path(made.unlabelled), out=submit_file, submission=options)
    filled = done.submission.filling.sentence if isinstance(done, PredictResult) and done.submission else ""
    return replace(made, submission=str(submit_file), filled=filled)
