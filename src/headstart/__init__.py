"""headstart: put a new head on a pretrained backbone, and know how far to trust it.

    import headstart
    run = headstart.train("photos", out="run")
    print(run.table())

Everything public is listed in `__all__` and is loaded on first use: importing headstart costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.data.curation import Curation
    from headstart.data.data_source import DataSource
    from headstart.data.dataset import Dataset
    from headstart.data.findings import Finding
    from headstart.data.open_dataset import open_dataset
    from headstart.errors import HeadstartError
    from headstart.estimator import ImageClassifier
    from headstart.evaluation.intervals import Estimate
    from headstart.evaluation.metrics import Metrics, compute_metrics
    from headstart.images.preprocess import Preprocess
    from headstart.kaggle_api.submission import SubmissionOptions
    from headstart.model.backbones.registry import Backbone
    from headstart.model.backbones.weights_source import WeightsSource
    from headstart.model.inference.classifier import Classifier
    from headstart.model.inference.features import Features
    from headstart.model.inference.heat_maps import heat_maps
    from headstart.model.inference.predictions import Predictions
    from headstart.model.inference.predictor import Predictor
    from headstart.pipeline.comparison import Comparison
    from headstart.runs.run_folder import load_classifier
    from headstart.serving.server_options import ServerOptions
    from headstart.training.recipe import Recipe
    from headstart.training.recipe_files import read_recipe
    from headstart.verbs.backbones import backbones
    from headstart.verbs.bundle import bundle
    from headstart.verbs.check import check
    from headstart.verbs.compare import compare
    from headstart.verbs.demo import demo
    from headstart.verbs.embed import embed
    from headstart.verbs.evaluate import evaluate
    from headstart.verbs.explain import explain
    from headstart.verbs.export import export
    from headstart.verbs.kaggle import kaggle
    from headstart.verbs.pack import pack
    from headstart.verbs.predict import predict
    from headstart.verbs.push import push
    from headstart.verbs.report import report
    from headstart.verbs.reproduce import reproduce
    from headstart.verbs.sample import sample
    from headstart.verbs.serve import serve
    from headstart.verbs.split import split
    from headstart.verbs.submit import submit
    from headstart.verbs.train import train
    from headstart.verbs.verify import verify

__version__ = "0.1.0"

_HOME = {
    "Backbone": "headstart.model.backbones.registry",
    "Classifier": "headstart.model.inference.classifier",
    "Comparison": "headstart.pipeline.comparison",
    "Curation": "headstart.data.curation",
    "DataSource": "headstart.data.data_source",
    "Dataset": "headstart.data.dataset",
    "Estimate": "headstart.evaluation.intervals",
    "Features": "headstart.model.inference.features",
    "Finding": "headstart.data.findings",
    "HeadstartError": "headstart.errors",
    "ImageClassifier": "headstart.estimator",
    "Metrics": "headstart.evaluation.metrics",
    "Predictions": "headstart.model.inference.predictions",
    "Predictor": "headstart.model.inference.predictor",
    "Preprocess": "headstart.images.preprocess",
    "Recipe": "headstart.training.recipe",
    "ServerOptions": "headstart.serving.server_options",
    "SubmissionOptions": "headstart.kaggle_api.submission",
    "WeightsSource": "headstart.model.backbones.weights_source",
    "backbones": "headstart.verbs.backbones",
    "bundle": "headstart.verbs.bundle",
    "pack": "headstart.verbs.pack",
    "check": "headstart.verbs.check",
    "compare": "headstart.verbs.compare",
    "compute_metrics": "headstart.evaluation.metrics",
    "demo": "headstart.verbs.demo",
    "embed": "headstart.verbs.embed",
    "evaluate": "headstart.verbs.evaluate",
    "explain": "headstart.verbs.explain",
    "export": "headstart.verbs.export",
    "heat_maps": "headstart.model.inference.heat_maps",
    "kaggle": "headstart.verbs.kaggle",
    "load_classifier": "headstart.runs.run_folder",
    "open_dataset": "headstart.data.open_dataset",
    "predict": "headstart.verbs.predict",
    "push": "headstart.verbs.push",
    "read_recipe": "headstart.training.recipe_files",
    "report": "headstart.verbs.report",
    "reproduce": "headstart.verbs.reproduce",
    "sample": "headstart.verbs.sample",
    "serve": "headstart.verbs.serve",
    "split": "headstart.verbs.split",
    "submit": "headstart.verbs.submit",
    "train": "headstart.verbs.train",
    "verify": "headstart.verbs.verify",
}

__all__ = [
    "Backbone",
    "Classifier",
    "Comparison",
    "Curation",
    "DataSource",
    "Dataset",
    "Estimate",
    "Features",
    "Finding",
    "HeadstartError",
    "ImageClassifier",
    "Metrics",
    "Predictions",
    "Predictor",
    "Preprocess",
    "Recipe",
    "ServerOptions",
    "SubmissionOptions",
    "WeightsSource",
    "backbones",
    "bundle",
    "check",
    "compare",
    "compute_metrics",
    "demo",
    "embed",
    "evaluate",
    "explain",
    "export",
    "heat_maps",
    "kaggle",
    "load_classifier",
    "open_dataset",
    "pack",
    "predict",
    "push",
    "read_recipe",
    "report",
    "reproduce",
    "sample",
    "serve",
    "split",
    "submit",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    if name == "ImageClassifier":
        from headstart.io.extras import require

        require("ImageClassifier", "sklearn")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
