"""Training images, decoded and augmented a few batches ahead of the step that needs them.

    ImageBatches(images, labels, spec, augment)    uint8 (B, S, S, 3) tensors; each epoch augments each image anew

Threads write decoded and augmented images straight into the arrays of the next `AHEAD` batches, so memory is limited to
those: 5 MB per batch of 64 images at 160 px. The contents of a batch depend on (seed, epoch, step) alone, not on the
number of threads or on where an interrupted epoch resumes. View n of an image is the one that epoch n shows.

An image that can no longer be read is left out of its batch and recorded in `errors`; a warning at the end of the epoch
names it, and the next epoch tries it again. With `required`, as in validation, it ends the epoch instead.

At 160 px an image costs 2 to 2.6 ms of one core, including decoding and hashing, and each further view 0.7 to 1.2 ms.
So on a CPU, use `ImageBatches` for networks that are trained whole. When not to use it: if the first stages are frozen,
cache their activations (`batches.TensorBatches`).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import tee
from typing import TYPE_CHECKING

import numpy as np

from headstart.errors import NoImages, UnreadableImage
from headstart.images.augment import Augment, augmented, decode_size, rng_for
from headstart.images.image_refs import Images
from headstart.images.limits import REASONS
from headstart.images.preprocess import Preprocess
from headstart.images.validate import cores
from headstart.io.progress import log

if TYPE_CHECKING:
    from headstart.training.batches import Batch, TensorBatches

AHEAD = 3
"""Batches prepared while one is in use."""

NAMED = 5
"""Largest number of unreadable images that a warning names."""


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """Batches of augmented images; implements `batches.Batches`.

    `images` and `labels` (int64 (N,) or float32 (N, K)) correspond. Order, shuffling and `steps_per_epoch` work as in
    `TensorBatches`: if it is above 0, an epoch is that many full batches, and an image repeated within an epoch is
    augmented differently. `errors` maps unreadable images to the reason, as they occur. `names` of the images are for
    messages.
    """

    images: Images
    labels: np.ndarray
    spec: Preprocess
    augment: Augment = field(default_factory=Augment)
    batch_size: int = 32
    seed: int = 0
    shuffle: bool = True
    steps_per_epoch: int = 0
    workers: int = 0
    names: Sequence[str] = ()
    required: bool = False
    errors: dict[int, str] = field(default_factory=dict, init=False)
    _reported: set[int] = field(default_factory=set, init=False)
    """The epochs whose unreadable images were named: steps are timed on batches that are trained on later."""

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images, {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self._order())

    def epoch(self, epoch: int, start: int = 0, only: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Yield the batches of an epoch, see `Batches`; `inputs` is uint8 (B, S, S, 3). Skip unreadable batches.

        In a share of the batches, positions are kept: an unreadable batch is then empty instead of skipped.
        Raises `NoImages` if all batches from `start` to the end of the epoch are skipped; `UnreadableImage` for the first
        unreadable one if all are required.
        """
        import torch

        from headstart.training.batches import EVERY_BATCH, Batch, shared_numbers

        side, found = self.spec.image_size, only != EVERY_BATCH
        plans, coming = tee(self._order().epoch(epoch, start, only))
        steps = shared_numbers(start, len(self), only)
        with (
            self._reporting(epoch) as unreadable,
            _Ahead(self.workers, (side, side, 3), lambda job: self._read(epoch, job)) as ahead,
        ):
            jobs = (self._jobs(plan, step) for step, plan in zip(steps, coming, strict=True))
            for plan, made in zip(plans, ahead.run(jobs), strict=True):
                unreadable.update(made.errors)
                self.errors.update(made.errors)
                self._refuse(made.errors)
                if made.kept.size or only != EVERY_BATCH:
                    found = True
                    targets = plan.targets[torch.from_numpy(made.kept)] if made.errors else plan.targets
                    yield Batch(torch.from_numpy(made.pixels), targets, made.indices)
        if not found and start < len(self):
            raise NoImages(
                f"none of {len(self.images):,} training images could be read in epoch {epoch + 1}.",
                hint="Is the image folder still there? `headstart check` lists the unreadable images.",
            )

    @contextmanager
    def _reporting(self, epoch: int) -> Iterator[dict[int, str]]:
        """Yield a dict for the images that can no longer be read; name them once for each epoch, however it ends."""
        found: dict[int, str] = {}
        try:
            yield found
        finally:
            if found and not self.required and epoch not in self._reported:
                self._reported.add(epoch)
                named = [f"{self._name(i)} ({reason})" for i, reason in itertools.islice(found.items(), NAMED)]
                log.warning(
                    "%s of the training images could not be read in epoch %d, and were left out: %s.",
                    f"{len(found):,}",
                    epoch + 1,
                    ", ".join(named) + " and others" * (len(found) > NAMED),
                )

    def _refuse(self, errors: Mapping[int, str]) -> None:
        if errors and self.required:
            i, reason = next(iter(errors.items()))
            raise UnreadableImage(
                f"{self._name(i)}: this validation image cannot be read any more: {REASONS[reason]}.",
                reason=reason,
                hint="Results without it could not be compared with earlier ones. Restore it, and repeat the command.",
            )

    def _name(self, i: int) -> str:
        return self.names[i] if self.names else f"image {i}"

    def _jobs(self, plan: Batch, step: int) -> list[_Job]:
        rounds = (step * self.batch_size + np.arange(len(plan))) // len(self.images)
        return [_Job(int(i), int(r)) for i, r in zip(plan.indices, rounds, strict=True)]

    def _read(self, epoch: int, job: _Job) -> np.ndarray:
        sha256 = self.images.sha256s[job.index]
        image = self.images.read(job.index, decode_size(self.spec, self.augment), ranges=self.spec.ranges)
        key = f"{sha256}/{job.round}" if job.round else sha256
        return augmented(image, self.spec, self.augment, rng_for(self.seed, epoch, key))

    def _order(self) -> TensorBatches:
        """Return the plan of batches: which images and targets each one has."""
        from headstart.training.batches import TensorBatches

        nothing = np.zeros((1, len(self.images), 1), np.uint8)
        return TensorBatches(
            inputs=nothing,
            labels=self.labels,
            batch_size=self.batch_size,
            seed=self.seed,
            shuffle=self.shuffle,
            steps_per_epoch=self.steps_per_epoch,
        )


