"""The Open Inference Protocol: what is read from a request, what an answer holds, and which requests are refused."""

from __future__ import annotations

import base64
import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.serving.open_inference import (
    BadInferRequest,
    InferRequest,
    TensorModel,
    infer_request,
    infer_response,
    server_metadata,
)

MODEL = TensorModel("scenes", version="abc123", classes=("sea", 'a "quoted"\nname', "forêt"), pixels={"pixels": 4})
TWO = TensorModel("two", version="abc123", classes=("a", "b"), pixels={"pixels_1": 2, "pixels_2": 3})
FILES = (b"\x89PNG...", b"", b"\xff\xd8\xff")


def body(**asked: Any) -> bytes:
    """The JSON of a request."""
    return json.dumps(asked).encode()


def image_input(*files: bytes, **changes: Any) -> dict[str, Any]:
    """Files as the input `image`, in base64."""
    data = [base64.b64encode(file).decode() for file in files]
    return {"name": "image", "datatype": "BYTES", "shape": [len(files)], "data": data} | changes


def pixel_input(array: np.ndarray, name: str = "pixels", **changes: Any) -> dict[str, Any]:
    """Pixels as the network's own input."""
    return {"name": name, "datatype": "UINT8", "shape": list(array.shape), "data": array.tolist()} | changes


def binary(inputs: list[dict[str, Any]], *tensors: bytes, **asked: Any) -> tuple[bytes, str]:
    """A request with raw tensors behind its JSON, and the header's value."""
    for given_input, tensor in zip(inputs, tensors, strict=True):
        given_input.pop("data", None)
        given_input["parameters"] = {"binary_data_size": len(tensor)}
    head = body(inputs=inputs, **asked)
    return head + b"".join(tensors), str(len(head))


def elements(*files: bytes) -> bytes:
    """The elements of a BYTES tensor."""
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


def read(content: bytes, header: str | None = None, model: TensorModel = MODEL) -> InferRequest:
    """The request as the server reads it."""
    return infer_request(content, header, model, most=8)


def test_files_arrive_as_they_were_sent_in_base64_and_as_raw_bytes() -> None:
    assert read(body(inputs=[image_input(*FILES)])).images == FILES
    marked = image_input(*FILES, parameters={"content_type": "base64"})
    assert read(body(inputs=[marked])).images == FILES
    assert read(*binary([image_input(*FILES)], elements(*FILES))).images == FILES


def test_pixels_arrive_as_they_were_sent_nested_flat_and_as_raw_bytes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    for request in (
        read(body(inputs=[pixel_input(pixels)])),
        read(body(inputs=[pixel_input(pixels, data=pixels.reshape(-1).tolist())])),
        read(*binary([pixel_input(pixels)], pixels.tobytes())),
    ):
        assert request.images is None and request.pixels is not None and len(request) == 2
        np.testing.assert_array_equal(request.pixels["pixels"], pixels)


def test_a_network_of_two_inputs_gets_both_in_any_order() -> None:
    one, two = np.zeros((2, 2, 2, 3), np.uint8), np.ones((2, 3, 3, 3), np.uint8)
    inputs = [pixel_input(two, "pixels_2"), pixel_input(one, "pixels_1")]
    request = read(*binary(inputs, two.tobytes(), one.tobytes()), TWO)
    assert request.pixels is not None
    np.testing.assert_array_equal(request.pixels["pixels_1"], one)
    np.testing.assert_array_equal(request.pixels["pixels_2"], two)


def test_outputs_are_those_asked_for_in_the_form_asked_for() -> None:
    everything = [image_input(b"x")]
    assert read(body(inputs=everything)).outputs == {"logits": False, "probabilities": False, "label": False}
    raw = read(body(inputs=everything, parameters={"binary_data_output": True}))
    assert raw.outputs == {"logits": True, "probabilities": True, "label": True}
    wanted = [{"name": "label", "parameters": {"binary_data": True}}, {"name": "logits"}]
    assert read(body(inputs=everything, outputs=wanted)).outputs == {"label": True, "logits": False}


