"""One pass over the images of a shard: each is read once, hashed, decoded and embedded, in threads, as in `Embedder`.

    rows = ShardPass(columns, read).run(files, lost={})

From a bucket, each thread's next batch is read while its current one is decoded, since a request takes as long as ten
images; from a local disk, a batch is read just before it is decoded. Reading is not watched: however slow the storage is, no
image is to blame. The cache of features is neither read nor written, and images are not checked beforehand, since this runs
in a process that may die (`shard_worker`). Numbers are those of `Predictor`, to the bit: batches have the same fixed size.

If memory runs out at an image, it is tried again alone at the end, so that its outcome does not depend on its neighbours.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from headstart.errors import UnreadableImage
from headstart.images.limits import MAX_FILE_BYTES
from headstart.images.preprocess import read_pixels
from headstart.images.validate import cores
from headstart.io.files import sha256_bytes
from headstart.io.stores.store import StoredFile
from headstart.model.inference.features import WORKERS_PER_CORE, Embedder, run_in_long_slices
from headstart.model.inference.runtime import Session

READERS = 64
"""Requests to a bucket that may be in flight: at 50 ms each, enough for 1,000 images/s."""
LARGE_BYTES = 4 << 20
"""Larger images are read only when they are decoded, since up to 16 batches per core are held in memory."""
HELD_BYTES = 8 << 20
"""How much a thread reads before it decodes that; the rest of its batch comes after."""
MEMORY = "too_much_memory"


class Reduces(Protocol):
    """Turns the features of an image into `width` numbers."""

    embedder: Embedder

    @property
    def width(self) -> int:
        """How many numbers there are per image."""

    def reduced(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Return (n, width) from the (n, D) features of each extractor; each row depends only on its own image."""


class Watches(Protocol):
    """Is told which images are being decoded, so that another process can tell which one ended this process."""

    def begin(self, thread: int, images: Sequence[int]) -> None:
        """Note that a thread begins to decode these images, given by their numbers in the shard."""

    def end(self, thread: int) -> None:
        """Note that the thread is done with them."""


@dataclass(eq=False)
class ShardRows:
    """The result: `values` float32 (N, W), zero where there is an error; `sha256s` has '' where nothing could be read."""

    values: np.ndarray
    sha256s: list[str]
    errors: dict[int, str] = field(default_factory=dict)


class ShardPass:
    """Keeps the sessions of all threads for reuse. `read` returns the bytes of an image, or raises `UnreadableImage`.

    `ahead` is how many images are read at a time while others are decoded; 0 for a local disk.
    """

    def __init__(self, columns: Reduces, read: Callable[[StoredFile], bytes], *, ahead: int = 0) -> None:
        self._columns, self._embedder, self._read_bytes = columns, columns.embedder, read
        self._readers = ThreadPoolExecutor(ahead) if ahead else None
        self._sessions: queue.SimpleQueue[list[Session]] = queue.SimpleQueue()
        geometries: dict[tuple[object, ...], list[int]] = {}
        for member, extractor in enumerate(self._embedder.extractors):
            geometries.setdefault(extractor.spec.geometry(), []).append(member)
        self._geometries = list(geometries.values())

    def open(self) -> None:
        """Open the networks, compiling them if necessary. Raises `BackboneError`."""
        for member in range(len(self._embedder.extractors)):
            self._embedder.network(member)

    def run(self, files: Sequence[StoredFile], lost: Mapping[int, str], watch: Watches | None = None) -> ShardRows:
        """Return a row per image. Those in `lost` ({number: reason}) are read, but not decoded.

        Raises what would fail for every image: `StoreError`, `BackboneError`.
        """
        self.open()
        values_NW = np.zeros((len(files), self._columns.width), np.float32)
        rows = ShardRows(values_NW, [""] * len(files))
        size = self._embedder.runtime.batch
        batches = [range(i, min(i + size, len(files))) for i in range(0, len(files), size)]
        work = _Work(self, files, lost, rows, watch)
        work.run(batches, min(WORKERS_PER_CORE * cores(), len(batches)))
        again = [i for i, reason in rows.errors.items() if reason == MEMORY and i not in lost]
        work.run([range(i, i + 1) for i in sorted(again)], 1)
        return rows

    def decode(self, data: bytes) -> None:
        """Decode an image as `run` does, and discard it. Raises `UnreadableImage`."""
        self._pixels(data)

    def read(self, file: StoredFile) -> bytes:
        """Return the bytes of an image, as `run` reads them. Raises `UnreadableImage`, `StoreError`."""
        if file.bytes > MAX_FILE_BYTES:
            raise UnreadableImage(f"{file.key}: has {file.bytes:,} bytes.", reason="file_too_big")
        data = self._read_bytes(file)
        if len(data) > MAX_FILE_BYTES:
            raise UnreadableImage(f"{file.key}: has {len(data):,} bytes.", reason="file_too_big")
        return data

    def _pixels(self, data: bytes) -> list[np.ndarray]:
        """Return the pixels for each geometry. Raises `UnreadableImage`."""
        return [read_pixels(data, self._embedder.extractors[members[0]].spec) for members in self._geometries]

    def _fill(self, place: int, data: bytes, sessions: Sequence[Session]) -> None:
        for pixels, members in zip(self._pixels(data), self._geometries, strict=True):
            for member in members:
                sessions[member].pixels[place] = pixels

    def _values(self, sessions: Sequence[Session], places: Sequence[int]) -> np.ndarray:
        found = [self._embedder.selected(m, s.run()[places]) for m, s in enumerate(sessions)]
        return self._columns.reduced(found)

    def _take_sessions(self) -> list[Session]:
        try:
            return self._sessions.get_nowait()
        except queue.Empty:
            return [self._embedder.network(m).session() for m in range(len(self._embedder.extractors))]


