"""`headstart demo`: a first run that needs nothing, no images, no weights, no network.

    sample -> compare (from scratch, augmented, transfer) -> check --labels -> report -> a page, a table, what next

It does what a user would type, by the same functions, and adds what only it can know: which flaws were planted. About two
minutes on two cores, of which `budget` goes into the comparison; the folder can be deleted afterwards. The same command goes
on where it was stopped. It tells nothing about photographs: see `caution`.
"""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import WriteError
from headstart.io.files import read_csv, write_text
from headstart.io.folders import check_manifest, check_outside_run
from headstart.io.progress import log
from headstart.io.result_repr import Result
from headstart.io.text_table import columns
from headstart.model.backbones import builtin
from headstart.model.backbones.registry import at_hand
from headstart.pipeline.comparison import Comparison, ComparisonRow
from headstart.reports.demo_page import TITLES, DemoPageData, DemoTrial, demo_page
from headstart.samples.flaws import Flaw, FlawRecall, recalled
from headstart.samples.scenes import KINDS
from headstart.training.recipe import seconds as seconds_of
from headstart.verbs.check import CheckResult, check
from headstart.verbs.compare import compare
from headstart.verbs.report import report
from headstart.verbs.sample import first_line, sample

SIZE = 150
SHEET = 6
"""Images of each class that the page shows."""
NOT_DAMAGE = ("label_conflict", "split_leak")
"""Errors that `check` finds in images that can be read."""

SMALL: dict[str, Any] = {"approach": "scratch", "backbone": "headstart_cnn", "image_size": 96, "lr": 0.002}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "scratch": (
        "A small convolutional network from random weights, on the images as they are.",
        {**SMALL, "augment": "none"},
    ),
    "augmented": (
        "The small network from random weights; in each epoch every image is cut, turned and mirrored anew.",
        {**SMALL, "augment": "crop=0.5,flip,rotation=10"},
    ),
    "transfer": (
        "A network that was trained on other images stays as it is and gets a new last layer, in closed form.",
        {"approach": "linear"},
    ),
}
"""The recipes that are compared: what each is, and its options."""

RENDERED = "All of this is about rendered images; how well something works on photographs they do not tell."
SEEN = (
    "The embedded backbone was trained on other renderings of the same program among much else (without their classes), "
    "which makes these easy for it."
)


@dataclass(frozen=True, eq=False, repr=False)
class DemoResult(Result):
    """What `demo` did: flaws found (`recalled`), the comparison, and the folder with its pages."""

    out: str
    images: int
    recalled: list[FlawRecall]
    comparison: Comparison
    caution: str
    seconds: float

    def summary(self) -> str:
        """How many images were drawn, and what the comparison came to."""
        return f"{self.images:,} rendered images in {self.out}; {self.comparison.advice}"

    def facts(self) -> list[tuple[str, str]]:
        """The accuracy of each trial, and which flaws were found."""
        found = [(TITLES[r.flaw], f"{len(r.found)} of {r.planted} found") for r in self.recalled]
        return [*self.comparison.facts(), *found]

    def to_json(self) -> dict[str, Any]:
        """The document of `demo --json`."""
        flaws = [
            {"flaw": r.flaw, "planted": r.planted, "found": len(r.found), "others": r.others,
             "missed": [flaw.path for flaw in r.missed]} for r in self.recalled
        ]  # fmt: skip
        return {
            "out": self.out,
            "images": self.images,
            "flaws": flaws,
            "comparison": self.comparison.to_json(),
            "caution": self.caution,
            "seconds": self.seconds,
        }

    def table(self) -> str:
        """Plain text for a terminal: what was found, the comparison, and what to type next."""
        found = [
            (TITLES[r.flaw], str(r.planted), str(len(r.found)), "" if r.others is None else str(r.others))
            for r in self.recalled
        ]
        lines = [
            f"{self.images:,} rendered images of six classes, some bad on purpose; what `check --labels` found:",
            *columns([("", "planted", "found", "others"), *found]),
            "",
            self.comparison.table(),
            *textwrap.wrap(self.caution, 120),
            "",
            f"{self.seconds:.0f} s. Open {self.out}/report.html in a browser.",
            "Next, with images of your own, in one folder per class:",
            *(f"  {command}" for _, command in COMMANDS),
        ]
        return "\n".join(lines)


COMMANDS = (
    ("Look at them; nothing is changed.", "headstart check photos --labels"),
    (
        "Train, calibrate and test a classifier; run/report.html says how good it is.",
        "headstart train photos --out run",
    ),
    ("Predict new images with it.", "headstart predict run new.jpg --out predictions.csv"),
    (
        "With a larger network, where it can be downloaded; `headstart backbones --all` lists them.",
        "headstart train photos --out run --backbone resnet50",
    ),
)


