"""`ImageRef`: one image, wherever it is stored. `Images`: many of them, with an `ImageInfo` for each.

    Images.inspect(refs)       every image read once: its hash, size and format, or the reason why it cannot be used
    images.take(rows)          a subset
    read_image(ref, ...)       one image, decoded, upright and RGB

An image is a file (a path), a part of one (in a pack), the bytes of one, a PIL image or an array of pixels. Files and
bytes are first decoded in a separate process (`images.validate`). Pixels follow the rules of `decode.decode` and have a
SHA-256 of their own, so their features are cached too. A losslessly saved image gives the same features from its file
and from its pixels, to the bit. A large JPEG does not quite: files are decoded at a scale near the one needed.

Inspecting costs about a millisecond for 500 x 375 pixels. A new storage place is one more branch in
`read_bytes`. Not for thousands of arrays at once: they take memory, a list of paths does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from headstart.errors import DataError, UnreadableImage
from headstart.images.decode import DecodedImage, decode, unscaled, upright
from headstart.images.file_part import FilePart
from headstart.images.limits import reason_of
from headstart.images.validate import ImageInfo, cores, validate_images
from headstart.images.validate_worker import dhash, greys, left_out
from headstart.images.value_ranges import ValueRanges, chosen_ranges, is_deep
from headstart.io.addresses import DOWNLOAD_FIRST, is_address, store_url
from headstart.io.files import png_bytes, sha256_bytes, sha256_file, tiff_bytes

EncodedRef = Path | FilePart | bytes
ImageRef = EncodedRef | Image.Image | np.ndarray
"""One image: a file or a part of one, the bytes of a file, a PIL image, or pixels: uint8 (H, W), (H, W, 1), (H, W, 3)
or (H, W, 4)."""

EXPECTED = (
    "Expected paths, bytes of files, PIL images, or arrays of pixels: uint8, (height, width), "
    "(height, width, 3) or (height, width, 4)."
)

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, eq=False)
class Images:
    """N images in order. `infos[i]` describes `refs[i]`."""

    refs: Sequence[ImageRef]
    infos: Sequence[ImageInfo]

    def __post_init__(self) -> None:
        if len(self.refs) != len(self.infos):
            raise ValueError(f"{len(self.refs)} images and {len(self.infos)} infos, expected one for each.")

    @classmethod
    def inspect(cls, refs: Iterable[ImageRef]) -> Images:
        """Read every image once. Unusable images have a `reason` in their info; none makes this raise.

        Raises `DataError` for what is not an image at all.
        """
        refs = tuple(map(as_ref, refs))
        encoded = {i: ref for i, ref in enumerate(refs) if isinstance(ref, EncodedRef)}
        infos = dict(zip(encoded, validate_images(list(encoded.values())), strict=True)) if encoded else {}
        pixels = [i for i in range(len(refs)) if i not in infos]
        with ThreadPoolExecutor(cores()) as pool:
            infos.update(zip(pixels, pool.map(lambda i: _info_of_pixels(refs[i]), pixels), strict=True))
        return cls(refs, tuple(infos[i] for i in range(len(refs))))

    @classmethod
    def recorded(cls, refs: Sequence[ImageRef], sha256s: Iterable[str]) -> Images:
        """Return images of which only the hashes are known, as recorded by a run; opens no file."""
        return cls(refs, tuple(ImageInfo(sha256, 0, *left_out("", "")) for sha256 in sha256s))

    def __len__(self) -> int:
        return len(self.refs)

    def __add__(self, other: Images) -> Images:
        return Images((*self.refs, *other.refs), (*self.infos, *other.infos))

    def __repr__(self) -> str:
        return f"Images({len(self):,} images)"

    @cached_property
    def sha256s(self) -> tuple[str, ...]:
        """The SHA-256 of each image's bytes, or of its pixels; '' if it could not be read."""
        return tuple(info.sha256 for info in self.infos)

    @cached_property
    def usable(self) -> np.ndarray:
        """int64: the rows of the usable images."""
        return np.flatnonzero([not info.reason for info in self.infos])

    @cached_property
    def sizes_N2(self) -> np.ndarray:
        """int64 (N, 2): width and height of each upright image in pixels; 0 if it could not be read."""
        return np.array([(info.width, info.height) for info in self.infos], np.int64).reshape(-1, 2)

    @cached_property
    def ranges(self) -> ValueRanges:
        """The values that become 0 and 255 in these images of more than 8 bits per channel, taken together."""
        return chosen_ranges((info.mode, info.low, info.high) for info in self.infos if not info.reason)

    def take(self, rows: Sequence[int] | np.ndarray) -> Images:
        """Return the images of these rows (indices, or a bool mask), in this order."""
        chosen = np.asarray(rows)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        picked: list[int] = chosen.tolist()
        return Images(tuple(self.refs[i] for i in picked), tuple(self.infos[i] for i in picked))

    def read(
        self, row: int, at_least: tuple[int, int] | None = None, *, ranges: ValueRanges | None = ValueRanges()
    ) -> Image.Image:
        """Read image `row`, upright and RGB. Raises `UnreadableImage`, also if it has changed since its inspection."""
        return read_image(self.refs[row], sha256=self.infos[row].sha256, at_least=at_least, ranges=ranges)


