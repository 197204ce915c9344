"""The processes that decode for the server: the pixels are those of `predict`; whatever a decoder does costs one image."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from conftest import PATIENCE, scene
from headstart.exporters.pixel_contract import PixelContract
from headstart.exporters.portable_images import read_portable
from headstart.images.limits import REASONS
from headstart.images.preprocess import Preprocess, read_pixels
from headstart.images.value_ranges import ValueRanges
from headstart.images.worker_process import interpreter
from headstart.serving.decode_worker import PixelPlan
from headstart.serving.decoders import DecodedPixels, Decoders
from headstart.serving.served_answers import DeadlinePassed, ImageRefusal
from running_server import encoded, jpeg

RANGES = ValueRanges.from_dict({"integers": [100, 5000]})
SPECS = {
    "pixels_1": Preprocess(image_size=64, crop_pct=0.9),
    "pixels_2": Preprocess(image_size=48, resize="squash", interpolation="bilinear"),
    "pixels_3": Preprocess(image_size=56, resize="pad", mean=(0.5, 0.4, 0.3)),
}


def run_plan(specs: dict[str, Preprocess] = SPECS) -> PixelPlan:
    return PixelPlan("run", {name: spec.as_dict() for name, spec in specs.items()})


def images() -> dict[str, bytes]:
    """One image of each kind that decoders treat in their own way."""
    turned = Image.Exif()
    turned[0x112] = 6
    deep = Image.fromarray(np.linspace(0, 6000, 90 * 70, dtype=np.uint16).reshape(70, 90))
    return {
        "photo": jpeg(1, (900, 600)),
        "turned": encoded(scene(2, (120, 90)), "JPEG", exif=turned),
        "small": jpeg(3, (20, 31)),
        "alpha": encoded(Image.merge("RGBA", [*scene(4, (80, 60)).split(), scene(5, (80, 60)).convert("L")]), "PNG"),
        "palette": encoded(scene(6, (99, 101)).quantize(32), "PNG"),
        "cmyk": encoded(scene(7, (150, 100)).convert("CMYK"), "JPEG"),
        "deep": encoded(deep, "PNG"),
        "webp": encoded(scene(8, (200, 100)), "WEBP"),
        "gif": encoded(scene(9, (60, 60)), "GIF"),
    }


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with Decoders(run_plan(), count=2, seconds_each=PATIENCE) as started:
        yield started


def decoded(decoders: Decoders, data: bytes) -> DecodedPixels | ImageRefusal:
    return decoders.submit(data, until=time.monotonic() + PATIENCE).result()


def same(found: DecodedPixels | ImageRefusal, expected: dict[str, np.ndarray]) -> bool:
    assert isinstance(found, DecodedPixels), found
    return found.pixels.keys() == expected.keys() and all((found.pixels[k] == v).all() for k, v in expected.items())


# Pixels


def test_pixels_are_those_of_predict_for_every_geometry(decoders: Decoders) -> None:
    for name, data in images().items():
        expected = {key: read_pixels(data, spec) for key, spec in SPECS.items()}
        assert same(decoded(decoders, data), expected), name


def test_pixels_of_deep_images_use_the_ranges_of_the_training() -> None:
    spec = Preprocess(image_size=64, ranges=RANGES)
    data = images()["deep"]
    with Decoders(run_plan({"pixels": spec}), count=1, seconds_each=PATIENCE) as decoders:
        assert same(decoded(decoders, data), {"pixels": read_pixels(data, spec)})
    assert not (read_pixels(data, spec) == read_pixels(data, Preprocess(image_size=64))).all()


def test_pixels_of_an_export_follow_its_contract() -> None:
    contracts = {name: PixelContract.of(spec).as_dict() for name, spec in SPECS.items()}
    with Decoders(PixelPlan("export", contracts), count=2, seconds_each=PATIENCE) as decoders:
        for name, data in images().items():
            expected = {key: read_portable(data, spec) for key, spec in SPECS.items()}
            assert same(decoded(decoders, data), expected), name


def test_bytes_that_are_no_image_get_a_reason(decoders: Decoders) -> None:
    photo = jpeg(1)
    for data, reason in (
        (b"x", "not_an_image"),
        (photo[: len(photo) // 2], "truncated"),
        (b"%PDF-1.7", "not_supported"),
    ):
        found = decoded(decoders, data)
        assert isinstance(found, ImageRefusal)
        assert (found.reason, found.status) == (reason, 422)
        assert found.message.endswith(".")
    assert isinstance(decoded(decoders, photo), DecodedPixels)


def test_many_at_once_do_not_get_mixed_up(decoders: Decoders) -> None:
    files = [jpeg(seed, (64 + seed, 70)) for seed in range(24)]
    with ThreadPoolExecutor(8) as threads:
        for data, found in zip(files, threads.map(lambda data: decoded(decoders, data), files), strict=True):
            assert same(found, {key: read_pixels(data, spec) for key, spec in SPECS.items()})


# What decoders do

MISCHIEF = """
import os, sys, time
from headstart.serving import decode_worker
from headstart.serving.decode_worker import PixelPlan
usual = PixelPlan.pixels
def pixels(self, data):
    if data == b"crash": os.kill(os.getpid(), 11)
    if data == b"spin":
        while True: pass
    if data == b"sleep": time.sleep(3600)
    if data == b"memory": bytearray(1 << 44)
    if data == b"silence": os._exit(0)
    if data.startswith(b"once"):
        if not os.path.exists(data[4:]):
            open(data[4:], "x").close()
            os.kill(os.getpid(), 9)
        data = open(data[4:] + b".jpg", "rb").read()
    return usual(self, data)
