"""Headers of HEIC and AVIF, read without a decoder; and the decoded images, where the library is installed."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from headstart.errors import UnreadableImage
from headstart.images import formats
from headstart.images.decode import read
from headstart.images.formats import is_available
from headstart.images.headers import probe
from headstart.images.heif_header import HeifHeader, heif_header, heif_kind
from headstart.images.image_refs import Images
from headstart.images.limits import ImageHeader

FOLDER = Path(__file__).parent / "data" / "heic"
PLAIN, TURNED, TEN_BITS, BURST = (FOLDER / f"{n}.heic" for n in ("plain", "turned", "ten-bits", "burst"))
FILES = (PLAIN, TURNED, TEN_BITS, BURST)
needs_heic = pytest.mark.skipif(not is_available("HEIC"), reason="needs the library for HEIC: pip install '.[formats]'")
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="needs a Pillow that reads AVIF: 11.3 or newer")


def avif() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((90, 70), 60).convert("RGB").save(file, "AVIF")
    return file.getvalue()


def header(data: bytes) -> HeifHeader:
    return heif_header(io.BytesIO(data), len(data))


def refused(data: bytes) -> tuple[str, str]:
    with pytest.raises(UnreadableImage) as caught:
        header(data)
    return caught.value.reason, caught.value.message


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_kind_and_size(file: Path) -> None:
    assert header(file.read_bytes()) == HeifHeader("HEIC", 96, 64)


@needs_avif
def test_kind_and_size_of_avif() -> None:
    assert header(avif()) == HeifHeader("AVIF", 90, 70)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"\0\0\0\x18ftypavis\0\0\0\0mif1avif", "AVIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mif1heic", ""),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", ""),
        (b"\0\0\0\x18ftyp", ""),
        (b"", ""),
    ],
)
def test_brands(start: bytes, kind: str) -> None:
    assert heif_kind(start) == kind


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_cut_anywhere_it_is_truncated(file: Path) -> None:
    data = file.read_bytes()
    assert {refused(data[:end])[0] for end in range(20, len(data))} == {"truncated"}


def test_whole_messages() -> None:
    data = PLAIN.read_bytes()
    assert refused(data[:700]) == (
        "truncated",
        "HEIC: its pixels should end at byte 1,255, but the file ends at byte 700.",
    )
    assert refused(data[:-100] + bytes(100)) == (
        "truncated",
        "HEIC: its pixels end in zeros at byte 1,255, as in an unfinished download.",
    )
    assert refused(data[:40] + b"\xff" * 8 + data[48:])[0] in ("damaged", "truncated")
    without = data.replace(b"ispe", b"free")
    assert refused(without) == ("damaged", "HEIC: does not state the size of its image.")


def test_bombs() -> None:
    data = PLAIN.read_bytes()
    large = data.replace(struct.pack(">II", 96, 64), struct.pack(">II", 65_500, 65_500))
    assert header(large) == HeifHeader("HEIC", 65_500, 65_500)
    at = data.index(b"meta") - 4
    long = data[:at] + struct.pack(">I", 64 << 20) + data[at + 4 :] + bytes(64 << 20)
    assert refused(long)[0] == "metadata_too_big"
    loop = data[:at] + struct.pack(">I4s", 0, b"free") * 10
    assert refused(loop)[0] == "truncated"
    many = data[:at] + struct.pack(">I4s", 8, b"free") * 100_001
    assert refused(many)[0] == "too_many_parts"


@needs_heic
def test_a_bomb_meets_the_limits_of_all_formats() -> None:
    data = PLAIN.read_bytes().replace(struct.pack(">II", 96, 64), struct.pack(">II", 65_500, 65_500))
    with pytest.raises(UnreadableImage) as caught:
        probe(io.BytesIO(data))
    assert (caught.value.reason, caught.value.kind) == ("too_many_pixels", "HEIC")


def corners(image: Image.Image) -> str:
    """The colours of the four corners, clockwise from the upper left."""
    names = {(1, 1, 1): "white", (1, 0, 0): "red", (0, 1, 0): "green", (1, 1, 0): "yellow", (0, 0, 0): "black"}
    right, bottom = image.width - 1, image.height - 1
    places = [(0, 0), (right, 0), (right, bottom), (0, bottom)]
    return " ".join(names[tuple(int(c > 128) for c in image.getpixel(place))] for place in places)  # type: ignore[union-attr]


@needs_heic
def test_the_main_image_upright_once() -> None:
    assert corners(read(PLAIN.read_bytes()).image) == "white red yellow green"
    assert corners(read(TEN_BITS.read_bytes()).image) == "white red yellow green"
    assert corners(read(BURST.read_bytes()).image) == "white red yellow green"
    assert read(BURST.read_bytes()).header == ImageHeader("HEIC", 96, 64, frames=3)
    turned = read(TURNED.read_bytes())
    assert turned.image.size == turned.upright_size == (64, 96)
    assert corners(turned.image) == "green white red yellow"


@needs_heic
def test_validated_in_a_process_of_its_own_whatever_its_name(tmp_path: Path) -> None:
    file = tmp_path / "from-a-phone.jpg"
    file.write_bytes(TURNED.read_bytes())
    images = Images.inspect([file, PLAIN.read_bytes(), PLAIN.read_bytes()[:900], b"\0\0\0\x14ftypheic"])
    assert [(info.format, info.width, info.height, info.reason) for info in images.infos] == [
        ("HEIC", 64, 96, ""),
        ("HEIC", 96, 64, ""),
        ("HEIC", 0, 0, "truncated"),
        ("HEIC", 0, 0, "truncated"),
    ]
    assert images.read(0).size == (64, 96)


@needs_avif
def test_avif_is_read_without_the_library_for_heic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "heif_library", lambda: None)
    decoded = read(avif())
    assert (decoded.header.format, decoded.image.size, decoded.image.mode) == ("AVIF", (90, 70), "RGB")
    with pytest.raises(
        UnreadableImage, match=r"^HEIC is not decoded here. To use HEIC: pip install 'headstart\[formats\]'.$"
    ):
        read(PLAIN.read_bytes())


@needs_heic
def test_changed_bytes_give_an_image_or_a_reason() -> None:
    """In a process of their own: what a decoder does there costs nothing here."""
    rng = np.random.default_rng(0)
    broken = []
    for n in range(150):
        data = bytearray(FILES[n % 4].read_bytes())
        for at in rng.integers(12, len(data), rng.integers(1, 6)).tolist():
            data[at] = int(rng.integers(256))
        broken.append(bytes(data))
    infos = Images.inspect(broken).infos
    assert not {info.reason for info in infos} & {"decoder_crashed", "too_slow", "too_much_memory", "unreadable"}
    assert {"", "damaged"} <= {info.reason for info in infos}
