"""Decode every new file once in a child process before this process decodes it.

Images come from untrusted sources and decoders are written in C: a file that crashes its decoder, or blocks it forever,
costs one child process and gets a reason; the others continue. The result is cached by the SHA-256 of the file's bytes,
so the second run over a folder only hashes it (about 10,000 small files per second).

A first run costs about 1.1 ms of CPU time for a 500 x 375 JPEG, 0.7 ms for 100 x 100, spread over the cores, and 0.15 s
to start. Not for images that you have just made yourself: `decode.decode` refuses the same ones, except those that
crash.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import queue
import stat
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from types import TracebackType

import PIL

from headstart.errors import HeadstartError, UnreadableImage
from headstart.images.file_part import FilePart
from headstart.images.formats import heif_versions
from headstart.images.info_cache import add_infos, find_infos
from headstart.images.limits import MAX_FILE_BYTES, reason_of
from headstart.images.validate_worker import left_out
from headstart.images.worker_process import READY, cpu_limit, interpreter
from headstart.io.files import cache_dir, sha256_bytes, sha256_file
from headstart.io.progress import bar

SCREEN_VERSION = 6  # increase it to discard all cached infos: when probing, decoding or hashing changes
START_SECONDS = 60.0  # a worker that is not ready after this long is broken
AHEAD = 16  # images queued at a worker, so that it never waits for the next
AHEAD_OF_BYTES = 2
"""The same, where requests hold the images themselves. More would not fit into the pipe, and while a thread waits to write
them, it reads no answers: the worker would seem to be busy with its first image all the time."""
SHARD_FILES = 2_000  # infos per shard of the cache
_TEMPORARY = frozenset(
    {"decoder_crashed", "too_slow", "too_much_memory", "changed", "unreadable", "no_permission", "not_a_file"}
)
"""Reasons that may be temporary: they are not cached."""


@dataclass(frozen=True)
class ImageInfo:
    """Properties of one file; `reason` is '' if it can be used, otherwise a key of `limits.REASONS`.

    `width` and `height` are the upright image's, in pixels; `mode` is Pillow's before conversion to RGB;
    `orientation` is EXIF's, 1 to 8; `dhash` is a 64-bit difference hash of the upright image, -1 if unreadable;
    `greys` is the upright image as 16 x 16 greys (see `validate_worker.greys`), '' if unreadable. An unusable file has
    the name of its format, if that is known, and no other properties.

    `low` and `high` are the values that an image of more than 8 bits per channel uses (`value_ranges.used_span`), else
    0; the greys of such an image are scaled by its own range.
    """

    sha256: str
    bytes: int
    format: str
    width: int
    height: int
    mode: str
    orientation: int
    frames: int
    dhash: int
    greys: str
    reason: str
    message: str
    low: float = 0.0
    high: float = 0.0


def validate_images(
    files: Sequence[Path | FilePart | bytes], *, workers: int | None = None, seconds_each: float = 20.0
) -> list[ImageInfo]:
    """Validate files, or the bytes of files, in order: one `ImageInfo` each; no content makes it raise.

    `workers` is the maximum number of processes (default: the available cores), `seconds_each` the time an image may
    take before its process is stopped. Raises `HeadstartError` if no worker process can be started.
    """
    return validate_with(worker_command(seconds_each), files, workers=workers, seconds_each=seconds_each)


def worker_command(seconds_each: float) -> list[str]:
    """Return the command line of a worker: an interpreter that sees only the standard library, headstart and decoders."""
    return interpreter(
        "from headstart.images.validate_worker import serve; serve(float(sys.argv[1]))", str(seconds_each)
    )


def validate_with(
    command: Sequence[str],
    files: Sequence[Path | FilePart | bytes],
    *,
    workers: int | None = None,
    seconds_each: float = 20.0,
) -> list[ImageInfo]:
    """Like `validate_images`, with workers started by `command`."""
    workers = workers or cores()
    with bar("Validating images", len(files)) as advance:
        infos = _hashed_all(files, workers)
        indices: dict[str, list[int]] = {}
        for i, info in enumerate(infos):
            if info.reason:
                advance(1)
            else:
                indices.setdefault(info.sha256, []).append(i)

        def settle(info: ImageInfo) -> None:
            for i in indices[info.sha256]:
                infos[i] = info
            advance(len(indices[info.sha256]))

        cached = find_infos(_facts_folder(), indices)
        for sha256, values in cached.items():
            settle(ImageInfo(sha256, *values))
        new = set(indices).difference(cached)
        first = [indices[sha256][0] for sha256 in indices if sha256 in new]
        _run_tasks(command, [_ValidationTask(i, files[i], infos[i]) for i in first], workers, seconds_each, settle)
    return infos


def _run_tasks(
    command: Sequence[str],
    tasks: list[_ValidationTask],
    workers: int,
    seconds_each: float,
    settle: Callable[[ImageInfo], None],
) -> None:
    """Run all tasks; cache the permanent results on the way, and when interrupted."""
    if not tasks:
        return
    fresh: list[ImageInfo] = []
    try:
        with _Pool(command, tasks, min(workers, -(-len(tasks) // 8)), seconds_each) as pool:
            for info in pool:
                settle(info)
                if info.reason not in _TEMPORARY:
                    fresh.append(info)
                if len(fresh) >= SHARD_FILES:
                    _cache_infos(fresh)
                    fresh = []
    finally:
        _cache_infos(fresh)


def _hashed_all(files: Sequence[Path | FilePart | bytes], workers: int) -> list[ImageInfo]:
    infos: list[ImageInfo] = []
    with ThreadPoolExecutor(min(workers, 4)) as threads:
        for begin in range(0, len(files), SHARD_FILES):
            infos += threads.map(_hashed, files[begin : begin + SHARD_FILES])
    return infos


def _hashed(path: Path | FilePart | bytes) -> ImageInfo:
    """Return SHA-256 and size of a file; `reason` says why if there is none."""
    if isinstance(path, bytes):
        return _hashed_bytes(path)
    if isinstance(path, FilePart):
        return _hashed_part(path)
    size = 0
    try:
        status = os.stat(path)
        size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            return ImageInfo("", 0, *left_out("not_a_file", "is a folder or a device, not a file."))
        if size > MAX_FILE_BYTES:
            return _too_big(size)
        return ImageInfo(sha256_file(path) if size > 1 << 20 else sha256_bytes(path.read_bytes()), size, *_NOTHING_YET)
    except OSError as error:
        return ImageInfo("", size, *left_out(reason_of(error), f"could not be read: {error.strerror}."))
    except ValueError:  # a zero byte in the path
        return ImageInfo("", 0, *left_out("not_a_file", "is not a valid file name."))


def _hashed_part(part: FilePart) -> ImageInfo:
    if part.length > MAX_FILE_BYTES:
        return _too_big(part.length)
    try:
        return _hashed_bytes(part.read())
    except UnreadableImage as error:
        return ImageInfo("", part.length, *left_out(error.reason, error.message))


def _hashed_bytes(data: bytes) -> ImageInfo:
    return (
        _too_big(len(data)) if len(data) > MAX_FILE_BYTES else ImageInfo(sha256_bytes(data), len(data), *_NOTHING_YET)
    )


def _too_big(size: int) -> ImageInfo:
    return ImageInfo("", size, *left_out("file_too_big", f"has {size:,} bytes; the limit is {MAX_FILE_BYTES:,}."))


_NOTHING_YET = left_out("", "")


@dataclass(frozen=True)
class _ValidationTask:
    """One image to validate: its file, and the result of hashing it. `tried`: a worker has died on it once."""

    number: int
    file: Path | FilePart | bytes
    info: ImageInfo
    tried: bool = False

    def request(self) -> bytes:
        if not isinstance(self.file, Path):
            data = base64.b64encode(_now(self.file)).decode("ascii")
            return json.dumps([self.number, "", self.info.sha256, data]).encode("ascii") + b"\n"
        path = os.fsencode(self.file).decode("latin-1")  # any path's bytes survive JSON this way
        return json.dumps([self.number, path, self.info.sha256]).encode("ascii") + b"\n"


def _now(file: FilePart | bytes) -> bytes:
    """Return an image's bytes; none if it has changed since it was hashed, which the worker then says."""
    if isinstance(file, bytes):
        return file
    with contextlib.suppress(UnreadableImage):
        return file.read()
    return b""