def read_image(
    ref: ImageRef,
    *,
    sha256: str | None = None,
    at_least: tuple[int, int] | None = None,
    ranges: ValueRanges | None = ValueRanges(),
) -> Image.Image:
    """Read an upright RGB image; `at_least` (width and height in pixels) and `ranges` are as for `decode`.

    Raises `UnreadableImage`; with `sha256`, also if the bytes have another hash: the image has changed.
    """
    ref = as_ref(ref)
    if isinstance(ref, EncodedRef):
        return decode(read_bytes(ref, sha256=sha256), at_least, ranges)
    return as_rgb(ref, ranges)


def as_ref(image: object) -> ImageRef:
    """An image as given by a program: text is a path, and arrays of other libraries become numpy's.

    Raises `DataError` for what is not an image.
    """
    if isinstance(image, ImageRef):
        return image
    if isinstance(image, str) and is_address(image) and store_url(image) is None:
        raise DataError(f"An image is the address {image!r}, which is not fetched.", hint=DOWNLOAD_FIRST)
    if isinstance(image, str) and image:
        return Path(image)
    if hasattr(image, "__array__") and np.ndim(image) > 1:
        return np.asarray(image)
    shown = repr(image) if image is None or isinstance(image, str | int | float) else f"of type {type(image).__name__}"
    raise DataError(f"An image is {shown}, which cannot be used as one.", hint=EXPECTED)


def read_bytes(ref: EncodedRef, *, sha256: str | None = None) -> bytes:
    """Read the bytes of an image file. Raises `UnreadableImage`: it cannot be read, or its SHA-256 differs."""
    if isinstance(ref, bytes):
        return ref
    try:
        data = ref.read() if isinstance(ref, FilePart) else ref.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{ref}: could not be read: {error.strerror}.", reason=reason_of(error)) from None
    if sha256 is not None and sha256_bytes(data) != sha256:
        raise UnreadableImage(f"{ref}: changed while in use.", reason="changed")
    return data


def hash_of(ref: Path | FilePart) -> str:
    """Return the SHA-256 of an image's bytes; '' if they cannot be read, or of a pack's, if they have changed."""
    try:
        return sha256_bytes(ref.read()) if isinstance(ref, FilePart) else sha256_file(ref)
    except (UnreadableImage, OSError):
        return ""


def as_rgb(image: Image.Image | np.ndarray, ranges: ValueRanges | None = ValueRanges()) -> Image.Image:
    """Convert pixels to an upright RGB image; alpha is composited on white, grey becomes RGB; `ranges` as for `decode`.

    >>> as_rgb(np.full((2, 3), 77, np.uint8)).getpixel((0, 0))
    (77, 77, 77)

    Raises `UnreadableImage`: the array is not pixels, or the image's file turns out to be damaged.
    """
    return _upright(image, ranges).image


def lossless_bytes(image: Image.Image | np.ndarray) -> bytes:
    """Encode pixels so that `decode` gives what `as_rgb` gives, whatever the ranges: PNG, or TIFF for 32 bits.

    Raises `UnreadableImage` as `as_rgb`.
    """
    plane = unscaled(image) if isinstance(image, Image.Image) else None
    if plane is None:
        return png_bytes(as_rgb(image))
    return png_bytes(plane) if plane.mode == "I;16" else tiff_bytes(plane)


def _upright(image: Image.Image | np.ndarray, ranges: ValueRanges | None) -> DecodedImage:
    return upright(image if isinstance(image, Image.Image) else Image.fromarray(*_pixels_and_mode(image)), ranges)


def _pixels_and_mode(array: np.ndarray) -> tuple[np.ndarray, str]:
    shape = array.shape
    if array.dtype != np.uint8:
        advice = " Convert pixels from 0 to 1 with (255 * x).round().astype('uint8')." * (array.dtype.kind == "f")
        raise UnreadableImage(
            f"an array of {array.dtype}, expected uint8 from 0 to 255.{advice}", reason="not_supported"
        )
    channels = 1 if len(shape) == 2 else shape[2] if len(shape) == 3 else 0
    if channels not in _MODES or 0 in shape:
        raise UnreadableImage(
            f"an array of shape {shape}, expected (height, width), (height, width, 3) or (height, width, 4).",
            reason="not_supported",
        )
    return np.ascontiguousarray(array.reshape(shape[:2]) if channels == 1 else array), _MODES[channels]


def _info_of_pixels(image: ImageRef) -> ImageInfo:
    if isinstance(image, EncodedRef):
        raise TypeError(f"{type(image).__name__}: an encoded image; use `validate_images`.")
    try:
        made = _upright(image, None)
    except UnreadableImage as refusal:
        return ImageInfo("", 0, *left_out(refusal.reason, refusal.message))
    rgb, deep = made.image, is_deep(made.mode)
    plane = unscaled(image) if isinstance(image, Image.Image) else None
    data = (plane or rgb).tobytes()
    kind = "".join(f"{word} " for word in (plane.mode, *plane.info.values())) if plane is not None else ""
    return ImageInfo(
        sha256=hashlib.sha256(f"pixels {kind}{rgb.width} x {rgb.height}\n".encode() + data).hexdigest(),
        bytes=len(data),
        format="pixels",
        width=rgb.width,
        height=rgb.height,
        mode=made.mode if deep else "RGB",
        orientation=1,
        frames=1,
        dhash=dhash(rgb),
        greys=greys(rgb),
        reason="",
        message="",
        low=made.low,
        high=made.high,
    )
