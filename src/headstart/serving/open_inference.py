"""The Open Inference Protocol (KServe v2) over HTTP: its requests become images or pixels, and answers become its responses.

    request = infer_request(body, header_length, model, most=64)     BadInferRequest -> status 400
    request.images                                                   bytes of files, or None
    request.pixels                                                   {input: uint8 (N, S, S, 3)}, or None
    content, header_length = infer_response(request, logits_NK, probabilities_NK, labels, model)

A request has either `image` (BYTES, N files) or the network's own inputs (UINT8, N x S x S x 3 each). Tensors are in the
JSON, or follow it as raw bytes: then `Inference-Header-Content-Length` gives the length of the JSON, and each input its
`binary_data_size`. JSON cannot hold bytes, and the protocol leaves open what to do (its issue 12); here, files in JSON are in
base64.

None of the protocol's other extensions is offered: no shared memory, no loading of models, no classification strings.
Pure functions: nothing is decoded, opened or fetched. Parsing 8 MB of base64 takes 20 ms, 1 MB of pixels as JSON numbers
30 ms; as raw bytes, neither takes any time.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NoReturn

import numpy as np

import headstart
from headstart.errors import HeadstartError

IMAGE = "image"
OUTPUTS = ("logits", "probabilities", "label")
MOST_VALUES = 2_000_000
"""Values in the JSON of a request, as `json_values` counts them: nine images of 224 px as nested lists, thirteen as one list.
A body full of small values takes 25 times its size in memory."""
HEADER_LENGTH = "inference-header-content-length"
"""The header that says how many bytes of a body are JSON; raw tensors follow."""


class BadInferRequest(HeadstartError):
    """A request that does not follow the protocol, or asks for what is not supported."""


@dataclass(frozen=True)
class TensorModel:
    """What the protocol says about a classifier: `pixels` has the side of each input of the network in pixels, by name."""

    name: str
    version: str
    classes: tuple[str, ...]
    pixels: Mapping[str, int]

    def metadata(self) -> dict[str, Any]:
        """Return the answer to GET /v2/models/NAME."""
        inputs = [_tensor(IMAGE, "BYTES", [-1])]
        inputs += [_tensor(name, "UINT8", [-1, side, side, 3]) for name, side in self.pixels.items()]
        shapes = {"label": ("BYTES", [-1])}
        outputs = [_tensor(name, *shapes.get(name, ("FP32", [-1, len(self.classes)]))) for name in OUTPUTS]
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": "headstart",
            "inputs": inputs,
            "outputs": outputs,
            "parameters": {"classes": list(self.classes)},
        }

    def is_here(self, name: str, version: str | None = None) -> bool:
        """Return whether a path names this model, by its name or its id."""
        return name in (self.name, self.version) and version in (None, self.version)


def server_metadata() -> dict[str, Any]:
    """Return the answer to GET /v2."""
    return {"name": "headstart", "version": headstart.__version__, "extensions": ["binary_tensor_data"]}


@dataclass(frozen=True, eq=False)
class InferRequest:
    """What is asked for: `images` or `pixels` (the other is None). `outputs`: {name: whether as raw bytes}."""

    outputs: Mapping[str, bool]
    images: tuple[bytes, ...] | None = None
    pixels: Mapping[str, np.ndarray] | None = None
    id: str = ""

    def __len__(self) -> int:
        """Return the number of images."""
        arrays = self.pixels or {}
        return max(map(len, arrays.values())) if self.images is None else len(self.images)


# Requests


def json_values(text: bytes | bytearray) -> int:
    """Return an upper bound of the values in a JSON text, without parsing it: each follows a comma, or opens or is in a
    list or an object."""
    return sum(map(text.count, (b",", b"[", b"{"))) + 1


def infer_request(body: bytes | bytearray, header_length: str | None, model: TensorModel, *, most: int) -> InferRequest:
    """Read the body of an inference request of at most `most` images.

    `header_length` is the value of `Inference-Header-Content-Length`, None if there is no such header. Raises
    `BadInferRequest`.
    """
    head, raw = _split(body, header_length)
    asked = _parsed(head)
    inputs = {each.name: each for each in map(_Input.of, _objects(asked, "inputs", 1 + len(model.pixels)))}
    if len(inputs) != len(asked["inputs"]):
        _refuse("Two inputs have the same name.")
    _check_names(inputs, model)
    _share_raw(inputs, raw)
    wanted, number = _wanted(asked), _text(asked, "id", "")
    if IMAGE in inputs:
        return InferRequest(wanted, images=inputs[IMAGE].files(most), id=number)
    pixels = {name: inputs[name].pixels(side, most) for name, side in model.pixels.items()}
    if len({len(array) for array in pixels.values()}) != 1:
        _refuse(f"The inputs {_listed(pixels)} must have the same number of images.")
    return InferRequest(wanted, pixels=pixels, id=number)


def _split(body: bytes | bytearray, header_length: str | None) -> tuple[bytes | bytearray, memoryview]:
    """Return the JSON, and the raw tensors that follow it."""
    if header_length is None:
        return body, memoryview(b"")
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 12):
        _refuse(f"Inference-Header-Content-Length: expected a number of bytes, not {header_length[:40]!r}.")
    length = int(header_length)
    if length > len(body):
        _refuse(f"Inference-Header-Content-Length is {length:,}, but the body has {len(body):,} bytes.")
    return body[:length], memoryview(body)[length:]


def _parsed(head: bytes | bytearray) -> dict[str, Any]:
    if (values := json_values(head)) > MOST_VALUES:
        _refuse(
            f"The JSON has about {values:,} values; at most {MOST_VALUES:,} are read.",
            "Send tensors as raw bytes after the JSON, with Inference-Header-Content-Length.",
        )
    try:
        asked = json.loads(head)
    except (ValueError, RecursionError) as error:
        _refuse(f"The request is not JSON: {_first_line(error)}")
    if not isinstance(asked, dict):
        _refuse("The request must be a JSON object with `inputs`.")
    return asked


@dataclass
class _Input:
    """One tensor of a request; `raw` is its part of the bytes that follow the JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any
    raw_bytes: int | None
    raw: memoryview = field(default_factory=lambda: memoryview(b""))

    @classmethod
    def of(cls, given: dict[str, Any]) -> _Input:
        name, shape = _text(given, "name"), given.get("shape")
        if not isinstance(shape, list) or not all(_is_count(n) for n in shape):
            _refuse(f"Input {name[:40]!r}: `shape` must be a list of whole numbers.")
        parameters = _parameters(given, f"Input {name[:40]!r}")
        raw_bytes = parameters.get("binary_data_size")
        if raw_bytes is not None and not _is_count(raw_bytes):
            _refuse(f"Input {name[:40]!r}: binary_data_size must be a whole number.")
        if parameters.get("content_type", "base64") != "base64":
            _refuse(f"Input {name[:40]!r}: content_type must be 'base64'; raw files can follow the JSON.")
        return cls(name, _text(given, "datatype"), tuple(shape), given.get("data"), raw_bytes)

    def files(self, most: int) -> tuple[bytes, ...]:
        """Return the elements of the input `image`. They are counted before any is decoded."""
        count = self._count("BYTES", 1, most)
        found = _elements(self.raw, count) if self.raw_bytes is not None else self._listed()
        if len(found) != count:
            _refuse(f"Input 'image': `shape` says {count:,}, but there are {len(found):,} elements.")
        return tuple(found if self.raw_bytes is not None else map(_decoded, found))

    def pixels(self, side: int, most: int) -> np.ndarray:
        """Return uint8 (N, side, side, 3)."""
        count = self._count("UINT8", 4, most)
        if self.shape[1:] != (side, side, 3):
            _refuse(f"Input {self.name!r}: expected the shape [N, {side}, {side}, 3], not {list(self.shape)}.")
        flat = self.raw if self.raw_bytes is not None else self._flat()
        if len(flat) != count * side * side * 3:
            _refuse(
                f"Input {self.name!r}: `shape` asks for {count * side * side * 3:,} values; there are {len(flat):,}."
            )
        array = np.frombuffer(flat, np.uint8) if isinstance(flat, memoryview) else self._numbers(flat)
        return array.reshape(self.shape)

    def _count(self, datatype: str, dimensions: int, most: int) -> int:
        if self.datatype != datatype or len(self.shape) != dimensions:
            what = f"{datatype} of {dimensions} dimension{'s' if dimensions > 1 else ''}"
            _refuse(f"Input {self.name!r} must be {what}, not {self.datatype[:20]} of {len(self.shape)}.")
        if not 1 <= self.shape[0] <= most:
            _refuse(f"Input {self.name!r}: {self.shape[0]:,} images; expected 1 to {most:,} per request.")
        return self.shape[0]

    def _listed(self) -> list[Any]:
        if not isinstance(self.data, list):
            _refuse(f"Input {self.name!r}: expected `data`, a list, or the parameter binary_data_size.")
        return self.data

    def _flat(self) -> list[Any]:
        """Return the values of `data`, which may be nested lists."""
        values = self._listed()
        while values and isinstance(values[0], list):
            if set(map(type, values)) != {list} or len(set(map(len, values))) > 1:
                _refuse(f"Input {self.name!r}: `data` is not a tensor: its lists differ in depth or length.")
            values = list(chain.from_iterable(values))
        return values

    def _numbers(self, values: list[Any]) -> np.ndarray:
        """Return values as uint8. numpy gets nothing but integers: one long text would make every element as long."""
        wrong = f"Input {self.name!r}: `data` must hold whole numbers from 0 to 255."
        if set(map(type, values)) != {int}:
            _refuse(wrong)
        try:
            numbers = np.array(values, np.int64)
        except OverflowError:
            _refuse(wrong)
        if not 0 <= numbers.min() <= numbers.max() <= 255:
            _refuse(wrong)
        return numbers.astype(np.uint8)


