"""Images as a Python program gives them: a path, the bytes of a file, a PIL image, pixels, or several of these.

`predict(run, image)` and `predict(run, [image, path, array])` end up here. Pixels of the wrong type or shape are an
error at once, since every image of the program will have them; a damaged file is not, since it is one of many. Costs
microseconds per path. Not for folders and archives, which stay paths: `pipeline.images_at` opens them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart.errors import DataError, MissingData, UnreadableImage
from headstart.images.image_refs import EXPECTED, ImageRef, as_ref, as_rgb

GivenImages = str | ImageRef | Iterable[str | ImageRef]
"""One image, or several: paths, bytes of files, PIL images, or arrays of pixels."""


def each_image(given: Iterable[Any]) -> list[ImageRef]:
    """The images, with lists and arrays of several images split up, and open files read.

    Raises `DataError` for what is not an image, and if there is none.
    """
    images = [_image_ref(item, number) for number, item in enumerate(_flat(given))]
    if not images:
        raise MissingData("No images were given.", hint=EXPECTED)
    return images


def places_among(images: Iterable[ImageRef]) -> list[Path]:
    """Those that are paths."""
    return [image for image in images if isinstance(image, Path)]


def as_several(images: Any) -> Iterable[Any]:
    """Several images unchanged, one image as a list of one."""
    return images if _is_several(images) else [images]


def _flat(given: Iterable[Any]) -> Iterator[Any]:
    for item in given:
        if _is_several(item):
            yield from _flat(item)
        else:
            yield item


def _is_several(item: Any) -> bool:
    """Whether an item is a collection of images: a list, a column of a frame, an array (N, height, width, 3)."""
    if isinstance(item, str | bytes | bytearray | memoryview | os.PathLike | Image.Image) or hasattr(item, "read"):
        return False
    if isinstance(item, Mapping) or _is_frame(item):
        return False
    if isinstance(item, np.ndarray):
        return item.ndim == 4 or (item.ndim == 1 and item.dtype.kind in "OUS")
    return hasattr(item, "to_list") or (isinstance(item, Iterable) and not hasattr(item, "__array__"))


def _is_frame(item: Any) -> bool:
    return hasattr(item, "columns") or hasattr(item, "column_names")


def _image_ref(item: Any, number: int) -> ImageRef:
    if hasattr(item, "read") and not isinstance(item, Image.Image):
        item = item.read()
    if isinstance(item, bytearray | memoryview):
        return bytes(item)
    if isinstance(item, os.PathLike):
        return Path(item)
    if not _is_frame(item):
        try:
            ref = as_ref(item)
        except DataError as error:
            raise DataError(error.message.replace("An image", f"Image {number}", 1), hint=error.hint) from None
        return _pixels(ref, number) if isinstance(ref, np.ndarray) else ref
    raise DataError(
        f"Image {number} is of type {type(item).__name__}, which cannot be used as one.",
        hint="Give its column of paths or images, such as frame['path'].",
    )


def _pixels(array: np.ndarray, number: int) -> np.ndarray:
    try:
        as_rgb(array)
    except UnreadableImage as error:
        raise DataError(f"Image {number} is {error.message}", hint=EXPECTED) from None
    return array
