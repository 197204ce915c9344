"""Runs a classifier's network on ready-made pixels, in one of three runtimes: torch, onnxruntime, OpenVINO.

    runner = OnnxRunner(model_bytes)
    logits_NK, probabilities_NK = runner({"pixels": uint8 (N, S, S, 3)})

All compute in float32. `TorchRunner` is the reference: it is headstart's other engine besides OpenVINO, with last layers
in float64, and uses nothing of an export. The other two do not import torch. Opening one takes 0.1 to 0.5 s.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from headstart.errors import ExportError
from headstart.evaluation.probabilities import softmax
from headstart.exporters.openvino_network import compiled_f32, compiled_here
from headstart.images.preprocess import Preprocess
from headstart.images.validate import cores
from headstart.io.extras import require
from headstart.model.inference.classifier import Classifier
from headstart.model.inference.openvino_import import import_openvino
from headstart.model.inference.runtime import Runtime

BATCH = 8


class NetworkRunner(Protocol):
    """A network in one runtime."""

    @property
    def name(self) -> str:
        """The runtime and its version."""

    def __call__(self, pixels: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return logits and probabilities, (N, K) each, for uint8 pixels by input name."""


class OnnxRunner:
    """An ONNX model in onnxruntime, on the CPU."""

    def __init__(self, model: bytes) -> None:
        require("An export", "onnxruntime")
        import onnxruntime

        self.name = f"onnxruntime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores()
        options.log_severity_level = 3
        with _as_export_error(f"{self.name} cannot open the model"):
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, pixels: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        found = self.outputs(pixels)
        return found["logits"], found["probabilities"]

    def outputs(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return all outputs by name."""
        names = [each.name for each in self._session.get_outputs()]
        with _as_export_error(f"{self.name} cannot run the model"):
            return dict(zip(names, self._session.run(names, dict(given)), strict=True))


class OpenVinoRunner:
    """An IR in OpenVINO, on the CPU, in float32. With `content`, a hash of both files, the compiled graph is kept in the
    user's cache."""

    def __init__(self, xml: bytes, weights: bytes, *, content: str = "") -> None:
        self.name = f"OpenVINO {import_openvino().__version__.split('-')[0]}"
        with _as_export_error(f"{self.name} cannot open the model"):
            compiled = compiled_here(xml, weights, content) if content else compiled_f32(xml, weights)
            self._request = compiled.create_infer_request()

    def __call__(self, pixels: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        found = self.outputs(pixels)
        return found["logits"], found["probabilities"]

    def outputs(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return all outputs by name."""
        with _as_export_error(f"{self.name} cannot run the model"):
            return {output.any_name: values.copy() for output, values in self._request.infer(dict(given)).items()}


ExportRunner = OnnxRunner | OpenVinoRunner


class TorchRunner:
    """A run's classifier in torch, member by member: what an export is compared with.

    Batches are spread over several threads, each on one core: on a busy machine, torch's own threads wait for each other
    (8 times as long with two cores and four processes).
    """

    def __init__(self, classifier: Classifier, inputs: Mapping[str, Preprocess]) -> None:
        from headstart.model.inference.engines import open_network

        self._classifier = classifier
        name_of = {spec.geometry(): name for name, spec in inputs.items()}
        extractors = [member.extractor for member in classifier.members]
        runtime = Runtime("torch", "cpu", "f32", BATCH)
        self._networks = [open_network(each.backbone, each.spec, runtime) for each in extractors]
        self._names = [name_of[each.spec.geometry()] for each in extractors]
        self._columns = [
            sum(network.block_sizes if each.pooling == "stages" else network.block_sizes[:1])
            for each, network in zip(extractors, self._networks, strict=True)
        ]

    @property
    def name(self) -> str:
        """torch and its version."""
        import torch

        return f"torch {torch.__version__.split('+')[0]}"

    def __call__(self, pixels: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        starts = range(0, len(next(iter(pixels.values()))), BATCH)
        batches = [{name: each[start : start + BATCH] for name, each in pixels.items()} for start in starts]
        with ThreadPoolExecutor(cores()) as pool:
            logits_NK = np.concatenate(list(pool.map(self._logits, batches)))
        return logits_NK, softmax(logits_NK)

    def _logits(self, pixels: Mapping[str, np.ndarray]) -> np.ndarray:
        import torch

        torch.set_num_threads(1)  # applies to this thread only
        features = []
        for network, name, columns in zip(self._networks, self._names, self._columns, strict=True):
            session, count = network.session(), len(pixels[name])
            session.pixels[:count] = pixels[name]
            features.append(session.run()[:count, :columns].copy())
        return self._classifier.logits(features)


@contextmanager
def _as_export_error(what: str) -> Iterator[None]:
    """Turn errors of OpenVINO and onnxruntime, which have no base class of their own, into `ExportError`."""
    try:
        yield
    except _runtime_errors() as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ExportError(f"{what}: {lines[0] if lines else type(error).__name__}") from error


def _runtime_errors() -> tuple[type[Exception], ...]:
    if "onnxruntime" not in sys.modules:
        return (RuntimeError, ValueError)
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NotImplemented",
        "RuntimeException",
        "EPFail",
    )
    return (RuntimeError, ValueError, *(getattr(state, name) for name in names))
