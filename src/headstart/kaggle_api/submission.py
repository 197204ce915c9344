"""Fill a competition's sample submission from predictions. Arrays and texts; only the last step writes a file.

    shape_of(sample.csv) -> SubmissionFormat -> filling_of(...) -> FillOptions -> submission_rows(...) -> Submission

The sample determines the header, the id column, the rows and their order. Ids are matched to images by name
(`kaggle_api.match_ids`); ids without a prediction get the class frequencies of the training set. The meaning of a
column follows from its name and its values in the sample; if both are ambiguous, an error names the option to set, or,
for the class of a single probability column, a sentence says which one was chosen. Costs about 30 microseconds per row.
Not for samples with several labels per image, boxes or masks.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.tables import ID_COLUMNS, PATH_COLUMNS
from headstart.errors import BadSubmission, MissingData, RecipeError, near_names
from headstart.evaluation.clipping import clipped
from headstart.io.files import csv_bytes, write_bytes
from headstart.io.missing_paths import hint_for_missing
from headstart.io.progress import log
from headstart.io.text_table import few, plain
from headstart.kaggle_api.match_columns import class_of_column, classes_of_columns, same_text
from headstart.kaggle_api.match_ids import match_ids
from headstart.model.inference.classifier import Calibration
from headstart.model.inference.predictions import Predictions

FORMATS = ("auto", "probability", "label", "columns")


@dataclass(frozen=True)
class SubmissionOptions:
    """Which sample submission to fill, and how.

    >>> SubmissionOptions("sample_submission.csv", submission_format="label").sample_submission.name
    'sample_submission.csv'
    """

    sample_submission: Path | None = None
    """A competition's sample submission (CSV) to fill; rows are matched to images by name."""
    submission_format: str = "auto"
    """Contents of the sample's columns: probability (of one class), label, columns (one per class), or auto."""
    pos_label: str = ""
    """Class of a single probability column, if the column's name does not say."""
    clip: str = "auto"
    """Lower bound of probabilities in a submission: auto (chosen on validation, for log-loss), none, or a number."""

    def __post_init__(self) -> None:
        if self.sample_submission is not None:
            object.__setattr__(self, "sample_submission", Path(self.sample_submission))  # text is accepted too


@dataclass(frozen=True)
class SubmissionFormat:
    """The layout of a sample submission: `header`, index of the id column, ids, the sample's `values` (for each of the
    other columns, in order), and how the file is written."""

    file: str
    header: tuple[str, ...]
    id_column: int
    ids: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    delimiter: str = ","
    line_end: str = "\n"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns to fill."""
        return tuple(name for i, name in enumerate(self.header) if i != self.id_column)


@dataclass(frozen=True)
class FillOptions:
    """How the columns are filled. `format` is ``probability``, ``label`` or ``columns``; `classes` is, for each column,
    the index of the class whose probability it contains; in the label format, `names` is the text written for each
    class. `sentence` describes it in words."""

    format: str
    classes: tuple[int, ...]
    names: tuple[str, ...]
    sentence: str


@dataclass(frozen=True, eq=False)
class Submission:
    """A filled sample: `rows` as they will be written, in the sample's order.

    `missing` ids have no image, `unreadable` ids an image that could not be read; both get the class frequencies of the
    training set. `extra` images have no id. `clip` is the lower bound of probabilities; `clipped` rows were below it.
    """

    shape: SubmissionFormat
    filling: FillOptions
    rows: tuple[tuple[str, ...], ...]
    clip: float
    clipped: int
    missing: tuple[str, ...]
    unreadable: tuple[str, ...]
    extra: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Part of the document of `predict --json`."""
        return {
            "rows": len(self.rows),
            "format": self.filling.format,
            "columns": list(self.shape.columns),
            "meaning": self.filling.sentence,
            "clip": self.clip,
            "clipped": self.clipped,
            "missing": list(self.missing),
            "unreadable": list(self.unreadable),
            "extra": list(self.extra),
        }

    def warnings(self) -> list[str]:
        """Return sentences about problems."""
        fallback = "they get the class frequencies of the training set"
        problems = [
            (self.missing, f"ids have no image; {fallback}"),
            (self.unreadable, f"ids have an unreadable image; {fallback}"),
            (self.extra, "images have no id, and are not in the submission"),
        ]
        return [
            f"{plain(self.shape.file)}: {len(these):,} {what}: {few([plain(t) for t in these], 3)}."
            for these, what in problems
            if these
        ]


