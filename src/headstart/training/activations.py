"""Activations of a frozen trunk for augmented views of images: computed once, and cached while the tail is trained.

Each image is decoded once for all its views. The activations are float16 in an unnamed, memory-mapped file that
disappears with the process however it ends, so memory does not grow with the number of images. Cost: one embedding pass
per view. Do not use it for trunks that are trained too: `training.image_batches` serves batches of pixels for those.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headstart.errors import BudgetTooSmall, UnreadableImage
from headstart.images.augment import Augment, read_views
from headstart.images.image_refs import Images
from headstart.images.preprocess import Preprocess
from headstart.io.files import scratch_array
from headstart.io.progress import bar
from headstart.model.inference.runtime import Session

LARGEST_BYTES = 6 << 30
"""Disk space that activations may take; fewer views are kept if that is not enough."""

EMBEDDING_VIEWS = 2
"""Number of views of an image that take as long as computing its features with the whole network."""

TIMED_VIEWS = 256
"""Number of views after which the pace is known well enough."""


def views_that_fit(wanted: int, images: int, numel: int) -> int:
    """Return how many of the `wanted` views per image fit on the disk, at least one.

    >>> views_that_fit(4, 10_000, 50_000)
    4
    >>> views_that_fit(4, 30_000, 50_000)
    2
    """
    return max(1, min(wanted, LARGEST_BYTES // max(2 * images * numel, 1)))


@dataclass(frozen=True, eq=False)
class FrozenTrunk:
    """The frozen stages of a network, ready to run: one session per thread, input spec, `numel` values per image."""

    sessions: Sequence[Session]
    spec: Preprocess
    numel: int


class ViewBudget:
    """How many views per image to compute if activations and training together may take `seconds` from now on.

    Each epoch shows an image in another view and takes `epoch` seconds, so more views than epochs are of no use. There are
    fewer views, down to one, if computing one of all images and training on it take too long. All images end with the same
    number of views: `most`, after the last image. If not even one fits, `BudgetTooSmall` is raised.
    """

    def __init__(
        self,
        seconds: float = math.inf,
        epoch: float = 0.0,
        after: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds, self.epoch, self.after, self.most = seconds, epoch, after, 0
        self._clock, self._begun = clock, clock()
        self._warm: float | None = None
        self._images = self._views = 0
        self.per_view = 0.0
        """Seconds per view of one image, without the first batch; 0 if there was no other."""

    def computed(self, images: int, views: int, images_left: int) -> None:
        """Record `views` views of each of `images` more images; lower `most` if those of the other images will not fit."""
        self._images += images
        if self._warm is None:  # the first batch takes longer
            self._warm = self._clock()
            return
        self._views += images * views
        self.per_view = (self._clock() - self._warm) / self._views
        if self._views < TIMED_VIEWS or not images_left or math.isinf(self.seconds):
            return
        whole = self.seconds - EMBEDDING_VIEWS * self.per_view * self.after
        needed, left = self.per_view * images_left, whole - self.epoch - (self._clock() - self._begun)
        if needed > left:
            raise BudgetTooSmall(
                f"computing the activations of the frozen stages takes another {needed:.0f} s, but only "
                f"{max(left, 0):.0f} s of the budget remain.",
                hint="Use a larger --budget, or --approach linear.",
            )
        each = self.per_view * (self._images + images_left) + self.epoch
        self.most = max(min(self.most, int(whole / each)), 1)


def keep_activations(
    images: Images,
    trunk: FrozenTrunk,
    augment: Augment,
    *,
    seed: int,
    views: Sequence[int],
    title: str,
    budget: ViewBudget | None = None,
    file: Path | None = None,
) -> np.ndarray:
    """Compute the trunk's activations for each of the `views` of N images, float16 (V, N, numel).

    With `file` (see `io.files.scratch_array`) they are in that file, for other processes to open.

    `views` are view numbers, see `images.augment.read_views`; with a `budget`, only the first ones that fit into it.
    Raises `UnreadableImage` for an image that changed since it was inspected, `WriteError` if the disk is full,
    `BudgetTooSmall`.
    """
    budget = budget or ViewBudget()
    budget.most = len(views)
    out_VND = scratch_array((len(views), len(images), trunk.numel), np.float16, file)
    size = len(trunk.sessions[0].pixels)
    batches = iter([range(i, min(i + size, len(images))) for i in range(0, len(images), size)])
    lock = threading.Lock()
    failures: list[BaseException] = []
    with bar(title, len(images)) as advance:

        def work(session: Session) -> None:
            try:
                for batch in _claimed(batches, lock, failures):
                    numbers = views[: budget.most]
                    pixels = [_read(images, i, trunk.spec, augment, seed, numbers) for i in batch]
                    _run_views(session, pixels, out_VND[: len(numbers), batch.start : batch.stop])
                    with lock:
                        budget.computed(len(batch), len(numbers), len(images) - batch.stop)
                    advance(len(batch))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(session,), daemon=True) for session in trunk.sessions]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException as error:  # Ctrl-C: stop the threads and wait for them
            failures.append(error)
            for thread in threads:
                thread.join()
    if failures:
        raise failures[0]
    return out_VND[: budget.most]


def _claimed(batches: Iterator[range], lock: threading.Lock, failures: Sequence[BaseException]) -> Iterator[range]:
    while not failures:
        with lock:
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _read(images: Images, row: int, spec: Preprocess, augment: Augment, seed: int, views: Sequence[int]) -> np.ndarray:
    try:
        return read_views(images, row, spec, augment, seed=seed, numbers=views)
    except UnreadableImage as error:
        ref = images.refs[row]
        name = str(ref) if isinstance(ref, Path) else f"image {row}"
        raise UnreadableImage(f"{name}: {error.message}", reason=error.reason) from error


def _run_views(session: Session, pixels: Sequence[np.ndarray], out_VBD: np.ndarray) -> None:
    """Compute all views of a few images: one run of the session per view, always on a full batch."""
    for number, out_BD in enumerate(out_VBD):
        for place, image in enumerate(pixels):
            session.pixels[place] = image[number]
        session.pixels[len(pixels) :] = 0
        out_BD[:] = session.run()[: len(pixels)]
