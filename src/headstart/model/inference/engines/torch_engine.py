"""The torch engine: for CUDA GPUs (channels_last, bf16 autocast), and on CPUs as the reference in tests.

On CPUs it is two to four times slower than OpenVINO, and its import alone takes seconds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from headstart.images.preprocess import Preprocess
from headstart.io.extras import is_installed
from headstart.model.backbones.registry import Backbone
from headstart.model.inference.engines.torch_module import from_pixels, without_classifier
from headstart.model.inference.runtime import Runtime


class TorchEngine:
    """See `headstart.model.inference.engines.Engine`. Nothing is cached: networks are built every time."""

    name = "torch"
    devices: tuple[str, ...] = ("cuda", "cpu")

    def is_available(self, device: str) -> bool:
        """Return whether torch is installed and can use the device. Imports it only if there is an NVIDIA driver."""
        if (device == "cuda" and not has_cuda_driver()) or not is_installed("torch"):
            return False
        if device == "cpu":
            return True
        import torch

        return torch.cuda.is_available()

    def native_precisions(self, device: str) -> tuple[str, ...]:
        """Return bf16 first on GPUs, only f32 on CPUs."""
        return ("bf16", "f32") if device == "cuda" else ("f32",)

    def batch(self, device: str) -> int:
        """Return the images per batch."""
        return 64 if device == "cuda" else 8

    def precision(self, runtime: Runtime) -> str:
        """Return the runtime's own: autocast works everywhere."""
        return runtime.precision

    def key(self, runtime: Runtime) -> Sequence[str]:
        """Return torch's version and the GPU's name."""
        import torch

        return [torch.__version__, torch.cuda.get_device_name() if runtime.device == "cuda" else "cpu"]

    def opens_without_torch(self, backbone: Backbone, key: str = "*") -> bool:
        """Never."""
        return False

    def open(self, backbone: Backbone, spec: Preprocess, runtime: Runtime, key: str) -> TorchNetwork:
        """Build the backbone. Raises `BackboneError`."""
        return TorchNetwork(backbone, spec, runtime)

    def open_module(self, module: Any, spec: Preprocess, runtime: Runtime) -> list[TorchSession]:
        """Open one session: torch uses the whole device for each batch."""
        import torch

        placed = from_pixels(module, spec).eval().to(runtime.device, memory_format=torch.channels_last)
        return [TorchSession(placed, spec, runtime)]


class TorchNetwork:
    """See `Network`."""

    def __init__(self, backbone: Backbone, spec: Preprocess, runtime: Runtime) -> None:
        import torch

        module, self.block_sizes, self.classifier, self.classifier_tail = without_classifier(backbone, spec)
        self._module = from_pixels(module, spec).eval().to(runtime.device, memory_format=torch.channels_last)
        self._spec, self._runtime = spec, runtime

    def session(self) -> TorchSession:
        """Open a new session, for one thread only."""
        return TorchSession(self._module, self._spec, self._runtime)


class TorchSession:
    """See `Session`. On CUDA, pixels are in pinned memory and copied without blocking."""

    def __init__(self, module: Any, spec: Preprocess, runtime: Runtime) -> None:
        import torch

        shape = (runtime.batch, spec.image_size, spec.image_size, 3)
        self._buffer = torch.zeros(shape, dtype=torch.uint8, pin_memory=runtime.device == "cuda")
        self.pixels = self._buffer.numpy()
        self._module = module
        self._runtime = runtime

    def run(self) -> np.ndarray:
        """Return features, float32 (batch, sum of block sizes)."""
        import torch

        device, bf16 = self._runtime.device, self._runtime.precision == "bf16"
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            values: np.ndarray = self._module(self._buffer.to(device, non_blocking=True)).float().cpu().numpy()
        return values


def has_cuda_driver() -> bool:
    """Return whether an NVIDIA driver is loaded, according to its own library: importing torch takes seconds."""
    import ctypes

    try:  # by name: ctypes.util.find_library would start a compiler, which writes temporary files
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
