"""Starting, draining and stopping the server: `serve_until_stopped`.

It listens at once, but /readyz says no until images with known answers have come out right (`readiness`). A signal (Ctrl-C,
SIGTERM) stops it: /readyz says no again, new requests get 503, and those already accepted are answered, for at most `--drain`
seconds; a second signal cuts that short. A damaged run stops it with a message.

The HTTP server is granian, embedded: one process, HTTP/1.1 only, with a time limit for headers, which also closes idle
connections. Granian's own limit on connections makes callers wait without an answer, so it is set above what the process may
open, and `admission` refuses instead. Ready in 1.5 to 1.7 s (two busy cores) if the compiled networks are in the user's
cache; torch is not imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import ServeError
from headstart.exporters.open_classifier import OpenedClassifier, open_classifier
from headstart.images.validate import cores
from headstart.io.progress import log
from headstart.io.text_table import few, plain
from headstart.serving.admission import Admission
from headstart.serving.app import Gate, create_app
from headstart.serving.callers import EVERYWHERE, Callers
from headstart.serving.decoders import Decoders
from headstart.serving.readiness import Readiness, check_answers, known_answer
from headstart.serving.served_classifier import ServedClassifier
from headstart.serving.served_networks import open_served, plan_of
from headstart.serving.server_options import ServerOptions, read_token
from headstart.serving.visits import Service

HEADER_MILLISECONDS = 5_000
DECODING_SHARE = 0.8
"""Share of the deadline: an image that takes longer to decode is refused for that, before its request is late."""
BODIES = 16
"""Memory for request bodies, as a multiple of the largest allowed body."""
FLUSH_SECONDS = 2.0
"""Time for the last answers to be sent."""
TICK = 0.02
BACKLOG = 1_024
MOST_CONNECTIONS = 65_536
OWN_FILES = 64
"""File descriptors kept for pipes, weights and the like."""


@dataclass(frozen=True)
class ServerStopped:
    """A server that was stopped by a signal: its address, the requests it answered, and the seconds it served."""

    address: str
    requests: int
    seconds: float


def serve_until_stopped(place: Path, options: ServerOptions) -> ServerStopped:
    """Serve a run or an export until a signal ends it.

    Raises `ServeError` (an option, the port, the token), `RunError`, `ExportError`, `BackboneError`.
    """
    options.check()
    _check_no_loop()
    callers = Callers.of(options, read_token(options))
    opened = open_classifier(place)
    port = free_port(options)
    return asyncio.run(_Server(place, opened, options, callers, port).run())


def _check_no_loop() -> None:
    """Raise `ServeError` inside a running event loop, such as that of a notebook, which the server would block."""
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise ServeError(
            "a server cannot run inside an event loop, such as that of a notebook.",
            hint="Start it in a terminal: headstart serve RUN",
        )


class _Server:
    """One server, from its first process to its last answer."""

    def __init__(
        self, place: Path, opened: OpenedClassifier, options: ServerOptions, callers: Callers, port: int
    ) -> None:
        self._place, self._opened, self._options, self._port = place, opened, options, port
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._readiness = Readiness()
        self._decoders = Decoders(
            plan_of(opened), count=options.decoders or cores(), seconds_each=DECODING_SHARE * options.deadline
        )
        admission = Admission(images=options.queue, size=BODIES * options.max_body_bytes, seconds=options.deadline)
        self._served = ServedClassifier(opened, self._decoders, admission)
        self._gate = create_app(Service(self._served, options, self._readiness), callers)

    @property
    def address(self) -> str:
        """The address of the page."""
        host = self._options.host
        shown = "127.0.0.1" if host in EVERYWHERE else f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self._port}"

    async def run(self) -> ServerStopped:
        """Serve until stopped. Raises `ServeError`, `RunError`, `ExportError`, `BackboneError`."""
        with _signals(self._asked_to_stop), self._decoders:  # the processes start before the networks' threads
            http = embedded_server(self._gate, bind_address(self._options.host), self._port)
            listening: asyncio.Future[object] = asyncio.ensure_future(http.serve())
            try:
                await self._until(self._become_ready(), listening)
                began = time.monotonic()
                await self._until(self._stop.wait(), listening)
                await self._drain()
                return ServerStopped(self.address, self._gate.requests, time.monotonic() - began)
            finally:
                http.stop()
                await asyncio.wait({listening}, timeout=FLUSH_SECONDS)
                self._served.close()

    async def _until(self, work: Coroutine[Any, Any, object], listening: asyncio.Future[object]) -> None:
        """Do the work, unless a signal comes first, or the HTTP server ends. Raises what the work raises."""
        working: asyncio.Future[object] = asyncio.ensure_future(work)
        stopping: asyncio.Future[object] = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({working, stopping, listening}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            elif listening.done():
                why = listening.exception() or "perhaps another program took the port"
                raise ServeError(f"{self.address}: the HTTP server ended: {why}.")
        finally:
            working.cancel()
            stopping.cancel()

    async def _become_ready(self) -> None:
        opening = ThreadPoolExecutor(2)  # not asyncio's own, which delays the end if a signal comes meanwhile
        try:
            network = opening.submit(open_served, self._opened)
            known = opening.submit(known_answer, self._opened.classifier) if self._opened.run else None
            self._served.start(await asyncio.wrap_future(network))
            await check_answers(self._served, known)
        finally:
            opening.shutdown(wait=False, cancel_futures=True)
        self._readiness.state = "ready"
        classes = few([plain(name) for name in self._served.classes])
        log.info("Serving %s (%s) at %s", plain(str(self._place)), classes, self.address)
        token = ' -H "Authorization: Bearer $TOKEN"' if self._options.token_file else ""
        log.info("Try it: curl%s --data-binary @image.jpg %s/predict", token, self.address)
        log.info("Ctrl-C stops it.")

    async def _drain(self) -> None:
        """Finish the accepted requests, and refuse all others, for at most `--drain` seconds."""
        self._readiness.state = "draining"
        until = time.monotonic() + self._options.drain
        while self._gate.active and time.monotonic() < until and not self._hurry.is_set():
            await asyncio.sleep(TICK)

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()


def embedded_server(app: Gate, address: str, port: int) -> Any:
    """Return granian's server, not yet listening."""
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.server.embed import Server

    return Server(
        app,
        address=address,
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_MILLISECONDS),
        websockets=False,
        backlog=BACKLOG,
        backpressure=connections_at_most(),
        log_enabled=False,
    )


