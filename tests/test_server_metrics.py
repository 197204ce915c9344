"""What Prometheus reads from a running server: counts that add up, and no more series than there are routes and statuses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import headstart
from conftest import PATIENCE
from headstart.io.extras import is_installed
from headstart.model.backbones.builtin import NAME
from headstart.training.recipe import Recipe
from running_server import RunningServer, running_server

parser = pytest.importorskip("prometheus_client.parser", reason="needs prometheus-client, which is not installed")

pytestmark = pytest.mark.skipif(
    not is_installed("granian", "starlette", "prometheus_client"), reason="needs the extra serve"
)

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Iterator[RunningServer]:
    """A server with a secret."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "token").write_text("a-secret-of-some-length")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(folder / "cache"))
        headstart.train(photos, out=folder / "run", recipe=Recipe(approach="linear", backbone=NAME), report=False)
    options = ("--token-file", str(folder / "token"), "--deadline", "300")
    with running_server(folder / "run", *options, cache=folder / "cache") as running:
        yield running


SECRET = {"Authorization": "Bearer a-secret-of-some-length"}


def read(server: RunningServer) -> Series:
    """The series, by name and labels, as Prometheus reads them."""
    page = server.ask("/metrics", headers=SECRET)
    assert page.status == 200 and page.headers["content-type"].startswith("text/plain; version=")
    families = parser.text_string_to_metric_families(page.body.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def growth(before: Series, after: Series, name: str, **labels: str) -> float:
    """How much a series has grown."""
    key = (f"headstart_{name}", tuple(sorted(labels.items())))
    return after.get(key, 0.0) - before.get(key, 0.0)


def test_every_request_is_counted_by_route_and_status(server: RunningServer, photos: Path) -> None:
    image, before = (photos / "class0" / "000.jpg").read_bytes(), read(server)
    for body, headers in ((image, SECRET), (image, SECRET), (image[:300], SECRET), (image, {})):
        server.ask("/predict", body, headers=headers)
    server.ask("/v2/models/headstart/infer", b"{}", headers=SECRET)
    for word in ("one", "two", "three"):
        server.ask(f"/{word}", headers=SECRET)
        server.ask(f"/v2/models/{word}", headers=SECRET)
    after = read(server)
    counted = {
        (key[1][1][1], key[1][0][1]): value - before.get(key, 0.0)
        for key, value in after.items()
        if key[0] == "headstart_requests_total"
    }
    assert {key: value for key, value in counted.items() if value} == {
        ("/predict", "200"): 2,
        ("/predict", "422"): 1,
        ("/predict", "401"): 1,
        ("other", "404"): 3,
        ("/v2/models/{name}", "404"): 3,
        ("/v2/models/{name}/infer", "400"): 1,
        ("/metrics", "200"): 1,
    }
    timed = {
        key[1]: value - before.get(key, 0.0)
        for key, value in after.items()
        if key[0] == "headstart_request_seconds_count"
    }
    assert {(dict(key)["route"], dict(key)["code"]): value for key, value in timed.items() if value} == {
        key: value for key, value in counted.items() if value
    }
    assert growth(before, after, "decode_seconds_count") == 2
    assert growth(before, after, "batch_images_sum") == 2
    assert growth(before, after, "network_seconds_count") == growth(before, after, "batch_images_count") >= 1
    predicted = growth(before, after, "request_seconds_sum", route="/predict", code="200")
    assert predicted >= growth(before, after, "network_seconds_sum") > 0
    assert after[("headstart_queue_depth", ())] == 0


def left_so_far(before: Series, after: Series) -> dict[str, float]:
    """How many requests to /predict were counted meanwhile, by status."""
    return {
        code: growth(before, after, "requests_total", route="/predict", code=code) for code in ("200", "400", "499")
    }


def test_callers_who_leave_are_counted_as_499(server: RunningServer, photos: Path) -> None:
    """During the body; while their image is in the server; and before they read the answer, which cannot be noticed. All wait
    until their body is wanted: a request whose connection is closed at once may never reach the application."""
    image, before = (photos / "class0" / "000.jpg").read_bytes(), read(server)
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(image)}\r\n".encode()
    head += b"Authorization: Bearer a-secret-of-some-length\r\nExpect: 100-continue\r\n\r\n"
    for part in (image[:100], image[:100], image[:100], image, image, image):
        with server.connect() as connection:
            connection.sendall(head)
            assert connection.recv(1_000).startswith(b"HTTP/1.1 100")
            connection.sendall(part)
    until, counted = time.monotonic() + PATIENCE, left_so_far(before, read(server))
    while sum(counted.values()) < 6 and time.monotonic() < until:
        time.sleep(0.02)
        counted = left_so_far(before, read(server))
    assert counted["499"] >= 3 and counted == {"200": 6 - counted["499"], "400": 0, "499": counted["499"]}
    assert growth(before, read(server), "shed_total", reason="left") == counted["499"]


def test_nothing_that_a_caller_sends_becomes_a_label(server: RunningServer) -> None:
    server.ask("/strange-path-1?x=strange-query", headers={**SECRET, "X-Strange": "strange-header"})
    before = len(read(server))
    for n in range(50):
        server.ask(f"/strange-path-{n}", headers=SECRET)
        server.ask("/strange-method", method=f"STRANGE{n}", headers=SECRET)
    after = read(server)
    assert len(after) - before <= 2
    assert "strange" not in repr(after).lower()


def test_clients_send_the_secret_as_the_docs_say(server: RunningServer, photos: Path) -> None:
    from huggingface_hub import InferenceClient

    secret = SECRET["Authorization"].partition(" ")[2]
    answer = InferenceClient(model=server.url, token=secret).image_classification(photos / "class2" / "001.jpg")
    assert answer[0].label == "class2"
    http = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http], which is not installed")
    tensor = http.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([(photos / "class2" / "001.jpg").read_bytes()], object))
    with http.InferenceServerClient(server.address, network_timeout=PATIENCE, connection_timeout=PATIENCE) as client:
        assert client.is_server_ready()
        assert client.infer("headstart", [tensor], headers=SECRET).as_numpy("label")[0] == b"class2"
        with pytest.raises(http.InferenceServerException, match="401"):
            client.infer("headstart", [tensor])


def test_the_page_needs_the_secret_and_shows_the_process(server: RunningServer) -> None:
    assert server.ask("/metrics").status == 401
    values = read(server)
    assert {reason for (name, labels) in values if name == "headstart_shed_total" for _, reason in labels} == {
        *("overloaded", "deadline", "starting", "draining", "left")
    }
    assert values[("headstart_decoders_replaced_total", ())] == 0
    assert values[("process_resident_memory_bytes", ())] > 1e7
