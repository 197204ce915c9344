"""`Readiness`: whether the server takes requests; and the check before that, with images whose answers are known.

A process that listens is not yet ready: its network may be damaged, or its decoders may not start. So before any request is
answered, images go through everything that a request goes through. An export comes with its own images, and with the answers
that it gave when it was made (`exporters.golden_samples`). For a run, a rendered scene must get the answer of `Predictor`, to
the bit. That answer is computed while the server's own networks are opened (`known_answer`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from headstart.errors import ServeError
from headstart.exporters.export_folder import AGAIN, SAMPLES, ExportFolder
from headstart.exporters.exported_classifier import ExportedClassifier
from headstart.exporters.golden_images import rendered_scene
from headstart.io.files import read_json
from headstart.model.inference.classifier import Classifier
from headstart.model.inference.predictor import Predictor
from headstart.serving.served_answers import DeadlinePassed, Overloaded, ServedAnswer
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


@dataclass(frozen=True, eq=False)
class KnownAnswer:
    """An image, and the probabilities float64 (K,) that `predict` gives it."""

    image: bytes
    probabilities: np.ndarray


def known_answer(classifier: Classifier | ExportedClassifier) -> KnownAnswer:
    """Return a rendered scene with the answer of `predict`, from networks that are opened for it. Raises `BackboneError`,
    `ExportError`."""
    image = rendered_scene()
    if isinstance(classifier, Classifier):  # as `predict` does it, without a child process
        return KnownAnswer(image, Predictor(classifier, cache=False).predict_one(image))
    return KnownAnswer(image, classifier.predict([image]).probabilities[0])


async def check_answers(served: ServedClassifier, known: Future[KnownAnswer] | None = None) -> None:
    """Send images whose answers are known through the decoders and the network: an export's samples, or else a scene.

    `known` is the result of `known_answer`, if it is being computed already. Raises `ServeError`, `RunError`, `ExportError`.
    """
    export = served.opened.export
    if export is not None and export.has(EXPECTED) and read_json(export.checked(EXPECTED))["samples"]:
        await _check_samples(served, export)
    elif known is not None:
        await _check_scene(served, await asyncio.wrap_future(known))
    else:
        await _check_scene(served, await asyncio.to_thread(known_answer, served.opened.classifier))


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


async def _check_scene(served: ServedClassifier, known: KnownAnswer) -> None:
    """Compare the served answer for a rendered scene with that of `predict`."""
    (answer,) = await _answers(served, [known.image])
    if not np.isfinite(answer.probabilities).all() or not (answer.probabilities == known.probabilities).all():
        raise ServeError(
            f"the answer for a rendered scene is not that of `headstart predict`, but differs from it by up to "
            f"{np.abs(answer.probabilities - known.probabilities).max():.2g}.",
            hint="This is a fault in headstart: please report it, with your CPU's name.",
        )


async def _answers(served: ServedClassifier, images: Sequence[bytes]) -> list[ServedAnswer]:
    try:
        answers = await served.classify(images, seconds=PATIENCE)
    except (DeadlinePassed, Overloaded) as error:
        raise ServeError(
            f"an image with a known answer was not answered: {error}",
            hint="The machine may be too busy, or out of memory. Start the server again.",
        ) from error
    for answer in answers:
        if not isinstance(answer, ServedAnswer):
            raise ServeError(f"an image that comes with headstart could not be decoded: {answer.message}")
    return [answer for answer in answers if isinstance(answer, ServedAnswer)]
