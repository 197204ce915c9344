"""A folder with unpacked Kaggle data: how it is filled, where its labels are, and the next steps.

    download -> unpack -> recognise the layout

The archive is downloaded into the cache and removed from there after unpacking. `.headstart-kaggle.json` in the folder
records the source, so that the same command does not download again.
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
from headstart.data.dataset import Dataset
from headstart.data.infer_labels import open_recognised
from headstart.data.open_dataset import open_dataset, require_trainable
from headstart.errors import BadArchive, MissingData, MissingRun, WriteError
from headstart.io.files import write_json
from headstart.io.folders import check_free
from headstart.io.progress import log
from headstart.io.text_table import few, plain
from headstart.kaggle_api.client import Slug, download, forget
from headstart.pipeline.scan import scan
from headstart.runs.outside_runs import check_out_file, check_run_place

RECORD = ".headstart-kaggle.json"
_SAMPLE = re.compile(r"sample[-_ ]?submissions?.*\.csv|submissions?[-_ ]?(?:sample|format|example).*\.csv")


@dataclass(frozen=True, eq=False, kw_only=True)
class KaggleFolder:
    """The folder `out` and its contents."""

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
    """Folder of the unlabelled images, '' if there are none."""
    sample_submission: str = ""


def fetch(source: Slug, place: Path, *, offline: bool) -> KaggleFolder:
    """Download and unpack, unless already done. Raises `RemoteError`, `MissingExtra`, `BadArchive`, `WriteError`."""
    record = _bring(source, place, offline)
    return KaggleFolder(
        slug=str(source),
        out=str(place),
        files=record["files"],
        bytes=record["bytes"],
        sample_submission=_sample(place),
    )


def open_folder(folder: KaggleFolder) -> tuple[Dataset, KaggleFolder]:
    """Return the images, and the folder with what was recognised. Raises `DataError` if there are none."""
    place = Path(folder.out)
    dataset, sentence = _open(place)
    labelled = np.bincount(dataset.labels[dataset.labels >= 0], minlength=len(dataset.classes))
    unlabelled = [path for path, label in zip(dataset.paths, dataset.labels, strict=True) if label < 0]
    return dataset, replace(
        folder,
        recognised=sentence,
        images=len(dataset),
        classes=dict(zip(dataset.classes, labelled.tolist(), strict=True)),
        unlabelled=_folder_of(unlabelled, place),
    )


def mean_image_size(folder: KaggleFolder, dataset: Dataset) -> tuple[float, float]:
    """Return mean width and height of the training images in pixels. Raises `DataError` if they cannot be trained
    on."""
    scanned = scan(Path(folder.out), opened=dataset)
    require_trainable(scanned.dataset)
    training = (scanned.dataset.labels >= 0) & (scanned.dataset.split != "test")
    width, height = scanned.images.sizes_N2[training].mean(axis=0).tolist()
    log.info("Mean size of the training images: %.0f x %.0f pixels.", width, height)
    return width, height


def require_submittable(folder: KaggleFolder, run: Path, submit_file: Path) -> None:
    """Raise `MissingData` if there is nothing to fill in, or nothing to predict."""
    if folder.sample_submission and folder.unlabelled:
        return
    lacks = "sample submission" if folder.unlabelled else "unlabelled images"
    raise MissingData(
        f"{folder.out}: has no {lacks}, so there is nothing to write to {submit_file}.",
        hint=f"headstart predict {quoted(run)} FOLDER --sample-submission SAMPLE.csv --out {quoted(submit_file)}",
    )


def check_kaggle_places(train: bool, run: Path, submit_file: Path | None) -> None:
    """Raise before the download the errors that would come after it."""
    if train:
        check_run_place(run)
    elif submit_file is not None and not run.is_dir():
        raise MissingRun(
            f"{run}: no such run folder to predict with.",
            hint="Add --train, or name a run folder: --run RUN --submit-file FILE.",
        )
    if submit_file is not None:
        check_out_file(submit_file)


def _bring(source: Slug, place: Path, offline: bool) -> dict[str, Any]:
    """Make sure that the unpacked archive is at `place`, and return its record."""
    record = place / RECORD
    if record.is_file():
        return _recorded(source, place, record)
    try:
        check_free(place)
    except WriteError as error:
        hint = f"If it already holds {source}, train on it directly: headstart train {quoted(place)} --out RUN"
        raise WriteError(error.message, hint=f"{error.hint}\n{hint}") from error
    got = download(source, offline=offline)
    try:
        unpacked = unpack(got.path, place)
    except BadArchive:
        forget(got)  # the next attempt should download a new one
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
            f"{record}: is not a valid record of what {place} holds.", hint=f"Remove {place}, or choose another --out."
        ) from error
    if known[:2] != (str(source), source.version):
        raise WriteError(f"{place}: holds {plain(str(known[0]))}, not {source}.", hint="Choose another --out.")
    log.info("%s: already holds %s, so nothing is downloaded. Remove the folder to download again.", place, source)
    return made


def _open(place: Path) -> tuple[Dataset, str]:
    """Return the images, and a sentence on how their labels were found."""
    recognised = open_recognised(place)
    dataset = recognised[1] if recognised else open_dataset(place)
    sentence = recognised[0].sentence if recognised else _class_folders(place, dataset)
    for note in filter(None, (sentence, dataset.unused if recognised else "")):
        log.info("%s", note)
    return dataset, sentence


def _class_folders(place: Path, dataset: Dataset) -> str:
    if not dataset.classes:
        return f"{place}: no labels were recognised."
    sets = [name for name in ("train", "val", "test") if (dataset.split == name).any()]
    where = f" in the folders {few(sets)}" if sets else ""
    return (
        f"{place}: the labels are the names of the class folders{where} ({few([plain(c) for c in dataset.classes])})."
    )


def _folder_of(paths: Sequence[str], place: Path) -> str:
    """Return the common folder of all paths, '' if there are none."""
    if not paths:
        return ""
    folder = commonpath([str(Path(path).parent) for path in paths])
    return str(place / folder)


def _sample(place: Path) -> str:
    """Return the sample submission, the topmost if there are several; '' if there is none."""
    found = [p for p in place.rglob("*.csv") if _SAMPLE.fullmatch(p.name.lower())]
    return str(min(found, key=lambda p: (len(p.parts), p))) if found else ""


def next_steps(folder: KaggleFolder, source: Slug, run: Path, *, trained: bool, submission: str) -> tuple[str, ...]:
    """Return the next commands, ready to type."""
    if submission:
        return (f"headstart submit {source} {quoted(submission)}",) if source.kind == "competition" else ()
    steps = [] if trained or not folder.classes else [f"headstart train {quoted(folder.out)} --out {quoted(run)}"]
    if folder.unlabelled and folder.sample_submission:
        sample = f"--sample-submission {quoted(folder.sample_submission)}"
        steps.append(f"headstart predict {quoted(run)} {quoted(folder.unlabelled)} {sample} --out submission.csv")
    elif folder.unlabelled and folder.classes:
        steps.append(f"headstart predict {quoted(run)} {quoted(folder.unlabelled)} --out predictions.csv")
    return tuple(steps)


def quoted(path: Path | str) -> str:
    """Quote a path for a shell."""
    return shlex.quote(str(path))
