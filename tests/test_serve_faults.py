"""The server under bad bodies, slow clients, overload, killed decoders and signals: the right status, and the next is fine."""

from __future__ import annotations

import base64
import http.client
import json
import signal
import socket
import struct
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import psutil
import pytest
from PIL import Image

from conftest import PATIENCE, SmallRun
from headstart.io.extras import is_installed
from running_server import Answer, RunningServer, answer_on, encoded, jpeg, running_server

pytestmark = [
    pytest.mark.skipif(not is_installed("granian", "starlette", "prometheus_client"), reason="needs the extra serve"),
    pytest.mark.skipif(sys.platform == "win32", reason="sends signals"),
]

PATIENT = ("--deadline", "300", "--receive", "300")
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.fixture(scope="module")
def server(small_run: SmallRun) -> Iterator[RunningServer]:
    with running_server(small_run.path, *PATIENT, "--max-body", "1", cache=small_run.cache) as running:
        yield running
        assert "Traceback" not in running.notes


def is_fine(server: RunningServer) -> bool:
    return server.ask("/predict", jpeg(1)).status == 200


# Bad bodies: twenty contents, in three envelopes each


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that states a size."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    made = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


PHOTO = jpeg(3)
BAD_IMAGES: dict[str, tuple[bytes, int, str]] = {
    "no bytes": (b"", 400, "empty"),
    "one byte": (b"\0", 422, "not_an_image"),
    "text": (b"hello", 422, "not_an_image"),
    "zeros": (bytes(10_000), 422, "not_an_image"),
    "a page": (b"<!DOCTYPE html><html></html>", 422, "not_an_image"),
    "a drawing": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 422, "not_supported"),
    "a document": (b"%PDF-1.7\n", 422, "not_supported"),
    "an archive": (b"PK\x03\x04" + bytes(100), 422, "not_an_image"),
    "a program": (b"\x7fELF" + bytes(100), 422, "not_an_image"),
    "a pickle": (b"\x80\x04cos\nsystem\n(S'true'\ntR.", 422, "not_an_image"),
    "half a JPEG": (PHOTO[: len(PHOTO) // 2], 422, "truncated"),
    "a JPEG's first bytes": (PHOTO[:20], 422, "truncated"),
    "a JPEG without pixels": (b"\xff\xd8\xff\xd9", 422, "truncated"),
    "a JPEG with damaged tables": (PHOTO[:20] + bytes(60) + PHOTO[80:], 422, "damaged"),
    "a bomb of 2.5 billion pixels": (png(50_000, 50_000, zlib.compress(bytes(1000))), 422, "too_many_pixels"),
    "a side of a billion pixels": (png(1_000_000_000, 1, zlib.compress(b"\0")), 422, "too_many_pixels"),
    "a PNG of no size": (png(0, 5), 422, "damaged"),
    "a PNG with too few pixels": (png(300, 300, zlib.compress(bytes(1000))), 422, "truncated"),
    "a PNG whose pixels are noise": (png(300, 300, bytes(range(256))), 422, "damaged"),
    "a GIF without frames": (b"GIF89a\x10\0\x10\0\0\0\0;", 422, "damaged"),
}


def in_raw(data: bytes) -> tuple[bytes, dict[str, str]]:
    return data, {"Content-Type": "image/jpeg"}


def in_form(data: bytes) -> tuple[bytes, dict[str, str]]:
    head = b'--b\r\nContent-Disposition: form-data; name="f"; filename="../../etc/passwd"\r\n\r\n'
    return head + data + b"\r\n--b--\r\n", FORM


def in_json(data: bytes) -> tuple[bytes, dict[str, str]]:
    return json.dumps({"inputs": base64.b64encode(data).decode()}).encode(), JSON


def check_refused(answer: Answer, status: int, reason: str) -> None:
    assert (answer.status, answer.json()["reason"]) == (status, reason), answer.body
    assert sorted(answer.json()) == ["error", "reason"]
    assert answer.json()["error"].endswith(".")
    assert "Traceback" not in answer.json()["error"]


@pytest.mark.parametrize("envelope", [in_raw, in_form, in_json], ids=["raw", "form", "json"])
def test_sixty_bad_bodies_get_their_status_and_the_next_is_fine(
    server: RunningServer, envelope: Callable[[bytes], tuple[bytes, dict[str, str]]]
) -> None:
    wrong = {}
    for name, (data, status, reason) in BAD_IMAGES.items():
        body, headers = envelope(data)
        answer = server.ask("/v1/classify", body, method="POST", headers=headers)
        expected = "base64" if (reason, envelope) == ("empty", in_json) else reason
        if (answer.status, answer.json()["reason"]) != (status, expected):
            wrong[name] = (answer.status, answer.body)
        else:
            check_refused(answer, status, expected)
        assert is_fine(server), name
    assert not wrong
    assert len(BAD_IMAGES) == 20


BAD_ENVELOPES: list[tuple[bytes, dict[str, str], int, str]] = [
    (b"{", JSON, 400, "json"),
    (b"[]", JSON, 400, "json"),
    (b"null", JSON, 400, "json"),
    (b"[" * 100_000, JSON, 400, "json"),
    (b"1" * 10_000, JSON, 400, "json"),
    (b"\xff\xfe", JSON, 400, "json"),
    (b"{}", JSON, 400, "json"),
    (b'{"inputs": [' + b"[]," * 6_000 + b"[]]}", JSON, 400, "json"),
    (b'{"inputs": 5}', JSON, 400, "base64"),
    (b'{"inputs": "%%%"}', JSON, 400, "base64"),
    (b'{"inputs": "/etc/passwd"}', JSON, 400, "base64"),
    (b'{"inputs": "http://169.254.169.254/"}', JSON, 400, "address"),
    (b'{"inputs": "AAAA", "parameters": [1]}', JSON, 400, "json"),
    (b'{"inputs": "AAAA", "parameters": {"top_k": 0}}', JSON, 400, "top_k"),
    (b'{"inputs": "AAAA", "parameters": {"top_k": true}}', JSON, 400, "top_k"),
    (b'{"inputs": "AAAA", "parameters": {"function_to_apply": "exec"}}', JSON, 400, "function_to_apply"),
    (b"x", {"Content-Type": "text/plain"}, 415, "content_type"),
    (b"x", {"Content-Type": "application/x-python-pickle"}, 415, "content_type"),
    (b"x", {"Content-Type": "video/mp4"}, 415, "content_type"),
    (b"x", {"Content-Encoding": "gzip"}, 415, "content_encoding"),
    (b"x", FORM, 400, "form"),
    (b"--b--\r\n", FORM, 400, "form"),
    (b"--b\r\n\r\nx\r\n--b--", FORM, 400, "form"),
    (b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--', FORM, 400, "form"),
    (in_form(PHOTO)[0][:-8], FORM, 400, "form"),
    (in_form(PHOTO)[0][:-4] + in_form(PHOTO)[0][3:], FORM, 400, "form"),
    (in_form(PHOTO)[0], {"Content-Type": "multipart/form-data"}, 400, "form"),
    (in_form(PHOTO)[0], {"Content-Type": "multipart/form-data; boundary=" + "b" * 99}, 400, "form"),
    (b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' * 20 + b"--b--", FORM, 400, "form"),
]


def test_envelopes_that_are_damaged(server: RunningServer) -> None:
    for body, headers, status, reason in BAD_ENVELOPES:
        answer = server.ask("/predict", body, headers=headers)
        assert (answer.status, answer.json()["reason"]) == (status, reason), (body[:60], answer.body)
    assert is_fine(server)


def test_paths_and_methods_that_are_not_there(server: RunningServer) -> None:
    for path in (
        "/predict/",
        "/../etc/passwd",
        "/assets/../../etc/passwd",
        "/assets/%2e%2e/x",
        "/models/other",
        "/models/a/b",
    ):
        assert server.ask(path, PHOTO).status in (404, 405), path
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        answer = server.ask("/predict", method=method)
        assert (answer.status, answer.json()["reason"], answer.headers["allow"]) == (405, "method", "POST")


def test_bytes_that_are_no_http(server: RunningServer) -> None:
    for data in (
        b"\x16\x03\x01\x02\0\x01\0",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        with server.connect() as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            with suppress(OSError):
                assert b" 200 " not in connection.recv(1000)
    both = (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    assert server.raw(both).status == 400
    assert is_fine(server)


# Size


def test_a_body_above_the_limit_is_refused_however_it_comes(server: RunningServer) -> None:
    """The limit is 1 MB here."""
    check_refused(server.ask("/predict", bytes(1_000_001)), 413, "too_big")
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
    check_refused(server.raw(head + b"Content-Length: 99999999999\r\n\r\n"), 413, "too_big")
    expecting = head + b"Content-Length: 2000000\r\nExpect: 100-continue\r\n\r\n"
    check_refused(server.raw(expecting), 413, "too_big")
    with server.connect() as connection:  # without a length
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        with suppress(OSError):  # it is closed while this still sends
            for _ in range(30):
                connection.sendall(b"10000\r\n" + bytes(65_536) + b"\r\n")
        check_refused(answer_on(connection), 413, "too_big")
    assert server.ask("/predict", PHOTO + bytes(1_000_000 - len(PHOTO))).status == 200  # bytes after the image
    assert is_fine(server)


@pytest.mark.parametrize("count", [12, pytest.param(64, marks=pytest.mark.slow)])
def test_large_bodies_and_bombs_at_once_stay_within_memory(small_run: SmallRun, count: int) -> None:
    megabytes = 20 if count == 64 else 4
    options = ("--max-body", str(megabytes), *PATIENT)
    bomb = png(
        11_000, 11_000, zlib.compress(bytes(11_000 * 33_001), 9)
    )  # 363 MB of pixels in 0.4 MB: within the limits
    bodies = [bytes(megabytes * 1_000_000 + n % 2) for n in range(count)] + [png(60_000, 60_000)] * count + [bomb] * 4
    with running_server(small_run.path, *options, cache=small_run.cache) as server:
        process = psutil.Process(server.process.pid)
        base, most = process.memory_info().rss, 0
        with ThreadPoolExecutor(len(bodies)) as threads:
            asked = [threads.submit(refused_or_reset, server, body) for body in bodies]
            while not all(each.done() for each in asked):
                most = max(most, process.memory_info().rss)
                time.sleep(0.01)
        statuses = Counter(each.result() for each in asked)
        assert set(statuses) <= {0, 200, 413, 422, 503}, statuses
        assert statuses[413] + statuses[422] >= count
        assert most <= base + (count * megabytes + 200) * 1_000_000
        assert is_fine(server)


def refused_or_reset(server: RunningServer, body: bytes) -> int:
    """The status, or 0 if the connection was closed while the body was still on its way."""
    with suppress(OSError, http.client.HTTPException):
        return server.ask("/predict", body).status
    return 0


# Slow clients

HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize("count", [45, pytest.param(250, marks=pytest.mark.slow)])
def test_slow_clients_are_closed_and_keep_nobody_out(small_run: SmallRun, count: int) -> None:
    """A third each: of the headers, of the body, and of clients that never read."""
    with (
        running_server(
            small_run.path, "--deadline", "300", "--receive", "3", "--queue", "8", cache=small_run.cache
        ) as server,
        ExitStack() as stack,
    ):
        slow = [stack.enter_context(server.connect()) for _ in range(count)]
        for number, connection in enumerate(slow):
            if number % 3 == 0:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: local")
            elif number % 3 == 1:
                connection.sendall(HEAD + b"Content-Length: 50000\r\n\r\n" + PHOTO[:10])
            else:
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 40)
        stop = threading.Event()
        dripping = threading.Thread(target=drip, args=(slow[1::3], stop))
        dripping.start()
        for seed in range(20):
            assert server.ask("/predict", jpeg(seed)).status == 200
        for connection in slow[0::3]:
            assert everything(connection) == b""
        for connection in slow[1::3]:
            assert everything(connection).startswith(b"HTTP/1.1 408 ")
        stop.set()
        dripping.join()
        assert is_fine(server)


def drip(connections: list[socket.socket], stop: threading.Event) -> None:
    """A byte each, now and then."""
    while not stop.wait(0.2):
        for connection in connections:
            with suppress(OSError):
                connection.send(b"x")


def everything(connection: socket.socket) -> bytes:
    """What comes until the connection is closed."""
    received = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65_536):
            received += chunk
    return received


def test_a_client_that_leaves_frees_its_place(small_run: SmallRun) -> None:
    options = ("--deadline", "300", "--receive", "300", "--queue", "2", "--decoders", "1")
    with running_server(small_run.path, *options, cache=small_run.cache) as server:
        for _ in range(10):
            with server.connect() as connection:
                connection.sendall(HEAD + f"Content-Length: {len(PHOTO)}\r\n\r\n".encode() + PHOTO)
            with server.connect() as connection:
                connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n" + PHOTO[:100])
        until = time.monotonic() + PATIENCE
        while not is_fine(server):
            assert time.monotonic() < until


# Overload


def test_above_the_queue_callers_are_told_at_once(small_run: SmallRun) -> None:
    """A big image takes long to decode: while some are on their way, there is no place for others.

    Pages of other sites are not told whether there is a place.
    """
    big = encoded(Image.linear_gradient("L").resize((5000, 4000)), "PNG", compress_level=1)
    options = ("--deadline", "300", "--receive", "300", "--queue", "4", "--decoders", "1", "--max-body", "100")
    with running_server(small_run.path, *options, cache=small_run.cache) as server, ThreadPoolExecutor(24) as threads:
        asked = [threads.submit(server.ask, "/predict", big) for _ in range(16)]
        evil = {"Host": "evil.example"}
        others = [threads.submit(server.ask, "/predict", bytes(9_000_000), headers=evil) for _ in range(8)]
        asked += [threads.submit(server.ask, "/predict", big + bytes(5_000_000)) for _ in range(8)]
        answers = [each.result() for each in asked]
        assert {each.result().status for each in others} == {403}
        statuses = Counter(answer.status for answer in answers)
        assert set(statuses) == {200, 503}, statuses
        assert statuses[200] >= 4
        for answer in answers:
            if answer.status == 503:
                assert answer.json()["reason"] == "overloaded"
                assert int(answer.headers["retry-after"]) >= 1
        assert is_fine(server)


def test_an_answer_that_would_come_too_late_is_refused(small_run: SmallRun) -> None:
    options = ("--deadline", "0.05", "--receive", "300", "--decoders", "1", "--max-body", "100")
    big = encoded(Image.linear_gradient("L").resize((6000, 5000)), "PNG", compress_level=1)
    with running_server(small_run.path, *options, cache=small_run.cache) as server:
        answer = server.ask("/predict", big)
        assert (answer.status, answer.json()["reason"]) in ((422, "too_slow"), (503, "deadline"))


# Killed decoders, signals


def decoders_of(server: RunningServer) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.Error):  # it has just ended
            found += [child] if "decode_worker" in " ".join(child.cmdline()) else []
    return found


@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_decoders_that_are_killed_under_load_cost_no_request(server: RunningServer, kills: int) -> None:
    """An image is decoded again once; only one whose decoder is killed twice is refused."""
    stop = threading.Event()
    statuses: Counter[tuple[int, str]] = Counter()

    def load() -> None:
        while not stop.is_set():
            answer = server.ask("/predict", PHOTO)
            statuses[answer.status, "" if answer.status == 200 else answer.json()["reason"]] += 1

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(kills):
        before = statuses.total()
        for decoder in decoders_of(server)[:1]:
            with suppress(psutil.NoSuchProcess):
                decoder.kill()
        until = time.monotonic() + PATIENCE
        while statuses.total() < before + 4 and time.monotonic() < until:
            time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {(200, ""), (422, "decoder_crashed")}, statuses
    assert statuses[422, "decoder_crashed"] <= kills // 2
    assert is_fine(server)


@pytest.mark.parametrize("times", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_a_signal_under_load_answers_all_that_was_accepted(small_run: SmallRun, times: int) -> None:
    for number in range(times):
        with running_server(small_run.path, *PATIENT, "--drain", "300", cache=small_run.cache) as server:
            children = decoders_of(server)
            with ThreadPoolExecutor(8) as threads:
                asked = [threads.submit(requests_until_refused, server) for _ in range(8)]
                time.sleep(0.1 + 0.4 * number / times)
                assert server.end() == 0
                ends = Counter(end for each in asked for end in each.result())
            assert ends["lost"] == 0, ends
            assert ends["200"] > 0
            assert psutil.wait_procs(children, timeout=PATIENCE)[1] == []
            assert "Traceback" not in server.notes


def requests_until_refused(server: RunningServer) -> list[str]:
    """Send requests until the server does not take any more; `lost` is one that was sent and got no answer."""
    ends = []
    while True:
        try:
            connection = server.connect()
        except OSError:
            return ends
        with connection:
            try:
                connection.sendall(HEAD + f"Content-Length: {len(PHOTO)}\r\nConnection: close\r\n\r\n".encode() + PHOTO)
            except OSError:  # it was in the queue of the system, and never accepted
                return ends
            try:
                first = connection.recv(65_536)
            except ConnectionResetError:
                return ends
        if not first:
            return ends
        ends.append(first.split(b" ")[1].decode() if first.startswith(b"HTTP/1.1 ") else "lost")
        if ends[-1] != "200":
            assert first.startswith(b"HTTP/1.1 503"), first
            return ends


@pytest.mark.slow
def test_decoders_end_with_a_server_that_is_killed(small_run: SmallRun) -> None:
    with running_server(small_run.path, *PATIENT, cache=small_run.cache) as server:
        assert is_fine(server)
        children = decoders_of(server)
        assert children
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        assert psutil.wait_procs(children, timeout=PATIENCE)[1] == []


def test_a_slow_client_does_not_delay_the_end_for_long(small_run: SmallRun) -> None:
    """It has `--drain` seconds; a second signal does not wait for it at all."""
    with ExitStack() as stack:
        server = stack.enter_context(running_server(small_run.path, *PATIENT, "--drain", "300", cache=small_run.cache))
        connection = stack.enter_context(server.connect())
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n" + PHOTO[:100])
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + PATIENCE
        while server.ask("/readyz").status == 200 and time.monotonic() < until:
            time.sleep(0.02)
        refused = server.ask("/predict", PHOTO + bytes(9_000_000))
        assert (refused.status, refused.json()["reason"]) == (503, "draining")
        assert server.process.poll() is None
        assert server.end() == 0
