"""The network that is trained: timm's `mobilenetv2_050`, its norms folded into its convolutions, computed the quick way.

In timm's own form a training step costs two and a half times as much on a processor: batch norms take a quarter of it, and a
gradient that is not laid out channels-last makes the ReLU6 before it twenty times as slow. So here: convolutions with a bias,
1 x 1 ones as matrix products over channels-last pixels, ReLU6 in place on them, bfloat16. One core: 240 images a
second forwards and backwards at 128 px.

Weights are kept as size x direction, the size of each output channel fixed, so that one learning rate suits all layers.
`load` and `exported` translate from and to timm's names; an exported network computes the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

ARCHITECTURE = "mobilenetv2_050"
FEATURES = 1280
_STAGES = ((16, 2, 2), (16, 3, 2), (32, 4, 2), (48, 3, 1), (80, 3, 2), (160, 1, 1))
"""Channels, blocks and stride of timm's stages from 1 on."""
_EPS = 1e-5


@dataclass(frozen=True)
class Block:
    """An inverted residual: expand 1 x 1 to `hidden`, depthwise 3 x 3 with `stride`, project 1 x 1 to `channels`."""

    name: str
    inputs: int
    hidden: int
    channels: int
    stride: int
    residual: bool


def blocks() -> list[Block]:
    """The inverted residuals, in order."""
    made, inputs = [], 8
    for stage, (channels, count, stride) in enumerate(_STAGES, 1):
        for j in range(count):
            made.append(Block(f"blocks.{stage}.{j}", inputs, 6 * inputs, channels, stride if j == 0 else 1, j > 0))
            inputs = channels
    return made


def layers() -> dict[str, tuple[tuple[int, ...], str]]:
    """{timm's name of a convolution: (shape of its weights, name of the norm behind it)}."""
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "conv_stem": ((16, 3, 3, 3), "bn1"),
        "blocks.0.0.conv_dw": ((16, 1, 3, 3), "blocks.0.0.bn1"),
        "blocks.0.0.conv_pw": ((8, 16, 1, 1), "blocks.0.0.bn2"),
    }
    for b in blocks():
        shapes[f"{b.name}.conv_pw"] = ((b.hidden, b.inputs, 1, 1), f"{b.name}.bn1")
        shapes[f"{b.name}.conv_dw"] = ((b.hidden, 1, 3, 3), f"{b.name}.bn2")
        shapes[f"{b.name}.conv_pwl"] = ((b.channels, b.hidden, 1, 1), f"{b.name}.bn3")
    return shapes | {"conv_head": ((FEATURES, 160, 1, 1), "bn2")}


