"""OpenVINO topologies of common convolutional networks, so that a first run needs neither torch nor timm.

A topology is the graph that the engine would trace, from pixels to features, with its weights left out: a zip of some
kilobytes with `graph.xml` and `graph.bin` (OpenVINO's format; weights are parameters named after their tensors) and
`topology.json` (`Topology`'s fields). Weights come from the safetensors file, by name, and must match in full. Any image
size works: padding that depends on it is part of the graph. Files are named after architecture and arguments.

Costs: about 0.2 s, where importing torch and timm and tracing take 5 s or more. `embedded/make_topologies.py` makes the
files anew; do so after every change of the torch modules that engines compile.

When not to use it: for any other network, the engine traces those.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import BadWeights
from headstart.images.preprocess import Preprocess
from headstart.io.progress import log
from headstart.model.backbones.registry import Backbone
from headstart.model.backbones.weights import load_arrays, misfit, read_header

FOLDER = Path(__file__).parent
PIXELS, SCALE, SHIFT = "pixels", "pixels.scale", "pixels.shift"
"""Names of the graph's inputs that are not tensors of the weights file; no such tensor is named so."""

_DTYPES = ("F16", "F32", "F64")


@dataclass(frozen=True)
class Topology:
    """A network without weights. `shapes` has every entry of its state dict, `classifier` timm's name of its last layer."""

    path: Path
    block_sizes: tuple[int, ...]
    classifier: str
    classifier_tail: tuple[int, ...]
    shapes: Mapping[str, tuple[int, ...]]

    def misfit(self, weights: Path) -> str:
        """Describe how the weights differ from what the topology needs, as a phrase; empty if they fit."""
        header = read_header(weights)
        found = {name: shape for name, (_, shape) in header.items()}
        other = sorted({dtype for name, (dtype, _) in header.items() if self._needs(name)} - set(_DTYPES))
        return misfit(found, self.shapes, (self.classifier,)) or (f"stored as {', '.join(other)}" if other else "")

    def graph(self, core: Any, backbone: Backbone, spec: Preprocess) -> Any:
        """Return the OpenVINO model with the backbone's weights: uint8 NHWC pixels of any size in, features out.

        Raises `BadWeights` if the file has changed since it was selected.
        """
        from openvino.op import Constant

        with zipfile.ZipFile(self.path) as archive:
            graph = core.read_model(archive.read("graph.xml"), archive.read("graph.bin"))
        arrays = self._arrays(backbone, spec)
        for parameter in graph.get_parameters():
            if parameter.friendly_name != PIXELS:
                values = np.ascontiguousarray(arrays[parameter.friendly_name], np.float32)
                parameter.output(0).replace(Constant(values).output(0))
                graph.remove_parameter(parameter)
        if spec.tta == "flip":
            _average_with_mirror(graph, spec.image_size)
        return graph

    def _arrays(self, backbone: Backbone, spec: Preprocess) -> dict[str, np.ndarray]:
        if backbone.weights is None:
            raise BadWeights(f"{backbone.name}: has random weights; save them before using it.")
        scale, shift = spec.scale_and_shift()
        return {**load_arrays(backbone.weights, sha256=backbone.expected_sha256), SCALE: scale, SHIFT: shift}

    def _needs(self, tensor: str) -> bool:
        return tensor in self.shapes and not tensor.endswith("num_batches_tracked")


def find_topology(backbone: Backbone) -> Topology | None:
    """Return the topology of the backbone's network, built with the same arguments, whether or not its weights fit."""
    name = file_name(backbone.architecture, dict(backbone.model_args))
    if name not in {path.name for path in FOLDER.glob("*.zip")}:
        return None
    with zipfile.ZipFile(FOLDER / name) as archive:
        facts = json.loads(archive.read("topology.json"))
    shapes = {tensor: tuple(shape) for tensor, shape in facts["shapes"].items()}
    return Topology(
        path=FOLDER / name,
        block_sizes=tuple(facts["block_sizes"]),
        classifier=facts["classifier"],
        classifier_tail=tuple(facts["classifier_tail"]),
        shapes=shapes,
    )


def fitting_topology(backbone: Backbone, spec: Preprocess) -> Topology | None:
    """Return the topology that can stand in for tracing the backbone, or None; logs why if the weights do not fit."""
    topology = find_topology(backbone) if backbone.weights is not None else None
    problem = topology.misfit(backbone.weights) if topology is not None and backbone.weights is not None else ""
    if topology is None or not problem:
        return topology
    log.warning(
        "%s: %s does not fit the topology %s: %s; tracing the network instead, which takes longer.",
        backbone.name,
        backbone.weights,
        topology.path.name,
        problem,
    )
    return None


def _average_with_mirror(graph: Any, image_size: int) -> None:
    """Make the features of a model the mean over each image and its mirror image, which are computed as one batch."""
    from openvino import opset13 as ops

    (pixels,), (result,) = graph.get_parameters(), graph.get_results()
    readers = list(pixels.output(0).get_target_inputs())
    columns = np.arange(image_size)[::-1].astype(np.int64)
    mirrored = ops.gather(pixels, ops.constant(columns), ops.constant(np.int64(2)))  # NHWC
    both = ops.concat([pixels, mirrored], 0)
    for reader in readers:
        reader.replace_source_output(both.output(0))
    halves = ops.split(result.input(0).get_source_output(), ops.constant(np.int64(0)), 2)
    mean = ops.multiply(ops.add(halves.output(0), halves.output(1)), ops.constant(np.float32(0.5)))
    result.input(0).replace_source_output(mean.output(0))


def file_name(architecture: str, model_args: Mapping[str, Any]) -> str:
    """Return the name of a topology's file.

    >>> file_name("mobilenetv2_100", {"pad_type": "same"})
    'mobilenetv2_100-pad_type=same.zip'
    """
    return "-".join([architecture, *(f"{key}={value}" for key, value in sorted(model_args.items()))]) + ".zip"
