"""Thousands of requests, good and bad ones, more than the server can answer: the callers are those of benchmarks/serve.py.

No figure of speed is expected here, since machines are busy: only that every caller is answered with a status that is
described, that memory and open files do not grow, and that the next request is answered as the first one was.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import headstart
from conftest import PATIENCE, REPOSITORY
from headstart.io.extras import is_installed
from headstart.model.backbones.builtin import NAME
from headstart.training.recipe import Recipe
from running_server import RunningServer, running_server

psutil = pytest.importorskip("psutil", reason="needs psutil, which is not installed")
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the callers need file limits of Linux or macOS"),
    pytest.mark.skipif(not is_installed("granian", "starlette", "prometheus_client"), reason="needs the extra serve"),
]

CALLERS = REPOSITORY / "benchmarks" / "load_generator.py"
GROWTH = 12e6
"""Bytes that the process may grow by in a test, once it is warm: what caches and allocators need."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A folder with a run, and the cache that belongs to it."""
    folder = tmp_path_factory.mktemp("loaded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(folder / "cache"))
        headstart.train(photos, out=folder / "run", recipe=Recipe(approach="linear", backbone=NAME), report=False)
    return folder


@pytest.fixture
def server(trained: Path) -> Iterator[RunningServer]:
    """A server of its own for each test."""
    with running_server(trained / "run", "--deadline", "5", cache=trained / "cache") as running:
        yield running


def called(server: RunningServer, mode: str, requests: list[dict[str, Any]], **plan: Any) -> dict[str, int]:
    """How many requests got which status, when callers follow a plan."""
    whole = {"address": server.address, "mode": mode, "requests": requests, **plan}
    command = [sys.executable, str(CALLERS)]
    done = subprocess.run(command, input=json.dumps(whole), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return {code: each["n"] for code, each in json.loads(done.stdout)["codes"].items()}


def usage(server: RunningServer) -> tuple[int, int]:
    """Memory and open files of the server and its decoders."""
    parent = psutil.Process(server.process.pid)
    family = [parent, *parent.children(recursive=True)]
    return sum(process.memory_info().rss for process in family), sum(process.num_fds() for process in family)


def settled(server: RunningServer, files: int) -> bool:
    """Whether the server's open files become as few again, give or take a kept connection."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and usage(server)[1] - files > 4:
        time.sleep(0.1)
    return usage(server)[1] - files <= 4


def good(photos: Path) -> list[dict[str, Any]]:
    """Requests that are answered."""
    files = sorted((photos / "class0").iterdir())
    return [{"path": path, "file": str(file)} for file in files for path in ("/predict", "/v1/classify")]


def mixed(photos: Path, folder: Path) -> list[dict[str, Any]]:
    """Good requests, and among them all kinds of bad ones."""
    requests = good(photos)
    (folder / "cut.jpg").write_bytes(Path(requests[0]["file"]).read_bytes()[:400])
    bad = [
        {"path": "/predict", "file": str(folder / "cut.jpg")},
        {"path": "/predict", "text": "no image"},
        {"path": "/predict", "text": "{", "type": "application/json"},
        {"path": "/predict", "text": "a=b", "type": "text/plain"},
        {"path": "/v2/models/headstart/infer", "text": "{}"},
        {"path": "/nowhere", "method": "GET"},
        {"path": "/predict", "method": "DELETE"},
        {**requests[0], "leave": True},
        {"path": "/metrics", "method": "GET"},
    ]
    return [*requests, *bad]


@pytest.mark.slow
def test_memory_and_open_files_do_not_grow(server: RunningServer, photos: Path, tmp_path: Path) -> None:
    requests = mixed(photos, tmp_path)
    called(server, "closed", requests, callers=8, count=2_000)
    memory, files = usage(server)
    seen: set[str] = set()
    for _ in range(4):
        seen |= set(called(server, "closed", requests, callers=8, count=2_000))
    after = usage(server)
    print(f"{memory / 1e6:.1f} -> {after[0] / 1e6:.1f} MB, {files} -> {after[1]} files")
    assert seen - {"503"} == {"200", "400", "404", "405", "415", "422", "left"}
    assert after[0] - memory < GROWTH
    assert abs(after[1] - files) <= 4


@pytest.mark.slow
def test_more_requests_than_it_can_answer_get_503_and_the_next_one_is_answered(
    server: RunningServer, photos: Path
) -> None:
    first = server.ask("/predict", Path(good(photos)[0]["file"]).read_bytes())
    memory, files = usage(server)
    codes = called(server, "open", good(photos), rate=2_000, seconds=6)
    print(codes)
    assert set(codes) <= {"200", "503", "no socket"}
    assert codes["503"] > 0
    assert server.ask("/predict", Path(good(photos)[0]["file"]).read_bytes()).body == first.body
    assert settled(server, files)
    assert usage(server)[0] - memory < 100e6


@pytest.mark.slow
def test_slow_callers_are_hung_up_on_and_others_are_served_meanwhile(server: RunningServer, photos: Path) -> None:
    files = usage(server)[1]
    for kind in ("headers", "body"):
        whole = {"address": server.address, "mode": "slow", "kind": kind, "callers": 100, "seconds": 60, "requests": []}
        command = [sys.executable, str(CALLERS)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as slow:
            assert slow.stdin is not None and slow.stdout is not None
            slow.stdin.write(json.dumps(whole))
            slow.stdin.close()
            assert set(called(server, "closed", good(photos), callers=1, count=50)) == {"200"}
            ended = json.loads(slow.stdout.read())
        assert ended["closed"] == ended["callers"] == 100
        assert set(ended["said"]) <= {"", "HTTP/1.1 408 Request Timeout"}
    assert settled(server, files)