# ------------------------------------------------------------------------------------------------------- the sample
def shape_of(sample: Path) -> SubmissionFormat:
    """Read a sample submission: CSV, with commas, semicolons or tabs.

    Raises `MissingData`, `BadSubmission` (not a table, no rows, nothing to fill, a repeated or empty id).
    """
    sample = Path(sample)
    if not sample.is_file():
        what = "is a folder, not a file" if sample.is_dir() else "there is no such file"
        raise MissingData(f"{sample}: {what}.", hint=hint_for_missing(sample))
    with open(sample, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        text = file.read()
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if line]
    except csv.Error as error:
        raise BadSubmission(f"{sample}: is not a valid CSV table: {error}.", hint=_EXPECTED) from None
    header = _header(sample, lines)
    columns = list(zip(*lines[1:], strict=True))
    id_column = _id_column(header)
    _check_ids(sample, header[id_column], columns[id_column])
    return SubmissionFormat(
        file=str(sample),
        header=header,
        id_column=id_column,
        ids=columns[id_column],
        values=tuple(values for i, values in enumerate(columns) if i != id_column),
        delimiter=delimiter,
        line_end="\r\n" if first.endswith("\r") else "\n",
    )


_EXPECTED = "Expected a header such as id,label and one row per image, as in a competition's sample_submission.csv."


def _header(sample: Path, lines: Sequence[Sequence[str]]) -> tuple[str, ...]:
    if len(lines) < 2:
        raise BadSubmission(f"{sample}: has no rows.", hint=_EXPECTED)
    header = tuple(lines[0])
    if len(header) < 2:
        raise BadSubmission(f"{sample}: has only the column {header[0]!r}, and none to fill.", hint=_EXPECTED)
    uneven = [n for n, line in enumerate(lines[1:], 2) if len(line) != len(header)]
    if uneven:
        raise BadSubmission(
            f"{sample}: {len(uneven):,} of {len(lines) - 1:,} rows do not have {len(header)} cells like the header; "
            f"the first is row {uneven[0]}, with {len(lines[uneven[0] - 1])}.",
            hint=_EXPECTED,
        )
    twice = [name for name, n in Counter(header).items() if n > 1]
    if twice:
        raise BadSubmission(f"{sample}: has the column {twice[0]!r} more than once.", hint=_EXPECTED)
    return header


def _id_column(header: Sequence[str]) -> int:
    """Return the index of the first column, unless exactly one other has a usual name for ids.

    >>> _id_column(["id", "label"]), _id_column(["label", "image_id"])
    (0, 1)
    """
    usual = [i for i, name in enumerate(header) if name.strip().casefold() in (*ID_COLUMNS, *PATH_COLUMNS)]
    return usual[0] if len(usual) == 1 else 0


def _check_ids(sample: Path, column: str, ids: Sequence[str]) -> None:
    counts = Counter(ids)
    twice = [name for name, n in counts.items() if n > 1]
    if "" in counts or twice:
        which = "an empty id" if "" in counts else f"the id {plain(twice[0])!r} more than once"
        raise BadSubmission(
            f"{sample}: has {which} in its id column {column!r}.",
            hint="Expected one row per image, with a unique id.",
        )


