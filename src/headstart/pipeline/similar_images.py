"""The training images of a run that are most similar to other images, opened once for many queries.

    similar = SimilarImages.open(run)                computes the features that are not in the cache
    similar = SimilarImages.cached(run)              leaves out images without features in the cache
    similar.nearest(own_features, sha256s, 5)        rows and cosines for each image
    similar.near(row, cosine), similar.thumbnail(row)

`headstart explain` and the page of `headstart serve` show them. Opening lists the dataset and loads the features of the
training images, which are in the cache if the run was trained on this machine; in memory they take 4 bytes for each feature
of the last stage. Images that are gone or have changed are left out, and `note` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from headstart.data.open_dataset import open_dataset
from headstart.data.splits import SplitRow
from headstart.errors import DataError, MissingData, MissingExtra, StoreError, UnreadableImage
from headstart.images.file_part import ImageFile
from headstart.images.image_refs import Images, read_image
from headstart.io.text_table import plain
from headstart.model.inference.features import Embedder
from headstart.pipeline.nearest_images import mean_cosines, nearest, unit_rows
from headstart.reports.report_data import SimilarImage
from headstart.runs.run_folder import RunFolder


@dataclass(frozen=True)
class TrainingImages:
    """The training images that were found, each with its own label; `note` says which were not, and why.

    `label_of` are the run's labels by SHA-256, without those of files that are in it under several labels.
    """

    label_of: dict[str, str]
    paths: list[str]
    labels: list[str]
    files: list[ImageFile]
    sha256s: list[str]
    note: str

    @classmethod
    def of(cls, run: RunFolder, data: Path | None = None) -> TrainingImages:
        """Return those of a run; `data` is where they are now. Raises `DataError` if it is given but is not a dataset."""
        label_of = _single_labels(run.split)
        training, source = run.training_rows, run.provenance.source(data)
        try:
            dataset = open_dataset(source)
        except MissingData:
            if data is not None:
                raise
            moved = f"The training images are no longer at {plain(source.where)}"
            return cls(label_of, [], [], [], [], f"{moved}: give their place with --data DATA to see the nearest.")
        except (DataError, StoreError, MissingExtra) as error:
            if data is not None:
                raise
            return cls(label_of, [], [], [], [], f"The training images cannot be opened: {plain(error.message)}")
        present = {path: dataset.file(i) for i, path in enumerate(dataset.paths)}
        there = [row for row in training if row.path in present]
        gone, place = len(training) - len(there), plain(source.where)
        note = f"{gone:,} of {len(training):,} training images are no longer in {place}." if gone else ""
        return cls(
            label_of,
            [row.path for row in there],
            [row.label for row in there],
            [present[row.path] for row in there],
            [row.sha256 for row in there],
            note,
        )

    def near(self, row: int, cosine: float) -> SimilarImage:
        """Return an image with its label."""
        return SimilarImage(self.paths[row], self.labels[row], cosine)

    def thumbnail(self, row: int) -> Image.Image | None:
        """Return an image of at least 160 px, or None if it can no longer be read."""
        try:
            return read_image(self.files[row], sha256=self.sha256s[row], at_least=(160, 160), ranges=None)
        except UnreadableImage:
            return None


def _single_labels(rows: Sequence[SplitRow]) -> dict[str, str]:
    """Return {SHA-256: label} of the files that have one label."""
    found: dict[str, set[str]] = {}
    for row in rows:
        if row.label:
            found.setdefault(row.sha256, set()).add(row.label)
    return {sha256: next(iter(labels)) for sha256, labels in found.items() if len(labels) == 1}


@dataclass(frozen=True, eq=False)
class SimilarImages:
    """`TrainingImages` with the backbones' own features as `unit_rows`, one float32 (N, D) per backbone; rows in `changed`
    have none."""

    images: TrainingImages
    units: tuple[np.ndarray, ...]
    changed: tuple[int, ...]

    @classmethod
    def open(cls, run: RunFolder, data: Path | None = None, embed: Embedder | None = None) -> SimilarImages:
        """Look up the features of the training images, or compute them. Raises `DataError`, `BackboneError`."""
        images, classifier = TrainingImages.of(run, data), run.classifier
        embed = embed or Embedder([member.extractor for member in classifier.members], classifier.runtime)
        features, failed = embed(Images.recorded(images.files, images.sha256s))
        if failed:
            changed = f"{len(failed):,} of {len(images.files):,} training images have changed, and are left out."
            images = replace(images, note=f"{images.note} {changed}".strip())
        return cls(images, _units(features, embed), tuple(failed))

    @classmethod
    def cached(cls, run: RunFolder) -> SimilarImages | None:
        """The same, but only with features that are in the cache; None, without opening the dataset, if there are none.
        Nothing is computed. The others are in `changed`."""
        classifier = run.classifier
        embed = Embedder([member.extractor for member in classifier.members], classifier.runtime)
        training = [row.sha256 for row in run.training_rows]
        if len(embed.lacking(training)) == len(training):
            return None
        images = TrainingImages.of(run)
        features, lacking = embed.cached(images.sha256s)
        return cls(images, _units(features, embed), tuple(lacking))

    @property
    def searched(self) -> int:
        """Number of images that `nearest` chooses from."""
        return len(self.images.files) - len(self.changed)

    def nearest(
        self, own: Sequence[np.ndarray], sha256s: Sequence[str], top: int
    ) -> list[tuple[tuple[int, float], ...]]:
        """Return rows and cosines of the `top` most similar, for each image with these own features (M, D) per backbone.

        Training images with the very same bytes are left out.
        """
        if not self.searched:
            return [()] * len(sha256s)
        cosines_MN = mean_cosines(own, self.units)
        cosines_MN[:, list(self.changed)] = np.nan
        return [nearest(cosines_MN[i], self.images.sha256s, sha256, top) for i, sha256 in enumerate(sha256s)]


def _units(features: Sequence[np.ndarray], embed: Embedder) -> tuple[np.ndarray, ...]:
    return tuple(unit_rows(own_ND) for own_ND in embed.own(features))
