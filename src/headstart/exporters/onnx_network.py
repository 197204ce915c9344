"""A classifier as one ONNX model: uint8 pixels in, logits and calibrated probabilities out.

    pixels          uint8 (N, S, S, 3), RGB; pixels_1, pixels_2, ... if members differ in their input specs
    logits          float32 (N, K), after temperature
    probabilities   float32 (N, K)

The graph contains the scaling of pixels, all members with their pooling, flip averaging and last layers, the temperature and
the softmax. There is no external data, and N is free. Converting takes about 10 s for a MobileNetV2 on two cores, nearly all
of it in torch; `finished` takes milliseconds, so the temperature can be fitted after the conversion.

torch's converter has given wrong numbers without a warning (pytorch #166797, #168224, #169178). So do not use a model
made here until `exporters.parity` has compared it with torch on real images.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import ExportError
from headstart.exporters.pixel_graph import IR_VERSION
from headstart.images.preprocess import Preprocess
from headstart.io.extras import require
from headstart.model.heads.kernel_layer import KernelLayer, LastLayer
from headstart.model.inference.classifier import Classifier

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

OPSET = 18
"""The opset of torch's converter, so that no version conversion is needed; onnxruntime >= 1.14 reads it."""
LOGITS, PROBABILITIES = "logits", "probabilities"
_UNSCALED = "logits_at_temperature_1"
_IMAGE_METADATA = {
    "Image.BitmapPixelFormat": "Rgb8",
    "Image.ColorSpaceGamma": "SRGB",
    "Image.NominalPixelRange": "NominalRange_0_255",
}
"""See https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md."""


def network_inputs(classifier: Classifier) -> dict[str, Preprocess]:
    """Return the inputs of the model, in order, as {name: input spec}.

    Members that see the same pixels (`Preprocess.geometry`) share an input.
    """
    specs: dict[object, Preprocess] = {}
    for member in classifier.members:
        specs.setdefault(member.extractor.spec.geometry(), member.extractor.spec)
    if len(specs) == 1:
        return {"pixels": next(iter(specs.values()))}
    return {f"pixels_{number}": spec for number, spec in enumerate(specs.values(), 1)}


def converted(classifier: Classifier) -> ModelProto:
    """Convert the network of a classifier, up to the sum of its last layers. `finished` adds the rest.

    Raises `MissingExtra`, `BackboneError`, and `ExportError` for a network that torch cannot convert.
    """
    require("An export", "onnx", "onnxscript")
    import torch

    inputs = network_inputs(classifier)
    module = _module(classifier, list(inputs.values()))
    pixels = [torch.zeros((2, s.image_size, s.image_size, 3), dtype=torch.uint8) for s in inputs.values()]
    free = {0: torch.export.Dim("N")}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(pixels),
                input_names=list(inputs),
                output_names=[_UNSCALED],
                dynamic_shapes=(tuple(free for _ in pixels),),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
        raise ExportError(
            f"{classifier.summary()}: torch {torch.__version__} cannot convert it to ONNX: {_first_line(error)}",
            hint="Update torch and onnxscript, or train on another backbone.",
        ) from error
    if program is None:
        raise ExportError(f"{classifier.summary()}: torch {torch.__version__} produced no ONNX model.")
    return _without_traces(program.model_proto)


def finished(network: ModelProto, temperature: float, metadata: Mapping[str, str] | None = None) -> ModelProto:
    """Return a copy of `converted`'s model with the temperature and the softmax at its end, and with `metadata`.

    The copy names its producer, and describes its inputs and outputs in words.
    """
    from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

    from headstart import __version__

    model = ModelProto()
    model.CopyFrom(network)
    (unscaled,) = model.graph.output
    classes = unscaled.type.tensor_type.shape.dim[1].dim_value
    model.graph.initializer.append(numpy_helper.from_array(np.float32(temperature), "temperature"))
    model.graph.node.extend(
        [
            helper.make_node("Div", [_UNSCALED, "temperature"], [LOGITS], name="calibrate"),
            helper.make_node("Softmax", [LOGITS], [PROBABILITIES], axis=1, name="softmax"),
        ]
    )
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", classes]) for name in (LOGITS, PROBABILITIES)
    )
    model.graph.name, model.ir_version = "headstart", IR_VERSION
    model.producer_name, model.producer_version = "headstart", __version__
    model.doc_string = _in_words(model.graph.input)
    helper.set_model_props(model, {**_IMAGE_METADATA, **(metadata or {})})
    checker.check_model(model)
    return model


def class_metadata(classes: Sequence[str]) -> dict[str, str]:
    """Return the names of the classes as common readers of ONNX files expect them: a Python dict as text.

    >>> class_metadata(["cat", "dog"])
    {'names': "{0: 'cat', 1: 'dog'}"}
    """
    return {"names": repr(dict(enumerate(classes)))}


def _module(classifier: Classifier, specs: Sequence[Preprocess]) -> Any:
    """Return the classifier as a torch module: pixels of each of `specs` in, the sum of the last layers out."""
    import torch

    places = [[s.geometry() for s in specs].index(m.extractor.spec.geometry()) for m in classifier.members]

    class SummedMembers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = torch.nn.ModuleList(_member(m.extractor) for m in classifier.members)
            self.layers = torch.nn.ModuleList(_last(m.layer) for m in classifier.members)

        def forward(self, *pixels: torch.Tensor) -> torch.Tensor:
            each = [
                layer(member(pixels[at])) for layer, member, at in zip(self.layers, self.members, places, strict=True)
            ]
            return sum(each[1:], start=each[0])

    return _out_of_place(SummedMembers().eval().requires_grad_(False))


def _out_of_place(module: Any) -> Any:
    """Make activations write to new tensors: torch's converter spends half of its time on decomposing in-place ones."""
    for each in module.modules():
        if getattr(each, "inplace", False):
            each.inplace = False
    return module


def _member(extractor: Any) -> Any:
    """Return a torch module from uint8 pixels to exactly those features that the extractor uses."""
    from headstart.model.inference.engines.torch_module import from_pixels, without_classifier

    staged, *_ = without_classifier(extractor.backbone, extractor.spec)
    return from_pixels(staged if extractor.pooling == "stages" else staged.network, extractor.spec)


def _last(layer: LastLayer) -> Any:
    """Return the last layer as a torch module."""
    import torch

    from headstart.model.backbones.networks import KernelLinear

    arrays = dict(layer.arrays)
    arrays["weight"] = arrays["weight"].T
    sizes = layer.n_features, len(arrays["bias"])
    module: torch.nn.Module = torch.nn.Linear(*sizes)
    if isinstance(layer, KernelLayer):
        module = KernelLinear(*sizes, *layer.centres_RC.shape)
    module.load_state_dict({name: torch.tensor(np.ascontiguousarray(array)) for name, array in arrays.items()})
    return module


def _without_traces(model: ModelProto) -> ModelProto:
    """Remove torch's debugging notes: they contain paths of this machine, and are larger than the graph."""
    if model.functions:
        raise ExportError("torch left functions in the ONNX model; expected a flat graph.", hint="Update onnxscript.")
    del model.metadata_props[:]
    for each in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del each.metadata_props[:]
        each.doc_string = ""
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    return model


def _in_words(inputs: Sequence[ValueInfoProto]) -> str:
    names = ", ".join(each.name for each in inputs)
    return (
        f"Image classifier. {names}: RGB, uint8 0 to 255, (N, height, width, 3), resized as preprocess.json says. "
        "Scaling to the network's own range happens inside: do not normalise. "
        "logits: after temperature. probabilities: their softmax, calibrated."
    )


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