# ------------------------------------------------------------------------------------------------ what the cells mean
def check_submission_options(options: SubmissionOptions, classes: Sequence[str] | None = None) -> None:
    """Raise `RecipeError` for a value that no sample allows; without `classes`, that no classes allow either."""
    if options.submission_format not in FORMATS:
        raise RecipeError(
            f"submission_format: {options.submission_format!r} is unknown; expected one of {', '.join(FORMATS)}."
        )
    if str(options.clip) not in ("auto", "none"):
        _bound_of(options.clip, 2 if classes is None else len(classes))
    if options.pos_label and classes is not None and options.pos_label not in classes:
        hint = near_names(options.pos_label, list(classes)) or f"The classes are {few([repr(c) for c in classes])}."
        raise RecipeError(f"pos_label: {options.pos_label!r} is not a class.", hint=hint)


def filling_of(
    shape: SubmissionFormat, classes: Sequence[str], options: SubmissionOptions = SubmissionOptions()
) -> FillOptions:
    """Choose how to fill the sample's columns with predictions of `classes`.

    Several columns: the probability of one class each, matched by name. One column: the likeliest class if its values
    are class names, or integers and the classes are two or integers too; otherwise the probability of one class, which
    is the one in the column's name, else `pos_label`, else the second of two. Raises `BadSubmission`, `RecipeError` (no
    such format or class).
    """
    requested, pos_label = options.submission_format, options.pos_label
    check_submission_options(replace(options, clip="none"), classes)
    several = len(shape.columns) > 1
    if several != (requested == "columns") and requested != "auto":
        raise BadSubmission(
            f"{shape.file}: has {len(shape.columns):,} column{'s' * several} to fill; this does not fit the format "
            f"{requested}.",
            hint="Leave out --submission-format." if several else "Use --submission-format probability or label.",
        )
    if several:
        if pos_label:
            raise RecipeError(f"pos_label: {shape.file} has one column per class.", hint="Leave out --pos-label.")
        return _columns(shape, classes)
    if requested == "auto":
        requested = "probability" if pos_label else _guessed(shape, classes)
    return _probability(shape, classes, pos_label) if requested == "probability" else _label(shape, classes, pos_label)


def _columns(shape: SubmissionFormat, classes: Sequence[str]) -> FillOptions:
    indices = classes_of_columns(shape.file, shape.columns, classes)
    differs = [
        f"{plain(name)} = {plain(classes[k])}"
        for name, k in zip(shape.columns, indices, strict=True)
        if name != classes[k]
    ]
    note = f" ({few(differs, 5)})" if differs else ""
    sentence = f"each of the {len(indices)} columns is the probability of one class{note}"
    return FillOptions("columns", indices, (), sentence)


def _guessed(shape: SubmissionFormat, classes: Sequence[str]) -> str:
    """Return ``probability`` or ``label``, from the name and values of the only column."""
    column, values = shape.columns[0], _distinct(shape)
    if class_of_column(column, classes) is not None:
        return "probability"
    if not values:
        raise BadSubmission(
            f"{shape.file}: its column {column!r} is empty, so its format is unknown.",
            hint="Give --submission-format probability or label.",
        )
    if any(value in classes for value in values) or not all(map(_is_number, values)):
        return "label"
    return "label" if all(map(_is_whole, values)) else "probability"


def _probability(shape: SubmissionFormat, classes: Sequence[str], pos_label: str) -> FillOptions:
    column = shape.columns[0]
    named = class_of_column(column, classes)
    if pos_label:
        index = list(classes).index(pos_label)
    elif named is not None:
        index = named
    elif len(classes) == 2:
        index = 1
    else:
        raise BadSubmission(
            f"{shape.file}: its only column {column!r} does not name the class of its probabilities, one of "
            f"{len(classes)} ({few([plain(c) for c in classes], 5)}).",
            hint="Give --pos-label CLASS, or --submission-format label for the likeliest class.",
        )
    sentence = f"{column} is the probability of {classes[index]!r}"
    if not pos_label and named is None:
        sentence += f", the second of the two classes (--pos-label {classes[0]} selects the other)"
    return FillOptions("probability", (index,), (), sentence)


