"""`make_predict_fn`: a run as a function that takes bytes, for jobs of your own in Ray, Spark, Daft or a plain loop.

    predict = make_predict_fn("run")
    predict([Path("one.jpg").read_bytes()])      {"label": ["cat"], "probabilities": [[0.9, 0.1]], ...}

Making it takes a moment; it is pickled as the path of the run, and opens the network at the first call in each process. Its
answers are those of `headstart predict`, to the bit, whatever else is in the batch. An image that cannot be used has a reason
in `error` and no label.

Images are decoded in the calling process, so one that crashes its decoder ends that process. For untrusted images, use
`headstart predict --shards` or `ShardWorker`, which both survive that. Pass batches of at least 64 images: each call starts
its threads anew.
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
"""For each image: its likeliest class, probabilities float32 (K,), prediction set, and error ('' if there is none)."""


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
        """Predict images from the bytes of their files. Returns, for each of `FIELDS`, a list with one value per image.

        Raises `RunError`, `ExportError`, `BackboneError`.
        """
        with self._lock:  # one batch at a time: it uses all cores
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
    """Return the function for a run folder, which need not exist on this machine yet.

    >>> make_predict_fn("/runs/cats")
    <PredictFn: /runs/cats>
    """
    return PredictFn(Path(run))
