"""The demo: it needs no images, no weights and no network, and says what it found of what was planted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import headstart
from conftest import PATIENCE, REPOSITORY
from headstart.cli import run as command_line
from headstart.errors import MissingWeights, RecipeError, WriteError
from headstart.pipeline.demonstration import WAYS, recalled_flaws
from headstart.samples.flaws import KINDS_OF_FLAWS, Flaw, recalled

NO_NETWORK = """
import os, sys

def forbid(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg",
                 "socket.bind", "urllib.Request", "http.client.connect"):
        with os.fdopen(os.open(os.environ["ATTEMPTS"], os.O_WRONLY | os.O_APPEND), "w") as log:
            log.write(f"{event} {args[1:]}\\n")
        raise OSError(f"a test forbids {event}")

sys.addaudithook(forbid)
"""


class Ran:
    """One `headstart demo --offline --json`, in processes that cannot reach a network, with nothing on the machine.

    Its budget is spent before the first trial begins, as on a machine that is very busy.
    """

    def __init__(self, place: Path) -> None:
        (place / "site").mkdir()
        (place / "site" / "sitecustomize.py").write_text(NO_NETWORK)  # every Python process of it begins with this
        self.attempts = place / "attempts.txt"
        self.attempts.touch()
        self.out, self.cache = place / "first", place / "cache"
        environment = {k: v for k, v in os.environ.items() if k != "HEADSTART_WEIGHTS"}
        path = os.pathsep.join([str(place / "site"), *filter(None, sys.path)])
        environment |= {"PYTHONPATH": path, "ATTEMPTS": str(self.attempts)}
        environment |= {"HEADSTART_CACHE": str(self.cache), "HF_HOME": str(place / "hub")}
        words = ["demo", "--out", str(self.out), "--n", "120", "--budget", "1s", "--offline", "--json"]
        self.ended = subprocess.run(
            [sys.executable, "-m", "headstart", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert self.ended.returncode == 0, self.ended.stderr
        self.document: dict[str, Any] = json.loads(self.ended.stdout)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return Ran(tmp_path_factory.mktemp("demo"))


@pytest.mark.slow  # one demo takes 40 s
def test_it_needs_no_network(ran: Ran) -> None:
    assert ran.attempts.read_text() == ""
    assert "No weights on this machine: using the small, weak built-in backbone." in ran.ended.stderr


@pytest.mark.slow  # one demo takes 40 s
def test_it_compares_three_ways(ran: Ran) -> None:
    rows = {row["name"]: row for row in ran.document["comparison"]["rows"]}
    assert set(rows) == {"scratch", "augmented", "transfer"}
    assert [row["error"] for row in rows.values()] == ["", "", ""]
    assert rows["transfer"]["backbones"] == "mobilenetv2_050.headstart"
    assert rows["transfer"]["accuracy"] > max(rows["scratch"]["accuracy"], rows["augmented"]["accuracy"])
    assert "The training data of the built-in backbone included other renderings" in ran.document["caution"]


@pytest.mark.slow  # one demo takes 40 s
def test_a_training_without_time_is_one_epoch(ran: Ran) -> None:
    for name in ("scratch", "augmented"):
        known = json.loads((ran.out / "comparison" / "runs" / name / "headstart.json").read_text())
        assert known["provenance"]["recipe"]["epochs"] == 1


@pytest.mark.slow  # one demo takes 40 s
def test_it_says_what_was_found_of_what_was_planted(ran: Ran) -> None:
    rows = {row["flaw"]: row for row in ran.document["flaws"]}
    assert list(rows) == list(KINDS_OF_FLAWS)
    for flaw in ("corrupt", "near_duplicate", "leak", "exif_rotation"):
        assert (rows[flaw]["found"], rows[flaw]["missed"]) == (rows[flaw]["planted"], [])
        assert not rows[flaw]["others"]
    assert rows["wrong_label"]["planted"] == rows["wrong_label"]["found"] + len(rows["wrong_label"]["missed"])


@pytest.mark.slow  # one demo takes 40 s
def test_what_it_leaves_behind(ran: Ran) -> None:
    assert sorted(p.name for p in ran.out.iterdir()) == [
        "comparison",
        "corrections.csv",
        "recipes",
        "report.html",
        "scenes",
    ]
    page = (ran.out / "report.html").read_text(encoding="utf-8")
    links = re.findall(r'href="([^#"]+\.html)"', page)
    assert len(links) == 2 and all((ran.out / link).is_file() for link in links)
    assert page.count("<img") > 50
    assert "rendered" in page and "headstart train photos --out run" in page
    for name in WAYS:
        assert headstart.read_recipe(ran.out / "recipes" / f"{name}.toml").approach in ("scratch", "linear")


@pytest.mark.slow  # one demo takes 40 s
def test_nothing_of_anybody_is_written_over(ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (ran.out / "scenes" / "README.txt").read_bytes()
    assert command_line(["demo", "--out", str(ran.out), "--n", "120", "--seed", "1", "--offline"]) == 1
    assert capsys.readouterr().err == (
        f"WriteError: {ran.out}: holds something other than this demo (--n 120 --seed 1).\n"
        "  Choose another folder with --out, or remove this one.\n"
    )
    assert (ran.out / "scenes" / "README.txt").read_bytes() == before
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(WriteError, match=r"holds something other than this demo"):
        headstart.demo(out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.slow  # one demo takes 40 s
def test_a_run_folder_stays_whole(ran: Ran) -> None:
    run = ran.out / "comparison" / "runs" / "transfer"
    with pytest.raises(WriteError, match=r"is in the run folder"):
        headstart.demo(out=run / "more")
    headstart.load_classifier(run)


def test_what_cannot_work_is_said_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="budget"):
        headstart.demo(out=tmp_path / "demo", budget="2x")
    with pytest.raises(MissingWeights, match="no such folder"):
        headstart.demo(out=tmp_path / "demo", weights=tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # one demo takes 40 s
def test_its_document_is_documented(ran: Ran) -> None:
    assert ran.ended.stdout.count("\n") == 1
    section = (REPOSITORY / "docs" / "verbs.md").read_text(encoding="utf-8").split("\n## demo\n")[1].split("\n## ")[0]
    assert {key for key in ran.document if f"`{key}`" not in section} == set()


@pytest.mark.slow  # one demo takes 40 s
def test_the_same_command_takes_up_what_is_there(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of each trial: writing its report changed the manifest of the run, and the comparison still knows it."""
    monkeypatch.setenv("HEADSTART_CACHE", str(ran.cache))
    trials = ran.out / "comparison" / "trials"
    before = {path.name: path.read_bytes() for path in trials.iterdir()}  # with the seconds that each took
    assert len(before) == 3
    assert command_line(["demo", "--out", str(ran.out), "--n", "120", "--budget", "1s", "--offline"]) == 0
    assert {path.name: path.read_bytes() for path in trials.iterdir()} == before
    said = capsys.readouterr().out.replace(str(ran.out), "/somewhere").splitlines()
    assert len(said) < 60 and max(map(len, said)) < 240


