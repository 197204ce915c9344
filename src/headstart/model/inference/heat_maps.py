"""Heat maps of the evidence for a class, in the style of Grad-CAM, for every network that a run can contain.

A position's contribution to the logit of a class (minus the mean over all classes, which softmax ignores) is its
activations times their gradients, summed over channels. Most convolutional networks end in a mean over positions and a
linear layer. For them that is the class activation map (Zhou et al. 2016, arXiv 1512.04150, section 2; equal to
Grad-CAM, Selvaraju et al. 2017, arXiv 1610.02391, section 3), exact and without a gradient: with the bias added, the
mean of the map is the logit. All others go through captum's input times gradient at the last maps (HiResCAM, Draelos
and Carin 2020, arXiv 2011.08891), which is equally faithful if positions are weighted individually, as in the dense
layers of `headstart_cnn`. For vision transformers that read only a class token, the map comes from the last attention's
input, with tokens placed back on the grid. The features of earlier stages are means of maps, so their maps are exact too;
they are averaged to the last one's grid. The maps of several backbones are summed like their logits. A last layer with a
kernel is replaced by its tangent at the image.

What it costs: importing torch; on one core 0.06 s to build a MobileNetV2, 35 ms per image at 224 px (float32); captum
(0.6 s to import, mostly matplotlib) only for networks that do not end in a mean.

When not to use it: as proof. A map has the network's own coarse grid (5 x 5 at 160 px for a MobileNet) and shows where
the evidence is, not what it is; and it belongs to one class and one image, so heat is not comparable between images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from headstart.errors import BackboneError
from headstart.images.image_refs import ImageRef, read_image
from headstart.images.preprocess import Preprocess
from headstart.io.extras import require
from headstart.model.backbones.build import build
from headstart.model.inference.classifier import Classifier, EnsembleMember

if TYPE_CHECKING:
    import torch

LONGER_SIDE = 160  # pixels of a map
BATCH = 8
_MEAN_TOLERANCE = 1e-4  # largest difference from a mean over positions, as a fraction of the largest feature


def heat_maps(
    classifier: Classifier, images: Sequence[ImageRef], classes_N: Sequence[int] | np.ndarray | None = None
) -> list[np.ndarray]:
    """Compute where each image shows its class: float32 (h, w) from 0 to 1, in the upright image's shape.

    Args:
        classifier: From a run folder, with one backbone or several.
        images: PIL images, uint8 arrays, or files.
        classes_N: Number of the class to look for, one per image; by default the one predicted.

    Returns: one map per image, its longer side 160 px. 1 is the strongest evidence for the class; 0 is no evidence, or
    outside the network's crop. All values are 0 if there is no evidence anywhere. Raises `UnreadableImage`;
    `BackboneError` for a network whose last maps have no positions.
    """
    heat = Heat(classifier)
    maps: list[np.ndarray] = []
    for start in range(0, len(images), BATCH):
        classes = None if classes_N is None else np.asarray(classes_N[start : start + BATCH], np.int64)
        maps += heat.batch([_opened(ref, classifier) for ref in images[start : start + BATCH]], classes)
    return maps


class Heat:
    """A classifier's networks, opened once for many batches; see `heat_maps`. Raises `BackboneError`, `MissingExtra`."""

    def __init__(self, classifier: Classifier) -> None:
        require("A heat map", "timm", "torch", "captum")
        self._networks = [_ExplainedNetwork(member, classifier.runtime.device) for member in classifier.members]

    def batch(self, images: Sequence[Image.Image], classes_N: np.ndarray | None = None) -> list[np.ndarray]:
        """Compute maps of a few upright RGB images (all in memory at once)."""
        looks = [network.look(images) for network in self._networks]
        if classes_N is None:
            classes_N = np.sum([logits_NK for logits_NK, _ in looks], axis=0).argmax(1)
        cells = [cells_of(classes_N) for _, cells_of in looks]
        layers = [[(c[i], n.spec) for c, n in zip(cells, self._networks, strict=True)] for i in range(len(images))]
        return [combined(each, image.size) for each, image in zip(layers, images, strict=True)]


