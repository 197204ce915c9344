"""An image inside a larger file, such as a shard of a pack: read by its offset, checked by its hash.

Costs one open and one read each time, and 200 bytes of memory per image. Not for compressed archives, whose members have
no fixed offset: `data.archives` unpacks those.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headstart.errors import UnreadableImage
from headstart.images.limits import reason_of
from headstart.io.files import sha256_bytes


@dataclass(frozen=True, slots=True)
class FilePart:
    """`length` bytes of a file from `start`, with their SHA-256; `path` is the path of the image itself."""

    file: Path
    start: int
    length: int
    sha256: str
    path: str

    def __str__(self) -> str:
        return f"{self.file}: {self.path}"

    @property
    def name(self) -> str:
        """The last part of the image's path."""
        return self.path.rpartition("/")[2]

    def read(self) -> bytes:
        """Return the image's bytes. Raises `UnreadableImage`, also if they are no longer those that were packed."""
        try:
            with open(self.file, "rb", buffering=0) as file:
                file.seek(self.start)
                data = file.read(self.length)
        except OSError as error:
            raise UnreadableImage(f"{self}: could not be read: {error.strerror}.", reason=reason_of(error)) from None
        if sha256_bytes(data) != self.sha256:
            raise UnreadableImage(f"{self}: changed since it was packed.", reason="changed")
        return data


ImageFile = Path | FilePart
"""An image file, or an image inside a larger file."""
