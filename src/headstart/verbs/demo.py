"""`headstart demo`: a first run that needs no images, no weights and no internet connection.

    sample -> compare (from scratch, augmented, transfer) -> check --labels -> report -> page, table, next steps

It runs the same functions as the commands a user would type, and also knows which flaws were planted. It takes about
two minutes on two cores, of which the comparison takes `budget`; the folder can be deleted afterwards. On a busy
machine it does less and takes longer, but does not fail for lack of time. The same command resumes an interrupted demo.
The results say nothing about photographs: see `caution`.
"""

from __future__ import annotations

import os
import textwrap
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headstart.data.curation import Curation
from headstart.data.data_source import DataSource
from headstart.io.extras import require
from headstart.io.progress import log
from headstart.io.result_repr import Result
from headstart.io.text_table import columns
from headstart.model.backbones.registry import at_hand
from headstart.model.backbones.weights_source import WeightsFolder, WeightsSource, as_weights_folder
from headstart.pipeline.compare_trials import ComparisonRequest, compare_trials
from headstart.pipeline.comparison import Comparison
from headstart.pipeline.demonstration import (
    COMMANDS,
    SIZE,
    caution,
    check_demo_place,
    recalled_flaws,
    recipe_files,
    write_demo_page,
)
from headstart.pipeline.trial_budget import Budget
from headstart.reports.demo_page import TITLES
from headstart.samples.flaws import FlawRecall
from headstart.training.recipe import seconds as seconds_of
from headstart.verbs.check import check
from headstart.verbs.report import report
from headstart.verbs.sample import sample


@dataclass(frozen=True, eq=False, repr=False)
class DemoResult(Result):
    """Result of `demo`: flaws found (`recalled`), the comparison, and the folder with its pages."""

    out: str
    images: int
    recalled: list[FlawRecall]
    comparison: Comparison
    caution: str
    seconds: float

    def summary(self) -> str:
        """Return the number of images and the comparison's advice."""
        return f"{self.images:,} rendered images in {self.out}; {self.comparison.advice}"

    def facts(self) -> list[tuple[str, str]]:
        """Return the accuracy of each trial, and the flaws found."""
        found = [(TITLES[r.flaw], f"{len(r.found)} of {r.planted} found") for r in self.recalled]
        return [*self.comparison.facts(), *found]

    def to_json(self) -> dict[str, Any]:
        """Return the document of `demo --json`."""
        flaws = [
            {
                "flaw": recall.flaw,
                "planted": recall.planted,
                "found": len(recall.found),
                "others": recall.others,
                "missed": [flaw.path for flaw in recall.missed],
            }
            for recall in self.recalled
        ]
        return {
            "out": self.out,
            "images": self.images,
            "flaws": flaws,
            "comparison": self.comparison.to_json(),
            "caution": self.caution,
            "seconds": self.seconds,
        }

    def table(self) -> str:
        """Format as plain text for a terminal: flaws found, the comparison, and the next commands."""
        found = [
            (TITLES[r.flaw], str(r.planted), str(len(r.found)), "" if r.others is None else str(r.others))
            for r in self.recalled
        ]
        lines = [
            f"{self.images:,} rendered images of six classes, some with planted flaws; `check --labels` found:",
            *columns([("", "planted", "found", "others"), *found]),
            "",
            self.comparison.table(),
            *textwrap.wrap(self.caution, 120),
            "",
            f"{self.seconds:.0f} s. Open {self.out}/report.html in a browser.",
            "Next, with your own images, one folder per class:",
            *(f"  {command}" for _, command in COMMANDS),
        ]
        return "\n".join(lines)


def demo(
    *,
    out: Path = Path("headstart-demo"),
    n: int = 600,
    seed: int = 0,
    budget: str = "80s",
    weights: WeightsFolder = WeightsSource(),
) -> DemoResult:
    """Show everything in two minutes: render images, compare three approaches, find flaws. Example:

        headstart demo --offline

    Args:
        out: Folder to write: the images, corrections.csv, the comparison with its runs, and report.html.
        n: Number of images.
        seed: Random seed; another seed gives other images.
        budget: Time for the comparison; rendering and checking take extra time (about 20 s for 600 images). If it is
            too short, each training run gets one epoch.
        weights: Weights folder to use instead of the built-in backbone; nothing is downloaded.

    Raises:
        RecipeError: too few images, or an invalid budget.
        BackboneError: the weights folder does not exist.
        WriteError: `out` holds other files, or cannot be written.
    """
    require("The demo", "matplotlib", "timm", "torch")
    started = time.monotonic()
    out = Path(out)
    check_demo_place(out, n, seed)
    seconds_of(budget)
    weights = replace(as_weights_folder(weights), offline=True)
    at_hand(weights)  # report a missing folder before any work, like an invalid budget
    scenes = out / "scenes"
    if not scenes.is_dir():
        log.info("Rendering %d images.", n)
        sample("scenes", scenes, n=n, seed=seed, size=SIZE)
    log.info("Comparing three approaches; budget %s.", budget)
    asked = ComparisonRequest(
        source=DataSource(scenes),
        out=Path(os.path.abspath(out / "comparison")),
        recipes=",".join(os.path.abspath(file) for file in recipe_files(out)),
        backbones="",
        budget=budget,
        seed=seed,
        curation=Curation(),
        weights=weights,
    )
    # Before the check, so that no timed work is already cached.
    comparison = compare_trials(asked, Budget(budget, firm=False))
    log.info("Checking images and labels.")
    corrections = out / "corrections.csv"
    wanted = None if corrections.exists() else corrections  # it may have been edited
    checked = check(scenes, labels=True, write_corrections=wanted, weights=weights)
    suspected = checked.label_errors or []
    found = recalled_flaws(scenes, findings=checked.findings, groups=checked.groups, label_errors=suspected)
    if comparison.taken:
        report(Path(comparison.out) / "runs" / comparison.taken)
    seconds = time.monotonic() - started
    write_demo_page(out, images=n, found=found, label_errors=suspected, comparison=comparison, seconds=seconds)
    return DemoResult(
        out=str(out),
        images=n,
        recalled=found,
        comparison=comparison,
        caution=caution(comparison),
        seconds=seconds,
    )
