"""All of `--shards`: a plan, its names, an engine that makes the parts, and `_done.json` when all of them exist.

    result = run_shards(job, source, options)

Existing parts are kept, whoever made them: a second command with the same plan lists them and makes only the missing ones,
whether it runs at the same time or a year later. So an interruption costs only the shards that were being worked on, and
nothing needs to be cleaned up. Memory does not grow with the number of images, except for the names of a table
(`shard_source`).
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeVar

from headstart.errors import MissingInStore, NoImages, RecipeError, ShardError, WriteError
from headstart.io.extras import require
from headstart.io.files import json_bytes, sha256_bytes
from headstart.io.folders import is_litter
from headstart.io.progress import log, open_bar
from headstart.io.result_repr import Result
from headstart.io.stores.store import Store, open_store
from headstart.io.text_table import plain
from headstart.scale.local_engine import run_local
from headstart.scale.shard_names import ShardNames
from headstart.scale.shard_options import ShardOptions
from headstart.scale.shard_part import Receipt, read_receipt
from headstart.scale.shard_plan import ANOTHER, DONE, PARTS, PLAN, ShardJob, begin, check_same
from headstart.scale.shard_source import ShardSource, left_out_words, no_images

Item = TypeVar("Item")
NOTE_SECONDS = 60.0
"""Time between two lines of progress."""
READERS = 8
"""Receipts that are read at the same time."""


@dataclass(frozen=True, repr=False)
class ShardResult(Result):
    """Result of `predict` and `embed` with `--shards`: the parts in `out` hold a row per image.

    `parts` has their names; `made` is how many of them this command made, with `new_images` images, in `seconds`.
    """

    verb: str
    out: str
    images: int
    errors: dict[str, int]
    parts: tuple[str, ...]
    sha256: str
    made: int = 0
    new_images: int = 0
    seconds: float = 0.0

    @property
    def files(self) -> list[str]:
        """The paths or URLs of the parts."""
        return [f"{self.out.rstrip('/')}/{name}" for name in self.parts]

    def check(self) -> None:
        """Raise `NoImages` if none of the images could be used."""
        if self.images and sum(self.errors.values()) >= self.images:
            raise NoImages(f"None of the {self.images:,} images could be used.", hint="The reasons are in the result.")

    def to_json(self) -> dict[str, Any]:
        """Return what `predict --shards --json` prints."""
        return {
            "verb": self.verb,
            "out": self.out,
            "images": self.images,
            "errors": self.errors,
            "parts": len(self.parts),
            "sha256": self.sha256,
            "made": self.made,
            "new_images": self.new_images,
            "seconds": round(self.seconds, 3),
        }

    def table(self) -> str:
        """Format as plain text for a terminal."""
        lost = sum(self.errors.values())
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(self.errors.items(), key=lambda e: (-e[1], e[0])))
        unusable = f"; {lost:,} could not be used: {reasons}" if lost else ""
        parts = f"{len(self.parts):,} part{'s' * (len(self.parts) != 1)}"
        speed = f"{self.new_images / self.seconds:,.0f} images/s" if self.new_images and self.seconds else ""
        now = f"{self.made:,} made now in {self.seconds:,.0f} s, {speed}" if self.made else "all parts already existed"
        return f"{self.images:,} rows in {parts} in {plain(self.out)}{unusable}\n{now}"


def check_options(options: ShardOptions) -> None:
    """Raise `RecipeError` for an invalid option, `MissingExtra` for a package that is not installed."""
    for name, least in (("shard_size", 1), ("workers", 0)):
        value = getattr(options, name)
        if not isinstance(value, int) or value < least:
            raise RecipeError(f"{name} {value!r} cannot be used: expected a whole number, {least} or more.")
    if options.engine not in ("local", "ray"):
        raise RecipeError(f"engine: {options.engine!r} is not known: expected local or ray.")
    require("--shards", "pyarrow")
    if options.engine == "ray":
        require("--engine ray", "ray")


def run_shards(job: ShardJob, source: ShardSource, options: ShardOptions) -> ShardResult:
    """Make all parts of a job that are missing.

    Raises `NoImages`, `OtherPlan`, `ShardFailed`, `StoreError`, `WriteError`; parts made so far are kept.
    """
    out = open_store(job.out, offline=job.offline)
    found = _finished(job, out)
    if found is not None:
        return found
    _check_place(job, out, source)
    begin(job.plan, out)
    out.keeps_conditions()  # if not, this logs a warning; parts are correct all the same
    work = _ShardWork(job, out, source)
    started = time.monotonic()
    with open_bar("Predicting" if job.plan.verb == "predict" else "Embedding") as (advance, expect):
        _engine(options)(
            job, work.missing(expect), workers=options.workers, receive=work.receive, advance=_noted(advance, started)
        )
    return work.finished(time.monotonic() - started)


def _engine(options: ShardOptions) -> Any:
    if options.engine == "local":
        return run_local
    from headstart.scale.ray_engine import run_ray

    return run_ray


def _finished(job: ShardJob, out: Store) -> ShardResult | None:
    """Return the result if all parts exist, otherwise None: `_done.json` is not enough. Raises `OtherPlan`."""
    if not check_same(job.plan, out):
        return None
    try:
        done = json.loads(out.read(DONE))
        names = tuple(map(job.plan.part_name, range(done["parts"])))
        result = ShardResult(job.plan.verb, job.out, done["images"], done["errors"], names, done["sha256"])
        expected = done.get("bytes")  # None in folders of earlier versions
    except MissingInStore:
        return None
    except (ValueError, KeyError, TypeError):
        raise ShardError(f"{out.url}: its {DONE} is damaged.", hint=f"Remove it, or: {ANOTHER}") from None
    there = _parts_in(out)
    missing = len(names) - len(there.keys() & set(names))
    if missing:
        log.warning("%s: %s missing; made again.", out.url, "1 part is" if missing == 1 else f"{missing:,} parts are")
    elif len(there) == len(names) and expected in (None, sum(there.values())):
        log.info("%s: all parts already exist; images added later are not included.", out.url)
        return result
    return None


def _check_place(job: ShardJob, out: Store, source: ShardSource) -> None:
    """Raise `WriteError` for a place with other files, and `NoImages` for a source without images."""
    if check_same(job.plan, out):
        return
    other = next((file for file in out.list() if file.key != PLAN and not is_litter(file.key.split("/")[0])), None)
    if other is not None and not check_same(job.plan, out):
        raise WriteError(
            f"{out.url}: contains files that headstart did not write there, such as {other.key}.", hint=ANOTHER
        )
    if "://" in source.place and out.url.startswith(source.place):
        raise WriteError(
            f"{out.url}: is inside the data ({source.place}), where it would be read as data the next time.",
            hint=ANOTHER,
        )
    if source.is_empty():
        raise no_images(source)


class _ShardWork:
    """The parts of a job: which exist, and the receipts received so far."""

    def __init__(self, job: ShardJob, out: Store, source: ShardSource) -> None:
        self._job, self._out, self._source = job, out, source
        self._there = _parts_in(out)
        self._names = ShardNames(job.plan, out)
        self._shards = 0
        self._receipts: dict[int, Receipt] = {}

    def missing(self, expect: Callable[[int], None]) -> Iterator[int]:
        """Yield the shards without a part, while a thread is still listing the names.

        When all are listed, calls `expect` with the number of images that remain, exact to within one shard.
        """
        for shard in in_thread(self._listed(expect)):
            self._shards = shard + 1
            if self._job.plan.part_name(shard) not in self._there:
                yield shard
        if self._source.left_out:
            log.info("%s: left out: %s.", self._source.identity, left_out_words(self._source))

    def receive(self, receipt: Receipt) -> None:
        """Record the receipt of a part that has been made."""
        self._receipts[receipt.shard] = receipt

    def _listed(self, expect: Callable[[int], None]) -> Iterator[int]:
        yield from self._names.shards(self._source)
        expect(max(0, self._names.images - len(self._there) * self._job.plan.shard_size))

    def finished(self, seconds: float) -> ShardResult:
        """Write `_done.json`, and return the result. Raises `ShardError` if a part is missing or does not belong here."""
        made = list(self._receipts.values())
        there = _parts_in(self._out)
        with ThreadPoolExecutor(READERS) as pool:
            receipts = list(pool.map(lambda shard: self._receipt(shard, there), range(self._shards)))
        names = [receipt.name for receipt in receipts]
        others = there.keys() - set(names)
        if others:
            raise ShardError(f"{self._out.url}: {min(others)} does not belong to its plan.", hint="Remove it.")
        errors: Counter[str] = Counter()
        for receipt in receipts:
            errors.update(receipt.errors)
        result = ShardResult(
            verb=self._job.plan.verb,
            out=self._job.out,
            images=sum(receipt.rows for receipt in receipts),
            errors=dict(sorted(errors.items())),
            parts=tuple(names),
            sha256=sha256_bytes("".join(f"{r.sha256}  {r.name}\n" for r in receipts).encode()),
            made=len(made),
            new_images=sum(receipt.rows for receipt in made),
            seconds=seconds,
        )
        totals = {key: result.to_json()[key] for key in ("parts", "images", "errors", "sha256")}
        size = sum(receipt.bytes for receipt in receipts)
        self._write_done(json_bytes({"plan": self._job.plan.id, **totals, "bytes": size}))
        return result

    def _write_done(self, data: bytes) -> None:
        """Write `_done.json`; one from before a part was made again is replaced, since images may be lost since then."""
        if not self._out.create(DONE, data) and self._out.read(DONE) != data:
            self._out.write(DONE, data)

    def _receipt(self, shard: int, there: Mapping[str, int]) -> Receipt:
        name = self._job.plan.part_name(shard)
        return self._receipts.get(shard) or read_receipt(self._out, shard, name, there.get(name, 0))


def _parts_in(out: Store) -> dict[str, int]:
    """Return {name: size in bytes} of the parts."""
    return {file.key: file.bytes for file in takewhile(lambda file: file.key.startswith(PARTS), out.list(PARTS))}


def _noted(advance: Any, started: float) -> Any:
    """Count images, and log a line every minute."""
    state = {"images": 0, "next": started + NOTE_SECONDS}
    lock = threading.Lock()

    def count(images: int) -> None:
        advance(images)
        with lock:
            state["images"] += images
            now = time.monotonic()
            if now < state["next"]:
                return
            state["next"] = now + NOTE_SECONDS
            done = state["images"]
        log.info("%s images so far, %s/s.", f"{done:,.0f}", f"{done / (now - started):,.0f}")

    return count


def in_thread(items: Iterator[Item]) -> Iterator[Item]:
    """Yield what an iterator yields, but run the iterator ahead in a thread; its errors are raised here."""
    found: queue.SimpleQueue[tuple[Item | None, BaseException | None]] = queue.SimpleQueue()
    stop = threading.Event()

    def run() -> None:
        try:
            for item in items:
                found.put((item, None))
                if stop.is_set():
                    return
            found.put((None, StopIteration()))
        except BaseException as error:  # raised again where the items are used
            found.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            item, error = found.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stop.set()
