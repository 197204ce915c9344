"""An export small enough to be made by hand: a network of two layers, its samples, and the folder around them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from headstart.exporters.golden_images import rendered_images
from headstart.exporters.golden_samples import sample_files, verify_script
from headstart.exporters.pixel_contract import PixelContract
from headstart.exporters.pixel_graph import with_pixels
from headstart.images.preprocess import Preprocess
from headstart.io.folders import write_manifest

CLASSES = ("sea", 'a "quoted"\nname', "street", "forêt", "five")
SPEC = Preprocess(image_size=96, crop_pct=0.9, interpolation="bicubic")
TEMPERATURE = 1.7


@dataclass(frozen=True)
class Tiny:
    """A network small enough to be made by hand: means of blocks, one hidden layer; all mistakes can be planted in it."""

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    temperature: float = TEMPERATURE
    twice: bool = False
    inputs: Mapping[str, int] = None  # type: ignore[assignment]

    def model(self) -> Any:
        """pixels (N, S, S, 3) uint8 -> logits, probabilities; one input per size."""
        from onnx import TensorProto, helper, numpy_helper

        inputs = self.inputs or {"pixels": SPEC.image_size}
        rng = np.random.default_rng(5)
        arrays: dict[str, np.ndarray] = {
            "mean": np.array(self.mean, np.float32).reshape(1, 3, 1, 1),
            "std": np.array(self.std, np.float32).reshape(1, 3, 1, 1),
            "full": np.float32(255),
            "temperature": np.float32(self.temperature),
            "hidden": rng.normal(0, 0.2, (48 * len(inputs), 24)).astype(np.float32),
            "last": rng.normal(0, 0.8, (24, len(CLASSES))).astype(np.float32),
        }
        nodes, flat = [], []
        for name, size in inputs.items():
            nodes += [
                helper.make_node("Cast", [name], [f"{name}_f"], to=TensorProto.FLOAT),
                helper.make_node("Transpose", [f"{name}_f"], [f"{name}_t"], perm=[0, 3, 1, 2]),
                helper.make_node("Div", [f"{name}_t", "full"], [f"{name}_u"]),
            ]
            last = f"{name}_u"
            for turn in range(2 if self.twice else 1):
                nodes += [
                    helper.make_node("Sub", [last, "mean"], [f"{name}_m{turn}"]),
                    helper.make_node("Div", [f"{name}_m{turn}", "std"], [f"{name}_n{turn}"]),
                ]
                last = f"{name}_n{turn}"
            block = size // 4
            nodes += [
                helper.make_node("AveragePool", [last], [f"{name}_p"], kernel_shape=[block] * 2, strides=[block] * 2),
                helper.make_node("Flatten", [f"{name}_p"], [f"{name}_v"]),
            ]
            flat.append(f"{name}_v")
        nodes += [
            helper.make_node("Concat", flat, ["all"], axis=1),
            helper.make_node("MatMul", ["all", "hidden"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "last"], ["raw"]),
            helper.make_node("Div", ["raw", "temperature"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ]
        k = len(CLASSES)
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info(n, TensorProto.UINT8, ["N", s, s, 3]) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", k]) for n in ("logits", "probabilities")],
            [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        model.ir_version = 9
        return model


def runner(model: Any) -> Callable[[Mapping[str, np.ndarray]], Any]:
    """It in onnxruntime: from pixels by input to logits and probabilities."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString())
    return lambda given: session.run(["logits", "probabilities"], dict(given))


@cache
def rendered() -> dict[str, bytes]:
    """A dozen rendered images; they take a second."""
    return rendered_images(12)


def write_export(folder: Path, specs: Mapping[str, Preprocess], images: Mapping[str, bytes] | None = None) -> Path:
    """A folder as `export` writes it, as far as it is checked."""
    contracts = {name: PixelContract.of(spec) for name, spec in specs.items()}
    model = Tiny(inputs={name: spec.image_size for name, spec in specs.items()}).model()
    files = sample_files(images or rendered(), contracts, runner(model), classes=CLASSES, conformal_threshold=0.9)
    described = {name: {"contract": c.as_dict(), "steps": c.sentences()} for name, c in contracts.items()}
    files |= {
        "model.onnx": model.SerializeToString(),
        "image.onnx": with_pixels(contracts, model).SerializeToString(),
        "export.json": json.dumps({"format": 1, "parity": {}}).encode(),
        "preprocess.json": json.dumps({"inputs": described}).encode(),
        "verify.py": verify_script(),
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    write_manifest(folder)
    return folder


def write_predicting_export(folder: Path, specs: Mapping[str, Preprocess], *, temperature: float = TEMPERATURE) -> Path:
    """The same with all that predicting needs, for OpenVINO too. Another `temperature` than the one that the samples were
    made with is a network that does not give what it should."""
    from headstart.exporters.openvino_network import openvino_files

    write_export(folder, specs)
    model = Tiny(inputs={name: spec.image_size for name, spec in specs.items()}, temperature=temperature).model()
    fitted = {"temperature": TEMPERATURE, "conformal_threshold": 0.9, "conformal_alpha": 0.1, "clip": 0.0, "images": 9}
    facts = {
        "format": 1,
        "id": "0123456789abcdef",
        "classes": CLASSES,
        "class_frequencies": [1 / len(CLASSES)] * len(CLASSES),
        "calibration": {"float32": fitted},
        "parity": {},
    }
    (folder / "export.json").write_text(json.dumps(facts))
    (folder / "openvino").mkdir()
    for name, data in zip(("model.xml", "model.bin"), openvino_files(model), strict=True):
        (folder / "openvino" / name).write_bytes(data)
    write_manifest(folder)
    return folder