@dataclass(eq=False)
class _Child:
    """One worker process, its queued tasks, and the time (seconds) since which it has worked on the first of them."""

    process: subprocess.Popen[bytes]
    given: deque[_ValidationTask]
    since: float
    ready: bool = False
    overdue: _ValidationTask | None = None

    def give(self, tasks: Iterable[_ValidationTask]) -> None:
        with contextlib.suppress(OSError):  # it died; handled where its answers end
            if self.process.stdin:
                self.process.stdin.write(b"".join(task.request() for task in tasks))
                self.process.stdin.flush()

    def line(self) -> bytes:
        return self.process.stdout.readline() if self.process.stdout else b""

    def answer(self) -> ImageInfo | None:
        """Return its answer for the first queued image; None if it died or the answer is invalid."""
        task = self.given[0]
        try:
            number, *answer = json.loads(self.line())
            return ImageInfo(task.info.sha256, task.info.bytes, *answer) if number == task.number else None
        except (ValueError, TypeError):
            return None

    def end(self) -> None:
        self.process.kill()
        with contextlib.suppress(OSError):  # data that could not be flushed to a dead process
            self.process.communicate()


class _Pool:
    """Worker processes, a feeding thread for each, and a watchdog that stops workers that take too long.

    Iterating gives one `ImageInfo` per task, in no particular order. Leaving the block in any way ends all processes.
    """

    def __init__(
        self, command: Sequence[str], tasks: Iterable[_ValidationTask], workers: int, seconds_each: float
    ) -> None:
        self._command = list(command)
        self._tasks = deque(tasks)
        self._ahead = AHEAD if all(isinstance(task.file, Path) for task in self._tasks) else AHEAD_OF_BYTES
        self._workers = workers
        self._seconds_each = seconds_each
        self._children: set[_Child] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._done: queue.SimpleQueue[ImageInfo | Exception | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._feed, daemon=True) for _ in range(workers)]
        self._threads.append(threading.Thread(target=self._watch, daemon=True))

    def __enter__(self) -> _Pool:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._stopped.set()
            for child in self._children:
                child.process.kill()
        for thread in self._threads:
            thread.join()

    def __iter__(self) -> Iterator[ImageInfo]:
        running = self._workers
        while running:
            item = self._done.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item

    def _feed(self) -> None:
        """Run in a feeding thread: run one child after another until no tasks are left."""
        given: deque[_ValidationTask] = deque()
        try:
            while (given or self._tasks) and not self._stopped.is_set():
                self._with_child(given)
            self._done.put(None)
        except Exception as error:  # raised again in the thread that waits for the results
            self._done.put(error)

    def _with_child(self, given: deque[_ValidationTask]) -> None:
        """Start a child and feed it until no tasks are left, or it dies; then `given` holds its unfinished tasks."""
        child = self._start(given)
        if child is None:
            return
        try:
            child.give(given)
            while self._refill(child):
                info = child.answer()
                if info is None:
                    self._blame(child)
                    return
                with self._lock:
                    given.popleft()
                    child.since = time.monotonic()
                self._done.put(info)
        finally:
            with self._lock:
                self._children.discard(child)
            child.end()

    def _start(self, given: deque[_ValidationTask]) -> _Child | None:
        with self._lock:
            if self._stopped.is_set():
                return None
            try:
                process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            except OSError as error:
                raise _cannot_start(error.strerror or str(error)) from error
            child = _Child(process, given, time.monotonic())
            self._children.add(child)
        if child.line() != READY:
            with self._lock:
                self._children.discard(child)
            child.end()
            if self._stopped.is_set():
                return None
            raise _cannot_start(f"it ended with code {process.returncode} before it was ready")
        with self._lock:
            child.ready, child.since = True, time.monotonic()
        return child

    def _refill(self, child: _Child) -> bool:
        """Give the child more tasks when few are queued; return False when there is nothing left to wait for."""
        if len(child.given) <= self._ahead // 2:
            with self._lock:
                fair = max(1, len(self._tasks) // (2 * self._workers))  # near the end, leave some for the others
                more = [
                    self._tasks.popleft() for _ in range(min(self._ahead - len(child.given), fair, len(self._tasks)))
                ]
                if not child.given:
                    child.since = time.monotonic()
                child.given.extend(more)
            if more:
                child.give(more)
        return bool(child.given)

    def _blame(self, child: _Child) -> None:
        """Handle a child's death: its current image took too long, crashed for the second time, or is retried."""
        if self._stopped.is_set():
            return
        with self._lock:
            task = child.given.popleft()
            if child.overdue is not task and not task.tried:
                # Retry in a new process: memory may have run out, or an earlier image may have broken something.
                child.given.appendleft(replace(task, tried=True))
                return
        if child.overdue is task:
            answer = left_out("too_slow", f"took more than {self._seconds_each:g} s to decode and was stopped.")
        else:
            child.process.kill()
            answer = left_out("decoder_crashed", f"crashed its decoder twice (code {child.process.wait()}).")
        self._done.put(ImageInfo(task.info.sha256, task.info.bytes, *answer))

    def _watch(self) -> None:
        """Run in the watchdog thread: kill children whose image takes too long, or that never become ready."""
        while not self._stopped.wait(min(0.1, self._seconds_each / 4)):
            with self._lock:
                now = time.monotonic()
                for child in self._children:
                    limit = self._seconds_each if child.ready else START_SECONDS
                    if now - child.since > limit and child.overdue is None and (child.given or not child.ready):
                        child.overdue = child.given[0] if child.ready else None
                        child.process.kill()


def _cannot_start(why: str) -> HeadstartError:
    return HeadstartError(
        f"the process that validates new images could not be started: {why}.",
        hint="Its own message, if any, is above. Check that this Python's Pillow works: python -m PIL",
    )


def _facts_folder() -> Path:
    return cache_dir() / "facts" / "-".join([str(SCREEN_VERSION), "pillow", PIL.__version__, *heif_versions()])


def _cache_infos(infos: list[ImageInfo]) -> None:
    if infos:
        add_infos(_facts_folder(), {info.sha256: astuple(info)[1:] for info in infos})


def cores() -> int:
    """Return the number of CPU cores that this process may use: a container may have the time of fewer than it sees."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(seen, math.ceil(cpu_limit() or seen)))
