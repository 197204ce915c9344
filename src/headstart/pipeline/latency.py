"""Latency of a trained classifier for one image: `python -m headstart.pipeline.latency RUN IMAGE...` prints it.

Measured from file to probabilities, one image after another, with networks already loaded: this is the latency of a service,
not that of `predict` for its first image, which is mostly start-up. Prints the median of 25 images after three warm-up
images, in milliseconds, as JSON. Images are read again each time; the feature cache is not used.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from headstart.model.inference.predictor import Predictor
from headstart.runs.run_folder import load_classifier

WARM = 3
MEASURED = 25


def latency(run: Path, images: Sequence[Path]) -> float:
    """Return the median of the milliseconds per image. Raises `RunError`; `UnreadableImage` for the first that cannot be
    read."""
    predictor = Predictor(load_classifier(run), cache=False)
    took = []
    for image in itertools.islice(itertools.cycle(images), WARM + MEASURED):
        started = time.perf_counter()
        predictor.predict_one(Path(image))
        took.append(time.perf_counter() - started)
    return 1000 * statistics.median(took[WARM:])


if __name__ == "__main__":
    print(latency(Path(sys.argv[1]), [Path(word) for word in sys.argv[2:]]))