class Student(nn.Module):
    """uint8 images (N, S, S, 3), S even -> float32 feature maps (N, S/32, S/32, 1280)."""

    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.dtype = dtype
        self.keys = {name: name.replace(".", "_") for name in layers()}
        shapes = {self.keys[name]: shape for name, (shape, _) in layers().items()}
        self.weights = nn.ParameterDict({key: nn.Parameter(torch.randn(shape)) for key, shape in shapes.items()})
        self.biases = nn.ParameterDict({key: nn.Parameter(torch.zeros(shape[0])) for key, shape in shapes.items()})
        for key, shape in shapes.items():  # as He et al. (2015) begin
            self.register_buffer(f"size_{key}", torch.full(shape[:1], (2 / torch.Size(shape[1:]).numel()) ** 0.5))

    def forward(self, images_NSS3: torch.Tensor) -> torch.Tensor:
        x = (images_NSS3.permute(0, 3, 1, 2).to(self.dtype) / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        weight, bias = self._kernel("conv_stem")
        x = _ReLU6.apply(F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, bias, 2))
        x = self._product(self._depthwise(x, "blocks.0.0.conv_dw", 1), "blocks.0.0.conv_pw")
        for b in blocks():
            y = self._product(x, f"{b.name}.conv_pw", cut=True)
            y = self._product(self._depthwise(y, f"{b.name}.conv_dw", b.stride), f"{b.name}.conv_pwl")
            x = x + y if b.residual else y
        return self._product(x, "conv_head", cut=True).permute(0, 2, 3, 1).float()

    def _kernel(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        key = self.keys[name]
        weight = self.weights[key]
        scaled = weight * getattr(self, f"size_{key}").view(-1, *[1] * (weight.dim() - 1))
        return scaled.to(self.dtype), self.biases[key].to(self.dtype)

    def _product(self, x_NCHW: torch.Tensor, name: str, *, cut: bool = False) -> torch.Tensor:
        weight, bias = self._kernel(name)
        y_NHWK = F.linear(x_NCHW.permute(0, 2, 3, 1), weight.flatten(1), bias)
        return (_ReLU6.apply(y_NHWK) if cut else y_NHWK).permute(0, 3, 1, 2)

    def _depthwise(self, x_NCHW: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        weight, bias = self._kernel(name)
        if stride == 2:
            return _ReLU6.apply(_Halving.apply(x_NCHW, weight, bias))
        return _ReLU6.apply(F.conv2d(x_NCHW, weight, bias, 1, 1, 1, len(weight)))

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take up weights in timm's form, norms folded."""
        for name, (shape, norm) in layers().items():
            key = self.keys[name]
            gain = tensors[f"{norm}.weight"] / torch.sqrt(tensors[f"{norm}.running_var"] + _EPS)
            weight = tensors[f"{name}.weight"].float().reshape(shape) * gain.view(-1, 1, 1, 1)
            size = weight.flatten(1).square().mean(1).sqrt().clamp_min(1e-4)
            getattr(self, f"size_{key}").copy_(size)
            with torch.no_grad():
                self.weights[key].copy_(weight / size.view(-1, 1, 1, 1))
                self.biases[key].copy_(tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * gain)


def exported(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A student's state in timm's form: float32 weights, and norms that only add the bias."""
    tensors: dict[str, torch.Tensor] = {}
    for name, (_, norm) in layers().items():
        key = name.replace(".", "_")
        weight, bias = state[f"weights.{key}"], state[f"biases.{key}"]
        tensors[f"{name}.weight"] = (weight * state[f"size_{key}"].view(-1, 1, 1, 1)).contiguous()
        tensors |= dict(norm_tensors(norm, bias))
    return tensors


def norm_tensors(name: str, bias: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """A norm that only adds a bias."""
    yield f"{name}.weight", torch.ones_like(bias)
    yield f"{name}.bias", bias.clone()
    yield f"{name}.running_mean", torch.zeros_like(bias)
    yield f"{name}.running_var", torch.full_like(bias, 1 - _EPS)
    yield f"{name}.num_batches_tracked", torch.zeros((), dtype=torch.int64)


class _ReLU6(torch.autograd.Function):
    """In place, and its gradient in the layout of its output."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        y = F.hardtanh_(x, 0.0, 6.0)
        ctx.mark_dirty(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (y,), (grad,) = ctx.saved_tensors, grads
        laid_out = grad if grad.stride() == y.stride() else torch.empty_like(y).copy_(grad)
        return torch.ops.aten.hardtanh_backward(laid_out, y, 0.0, 6.0)


class _Halving(torch.autograd.Function):
    """A depthwise 3 x 3 convolution with stride 2 of an even or odd side, padded as TensorFlow does.

    There is no bfloat16 kernel on processors for its gradient; that of stride 1 at every other pixel is the same.
    """

    @staticmethod
    def forward(ctx: Any, x_NCHW: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        n, channels, side, _ = x_NCHW.shape
        before = side % 2
        padded = x_NCHW.new_zeros((n, side + before + 1, side + before + 1, channels)).permute(0, 3, 1, 2)
        padded[:, :, before : before + side, before : before + side] = x_NCHW
        ctx.save_for_backward(padded, weight)
        ctx.place = slice(before, before + side)
        return F.conv2d(padded, weight, bias, 2, 0, 1, channels)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        (padded, weight), (grad,) = ctx.saved_tensors, grads
        n, channels, side, _ = padded.shape
        every = grad.new_zeros((n, side - 2, side - 2, channels)).permute(0, 3, 1, 2)
        every[:, :, ::2, ::2] = grad
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            every, padded, weight, [channels], [1, 1], [0, 0], [1, 1], False, [0, 0], channels, [True, True, True]
        )
        return grad_x[:, :, ctx.place, ctx.place], grad_weight, grad_bias
