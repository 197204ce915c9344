"""The page of a run in a real browser: no request, no error, and everything on it can be used, by keyboard too.

Needs Playwright for Python, its axe package, and a Chromium; skipped, saying so, where one of them is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Opened, draw
from headstart.data.findings import Finding
from headstart.evaluation.metrics import compute_metrics
from headstart.model.inference.predictions import Predictions
from headstart.reports.report_data import ReportData, SimilarImage, Suspect
from headstart.reports.run_page import report_page
from headstart.training.history import HistoryRow

CLASSES = ("cats", "<b>dogs</b>", "بوم 🦉")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """A report with something in every section, and small images on disk."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    labels_N = np.arange(60) % 3
    paths = tuple(f"test/{i:02}<i>.png" for i in range(60))
    files = {}
    for i, path in enumerate(paths):
        files[path] = folder / f"{i}.png"
        draw(i % 3, i, (64, 48 if i % 2 else 80)).save(files[path])
    logits_NK = rng.normal(0, 0.5, (60, 3))
    logits_NK[np.arange(60), np.where(np.arange(60) < 9, (labels_N + 1) % 3, labels_N)] += rng.uniform(2, 6, 60)
    predictions = Predictions(paths, CLASSES, logits_NK.astype(np.float32), labels_N)
    rounds = [(e, 1 / (e + 1), 0.6 + e / 20, 1.2 / (e + 1), 0.5 + e / 20, 0.1, 1.0) for e in range(6)]
    names = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds")
    steps = [{"step": s, "epoch": s // 5, "lr": 0.1, "loss": 2 / (s + 1)} for s in range(30)]
    sheet = Image.new("RGB", (600, 300), "grey")
    sheet.save(folder / "seen.png")
    metrics = compute_metrics(logits_NK, labels_N, CLASSES, resamples=50)
    return ReportData(
        "Pets <i>and</i> others",
        predictions,
        metrics,
        val=metrics,
        facts=(("made by", "Frozen backbone"), ("seed", "seed 0")),
        trials=tuple(
            HistoryRow(
                stage="head",
                backbone=f"net{k}",
                approach="linear",
                head="lda",
                strength=0.1,
                n_images=100 * k,
                loo_log_loss=0.5,
                loo_accuracy=0.9,
                val_log_loss=0.5 / k,
                val_accuracy=0.9,
                seconds=1.0,
            )
            for k in range(1, 4)
        ),
        taken=frozenset({2}),
        epochs=tuple(dict(zip(names, row, strict=True)) for row in rounds),
        steps=tuple(steps),
        findings=(
            Finding("label_conflict", "error", paths[:2], "2 images are the same."),
            Finding("tiny", "warning", paths[:30], "30 images are small."),
            Finding("size_summary", "info", (), "60 images."),
        ),
        balance={c: {"train": 20, "val": 5, "test": 20} for c in CLASSES},
        sizes_N2=np.array([Image.open(f).size for f in files.values()]),
        near={
            i: (SimilarImage(paths[i + 10], CLASSES[i % 3], 0.9), SimilarImage("gone.png", CLASSES[1], 0.8))
            for i in range(9)
        },
        heat={i: np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64) for i in range(9)},
        suspects=(Suspect(paths[3], CLASSES[0], CLASSES[1], 0.01, "test"),),
        groups=((paths[4], paths[5]), (paths[6], paths[7], "gone.png")),
        labels=dict.fromkeys(paths, CLASSES[0]),
        splits=dict.fromkeys(paths, "test"),
        seen=(folder / "seen.png").read_bytes(),
        seconds={"look": 1.0, "total": 2.0},
        costs=(("backbones", "1"),),
        commands=(("Again:", "headstart reproduce run"),),
        files=files,
        missing={"images": "A sentence."},
    )


@pytest.fixture(scope="module")
def file(full: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("page") / "report.html"
    place.write_text(report_page(full), encoding="utf-8")
    return place


@pytest.fixture
def opened(browser: Any, file: Path) -> Iterator[Opened]:
    made = Opened(browser, file)
    yield made
    made.close()


def test_a_cell_shows_its_images(opened: Opened, full: ReportData) -> None:
    page, panel = opened.page, opened.page.locator("#cell")
    assert not panel.is_visible()
    cell = page.get_by_role("button", name="3 of cats predicted <b>dogs</b>")
    cell.click()
    assert cell.get_attribute("aria-expanded") == "true"
    assert panel.locator("h3").inner_text() == "3 images of cats, predicted as <b>dogs</b>"
    rows = [i for i in full.mistakes if full.predictions.predicted[i] == 1]
    assert panel.locator("img").count() == len(rows) == 3
    assert [t.strip() for t in panel.locator("li .path").all_inner_texts()] == [
        full.predictions.paths[i].split("/")[1] for i in rows
    ]
    assert page.evaluate("[...document.querySelectorAll('#cell img')].every(i => i.complete && i.naturalWidth > 0)")
    page.keyboard.press("Escape")
    assert not panel.is_visible() and cell.evaluate("b => b === document.activeElement")
    page.keyboard.press("Enter")
    assert panel.is_visible()


def test_every_thumbnail_is_in_the_page_once_and_shown(opened: Opened, file: Path, full: ReportData) -> None:
    shown = opened.page.evaluate("[...document.images].filter(i => i.src).map(i => i.complete && i.naturalWidth > 0)")
    assert len(shown) > 20 and all(shown)
    thumbnails = opened.page.evaluate("JSON.parse(document.getElementById('data').textContent).thumbnails")
    assert len(thumbnails) == len(set(thumbnails)) == len(full.files)
    text = file.read_text(encoding="utf-8")
    assert all(text.count(uri) == 1 for uri in thumbnails)


def test_mistakes_are_filtered(opened: Opened, full: ReportData) -> None:
    page, said = opened.page, opened.page.locator("#filtered")

    def seen() -> int:
        return int(page.locator("#mistakes .mistake:visible").count())

    assert said.inner_text() == "9 of 9 shown" and seen() == 9
    page.select_option("select[name=true]", "1")
    assert said.inner_text() == "3 of 9 shown" and seen() == 3
    page.fill("input[name=text]", "04<I>")
    assert seen() == 1 and "test/04<i>.png" in page.locator("#mistakes .mistake:visible").inner_text()
    page.click("button[type=reset]")
    page.wait_for_function("document.getElementById('filtered').textContent === '9 of 9 shown'")
    sure = sorted(full.predictions.probabilities.max(axis=1)[list(full.mistakes)])
    page.locator("input[name=least]").fill(str(int(100 * sure[4]) + 1))
    assert seen() == sum(s >= (int(100 * sure[4]) + 1) / 100 for s in sure)


def test_heat_maps_take_the_place_of_the_images(opened: Opened) -> None:
    page = opened.page
    assert page.locator("img.heat:visible").count() == 0
    page.click("#heat")
    assert page.locator("img.heat:visible").count() == 9 and page.locator(".has-heat > img.seen:visible").count() == 0
    page.click("#heat")
    assert page.locator("img.heat:visible").count() == 0


def test_tables_sort(opened: Opened, full: ReportData) -> None:
    page = opened.page
    header = page.locator("#class-table th", has_text="recall")

    def values() -> list[float]:
        cells = page.locator("#class-table tbody td:nth-child(4)")
        return [float(value) for value in cells.evaluate_all("cells => cells.map(c => c.dataset.value)")]

    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending" and values() == sorted(values())
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "descending" and values() == sorted(values(), reverse=True)
    assert page.locator("#class-table th[aria-sort=ascending], #class-table th[aria-sort=descending]").count() == 1


def test_light_and_dark(opened: Opened, browser: Any, file: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page = opened.page
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.get_by_role("button", name="Switch to dark colours").click()
    assert page.evaluate(ground) == "rgb(21, 23, 26)"
    page.get_by_role("button", name="Switch to light colours").click()
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    dark = Opened(browser, file, color_scheme="dark")
    assert dark.page.evaluate(ground) == "rgb(21, 23, 26)"
    dark.close()


def test_a_phone_shows_it_without_scrolling_sideways(browser: Any, file: Path) -> None:
    phone = Opened(browser, file, viewport={"width": 390, "height": 800})
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    phone.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Any, file: Path, scheme: str) -> None:
    made = Opened(browser, file, color_scheme=scheme)
    made.page.locator("button.cell").nth(1).click()
    assert made.violations() == []
    made.context.close()


def test_names_run_nothing(browser: Any, full: ReportData, tmp_path: Path) -> None:
    bad = '</script><script>document.title="run"</script><img src=x onerror="document.title=1">'
    predictions = replace(full.predictions, classes=(bad, "a", "b"))
    metrics = compute_metrics(predictions.logits, predictions.labels, predictions.classes, resamples=10)
    place = tmp_path / "page.html"
    hostile = replace(full, title=bad, predictions=predictions, metrics=metrics, balance={bad: {"train": 1}})
    place.write_text(report_page(hostile), encoding="utf-8")
    made = Opened(browser, place)
    made.page.locator("button.cell").first.click()
    assert made.page.title() == bad
    assert bad in made.page.locator("#cell h3").inner_text() and made.page.locator("img[src=x]").count() == 0
    made.close()