def combined(layers: Sequence[tuple[np.ndarray, Preprocess]], size: tuple[int, int]) -> np.ndarray:
    """Combine members' cells float (gh, gw) and input specs into one map 0 to 1 of an image of `size` (width, height).

    Cells hold evidence per unit of the network's square: the more of the image a square covers, the less dense it is.
    """
    scale = LONGER_SIDE / max(size)
    width, height = (max(1, round(x * scale)) for x in size)
    total_HW = np.zeros((height, width), np.float32)
    for cells, spec in layers:
        left, top, right, bottom = seen(spec, *size)
        across, down = (right - left) * width, (bottom - top) * height  # the square, in pixels of the map
        gh, gw = cells.shape
        back = (gw / across, 0.0, -left * width * gw / across, 0.0, gh / down, -top * height * gh / down)
        sheet = Image.fromarray(np.asarray(cells, np.float32) / ((right - left) * (bottom - top)))
        total_HW += np.asarray(sheet.transform((width, height), Image.Transform.AFFINE, back, Image.Resampling.BICUBIC))
    positive_HW = np.maximum(total_HW, 0)
    top_value = float(positive_HW.max())
    return positive_HW / top_value if top_value > 0 else positive_HW


def seen(spec: Preprocess, width: int, height: int) -> tuple[float, float, float, float]:
    """Return the network's square (left, top, right, bottom) as fractions of the image; outside 0 to 1 if padded."""
    if spec.resize == "pad":
        longer = max(width, height)
        x, y = (longer / width - 1) / 2, (longer / height - 1) / 2
        return (-x, -y, 1 + x, 1 + y)
    left, top, right, bottom = spec.source_box(width, height)
    return (left / width, top / height, right / width, bottom / height)


def _opened(ref: ImageRef, classifier: Classifier) -> Image.Image:
    side = max(member.extractor.spec.at_least()[0] for member in classifier.members)
    return read_image(ref, at_least=(side, side), ranges=classifier.ranges)


CellsOf = Callable[[np.ndarray], np.ndarray]
"""From classes (N,) to cells float (N, gh, gw), whose mean is the member's contribution to those classes' logits."""


