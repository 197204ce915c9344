"""`StageFeatures`: a timm network that also returns the mean of each stage's feature maps, from the same pass.

    StageFeatures(network)(pixels)      pooled features (N, D), then the means of the stages beside them

Early stages see materials, colours and textures that the last one has learned to ignore, so where images are unlike
ImageNet, a last layer on all of them is more accurate (Evci et al. 2022, Head2Toe, arXiv 2201.03529). timm's
``forward_intermediates`` gives the maps of nearly all of its networks. Vision transformers give the mean of the patches
and the class token of three blocks (the middle one, the one at three quarters, the last).

Costs: one mean per map, no further pass. When not to use it: for a network whose features are layers of our own
(`headstart.model.backbones.networks`); it has no stages to pool.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

MOST_STAGES = 6
"""Networks that report more (transformers, one for each block) give three of them."""


class StageFeatures(nn.Module):
    """A headless timm `network`; its output is float (N, D + sum of the stages' channels).

    Without ``forward_intermediates``, the output is the network's own.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.indices = _indices(network)
        self.tokens = int(getattr(network, "num_prefix_tokens", 0) or 0)

    def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the pooled features, followed by the stages' means."""
        if not self.indices:
            features: torch.Tensor = self.network(pixels_NCHW).flatten(1)
            return features
        last, blocks, _ = self.looked(pixels_NCHW)
        return torch.cat([last, *blocks], 1)

    def block_sizes(self, image_size: int) -> tuple[int, ...]:
        """Return the number of columns of the pooled features, and of each stage's block, by a run on one image."""
        with torch.no_grad():
            pixels = torch.zeros(1, 3, image_size, image_size, device=next(self.parameters()).device)
            if not self.indices:
                return (int(self(pixels).shape[1]),)
            last, blocks, _ = self.looked(pixels)
        return (int(last.shape[1]), *(int(block.shape[1]) for block in blocks))

    def looked(self, pixels_NCHW: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor | None]]:
        """Return pooled features (N, D), a block (N, C) per stage, and the map (N, C, H, W) whose mean each block is.

        A class token's block has no map. A last stage with as many channels as the pooled features is left out: they are
        made of its mean.
        """
        final, found = (
            self.network.forward_intermediates(pixels_NCHW, indices=list(self.indices), return_prefix_tokens=True)
            if self.tokens
            else self.network.forward_intermediates(pixels_NCHW, indices=list(self.indices))
        )
        last = self.network.forward_head(final).flatten(1)
        blocks: list[torch.Tensor] = []
        maps: list[torch.Tensor | None] = []
        for each in found:
            grid, prefix = each if self.tokens else (each, None)
            blocks.append(grid.mean((2, 3)))
            maps.append(grid)
            if prefix is not None:
                blocks.append(prefix[:, 0])
                maps.append(None)
        if not self.tokens and blocks[-1].shape == last.shape:
            del blocks[-1], maps[-1]
        return last, blocks, maps


def _indices(network: nn.Module) -> Sequence[int]:
    """Return which of timm's intermediate maps to pool; none if it has none."""
    info = getattr(network, "feature_info", None)
    if info is None or not hasattr(network, "forward_intermediates"):
        return ()
    count = len(info)
    return range(count) if count <= MOST_STAGES else (count // 2 - 1, 3 * count // 4 - 1, count - 1)
