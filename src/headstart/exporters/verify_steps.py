"""Part of verify.py: the steps of the pixel contract in Pillow, and models opened in the installed runtimes.

It imports nothing of headstart, because it is part of every export (`golden_samples.verify_script`).
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

ModelOutputs = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""A model in a runtime: from its inputs to its outputs, by name."""
DecodeStep = Callable[[bytes], np.ndarray]
"""From a file to its upright RGB pixels, uint8 (H, W, 3)."""
ResizeStep = Callable[[np.ndarray], Any]
"""From these pixels to (S, S, 3), or {input: (S, S, 3)} if the network has several inputs."""
NetworkStep = Callable[[Mapping[str, np.ndarray]], tuple[Any, Any]]
"""From uint8 pixels (1, S, S, 3) by input to logits and probabilities, (1, K) each; logits may be None."""

_IMPORTING = threading.Lock()


def pillow_decode(data: bytes, ranges: Mapping[str, Sequence[float]] | None = None) -> np.ndarray:
    """Return the upright RGB pixels of an image file, uint8 (H, W, 3), as the contract says."""
    image: Any = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    kind = {"I": "integers", "F": "floats"}.get(image.mode[0], "")
    if kind:
        low, high = (ranges or {}).get(kind, (0.0, 65535.0) if kind == "integers" else (0.0, 1.0))
        scale = 255 / (high - low)
        values = image.convert("I").convert("F") if kind == "integers" else image
        image = values.point(lambda value: value * scale + (0.5 - low * scale)).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.new("RGB", rgba.size, (255, 255, 255))
        image.paste(rgba, mask=rgba)
    return np.asarray(image.convert("RGB"))


def pillow_resize(decoded: np.ndarray, contract: Mapping[str, Any]) -> np.ndarray:
    """Turn upright RGB pixels into what the network sees, uint8 (S, S, 3), as the contract in preprocess.json says."""
    image, how = Image.fromarray(decoded), Image.Resampling[contract["interpolation"].upper()]
    (left, right, width, x), (top, bottom, height, y) = axes(contract, image.width, image.height)
    image = image.resize((width, image.height), how, box=(left, 0, right, image.height))
    image = image.resize((width, height), how, box=(0, top, width, bottom))  # height last, whatever Pillow prefers
    square = Image.new("RGB", (contract["image_size"],) * 2, tuple(contract["margin"]))
    square.paste(image, (x, y))
    return np.asarray(square)


def axes(contract: Mapping[str, Any], width: int, height: int) -> list[tuple[float, float, int, int]]:
    """Return for each axis where the part to resize begins and ends, its resized length, and where that is placed."""
    side, axes = contract["image_size"], []
    for length in (width, height):
        begin, end, count = 0.0, float(length), side
        if contract["resize"] == "pad":
            count = max(1, round(length * (side / max(width, height))))
        if contract["resize"] == "crop":
            resized = int(contract["shorter_side"] * length / min(width, height))
            start = round((resized - side) / 2)
            begin, end = start * length / resized, min(end, (start + side) * length / resized)
        axes.append((begin, end, count, (side - count) // 2))
    return axes


def open_onnx(path: Path) -> tuple[str, ModelOutputs] | None:
    """Open an ONNX model in onnxruntime, on the CPU; return the runtime's name and the model, None if it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # this is about answers, not speed
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return (
        f"onnxruntime {onnxruntime.__version__}",
        lambda given: dict(zip(names, session.run(names, dict(given)), strict=True)),
    )


def open_ir(path: Path) -> tuple[str, ModelOutputs] | None:
    """Open an IR in OpenVINO, in float32: some processors would compute in bfloat16. None if it is not installed."""
    try:
        openvino = quiet_openvino()
    except ImportError:
        return None
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def outputs(given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        answers = compiled.create_infer_request().infer(
            dict(given)
        )  # a request per call: calls may come from several threads
        return {output.any_name: np.array(values) for output, values in answers.items()}

    return f"OpenVINO {openvino.__version__.split('-')[0]}", outputs


def quiet_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would report the import to its makers. Raises `ImportError`."""
    with _IMPORTING:
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
