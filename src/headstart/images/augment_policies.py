"""Policies of random operations on a square image: TrivialAugment, RandAugment, AugMix.

The operations and what their magnitudes mean are those of AutoAugment (Cubuk et al. 2019, arXiv 1805.09501, table 6); a
policy decides which of them to apply and how strongly. Geometric operations sample bilinearly and fill uncovered areas
with the mean colour. At 160 px an operation takes 0.02 to 0.6 ms on one core (sharpness is the slowest).

When not to use it: for shift, rotation and crop alone, which `augment` combines with the resize in one resampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

FillColour = tuple[int, int, int]
Operation = Callable[[Image.Image, float, FillColour], Image.Image]


def _affine_operation(image: Image.Image, data: tuple[float, ...], blank: FillColour) -> Image.Image:
    size, how = image.size, Image.Resampling.BILINEAR
    return image.transform(size, Image.Transform.AFFINE, data, how, fillcolor=blank)


OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "autocontrast": lambda image, m, blank: ImageOps.autocontrast(image),
        "equalize": lambda image, m, blank: ImageOps.equalize(image),
        "posterize": lambda image, m, blank: ImageOps.posterize(image, max(1, int(m))),
        "rotate": lambda image, m, blank: image.rotate(m, Image.Resampling.BILINEAR, fillcolor=blank),
        "solarize": lambda image, m, blank: ImageOps.solarize(image, math.ceil(m)),
        "shear_x": lambda image, m, blank: _affine_operation(image, (1, m, 0, 0, 1, 0), blank),
        "shear_y": lambda image, m, blank: _affine_operation(image, (1, 0, 0, m, 1, 0), blank),
        "translate_x": lambda image, m, blank: _affine_operation(image, (1, 0, -int(m), 0, 1, 0), blank),
        "translate_y": lambda image, m, blank: _affine_operation(image, (1, 0, 0, 0, 1, -int(m)), blank),
        "identity": lambda image, m, blank: image,
        "brightness": lambda image, m, blank: ImageEnhance.Brightness(image).enhance(1 + m),
        "color": lambda image, m, blank: ImageEnhance.Color(image).enhance(1 + m),
        "contrast": lambda image, m, blank: ImageEnhance.Contrast(image).enhance(1 + m),
        "sharpness": lambda image, m, blank: ImageEnhance.Sharpness(image).enhance(1 + m),
    }
)
"""(image, magnitude, blank) -> image. Magnitudes: degrees (rotate), a slope (shear), pixels (translate), bits kept
(posterize), the lowest inverted level (solarize), an offset to a factor of 1 (brightness and the other three)."""

_NAMES = tuple(OPERATIONS)
_AUGMIX_NAMES = _NAMES[:9]  # not those that the corruptions of ImageNet-C resemble


@dataclass(frozen=True)
class _Reach:
    """Magnitudes at full strength; posterize goes from the first to the second number of bits."""

    shear: float
    translate_pixels: float
    translate_fraction: float
    rotate: float
    enhance: float
    posterize: tuple[int, int]

    def magnitude(self, name: str, strength: float, sign: int, side: int) -> float:
        """Return the magnitude at a strength from 0 to 1; operations with two directions use that of `sign`."""
        if name == "posterize":
            return self.posterize[0] - round(strength * (self.posterize[0] - self.posterize[1]))
        if name == "solarize":
            return 255 * (1 - strength)
        most = {"s": self.shear, "t": self.translate_pixels + self.translate_fraction * side, "r": self.rotate}
        return sign * strength * (most[name[0]] if name.startswith(("shear", "translate", "rotate")) else self.enhance)


_WIDE = _Reach(shear=0.99, translate_pixels=32, translate_fraction=0, rotate=135, enhance=0.99, posterize=(8, 2))
_USUAL = _Reach(shear=0.3, translate_pixels=0, translate_fraction=150 / 331, rotate=30, enhance=0.9, posterize=(8, 4))
_AUGMIX = _Reach(shear=0.3, translate_pixels=0, translate_fraction=1 / 3, rotate=30, enhance=0.9, posterize=(4, 0))


def _operated(
    image: Image.Image,
    names: Sequence[str],
    strength: float,
    reach: _Reach,
    rng: np.random.Generator,
    blank: FillColour,
) -> Image.Image:
    """Apply one random operation from `names`, in a random direction."""
    name = names[int(rng.integers(len(names)))]
    sign = 1 - 2 * int(rng.integers(2))
    return OPERATIONS[name](image, reach.magnitude(name, strength, sign, image.width), blank)


def trivial(image: Image.Image, rng: np.random.Generator, blank: FillColour) -> Image.Image:
    """TrivialAugment, wide: one operation at one of 31 strengths, both uniform.

    Müller and Hutter 2021 (arXiv 2103.10158), section 3, and its wide augmentation space.
    """
    return _operated(image, _NAMES, rng.integers(31) / 30, _WIDE, rng, blank)


def rand(image: Image.Image, n: int, magnitude: int, rng: np.random.Generator, blank: FillColour) -> Image.Image:
    """RandAugment: n operations one after another, all at strength magnitude / 30.

    Cubuk et al. 2020 (arXiv 1909.13719), section 3; the scale of 0 to 30 and the reaches are those of torchvision.
    """
    for _ in range(n):
        image = _operated(image, _NAMES, magnitude / 30, _USUAL, rng, blank)
    return image


def augmix(image: Image.Image, rng: np.random.Generator, blank: FillColour) -> Image.Image:
    """AugMix: the image blended with a mixture of three chains of one to three mild operations (severity 3 of 10).

    Hendrycks et al. 2020 (arXiv 1912.02781), section 3 and algorithm 1, without the Jensen-Shannon term of the loss.
    """
    mixed_SS3 = np.zeros((image.height, image.width, 3), np.float32)
    weights = rng.dirichlet((1.0, 1.0, 1.0))
    kept = rng.beta(1.0, 1.0)
    for weight in weights:
        chain = image
        for _ in range(rng.integers(1, 4)):
            chain = _operated(chain, _AUGMIX_NAMES, rng.uniform(0.1, 3) / 10, _AUGMIX, rng, blank)
        mixed_SS3 += np.float32(weight * (1 - kept)) * np.asarray(chain)
    mixed_SS3 += np.float32(kept) * np.asarray(image)
    return Image.fromarray((mixed_SS3 + 0.5).clip(0, 255).astype(np.uint8))
