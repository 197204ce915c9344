"""Clients of an HTTP server in one process: benchmarks/serve.py starts it with a plan as JSON on standard input.

    {"address": "127.0.0.1:8000", "mode": "closed", "callers": 8, "seconds": 5, "requests": [...]}    one after another
    {..., "mode": "closed", "callers": 8, "count": 10000}                                              the same, by number
    {..., "mode": "open", "rate": 900.0, "seconds": 60}                                                without waiting
    {..., "mode": "slow", "kind": "headers" | "body" | "deaf", "callers": 250, "seconds": 30}

    requests: [{"path": "/predict", "file": "cat.jpg", "type": "image/jpeg", "form": "file", "leave": true}]

`open` is how users behave: arrivals are random (Poisson, seeded) and do not wait for answers. Seconds count from the moment
at which a request should have been sent, so being late makes the figures worse, not better; `late` says how late requests
were sent. `form` sends the file as that field of a form; `leave` sends half of the request and hangs up. Slow callers send a
header or a body at one byte per second, or (`deaf`) request /openapi.json twenty times and never read the answers.

The result is JSON on standard output: the number and the seconds for each status, and the CPU seconds of this process.
It takes CPU time away from the server: about 0.15 ms per request. Linux, macOS; standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import resource
import socket
import statistics
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BOUNDARY = "headstart-load"
MOST_SOCKETS = 4_000
PATIENCE = 60.0
LOST, NO_SOCKET, LEFT = "lost", "no socket", "left"
"""In place of a status: the server hung up or gave no answer; this process has no sockets left; the caller hung up."""


@dataclass(frozen=True)
class Prepared:
    """The bytes of a request; with `leave`, only half of them are sent."""

    data: bytes
    leave: bool = False

    @classmethod
    def of(cls, asked: Mapping[str, Any], address: str) -> Prepared:
        """Build a request from its entry in the plan."""
        body = Path(asked["file"]).read_bytes() if "file" in asked else asked.get("text", "").encode()
        media_type = asked.get("type", "application/octet-stream")
        if "form" in asked:
            part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{asked["form"]}"; filename="image.jpg"\r\n'
            body = f"{part}Content-Type: {media_type}\r\n\r\n".encode() + body + f"\r\n--{BOUNDARY}--\r\n".encode()
            media_type = f"multipart/form-data; boundary={BOUNDARY}"
        method = asked.get("method", "POST")
        lines = [f"{method} {asked['path']} HTTP/1.1", f"Host: {address}"]
        if method != "GET":
            lines += [f"Content-Type: {media_type}", f"Content-Length: {len(body)}"]
        return cls("\r\n".join([*lines, "", ""]).encode() + body, bool(asked.get("leave")))


class Connection(asyncio.Protocol):
    """A keep-alive connection with one request at a time."""

    def __init__(self) -> None:
        self.usable = True
        self._received = bytearray()
        self._answer: asyncio.Future[int] | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def send(self, data: bytes) -> asyncio.Future[int]:
        """Send a request; the result is its status, or `ConnectionError`."""
        self._received.clear()
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self.connection_lost(None)
        else:
            self._transport.write(data)
        return self._answer

    def data_received(self, data: bytes) -> None:
        """Check whether the answer is complete."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._answer is None or self._answer.done():
            return
        head = bytes(self._received[:end]).lower()
        length = head.find(b"content-length:")
        if length >= 0 and len(self._received) - end - 4 >= int(head[length + 15 :].split(b"\r\n", 1)[0]):
            if b"connection: close" in head:
                self.close()
            self._answer.set_result(int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the waiting request fail."""
        self.usable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the server hung up"))

    def close(self) -> None:
        """Hang up."""
        self.usable = False
        self._transport.close()


@dataclass
class Tally:
    """What was answered: seconds by status, how late requests were sent, and when each answer came."""

    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    late: list[float] = field(default_factory=list)
    timeline: list[tuple[float, float]] = field(default_factory=list)
    begun: float = field(default_factory=time.perf_counter)

    def add(self, outcome: object, seconds: float) -> None:
        """Count one request."""
        self.seconds[str(outcome)].append(seconds)
        if outcome == 200:
            self.timeline.append((round(time.perf_counter() - self.begun, 4), round(seconds, 5)))

    def as_dict(self) -> dict[str, Any]:
        """Return figures, ready for JSON."""
        codes = {code: figures(values) for code, values in sorted(self.seconds.items())}
        elapsed = time.perf_counter() - self.begun
        return {"seconds": elapsed, "codes": codes, "late": figures(self.late), "timeline": self.timeline}


def figures(values: Sequence[float]) -> dict[str, float]:
    """Return the number of values and their percentiles.

    >>> figures([3.0, 1.0, 2.0])
    {'n': 3, 'p50': 2.0, 'p99': 3.0, 'p99.9': 3.0, 'most': 3.0}
    """
    if not values:
        return {"n": 0}
    ordered = sorted(values)
    at = {f"p{p:g}": ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))] for p in (99, 99.9)}
    return {"n": len(ordered), "p50": statistics.median(ordered), **at, "most": ordered[-1]}


class Sockets:
    """Connections to one server, kept for the next request."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._idle: deque[Connection] = deque()
        self._open = 0

    async def ask(self, request: Prepared, tally: Tally, intended: float) -> None:
        """Send a request on an idle connection or a new one, and count its outcome."""
        outcome: object = LOST
        if not self._idle and self._open >= MOST_SOCKETS:
            tally.add(NO_SOCKET, 0.0)
            return
        self._open += 1
        try:
            outcome = await asyncio.wait_for(self._asked(request, tally, intended), PATIENCE)
        except (OSError, TimeoutError) as error:
            outcome = f"{LOST}: {type(error).__name__}"
        finally:
            self._open -= 1
            tally.add(outcome, time.perf_counter() - intended)

    async def _asked(self, request: Prepared, tally: Tally, intended: float) -> object:
        fresh = False
        while self._idle and not self._idle[-1].usable:
            self._idle.pop()
        if not self._idle:
            fresh = True
        connection = await self._new() if fresh else self._idle.pop()
        tally.late.append(time.perf_counter() - intended)
        try:
            if request.leave:
                connection.send(request.data[: len(request.data) // 2]).cancel()
                await asyncio.sleep(0)
                connection.close()
                return LEFT
            status = await connection.send(request.data)
        except ConnectionError:
            connection.close()
            if fresh:
                raise
            return await self._asked(request, tally, intended)  # the server had just closed this kept connection
        if connection.usable:
            self._idle.append(connection)
        return status

    async def _new(self) -> Connection:
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Connection, self._host, int(self._port)))[1]

    def close(self) -> None:
        """Close all connections."""
        for connection in self._idle:
            connection.close()


# Modes


async def closed(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Run callers that wait for each answer, for `seconds` or until `count` requests in all."""
    requests, tally, sockets = in_turn(plan), Tally(), Sockets(plan["address"])
    left = iter(range(plan["count"])) if "count" in plan else itertools.count()
    end = time.perf_counter() + plan.get("seconds", float("inf"))

    async def caller() -> None:
        while time.perf_counter() < end and next(left, None) is not None:
            await sockets.ask(next(requests), tally, time.perf_counter())

    await asyncio.gather(*(caller() for _ in range(plan["callers"])))
    sockets.close()
    return tally.as_dict()


async def opened(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Send requests at `rate` per second without waiting for answers."""
    requests, tally, sockets = in_turn(plan), Tally(), Sockets(plan["address"])
    draw, tasks, at = random.Random(plan.get("seed", 0)), set(), tally.begun
    while at - tally.begun < plan["seconds"]:
        at += draw.expovariate(plan["rate"])
        wait = at - time.perf_counter()
        if wait > 0 or len(tasks) % 64 == 0:
            await asyncio.sleep(max(0.0, wait))
        task = asyncio.create_task(sockets.ask(next(requests), tally, at))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    sent = time.perf_counter() - tally.begun
    await asyncio.gather(*tasks)
    sockets.close()
    return tally.as_dict() | {"sent_in": sent}


async def slow(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Run slow callers of one kind; for each, return when the server hung up (None: not within `seconds`) and its answer."""
    kinds = {"headers": slow_headers, "body": slow_body, "deaf": deaf}
    host, _, port = plan["address"].rpartition(":")

    async def caller() -> tuple[float | None, str]:
        begun = time.perf_counter()
        endpoint = socket.socket()
        endpoint.setblocking(False)
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(endpoint, (host, int(port)))
            said = await asyncio.wait_for(kinds[plan["kind"]](endpoint, plan), plan["seconds"])
        except TimeoutError:
            return None, ""
        except OSError as error:
            said = type(error).__name__
        finally:
            endpoint.close()
        return time.perf_counter() - begun, said

    ended = await asyncio.gather(*(caller() for _ in range(plan["callers"])))
    closed_after = [seconds for seconds, _ in ended if seconds is not None]
    said = sorted({text for _, text in ended})
    return {
        "kind": plan["kind"],
        "callers": len(ended),
        "closed": len(closed_after),
        **figures(closed_after),
        "said": said,
    }


async def slow_headers(endpoint: socket.socket, plan: Mapping[str, Any]) -> str:
    """Send a header that never ends."""
    return await trickle(endpoint, f"GET /healthz HTTP/1.1\r\nHost: {plan['address']}\r\nX: ".encode())


async def slow_body(endpoint: socket.socket, plan: Mapping[str, Any]) -> str:
    """Announce a body, and send it byte by byte."""
    head = f"POST /predict HTTP/1.1\r\nHost: {plan['address']}\r\nContent-Type: image/jpeg\r\nContent-Length: 100000\r\n\r\n"
    return await trickle(endpoint, head.encode())


async def trickle(endpoint: socket.socket, head: bytes) -> str:
    """Send a head and then a byte per second until the server hangs up; return the first line of its answer."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(endpoint, head)
    received = b""
    while True:
        try:
            chunk = await asyncio.wait_for(loop.sock_recv(endpoint, 1_000), 1.0)
        except TimeoutError:
            await loop.sock_sendall(endpoint, b"x")
            continue
        received += chunk
        if not chunk:
            return received.split(b"\r\n", 1)[0].decode("latin-1")


async def deaf(endpoint: socket.socket, plan: Mapping[str, Any]) -> str:
    """Request long answers, 0.4 MB in all, and read nothing. The server's open files show when it hangs up."""
    request = f"GET /openapi.json HTTP/1.1\r\nHost: {plan['address']}\r\n\r\n".encode()
    await asyncio.get_running_loop().sock_sendall(endpoint, request * 20)
    await asyncio.sleep(plan["seconds"])
    return ""


def in_turn(plan: Mapping[str, Any]) -> Iterator[Prepared]:
    """Return the plan's requests in an endless loop."""
    return itertools.cycle([Prepared.of(asked, plan["address"]) for asked in plan["requests"]])


def main() -> None:
    """Carry out the plan on standard input."""
    plan = json.load(sys.stdin)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[1], MOST_SOCKETS + 100), limits[1]))
    before = time.process_time()
    found = asyncio.run({"closed": closed, "open": opened, "slow": slow}[plan["mode"]](plan))
    json.dump(found | {"cpu_seconds": time.process_time() - before}, sys.stdout)


if __name__ == "__main__":
    main()
