"""`headstart train DATA --out RUN`: the main command. `pipeline.train_run` implements it."""

from __future__ import annotations

from pathlib import Path

from headstart.data.curation import Curation
from headstart.data.data_source import DataSource, as_source
from headstart.io.given_options import as_path, expect
from headstart.model.backbones.weights_source import WeightsSource, as_weights_source
from headstart.pipeline.train_run import TrainRequest, TrainResult, train_run
from headstart.training.recipe import Recipe


def train(
    data: Path | DataSource,
    *,
    out: Path,
    recipe: Recipe = Recipe(),
    weights: Path | WeightsSource = WeightsSource(),
    split: Path | None = None,
    curation: Curation = Curation(),
    restart: bool = False,
    report: bool = True,
) -> TrainResult:
    """Train a classifier on a folder of labelled images: checked, split, calibrated, tested. Example:

        headstart train photos --out run

    Args:
        data: Images with labels: a folder of class folders or of split folders, a table, an archive of these, or shards.
        out: Run folder to write. An earlier run there is kept as OUT.previous.
        recipe: How to train.
        weights: Where to look for weights: a file, a folder, or only this machine.
        split: A split.csv to use, from `headstart split` or an earlier run.
        curation: Corrections and refused copies to apply; the data itself stays unchanged.
        restart: Discard an unfinished training run, and start over.
        report: Write report.html, and its plots as PNG and SVG in the folder plots.

    Raises:
        DataError: the data cannot be trained on: one class, too few images, nothing readable; or a table of `curation`
            does not fit it.
        BackboneError: the backbone is unknown, or its weights are not available.
        StoreError: a bucket is missing, or refuses.
        WriteError: the run folder or the cache cannot be written.
        UnfinishedTraining: OUT.unfinished is from other data or another recipe.
        TrainingFailed: the loss became NaN before an epoch finished.
    """
    expect(recipe, Recipe, "recipe", "Recipe(budget='2m')")
    expect(curation, Curation, "curation", "Curation(corrections='corrections.csv')")
    asked = TrainRequest(
        source=as_source(data),
        out=as_path(out, "out"),
        recipe=recipe,
        weights=as_weights_source(weights),
        split=None if split is None else as_path(split, "split"),
        curation=curation,
        restart=restart,
        report=report,
    )
    return train_run(asked)
