"""Network addresses where a path is expected: those of stores are opened (`io.stores`), others are refused.

Costs microseconds. Not for weights: `model.backbones.hub` fetches those.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from headstart.errors import MissingData

_ADDRESS = re.compile(
    r"(?:https?|ftps?|sftp|s3[an]?|gs|gcs|az|abfss?|wasbs?|hdfs|dbfs|hf|kaggle|ipfs):/|data:[a-z]+/|www\.",
    re.IGNORECASE,
)

STORES = ("s3", "gs", "az")
"""Schemes that `io.stores` reads."""
OTHER_NAMES = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
"""What other programs call these schemes."""

DOWNLOAD_FIRST = "Addresses are not fetched. Download the data first, and give its path."


def is_address(text: str) -> bool:
    """Whether a text is an address on a network, or data in a URL, and not a path.

    >>> is_address("https://host/1.jpg"), is_address("S3://bucket/1.jpg"), is_address("c:/1.jpg"), is_address("s3/1.jpg")
    (True, True, False, False)
    """
    return bool(_ADDRESS.match(text.strip()))


def store_url(place: Path | str) -> str | None:
    """Return the URL of a store, as typed or as `Path` shortened it, with one `/` at its end; None for a path.

    >>> store_url(Path("s3://photos/2026")), store_url("gs://photos"), store_url("photos"), store_url("http://host/")
    ('s3://photos/2026/', 'gs://photos/', None, None)
    """
    match = re.match(rf"({'|'.join(STORES)}):(?:/+(.*)|$)", str(place).strip(), re.IGNORECASE | re.DOTALL)
    return f"{match[1].lower()}://{(match[2] or '').strip('/')}/" if match else None


def named_place(place: Path | str) -> str:
    """Return a place as a user writes it: a path, or a URL as it was before `Path` shortened it.

    >>> named_place(Path("s3://photos/2026")), named_place(Path("photos"))
    ('s3://photos/2026/', 'photos')
    """
    return store_url(place) or str(place)


def absolute(place: Path) -> Path:
    """Return an absolute path; a URL of a store is one already."""
    return place if store_url(place) else Path(os.path.abspath(place))


def refuse_address(place: Path | str) -> None:
    """Raise `MissingData` for an address in the place of a path, unless a file is called so."""
    if is_address(str(place)) and not os.path.exists(place):
        scheme, _, rest = shown_address(place).partition("://")
        known = OTHER_NAMES.get(scheme.lower())
        hint = f"Write it as '{known}://{rest}'." if known else DOWNLOAD_FIRST
        raise MissingData(f"{shown_address(place)}: is an address, not a path.", hint=hint)


def shown_address(place: Path | str) -> str:
    """An address with its two slashes, of which `Path` leaves one; shortened if it is long.

    >>> shown_address(Path("https://host/1.jpg"))
    'https://host/1.jpg'
    """
    text = re.sub(r"^([A-Za-z0-9]+):/(?!/)", r"\1://", str(place).strip())
    return text if len(text) <= 100 else f"{text[:97]}..."