def _label(shape: SubmissionFormat, classes: Sequence[str], pos_label: str) -> FillOptions:
    """Write the likeliest class: in the sample's spelling, as a number if the sample has numbers."""
    column, values = shape.columns[0], _distinct(shape)
    if all(map(_is_number, values)) and not all(map(_is_whole, values)):
        values = []  # probabilities: they do not show how labels are written
    numbers = [str(int(c)) for c in classes if _is_whole(c)]
    scored = "use --submission-format probability if probabilities are scored"
    note = f" ({scored})" if len(classes) == 2 and values and all(map(_is_whole, values)) else ""
    by_name = not values or any(value in classes for value in values) or not all(map(_is_whole, values))
    if pos_label and (by_name or len(set(numbers)) == len(classes)):
        raise RecipeError(f"pos_label: {shape.file} expects the classes themselves.", hint="Leave out --pos-label.")
    if by_name:
        names, remarks = _spelled(shape, values, classes)
        note += remarks
    elif len(set(numbers)) == len(classes):
        names = tuple(numbers)
        note += _unknown([value for value in values if str(int(value)) not in numbers])
    elif len(classes) == 2:
        one = pos_label or classes[1]
        names = tuple(str(int(c == one)) for c in classes)
        other = next(c for c in classes if c != one)
        note = f", {one!r} = 1 (--pos-label {other} swaps them; {scored})"
    else:
        raise BadSubmission(
            f"{shape.file}: its column {column!r} has integers, and nothing says which of the {len(classes)} classes each "
            f"one is ({few([plain(c) for c in classes], 5)}).",
            hint="Train with these numbers as labels, or give --pos-label CLASS for the probability of one class.",
        )
    return FillOptions("label", (), names, f"{column} is the likeliest class{note}")


