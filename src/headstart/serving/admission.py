"""`Admission`: limits on how many images, and how many bytes of requests, may be in the server at once. A caller above a
limit is refused at once, instead of waiting for an answer that would come too late.

    admission.check()                        once the headers have arrived: raises `Overloaded` if there is no room
    with admission.enter() as place:         an empty place; what it holds is given back at the end
        place.hold(images=3, size=90_000)    what the request turned out to hold; raises `Overloaded` if there is no room
        ...
        place.finished()                     its images have been answered or refused: this is what the pace is made of

The pace is the usual time from one finished image to the next while others are waiting, in other requests or in the same one;
time without any image is not part of it, nor is what happens to a request before or after its images are in the server. A
request that finds no other image may take up the whole deadline, and now and then more: otherwise a pace that is too slow by
mistake would stay so.

A request that is still arriving counts with the bytes received so far, and with no image: otherwise a few slow callers could
keep everyone else out. Costs microseconds. Not thread-safe: use it from one event loop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from headstart.serving.served_answers import Overloaded

ALWAYS_ADMITTED = 4
"""This many images are always admitted, however slow the pace: one very slow image may have set it."""
SHARE_OF_DEADLINE = 0.4
"""Share of the deadline that waiting may take up, at the pace so far. With 0.8, ten times too many requests left 0.68 of what
the server can do, since a third of the answers were late; with 0.4 it is 0.80 to 0.87 (LOG.md)."""
KEPT = 0.95
"""What remains of earlier images' weight in the moving average, for each newer image."""
TRY_EVERY = 10
"""Number of deadlines after which a request that is alone is tried again, although it is expected to be late."""


class Admission:
    """At most `images` and `size` bytes at once, and no more images than are expected to be answered in `seconds`.

    `clock` returns seconds from any beginning.
    """

    def __init__(self, *, images: int, size: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.most_images, self.most_bytes, self.seconds = images, size, seconds
        self.images = self.size = 0
        self._clock = clock
        self._busy = self._done = 0.0
        """Seconds and images of the intervals so far, older ones with less weight."""
        self._last: float | None = None
        self._tried = -math.inf

    @property
    def pace(self) -> float:
        """Seconds per image; 0 before the first interval."""
        return self._busy / self._done if self._done else 0.0

    @property
    def retry_after(self) -> float:
        """Expected seconds until the images now in the server have been answered; at least 1."""
        return max(1.0, self.images * self.pace)

    def check(self, images: int = 1, *, own: int = 0) -> None:
        """Raise `Overloaded` if there is no room for `images` more; the same request already holds `own`."""
        wanted, others = self.images + images, self.images - own
        if wanted > self.most_images:
            raise Overloaded(
                f"the queue is full ({self.images} of {self.most_images} images)", retry_after=self.retry_after
            )
        share = SHARE_OF_DEADLINE if others else 1.0
        late = wanted > ALWAYS_ADMITTED and wanted * self.pace > share * self.seconds
        if late and (others or not self._may_try()):
            asked = "1 more image" if own + images == 1 else f"{own + images} more images"
            why = f"since {others} {'is' if others == 1 else 'are'} waiting" if others else "at the present pace"
            raise Overloaded(
                f"{asked} cannot be answered within {self.seconds:g} s, {why}", retry_after=self.retry_after
            )

    def _may_try(self) -> bool:
        """Return True once in `TRY_EVERY` deadlines."""
        now = self._clock()
        if now - self._tried < TRY_EVERY * self.seconds:
            return False
        self._tried = now
        return True

    def enter(self) -> Place:
        """Return an empty place, to be used in a ``with`` statement."""
        return Place(self)

    def started(self) -> None:
        """Note that several images of one request are in the server, and no others: they wait for each other."""
        self._last = self._clock()

    def finished(self, images: int) -> None:
        """Note that images have been answered or refused, to update the pace."""
        now = self._clock()
        if self._last is not None:
            kept = KEPT**images
            self._busy = kept * self._busy + now - self._last
            self._done = kept * self._done + images
        self._last = now

    def leave(self, *, images: int, size: int) -> None:
        """Give back what a request held. If no image is left, the next interval begins with the next finished image."""
        self.images -= images
        self.size -= size
        if not self.images:
            self._last = None


@dataclass
class Place:
    """The images and bytes that one request holds; they are given back when its ``with`` block ends."""

    admission: Admission
    images: int = 0
    size: int = 0

    def hold(self, *, images: int = 0, size: int = 0) -> None:
        """Raise what is held to `images` and `size` in all; never less than now. Raises `Overloaded` if there is no room."""
        more_images, more_bytes = max(0, images - self.images), max(0, size - self.size)
        if more_images:
            self.admission.check(more_images, own=self.images)
        if more_bytes and self.admission.size + more_bytes > self.admission.most_bytes:
            raise Overloaded("the memory for pending requests is full")
        self.images, self.size = self.images + more_images, self.size + more_bytes
        self.admission.images += more_images
        self.admission.size += more_bytes
        if more_images and 1 < self.images == self.admission.images:
            self.admission.started()

    def finished(self) -> None:
        """Note that the images have been answered or refused, and give back their places; the bytes stay."""
        if self.images:
            self.admission.finished(self.images)
            self.admission.leave(images=self.images, size=0)
            self.images = 0

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.admission.leave(images=self.images, size=self.size)
