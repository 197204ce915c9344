"""`headstart compare DATA --out DIR`: compare approaches and backbones on one split, and recommend one.

    scan -> split once -> each trial is a `train` in its own process -> paired tests on the test set -> advice

Costs the budget, and a second or two per trial. Not for choosing a head or a learning rate: `train` does that on
validation. Here each trial uses the test set once, so the best of many looks slightly better than it is; the paired
tests are corrected for that, the figures are not.
"""

from __future__ import annotations

import os
from pathlib import Path

from headstart.data.curation import Curation
from headstart.data.data_source import DataSource, as_source
from headstart.io.given_options import as_path, expect, names_given
from headstart.model.backbones.weights_source import WeightsPool, WeightsSource, as_weights_folder
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
    weights: WeightsPool = WeightsSource(),
) -> Comparison:
    """Compare approaches and backbones on one split within a total budget, and recommend one. Example:

        headstart compare photos --out comparison --budget 20m

    Args:
        data: Images with labels: a folder of class folders or of split folders, a table, an archive of these, or shards.
        out: Folder to write: report.html, split.csv, comparison.csv, pairs.csv, and one run folder per trial in runs.
        recipes: Approaches (linear, finetune), recipe names, or recipe files, comma-separated; by default linear on
            each backbone, then auto.
        backbones: Comma-separated names, each tried with every recipe that does not name its own; by default those
            available.
        budget: Total time to spend, such as 20m or 2h.
        seed: Seed for the split, every training run and every interval.
        curation: Corrections and refused copies to apply; the data itself stays unchanged.
        weights: Where to look for weights: a folder, only on this machine.

    Raises:
        RecipeError: a recipe is unknown, or the budget is too small for any trial.
        BackboneError: a named backbone is unknown, or its weights are not available.
        DataError: the data cannot be trained on, or a table of `curation` does not fit it.
        WriteError: the folder cannot be written, is inside the data, or holds other files.
    """
    expect(curation, Curation, "curation", "Curation(corrections='corrections.csv')")
    asked = ComparisonRequest(
        source=as_source(data),
        out=Path(os.path.abspath(as_path(out, "out"))),
        recipes=names_given(recipes, "recipes"),
        backbones=names_given(backbones, "backbones"),
        budget=budget,
        seed=seed,
        curation=curation,
        weights=as_weights_folder(weights),
    )
    return compare_trials(asked)