@dataclass(frozen=True)
class _Bytes:
    sha256: str
    data: bytes


Reads = dict[int, "Future[_Bytes] | None"]
"""The images of a batch, by number: their reads in progress; None for those that are read only when decoded."""


class _Work:
    """The threads of one pass, and what they share."""

    def __init__(
        self,
        owner: ShardPass,
        files: Sequence[StoredFile],
        lost: Mapping[int, str],
        rows: ShardRows,
        watch: Watches | None,
    ) -> None:
        self._owner, self._files, self._lost, self._rows, self._watch = owner, files, lost, rows, watch
        self._lock = threading.Lock()
        self._stop: BaseException | None = None

    def run(self, batches: Iterable[range], threads: int) -> None:
        left = iter(batches)
        running = [threading.Thread(target=self._guarded, args=(n, left), daemon=True) for n in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        if self._stop is not None:
            raise self._stop

    def _guarded(self, thread: int, batches: Iterator[range]) -> None:
        run_in_long_slices()
        try:
            sessions = self._owner._take_sessions()
            self._work(thread, batches, sessions)
            self._owner._sessions.put(sessions)
        except BaseException as error:  # raised again by `run`
            self._stop = self._stop or error

    def _work(self, thread: int, batches: Iterator[range], sessions: list[Session]) -> None:
        reads = self._next_reads(batches)
        while reads is not None and self._stop is None:
            following = self._next_reads(batches)
            self._embed(thread, reads, sessions)
            reads = following

    def _next_reads(self, batches: Iterator[range]) -> Reads | None:
        """Start reading the next batch, if there is one."""
        with self._lock:
            batch = next(batches, None)
        readers = self._owner._readers
        if batch is None:
            return None
        ahead = [i for i in batch if readers is not None and self._files[i].bytes <= LARGE_BYTES]
        return {i: readers.submit(self._read, i) if readers is not None and i in ahead else None for i in batch}

    def _read(self, i: int) -> _Bytes:
        data = self._owner.read(self._files[i])
        return _Bytes(sha256_bytes(data), data)

    def _arrived(self, i: int, future: Future[_Bytes] | None) -> _Bytes | str:
        """Return what is read of an image, or the reason why it cannot be."""
        try:
            return self._read(i) if future is None else future.result()
        except UnreadableImage as error:
            return error.reason
        except MemoryError:
            return MEMORY

    def _embed(self, thread: int, reads: Reads, sessions: list[Session]) -> None:
        """Read, decode and compute a batch. Only decoding is watched, not waiting for bytes or for the network."""
        for session in sessions:
            session.pixels[...] = 0
        places = {i: place for place, i in enumerate(reads)}
        left, readable = deque(reads), dict[int, int]()
        while left:
            held = self._held(left, reads)
            if self._watch is not None:
                self._watch.begin(thread, list(held))
            readable |= self._decoded(held, places, sessions)
            if self._watch is not None:
                self._watch.end(thread)
        if readable:
            self._rows.values[list(readable)] = self._owner._values(sessions, list(readable.values()))

    def _held(self, left: deque[int], reads: Reads) -> dict[int, _Bytes | str]:
        """Read the next images, until none is left or `HELD_BYTES` are held."""
        held: dict[int, _Bytes | str] = {}
        size = 0
        while left and size < HELD_BYTES:
            i = left.popleft()
            held[i] = found = self._arrived(i, reads.pop(i))
            size += 0 if isinstance(found, str) else len(found.data)
        return held

    def _decoded(
        self, held: dict[int, _Bytes | str], places: Mapping[int, int], sessions: list[Session]
    ) -> dict[int, int]:
        """Decode images into the sessions, and let go of their bytes; return {number: place} of those that succeeded."""
        readable = {}
        for i in list(held):
            reason = self._placed(i, held.pop(i), places[i], sessions)
            if reason:
                self._rows.errors[i] = reason
            else:
                self._rows.errors.pop(i, None)
                readable[i] = places[i]
        return readable

    def _placed(self, i: int, found: _Bytes | str, place: int, sessions: list[Session]) -> str:
        """Decode an image into the sessions; return the reason if that is impossible, otherwise ''."""
        if isinstance(found, str):
            return found
        self._rows.sha256s[i] = found.sha256
        if i in self._lost:
            return self._lost[i]
        try:
            self._owner._fill(place, found.data, sessions)
        except UnreadableImage as error:
            return error.reason
        return ""
