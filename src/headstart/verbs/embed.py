"""`headstart embed DATA --out features.safetensors`: feature vectors of images, for use outside headstart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.data_source import DataSource, as_source
from headstart.data.open_dataset import open_dataset
from headstart.errors import BackboneError, HeadstartError, MissingExtra, RecipeError, WriteError
from headstart.images.value_ranges import ValueRanges, given_ranges
from headstart.io.files import as_write_error, csv_bytes, safetensors_bytes, write_together
from headstart.io.folders import check_keeps
from headstart.io.given_options import as_path
from headstart.io.progress import log
from headstart.io.result_repr import Result
from headstart.io.stores.store import check_online
from headstart.model.backbones.registry import Backbone, find_backbone, to_choose_from
from headstart.model.backbones.weights_source import WeightsSource, as_weights_source
from headstart.model.inference.engines import choose_runtime, open_network
from headstart.model.inference.features import FeatureExtractor, Features, embed_images, fingerprint, fitted_spec
from headstart.model.inference.runtime import Runtime
from headstart.pipeline.scan import scan
from headstart.runs.outside_runs import check_out_file
from headstart.scale.shard_jobs import embed_in_shards
from headstart.scale.shard_options import ShardOptions, as_shards, only_shards
from headstart.scale.shard_run import ShardResult

HEADER = ("path", "label", "sha256")
"""Columns of the table that accompanies the features."""


@dataclass(frozen=True, repr=False)
class EmbedResult(Result):
    """Result of `embed`. `features.values` is float32 (N, D), with a row per image that could be read."""

    features: Features
    runtime: str
    out: str

    def to_json(self) -> dict[str, Any]:
        """Return the document of `embed --json`."""
        images, feature_dim = self.features.values.shape
        return {
            "images": images,
            "feature_dim": feature_dim,
            "backbone": self.features.backbone,
            "runtime": self.runtime,
            "fingerprint": self.features.fingerprint,
            "out": self.out,
            "errors": self.features.errors,
        }

    def table(self) -> str:
        """Format as plain text for a terminal."""
        n, d = self.features.values.shape
        written = f", written to {self.out}" if self.out else ""
        left_out = f"; {len(self.features.errors):,} could not be read" if self.features.errors else ""
        return f"{n:,} images x {d:,} features of {self.features.backbone} ({self.runtime}){written}{left_out}"


def embed(
    data: Path | DataSource,
    *,
    backbone: str = "auto",
    out: Path | None = None,
    image_size: int = 0,
    resize: str = "auto",
    value_range: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    weights: Path | WeightsSource = WeightsSource(),
    shards: Path | ShardOptions = ShardOptions(),
) -> EmbedResult | ShardResult:
    """Compute feature vectors of all images with a frozen backbone, and cache them. Example:

        headstart embed photos --backbone resnet34 --out features.safetensors

    Args:
        data: Images, with or without labels: a folder, a table, an archive of these, or shards.
        backbone: A timm name; auto selects the first one with local weights that can be used here.
        out: safetensors file to write (`values` float32 (N, D)), with a table of paths and labels (.csv) beside it.
        image_size: Side of the square input in pixels; 0 uses the backbone's own.
        resize: How to make images square: crop, pad or squash; auto uses the backbone's own.
        value_range: LOW,HIGH: which values become black and white in images of more than 8 bits; auto measures all images, or,
            with --shards, takes the whole range of their format.
        device: auto, cpu or cuda.
        precision: auto (bf16 where the hardware supports it), bf16 or f32.
        weights: Where to look for weights: a file, a folder, or only this machine.
        shards: For more images than fit into memory: where to write the parts, and what makes them.

    Raises:
        DataError: no image in `data` can be read.
        BackboneError: the backbone is unknown, or its weights are not available.
        RecipeError: an option has no effect here or is invalid.
        WriteError: `out`, its table or the cache cannot be written, or an input would be replaced.
        OtherPlan, ShardFailed, StoreError: with `shards`.
    """
    source, out = as_source(data), None if out is None else as_path(out, "out")
    in_shards, weights = as_shards(shards), as_weights_source(weights)
    ranges = given_ranges(value_range)
    check_online(source.place, offline=weights.offline)
    if in_shards != ShardOptions():
        only_shards(in_shards, out=out)
        _check_plain(source)
        runtime = choose_runtime(device, precision)
        found = find_one(backbone, weights, image_size, runtime)
        extractor = FeatureExtractor(found, fitted_spec(found, image_size, resize, ranges or ValueRanges()))
        return embed_in_shards(extractor, runtime, source.place, in_shards, offline=weights.offline)
    if out is not None:
        _check_places(out, source.place)
    opened, runtime = open_dataset(source), choose_runtime(device, precision)
    found = find_one(backbone, weights, image_size, runtime)
    if out is not None:
        read = [*opened.places, *([found.weights] if found.weights is not None else [])]
        check_keeps(out, read)
    fitted_spec(found, image_size, resize)  # an invalid option is an error before any image is read
    scanned = scan(source, opened=opened)
    extractor = FeatureExtractor(found, fitted_spec(found, image_size, resize, ranges or scanned.images.ranges))
    log.info("Embedding with %s (%s)", extractor, runtime)
    (values_ND,), failed = embed_images(scanned.images, [extractor], runtime)
    dataset, images = scanned.dataset, scanned.images
    errors = scanned.unreadable | {dataset.paths[i]: reason for i, reason in failed.items()}
    if failed:
        kept = np.array([i for i in range(len(images)) if i not in failed], np.int64)
        dataset, images, values_ND = dataset.take(kept), images.take(kept), values_ND[kept]
    features = Features(
        values=values_ND,
        paths=dataset.paths,
        backbone=found.name,
        fingerprint=fingerprint(extractor, runtime, images.sha256s),
        errors=errors,
    )
    if out is not None:
        metadata = {"backbone": found.name, "fingerprint": features.fingerprint}
        rows = [
            (p, dataset.label_name(i), s) for i, (p, s) in enumerate(zip(dataset.paths, images.sha256s, strict=True))
        ]
        table = csv_bytes(HEADER, rows)
        write_together({out.with_suffix(".csv"): table, out: safetensors_bytes({"values": values_ND}, metadata)})
    return EmbedResult(features, str(runtime), str(out or ""))


def _check_plain(source: DataSource) -> None:
    """Raise `RecipeError` for options about labels and groups, which `--shards` does not read."""
    for name in source.options:
        raise RecipeError(
            f"{name}: has no effect with --shards, which reads every image by its name.", hint="Leave it out."
        )


def _check_places(out: Path, data: Path) -> None:
    """Raise `WriteError` if the features or their table cannot be written, or would replace another file."""
    if out.suffix.lower() == ".csv":
        raise WriteError(
            f"{out}: is the name of the table beside the features.", hint="Use a name that ends in .safetensors."
        )
    table = out.with_suffix(".csv")
    for place in (out, table):
        check_out_file(place, data)
    if not table.exists():
        return
    first = csv_bytes(HEADER, [])
    with as_write_error(table), open(table, "rb") as file:
        written = file.read(len(first)) == first
    if not written:
        raise WriteError(
            f"{table}: exists and is not a table of features, so it is left alone.",
            hint="Choose another --out.",
        )


def find_one(name: str, weights: WeightsSource, image_size: int, runtime: Runtime) -> Backbone:
    """Return the backbone that is named, in the weights file, or the first whose network can be opened here.

    Raises `BackboneError`; `MissingExtra` if all of several need a package that is not installed.
    """
    if name != "auto":
        return find_backbone(name, weights)
    candidates = to_choose_from(weights)
    errors: list[HeadstartError] = []
    for each in candidates if len(candidates) > 1 else ():
        try:
            open_network(each, fitted_spec(each, image_size, "auto"), runtime)
        except (BackboneError, MissingExtra) as error:
            log.info("Not tried: %s", error.message)
            errors.append(error)
        else:
            return each
    if errors:
        raise errors[0]
    return candidates[0]
