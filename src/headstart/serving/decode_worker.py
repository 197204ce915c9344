"""The process that turns the bytes of untrusted images into pixels for the server; started and replaced by `decoders`.

It reads a request from standard input (the number of bytes, the seconds that decoding may take, the bytes), and answers
with the pixels of every input of the network, or with a reason. It imports only numpy and Pillow, and is ready in about
0.2 s. Whatever an image decoder does (crash, loop forever, exhaust memory) harms this process and not the server. Do not
start it by hand.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from headstart.errors import UnreadableImage
from headstart.exporters.pixel_contract import PixelContract
from headstart.exporters.portable_images import portable_pixels
from headstart.images.image_refs import read_image
from headstart.images.preprocess import Preprocess, read_pixels
from headstart.images.worker_process import MEMORY_BYTES, READY, limit_cpu, limit_memory, own_streams
from headstart.io.files import jpeg_bytes

REQUEST = struct.Struct("<Qd")
"""Size of the image in bytes, and the seconds it may take."""
ANSWER = struct.Struct("<?Q")
"""Whether pixels follow (otherwise JSON: [reason, message]), and how many bytes."""

Pixels = dict[str, np.ndarray]
"""The pixels of one image for each input of the network, by its name: uint8 (S, S, 3)."""


@dataclass(frozen=True)
class PixelPlan:
    """How images become pixels: as in `predict` with a run, or as in `predict` with an export. Plain values, for JSON.

    `inputs` has, for each input of the network by name, the result of `Preprocess.as_dict` or `PixelContract.as_dict`.
    """

    path: Literal["run", "export"]
    inputs: Mapping[str, Mapping[str, Any]]

    @property
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """Rows, columns and channels of each input."""
        sides = {name: int(spec["image_size"]) for name, spec in self.inputs.items()}
        return {name: (side, side, 3) for name, side in sides.items()}

    def pixels(self, data: bytes) -> Pixels:
        """Decode an image once for an export, once per input for a run. Raises `UnreadableImage`."""
        if self.path == "run":
            return {name: read_pixels(data, Preprocess.from_dict(spec)) for name, spec in self.inputs.items()}
        contracts = {name: PixelContract.from_dict(spec) for name, spec in self.inputs.items()}
        image = read_image(data, ranges=next(iter(contracts.values())).ranges)
        return {name: portable_pixels(image, contract) for name, contract in contracts.items()}


def serve(described: str, memory: int = MEMORY_BYTES) -> None:
    """Answer requests until standard input ends. `described` is the JSON of a `PixelPlan`; `memory` is in bytes."""
    plan = PixelPlan(**json.loads(described))
    requests, answers = own_streams()
    plan.pixels(jpeg_bytes(Image.new("RGB", (64, 48)), 90))  # loads the modules that decoding needs
    if memory < MEMORY_BYTES:
        _use_one_thread()
    limit_memory(memory)
    answers.write(READY)
    while head := requests.read(REQUEST.size):
        size, seconds = REQUEST.unpack(head)
        limit_cpu(seconds)
        answers.write(_answer(plan, requests.read(size)))


def _use_one_thread() -> None:
    """Decode AVIF in one thread: on a machine of many cores, the stacks of one thread per core need too much memory."""
    with suppress(ImportError):
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _answer(plan: PixelPlan, data: bytes) -> bytes:
    try:
        found = plan.pixels(data)
    except UnreadableImage as refusal:
        return _refusal(refusal.reason, refusal.message)
    except MemoryError:
        return _refusal("too_much_memory", "Decoding the image needs more memory than is available.")
    return b"".join(
        [ANSWER.pack(True, sum(map(len, map(np.ravel, found.values())))), *(x.tobytes() for x in found.values())]
    )


def _refusal(reason: str, message: str) -> bytes:
    text = json.dumps([reason, message]).encode("ascii")
    return ANSWER.pack(False, len(text)) + text