def connections_at_most() -> int:
    """Return how many connections may be open, after raising this process's limit on open files as far as it goes."""
    if sys.platform == "win32":
        return MOST_CONNECTIONS
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, MOST_CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return max(MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else soft - OWN_FILES, OWN_FILES)


def bind_address(host: str) -> str:
    """Return the IP address of a host. Raises `ServeError`."""
    if host == "localhost":
        return "127.0.0.1"
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host or "0.0.0.0"))
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ServeError(
            f"host {host!r} is not an address of this machine: {getattr(error, 'strerror', None) or error}.",
            hint="127.0.0.1 is for this machine only, 0.0.0.0 for others too.",
        ) from error
    return str(found[0][4][0])


def free_port(options: ServerOptions) -> int:
    """Return the port to listen on; for 0, a free one. Raises `ServeError` if it cannot be used."""
    address = bind_address(options.host)
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, options.port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = "in use by another program" if taken else error.strerror
            raise ServeError(
                f"{options.host}, port {options.port}: {why}.", hint="Choose another --port, or 0 for any that is free."
            ) from error
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` in the event loop for Ctrl-C and SIGTERM."""
    loop = asyncio.get_running_loop()
    in_main = threading.current_thread() is threading.main_thread()  # other threads cannot set signal handlers
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if sys.platform == "win32":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
        else:  # this wakes the loop even if the signal comes just before it begins to wait
            loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers if sys.platform != "win32" else ():
            loop.remove_signal_handler(number)
        for number, handler in before.items():
            signal.signal(number, handler)
