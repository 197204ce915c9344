"""`headstart serve` as a user has it: answers that are those of `predict` to the bit, readiness, defaults, its end."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart
from conftest import PATIENCE, SmallRun, scene
from headstart.errors import ServeError
from headstart.exporters.export_folder import ExportFolder
from headstart.exporters.exported_classifier import ExportedClassifier
from headstart.exporters.open_classifier import OpenedClassifier, open_classifier
from headstart.images.preprocess import Preprocess
from headstart.io.extras import is_installed
from headstart.io.folders import write_manifest
from headstart.model.inference.engines import open_network
from headstart.model.inference.runtime import Network
from headstart.runs.run_folder import RunFolder
from headstart.serving.admission import Admission
from headstart.serving.decoders import Decoders
from headstart.serving.readiness import KnownAnswer, check_answers, known_answer
from headstart.serving.served_networks import open_served, plan_of
from headstart.serving.server_options import ServerOptions
from running_server import RunningServer, encoded, free_port, jpeg, running_server

pytestmark = [
    pytest.mark.skipif(not is_installed("granian", "starlette", "prometheus_client"), reason="needs the extra serve")
]

PATIENT = ("--deadline", "300", "--receive", "300")
"""For machines that are busy with other things."""


@pytest.fixture(scope="module")
def server(small_run: SmallRun) -> Iterator[RunningServer]:
    with running_server(small_run.path, *PATIENT, "--queue", "256", cache=small_run.cache) as running:
        yield running


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime", reason="needs the extra export, to make an export")
    from tiny_export import write_predicting_export

    specs = {"pixels_1": Preprocess(image_size=96, crop_pct=0.9), "pixels_2": Preprocess(image_size=64, resize="pad")}
    return write_predicting_export(tmp_path_factory.mktemp("exported") / "export", specs)


def files(count: int) -> list[bytes]:
    """Images of different kinds, sizes and formats."""
    made = []
    for seed in range(count):
        size = (40 + 37 * (seed % 11), 60 + 53 * (seed % 7))
        image = scene(seed, size)
        if seed % 8 == 5:
            turned = Image.Exif()
            turned[0x112] = 1 + seed % 7
            made.append(encoded(image, "JPEG", quality=70, exif=turned))
        elif seed % 8 == 6:
            made.append(encoded(image.convert("L"), "PNG"))
        elif seed % 8 == 7:
            made.append(encoded(image.convert("RGBA"), "WEBP"))
        else:
            made.append(jpeg(seed, size))
    return made


def predicted(place: Path, cache: Path, images: Sequence[bytes]) -> np.ndarray:
    """What `headstart predict` says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(cache))
        return open_classifier(place).predictor.predict(images).probabilities


def classified(server: RunningServer, image: bytes) -> list[float]:
    answer = server.ask("/v1/classify", image)
    assert answer.status == 200, answer.body
    by_class = answer.json()["probabilities"]
    return [by_class[name] for name in sorted(by_class)]


def check_equal(server: RunningServer, images: Sequence[bytes], expected: np.ndarray, classes: Sequence[str]) -> None:
    """With 1 to 32 callers at once."""
    expected = expected[:, np.argsort(classes)]
    for callers in (1, 4, 32):
        with ThreadPoolExecutor(callers) as threads:
            found = list(threads.map(lambda image: classified(server, image), images))
        assert (np.array(found) == expected).all(), f"{callers} callers"


# Answers


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_answers_are_those_of_predict_to_the_bit(server: RunningServer, small_run: SmallRun, count: int) -> None:
    images = files(count)
    expected = predicted(small_run.path, small_run.cache, images)
    check_equal(server, images, expected, ("class0", "class1", "class2"))


