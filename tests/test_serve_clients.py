"""Programs of others, unmodified, against a running server: clients of Hugging Face and Triton, curl, the lines in the docs;
and testers that only know the server's description of itself.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart
from conftest import PATIENCE, REPOSITORY
from headstart.images.preprocess import read_pixels
from headstart.io.extras import is_installed
from headstart.model.backbones.builtin import NAME
from headstart.model.inference.predictor import Predictor
from headstart.runs.run_folder import load_classifier
from headstart.training.recipe import Recipe
from running_server import RunningServer, running_server

pytestmark = pytest.mark.skipif(
    not is_installed("granian", "starlette", "prometheus_client"), reason="needs the extra serve"
)

PATIENT = ("--deadline", "300", "--receive", "300")
CLASSES = ("class0", "class1", "class2")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole file."""
    return tmp_path_factory.mktemp("cache-of-file")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path, photos: Path) -> Path:
    """A run in a folder named `run`."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(cache))
        headstart.train(photos, out=folder, recipe=Recipe(approach="linear", backbone=NAME), report=False)
    return folder


@pytest.fixture(scope="module")
def server(run: Path, cache: Path) -> Iterator[RunningServer]:
    """The server of that run, with time enough for slow machines, and without what needs torch."""
    with running_server(run, *PATIENT, "--explain", "off", cache=cache) as running:
        yield running


@pytest.fixture(scope="module")
def files(photos: Path) -> list[Path]:
    """Three images."""
    return [photos / name / "003.jpg" for name in CLASSES]


@pytest.fixture
def predictor(run: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """What `headstart predict` answers with."""
    monkeypatch.setenv("HEADSTART_CACHE", str(cache))
    return Predictor(load_classifier(run), cache=False)


# Hugging Face


def test_the_client_of_hugging_face_works_as_with_their_own_servers(
    server: RunningServer, files: list[Path], predictor: Predictor
) -> None:
    from huggingface_hub import InferenceClient

    expected = predictor.predict(files).probabilities
    for url in (server.url, f"{server.url}/models/headstart"):
        client = InferenceClient(model=url)
        for given, probabilities_K in zip((files[0], str(files[1]), files[2].read_bytes()), expected, strict=True):
            answer = client.image_classification(given)
            assert {each.label: each.score for each in answer} == dict(zip(CLASSES, probabilities_K, strict=True))
            assert [each.score for each in answer] == sorted(probabilities_K, reverse=True)
    assert len(client.image_classification(files[0], top_k=1)) == 1
    assert len(client.image_classification(files[0], top_k=2, function_to_apply="softmax")) == 2


def test_the_client_of_hugging_face_tells_a_bad_image_from_a_bad_server(server: RunningServer, tmp_path: Path) -> None:
    from huggingface_hub import InferenceClient
    from huggingface_hub.errors import HfHubHTTPError

    (tmp_path / "no.jpg").write_bytes(b"no image")
    with pytest.raises(HfHubHTTPError) as refused:
        InferenceClient(model=server.url).image_classification(tmp_path / "no.jpg")
    assert refused.value.response.status_code == 422
    assert refused.value.response.json()["reason"] == "not_an_image"


# Triton


@pytest.fixture
def triton(server: RunningServer) -> Iterator[Any]:
    """Triton's client of the Open Inference Protocol."""
    http = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http], which is not installed")
    with http.InferenceServerClient(server.address, network_timeout=PATIENCE, connection_timeout=PATIENCE) as client:
        yield client


def bytes_input(*contents: bytes, binary: bool = True) -> Any:
    """The input `image` of Triton's client; in JSON, its strings must be base64."""
    import tritonclient.http as http

    tensor = http.InferInput("image", [len(contents)], "BYTES")
    sent = contents if binary else [base64.b64encode(content) for content in contents]
    return tensor.set_data_from_numpy(np.array(sent, object), binary_data=binary)


