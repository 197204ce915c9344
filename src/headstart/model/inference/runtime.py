"""A backbone ready to run: OpenVINO on CPUs, torch on CUDA GPUs.

On a CPU the network is traced once with torch, compiled by OpenVINO, and the compiled graph is kept in the user's own
cache under a key made from the weights' hash, the input spec, the precision, this processor and OpenVINO's version.
Later processes load it in some 30 ms and never import torch. Measured on 2 cores with AVX512-BF16 (MobileNetV2, 160 px,
images/s): f32 420, bf16 840; building takes about a second, most of it tracing.

The batch is small and of one fixed shape, and short batches are padded: an image's features are then the same to the
bit whatever company it is embedded in (tests check it for CPUs; CUDA was not at hand), so interrupted work resumes to
equal numbers. On CPUs large batches buy nothing (16 and 32 were slower than 4 and 8 here).

OpenVINO's `convert_model` is not used: it traces three times (7 s against 0.8 s) and reports its use over the network,
as importing OpenVINO does (see `_openvino`).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from headstart.errors import BackboneError, RecipeError
from headstart.images.preprocess import Preprocess
from headstart.images.validate import cores
from headstart.io.files import cache_dir, sha256_bytes, write_cache
from headstart.io.progress import log
from headstart.model.backbones.build import build
from headstart.model.backbones.registry import Backbone

GRAPH_VERSION = 4
MAGIC = b"headstart graph 2"


@dataclass(frozen=True)
class Runtime:
    """Where and how to run: `engine` openvino | torch, `device` cpu | cuda, `precision` bf16 | f32, images a `batch`."""

    engine: str
    device: str
    precision: str
    batch: int

    def __str__(self) -> str:
        return f"{self.engine} on {self.device}, {self.precision}"


class Session(Protocol):
    """One thread's hold on a network: fill `pixels`, call `run`."""

    pixels: np.ndarray
    """uint8 (batch, image_size, image_size, 3)."""

    def run(self) -> np.ndarray:
        """float32 (batch, feature_dim) for what `pixels` holds; valid until the next call."""
        ...


class Network(Protocol):
    """A compiled backbone. `classifier` names timm's last layer, `classifier_tail` is its weight's shape past (K, D)."""

    feature_dim: int
    classifier: str
    classifier_tail: tuple[int, ...]

    def session(self) -> Session:
        """A new session; one thread each."""
        ...


def choose_runtime(device: str = "auto", precision: str = "auto") -> Runtime:
    """The runtime for this machine: CUDA through torch where there is one, else OpenVINO; bf16 where the processor has it.

    Raises `RecipeError` for unknown names, or for `cuda` on a machine without.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise RecipeError(f"device {device!r} is not known: expected auto, cpu or cuda.")
    if precision not in ("auto", "bf16", "f32"):
        raise RecipeError(f"precision {precision!r} is not known: expected auto, bf16 or f32.")
    if device == "cuda" or (device == "auto" and _has_cuda_driver()):
        import torch

        if torch.cuda.is_available():
            return Runtime("torch", "cuda", "bf16" if precision == "auto" else precision, batch=64)
        if device == "cuda":
            raise RecipeError(
                "device 'cuda' was asked for, but torch finds no CUDA GPU.",
                hint="Leave --device out to run on the processor.",
            )
    if precision == "auto":
        precision = "bf16" if "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
    return Runtime("openvino", "cpu", precision, batch=8)


def runtime_here(runtime: Runtime) -> Runtime:
    """A recorded runtime, or this machine's own where that one cannot run here. Raises `ValueError` if it is no runtime."""
    known = (runtime.engine, runtime.device) in (("openvino", "cpu"), ("torch", "cuda"), ("torch", "cpu"))
    if (
        not known
        or runtime.precision not in ("bf16", "f32")
        or type(runtime.batch) is not int
        or not 1 <= runtime.batch <= 4096
    ):
        raise ValueError(f"{runtime} with batches of {runtime.batch!r} is not a plan")
    if runtime.device == "cuda" and not _has_cuda_driver():
        here = choose_runtime("cpu")
        log.info("Trained with %s; there is no CUDA GPU here, so: %s.", runtime, here)
        return here
    return runtime


