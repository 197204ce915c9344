"""`Admission`: how many images, and how many bytes of requests, may be in the server at once. Above that, callers are told
at once, instead of waiting for an answer that would come too late.

    admission.check()                        as soon as the headers are here: would there be a place?
    with admission.enter() as place:         takes one image's place, or raises `Overloaded`
        place.hold(images=3, size=90_000)    what the request turned out to hold

A request that is still arriving holds the bytes that have come, and no image: otherwise a few slow callers would keep
everyone else out. Costs microseconds; for one event loop, not for several threads.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType

from headstart.serving.served_answers import Overloaded

ALWAYS_ADMITTED = 4
"""Images that are let in whatever the pace was: it may have been that of one very slow image."""
SHARE_OF_DEADLINE = 0.8
"""What waiting may use of it."""
NEWEST = 0.05
"""Weight of the newest interval in the mean."""


class Admission:
    """At most `images` and `size` bytes at once, and no more images than are expected to be answered in `seconds`."""

    def __init__(self, *, images: int, size: int, seconds: float) -> None:
        self.most_images, self.most_bytes, self.seconds = images, size, seconds
        self.images = self.size = 0
        self._pace = 0.0
        self._last: float | None = None

    @property
    def retry_after(self) -> float:
        """Seconds until the images that are here will have been answered."""
        return max(1.0, self.images * self._pace)

    def check(self, images: int = 1) -> None:
        """Raise `Overloaded` if there is no place for so many more images."""
        wanted = self.images + images
        if wanted > self.most_images:
            raise Overloaded(
                f"the queue is full ({self.images} of {self.most_images} images)", retry_after=self.retry_after
            )
        if wanted > ALWAYS_ADMITTED and wanted * self._pace > SHARE_OF_DEADLINE * self.seconds:
            raise Overloaded(
                f"{self.images} images are waiting, which would take longer than {self.seconds:g} s",
                retry_after=self.retry_after,
            )

    def enter(self) -> Place:
        """Return a place without images or bytes, to be used in a ``with``."""
        return Place(self)

    def finished(self, images: int) -> None:
        """Note that images have been answered, to know the pace."""
        now = time.monotonic()
        if self._last is not None:
            interval = (now - self._last) / images
            self._pace += NEWEST * (interval - self._pace) if self._pace else interval
        self._last = now if self.images > images else None


@dataclass
class Place:
    """What one request holds. Raises `Overloaded` if there is no room for more."""

    admission: Admission
    images: int = 0
    size: int = 0

    def hold(self, *, images: int = 0, size: int = 0) -> None:
        """Hold so many images and bytes in all, if it holds fewer."""
        more_images, more_bytes = max(0, images - self.images), max(0, size - self.size)
        if more_images:
            self.admission.check(more_images)
        if more_bytes and self.admission.size + more_bytes > self.admission.most_bytes:
            raise Overloaded("the memory for pending requests is full")
        self.images, self.size = self.images + more_images, self.size + more_bytes
        self.admission.images += more_images
        self.admission.size += more_bytes

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.images and kind is None:
            self.admission.finished(self.images)
        self.admission.images -= self.images
        self.admission.size -= self.size
