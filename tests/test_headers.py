"""Headers as they are read without a decoder, against Pillow's own reading and hand-made structures."""

from __future__ import annotations

import io
import re
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headstart.errors import UnreadableImage
from headstart.images import headers
from headstart.images.headers import jpeg_structure, probe
from headstart.images.limits import FORMATS, REASONS, ImageHeader


def saved(image: Image.Image, name: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def reason(data: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        probe(io.BytesIO(data))
    assert caught.value.reason in REASONS
    return caught.value.reason


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (37, 91), (640, 1)])
def test_sizes_are_pillows(name: str, size: tuple[int, int]) -> None:
    assert probe(io.BytesIO(saved(Image.new("RGB", size), name))) == ImageHeader(name, *size, 1)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(FORMATS), st.sampled_from(["1", "L", "P", "RGB", "RGBA"]), st.integers(1, 80), st.integers(1, 80)
)
def test_any_mode_and_size(name: str, mode: str, width: int, height: int) -> None:
    try:
        data = saved(Image.new(mode, (width, height)), name)
    except OSError:
        return  # Pillow does not write this mode to this format
    if data[:2] == b"P4":
        assert reason(data) == "not_supported"
    else:
        assert probe(io.BytesIO(data)) == ImageHeader(name, width, height, 1)


def test_frames_are_counted() -> None:
    frames = [Image.new("RGB", (9, 7), (i * 60, 255 - i * 60, 0)) for i in range(4)]
    for name in ("GIF", "PNG", "WEBP", "TIFF"):
        data = saved(frames[0], name, save_all=True, append_images=frames[1:])
        assert probe(io.BytesIO(data)) == ImageHeader(name, 9, 7, 4)


def test_the_first_image_of_an_mpo_counts() -> None:
    images = [Image.new("RGB", (9, 7)), Image.new("RGB", (9, 7), "red")]
    data = saved(images[0], "MPO", save_all=True, append_images=images[1:])
    assert probe(io.BytesIO(data)) == ImageHeader("JPEG", 9, 7, 1)


def test_a_cmyk_and_a_progressive_jpeg() -> None:
    assert probe(io.BytesIO(saved(Image.new("CMYK", (20, 10)), "JPEG"))).width == 20
    data = saved(Image.new("RGB", (20, 10)), "JPEG", progressive=True)
    assert not jpeg_structure(io.BytesIO(data), len(data)).one_scan
    data = saved(Image.new("RGB", (20, 10)), "JPEG")
    assert jpeg_structure(io.BytesIO(data), len(data)).one_scan


def test_nothing_and_not_images() -> None:
    assert reason(b"") == "empty"
    assert reason(b"hello, world, this is no image at all") == "not_an_image"
    assert reason(b"BM, says the text file") == "not_an_image"
    assert reason(b"\0\0\0\x1cftypavif" + bytes(20)) == "truncated"
    assert reason(b"P3 1 1 255 1 2 3") == "not_supported"
    assert reason(b"II+\0" + bytes(20)) == "not_supported"


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x4f\xff\x51", "JPEG 2000"),
        (b"II\xbc\x01", "JPEG XR"),
        (b"FUJIFILMCCD-RAW 0201", "camera raw"),
        (b"IIRO\x08\0\0\0", "camera raw"),
        (b"IIU\0\x18\0\0\0", "camera raw"),
        (b"II*\0\x10\0\0\0CR\2\0", "camera raw"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "camera raw"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"\x08\0\x05\0\x0a\0\0\0ISO_IR 100", "DICOM"),
        (b"\x5c\x01\0\0", "NIfTI"),
        (b"v/1\x01", "OpenEXR"),
        (b"#?RADIANCE\n", "Radiance HDR"),
        (b"<svg xmlns='x'/>", "SVG"),
        (b"<?xml version='1.0'?><!DOCTYPE svg>", "SVG"),
        (b"8BPS\0\1", "Photoshop"),
        (b"%!PS-Adobe-3.0", "EPS"),
        (b"\0\0\1\0\1\0", "Windows icon"),
        (b"\0\0\2\0\0\0\0\0\0\0\0\0\x10\0\x10\0", "TGA"),
        (b"SIMPLE  =                    T", "FITS"),
        (b"II+\0\x08\0\0\0", "BigTIFF"),
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\0\x14ftypqt  ", "video"),
        (b"RIFF\0\1\0\0AVI LIST", "video"),
        (b"\x93NUMPY\1\0", "NumPy array"),
        (b"<!DOCTYPE html>", "web page"),
        (b"<?xml version='1.0'?><Error/>", "XML"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
    ],
)
def test_other_formats_have_a_name_and_a_remedy(start: bytes, kind: str) -> None:
    with pytest.raises(UnreadableImage) as caught:
        probe(io.BytesIO(start + bytes(300)))
    assert caught.value.kind == kind
    assert caught.value.reason == (
        "not_an_image" if kind in ("web page", "XML", "Git LFS pointer") else "not_supported"
    )
    assert caught.value.message.endswith(".") and len(caught.value.message) > len(kind) + 20


