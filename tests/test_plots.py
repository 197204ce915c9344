"""Figures as functions of arrays: what they show, that they stand with odd data, and that names stay text."""

from __future__ import annotations

import doctest
import math
import re
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from headstart.evaluation.intervals import undefined, wilson
from headstart.evaluation.selective import coverage_curve
from headstart.reports import figure_style, plots
from headstart.reports.figure_style import BLUE, INK, MUTED, PAPER, shown, text_width

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    "<b>bold</b> & \"q'",
    "$x^2$ $",
    "</svg><script>alert(1)</script>",
    "猫 😀",
    "\u202eright to left",
    "two\nlines\x00",
    "a" * 90,
]
HOSTILE += ['" onload="x', "#1c2024", 'id="axes_1" url(#p)', "caf\udce9", "$", ""]
MANY = [f"species_{i:03}_{'x' * (i % 15)}" for i in range(200)]


def texts(svg: str) -> list[str]:
    """Everything written in an SVG."""
    return [node.text or "" for node in ET.fromstring(svg).iter(f"{SVG}text")]


def random_confusion(classes: int, images: int = 4000) -> np.ndarray:
    rng = np.random.default_rng(0)
    label = rng.integers(0, classes, images)
    guess = np.where(rng.random(images) < 0.7, label, rng.integers(0, classes, images))
    return np.bincount(label * classes + guess, minlength=classes**2).reshape(classes, classes)


