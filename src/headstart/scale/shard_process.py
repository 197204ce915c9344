"""The process in which the images of shards are decoded and embedded; started, fed and replaced by `shard_worker`.

It reads a job from standard input, then one request per line, and answers with lines of JSON. Decoders are written in C
and images come from anywhere: whatever an image does here (crash, loop forever, exhaust memory) harms this process only. It
reports which images it begins to decode, so that its parent knows which one was to blame. It ends as soon as its parent is
gone. Do not start it by hand.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, BinaryIO

from headstart.errors import HeadstartError, UnreadableImage

MEMORY_BYTES = 6 << 30  # address space beyond what the networks take: three copies of the largest image take 1.5 GB
ARENA_BYTES = 128 << 20  # address space that each thread may reserve


class WorkerAnswers:
    """Sends messages to the parent over standard output, from any thread. Implements `Watches` for a pass."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._lock = file, threading.Lock()

    def say(self, **message: Any) -> None:
        """Send a message: one line of JSON."""
        line = json.dumps(message).encode("ascii") + b"\n"
        with self._lock:
            self._file.write(line)

    def begin(self, thread: int, images: Sequence[int]) -> None:
        """See `Watches`."""
        self.say(begin=thread, images=list(images))

    def end(self, thread: int) -> None:
        """See `Watches`."""
        self.say(end=thread)


def serve() -> None:
    """Answer requests until standard input ends, or an error that is no image's fault has been reported."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends this process
    requests, answers = _requests(os.fdopen(os.dup(0), "rb")), WorkerAnswers(os.fdopen(os.dup(1), "wb", 0))
    _quiet_decoders()
    try:
        _work(requests, answers)
    except HeadstartError as error:
        answers.say(error=type(error).__name__, message=error.message, hint=error.hint)
        os._exit(1)
    except MemoryError:  # another process may have more: this one is replaced
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(2)
    except BaseException as error:  # it would be raised again in every other process
        traceback.print_exc()
        sys.stderr.flush()
        answers.say(
            error="ShardFailed",
            message=f"a worker process stopped: {traceback.format_exception_only(error)[-1].strip()}",
            hint="The traceback is above: please report it. Parts made so far are kept.",
        )
        os._exit(1)


def _work(requests: queue.SimpleQueue[dict[str, Any]], answers: WorkerAnswers) -> None:
    start = requests.get()
    if start["cpus"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, start["cpus"])
    from headstart.scale.shard_part import PartMaker  # only now: libraries count the cores when they are imported
    from headstart.scale.shard_plan import ShardJob

    maker = PartMaker(ShardJob.from_json(start["job"]))
    _limit_memory()
    answers.say(ready=True)
    while True:
        request = requests.get()
        shard = request["shard"]
        if "screen" in request:
            _screen(maker, shard, request["screen"], answers)
        else:
            lost = {int(i): reason for i, reason in request["lost"].items()}
            answers.say(receipt=maker.make(shard, lost, answers).to_json())


def _screen(maker: Any, shard: int, images: Sequence[int], answers: WorkerAnswers) -> None:
    """Decode images one after another; each is reported after it has been read and before it is decoded."""
    files = maker.files(shard)
    for i in images:
        with suppress(UnreadableImage):  # its row will have the reason
            data = maker.read(files[i])
            answers.begin(0, [i])
            with suppress(UnreadableImage):
                maker.decode(data)
            answers.end(0)
    answers.say(screened=True)


def _requests(file: BinaryIO) -> queue.SimpleQueue[dict[str, Any]]:
    """Return a queue of requests, filled by a thread that ends the process when standard input ends."""
    found: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        for line in file:
            found.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return found


def _quiet_decoders() -> None:
    """Keep what C libraries print (libtiff prints a lot) out of the answers and the terminal; Python's own output stays."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)


def _limit_memory() -> None:
    """On Linux, limit the address space: an image that needs too much is refused, instead of ending the process."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    from headstart.images.validate import cores
    from headstart.model.inference.features import WORKERS_PER_CORE

    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    most = used + MEMORY_BYTES + ARENA_BYTES * WORKERS_PER_CORE * cores()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard == resource.RLIM_INFINITY or hard > most:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
