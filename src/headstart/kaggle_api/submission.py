"""A submission: a competition's sample with its cells filled from predictions. Arrays and texts; only the end writes a file.

    shape_of(sample.csv) -> Shape -> filling_of(shape, classes) -> Filling -> submission_rows(...) -> Submission

The sample decides the header, the id column, the rows and their order. Ids are matched to images by name
(`kaggle_api.match_ids`); what has no prediction gets the classes' frequencies in training. What stands in a column
follows from its name and the values in the sample; where both leave it open, there is an error that names the option
to set, or, for the class that a lone column of probabilities is of, a sentence that says which was taken. Costs some
30 microseconds per row. Not for samples with several labels per image, boxes or masks.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.image_folder import nearest
from headstart.data.tables import ID_COLUMNS, PATH_COLUMNS
from headstart.errors import BadSubmission, MissingData, RecipeError, near_names
from headstart.evaluation.clipping import clipped
from headstart.io.files import csv_bytes, write_bytes
from headstart.io.progress import log
from headstart.io.text_table import few, plain
from headstart.kaggle_api.match_columns import class_of_column, classes_of_columns, same_text
from headstart.kaggle_api.match_ids import match_ids
from headstart.model.inference.classifier import Classifier
from headstart.model.inference.predictions import Predictions

FORMATS = ("auto", "probability", "label", "columns")


@dataclass(frozen=True)
class SubmissionOptions:
    """Which sample submission to fill, and how.

    >>> SubmissionOptions("sample_submission.csv", submission_format="label").sample_submission.name
    'sample_submission.csv'
    """

    sample_submission: Path | None = None
    """A competition's sample submission (CSV) to fill; its rows find their images by name."""
    submission_format: str = "auto"
    """What the sample's columns hold: probability (of one class), label, columns (a class each), or auto."""
    pos_label: str = ""
    """Class whose probability a single column holds, where its name does not say."""
    clip: str = "auto"
    """Least probability in a submission: auto (chosen on validation, for log-loss), none, or a number."""

    def __post_init__(self) -> None:
        if self.sample_submission is not None:
            object.__setattr__(self, "sample_submission", Path(self.sample_submission))  # where text was given


@dataclass(frozen=True)
class SubmissionFormat:
    """What a sample submission asks for: `header`, where in it the ids stand, the ids and the sample's `values`
    (for each of the other columns, in their order), and how the file is written."""

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
    """How the columns are filled. `format` is ``probability``, ``label`` or ``columns``; `classes` has for each column the
    class (its number) whose probability it holds; in the label format `names` has what is written for each class.
    `sentence` says so in words."""

    format: str
    classes: tuple[int, ...]
    names: tuple[str, ...]
    sentence: str


