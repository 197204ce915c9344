"""The memory of the server's decoders: their part of what a container or a systemd unit allows, and 422 beyond it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from conftest import PATIENCE
from headstart.images.preprocess import Preprocess
from headstart.images.validate import cores
from headstart.images.worker_process import MEMORY_BYTES, cpu_limit, memory_limit, memory_share
from headstart.serving.decode_worker import PixelPlan
from headstart.serving.decoders import DecodedPixels, Decoders
from headstart.serving.served_answers import ImageRefusal
from running_server import encoded, jpeg

GIB, MIB = 1 << 30, 1 << 20
PLAN = PixelPlan("run", {"pixels": Preprocess(image_size=32).as_dict()})


def palette_png(width: int, height: int) -> bytes:
    """A PNG whose palette is transparent: a decoder needs ten bytes per pixel for it."""
    packed = zlib.compressobj(1)
    rows = b"".join(packed.compress(bytes(width + 1)) for _ in range(height)) + packed.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"PLTE", bytes(6)), (b"tRNS", b"\x80\xff"), (b"IDAT", rows), (b"IEND", b""))
    made = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def decoded(decoders: Decoders, data: bytes) -> DecodedPixels | ImageRefusal:
    return decoders.submit(data, until=time.monotonic() + PATIENCE).result()


# How much


def test_decoders_share_what_is_left_of_the_limit() -> None:
    assert memory_share(2, None) == memory_share(64, None) == MEMORY_BYTES == 6 * GIB
    assert memory_share(2, 2 * GIB) == 512 * MIB
    assert memory_share(4, 8 * GIB) == 1536 * MIB
    assert memory_share(1, 64 * GIB) == 6 * GIB
    assert memory_share(64, GIB) == 64 * MIB  # images of ordinary size can be decoded; not all at once


def system(root: Path, own: str, files: dict[str, str]) -> Path:
    """A folder with what Linux says about control groups."""
    for name, text in {"proc/self/cgroup": own, **files}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


def test_the_limit_is_that_of_the_control_group(tmp_path: Path) -> None:
    two, one = "sys/fs/cgroup", "sys/fs/cgroup/memory"
    unit = {f"{two}/system.slice/headstart.service/memory.max": str(2 * GIB), f"{two}/system.slice/memory.max": "max"}
    assert memory_limit(system(tmp_path / "unit", "0::/system.slice/headstart.service", unit)) == 2 * GIB
    assert memory_limit(system(tmp_path / "container", "0::/", {f"{two}/memory.max": str(GIB)})) == GIB
    around = {f"{two}/outer/memory.max": str(GIB), f"{two}/outer/inner/memory.max": str(3 * GIB)}
    assert memory_limit(system(tmp_path / "inside", "0::/outer/inner", around)) == GIB
    first = {f"{one}/docker/1f/memory.limit_in_bytes": str(GIB), f"{one}/memory.limit_in_bytes": str((1 << 63) - 4096)}
    assert memory_limit(system(tmp_path / "first", "5:cpu,cpuacct:/\n4:memory:/docker/1f\n0::/", first)) == GIB


def test_the_time_of_cores_is_limited_likewise(tmp_path: Path) -> None:
    two, one = "sys/fs/cgroup", "sys/fs/cgroup/cpu"
    around = {f"{two}/pod/cpu.max": "150000 100000", f"{two}/pod/inner/cpu.max": "max 100000"}
    assert cpu_limit(system(tmp_path / "pod", "0::/pod/inner", around)) == 1.5
    first = {f"{one}/docker/1f/cpu.cfs_quota_us": "200000", f"{one}/docker/1f/cpu.cfs_period_us": "100000"}
    free = {f"{one}/cpu.cfs_quota_us": "-1", f"{one}/cpu.cfs_period_us": "100000"}
    assert cpu_limit(system(tmp_path / "first", "5:cpu,cpuacct:/docker/1f\n0::/", first | free)) == 2
    assert cpu_limit(system(tmp_path / "free", "5:cpu,cpuacct:/", free)) is None
    assert cpu_limit(tmp_path) is None
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_there_may_be_no_limit(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None  # not Linux
    assert memory_limit(system(tmp_path / "free", "0::/", {"sys/fs/cgroup/memory.max": "max"})) is None
    assert memory_limit(system(tmp_path / "odd", "no control group\n\n0::/\n4:memory:/", {})) is None
    assert memory_share(2, memory_limit()) >= 64 * MIB  # of this machine, whatever it is


# What happens beyond it


@pytest.fixture(scope="module")
def small() -> Iterator[Decoders]:
    """A decoder with a small part: 128 MiB."""
    with Decoders(PLAN, count=1, seconds_each=PATIENCE, memory_each=128 * MIB) as decoders:
        yield decoders


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory")
def test_an_image_that_needs_more_is_refused_and_the_next_is_decoded_by_the_same_process(small: Decoders) -> None:
    found = decoded(small, palette_png(6_000, 5_000))
    assert isinstance(found, ImageRefusal)
    assert (found.status, found.reason) == (422, "too_much_memory")
    assert isinstance(decoded(small, jpeg(1)), DecodedPixels)
    assert small.replaced == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory")
def test_ordinary_photographs_need_less_than_the_smallest_part() -> None:
    photo = Image.linear_gradient("L").resize((4000, 3000)).convert("RGB")
    with Decoders(PLAN, count=1, seconds_each=PATIENCE, memory_each=64 * MIB) as decoders:
        assert isinstance(decoded(decoders, encoded(photo, "JPEG")), DecodedPixels)
        assert isinstance(decoded(decoders, encoded(photo, "PNG", compress_level=1)), DecodedPixels)


MACOS = """
import resource
from headstart.images.worker_process import limit_memory

usual = resource.setrlimit
def setrlimit(which, limits):
    if which == resource.RLIMIT_AS:
        raise ValueError("current limit exceeds maximum limit")
    usual(which, limits)

resource.setrlimit = setrlimit
limit_memory()
print(resource.getrlimit(resource.RLIMIT_CORE)[0])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
def test_a_system_that_cannot_limit_memory_decodes_all_the_same() -> None:
    """macOS on Apple silicon refuses any limit below the address space that a process has from the start."""
    done = subprocess.run([sys.executable, "-c", MACOS], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
