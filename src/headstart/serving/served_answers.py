"""What the server says about an image: an answer, or why there is none. And the two exceptions that mean "not now"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class ServedAnswer:
    """What a classifier says about an image.

    `logits` float32 (K,), after temperature; `probabilities` float64 (K,), their softmax, as `Predictions` has them;
    `set` is the prediction set at the calibration's alpha, likeliest class first; `forced`: no class reaches its threshold,
    so it has only the likeliest one. `decode_seconds` and `network_seconds` are how long it took in the decoder and in the
    network, `batch` the number of images in its batch.
    """

    logits: np.ndarray
    probabilities: np.ndarray
    set: tuple[str, ...]
    forced: bool
    label: str
    decode_seconds: float = 0.0
    network_seconds: float = 0.0
    batch: int = 1


@dataclass(frozen=True)
class ImageRefusal:
    """Why an image has no answer: `reason` is a key of `images.limits.REASONS`, `status` the HTTP status."""

    reason: str
    message: str
    status: int = 422


class Overloaded(Exception):
    """There is no room for more images or bytes; `retry_after` is in seconds. Answered with 503."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlinePassed(Exception):
    """The answer would come too late, so it was not made. Answered with 503."""