@pytest.mark.parametrize("count", [24, pytest.param(1000, marks=pytest.mark.slow)])
def test_answers_of_an_export_are_those_of_predict_to_the_bit(export: Path, tmp_path: Path, count: int) -> None:
    from tiny_export import CLASSES

    before = sorted((path, path.stat().st_mtime_ns) for path in export.rglob("*"))
    images = files(count)
    expected = predicted(export, tmp_path, images)
    with running_server(export, *PATIENT, "--queue", "256", cache=tmp_path) as running:
        check_equal(running, images, expected, CLASSES)
    assert sorted((path, path.stat().st_mtime_ns) for path in export.rglob("*")) == before
    (graph,) = (tmp_path / "graphs").glob("*.graph")
    graph.write_bytes(graph.read_bytes()[:-9] + b"corrupted")  # is compiled anew
    assert (predicted(export, tmp_path, images[:3]) == expected[:3]).all()


def test_all_ways_to_send_an_image_get_the_same_answer(server: RunningServer) -> None:
    image = jpeg(1)
    form = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.jpg"\r\n\r\n' + image + b"\r\n--b--\r\n"
    as_json = json.dumps({"inputs": base64.b64encode(image).decode()}).encode()
    data_url = json.dumps({"inputs": "data:image/jpeg;base64," + base64.b64encode(image).decode()}).encode()
    ways = [
        (image, "image/jpeg"),
        (image, "application/octet-stream"),
        (form, "multipart/form-data; boundary=b"),
        (form, 'multipart/form-data; boundary="b"'),
        (as_json, "application/json"),
        (data_url, "application/json; charset=utf-8"),
    ]
    answers = [server.ask("/predict", body, headers={"Content-Type": kind}) for body, kind in ways]
    answers += [server.ask(path, image) for path in ("/", "/models/headstart")]
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    found = answers[0].json()
    assert [sorted(each) for each in found] == [["label", "score"]] * 3
    assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)


def test_what_classify_says(server: RunningServer, small_run: SmallRun) -> None:
    image = jpeg(2)
    found = server.ask("/v1/classify", image).json()
    assert list(found) == ["model", "label", "probability", "set", "forced", "alpha", "probabilities", "seconds"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(small_run.cache))
        document = headstart.predict(small_run.path, image).to_json()
    (expected,) = document["predictions"]
    assert (found["model"], found["alpha"]) == (document["model"], document["alpha"])
    assert found["label"] == expected["predicted"] == next(iter(found["probabilities"]))
    threshold = RunFolder(small_run.path).classifier.calibration.conformal_threshold
    assert found["forced"] is (1 - found["probability"] > threshold)
    assert found["probabilities"] == expected["probabilities"]
    assert sorted(found["set"]) == sorted(expected["set"])
    assert found["set"] == list(found["probabilities"])[: len(found["set"])]
    assert all(0 < found["seconds"][step] <= found["seconds"]["total"] for step in ("decode", "network"))


def test_as_many_classes_as_were_asked_for(server: RunningServer) -> None:
    image = jpeg(3)
    as_json = {"inputs": base64.b64encode(image).decode(), "parameters": {"top_k": 2}}
    kind = {"Content-Type": "application/json"}
    assert len(server.ask("/predict?top_k=1", image).json()) == 1
    assert len(server.ask("/predict?top_k=99", image).json()) == 3
    assert len(server.ask("/predict", json.dumps(as_json).encode(), headers=kind).json()) == 2
    file = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + image + b"\r\n"
    for asked, count in ((b"2", 2), (b"two", None)):  # as `curl --form file=@a.jpg --form top_k=2` sends it
        form = file + b'--b\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n' + asked + b"\r\n--b--\r\n"
        answer = server.ask("/predict", form, headers={"Content-Type": "multipart/form-data; boundary=b"})
        assert len(answer.json()) == count if count else answer.json()["reason"] == "top_k"
    for wrong in ("0", "-1", "two", "1.5", "", "9" * 30, "%31%00"):
        assert server.ask(f"/predict?top_k={wrong}", image).status == 400, wrong


