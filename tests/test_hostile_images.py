"""Bombs and broken images: refused by name, quickly, in little memory; and the sandbox agrees with the decoder.

The bombs are made here, on the spot; each would cost a decoder gigabytes or minutes.
"""

from __future__ import annotations

import io
import json
import os
import random
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from PIL import Image, features

from headstart.errors import UnreadableImage
from headstart.images.decode import decode
from headstart.images.limits import FORMATS, REASONS
from headstart.images.validate import validate_images

SECONDS = 0.2  # of processor time that a refusal may take (it does not wait for anything else)
MEGABYTES = 64  # of memory that it may take, beyond what the process had


def saved(image: Image.Image, name: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, pixels: bytes, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def wide_png(side: int = 13_000) -> bytes:
    """13,000 x 13,000 pixels of one bit each, all there, in 21 kB."""
    deflate = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    return png(side, side, b"".join(deflate.compress(row) for _ in range(side)) + deflate.flush())


def lying_jpeg() -> bytes:
    data = bytearray(saved(Image.new("RGB", (16, 16)), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def lying_bmp() -> bytes:
    data = bytearray(saved(Image.new("RGB", (16, 16)), "BMP"))
    data[18:26] = struct.pack("<ii", 65_500, 65_500)
    return bytes(data)


def long_gif() -> bytes:
    """10,000 frames of one pixel."""
    data = saved(Image.new("L", (1, 1)), "GIF")
    at = data.index(b"\x2c", 13)
    return data[:at] + data[at:-1] * 10_000 + b";"


def layered_jpeg() -> bytes:
    """A progressive JPEG whose last scan is there 2,000 times."""
    data = saved(Image.effect_noise((640, 480), 60).convert("RGB"), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * 2_000 + b"\xff\xd9"


def circular_tiff() -> bytes:
    data = bytearray(saved(Image.new("L", (16, 16)), "TIFF"))
    (at,) = struct.unpack_from("<I", data, 4)
    (tags,) = struct.unpack_from("<H", data, at)
    struct.pack_into("<I", data, at + 2 + 12 * tags, at)
    return bytes(data)


def compressed(kind: bytes, megabytes: int) -> bytes:
    deflate = zlib.compressobj(9)
    packed = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(megabytes)) + deflate.flush()
    return chunk(kind, (b"key\0\1\0en\0key\0" if kind == b"iTXt" else b"key\0\0") + packed)


PIXEL = zlib.compress(b"\0\0")
BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "1-bit PNG, 13k x 13k": ("too_many_pixels", wide_png),
    "PNG header, 65k x 65k": ("too_many_pixels", lambda: png(65_500, 65_500, PIXEL)),
    "PNG header, 4G x 1": ("too_many_pixels", lambda: png(2**32 - 1, 1, PIXEL)),
    "JPEG header, 65k x 65k": ("too_many_pixels", lying_jpeg),
    "BMP header, 65k x 65k": ("too_many_pixels", lying_bmp),
    "PPM header, 65k x 65k": ("too_many_pixels", lambda: b"P6 65500 65500 255\n" + bytes(100)),
    "GIF, 10,000 frames": ("too_many_frames", long_gif),
    "JPEG, 2,000 scans": ("too_many_scans", layered_jpeg),
    "PNG, text of 64 MB": ("metadata_too_big", lambda: png(1, 1, PIXEL, chunk(b"tEXt", b"key\0" + bytes(64 << 20)))),
    "PNG, unknown chunk of 64 MB": ("metadata_too_big", lambda: png(1, 1, PIXEL, chunk(b"abCd", bytes(64 << 20)))),
    "PNG, zTXt of 100 MB": ("metadata_too_big", lambda: png(1, 1, PIXEL, compressed(b"zTXt", 100))),
    "PNG, iTXt of 100 MB": ("metadata_too_big", lambda: png(1, 1, PIXEL, compressed(b"iTXt", 100))),
    "PNG, iCCP of 100 MB": ("metadata_too_big", lambda: png(1, 1, PIXEL, compressed(b"iCCP", 100))),
    "PNG, a million chunks": ("too_many_parts", lambda: png(1, 1, PIXEL, chunk(b"IDAT", b"") * 1_000_000)),
    "JPEG, 64 MB of comments": (
        "metadata_too_big",
        lambda: b"\xff\xd8" + (b"\xff\xfe\xff\xff" + bytes(65_533)) * 1_000 + lying_jpeg()[2:],
    ),
    "JPEG, 64 MB of nothing in its header": ("damaged", lambda: b"\xff\xd8\xff" + bytes(64 << 20) + lying_jpeg()[2:]),
    "GIF, comments of 1 byte for 64 MB": (
        "too_many_parts",
        lambda: saved(Image.new("L", (1, 1)), "GIF")[:-1] + b"\x21\xfe" + b"\x01a" * (32 << 20) + b"\0;",
    ),
    "PPM, a comment of 64 MB": ("damaged", lambda: b"P6\n#" + b"a" * (64 << 20) + b"\n1 1 255\nabc"),
    "TIFF, directories in a circle": ("ifd_loop", circular_tiff),
}

MEASURE = """
import json, resource, sys, time
from pathlib import Path
from PIL import Image
from headstart.errors import UnreadableImage
from headstart.images.decode import decode

Image.preinit()
unit = 1024 if sys.platform == "darwin" else 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
reasons, seconds = [], []
for _ in range(3):
    with open(sys.argv[1], "rb") as file:
        begin = time.process_time()
        try:
            decode(file)
            reasons.append("")
        except UnreadableImage as refusal:
            reasons.append(refusal.reason)
        seconds.append(time.process_time() - begin)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([reasons, min(seconds), (after - before) / unit / 1024]))
"""


@pytest.mark.skipif(os.name != "posix", reason="measures memory the POSIX way")
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_quickly_and_in_little_memory(name: str, tmp_path: Path) -> None:
    expected, build = BOMBS[name]
    file = tmp_path / "bomb"
    file.write_bytes(build())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(file)], capture_output=True, text=True, check=True, env=environment
    )
    reasons, seconds, megabytes = json.loads(done.stdout)
    assert reasons == [expected] * 3
    assert seconds < SECONDS
    assert megabytes < MEGABYTES
    assert done.stderr == ""


