"""What the server's queue counts: the pace of finished images, and the bytes and processes of images that nobody awaits."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from conftest import PATIENCE, SmallRun
from headstart.images.preprocess import Preprocess
from headstart.io.extras import is_installed
from headstart.serving.admission import Admission, Place
from headstart.serving.decode_worker import PixelPlan
from headstart.serving.decoders import Decoders
from headstart.serving.served_answers import DeadlinePassed, Overloaded

PLAN = PixelPlan("run", {"pixels": Preprocess(image_size=32).as_dict()})
NEVER_READY = [sys.executable, "-S", "-c", "import time; time.sleep(3600)"]


# The pace


class Clock:
    """A clock that is set by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Queue:
    """An admission whose images are put in and finished at given times."""

    def __init__(self, images: int = 64, seconds: float = 2.0) -> None:
        self.clock = Clock()
        self.admission = Admission(images=images, size=1_000, seconds=seconds, clock=self.clock)

    def put(self, images: int = 1) -> Place:
        """A place with images."""
        place = self.admission.enter()
        place.hold(images=images, size=10)
        return place

    def take(self, place: Place, *, after: float, finished: bool = True) -> None:
        """Let time pass, then let a request end, its images finished or not."""
        self.clock.now += after
        with place:
            if finished:
                place.finished()

    def seconds_for(self, images: int) -> float:
        """What `Retry-After` is with so many images: their number times the pace."""
        with self.admission.enter() as place:
            self.admission.images += images
            place.images = images
            return self.admission.retry_after


def busy(seconds: float = 0.1) -> Queue:
    """A queue in which five images were finished, one after another."""
    queue = Queue()
    places = [queue.put() for _ in range(5)]
    for place in places:
        queue.take(place, after=seconds)
    assert queue.seconds_for(50) == pytest.approx(50 * seconds)
    return queue


def test_the_pace_is_the_time_between_images_while_others_wait() -> None:
    queue = busy(0.1)
    waiting = queue.put(6)
    with pytest.raises(Overloaded) as refused:
        queue.admission.check(3)
    assert str(refused.value) == "3 more images cannot be answered within 2 s, since 6 are waiting"
    queue.admission.check(1)
    queue.take(waiting, after=0.6)
    assert (queue.admission.images, queue.admission.size) == (0, 0)


def test_a_request_that_is_alone_is_admitted_at_any_pace_and_corrects_it() -> None:
    queue = busy(1.0)  # by mistake: the machine stood still
    with queue.put() as other, queue.admission.enter() as place:
        place.hold(images=1)
        with pytest.raises(Overloaded) as refused:
            place.hold(images=8)
        assert str(refused.value) == "8 more images cannot be answered within 2 s, since 1 is waiting"
        other.finished()
        place.hold(images=8)
        place.hold(images=8, size=20)
    with pytest.raises(Overloaded) as refused:  # it left without an answer: the next is tried after ten deadlines
        queue.put(8)
    assert str(refused.value) == "8 more images cannot be answered within 2 s, at the present pace"
    for _ in range(60):
        queue.clock.now += 20
        queue.take(queue.put(8), after=0.8)
    assert queue.seconds_for(50) == pytest.approx(5, rel=1e-2)


def test_one_image_beside_a_batch_does_not_get_the_time_of_the_batch() -> None:
    queue = Queue()
    for _ in range(60):
        batch = queue.put(8)
        queue.clock.now += 0.5
        single = queue.put()
        queue.take(single, after=0.08)
        queue.take(batch, after=0.05)
    assert 2 < queue.seconds_for(50) < 4


@pytest.mark.parametrize("finished", [True, False], ids=["the last was answered", "the last left"])
def test_time_without_any_image_is_not_part_of_the_pace(finished: bool) -> None:
    queue = busy(0.1)
    first, last = queue.put(), queue.put()
    queue.take(first, after=0.1)
    queue.take(last, after=0.1, finished=finished)
    queue.clock.now += 3_600
    first, last = queue.put(), queue.put()
    queue.take(first, after=0.1)
    queue.take(last, after=0.1)
    assert queue.seconds_for(50) == pytest.approx(5)


def test_what_a_request_does_after_its_image_is_not_part_of_the_pace() -> None:
    """An explanation takes seconds; the image was finished before."""
    queue = busy(0.1)
    explaining, other = queue.put(), queue.put()
    with explaining:
        queue.clock.now += 0.1
        explaining.finished()
        assert (queue.admission.images, queue.admission.size) == (1, 20)  # its body is still there
        queue.take(other, after=0.1)
        queue.clock.now += 30
        other = queue.put()
    queue.take(other, after=0.1)
    assert queue.seconds_for(50) == pytest.approx(5)
    assert (queue.admission.images, queue.admission.size) == (0, 0)