PixelPlan.pixels = pixels
decode_worker.serve(sys.argv[1])
"""


def mischievous(seconds_each: float) -> Decoders:
    """Processes that crash, spin, sleep or want too much memory for certain bytes."""
    plan = run_plan({"pixels": Preprocess(image_size=32)})
    command = interpreter(MISCHIEF, json.dumps(asdict(plan)), "numpy")
    return Decoders(plan, count=2, seconds_each=seconds_each, command=command)


@pytest.fixture(scope="module")
def mischief() -> Iterator[Decoders]:
    with mischievous(PATIENCE) as started:
        yield started


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize(
    ("data", "reason", "replaced"),
    [
        (b"crash", "decoder_crashed", 1),
        (b"silence", "decoder_crashed", 1),
        (b"memory", "too_much_memory", 0),
    ],
)
def test_what_a_decoder_does_costs_one_image(mischief: Decoders, data: bytes, reason: str, replaced: int) -> None:
    before = mischief.replaced
    found = decoded(mischief, data)
    assert isinstance(found, ImageRefusal)
    assert (found.reason, found.status) == (reason, 422)
    assert found.reason in REASONS
    assert mischief.replaced - before >= replaced
    for seed in range(4):
        assert isinstance(decoded(mischief, jpeg(seed)), DecodedPixels)


def test_a_decoder_that_takes_too_long_is_stopped_and_replaced() -> None:
    with mischievous(0.4) as decoders:
        until = time.monotonic() + PATIENCE
        for done in [decoders.submit(data, until=until) for data in (b"spin", b"sleep")]:
            found = done.result()
            assert isinstance(found, ImageRefusal)
            assert (found.reason, found.message) == (
                "too_slow",
                "Decoding the image took more than 0.4 s and was stopped: the server is busy, or its --deadline is too short "
                "for this image.",
            )
        decoded(decoders, jpeg(1))
        assert decoders.replaced


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_an_image_whose_decoder_is_killed_is_decoded_by_the_next(mischief: Decoders, tmp_path: Path) -> None:
    photo = jpeg(1)
    (tmp_path / "image.jpg").write_bytes(photo)
    found = decoded(mischief, b"once" + os.fsencode(tmp_path / "image"))
    assert same(found, {"pixels": read_pixels(photo, Preprocess(image_size=32))})


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_a_decoder_that_dies_while_idle_is_replaced(decoders: Decoders) -> None:
    children = [c for c in psutil.Process().children() if "decode_worker" in " ".join(c.cmdline())]
    assert children
    for child in children:
        child.kill()
    files = [jpeg(seed) for seed in range(6)]
    assert all(isinstance(decoded(decoders, data), DecodedPixels) for data in files)


def test_what_comes_too_late_is_not_decoded(decoders: Decoders) -> None:
    with pytest.raises(DeadlinePassed):
        decoders.submit(jpeg(1), until=time.monotonic() - 1).result()


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_decoders_end_with_their_parent_even_if_it_is_killed() -> None:
    program = (
        "import json, sys, time\nfrom headstart.serving.decode_worker import PixelPlan\n"
        "from headstart.serving.decoders import Decoders\n"
        "with Decoders(PixelPlan(**json.loads(sys.argv[1])), count=2, seconds_each=60) as d:\n"
        "    d.submit(b'x', until=time.monotonic() + 1000).result()\n    print('ready', flush=True)\n    time.sleep(1000)\n"
    )
    command = [sys.executable, "-c", program, json.dumps(asdict(run_plan()))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        children = psutil.Process(parent.pid).children()
        assert len(children) == 2
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        gone, alive = psutil.wait_procs(children, timeout=PATIENCE)
    assert (len(gone), alive) == (2, [])
