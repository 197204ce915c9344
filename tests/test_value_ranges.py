"""Images of more than 8 bits: which values they use, which range a set gets, and that prediction keeps it."""

from __future__ import annotations

import doctest
import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import scene
from headstart.data.near_duplicates import find_copies
from headstart.errors import UnreadableImage
from headstart.images import value_ranges
from headstart.images.decode import decode, read
from headstart.images.image_refs import Images, as_rgb, lossless_bytes, read_image
from headstart.images.preprocess import Preprocess
from headstart.images.remarks import note_beyond
from headstart.images.validate import ImageInfo
from headstart.images.value_ranges import ValueRanges, chosen_ranges, used_span

DEPTHS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], tuple[float, float] | None]] = {
    "x257": (lambda a: a * 257, None),
    "12 bits": (lambda a: a * 16, (0, 4095)),
    "10 bits": (lambda a: a * 4, (0, 1023)),
    "8 bits": (lambda a: a, (0, 255)),
    "narrow": (lambda a: a * 2 + 30_000, (30_000, 30_510)),
}
"""How 8-bit greys are stored in 16 bits, and the range that becomes 0 to 255."""


def saved(pixels: np.ndarray, name: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, name, **options)
    return file.getvalue()


@cache
def greys(seed: int = 0) -> np.ndarray:
    """Greys from 0 to 255, (180, 240)."""
    pixels = np.asarray(scene(seed).convert("L")).astype(np.int64)
    pixels[:4, :60], pixels[-4:, :60] = 0, 255
    return pixels


def png_16(pixels_HWC: np.ndarray, transparent: tuple[int, ...] = ()) -> bytes:
    """A PNG of 16 bits per channel, which Pillow cannot write: grey, grey with alpha, RGB or RGBA."""
    height, width, channels = pixels_HWC.shape

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels_HWC)
    colour = chunk(b"tRNS", struct.pack(f">{channels}H", *transparent)) if transparent else b""
    parts = chunk(b"IHDR", header) + colour + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff_16(pixels_HWC: np.ndarray, order: str = "<", *, deflate: bool = False, planar: bool = False) -> bytes:
    """A TIFF of 16 bits per colour, which Pillow cannot write; `planar`: one plane after the other."""
    height, width, channels = pixels_HWC.shape
    planes = np.moveaxis(pixels_HWC, 2, 0) if planar else pixels_HWC[None]
    strips = [plane.astype(f"{order}u2").tobytes() for plane in planes]
    strips = [zlib.compress(strip) for strip in strips] if deflate else strips
    starts = [8 + sum(map(len, strips[:n])) for n in range(len(strips))]
    pixels = b"".join(strips)
    pixels += b"\0" * (len(pixels) % 2)
    lists = {258: ("H", [16] * channels), 273: ("I", starts), 279: ("I", [len(strip) for strip in strips])}
    single = {256: width, 257: height, 259: 8 if deflate else 1, 262: 2, 277: channels, 278: height, 284: 1 + planar}
    at = 8 + len(pixels) + 2 + 12 * (len(lists) + len(single)) + 4
    entries, behind = b"", b""
    for tag in sorted({**lists, **single}):
        letter, values = lists.get(tag, ("I", [single.get(tag, 0)]))
        data = struct.pack(f"{order}{len(values)}{letter}", *values)
        place = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(f"{order}I", at + len(behind))
        behind += data if len(data) > 4 else b""
        entries += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[letter], len(values)) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(pixels))
    return head + pixels + struct.pack(f"{order}H", len(lists) + len(single)) + entries + bytes(4) + behind


def ranges_of(*images: bytes) -> ValueRanges:
    decoded = [read(image, ranges=None) for image in images]
    return chosen_ranges((each.mode, each.low, each.high) for each in decoded)


def shades(data: bytes, ranges: ValueRanges | None) -> np.ndarray:
    return np.asarray(decode(data, ranges=ranges)).astype(int)


def test_examples_of_the_module() -> None:
    assert doctest.testmod(value_ranges).failed == 0