def test_names_of_classes_that_are_not_unicode_or_hostile(tmp_path: Path, photos: Path) -> None:
    names = {"class0": 'a "b"\n<script>', "class1": "\udce9t\u00e9", "class2": "=1+1"}
    try:
        for before, after in names.items():
            shutil.copytree(photos / before, tmp_path / "photos" / after)
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
        offline = headstart.WeightsSource(offline=True)
        headstart.train(
            tmp_path / "photos",
            out=tmp_path / "run",
            weights=offline,
            recipe=headstart.Recipe(approach="linear", seed=1),
            report=False,
        )
    with running_server(tmp_path / "run", *PATIENT, cache=tmp_path / "cache") as running:
        found = running.ask("/predict", jpeg(1))
    assert found.status == 200
    assert {each["label"] for each in found.json()} == set(names.values())


# Readiness and defaults


def statuses_until_the_end(server: RunningServer) -> set[int]:
    """What /readyz says until the process has ended."""
    seen = set()
    while server.process.poll() is None:
        with suppress(OSError):
            seen.add(server.ask("/readyz").status)
    return seen


def test_nothing_is_answered_before_it_is_ready(small_run: SmallRun, tmp_path: Path) -> None:
    """With an empty cache, so that opening the network takes long enough to be seen."""
    seen = []
    with running_server(small_run.path, *PATIENT, cache=tmp_path, wait=False) as running:
        while 200 not in seen:
            assert running.process.poll() is None
            with suppress(OSError):
                answered = running.ask("/predict", jpeg(1))
                seen.append(answered.status)
                if answered.status == 503:
                    assert answered.json() == {"error": "The server is starting.", "reason": "starting"}
                    assert answered.headers["retry-after"]
        assert running.ask("/readyz").json() == {"ready": True, "state": "ready"}
    assert set(seen) == {503, 200}
    assert seen == sorted(seen, reverse=True)


def test_a_damaged_run_never_becomes_ready(small_run: SmallRun, tmp_path: Path) -> None:
    shutil.copytree(small_run.path, tmp_path / "run")
    weights = tmp_path / "run" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with running_server(tmp_path / "run", cache=small_run.cache, wait=False) as running:
        assert 200 not in statuses_until_the_end(running)
        assert running.process.returncode == 1
        assert running.notes.startswith("DamagedRun: ")


