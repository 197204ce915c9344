"""The OpenVINO engine, the fastest on CPUs.

A network is compiled once by OpenVINO, from its topology in the package (`headstart.model.inference.topologies`) if there
is one, otherwise traced with torch; the compiled graph is cached for the user under a key of the weights' hash, the input
spec, the precision, this CPU and OpenVINO's version. Later processes load it in about 30 ms and never import torch.
Measured on 2 cores with AVX512-BF16 (MobileNetV2, 160 px, images/s): f32 420, bf16 840; building takes about a second,
mostly tracing.

OpenVINO's `convert_model` is not used: it traces three times (7 s against 0.8 s) and sends telemetry, as importing
OpenVINO does (see `openvino_import`).
"""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import BackboneError
from headstart.images.preprocess import Preprocess
from headstart.images.validate import cores
from headstart.io.extras import require
from headstart.io.files import cache_dir, sha256_bytes, write_cache
from headstart.io.progress import log
from headstart.model.backbones.registry import Backbone
from headstart.model.inference.engines.torch_module import from_pixels, without_classifier
from headstart.model.inference.openvino_import import import_openvino
from headstart.model.inference.runtime import Runtime
from headstart.model.inference.topologies import find_topology, fitting_topology

MAGIC = b"headstart graph 2"

EXPORT_HINT = "Or export the run where they are installed (`headstart export RUN --out EXPORT`), and use EXPORT here."

ISAS_WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of ONEDNN_MAX_CPU_ISA: https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html."""

_COMPILING = threading.Lock()
"""Compiling uses all cores, so one thread does it at a time; others that want the same graph then find it in the cache."""


class OpenVinoEngine:
    """See `headstart.model.inference.engines.Engine`."""

    name = "openvino"
    devices: tuple[str, ...] = ("cpu",)

    def is_available(self, device: str) -> bool:
        """Return True: OpenVINO is installed with headstart."""
        return True

    def native_precisions(self, device: str) -> tuple[str, ...]:
        """Return bf16 first on CPUs with AVX512-BF16, AMX or AVX-VNNI-2, else only f32."""
        return ("bf16", "f32") if _has_bf16() else ("f32",)

    def batch(self, device: str) -> int:
        """Return the images per batch."""
        return 8

    def precision(self, runtime: Runtime) -> str:
        """Return f32 on CPUs without bf16."""
        return runtime.precision if _has_bf16() else "f32"

    def key(self, runtime: Runtime) -> Sequence[str]:
        """Return OpenVINO's version, the CPU, the number of cores in use, and any limit on its instruction set."""
        return machine_key()

    def opens_without_torch(self, backbone: Backbone, key: str = "*") -> bool:
        """Return whether the cache has the graph of that key, or a topology fits the weights."""
        pattern = graph_file(backbone.content or backbone.sha256, key)
        if any(pattern.parent.glob(pattern.name)):
            return True
        topology = find_topology(backbone)
        return topology is not None and backbone.weights is not None and not topology.misfit(backbone.weights)

    def open(self, backbone: Backbone, spec: Preprocess, runtime: Runtime, key: str) -> OpenVinoNetwork:
        """Load the graph from the cache, or compile and cache it. Raises `BackboneError`."""
        path = graph_file(backbone.content or backbone.sha256, key)
        with _COMPILING:
            info, blob = read_graph(path) or _compiled_and_cached(backbone, spec, runtime, path)
        return OpenVinoNetwork(info, blob, spec, runtime)

    def open_module(self, module: Any, spec: Preprocess, runtime: Runtime) -> list[OpenVinoSession]:
        """Open four sessions per core: while one computes, the others prepare pixels. Raises `RuntimeError`."""
        compiled = _aside(_compile, module, spec, runtime)
        return [OpenVinoSession(compiled.create_infer_request(), spec, runtime) for _ in range(4 * cores())]


