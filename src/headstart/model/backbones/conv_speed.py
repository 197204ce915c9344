"""How fast this machine computes convolutions: one figure, in 1e9 multiply-adds (GMAC) per second.

A 3 x 3 convolution runs in OpenVINO for a fifth of a second, in the precision that OpenVINO chooses for the CPU. Networks
reach a fraction of that speed, which `pool.toml` states for each. Other processes on the machine lower the figure, as they
also slow down the work that it helps to estimate.

Costs: 0.3 s to import OpenVINO (which training on a CPU does anyway) and 0.25 s, once per process. When not to use it: for
a time that must be exact. An estimate is good to a factor of about two, and GPUs are not measured at all.
"""

from __future__ import annotations

import time
from functools import cache

import numpy as np

from headstart.model.inference.openvino_import import import_openvino

GPU_SPEED = 4_000.0
"""Assumed for any GPU; only those older than 2016 are more than twice as slow."""

SECONDS = 0.2
SIDE, CHANNELS, IMAGES = 28, 128, 8


@cache
def conv_speed(device: str = "cpu") -> float:
    """Measure the speed of a CPU in GMAC/s: the fastest run within `SECONDS`; a constant for other devices."""
    if device != "cpu":
        return GPU_SPEED
    ov = import_openvino()
    ops = ov.opset8
    pixels = ops.parameter([IMAGES, CHANNELS, SIDE, SIDE], np.float32)
    kernel = np.full((CHANNELS, CHANNELS, 3, 3), 0.01, np.float32)
    convolved = ops.convolution(pixels, ops.constant(kernel), [1, 1], [1, 1], [1, 1], [1, 1])
    request = ov.Core().compile_model(ov.Model([convolved], [pixels]), "CPU").create_infer_request()
    content = np.ones((IMAGES, CHANNELS, SIDE, SIDE), np.float32)
    request.infer([content])
    fastest, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < SECONDS:
        started = time.perf_counter()
        request.infer([content])
        fastest = min(fastest, time.perf_counter() - started)
    return IMAGES * CHANNELS * CHANNELS * 9 * SIDE * SIDE / fastest / 1e9
