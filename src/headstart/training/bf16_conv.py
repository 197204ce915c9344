"""Cheaper ways to compute the same convolutions when training on a CPU in bfloat16.

torch is slow there at two kinds of convolution (measured with torch 2.x, one core with AVX512-BF16, 32 images):

- 1 x 1 convolutions (two thirds of a MobileNet's work) reach 50 GFLOP/s; as a matrix product over channels-last pixels
  they reach 100.
- a depthwise convolution with stride 2 takes 119 ms for the backward pass (512 channels, 11 x 11 px), because torch has
  no bfloat16 kernel for it; stride 1 followed by every other pixel takes 7 ms.

Results are equal up to rounding (tests compare them); parameters and their names do not change. Subclasses that compute
something else, such as timm's weight-standardised convolutions, stay as they are. Do not use it for float32, where torch's
own kernels are faster, or on GPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def lighten(module: nn.Module) -> int:
    """Replace the forward pass of convolutions in `module` that are slow in bfloat16; return how many were replaced."""
    from timm.layers import Conv2dSame

    found = 0
    for layer in module.modules():
        if (
            type(layer) not in (nn.Conv2d, Conv2dSame)
            or layer.padding_mode != "zeros"
            or isinstance(layer.padding, str)
        ):
            continue
        if layer.kernel_size == (1, 1) and layer.groups == 1 and layer.stride == (1, 1) and not any(layer.padding):
            layer.forward = _as_product(layer)
        elif layer.groups == layer.in_channels == layer.out_channels > 1 and layer.stride == (2, 2):
            layer.forward = _thinned(layer)
        else:
            continue
        found += 1
    return found


def _as_product(layer: nn.Conv2d) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x_NCHW: torch.Tensor) -> torch.Tensor:
        y_NHWC = F.linear(x_NCHW.permute(0, 2, 3, 1), layer.weight.flatten(1), layer.bias)
        return y_NHWC.permute(0, 3, 1, 2)

    return forward


def _thinned(layer: nn.Conv2d) -> Callable[[torch.Tensor], torch.Tensor]:
    from timm.layers import Conv2dSame, pad_same

    same = isinstance(layer, Conv2dSame)  # pads like TensorFlow, depending on the input size
    left, top = (0, 0) if same else (int(layer.padding[1]), int(layer.padding[0]))

    def forward(x_NCHW: torch.Tensor) -> torch.Tensor:
        if same:
            x_NCHW = pad_same(x_NCHW, list(layer.kernel_size), list(layer.stride), list(layer.dilation))
        else:
            x_NCHW = F.pad(x_NCHW, (left, left, top, top))
        y_NCHW: torch.Tensor = _EveryOther.apply(x_NCHW, layer.weight, list(layer.dilation))
        return y_NCHW if layer.bias is None else y_NCHW + layer.bias.to(y_NCHW.dtype).view(-1, 1, 1)

    return forward


class _EveryOther(torch.autograd.Function):
    """A depthwise convolution with stride 2 on padded images; its gradient is that of stride 1 at every other pixel.

    The gradient is channels-last, like everything else: slicing `[:, :, ::2, ::2]` out of a convolution with stride 1
    gives one that is not, and the backward pass of the layer before then takes up to 20 times as long (80 ms for the
    ReLU6 of 32 MB).
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx: Any, x_NCHW: torch.Tensor, weight: torch.Tensor, dilation: list[int]) -> torch.Tensor:
        ctx.save_for_backward(x_NCHW, weight)
        ctx.dilation = dilation
        return F.conv2d(x_NCHW, weight, None, 2, 0, dilation, len(weight))

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, *grads_NChw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x_NCHW, weight = ctx.saved_tensors
        (grad_NChw,) = grads_NChw
        high, wide = (x_NCHW.shape[i] - ctx.dilation[i - 2] * (weight.shape[i] - 1) for i in (2, 3))  # with stride 1
        n, channels = grad_NChw.shape[:2]
        every = torch.zeros((n, high, wide, channels), dtype=grad_NChw.dtype, device=grad_NChw.device).permute(
            0, 3, 1, 2
        )
        every[:, :, ::2, ::2] = grad_NChw
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            every, x_NCHW, weight, None, [1, 1], [0, 0], ctx.dilation, False, [0, 0], len(weight), [True, True, False]
        )
        return grad_x, grad_weight, None