def network_key(backbone: Backbone, spec: Preprocess, runtime: Runtime) -> str:
    """A hash of what features depend on besides the image: weights, input spec, precision, engine and its version."""
    members = {
        "weights": backbone.content or backbone.sha256,
        "architecture": backbone.architecture,
        "model_args": dict(backbone.model_args),
        "preprocess": spec.as_dict(),
        "plan": asdict(runtime),
        "engine": _engine_version(runtime),
        "version": GRAPH_VERSION,
    }
    return sha256_bytes(json.dumps(members, sort_keys=True).encode())[:32]


def open_network(backbone: Backbone, spec: Preprocess, runtime: Runtime) -> Network:
    """Load the compiled network from the user's cache, or build it. Raises `BackboneError`."""
    if backbone.weights is None:  # graphs and features are kept under the hash of the weights
        raise BackboneError(f"{backbone.name}: has random weights, which have to be saved before it can be used.")
    if runtime.engine == "torch":
        return TorchNetwork(backbone, spec, runtime)
    path = cache_dir() / "graphs" / f"{_beginning(backbone)}-{network_key(backbone, spec, runtime)}.graph"
    graph = _read_graph(path)
    if graph is None:
        log.info(
            "Compiling %s for this processor at %d px (%s); kept for next time.",
            backbone.name,
            spec.image_size,
            runtime,
        )
        with ThreadPoolExecutor(
            1
        ) as aside:  # Ctrl-C must not reach Python code that OpenVINO's C++ calls: it would abort
            info, blob = aside.submit(_compile, backbone, spec, runtime).result()
        write_cache(path, _graph_bytes(info, blob))
    else:
        info, blob = graph
    return OpenVinoNetwork(info, blob, spec, runtime)


def anticipate(backbones: Sequence[Backbone], runtime: Runtime, *, training: bool = False) -> None:
    """Begin to import torch and timm, in a thread, where they will be needed: for `training`, or because a backbone was
    never compiled here. They take seconds of one core, in which another one can look at the images."""
    known = all(any((cache_dir() / "graphs").glob(f"{_beginning(b)}-*.graph")) for b in backbones)
    if training or runtime.engine == "torch" or not known:
        threading.Thread(target=_import_torch, name="import of torch").start()


def _import_torch() -> None:
    with suppress(ImportError):  # whoever needs it meets the same error, and says so
        import headstart.model.backbones.networks  # noqa: F401  (imports torch and timm)


def _beginning(backbone: Backbone) -> str:
    """Of the names of all graphs compiled from these weights."""
    return (backbone.content or backbone.sha256)[:12]


class OpenVinoNetwork:
    """A compiled CPU graph: uint8 NHWC pixels in, pooled float32 features out."""

    def __init__(self, info: dict[str, Any], blob: bytes, spec: Preprocess, runtime: Runtime) -> None:
        self.feature_dim: int = info["feature_dim"]
        self.classifier: str = info["classifier"]
        self.classifier_tail: tuple[int, ...] = tuple(info["classifier_tail"])
        self._shape = (runtime.batch, spec.image_size, spec.image_size, 3)
        self._compiled = _core().import_model(blob, "CPU", _settings(runtime))

    def session(self) -> OpenVinoSession:
        """A new session; one thread each."""
        return OpenVinoSession(self._compiled.create_infer_request(), self._shape)


class OpenVinoSession:
    """See `Session`."""

    def __init__(self, request: Any, shape: tuple[int, ...]) -> None:
        self.pixels = np.zeros(shape, np.uint8)
        self._request = request
        request.set_input_tensor(_openvino().Tensor(self.pixels, shared_memory=True))

    def run(self) -> np.ndarray:
        """float32 (batch, feature_dim)."""
        self._request.infer()
        values: np.ndarray = self._request.get_output_tensor(0).data
        return values


