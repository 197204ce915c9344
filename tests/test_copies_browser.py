"""The page of copies in a real browser: no request, no error, nothing that axe calls serious, light, dark and narrow.

Needs Playwright for Python, its axe package, and a Chromium; skipped, saying so, where one of them is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import Opened, draw
from headstart.data.not_copies import CopyRow
from headstart.reports.copies_page import CopiesSheet, copies_page
from test_report import HOSTILE


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copies")
    files = {name: folder / f"{n}.jpg" for n, name in enumerate(HOSTILE)}
    for n, image in enumerate(files.values()):
        draw(0, n, (64, 48 if n % 2 else 120)).save(image)
    rows = [
        CopyRow(name, copy, "cat", label, "near", "0.01")
        for name, copy, label in zip(HOSTILE, [*HOSTILE[1:], "a/very/long/path/" * 9], ["cat", "dog"] * 4, strict=True)
    ]
    sheet = CopiesSheet(
        HOSTILE[0],
        rows,
        rows[:3],
        files,
        dict.fromkeys(HOSTILE, "train"),
        0.02,
        "checks-copies.csv",
        [("Train:", "headstart train photos --not-copies not-copies.csv --out " + "run" * 60)],
        0.004,
    )
    place = folder / "checks-copies.html"
    place.write_text(copies_page(sheet), encoding="utf-8")
    return place


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1100), ("dark", 1100), ("light", 390)], ids=["light", "dark", "phone"]
)
def test_it_works_and_is_accessible(browser: Any, file: Path, scheme: str, width: int) -> None:
    opened = Opened(browser, file, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = opened.page
    assert page.locator("#copies li:has(.both)").count() == len(HOSTILE)
    assert page.locator("#copies .mark").all_inner_texts() == ["different labels"] * 4
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ink = "getComputedStyle(document.body).color"
    before = page.evaluate(ink)
    page.locator("#theme").click()
    assert page.evaluate(ink) != before
    assert opened.violations() == []
    opened.close()
