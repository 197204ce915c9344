"""`headstart compare DATA --out DIR`: several approaches and backbones on one split, and which of them to take.

    look -> split once -> each trial is a `train` in a process of its own -> paired tests on the test set -> advice

What it costs is the budget, and a second or two a trial. Not for picking a head or a learning rate: `train` does that
on validation. Here the test set is looked at once for each trial, so that the best of many looks a little better than
it is; the paired tests are corrected for that, the figures are not.
"""

from __future__ import annotations

import os
from pathlib import Path

from headstart.data.curation import Curation
from headstart.data.data_source import DataSource, as_source
from headstart.model.backbones.weights_source import WeightsFolder, WeightsSource, as_weights_folder
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
    curation: Curation = Curation(),
    weights: WeightsFolder = WeightsSource(),
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
        curation: Corrections and refused copies to apply; the data itself stays as it is.
        weights: Where to look for weights: a folder, only on this machine.

    Raises:
        RecipeError: an unknown recipe, or a budget that is too small for any trial.
        BackboneError: no such backbone, or no weights for one that is named.
        DataError: the data cannot be trained on, or a table of `curation` does not fit it.
        WriteError: the folder cannot be written, lies in the data, or holds other files.
    """
    asked = ComparisonRequest(
        source=as_source(data),
        out=Path(os.path.abspath(out)),
        recipes=recipes,
        backbones=backbones,
        budget=budget,
        seed=seed,
        curation=curation,
        weights=as_weights_folder(weights),
    )
    return compare_trials(asked)
