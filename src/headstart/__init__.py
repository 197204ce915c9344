"""headstart: put a new head on a pretrained backbone, and know how far to trust it.

    import headstart
    run = headstart.train("photos", out="run")
    print(run.table())

Everything public is listed in `__all__` and is loaded when it is first used: importing headstart costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.data.checks import Finding
    from headstart.data.dataset import Dataset, open_dataset
    from headstart.data.sources import Source
    from headstart.errors import HeadstartError
    from headstart.estimator import ImageClassifier
    from headstart.judge.estimate import Estimate
    from headstart.judge.metrics import Metrics, judge
    from headstart.model.backbones import Backbone
    from headstart.model.classifier import Classifier, load_classifier
    from headstart.model.features import Features
    from headstart.model.heat import heat_maps
    from headstart.model.predictions import Predictions
    from headstart.training.named import read_recipe
    from headstart.training.recipe import Recipe
    from headstart.verbs.backbones import backbones
    from headstart.verbs.bundle import bundle
    from headstart.verbs.check import check
    from headstart.verbs.compare import compare
    from headstart.verbs.compared import Comparison
    from headstart.verbs.demo import demo
    from headstart.verbs.embed import embed
    from headstart.verbs.evaluate import evaluate
    from headstart.verbs.explain import explain
    from headstart.verbs.kaggle import kaggle
    from headstart.verbs.predict import predict
    from headstart.verbs.report import report
    from headstart.verbs.reproduce import reproduce
    from headstart.verbs.sample import sample
    from headstart.verbs.split import split
    from headstart.verbs.submit import submit
    from headstart.verbs.train import train
    from headstart.vision.preprocess import Preprocess

__version__ = "0.1.0"

_HOME = {
    "Backbone": "headstart.model.backbones",
    "Classifier": "headstart.model.classifier",
    "Comparison": "headstart.verbs.compared",
    "Dataset": "headstart.data.dataset",
    "Estimate": "headstart.judge.estimate",
    "Features": "headstart.model.features",
    "Finding": "headstart.data.checks",
    "HeadstartError": "headstart.errors",
    "ImageClassifier": "headstart.estimator",
    "Metrics": "headstart.judge.metrics",
    "Predictions": "headstart.model.predictions",
    "Preprocess": "headstart.vision.preprocess",
    "Recipe": "headstart.training.recipe",
    "Source": "headstart.data.sources",
    "backbones": "headstart.verbs.backbones",
    "bundle": "headstart.verbs.bundle",
    "check": "headstart.verbs.check",
    "compare": "headstart.verbs.compare",
    "demo": "headstart.verbs.demo",
    "embed": "headstart.verbs.embed",
    "evaluate": "headstart.verbs.evaluate",
    "explain": "headstart.verbs.explain",
    "heat_maps": "headstart.model.heat",
    "judge": "headstart.judge.metrics",
    "kaggle": "headstart.verbs.kaggle",
    "load_classifier": "headstart.model.classifier",
    "open_dataset": "headstart.data.dataset",
    "predict": "headstart.verbs.predict",
    "read_recipe": "headstart.training.named",
    "report": "headstart.verbs.report",
    "reproduce": "headstart.verbs.reproduce",
    "sample": "headstart.verbs.sample",
    "split": "headstart.verbs.split",
    "submit": "headstart.verbs.submit",
    "train": "headstart.verbs.train",
}

__all__ = [
    "Backbone",
    "Classifier",
    "Comparison",
    "Dataset",
    "Estimate",
    "Features",
    "Finding",
    "HeadstartError",
    "ImageClassifier",
    "Metrics",
    "Predictions",
    "Preprocess",
    "Recipe",
    "Source",
    "backbones",
    "bundle",
    "check",
    "compare",
    "demo",
    "embed",
    "evaluate",
    "explain",
    "heat_maps",
    "judge",
    "kaggle",
    "load_classifier",
    "open_dataset",
    "predict",
    "read_recipe",
    "report",
    "reproduce",
    "sample",
    "split",
    "submit",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
