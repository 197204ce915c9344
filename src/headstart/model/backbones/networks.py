"""Three networks of our own, registered with timm, so they work wherever a timm network does.

- `headstart_cnn`: the small network of the published Intel-scenes walk-through, trained from random weights:
  convolution and pooling (and dropout) three times, then a dense layer. Its size depends on that of the images
  (`img_size`).
- `headstart_top`: any timm network, with dense ReLU layers between its pooled features and the last layer.
- `headstart_stages`: any timm network, with a last layer on the features of all its stages
  (`headstart.model.backbones.stages`). Run folders with such features name it in their ``config.json``.

Importing this module registers them: ``timm.create_model("local-dir:RUN")`` works after ``import
headstart.model.backbones.networks``. All end in `classifier`, and their features are its input.

Costs: importing it also imports torch and timm (3 to 7 s). When not to use it: a last layer alone needs no
`headstart_top`; timm's own network has one.

>>> import timm
>>> timm.create_model("headstart_cnn", num_classes=6).num_features
128
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from headstart.errors import BackboneError, near_names
from headstart.model.backbones.stages import StageFeatures

__all__ = ["HeadstartCNN", "HeadstartStages", "HeadstartTop", "input_architecture", "with_top"]

_AROUND = ("headstart_top", "headstart_stages")

_OURS = {"num_classes": 1000, "classifier": "classifier", "interpolation": "bilinear", "license": "apache-2.0"}
_IMAGENET = {
    **_OURS,
    "input_size": (3, 224, 224),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
default_cfgs = generate_default_cfgs(
    {
        "headstart_cnn": {
            **_OURS,
            "input_size": (3, 150, 150),
            "fixed_input_size": True,  # the first dense layer has weights for each position in the image
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "first_conv": "features.0.0",
        },
        "headstart_top": _IMAGENET,
        "headstart_stages": _IMAGENET,
    }
)


class _Topped(nn.Module, ABC):
    """The end of both networks: dense ReLU layers, dropout, last layer. Subclasses define features and pooling."""

    def _add_top(self, pooled_dim: int, hidden: Sequence[int], num_classes: int, drop_rate: float) -> None:
        sizes = (pooled_dim, *_sizes(hidden, "hidden"))
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.hidden = nn.Sequential(*layers)
        self.hidden.apply(_glorot)
        self.num_features = self.head_hidden_size = sizes[-1]
        self.drop_rate = float(drop_rate)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer with a new one of `num_classes` outputs, or none for 0. `global_pool` is ignored."""
        self.num_classes = num_classes
        self.classifier = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        self.classifier.apply(_glorot)

    def get_classifier(self) -> nn.Module:
        """Return the last layer; an Identity if there is none."""
        return self.classifier

    @abstractmethod
    def forward_features(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return feature maps (N, C, H, W), or tokens (N, T, C)."""

    @abstractmethod
    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """Turn feature maps or tokens into vectors (N, D), the input of the first dense layer."""

    def forward_top(self, pooled_ND: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Apply dense layers and last layer to pooled features: logits (N, K), or features with `pre_logits`."""
        features = self.hidden(pooled_ND)
        features = nn.functional.dropout(features, self.drop_rate, self.training) if self.drop_rate else features
        return features if pre_logits else self.classifier(features)

    def forward_head(self, maps: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Turn the output of `forward_features` into logits (N, K)."""
        return self.forward_top(self.pool(maps), pre_logits)

    def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return logits, float (N, K)."""
        return self.forward_head(self.forward_features(pixels_NCHW))


class QuickDropout(nn.Dropout):
    """Dropout that draws 16 random bits per value, so p is rounded to 1/65,536: four times as fast on CPUs.

    torch draws each value separately and on one core, which took a fifth of a training step of `HeadstartCNN`.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply dropout to (N, C, H, W) or any other shape."""
        dropped = round(self.p * 65536)
        if not self.training or not dropped or x.device.type != "cpu":
            return super().forward(x)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = bits.view(torch.int16)[: x.numel()] >= dropped - 32768
        factors = torch.empty_like(x)  # same memory layout as x
        factors.permute(_memory_order(x)).copy_(kept.view([x.shape[d] for d in _memory_order(x)]))
        return x * factors.mul_(65536 / (65536 - dropped))


def _memory_order(x: torch.Tensor) -> tuple[int, ...]:
    return (0, 2, 3, 1) if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) else tuple(range(x.ndim))


class HeadstartCNN(_Topped):
    """Blocks of (3x3 convolution without padding, ReLU, 2x2 max pooling, dropout), flattened, dense layers, last layer.

    The defaults are those published for Intel scenes: 32 filters three times, dropout 0.5 and 0.3 after the first two
    blocks, one dense layer of 128; weights are initialised as in Keras (Glorot and Bengio 2010, uniform; biases zero).
    Pooling comes before ReLU, which gives the same numbers (the maximum of rectified values is the rectified maximum)
    in a quarter of the time.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | Sequence[int] = 150,
        filters: Sequence[int] = (32, 32, 32),
        drops: Sequence[float] = (0.5, 0.3, 0.0),
        hidden: Sequence[int] = (128,),
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        filters = _sizes(filters, "filters")
        if len(drops) != len(filters) or not all(0 <= drop < 1 for drop in drops):
            raise BackboneError(f"headstart_cnn: drops is {list(drops)}, expected {len(filters)} numbers from 0 to 1.")
        self.img_size, self.in_chans = _side(img_size), in_chans
        blocks = [
            nn.Sequential(nn.Conv2d(a, b, 3), nn.MaxPool2d(2), nn.ReLU(), QuickDropout(drop))
            for a, b, drop in zip((in_chans, *filters), filters, drops, strict=False)
        ]
        self.features = nn.Sequential(*blocks)
        self.features.apply(_glorot)
        places = _side_after(self.img_size, len(filters)) ** 2
        self._add_top(places * filters[-1], hidden, num_classes, drop_rate)

    def forward_features(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return feature maps (N, C, H, W)."""
        maps: torch.Tensor = self.features(pixels_NCHW)
        return maps

    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """Flatten the maps to vectors (N, C*H*W), without averaging."""
        return maps.flatten(1)


class HeadstartTop(_Topped):
    """A headless timm network (`backbone`), then dense ReLU layers and a last layer on its pooled features."""

    def __init__(
        self, backbone: nn.Module, hidden: Sequence[int], num_classes: int = 1000, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.backbone = backbone
        pooled_dim = getattr(backbone, "head_hidden_size", None) or backbone.num_features
        self._add_top(pooled_dim, hidden, num_classes, drop_rate)

    def forward_features(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the backbone's feature maps or tokens."""
        maps: torch.Tensor = self.backbone.forward_features(pixels_NCHW)
        return maps

    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """Apply the backbone's own pooling: (N, D)."""
        pooled: torch.Tensor = self.backbone.forward_head(maps)
        return pooled.flatten(1)


class KernelLinear(nn.Linear):
    """A dense layer, plus the weights of centres times how near the features are to each: `model.heads.kernel_layer`.

    The weights are large and nearly cancel each other, so their sum is computed in float64. So that float32 is nearly exact
    enough too, for engines that have nothing else, projections are relative to the mean of the centres, and nearness to
    what it is at their usual distance.
    """

    def __init__(self, num_features: int, num_classes: int, directions: int, centres: int) -> None:
        super().__init__(num_features, num_classes)
        self.directions = nn.Parameter(torch.zeros(num_features, directions))
        self.centres = nn.Parameter(torch.zeros(directions, centres))
        self.kernel = nn.Parameter(torch.zeros(centres, num_classes))

    def forward(self, features_ND: torch.Tensor) -> torch.Tensor:
        """Return logits, float (N, K)."""
        directions_DR, centres_RC, kernel_CK = (x.double() for x in (self.directions, self.centres, self.kernel))
        origin_R = centres_RC.mean(1)
        centres_RC, projected_NR = centres_RC - origin_R[:, None], features_ND.double() @ directions_DR - origin_R
        squares_N1, squares_C = projected_NR.square().sum(1, keepdim=True), centres_RC.square().sum(0)
        distance_NC = squares_N1 - 2 * (projected_NR @ centres_RC) + squares_C
        usual = torch.exp(-2 * squares_C.mean())
        more_NC = torch.exp(-distance_NC.clamp(min=0)) - usual
        return super().forward(features_ND) + (more_NC @ kernel_CK + usual * kernel_CK.sum(0)).float()


class HeadstartStages(nn.Module):
    """A headless timm network (`backbone`) and a last layer on the features of all its stages.

    With `kernel`, numbers of directions and centres, the last layer is a `KernelLinear`.
    """

    def __init__(self, backbone: nn.Module, img_size: int, num_classes: int = 1000, kernel: Sequence[int] = ()) -> None:
        super().__init__()
        self.backbone, self.kernel = backbone, _sizes(kernel, "kernel")
        self.num_features = sum(StageFeatures(backbone).eval().block_sizes(img_size))
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer with a new one of `num_classes` outputs, or none for 0. `global_pool` is ignored."""
        self.num_classes = num_classes
        self.classifier: nn.Module = nn.Identity()
        if num_classes > 0 and self.kernel:
            self.classifier = KernelLinear(self.num_features, num_classes, *self.kernel)
        elif num_classes > 0:
            self.classifier = nn.Linear(self.num_features, num_classes)

    def get_classifier(self) -> nn.Module:
        """Return the last layer; an Identity if there is none."""
        return self.classifier

    def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return logits, float (N, K)."""
        logits_NK: torch.Tensor = self.classifier(StageFeatures(self.backbone)(pixels_NCHW))
        return logits_NK


@register_model
def headstart_cnn(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Make a `HeadstartCNN` with its arguments. There are no pretrained weights."""
    _refuse_unknown("headstart_cnn", kwargs, HeadstartCNN.__init__)
    model: nn.Module = build_model_with_cfg(HeadstartCNN, "headstart_cnn", pretrained, **kwargs)
    return model


@register_model
def headstart_top(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Make a `HeadstartTop` on timm's `architecture` with `hidden`, `drop_rate`; others go to that network."""
    model: nn.Module = build_model_with_cfg(_topped, "headstart_top", pretrained, **kwargs)
    return model


@register_model
def headstart_stages(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Make a `HeadstartStages` on timm's `architecture`, with `kernel`; other arguments go to that network."""
    model: nn.Module = build_model_with_cfg(
        _staged, "headstart_stages", pretrained, pretrained_filter_fn=_as_staged, **kwargs
    )
    return model


def _as_staged(tensors: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Rename the tensors of a run folder, which have the backbone's own names."""
    last = model.backbone.pretrained_cfg["classifier"]
    renamed = {f"backbone.{name}": value for name, value in tensors.items() if not name.startswith(f"{last}.")}
    own = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    layer = {name.removeprefix(f"{last}."): value for name, value in tensors.items() if name.startswith(f"{last}.")}
    layer["weight"] = layer["weight"].flatten(1)  # that of a convolution has further dimensions of size 1
    return {**own, **renamed, **{f"classifier.{part}": value for part, value in layer.items()}}


def with_top(backbone: nn.Module, hidden: Sequence[int], num_classes: int, *, drop_rate: float = 0.0) -> HeadstartTop:
    """Make a `HeadstartTop` around an existing network (headless, with its weights), such as one from `build`."""
    if isinstance(backbone, _Topped):
        raise BackboneError(f"{type(backbone).__name__} has hidden layers of its own, given as an argument.")
    model = HeadstartTop(backbone, hidden, num_classes, drop_rate)
    cfg: Mapping[str, Any] = getattr(backbone, "pretrained_cfg", None) or {}
    model.pretrained_cfg = model.default_cfg = {**cfg, "architecture": "headstart_top", "classifier": "classifier"}
    return model


def input_architecture(architecture: str, model_args: Mapping[str, Any]) -> str:
    """Return the architecture that defines the input: the one inside a network of ours, else the network's own."""
    return str(model_args.get("architecture", architecture)) if architecture in _AROUND else architecture


def _topped(
    num_classes: int = 1000,
    architecture: str = "",
    hidden: Sequence[int] = (),
    drop_rate: float = 0.0,
    in_chans: int = 3,
    **backbone_args: Any,
) -> HeadstartTop:
    inside = _headless("headstart_top", architecture, in_chans, backbone_args)
    return HeadstartTop(inside, hidden, num_classes, drop_rate)


def _staged(
    num_classes: int = 1000,
    architecture: str = "",
    in_chans: int = 3,
    kernel: Sequence[int] = (),
    **backbone_args: Any,
) -> HeadstartStages:
    inside = _headless("headstart_stages", architecture, in_chans, backbone_args)
    img_size = backbone_args.get("img_size") or inside.pretrained_cfg["input_size"][-1]
    return HeadstartStages(inside, img_size, num_classes, kernel)


def _headless(name: str, architecture: str, in_chans: int, backbone_args: Mapping[str, Any]) -> nn.Module:
    """Build the network inside one of ours."""
    # a plain name: timm would fetch weights for 'hf-hub:...' and 'local-dir:...'
    if not isinstance(architecture, str) or not re.fullmatch(r"\w+", architecture, re.ASCII):
        raise BackboneError(f"{name}: architecture is {architecture!r}, expected the plain name of a timm model.")
    if not timm.is_model(architecture) or architecture.startswith("headstart_"):
        hint = near_names(architecture, timm.list_models(), n=1)
        raise BackboneError(f"{name}: timm has no architecture {architecture!r}.", hint=hint)
    try:
        inside: nn.Module = timm.create_model(
            architecture, pretrained=False, checkpoint_path=None, num_classes=0, in_chans=in_chans, **backbone_args
        )
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise BackboneError(f"{name}: timm cannot build {architecture} with {backbone_args}: {error}.") from error
    return inside


def _refuse_unknown(name: str, kwargs: Mapping[str, Any], takes: Callable[..., Any]) -> None:
    timms_own = {"pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "pretrained_model_args", "pretrained_strict"}
    known = [key for key in inspect.signature(takes).parameters if key != "self"]
    for key in kwargs:
        if key not in timms_own and key not in known:
            hint = near_names(key, known) or f"Its arguments are {', '.join(known)}."
            raise BackboneError(f"{name}: has no argument {key!r}.", hint=hint)


def _sizes(values: Sequence[int], what: str) -> tuple[int, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence) or not all(type(n) is int and n > 0 for n in values):
        raise BackboneError(f"{what} is {values!r}, expected a list of sizes such as [128] or [256, 64].")
    return tuple(values)


def _side(img_size: int | Sequence[int]) -> int:
    sides = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(sides) != 2 or sides[0] != sides[1]:
        raise BackboneError(f"headstart_cnn: img_size is {img_size!r}, expected one number: its images are square.")
    return sides[0]


def _side_after(side: int, blocks: int) -> int:
    """Return the side of the maps after `blocks` blocks of convolution and pooling, in pixels."""
    left = side
    for _ in range(blocks):
        left = (left - 2) // 2
    if left < 1:
        raise BackboneError(
            f"headstart_cnn: img_size is {side}, expected at least {3 * 2**blocks - 2} pixels for {blocks} blocks of"
            " convolution and pooling."
        )
    return left


def _glorot(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
