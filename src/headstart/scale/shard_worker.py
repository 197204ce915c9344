"""`ShardWorker`: makes parts in a child process, and finds the image that ends that process.

    with ShardWorker(job) as worker:
        receipt = worker(12)

A process that dies or hangs is replaced, and its shard started again; a part appears only when it is complete. The first
death is ignored, since the process may have been killed from outside. After the second, and whenever an image takes too long,
the images that were being decoded (64 on two cores) are decoded again one after another. One that ends the process twice, or
takes too long alone, is left out with a reason, and the rest of the shard is the same as without it. An exception of Python
(other than for lack of memory) would be raised again every time, so it stops the work at once.

Both engines use it, and so may other schedulers: a worker needs only a `ShardJob`. Costs a second to start (the
compiled network is loaded from the cache) and 20 s for an image that hangs.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import headstart.errors
from headstart.errors import HeadstartError, ShardFailed
from headstart.io.progress import log
from headstart.io.stores.stored_file import StoredFile
from headstart.scale.shard_part import Receipt
from headstart.scale.shard_plan import ShardJob

SECONDS_EACH = 20.0
"""Seconds that an image may take to decode. A batch may take as long; after that, its images are tried one by one."""
MOST_DEATHS = 6
"""How many processes one shard may end without an image to blame."""
MOST_SCREENINGS = 3
"""How often only the images being decoded are tried one by one; after that, all images of the shard are."""


def _nothing(images: int) -> None:
    """Ignore progress."""


class ShardWorker:
    """Makes one part at a time. `cpus` are the cores for its process (empty: all); `advance` is called with the number of
    images decoded, a negative one for those that a dead process had decoded.

    Not thread-safe, except that `close` may be called from another thread.
    """

    def __init__(
        self,
        job: ShardJob,
        *,
        cpus: Sequence[int] = (),
        advance: Callable[[int], None] = _nothing,
        seconds_each: float = SECONDS_EACH,
    ) -> None:
        self.job, self.seconds_each = job, seconds_each
        self._cpus, self._advance = tuple(cpus), advance
        self._child: _WorkerProcess | None = None
        self._closed = False

    def __enter__(self) -> ShardWorker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def open(self) -> None:
        """Start the process and wait until it is ready. Without this, the first shard does so. Raises `HeadstartError`."""
        for attempt in range(MOST_DEATHS + 1):
            try:
                self._process()
                return
            except _Died as died:
                if not died.by_signal or attempt == MOST_DEATHS or self._closed:
                    raise ShardFailed(
                        f"a worker process ended before it was ready ({died}).",
                        hint="Its own message, if any, is above.",
                    ) from None

    def close(self) -> None:
        """End the process; finished parts are kept."""
        self._closed = True
        if self._child is not None:
            self._child.end()

    def __call__(self, shard: int) -> Receipt:
        """Make a shard's part unless it exists; return its receipt. Raises `ShardFailed`, and what the process raised."""
        lost: dict[int, str] = {}
        deaths, screenings, seconds = 0, 0, self.seconds_each
        while True:
            try:
                return self._made(shard, lost, seconds)
            except _Died as died:
                deaths += 1
                if self._closed or deaths > MOST_DEATHS:
                    raise self._failed(shard, died) from None
                if deaths == 1 and not died.overdue:
                    log.warning("A worker process died (%s); shard %d is restarted.", died, shard)
                    continue
                screenings += 1
                suspects = died.images if screenings <= MOST_SCREENINGS else range(len(self._files(shard)))
                found = self._screened(shard, sorted(set(suspects) - set(lost)))
                lost |= found
                deaths = 1 if found else deaths
                seconds *= 1 if found else 4  # only slow together: a busy machine, or huge images

    def _failed(self, shard: int, died: _Died) -> ShardFailed:
        return ShardFailed(
            f"shard {shard}: its worker died {MOST_DEATHS + 1} times (last: {died}), and no single image caused it.",
            hint="Its own message, if any, is above. If memory is short, use fewer --workers. Parts made so far are kept.",
        )

    def _process(self) -> _WorkerProcess:
        if self._child is None or not self._child.is_alive():
            if self._closed:
                raise _Died(1, (), overdue=False)
            self._child = _WorkerProcess(self.job, self._cpus)
            if self._closed:  # from now on, `close` ends it, also while it is opening the network
                self._child.end()
            self._child.wait()
        return self._child

    def _made(self, shard: int, lost: dict[int, str], seconds: float) -> Receipt:
        counted = 0
        try:
            for message in self._process().ask({"shard": shard, "lost": lost}, seconds):
                if "receipt" in message:
                    receipt = Receipt(**message["receipt"])
                    self._advance(receipt.rows - counted)
                    return receipt
                counted += message["ended"]
                self._advance(message["ended"])
        except _Died:
            self._advance(-counted)  # they are decoded again
            raise
        raise ShardFailed(f"shard {shard}: its worker process gave no answer.")

    def _screened(self, shard: int, images: Sequence[int]) -> dict[int, str]:
        """Return {number: reason} for those of `images`, in order, that end the process when decoded alone."""
        lost: dict[int, str] = {}
        left = list(images)
        suspect = -1
        while left:
            try:
                for _ in self._process().ask({"shard": shard, "screen": left}, self.seconds_each):
                    pass
                return lost
            except _Died as died:
                if self._closed or not died.images:
                    return lost
                (number,) = died.images
                left = [i for i in left if i >= number]
                if died.overdue or number == suspect:
                    lost[number] = "too_slow" if died.overdue else "decoder_crashed"
                    log.warning("Shard %d: %s is left out: %s.", shard, self._files(shard)[number].key, lost[number])
                    left = left[1:]
                suspect = number
        return lost

    def _files(self, shard: int) -> list[StoredFile]:
        from headstart.io.stores.store import open_store
        from headstart.scale.shard_names import ShardNames

        return ShardNames(self.job.plan, open_store(self.job.out, offline=self.job.offline)).files(shard)