class OpenVinoNetwork:
    """A compiled CPU graph: uint8 NHWC pixels in, float32 features of all stages out."""

    def __init__(self, info: dict[str, Any], blob: bytes, spec: Preprocess, runtime: Runtime) -> None:
        self.block_sizes: tuple[int, ...] = tuple(info["block_sizes"])
        self.classifier: str = info["classifier"]
        self.classifier_tail: tuple[int, ...] = tuple(info["classifier_tail"])
        self._spec, self._runtime = spec, runtime
        self._compiled = _core().import_model(blob, "CPU", _settings(runtime))

    def session(self) -> OpenVinoSession:
        """Open a new session, for one thread only."""
        return OpenVinoSession(self._compiled.create_infer_request(), self._spec, self._runtime)


class OpenVinoSession:
    """See `Session`."""

    def __init__(self, request: Any, spec: Preprocess, runtime: Runtime) -> None:
        self.pixels = np.zeros((runtime.batch, spec.image_size, spec.image_size, 3), np.uint8)
        self._request = request
        request.set_input_tensor(import_openvino().Tensor(self.pixels, shared_memory=True))

    def run(self) -> np.ndarray:
        """Return features, float32 (batch, sum of block sizes)."""
        self._request.infer()
        values: np.ndarray = self._request.get_output_tensor(0).data
        return values


# Compiling


def _aside(function: Any, *args: Any) -> Any:
    """Run the function in a thread: Ctrl-C inside Python code called from OpenVINO's C++ would abort the process."""
    with ThreadPoolExecutor(1) as aside:
        return aside.submit(function, *args).result()


def _compiled_and_cached(
    backbone: Backbone, spec: Preprocess, runtime: Runtime, path: Path
) -> tuple[dict[str, Any], bytes]:
    what = (backbone.name, spec.image_size, runtime)
    log.info("Compiling %s for this CPU at %d px (%s); cached for next time.", *what)
    info, blob = _aside(_compile_backbone, backbone, spec, runtime)
    write_cache(path, graph_bytes(info, blob))
    return info, blob


def _compile_backbone(backbone: Backbone, spec: Preprocess, runtime: Runtime) -> tuple[dict[str, Any], bytes]:
    try:
        graph, info = _graph(backbone, spec, runtime.batch)
        compiled = _compiled(graph, spec, runtime)
    except (RuntimeError, AssertionError) as error:
        raise BackboneError(
            f"{backbone.name}: cannot run at {spec.image_size} px: {_reason(error)}",
            hint=f"Leave out --image-size, or give its own size: {backbone.preprocess.image_size}.",
        ) from error
    blob = compiled.export_model()
    return info, bytes(blob if isinstance(blob, bytes) else blob.getvalue())


def _graph(backbone: Backbone, spec: Preprocess, batch: int) -> tuple[Any, dict[str, Any]]:
    """Return the network as an OpenVINO model, and what `without_classifier` says of its features and last layer.

    Raises `MissingExtra` for a network without a topology where torch is not installed.
    """
    topology = fitting_topology(backbone, spec)
    if topology is not None:
        graph = topology.graph(_core(), backbone, spec)
        sizes, classifier, tail = topology.block_sizes, topology.classifier, topology.classifier_tail
    else:
        require(backbone.name, "timm", "torch", hint=EXPORT_HINT if backbone.source == "run" else "")
        module, sizes, classifier, tail = without_classifier(backbone, spec)
        graph = traced_graph(module, spec, batch)
    return graph, {"block_sizes": sizes, "classifier": classifier, "classifier_tail": tail}


def _compile(module: Any, spec: Preprocess, runtime: Runtime) -> Any:
    return _compiled(traced_graph(module, spec, runtime.batch), spec, runtime)


