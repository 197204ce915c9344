"""What a frozen trunk gives for augmented views of images, computed once and kept while the tail is trained.

Each image is decoded once for all its views. The numbers are kept as float16 in a file without a name that is mapped
into memory (gone with the process, whatever becomes of it), so memory does not grow with the number of images. Cost: what
embedding costs, for each view. Not for trunks that are trained too: `training.image_batches` has batches of pixels for those.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headstart.errors import UnreadableImage
from headstart.images.augment import Augment, read_views
from headstart.images.image_refs import Images
from headstart.images.preprocess import Preprocess
from headstart.io.files import scratch_array
from headstart.io.progress import bar
from headstart.model.inference.runtime import Session

LARGEST_BYTES = 6 << 30
"""Room that activations may take on the disk; fewer views are kept where that is not enough."""


def views_that_fit(wanted: int, images: int, numel: int) -> int:
    """How many of the `wanted` views per image there is room for, at least one.

    >>> views_that_fit(4, 10_000, 50_000)
    4
    >>> views_that_fit(4, 30_000, 50_000)
    2
    """
    return max(1, min(wanted, LARGEST_BYTES // max(2 * images * numel, 1)))


@dataclass(frozen=True, eq=False)
class FrozenTrunk:
    """The frozen stages of a network, ready to run: one session per thread, the pixels they take, and the `numel` values
    that they give for an image."""

    sessions: Sequence[Session]
    spec: Preprocess
    numel: int


def keep_activations(
    images: Images, trunk: FrozenTrunk, augment: Augment, *, seed: int, views: Sequence[int], title: str
) -> np.ndarray:
    """float16 (V, N, numel): what the trunk gives for each of the `views` of N images.

    `views` are numbers as `images.augment.read_views` takes them. Raises `UnreadableImage` for an image that changed
    since it was inspected, `WriteError` if the disk has no room.
    """
    out_VND = scratch_array((len(views), len(images), trunk.numel), np.float16)
    size = len(trunk.sessions[0].pixels)
    batches = iter([range(i, min(i + size, len(images))) for i in range(0, len(images), size)])
    lock = threading.Lock()
    failures: list[BaseException] = []
    with bar(title, len(images)) as advance:

        def work(session: Session) -> None:
            try:
                for batch in _taken(batches, lock, failures):
                    pixels = [_read(images, i, trunk.spec, augment, seed, views) for i in batch]
                    _run_views(session, pixels, out_VND[:, batch.start : batch.stop])
                    advance(len(batch))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(session,), daemon=True) for session in trunk.sessions]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException as error:  # Ctrl-C: the threads are told, and waited for
            failures.append(error)
            for thread in threads:
                thread.join()
    if failures:
        raise failures[0]
    return out_VND


def _taken(batches: Iterator[range], lock: threading.Lock, failures: Sequence[BaseException]) -> Iterator[range]:
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
    """All views of a few images; the session runs once per view, always on a whole batch (see `model.inference`)."""
    for number, out_BD in enumerate(out_VBD):
        for place, image in enumerate(pixels):
            session.pixels[place] = image[number]
        session.pixels[len(pixels) :] = 0
        out_BD[:] = session.run()[: len(pixels)]
