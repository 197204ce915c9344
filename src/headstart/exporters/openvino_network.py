"""The same model for OpenVINO: its intermediate representation (IR), made from the ONNX model and from nothing else.

So there is only one graph to verify. Weights stay float32: `compress_to_fp16` is on by default in OpenVINO and would change
them. It takes 0.2 s for a MobileNetV2. Run it with ``INFERENCE_PRECISION_HINT`` f32 (`F32`), as everything here does:
without the hint, CPUs with bf16 compute in bf16, about twice as fast, but no longer accurate to 1e-4.

When not to use it: to run a classifier inside headstart, which compiles its own graphs
(`headstart.model.inference.engines.openvino_engine`).
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from headstart.io.files import sha256_bytes, write_cache
from headstart.io.folders import temporary_folder
from headstart.model.inference.engines.openvino_engine import graph_bytes, graph_file, machine_key, read_graph
from headstart.model.inference.openvino_import import import_openvino

if TYPE_CHECKING:
    from onnx import ModelProto

F32 = {"INFERENCE_PRECISION_HINT": "f32"}


def openvino_files(model: ModelProto) -> tuple[bytes, bytes]:
    """Return the .xml and the .bin of an ONNX model. Raises `WriteError` if the temporary folder is full."""
    return saved(read_onnx(model.SerializeToString()))


def saved(graph: Any) -> tuple[bytes, bytes]:
    """Return the .xml and the .bin of an OpenVINO model, with uncompressed weights. Raises `WriteError`."""
    with temporary_folder() as folder:
        place = folder / "model.xml"
        import_openvino().save_model(_renumbered(graph), str(place), compress_to_fp16=False)
        return place.read_bytes(), place.with_suffix(".bin").read_bytes()


def read_ir(xml: bytes, weights: bytes) -> Any:
    """Return an IR as an OpenVINO model."""
    return _core().read_model(model=xml, weights=weights)


def compiled_fast(graph: Any, precision: str) -> Any:
    """Compile an OpenVINO model for many images per second, in `precision` bf16 or f32. Raises `RuntimeError`."""
    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision}
    return _core().compile_model(graph, "CPU", settings)


def _renumbered(graph: Any) -> Any:
    """Rename nodes that OpenVINO named, by their place in the graph: it numbers them by a counter of the whole process."""
    for place, node in enumerate(graph.get_ordered_ops()):
        kind = node.get_type_name()
        if re.fullmatch(rf"{kind}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{kind}_{place}")
    return graph


def read_onnx(model: bytes) -> Any:
    """Return an ONNX model as an OpenVINO model."""
    return _core().read_model(model=model)


def compiled_f32(xml: bytes, weights: bytes) -> Any:
    """Compile an IR for this CPU, in float32. Raises `RuntimeError`."""
    return _core().compile_model(_core().read_model(model=xml, weights=weights), "CPU", F32)


def compiled_here(xml: bytes, weights: bytes, content: str) -> Any:
    """Like `compiled_f32`, but from the user's cache if this machine has compiled it before: 0.05 s instead of about 1 s.

    `content` is a hash of both files. The export itself is never written to. Raises `RuntimeError`, `WriteError`.
    """
    key = sha256_bytes(json.dumps([content, F32, *machine_key()]).encode())[:32]
    path = graph_file(content, key)
    graph = read_graph(path)
    if graph is not None:
        return _core().import_model(graph[1], "CPU", F32)
    compiled = compiled_f32(xml, weights)
    blob = compiled.export_model()
    write_cache(path, graph_bytes({"export": content}, bytes(blob if isinstance(blob, bytes) else blob.getvalue())))
    return compiled


@cache
def _core() -> Any:
    return import_openvino().Core()