def test_an_export_that_does_not_answer_as_it_should_never_becomes_ready(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra export, to make an export")
    from tiny_export import write_predicting_export

    export = write_predicting_export(tmp_path / "export", {"pixels": Preprocess(image_size=96)}, temperature=1.6)
    with running_server(export, *PATIENT, cache=tmp_path, wait=False) as running:
        assert 200 not in statuses_until_the_end(running)
        assert running.process.returncode == 1
        assert "its logits differ from the expected ones by " in running.notes
        assert "Traceback" not in running.notes


class OneAtATime(ExportedClassifier):
    """An export whose network waits a while for a second thread that runs it, which it may not."""

    def __init__(self, export: ExportFolder) -> None:
        super().__init__(export)
        self.running, self.overlapped = threading.Lock(), threading.Event()

    def opened_runner(self) -> Any:
        runner = super().opened_runner()

        def run(pixels: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            if self.running.locked():
                self.overlapped.set()
            with self.running:
                self.overlapped.wait(1.5)
                return runner(pixels)

        return run


def test_an_export_without_samples_is_checked_by_one_thread_at_a_time(tmp_path: Path, own_cache: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra export, to make an export")
    from headstart.serving.served_classifier import ServedClassifier
    from tiny_export import write_predicting_export

    place = write_predicting_export(tmp_path / "export", {"pixels": Preprocess(image_size=96)})
    (place / "samples" / "expected.json").unlink()
    write_manifest(place)
    folder = ExportFolder(place)
    opened = OpenedClassifier(OneAtATime(folder), export=folder)
    with Decoders(plan_of(opened), count=1, seconds_each=PATIENCE) as decoders:
        served = ServedClassifier(opened, decoders, Admission(images=1, size=1_000_000, seconds=PATIENCE))

        async def check() -> None:
            served.start(open_served(opened))
            await check_answers(served)
            served.close()

        asyncio.run(check())
    assert not opened.classifier.overlapped.is_set()


def test_a_run_that_does_not_answer_as_predict_does_is_not_served(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.serving.served_classifier import ServedClassifier

    monkeypatch.setenv("HEADSTART_CACHE", str(small_run.cache))
    opened = open_classifier(small_run.path)
    right = known_answer(opened.classifier)

    async def check(expected: np.ndarray) -> None:
        served.start(open_served(opened))
        known: Future[KnownAnswer] = Future()
        known.set_result(KnownAnswer(right.image, expected))
        await check_answers(served, known)

    with Decoders(plan_of(opened), count=1, seconds_each=PATIENCE) as decoders:
        served = ServedClassifier(opened, decoders, Admission(images=1, size=1_000_000, seconds=PATIENCE))
        asyncio.run(check(right.probabilities))
        with pytest.raises(ServeError) as caught:
            asyncio.run(check(right.probabilities + 0.25))
        served.close()
    assert str(caught.value) == (
        "the answer for a rendered scene is not that of `headstart predict`, but differs from it by up to 0.25.\n"
        "  This is a fault in headstart: please report it, with your CPU's name."
    )


def test_threads_that_open_the_same_network_compile_it_once(
    small_run: SmallRun, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    classifier = headstart.load_classifier(small_run.path)
    (member,) = classifier.members

    def opened(_: int) -> Network:
        return open_network(member.extractor.backbone, member.extractor.spec, classifier.runtime)

    with caplog.at_level("INFO", logger="headstart"), ThreadPoolExecutor(4) as threads:
        assert len(list(threads.map(opened, range(4)))) == 4
    (line,) = [line for line in caplog.messages if line.startswith("Compiling")]
    assert line.endswith("; cached for next time.")


WATCHED = """
import json, os, sys
attempts = []
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"):
        attempts.append(f"{event} {[arg for arg in args if isinstance(arg, (str, int, tuple))]}")
sys.addaudithook(watch)
import logging
from headstart.cli import run
logging.basicConfig(format="%(message)s", stream=sys.stderr)
logging.getLogger("headstart").setLevel(logging.INFO)
code = run(sys.argv[1:])
heavy = sorted({"torch", "timm", "sklearn", "matplotlib"} & set(sys.modules))
print(json.dumps([code, attempts, heavy]))
"""


def test_it_calls_nobody_listens_on_this_machine_only_and_needs_no_torch(small_run: SmallRun) -> None:
    port = free_port()
    command = [sys.executable, "-c", WATCHED, "serve", str(small_run.path), "--port", str(port), *PATIENT]
    environment = {**os.environ, "HEADSTART_CACHE": str(small_run.cache)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        lines = iter(process.stderr.readline, "")  # the network may have to be compiled first
        assert any(line.endswith(f" at http://127.0.0.1:{port}\n") for line in lines)
        server = RunningServer(port, process, Path(os.devnull))
        assert server.ask("/predict", jpeg(1)).status == 200
        for path in ("/", "/metrics", "/openapi.json"):
            assert server.ask(path).status == 200
        addressed = json.dumps({"inputs": "http://127.0.0.1:9/a.jpg"}).encode()
        assert server.ask("/predict", addressed, headers={"Content-Type": "application/json"}).status == 400
        assert server.end() == 0
        said = process.stdout.read().splitlines()
    assert json.loads(said[-1]) == [0, [], []]
    assert said[0].startswith("Stopped. ")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.com"])
def test_other_machines_need_a_token(host: str, tmp_path: Path) -> None:
    with pytest.raises(ServeError) as refused:
        headstart.serve(tmp_path, options=ServerOptions(host=host))
    assert str(refused.value) == (
        f"host {host}: other machines could send requests and read the answers without a token.\n"
        "  Add --token-file FILE with a token in it, or leave out --host."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory."),
        (b"", "expected at least 16 ASCII characters without spaces."),
        (b"too short\n", "expected at least 16 ASCII characters without spaces."),
        (b"two words of some length here", "expected at least 16 ASCII characters without spaces."),
        (b"\xff" * 20, "expected at least 16 ASCII characters without spaces."),
    ],
)
def test_a_token_file_that_is_no_token(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ServeError) as refused:
        headstart.serve(tmp_path, options=ServerOptions(token_file=file))
    assert refused.value.message == f"token_file {file}: {message}"


NO_HOST = "allow_host {!r} cannot be used: expected a host name without a scheme, a port or a *."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 70_000}, "port 70000 cannot be used: expected a whole number from 0 to 65535."),
        ({"queue": 0}, "queue 0 cannot be used: expected a whole number from 1 to 10000."),
        ({"deadline": float("nan")}, "deadline nan cannot be used: expected a number from 0.05 to 600."),
        ({"max_body": 10_000}, "max_body 10000 cannot be used: expected a number from 0.001 to 512."),
        ({"port": 80.5}, "port 80.5 cannot be used: expected a whole number from 0 to 65535."),
        ({"decoders": True}, "decoders True cannot be used: expected a whole number from 0 to 256."),
        ({"allow_host": "a, https://B.example"}, NO_HOST.format("https://b.example")),
        ({"allow_host": "b.example:8443"}, NO_HOST.format("b.example:8443")),
        ({"allow_host": "*.example"}, NO_HOST.format("*.example")),
        ({"allow_host": "2001:db8::7"}, NO_HOST.format("2001:db8::7")),
        ({"explain": "maybe"}, "explain 'maybe' is not known: expected auto, on or off."),
    ],
)
def test_an_option_that_makes_no_sense(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ServeError) as refused:
        headstart.serve(tmp_path, options=ServerOptions(**options))
    assert refused.value.message == message


def test_explanations_are_off_by_default_where_other_machines_could_see_training_images(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        assert ServerOptions(host=host).explains
        assert not ServerOptions(host=host, explain="off").explains
        assert not ServerOptions(host=host, allow_host="pets.example").explains  # a proxy is in front of it
        assert ServerOptions(host=host, allow_host="pets.example", explain="on").explains
    assert not ServerOptions(host="0.0.0.0", token_file=tmp_path).explains
    assert ServerOptions(host="0.0.0.0", token_file=tmp_path, explain="on").explains


def test_a_port_that_is_taken(server: RunningServer, small_run: SmallRun) -> None:
    command = [sys.executable, "-m", "headstart", "serve", str(small_run.path), "--port", str(server.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"ServeError: 127.0.0.1, port {server.port}: in use by another program.\n"
        "  Choose another --port, or 0 for any that is free.\n"
    )


def test_without_its_packages_it_says_what_to_install(small_run: SmallRun) -> None:
    program = (
        "import sys\nfor name in ('granian', 'starlette', 'prometheus_client'): sys.modules[name] = None\n"
        f"from headstart.cli import run\nsys.exit(run(['serve', {str(small_run.path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stderr == (
        "MissingExtra: Serving needs granian, prometheus-client and starlette, which are not installed here.\n"
        "  pip install 'headstart[serve]'\n"
    )


# The end


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_a_line(small_run: SmallRun, number: int) -> None:
    with running_server(small_run.path, *PATIENT, "--json", cache=small_run.cache) as running:
        assert running.ask("/predict", jpeg(1)).status == 200
        assert running.end(number) == 0
        document = json.loads(running.notes.splitlines()[-1])
    assert document["address"] == running.url
    assert document["requests"] >= 2
    assert document["seconds"] >= 0


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_a_signal_while_it_starts_ends_it_too(small_run: SmallRun, tmp_path: Path) -> None:
    with running_server(small_run.path, cache=tmp_path, wait=False) as running:
        while True:
            with suppress(OSError):
                running.ask("/healthz")
                break
        assert running.end() == 0
        assert "Traceback" not in running.notes