@pytest.mark.parametrize("name", ["PNG", "TIFF"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_every_depth_comes_out_as_8_bits_would(depth: str, name: str) -> None:
    stored, expected = DEPTHS[depth]
    data = saved(stored(greys()).astype(np.uint16), name)
    ranges = ranges_of(data)
    assert ranges == ValueRanges(expected)
    for scaled_by in (ranges, None):
        assert np.abs(shades(data, scaled_by) - greys()[..., None]).max() <= 1
    if depth == "x257":
        assert (shades(data, ranges) == greys()[..., None]).all()
        assert (shades(data, ValueRanges()) == greys()[..., None]).all()


@pytest.mark.parametrize("depth", ["x257", "12 bits", "10 bits"])
@pytest.mark.parametrize(
    "written",
    [
        png_16,
        lambda a: png_16(np.concatenate([a, np.full_like(a[..., :1], 65_535)], axis=2)),
        *(lambda a, o=order, d=deflate: tiff_16(a, o, deflate=d) for order in "<>" for deflate in (False, True)),
        *(lambda a, o=order: tiff_16(a, o, planar=True) for order in "<>"),
    ],
    ids=["PNG", "PNG with alpha", "TIFF", "TIFF deflated", "TIFF big", "TIFF big deflated", "planes", "planes big"],
)
def test_colours_of_16_bits(depth: str, written: Callable[[np.ndarray], bytes]) -> None:
    """Pillow reads the upper 8 bits only; here the lower ones count where the upper are hardly used."""
    stored, expected = DEPTHS[depth]
    colours = np.asarray(scene(3)).astype(np.int64)
    colours[0, :50] = 0
    colours[1, :50] = 255
    data = written(stored(colours))
    ranges = ranges_of(data)
    assert ranges == ValueRanges(expected)
    assert np.abs(shades(data, ranges) - colours).max() <= (depth != "x257")
    assert read(data).mode.endswith(";16")


@pytest.mark.parametrize("depth", DEPTHS)
def test_greys_of_16_bits_with_alpha(depth: str) -> None:
    stored, expected = DEPTHS[depth]
    pixels = np.stack([stored(greys()), np.full_like(greys(), 65_535)], axis=2)
    pixels[90:, :, 1] = 0
    data = png_16(pixels)
    assert ranges_of(data) == ValueRanges(expected)
    assert np.abs(shades(data, ranges_of(data))[:90] - greys()[:90, :, None]).max() <= 1
    assert (shades(data, ranges_of(data))[90:] == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ranges", [ValueRanges(), ValueRanges((0, 4_095)), None])
def test_the_transparent_colour_of_16_bits_is_white(channels: int, ranges: ValueRanges | None) -> None:
    """The value 5 differs in its lower 8 bits only."""
    pixels = np.full((1, 4, channels), 0)
    pixels[0, 1], pixels[0, 2, 0], pixels[0, 3] = 5, 300, 4_095
    data = png_16(pixels, transparent=(0,) * channels)
    plain = shades(png_16(pixels), ranges)
    assert shades(data, ranges).tolist() == [[[255, 255, 255], *plain[0, 1:].tolist()]]
    if channels == 1:
        opened = Image.open(io.BytesIO(data))
        assert (np.asarray(as_rgb(opened, ranges)) == shades(data, ranges)).all()
        assert (shades(lossless_bytes(opened), ranges) == shades(data, ranges)).all()
        opaque = Image.open(io.BytesIO(png_16(pixels)))
        assert len(set(Images.inspect([opened, opaque]).sha256s)) == 2


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (greys() * 16 - 1_024, ValueRanges((-1_024, 3_056))),
        (greys() / 255, ValueRanges(floats=(0, 1))),
        (greys() * 1.0, ValueRanges(floats=(0, 255))),
        (greys() / 100 - 1, ValueRanges(floats=(-1, 1.55))),
        (greys() * 1000, ValueRanges((0, 255_000))),
    ],
    ids=["signed", "0 to 1", "0 to 255", "negative", "32 bits"],
)
def test_other_numbers(pixels: np.ndarray, expected: ValueRanges) -> None:
    kind = np.float32 if pixels.dtype.kind == "f" else np.int32
    data = saved(pixels.astype(kind), "TIFF")
    ranges = ranges_of(data)
    for mine, theirs in ((ranges.integers, expected.integers), (ranges.floats, expected.floats)):
        assert (mine is None) == (theirs is None)
        assert mine is None or mine == pytest.approx(theirs, abs=0.005 * (theirs[1] - theirs[0]))
    assert np.abs(shades(data, ranges) - greys()[..., None]).max() <= 2


@pytest.mark.parametrize("compression", ["raw", "tiff_adobe_deflate"])
@pytest.mark.parametrize(
    "stored",
    [lambda a: a.astype(np.uint8), lambda a: (a * 257).astype(np.uint16), lambda a: (a / 255).astype(np.float32)],
    ids=["8 bits", "16 bits", "floating point"],
)
def test_a_tiff_whose_zero_is_white_is_inverted_whatever_its_depth(
    stored: Callable[[np.ndarray], np.ndarray], compression: str
) -> None:
    """Pillow inverts 8 bits only, when it reads and when it writes."""
    pixels = stored(greys())
    data = saved(pixels, "TIFF", tiffinfo={262: 0}, compression=compression)
    expected = greys() if pixels.dtype == np.uint8 else 255 - greys()
    opened = Image.open(io.BytesIO(data))
    assert opened.tag_v2[262] == 0  # type: ignore[attr-defined]
    for ranges in (ValueRanges(), ranges_of(data), None):
        assert (shades(data, ranges) == expected[..., None]).all()
        assert (np.asarray(as_rgb(opened, ranges)) == expected[..., None]).all()
    upside = ValueRanges((0, 65_535), (0, 1))
    assert (shades(lossless_bytes(opened), upside) == expected[..., None]).all()
    black = Images.inspect([Image.fromarray(pixels), opened])
    assert (black.sha256s[0] == black.sha256s[1]) == (pixels.dtype == np.uint8)


def test_twelve_bits_below_white_keep_their_levels() -> None:
    data = saved((65_535 - greys() * 16).astype(np.uint16), "TIFF", tiffinfo={262: 0})
    assert ranges_of(data) == ValueRanges((0, 4_095))
    assert np.abs(shades(data, ranges_of(data)) - greys()[..., None]).max() <= 1


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_deep_pixels_are_encoded_without_loss(mode: str) -> None:
    values = np.array([[0, 1, 257], [4_000, 30_001, 65_535]])
    kind = {"I;16": np.dtype("<u2"), "I;16B": np.dtype(">u2"), "I": np.dtype(np.int32), "F": np.dtype(np.float32)}[mode]
    values = values - 70_000 if mode == "I" else values / 3 if mode == "F" else values
    image = Image.frombytes(mode, (3, 2), values.astype(kind).tobytes())
    image.info = {"transparency": 4_000, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"}
    again = Image.open(io.BytesIO(lossless_bytes(image)))
    assert (np.asarray(again) == np.rot90(values.astype(kind.newbyteorder("=")), -1)).all()


def test_dead_pixels_and_odd_images_decide_nothing() -> None:
    pixels = greys() * 16
    pixels[7, :40] = 65_535  # 40 of 43,200
    hot = saved(pixels.astype(np.uint16))
    assert ranges_of(hot) == ValueRanges((0, 4_095))
    dim, bright = ("I;16", 0.0, 4_000.0), ("I;16", 0.0, 65_000.0)
    assert chosen_ranges([dim] * 99 + [bright]) == ValueRanges((0, 4_095))
    assert chosen_ranges([dim] * 40 + [bright]) == ValueRanges()
    assert chosen_ranges([("L", 0, 0), ("I;16", 5, 5)]) == ValueRanges()


@pytest.mark.parametrize("at", [(0, 0), (50, 60)])
def test_what_is_no_number_is_refused_wherever_it_is(at: tuple[int, int]) -> None:
    pixels = (greys() / 255).astype(np.float32)
    pixels[at] = np.nan
    with pytest.raises(UnreadableImage, match="its pixels are not all finite numbers"):
        decode(saved(pixels, "TIFF"))
    assert Images.inspect([saved(pixels, "TIFF")]).infos[0].reason == "damaged"


def test_used_values_are_exact_where_nothing_is_cut_off() -> None:
    few = Image.fromarray(np.array([[3, 17, 4_000]], np.int32))
    assert used_span([few]) == (3, 4_000)


def test_a_spec_keeps_its_ranges_and_old_specs_have_none() -> None:
    spec = Preprocess(ranges=ValueRanges((0, 4_095)))
    assert spec.as_dict()["ranges"] == {"integers": [0, 4_095]}
    assert Preprocess.from_dict(spec.as_dict()) == spec
    assert "ranges" not in Preprocess().as_dict()
    assert spec.network_dict() == Preprocess().network_dict()
    assert spec.geometry() != Preprocess().geometry()


@pytest.mark.parametrize("span", [[5, 5], [9, 1], [0, float("inf")], [float("nan"), 1], [1], ["a", "b"]])
def test_ranges_that_are_none(span: list[object]) -> None:
    with pytest.raises(ValueError):
        Preprocess.from_dict({"ranges": {"integers": span}})


def test_pixels_in_memory_are_scaled_as_their_files(tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.png" for n in range(3)]
    for n, file in enumerate(files):
        file.write_bytes(saved((greys(n) * 16).astype(np.uint16)))
    opened = [Image.open(file) for file in files]
    from_files, from_memory = Images.inspect(files), Images.inspect(opened)
    assert from_files.ranges == from_memory.ranges == ValueRanges((0, 4_095))
    assert len(set(from_memory.sha256s)) == 3
    for file, image in zip(files, opened, strict=True):
        a, b = (read_image(ref, ranges=from_files.ranges) for ref in (file, image))
        assert a.tobytes() == b.tobytes()


def test_different_images_of_few_levels_are_no_copies(tmp_path: Path) -> None:
    """Scaled by all 16 bits, images of 10 bits have four levels, and many look alike."""
    files = []
    for n in range(12):
        pixels = np.asarray(scene(n).convert("L")).astype(np.uint16) * 4
        files.append(tmp_path / f"{n}.png")
        files[-1].write_bytes(saved(pixels))
    copy = tmp_path / "copy.png"
    copy.write_bytes(saved(np.asarray(Image.open(files[0])), "PNG", compress_level=1))
    found = find_copies(Images.inspect([*files, copy]))
    assert found.pairs_M2[found.certain_M].tolist() == [[0, 12]]


@pytest.mark.parametrize(
    ("mode", "used", "trained_on", "said"),
    [
        ("I;16", (0, 4_000), ValueRanges((0, 4_095)), ""),
        ("I;16", (0, 4_200), ValueRanges((0, 4_095)), ""),
        ("I;16", (0, 65_535), ValueRanges(), ""),
        (
            "I;16",
            (100, 64_000),
            ValueRanges((0, 4_095)),
            "1 of 2 images have values outside of 0 to 4,095, the range that the classifier was trained on (the first has "
            "100 to 64,000); these values are clipped.",
        ),
        (
            "I;16",
            (0, 4_000),
            ValueRanges(),
            "The images of more than 8 bits use the values 0 to 4,095, but the classifier scales such images from 0 to "
            "65,535: they lose most of their levels. Save them with 8 bits.",
        ),
        (
            "I",
            (0, 800_000),
            ValueRanges(),
            "1 of 2 images have values outside of 0 to 65,535 (the first has 0 to 800,000), for which the classifier has no "
            "range: each is scaled by its own, so their brightness cannot be compared. Save them with 8 bits, all on one "
            "scale.",
        ),
        (
            "F",
            (0, 1_000),
            ValueRanges((0, 4_095)),
            "1 of 2 images have values outside of 0 to 255 (the first has 0 to 1,000), for which the classifier has no "
            "range: each is scaled by its own, so their brightness cannot be compared. Save them with 8 bits, all on one "
            "scale.",
        ),
        ("F", (0, 1), ValueRanges(), ""),
    ],
)
def test_images_that_do_not_fit_the_classifier(
    mode: str, used: tuple[float, float], trained_on: ValueRanges, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = ImageInfo("a", 1, "PNG", 9, 9, "L", 1, 1, 0, "", "", "")
    deep = replace(plain, mode=mode, low=float(used[0]), high=float(used[1]))
    with caplog.at_level("WARNING", logger="headstart"):
        note_beyond([plain, deep], trained_on)
    assert caplog.messages == ([said] if said else [])
