"""One image of a shard, with what is said of it; what a label may be, and how the bytes of an image begin.

Costs nothing: one `Sample` is held at a time. Not for images that are files already.
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
"""How the formats that are decoded begin, and what files of them are called."""


@dataclass(frozen=True)
class Sample:
    """One image of a shard: its bytes (None where there are none), its label, split, group, and what it was called."""

    name: str
    data: bytes | None
    label: str
    split: str = ""
    group: str = ""


def kind_of(data: bytes | None) -> str:
    """What a file with these bytes is called at its end, '' if they do not begin as an image does.

    >>> kind_of(b"GIF89a..."), kind_of(b"hello")
    ('.gif', '')
    """
    return next((kind for magic, kind in KINDS if magic.match(data or b"")), "")


def as_label(where: str, value: object, *, what: str = "label") -> str:
    """A label (or a group) as text: '' for none. Raises `BadLabels` for what is no text, or no single value."""
    if value is None or value != value:
        return ""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise BadLabels(
                f"{where}: the {what} is no text: {value[:16]!r}.", hint="Expected a number or a name in UTF-8."
            ) from None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    if isinstance(value, list | dict) or len(text) > _MAX_LABEL or not text.isprintable():
        raise BadLabels(
            f"{where}: {shown(text)} is no {what}: a single number or name was expected.",
            hint=f"{what}_column names what holds the {what}; {what}_from takes it from the file names.",
        )
    return text
