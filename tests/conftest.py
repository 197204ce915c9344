"""Shared fixtures: small real images made here, and the larger sets where a checkout has them beside it."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 1_000  # seconds after which a process hangs: machines may be busy
WAIT = 300_000  # milliseconds for a step in a browser
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # no test asks the hub itself: nobody answers there, at once


LONG_FILES = ("test_export.py", "test_user_inputs.py", "test_compare.py", "test_train.py", "test_parity.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: each runs in one process, and should not be the last to start."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


@pytest.fixture(scope="session", autouse=True)
def interrupts_arrive() -> None:
    """Let Ctrl-C through: what a shell starts in the background ignores it, and so would the processes that tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data sets and weights that some checkouts have beside them; the test is skipped without it."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "weights").is_dir():
        pytest.skip("needs ../shared (real images and weights), which is not here")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Each test has a cache folder of its own, so that none sees another's features."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HEADSTART_CACHE", str(folder))
    for name in ("HEADSTART_WEIGHTS", "HF_HUB_OFFLINE"):
        if name in os.environ:
            monkeypatch.delenv(name)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def draw(kind: int, seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """An image of class `kind`: stripes of that direction and colour on a noisy ground, each seed another."""
    rng = np.random.default_rng((kind, seed))
    width, height = size
    y, x = np.mgrid[:height, :width]
    wave = np.sin((x * np.cos(kind) + y * np.sin(kind)) / rng.uniform(3, 6) + rng.uniform(0, 6))
    colour = rng.uniform(60, 120, 3) + 90 * (np.arange(3) == kind % 3)
    pixels = colour + 35 * wave[..., None] + rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def scene(seed: int, size: tuple[int, int] = (240, 180)) -> Image.Image:
    """An image with structure of all sizes, the finer the fainter, as in photographs; each seed another."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((size[1], size[0], 3))
    for k in range(6):
        rows = 3 * 2**k
        layer = rng.normal(size=(rows, rows * 4 // 3, 1)) + 0.4 * rng.normal(size=(rows, rows * 4 // 3, 3))
        for c in range(3):
            channel = Image.fromarray(layer[:, :, c].astype(np.float32))
            pixels[:, :, c] += 0.55**k * np.asarray(channel.resize(size, Image.Resampling.BICUBIC))
    return Image.fromarray((128 + 60 * pixels / pixels.std()).clip(0, 255).astype(np.uint8))


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """What is left of an image that was saved as JPEG."""
    data = io.BytesIO()
    image.convert("RGB").save(data, "JPEG", quality=quality)
    return Image.open(io.BytesIO(data.getvalue())).convert("RGB")


def write_photos(folder: Path, classes: int = 3, each: int = 14, first: int = 0) -> Path:
    """Class folders `class0`, `class1` ... of JPEGs made by `draw`."""
    for kind in range(classes):
        (folder / f"class{kind}").mkdir(parents=True, exist_ok=True)
        for n in range(first, first + each):
            draw(kind, n).save(folder / f"class{kind}" / f"{n:03}.jpg", quality=90)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """42 JPEGs in three class folders. Shared by all tests: never write into it."""
    return write_photos(tmp_path_factory.mktemp("photos") / "photos")


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with two tiny backbones (random weights, 64 px): `test_resnet.a` and `test_efficientnet.b`."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("weights")
    for seed, (architecture, tag) in enumerate((("test_resnet", "a"), ("test_efficientnet", "b"))):
        torch.manual_seed(seed)
        model = timm.create_model(architecture, num_classes=0)
        name = f"{architecture}.{tag}"
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / f"{name}.safetensors")
        config = {
            "input_size": [3, 64, 64],
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "license": "apache-2.0",
        }
        config |= {"interpolation": "bicubic", "crop_pct": 0.9}
        (folder / f"{name}.json").write_text(
            json.dumps({"architecture": architecture, "num_classes": 0, "pretrained_cfg": config})
        )
    return folder


@pytest.fixture(scope="session")
def warm_cache(tmp_path_factory: pytest.TempPathFactory, photos: Path, tiny_weights: Path) -> Path:
    """A cache folder with the tiny backbones' compiled graphs: copy it, and no process has to import torch."""
    folder = tmp_path_factory.mktemp("warm")
    environment = {**os.environ, "HEADSTART_CACHE": str(folder)}
    command = [
        sys.executable,
        "-m",
        "headstart",
        "train",
        str(photos),
        "--out",
        str(folder / "run"),
        "--approach",
        "linear",
    ]
    subprocess.run([*command, "--weights-dir", str(tiny_weights)], env=environment, check=True, capture_output=True)
    shutil.rmtree(folder / "run")
    shutil.rmtree(folder / "features")
    return folder


@dataclass(frozen=True)
class SmallRun:
    """A run that takes two seconds to make, and the cache folder with its compiled network."""

    path: Path
    cache: Path


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> SmallRun:
    """A run on `photos` with the embedded backbone. Shared by all tests: never write into it."""
    folder = tmp_path_factory.mktemp("small")
    made = SmallRun(folder / "run", folder / "cache")
    command = ["train", str(photos), "--offline", "--approach", "linear", "--out", str(made.path)]
    environment = {**os.environ, "HEADSTART_CACHE": str(made.cache)}
    subprocess.run([sys.executable, "-m", "headstart", *command], env=environment, check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")  # not the session's: while Playwright runs, nothing else in the process can use asyncio
def browser() -> Iterator[Any]:
    """A Chromium, driven by Playwright. Skips, saying so, where one of them or the axe package is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, which is not installed")
    pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    if CHROMIUM is None:
        pytest.skip("needs a Chromium, which is not here")
    with sync_api.sync_playwright() as playwright:
        fake_camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", *fake_camera], timeout=WAIT
        )
        yield chromium
        chromium.close()


def serious_violations(page: Any) -> list[tuple[str, str]]:
    """What axe finds serious or critical: (rule, the first element)."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]


class Opened:
    """A page in a browser, and what it asked for and complained of. `context` as Playwright's `new_context` takes it."""

    def __init__(self, browser: Any, file: Path | str, **context: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1100, "height": 800}, **context})
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri() if isinstance(file, Path) else file)

    def violations(self) -> list[tuple[str, str]]:
        """What axe finds serious or critical: (rule, the first element)."""
        return serious_violations(self.page)

    def close(self) -> None:
        """Nothing but the page itself was asked for, and nothing was complained of."""
        asked = [url for url in self.asked if not url.startswith("data:")]
        self.context.close()
        assert self.said == [] and len(asked) == 1