def test_a_comma_in_the_name() -> None:
    with pytest.raises(WriteError, match=r"^a,b: has a comma in its name, which would split --recipes\."):
        headstart.demo(out=Path("a,b"))


def test_found_missed_and_others_are_counted_by_hand() -> None:
    flaws = [
        Flaw("train/sea/1.jpg", "corrupt", "empty"),
        Flaw("train/sea/2.jpg", "corrupt", "text"),
        Flaw("train/sea/3.jpg", "near_duplicate", "cropped", "train/sea/4.jpg"),
        Flaw("train/sea/5.jpg", "near_duplicate", "resized", "train/sea/6.jpg"),
        Flaw("test/sea/7.jpg", "leak", "same file", "train/sea/8.jpg"),
        Flaw("train/sea/9.jpg", "wrong_label", "forest"),
    ]
    rows = recalled(
        flaws,
        unreadable={"train/sea/1.jpg"},
        groups=[["train/sea/3.jpg", "train/sea/4.jpg"], ["a", "b"], ["train/sea/5.jpg", "c"], ["test/sea/7.jpg", "x"]],
        turned=set(),
        suspects={"train/sea/9.jpg", "train/sea/4.jpg", "d"},
    )
    counted = {row.flaw: (row.planted, len(row.found), len(row.missed), row.others) for row in rows}
    assert counted == {
        "corrupt": (2, 1, 1, 0),
        "near_duplicate": (2, 1, 1, 3),  # the groups of a, of c and of x
        "leak": (1, 0, 1, None),
        "exif_rotation": (0, 0, 0, 0),
        "wrong_label": (1, 1, 0, 2),
    }


def test_everything_in_one_group_is_no_success() -> None:
    flaws = [Flaw("train/sea/3.jpg", "near_duplicate", "cropped", "train/sea/4.jpg")]
    group = ["train/sea/3.jpg", "train/sea/4.jpg", "train/sea/5.jpg"]
    rows = recalled(flaws, unreadable=(), groups=[group], turned=(), suspects=())
    assert [(len(row.found), row.others) for row in rows if row.flaw == "near_duplicate"] == [(1, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_checks_find_what_is_planted(tmp_path: Path, seed: int) -> None:
    """As `headstart demo` has it: 600 images, and no weights but those of the package."""
    scenes = tmp_path / "scenes"
    headstart.sample("scenes", scenes, n=600, seed=seed)
    checked = headstart.check(scenes, labels=True)
    found = recalled_flaws(
        scenes, findings=checked.findings, groups=checked.groups, label_errors=checked.label_errors or []
    )
    rows = {row.flaw: row for row in found}
    shares = {flaw: len(row.found) / row.planted for flaw, row in rows.items()}
    assert shares["corrupt"] == shares["leak"] == shares["exif_rotation"] == 1
    assert shares["near_duplicate"] >= 0.95
    assert shares["wrong_label"] >= 0.7


@pytest.mark.slow  # one demo takes 40 s
def test_the_page_in_a_browser(ran: Ran, browser: Any) -> None:
    """It asks for nothing, breaks no rule of accessibility, and its images are there."""
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(viewport={"width": 1000, "height": 800})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((ran.out / "report.html").as_uri())
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for image in page.locator("img").all():
        image.scroll_into_view_if_needed()
    assert page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.alt)") == []
    broken = [violation["id"] for violation in Axe().run(page).response["violations"]]
    assert broken == []
    page.close()
