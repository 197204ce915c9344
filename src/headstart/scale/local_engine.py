"""The local engine: worker processes on this machine, each with its share of the cores.

    run_local(job, shards, workers=2, receive=..., advance=...)

One thread here waits for each process (`shard_worker`). By default there is one process for every four cores: its threads
decode while the network computes, and more processes would only load the network more often. On Linux, each process is
pinned to its share of the cores; elsewhere each process uses all of them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from headstart.images.validate import cores
from headstart.scale.shard_part import Receipt
from headstart.scale.shard_plan import ShardJob
from headstart.scale.shard_worker import ShardWorker

CORES_EACH = 4
GRACE_SECONDS = 2.0
"""How long to wait, after a stop, for threads that may be waiting for more names to be listed."""


def run_local(
    job: ShardJob,
    shards: Iterator[int],
    *,
    workers: int,
    receive: Callable[[Receipt], None],
    advance: Callable[[int], None],
) -> None:
    """Make the parts of all shards. 0 workers means one for every four cores. `receive` is called by one thread at a time.

    However it ends, no process is left running, and none is started after Ctrl-C or an error. Raises the first error that a
    worker could not recover from.
    """
    _Crew(job, shards, receive, advance).run(workers or max(1, cores() // CORES_EACH))


class _Crew:
    def __init__(
        self,
        job: ShardJob,
        shards: Iterator[int],
        receive: Callable[[Receipt], None],
        advance: Callable[[int], None],
    ) -> None:
        self._job, self._shards, self._receive, self._advance = job, shards, receive, advance
        self._workers: list[ShardWorker] = []
        self._taking, self._starting, self._receiving = threading.Lock(), threading.Lock(), threading.Lock()
        self._ended, self._running = threading.Semaphore(0), 0
        self._stop: BaseException | None = None

    def run(self, workers: int) -> None:
        threads = [threading.Thread(target=self._guarded, args=(cpus,), daemon=True) for cpus in _shares(workers)]
        try:
            for thread in threads:
                thread.start()
                self._running += 1
            self._wait(float("inf"))
        except BaseException as error:
            self._stop = error
        finally:
            for worker in self._workers:
                worker.close()
        if self._stop is not None:
            self._wait(time.monotonic() + GRACE_SECONDS)
            raise self._stop

    def _wait(self, until: float) -> None:
        """Wait for all threads to end, or until a time; before a stop, only until there is one.

        `Thread.join` is not used, since after Ctrl-C in it Python 3.11 takes a running thread for dead.
        """
        stop = self._stop
        while self._running and self._stop is stop and time.monotonic() < until:
            self._running -= self._ended.acquire(timeout=0.25)  # with a timeout, so that Ctrl-C gets through

    def _guarded(self, cpus: list[int]) -> None:
        worker = ShardWorker(self._job, cpus=cpus, advance=self._advance)
        try:
            self._work(worker)
        except BaseException as error:  # raised again by `run`
            self._stop = self._stop or error
            for other in self._workers:
                other.close()
        finally:
            self._ended.release()

    def _work(self, worker: ShardWorker) -> None:
        started = False
        while self._stop is None:
            with self._taking:
                shard = next(self._shards, None)
            if shard is None or self._stop is not None:  # names may take long to be listed
                return
            if not started:
                if not self._start(worker):
                    return
                started = True
            receipt = worker(shard)
            with self._receiving:
                self._receive(receipt)

    def _start(self, worker: ShardWorker) -> bool:
        """Start the first process alone: it compiles the network, which the others then find in the cache.

        Returns False after a stop: workers added before it are closed by whoever stops, later ones are not started.
        """
        with self._starting:
            self._workers.append(worker)
            if self._stop is not None:
                return False
            if len(self._workers) == 1:
                worker.open()
            return self._stop is None


def _shares(workers: int) -> list[list[int]]:
    """Divide the cores that this process may use among the workers; the lists are empty where no system call does that."""
    if not hasattr(os, "sched_getaffinity") or workers == 1:
        return [[] for _ in range(workers)]
    return core_shares(sorted(os.sched_getaffinity(0))[: cores()], workers)


def core_shares(here: Sequence[int], workers: int) -> list[list[int]]:
    """Divide cores among workers, none left over; if there are more workers than cores, each gets one, in turn.

    >>> core_shares(range(8), 3), core_shares([4, 5], 3)
    ([[0, 1], [2, 3, 4], [5, 6, 7]], [[4], [5], [4]])
    """
    if workers > len(here):
        return [[here[n % len(here)]] for n in range(workers)]
    ends = [n * len(here) // workers for n in range(workers + 1)]
    return [list(here[ends[n] : ends[n + 1]]) for n in range(workers)]
