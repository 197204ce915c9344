"""`headstart reproduce RUN`: train again from the recipe, and report whether the numbers are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.corrections import Corrections
from headstart.data.curation import Curation
from headstart.data.data_source import DataSource
from headstart.data.in_memory import missing_table
from headstart.data.open_dataset import open_dataset
from headstart.data.splits import SPLIT_HEADER, SplitRow
from headstart.errors import MissingData, MissingWeights, UnknownBackbone
from headstart.images.image_refs import hash_of
from headstart.io.addresses import store_url
from headstart.io.files import write_csv
from headstart.io.folders import temporary_folder
from headstart.io.given_options import as_path
from headstart.io.progress import log
from headstart.io.result_repr import Result
from headstart.io.text_table import few
from headstart.model.backbones.weights_source import NamedWeights, WeightsSource, as_weights_source
from headstart.model.inference.classifier import Classifier
from headstart.model.inference.predictions import Predictions
from headstart.pipeline.fit_task import EarlierChoices
from headstart.pipeline.train_run import TrainRequest, TrainResult, train_run
from headstart.runs.run_folder import CORRECTIONS, NOT_COPIES, SPLIT, RunFolder

TOLERANCE = 1e-6  # for a probability: nine digits are written


@dataclass(frozen=True, repr=False)
class ReproduceResult(Result):
    """`same` if every prediction is identical. Otherwise `causes` lists what changed, `effects` how predictions
    differ."""

    same: bool
    causes: list[str]
    effects: list[str]
    images: int

    def to_json(self) -> dict[str, Any]:
        """Return the document of `reproduce --json`."""
        return {"same": self.same, "causes": self.causes, "effects": self.effects, "images": self.images}

    def table(self) -> str:
        """Format as plain text for a terminal."""
        if self.same and not self.causes:
            return f"Identical: all {self.images:,} predictions are the same."
        verdict = "The predictions are identical." if self.same else "NOT identical."
        causes = [f"  {c}" for c in self.causes] or ["  nothing recorded"]
        return "\n".join([verdict, "What changed:", *causes, "Effects:", *[f"  {e}" for e in self.effects]])


def reproduce(run: Path, *, data: Path | None = None, weights: NamedWeights = WeightsSource()) -> ReproduceResult:
    """Train again from a run folder's recipe, split and seed, and compare every prediction. Example:

        headstart reproduce run

    Args:
        run: Run folder written by `headstart train`.
        data: The images; by default where they were during training.
        weights: Where to look for weights: a file, a folder, or only this machine.

    Raises:
        RunError: the run folder is missing or damaged.
        DataError, BackboneError: the images or weights are no longer available.
    """
    run = as_path(run, "run")
    before = RunFolder(run)
    made, source = before.provenance, before.provenance.source(data)
    predicted, corrections, refused = before.predictions, before.corrections, before.not_copies
    _check_place(source, given=data is not None)
    causes, still_there = _changed_images(source, before.split, set(predicted.errors), corrections)
    if not still_there:
        raise MissingData(
            f"{source.where}: has none of the {len(before.split):,} images of {run}.",
            hint="Give the new location of the images with --data.",
        )
    _check_classes(before, source, still_there, causes)
    with temporary_folder() as folder:
        split = folder / SPLIT
        write_csv(split, SPLIT_HEADER, still_there)
        there = open_dataset(source).paths
        curation = Curation()
        if corrections:
            curation = replace(curation, corrections=folder / CORRECTIONS)
            corrections.among(there).write(folder / CORRECTIONS)
        refused = refused.among(there)
        if refused:
            curation = replace(curation, not_copies=folder / NOT_COPIES)
            refused.write(folder / NOT_COPIES)
        log.info("Training again in a temporary folder")
        asked = TrainRequest(
            source=source,
            out=folder / "run",
            recipe=made.recipe,
            weights=as_weights_source(weights),
            split=split,
            curation=curation,
            report=False,
        )
        again = _trained_again(replace(asked, earlier=_earlier(before)), run)
        after = RunFolder(folder / "run").predictions
    causes += _changed_model(before.classifier, again.classifier)
    causes += _changed_versions(made.versions, again.provenance.versions)
    effects, same = _compare(predicted, after)
    return ReproduceResult(same, causes, effects, len(after))


def _earlier(run: RunFolder) -> EarlierChoices:
    """Return the choices of a run that depended on time, and the weights in it that are not its own product."""
    made = run.provenance
    backbones = [member.extractor.backbone for member in run.classifier.members]
    return EarlierChoices(
        backbones=made.chosen,
        weights={backbone.name: backbone for backbone in backbones if not backbone.trained_here},
        replanned=made.tuned.replanned if made.tuned else (),
        two_inputs=made.two_inputs,
    )


def _trained_again(asked: TrainRequest, run: Path) -> TrainResult:
    try:
        return train_run(asked)
    except (UnknownBackbone, MissingWeights) as error:
        raise type(error)(
            error.message,
            hint=f"{run} started from these weights, which are neither in it nor on this machine: give their folder with "
            "--weights-dir.",
        ) from error


def _check_place(source: DataSource, *, given: bool) -> None:
    """Raise `MissingData` if the recorded place of the images is gone."""
    if (
        not given
        and store_url(source.place) is None
        and not source.place.exists()
        and missing_table(source.place) is None
    ):
        raise MissingData(
            f"{source.where}: does not exist any more; the run's images were there.",
            hint="Give the new location of the images with --data.",
        )


def _check_classes(run: RunFolder, source: DataSource, there: Sequence[SplitRow], causes: Sequence[str]) -> None:
    """Raise `MissingData` if a class has no training image left, so that nothing can be compared."""
    before, now = ({row.label for row in rows if row.split == "train"} for rows in (run.split, there))
    gone = sorted(before - now)
    if gone:
        raise MissingData(
            f"{source.where}: has none of the training images of {few(gone)} that {run.path} was trained on: "
            f"{'; '.join(causes)}.",
            hint="Was a class folder renamed or moved? Give the images as they were with --data.",
        )


def _changed_images(
    source: DataSource, rows: Sequence[SplitRow], unreadable: set[str], corrections: Corrections
) -> tuple[list[str], list[SplitRow]]:
    """Describe images that are gone, new, or changed since training; and return the rows of those still present."""
    dataset = open_dataset(source)
    present = {path: dataset.file(i) for i, path in enumerate(dataset.paths)}
    still_there = [row for row in rows if row.path in present]
    gone = [row.path for row in rows if row.path not in present]
    dropped = {row.path for row in corrections.rows if row.drop}
    new = sorted(set(present) - {row.path for row in rows} - unreadable - dropped)
    changed = [row.path for row in still_there if hash_of(present[row.path]) != row.sha256]
    listed = (("gone", gone), ("new", new), ("changed (other bytes)", changed))
    return [f"{_images(len(paths))} {what}: {_first(paths)}" for what, paths in listed if paths], still_there


def _changed_model(before: Classifier, after: Classifier) -> list[str]:
    """List differences in backbones, weights and precision."""
    causes = []
    if [p.extractor.backbone.name for p in before.members] != [p.extractor.backbone.name for p in after.members]:
        names = [" + ".join(p.extractor.backbone.name for p in c.members) for c in (before, after)]
        causes.append(f"backbone: {names[0]} -> {names[1]}")
    else:
        for old, new in zip(before.members, after.members, strict=True):
            a, b = old.extractor.backbone, new.extractor.backbone
            if a.sha256 != b.sha256:
                causes.append(f"weights of {a.name}: SHA-256 {a.sha256[:16]} -> {b.sha256[:16]} ({b.weights})")
            if old.extractor.spec != new.extractor.spec:
                causes.append(f"preprocessing of {a.name}: {old.extractor.spec} -> {new.extractor.spec}")
    if before.runtime != after.runtime:
        causes.append(f"engine: {before.runtime} -> {after.runtime}")
    return causes


def _changed_versions(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return [f"{name}: {version} -> {after.get(name)}" for name, version in before.items() if after.get(name) != version]


def _compare(before: Predictions, after: Predictions) -> tuple[list[str], bool]:
    """Describe how the predictions differ, and return whether they are the same."""
    places = {path: i for i, path in enumerate(after.paths)}
    common = [(i, places[path]) for i, path in enumerate(before.paths) if path in places]
    effects = []
    missing = len(before) - len(common), len(after) - len(common)
    if any(missing):
        effects.append(f"{_images(missing[0])} without a prediction now, {_images(missing[1])} without one before")
    if before.classes != after.classes:
        return [*effects, f"the classes differ: {before.classes} -> {after.classes}"], False
    if not common:
        return [*effects, "no image was predicted in both runs"], False
    old, new = (np.array(x) for x in zip(*common, strict=True))
    moved = np.abs(before.probabilities[old] - after.probabilities[new]).max(axis=1)
    flipped = before.predicted[old] != after.predicted[new]
    if (moved > TOLERANCE).any():
        worst = int(moved.argmax())
        effects.append(
            f"{(moved > TOLERANCE).sum():,} of {len(common):,} predictions differ, {flipped.sum():,} in the class; "
            f"the largest change of a probability is {moved[worst]:.3g} ({before.paths[old[worst]]})"
        )
    return effects or ["no prediction differs"], not (any(missing) or (moved > TOLERANCE).any())


def _images(n: int) -> str:
    return f"{n:,} image" + "s" * (n != 1)


def _first(paths: list[str], most: int = 5) -> str:
    return ", ".join(map(repr, paths[:most])) + (f" and {len(paths) - most:,} more" if len(paths) > most else "")
