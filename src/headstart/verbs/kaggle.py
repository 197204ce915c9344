"""`headstart kaggle SLUG`: from the name of a competition or a dataset to labelled images; `--train`: to a submission.

    download -> unpack -> recognise the layout (-> look, mean size -> train -> predict the unlabelled images -> submission)

The archive is downloaded into the cache and removed from there when it is unpacked. `.headstart-kaggle.json` in the folder
says where it comes from, so that the same command does not download again.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os.path import commonpath
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.archives.unpacking import unpack
from headstart.data.infer_labels import open_recognised
from headstart.data.open_dataset import Dataset, open_dataset, require_trainable
from headstart.errors import BadArchive, DataError, MissingData, MissingRun, RecipeError, WriteError
from headstart.io.files import write_json
from headstart.io.folders import check_free, check_out_file, check_replaceable
from headstart.io.progress import log
from headstart.io.result_repr import Result
from headstart.io.text_table import few, plain
from headstart.kaggle_api.client import Slug, download, forget, parse_slug
from headstart.pipeline.scan import scan
from headstart.training.recipe import Recipe
from headstart.verbs.predict import predict
from headstart.verbs.train import TrainResult
from headstart.verbs.train import train as train_run

RECORD = ".headstart-kaggle.json"
_SAMPLE = re.compile(r"sample[-_ ]?submissions?.*\.csv|submissions?[-_ ]?(?:sample|format|example).*\.csv")


@dataclass(frozen=True, eq=False, repr=False)
class KaggleResult(Result):
    """What `kaggle` made: the folder `out` and what is in it; with a training the `run`, with a submission its file."""

    slug: str
    out: str
    files: int
    bytes: int
    recognised: str = ""
    """How the labels are found; empty if there are no images."""
    images: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    """Labelled images of each class."""
    unlabelled: str = ""
    """Folder of the images without a label, '' if there are none."""
    sample_submission: str = ""
    mean_size: tuple[float, float] | None = None
    """Mean width and height of the training images in pixels; known with a training."""
    run: TrainResult | None = None
    submission: str = ""
    filled: str = ""
    """What the columns of the submission hold."""
    next: tuple[str, ...] = ()
    """Commands to go on with."""

    def to_json(self) -> dict[str, Any]:
        """The document of `kaggle --json`."""
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
        """Plain text for a terminal."""
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


@dataclass(frozen=True)
class _SubmissionOptions:
    """How a submission is filled in, as `predict` takes it."""

    form: str
    positive: str
    clip: str


def kaggle(
    slug: str,
    *,
    out: Path | None = None,
    train: bool = False,
    run: Path | None = None,
    submit_file: Path | None = None,
    clip_submission: str = "auto",
    form: str = "auto",
    positive: str = "",
    recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
    weights: Path | None = None,
    weights_dir: Path | None = None,
    offline: bool = False,
) -> KaggleResult:
    """Download a competition or a dataset from Kaggle, unpack it, and find the labels; --train: up to a submission.

    Credentials are those of Kaggle's own client. What is there is not downloaded again. Example:

        headstart kaggle dogs-vs-cats-redux-kernels-edition --train

    Args:
        slug: Name of a competition, OWNER/NAME of a dataset, or the address of its page.
        out: Folder to write; by default the name, in the current folder.
        train: Train on it, and write a submission if it has unlabelled images and a sample submission.
        run: Run folder to write, or with --submit-file alone to read; by default OUT-run.
        submit_file: CSV to write, shaped by the competition's sample submission; with --train by default OUT-submission.csv.
        clip_submission: How far from 0 and 1 the submitted probabilities stay: auto (chosen on validation), none, or a number.
        form: What the sample's columns hold: probability (of one class), label, columns (a class each), or auto.
        positive: Class whose probability a single column holds, where its name does not say.
        recipe: How to train.
        weights: Weights file (.safetensors) for the backbone that is named.
        weights_dir: Folder of NAME.safetensors and NAME.json.
        offline: Never open a socket: what is to be downloaded must be there.

    Raises:
        RemoteError: Kaggle cannot be reached, does not know the slug, wants credentials or its rules accepted.
        MissingExtra: the package kaggle is not installed.
        DataError: with `train`: no images or labels were found, or they cannot be trained on.
        WriteError: a folder is in the way, or the disk is full.
    """
    source = parse_slug(slug)
    place = Path(out) if out is not None else Path(source.name)
    run = Path(run) if run is not None else place.with_name(f"{place.name}-run")
    submit_file = Path(submit_file) if submit_file is not None else None
    filled = _SubmissionOptions(form, positive, clip_submission)
    _check_places(train, run, submit_file, clip_submission)
    record = _bring(source, place, offline)
    made = KaggleResult(str(source), str(place), record["files"], record["bytes"], sample_submission=_sample(place))
    try:
        dataset = _open(place)
        made = _described(made, place, *dataset)
    except DataError as error:
        if train:
            raise
        log.warning("%s", error)  # what was downloaded is of use all the same
    if train:
        made = _trained(made, dataset[0], run, recipe, weights, weights_dir, offline)
    if submit_file is not None:
        made = _submission(made, run, submit_file, filled)
    elif train and made.sample_submission and made.unlabelled:
        try:
            made = _submission(made, run, place.with_name(f"{place.name}-submission.csv"), filled)
        except DataError as error:
            log.warning("No submission was written: %s", error)  # it was not asked for; the run is there
    return replace(made, next=_next_steps(made, source, run))


def _check_places(train: bool, run: Path, submit_file: Path | None, clip: str) -> None:
    """Raise before the download what would be raised after it."""
    if not re.fullmatch(r"auto|none|0?\.\d+|0|\d(?:\.\d*)?e-\d+", str(clip)):
        raise RecipeError(
            f"clip_submission: {clip!r} is no least probability; expected auto, none, or a number from 0 to below 0.5."
        )
    if train:
        check_replaceable(run)
    elif submit_file is not None and not run.is_dir():
        raise MissingRun(
            f"{run}: there is no run to predict with.",
            hint="Add --train, or name a run folder: --run RUN --submit-file FILE.",
        )
    if submit_file is not None:
        check_out_file(submit_file)


def _bring(source: Slug, place: Path, offline: bool) -> dict[str, Any]:
    """Have the unpacked archive at `place`, and what is recorded of it."""
    record = place / RECORD
    if record.is_file():
        return _recorded(source, place, record)
    try:
        check_free(place)
    except WriteError as error:
        hint = f"If that is {source} already, train on it as it is: headstart train {_quoted(place)} --out RUN"
        raise WriteError(error.message, hint=f"{error.hint}\n{hint}") from error
    got = download(source, offline=offline)
    try:
        unpacked = unpack(got.path, place)
    except BadArchive:
        forget(got)  # another try is to bring another one
        raise
    forget(got)
    made = {"slug": str(source), "page": source.page, "version": source.version, "sha256": got.sha256}
    made |= {"checked": got.checked, "files": unpacked.files, "bytes": unpacked.bytes}
    write_json(record, made)
    return made


def _recorded(source: Slug, place: Path, record: Path) -> dict[str, Any]:
    try:
        made: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        known = (made["slug"], made["version"], int(made["files"]), int(made["bytes"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WriteError(
            f"{record}: does not say what {place} holds.", hint=f"Remove {place}, or choose another --out."
        ) from error
    if known[:2] != (str(source), source.version):
        raise WriteError(f"{place}: holds {plain(str(known[0]))}, not {source}.", hint="Choose another --out.")
    log.info("%s: holds %s already, so nothing is downloaded. Remove it to have it anew.", place, source)
    return made


def _open(place: Path) -> tuple[Dataset, str]:
    """The images, and how their labels were found."""
    recognised = open_recognised(place)
    dataset = recognised[1] if recognised else open_dataset(place)
    sentence = recognised[0].sentence if recognised else _class_folders(place, dataset)
    log.info("%s", sentence)
    return dataset, sentence


def _described(made: KaggleResult, place: Path, dataset: Dataset, sentence: str) -> KaggleResult:
    labelled = np.bincount(dataset.labels[dataset.labels >= 0], minlength=len(dataset.classes))
    return replace(
        made,
        recognised=sentence,
        images=len(dataset),
        classes=dict(zip(dataset.classes, labelled.tolist(), strict=True)),
        unlabelled=_folder_of([p for p, label in zip(dataset.paths, dataset.labels, strict=True) if label < 0], place),
    )


def _class_folders(place: Path, dataset: Dataset) -> str:
    if not dataset.classes:
        return f"{place}: no labels were recognised."
    sides = [side for side in ("train", "val", "test") if (dataset.split == side).any()]
    where = f" in the folders {few(sides)}" if sides else ""
    return (
        f"{place}: the labels are the names of the class folders{where} ({few([plain(c) for c in dataset.classes])})."
    )


def _folder_of(paths: Sequence[str], place: Path) -> str:
    """The folder that all of them are in, '' if there are none."""
    if not paths:
        return ""
    folder = commonpath([str(Path(path).parent) for path in paths])
    return str(place / folder)


def _sample(place: Path) -> str:
    """The sample submission, the topmost if there are several; '' without one."""
    found = [p for p in place.rglob("*.csv") if _SAMPLE.fullmatch(p.name.lower())]
    return str(min(found, key=lambda p: (len(p.parts), p))) if found else ""


def _trained(
    made: KaggleResult,
    dataset: Dataset,
    run: Path,
    recipe: Recipe,
    weights: Path | None,
    weights_dir: Path | None,
    offline: bool,
) -> KaggleResult:
    data = Path(made.out)
    scanned = scan(data, opened=dataset)
    require_trainable(scanned.dataset)
    training = (scanned.dataset.labels >= 0) & (scanned.dataset.split != "test")
    width, height = scanned.images.sizes_N2[training].mean(axis=0).tolist()
    log.info("Mean size of the training images: %.0f x %.0f pixels.", width, height)
    done = train_run(data, out=run, recipe=recipe, weights=weights, weights_dir=weights_dir, offline=offline)
    return replace(made, mean_size=(width, height), run=done)


def _submission(made: KaggleResult, run: Path, submit_file: Path, how: _SubmissionOptions) -> KaggleResult:
    if not made.sample_submission or not made.unlabelled:
        lacks = "sample submission" if made.unlabelled else "unlabelled images"
        raise MissingData(
            f"{made.out}: has no {lacks}, so there is nothing to write to {submit_file}.",
            hint=f"headstart predict {_quoted(run)} FOLDER --sample-submission SAMPLE.csv --out {_quoted(submit_file)}",
        )
    sample = Path(made.sample_submission)
    done = predict(
        run, Path(made.unlabelled), out=submit_file, sample_submission=sample, form=how.form, positive=how.positive,
        clip=how.clip,
    )  # fmt: skip
    filled = done.submission.filling.sentence if done.submission else ""
    return replace(made, submission=str(submit_file), filled=filled)


def _next_steps(made: KaggleResult, source: Slug, run: Path) -> tuple[str, ...]:
    """Commands, as they can be typed."""
    if made.submission:
        return (f"headstart submit {source} {_quoted(made.submission)}",) if source.kind == "competition" else ()
    steps = [] if made.run or not made.classes else [f"headstart train {_quoted(made.out)} --out {_quoted(run)}"]
    if made.unlabelled and made.sample_submission:
        sample = f"--sample-submission {_quoted(made.sample_submission)}"
        steps.append(f"headstart predict {_quoted(run)} {_quoted(made.unlabelled)} {sample} --out submission.csv")
    elif made.unlabelled and made.classes:
        steps.append(f"headstart predict {_quoted(run)} {_quoted(made.unlabelled)} --out predictions.csv")
    return tuple(steps)


def _quoted(path: Path | str) -> str:
    return shlex.quote(str(path))
