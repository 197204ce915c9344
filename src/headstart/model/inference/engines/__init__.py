"""The engines that run networks: choosing one, and opening a network with it.

`ENGINES` has one row per engine: OpenVINO on CPUs, torch on CUDA GPUs (and, as a reference in tests, on CPUs). To add
an engine, write a module next to `torch_engine.py` with a class that implements `Engine`, and add a row here.

Batches are small and of one fixed shape, and short ones are padded: an image's features are then the same to the bit
whatever other images are in the batch (tested on CPUs; CUDA was not available), so interrupted work resumes to equal
numbers. Large batches do not help on CPUs (16 and 32 were slower than 4 and 8 here).

When not to use it: for training, which uses torch, or to get a backbone as a torch module
(`headstart.model.backbones.build`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, Protocol

from headstart.errors import BackboneError, RecipeError
from headstart.images.decode import PIXELS_VERSION
from headstart.images.preprocess import Preprocess
from headstart.io.extras import require
from headstart.io.files import sha256_bytes
from headstart.io.progress import log
from headstart.model.backbones.registry import Backbone
from headstart.model.inference.engines.openvino_engine import OpenVinoEngine
from headstart.model.inference.engines.torch_engine import TorchEngine
from headstart.model.inference.runtime import Network, Runtime, Session

NETWORK_VERSION = 5
"""Part of every key: increment it when the output of networks changes."""

PRECISIONS = ("bf16", "f32")


class Engine(Protocol):
    """Runs networks. Instances have no state; each method imports the costly packages that it needs."""

    name: str

    devices: tuple[str, ...]
    """Devices that the engine supports."""

    def is_available(self, device: str) -> bool:
        """Return whether this machine has the device, one of `devices`. Called at every start: must take only ms."""
        ...

    def native_precisions(self, device: str) -> tuple[str, ...]:
        """Return the device's native `PRECISIONS`, fastest first. Others are accepted, but without benefit."""
        ...

    def batch(self, device: str) -> int:
        """Return a suitable number of images per batch for the device."""
        ...

    def precision(self, runtime: Runtime) -> str:
        """Return the precision that networks have here with this runtime."""
        ...

    def key(self, runtime: Runtime) -> Sequence[str]:
        """Return what results depend on besides weights, input and runtime: the engine's version, the CPU's name."""
        ...

    def opens_without_torch(self, backbone: Backbone, key: str = "*") -> bool:
        """Return whether `open` with that key avoids importing torch and timm, which takes seconds; for `*`, whether it does
        with some input on some machine."""
        ...

    def open(self, backbone: Backbone, spec: Preprocess, runtime: Runtime, key: str) -> Network:
        """Open the network that turns pixels into features. A compiled one may be cached for the user under `key`.

        Raises `BackboneError` for an input size that the network does not accept, or a last layer that cannot be
        replaced.
        """
        ...

    def open_module(self, module: Any, spec: Preprocess, runtime: Runtime) -> Sequence[Session]:
        """Open sessions of a torch module, one per worker thread; see the function `open_module`."""
        ...


ENGINES: dict[str, Engine] = {
    "openvino": OpenVinoEngine(),
    "torch": TorchEngine(),
}
"""Engines by name. The first one that supports a device is its default."""


def choose_runtime(device: str = "auto", precision: str = "auto") -> Runtime:
    """Choose this machine's runtime: torch if there is a CUDA GPU, else OpenVINO; bf16 if the CPU supports it.

    Raises `RecipeError` for unknown names, or for `cuda` on a machine without it; `MissingExtra` for `cuda` without torch.
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
    require("Device 'cuda'", "torch", hint="Leave out --device to run on the CPU.")
    raise RecipeError(
        "device 'cuda' was requested, but torch finds no CUDA GPU.",
        hint="Leave out --device to run on the CPU.",
    )


def runtime_here(runtime: Runtime) -> Runtime:
    """Return a recorded runtime, or this machine's if it cannot run here. Raises `ValueError` if it is invalid."""
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


def runtime_in_effect(runtime: Runtime) -> Runtime:
    """Return what a recorded runtime amounts to here: `runtime_here`, with the precision that its networks have.

    Where this differs, so do results. Raises `ValueError` if the runtime is invalid.
    """
    here = runtime_here(runtime)
    return replace(here, precision=ENGINES[here.engine].precision(here))


def network_key(backbone: Backbone, spec: Preprocess, runtime: Runtime) -> str:
    """Hash what a network depends on: weights, size and scale of its input, precision, engine and its version. See
    `features_key`."""
    members = {
        "weights": backbone.content or backbone.sha256,
        "architecture": backbone.architecture,
        "model_args": dict(backbone.model_args),
        "preprocess": spec.network_dict(),
        "plan": asdict(runtime),
        "engine": ENGINES[runtime.engine].key(runtime),
        "version": NETWORK_VERSION,
    }
    return sha256_bytes(json.dumps(members, sort_keys=True).encode())[:32]


def features_key(backbone: Backbone, spec: Preprocess, runtime: Runtime) -> str:
    """Hash what features depend on besides the image: the network, and how images are decoded and resized."""
    members = [network_key(backbone, spec, runtime), PIXELS_VERSION, spec.as_dict()]
    return sha256_bytes(json.dumps(members, sort_keys=True).encode())[:32]


def opens_without_torch(backbone: Backbone, spec: Preprocess, runtime: Runtime) -> bool:
    """Return whether `open_network` needs neither torch nor timm, which may not be installed and take seconds to import."""
    return ENGINES[runtime.engine].opens_without_torch(backbone, network_key(backbone, spec, runtime))


def open_network(backbone: Backbone, spec: Preprocess, runtime: Runtime) -> Network:
    """Load the compiled network from the user's cache, or build it. Raises `BackboneError`; `MissingExtra` if that needs torch
    and it is not installed."""
    if backbone.weights is None:  # graphs and features are cached under the hash of the weights
        raise BackboneError(f"{backbone.name}: has random weights; save them before using it.")
    return ENGINES[runtime.engine].open(backbone, spec, runtime, network_key(backbone, spec, runtime))


def open_module(module: Any, spec: Preprocess, runtime: Runtime) -> Sequence[Session]:
    """Open sessions, one per worker thread, of a torch module other than a whole backbone; outputs are (batch, D).

    Outputs are flattened. Nothing is cached. Raises `RuntimeError` if the module cannot be traced.
    """
    return ENGINES[runtime.engine].open_module(module, spec, runtime)


def anticipate(backbones: Sequence[Backbone], runtime: Runtime, *, training: bool = False) -> None:
    """Start importing torch and timm in a thread if they will be needed: for `training`, or for a backbone that was
    never compiled here for any input. The import takes seconds on one core, while another one can validate the images."""
    engine = ENGINES[runtime.engine]
    if training or not all(engine.opens_without_torch(b) for b in backbones):
        threading.Thread(target=_import_torch, name="import of torch").start()


def _import_torch() -> None:
    with suppress(ImportError):  # the code that needs it raises and reports the same error
        import headstart.model.backbones.networks  # noqa: F401  (imports torch and timm)
