"""The Ray engine: Ray Data hands out shard numbers and collects receipts; images, features and parts never pass through it.

    run_ray(job, shards, workers=8, receive=..., advance=...)

`RAY_ADDRESS` names the cluster; without one, Ray is started on this machine for as long as it is needed. Each machine
must see the images, the run and the output under the same paths or URLs, and must have the same versions of headstart and
ray[data]. An actor holds a `ShardWorker`, whose process may die; Ray itself never sees decoders that crash or hang. If an
actor or its machine dies, Ray starts another and repeats its shard; a part that exists is not made twice.

For Ray, a shard is a row of some hundred bytes, so its object store, block sizes and checkpoints do not matter. Costs about
10 s to start, and as much again for every thousand shards. Not for one machine: the local engine does the same without it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import headstart.errors
from headstart.errors import HeadstartError, ShardError
from headstart.scale.shard_part import Receipt
from headstart.scale.shard_plan import ShardJob
from headstart.scale.shard_worker import ShardWorker

WINDOW = 1_000
"""Shards per execution of Ray Data, which must know its rows before it begins; more names are listed while one runs."""
WINDOW_SECONDS = 5.0
"""How long to wait for more shards to be listed before an execution begins."""


def run_ray(
    job: ShardJob,
    shards: Iterator[int],
    *,
    workers: int,
    receive: Callable[[Receipt], None],
    advance: Callable[[int], None],
) -> None:
    """Make the parts of all shards. 0 workers means one for every machine.

    Raises the error that a worker could not recover from, and `ShardError` if Ray itself fails.
    """
    windows = _windows(shards)
    first = next(windows, None)
    if first is None:
        return
    with _ray() as ray:
        for window in chain([first], windows):
            try:
                _run_window(ray, job, window, workers, receive, advance)
            except ray.exceptions.RayError as error:
                line = next(filter(None, str(error).splitlines()), type(error).__name__)
                raise ShardError(f"ray: {line}", hint="Parts made so far are kept: run the command again.") from error


class RayShards:
    """The actor: takes a row with a shard number, and returns a row with its receipt."""

    def __init__(self, job: str) -> None:
        self._worker = ShardWorker(ShardJob.from_json(job))

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Make a part. An error that would stop every other shard too is also returned as a row: Ray could only print it."""
        return {"receipt": [self._receipt(int(shard)) for shard in batch["shard"]]}

    def _receipt(self, shard: int) -> str:
        try:
            return json.dumps(self._worker(shard).to_json())
        except HeadstartError as error:
            return json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint})


def _run_window(
    ray: Any,
    job: ShardJob,
    window: list[int],
    workers: int,
    receive: Callable[[Receipt], None],
    advance: Callable[[int], None],
) -> None:
    most, cores_each = _actors(ray, workers)
    rows = ray.data.from_items([{"shard": shard} for shard in window], override_num_blocks=len(window))
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=most)  # with a fixed size, a dead actor would stay dead
    made = rows.map_batches(
        RayShards, batch_size=1, compute=pool, num_cpus=cores_each, fn_constructor_args=(job.to_json(),)
    )
    for row in made.iter_rows():
        receipt = json.loads(row["receipt"])
        if "error" in receipt:
            kind = getattr(headstart.errors, receipt["error"], ShardError)
            raise kind(receipt["message"], hint=receipt["hint"])
        advance(receipt["rows"])
        receive(Receipt(**receipt))


def _windows(shards: Iterator[int]) -> Iterator[list[int]]:
    """Yield lists of shards: those listed within `WINDOW_SECONDS`, and at most `WINDOW`."""
    window: list[int] = []
    began = time.monotonic()
    for shard in shards:
        window.append(shard)
        if len(window) >= WINDOW or time.monotonic() - began > WINDOW_SECONDS:
            yield window
            window, began = [], time.monotonic()
    if window:
        yield window


def _actors(ray: Any, workers: int) -> tuple[int, int]:
    """Return the largest number of actors, and the cores of each: no more than the smallest machine has."""
    cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    cores = [count for count in cores if count] or [1]
    most = workers or len(cores)
    return most, max(1, min(min(cores), sum(cores) // most))


@contextmanager
def _ray() -> Iterator[Any]:
    """Yield Ray, connected; if it was started here, stop it at the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    if ray.is_initialized():
        yield ray
        return
    if "RAY_ADDRESS" in os.environ:
        ray.init(logging_level=logging.WARNING, log_to_driver=False)
    else:
        ray.init("local", include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    try:
        yield ray
    finally:
        ray.shutdown()
