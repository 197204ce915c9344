"""What a part holds besides the path of each image: its prediction, or its features.

    columns = open_columns(job)          the classifier of a run, or a backbone
    columns.table(paths, rows)           a pyarrow table, a row per image

Probabilities are those of `predict`, rounded once to float32. An image that cannot be used has its reason in `error`,
and nothing in the other columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from headstart.errors import RunError
from headstart.evaluation.conformal import prediction_sets
from headstart.evaluation.probabilities import softmax
from headstart.exporters.open_classifier import open_classifier
from headstart.images.preprocess import Preprocess
from headstart.model.backbones.registry import Backbone
from headstart.model.inference.classifier import Classifier
from headstart.model.inference.engines import runtime_in_effect
from headstart.model.inference.features import Embedder, FeatureExtractor
from headstart.model.inference.predictions import class_column
from headstart.model.inference.runtime import Runtime
from headstart.scale.shard_pass import Reduces, ShardRows
from headstart.scale.shard_plan import ShardJob, check_worker


class PartColumns(Reduces, Protocol):
    """How the numbers computed for images become columns."""

    def columns(self, values_NW: np.ndarray, unusable: np.ndarray) -> dict[str, Any]:
        """Return pyarrow arrays by name; `unusable` bool (N,) marks rows without a value."""


class PredictionColumns:
    """`predicted`, `set`, and `p(CLASS)` of each class."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.embedder = Embedder([m.extractor for m in classifier.members], classifier.runtime, keep=False)

    @property
    def width(self) -> int:
        """The number of classes."""
        return len(self.classifier.classes)

    def reduced(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Return logits (n, K)."""
        return self.classifier.logits(features)

    def columns(self, values_NW: np.ndarray, unusable: np.ndarray) -> dict[str, Any]:
        """See `PartColumns`."""
        import pyarrow

        names = list(map(_text, self.classifier.classes))
        classes = np.array(names, dtype=object)
        chances_NK = softmax(values_NW)
        sets_NK = prediction_sets(chances_NK, self.classifier.calibration.conformal_threshold)
        sets = [None if bad else list(classes[held]) for bad, held in zip(unusable, sets_NK, strict=True)]
        predicted = pyarrow.array(classes[values_NW.argmax(axis=1)], pyarrow.string(), mask=unusable)
        columns = {"predicted": predicted, "set": pyarrow.array(sets, pyarrow.list_(pyarrow.string()))}
        for name, chances in zip(names, chances_NK.astype(np.float32).T, strict=True):
            columns[class_column(name)] = pyarrow.array(chances, pyarrow.float32(), mask=unusable)
        return columns


class FeatureColumns:
    """`values`: a list of D numbers per image."""

    def __init__(self, extractor: FeatureExtractor, runtime: Runtime) -> None:
        self.embedder = Embedder([extractor], runtime, keep=False)

    @property
    def width(self) -> int:
        """The number of features."""
        return sum(self.embedder.block_sizes(0))

    def reduced(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Return the features themselves (n, D)."""
        return features[0]

    def columns(self, values_NW: np.ndarray, unusable: np.ndarray) -> dict[str, Any]:
        """See `PartColumns`."""
        import pyarrow

        flat = pyarrow.array(values_NW.reshape(-1), pyarrow.float32())
        mask = pyarrow.array(unusable)
        return {"values": pyarrow.FixedSizeListArray.from_arrays(flat, values_NW.shape[1], mask=mask)}


def open_columns(job: ShardJob) -> PartColumns:
    """Open the classifier or backbone of a job, to run as planned.

    Raises `RunError`, and `ShardError` if it, this machine's runtime or its software are not those of the plan.
    """
    runtime = runtime_in_effect(Runtime(**job.plan.model["runtime"]))
    if job.plan.verb == "predict":
        classifier = open_classifier(Path(job.run)).classifier
        if not isinstance(classifier, Classifier):
            raise RunError(f"{job.run}: is an export; shards need the run folder.", hint="Give the run folder.")
        classifier = replace(classifier, runtime=runtime)
        check_worker(job, predict_model(classifier))
        return PredictionColumns(classifier)
    extractor = _extractor(job.backbone or {})
    check_worker(job, embed_model(extractor, runtime))
    return FeatureColumns(extractor, runtime)


def predict_model(classifier: Classifier) -> dict[str, Any]:
    """Describe a classifier, for `ShardPlan.model`."""
    return {
        "classifier": classifier.id,
        "set_threshold": classifier.calibration.conformal_threshold,
        "runtime": asdict(runtime_in_effect(classifier.runtime)),
    }


def embed_model(extractor: FeatureExtractor, runtime: Runtime) -> dict[str, Any]:
    """Describe a backbone and its input, for `ShardPlan.model`."""
    backbone = extractor.backbone
    spec = {name: list(x) if isinstance(x, tuple) else x for name, x in extractor.spec.as_dict().items()}
    return {
        "backbone": backbone.name,
        "sha256": backbone.sha256,
        "preprocess": spec,
        "runtime": asdict(runtime_in_effect(runtime)),
    }


def extractor_document(extractor: FeatureExtractor) -> dict[str, Any]:
    """Return an extractor as JSON, for `ShardJob.backbone`."""
    backbone = extractor.backbone
    document = {f.name: getattr(backbone, f.name) for f in fields(Backbone)}
    plain = {"weights": str(backbone.weights.absolute()) if backbone.weights else None}
    return document | plain | {"preprocess": backbone.preprocess.as_dict(), "spec": extractor.spec.as_dict()}


def _extractor(document: Mapping[str, Any]) -> FeatureExtractor:
    values = dict(document)
    spec = Preprocess.from_dict(values.pop("spec"))
    values["weights"] = Path(values["weights"]) if values["weights"] else None
    values["preprocess"] = Preprocess.from_dict(values["preprocess"])
    values["model_args"] = tuple((key, value) for key, value in values["model_args"])
    return FeatureExtractor(Backbone(**values), spec)


def table_of(columns: PartColumns, paths: Sequence[str], rows: ShardRows, note: Mapping[str, str]) -> Any:
    """Return a pyarrow table: path, sha256, the columns, error; `note` is kept in its metadata."""
    import pyarrow

    reasons = [rows.errors.get(i) for i in range(len(paths))]
    unusable = np.array([reason is not None for reason in reasons], bool)
    text = pyarrow.string()
    made = {
        "path": pyarrow.array(list(map(_text, paths)), text),
        "sha256": pyarrow.array([sha256 or None for sha256 in rows.sha256s], text),
        **columns.columns(rows.values, unusable),
        "error": pyarrow.array(reasons, text),
    }
    return pyarrow.table(made).replace_schema_metadata(dict(note))


def _text(name: str) -> str:
    r"""Return a path or a class in a form that parquet can hold: a byte that is not UTF-8 becomes, for example, `\xe9`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
