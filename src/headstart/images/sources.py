"""Images that are in memory already, PIL images and uint8 arrays: from here on they take the path that files take.

    Source -> look_at: its hash and size -> preprocess.read_pixels -> the square that a backbone sees

They are made upright and RGB by the rules of `decode.decode`, and known by a SHA-256 of their pixels, so that features
are kept for them as well. An image that was saved without loss gives the same features from its file and from its
pixels, to the bit; a large JPEG does not quite, because files are decoded at a scale near to what is needed.

`look_at` costs about a millisecond for 500 x 375 pixels (turning, hashing), spread over the cores. Not for images of
which there are files: a list of paths takes no memory, and damaged files are found in a process of their own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from headstart.errors import UnreadableImage
from headstart.images.decode import upright
from headstart.images.validate import ImageInfo, validate_images
from headstart.images.validate_worker import dhash, greys

ImageSource = Path | Image.Image | np.ndarray
"""An image: a file, a PIL image, or an array of pixels, uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def look_at(sources: Sequence[ImageSource]) -> list[ImageInfo]:
    """What is known about images, in their order; one that cannot be used has a `reason`. Files go to `validate_images`."""
    files = [i for i, source in enumerate(sources) if isinstance(source, Path)]
    infos = dict(zip(files, validate_images([Path(str(sources[i])) for i in files]), strict=True)) if files else {}
    rest = [i for i in range(len(sources)) if i not in infos]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        infos.update(zip(rest, pool.map(lambda i: _infos(sources[i]), rest), strict=True))
    return [infos[i] for i in range(len(sources))]


def as_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    """An image in memory as upright RGB; alpha is composed on white, grey becomes RGB.

    >>> as_rgb(np.full((2, 3), 77, np.uint8)).getpixel((0, 0))
    (77, 77, 77)

    Raises `UnreadableImage`: an array that is not pixels, or an image whose file turns out to be damaged.
    """
    return upright(image if isinstance(image, Image.Image) else Image.fromarray(*_pixels_and_mode(image)))


def _pixels_and_mode(array: np.ndarray) -> tuple[np.ndarray, str]:
    shape = array.shape
    if array.dtype != np.uint8:
        advice = " Pixels from 0 to 1 become such by (255 * x).round().astype('uint8')." * (array.dtype.kind == "f")
        raise UnreadableImage(
            f"an array of {array.dtype}, expected uint8 from 0 to 255.{advice}", reason="not_supported"
        )
    channels = 1 if len(shape) == 2 else shape[2] if len(shape) == 3 else 0
    if channels not in _MODES or 0 in shape:
        raise UnreadableImage(
            f"an array of shape {shape}, expected (height, width) or (height, width, 3).", reason="not_supported"
        )
    return np.ascontiguousarray(array.reshape(shape[:2]) if channels == 1 else array), _MODES[channels]


def _infos(image: ImageSource) -> ImageInfo:
    if isinstance(image, Path):
        raise TypeError(f"{image}: a file, which is for screen() to look at.")
    try:
        rgb = as_rgb(image)
    except UnreadableImage as refusal:
        return ImageInfo("", 0, "", 0, 0, "", 1, 0, -1, "", refusal.reason, refusal.message)
    data = rgb.tobytes()
    sha256 = hashlib.sha256(b"pixels %d x %d\n" % rgb.size + data).hexdigest()
    return ImageInfo(sha256, len(data), "pixels", *rgb.size, "RGB", 1, 1, dhash(rgb), greys(rgb), "", "")
