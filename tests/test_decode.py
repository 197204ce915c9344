"""Pixels as they come out: upright, RGB, whole; against Pillow and values worked out by hand."""

from __future__ import annotations

import io
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from headstart.errors import UnreadableImage
from headstart.images import decode as decode_module
from headstart.images.decode import decode, exif_orientation, read
from headstart.images.limits import REASONS

READ_ELSEWHERE = ["AVIF"] if features.check("avif") else []
"""Formats that not every Pillow reads."""


def saved(image: Image.Image, name: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def photo(width: int = 300, height: int = 200) -> Image.Image:
    """Something smooth with a corner of its own colour, so that turning and scaling show."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256 // 4], axis=-1).astype(np.uint8)
    pixels[: height // 4, : width // 4] = (255, 255, 255)
    return Image.fromarray(pixels)


def pixel(data: bytes) -> tuple[int, ...]:
    image = decode(data)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))  # type: ignore[return-value]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", *READ_ELSEWHERE])
def test_upright_as_pillow_turns_it(name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    options = {"lossless": True} if name == "WEBP" else {}
    data = saved(photo(), name, exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    decoded = read(data)
    assert decoded.orientation == orientation
    assert decoded.image.size == decoded.upright_size == ((200, 300) if orientation >= 5 else (300, 200))
    assert decoded.image.tobytes() == expected.tobytes()


@pytest.mark.parametrize("xmp", [b'<x tiff:Orientation="6"/>', b"<tiff:Orientation>6</tiff:Orientation>"])
def test_orientation_from_xmp_where_exif_has_none(xmp: bytes) -> None:
    assert decode(saved(photo(), "JPEG", xmp=xmp)).size == (200, 300)
    exif = Image.Exif()
    exif[0x112] = 1
    assert decode(saved(photo(), "JPEG", xmp=xmp, exif=exif)).size == (300, 200)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64), st.sampled_from([b"", b"Exif\0\0", b"II*\0\x08\0\0\0", b"Exif\0\0MM\0*\0\0\0\x08"]))
def test_any_bytes_as_exif_do_no_harm(tail: bytes, head: bytes) -> None:
    found = exif_orientation(head + tail)
    assert found is None or isinstance(found, int)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from([0x10F, 0x110, 0x112, 0x131]), st.integers(1, 8)), st.booleans())
def test_exif_orientation_is_pillows(tags: dict[int, int], big: bool) -> None:
    exif = Image.Exif()
    exif.endian = ">" if big else "<"
    for tag, value in tags.items():
        exif[tag] = value if tag == 0x112 else "text" * value
    assert exif_orientation(exif.tobytes()) == tags.get(0x112)


def test_broken_exif_does_not_cost_the_image() -> None:
    for block in (
        b"Exif\0\0",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01",
        b"Exif\0\0junk",
    ):
        assert decode(saved(photo(), "JPEG", exif=block)).size == (300, 200)


@pytest.mark.parametrize(
    ("at_least", "expected"),
    [
        (None, (301, 200)),
        ((301, 200), (301, 200)),
        ((150, 100), (151, 100)),
        ((151, 100), (301, 200)),
        ((75, 10), (76, 50)),
        ((1, 1), (38, 25)),
        ((999, 1), (301, 200)),
    ],
)
def test_the_smallest_scale_that_is_large_enough(at_least: tuple[int, int] | None, expected: tuple[int, int]) -> None:
    data = saved(photo(301, 200), "JPEG")
    assert decode(data, at_least).size == expected
    assert read(data, at_least).upright_size == (301, 200)


@pytest.mark.parametrize(
    ("at_least", "expected"), [(None, (75, 50)), ((300, 200), (75, 50)), ((75, 50), (75, 50)), ((37, 25), (38, 25))]
)
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_beyond_the_limit_is_decoded_at_a_fraction(
    progressive: bool,
    at_least: tuple[int, int] | None,
    expected: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = saved(photo(300, 200), "JPEG", progressive=progressive)
    monkeypatch.setattr(decode_module, "MAX_PIXELS", 10_000)
    decoded = read(data, at_least)
    assert (decoded.image.size, decoded.upright_size) == (expected, (300, 200))
    with pytest.raises(UnreadableImage, match="the file ends before its pixels do"):
        read(data[:-2_000], at_least)


def test_at_least_is_meant_upright() -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    data = saved(photo(400, 100), "JPEG", exif=exif)
    assert decode(data, (50, 200)).size == (50, 200)
    assert decode(data, (51, 200)).size == (100, 400)


def test_transparency_is_white() -> None:
    assert pixel(saved(Image.new("RGBA", (3, 3), (200, 0, 0, 0)))) == (255, 255, 255)
    assert pixel(saved(Image.new("RGBA", (3, 3), (200, 0, 100, 51)))) == (244, 204, 224)  # 0.2 of it, 0.8 of white
    assert pixel(saved(Image.new("LA", (3, 3), (100, 255)))) == (100, 100, 100)
    assert pixel(saved(Image.new("LA", (3, 3), (100, 0)))) == (255, 255, 255)
    assert pixel(saved(Image.new("L", (3, 3), 7), transparency=7)) == (255, 255, 255)
    assert pixel(saved(Image.new("RGB", (3, 3), (1, 2, 3)), transparency=(1, 2, 3))) == (255, 255, 255)
    palette = Image.new("P", (3, 3), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert pixel(saved(palette)) == (40, 50, 60)
    assert pixel(saved(palette, transparency=1)) == (255, 255, 255)
    assert pixel(saved(palette, transparency=bytes([255, 51]))) == (212, 214, 216)
    assert pixel(saved(palette, "GIF", transparency=1)) == (255, 255, 255)
    assert pixel(saved(palette, "GIF")) == (40, 50, 60)


def test_deep_pixels_are_scaled_and_not_clipped() -> None:
    deep = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    expected = [0, 0, 1, 1, 128, 255]  # value / 257, rounded
    for name in ("PNG", "TIFF", "PPM"):
        assert np.asarray(decode(saved(Image.fromarray(deep), name)))[0, :, 0].tolist() == expected, name
    assert np.asarray(decode(saved(Image.fromarray(deep.astype(np.int32)), "TIFF")))[0, :, 2].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-50.0, 0.0, 50.0], [0, 128, 255]),
        ([0.0, 500.0, 1000.0], [0, 128, 255]),
        ([-3.0, -3.0, -3.0], [0, 0, 0]),
    ],
)
def test_floating_point(values: list[float], expected: list[int]) -> None:
    data = saved(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert np.asarray(decode(data))[0, :, 1].tolist() == expected


def test_values_that_are_no_numbers() -> None:
    with pytest.raises(UnreadableImage) as caught:
        decode(saved(Image.fromarray(np.array([[0, np.inf]], np.float32)), "TIFF"))
    assert (caught.value.reason, str(caught.value)) == (
        "damaged",
        "its pixels are not all finite numbers.",
    )


def test_cmyk_grey_and_bilevel() -> None:
    assert pixel(saved(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG")) == (255, 255, 255)
    red, green, blue = pixel(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert red > 250 and green < 5 and blue < 5
    assert pixel(saved(Image.new("1", (3, 3), 1))) == (255, 255, 255)
    assert pixel(saved(Image.new("L", (3, 3), 9), "BMP")) == (9, 9, 9)


def test_the_first_frame() -> None:
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "lime", "blue")]
    for name in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if name == "WEBP" else {}
        data = saved(frames[0], name, save_all=True, append_images=frames[1:], **options)
        assert pixel(data) == (255, 0, 0), name
    data = saved(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert pixel(data)[0] > 250


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("at_least", [None, (64, 64)])
def test_a_cut_jpeg_is_truncated(progressive: bool, at_least: tuple[int, int] | None) -> None:
    data = saved(Image.effect_noise((300, 200), 60).convert("RGB"), "JPEG", progressive=progressive)
    for end in (len(data) // 4, len(data) // 2, len(data) - 200, len(data) - 20):
        with pytest.raises(UnreadableImage) as caught:
            decode(data[:end], at_least)
        assert (caught.value.reason, caught.value.message) == ("truncated", "JPEG: the file ends before its pixels do.")


@pytest.mark.parametrize("cut", [1, 2])
def test_a_whole_jpeg_without_its_end_marker_is_read(cut: int) -> None:
    data = saved(Image.effect_noise((300, 200), 60).convert("RGB"), "JPEG")
    assert decode(data[:-cut]).tobytes() == decode(data).tobytes()
    assert decode(data[:-cut], (64, 64)).tobytes() == decode(data, (64, 64)).tobytes()


@pytest.mark.parametrize("name", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_cut_images_of_other_formats(name: str) -> None:
    data = saved(Image.effect_noise((120, 90), 60), name)
    with pytest.raises(UnreadableImage) as caught:
        decode(data[: len(data) // 2])
    assert caught.value.reason == "truncated"


def test_two_sizes_in_one_file() -> None:
    """A decoder that sees another size than was checked is not let loose."""
    data = bytearray(saved(Image.new("L", (8, 8)), "TIFF"))
    (at,) = struct.unpack_from("<I", data, 4)
    (tags,) = struct.unpack_from("<H", data, at)
    entries = [at + 2 + 12 * i for i in range(tags)]
    width = next(e for e in entries if struct.unpack_from("<H", data, e)[0] == 256)
    struct.pack_into("<HI", data, width + 2, 4, 2)  # two values; the decoder might use either
    with pytest.raises(UnreadableImage) as caught:
        decode(bytes(data))
    assert caught.value.reason in ("damaged", "truncated")


def test_files_and_bytes_are_the_same(tmp_path: Path) -> None:
    for name in ("JPEG", "PNG", "TIFF"):
        data = saved(photo(), name)
        (tmp_path / "x").write_bytes(data)
        with open(tmp_path / "x", "rb") as file:
            assert decode(file).tobytes() == decode(data).tobytes()
            assert not file.closed


def test_no_warning_leaks() -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x0f\x01\x02\0\xff\0\0\0\xff\xff\0\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        decode(saved(photo(), "JPEG", exif=exif))
        large = saved(Image.new("1", (10_000, 9_000)))  # beyond Pillow's threshold for a warning, within ours
        assert decode(large).size == (10_000, 9_000)
        warnings.warn("still heard", stacklevel=1)
    assert [str(w.message) for w in seen] == ["still heard"]


def test_warnings_as_errors_do_not_cost_images() -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x0f\x01\x02\0\xff\0\0\0\xff\xff\0\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(saved(photo(), "JPEG", exif=exif)).size == (200, 300)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"]), st.data())
def test_any_changed_bytes_give_an_image_or_a_reason(name: str, draw: st.DataObject) -> None:
    data = bytearray(saved(photo(40, 30), name))
    for at, value in draw.draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=6)):
        data[at] = value
    try:
        image = decode(bytes(data))
    except UnreadableImage as refusal:
        assert refusal.reason in REASONS
        assert " at 0x" not in refusal.message
    else:
        assert image.mode == "RGB"


def test_from_threads() -> None:
    images = [saved(photo(120 + i, 80), "JPEG") for i in range(24)]
    with ThreadPoolExecutor(4) as threads:
        together = [image.tobytes() for image in threads.map(decode, images)]
    assert together == [decode(data).tobytes() for data in images]