class _Died(Exception):
    """A worker process ended while decoding these images; `overdue`: it was stopped because they took too long."""

    def __init__(self, code: int, images: Sequence[int], overdue: bool) -> None:
        super().__init__(f"signal {-code}" if code < 0 else f"exit code {code}")
        self.by_signal, self.images, self.overdue = code < 0, images, overdue


class _WorkerProcess:
    """One process, and what its threads are decoding. A watchdog stops it when images take too long."""

    def __init__(self, job: ShardJob, cpus: Sequence[int]) -> None:
        self._in_hand: dict[int, tuple[float, list[int]]] = {}
        self._lock = threading.Lock()
        self._seconds = float("inf")
        self._overdue: list[int] = []
        self._process = subprocess.Popen(_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        threading.Thread(target=self._watch, daemon=True).start()
        self._send({"job": job.to_json(), "cpus": list(cpus)})

    def wait(self) -> None:
        """Wait until it is ready. Raises `_Died`, and what the process raised."""
        for _ in self._answers():
            break

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], seconds: float) -> Iterator[dict[str, Any]]:
        """Send a request, and yield the messages that come back. Raises `_Died`, and what the process raised."""
        with self._lock:
            self._in_hand.clear()
            self._overdue, self._seconds = [], seconds
        self._send(request)
        yield from self._answers()

    def end(self) -> None:
        self._process.kill()
        with contextlib.suppress(OSError, ValueError):  # unsent data for a dead process; streams already closed
            self._process.communicate()

    def _send(self, request: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it died, which is noticed when its answers end
            if self._process.stdin:
                self._process.stdin.write(json.dumps(request).encode("ascii") + b"\n")
                self._process.stdin.flush()

    def _answers(self) -> Iterator[dict[str, Any]]:
        while True:
            message = self._message()
            if "begin" in message:
                with self._lock:
                    self._in_hand[message["begin"]] = time.monotonic(), message["images"]
            elif "end" in message:
                with self._lock:
                    _, images = self._in_hand.pop(message["end"], (0.0, []))
                yield {"ended": len(images)}
            elif "error" in message:
                raise _error(message)
            elif "receipt" in message:
                yield message
                return
            elif "ready" in message or "screened" in message:
                return

    def _message(self) -> dict[str, Any]:
        try:
            line = self._process.stdout.readline() if self._process.stdout else b""
            message: dict[str, Any] = json.loads(line)
            return message
        except ValueError:  # half a line, none, or a closed stream: it is gone, or has to go
            self._process.kill()
            code = self._process.wait()
        with self._lock:
            images = self._overdue or [i for _, images in self._in_hand.values() for i in images]
            raise _Died(code, images, bool(self._overdue))

    def _watch(self) -> None:
        while self._process.poll() is None:
            time.sleep(min(0.2, self._seconds / 4))
            with self._lock:
                now = time.monotonic()
                late = [images for since, images in self._in_hand.values() if now - since > self._seconds]
                if late and not self._overdue:
                    self._overdue = [i for images in late for i in images]
                    self._process.kill()


def _error(message: dict[str, Any]) -> HeadstartError:
    kind = getattr(headstart.errors, message["error"], HeadstartError)
    if kind is headstart.errors.UnreadableImage:
        kind = HeadstartError
    error: HeadstartError = kind(message["message"], hint=message["hint"])
    return error


def _command() -> list[str]:
    """Return the command line of a worker: this interpreter, with this package and nothing from the current folder."""
    root = str(Path(headstart.errors.__file__).resolve().parent.parent)
    code = "import sys; sys.path.insert(0, sys.argv[1]); from headstart.scale.shard_process import serve; serve()"
    return [sys.executable, "-P", "-c", code, root]
