"""`headstart train DATA --out RUN`: the main job, start to end.

    look -> split -> choose backbones -> embed -> fit the last layer -> calibrate on val -> test once -> run folder

What each split side is for: the last layer is fitted on train; validation picks backbones, head and temperature; then
the same head is fitted again on train and val together, and the test side is looked at once, at the very end.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.columns import plain
from headstart.data.checks import CHECKS_HEADER, Finding, checks_rows
from headstart.data.dataset import Dataset, require_trainable
from headstart.data.duplicates import feature_pairs, group_pairs, merge_groups
from headstart.data.split import make_split, mend_split, read_split, split_hash, write_split
from headstart.errors import BadSplit
from headstart.files import check_replaceable, folder_aside, write_csv, write_json, write_text
from headstart.judge.calibration import fit_temperature
from headstart.judge.conformal import conformal_threshold
from headstart.judge.metrics import Metrics, judge
from headstart.model.backbones import Backbone, find_backbone
from headstart.model.classifier import Classifier, save_classifier
from headstart.model.engine import Plan, choose_plan
from headstart.model.features import View, embed_files
from headstart.model.predictions import Predictions, softmax, write_predictions
from headstart.training.choose import Trial, choose_views, fitting_size
from headstart.training.fit import Fitted, fit_heads, refit_on
from headstart.training.recipe import Recipe, seconds
from headstart.verbs.card import model_card
from headstart.verbs.embed import all_at_hand, fitted_spec
from headstart.verbs.look import Looked, look


@dataclass(frozen=True, eq=False)
class Run:
    """What `train` made: the run folder `out`, its classifier, and the test metrics."""

    out: str
    classifier: Classifier
    test: Metrics
    val: Metrics
    findings: list[Finding]
    seconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """The document of `train --json`."""
        return {
            "out": self.out,
            "model": self.classifier.id,
            "backbones": [str(p.view) for p in self.classifier.parts],
            "plan": str(self.classifier.plan),
            "temperature": self.classifier.temperature,
            "test": self.test.to_json(),
            "val": self.val.to_json(),
            "findings": [asdict(f) for f in self.findings],
            "seconds": self.seconds,
        }

    def table(self) -> str:
        """Plain text for a terminal."""
        backbones = " + ".join(str(p.view) for p in self.classifier.parts)
        problems = [f"{f.severity}: {plain(f.message)}" for f in self.findings if f.severity != "info"]
        took = f"{self.seconds['total']:.1f} s"
        return "\n".join([*problems, f"{backbones}; {took}; written to {self.out}", "", "Test: " + self.test.table()])


def train(
    data: Path,
    *,
    out: Path,
    recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
    weights: Path | None = None,
    weights_dir: Path | None = None,
    split: Path | None = None,
    offline: bool = False,
) -> Run:
    """Train a classifier on a folder of labelled pictures: checked, split, calibrated, tested. Example:

        headstart train photos --out run

    Args:
        data: Folder of class folders, of split folders (train, val, test), or a table with a path and a label column.
        out: Run folder to write. An earlier run there is kept as OUT.previous.
        recipe: How to train.
        weights: Weights file (.safetensors) for the backbone that is named.
        weights_dir: Folder of NAME.safetensors and NAME.json.
        split: A split.csv to use, from `headstart split` or an earlier run.
        offline: Never open a socket.

    Raises:
        DataError: the data cannot be trained on: one class, too few pictures, nothing readable.
        BackboneError: no such backbone, or no weights for it here.
        WriteError: the run folder or the cache cannot be written.
    """
    clock = _Clock()
    out = Path(out)
    check_replaceable(out)
    looked = look(data)
    require_trainable(looked.dataset)
    given = read_split(Path(split), looked.dataset) if split is not None else looked.dataset
    dataset = _judged(make_split(given, seed=recipe.seed, val=recipe.val, test=recipe.test))
    clock.lap("look")

    plan = choose_plan(recipe.device, recipe.precision)
    views, trials = _views(looked, dataset, plan, recipe, weights, weights_dir, offline, clock)
    clock.lap("choose")
    features, failed = embed_files(looked.files, looked.sha256s, views, plan)
    if failed:
        raise _changed(dataset, failed)
    clock.lap("embed")

    dataset = _with_feature_groups(dataset, given, features[0], recipe)
    fuse = "+" in recipe.backbone
    train_val = _sides(dataset)
    fitted, tried = fit_heads(views, features, dataset.labels, *train_val, len(dataset.classes), recipe, fuse=fuse)
    chosen = [features[views.index(v)] for v in fitted.views]
    classifier, val = _calibrated(fitted, chosen, dataset, plan, recipe, looked)
    clock.lap("fit")

    predictions = _predict(classifier, chosen, dataset)
    test = judge(*_labelled(predictions, dataset, "test"), dataset.classes, seed=recipe.seed)
    clock.lap("judge")
    classifier = replace(classifier, provenance=_provenance(data, dataset, looked, recipe, fitted))
    found = looked.findings(dataset)
    with folder_aside(out) as folder:
        save_classifier(classifier, folder)
        write_split(folder / "split.csv", dataset, looked.sha256s)
        write_csv(folder / "checks.csv", CHECKS_HEADER, checks_rows(found))
        write_csv(folder / "history.csv", [f.name for f in fields(Trial)], [astuple(t) for t in [*trials, *tried]])
        write_predictions(folder / "predictions.csv", _reported(predictions, dataset, looked))
        clock.lap("write")
        write_json(folder / "metrics.json", {"test": test.to_json(), "val": val.to_json(), "seconds": clock.laps})
        write_text(folder / "README.md", model_card(classifier, test, val, found))
    return Run(str(out), classifier, test, val, found, clock.laps)


def _views(
    looked: Looked,
    dataset: Dataset,
    plan: Plan,
    recipe: Recipe,
    weights: Path | None,
    weights_dir: Path | None,
    offline: bool,
    clock: _Clock,
) -> tuple[list[View], tuple[Trial, ...]]:
    """The backbones to embed with: those named, or the better ones of all that are at hand, by small subsets."""
    sides = np.array([min(f.width, f.height) for f in looked.facts])

    def view(backbone: Backbone) -> View:
        size = recipe.image_size or fitting_size(backbone.preprocess.image_size, sides)
        return View(backbone, fitted_spec(backbone, size, recipe.resize))

    if recipe.backbone != "auto" or weights is not None:
        names = [""] if recipe.backbone == "auto" else recipe.backbone.split("+")
        named = [find_backbone(n, weights=weights, weights_dir=weights_dir, offline=offline) for n in names]
        return [view(b) for b in named], ()
    candidates = [view(b) for b in all_at_hand(weights_dir)]
    known = np.flatnonzero(np.isin(dataset.split, ("train", "val")))
    choice = choose_views(
        candidates,
        [looked.files[i] for i in known],
        [looked.sha256s[i] for i in known],
        dataset.labels[known],
        len(dataset.classes),
        plan,
        seconds=seconds(recipe.budget) - clock.elapsed,
        total=len(dataset),
        seed=recipe.seed,
    )
    return list(choice.views), choice.trials


def _with_feature_groups(dataset: Dataset, given: Dataset, features_ND: np.ndarray, recipe: Recipe) -> Dataset:
    """Join near-duplicates that only features show; where they straddle sides that we carved, they move to one side."""
    groups = merge_groups(len(dataset), group_pairs(dataset.groups), feature_pairs(features_ND))
    return mend_split(dataset, given, groups, seed=recipe.seed, val=recipe.val, test=recipe.test)


def _calibrated(
    fitted: Fitted, features: Sequence[np.ndarray], dataset: Dataset, plan: Plan, recipe: Recipe, looked: Looked
) -> tuple[Classifier, Metrics]:
    """Temperature and conformal threshold from validation, with the head of the train side; then the head of both sides."""
    train, val = _sides(dataset)
    labels_N = dataset.labels
    joined = fitted.join([x[val] for x in features])
    logits_NK = fitted.head.logits(joined)
    temperature = fit_temperature(logits_NK, labels_N[val])
    logits_NK = logits_NK / temperature
    threshold = conformal_threshold(softmax(logits_NK), labels_N[val], recipe.alpha)
    known = train | val
    final = refit_on(fitted, [x[known] for x in features], labels_N[known], len(dataset.classes))
    classifier = Classifier(final.parts(temperature), dataset.classes, plan, temperature, threshold, recipe.alpha)
    return classifier, judge(logits_NK, labels_N[val], dataset.classes, seed=recipe.seed)


def _predict(classifier: Classifier, features: Sequence[np.ndarray], dataset: Dataset) -> Predictions:
    logits_NK = classifier.logits(features)
    return Predictions(dataset.paths, dataset.classes, logits_NK, dataset.labels, {}, classifier.id)


def _reported(predictions: Predictions, dataset: Dataset, looked: Looked) -> Predictions:
    """What `predictions.csv` holds: the test side, unlabelled pictures, and the names of the unreadable ones."""
    held = predictions.take((dataset.split == "test") | (dataset.labels < 0))
    return replace(held, errors=looked.unreadable)


def _labelled(predictions: Predictions, dataset: Dataset, side: str) -> tuple[np.ndarray, np.ndarray]:
    mask = dataset.split == side
    return predictions.logits[mask], dataset.labels[mask]


def _sides(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    return dataset.split == "train", dataset.split == "val"


def _judged(dataset: Dataset) -> Dataset:
    """The data set, if each side has pictures. Raises `BadSplit`."""
    for side in ("train", "val", "test"):
        if not (dataset.split == side).any():
            raise BadSplit(
                f"{dataset.root}: no pictures are left for {side}: {len(dataset):,} are too few for three sides.",
                hint="Add pictures, or give a split of your own with --split.",
            )
    return dataset


def _changed(dataset: Dataset, failed: dict[int, str]) -> BadSplit:
    path = dataset.paths[min(failed)]
    return BadSplit(
        f"{path}: could not be read again ({failed[min(failed)]}), and {len(failed) - 1:,} more.",
        hint="The pictures changed while they were being used. Run the same command again.",
    )


def _provenance(data: Path, dataset: Dataset, looked: Looked, recipe: Recipe, fitted: Fitted) -> dict[str, Any]:
    """What a run folder says of where it comes from: enough for `headstart reproduce`."""
    packages = ("headstart", "numpy", "openvino", "pillow", "timm", "torch")
    return {
        "approach": recipe.approach,
        "head": {"kind": fitted.head.kind, "strength": fitted.head.strength},
        "recipe": recipe.as_dict(),
        "seed": recipe.seed,
        "data": {"path": str(data), "pictures": len(dataset), "fingerprint": looked.fingerprint},
        "split_hash": split_hash(dataset),
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
    }


class _Clock:
    """Seconds spent on each step, by name, and in total."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._start

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 3)
        self.laps["total"] = round(now - self._start, 3)
        self._last = now
