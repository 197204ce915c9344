"""`make_predict_fn`: a run as a function of bytes, for jobs of your own in Ray, Spark, Daft or a loop.

    predict = make_predict_fn("run")
    predict([Path("one.jpg").read_bytes()])      {"label": ["cat"], "probabilities": [[0.9, 0.1]], ...}

It is made in a moment, pickles as the path of the run, and opens the network at the first call in each process. Answers
are those of `headstart predict`, to the bit, whatever else is in a batch. An image that cannot be used has a reason in
`error` and no label.

Images are decoded in the calling process: one that crashes a decoder ends it. For images that anybody may have made, use
`headstart predict --shards`, or `ShardWorker`, which both survive that. Give batches of 64 images and more: a call begins
with empty threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import ExportError
from headstart.evaluation.conformal import prediction_sets
from headstart.evaluation.probabilities import softmax
from headstart.exporters.open_classifier import open_classifier
from headstart.io.stores.store import StoredFile
from headstart.model.inference.classifier import Classifier
from headstart.scale.shard_columns import PredictionColumns
from headstart.scale.shard_pass import ShardPass

FIELDS = ("label", "probabilities", "set", "error")
"""What is known of an image: its likeliest class, float32 (K,), its prediction set, '' or the reason why there is none."""


class PredictFn:
    """See `make_predict_fn`. `classes` opens the run."""

    def __init__(self, run: Path) -> None:
        self.run = Path(os.path.abspath(run))
        self._opened: tuple[Classifier, ShardPass] | None = None
        self._reading: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"run": self.run}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["run"])  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"<PredictFn: {self.run}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the probabilities. Raises `RunError`, `ExportError`."""
        with self._lock:
            return self._open()[0].classes

    def __call__(self, images: Sequence[bytes]) -> dict[str, Any]:
        """Predict images from the bytes of their files: a value per image under each of `FIELDS`.

        All are lists. Raises `RunError`, `ExportError`, `BackboneError`.
        """
        with self._lock:  # one batch at a time uses all cores
            classifier, work = self._open()
            self._reading = {str(i): bytes(image or b"") for i, image in enumerate(images)}
            files = [StoredFile(name, len(data), "") for name, data in self._reading.items()]
            rows = work.run(files, {})
            self._reading = {}
        chances_NK = softmax(rows.values) if len(files) else np.zeros((0, len(classifier.classes)))
        sets_NK = prediction_sets(chances_NK, classifier.calibration.conformal_threshold)
        errors = [rows.errors.get(i, "") for i in range(len(files))]
        names = np.array(classifier.classes, dtype=object)
        chances_NK[[i for i, reason in enumerate(errors) if reason]] = 0
        return {
            "label": ["" if e else names[k] for e, k in zip(errors, rows.values.argmax(axis=1), strict=True)],
            "probabilities": list(chances_NK.astype(np.float32)),
            "set": [[] if e else list(names[held]) for e, held in zip(errors, sets_NK, strict=True)],
            "error": errors,
        }

    def _open(self) -> tuple[Classifier, ShardPass]:
        if self._opened is None:
            classifier = open_classifier(self.run).classifier
            if not isinstance(classifier, Classifier):
                raise ExportError(f"{self.run}: is an export; this needs the run folder.", hint="Give the run folder.")
            work = ShardPass(PredictionColumns(classifier), lambda file: self._reading[file.key])
            self._opened = classifier, work
        return self._opened


def make_predict_fn(run: Path | str) -> PredictFn:
    """Return the function of a run folder, which need not exist on this machine yet.

    >>> make_predict_fn("/runs/cats")
    <PredictFn: /runs/cats>
    """
    return PredictFn(Path(run))