@dataclass(frozen=True, eq=False)
class Submission:
    """A filled sample: `rows` as they are to be written, in the sample's order.

    `missing` ids have no image, `unreadable` ones per image that could not be read; both got the classes' frequencies
    in training. `extra` images have no id. `clip` is the least probability; `clipped` rows had a smaller one.
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
        """Sentences about what is not as it should be."""
        rest = "they have the classes' frequencies in training"
        told = [
            (self.missing, f"ids have no image; {rest}"),
            (self.unreadable, f"ids have an image that cannot be read; {rest}"),
            (self.extra, "images have no id, and are not in the submission"),
        ]
        return [
            f"{plain(self.shape.file)}: {len(these):,} {what}: {few([plain(t) for t in these], 3)}."
            for these, what in told
            if these
        ]


# ------------------------------------------------------------------------------------------------------- the sample
def shape_of(sample: Path) -> SubmissionFormat:
    """Read a sample submission: CSV, with commas, semicolons or tabs.

    Raises `MissingData`, `BadSubmission` (no table, no rows, nothing to fill, an id twice or empty).
    """
    sample = Path(sample)
    if not sample.is_file():
        what = "is a folder, not a file" if sample.is_dir() else "there is no such file"
        raise MissingData(f"{sample}: {what}.", hint=nearest(sample) or "Give the competition's sample_submission.csv.")
    with open(sample, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        text = file.read()
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if line]
    except csv.Error as error:
        raise BadSubmission(f"{sample}: is not a table that can be read: {error}.", hint=_EXPECTED) from None
    header = _header(sample, lines)
    columns = list(zip(*lines[1:], strict=True))
    place = _id_place(header)
    _check_ids(sample, header[place], columns[place])
    return SubmissionFormat(
        file=str(sample),
        header=header,
        id_column=place,
        ids=columns[place],
        values=tuple(values for i, values in enumerate(columns) if i != place),
        delimiter=delimiter,
        line_end="\r\n" if first.endswith("\r") else "\n",
    )


_EXPECTED = "Expected a header such as id,label and one row per image, as in a competition's sample_submission.csv."


def _header(sample: Path, lines: Sequence[Sequence[str]]) -> tuple[str, ...]:
    if len(lines) < 2:
        raise BadSubmission(f"{sample}: has no rows.", hint=_EXPECTED)
    header = tuple(lines[0])
    if len(header) < 2:
        raise BadSubmission(f"{sample}: has the column {header[0]!r} only, and none to fill.", hint=_EXPECTED)
    uneven = [n for n, line in enumerate(lines[1:], 2) if len(line) != len(header)]
    if uneven:
        raise BadSubmission(
            f"{sample}: {len(uneven):,} of {len(lines) - 1:,} rows have not {len(header)} cells as the header has; "
            f"the first is row {uneven[0]}, with {len(lines[uneven[0] - 1])}.",
            hint=_EXPECTED,
        )
    twice = [name for name, n in Counter(header).items() if n > 1]
    if twice:
        raise BadSubmission(f"{sample}: has the column {twice[0]!r} more than once.", hint=_EXPECTED)
    return header


def _id_place(header: Sequence[str]) -> int:
    """The first column, unless another one alone is called as ids are.

    >>> _id_place(["id", "label"]), _id_place(["label", "image_id"])
    (0, 1)
    """
    known = [i for i, name in enumerate(header) if name.strip().casefold() in (*ID_COLUMNS, *PATH_COLUMNS)]
    return known[0] if len(known) == 1 else 0


def _check_ids(sample: Path, column: str, ids: Sequence[str]) -> None:
    counts = Counter(ids)
    twice = [name for name, n in counts.items() if n > 1]
    if "" in counts or twice:
        which = "an empty id" if "" in counts else f"the id {plain(twice[0])!r} more than once"
        raise BadSubmission(
            f"{sample}: has {which} in the column {column!r}, which is taken for the ids.",
            hint="Expected one row per image, with an id of its own.",
        )


# ------------------------------------------------------------------------------------------------ what the cells mean
def filling_of(
    shape: SubmissionFormat, classes: Sequence[str], options: SubmissionOptions = SubmissionOptions()
) -> FillOptions:
    """How to fill the sample's columns with predictions of `classes`.

    Several columns: the probability of a class each, matched by name. One column: class names, or whole numbers where the
    classes are two or numbers themselves, make it the likeliest class; other numbers the probability of one class, which is
    the one in the column's name, else `pos_label`, else the second of two. Raises `BadSubmission`, `RecipeError` (no such
    format or class).
    """
    asked, pos_label = options.submission_format, options.pos_label
    if asked not in FORMATS:
        raise RecipeError(f"submission_format: {asked!r} is not known; expected one of {', '.join(FORMATS)}.")
    if pos_label and pos_label not in classes:
        hint = near_names(pos_label, list(classes)) or f"The classes are {few([repr(c) for c in classes])}."
        raise RecipeError(f"pos_label: {pos_label!r} is not a class.", hint=hint)
    several = len(shape.columns) > 1
    if several != (asked == "columns") and asked != "auto":
        raise BadSubmission(
            f"{shape.file}: has {len(shape.columns):,} column{'s' * several} to fill, which is not the format {asked}.",
            hint="Leave out --submission-format." if several else "Use --submission-format probability or label.",
        )
    if several:
        if pos_label:
            raise RecipeError(f"pos_label: {shape.file} has a column for each class.", hint="Leave out --pos-label.")
        return _columns(shape, classes)
    if asked == "auto":
        asked = "probability" if pos_label else _guessed(shape, classes)
    return _probability(shape, classes, pos_label) if asked == "probability" else _label(shape, classes, pos_label)


def _columns(shape: SubmissionFormat, classes: Sequence[str]) -> FillOptions:
    places = classes_of_columns(shape.file, shape.columns, classes)
    differs = [
        f"{plain(name)} = {plain(classes[k])}"
        for name, k in zip(shape.columns, places, strict=True)
        if name != classes[k]
    ]
    told = f" ({few(differs, 5)})" if differs else ""
    return FillOptions("columns", places, (), f"each of the {len(places)} columns is the probability of a class{told}")


def _guessed(shape: SubmissionFormat, classes: Sequence[str]) -> str:
    """``probability`` or ``label``, from the name and values of the only column."""
    column, values = shape.columns[0], _distinct(shape)
    if class_of_column(column, classes) is not None:
        return "probability"
    if not values:
        raise BadSubmission(
            f"{shape.file}: its column {column!r} is empty, and does not say what to write.",
            hint="Give --submission-format probability or label.",
        )
    if any(value in classes for value in values) or not all(map(_is_number, values)):
        return "label"
    return "label" if all(map(_is_whole, values)) else "probability"


def _probability(shape: SubmissionFormat, classes: Sequence[str], pos_label: str) -> FillOptions:
    column = shape.columns[0]
    named = class_of_column(column, classes)
    if pos_label:
        place = list(classes).index(pos_label)
    elif named is not None:
        place = named
    elif len(classes) == 2:
        place = 1
    else:
        raise BadSubmission(
            f"{shape.file}: its only column {column!r} does not say which of the {len(classes)} classes it is the "
            f"probability of ({few([plain(c) for c in classes], 5)}).",
            hint="Give --pos-label CLASS, or --submission-format label for the likeliest class.",
        )
    sentence = f"{column} is the probability of {classes[place]!r}"
    if not pos_label and named is None:
        sentence += f", the second of the two classes (--pos-label {classes[0]} says otherwise)"
    return FillOptions("probability", (place,), (), sentence)


def _label(shape: SubmissionFormat, classes: Sequence[str], pos_label: str) -> FillOptions:
    """The likeliest class: in the sample's own spelling of it, as a number where it has numbers."""
    column, values = shape.columns[0], _distinct(shape)
    if all(map(_is_number, values)) and not all(map(_is_whole, values)):
        values = []  # probabilities: they do not say how labels are written
    numbers = [str(int(c)) for c in classes if _is_whole(c)]
    told = ""
    by_name = not values or any(value in classes for value in values) or not all(map(_is_whole, values))
    if pos_label and (by_name or len(set(numbers)) == len(classes)):
        raise RecipeError(f"pos_label: {shape.file} is to hold the classes themselves.", hint="Leave out --pos-label.")
    if by_name:
        names, told = _spelled(shape, values, classes)
    elif len(set(numbers)) == len(classes):
        names = tuple(numbers)
    elif len(classes) == 2:
        one = pos_label or classes[1]
        names = tuple(str(int(c == one)) for c in classes)
        other = next(c for c in classes if c != one)
        told = (
            f", {one!r} = 1 (--pos-label {other} says otherwise; --submission-format probability if probabilities are "
            "scored)"
        )
    else:
        raise BadSubmission(
            f"{shape.file}: its column {column!r} has whole numbers, and nothing says which of the {len(classes)} classes "
            f"each is ({few([plain(c) for c in classes], 5)}).",
            hint="Train with labels that are these numbers, or give --pos-label CLASS for the probability of one.",
        )
    return FillOptions("label", (), names, f"{column} is the likeliest class{told}")


