"""`headstart predict RUN PATH... --out FILE.csv`: what a trained classifier says of new pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.columns import columns, plain
from headstart.data.dataset import nearest, open_dataset
from headstart.errors import MissingData
from headstart.files import check_out_file
from headstart.model.classifier import Classifier, load_classifier, predict_files
from headstart.model.predictions import Predictions, write_predictions

MOST_SHOWN = 20


@dataclass(frozen=True, eq=False)
class Predicted:
    """What `predict` made."""

    predictions: Predictions
    classifier: Classifier
    out: str

    def to_json(self) -> dict[str, Any]:
        """The document of `predict --json`: for each path its class, probabilities, and set of classes at alpha."""
        p = self.predictions
        floor = 1 - self.classifier.conformal_threshold
        rows = [
            {
                "path": path,
                "predicted": p.classes[k],
                "probabilities": dict(zip(p.classes, map(float, chances), strict=True)),
                "set": [c for c, chance in zip(p.classes, chances, strict=True) if chance >= floor],
            }
            for path, k, chances in zip(p.paths, p.predicted, p.probabilities, strict=True)
        ]
        return {"model": p.model, "alpha": self.classifier.alpha, "predictions": rows, "errors": dict(p.errors)}

    def table(self) -> str:
        """Plain text for a terminal: the first twenty pictures, and the first twenty that could not be read."""
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
        return "\n".join([*lines, *([f"{len(p):,} predictions written to {self.out}"] if self.out else [])])


def predict(run: Path, *paths: Path, out: Path | None = None) -> Predicted:
    """Predict the class of pictures. Each answer is keyed by its path; unreadable pictures are named. Example:

        headstart predict run holiday/ one.jpg --out predictions.csv

    Args:
        run: Run folder that `headstart train` wrote.
        paths: Pictures, or folders of pictures.
        out: CSV to write: path, label (empty), predicted, one probability a class, error.

    Raises:
        RunError: no run folder, or a damaged one.
        MissingData: a path that does not exist.
        WriteError: `out` cannot be written.
    """
    if not paths:
        raise MissingData("No pictures were given.", hint=f"headstart predict {run} picture.jpg")
    if out is not None:
        check_out_file(Path(out))
    classifier = load_classifier(Path(run))
    files, names, lost = pictures_at(paths)
    predictions = predict_files(classifier, files, names)
    predictions = replace(predictions, errors={**lost, **predictions.errors})
    if out is not None:
        write_predictions(Path(out), predictions)
    return Predicted(predictions, classifier, str(out or ""))


def pictures_at(paths: Sequence[Path | str]) -> tuple[list[Path], list[str], dict[str, str]]:
    """Files, the names they go by (a path as given, or folder/relative path), and {name: reason} of what is no file."""
    files: list[Path] = []
    names: list[str] = []
    lost: dict[str, str] = {}
    for given in map(Path, paths):
        if given.is_dir():
            found = open_dataset(given)
            files += [found.file(i) for i in range(len(found))]
            names += [(given / p).as_posix() for p in found.paths]
            lost |= {(given / p).as_posix(): reason for p, reason in found.lost.items()}
        elif given.exists():
            files.append(given)
            names.append(given.as_posix())
        else:
            raise MissingData(f"{given}: there is no such picture or folder.", hint=nearest(given))
    return files, names, lost
