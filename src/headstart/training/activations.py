"""What a frozen trunk gives for augmented views of images, computed once and kept while the tail is trained.

Each image is decoded once for all its views. The numbers are kept as float16 in a file without a name that is mapped
into memory (gone with the process, whatever becomes of it), so memory does not grow with the number of images. Cost: what
embedding costs, for each view. Not for trunks that are trained too: `training.image_batches` has batches of pixels for those.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np

from headstart.errors import UnreadableImage
from headstart.images.augment import Augment, read_views
from headstart.images.preprocess import Preprocess
from headstart.images.sources import ImageSource
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


def keep_activations(
    sources: Sequence[ImageSource],
    sha256s: Sequence[str],
    spec: Preprocess,
    augment: Augment,
    sessions: Sequence[Session],
    numel: int,
    *,
    seed: int,
    views: Sequence[int],
    title: str,
) -> np.ndarray:
    """float16 (V, N, numel): what the trunk behind `sessions` gives for each of the `views` of N images.

    `views` are numbers as `images.augment.read_views` takes them. Raises `UnreadableImage` for an image that changed
    since it was looked at, `WriteError` if the disk has no room.
    """
    out_VND = scratch_array((len(views), len(sources), numel), np.float16)
    size = len(sessions[0].pixels)
    batches = iter([range(i, min(i + size, len(sources))) for i in range(0, len(sources), size)])
    lock = threading.Lock()
    failures: list[BaseException] = []
    with bar(title, len(sources)) as advance:

        def work(session: Session) -> None:
            try:
                for batch in _taken(batches, lock, failures):
                    _one_batch(batch, session, out_VND, sources, sha256s, spec, augment, seed, views)
                    advance(len(batch))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(session,), daemon=True) for session in sessions]
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


def _one_batch(
    batch: range,
    session: Session,
    out_VND: np.ndarray,
    sources: Sequence[ImageSource],
    sha256s: Sequence[str],
    spec: Preprocess,
    augment: Augment,
    seed: int,
    views: Sequence[int],
) -> None:
    """All views of a few images; the session runs once a view, always on a whole batch (see `model.inference.engines`)."""
    pixels = []
    for i in batch:
        try:
            pixels.append(read_views(sources[i], sha256s[i], spec, augment, seed, views))
        except UnreadableImage as error:
            raise UnreadableImage(f"{sources[i]}: {error.message}", reason=error.reason) from error
    for number in range(len(views)):
        for place, image in enumerate(pixels):
            session.pixels[place] = image[number]
        session.pixels[len(batch) :] = 0
        out_VND[number, batch.start : batch.stop] = session.run()[: len(batch)]
