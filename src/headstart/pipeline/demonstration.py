"""What `headstart demo` adds to the other verbs: its recipes, the planted flaws that were found, and its page.

Its results say nothing about photographs: see `caution`. Costs half a second, for the page's thumbnails.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headstart.data.findings import Finding
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
"""Number of images per class on the page."""
NOT_DAMAGE = ("label_conflict", "split_leak")
"""Errors that `check` reports for readable images."""

SMALL: dict[str, Any] = {"approach": "scratch", "backbone": "headstart_cnn", "image_size": 96, "lr": 0.002}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "scratch": (
        "A small convolutional network trained from random weights, without augmentation.",
        {**SMALL, "augment": "none"},
    ),
    "augmented": (
        "The same network from random weights; every image is randomly cropped, rotated and flipped in each epoch.",
        {**SMALL, "augment": "crop=0.5,flip,rotation=10"},
    ),
    "transfer": (
        "A network pretrained on other images, frozen, with a new head.",
        {"approach": "linear"},
    ),
}
"""The recipes to compare: a description and the options of each."""

RENDERED = "All results are for rendered images; they do not show how well something works on photographs."
SEEN = (
    "The training data of the built-in backbone included other renderings by the same program (without their classes), "
    "so these images are easy for it."
)
COMMANDS = (
    ("Check them; nothing is changed.", "headstart check photos --labels"),
    (
        "Train, calibrate and test a classifier; run/report.html shows how good it is.",
        "headstart train photos --out run",
    ),
    ("Classify new images with it.", "headstart predict run new.jpg --out predictions.csv"),
    (
        "Use a larger network, if it can be downloaded; `headstart backbones --all` lists them.",
        "headstart train photos --out run --backbone resnet50",
    ),
)


def check_demo_place(out: Path, n: int, seed: int) -> None:
    """Raise `WriteError` if the folder holds anything other than this demo."""
    check_outside_run(out)
    if "," in str(out):
        raise WriteError(f"{out}: has a comma in its name, which would split --recipes.", hint="Choose another --out.")
    if not out.exists() or (out.is_dir() and all(name.startswith(".") for name in os.listdir(out))):
        return  # an interrupted rendering leaves hidden files
    scenes = out / "scenes"
    try:
        same = (scenes / "README.txt").read_text(encoding="utf-8").startswith(first_line(n, seed, SIZE, flaws=True))
    except (OSError, ValueError):
        same = False
    if not same:
        raise WriteError(
            f"{out}: holds something other than this demo (--n {n} --seed {seed}).",
            hint="Choose another folder with --out, or remove this one.",
        )
    check_manifest(scenes)
    log.info("Using the existing images.")


def recipe_files(out: Path) -> list[Path]:
    """Return the files of the recipes to compare; write those that do not exist (existing ones may be edited)."""
    return [_recipe(out / "recipes", name) for name in WAYS]


def _recipe(folder: Path, name: str) -> Path:
    """Write a recipe file like a user's own, unless it exists (and may be edited)."""
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
    """Return which of the flaws in flaws.csv a check found."""
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
    """Return the limitations of the demo's results."""
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
    """Write report.html into the demo's folder."""
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
    """Return the first images of each class without a flaw."""
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
    about = f"Not finished: {row.error}." if row.error else WAYS[row.name][0]
    return DemoTrial(
        name=row.name,
        about=about,
        accuracy=row.figure("accuracy"),
        log_loss=row.figure("log_loss"),
        seconds=row.train_seconds,
    )