LOGITS = np.array([[1.5, -2.25, 0.1], [3, 2, 1]], np.float32)
PROBABILITIES = np.array([[0.7, 0.1, 0.2], [0.5, 0.3, 0.2]])


def test_an_answer_holds_the_numbers_to_the_bit() -> None:
    request = InferRequest({"logits": False, "label": False}, images=FILES[:2], id="17")
    content, header = infer_response(request, LOGITS, PROBABILITIES, MODEL.classes[1:], MODEL)
    answer = json.loads(content)
    assert header is None
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("scenes", "abc123", "17")
    logits, label = answer["outputs"]
    assert (logits["name"], logits["datatype"], logits["shape"]) == ("logits", "FP32", [2, 3])
    np.testing.assert_array_equal(np.array(logits["data"], np.float32), LOGITS.reshape(-1))
    assert label == {"name": "label", "datatype": "BYTES", "shape": [2], "data": ['a "quoted"\nname', "forêt"]}


def test_raw_outputs_follow_the_json_in_its_order() -> None:
    request = InferRequest({"label": True, "logits": False, "probabilities": True}, images=FILES[:2])
    content, header = infer_response(request, LOGITS, PROBABILITIES, MODEL.classes[1:], MODEL)
    assert header is not None
    answer = json.loads(content[:header])
    sizes = [output.get("parameters", {}).get("binary_data_size") for output in answer["outputs"]]
    labels = elements(b'a "quoted"\nname', "forêt".encode())
    assert sizes == [len(labels), None, 24]
    assert content[header:] == labels + PROBABILITIES.astype("<f4").tobytes()
    assert "id" not in answer


def test_the_metadata_describes_what_can_be_sent_and_what_comes_back() -> None:
    described = MODEL.metadata()
    assert [each["name"] for each in described["inputs"]] == ["image", "pixels"]
    assert described["inputs"][1] == {"name": "pixels", "datatype": "UINT8", "shape": [-1, 4, 4, 3]}
    assert described["outputs"][0] == {"name": "logits", "datatype": "FP32", "shape": [-1, 3]}
    assert described["outputs"][2] == {"name": "label", "datatype": "BYTES", "shape": [-1]}
    assert described["parameters"]["classes"] == list(MODEL.classes)
    assert server_metadata()["extensions"] == ["binary_tensor_data"]
    assert MODEL.is_here("scenes") and MODEL.is_here("abc123") and MODEL.is_here("scenes", "abc123")
    assert not MODEL.is_here("other") and not MODEL.is_here("scenes", "1")


