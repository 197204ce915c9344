"""What `headstart demo` adds to what a user would type: its recipes, which planted flaws were found, and its page.

It tells nothing about photographs: see `caution`. Costs what the page's thumbnails cost, half a second.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headstart.data.checks import Finding
from headstart.errors import WriteError
from headstart.io.files import read_csv, write_text
from headstart.io.folders import check_manifest
from headstart.io.progress import log
from headstart.model.backbones import builtin
from headstart.pipeline.comparison import Comparison, ComparisonRow
from headstart.pipeline.label_errors import LabelError
from headstart.reports.demo_page import DemoPageData, DemoTrial, demo_page
from headstart.runs.outside_runs import check_outside_run
from headstart.samples.flaws import Flaw, FlawRecall, recalled
from headstart.samples.sample_folder import first_line
from headstart.samples.scenes import KINDS

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


def check_demo_place(out: Path, n: int, seed: int) -> None:
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


def recipe_files(out: Path) -> list[Path]:
    """The files of the recipes that are compared, written unless they are there (and perhaps edited)."""
    return [_recipe(out / "recipes", name) for name in WAYS]


def _recipe(folder: Path, name: str) -> Path:
    """Write a recipe file, as users may write their own, unless it is there (and perhaps edited)."""
    about, options = WAYS[name]
    lines = [f"# {about}", "", *(f"{key} = {value!r}" for key, value in options.items())]
    if not (folder / f"{name}.toml").exists():
        write_text(folder / f"{name}.toml", "\n".join(lines) + "\n")
    return folder / f"{name}.toml"


def recalled_flaws(
    scenes: Path,
    *,
    findings: Sequence[Finding],
    groups: Sequence[Sequence[str]],
    label_errors: Sequence[LabelError],
) -> list[FlawRecall]:
    """Which of the flaws that flaws.csv lists a check found."""
    damaged = [f for f in findings if f.severity == "error" and f.check not in NOT_DAMAGE]
    return recalled(
        _planted(scenes),
        unreadable={path for f in damaged for path in f.paths},
        groups=groups,
        turned={path for f in findings if f.check == "exif_rotated" for path in f.paths},
        suspects={error.path for error in label_errors},
    )


def _planted(scenes: Path) -> list[Flaw]:
    return [Flaw(**row) for row in read_csv(scenes / "flaws.csv")]


def caution(comparison: Comparison) -> str:
    """What the figures do not tell."""
    used_embedded = any(builtin.NAME in row.backbones for row in comparison.rows)
    return f"{RENDERED} {SEEN}" if used_embedded else RENDERED


def write_demo_page(
    out: Path,
    *,
    images: int,
    found: Sequence[FlawRecall],
    label_errors: Sequence[LabelError],
    comparison: Comparison,
    seconds: float,
) -> None:
    """Write report.html into the folder of the demo."""
    scenes = out / "scenes"
    links = [("comparison/report.html", "The comparison: intervals, paired tests, costs, learning curves")]
    if comparison.taken:
        page = f"comparison/runs/{comparison.taken}/report.html"
        links.append((page, f"The report of {comparison.taken}: mistakes, confidence, the images behind each figure"))
    shown = DemoPageData(
        images=images,
        sheet=_sheet(scenes, _planted(scenes)),
        recalled=found,
        suggested={error.path: error.suggested for error in label_errors},
        ways=[_way(row) for row in comparison.rows],
        taken=comparison.taken,
        advice=comparison.advice,
        caution=caution(comparison),
        commands=COMMANDS,
        links=links,
        seconds=seconds,
        files={path.relative_to(scenes).as_posix(): path for path in scenes.rglob("*.jpg")},
    )
    write_text(out / "report.html", demo_page(shown))


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
    return DemoTrial(
        name=row.name,
        about=about,
        accuracy=row.figure("accuracy"),
        log_loss=row.figure("log_loss"),
        seconds=row.train_seconds,
    )