def tiff_with(*tags: tuple[int, int]) -> bytes:
    """A TIFF of 8 x 8 greys with more tags."""
    data = saved(Image.new("L", (8, 8)), "TIFF")
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    entries = [data[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(count)]
    kept = [entry for entry in entries if struct.unpack("<H", entry[:2])[0] not in {tag for tag, _ in tags}]
    every = sorted([*kept, *(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)], key=lambda e: e[1::-1])
    directory = struct.pack("<H", len(every)) + b"".join(every) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory


@pytest.mark.parametrize("tags", [[(50706, 0x0401)], [(254, 1), (330, 8)], [(262, 32803)], [(259, 34713), (271, 8)]])
def test_a_raw_file_is_no_tiff(tags: list[tuple[int, int]]) -> None:
    """Pillow would read the thumbnail in it, without a word."""
    assert probe(io.BytesIO(tiff_with((305, 8)))) == ImageHeader("TIFF", 8, 8, 1)
    with pytest.raises(UnreadableImage) as caught:
        probe(io.BytesIO(tiff_with(*tags)))
    assert (caught.value.reason, caught.value.kind) == ("not_supported", "camera raw")


@pytest.mark.parametrize(
    ("progressive", "side", "fine"),
    [(False, 31_000, True), (False, 33_000, False), (True, 18_000, True), (True, 20_000, False)],
)
def test_a_large_jpeg_is_refused_only_if_its_decoder_would_hold_too_much(
    progressive: bool, side: int, fine: bool
) -> None:
    data = bytearray(saved(Image.new("RGB", (20, 10)), "JPEG", progressive=progressive))
    assert jpeg_structure(io.BytesIO(data), len(data)).coefficients == 64 * (3 * 2 + 2 + 2)
    at = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    if fine:
        assert probe(io.BytesIO(bytes(data))) == ImageHeader("JPEG", side, side, 1)
    else:
        assert reason(bytes(data)) == "too_many_pixels"


def test_whole_messages() -> None:
    with pytest.raises(UnreadableImage, match=re.escape("the file is empty (0 bytes).")):
        probe(io.BytesIO(b""))
    png = bytearray(saved(Image.new("1", (8, 8)), "PNG"))
    png[16:24] = struct.pack(">II", 20_000, 10_000)
    with pytest.raises(UnreadableImage) as caught:
        probe(io.BytesIO(bytes(png)))
    assert str(caught.value) == (
        "PNG: 20,000 x 10,000 pixels; the limit is 128,000,000, and 65,535 per side. To use it: "
        "magick IMAGE -resize 4000x4000 IMAGE.jpg."
    )
    with pytest.raises(UnreadableImage) as caught:
        probe(io.BytesIO(b"GIF89a\x05\0\x05\0\0\0\0;"))
    assert str(caught.value) == "GIF: no frame."


@pytest.mark.parametrize("name", FORMATS)
def test_cut_anywhere_gives_a_reason_or_the_true_header(name: str) -> None:
    data = saved(Image.effect_noise((30, 20), 50).convert("RGB"), name)
    for end in range(len(data)):
        try:
            assert probe(io.BytesIO(data[:end])) == ImageHeader(name, 30, 20, 1)
        except UnreadableImage as refusal:
            assert refusal.reason in ("empty", "not_an_image", "truncated", "damaged"), (end, refusal)
    if name in ("PNG", "WEBP", "BMP", "PPM"):
        assert reason(data[:-5]) == "truncated"


@pytest.mark.parametrize("where", ["front", "behind"])
def test_bytes_that_do_not_belong_to_a_jpeg(where: str) -> None:
    """Fill bytes and a little junk in front of a segment, and any film behind the image, are no harm."""
    data = saved(Image.new("RGB", (20, 10)), "JPEG", progressive=True)
    if where == "front":
        data = data[:2] + b"\xff" * 9 + data[2:20] + b"junk" + data[20:]
    else:
        data += b"\xff\xda\0\x02" * 500
    assert probe(io.BytesIO(data)) == ImageHeader("JPEG", 20, 10, 1)
    assert reason(data[:2] + b"\xff" + bytes(200_000) + data[2:]) == "damaged"


def test_scans_are_counted_up_to_the_end_marker(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG", progressive=True)
    structure = jpeg_structure(io.BytesIO(data), len(data))
    scans = data.count(b"\xff\xda")
    assert scans >= 6
    assert headers.count_scans(io.BytesIO(data), structure.data_at) == scans
    for window in (5, 16, 17):  # markers and lengths on the edge of a window are found
        monkeypatch.setattr(headers, "WINDOW", window)
        assert headers.count_scans(io.BytesIO(data), structure.data_at) == scans


def test_gif_blocks_across_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.effect_noise((60, 40), 90) for _ in range(5)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for window in (9, 10, 64, 257):
        monkeypatch.setattr(headers, "WINDOW", window)
        assert probe(io.BytesIO(data)) == ImageHeader("GIF", 60, 40, 5)


def test_a_gif_that_breaks_after_its_first_frame_is_kept() -> None:
    frames = [Image.effect_noise((60, 40), 90) for _ in range(3)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert probe(io.BytesIO(data[:-100])).frames >= 2
    assert reason(data[:900]) == "truncated"


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    data = saved(Image.new("L", (4, 4)), "PNG")
    extra = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return data[:33] + extra + data[33:]


def test_texts_of_a_png() -> None:
    small, large = zlib.compress(b"a" * 1000), zlib.compress(b"a" * (1 << 21))
    fine = [(b"zTXt", b"k\0\0" + small), (b"iTXt", b"k\0\1\0en\0k\0" + small), (b"iTXt", b"k\0\0\0en\0k\0text")]
    assert probe(io.BytesIO(png_with(*fine))).width == 4
    assert probe(io.BytesIO(png_with((b"zTXt", b"k\0\0not deflated"), (b"iTXt", b"k")))).width == 4
    for bomb in ((b"zTXt", b"k\0\0" + large), (b"iTXt", b"k\0\1\0en\0k\0" + large), (b"iCCP", b"k\0\0" + large)):
        assert reason(png_with(bomb)) == "metadata_too_big"
    assert reason(png_with(*[(b"tEXt", b"k\0" + bytes(1 << 20))] * 9)) == "metadata_too_big"


def test_what_a_tiff_may_not_have() -> None:
    data = saved(Image.effect_noise((30, 20), 50), "TIFF")
    (at,) = struct.unpack_from("<I", data, 4)
    (tags,) = struct.unpack_from("<H", data, at)
    end = at + 2 + 12 * tags
    assert reason(data[:end] + struct.pack("<I", at) + data[end + 4 :]) == "ifd_loop"
    assert reason(data[:at] + struct.pack("<H", 9000) + data[at + 2 :]) == "too_many_parts"
    beyond = data[:end] + struct.pack("<I", 1 << 30) + data[end + 4 :]
    assert probe(io.BytesIO(beyond)) == ImageHeader("TIFF", 30, 20, 1)


def test_files_are_not_read_whole() -> None:
    """A chunk of 400 MB is stepped over by its length; only small pieces are asked for."""

    class Counted(io.BytesIO):
        asked = 0

        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None and size > 0
            Counted.asked += size
            return super().read(size)

    assert probe(Counted(saved(Image.effect_noise((900, 900), 50), "PNG"))).width == 900
    assert Counted.asked < 10_000