PIXELS = np.zeros((1, 4, 4, 3), np.uint8)
REFUSED: dict[str, tuple[tuple[bytes, str | None], str]] = {
    "no JSON": ((b"\xff\xd8\xff", None), "The request is not JSON"),
    "nothing": ((b"", None), "The request is not JSON"),
    "a list": ((b"[]", None), "must be a JSON object"),
    "deep": ((b"[" * 100_000, None), "The request is not JSON"),
    "millions of values": ((b'{"inputs": [' + b"{}," * 2_000_000 + b"{}]}", None), "at most 2,000,000 are read"),
    "lists of nothing": ((b'{"inputs": [' + b"[]," * 1_000_000 + b"[]]}", None), "at most 2,000,000 are read"),
    "a number of many digits": ((b'{"inputs": ' + b"9" * 5_000 + b"}", None), "The request is not JSON"),
    "no inputs": ((body(), None), "`inputs` must be a list"),
    "empty inputs": ((body(inputs=[]), None), "`inputs` must be a list"),
    "inputs of numbers": ((body(inputs=[1]), None), "`inputs` must be a list"),
    "no name": ((body(inputs=[{"shape": [1]}]), None), "`name` must be a string"),
    "no shape": ((body(inputs=[{"name": "image", "datatype": "BYTES"}]), None), "`shape` must be a list"),
    "a negative shape": ((body(inputs=[image_input(b"x", shape=[-1])]), None), "`shape` must be a list"),
    "an unknown input": ((body(inputs=[image_input(b"x", name="x")]), None), "expected 'image' (files), or 'pixels'"),
    "the same input twice": ((body(inputs=[image_input(b"x")] * 2), None), "Two inputs have the same name"),
    "three inputs": ((body(inputs=[image_input(b"x")] * 3), None), "`inputs` has 3 tensors; expected at most 2."),
    "four outputs": (
        (body(inputs=[image_input(b"x")], outputs=[{"name": "label"}] * 4), None),
        "`outputs` has 4 tensors; expected at most 3.",
    ),
    "files and pixels": ((body(inputs=[image_input(b"x"), pixel_input(PIXELS)]), None), "expected 'image'"),
    "another type": ((body(inputs=[image_input(b"x", datatype="UINT8")]), None), "must be BYTES of 1 dimension"),
    "two dimensions": ((body(inputs=[image_input(b"x", shape=[1, 1])]), None), "must be BYTES of 1 dimension"),
    "no image": ((body(inputs=[image_input()]), None), "0 images; expected 1 to 8"),
    "nine images": ((body(inputs=[image_input(*[b"x"] * 9)]), None), "9 images; expected 1 to 8 per request"),
    "fewer than the shape": ((body(inputs=[image_input(b"x", shape=[2])]), None), "but there are 1 elements"),
    "more than the shape": (
        (body(inputs=[image_input(b"x", data=["é"] * 3)]), None),
        "says 1, but there are 3 elements",
    ),
    "no base64": ((body(inputs=[image_input(b"x", data=["é"])]), None), "is not base64"),
    "numbers as files": ((body(inputs=[image_input(b"x", data=[1])]), None), "must be strings"),
    "no data": ((body(inputs=[image_input(b"x", data=None)]), None), "expected `data`"),
    "another content type": (
        (body(inputs=[image_input(b"x", parameters={"content_type": "str"})]), None),
        "content_type must be 'base64'",
    ),
    "a wrong side": ((body(inputs=[pixel_input(np.zeros((1, 5, 4, 3)))]), None), "expected the shape [N, 4, 4, 3]"),
    "too few pixels": ((body(inputs=[pixel_input(PIXELS, data=[1, 2])]), None), "asks for 48 values; there are 2"),
    "ragged pixels": ((body(inputs=[pixel_input(PIXELS, data=[[1], 2])]), None), "`data` is not a tensor"),
    "rows of different lengths": (
        (body(inputs=[pixel_input(PIXELS, data=[[1] * 40, [1] * 8])]), None),
        "`data` is not a tensor: its lists differ in depth or length.",
    ),
    "texts as pixels": ((body(inputs=[pixel_input(PIXELS, data=["1"] * 48)]), None), "whole numbers from 0 to 255"),
    "lists among pixels": ((body(inputs=[pixel_input(PIXELS, data=[1] * 47 + [[]])]), None), "whole numbers from 0 to"),
    "fractions": ((body(inputs=[pixel_input(PIXELS, data=[0.5] * 48)]), None), "whole numbers from 0 to 255"),
    "256": ((body(inputs=[pixel_input(PIXELS, data=[256] * 48)]), None), "whole numbers from 0 to 255"),
    "beyond 64 bits": ((body(inputs=[pixel_input(PIXELS, data=[1 << 80] * 48)]), None), "whole numbers from 0 to 255"),
    "true and false": ((body(inputs=[pixel_input(PIXELS, data=[True] * 48)]), None), "whole numbers from 0 to 255"),
    "an unknown output": ((body(inputs=[image_input(b"x")], outputs=[{"name": "x"}]), None), "There is no output 'x'"),
    "shared memory": (
        (body(inputs=[image_input(b"x", parameters={"shared_memory_region": "r"})]), None),
        "the extension 'shared_memory_region' is not supported",
    ),
    "classification": (
        (body(inputs=[image_input(b"x")], outputs=[{"name": "label", "parameters": {"classification": 3}}]), None),
        "the extension 'classification' is not supported",
    ),
    "a number as parameters": ((body(inputs=[image_input(b"x")], parameters=1), None), "must be an object"),
    "a number as id": ((body(inputs=[image_input(b"x")], id=1), None), "`id` must be a string"),
    "a header that is no number": ((b"{}", "-1"), "expected a number of bytes, not '-1'"),
    "a header beyond the body": ((b"{}", "3"), "is 3, but the body has 2 bytes"),
    "bytes that nothing describes": ((body(inputs=[image_input(b"x")]) + b"!", None), "The request is not JSON"),
    "fewer raw bytes": (
        (lambda pair: (pair[0][:-1], pair[1]))(binary([image_input(b"x")], elements(b"x"))),
        "add up to 5 bytes, but 4 follow the JSON",
    ),
    "more raw elements than the shape": (
        binary([image_input(b"x")], elements(*[b""] * 100_000)),
        "`shape` says 1, but there are more elements.",
    ),
    "an element beyond the end": (binary([image_input(b"x")], struct.pack("<I", 9) + b"x"), "goes beyond the end"),
    "half a length": (binary([image_input(b"x")], b"\0\0"), "goes beyond the end"),
    "a size that is no number": (
        (body(inputs=[image_input(b"x", parameters={"binary_data_size": "5"})]), None),
        "binary_data_size must be a whole number",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_that_does_not_follow_the_protocol_is_refused_in_one_sentence(name: str) -> None:
    (content, header), sentence = REFUSED[name]
    with pytest.raises(BadInferRequest) as refused:
        read(content, header)
    assert sentence in refused.value.message
    assert len(refused.value.message) < 300 and "\n" not in refused.value.message


def test_a_long_text_among_numbers_takes_no_memory_for_the_others() -> None:
    """numpy would make an array of texts, each as long as the longest."""
    content = body(inputs=[pixel_input(PIXELS, data=[*[1] * 47, "x" * 500_000])])
    tracemalloc.start()
    try:
        with pytest.raises(BadInferRequest) as refused:
            read(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused.value.message == "Input 'pixels': `data` must hold whole numbers from 0 to 255."
    assert peak < 5_000_000


def test_inputs_of_different_lengths_are_refused() -> None:
    inputs = [pixel_input(np.zeros((1, 2, 2, 3)), "pixels_1"), pixel_input(np.zeros((2, 3, 3, 3)), "pixels_2")]
    with pytest.raises(BadInferRequest, match="whole numbers"):
        read(body(inputs=inputs), model=TWO)
    inputs = [pixel_input(np.zeros((n, s, s, 3), int), f"pixels_{s - 1}") for n, s in ((1, 2), (2, 3))]
    with pytest.raises(BadInferRequest, match="the same number of images"):
        read(body(inputs=inputs), model=TWO)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = dict.fromkeys(("name", "datatype", "shape", "data", "parameters"), JSON)
NAMED = KEYS | {"name": st.sampled_from(["image", "pixels"]), "datatype": st.sampled_from(["BYTES", "UINT8"])}
SHAPED = NAMED | {"shape": st.lists(st.integers(-1, 5), max_size=4)}
INPUT = st.fixed_dictionaries({}, optional=KEYS) | st.fixed_dictionaries(NAMED) | st.fixed_dictionaries(SHAPED)


@given(
    asked=st.fixed_dictionaries({"inputs": st.lists(INPUT, max_size=2) | JSON}, optional={"outputs": JSON, "id": JSON}),
    behind=st.binary(max_size=16),
    header=st.none() | st.integers(-1, 400).map(str) | st.text(max_size=5),
)
def test_nothing_that_is_sent_raises_anything_else(asked: Any, behind: bytes, header: str | None) -> None:
    try:
        read(json.dumps(asked).encode() + behind, header)
    except BadInferRequest as error:
        assert error.message