def test_tritons_client_finds_server_and_model(triton: Any, run: Path) -> None:
    version = load_classifier(run).id
    assert triton.is_server_live() and triton.is_server_ready()
    assert triton.is_model_ready("headstart") and triton.is_model_ready("headstart", version)
    assert not triton.is_model_ready("other") and not triton.is_model_ready("headstart", "1")
    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    described = triton.get_model_metadata("headstart")
    assert (described["name"], described["versions"]) == ("headstart", [version])
    assert described["inputs"][0]["name"] == "image"
    assert described["outputs"][1] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_gets_predicts_numbers_for_files(
    triton: Any, files: list[Path], predictor: Predictor, binary: bool
) -> None:
    expected = predictor.predict(files)
    answer = triton.infer("headstart", [bytes_input(*(f.read_bytes() for f in files), binary=binary)], request_id="r1")
    np.testing.assert_array_equal(answer.as_numpy("logits"), expected.logits)
    np.testing.assert_array_equal(answer.as_numpy("probabilities"), expected.probabilities.astype(np.float32))
    labels = [text.decode() for text in answer.as_numpy("label")]
    assert labels == [CLASSES[k] for k in expected.probabilities.argmax(1)]
    assert answer.get_response()["id"] == "r1"


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_gets_the_same_for_pixels(
    triton: Any, files: list[Path], predictor: Predictor, binary: bool
) -> None:
    import tritonclient.http as http

    (member,) = predictor.classifier.members
    pixels = np.stack([read_pixels(file, member.extractor.spec) for file in files])
    (name,) = (each["name"] for each in triton.get_model_metadata("headstart")["inputs"] if each["datatype"] == "UINT8")
    tensor = http.InferInput(name, list(pixels.shape), "UINT8").set_data_from_numpy(pixels, binary_data=binary)
    wanted = [
        http.InferRequestedOutput("label", binary_data=not binary),
        http.InferRequestedOutput("logits", binary_data=binary),
    ]
    answer = triton.infer("headstart", [tensor], outputs=wanted)
    np.testing.assert_array_equal(answer.as_numpy("logits"), predictor.predict(files).logits)
    assert answer.as_numpy("label").shape == (3,)
    assert answer.as_numpy("probabilities") is None


def test_of_several_images_the_bad_ones_are_named(triton: Any, files: list[Path]) -> None:
    import tritonclient.http as http

    good = files[0].read_bytes()
    with pytest.raises(http.InferenceServerException) as refused:
        triton.infer("headstart", [bytes_input(good, good[:400], good, b"text")])
    assert refused.value.status() == "422"
    assert re.search(r"Image 2 of 4: .*Image 4 of 4: ", refused.value.message())
    with pytest.raises(http.InferenceServerException) as refused:
        triton.infer("headstart", [bytes_input(*[good] * 65)])
    assert refused.value.status() == "400" and "expected 1 to 64 per request" in refused.value.message()
    for count, rest in ((6, "1 more image cannot be used."), (7, "2 more images cannot be used.")):
        with pytest.raises(http.InferenceServerException) as refused:
            triton.infer("headstart", [bytes_input(*[b"text"] * count)])
        assert refused.value.message().count("Image ") == 5 and refused.value.message().endswith(f" {rest}")


def test_other_ways_of_asking_are_refused_with_their_status(server: RunningServer, files: list[Path]) -> None:
    path, image = "/v2/models/headstart/infer", base64.b64encode(files[0].read_bytes()).decode()
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [image]}
    good = json.dumps({"inputs": [tensor]}).encode()
    assert server.ask(path, good).status == 200
    assert server.ask(path, good, headers={"Content-Type": "application/json; charset=utf-8"}).status == 200
    asked = {
        "text/plain": server.ask(path, good, headers={"Content-Type": "text/plain"}),
        "gzip": server.ask(path, good, headers={"Content-Encoding": "gzip"}),
        "no such model": server.ask("/v2/models/other/infer", good),
        "GET": server.ask(path),
        "nothing": server.ask(path, b""),
        "no JSON": server.ask(path, files[0].read_bytes()),
        "a wrong length": server.ask(path, good, headers={"Inference-Header-Content-Length": "x"}),
        "no image": server.ask(path, json.dumps({"inputs": [{**tensor, "data": ["AAAA"]}]}).encode()),
        "many values": server.ask(
            "/predict", b"[" + b"{}," * 20_000 + b"{}]", headers={"Content-Type": "application/json"}
        ),
        "an empty image": server.ask(path, json.dumps({"inputs": [{**tensor, "data": [""]}]}).encode()),
    }
    statuses = dict(zip(asked, (415, 415, 404, 405, 400, 400, 400, 422, 400, 422), strict=True))
    assert {name: answer.status for name, answer in asked.items()} == statuses
    assert all(set(answer.json()) == {"error", "reason"} for answer in asked.values())
    assert asked["an empty image"].json()["reason"] == "empty"


# The lines in the docs


