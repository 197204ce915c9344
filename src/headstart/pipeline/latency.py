"""How long a trained classifier takes for one image: `python -m headstart.pipeline.latency RUN IMAGE...` prints it.

From the file to the probabilities, one image after the other, in a process that has its networks loaded: what a service
would see, and not what `predict` takes for the first image, which is mostly start-up. The median of 25 images after three
that do not count, in milliseconds, as JSON. Images are read again each time; nothing is taken from the cache of features.
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
    """Median milliseconds per image, of images that can be read. Raises `RunError`, `UnreadableImage`."""
    predictor = Predictor(load_classifier(run), cache=False)
    took = []
    for image in itertools.islice(itertools.cycle(images), WARM + MEASURED):
        started = time.perf_counter()
        predictor.predict_one(Path(image))
        took.append(time.perf_counter() - started)
    return 1000 * statistics.median(took[WARM:])


if __name__ == "__main__":
    print(latency(Path(sys.argv[1]), [Path(word) for word in sys.argv[2:]]))
