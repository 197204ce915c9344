"""`NetworkThreads`: threads that take whatever images are waiting, run the network on them, and hand back the logits.

    threads = NetworkThreads(network, finished)
    threads.put(waiting)                       from any thread; they call `finished(batch, logits_NK, seconds)`

If a thread is free, an image goes through the network at once; otherwise it goes together with those that have arrived
meanwhile. No image ever waits for a batch to fill up. Images whose answers are no longer awaited are dropped before they
cost anything. One wake-up per batch; a hand-over costs some 20 microseconds. For a single caller at a time, call the network
itself.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from headstart.serving.decode_worker import Pixels
from headstart.serving.served_networks import ServedNetwork


class WaitsForNetwork(Protocol):
    """An image that waits for the network."""

    pixels: Pixels

    def is_over(self) -> bool:
        """Whether its answer is no longer awaited."""
        ...


W = TypeVar("W", bound=WaitsForNetwork)
Finished = Callable[[Sequence[W], "np.ndarray | Exception", float], None]


class NetworkThreads(Generic[W]):
    """As many threads as the network can take calls at once. `finished` gets logits (N, K), or what the network raised."""

    def __init__(self, network: ServedNetwork, finished: Finished[W]) -> None:
        self._network, self._finished = network, finished
        self._waiting: deque[W] = deque()
        self._change = threading.Condition()
        self._closed = False
        for number in range(network.threads):
            threading.Thread(target=self._work, name=f"network {number}", daemon=True).start()

    def put(self, waiting: W) -> None:
        """Add an image to those waiting for the network."""
        with self._change:
            self._waiting.append(waiting)
            self._change.notify()

    def close(self) -> None:
        """End the threads after the batches they are working on."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def _work(self) -> None:
        while batch := self._next_batch():
            began = time.monotonic()
            found: np.ndarray | Exception
            try:
                found = self._network.logits([each.pixels for each in batch])
            except Exception as error:  # raised again where the answers are awaited
                found = error
            self._finished(batch, found, time.monotonic() - began)

    def _next_batch(self) -> list[W]:
        """Wait for images, and take the next batch: as many as fit; but only one if the network has a graph for a single
        image and less than a full batch is waiting. Return none when closed."""
        with self._change:
            while True:
                self._change.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return []
                full = len(self._waiting) >= self._network.batch
                count = 1 if self._network.alone and not full else self._network.batch
                batch: list[W] = []
                while self._waiting and len(batch) < count:
                    each = self._waiting.popleft()
                    if not each.is_over():
                        batch.append(each)
                if batch:
                    return batch