@dataclass(frozen=True)
class _Job:
    """An image to read, and how often this epoch has read it before."""

    index: int
    round: int = 0


@dataclass(frozen=True, eq=False)
class _Made:
    """A batch as read: `pixels` of the readable images, `kept` their positions in it, `indices` their numbers."""

    pixels: np.ndarray
    kept: np.ndarray
    indices: np.ndarray
    errors: dict[int, str]


class _Ahead:
    """A context manager with threads that prepare batches of (B, *shape) uint8 in advance."""

    def __init__(self, workers: int, shape: tuple[int, ...], read: Callable[[_Job], np.ndarray]) -> None:
        self._workers = workers or cores()
        self._shape, self._read = shape, read
        self._pool = ThreadPoolExecutor(self._workers, "images")

    def __enter__(self) -> _Ahead:
        return self

    def __exit__(self, *failure: object) -> None:
        self._pool.shutdown(cancel_futures=True)  # even if the loop ends early or raises

    def run(self, batches: Iterable[list[_Job]]) -> Iterator[_Made]:
        """Yield each batch as read, in order."""
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
        """Read some of a batch's images into their positions; return {position: reason} of the unreadable ones."""
        failed = {}
        for place in places:
            try:
                pixels[place] = self._read(jobs[place])
            except UnreadableImage as error:
                failed[place] = error.reason
        return failed


def _made(jobs: Sequence[_Job], pixels: np.ndarray, parts: Sequence[Future[dict[int, str]]]) -> _Made:
    """Assemble a batch once all its parts are read."""
    failed = {place: reason for part in parts for place, reason in part.result().items()}
    kept = np.array([place for place in range(len(jobs)) if place not in failed], np.int64)
    indices = np.array([jobs[place].index for place in kept], np.int64)
    errors = {jobs[place].index: reason for place, reason in sorted(failed.items())}
    return _Made(pixels[kept] if failed else pixels, kept, indices, errors)
