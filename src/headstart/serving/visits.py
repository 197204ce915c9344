"""A request for predictions, from its headers to its answers: what all such routes have in common.

    async with visit(request, service) as visiting:        a place in the queue; the body, read within its limits
        answers = await visiting.classify([image])         `ServedAnswer` or `ImageRefusal` each

Whatever prevents an answer is raised as `RequestRefused`. When the caller disconnects, work on its images stops. An image
has its place in the queue until it has been answered or refused; what a request does after that, such as explaining, has
limits of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request

from headstart.serving.admission import Place
from headstart.serving.bodies import Body, read_body
from headstart.serving.decode_worker import Pixels
from headstart.serving.readiness import Readiness
from headstart.serving.refusals import LEFT, RequestRefused, caller_left
from headstart.serving.served_answers import DeadlinePassed, ImageRefusal, Overloaded, ServedAnswer
from headstart.serving.served_classifier import ServedClassifier
from headstart.serving.server_options import ServerOptions

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Service:
    """What all routes share: the classifier, the options, and the state of the server."""

    served: ServedClassifier
    options: ServerOptions
    readiness: Readiness


def service_of(request: Request) -> Service:
    """Return the service of the application that got a request."""
    service: Service = request.app.state.service
    return service


@dataclass(frozen=True, eq=False)
class Visit:
    """One request: its body, its place in the queue, and the time when it had arrived."""

    request: Request
    service: Service
    place: Place
    body: bytearray
    arrived: float

    async def classify(self, images: Sequence[Body]) -> list[ServedAnswer | ImageRefusal]:
        """Return an answer for each image, or why there is none. Raises `RequestRefused`."""
        self.place.hold(images=len(images))
        work = self.service.served.classify(images, seconds=self._seconds_left())
        return await self._finished(work)

    async def classify_pixels(self, images: Sequence[Pixels]) -> list[ServedAnswer | ImageRefusal]:
        """The same for the network's own input."""
        self.place.hold(images=len(images))
        work = self.service.served.classify_pixels(images, seconds=self._seconds_left())
        return await self._finished(work)

    async def classify_one(self, image: Body) -> ServedAnswer:
        """Return the answer for the only image. Raises `RequestRefused`, also if there is none."""
        (answer,) = await self.classify([image])
        if isinstance(answer, ImageRefusal):
            raise RequestRefused.of(answer)
        return answer

    async def while_connected(self, work: Awaitable[T]) -> T:
        """Return the result of the work; cancel it if the caller disconnects. Raises `RequestRefused`."""
        working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(self.request))
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise caller_left()
        finally:
            for task in (working, leaving):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await leaving

    async def _finished(self, work: Awaitable[T]) -> T:
        """Return the result of the work, which are the answers for all of its images."""
        answers = await self.while_connected(work)
        self.place.finished()
        return answers

    def _seconds_left(self) -> float:
        return self.service.options.deadline - (time.monotonic() - self.arrived)


@asynccontextmanager
async def visit(request: Request, service: Service) -> AsyncIterator[Visit]:
    """Read a request for predictions. Raises `RequestRefused`.

    If the queue is full, it is refused before its body is read. The deadline counts from the last byte of the body.
    """
    admission = service.served.admission
    try:
        admission.check()
        with admission.enter() as place:
            until = time.monotonic() + service.options.receive
            body = await read_body(request, place, most=service.options.max_body_bytes, until=until)
            place.hold(images=1)
            yield Visit(request, service, place, body, time.monotonic())
    except (Overloaded, DeadlinePassed) as error:
        refused = RequestRefused.of(error)
        service.served.metrics.shed(refused.reason)
        raise refused from None
    except RequestRefused as refused:
        if refused.status == LEFT:
            service.served.metrics.shed("left")
        raise


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
