"""`headstart serve` in a process of its own, as a user starts it, for as long as a block or a fixture lasts."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from conftest import PATIENCE, scene


@dataclass(frozen=True)
class Answer:
    """What a request got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class RunningServer:
    """A server; it is ready unless a test wants to see it start. `said` is the file of its stdout and stderr."""

    port: int
    process: subprocess.Popen[bytes]
    said: Path

    @property
    def notes(self) -> str:
        """What it has written to stdout and stderr so far."""
        return self.said.read_text(encoding="utf-8", errors="replace")

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{self.address}"

    def ask(
        self, path: str, body: bytes | None = None, *, method: str = "", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request on a connection of its own: POST if it has a body, else GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def connect(self) -> socket.socket:
        """A connection for bytes that no client would send."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def raw(self, data: bytes) -> Answer:
        """The answer to bytes."""
        with self.connect() as connection:
            connection.sendall(data)
            return answer_on(connection)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def answer_on(connection: socket.socket) -> Answer:
    """The next answer on a connection."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())


@contextlib.contextmanager
def running_server(
    place: Path, *options: str, cache: Path, wait: bool = True, environment: Mapping[str, str] | None = None
) -> Iterator[RunningServer]:
    """Serve a run or an export until the block ends; with `wait`, the block begins when it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "headstart", "serve", str(place), "--port", str(port), *options]
    variables = {**os.environ, "HEADSTART_CACHE": str(cache), **(environment or {})}
    with tempfile.NamedTemporaryFile() as said:
        process = subprocess.Popen(command, env=variables, stdout=said, stderr=said)
        server = RunningServer(port, process, Path(said.name))
        try:
            if wait:
                wait_until_ready(server)
            yield server
        except BaseException:
            print(server.notes)
            raise
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until_ready(server: RunningServer) -> None:
    """Ask until /readyz says yes."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert server.process.poll() is None, "the server ended before it was ready"
        with contextlib.suppress(OSError, http.client.HTTPException):
            if server.ask("/readyz").status == 200:
                return
        time.sleep(0.05)
    raise AssertionError("the server is not ready")


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def jpeg(seed: int, size: tuple[int, int] = (240, 180)) -> bytes:
    """The bytes of an image; each seed another."""
    return encoded(scene(seed, size), "JPEG", quality=88)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of an image as a file of a kind."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
