"""`ServedClassifier`: turns the bytes of images into answers, for many callers at once. The rest of the server is HTTP.

    with served.admission.enter() as place:
        place.hold(images=2, size=80_000)            `Overloaded` if there is no room
        answers = await served.classify([jpeg, png], seconds=2.0)

Images are decoded in child processes (`decoders`), and go from there through the network (`network_threads`), without a
detour through the event loop. Answers are those of `headstart predict`, to the bit. Images of a request whose deadline has
passed are dropped before they are decoded, or before they go through the network; so are those of a caller that has
disconnected (its task is cancelled).

Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from headstart.evaluation.conformal import forced_sets, prediction_sets
from headstart.evaluation.probabilities import softmax
from headstart.exporters.open_classifier import OpenedClassifier
from headstart.serving.admission import Admission
from headstart.serving.decode_worker import Pixels
from headstart.serving.decoders import DecodedPixels, Decoders
from headstart.serving.network_threads import NetworkThreads
from headstart.serving.served_answers import DeadlinePassed, ImageRefusal, Overloaded, ServedAnswer
from headstart.serving.served_networks import ServedNetwork
from headstart.serving.server_metrics import ServerMetrics

__all__ = ["DeadlinePassed", "ImageRefusal", "Overloaded", "ServedAnswer", "ServedClassifier"]


@dataclass(eq=False)
class _Ticket:
    """An image on its way. `answer` is set in the event loop; other threads only look whether it is done."""

    until: float
    answer: asyncio.Future[ServedAnswer | ImageRefusal]
    decoding: Future[DecodedPixels | ImageRefusal] | None = None
    pixels: Pixels = field(default_factory=dict)
    decode_seconds: float = 0.0

    def is_over(self) -> bool:
        """Whether its answer is no longer awaited."""
        return self.answer.done() or time.monotonic() >= self.until


class ServedClassifier:
    """A classifier whose decoders are running; from `start` on, its networks are open as well."""

    name = "headstart"
    """The name of the model in URLs."""

    def __init__(self, opened: OpenedClassifier, decoders: Decoders, admission: Admission) -> None:
        self.id = opened.classifier.id
        self.classes = opened.classes
        self.calibration = opened.calibration
        self.opened, self.decoders, self.admission = opened, decoders, admission
        self.metrics = ServerMetrics(depth=lambda: admission.images, replaced=lambda: decoders.replaced)
        self._network: NetworkThreads[_Ticket] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, network: ServedNetwork) -> None:
        """Let images through the network. To be called in the event loop, before anything is classified."""
        self._loop = asyncio.get_running_loop()
        self._network = NetworkThreads(network, self._finished)

    def close(self) -> None:
        """End the threads."""
        if self._network is not None:
            self._network.close()

    async def classify(
        self, images: Sequence[bytes | bytearray | memoryview], *, seconds: float
    ) -> list[ServedAnswer | ImageRefusal]:
        """Return an answer for each image, or why there is none. Raises `DeadlinePassed` after `seconds`, `Overloaded`."""
        tickets = [self._ticket(seconds) for _ in images]
        for ticket, image in zip(tickets, images, strict=True):
            ticket.decoding = self.decoders.submit(image, until=ticket.until)
            ticket.decoding.add_done_callback(partial(self._decoded, ticket))
        return await _answers(tickets, seconds)

    async def classify_pixels(self, images: Sequence[Pixels], *, seconds: float) -> list[ServedAnswer | ImageRefusal]:
        """The same for ready-made pixels: uint8 for each input by name, with the shapes in ``decoders.plan.shapes``."""
        tickets = [self._ticket(seconds) for _ in images]
        for ticket, pixels in zip(tickets, images, strict=True):
            self._through_network(ticket, pixels)
        return await _answers(tickets, seconds)

    def _ticket(self, seconds: float) -> _Ticket:
        return _Ticket(time.monotonic() + seconds, asyncio.get_running_loop().create_future())

    # Called in other threads

    def _decoded(self, ticket: _Ticket, done: Future[DecodedPixels | ImageRefusal]) -> None:
        """Called in a decoder's thread: pass the pixels on to the network, or the reason why there are none back."""
        error = done.exception() if not done.cancelled() else Overloaded("the server is shutting down")
        if error is not None:
            self._deliver([(ticket, error)])
            return
        decoded = done.result()
        if isinstance(decoded, ImageRefusal):
            self._deliver([(ticket, decoded)])
            return
        ticket.decode_seconds = decoded.seconds
        self.metrics.decoded(decoded.seconds)
        self._through_network(ticket, decoded.pixels)

    def _through_network(self, ticket: _Ticket, pixels: Pixels) -> None:
        ticket.pixels = pixels
        if self._network is not None:
            self._network.put(ticket)

    def _finished(self, batch: Sequence[_Ticket], found: np.ndarray | Exception, seconds: float) -> None:
        """Called in a network's thread."""
        if isinstance(found, Exception):
            self._deliver([(ticket, found) for ticket in batch])
            return
        self.metrics.ran(len(batch), seconds)
        self._deliver(list(zip(batch, self._made(batch, found, seconds), strict=True)))

    def _made(self, batch: Sequence[_Ticket], logits_NK: np.ndarray, seconds: float) -> list[ServedAnswer]:
        """Return the answers to a batch."""
        probabilities_NK = softmax(logits_NK)
        sets_NK = prediction_sets(probabilities_NK, self.calibration.conformal_threshold)
        forced_N = forced_sets(probabilities_NK, self.calibration.conformal_threshold)
        order_NK = np.argsort(-probabilities_NK, axis=1, kind="stable")
        best_N = probabilities_NK.argmax(axis=1)
        return [
            ServedAnswer(
                logits=logits_NK[n],
                probabilities=probabilities_NK[n],
                set=tuple(self.classes[k] for k in order_NK[n].tolist() if sets_NK[n, k]),
                forced=bool(forced_N[n]),
                label=self.classes[int(best_N[n])],
                decode_seconds=ticket.decode_seconds,
                network_seconds=seconds,
                batch=len(batch),
            )
            for n, ticket in enumerate(batch)
        ]

    def _deliver(self, answers: Sequence[tuple[_Ticket, ServedAnswer | ImageRefusal | BaseException]]) -> None:
        """Hand answers to the event loop."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended, so no answer is awaited
                self._loop.call_soon_threadsafe(_hand_over, answers)


def _hand_over(answers: Sequence[tuple[_Ticket, ServedAnswer | ImageRefusal | BaseException]]) -> None:
    for ticket, answer in answers:
        if ticket.answer.done():
            continue
        if isinstance(answer, BaseException):
            ticket.answer.set_exception(answer)
        else:
            ticket.answer.set_result(answer)


async def _answers(tickets: Sequence[_Ticket], seconds: float) -> list[ServedAnswer | ImageRefusal]:
    """Wait for all answers. If time runs out or the caller disconnects, cancel all of them."""
    try:
        async with asyncio.timeout(seconds):
            return [await ticket.answer for ticket in tickets]
    except TimeoutError:
        many = f" to {len(tickets)} images at once" if len(tickets) > 1 else ""
        raise DeadlinePassed(f"no answer{many} within {round(seconds, 2):g} s") from None
    finally:
        for ticket in tickets:
            ticket.answer.cancel()
            if ticket.decoding is not None:
                ticket.decoding.cancel()
