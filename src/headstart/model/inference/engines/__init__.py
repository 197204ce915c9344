"""The engines that run networks, the choice among them, and opening a network with one.

`ENGINES` has a row per engine: OpenVINO on CPUs, torch on CUDA GPUs (and, as the reference in tests, on CPUs). A new
engine is a module beside `torch_engine.py` with a class as `Engine` describes it, and a row here.

The batch is small and of one fixed shape, and short batches are padded: an image's features are then the same to the
bit whatever company it is embedded in (tests check it for CPUs; CUDA was not at hand), so interrupted work resumes to
equal numbers. On CPUs large batches buy nothing (16 and 32 were slower than 4 and 8 here).

When not to use it: for training, which is torch's, and where a backbone is wanted as a torch module
(`headstart.model.backbones.build`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Protocol

from headstart.errors import BackboneError, RecipeError
from headstart.images.preprocess import Preprocess
from headstart.io.files import sha256_bytes
from headstart.io.progress import log
from headstart.model.backbones.registry import Backbone
from headstart.model.inference.engines.openvino_engine import OpenVinoEngine
from headstart.model.inference.engines.torch_engine import TorchEngine
from headstart.model.inference.runtime import Network, Runtime, Session

NETWORK_VERSION = 4
"""Part of every key: to be raised when networks give other numbers than before."""

PRECISIONS = ("bf16", "f32")


class Engine(Protocol):
    """What runs networks. An instance holds nothing; what is costly to import is imported by the method that needs it."""

    name: str

    devices: tuple[str, ...]
    """The devices that it runs on, on machines that have them."""

    def is_available(self, device: str) -> bool:
        """Whether this machine has the device, one of `devices`. Asked at each start, so it should cost milliseconds."""
        ...

    def native_precisions(self, device: str) -> tuple[str, ...]:
        """The `PRECISIONS` that the device computes in here, the fastest first. Others are taken too, to no advantage."""
        ...

    def batch(self, device: str) -> int:
        """Images per batch that suit the device."""
        ...

    def key(self, runtime: Runtime) -> Sequence[str]:
        """What numbers depend on besides weights, input and runtime: the engine's version, the processor's name."""
        ...

    def opens_without_torch(self, backbone: Backbone) -> bool:
        """Whether `open` probably need not import torch and timm, which takes seconds."""
        ...

    def open(self, backbone: Backbone, spec: Preprocess, runtime: Runtime, key: str) -> Network:
        """The network that turns pixels into features. What was compiled may be kept in the user's cache under `key`.

        Raises `BackboneError` for an input size that the network cannot take, or a last layer that cannot be replaced.
        """
        ...

    def open_module(self, module: Any, spec: Preprocess, runtime: Runtime) -> Sequence[Session]:
        """Sessions, one per worker thread, of a torch module; see the function `open_module`."""
        ...


ENGINES: dict[str, Engine] = {
    "openvino": OpenVinoEngine(),
    "torch": TorchEngine(),
}
"""By name. Of those that run on a device, the first is the default."""


def choose_runtime(device: str = "auto", precision: str = "auto") -> Runtime:
    """The runtime for this machine: CUDA through torch where there is one, else OpenVINO; bf16 where the processor has it.

    Raises `RecipeError` for unknown names, or for `cuda` on a machine without.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise RecipeError(f"device {device!r} is not known: expected auto, cpu or cuda.")
    if precision not in ("auto", *PRECISIONS):
        raise RecipeError(f"precision {precision!r} is not known: expected auto, bf16 or f32.")
    for wanted in ("cuda", "cpu") if device == "auto" else (device,):
        for engine in ENGINES.values():
            if wanted in engine.devices and engine.is_available(wanted):
                chosen = engine.native_precisions(wanted)[0] if precision == "auto" else precision
                return Runtime(engine.name, wanted, chosen, engine.batch(wanted))
    raise RecipeError(
        "device 'cuda' was asked for, but torch finds no CUDA GPU.",
        hint="Leave --device out to run on the processor.",
    )


def runtime_here(runtime: Runtime) -> Runtime:
    """A recorded runtime, or this machine's own where that one cannot run here. Raises `ValueError` if it is no runtime."""
    engine = ENGINES.get(runtime.engine)
    if (
        engine is None
        or runtime.device not in engine.devices
        or runtime.precision not in PRECISIONS
        or type(runtime.batch) is not int
        or not 1 <= runtime.batch <= 4096
    ):
        raise ValueError(f"{runtime} with batches of {runtime.batch!r} is not a runtime")
    if engine.is_available(runtime.device):
        return runtime
    here = choose_runtime("cpu")
    log.info("Trained with %s, which this machine does not have; using %s.", runtime, here)
    return here


def network_key(backbone: Backbone, spec: Preprocess, runtime: Runtime) -> str:
    """A hash of what features depend on besides the image: weights, input spec, precision, engine and its version."""
    members = {
        "weights": backbone.content or backbone.sha256,
        "architecture": backbone.architecture,
        "model_args": dict(backbone.model_args),
        "preprocess": spec.as_dict(),
        "plan": asdict(runtime),
        "engine": ENGINES[runtime.engine].key(runtime),
        "version": NETWORK_VERSION,
    }
    return sha256_bytes(json.dumps(members, sort_keys=True).encode())[:32]


def open_network(backbone: Backbone, spec: Preprocess, runtime: Runtime) -> Network:
    """Load the compiled network from the user's cache, or build it. Raises `BackboneError`."""
    if backbone.weights is None:  # graphs and features are kept under the hash of the weights
        raise BackboneError(f"{backbone.name}: has random weights, which have to be saved before it can be used.")
    return ENGINES[runtime.engine].open(backbone, spec, runtime, network_key(backbone, spec, runtime))


def open_module(module: Any, spec: Preprocess, runtime: Runtime) -> Sequence[Session]:
    """Sessions, one per worker thread, of a torch module that is not a whole backbone: outputs are flattened (batch, D).

    Nothing is kept for the next time. Raises `RuntimeError` if the module cannot be traced.
    """
    return ENGINES[runtime.engine].open_module(module, spec, runtime)


def anticipate(backbones: Sequence[Backbone], runtime: Runtime, *, training: bool = False) -> None:
    """Begin to import torch and timm, in a thread, where they will be needed: for `training`, or because a backbone was
    never compiled here. They take seconds of one core, in which another one can look at the images."""
    engine = ENGINES[runtime.engine]
    if training or not all(engine.opens_without_torch(b) for b in backbones):
        threading.Thread(target=_import_torch, name="import of torch").start()


def _import_torch() -> None:
    with suppress(ImportError):  # whoever needs it meets the same error, and says so
        import headstart.model.backbones.networks  # noqa: F401  (imports torch and timm)
