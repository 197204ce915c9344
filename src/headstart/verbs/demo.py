"""`headstart demo`: a first run that needs nothing, no images, no weights, no network.

    sample -> compare (from scratch, augmented, transfer) -> check --labels -> report -> a page, a table, what next

It does what a user would type, by the same functions, and adds what only it can know: which flaws were planted. About two
minutes on two cores, of which `budget` goes into the comparison; the folder can be deleted afterwards. On a machine that is
busy it does less and takes longer, but it does not fail for want of time. The same command goes on where it was stopped. It
tells nothing about photographs: see `caution`.
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


def demo(
    *,
    out: Path = Path("headstart-demo"),
    n: int = 600,
    seed: int = 0,
    budget: str = "80s",
    weights: WeightsFolder = WeightsSource(),
) -> DemoResult:
    """Show all of it in two minutes: images are drawn, three ways to a classifier compared, flaws found. Example:

        headstart demo --offline

    Args:
        out: Folder to write: the images, corrections.csv, the comparison with its runs, and report.html.
        n: Number of images.
        seed: Another seed gives other images.
        budget: Time for the comparison; drawing and checking come on top (some 20 s for 600 images). Where it is too short,
            each training is one epoch.
        weights: Folder of weights to use instead of the backbone that comes with headstart; nothing is downloaded.

    Raises:
        RecipeError: too few images, or a budget that is no time.
        BackboneError: the folder of weights does not exist.
        WriteError: `out` holds something else, or cannot be written.
    """
    started = time.monotonic()
    out = Path(out)
    check_demo_place(out, n, seed)
    seconds_of(budget)
    weights = replace(as_weights_folder(weights), offline=True)
    at_hand(weights)  # a folder that is not there is said now, as a budget that is none
    scenes = out / "scenes"
    if not scenes.is_dir():
        log.info("Drawing %d images.", n)
        sample("scenes", scenes, n=n, seed=seed, size=SIZE)
    log.info("Comparing three ways to a classifier; budget %s.", budget)
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
    # Before the check, so that nothing of what it times has been done by then.
    comparison = compare_trials(asked, Budget(budget, firm=False))
    log.info("Checking the images, labels too.")
    corrections = out / "corrections.csv"
    wanted = None if corrections.exists() else corrections  # somebody may have begun to edit it
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