def _spelled(shape: SubmissionFormat, values: Sequence[str], classes: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Return the text written for each class, and a remark on it."""
    by_text: dict[str, list[str]] = {}
    for value in values:
        by_text.setdefault(same_text(value), []).append(value)
    alike = Counter(map(same_text, classes))
    names = [
        by_text[same_text(c)][0] if c not in values and alike[same_text(c)] == 1 and same_text(c) in by_text else c
        for c in classes
    ]
    unknown = [value for value in values if value not in names]
    if values and len(unknown) == len(values):
        raise BadSubmission(
            f"{shape.file}: none of the {len(values):,} values of its column {shape.columns[0]!r} is a class: "
            f"{few([repr(plain(v)) for v in unknown], 3)}; the classes are {few([repr(plain(c)) for c in classes], 5)}.",
            hint=near_names(unknown[0], list(classes)) or "Train with the same label names as in the sample.",
        )
    respelled = [f"{plain(c)} as {plain(n)}" for c, n in zip(classes, names, strict=True) if c != n]
    writing = f"; writing {few(respelled, 3)}" if respelled else ""
    return tuple(names), writing + _unknown(unknown)


def _unknown(values: Sequence[str]) -> str:
    """Return a remark on values of the sample that are no class; '' for none."""
    return f"; the classifier does not know {few([repr(plain(v)) for v in values], 3)}" if values else ""


def _distinct(shape: SubmissionFormat) -> list[str]:
    """Return the distinct non-empty values of the only column."""
    return [value for value in dict.fromkeys(shape.values[0]) if value.strip()]


def _is_whole(text: str) -> bool:
    text = text.strip()
    return text.isascii() and text.isdigit()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------------- the rows
def submission_rows(
    shape: SubmissionFormat,
    predictions: Predictions,
    prior_K: np.ndarray,
    options: SubmissionOptions = SubmissionOptions(),
    *,
    clip: float = 0.0,
) -> Submission:
    """Fill the sample with `predictions`, matching images by name. No number depends on the order of either.

    `prior_K` (K,) are the probabilities for ids without a prediction. `clip` is the lower bound of probabilities (see
    `evaluation.clipping.clipped`; for one class of many, of that class and of all others together); 0 changes nothing.
    Raises `BadSubmission`, also if no id has an image; `RecipeError`.
    """
    filling = filling_of(shape, predictions.classes, options)
    names = [*predictions.paths, *predictions.errors]
    path_of = match_ids(shape.file, shape.ids, names)
    if not path_of:
        raise BadSubmission(
            f"{shape.file}: none of its {len(shape.ids):,} ids ({few([plain(i) for i in shape.ids], 3)}) matches one "
            f"of the {len(names):,} images ({few([plain(n) for n in names], 3)}).",
            hint="Give the folder with the images that the sample lists.",
        )
    probabilities_NK = np.vstack([predictions.probabilities, np.asarray(prior_K, np.float64)[None]])
    row_of = {path: n for n, path in enumerate(predictions.paths)}
    rows_R = np.array([row_of.get(path_of.get(name, ""), len(predictions)) for name in shape.ids])
    cells, moved = _cells(filling, probabilities_NK[rows_R], clip)
    used = set(path_of.values())
    return Submission(
        shape=shape,
        filling=filling,
        rows=tuple(
            (*row[: shape.id_column], name, *row[shape.id_column :]) for name, row in zip(shape.ids, cells, strict=True)
        ),
        clip=clip if filling.format != "label" else 0.0,
        clipped=moved,
        missing=tuple(name for name in shape.ids if name not in path_of),
        unreadable=tuple(name for name in shape.ids if path_of.get(name) in predictions.errors),
        extra=tuple(sorted(name for name in set(names) if name not in used)),
    )


def _cells(filling: FillOptions, probabilities_RK: np.ndarray, clip: float) -> tuple[list[tuple[str, ...]], int]:
    """Return the cells of each row except its id, and the number of clipped rows."""
    if filling.format == "label":
        return [(filling.names[k],) for k in probabilities_RK.argmax(axis=1)], 0
    unclipped = probabilities_RK
    if filling.format == "probability":
        one = probabilities_RK[:, list(filling.classes)]
        unclipped = np.hstack([one, 1 - one])
    bounded = clipped(unclipped, clip)
    written = bounded[:, :1] if filling.format == "probability" else bounded[:, list(filling.classes)]
    return [tuple(f"{p:.9g}" for p in row) for row in written], int((unclipped < clip).any(axis=1).sum())


def write_submission(path: Path, submission: Submission) -> None:
    """Write it with the sample's delimiter and line ends, in UTF-8 without a byte order mark. Raises `WriteError`."""
    shape = submission.shape
    write_bytes(path, csv_bytes(shape.header, submission.rows, delimiter=shape.delimiter, line_end=shape.line_end))


def clip_of(clip: str, calibration: Calibration, classes: int) -> float:
    """The least probability to submit, of the option `clip`, for that many `classes`. Raises `RecipeError`."""
    if str(clip) == "none":
        return 0.0
    if str(clip) == "auto":
        if not calibration.clip:
            log.warning(
                "The run has no clipping bound: probabilities are submitted as they are (--clip 0.001 sets one)."
            )
        return calibration.clip
    return _bound_of(clip, classes)


def _bound_of(clip: str, classes: int) -> float:
    """The number that `clip` is. Raises `RecipeError` if it is none, or too large for that many classes."""
    most = 1 / max(classes, 2)
    try:
        bound = float(clip)
    except ValueError:
        bound = -1.0
    if not 0 <= bound < most:
        raise RecipeError(
            f"clip: {clip!r} is not a valid lower bound; expected auto, none, or a number from 0 to below {most:.4g}."
        )
    return bound