def demo(
    *,
    out: Path = Path("headstart-demo"),
    n: int = 600,
    seed: int = 0,
    budget: str = "80s",
    weights_dir: Path | None = None,
) -> DemoResult:
    """Show all of it in two minutes: images are drawn, three ways to a classifier compared, flaws found. Example:

        headstart demo --offline

    Args:
        out: Folder to write: the images, fixes.csv, the comparison with its runs, and report.html.
        n: Number of images.
        seed: Another seed gives other images.
        budget: Time for the comparison; drawing and checking come on top (some 20 s for 600 images).
        weights_dir: Folder of NAME.safetensors and NAME.json, to use instead of the backbone that comes with headstart.

    Raises:
        RecipeError: too few images, or a budget in which nothing fits.
        BackboneError: `weights_dir` does not exist.
        WriteError: `out` holds something else, or cannot be written.
    """
    started = time.monotonic()
    out = Path(out)
    _check_place(out, n, seed)
    seconds_of(budget)
    at_hand(weights_dir=weights_dir)  # a folder that is not there is said now, as a budget that is none
    scenes = out / "scenes"
    if not scenes.is_dir():
        log.info("Drawing %d images.", n)
        sample("scenes", scenes, n=n, seed=seed, size=SIZE)
    recipes = [_recipe(out / "recipes", name) for name in WAYS]
    log.info("Comparing three ways to a classifier; budget %s.", budget)
    comparison = compare(  # before the check, so that nothing of what it times has been done by then
        scenes, out=out / "comparison", recipes=",".join(os.path.abspath(file) for file in recipes), budget=budget,
        seed=seed, weights_dir=weights_dir, offline=True,
    )  # fmt: skip
    log.info("Checking the images, labels too.")
    fixes = None if (out / "fixes.csv").exists() else out / "fixes.csv"  # somebody may have begun to edit it
    checked = check(scenes, labels=True, fixes=fixes, weights_dir=weights_dir, offline=True)
    flaws = [Flaw(**row) for row in read_csv(scenes / "flaws.csv")]
    told = _recalled(flaws, checked)
    links = [("comparison/report.html", "The comparison: intervals, paired tests, costs, learning curves")]
    if comparison.taken:
        report(Path(comparison.out) / "runs" / comparison.taken)
        page = f"comparison/runs/{comparison.taken}/report.html"
        links.append((page, f"The report of {comparison.taken}: mistakes, confidence, the images behind each figure"))
    used_embedded = any(builtin.NAME in row.backbones for row in comparison.rows)
    caution = f"{RENDERED} {SEEN}" if used_embedded else RENDERED
    seconds = time.monotonic() - started
    shown = DemoPageData(
        images=n,
        sheet=_sheet(scenes, flaws),
        recalled=told,
        suggested={error.path: error.suggested for error in checked.label_errors or []},
        ways=[_way(row) for row in comparison.rows],
        taken=comparison.taken,
        advice=comparison.advice,
        caution=caution,
        commands=COMMANDS,
        links=links,
        seconds=seconds,
        files={path.relative_to(scenes).as_posix(): path for path in scenes.rglob("*.jpg")},
    )
    write_text(out / "report.html", demo_page(shown))
    return DemoResult(str(out), n, told, comparison, caution, seconds)


def _check_place(out: Path, n: int, seed: int) -> None:
    """Raise `WriteError` if the folder holds anything else than what this demo left there."""
    check_outside_run(out)
    if "," in str(out):
        raise WriteError(f"{out}: has a comma in its name, at which --recipes is split.", hint="Choose another --out.")
    if not out.exists() or (out.is_dir() and all(name.startswith(".") for name in os.listdir(out))):
        return  # hidden is what a drawing that was killed leaves
    scenes = out / "scenes"
    try:
        same = (scenes / "README.txt").read_text(encoding="utf-8").startswith(first_line(n, seed, SIZE, flaws=True))
    except (OSError, ValueError):
        same = False
    if not same:
        raise WriteError(
            f"{out}: holds something else than this demo (--n {n} --seed {seed}).",
            hint="Choose another folder with --out, or remove this one.",
        )
    check_manifest(scenes)
    log.info("The images are there already.")


def _recalled(flaws: Sequence[Flaw], checked: CheckResult) -> list[FlawRecall]:
    damaged = [f for f in checked.findings if f.severity == "error" and f.check not in NOT_DAMAGE]
    return recalled(
        flaws,
        unreadable={path for f in damaged for path in f.paths},
        groups=checked.groups,
        turned={path for f in checked.findings if f.check == "exif_rotated" for path in f.paths},
        suspects={error.path for error in checked.label_errors or []},
    )


def _recipe(folder: Path, name: str) -> Path:
    """Write a recipe file, as users may write their own, unless it is there (and perhaps edited)."""
    about, options = WAYS[name]
    lines = [f"# {about}", "", *(f"{key} = {value!r}" for key, value in options.items())]
    if not (folder / f"{name}.toml").exists():
        write_text(folder / f"{name}.toml", "\n".join(lines) + "\n")
    return folder / f"{name}.toml"


def _sheet(scenes: Path, flaws: Sequence[Flaw]) -> dict[str, list[str]]:
    """The first images of each class that have no flaw."""
    flawed = {flaw.path for flaw in flaws}
    return {
        kind: [
            path
            for file in sorted((scenes / "train" / kind).iterdir())
            if (path := file.relative_to(scenes).as_posix()) not in flawed
        ][:SHEET]
        for kind in KINDS
    }


def _way(row: ComparisonRow) -> DemoTrial:
    about = f"Not done: {row.error}." if row.error else WAYS[row.name][0]
    return DemoTrial(row.name, about, row.figure("accuracy"), row.figure("log_loss"), row.seconds)
