"""The topologies in the package: equal to timm's networks at any size, refused if weights do not fit, no torch imported."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from conftest import PATIENCE, draw
from headstart.images.preprocess import Preprocess
from headstart.io.files import write_json
from headstart.model.backbones.registry import Backbone, find_backbone, last_resort
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.inference.engines import ENGINES, choose_runtime, open_network
from headstart.model.inference.engines.openvino_engine import traced_graph
from headstart.model.inference.engines.torch_module import from_pixels, without_classifier
from headstart.model.inference.topologies import FOLDER, find_topology, fitting_topology

CFG = {"input_size": [3, 160, 160], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
SAME = {"pad_type": "same"}
SHIPPED = [
    (name.partition("-")[0], SAME if "-" in name else {}) for name in sorted(path.stem for path in FOLDER.glob("*.zip"))
]
SMALL = ("mobilenetv2_100", "resnet18", "tf_efficientnet_lite0")
EACH = [pytest.param(name, arguments, marks=() if name in SMALL else pytest.mark.slow) for name, arguments in SHIPPED]
PADDED_BY_SIZE = [("tf_efficientnet_lite2", {}), ("mobilenetv1_100", SAME), ("mobilenetv2_100", SAME)]

WITHOUT = ("torch", "torchvision", "timm")
NAMES_IMPORTS = """
import sys
class NamesImports:
    def find_spec(self, name, path=None, target=None):
        if "." not in name:
            print("imported:", name, file=sys.stderr)
sys.meta_path.insert(0, NamesImports())
"""


def random_backbone(folder: Path, architecture: str, model_args: Mapping[str, Any], **changed: Any) -> Backbone:
    """A backbone with random weights of which no signal dies out, in the files that a user would have."""
    state = timm.create_model(architecture, num_classes=0, **model_args).state_dict()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.ndim == 1:  # batch norm: gains and variances near one, means near zero
            near = 0.0 if name.endswith(("bias", "running_mean")) else 1.0
            tensor.copy_(near + 0.1 * (torch.rand(tensor.shape, generator=generator) - 0.5))
    weights = folder / f"{architecture}.safetensors"
    save_file({**state, **changed}, weights)
    config = {"architecture": architecture, "model_args": dict(model_args), "pretrained_cfg": CFG}
    write_json(weights.with_suffix(".json"), config)
    return find_backbone(architecture, weights=WeightsSource(file=weights))


def difference(backbone: Backbone, side: int, tta: str = "none") -> float:
    """The largest difference between the topology's features and timm's, in f32, relative to the largest feature."""
    import openvino

    spec = Preprocess(image_size=side, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), tta=tta)
    topology = fitting_topology(backbone, spec)
    assert topology is not None
    core = openvino.Core()
    graph = topology.graph(core, backbone, spec)
    graph.reshape({0: openvino.PartialShape([2, side, side, 3])})
    pixels = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    found = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([pixels])[0]
    module = from_pixels(without_classifier(backbone, spec)[0], spec)
    with torch.no_grad():
        expected = module(torch.from_numpy(pixels)).numpy()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("architecture", "model_args"), EACH)
def test_each_topology_gives_the_features_of_timms_network(
    architecture: str, model_args: Mapping[str, Any], tmp_path: Path
) -> None:
    assert difference(random_backbone(tmp_path, architecture, model_args), 160) < 1e-4


@pytest.mark.parametrize("side", [128, 129, 224, 260])
@pytest.mark.parametrize(("architecture", "model_args"), PADDED_BY_SIZE)
def test_padding_follows_the_size_of_the_image(
    architecture: str, model_args: Mapping[str, Any], side: int, tmp_path: Path
) -> None:
    assert difference(random_backbone(tmp_path, architecture, model_args), side) < 1e-4


def test_the_mirror_image_is_averaged_without_torch_too(tmp_path: Path) -> None:
    assert difference(random_backbone(tmp_path, "mobilenetv2_100", SAME), 129, tta="flip") < 1e-4


def test_a_topology_names_the_same_last_layer_as_timm(tmp_path: Path) -> None:
    for architecture, model_args in SHIPPED:
        backbone = random_backbone(tmp_path, architecture, model_args)
        topology = find_topology(backbone)
        assert topology is not None
        with torch.device("meta"):
            shell = timm.create_model(architecture, num_classes=2, **model_args)
        assert topology.classifier == shell.pretrained_cfg["classifier"]
        assert topology.classifier_tail == tuple(shell.get_submodule(topology.classifier).weight.shape[2:])


def test_features_are_equal_to_the_bit_whether_traced_or_from_a_topology() -> None:
    import openvino

    backbone, core, given = last_resort(), openvino.Core(), {}
    topology = fitting_topology(backbone, backbone.preprocess)
    assert topology is not None
    graphs = {
        "topology": topology.graph(core, backbone, backbone.preprocess),
        "traced": traced_graph(without_classifier(backbone, backbone.preprocess)[0], backbone.preprocess, 8),
    }
    pixels = np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
    for name, graph in graphs.items():
        graph.reshape({0: openvino.PartialShape([8, 224, 224, 3])})
        compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        given[name] = compiled([pixels])[0]
    assert np.array_equal(given["topology"], given["traced"])


def test_weights_that_do_not_fit_are_named_and_the_network_is_traced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    fewer = {"conv_stem.weight": torch.zeros(16, 3, 3, 3).to(torch.bfloat16)}
    backbone = random_backbone(tmp_path, "mobilenetv2_050", SAME, **fewer)
    assert not ENGINES["openvino"].opens_without_torch(backbone)
    with caplog.at_level(logging.WARNING, "headstart"):
        network = open_network(backbone, backbone.preprocess, choose_runtime("cpu"))
    assert network.block_sizes[0] == 1280
    assert (
        f"mobilenetv2_050: {backbone.weights} does not fit the topology mobilenetv2_050-pad_type=same.zip: stored as BF16;"
        " tracing the network instead, which takes longer." in caplog.text
    )


def test_a_missing_tensor_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backbone = random_backbone(tmp_path, "resnet18", {}, **{"bn1.bias": torch.zeros(7)})
    with caplog.at_level(logging.WARNING, "headstart"):
        assert fitting_topology(backbone, backbone.preprocess) is None
    assert "1 of another shape (bn1.bias: (7,), expected (64,))" in caplog.text


def test_other_arguments_are_traced(tmp_path: Path) -> None:
    assert find_topology(random_backbone(tmp_path, "resnet18", {"output_stride": 16})) is None
    assert fitting_topology(random_backbone(tmp_path, "resnet18", {}), Preprocess()) is not None


def test_check_linear_training_predict_and_reproduce_import_no_torch(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    for kind in (0, 1):
        (data / str(kind)).mkdir(parents=True)
        for seed in range(20):
            draw(kind, seed).save(data / str(kind) / f"{seed}.png")
    (tmp_path / "sitecustomize.py").write_text(NAMES_IMPORTS)  # every process runs it, those that the verbs start too
    paths = [str(tmp_path), *sys.path]
    for verb in (
        ["check", str(data)],
        ["train", str(data), "--approach", "linear", "--out", str(run), "--offline"],
        ["predict", str(run), str(data), "--out", str(tmp_path / "answers.csv")],
        ["reproduce", str(run), "--offline"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", "from headstart.cli import main; main()", *verb],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_CACHE": str(tmp_path / "hub")},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        assert "imported: numpy\n" in done.stderr
        assert not [package for package in WITHOUT if f"imported: {package}\n" in done.stderr], done.stderr
