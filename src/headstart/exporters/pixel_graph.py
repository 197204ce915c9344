"""The portable pixel contract as an ONNX graph: a uint8 image of any size in, the network's pixels out.

    pixel_model(contract)                   image (H, W, 3) -> pixels (1, S, S, 3), uint8
    with_pixels(contracts, network)         the same in front of a network: image -> logits, probabilities, pixels

With an ONNX ``Resize``, the result would depend on the runtime: several have no antialiasing, or a different cubic, and none
accepts a fractional box. So the graph computes the weights of `pixel_contract` itself, from the image's height and width,
and resizes by two matrix products with rounding to whole numbers in between: all that a runtime can get wrong is the rounding
of a tie. Each product is split into blocks of output pixels, which read only their part of the image.

About 2.2 ms of one core for 500 x 375 pixels, twice as long as Pillow, and 12 bytes of memory per pixel. Weights are
computed in float64; OpenVINO turns that into float32, and on some CPUs runs everything in bfloat16 unless float32 is requested
(`INFERENCE_PRECISION_HINT`). Request it: in bfloat16, pixels are off by 3.5 levels on average.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.exporters.pixel_contract import FILTERS, PRECISION_BITS, PixelContract

if TYPE_CHECKING:
    import onnx

OPSET = 20
IR_VERSION = 9
"""The file format that onnxruntime 1.17 reads."""
BLOCK = 56
"""Output pixels per matrix product: fewer saves work on large images, more is faster on small ones."""
IMAGE, PIXELS = "image", "pixels"

_LOW_UNIT = np.float32(2.0**-11)


def pixel_model(contract: PixelContract, *, opset: int = OPSET) -> onnx.ModelProto:
    """Return the contract as a model: `image` uint8 (H, W, 3) of any size -> `pixels` uint8 (1, S, S, 3)."""
    from onnx import TensorProto, checker, helper

    graph = _OnnxGraph()
    graph.add("Identity", _square(graph, contract), output=PIXELS)
    side = contract.image_size
    made = helper.make_graph(
        graph.nodes,
        "pixels",
        [helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["height", "width", 3])],
        [helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, [1, side, side, 3])],
        graph.constants,
        doc_string=" ".join(contract.sentences()),
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], producer_name="headstart")
    model.ir_version = IR_VERSION
    checker.check_model(model, full_check=True)
    return model


def with_pixels(contracts: Mapping[str, PixelContract], network: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network with a contract in front of each of its pixel inputs, by the input's name.

    The inputs become one, `image` uint8 (H, W, 3). The outputs stay, and the pixels are added as the last outputs, so that
    anyone who gets different answers can see whether the pixels differ. Raises `ValueError` for another set of inputs.
    """
    from onnx import ModelProto, checker

    inputs = [each.name for each in network.graph.input]
    if sorted(inputs) != sorted(contracts):
        raise ValueError(f"The network's inputs are {inputs}, but there are contracts for {list(contracts)}.")
    opset = next(each.version for each in network.opset_import if each.domain in ("", "ai.onnx"))
    fronts = [_named(pixel_model(contracts[name], opset=opset), name).graph for name in inputs]
    joined = ModelProto()
    joined.CopyFrom(network)
    del joined.graph.input[:], joined.graph.node[:]
    joined.graph.input.append(fronts[0].input[0])
    for front in fronts:
        joined.graph.node.extend(front.node)
        joined.graph.initializer.extend(front.initializer)
        joined.graph.output.extend(front.output)
    joined.graph.node.extend(network.graph.node)
    joined.ir_version = min(network.ir_version, IR_VERSION)
    checker.check_model(joined, full_check=True)
    return joined


