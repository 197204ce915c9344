"""`Predictor`: a classifier opened once for many predictions. Start reading here: it is the path of one image.

    ref -> validate -> decode (upright, RGB) -> preprocess -> embed -> logits -> calibrated probabilities

    predictor = Predictor(classifier)
    predictor.predict([Path("one.jpg"), array, pil_image, encoded_bytes]).probabilities
    predictor.predict_one(Path("one.jpg"))                     the fastest way for one image at a time

`predict`, `evaluate`, `ImageClassifier` and the latency measurement all use it. Opening costs about 30 ms per backbone,
at the first image; several threads may share a `Predictor`.

Untrusted images are first decoded in a separate process, and features are cached by the hash of an image's bytes. If
every image is new and known to be safe, both are wasted effort: `predict_one` does neither.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from headstart.evaluation.probabilities import softmax
from headstart.images.given_images import GivenImages, as_several
from headstart.images.image_refs import ImageRef, Images
from headstart.images.preprocess import read_pixels
from headstart.images.remarks import note_beyond, note_unusable
from headstart.model.inference.classifier import Classifier
from headstart.model.inference.features import Embedder
from headstart.model.inference.predictions import Predictions
from headstart.model.inference.runtime import Session


class Predictor:
    """A `classifier` with its networks open. With `cache` False, features are neither looked up nor kept."""

    def __init__(self, classifier: Classifier, *, cache: bool = True) -> None:
        self.classifier = classifier
        self._embed = Embedder([m.extractor for m in classifier.members], classifier.runtime, keep=cache)
        self._threads = threading.local()

    def __repr__(self) -> str:
        return f"Predictor({self.classifier.backbones}; {len(self.classifier.classes)} classes)"

    def predict(
        self, images: Images | GivenImages, names: Sequence[str] | None = None, labels: np.ndarray | None = None
    ) -> Predictions:
        """Predict class probabilities of images: files, bytes of files, PIL images or pixel arrays, one or in any mix.

        `names` identify the results (default: the path, or the number of the image); `labels` int64 (N,), index into
        the classes, -1 = unknown. An unreadable image is in `errors` and has no prediction. Raises `BackboneError`,
        `WriteError`.
        """
        return predicted(
            images, names, labels, classes=self.classifier.classes, model=self.classifier.id, answer=self._answer
        )

    def _answer(self, images: Images) -> tuple[np.ndarray, dict[int, str]]:
        """Return logits (N, K), and {row: reason} of images that could not be read; their rows mean nothing."""
        note_beyond(images.infos, self.classifier.ranges)
        features, failed = self._embed(images)
        logits_NK = np.zeros((len(images), len(self.classifier.classes)), np.float32)
        good = [i for i in range(len(images)) if i not in failed]
        if good:
            logits_NK[good] = self.classifier.logits([x[good] for x in features])
        return logits_NK, failed

    def predict_one(self, image: ImageRef) -> np.ndarray:
        """Predict probabilities float64 (K,) of one image, decoded in this process. Raises `UnreadableImage`."""
        features = []
        for i, (member, session) in enumerate(zip(self.classifier.members, self._sessions(), strict=True)):
            session.pixels[0] = read_pixels(image, member.extractor.spec)
            features.append(self._embed.selected(i, session.run()[:1]).copy())
        probabilities_K: np.ndarray = softmax(self.classifier.logits(features))[0]
        return probabilities_K

    def _sessions(self) -> list[Session]:
        """Return this thread's sessions, one per member."""
        if not hasattr(self._threads, "sessions"):
            count = len(self.classifier.members)
            self._threads.sessions = [self._embed.network(member).session() for member in range(count)]
        return list(self._threads.sessions)


ImageLogits = Callable[[Images], tuple[np.ndarray, dict[int, str]]]
"""From usable images to logits (N, K), and {row: reason} of those that could not be read after all."""


def predicted(
    images: Images | GivenImages,
    names: Sequence[str] | None,
    labels: np.ndarray | None,
    *,
    classes: tuple[str, ...],
    model: str,
    answer: ImageLogits,
) -> Predictions:
    """Return predictions of images like `Predictor.predict`, from any function that computes logits."""
    if not isinstance(images, Images):
        images = Images.inspect(as_several(images))
    keys = list(names) if names is not None else _names(images)
    note_unusable(images.infos, keys)
    errors = {keys[i]: info.reason for i, info in enumerate(images.infos) if info.reason}
    usable = images.usable
    logits_NK, failed = answer(images.take(usable)) if len(usable) else (np.zeros((0, len(classes))), {})
    errors |= {keys[usable[j]]: reason for j, reason in failed.items()}
    good = [j for j in range(len(usable)) if j not in failed]
    rows = usable[good]
    return Predictions(
        paths=tuple(keys[i] for i in rows),
        classes=classes,
        logits=np.asarray(logits_NK[good], np.float32),
        labels=None if labels is None else labels[rows],
        errors=errors,
        model=model,
    )


def _names(images: Images) -> list[str]:
    """Return a file's path, or the number of any other image."""
    return [str(ref) if hasattr(ref, "as_posix") else str(i) for i, ref in enumerate(images.refs)]