def traced_graph(module: Any, spec: Preprocess, batch: int) -> Any:
    """Trace a torch module that takes scaled pixels (N, 3, S, S): an OpenVINO model that takes uint8 NHWC pixels.

    `torch.jit.trace` is deprecated, and this is the only place that needs it. Its successor gives the same bits at the
    same speed, but takes 2 to 2.6 times as long to trace (MobileNetV2 8.1 s of a core against 3.1 s, ViT-tiny 6.9 s
    against 3.5 s; torch 2.15, OpenVINO 2026.4): ``TorchFXPythonDecoder.from_exported_program(torch.export.export(...))``.

    Raises `RuntimeError` or `AssertionError`.
    """
    import_openvino()
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's shape arithmetic is traced at the fixed shape, as intended
        pixels = torch.zeros((batch, spec.image_size, spec.image_size, 3), dtype=torch.uint8)
        traced = torch.jit.trace(from_pixels(module, spec).eval(), pixels, check_trace=False)
        frontend = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(traced)  # must outlive the conversion
        return frontend.convert(frontend.load(decoder))


def _compiled(graph: Any, spec: Preprocess, runtime: Runtime) -> Any:
    """Compile a model for one shape of its input. Raises `RuntimeError`."""
    shape = [runtime.batch, spec.image_size, spec.image_size, 3]
    graph.reshape({0: import_openvino().PartialShape(shape)})
    return _core().compile_model(graph, "CPU", _settings(runtime))


def _reason(error: Exception) -> str:
    """Return the first informative line: OpenVINO's messages start with locations in its source code."""
    lines = str(error).splitlines()
    return next((line for line in lines if line and not line.startswith("Exception from ")), lines[0] if lines else "")


def _settings(runtime: Runtime) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": OpenVinoEngine().precision(runtime),
        "NUM_STREAMS": min(cores(), 16),
        "INFERENCE_NUM_THREADS": cores(),
        "ENABLE_CPU_PINNING": False,  # decoding threads are not pinned: with pinning, embedding was a tenth slower
    }


# The file of a compiled graph


def machine_key() -> list[str]:
    """Return what a compiled graph depends on besides its network: OpenVINO's version, the CPU, the number of cores in use,
    and any limit on its instruction set."""
    known = [import_openvino().__version__, str(_core().get_property("CPU", "FULL_DEVICE_NAME")), str(cores())]
    return [*known, _isa_limit()] if _isa_limit() else known


def graph_file(content: str, key: str) -> Path:
    """Return the place of a compiled graph: `content` is the hash of the weights, `key` that of all it depends on."""
    return cache_dir() / "graphs" / f"{content[:12]}-{key}.graph"


def graph_bytes(info: dict[str, Any], blob: bytes) -> bytes:
    """Return a graph's file: a format line, the SHA-256 of the rest, `info` as a line of JSON, OpenVINO's blob."""
    rest = json.dumps(info).encode() + b"\n" + blob
    return b"\n".join([MAGIC, sha256_bytes(rest).encode(), rest])


def read_graph(path: Path) -> tuple[dict[str, Any], bytes] | None:
    """Invert `graph_bytes`; None if the file does not exist or is damaged (it is then rebuilt)."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s: the compiled network cannot be read (%s); rebuilding it.", path, error.strerror)
        return None
    magic, _, rest = data.partition(b"\n")
    digest, _, rest = rest.partition(b"\n")
    if magic != MAGIC or digest != sha256_bytes(rest).encode():
        return None
    header, _, blob = rest.partition(b"\n")
    return json.loads(header), blob


# OpenVINO itself


@cache
def _core() -> Any:
    return import_openvino().Core()


def _has_bf16() -> bool:
    """Return whether the CPU computes in bf16 and is allowed to.

    OpenVINO 2026.4 also lists BF16 if oneDNN's limit forbids the instructions, and then fails to compile.
    """
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") and _isa_limit() not in ISAS_WITHOUT_BF16


def _isa_limit() -> str:
    """Return the highest instruction set that oneDNN may use, in capitals; empty for no limit."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return limit.upper().removeprefix("DEFAULT").removeprefix("ALL")