def _named(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return the model with its output called `name`, and unique names for everything inside it."""
    from onnx import compose

    model = compose.add_prefix(model, f"{name}/")
    names = {f"{name}/{IMAGE}": IMAGE, f"{name}/{PIXELS}": name}
    for node in model.graph.node:
        node.input[:] = [names.get(each, each) for each in node.input]
        node.output[:] = [names.get(each, each) for each in node.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    return model


class _OnnxGraph:
    """Nodes and constants under construction; names are numbered in order, so that equal contracts give equal bytes."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._known: dict[tuple[bytes, str, tuple[int, ...]], str] = {}

    def add(self, op: str, *inputs: Any, output: str = "", **attributes: Any) -> str:
        """Add a node; inputs are names, or numbers and arrays, which become constants. Return the output's name."""
        from onnx import helper

        output = output or f"{op.lower()}_{len(self.nodes)}"
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        self.nodes.append(helper.make_node(op, names, [output], name=output, **attributes))
        return output

    def add_several(self, op: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with several outputs; return their names."""
        from onnx import helper

        name = f"{op.lower()}_{len(self.nodes)}"
        outputs = [f"{name}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))
        return outputs

    def constant(self, value: Any) -> str:
        """Return the name of a constant: int64 for an int, float64 for a float, the dtype of an array."""
        from onnx import numpy_helper

        array = np.asarray(value)
        key = (array.tobytes(), str(array.dtype), array.shape)
        if key not in self._known:
            self._known[key] = f"constant_{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def cast(self, name: str, dtype: type[np.generic]) -> str:
        """Convert a tensor."""
        from onnx import helper

        return self.add("Cast", name, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def part(self, name: str, begin: Any, end: Any, axis: int) -> str:
        """Slice a tensor along one axis; `begin` and `end` have shape (1,)."""
        return self.add("Slice", name, begin, end, [axis])


@dataclass(frozen=True)
class _AxisTensors:
    """Names of tensors about one axis: its `length` (1,) int64, the box `begin`, and the `scale`, (1,) float64.

    `steps` (S,) float64 number the output pixels. `inside` bool (S,) says which are not margin, '' if all are.
    """

    length: str
    begin: str
    scale: str
    steps: str
    inside: str = ""


def _square(graph: _OnnxGraph, contract: PixelContract) -> str:
    """Add all nodes from `image` to the output, uint8 (1, S, S, 3)."""
    shape = graph.add("Shape", IMAGE)
    height, width = (graph.part(shape, [i], [i + 1], 0) for i in (0, 1))
    across, down = (_axis(graph, contract, length, (width, height)) for length in (width, height))
    side = contract.image_size
    if contract.interpolation == "nearest":
        rows = graph.add("Gather", IMAGE, _nearest(graph, down, side), axis=0)
        square = graph.add(
            "Transpose", graph.add("Gather", rows, _nearest(graph, across, side), axis=1), perm=[2, 0, 1]
        )
    else:
        square = _resized(graph, contract, across, down)
    if contract.resize == "pad":
        square = _with_margin(graph, contract, square, across, down)
    image = graph.add("Transpose", graph.cast(square, np.uint8), perm=[1, 2, 0])
    return graph.add("Unsqueeze", image, [0])


def _axis(graph: _OnnxGraph, contract: PixelContract, length: str, sizes: Sequence[str]) -> _AxisTensors:
    if contract.resize == "crop":
        return _cut_axis(graph, contract, length, graph.add("Min", *sizes))
    if contract.resize == "pad":
        return _padded_axis(graph, contract, length, graph.add("Max", *sizes))
    steps = graph.constant(np.arange(contract.image_size, dtype=np.float64))
    begin = graph.constant(np.zeros(1))
    scale = graph.add("Div", graph.cast(length, np.float64), float(contract.image_size))
    return _AxisTensors(length, begin, scale, steps)


def _cut_axis(graph: _OnnxGraph, contract: PixelContract, length: str, shorter: str) -> _AxisTensors:
    """As in `Preprocess.source_box`: whole numbers are int64; the box is rounded to float32, as Pillow does."""
    side, two = contract.image_size, 2
    resized = graph.add("Div", graph.add("Mul", length, math.floor(side / contract.crop_pct)), shorter)
    twice = graph.add("Sub", resized, side)
    start = graph.add("Div", twice, two)
    odd, start_odd = (graph.add("Mod", each, two) for each in (twice, start))
    start = graph.add("Add", start, graph.add("Mul", odd, start_odd))
    ends = [graph.add("Mul", each, length) for each in (start, graph.add("Add", start, side))]
    begin, end = (graph.add("Div", *(graph.cast(each, np.float64) for each in (at, resized))) for at in ends)
    end = graph.add("Min", end, graph.cast(length, np.float64))
    begin, end = (graph.cast(each, np.float32) for each in (begin, end))
    span = graph.cast(graph.add("Sub", end, begin), np.float64)
    steps = graph.constant(np.arange(side, dtype=np.float64))
    return _AxisTensors(length, graph.cast(begin, np.float64), graph.add("Div", span, float(side)), steps)


def _padded_axis(graph: _OnnxGraph, contract: PixelContract, length: str, longer: str) -> _AxisTensors:
    """Number the output pixels of the margin like the outermost pixels of the image; they are painted over later."""
    side = contract.image_size
    whole = graph.cast(length, np.float64)
    exact = graph.add("Mul", whole, graph.add("Div", float(side), graph.cast(longer, np.float64)))
    count = graph.add("Max", graph.add("Round", exact), 1.0)
    before = graph.add("Floor", graph.add("Div", graph.add("Sub", float(side), count), 2.0))
    steps = graph.add("Sub", np.arange(side, dtype=np.float64), before)
    last = graph.add("Sub", count, 1.0)
    clipped = graph.add("Max", graph.add("Min", steps, last), 0.0)
    inside = graph.add("Equal", steps, clipped)
    return _AxisTensors(length, graph.constant(np.zeros(1)), graph.add("Div", whole, count), clipped, inside)


def _nearest(graph: _OnnxGraph, axis: _AxisTensors, size: int) -> str:
    """Return the input pixel that each output pixel copies, int64 (S,); as in `pixel_contract.nearest_rows`."""
    first = graph.add("Add", axis.begin, graph.add("Mul", axis.scale, 0.5))
    others = graph.add("Expand", axis.scale, [size - 1])
    summed = graph.add("CumSum", graph.add("Concat", first, others, axis=0), 0)
    at = graph.add("Gather", summed, graph.cast(axis.steps, np.int64), axis=0)
    return graph.add("Min", graph.cast(graph.add("Floor", at), np.int64), graph.add("Sub", axis.length, 1))


def _resized(graph: _OnnxGraph, contract: PixelContract, across: _AxisTensors, down: _AxisTensors) -> str:
    """Return float32 (3, S, S), whole numbers from 0 to 255."""
    size = contract.image_size
    rows = _Weights.of(graph, contract, down, turned=False)
    columns = _Weights.of(graph, contract, across, turned=True)
    top, bottom = rows.seen(graph, (0, size))
    planes = graph.add("Transpose", graph.part(IMAGE, top, bottom, 0), perm=[2, 0, 1])
    planes = graph.cast(planes, np.float32)
    products = []
    for block in _blocks(size):
        first, past = columns.seen(graph, block)
        matrix = columns.matrix(graph, block, first, past)
        products.append(graph.add("MatMul", graph.part(planes, first, past, 2), matrix))
    planes = _whole(graph, products, 2)
    products = []
    for block in _blocks(size):
        first, past = rows.seen(graph, block)
        part = graph.part(planes, graph.add("Sub", first, top), graph.add("Sub", past, top), 1)
        products.append(graph.add("MatMul", rows.matrix(graph, block, first, past), part))
    return _whole(graph, products, 1)


def _blocks(size: int) -> list[tuple[int, int]]:
    count = max(1, round(size / BLOCK))
    return [(size * i // count, size * (i + 1) // count) for i in range(count)]


def _whole(graph: _OnnxGraph, products: Sequence[str], axis: int) -> str:
    """Join the products, round (halves up), and clip.

    Exact: no intermediate number has more than 24 bits (for reductions beyond 16, that is no longer guaranteed).
    """
    halves = [graph.add_several("Split", 2, each, axis=axis, num_outputs=2) for each in products]
    high, low = (graph.add("Concat", *parts, axis=axis) for parts in zip(*halves, strict=True))
    carried = graph.add("Floor", graph.add("Mul", low, _LOW_UNIT))
    total = graph.add("Mul", graph.add("Add", high, carried), _LOW_UNIT)
    rounded = graph.add("Floor", graph.add("Add", total, np.float32(0.5)))
    return graph.add("Clip", rounded, np.float32(0), np.float32(255))


@dataclass(frozen=True)
class _Weights:
    """Names of tensors: the input pixels of the S output pixels, `first` to `past` int64 (S,), and their weights.

    A weight is high * 2**11 + low, both whole, in units of 2**-22: float32 adds up their products exactly. `weight`
    (float32) and the input pixels `at` (int64) have the shape (2, S, K): high and low of each of K taps; transposed to
    (K, 2, S) if `turned`.
    """

    first: str
    past: str
    at: str
    weight: str
    turned: bool

    @classmethod
    def of(cls, graph: _OnnxGraph, contract: PixelContract, axis: _AxisTensors, *, turned: bool) -> _Weights:
        """As in `pixel_contract.filter_weights`; pixels beyond the edge become the last one, with a weight of 0."""
        widened = graph.add("Max", axis.scale, 1.0)
        reach = graph.add("Mul", widened, FILTERS[contract.interpolation].support)
        centre = graph.add("Add", axis.begin, graph.add("Mul", graph.add("Add", axis.steps, 0.5), axis.scale))
        first = graph.add("Floor", graph.add("Add", graph.add("Sub", centre, reach), 0.5))
        first = graph.cast(graph.add("Max", first, 0.0), np.int64)
        taps = graph.add("Add", graph.add("Mul", graph.cast(graph.add("Ceil", reach), np.int64), 2), 1)
        past = graph.add("Min", graph.add("Add", first, taps), axis.length)
        counted = graph.add("Range", 0, graph.add("Squeeze", taps), 1)
        at = graph.add("Add", graph.add("Unsqueeze", first, [1]), counted)
        distance = graph.add("Sub", graph.cast(at, np.float64), graph.add("Unsqueeze", centre, [1]))
        distance = graph.add("Div", graph.add("Add", distance, 0.5), widened)
        weight = _filter(graph, contract.interpolation, distance)
        weight = graph.add("Where", graph.add("Less", at, axis.length), weight, 0.0)
        weight = graph.add("Div", weight, graph.add("ReduceSum", weight, [1], keepdims=1))
        at = graph.add("Min", at, graph.add("Sub", axis.length, 1))
        parts = _high_and_low(graph, _rounded(graph, graph.add("Mul", weight, float(1 << PRECISION_BITS))))
        at, weight = (_stacked(graph, pair, turned=turned) for pair in ((at, at), parts))
        return cls(first, past, at, weight, turned)

    def seen(self, graph: _OnnxGraph, block: tuple[int, int]) -> tuple[str, str]:
        """Return the first input pixel of a block of output pixels, and the one after its last, (1,) each."""
        begin, end = block
        return graph.part(self.first, [begin], [begin + 1], 0), graph.part(self.past, [end - 1], [end], 0)

    def matrix(self, graph: _OnnxGraph, block: tuple[int, int], first: str, past: str) -> str:
        """Return the weights of a block of output pixels for the input pixels that it reads, float32.

        Rows are outputs (those of high, then those of low), columns inputs; transposed if `turned`.
        """
        begin, end = block
        count, axis = 2 * (end - begin), 2 if self.turned else 1
        flat = [-1, count] if self.turned else [count, -1]
        at, weight = (graph.part(each, [begin], [end], axis) for each in (self.at, self.weight))
        at, weight = (graph.add("Reshape", each, flat) for each in (graph.add("Sub", at, first), weight))
        shape = [graph.add("Sub", past, first), graph.constant([count])]
        zeros = graph.add("Expand", np.float32(0), graph.add("Concat", *shape[:: 1 if self.turned else -1], axis=0))
        return graph.add("ScatterElements", zeros, at, weight, axis=0 if self.turned else 1, reduction="add")


def _high_and_low(graph: _OnnxGraph, units: str) -> tuple[str, str]:
    """Split whole numbers of up to 23 bits into two of up to 12 bits, float32."""
    high = graph.add("Floor", graph.add("Add", graph.add("Mul", units, float(_LOW_UNIT)), 0.5))
    low = graph.add("Sub", units, graph.add("Div", high, float(_LOW_UNIT)))
    return graph.cast(high, np.float32), graph.cast(low, np.float32)


def _stacked(graph: _OnnxGraph, pair: tuple[str, str], *, turned: bool) -> str:
    """Stack two tensors of shape (S, K) into one of shape (2, S, K), or (K, 2, S) if `turned`."""
    one = graph.add("Concat", *(graph.add("Unsqueeze", each, [0]) for each in pair), axis=0)
    return graph.add("Transpose", one, perm=[2, 0, 1]) if turned else one


def _rounded(graph: _OnnxGraph, values: str) -> str:
    """Round to whole numbers, halves away from zero."""
    size = graph.add("Floor", graph.add("Add", graph.add("Abs", values), 0.5))
    return graph.add("Mul", graph.add("Sign", values), size)


def _filter(graph: _OnnxGraph, name: str, x: str) -> str:
    """Return a filter's weights at the distances `x`; see `pixel_contract.FILTERS`."""
    if name == "lanczos":
        wide = graph.add("Mul", _sinc(graph, x), _sinc(graph, graph.add("Div", x, 3.0)))
        return graph.add("Where", graph.add("Less", graph.add("Abs", x), 3.0), wide, 0.0)
    x = graph.add("Abs", x)
    if name == "bilinear":
        return graph.add("Max", graph.add("Sub", 1.0, x), 0.0)
    near = _polynomial(graph, x, (1.5, -2.5, 0.0, 1.0))
    far = _polynomial(graph, x, (-0.5, 2.5, -4.0, 2.0))
    tail = graph.add("Where", graph.add("Less", x, 2.0), far, 0.0)
    return graph.add("Where", graph.add("Less", x, 1.0), near, tail)


def _polynomial(graph: _OnnxGraph, x: str, factors: Sequence[float]) -> str:
    value: Any = factors[0]
    for factor in factors[1:]:
        value = graph.add("Mul", value, x)
        value = graph.add("Add", value, factor) if factor else value
    return str(value)


def _sinc(graph: _OnnxGraph, x: str) -> str:
    zero = graph.add("Equal", x, 0.0)
    angle = graph.add("Where", zero, 1.0, graph.add("Mul", x, math.pi))
    return graph.add("Where", zero, 1.0, graph.add("Div", graph.add("Sin", angle), angle))


def _with_margin(
    graph: _OnnxGraph, contract: PixelContract, square: str, across: _AxisTensors, down: _AxisTensors
) -> str:
    rows = graph.add("Unsqueeze", down.inside, [1])
    inside = graph.add("And", rows, across.inside)
    colour = np.array(contract.margin, np.float32).reshape(3, 1, 1)
    return graph.add("Where", inside, graph.cast(square, np.float32), colour)