def calibrated(n: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    chances = rng.dirichlet(np.full(classes, 0.2), n)
    return chances, np.array([rng.choice(classes, p=p) for p in chances])


def rounds(train: list[float], val: list[float]) -> list[dict[str, float]]:
    return [
        {"epoch": i, "train_loss": t, "train_accuracy": 1 - t / 3, "val_loss": v, "val_accuracy": 1 - v / 3}
        for i, (t, v) in enumerate(zip(train, val, strict=True))
    ]


def steps(n: int) -> list[dict[str, float]]:
    return [{"step": i, "epoch": 0, "lr": 1e-3 * (1 - i / n), "loss": 1 / (1 + i / n)} for i in range(n)]


def sizes(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    return rng.integers(1, 5000, n), rng.integers(1, 3000, n)


NAN = math.nan
FIGURES: dict[str, Callable[[], Any]] = {
    "confusion of 2": lambda: plots.confusion_figure(np.array([[48, 2], [1, 49]]), ["cat", "dog"]),
    "confusion of 1": lambda: plots.confusion_figure(np.array([[7]]), ["only"]),
    "confusion, nothing in it": lambda: plots.confusion_figure(np.zeros((3, 3)), ["a", "b", "c"]),
    "confusion of 200": lambda: plots.confusion_figure(random_confusion(200), MANY),
    "confusion, hostile": lambda: plots.confusion_figure(np.eye(len(HOSTILE), dtype=int) * 9, HOSTILE),
    "reliability": lambda: plots.reliability_figure(*calibrated(300)),
    "reliability of 200": lambda: plots.reliability_figure(*calibrated(300, 200)),
    "reliability of 1": lambda: plots.reliability_figure(np.ones((5, 1)), np.zeros(5, int)),
    "reliability, no labels": lambda: plots.reliability_figure(np.full((3, 2), 0.5), np.full(3, -1)),
    "coverage": lambda: plots.coverage_figure(*calibrated(300)),
    "coverage of 1": lambda: plots.coverage_figure(np.ones((5, 1)), np.zeros(5, int)),
    "coverage, all wrong": lambda: plots.coverage_figure(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([1, 1])),
    "coverage, no labels": lambda: plots.coverage_figure(np.full((3, 2), 0.5), np.full(3, -1)),
    "classes": lambda: plots.classes_figure(["a", "b"], [wilson(9, 10), undefined("never")]),
    "classes, none": lambda: plots.classes_figure([], []),
    "classes, all undefined": lambda: plots.classes_figure(["a"], [undefined("never")]),
    "classes, 200": lambda: plots.classes_figure(MANY, [wilson(i % 10, 10) for i in range(200)]),
    "classes, hostile": lambda: plots.classes_figure(HOSTILE, [wilson(9, 10)] * len(HOSTILE)),
    "curves": lambda: plots.curves_figure(rounds([0.9, 0.5, 0.3], [0.8, 0.6, 0.7])),
    "curves, one epoch": lambda: plots.curves_figure(rounds([0.9], [0.8])),
    "curves, none": lambda: plots.curves_figure([]),
    "curves, no numbers": lambda: plots.curves_figure(rounds([0.9, NAN], [math.inf, NAN])),
    "curves, as read": lambda: plots.curves_figure([{"epoch": "0", "train_loss": "0.5", "val_loss": ""}]),
    "rates": lambda: plots.rates_figure(steps(3000)),
    "rates, one step": lambda: plots.rates_figure(steps(1)),
    "rates, none": lambda: plots.rates_figure([]),
    "rates, no numbers": lambda: plots.rates_figure([{"step": 0, "lr": 0.0, "loss": NAN}]),
    "balance": lambda: plots.balance_figure({"cat": {"train": 30, "test": 10}, "dog": {"train": 20}}),
    "balance, none": lambda: plots.balance_figure({}),
    "balance, 200": lambda: plots.balance_figure({c: {"train": 5 + i, "val": 2} for i, c in enumerate(MANY)}),
    "balance, nothing of 200": lambda: plots.balance_figure({c: {"train": 0} for c in MANY}),
    "balance, hostile": lambda: plots.balance_figure({c: {"": 3, "<i>": 1} for c in HOSTILE}),
    "sizes": lambda: plots.sizes_figure(*sizes(3000)),
    "sizes, all alike": lambda: plots.sizes_figure(np.full(9, 100), np.full(9, 100)),
    "sizes, none": lambda: plots.sizes_figure(np.zeros(0), np.zeros(0)),
    "pareto": lambda: plots.pareto_figure(
        HOSTILE, np.arange(1, 14.0), np.linspace(0.3, 0.01, 13), [True] * 13, cost_label="ms", error_label="error"
    ),
    "pareto, one, right in all": lambda: plots.pareto_figure(
        ["a"], [3.0], [0.0], [True], cost_label="ms", error_label="error", lows=[0.0], highs=[0.02]
    ),
    "pareto, nothing measured": lambda: plots.pareto_figure(
        ["a"], [NAN], [0.1], [False], cost_label="ms", error_label="error"
    ),
    "differences": lambda: plots.differences_figure(HOSTILE, [0.01] * 13, [-0.01] * 13, [0.03] * 13, ties=[True] * 13),
    "differences, many": lambda: plots.differences_figure(MANY, *(np.linspace(a, 1, 200) for a in (0.0, -1, 0.5))),
    "differences, none": lambda: plots.differences_figure([], [], [], []),
    "differences, no number": lambda: plots.differences_figure(["a"], [NAN], [NAN], [NAN], share=True),
}


def test_examples_in_the_docs() -> None:
    for module in (figure_style, plots):
        assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.filterwarnings("error")
def test_every_figure_stands_and_stays_inside(name: str) -> None:
    figure = FIGURES[name]()
    svg = plots.to_svg(figure, label=name)
    root = ET.fromstring(svg)
    assert (root.tag, root.get("role"), root.get("aria-label")) == (f"{SVG}svg", "img", name)
    assert len(svg) < 100_000
    width, height = figure.get_size_inches() * 72
    assert 300 <= width <= 480
    assert 40 <= height <= 800
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        box = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
    drawn = [round(float(x) * 72, 1) for x in box.extents]
    assert min(drawn[:2]) >= -1 and drawn[2] <= width + 1 and drawn[3] <= height + 1, (drawn, width, height)


@pytest.mark.parametrize(
    "name", ["confusion, hostile", "classes, hostile", "balance, hostile", "pareto", "differences"]
)
def test_hostile_names_come_out_as_text(name: str) -> None:
    svg = plots.to_svg(FIGURES[name](), label=HOSTILE[2])
    written = texts(svg)
    expected = {shown(c, most) for c in HOSTILE for most in (18, 22, 28, 44)}
    assert len(expected & set(written)) >= (3 if name == "pareto" else 12)
    assert "<b>bold</b> & \"q'" in written
    assert {node.tag for node in ET.fromstring(svg).iter()} <= {
        f"{SVG}{t}" for t in ("svg", "g", "path", "defs", "use", "clipPath", "rect", "text")
    }
    for attribute in re.findall(r"\son\w+=", re.sub(r">[^<]*<", "><", svg).replace("&quot;", "")):
        pytest.fail(attribute)


def test_long_names_keep_both_ends() -> None:
    assert shown("a" * 9 + "b" * 9, 18) == "a" * 9 + "b" * 9
    assert shown("species_" * 5 + "042", 16) == "species_sp…s_042"
    assert shown("猫" * 20, 11) == "猫猫猫…猫"
    assert shown("\u202ex") == "\\u202ex"


@given(st.text(max_size=60), st.integers(6, 40))
@settings(deadline=None)
def test_a_label_is_never_wider_than_asked(name: str, most: int) -> None:
    assert text_width([shown(name, most)], 1.0) <= most * 0.65 + 1e-9


# What they show


def test_confusion_counts_and_colours() -> None:
    figure = plots.confusion_figure(np.array([[48, 2, 0], [1, 49, 0], [0, 0, 0]]), ["cat", "dog", "fox"])
    axes = figure.axes[0]
    assert sorted(t.get_text() for t in axes.texts) == ["1", "2", "48", "49"]
    cells = axes.collections[0]
    colors = {
        tuple(p.vertices[:4].mean(axis=0).round(1)): c
        for p, c in zip(cells.get_paths(), cells.get_facecolors(), strict=True)
    }
    assert set(colors) == {(0, 0), (1, 0), (0, 1), (1, 1)}  # (predicted, true)
    assert colors[1, 1][3] > colors[0, 0][3] > colors[1, 0][3] > colors[0, 1][3] > 0.06
    assert colors[0, 0][2] > colors[0, 0][0] and colors[1, 0][0] > colors[1, 0][2]  # blue where right, red where wrong


def test_reliability_shows_the_bins() -> None:
    chances = np.array([[0.95, 0.05]] * 10 + [[0.65, 0.35]] * 5)
    labels = np.array([0] * 9 + [1] + [0, 0, 0, 1, 1])
    axes, below = plots.reliability_figure(chances, labels, bins=10).axes
    x, y = axes.lines[1].get_data()
    np.testing.assert_allclose([x, y], [[0.65, 0.95], [0.6, 0.9]])
    low, high = axes.collections[0].get_segments()[1][:, 1]
    assert (low, high) == pytest.approx((wilson(9, 10).low, wilson(9, 10).high))
    assert [p.get_height() for p in below.patches] == [0, 0, 0, 0, 0, 0, 5, 0, 0, 10]


def test_coverage_shows_the_curve() -> None:
    chances, labels = calibrated(200)
    figure = plots.coverage_figure(chances, labels)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_data(), coverage_curve(chances, labels))
    covered, accuracy = coverage_curve(chances, labels)
    half = covered[1 - accuracy <= (1 - accuracy[-1]) / 2].max()
    assert f"◆ error rate halves at {100 * round(half, 2):.4g} % answered" in [
        t.get_text() for t in figure.axes[0].texts
    ]


def test_of_many_classes_the_lowest_are_shown() -> None:
    found = [wilson(90 - i % 50, 100) for i in range(60)]
    figure = plots.classes_figure(MANY[:60], found)
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    order = sorted(range(60), key=lambda i: found[i].value)[:30]
    assert labels == [shown(MANY[i]) for i in order]
    assert figure.axes[0].get_xlabel() == "F1: the 30 lowest of 60 classes"


def test_curves_mark_the_round_that_is_kept() -> None:
    rows = rounds([0.9, 0.5, 0.3], [0.8, 0.6, 0.7])
    for figure, kept in ((plots.curves_figure(rows), 2), (plots.curves_figure(rows, best=0), 1)):
        for axes, name in zip(figure.axes, ("loss", "accuracy"), strict=True):
            mark, train, val = axes.lines
            assert set(mark.get_xdata()) == {kept}
            assert list(train.get_ydata()) == [row[f"train_{name}"] for row in rows]
            assert list(val.get_ydata()) == [row[f"val_{name}"] for row in rows]
    same = plots.curves_figure(rows, loss_limits=(0, 2), accuracy_limits=(0.5, 1))
    assert [axes.get_ylim() for axes in same.axes] == [(0, 2), (0.5, 1)]


def test_rates_have_one_point_a_step_or_the_mean_of_many() -> None:
    few, many = plots.rates_figure(steps(300)), plots.rates_figure(steps(4000))
    assert len(few.axes[0].lines[0].get_xdata()) == 300
    assert few.axes[0].get_ylabel() == "learning rate, 1e−3"
    x, y = many.axes[1].lines[0].get_data()
    assert len(x) == 400
    assert y.mean() == pytest.approx(np.mean([row["loss"] for row in steps(4000)]))


def test_balance_stacks_the_sides() -> None:
    figure = plots.balance_figure({"cat": {"train": 30, "val": 5, "test": 10}, "dog": {"train": 20}})
    bars = [[(p.get_x(), p.get_width()) for p in c.patches] for c in figure.axes[0].containers]
    assert bars == [[(0, 30), (0, 20)], [(30, 5), (20, 0)], [(35, 10), (20, 0)]]
    assert [t.get_text() for t in figure.axes[0].texts] == ["45", "20"]
    assert [t.get_text() for t in figure.texts] == ["■", "train", "■", "val", "■", "test"]


def test_sizes_mark_the_mean() -> None:
    figure = plots.sizes_figure(np.array([100, 300]), np.array([50, 150]))
    assert [float(x[0]) for x in figure.axes[0].lines[0].get_data()] == [200, 100]
    assert figure.texts[1].get_text() == "mean size 200 × 100 px"
    values, edges, _ = figure.axes[1].patches[0].get_data()
    assert values.sum() == values[np.searchsorted(edges, 1.0) - 1] == 2  # log2 of 2:1


def test_the_front_is_filled_and_named_first() -> None:
    figure = plots.pareto_figure(
        ["quick", "slow", "worse"], [1, 9, 9.05], [0.2, 0.1, 0.101], [1, 1, 0], cost_label="ms", error_label="error"
    )
    axes = figure.axes[0]
    assert [line.get_markerfacecolor() for line in axes.lines] == [BLUE, BLUE, "none"]
    assert [t.get_text() for t in axes.texts][:2] == ["slow", "quick"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")
    wide = plots.pareto_figure(["a", "b"], [1, 90], [0.2, 0.001], [1, 1], cost_label="ms", error_label="error")
    assert (wide.axes[0].get_xscale(), wide.axes[0].get_yscale()) == ("log", "log")


def test_ties_are_grey() -> None:
    figure = plots.differences_figure(["a − b", "a − c"], [0.1, 0.0], [0.05, -0.1], [0.15, 0.1], ties=[False, True])
    axes = figure.axes[0]
    assert [line.get_color() for line in axes.lines[1:]] == [BLUE, MUTED]
    assert [label.get_color() for label in axes.get_yticklabels()] == [INK, MUTED]


# Verdicts


@pytest.mark.parametrize(
    ("train", "val", "said"),
    [
        ([], [], "No epochs: nothing was trained by gradient descent."),
        ([0.8], [0.7], "Too few epochs to tell: after a single one, validation loss is 0.7."),
        ([0.8, 0.7], [NAN, NAN], "Unknown: there is no validation loss."),
        (
            [0.9, 0.6, 0.3, 0.1],
            [0.8, 0.5, 0.6, 0.7],
            "Overfitting: validation loss has risen from 0.5 in epoch 2 of 4 to 0.7, "
            "while training loss fell from 0.6 to 0.1.",
        ),
        (
            [0.9, 0.8, 0.7, 0.6],
            [0.9, 0.8, 0.7, 0.6],
            "Still learning: validation loss fell from 0.7 to 0.6 in the last epoch, so more epochs may help.",
        ),
        (
            [0.9, 0.6, 0.4, 0.3, 0.25],
            [0.8, 0.6, 0.5, 0.49, 0.495],
            "Healthy: validation loss has levelled off, at 0.49 in epoch 4 of 5 (training loss there 0.3).",
        ),
        (
            [0.69, 0.70, 0.69],
            [0.69, 0.694, 0.692],
            "No progress: in 3 epochs, validation loss has not fallen below the 0.69 of the first.",
        ),
        (
            [0.9, 0.8],
            [NAN, 0.6],
            "Still learning: validation loss reached 0.6 in the last epoch, so more epochs may help.",
        ),
    ],
)
def test_verdicts(train: list[float], val: list[float], said: str) -> None:
    assert plots.verdict(rounds(train, val)) == said
    assert plots.verdict([{k: str(v) for k, v in row.items()} for row in rounds(train, val)]) == said  # type: ignore[misc]


def test_a_training_that_broke_off_is_not_still_learning() -> None:
    found = rounds([2.0, 1.0], [1.0, 0.5])
    assert plots.verdict(found, "the training loss is nan in epoch 3, step 5.") == (
        "Broke off: the training loss is nan in epoch 3, step 5; the weights are those of epoch 2, and a lower --lr may help."
    )
    assert plots.verdict(found, "no better val_accuracy in 2 epochs") == plots.verdict(found)


losses = st.floats(0, 10) | st.just(NAN)


@given(st.lists(st.tuples(losses, losses), max_size=12))
def test_there_is_always_one_sentence(pairs: list[tuple[float, float]]) -> None:
    said = plots.verdict(rounds([t for t, _ in pairs], [v for _, v in pairs]))
    assert re.fullmatch(r"(No|Unknown|Too|Overfitting|Still|Healthy)\b[^\n]*\.", said)


# Ways out


def test_files_are_those_of_the_figure(tmp_path: Path) -> None:
    figure = FIGURES["confusion of 2"]()
    svg = plots.save_figure(figure, tmp_path / "plots", "confusion", label="Confusion matrix")
    assert svg == plots.to_svg(figure, label="Confusion matrix")
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == ["confusion.png", "confusion.svg"]
    with Image.open(tmp_path / "plots" / "confusion.png") as image:
        assert image.size == tuple(int(x * 150) for x in figure.get_size_inches())
        assert round(image.info["dpi"][0]) == 150
        assert image.convert("RGB").getpixel((0, 0)) == (254, 254, 254)
    drawn = (tmp_path / "plots" / "confusion.svg").read_text(encoding="utf-8")
    assert texts(drawn[drawn.index("<svg") :]) == texts(svg)
    assert PAPER in drawn


def test_colours_stand_out_on_light_and_dark_ground() -> None:
    def luminance(color: str) -> float:
        shares = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for color in (
        figure_style.BLUE,
        figure_style.RED,
        figure_style.GREEN,
        figure_style.PURPLE,
    ):  # WCAG 2.2, 1.4.11: 3:1 for figures
        for ground in ("#ffffff", "#15171a"):
            lighter, darker = sorted((luminance(color), luminance(ground)), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 3, (color, ground)


def test_svg_follows_the_page_and_keeps_its_ids() -> None:
    one, two = (plots.to_svg(FIGURES[name](), label=name) for name in ("reliability", "coverage"))
    for svg in (one, two):
        assert "currentColor" in svg and f"var(--muted,{MUTED})" in svg and "var(--rule," in svg
        assert not re.search(
            rf"(?<!,)({INK}|{MUTED}|{PAPER})|font-family|<style|http(?!://www.w3.org/2000/svg)|xlink", svg
        )
        ids = re.findall(r' id="([^"]+)"', svg)
        assert len(ids) == len(set(ids))
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)) == set(ids)
    assert not set(re.findall(r' id="([^"]+)"', one)) & set(re.findall(r' id="([^"]+)"', two))
    assert one == plots.to_svg(FIGURES["reliability"](), label="reliability")
    assert 'aria-hidden="true"' in plots.to_svg(FIGURES["rates, none"]())
    assert 'aria-label="&lt;a&gt; &quot;b&quot;"' in plots.to_svg(FIGURES["rates, none"](), label='<a> "b"')


def test_making_figures_leaves_matplotlib_as_it_was(tmp_path: Path) -> None:
    program = """
import sys, numpy as np
import matplotlib
before = dict(matplotlib.rcParams)
from headstart.reports import plots
figure = plots.confusion_figure(np.eye(2, dtype=int), ["a", "b"])
plots.save_figure(figure, __import__("pathlib").Path(sys.argv[1]), "x")
assert dict(matplotlib.rcParams) == before
assert figure.dpi == matplotlib.rcParams["figure.dpi"] and "Base" in type(figure.canvas).__name__
assert not {"torch", "scipy", "tkinter"} & set(sys.modules)
assert not matplotlib._pylab_helpers.Gcf.figs
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


def test_importing_the_module_does_not_import_matplotlib() -> None:
    program = "import sys, headstart.reports.plots; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
