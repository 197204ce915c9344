"""`Readiness`: whether the server takes requests; and the check before that, with images whose answers are known.

A process that listens is not yet ready: its network may be damaged, or its decoders may not start. So before any request is
answered, images go through everything that a request goes through. An export comes with its own images, and with the answers
that it gave when it was made (`exporters.golden_samples`). For a run, a rendered scene must get the answer of `Predictor`, to
the bit. Takes about 0.3 s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from headstart.errors import ServeError
from headstart.exporters.export_folder import AGAIN, SAMPLES, ExportFolder
from headstart.exporters.golden_images import rendered_images
from headstart.io.files import read_json
from headstart.model.inference.classifier import Classifier
from headstart.model.inference.predictor import Predictor
from headstart.serving.served_answers import ServedAnswer
from headstart.serving.served_classifier import ServedClassifier

EXPECTED = f"{SAMPLES}/expected.json"
PATIENCE = 120.0
"""Seconds that the check may take, on a machine that is busy with other things."""

ServerState = Literal["starting", "ready", "draining"]


class Readiness:
    """The state of the server, as /readyz reports it."""

    def __init__(self) -> None:
        self.state: ServerState = "starting"

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return self.state == "ready"

    @property
    def sentence(self) -> str:
        """The state in words."""
        return {
            "starting": "The server is starting.",
            "ready": "The server is ready.",
            "draining": "The server is shutting down and accepts no new requests.",
        }[self.state]


async def check_answers(served: ServedClassifier) -> None:
    """Send images whose answers are known through the decoders and the network. Raises `ServeError`, `RunError`,
    `ExportError`."""
    export = served.opened.export
    if export is not None and export.has(EXPECTED):
        await _check_samples(served, export)
    else:
        await _check_scene(served)


async def _check_samples(served: ServedClassifier, export: ExportFolder) -> None:
    expected = read_json(export.checked(EXPECTED))
    names = [str(sample["file"]) for sample in expected["samples"]]
    images = [export.checked(f"{SAMPLES}/{name}").read_bytes() for name in names]
    answers = await _answers(served, images)
    limits = {name: float(expected["tolerances"][name]["max"]) for name in ("logits", "probabilities")}
    for sample, answer in zip(expected["samples"], answers, strict=True):
        for name, found in (("logits", answer.logits), ("probabilities", answer.probabilities)):
            _check_close(f"{export.path}: {sample['file']}", name, found, sample[name], limits[name])


def _check_close(what: str, name: str, found: np.ndarray, expected: Any, limit: float) -> None:
    difference = float(np.abs(found - np.array(expected, np.float64)).max())
    if not difference <= limit:
        raise ServeError(
            f"{what}: its {name} differ from the expected ones by {difference:.2g}; at most {limit:g} was expected.",
            hint=f"`headstart verify EXPORT` says which step goes wrong. {AGAIN}",
        )


async def _check_scene(served: ServedClassifier) -> None:
    """Compare the served answer for a rendered scene with that of `predict`."""
    (image,) = rendered_images(1).values()
    predicting = asyncio.to_thread(_predicted, served, image)
    if served.opened.export is None:  # both have networks of their own, and the decoders are still starting
        expected, (answer,) = await asyncio.gather(predicting, _answers(served, [image]))
    else:
        expected, (answer,) = await predicting, await _answers(served, [image])
    if not np.isfinite(answer.probabilities).all() or not (answer.probabilities == expected).all():
        raise ServeError(
            f"the answer for a rendered scene is not that of `headstart predict`, but differs from it by up to "
            f"{np.abs(answer.probabilities - expected).max():.2g}.",
            hint="This is a fault in headstart: please report it, with your CPU's name.",
        )


def _predicted(served: ServedClassifier, image: bytes) -> np.ndarray:
    classifier = served.opened.classifier
    if isinstance(classifier, Classifier):
        return Predictor(classifier, cache=False).predict_one(image)  # as `predict` does it, without a child process
    return classifier.predict([image]).probabilities[0]


async def _answers(served: ServedClassifier, images: Sequence[bytes]) -> list[ServedAnswer]:
    answers = await served.classify(images, seconds=PATIENCE)
    for answer in answers:
        if not isinstance(answer, ServedAnswer):
            raise ServeError(f"an image that comes with headstart could not be decoded: {answer.message}")
    return [answer for answer in answers if isinstance(answer, ServedAnswer)]
