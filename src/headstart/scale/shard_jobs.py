"""Turns what a user gives to `predict` or `embed` into a `ShardJob`; everything is checked before the first image is read.

    predict_in_shards(run, photos, options)
    embed_in_shards(extractor, runtime, photos, options)

Costs as much as opening the run or the weights. The driver computes nothing, so no network is opened here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headstart.errors import ExportError, RecipeError
from headstart.exporters.open_classifier import open_classifier
from headstart.images.image_refs import ImageRef
from headstart.io.addresses import store_url
from headstart.io.folders import check_outside_data
from headstart.model.inference.classifier import Classifier
from headstart.model.inference.features import FeatureExtractor
from headstart.model.inference.runtime import Runtime
from headstart.runs.outside_runs import check_outside_run
from headstart.scale.shard_columns import embed_model, extractor_document, predict_model
from headstart.scale.shard_options import ShardOptions, out_place
from headstart.scale.shard_plan import ShardJob, ShardPlan, software_here
from headstart.scale.shard_run import ShardResult, check_options, run_shards
from headstart.scale.shard_source import ShardSource, open_shard_source


def predict_in_shards(
    run: Path, images: Sequence[ImageRef], options: ShardOptions, *, offline: bool = False
) -> ShardResult:
    """Predict, with a run, all images of a source; `images` must have this one element.

    Raises `RecipeError`, `RunError`, `ExportError` for an export, and what `run_shards` raises.
    """
    check_options(options)
    (place, *more) = images
    if more or not isinstance(place, Path):
        raise RecipeError("--shards: takes one folder, table, archive or URL.", hint="Give one PATH.")
    classifier = open_classifier(run).classifier
    if not isinstance(classifier, Classifier):
        raise ExportError(f"{run}: is an export; --shards needs the run folder.", hint="Give the run folder.")
    return _run("predict", predict_model(classifier), place, options, offline=offline, run=os.path.abspath(run))


def embed_in_shards(
    extractor: FeatureExtractor, runtime: Runtime, images: Path, options: ShardOptions, *, offline: bool = False
) -> ShardResult:
    """Embed all images of a source. Raises `RecipeError`, and what `run_shards` raises."""
    check_options(options)
    return _run(
        "embed",
        embed_model(extractor, runtime),
        images,
        options,
        offline=offline,
        backbone=extractor_document(extractor),
    )


def _run(
    verb: str, model: dict[str, Any], images: Path, options: ShardOptions, *, offline: bool, **where: Any
) -> ShardResult:
    out = out_place(options.out or Path())
    if store_url(out) is None:
        check_outside_run(Path(out), option="--shards")
        check_outside_data(Path(out), images, option="--shards")
    source = open_shard_source(images, offline=offline)
    plan = _plan(verb, model, source, options.shard_size)
    job = ShardJob(plan=plan, files=source.place, out=out, table=source.table, offline=offline, **where)
    return run_shards(job, source, options)


def _plan(verb: str, model: dict[str, Any], source: ShardSource, shard_size: int) -> ShardPlan:
    return ShardPlan(
        verb=verb,
        source=source.identity,
        contents=source.contents,
        model=model,
        shard_size=shard_size,
        software=software_here(model["runtime"]["engine"]),
    )
