"""The page of a comparison: everything on it, hostile names as text, nothing requested, and it stands with what there is."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from headstart.evaluation.metrics import compute_metrics
from headstart.evaluation.paired_tests import differences
from headstart.reports.compare_page import ComparePageData, TrialSummary, compare_page, comparison_figures

HOSTILE = ('<b>"bold"</b>', "</script><script>alert(1)</script>", "\u202eright to left & 猫")


class Page(HTMLParser):
    """What of a page matters here: its tags with their attributes, and its text without script and style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = [*self.inside, tag] if tag in ("script", "style") else self.inside

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside[:-1] if self.inside[-1:] == [tag] else self.inside

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def contender(name: str, right: Sequence[bool], **more: object) -> TrialSummary:
    """A trial that has these images, all cats, right."""
    logits = np.array([[3.0, 0.0] if r else [0.0, 3.0] for r in right])
    metrics = compute_metrics(logits, np.zeros(len(right), int), ("cat", "dog"), resamples=50)
    made = TrialSummary(name, "linear", "resnet18", dict(metrics.overall), 12.0, 400.0, 10_000_000, 3.5, True)
    return replace(made, **more)  # type: ignore[arg-type]


def compared(contenders: Sequence[TrialSummary], rights: Sequence[Sequence[bool]] = ()) -> ComparePageData:
    right_NT = np.array(rights, bool).T.reshape(-1, len(rights)) if rights else np.zeros((0, 0), bool)
    pairs = differences([c.name for c in contenders][: len(rights)], right_NT, np.where(right_NT, 0.05, 3.05))
    taken = contenders[0].name
    return ComparePageData(
        "Comparison on pets",
        f"Take {taken}: it is best.",
        taken,
        contenders,
        pairs,
        ["one note"],
        (("test images", "100"),),
        "headstart compare pets --out comparison",
    )


GOOD, BAD, LIKE = [True] * 95 + [False] * 5, [True] * 60 + [False] * 40, [True] * 94 + [False] * 6
EPOCHS = [
    {
        "epoch": str(i),
        "train_loss": str(1 / (i + 1)),
        "train_accuracy": "",
        "val_loss": str(0.9 / (i + 1)),
        "val_accuracy": "0.9",
    }
    for i in range(4)
]


@pytest.fixture(scope="module")
def three() -> ComparePageData:
    """Three trials of which two tie and one was trained by gradient descent, and one that failed."""
    tuned = contender(
        "tuned", BAD, latency_ms=9.0, pareto_optimal=False, train_seconds=60.0, epochs=EPOCHS, best_epoch=2
    )
    failed = TrialSummary("failed", "bad", "x", {}, math.nan, math.nan, 0, math.nan, False, "BadWeights: damaged")
    trials = [contender("good", GOOD), contender("like", LIKE, latency_ms=math.nan), tuned, failed]
    return compared(trials, [GOOD, LIKE, BAD])


def test_everything_is_on_it_in_order(three: ComparePageData) -> None:
    page = compare_page(three)
    text = Page(page).text
    order = [
        "Take good: it is best.",
        "2 of 6 paired tests end in a tie",
        "Not finished",
        "failed : BadWeights: damaged",
    ]
    order += ["Trade-offs", "Paired differences", "In accuracy.", "In log-loss.", "good is better", "tie"]
    order += ["Learning curves", "Still learning: validation loss fell from 0.3 to 0.225 in the last epoch", "one note"]
    order += ["headstart compare pets --out comparison"]
    at = text.index("Advice Take")
    for part in order:
        at = text.index(part, at)
    assert "0.950 0.888–0.978" in text
    assert page.count('class="chosen"') == 1
    assert page.count('class="tied"') == 2
    svgs = re.findall(r'<svg[^>]*aria-label="([^"]+)"', page)
    assert svgs[2:] == [
        "Paired differences in accuracy with their intervals",
        "Paired differences in log-loss with their intervals",
        "Learning curves of tuned",
    ]


def test_figures_have_what_the_trials_have(three: ComparePageData) -> None:
    figures = comparison_figures(three)
    assert list(figures) == ["latency", "training", "differences-accuracy", "differences-log_loss", "curves-1"]
    points = [(line.get_xdata()[0], round(line.get_ydata()[0], 9)) for line in figures["latency"].axes[0].lines]
    assert points == [(3.5, 0.05), (9.0, 0.4)]  # one has no latency
    assert [line.get_markerfacecolor() for line in figures["training"].axes[0].lines][2] == "none"
    assert [t.get_text() for t in figures["differences-accuracy"].axes[0].get_yticklabels()] == [
        "good − like",
        "good − tuned",
        "like − tuned",
    ]
    assert set(figures["curves-1"].axes[0].lines[0].get_xdata()) == {3}


def test_curves_are_on_the_same_scales() -> None:
    worse = [{**row, "val_loss": "5"} for row in EPOCHS]
    trials = [contender("one", GOOD, epochs=EPOCHS), contender("two", LIKE, epochs=worse)]
    figures = comparison_figures(compared(trials))
    limits = [figures[f"curves-{i}"].axes[0].get_ylim() for i in (1, 2)]
    assert limits[0] == limits[1]
    assert limits[0][0] < 0.25 and limits[0][1] > 5


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_and_messages_come_out_as_text(name: str) -> None:
    failed = TrialSummary(name, name, name, {}, math.nan, math.nan, 0, math.nan, False, name)
    trials = [contender(name, GOOD, backbones=name, epochs=EPOCHS), contender("b", BAD), failed]
    made = replace(compared(trials, [GOOD, BAD]), title=name, advice=name, notes=[name], command=name)
    page = Page(compare_page(made))
    known = {
        "html",
        "head",
        "meta",
        "link",
        "title",
        "style",
        "body",
        "a",
        "div",
        "header",
        "h1",
        "h2",
        "h3",
        "bdi",
        "p",
    }
    known |= {
        "nav",
        "ul",
        "li",
        "button",
        "main",
        "section",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "br",
    }
    known |= {"span", "figure", "figcaption", "pre", "code", "script", "svg", "g", "path", "defs", "use", "clippath"}
    assert {tag for tag, _ in page.tags} <= known | {"rect", "text"}
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert "\u202e" not in page.text
    assert page.text.count(name.replace("\u202e", "\\u202e")) >= 8


def test_it_makes_no_request(three: ComparePageData) -> None:
    page = Page(compare_page(three))
    for tag, attributes in page.tags:
        assert not {"src", "srcset", "action", "background"} & set(attributes), (tag, attributes)
        assert (attributes.get("href") or "#").startswith(("#", "data:,")), (tag, attributes)
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none';")


@pytest.mark.parametrize("classes", [1, 2])
def test_it_stands_with_little(classes: int) -> None:
    failed = TrialSummary("x", "x", "x", {}, math.nan, math.nan, 0, math.nan, False, "stopped after 0 s")
    text = Page(compare_page(compared([failed] * classes))).text
    assert "No trial finished." in text
    assert "There are no pairs: fewer than two trials finished." in text
    one = Page(compare_page(compared([contender("only", GOOD)]))).text
    assert "Fewer than two trials finished, so there are no trade-offs to show." in one
    assert "No trial was trained by gradient descent; heads that are fitted directly have no learning curve." in one