class _ExplainedNetwork:
    """One member's network in torch, and its last layer."""

    def __init__(self, member: EnsembleMember, device: str) -> None:
        self.spec, self.name, self.device = member.extractor.spec, member.extractor.backbone.name, device
        self.network: Any = (
            build(member.extractor.backbone, image_size=self.spec.image_size).requires_grad_(False).to(device)
        )
        self.layer = member.layer
        self.stages: Any = None
        if member.extractor.pooling == "stages":
            from headstart.model.backbones.stages import StageFeatures

            self.stages = StageFeatures(self.network)

    def look(self, images: Sequence[Image.Image]) -> tuple[np.ndarray, CellsOf]:
        """Return the logits (N, K) of a batch, and a function that computes the cells of a class."""
        import torch

        pixels_NCHW = self._pixels(images)
        sides = [pixels_NCHW, pixels_NCHW.flip(-1)] if self.spec.tta == "flip" else [pixels_NCHW]
        found = []
        for side in sides:
            with torch.no_grad():
                maps = self.network.forward_features(side)
                features_ND = self.network.forward_head(maps).flatten(1)
                blocks, grids = self.stages.looked(side)[1:] if self.stages else ([], [])
            found.append((side, maps, [features_ND, *blocks], grids))
        all_ND = sum(torch.cat(blocks, 1).cpu().double() for _, _, blocks, _ in found).numpy() / len(found)
        logits_NK = self.layer(all_ND)
        logits_NK -= logits_NK.mean(1, keepdims=True)

        def cells_of(classes_N: np.ndarray) -> np.ndarray:
            slopes_ND = self.layer.slopes(all_ND, classes_N)
            offset_N = logits_NK[np.arange(len(all_ND)), classes_N] - (slopes_ND * all_ND).sum(1)
            tangent = [torch.from_numpy(x.astype(np.float32)).to(self.device) for x in (slopes_ND, offset_N)]
            cells = []
            for side, maps, blocks, grids in found:
                first_ND, *rest = torch.split(tangent[0], [block.shape[1] for block in blocks], 1)
                own = self._cells(side, maps, blocks[0], first_ND, tangent[1])
                cells.append(self._stage_cells(own, blocks[1:], grids, rest))
            if len(cells) == 2:
                cells[1] = cells[1].flip(-1)
            out: np.ndarray = (sum(cells) / len(cells)).float().cpu().numpy()
            return out

        return logits_NK, cells_of

    def _pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        import torch

        pixels_NHWC = torch.from_numpy(np.stack([self.spec.apply(image) for image in images])).to(self.device)
        mean, std = (torch.tensor(x, device=self.device).reshape(1, 3, 1, 1) for x in (self.spec.mean, self.spec.std))
        return (pixels_NHWC.permute(0, 3, 1, 2).float() / 255 - mean) / std

    def _stage_cells(
        self,
        cells: torch.Tensor,
        blocks: Sequence[torch.Tensor],
        grids: Sequence[torch.Tensor | None],
        slopes: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        """Add the stages' contributions, averaged over the cells (N, gh, gw); a class token's has no position."""
        from torch.nn.functional import adaptive_avg_pool2d

        for block_ND, grid, slope_ND in zip(blocks, grids, slopes, strict=True):
            share_N = (block_ND * slope_ND).sum(1)[:, None, None]
            if grid is not None:
                own = adaptive_avg_pool2d((grid * slope_ND[:, :, None, None]).sum(1), cells.shape[1:])
                cells = cells + own - own.mean((1, 2), keepdim=True)
            cells = cells + share_N
        return cells

    def _cells(
        self,
        pixels: torch.Tensor,
        maps: torch.Tensor,
        features_ND: torch.Tensor,
        slopes_ND: torch.Tensor,
        offset_N: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the cells (N, gh, gw) of logits that are `offset_N` plus the features times their slopes."""
        if maps.ndim == 4 and self._is_mean(maps, features_ND):
            channels_last = maps if self._channels_are_last(maps) else maps.permute(0, 2, 3, 1)
            return (channels_last * slopes_ND[:, None, None, :]).sum(-1) + offset_N[:, None, None]
        from captum.attr import InputXGradient

        attributed = InputXGradient(lambda x: (self.network.forward_head(x).flatten(1) * slopes_ND).sum(1))
        shares = attributed.attribute(maps.detach().requires_grad_()).detach()
        if maps.ndim == 3 and self._reads_class_token_only(shares):
            shares = self._through_last_attention(pixels, slopes_ND)
        cells = self._laid_out(shares)
        return cells * (cells.shape[1] * cells.shape[2])

    def _is_mean(self, maps: torch.Tensor, features_ND: torch.Tensor) -> bool:
        mean_ND = maps.mean((1, 2) if self._channels_are_last(maps) else (2, 3))
        if mean_ND.shape != features_ND.shape:
            return False
        return bool((mean_ND - features_ND).abs().max() <= _MEAN_TOLERANCE * features_ND.abs().max())

    def _channels_are_last(self, maps: torch.Tensor) -> bool:
        return str(getattr(self._inside, "output_fmt", "NCHW")) == "NHWC"

    @property
    def _inside(self) -> Any:
        """Return timm's network, without any dense layers on top of it."""
        return getattr(self.network, "backbone", self.network)

    def _laid_out(self, shares: torch.Tensor) -> torch.Tensor:
        """Sum contributions (N, C, gh, gw), (N, gh, gw, C) or (N, T, C) over channels: (N, gh, gw)."""
        if shares.ndim == 4:
            return shares.sum(-1 if self._channels_are_last(shares) else 1)
        if shares.ndim != 3:
            raise self._no_places(shares)
        first = self._prefix(shares)
        side = math.isqrt(shares.shape[1] - first)
        if side < 2 or side * side != shares.shape[1] - first:
            raise self._no_places(shares)
        return shares[:, first:].sum(-1).reshape(len(shares), side, side)

    def _prefix(self, tokens: torch.Tensor) -> int:
        """Return the number of tokens before those of positions: class tokens, registers."""
        known = getattr(self._inside, "num_prefix_tokens", None)
        n = tokens.shape[1]
        return int(known) if known is not None else n - math.isqrt(n) ** 2

    def _reads_class_token_only(self, shares: torch.Tensor) -> bool:
        first = self._prefix(shares)
        return bool(first and shares[:, first:].abs().max() <= 1e-6 * shares.abs().max())

    def _through_last_attention(self, pixels: torch.Tensor, slopes_ND: torch.Tensor) -> torch.Tensor:
        """Return contributions (N, T, C) at the last attention's normed input: the residual has no gradient there.

        Before the norm they would sum to 0, because a norm is invariant to the scale of its input.
        """
        from captum.attr import LayerGradientXActivation

        norms = [member for name, member in self._inside.named_modules() if name.rpartition(".")[2] == "norm1"]
        if not norms:
            raise BackboneError(
                f"{self.name}: reads a class token from an unknown attention layer, so no heat map can be made."
            )
        attributed = LayerGradientXActivation(lambda x: (self.network(x).flatten(1) * slopes_ND).sum(1), norms[-1])
        shares: torch.Tensor = attributed.attribute(pixels.detach().requires_grad_()).detach()
        return shares

    def _no_places(self, shares: torch.Tensor) -> BackboneError:
        return BackboneError(
            f"{self.name}: its last maps {tuple(shares.shape[1:])} have no spatial positions, so no heat map can be made."
        )
