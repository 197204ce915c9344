"""What the server counts and times, in the format of Prometheus: GET /metrics.

    metrics = ServerMetrics(depth=lambda: len(queue), replaced=lambda: decoders.replaced)
    metrics.answered("/predict", 200, 0.012); metrics.decoded(0.003); metrics.ran(5, 0.02); metrics.shed("deadline")
    metrics.page()

The registry is the server's own, so two servers in one process do not share it. No label has what a caller sent: a route is
named by its pattern (``/v2/models/{name}/infer``), never by the path, and what matches no route is ``other``. So the number
of time series is fixed, whatever callers send. Counting takes microseconds; process memory, CPU seconds and open files are
read when Prometheus asks.

The seconds of a request run from the end of its headers until its answer is handed to the HTTP server. So they include a
caller who sends slowly, but not one who reads slowly. They are kept by route and status: the milliseconds of a probe or of a
refusal would otherwise hide those of predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64)
SHED = ("overloaded", "deadline", "starting", "draining", "left")
"""Why a request was turned away; ``left``: dropped, because its caller disconnected before the answer."""
OTHER = "other"
PAGE_TYPE = CONTENT_TYPE_LATEST


class ServerMetrics:
    """Counters, gauges and histograms of one server; `depth` says how many images are in it now, `replaced` how many of its
    decoders have been replaced."""

    def __init__(self, *, depth: Callable[[], float], replaced: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "headstart"}
        self._requests = Counter("requests", "Requests answered.", ("route", "code"), **own)
        self._request_seconds = Histogram(
            "request_seconds",
            "Seconds from the headers of a request to its answer.",
            ("route", "code"),
            buckets=SECONDS,
            **own,
        )
        self._decode_seconds = Histogram(
            "decode_seconds", "Seconds to decode and resize an image.", buckets=SECONDS, **own
        )
        self._network_seconds = Histogram(
            "network_seconds", "Seconds that the network takes for a batch.", buckets=SECONDS, **own
        )
        self._batch_images = Histogram("batch_images", "Images per batch.", buckets=IMAGES, **own)
        Gauge("queue_depth", "Images admitted and not yet answered.", **own).set_function(depth)
        self._shed = Counter("shed", "Requests turned away or dropped.", ("reason",), **own)
        for reason in SHED:
            self._shed.labels(reason)
        self.registry.register(_Replaced(replaced))
        ProcessCollector(registry=self.registry)

    def answered(self, route: str, code: int, seconds: float) -> None:
        """Count a request by its route's pattern."""
        self._requests.labels(route, str(code)).inc()
        self._request_seconds.labels(route, str(code)).observe(seconds)

    def decoded(self, seconds: float) -> None:
        """Count one image decoded."""
        self._decode_seconds.observe(seconds)

    def ran(self, images: int, seconds: float) -> None:
        """Count one batch."""
        self._batch_images.observe(images)
        self._network_seconds.observe(seconds)

    def shed(self, reason: str) -> None:
        """Count a request turned away; `reason` is one of `SHED`."""
        self._shed.labels(reason if reason in SHED else OTHER).inc()

    def page(self) -> bytes:
        """Return the page for Prometheus; its type is `PAGE_TYPE`."""
        return generate_latest(self.registry)


class _Replaced(Collector):
    """A count that is kept elsewhere."""

    def __init__(self, count: Callable[[], float]) -> None:
        self._count = count

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Return the count when Prometheus asks."""
        what = "Decoder processes replaced, since they crashed or took too long."
        yield CounterMetricFamily("headstart_decoders_replaced", what, value=self._count())


def route_pattern(scope: Mapping[str, Any]) -> str:
    """Return the pattern of the route that a request matched, `other` if it matched none."""
    return str(getattr(scope.get("route"), "path", OTHER))
