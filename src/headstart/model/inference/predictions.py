"""A classifier's predictions by image path, written and read as a small CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from headstart.errors import DataError
from headstart.evaluation.probabilities import softmax
from headstart.io.files import read_csv, write_csv
from headstart.io.result_repr import MOST_FACTS, OneLineRepr


@dataclass(frozen=True, eq=False, repr=False)
class Predictions(OneLineRepr):
    """Logits of images, in the order of `paths`.

    `logits` float32 (N, K), after temperature, so that `softmax` of them is calibrated. `labels` int64 (N,) with -1 for
    unknown, or None if there are none at all. `errors` maps paths without a prediction, which are not in `paths`, to
    the reason. `model` is the classifier's id.
    """

    paths: tuple[str, ...]
    classes: tuple[str, ...]
    logits: np.ndarray
    labels: np.ndarray | None = None
    errors: Mapping[str, str] = field(default_factory=dict)
    model: str = ""

    def __len__(self) -> int:
        return len(self.paths)

    def summary(self) -> str:
        """Number of images and classes."""
        lost = f"; {len(self.errors):,} could not be read" if self.errors else ""
        return f"{len(self):,} images, {len(self.classes)} classes{lost}"

    def facts(self) -> list[tuple[str, str]]:
        """The number of images, and the likeliest class of the first."""
        first = self.take(np.arange(len(self)) < MOST_FACTS - 1)
        rows = zip(first.paths, first.predicted, first.probabilities, strict=True)
        likeliest = [(path, f"{self.classes[k]} {chances[k]:.1%}") for path, k, chances in rows]
        return [("images", f"{len(self):,}"), *likeliest]

    @property
    def probabilities(self) -> np.ndarray:
        """float64 (N, K), rows summing to 1."""
        return softmax(self.logits) if len(self.paths) else np.zeros((0, len(self.classes)))

    @property
    def predicted(self) -> np.ndarray:
        """int64 (N,): the likeliest class of each image."""
        return self.logits.argmax(axis=1) if len(self.paths) else np.zeros(0, np.int64)

    def take(self, keep: np.ndarray) -> Predictions:
        """Select images by a bool mask or indices; drop the errors."""
        indices = np.arange(len(self.paths))[keep]
        labels = None if self.labels is None else self.labels[indices]
        return Predictions(
            paths=tuple(self.paths[i] for i in indices),
            classes=self.classes,
            logits=self.logits[indices],
            labels=labels,
            errors={},
            model=self.model,
        )


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions.csv: path, label, predicted, a column p(CLASS) of probabilities per class, error.

    Unlabelled images have an empty label; images without a prediction are at the end, with the reason in `error`.
    Raises `WriteError`.
    """
    write_csv(
        path, ["path", "label", "predicted", *map(class_column, predictions.classes), "error"], _rows(predictions)
    )


def class_column(name: str) -> str:
    """Return the name of the column with the probabilities of a class.

    >>> class_column("cat")
    'p(cat)'
    """
    return f"p({name})"


def _rows(predictions: Predictions) -> list[list[str]]:
    classes, labels = predictions.classes, predictions.labels
    names = [""] * len(predictions) if labels is None else [classes[k] if k >= 0 else "" for k in labels]
    rows = [
        [path, name, classes[k], *(f"{p:.9g}" for p in probabilities), ""]
        for path, name, k, probabilities in zip(
            predictions.paths, names, predictions.predicted, predictions.probabilities, strict=True
        )
    ]
    nothing = [""] * (len(classes) + 2)
    return rows + [[path, *nothing, reason] for path, reason in predictions.errors.items()]


def read_predictions(path: Path) -> Predictions:
    """Invert `write_predictions`, to nine digits per probability. Raises `DataError` for any other file.

    Columns are found by name: `path`, `label`, `error` and those of the classes; others are ignored.
    """
    rows = read_csv(path)
    if not rows:
        raise DataError(f"{path}: contains no predictions.")
    columns = list(rows[0])
    classes = tuple(c[2:-1] for c in columns if c.startswith("p(") and c.endswith(")"))
    if not classes or not {"path", "label", "error"} <= set(columns):
        raise DataError(
            f"{path}: is not a table of predictions: its columns are {', '.join(columns)}; expected path, label, error "
            "and p(CLASS) for each class."
        )
    good = [r for r in rows if not r["error"]]
    chances_NK = _probabilities(path, good, [class_column(c) for c in classes])
    index = {c: k for k, c in enumerate(classes)}
    return Predictions(
        paths=tuple(r["path"] for r in good),
        classes=classes,
        logits=np.log(np.maximum(chances_NK, math.exp(-700))).astype(np.float32),
        labels=np.array([index.get(r["label"], -1) for r in good], np.int64),
        errors={r["path"]: r["error"] for r in rows if r["error"]},
    )


def _probabilities(path: Path, rows: Sequence[Mapping[str, str | None]], columns: Sequence[str]) -> np.ndarray:
    """Return float64 (N, K) from the cells of the columns. Raises `DataError` for the first that is no probability."""
    with suppress(TypeError, ValueError):  # a row that is too short; text
        read_NK = np.array([[float(row[c]) for c in columns] for row in rows])  # type: ignore[arg-type]
        if ((read_NK >= 0) & (read_NK <= 1)).all():
            return read_NK.reshape(len(rows), len(columns))
    row, column = next((r, c) for r in rows for c in columns if not _is_probability(r[c]))
    raise DataError(f"{path}: {column} of {row['path']} is {row[column]!r}, expected a number from 0 to 1.")


def _is_probability(cell: str | None) -> bool:
    try:
        return cell is not None and 0 <= float(cell) <= 1
    except ValueError:
        return False