def test_a_request_of_several_images_counts_as_several() -> None:
    queue = busy(0.1)
    first, many = queue.put(), queue.put(6)
    queue.take(first, after=0.1)
    queue.take(many, after=0.6)
    assert queue.seconds_for(50) == pytest.approx(5)


@pytest.mark.skipif(not is_installed("starlette", "prometheus_client"), reason="needs the extra serve")
def test_images_that_are_refused_count_as_finished() -> None:
    from starlette.requests import Request

    from headstart.serving.readiness import Readiness
    from headstart.serving.refusals import RequestRefused
    from headstart.serving.served_answers import ImageRefusal
    from headstart.serving.server_options import ServerOptions
    from headstart.serving.visits import Service, Visit

    queue = Queue()

    class Refuses:
        """In place of a classifier: refuses one image every 0.1 s."""

        async def classify(self, images: list[bytes], *, seconds: float) -> list[ImageRefusal]:
            queue.clock.now += 0.1
            return [ImageRefusal("truncated", "The file ends early.")]

    async def silence() -> dict[str, str]:
        await asyncio.sleep(PATIENCE)
        return {"type": "http.disconnect"}

    async def ask(place: Place) -> None:
        service = Service(Refuses(), ServerOptions(deadline=300), Readiness())  # type: ignore[arg-type]
        with place, pytest.raises(RequestRefused) as refused:
            request = Request({"type": "http"}, silence)
            await Visit(request, service, place, bytearray(b"x"), time.monotonic()).classify_one(b"x")
        assert (refused.value.status, refused.value.message) == (422, "The file ends early.")

    async def ask_all() -> None:
        for place in [queue.put() for _ in range(5)]:
            await ask(place)

    asyncio.run(ask_all())
    assert queue.seconds_for(50) == pytest.approx(5)


# Images that nobody awaits


class Bytes(bytearray):
    """Bytes of which one can see when they are freed."""


@pytest.fixture
def stuck() -> Iterator[Decoders]:
    """One decoder, which never becomes ready, with an image."""
    with Decoders(PLAN, count=1, seconds_each=PATIENCE, command=NEVER_READY) as decoders:
        decoders.submit(b"first", until=time.monotonic() + PATIENCE)
        yield decoders


def test_the_bytes_of_an_image_that_is_no_longer_awaited_are_freed_at_once(stuck: Decoders) -> None:
    image = Bytes(1_000_000)
    freed = threading.Event()
    weakref.finalize(image, freed.set)
    waiting = stuck.submit(image, until=time.monotonic() + PATIENCE)
    del image
    assert not freed.is_set()
    assert waiting.cancel()
    assert freed.is_set()
    with pytest.raises(CancelledError):
        waiting.result()


@pytest.mark.skipif(not is_installed("starlette", "prometheus_client"), reason="needs the extra serve")
@pytest.mark.parametrize(
    ("images", "sentence"),
    [(1, "no answer within 0.1 s"), (3, "no answer to 3 images at once within 0.1 s")],
    ids=["one", "three"],
)
def test_an_answer_that_does_not_come_in_time(stuck: Decoders, small_run: SmallRun, images: int, sentence: str) -> None:
    from headstart.exporters.open_classifier import open_classifier
    from headstart.serving.served_classifier import ServedClassifier

    served = ServedClassifier(open_classifier(small_run.path), stuck, Admission(images=4, size=10, seconds=1))
    with pytest.raises(DeadlinePassed) as refused:
        asyncio.run(served.classify([b"x"] * images, seconds=0.1 - 1e-6))
    assert str(refused.value) == sentence


class Awaited(float):
    """A deadline at which whoever compares it stops until it is told to go on."""

    def __new__(cls, value: float) -> Awaited:
        self = super().__new__(cls, value)
        self.reached, self.go_on = threading.Event(), threading.Event()
        return self

    reached: threading.Event
    go_on: threading.Event

    def __le__(self, other: float) -> bool:
        self.reached.set()
        self.go_on.wait(PATIENCE)
        return float(self) <= other


def test_a_decoder_that_gets_its_image_during_the_shutdown_does_not_delay_it() -> None:
    until = Awaited(time.monotonic() + PATIENCE)
    decoders = Decoders(PLAN, count=1, seconds_each=PATIENCE, command=NEVER_READY)
    decoders.__enter__()
    asked = decoders.submit(b"x", until=until)
    assert until.reached.wait(PATIENCE)
    closing = threading.Thread(target=decoders.__exit__, args=(None, None, None))
    closing.start()
    time.sleep(0.3)  # for the shutdown to have ended all processes that are at work: none
    until.go_on.set()
    with pytest.raises(Overloaded) as refused:
        asked.result(PATIENCE)
    assert str(refused.value) == "the server is shutting down"
    closing.join(PATIENCE)
    assert not closing.is_alive()
