"""One image of a shard with its label; valid labels, and the first bytes of image formats.

Costs nothing: one `Sample` is in memory at a time. Not for images that are already files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from headstart.data.archives.members import shown
from headstart.errors import BadLabels

_MAX_LABEL = 200  # characters

KINDS = (
    (re.compile(rb"\xff\xd8\xff"), ".jpg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), ".png"),
    (re.compile(rb"GIF8[79]a"), ".gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), ".webp"),
    (re.compile(rb"BM.{4}\0{4}", re.DOTALL), ".bmp"),
    (re.compile(rb"II\*\0|MM\0\*"), ".tif"),
    (re.compile(rb"P[56]\s"), ".ppm"),
)
"""First bytes of the decoded formats, and the suffixes of their files."""


@dataclass(frozen=True)
class Sample:
    """One image of a shard: its name, bytes (None if it has none), label, split and group; which columns, fields or keys
    it has besides."""

    name: str
    data: bytes | None
    label: str
    split: str = ""
    group: str = ""
    unused: tuple[str, ...] = ()


def kind_of(data: bytes | None) -> str:
    """Return the file suffix for these bytes, '' if they do not begin like an image.

    >>> kind_of(b"GIF89a..."), kind_of(b"hello")
    ('.gif', '')
    """
    return next((kind for magic, kind in KINDS if magic.match(data or b"")), "")


def as_label(where: str, value: object, *, what: str = "label") -> str:
    """Return a label (or a group) as text: '' for none. Raises `BadLabels` if it is not text or not a single value."""
    if value is None or value != value:
        return ""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise BadLabels(
                f"{where}: the {what} is not text: {value[:16]!r}.", hint="Expected a number or a name in UTF-8."
            ) from None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    if isinstance(value, list | dict) or len(text) > _MAX_LABEL or not text.isprintable():
        raise BadLabels(
            f"{where}: {shown(text)} is not a {what}; expected a single number or name.",
            hint=f"{what}_column names the column of the {what}; {what}_from reads it from the file names.",
        )
    return text