class TorchNetwork:
    """The same network through torch, for CUDA (channels_last, bf16 autocast), and the reference in tests."""

    def __init__(self, backbone: Backbone, spec: Preprocess, runtime: Runtime) -> None:
        import torch

        module, self.classifier, self.classifier_tail = _module_with_classifier(backbone, spec)
        self._module = from_pixels(module, spec).eval().to(runtime.device, memory_format=torch.channels_last)
        self._plan = runtime
        self._shape = (runtime.batch, spec.image_size, spec.image_size, 3)
        with torch.inference_mode():
            self.feature_dim = int(
                self._module(torch.zeros(self._shape, dtype=torch.uint8, device=runtime.device)).shape[1]
            )

    def session(self) -> TorchSession:
        """A new session; one thread each."""
        return TorchSession(self._module, self._shape, self._plan)


class TorchSession:
    """See `Session`. On CUDA the pixels live in pinned memory and travel without blocking."""

    def __init__(self, module: Any, shape: tuple[int, ...], runtime: Runtime) -> None:
        import torch

        self._buffer = torch.zeros(shape, dtype=torch.uint8, pin_memory=runtime.device == "cuda")
        self.pixels = self._buffer.numpy()
        self._module = module
        self._plan = runtime

    def run(self) -> np.ndarray:
        """float32 (batch, feature_dim)."""
        import torch

        bf16 = self._plan.precision == "bf16"
        with torch.inference_mode(), torch.autocast(self._plan.device, torch.bfloat16, enabled=bf16):
            values: np.ndarray = (
                self._module(self._buffer.to(self._plan.device, non_blocking=True)).float().cpu().numpy()
            )
        return values


