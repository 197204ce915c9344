"""`headstart compare DATA --out DIR`: several approaches and backbones on one split, and which of them to take.

    look -> split once -> each trial is a `train` in a process of its own -> paired tests on the test set -> advice

What it costs is the budget, and a second or two a trial. Not for picking a head or a learning rate: `train` does that
on validation. Here the test set is looked at once for each trial, so that the best of many looks a little better than
it is; the paired tests are corrected for that, the figures are not.
"""

from __future__ import annotations

import os
from pathlib import Path

from headstart.data.data_source import DataSource, as_source
from headstart.pipeline.compare_trials import ComparisonRequest, compare_trials
from headstart.pipeline.comparison import Comparison


def compare(
    data: Path | DataSource,
    *,
    out: Path,
    recipes: str = "",
    backbones: str = "",
    budget: str = "20m",
    seed: int = 0,
    fix: Path | None = None,
    not_copies: Path | None = None,
    weights_dir: Path | None = None,
    offline: bool = False,
) -> Comparison:
    """Compare approaches and backbones on one split, under a total budget, and say which to take. Example:

        headstart compare photos --out comparison --budget 20m

    Args:
        data: Images with labels: a folder of class folders or of split folders, a table, an archive of these, or shards.
        out: Folder to write: report.html, split.csv, comparison.csv, pairs.csv, and a run folder for each trial in runs.
        recipes: Approaches (linear, finetune), names of recipes, or recipe files, joined by commas; by default linear on
            each backbone and then auto.
        backbones: Names joined by commas, each tried with every recipe that does not name its own; by default those at
            hand.
        budget: Time to spend in all, such as 20m or 2h.
        seed: Seed of the split, of every training and of every interval.
        fix: CSV of corrections (labels, images to leave out) to apply; the data itself stays as it is.
        not_copies: CSV of copies with an x in not_copies where a pair is none (checks-copies.csv of check).
        weights_dir: Folder of NAME.safetensors and NAME.json.
        offline: Never open a socket.

    Raises:
        RecipeError: an unknown recipe, or a budget that is too small for any trial.
        BackboneError: no such backbone, or no weights for one that is named.
        DataError: the data cannot be trained on, or `fix` or `not_copies` does not fit it.
        WriteError: the folder cannot be written, lies in the data, or holds other files.
    """
    asked = ComparisonRequest(
        source=as_source(data),
        out=Path(os.path.abspath(out)),
        recipes=recipes,
        backbones=backbones,
        budget=budget,
        seed=seed,
        fix=fix,
        not_copies=not_copies,
        weights_dir=weights_dir,
        offline=offline,
    )
    return compare_trials(asked)
