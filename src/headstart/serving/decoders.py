"""`Decoders`: child processes that decode images for the server, within limits; each is replaced when it dies.

    with Decoders(plan, count=2, seconds_each=1.6) as decoders:
        decoded = decoders.submit(jpeg, until=time.monotonic() + 2).result()       pixels, or why there are none

An image that crashes its decoder is tried once more in a new process; one that takes too long is not. Either way, no other
request is affected. Pixels are those of `headstart predict`, to the bit, since the same code makes them.
They come through a pipe: 0.2 ms for an image of 224 x 224 pixels, against 1 to 5 ms of decoding. A thread per process waits
for its answers.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import IO, Any

import numpy as np

from headstart.errors import ServeError
from headstart.images.validate import START_SECONDS
from headstart.images.worker_process import READY, interpreter, memory_limit, memory_share
from headstart.serving.decode_worker import ANSWER, REQUEST, PixelPlan, Pixels
from headstart.serving.served_answers import DeadlinePassed, ImageRefusal, Overloaded

Encoded = bytes | bytearray | memoryview
"""The bytes of an image file."""

PIPE_BYTES = 1 << 20
WATCH_SECONDS = 0.05


@dataclass(frozen=True, eq=False)
class DecodedPixels:
    """The pixels of one image, and how long decoding took."""

    pixels: Pixels
    seconds: float


class Decoders:
    """`count` processes that decode images according to `plan`; each image may take `seconds_each`, and `memory_each` bytes
    (default: the process's share of what the control group allows, see `worker_process.memory_share`).

    `command` is for tests: it is started instead of the worker.
    """

    def __init__(
        self,
        plan: PixelPlan,
        *,
        count: int,
        seconds_each: float,
        memory_each: int | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        self.plan, self.count, self.seconds_each = plan, count, seconds_each
        self._command = list(command or decoder_command(plan, memory_each or memory_share(count, memory_limit())))
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decoder")
        self._idle: queue.SimpleQueue[_Decoder] = queue.SimpleQueue()
        self._busy: set[_Decoder] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.replaced = 0
        """Processes that had to be replaced so far."""

    def __enter__(self) -> Decoders:
        for decoder in [self._start() for _ in range(self.count)]:
            self._idle.put(decoder)
        threading.Thread(target=self._watch, name="decoders' watch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed.set()
        with self._lock:
            for decoder in self._busy:
                decoder.process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for _ in range(self.count):
            self._idle.get().end()

    def submit(self, data: Encoded, *, until: float) -> Future[DecodedPixels | ImageRefusal]:
        """Return a future of the image's pixels, or of why it cannot be used. `until` is a time of `time.monotonic`.

        The future raises `DeadlinePassed` if no process was free by then, `Overloaded` if a dead one could not be replaced.
        """
        held = [data]  # emptied when the future is cancelled: the threads' queue keeps what it was given until its turn
        future = self._threads.submit(self._decode, held, until)
        future.add_done_callback(lambda _: held.clear())
        return future

    def _decode(self, held: list[Encoded], until: float) -> DecodedPixels | ImageRefusal:
        """Run in a thread: decode in an idle process, and if that dies, once more in a new one."""
        if time.monotonic() >= until:
            raise DeadlinePassed("no decoder was free in time")
        (data,) = held
        decoder = self._idle.get()
        try:
            for _ in range(2):
                decoder = self._usable(decoder)
                answer = self._answer(decoder, data)
                if answer is not None:
                    return answer
                if decoder.overdue:
                    return ImageRefusal(
                        "too_slow",
                        f"Decoding the image took more than {self.seconds_each:g} s and was stopped: the server is busy, or "
                        "its --deadline is too short for this image.",
                    )
            return ImageRefusal("decoder_crashed", "The image crashed its decoder twice.")
        finally:
            self._idle.put(decoder)

    def _answer(self, decoder: _Decoder, data: Encoded) -> DecodedPixels | ImageRefusal | None:
        """Return pixels, a refusal, or None if the process dies. Raises `Overloaded` if the decoders are closed meanwhile."""
        began = time.monotonic()
        with self._lock:
            if self._closed.is_set():  # `__exit__` may already have looked for busy processes
                raise Overloaded("the server is shutting down")
            decoder.since = began
            self._busy.add(decoder)
        try:
            found = decoder.answer(data, self.seconds_each, self.plan)
        finally:
            with self._lock:
                self._busy.discard(decoder)
        return (
            found
            if found is None or isinstance(found, ImageRefusal)
            else DecodedPixels(found, time.monotonic() - began)
        )

    def _usable(self, decoder: _Decoder) -> _Decoder:
        """Return the process, or a new one in its place if it is dead. Raises `Overloaded`."""
        if not decoder.overdue and not decoder.broken and decoder.process.poll() is None:
            return decoder
        decoder.end()
        try:
            started = self._start()
        except ServeError as error:
            raise Overloaded(error.message) from error
        with self._lock:
            self.replaced += 1
        return started

    def _start(self) -> _Decoder:
        """Start a process. Raises `ServeError`."""
        if self._closed.is_set():
            raise ServeError("the server is shutting down.")
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        except OSError as error:
            raise _no_decoder(error.strerror or str(error)) from error
        return _Decoder(process)

    def _watch(self) -> None:
        """Run in a thread: kill processes whose image takes too long, or that never become ready."""
        while not self._closed.wait(min(WATCH_SECONDS, self.seconds_each / 4)):
            with self._lock:
                now = time.monotonic()
                for decoder in self._busy:
                    limit = self.seconds_each if decoder.ready else START_SECONDS
                    if now - decoder.since > limit and not decoder.overdue:
                        decoder.overdue = decoder.ready
                        decoder.process.kill()


class _Decoder:
    """One process. `overdue`: it was killed for taking too long; `broken`: it died, or its answer made no sense."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.since = time.monotonic()
        self.ready = self.overdue = self.broken = False
        for stream in (process.stdin, process.stdout):
            _widen(stream)

    def answer(self, data: Encoded, seconds: float, plan: PixelPlan) -> Pixels | ImageRefusal | None:
        """Return pixels, a refusal, or None if the process dies."""
        try:
            if not self.ready:
                self._wait_until_ready()
            self._send(data, seconds)
            return self._receive(plan)
        except (OSError, EOFError, ValueError, TypeError):
            self.broken = True
            return None

    def _wait_until_ready(self) -> None:
        if bytes(self._read(len(READY))) != READY:
            raise EOFError
        self.ready, self.since = True, time.monotonic()

    def _send(self, data: Encoded, seconds: float) -> None:
        stdin: Any = self.process.stdin
        stdin.write(REQUEST.pack(len(data), seconds))
        rest = memoryview(data)
        while rest:
            rest = rest[stdin.write(rest) :]

    def _receive(self, plan: PixelPlan) -> Pixels | ImageRefusal:
        has_pixels, size = ANSWER.unpack(self._read(ANSWER.size))
        shapes = plan.shapes
        if not has_pixels:
            reason, message = json.loads(bytes(self._read(min(size, 1 << 16))))
            return ImageRefusal(str(reason), str(message))
        if size != sum(map(np.prod, shapes.values())):
            raise ValueError("pixels of another size")
        found = {name: np.empty(shape, np.uint8) for name, shape in shapes.items()}
        for array in found.values():
            self._fill(memoryview(array.data).cast("B"))
        return found

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        self._fill(memoryview(data))
        return data

    def _fill(self, rest: memoryview) -> None:
        stdout: Any = self.process.stdout
        while rest:
            count = stdout.readinto(rest)
            if not count:
                raise EOFError
            rest = rest[count:]

    def end(self) -> None:
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()
        self.process.wait()


def decoder_command(plan: PixelPlan, memory: int) -> list[str]:
    """Return the command line of a worker process that may use `memory` bytes to decode."""
    code = f"from headstart.serving.decode_worker import serve; serve(sys.argv[1], {memory})"
    return interpreter(code, json.dumps(asdict(plan)), "numpy")


def _widen(stream: IO[bytes] | None) -> None:
    """Enlarge a pipe on Linux so that it holds a whole image, and neither side waits for the other halfway through one."""
    if stream is not None and sys.platform == "linux":
        import fcntl

        with suppress(OSError):  # the user has many wide pipes already
            fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _no_decoder(why: str) -> ServeError:
    return ServeError(
        f"a process that decodes images could not be started: {why}.",
        hint="Its own message, if any, is above. Check that this Python's Pillow works: python -m PIL",
    )