def blocks(language: str) -> list[str]:
    """The examples of docs/serving.md in a language."""
    page = (REPOSITORY / "docs" / "serving.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, files: list[Path]) -> Path:
    """A folder with `cat.jpg`."""
    shutil.copy(files[0], tmp_path / "cat.jpg")
    return tmp_path


def said(command: list[str], place: Path) -> str:
    """What a command prints."""
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def here(text: str, server: RunningServer) -> str:
    """An example, asking this server."""
    return text.replace("127.0.0.1:8000", server.address)


def test_the_lines_for_curl(server: RunningServer, place: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl, which is not installed")
    (block,) = blocks("bash")
    first, best, whole = (json.loads(said(["sh", "-c", here(line, server)], place)) for line in block.splitlines())
    assert [set(each) for each in first] == [{"label", "score"}] * 3
    assert best == first[:1]
    assert whole["label"] == best[0]["label"] and whole["probabilities"][whole["label"]] == best[0]["score"]
    shown_first, shown_whole = map(json.loads, blocks("json"))
    assert set(shown_first[0]) == {"label", "score"}
    assert set(shown_whole) == set(whole) and set(shown_whole["seconds"]) == set(whole["seconds"])


def test_the_lines_for_python(server: RunningServer, place: Path) -> None:
    standard, hugging_face, triton = blocks("python")
    assert "class0" in said([sys.executable, "-c", here(standard, server)], place)
    assert "class0" in said([sys.executable, "-c", here(hugging_face, server)], place)
    pytest.importorskip("tritonclient.http", reason="needs tritonclient[http], which is not installed")
    assert "class0" in said([sys.executable, "-c", here(triton, server)], place)


def test_the_lines_for_javascript(server: RunningServer, place: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("needs node, which is not installed")
    (block,) = blocks("javascript")
    (place / "ask.mjs").write_text(here(block, server))
    assert "class0" in said(["node", "ask.mjs"], place)


# What the server says about itself


def test_the_description_is_valid_openapi(server: RunningServer) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="needs openapi-spec-validator, not installed")
    document = server.ask("/openapi.json").json()
    validator.validate(document)
    assert document["openapi"].startswith("3.1")
    asked = {path: document["paths"][path] for path in ("/predict", "/v1/classify", "/v2/models/{name}/infer")}
    assert all({"400", "413", "415", "422", "503"} <= set(each["post"]["responses"]) for each in asked.values())


HOOKS = """
import schemathesis
from hypothesis import strategies as st

for media_type in {types}:
    schemathesis.openapi.media_type(media_type, st.sampled_from({images}) | st.binary(max_size=200))
"""
SETTINGS = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", 400, 422, 503]
"""


def schemathesis(server: RunningServer, place: Path, *options: str) -> str:
    """What schemathesis says; it must find nothing."""
    pytest.importorskip("schemathesis", reason="needs schemathesis, which is not installed")
    document = server.ask("/openapi.json").json()
    types = sorted(set(document["paths"]["/predict"]["post"]["requestBody"]["content"]) - {"multipart/form-data"})
    types.remove("application/json")
    images = [b"P6 1 1 255 rgb", b"P6 9 9 255 rgb", b"no image"]  # whole, cut off
    (place / "hooks.py").write_text(HOOKS.format(types=types, images=images))
    (place / "schemathesis.toml").write_text(SETTINGS)
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(place)}
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--seed", "1"]
    command += ["--request-timeout", "300", *options]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    return done.stdout


def test_a_tester_finds_nothing_that_is_not_described(server: RunningServer, tmp_path: Path) -> None:
    schemathesis(server, tmp_path, "--max-examples", "4", "--phases", "examples,coverage")
    assert server.ask("/readyz").status == 200


@pytest.mark.slow
def test_a_tester_finds_nothing_in_thousands_of_requests(run: Path, cache: Path, tmp_path: Path) -> None:
    with running_server(run, *PATIENT, cache=cache) as server:
        print(schemathesis(server, tmp_path, "--max-examples", "300", "--continue-on-failure")[-1_500:])
        assert server.ask("/readyz").status == 200


def test_an_image_of_every_size_is_answered(server: RunningServer, place: Path) -> None:
    """The network's side does not matter to a caller."""
    for size in ((1, 1), (1, 700), (3_000, 2), (1_200, 900)):
        Image.new("RGB", size, "teal").save(place / "any.png")
        assert server.ask("/predict", (place / "any.png").read_bytes()).status == 200