def _check_names(inputs: Mapping[str, _Input], model: TensorModel) -> None:
    if set(inputs) not in ({IMAGE}, set(model.pixels)):
        _refuse(
            f"The inputs are {_listed(inputs)}; expected 'image' (files), or {_listed(model.pixels)} (pixels).",
            f"GET /v2/models/{model.name} describes them.",
        )


def _share_raw(inputs: Mapping[str, _Input], raw: memoryview) -> None:
    """Give each input its part of the bytes that follow the JSON, in order."""
    sizes = [each.raw_bytes or 0 for each in inputs.values()]
    if sum(sizes) != len(raw):
        _refuse(
            f"The inputs' binary_data_size add up to {sum(sizes):,} bytes, but {len(raw):,} follow the JSON.",
            "The header Inference-Header-Content-Length gives the length of the JSON.",
        )
    at = 0
    for each, size in zip(inputs.values(), sizes, strict=True):
        each.raw, at = raw[at : at + size], at + size


def _elements(raw: memoryview, most: int) -> list[bytes]:
    """Return at most `most` elements of a BYTES tensor: each is preceded by its length in 4 bytes, little-endian."""
    found: list[bytes] = []
    at = 0
    while at < len(raw):
        if len(found) == most:
            _refuse(f"Input 'image': `shape` says {most:,}, but there are more elements.")
        length = struct.unpack_from("<I", raw, at)[0] if at + 4 <= len(raw) else len(raw)
        if at + 4 + length > len(raw):
            _refuse("Input 'image': the length of an element goes beyond the end of the tensor.")
        found.append(bytes(raw[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


def _decoded(element: Any) -> bytes:
    if not isinstance(element, str):
        _refuse("Input 'image': the elements of `data` must be strings, files in base64.")
    try:
        return base64.b64decode(element, validate=True)
    except (binascii.Error, ValueError) as error:
        _refuse(f"Input 'image': an element of `data` is not base64: {_first_line(error)}")


def _wanted(asked: dict[str, Any]) -> dict[str, bool]:
    """Return the outputs to send by name, and whether each is wanted as raw bytes."""
    binary = bool(_parameters(asked, "The request").get("binary_data_output", False))
    if not asked.get("outputs"):
        return dict.fromkeys(OUTPUTS, binary)
    wanted = {}
    for each in _objects(asked, "outputs", len(OUTPUTS)):
        name = _text(each, "name")
        if name not in OUTPUTS:
            _refuse(f"There is no output {name[:40]!r}; expected {_listed(OUTPUTS)}.")
        wanted[name] = bool(_parameters(each, f"Output {name!r}").get("binary_data", binary))
    return wanted


def _parameters(given: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the parameters of a part of the request. Raises `BadInferRequest` for extensions that are not offered."""
    parameters = given.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        _refuse(f"{where}: `parameters` must be an object.")
    for name in ("shared_memory_region", "classification"):
        if name in parameters:
            _refuse(f"{where}: the extension {name!r} is not supported.")
    return parameters


def _objects(given: dict[str, Any], key: str, most: int) -> list[dict[str, Any]]:
    """Return a list of at most `most` objects. Raises `BadInferRequest`."""
    values = given.get(key)
    if not isinstance(values, list) or not values or not all(isinstance(each, dict) for each in values):
        _refuse(f"`{key}` must be a list of objects, one per tensor.")
    if len(values) > most:
        _refuse(f"`{key}` has {len(values):,} tensors; expected at most {most}.")
    return values


def _text(given: dict[str, Any], key: str, default: str | None = None) -> str:
    value = given.get(key, default)
    if not isinstance(value, str):
        _refuse(f"`{key}` must be a string.")
    return value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name[:40]) for name in list(names)[:8])


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _refuse(message: str, hint: str = "") -> NoReturn:
    raise BadInferRequest(message, hint=hint)


# Responses


def infer_response(
    request: InferRequest,
    logits_NK: np.ndarray,
    probabilities_NK: np.ndarray,
    labels: Sequence[str],
    model: TensorModel,
) -> tuple[bytes, int | None]:
    """Return the body of the answer, and the length of its JSON if raw tensors follow it (otherwise None)."""
    tensors: dict[str, Any] = {"logits": logits_NK, "probabilities": probabilities_NK, "label": labels}
    outputs, raw = [], []
    for name, binary in request.outputs.items():
        described, behind = _output(name, tensors[name], binary)
        outputs.append(described)
        raw.append(behind)
    answer = {"model_name": model.name, "model_version": model.version, "outputs": outputs}
    head = json.dumps(answer | ({"id": request.id} if request.id else {})).encode()
    return b"".join([head, *raw]), len(head) if any(request.outputs.values()) else None


def _output(name: str, values: Any, binary: bool) -> tuple[dict[str, Any], bytes]:
    """Return a tensor's description (with its values, unless they follow the JSON), and the bytes that follow the JSON."""
    data: list[Any]
    if name == "label":
        described, data = _tensor(name, "BYTES", [len(values)]), list(values)
        texts = [label.encode("utf-8", "backslashreplace") for label in values]
        raw = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    else:
        array = np.asarray(values, "<f4")
        described, data, raw = _tensor(name, "FP32", list(array.shape)), array.reshape(-1).tolist(), array.tobytes()
    if binary:
        return described | {"parameters": {"binary_data_size": len(raw)}}, raw
    return described | {"data": data}, b""


def _tensor(name: str, datatype: str, shape: Sequence[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}
