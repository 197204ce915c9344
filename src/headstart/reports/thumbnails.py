"""Small images for a page: JPEGs in data URIs, so that the page needs no other file.

A page may hold a few thousand of them, so their total size is limited: they are made in the order requested, and once
the limit is reached the rest is left out. 300 photographs of 400 x 360 pixels take 0.5 s of one core (nearly all of it
decoding), 1,078 of 100 x 100 take 0.6 s; a thumbnail of 96 px has about 2 kB.

Not for unvalidated images: these files have passed `images.validate`. An image that can no longer be read is left out
like one beyond the limit.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from headstart.errors import UnreadableImage
from headstart.images.decode import decode
from headstart.images.file_part import FilePart, ImageFile
from headstart.images.validate import cores
from headstart.io.files import jpeg_bytes
from headstart.io.progress import log
from headstart.reports.explanation_sheet import overlay

SMALL, LARGE = 96, 176  # pixels of the longer side
MOST_BYTES = 4_200_000  # for all data URIs of a page
QUALITY = 62
_BLOCK = 128


def thumbnails(
    files: Mapping[str, ImageFile], *, large: frozenset[str] = frozenset(), most_bytes: int = MOST_BYTES
) -> dict[str, str]:
    """Return {name: data URI} of images, in the order of `files`; those in `large` are made larger.

    Stops when `most_bytes` is reached; leaves out images that cannot be read.
    """
    names, made, used = list(files), dict[str, str](), 0
    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(names), _BLOCK):
            block = names[start : start + _BLOCK]
            for name, uri in zip(
                block, pool.map(lambda n: _thumbnail(files[n], LARGE if n in large else SMALL), block), strict=True
            ):
                if used + len(uri) > most_bytes:
                    return made
                used += len(uri)
                if uri:
                    made[name] = uri
    return made


def heat_thumbnail(file: ImageFile, heat_HW: np.ndarray) -> str:
    """Return the data URI of an image with a heat map (0 to 1) over it; empty if the image cannot be read."""
    try:
        image = _small(file, LARGE)
    except (UnreadableImage, OSError) as error:
        log.debug("%s: %s", file, error)
        return ""
    return data_uri(overlay(image, np.nan_to_num(heat_HW)), 70)


def shrunk_uri(png: bytes, width: int) -> str:
    """Return the data URI of an image, reduced to at most `width` pixels wide."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.thumbnail((width, 8 * width), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return data_uri(image, 72)


def data_uri(image: Image.Image, quality: int = QUALITY) -> str:
    """Encode an image as a JPEG data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg_bytes(image, quality)).decode("ascii")


def _thumbnail(file: ImageFile, side: int) -> str:
    try:
        return data_uri(_small(file, side))
    except (UnreadableImage, OSError) as error:
        log.debug("%s: no thumbnail: %s", file, error)
        return ""


def _small(file: ImageFile, side: int) -> Image.Image:
    with io.BytesIO(file.read()) if isinstance(file, FilePart) else open(file, "rb") as opened:
        image = decode(opened, at_least=(side, side), ranges=None)
    image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return image
