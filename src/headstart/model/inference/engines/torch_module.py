"""The torch modules that engines compile: a backbone without its last layer, with pixel scaling in front.

Their features are those of all stages (`headstart.model.backbones.stages`); an extractor selects columns.
"""

from __future__ import annotations

from typing import Any

from headstart.errors import BackboneError
from headstart.images.preprocess import Preprocess
from headstart.model.backbones.build import build
from headstart.model.backbones.registry import Backbone


def from_pixels(module: Any, spec: Preprocess) -> Any:
    """Put pixel scaling in front of `module`: uint8 NHWC pixels in; scale, mean and std are two constants of the graph.

    With the spec's `tta` flip, the output is the mean over an image and its mirror image.
    """
    import torch

    class FromPixels(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            scale, shift = spec.scale_and_shift()
            self.register_buffer("scale", torch.from_numpy(scale))
            self.register_buffer("shift", torch.from_numpy(shift))
            self.module = module

        def forward(self, pixels_NHWC: torch.Tensor) -> torch.Tensor:
            pixels_NCHW = pixels_NHWC.permute(0, 3, 1, 2).float() * self.scale + self.shift
            out: torch.Tensor = self.module(pixels_NCHW).flatten(1)
            if spec.tta == "flip":
                out = (out + self.module(pixels_NCHW.flip(-1)).flatten(1)) / 2
            return out

    return FromPixels()


def without_classifier(backbone: Backbone, spec: Preprocess) -> tuple[Any, tuple[int, ...], str, tuple[int, ...]]:
    """Return the backbone without its last layer, the sizes of the blocks of its features, timm's name of the last
    layer, and its weight's shape after (K, D).

    That shape is () or (1, 1). Raises `BackboneError` for a backbone that does not end in a single last layer.
    """
    import timm
    import torch

    from headstart.model.backbones.stages import StageFeatures

    module = StageFeatures(build(backbone, image_size=spec.image_size)).eval()
    with torch.device("meta"):  # shapes only: nothing is allocated or initialised
        shell = timm.create_model(backbone.architecture, num_classes=2, **dict(backbone.model_args))
    name = shell.pretrained_cfg.get("classifier")
    if not isinstance(name, str):
        raise BackboneError(
            f"{backbone.name}: ends in {name!r}, but headstart can only replace a single last layer.",
            hint="Choose another backbone: `headstart backbones` lists them.",
        )
    return module, _block_sizes(backbone, module, spec), name, tuple(shell.get_submodule(name).weight.shape[2:])


def _block_sizes(backbone: Backbone, module: Any, spec: Preprocess) -> tuple[int, ...]:
    try:
        sizes: tuple[int, ...] = module.block_sizes(spec.image_size)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise BackboneError(
            f"{backbone.name}: cannot run at {spec.image_size} px: {(str(error).splitlines() or [''])[0]}",
            hint=f"Leave out --image-size, or give its own size: {backbone.preprocess.image_size}.",
        ) from error
    return sizes
