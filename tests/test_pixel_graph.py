"""The pixel contract as an ONNX graph: equal to Pillow in onnxruntime, all but equal in OpenVINO, and joined to networks."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import scene
from headstart.exporters.pixel_contract import PixelContract
from headstart.exporters.pixel_graph import IR_VERSION, OPSET, pixel_model, with_pixels
from headstart.exporters.portable_images import portable_pixels
from headstart.exporters.verify_steps import quiet_openvino
from headstart.images.preprocess import INTERPOLATIONS, RESIZES
from tiny_export import Tiny, runner

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra export")

SIZES = (
    (250, 187),
    (187, 250),
    (96, 96),
    (1, 1),
    (1, 90),
    (90, 1),
    (64, 48),
    (48, 64),
    (301, 31),
    (31, 301),
    (192, 192),
)
RunGraph = Callable[[np.ndarray], np.ndarray]


def in_onnxruntime(model: Any) -> RunGraph:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return lambda image: session.run(["pixels"], {"image": image})[0][0]


def in_openvino(model: Any) -> RunGraph:
    core = quiet_openvino().Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda image: np.array(compiled({"image": image})[0])[0]


@cache
def photo(width: int, height: int) -> Image.Image:
    return scene(width + height, (width, height))


def gaps(run: RunGraph, contract: PixelContract, sizes: Any = SIZES) -> np.ndarray:
    """The differences from Pillow, of all images."""
    return np.stack(
        [np.abs(run(np.asarray(photo(*s))).astype(int) - portable_pixels(photo(*s), contract)) for s in sizes]
    )


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_onnxruntime_equals_pillow_byte_for_byte(resize: str, interpolation: str) -> None:
    contract = PixelContract(96, resize, 0.9, interpolation, (124, 116, 104))
    assert gaps(in_onnxruntime(pixel_model(contract)), contract).max() == 0


@pytest.mark.parametrize(("resize", "interpolation"), [("crop", "bicubic"), ("pad", "lanczos"), ("squash", "bilinear")])
def test_openvino_is_within_the_tolerance(resize: str, interpolation: str) -> None:
    """It computes in float32. (Not nearest: a centre that lies between two pixels may go either way.)"""
    contract = PixelContract(96, resize, 0.9, interpolation, (124, 116, 104))
    gap = gaps(in_openvino(pixel_model(contract)), contract)
    assert (gap.max() <= 2, gap.mean() <= 0.02, np.mean(gap > 1) <= 0.001) == (True, True, True)


@pytest.mark.slow
@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_images_of_any_size(resize: str, interpolation: str) -> None:
    """780 in all: 65 of each way to resize."""
    rng = np.random.default_rng(11)
    sizes = [tuple(rng.integers(1, 900, 2).tolist()) for _ in range(62)] + [(4000, 3000), (3000, 4000), (2500, 17)]
    for i, (side, crop_pct) in enumerate(((160, 0.875), (224, 0.95), (64, 1.0))):
        contract = PixelContract(side, resize, crop_pct, interpolation, (124, 116, 104))
        model = pixel_model(contract)
        assert gaps(in_onnxruntime(model), contract, sizes[i::3]).max() == 0
        if interpolation != "nearest":
            gap = gaps(in_openvino(model), contract, sizes[i::3])
            assert (gap.max() <= 2, gap.mean() <= 0.02, np.mean(gap > 1) <= 0.001) == (True, True, True)


def test_equal_contracts_give_equal_bytes_that_old_runtimes_read() -> None:
    model = pixel_model(PixelContract(96))
    assert model.SerializeToString() == pixel_model(PixelContract(96)).SerializeToString()
    assert (model.ir_version, model.opset_import[0].version) == (IR_VERSION, OPSET) and OPSET <= 20 and IR_VERSION <= 9
    assert {node.domain for node in model.graph.node} == {""}
    assert len(model.SerializeToString()) < 60_000


def test_a_network_takes_images_and_says_which_pixels_it_saw() -> None:
    contract, network = PixelContract(96, "crop", 0.9), Tiny().model()
    network.ir_version = 10  # as torch writes it
    joined = with_pixels({"pixels": contract}, network)
    assert joined.ir_version == IR_VERSION
    assert [each.name for each in joined.graph.input] == ["image"]
    assert [each.name for each in joined.graph.output] == ["logits", "probabilities", "pixels"]
    session = onnxruntime.InferenceSession(joined.SerializeToString())
    logits, probabilities, pixels = session.run(None, {"image": np.asarray(photo(250, 187))})
    expected = runner(network)({"pixels": portable_pixels(photo(250, 187), contract)[None]})
    assert np.array_equal(pixels[0], portable_pixels(photo(250, 187), contract))
    assert np.allclose(logits, expected[0], atol=1e-5) and np.allclose(probabilities, expected[1], atol=1e-6)


def test_a_network_with_inputs_of_several_sizes_takes_one_image() -> None:
    contracts = {"pixels_1": PixelContract(64, "squash"), "pixels_2": PixelContract(96, "pad", 1.0, "lanczos")}
    network = Tiny(inputs={"pixels_1": 64, "pixels_2": 96}).model()
    joined = with_pixels(contracts, network)
    assert [each.name for each in joined.graph.output] == ["logits", "probabilities", "pixels_1", "pixels_2"]
    session = onnxruntime.InferenceSession(joined.SerializeToString())
    logits, _, *pixels = session.run(None, {"image": np.asarray(photo(250, 187))})
    made = {name: portable_pixels(photo(250, 187), contract)[None] for name, contract in contracts.items()}
    assert all(np.array_equal(a, b) for a, b in zip(pixels, made.values(), strict=True))
    assert np.allclose(logits, runner(network)(made)[0], atol=1e-5)


def test_contracts_for_other_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="inputs are \\['pixels'\\]"):
        with_pixels({"other": PixelContract(96)}, Tiny().model())


def test_the_whole_graph_costs_little_more_than_pillow_and_the_network() -> None:
    """A tenth of a second would be a mistake in the graph, whatever else the machine does."""
    run, image = in_onnxruntime(pixel_model(PixelContract(160))), np.asarray(photo(500, 375))
    run(image)
    took = []
    for _ in range(7):
        start = time.perf_counter()
        run(image)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.1