def from_pixels(module: Any, spec: Preprocess) -> Any:
    """`module` behind a step that takes uint8 NHWC pixels: scaling, mean and std become two constants of the graph.

    With the spec's `tta` flip, what comes out is the mean over an image and its mirror image.
    """
    import torch

    class FromPixels(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            std = torch.tensor(spec.std).reshape(1, 3, 1, 1)
            self.register_buffer("scale", 1 / (255 * std))
            self.register_buffer("shift", -torch.tensor(spec.mean).reshape(1, 3, 1, 1) / std)
            self.module = module

        def forward(self, pixels_NHWC: torch.Tensor) -> torch.Tensor:
            pixels_NCHW = pixels_NHWC.permute(0, 3, 1, 2).float() * self.scale + self.shift
            out: torch.Tensor = self.module(pixels_NCHW).flatten(1)
            if spec.tta == "flip":
                out = (out + self.module(pixels_NCHW.flip(-1)).flatten(1)) / 2
            return out

    return FromPixels()


def _module_with_classifier(backbone: Backbone, spec: Preprocess) -> tuple[Any, str, tuple[int, ...]]:
    """The headless module, the name of timm's last layer, and the shape of its weight past (K, D): () or (1, 1)."""
    import timm
    import torch

    module = build(backbone, image_size=spec.image_size)
    with torch.device("meta"):  # shapes only: nothing is allocated or initialised
        shell = timm.create_model(backbone.architecture, num_classes=2, **dict(backbone.model_args))
    name = shell.pretrained_cfg.get("classifier")
    if not isinstance(name, str):
        raise BackboneError(
            f"{backbone.name}: ends in {name!r}, and headstart can only replace a single last layer.",
            hint="Choose another backbone: `headstart backbones` lists them.",
        )
    return module, name, tuple(shell.get_submodule(name).weight.shape[2:])


def _compile(backbone: Backbone, spec: Preprocess, runtime: Runtime) -> tuple[dict[str, Any], bytes]:
    module, classifier, tail = _module_with_classifier(backbone, spec)
    try:
        compiled = _compiled(module, spec, runtime)
    except (RuntimeError, AssertionError) as error:
        raise BackboneError(
            f"{backbone.name}: cannot run at {spec.image_size} px: {str(error).splitlines()[0]}",
            hint=f"Leave --image-size out, or give its own size: {backbone.preprocess.image_size}.",
        ) from error
    blob = compiled.export_model()
    info = {"feature_dim": int(compiled.output(0).shape[1]), "classifier": classifier, "classifier_tail": tail}
    return info, bytes(blob if isinstance(blob, bytes) else blob.getvalue())


def _compiled(module: Any, spec: Preprocess, runtime: Runtime) -> Any:
    """OpenVINO's compiled model of a torch module that takes scaled pixels (N, 3, S, S). Raises `RuntimeError`."""
    openvino = _openvino()
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    shape = [runtime.batch, spec.image_size, spec.image_size, 3]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's shape arithmetic is traced at the fixed shape, as intended
        pixels = torch.zeros(shape, dtype=torch.uint8)
        traced = torch.jit.trace(from_pixels(module, spec).eval(), pixels, check_trace=False)
        frontend = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(traced)  # must outlive the conversion
        graph = frontend.convert(frontend.load(decoder))
    graph.reshape({0: openvino.PartialShape(shape)})
    return _core().compile_model(graph, "CPU", _settings(runtime))


def open_module(module: Any, spec: Preprocess, runtime: Runtime) -> Sequence[Session]:
    """Sessions, one a worker thread, of a torch module that is not a whole backbone: outputs are flattened (batch, D).

    Nothing is kept for the next time. Raises `RuntimeError` if the module cannot be traced.
    """
    import torch

    shape = (runtime.batch, spec.image_size, spec.image_size, 3)
    if runtime.engine == "torch":
        placed = from_pixels(module, spec).eval().to(runtime.device, memory_format=torch.channels_last)
        return [TorchSession(placed, shape, runtime)]
    with ThreadPoolExecutor(1) as aside:  # as in `open_network`
        compiled = aside.submit(_compiled, module, spec, runtime).result()
    return [OpenVinoSession(compiled.create_infer_request(), shape) for _ in range(4 * cores())]


def _graph_bytes(info: dict[str, Any], blob: bytes) -> bytes:
    rest = json.dumps(info).encode() + b"\n" + blob
    return b"\n".join([MAGIC, sha256_bytes(rest).encode(), rest])


def _read_graph(path: Path) -> tuple[dict[str, Any], bytes] | None:
    """What `_graph_bytes` made; None if there is no such file, or a byte of it is wrong (then it is built anew)."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s: the compiled network cannot be read (%s); it is built anew.", path, error.strerror)
        return None
    magic, _, rest = data.partition(b"\n")
    digest, _, rest = rest.partition(b"\n")
    if magic != MAGIC or digest != sha256_bytes(rest).encode():
        return None
    header, _, blob = rest.partition(b"\n")
    return json.loads(header), blob


def _settings(runtime: Runtime) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": runtime.precision,
        "NUM_STREAMS": min(cores(), 16),
        "INFERENCE_NUM_THREADS": cores(),
        "ENABLE_CPU_PINNING": False,  # the decoding threads float: beside pinned ones, embedding was a tenth slower
    }


@cache
def _openvino() -> Any:
    """The package, imported without its telemetry.

    Whoever imports OpenVINO 2026.4 with `openvino_telemetry` installed starts a process that reports the import to
    Google Analytics. Without that package OpenVINO takes a stub of its own, so for the time of the import it is hidden.
    """
    hidden = "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
        import openvino.frontend
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]
    return openvino


@cache
def _core() -> Any:
    return _openvino().Core()


def _engine_version(runtime: Runtime) -> Sequence[str]:
    if runtime.engine == "torch":
        import torch

        return [torch.__version__, torch.cuda.get_device_name() if runtime.device == "cuda" else "cpu"]
    return [_openvino().__version__, str(_core().get_property("CPU", "FULL_DEVICE_NAME")), str(cores())]


def _has_cuda_driver() -> bool:
    """Whether an NVIDIA driver is loaded: asked of the driver's own library, because importing torch costs seconds."""
    import ctypes

    try:  # by its name: ctypes.util.find_library would start a compiler, which writes temporary files
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
