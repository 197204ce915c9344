"""Make the package's topologies: `python embedded/make_topologies.py [ARCHITECTURE ...]`, about 5 s for each network.

Writes the zips of `headstart.model.inference.topologies`: the graph that the OpenVINO engine traces, with each constant
that is a tensor of the weights file replaced by a parameter of that name. To recognise them, networks get random weights,
no two tensors equal. Run it anew after any change of what engines compile; `tests/test_topologies.py` compares with timm.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import openvino
import timm
from safetensors.numpy import save_file

from headstart.errors import BadWeights
from headstart.images.preprocess import Preprocess
from headstart.io.files import json_bytes, write_json, write_zip
from headstart.model.backbones.registry import find_backbone
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.inference.engines.openvino_engine import traced_graph
from headstart.model.inference.engines.torch_module import without_classifier
from headstart.model.inference.topologies import FOLDER, PIXELS, SCALE, SHIFT, file_name

SAME = {"pad_type": "same"}
"""Networks that were trained with TensorFlow pad so."""
NETWORKS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("mobilenetv1_100", {}),
    ("mobilenetv1_100", SAME),
    ("mobilenetv2_050", SAME),  # the one in the package
    ("mobilenetv2_100", {}),
    ("mobilenetv2_100", SAME),
    ("mobilenetv3_large_100", {}),
    ("tf_efficientnet_lite0", {}),
    ("tf_efficientnet_lite1", {}),
    ("tf_efficientnet_lite2", {}),
    ("efficientnet_b0", {}),
    ("regnety_004", {}),
    ("resnet18", {}),
    ("resnet50", {}),
)
SPEC = Preprocess(image_size=224, mean=(0.1234567, 0.2345678, 0.3456789), std=(0.4567891, 0.5678912, 0.6789123))
"""Its scale and shift are values that no network has, and are recognised by them, like weights."""


def make(architecture: str, model_args: Mapping[str, Any], folder: Path) -> Path:
    """Write one topology. Raises `BadWeights` if the graph holds values of a tensor in a form that is not in the file."""
    arrays = _random_arrays(architecture, model_args)
    with TemporaryDirectory() as work:
        weights = Path(work) / f"{architecture}.safetensors"
        save_file(arrays, weights)
        cfg = {"input_size": [3, 224, 224], "mean": SPEC.mean, "std": SPEC.std}
        config = {"architecture": architecture, "model_args": model_args, "pretrained_cfg": cfg}
        write_json(weights.with_suffix(".json"), config)
        backbone = find_backbone(architecture, weights=WeightsSource(file=weights))
        module, block_sizes, classifier, tail = without_classifier(backbone, SPEC)
        graph = traced_graph(module, SPEC, 8)
        scale, shift = SPEC.scale_and_shift()
        _leave_out_weights(graph, {**arrays, SCALE: scale, SHIFT: shift}, architecture)
        openvino.serialize(graph, Path(work) / "graph.xml", Path(work) / "graph.bin")
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        facts = {"block_sizes": block_sizes, "classifier": classifier, "classifier_tail": tail, "shapes": shapes}
        path = folder / file_name(architecture, model_args)
        contents = {name: (Path(work) / name).read_bytes() for name in ("graph.xml", "graph.bin")}
        contents["graph.xml"] = _without_names_of_layers(contents["graph.xml"])
        write_zip(path, {"topology.json": json_bytes(facts), **contents})
    path.chmod(0o644)  # whatever this user's umask is: it goes into a wheel
    return path


def _random_arrays(architecture: str, model_args: Mapping[str, Any]) -> dict[str, np.ndarray]:
    state = timm.create_model(architecture, num_classes=0, **model_args).state_dict()
    rng = np.random.default_rng(0)
    drawn = {name: rng.uniform(0.5, 1.5, tuple(tensor.shape)) for name, tensor in state.items()}
    return {name: array.astype(state[name].numpy().dtype) for name, array in drawn.items()}


def _leave_out_weights(graph: Any, arrays: Mapping[str, np.ndarray], architecture: str) -> None:
    """Replace constants with parameters named after the equal array, and name the graph's input."""
    names = {array.tobytes(): name for name, array in arrays.items() if array.dtype == np.float32}
    graph.get_parameters()[0].set_friendly_name(PIXELS)
    parameters: dict[str, Any] = {}
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Constant":
            continue
        name = names.get(np.array(node.data).tobytes())
        if name is None:
            continue
        if name not in parameters:
            parameters[name] = openvino.op.Parameter(openvino.Type.f32, openvino.PartialShape(list(node.shape)))
            parameters[name].set_friendly_name(name)
        node.output(0).replace(parameters[name].output(0))
    graph.add_parameters(list(parameters.values()))
    missing = sorted(set(names.values()) - set(parameters))
    if missing:
        raise BadWeights(
            f"{architecture}: the graph does not hold {', '.join(missing[:5])} as in the weights file.",
            hint="Leave this network out of NETWORKS; it is traced on each machine.",
        )


def _without_names_of_layers(xml: bytes) -> bytes:
    """Leave out what only describes where tracing met a layer; two fifths of the file."""
    return re.sub(rb' names="[^"]*"', b"", re.sub(rb"\s*<rt_info>.*?</rt_info>|\s*<rt_info ?/>", b"", xml, flags=re.S))


def main(wanted: list[str]) -> None:
    """Make all topologies, or those of the named architectures."""
    for architecture, model_args in NETWORKS:
        if not wanted or architecture in wanted:
            path = make(architecture, model_args, FOLDER)
            print(f"{path.name}: {path.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
