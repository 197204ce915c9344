"""Mixup and CutMix: batches in which each image, and its label, is blended with another one.

    mixup    x = r x_i + (1 - r) x_j,  y = r y_i + (1 - r) y_j          Zhang et al. 2018 (arXiv 1710.09412), section 2
    cutmix   a rectangle of x_j is pasted into x_i, r = the fraction of the area left of x_i
                                                                        Yun et al. 2019 (arXiv 1905.04899), section 3.1

Each batch draws one r ~ Beta(alpha, alpha) and one permutation for j from (seed, epoch, step) alone, so a resumed
training draws the same ones. If both are on, each batch uses one of them with equal probability.

Mixup works on anything: pixels, activations, feature vectors; uint8 pixels become float32 from 0 to 255. CutMix needs
images or activation maps. 32 images of 160 px take 13 ms of one core (mixup) or 3 ms (cutmix). When not to use them:
for a few epochs of fine-tuning on few images, or if probabilities matter more than accuracy; training on blended labels
makes a network under-confident, which temperature scaling has to correct.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from headstart.errors import RecipeError
from headstart.training.batches import Batch

Box = tuple[int, int, int, int]
"""Top, left, bottom, right."""

_STREAM = 0x6D6978  # keeps these draws apart from the image order, drawn from (seed, epoch, round)


def mix(
    batch: Batch, n_classes: int, mixup_alpha: float, cutmix_alpha: float, seed: int, epoch: int, step: int
) -> Batch:
    """Mix the batch with a permutation of itself; targets become float32 (B, n_classes) with rows that sum to 1.

    An alpha of 0 turns a method off; with both off, the batch is returned unchanged. `indices` stay those of x_i. The
    input tensors are not modified. Raises `RecipeError` for cutmix on feature vectors.
    """
    if not (mixup_alpha or cutmix_alpha) or len(batch) == 0:
        return batch
    rng = np.random.default_rng((seed, epoch, step, _STREAM))
    cut = cutmix_alpha > 0 and (mixup_alpha == 0 or rng.random() < 0.5)
    alpha = cutmix_alpha if cut else mixup_alpha
    ratio = float(rng.beta(alpha, alpha))
    permutation = torch.from_numpy(rng.permutation(len(batch)))
    other = permutation.to(batch.inputs.device)
    targets_BK = soft(batch.targets, n_classes)
    others_BK = targets_BK[permutation.to(targets_BK.device)]
    if cut:
        height, width = _height_and_width(batch.inputs)
        box = random_box(height, width, ratio, rng)
        inputs, ratio = cutmix(batch.inputs, other, box)
    else:
        inputs = mixup(batch.inputs, other, ratio)
    return replace(batch, inputs=inputs, targets=ratio * targets_BK + (1 - ratio) * others_BK)


def mixup(inputs: torch.Tensor, other: torch.Tensor, ratio: float) -> torch.Tensor:
    """Return ``ratio * inputs + (1 - ratio) * inputs[other]``; integers become float32.

    >>> mixup(torch.tensor([[0, 100], [200, 100]], dtype=torch.uint8), torch.tensor([1, 0]), 0.75).tolist()
    [[50.0, 100.0], [150.0, 100.0]]
    """
    numbers, others = inputs, inputs[other]
    if not inputs.is_floating_point():
        numbers, others = inputs.float(), others.float()
    return torch.lerp(others, numbers, ratio, out=others)


def cutmix(inputs: torch.Tensor, other: torch.Tensor, box: Box) -> tuple[torch.Tensor, float]:
    """Return a copy with `box` pasted from ``inputs[other]``, and the fraction of the area left of the image itself."""
    height, width = _height_and_width(inputs)
    top, left, bottom, right = box
    mixed = inputs.clone()
    if _channels_last(inputs):
        mixed[:, top:bottom, left:right] = inputs[other, top:bottom, left:right]
    else:
        mixed[:, :, top:bottom, left:right] = inputs[other, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def random_box(height: int, width: int, ratio: float, rng: np.random.Generator) -> Box:
    """Draw a rectangle of `1 - ratio` of the area around a uniform centre, clipped at the edges (algorithm A1)."""
    part = np.sqrt(1 - ratio)
    h, w = int(height * part), int(width * part)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    return (max(y - h // 2, 0), max(x - w // 2, 0), min(y + h // 2, height), min(x + w // 2, width))


def soft(targets: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Return targets float32 (B, n_classes) for class numbers (B,); soft targets are returned unchanged.

    >>> soft(torch.tensor([1, 0]), 3).tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    if targets.ndim == 2:
        return targets.float()
    return torch.nn.functional.one_hot(targets.long(), n_classes).float()


def _channels_last(inputs: torch.Tensor) -> bool:
    """Return whether inputs are images (B, S, S, 3), not activations (B, C, H, W)."""
    return inputs.dtype == torch.uint8 or (inputs.shape[3] == 3 and inputs.shape[1] == inputs.shape[2])


def _height_and_width(inputs: torch.Tensor) -> tuple[int, int]:
    if inputs.ndim != 4:
        raise RecipeError(
            f"cutmix cannot be used on feature vectors (inputs of shape {tuple(inputs.shape)}): it needs images.",
            hint="Use mixup, or an approach that trains on images, such as finetune.",
        )
    height, width = inputs.shape[1:3] if _channels_last(inputs) else inputs.shape[2:4]
    return int(height), int(width)
