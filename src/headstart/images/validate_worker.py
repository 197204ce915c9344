"""The process in which an image is decoded for the first time; started, fed and replaced by `images.validate`.

It reads one request per line from standard input, decodes the image, and answers with one line of JSON. It imports only
the standard library and Pillow, and is ready in about 0.1 s. Whatever a decoder does here (crash, loop forever, exhaust
memory) harms this process and not the user's. Do not start it by hand. It is not a sandbox for files: it runs as the same
user.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from typing import BinaryIO

from PIL import Image

from headstart.errors import UnreadableImage
from headstart.images.decode import read
from headstart.images.limits import reason_of
from headstart.images.worker_process import READY, limit_cpu, limit_memory, own_streams

AT_LEAST_PIXELS = (64, 64)  # size to decode at: reads all of an image's data, but makes few pixels
WHOLE_BYTES = 32 << 20  # larger files are read in pieces

GREYS_SIDE = 16

Answer = tuple[str, int, int, str, int, int, int, str, str, str, float, float]
"""format, width, height, mode, orientation, frames, dhash, greys, reason, message, low, high: the fields of
`validate.ImageInfo` in order."""


def look(path: bytes, sha256: str) -> Answer:
    """Decode one image, whose bytes must have that SHA-256, and describe it or say why it cannot be used."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size <= WHOLE_BYTES:
                data = file.read()
                if hashlib.sha256(data).hexdigest() != sha256:
                    return left_out("changed", "its bytes changed during validation.")
                return decode_and_describe(data)
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                return left_out("changed", "its bytes changed during validation.")
            return decode_and_describe(file)
    except OSError as error:
        return left_out(reason_of(error), f"could not be read: {error.strerror}.")


def decode_and_describe(data: bytes | BinaryIO) -> Answer:
    """Describe an image, or say why it cannot be used."""
    try:
        decoded = read(data, AT_LEAST_PIXELS, None)
        width, height = decoded.upright_size
        grey = decoded.image.convert("L")
        mark, small = dhash(grey), greys(grey)
    except UnreadableImage as refusal:
        return left_out(refusal.reason, refusal.message, refusal.kind)
    header, used = decoded.header, (decoded.low, decoded.high)
    return header.format, width, height, decoded.mode, decoded.orientation, header.frames, mark, small, "", "", *used


def left_out(reason: str, message: str, kind: str = "") -> Answer:
    """Return the answer for an image that cannot be used; `kind` is the name of its format, if known."""
    return kind, 0, 0, "", 1, 0, -1, "", reason, message, 0.0, 0.0


def dhash(image: Image.Image) -> int:
    """Return a 64-bit difference hash: 9 x 8 greys, one bit wherever a grey is darker than its right neighbour.

    N. Krawetz, "Kind of like that", hackerfactor.com, 2013. The first bit (top left) is the highest. It survives
    rescaling and recompression; it does not survive cropping, rotation, or most other changes.
    """
    greys = image.convert("L").resize((9, 8), Image.Resampling.BILINEAR, reducing_gap=3.0).tobytes()
    bits = 0
    for row in range(0, 72, 9):
        for at in range(row, row + 8):
            bits = bits << 1 | (greys[at] < greys[at + 1])
    return bits


def greys(image: Image.Image) -> str:
    """Return a thumbnail of an image: 16 x 16 greys, squashed into a square, row by row in base64."""
    small = image.convert("L").resize((GREYS_SIDE, GREYS_SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return base64.b64encode(small.tobytes()).decode("ascii")


def serve(seconds_each: float, look: Callable[[bytes, str], Answer] = look) -> None:
    """Answer requests until standard input ends: JSON lines [number, path, sha256], or [number, "", sha256, base64]."""
    requests, answers = own_streams()
    limit_memory()
    answers.write(READY)
    for line in requests:
        number, path, sha256, *data = json.loads(line)
        limit_cpu(seconds_each)
        answer = decode_and_describe(base64.b64decode(data[0])) if data else look(path.encode("latin-1"), sha256)
        answers.write(json.dumps([number, *answer]).encode("ascii") + b"\n")