def test_the_sandbox_refuses_bombs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    expected, files = [], []
    for name, (reason, build) in BOMBS.items():
        if "64 MB" not in name:  # these only cost the test time: bytes of no effect
            expected.append(reason)
            files.append(tmp_path / f"{len(files)}.jpg")
            files[-1].write_bytes(build())
    assert [fact.reason for fact in validate_images(files)] == expected
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="bounds memory the Linux way")
def test_a_lack_of_memory_is_a_reason() -> None:
    code = """
import resource, sys
from headstart.errors import UnreadableImage
from headstart.images.decode import decode
decode(b"P5 1 1 255 a")
resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))
try:
    decode(sys.stdin.buffer.read())
except UnreadableImage as refusal:
    print(refusal.reason, refusal.message, sep="; ")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=wide_png(11_200),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout == b"too_much_memory; PNG: decoding it needs more memory than available.\n", done.stderr


def test_large_but_honest_images_pass() -> None:
    """As much as the caps allow is decoded: they are no nuisance for real cameras, animations and scans."""
    frames = [Image.new("L", (2, 2), i % 256) for i in range(999)]
    assert decode(saved(frames[0], "GIF", save_all=True, append_images=frames[1:])).size == (2, 2)
    assert decode(saved(Image.new("L", (11_648, 8_736)), "JPEG"), (224, 224)).size == (1_456, 1_092)


@cache
def bases() -> tuple[bytes, ...]:
    """Whole images of every format and several kinds, to be broken."""
    colour = Image.merge("RGB", [Image.effect_noise((90, 70), 40 + 20 * i) for i in range(3)])
    exif = Image.Exif()
    exif[0x112] = 6
    exif[0x131] = "a program"
    frames = [colour, colour.rotate(90, expand=True).resize((90, 70)), colour.transpose(Image.Transpose.ROTATE_180)]
    several = {"save_all": True, "append_images": frames[1:]}
    found = [saved(colour, name) for name in FORMATS]
    found += [saved(colour, "JPEG", progressive=True, exif=exif), saved(colour.convert("CMYK"), "JPEG")]
    found += [saved(frames[0], name, **several) for name in ("GIF", "PNG", "WEBP", "TIFF", "MPO")]
    found += [saved(colour.convert(mode), "PNG") for mode in ("1", "L", "P", "LA", "RGBA", "I;16")]
    found += [saved(colour, "TIFF", compression=how, exif=exif) for how in ("tiff_lzw", "jpeg", "tiff_adobe_deflate")]
    found += [saved(colour, "WEBP", lossless=True, exif=exif), saved(colour.convert("P"), "BMP")]
    found += [saved(colour, "AVIF", exif=exif)] if features.check("avif") else []
    return tuple(found)


def broken(seed: int) -> bytes:
    """An image with bits turned, bytes replaced, pieces cut out, doubled or moved, or its end missing."""
    chance = random.Random(seed)
    data = bytearray(chance.choice(bases()))
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        at = chance.randrange(min(len(data), chance.choice((64, 700, len(data)))))
        length = chance.randrange(1, 1 << chance.randrange(1, 9))
        kind = chance.randrange(8)
        if kind == 0:
            del data[max(8, at) :]
        elif kind == 1 and len(data) > 1_000:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            data[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\xff\xff"))
        elif kind == 4:
            data[at : at + 2] = b"\xff" + bytes([chance.randrange(0xC0, 0x100)])
        else:
            data[at] ^= 1 << chance.randrange(8)
    return bytes(data)


def check_broken(seeds: range, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each ends as an image or with a reason, nothing is printed, and the decoder here says as the sandbox does.

    (Decoding a broken TIFF in this process may print: libtiff does that on its own. In the sandbox it goes nowhere.)
    """
    files = [folder / f"{seed}.png" for seed in seeds]
    for seed, file in zip(seeds, files, strict=True):
        file.write_bytes(broken(seed))
    facts = validate_images(files)
    assert capfd.readouterr() == ("", "")
    for seed, file, fact in zip(seeds, files, facts, strict=True):
        assert fact.reason == "" or fact.reason in REASONS, seed
        assert fact.reason not in ("decoder_crashed", "too_slow", "unreadable"), (seed, fact)
        try:
            image = decode(file.read_bytes(), at_least=(64, 64))
        except UnreadableImage as refusal:
            assert (refusal.reason, refusal.message) == (fact.reason, fact.message), seed
        else:
            assert fact.reason == "" and image.mode == "RGB", (seed, fact)
            assert decode(file.read_bytes()).size == (fact.width, fact.height), seed
    assert "Traceback" not in capfd.readouterr().err
    reasons = Counter(fact.reason for fact in facts)
    assert reasons[""] and reasons["damaged"] and reasons["truncated"]


def test_broken_images(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check_broken(range(200), tmp_path, capfd)


@pytest.mark.slow
def test_two_thousand_broken_images(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check_broken(range(1_000, 3_000), tmp_path, capfd)
