"""Opens a trained classifier for any verb that accepts one: a run folder, or an export.

    opened = open_classifier(Path("run"))
    opened.predict(files, names).probabilities

Either is opened and compared with its manifest at once; networks are opened for the first image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from headstart.errors import ExportError, UnsupportedRun
from headstart.exporters.export_folder import ExportFolder, is_export
from headstart.exporters.exported_classifier import ExportedClassifier
from headstart.images.given_images import GivenImages
from headstart.images.image_refs import Images
from headstart.io.given_options import as_path
from headstart.model.inference.classifier import Calibration, Classifier
from headstart.model.inference.predictions import Predictions
from headstart.model.inference.predictor import Predictor
from headstart.runs.run_folder import RunFolder


class Predicts(Protocol):
    """Something that predicts images, such as `Predictor` and `ExportedClassifier`."""

    def predict(
        self, images: Images | GivenImages, names: Sequence[str] | None = None, labels: np.ndarray | None = None
    ) -> Predictions:
        """Predict class probabilities of images."""


@dataclass(frozen=True, eq=False)
class OpenedClassifier:
    """A classifier from a run folder (`run`) or an export (`export`); the other is None."""

    classifier: Classifier | ExportedClassifier
    run: RunFolder | None = None
    export: ExportFolder | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.classifier.classes

    @property
    def calibration(self) -> Calibration:
        """How far to trust the probabilities."""
        return self.classifier.calibration

    @cached_property
    def predictor(self) -> Predicts:
        """The object that predicts, opened once."""
        if isinstance(self.classifier, Classifier):
            return Predictor(self.classifier)
        return self.classifier

    @property
    def seed(self) -> int:
        """The seed of the run, so that the same images get the same intervals."""
        return self.export.seed if self.export is not None else self.opened_run.provenance.seed

    @property
    def training_prior(self) -> np.ndarray:
        """float64 (K,): frequency of each class among the images that the run was trained on."""
        return self.export.class_frequencies if self.export is not None else self.opened_run.training_prior

    @property
    def trained_on(self) -> Path | None:
        """Where the training images were; None for an export, or a folder with a classifier only, which do not say."""
        if self.run is None:
            return None
        try:
            return self.run.provenance.source().place
        except UnsupportedRun:
            return None

    @property
    def opened_run(self) -> RunFolder:
        """The run folder. Raises `ExportError` for an export."""
        if self.run is None:
            raise ExportError(f"{self.classifier!r}: needs the run folder, not an export of it.")
        return self.run


def open_classifier(path: Path) -> OpenedClassifier:
    """Open a run folder, or an export. Raises `RunError`, `ExportError`."""
    place = as_path(path, "run")
    if is_export(place):
        export = ExportFolder(place)
        return OpenedClassifier(ExportedClassifier(export), export=export)
    run = RunFolder(place)
    return OpenedClassifier(run.classifier, run=run)
