"""The same convolutions, computed in a cheaper way while training on a processor in bfloat16.

Two shapes of convolution are slow in torch there (measured with torch 2.x, one core with AVX512-BF16, 32 pictures):

- 1 x 1 convolutions (two thirds of a MobileNet's work) reach 50 GFLOP/s; the same as a matrix product over
  channels-last pixels reaches 100.
- a depthwise convolution with stride 2 takes 119 ms backwards (512 channels, 11 x 11 px), because there is no bfloat16
  kernel for it; with stride 1, and then every other pixel, 7 ms.

The numbers are the same up to rounding (tests compare them); parameters and their names stay as they are. Not for float32,
where torch's own kernels are the faster ones, and not for GPUs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


def lighten(module: nn.Module) -> int:
    """Let the convolutions of `module` that are slow in bfloat16 compute in the cheaper way; says how many there are."""
    found = 0
    for layer in module.modules():
        if not isinstance(layer, nn.Conv2d) or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            continue
        if layer.kernel_size == (1, 1) and layer.groups == 1 and layer.stride == (1, 1) and not any(layer.padding):
            layer.forward = _as_product(layer)
        elif layer.groups == layer.in_channels > 1 and layer.stride == (2, 2):
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

    same = isinstance(layer, Conv2dSame)  # pads as TensorFlow does, by the input's size

    def forward(x_NCHW: torch.Tensor) -> torch.Tensor:
        if same:
            x_NCHW = pad_same(x_NCHW, list(layer.kernel_size), list(layer.stride), list(layer.dilation))
        padding = 0 if same else layer.padding
        every = F.conv2d(x_NCHW, layer.weight, layer.bias, 1, padding, layer.dilation, layer.groups)
        return every[:, :, ::2, ::2]

    return forward
