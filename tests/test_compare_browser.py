"""The page of a comparison in a real browser: no request, no error, nothing that axe calls serious, light, dark and narrow.

Needs Playwright for Python, its axe package, and a Chromium; skipped, saying so, where one of them is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headstart.deliver.compare_page import compare_page
from test_compare_page import BAD, EPOCHS, GOOD, HOSTILE, LIKE, compared, contender

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, which is not installed")
axe_api = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium, which is not here")

WAIT = 120_000  # milliseconds: machines may be busy
NAMES = ("good", HOSTILE[0], HOSTILE[2])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tuned = contender(NAMES[2], BAD, latency_ms=9.0, on_front=False, seconds=60.0, epochs=EPOCHS, best_epoch=2)
    trials = [contender(NAMES[0], GOOD), contender(NAMES[1], LIKE, latency_ms=20.0, file_bytes=5_000_000), tuned]
    place = tmp_path_factory.mktemp("page") / "report.html"
    place.write_text(compare_page(compared(trials, [GOOD, LIKE, BAD])), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=WAIT
        )
        yield chromium
        chromium.close()


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1100), ("dark", 1100), ("light", 390)], ids=["light", "dark", "phone"]
)
def test_it_works_and_is_accessible(browser: Any, file: Path, scheme: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(WAIT)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())

    def trials() -> list[str]:
        return [str(t).split("●")[0].strip() for t in page.locator("#trials tbody th").all_inner_texts()]

    assert [t.splitlines()[0].strip() for t in trials()] == [n.replace("\u202e", "\\u202e") for n in NAMES]
    page.get_by_role("button", name="weights, MB").click()
    assert trials()[0].startswith(NAMES[1])
    page.get_by_role("button", name="ms a picture").click()
    assert trials()[0].startswith(NAMES[0])
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # A figure's ink is the page's own, and changes with it.
    ink = "getComputedStyle(document.querySelector('#costs svg text:last-of-type')).fill"
    assert page.evaluate(ink) == page.evaluate("getComputedStyle(document.body).color")
    before = page.evaluate(ink)
    page.locator("#theme").click()
    assert page.evaluate(ink) != before
    found = axe_api.Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []
    context.close()
    assert said == [] and len([url for url in asked if not url.startswith("data:")]) == 1