def _spelled(shape: SubmissionFormat, values: Sequence[str], classes: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """What is written for each class, and a remark on it."""
    by_text: dict[str, list[str]] = {}
    for value in values:
        by_text.setdefault(same_text(value), []).append(value)
    alike = Counter(map(same_text, classes))
    names = [
        by_text[same_text(c)][0] if c not in values and alike[same_text(c)] == 1 and same_text(c) in by_text else c
        for c in classes
    ]
    strange = [value for value in values if value not in names]
    if values and len(strange) == len(values):
        raise BadSubmission(
            f"{shape.file}: none of the {len(values):,} values of its column {shape.columns[0]!r} is a class: "
            f"{few([repr(plain(v)) for v in strange], 3)}; the classes are {few([repr(plain(c)) for c in classes], 5)}.",
            hint=near_names(strange[0], list(classes)) or "Train with labels that are named as in the sample.",
        )
    respelled = [f"{plain(c)} as {plain(n)}" for c, n in zip(classes, names, strict=True) if c != n]
    remarks = [f"written are {few(respelled, 3)}"] if respelled else []
    if strange:
        remarks.append(f"not known to the classifier are {few([repr(plain(v)) for v in strange], 3)}")
    return tuple(names), "".join(f"; {remark}" for remark in remarks)


def _distinct(shape: SubmissionFormat) -> list[str]:
    """The values of the only column, each once, without empty ones."""
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
    """Fill the sample with `predictions`, images by name. Their order, and that of the sample, decide no number.

    `prior_K` (K,) are the probabilities for ids without a prediction. `clip` is the least probability that the options come
    to (see `evaluation.clipping.clipped`; for one class of many, of that class and of all others together); 0 leaves them as
    they are. Raises `BadSubmission`, also if no id has an image; `RecipeError`.
    """
    filling = filling_of(shape, predictions.classes, options)
    names = [*predictions.paths, *predictions.errors]
    found = match_ids(shape.file, shape.ids, names)
    if not found:
        raise BadSubmission(
            f"{shape.file}: none of its {len(shape.ids):,} ids ({few([plain(i) for i in shape.ids], 3)}) is the name of "
            f"one of the {len(names):,} images ({few([plain(n) for n in names], 3)}).",
            hint="Give the folder with the images that the sample lists.",
        )
    probabilities_NK = np.vstack([predictions.probabilities, np.asarray(prior_K, np.float64)[None]])
    row_of = {path: n for n, path in enumerate(predictions.paths)}
    rows_R = np.array([row_of.get(found.get(name, ""), len(predictions)) for name in shape.ids])
    cells, moved = _cells(filling, probabilities_NK[rows_R], clip)
    taken = set(found.values())
    return Submission(
        shape=shape,
        filling=filling,
        rows=tuple(
            (*row[: shape.id_column], name, *row[shape.id_column :]) for name, row in zip(shape.ids, cells, strict=True)
        ),
        clip=clip if filling.format != "label" else 0.0,
        clipped=moved,
        missing=tuple(name for name in shape.ids if name not in found),
        unreadable=tuple(name for name in shape.ids if found.get(name) in predictions.errors),
        extra=tuple(sorted(name for name in set(names) if name not in taken)),
    )


def _cells(filling: FillOptions, probabilities_RK: np.ndarray, clip: float) -> tuple[list[tuple[str, ...]], int]:
    """The cells of each row but its id, and how many rows the clipping changed."""
    if filling.format == "label":
        return [(filling.names[k],) for k in probabilities_RK.argmax(axis=1)], 0
    shown = probabilities_RK
    if filling.format == "probability":
        one = probabilities_RK[:, list(filling.classes)]
        shown = np.hstack([one, 1 - one])
    kept = clipped(shown, clip)
    written = kept[:, :1] if filling.format == "probability" else kept[:, list(filling.classes)]
    return [tuple(f"{p:.9g}" for p in row) for row in written], int((shown < clip).any(axis=1).sum())


def write_submission(path: Path, submission: Submission) -> None:
    """Write it as the sample is written: its delimiter and line ends; UTF-8 without a mark. Raises `WriteError`."""
    shape = submission.shape
    write_bytes(path, csv_bytes(shape.header, submission.rows, delimiter=shape.delimiter, line_end=shape.line_end))


def clip_of(clip: str, classifier: Classifier) -> float:
    """The least probability to submit, of the option `clip`. Raises `RecipeError`."""
    if str(clip) == "none":
        return 0.0
    if str(clip) == "auto":
        if not classifier.calibration.clip:
            log.warning(
                "The run has no clipping bound: probabilities are submitted as they are (--clip 0.001 sets one)."
            )
        return classifier.calibration.clip
    most = 1 / len(classifier.classes)
    try:
        bound = float(clip)
    except ValueError:
        bound = -1.0
    if not 0 <= bound < most:
        raise RecipeError(
            f"clip: {clip!r} is no least probability; expected auto, none, or a number from 0 to below {most:.4g}."
        )
    return bound
