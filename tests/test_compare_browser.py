"""The page of a comparison in a real browser: no request, no error, nothing that axe calls serious, light, dark and narrow.

Needs Playwright for Python, its axe package, and a Chromium; skipped, saying so, where one of them is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import Opened
from headstart.reports.compare_page import compare_page
from test_compare_page import BAD, EPOCHS, GOOD, HOSTILE, LIKE, compared, contender

NAMES = ("good", HOSTILE[0], HOSTILE[2])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tuned = contender(
        NAMES[2], BAD, latency_ms=9.0, pareto_optimal=False, train_seconds=60.0, epochs=EPOCHS, best_epoch=2
    )
    trials = [contender(NAMES[0], GOOD), contender(NAMES[1], LIKE, latency_ms=20.0, file_bytes=5_000_000), tuned]
    place = tmp_path_factory.mktemp("page") / "report.html"
    place.write_text(compare_page(compared(trials, [GOOD, LIKE, BAD])), encoding="utf-8")
    return place


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1100), ("dark", 1100), ("light", 390)], ids=["light", "dark", "phone"]
)
def test_it_works_and_is_accessible(browser: Any, file: Path, scheme: str, width: int) -> None:
    opened = Opened(browser, file, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = opened.page

    def trials() -> list[str]:
        return [str(t).split("●")[0].strip() for t in page.locator("#trials tbody th").all_inner_texts()]

    assert [t.splitlines()[0].strip() for t in trials()] == [n.replace("\u202e", "\\u202e") for n in NAMES]
    page.get_by_role("button", name="weights, MB").click()
    assert trials()[0].startswith(NAMES[1])
    page.get_by_role("button", name="ms per image").click()
    assert trials()[0].startswith(NAMES[0])
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # A figure's ink is the page's own, and changes with it.
    ink = "getComputedStyle(document.querySelector('#costs svg text:last-of-type')).fill"
    assert page.evaluate(ink) == page.evaluate("getComputedStyle(document.body).color")
    before = page.evaluate(ink)
    page.locator("#theme").click()
    assert page.evaluate(ink) != before
    assert opened.violations() == []
    opened.close()
