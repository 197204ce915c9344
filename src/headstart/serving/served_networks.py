"""From pixels to logits for many callers: the networks of a run, or of an export, open and ready.

    plan_of(opened)                                       how images become pixels; opens nothing
    network = open_served(opened)                         of `exporters.open_classifier`
    network.logits([pixels, pixels])                      float32 (2, K); from up to `network.threads` threads at once

Answers are those of `headstart predict` to the bit: the same compiled graph, the same fixed batch size, padded if need be. One
image in a batch of 8 costs as much as eight, so there is a second graph for a single image. It is used if it gives the same
bits on this machine: `same_alone` compares the two. (It did for eight networks in float32 and bf16, on AVX2, AVX-512 and AMX.)

Opening takes 30 ms per graph if it was compiled on this machine before. For one process that asks for one image at a time,
`Predictor.predict_one` is simpler.
"""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from headstart.exporters.exported_classifier import ExportedClassifier
from headstart.exporters.network_runners import BATCH, OpenVinoRunner
from headstart.exporters.onnx_network import network_inputs
from headstart.exporters.open_classifier import OpenedClassifier
from headstart.images.validate import cores
from headstart.model.inference.classifier import Classifier
from headstart.model.inference.features import Embedder
from headstart.model.inference.runtime import Session
from headstart.serving.decode_worker import PixelPlan, Pixels

Shapes = Mapping[str, tuple[int, int, int]]
"""Rows, columns and channels of the pixels of each input."""

MOST_THREADS = 16
"""The number of OpenVINO's streams; see `openvino_engine`."""


class ServedNetwork(Protocol):
    """The networks of one classifier, ready to run."""

    threads: int
    """How many calls of `logits` may run at once."""
    batch: int
    """Most images in one call."""
    alone: bool
    """Whether a single image has a graph of its own."""

    def logits(self, pixels: Sequence[Pixels]) -> np.ndarray:
        """Return float32 (N, K) for N <= `batch` images. Raises what the runtime raises."""
        ...


TRIALS = 4
"""Images whose answers are compared at the start."""


def plan_of(opened: OpenedClassifier) -> PixelPlan:
    """Return how images become pixels for a classifier. Raises `ExportError`."""
    if isinstance(opened.classifier, Classifier):
        inputs = network_inputs(opened.classifier)
        return PixelPlan("run", {name: spec.as_dict() for name, spec in inputs.items()})
    contracts = opened.classifier.export.inputs
    return PixelPlan("export", {name: contract.as_dict() for name, contract in contracts.items()})


def open_served(opened: OpenedClassifier) -> ServedNetwork:
    """Open a classifier's networks. Raises `BackboneError`, `ExportError`."""
    if isinstance(opened.classifier, Classifier):
        return NetworkOfRun(opened.classifier, plan_of(opened).shapes)
    return NetworkOfExport(opened.classifier, plan_of(opened).shapes)


@dataclass(frozen=True)
class _Sessions:
    """One thread's access to the networks of all members, for batches of one size."""

    embedder: Embedder
    members: tuple[Session, ...]


class NetworkOfRun:
    """The networks of all members of a run's classifier."""

    def __init__(self, classifier: Classifier, shapes: Shapes) -> None:
        self._classifier = classifier
        name_of = {spec.geometry(): name for name, spec in network_inputs(classifier).items()}
        self._names = [name_of[member.extractor.spec.geometry()] for member in classifier.members]
        self.batch = classifier.runtime.batch
        on_cpu = classifier.runtime.engine == "openvino"
        self.threads = min(cores(), MOST_THREADS) if on_cpu else 1
        self._full = self._opened(self.batch)
        self._one = self._opened(1) if on_cpu else self._full
        self.alone = on_cpu and same_alone(self._full_logits, self._one_logits, shapes)

    def logits(self, pixels: Sequence[Pixels]) -> np.ndarray:
        """Return float32 (N, K) for N <= `batch` images."""
        return self._one_logits(pixels) if self.alone and len(pixels) == 1 else self._full_logits(pixels)

    def _full_logits(self, pixels: Sequence[Pixels]) -> np.ndarray:
        return self._run(self._full, pixels)

    def _one_logits(self, pixels: Sequence[Pixels]) -> np.ndarray:
        return np.concatenate([self._run(self._one, [each]) for each in pixels])

    def _opened(self, batch: int) -> queue.SimpleQueue[_Sessions]:
        runtime = replace(self._classifier.runtime, batch=batch)
        embedder = Embedder([m.extractor for m in self._classifier.members], runtime, keep=False)
        free: queue.SimpleQueue[_Sessions] = queue.SimpleQueue()
        for _ in range(self.threads):
            members = tuple(embedder.network(member).session() for member in range(len(self._classifier.members)))
            free.put(_Sessions(embedder, members))
        return free

    def _run(self, free: queue.SimpleQueue[_Sessions], pixels: Sequence[Pixels]) -> np.ndarray:
        sessions = free.get()
        try:
            features = []
            for member, (name, session) in enumerate(zip(self._names, sessions.members, strict=True)):
                for place, each in enumerate(pixels):
                    session.pixels[place] = each[name]
                features.append(sessions.embedder.selected(member, session.run()[: len(pixels)]).copy())
            return self._classifier.logits(features)
        finally:
            free.put(sessions)


class NetworkOfExport:
    """The network of an export, in OpenVINO or onnxruntime: one call at a time, each on all cores, as in `predict`."""

    threads = 1
    batch = BATCH

    def __init__(self, exported: ExportedClassifier, shapes: Shapes) -> None:
        self._exported = exported
        self._runner = exported.opened_runner()
        in_openvino = isinstance(self._runner, OpenVinoRunner)
        self.alone = in_openvino and same_alone(self._full_logits, self._one_logits, shapes)

    def logits(self, pixels: Sequence[Pixels]) -> np.ndarray:
        """Return float32 (N, K) for N <= `batch` images."""
        return self._one_logits(pixels) if self.alone and len(pixels) == 1 else self._full_logits(pixels)

    def _full_logits(self, pixels: Sequence[Pixels]) -> np.ndarray:
        return self._exported.logits(pixels)

    def _one_logits(self, pixels: Sequence[Pixels]) -> np.ndarray:
        return np.concatenate([self._runner({name: p[None] for name, p in each.items()})[0] for each in pixels])


class _Logits(Protocol):
    def __call__(self, pixels: Sequence[Pixels]) -> np.ndarray: ...


def same_alone(full: _Logits, one: _Logits, shapes: Shapes) -> bool:
    """Return whether images get the same logits, to the bit, in a batch and alone. Compares noise, and smooth images.

    If the graph for one image adds in another order, some of the many sums differ in their last bit.
    """
    images = _trial_pixels(shapes)
    return bool((full(images) == one(images)).all())


def _trial_pixels(shapes: Shapes) -> list[Pixels]:
    rng = np.random.default_rng(0)
    images = []
    for number in range(TRIALS):
        low, high = sorted(rng.integers(0, 256, 2))
        made = {}
        for name, (rows, columns, channels) in shapes.items():
            coarse = rng.integers(low, high + 1, (rows // 8 + 1, columns // 8 + 1, channels), np.uint8)
            smooth = coarse.repeat(8, 0).repeat(8, 1)[:rows, :columns]
            noise = rng.integers(low, high + 1, (rows, columns, channels), np.uint8)
            made[name] = np.ascontiguousarray(noise if number % 2 else smooth)
        images.append(made)
    return images
