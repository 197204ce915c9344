"""Every public result is one line at a prompt, and a small, well-formed, escaped table in a notebook."""

from __future__ import annotations

import inspect
import pkgutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import headstart.verbs
from headstart.data.data_source import DataSource
from headstart.data.dataset import Dataset
from headstart.data.findings import Finding
from headstart.data.packs.pack_writing import PackSummary
from headstart.evaluation.intervals import undefined, wilson
from headstart.evaluation.metrics import compute_metrics
from headstart.exporters.hub_upload import UploadedFiles
from headstart.exporters.verify_export import VerifyReport
from headstart.images.preprocess import Preprocess
from headstart.io.result_repr import MOST_CHARACTERS, MOST_FACTS, OneLineRepr, Result
from headstart.kaggle_api.client import Slug, SubmissionStatus
from headstart.model.backbones.pool import PoolEntry
from headstart.model.backbones.registry import Backbone, BackboneRow
from headstart.model.backbones.write_bundle import BundledWeights
from headstart.model.heads.linear_layer import LinearLayer
from headstart.model.inference.classifier import Classifier, EnsembleMember
from headstart.model.inference.features import FeatureExtractor, Features
from headstart.model.inference.predictions import Predictions
from headstart.model.inference.runtime import Runtime
from headstart.pipeline.comparison import Comparison, ComparisonRow
from headstart.pipeline.explanations import Explanation
from headstart.pipeline.train_run import TrainResult
from headstart.runs.provenance import CopiesRecord, DataRecord, Provenance
from headstart.samples.flaws import FlawRecall
from headstart.scale.shard_run import ShardResult
from headstart.training.recipe import Recipe
from headstart.verbs.backbones import BackboneList, PoolList, PoolRow
from headstart.verbs.bundle import BundleResult
from headstart.verbs.check import CheckResult
from headstart.verbs.demo import DemoResult
from headstart.verbs.embed import EmbedResult
from headstart.verbs.evaluate import Evaluation
from headstart.verbs.explain import ExplainResult
from headstart.verbs.export import Exported
from headstart.verbs.kaggle import KaggleResult
from headstart.verbs.pack import PackResult
from headstart.verbs.predict import PredictResult
from headstart.verbs.push import Pushed
from headstart.verbs.report import ReportResult
from headstart.verbs.reproduce import ReproduceResult
from headstart.verbs.sample import SampleResult
from headstart.verbs.serve import ServeResult
from headstart.verbs.split import SplitResult
from headstart.verbs.submit import SubmitResult
from headstart.verbs.verify import Verification

HOSTILE = "<script>alert(1)</script>&\n\x1b[31m\udce9.jpg"
LONG = HOSTILE * 50
N = 500
CLASSES = (HOSTILE, LONG)
PATHS = tuple(f"{i}/{LONG}" for i in range(N))

logits = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
labels = np.arange(N) % 2
metrics = compute_metrics(logits, labels, CLASSES, resamples=20)
predictions = Predictions(PATHS, CLASSES, logits, labels, {HOSTILE: "empty"})
features = Features(np.zeros((N, 8), np.float32), PATHS, "test_resnet.a", "f" * 64, {LONG: "empty"})

