"""The page of `headstart serve` in a browser, in front of a real server; explanations, with and without what they need.

Needs the extra serve; tests of the page also Playwright, its axe package and a Chromium. Skipped, saying so, without them.
"""

from __future__ import annotations

import base64
import io
import json
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
from conftest import PATIENCE, Opened, scene
from headstart.io.extras import is_installed
from headstart.io.folders import write_manifest
from headstart.model.backbones.builtin import NAME
from headstart.runs.run_folder import RunFolder
from headstart.training.recipe import Recipe
from running_server import RunningServer, encoded, jpeg, running_server

pytestmark = [
    pytest.mark.skipif(not is_installed("granian", "starlette", "prometheus_client"), reason="needs the extra serve"),
    pytest.mark.skipif(not is_installed("torch", "timm"), reason="needs the extra train: heat maps"),
]

CLASSES = ["<img src=x onerror=document.title='bad'>", "class1", "class2"]
SECRET = "a-secret-of-24-characters"
PATIENT = ("--deadline", "300", "--receive", "300")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache-of-file")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """The training images, one class with a name that is markup."""
    folder = shutil.copytree(photos, tmp_path_factory.mktemp("data") / "images")
    (folder / "class0").rename(folder / CLASSES[0])
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path, images: Path) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(cache))
        headstart.train(images, out=folder, recipe=Recipe(approach="linear", backbone=NAME), report=False)
    return folder


@pytest.fixture(scope="module")
def server(run: Path, cache: Path) -> Iterator[RunningServer]:
    """A server as it is started on one's own machine."""
    with running_server(run, *PATIENT, cache=cache) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(run: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that wants a token, and explains nothing."""
    token = tmp_path_factory.mktemp("secret") / "token"
    token.write_text(SECRET)
    token.chmod(0o600)
    options = ("--token-file", str(token), "--explain", "off")
    with running_server(run, *PATIENT, *options, cache=cache) as running:
        yield running


class ServedPage(Opened):
    """The page of a server; at its end, it has asked nobody but that server."""

    def __init__(self, browser: Any, server: RunningServer, **context: Any) -> None:
        self.server = server
        super().__init__(browser, server.url, reduced_motion="reduce", **context)

    def give(self, files: dict[str, bytes]) -> None:
        self.page.set_input_files("#files", [{"name": n, "mimeType": "", "buffer": d} for n, d in files.items()])

    def card(self, name: str) -> Any:
        """The card of an image, once it has an answer or a refusal."""
        card = self.page.locator("#cards > li", has=self.page.get_by_text(name, exact=True))
        card.locator(".took, .refused").first.wait_for(state="attached")
        return card

    def close(self) -> None:
        self.context.close()
        said = [text for text in self.said if "Failed to load resource" not in text]  # Chromium's, for 4xx and 503
        others = [url for url in self.asked if not url.startswith((self.server.url, "blob:", "data:"))]
        assert said == [] and others == []


@pytest.fixture
def opened(browser: Any, server: RunningServer) -> Iterator[ServedPage]:
    page = ServedPage(browser, server)
    yield page
    page.close()


def test_several_images_get_the_answers_of_the_server(opened: ServedPage) -> None:
    page = opened.page
    files = {f"{k}.jpg": jpeg(k) for k in range(6)}
    opened.give(files | {"text.jpg": b"no image"})
    for name, data in files.items():
        answer = opened.server.ask("/v1/classify", data).json()
        card = opened.card(name)
        assert card.locator("h3 bdi").inner_text() == answer["label"]
        shown = card.locator(".bars li").evaluate_all(
            "rows => rows.map(r => parseFloat(r.querySelector('.fill').style.width))"
        )
        expected = sorted(answer["probabilities"].values(), reverse=True)
        assert np.allclose(np.array(shown) / 100, expected, atol=1e-4)
        assert all(label in card.locator(".set").inner_text() for label in answer["set"])
    refused = opened.server.ask("/v1/classify", b"no image").json()["error"]
    assert opened.card("text.jpg").locator(".refused").inner_text() == refused
    assert page.locator("main img[src='x']").count() == 0 and page.title().startswith("<img src=x")
    assert opened.violations() == []


def test_an_image_that_was_too_slow_can_be_tried_again(opened: ServedPage) -> None:
    page = opened.page
    slow = {"error": "The image took more than 1.6 s to decode and was stopped.", "reason": "too_slow"}
    page.route("**/v1/classify", lambda route: route.fulfill(status=422, json=slow), times=1)
    opened.give({"slow.jpg": jpeg(1)})
    assert opened.card("slow.jpg").locator(".refused").inner_text() == slow["error"]
    page.get_by_role("button", name="Try again").click()
    page.locator(".label").wait_for()
    opened.give({"text.jpg": b"no image"})
    assert opened.card("text.jpg").get_by_role("button", name="Try again").count() == 0


SETS = {
    "one.jpg": (1, False, "Prediction set: 1."),
    "forced.jpg": (
        1,
        True,
        "Prediction set: 1. It is only the likeliest class: the right class is usually more probable.",
    ),
    "two.jpg": (2, False, "Prediction set: 1 or 2."),
    "nine.jpg": (9, False, "Prediction set: 1, 2, 3, 4, 5, 6, 7, 8 or 1 other."),
    "ten.jpg": (10, False, "Prediction set: 1, 2, 3, 4, 5, 6, 7, 8 or 2 others."),
    "all.jpg": (12, False, "Prediction set: any of the 12 classes."),
}


def test_prediction_sets_in_words_are_no_promise_for_one_image(opened: ServedPage) -> None:
    page, probabilities = opened.page, {f"{k}": (13 - k) / 78 for k in range(1, 13)}
    found = {"model": "m", "label": "1", "probability": 12 / 78, "alpha": 0.005, "probabilities": probabilities}
    found["seconds"] = {"decode": 0.001, "network": 0.001, "total": 0.002}

    def answer(route: Any) -> None:
        size, forced, _ = SETS[route.request.post_data]
        named = list(probabilities)[:size]
        route.fulfill(json={**found, "set": named, "forced": forced})

    page.route("**/v1/classify", answer)
    opened.give({name: name.encode() for name in SETS})
    for name, (_, _, sentence) in SETS.items():
        assert opened.card(name).locator(".set").inner_text() == sentence
    assert page.locator("#promise").inner_text() == (
        "Prediction sets are chosen so that at least 99.5\u202f% of them contain the right class: on average over images "
        "like the validation images, not for each single image."
    )


def test_an_answer_is_explained(opened: ServedPage) -> None:
    opened.give({"one.jpg": jpeg(1)})
    card = opened.card("one.jpg")
    card.get_by_role("button", name="Explain").click()
    card.locator(".near").wait_for()
    heat, toggle = card.locator(".heat"), card.get_by_role("button", name="Heat map")
    assert heat.evaluate("i => i.complete && i.naturalWidth === 160") and toggle.get_attribute("aria-pressed") == "true"
    toggle.click()
    assert not heat.is_visible() and toggle.get_attribute("aria-pressed") == "false"
    loaded = card.locator(".near img").evaluate_all("all => all.map(i => i.complete && i.naturalWidth > 0)")
    assert loaded == [True] * 5
    assert set(card.locator(".near bdi").all_inner_texts()) <= set(CLASSES)
    assert opened.violations() == []


def test_the_heat_map_lies_on_the_image_as_it_was_classified(opened: ServedPage) -> None:
    """Browsers do not turn a WebP by its EXIF data, and do not decode TIFF."""
    photo, exif = scene(1, (900, 600)), Image.Exif()
    exif[0x112] = 6
    opened.give({"turned.webp": encoded(photo, "WEBP", exif=exif), "shown.tif": encoded(photo, "TIFF")})
    assert opened.card("shown.tif").get_by_text("no preview in this browser").is_visible()
    for name, size in {"turned.webp": [427, 640], "shown.tif": [640, 427]}.items():
        card = opened.card(name)
        card.get_by_role("button", name="Explain").click()
        card.locator(".heat").wait_for()
        sizes = card.locator(".frame img").evaluate_all(
            "async all => { for (const i of all) await i.decode(); return all.map(i => [i.naturalWidth, i.naturalHeight]); }"
        )
        assert sizes[0] == size and (sizes[1][0] < sizes[1][1]) == (size[0] < size[1]), name


def test_a_busy_server_is_asked_again_and_a_token_is_asked_for(browser: Any, guarded: RunningServer) -> None:
    opened = ServedPage(browser, guarded)
    page = opened.page
    assert page.title() == "Image classifier" and "class1" not in page.content()  # without the token, it tells nothing
    opened.give({"one.jpg": jpeg(1), "two.jpg": jpeg(2)})
    field, said = page.get_by_label("This server requires a token."), page.locator("#token-said")
    for wrong in ("\u200b" + SECRET, "two words"):  # the first one cannot be a header, and is easily pasted
        field.fill(wrong)
        page.get_by_role("button", name="Continue").click()
        page.get_by_text("A token has only ASCII characters and no spaces. Paste it again, or type it.").wait_for()
    field.fill("wrong")
    page.get_by_role("button", name="Continue").click()
    page.get_by_text("The server refused that token.").wait_for()
    page.wait_for_selector("#secret:focus")
    assert said.get_attribute("role") == "alert" and field.get_attribute("aria-describedby") == "token-said"
    full = iter([{"error": "Not now: the queue is full.", "reason": "overloaded"}] * 2)

    def at_first_full(route: Any) -> None:
        refusal = next(full, None)
        if refusal is None:
            route.continue_()
        else:
            route.fulfill(status=503, headers={"Retry-After": "2"}, body=json.dumps(refusal))

    page.route("**/v1/classify", at_first_full)  # what a full server says; the rest is the server's own
    field.fill(SECRET)
    page.keyboard.press("Enter")
    page.get_by_text("The server is busy: asking again in 2 s").first.wait_for()
    for name in ("one.jpg", "two.jpg"):
        assert opened.card(name).locator(".label").count() == 1
        assert opened.card(name).get_by_role("button", name="Explain").count() == 0
    opened.close()


def test_work_on_removed_images_ends(browser: Any, server: RunningServer) -> None:
    opened = ServedPage(browser, server)
    page, held = opened.page, []

    def hold(route: Any) -> None:
        if len(held) < 4:  # as many as the page sends at once
            held.append(route)
        else:
            route.continue_()

    page.route("**/v1/classify", hold)
    opened.give({f"{k}.jpg": jpeg(k) for k in range(4)} | {"waiting.jpg": jpeg(5)})
    page.wait_for_function("() => document.querySelectorAll('.busy').length === 5")
    while len(held) < 4:
        page.wait_for_timeout(20)
    aborted: list[str] = []
    page.on("requestfailed", lambda request: aborted.append(request.failure))
    page.get_by_role("button", name="Remove 0.jpg").click()
    assert opened.card("waiting.jpg").locator(".label").count() == 1  # the place is free
    page.get_by_role("button", name="Remove all").click()
    opened.give({f"{k}.jpg": jpeg(k) for k in range(6, 10)})
    for k in range(6, 10):
        assert opened.card(f"{k}.jpg").locator(".label").count() == 1
    assert len(aborted) == 4 and page.locator("#aloud").inner_text().startswith(
        tuple(f"{k}.jpg: " for k in range(6, 10))
    )
    opened.close()


def test_the_page_and_its_files_need_no_other_host(server: RunningServer, guarded: RunningServer) -> None:
    for each in (server, guarded):
        page = each.ask("/")
        assert page.status == 200 and page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert b"http://" not in page.body and b"https://" not in page.body
        for name in ("style.css", "app.js", "classify_there.js"):
            assert each.ask(f"/assets/{name}").status == 200
        for name in ("index.html.j2", "pixels.js", "../web_page.py", "%2e%2e/web_page.py", ""):
            assert each.ask(f"/assets/{name}").status == 404


def test_an_explanation_has_no_path_and_is_refused_where_it_is_off(
    server: RunningServer, guarded: RunningServer, images: Path
) -> None:
    image = (images / "class1" / "000.jpg").read_bytes()
    found = server.ask("/v1/explain", image)
    explained = found.json()
    assert found.status == 200 and set(explained) == {"model", "label", "heat", "image", "seen", "nearest", "note"}
    heat = Image.open(io.BytesIO(base64.b64decode(explained["heat"].partition(",")[2])))
    assert heat.mode == "RGBA" and max(heat.size) == 160 and explained["note"] == ""
    assert len(explained["nearest"]) == 5 and str(images).encode() not in found.body and b".jpg" not in found.body
    cosines = [each["cosine"] for each in explained["nearest"]]
    assert cosines == sorted(cosines, reverse=True) and cosines[0] < 1  # not the image itself
    assert server.ask("/v1/explain", b"no image").status == 422
    off = guarded.ask("/v1/explain", image, headers={"Authorization": f"Bearer {SECRET}"})
    assert off.status == 404 and off.json()["reason"] == "explain"
    assert guarded.ask("/v1/explain", image).status == 401


WITHOUT_TORCH = """
import json, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "timm", "captum"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
from pathlib import Path
from headstart.runs.run_folder import RunFolder
from headstart.serving.explainer import Explainer

explainer = Explainer(RunFolder(Path(sys.argv[1])))
found = explainer.explain(sys.stdin.buffer.read(), "class1").to_json()
print(json.dumps([found["heat"], found["note"], len(found["nearest"])]))
"""


def explained_without_torch(run: Path) -> Any:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(run)]
    done = subprocess.run(command, input=jpeg(5), capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.splitlines()[-1])


NO_TORCH = "A heat map needs timm, torch and captum, which are not installed here."
GONE = "The training images cannot be read from where they were, so none are shown."
FEWER = "{} of {} training images are not searched: they are gone, or their features are not in this machine's cache."


def test_what_is_missing_is_said_and_the_rest_is_answered(run: Path, images: Path, cache: Path) -> None:
    training = [row.label for row in RunFolder(run).training_rows]
    fewer = FEWER.format(training.count("class1"), len(training))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(cache))
        heat, note, near = explained_without_torch(run)
        assert (heat, near) == (None, 5) and note == NO_TORCH
        for place, sentence, nearest in ((images, GONE, 0), (images / "class1", fewer, 5)):
            place.rename(images.with_name("moved"))
            try:
                heat, note, near = explained_without_torch(run)
            finally:
                images.with_name("moved").rename(place)
            assert (heat, near) == (None, nearest) and note == f"{NO_TORCH} {sentence}"


def test_training_images_are_neither_downloaded_nor_embedded(run: Path, tmp_path: Path) -> None:
    """One click could otherwise occupy the server for hours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(tmp_path / "empty"))
        heat, note, near = explained_without_torch(run)
        assert (heat, near) == (None, 0) and note == (
            f"{NO_TORCH} The features of the training images are not in this machine's cache, so no similar ones are shown. "
            "`headstart explain` computes them, with the same HEADSTART_CACHE; then restart the server."
        )
        assert not list(tmp_path.rglob("*.safetensors"))
        far = shutil.copytree(run, tmp_path / "far")
        facts = json.loads((far / "headstart.json").read_bytes())
        facts["provenance"]["data"]["path"] = "s3://nobodys-bucket/"
        (far / "headstart.json").write_text(json.dumps(facts))
        write_manifest(far)
        heat, note, near = explained_without_torch(far)
        assert (heat, near) == (None, 0) and note == (
            f"{NO_TORCH} The training images are in a bucket, from which this server downloads nothing."
        )
