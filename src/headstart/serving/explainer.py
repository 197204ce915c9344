"""What in an image speaks for a class, and the training images most like it: for the web page of a server.

    explainer = Explainer(run)
    explainer.explain(data, label).to_json()        blocking; one image at a time

A heat map needs torch. Similar images need the training images at their recorded place, on this machine, and their features
in its cache: training images are neither downloaded nor embedded here. Whatever is missing, the answer has the rest, and a
sentence that says why. Everything is opened for the first image: importing torch and opening the networks
takes some seconds and 0.5 GB. After that, an image takes about 0.1 s of one core, in the calling thread.

The bytes are decoded in this process: pass only images that a decoder process has already decoded
(`ServedClassifier.classify`). Nothing is written, and the answer contains no paths. Not for exports, which have no training
images, nor for servers that strangers can call: it shows training images.
"""

from __future__ import annotations

import base64
import os
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from headstart.errors import RunError
from headstart.images.image_refs import Images, read_image
from headstart.io.addresses import store_url
from headstart.io.extras import is_installed
from headstart.io.files import png_bytes, sha256_bytes
from headstart.io.progress import log
from headstart.model.inference.features import Embedder
from headstart.model.inference.heat_maps import Heat
from headstart.pipeline.explanations import VIEWED, opened_heat, part_seen
from headstart.pipeline.similar_images import SimilarImages
from headstart.reports.explanation_sheet import fitted, heat_layer
from headstart.reports.thumbnails import data_uri
from headstart.runs.run_folder import RunFolder

TOP, SMALL, SHOWN = 5, 112, 640
NO_FEATURES = (
    "The features of the training images are not in this machine's cache, so no similar ones are shown. `headstart explain` "
    "computes them, with the same HEADSTART_CACHE; then restart the server."
)
GONE = "The training images cannot be read from where they were, so none are shown."


@dataclass(frozen=True)
class SimilarThumbnail:
    """A training image: its label, the cosine similarity of the features, and a thumbnail as a data URI ("" if it is gone)."""

    label: str
    cosine: float
    image: str


@dataclass(frozen=True)
class ServedExplanation:
    """The heat map for `label` as a PNG with alpha, 160 px on its longer side (None: `note` says why); the upright image, a
    data URI of a JPEG of at most `SHOWN` px; the part of it that the network sees (left, top, right, bottom, as fractions);
    similar training images."""

    label: str
    heat: bytes | None
    image: str
    seen: tuple[float, float, float, float]
    nearest: tuple[SimilarThumbnail, ...]
    note: str

    def to_json(self) -> dict[str, Any]:
        """Return the JSON answer to POST /v1/explain."""
        heat = None if self.heat is None else "data:image/png;base64," + base64.b64encode(self.heat).decode()
        nearest = [{"label": n.label, "cosine": round(n.cosine, 4), "image": n.image or None} for n in self.nearest]
        whole = {"label": self.label, "heat": heat, "image": self.image, "seen": list(self.seen)}
        return {**whole, "nearest": nearest, "note": self.note}


class Explainer:
    """A run's networks and training images, opened for the first image."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.classifier = run, run.classifier
        self._one_at_a_time = threading.Lock()
        extractors = [member.extractor for member in self.classifier.members]
        self._embed = Embedder(extractors, self.classifier.runtime, keep=False)

    def explain(self, data: bytes, label: str) -> ServedExplanation:
        """Explain what in an image speaks for `label`. Raises `UnreadableImage`, `BackboneError`."""
        with self._one_at_a_time:
            image = read_image(data, at_least=VIEWED, ranges=self.classifier.ranges)
            heat, heat_note = self._heat
            nearest, near_note = self._nearest(data)
            return ServedExplanation(
                label,
                None if heat is None else self._map(heat, image, label),
                data_uri(fitted(image, *[min(SHOWN, max(image.size))] * 2), 80),
                part_seen(self.classifier, *image.size),
                nearest,
                " ".join(filter(None, [heat_note, near_note])),
            )

    @cached_property
    def _heat(self) -> tuple[Heat | None, str]:
        """The networks in torch, or why there are none. torch gets one core: the server needs the others."""
        if is_installed("torch"):
            import torch

            torch.set_num_threads(1)
        return opened_heat(self.classifier)

    @cached_property
    def _similar(self) -> tuple[SimilarImages | None, str]:
        """The training images that can be searched, None if there are none; and which are missing, and why."""
        try:
            place = self.run.provenance.source().place
        except RunError as error:
            log.warning("%s", error.message)
            return None, "The record of the training images is missing or has changed, so none are shown."
        if store_url(place):
            return None, "The training images are in a bucket, from which this server downloads nothing."
        if not os.path.exists(place):
            return None, GONE
        similar, count = SimilarImages.cached(self.run), len(self.run.training_rows)
        if similar is None:
            return None, NO_FEATURES
        if not similar.images.files:
            return None, GONE
        missing = count - similar.searched
        if not missing:
            return similar, ""
        why = "they are gone, or their features are not in this machine's cache."
        return similar, f"{missing:,} of {count:,} training images are not searched: {why}"

    def _map(self, heat: Heat, image: Image.Image, label: str) -> bytes:
        (heat_HW,) = heat.batch([image], np.array([self.classifier.classes.index(label)]))
        return png_bytes(heat_layer(heat_HW))

    def _nearest(self, data: bytes) -> tuple[tuple[SimilarThumbnail, ...], str]:
        (similar, note), sha256 = self._similar, sha256_bytes(data)
        if similar is None:
            return (), note
        features, failed = self._embed(Images.recorded([data], [sha256]))
        if failed:
            return (), "Similar training images could not be looked up."
        (found,) = similar.nearest(self._embed.own(features), [sha256], TOP)
        return tuple(self._thumbnail(similar, row, cosine) for row, cosine in found), note

    @staticmethod
    def _thumbnail(similar: SimilarImages, row: int, cosine: float) -> SimilarThumbnail:
        image, label = similar.images.thumbnail(row), similar.images.near(row, cosine).label
        return SimilarThumbnail(label, cosine, "" if image is None else data_uri(fitted(image, SMALL, SMALL), 80))