backbone = Backbone(
    name=LONG,
    architecture="test_resnet",
    model_args=(),
    source="folder",
    weights=Path(LONG),
    sha256="0" * 64,
    preprocess=Preprocess(),
    licence=HOSTILE,
    feature_dim=8,
    origin=LONG,
)
layer = LinearLayer(np.zeros((8, 2), np.float32), np.zeros(2, np.float32))
member = EnsembleMember(FeatureExtractor(backbone, Preprocess()), layer)
classifier = Classifier((member, member), CLASSES, Runtime("openvino", "cpu", "f32", 16))
dataset = Dataset(
    root=Path(LONG),
    paths=PATHS,
    labels=labels - 1,
    classes=CLASSES,
    split=np.full(N, "train"),
    groups=np.arange(N),
)
finding = Finding("truncated", "error", PATHS, LONG)
row = ComparisonRow(
    name=LONG,
    recipe="linear",
    backbones=LONG,
    metrics=metrics,
    train_seconds=1.0,
    peak_memory_mb=2.0,
    parameters=3,
    file_bytes=4,
    latency_ms=5.0,
    pareto_optimal=True,
    error="",
)
comparison = Comparison(
    out=LONG,
    rows=[row, replace(row, metrics=None, error=LONG)] * 40,
    pairs=[],
    taken=LONG,
    advice=f"Take {LONG}: it is the only one that finished.",
    notes=[LONG],
    images=N,
    split_hash="0" * 64,
    seconds=1.0,
)
provenance = Provenance(
    recipe=Recipe(),
    chosen=(LONG,),
    heads=(),
    tuned=None,
    attempt=None,
    why=LONG,
    data=DataRecord(DataSource(Path(LONG)), N, "0" * 64),
    corrections=None,
    copies=CopiesRecord(0.1, 0),
    split_hash="0" * 64,
    versions={},
)
trained = TrainResult(
    out=LONG,
    classifier=classifier,
    provenance=provenance,
    test=metrics,
    val=metrics,
    findings=[finding],
    seconds={"total": 1.0},
)
status = SubmissionStatus(
    slug=Slug("dogs-vs-cats"),
    file=LONG,
    message=LONG,
    ref=1,
    status="complete",
    score="",
    private_score="",
    error=LONG,
)
explanation = Explanation(
    path=LONG, label=LONG, predicted=LONG, probabilities={LONG: 0.9, "b": 0.1}, nearest=(), sheet=LONG
)
SHOWN: list[OneLineRepr] = [
    metrics,
    metrics["accuracy"],
    undefined(LONG),
    predictions,
    Predictions((), CLASSES, np.zeros((0, 2), np.float32)),
    features,
    classifier,
    dataset,
    dataset.sets,
    Recipe(),
    Recipe(approach="linear", backbone="resnet50", lr=0.01, seed=3),
    comparison,
    trained,
    CheckResult(images=N, usable=N, classes=dict.fromkeys(CLASSES, 1), findings=[finding], groups=[list(PATHS)]),
    SplitResult(out=LONG, hash="0" * 64, images={"train": dict.fromkeys(CLASSES, 1)}),
    BackboneList([BackboneRow(LONG, "folder", 224, 1, 2, HOSTILE)] * 40),
    BackboneList([]),
    PoolList([PoolRow(PoolEntry(LONG, HOSTILE, "mit", 1, 2.0, 224, 0.3), "hub", 1.5, True)] * 20, 500.0, "10m", 500.0),
    EmbedResult(features, "openvino on cpu, f32", LONG),
    Evaluation(metrics, predictions, "test"),
    PredictResult(predictions, classifier, LONG),
    ExplainResult(model="m", out=LONG, images=(explanation,) * 40, errors={LONG: "empty"}, notes=(LONG,), top=2),
    ReportResult(out=LONG, bytes=1_000_000, mistakes=3, notes=(LONG,)),
    ReproduceResult(same=False, causes=[LONG] * 9, effects=[LONG], images=N),
    BundleResult(
        out=LONG, backbones=(BundledWeights(LONG, HOSTILE, 1, "0" * 64),), packages=(LONG,) * 9, wheels=1, bytes=10
    ),
    KaggleResult(slug="dogs-vs-cats", out=LONG, files=3, bytes=4, run=trained, next=(LONG,) * 9),
    SubmitResult(status),
    Exported(LONG, {"formats": ["onnx"], "id": HOSTILE}, None, 1),
    ServeResult(LONG, 3, 2.5),
    Verification(LONG, VerifyReport(LONG, (), (LONG,))),
    Pushed(UploadedFiles(LONG, True, LONG, "0" * 40), (LONG,) * 9, False),
    ShardResult("predict", LONG, N, {LONG: 3}, (LONG,) * 9, "0" * 64, 2, N, 1.5),
    PackResult(LONG, PackSummary(N, 10, 2, "0" * 64), 3),
    SampleResult(out=LONG, images={"train": {"sea": 3}, "test": {"sea": 1}}, flaws={"leak": 1}),
    DemoResult(
        out=LONG, images=N, recalled=[FlawRecall("leak", (), (), None)], comparison=comparison, caution=LONG, seconds=1
    ),
]


@pytest.mark.parametrize("result", SHOWN, ids=lambda result: type(result).__name__)
def test_a_repr_is_one_printable_line(result: OneLineRepr) -> None:
    text = repr(result)
    assert text.isprintable(), text
    assert len(text) < 200
    assert type(result).__name__ in text


@pytest.mark.parametrize("result", SHOWN, ids=lambda result: type(result).__name__)
def test_the_table_of_a_notebook_is_small_well_formed_and_escaped(result: OneLineRepr) -> None:
    html = result._repr_html_()
    table = ET.fromstring(html)
    assert {node.tag for node in table.iter()} <= {"table", "caption", "tbody", "tr", "th", "td"}
    assert len(table.findall(".//tr")) <= MOST_FACTS + 1
    assert all(len(cell.text or "") <= MOST_CHARACTERS for cell in table.findall(".//td"))
    assert len(html) < 40_000
    assert html.encode()


def test_every_verb_returns_one_of_these() -> None:
    shown = {type(result).__name__ for result in SHOWN}
    for _, name, _ in pkgutil.iter_modules(headstart.verbs.__path__):
        verb = getattr(import_module(f"headstart.verbs.{name}"), name)
        returned = inspect.signature(verb, eval_str=True).return_annotation
        for kind in get_args(returned) or (returned,):
            assert issubclass(kind, Result)
            assert kind.__name__ in shown


def test_what_they_say() -> None:
    accuracy = wilson(293, 300)
    assert repr(accuracy) == "<Estimate: 0.977 [0.953, 0.989], n = 300, Wilson>"
    assert repr(Recipe()) == "Recipe()"
    assert eval(repr(Recipe(approach="linear", lr=0.01))) == Recipe(approach="linear", lr=0.01)
    split = SplitResult(out="split.csv", hash="ab", images={"train": {"a": 3, "b": 4}, "test": {"a": 1, "b": 1}})
    assert repr(split) == "<SplitResult: split.csv: train 7, test 2>"
    assert split._repr_html_() == (
        "<table><caption>SplitResult: split.csv: train 7, test 2</caption><tbody>"
        "<tr><th>out</th><td>split.csv</td></tr><tr><th>hash</th><td>ab</td></tr>"
        "<tr><th>images</th><td>2 entries</td></tr></tbody></table>"
    )
