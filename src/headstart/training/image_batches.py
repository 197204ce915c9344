"""Images for training, decoded and varied ahead of the step that needs them, a few batches at a time.

    ImageBatches(images, labels, spec, augment)    uint8 (B, S, S, 3) tensors, another version of each image in each epoch

Threads write decoded and varied images straight into the arrays of the next `AHEAD` batches, and memory is no more than
those: 5 MB each for 64 images of 160 px. What a batch holds depends on (seed, epoch, step) alone, so the number of
threads, or where an interrupted epoch goes on, changes nothing. View n of an image is what epoch n shows of it.

An image that can no longer be read is left out of its batch and named in `errors`; it is tried again in the next epoch.

At 160 px an image costs 2 to 2.6 ms of a core, decoding and hashing included, and a further view 0.7 to 1.2 ms. So on a
CPU `ImageBatches` is for networks that are trained whole. When not to use it: if the first stages are frozen, keep
their activations (`batches.TensorBatches`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import tee
from typing import TYPE_CHECKING

import numpy as np

from headstart.errors import NoImages, UnreadableImage
from headstart.images.augment import Augment, augmented, decode_size, rng_for
from headstart.images.image_refs import Images
from headstart.images.preprocess import Preprocess
from headstart.images.validate import cores

if TYPE_CHECKING:
    from headstart.training.batches import Batch, TensorBatches

AHEAD = 3
"""Batches that are made while one is used."""


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """Batches of varied images; implements `batches.Batches`.

    `images` and `labels` (int64 (N,) or float32 (N, K)) belong together; `indices` picks some of them, and a batch's
    `indices` are rows of `images`. Order, shuffling and `steps_per_epoch` are those of `TensorBatches`: with
    it above 0, an epoch is that many full batches, and an image that comes again in one epoch comes in another version.
    `errors` maps the images that could not be read to the reason, as they are found.
    """

    images: Images
    labels: np.ndarray
    spec: Preprocess
    augment: Augment = field(default_factory=Augment)
    batch_size: int = 32
    seed: int = 0
    shuffle: bool = True
    steps_per_epoch: int = 0
    indices: np.ndarray | None = None
    workers: int = 0
    errors: dict[int, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images, {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self._order())

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """See `Batches`: `inputs` is uint8 (B, S, S, 3). A batch of which nothing can be read is left out.

        Raises `NoImages` if that happens to all batches from `start` to the end of the epoch.
        """
        import torch

        from headstart.training.batches import Batch

        picked, side, found = self._picked(), self.spec.image_size, False
        plans, coming = tee(self._order().epoch(epoch, start))
        with _Ahead(self.workers, (side, side, 3), lambda job: self._read(epoch, job)) as ahead:
            jobs = (self._jobs(plan, step, picked) for step, plan in enumerate(coming, start))
            for plan, made in zip(plans, ahead.run(jobs), strict=True):
                self.errors.update(made.errors)
                if made.kept.size:
                    found = True
                    targets = plan.targets[torch.from_numpy(made.kept)] if made.errors else plan.targets
                    yield Batch(torch.from_numpy(made.pixels), targets, made.indices)
        if not found and start < len(self):
            raise NoImages(
                f"none of {len(picked):,} training images could be read in epoch {epoch + 1}.",
                hint="Is the folder with the images still there? `headstart check` names those that cannot be read.",
            )

    def _jobs(self, plan: Batch, step: int, picked: np.ndarray) -> list[_Job]:
        rounds = (step * self.batch_size + np.arange(len(plan))) // len(picked)
        return [_Job(int(picked[i]), int(r)) for i, r in zip(plan.indices, rounds, strict=True)]

    def _read(self, epoch: int, job: _Job) -> np.ndarray:
        sha256 = self.images.sha256s[job.index]
        image = self.images.read(job.index, decode_size(self.spec, self.augment))
        key = f"{sha256}/{job.round}" if job.round else sha256
        return augmented(image, self.spec, self.augment, rng_for(self.seed, epoch, key))

    def _picked(self) -> np.ndarray:
        return np.arange(len(self.images)) if self.indices is None else np.asarray(self.indices, np.int64)

    def _order(self) -> TensorBatches:
        """Which images, with which targets, make up which batch."""
        from headstart.training.batches import TensorBatches

        picked = self._picked()
        nothing = np.zeros((1, len(picked), 1), np.uint8)
        return TensorBatches(
            nothing, self.labels[picked], self.batch_size, self.seed, self.shuffle, self.steps_per_epoch
        )


@dataclass(frozen=True)
class _Job:
    """An image to read, and for which time in this epoch."""

    index: int
    round: int = 0


@dataclass(frozen=True, eq=False)
class _Made:
    """What became of a batch: `pixels` of the readable, `kept` their places in the batch, `indices` their numbers."""

    pixels: np.ndarray
    kept: np.ndarray
    indices: np.ndarray
    errors: dict[int, str]


class _Ahead:
    """Threads that make batches of (B, *shape) uint8 before they are asked for; used as a context manager."""

    def __init__(self, workers: int, shape: tuple[int, ...], read: Callable[[_Job], np.ndarray]) -> None:
        self._workers = workers or cores()
        self._shape, self._read = shape, read
        self._pool = ThreadPoolExecutor(self._workers, "images")

    def __enter__(self) -> _Ahead:
        return self

    def __exit__(self, *failure: object) -> None:
        self._pool.shutdown(cancel_futures=True)  # also when the loop is left early, or by an exception

    def run(self, batches: Iterable[list[_Job]]) -> Iterator[_Made]:
        """What was made of each batch, in order."""
        waiting: deque[tuple[list[_Job], np.ndarray, list[Future[dict[int, str]]]]] = deque()
        for jobs in batches:
            pixels = np.empty((len(jobs), *self._shape), np.uint8)
            slices = [range(first, len(jobs), self._workers) for first in range(min(self._workers, len(jobs)))]
            waiting.append((jobs, pixels, [self._pool.submit(self._fill, jobs, pixels, s) for s in slices]))
            if len(waiting) > AHEAD:
                yield _made(*waiting.popleft())
        while waiting:
            yield _made(*waiting.popleft())

    def _fill(self, jobs: Sequence[_Job], pixels: np.ndarray, places: range) -> dict[int, str]:
        """Read some of a batch's images to their places; {place: reason} of those that cannot be read."""
        failed = {}
        for place in places:
            try:
                pixels[place] = self._read(jobs[place])
            except UnreadableImage as error:
                failed[place] = error.reason
        return failed


def _made(jobs: Sequence[_Job], pixels: np.ndarray, parts: Sequence[Future[dict[int, str]]]) -> _Made:
    """A batch, once all its parts are done."""
    failed = {place: reason for part in parts for place, reason in part.result().items()}
    kept = np.array([place for place in range(len(jobs)) if place not in failed], np.int64)
    indices = np.array([jobs[place].index for place in kept], np.int64)
    errors = {jobs[place].index: reason for place, reason in sorted(failed.items())}
    return _Made(pixels[kept] if failed else pixels, kept, indices, errors)
