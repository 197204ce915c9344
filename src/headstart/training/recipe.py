"""Every option of a training, written once: its name, type, default and help text.

The command line is made from this dataclass, the run folder records it, and `reproduce` reads it back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from headstart.errors import RecipeError, near_names

APPROACHES = ("linear",)
HEADS = ("auto", "ridge", "lda", "logistic", "blend", "ncm")
CLASS_WEIGHTS = ("none", "balanced")


@dataclass(frozen=True)
class Recipe:
    """How to train. All options have a default that suits most data. Raises `RecipeError` for values that cannot work."""

    approach: str = "linear"
    """How to train: linear (a new last layer on a frozen backbone)."""

    backbone: str = "auto"
    """A timm name; several joined by + are fused; auto picks among the weights at hand by validation."""

    image_size: int = 0
    """Side of the input square in pixels; 0 takes the backbone's own, or less if the pictures are smaller."""

    resize: str = "auto"
    """How a picture becomes a square: crop, pad or squash; auto takes the backbone's own."""

    head: str = "auto"
    """The last layer: ridge, lda, logistic, blend (lda and logistic) or ncm (nearest mean); auto picks on validation."""

    class_weight: str = "none"
    """none, or balanced: weigh classes inversely to their number of pictures."""

    budget: str = "20m"
    """Time to spend, such as 2m, 20m or 2h; the search for a backbone keeps within it."""

    val: float = 0.2
    """Part of the training pictures that is kept for validation, where the data brings none."""

    test: float = 0.2
    """Part of the pictures that is kept for the final test, where the data brings none."""

    alpha: float = 0.1
    """Allowed rate of prediction sets that miss the right class (split conformal)."""

    device: str = "auto"
    """auto, cpu or cuda."""

    precision: str = "auto"
    """auto (bf16 where the processor has it), bf16 or f32."""

    seed: int = 0
    """Seed of the split and of every interval."""

    def __post_init__(self) -> None:
        _one_of("approach", self.approach, APPROACHES)
        _one_of("head", self.head, HEADS)
        _one_of("class_weight", self.class_weight, CLASS_WEIGHTS)
        _one_of("resize", self.resize, ("auto", "crop", "pad", "squash"))
        _one_of("device", self.device, ("auto", "cpu", "cuda"))
        _one_of("precision", self.precision, ("auto", "bf16", "f32"))
        seconds(self.budget)
        for name in ("val", "test", "alpha"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise RecipeError(f"{name} {value!r} cannot be used: expected a part between 0 and 1, such as 0.2.")
        if self.image_size != 0 and not 8 <= self.image_size <= 4096:
            raise RecipeError(f"image_size {self.image_size} cannot be used: expected 8 to 4096 pixels, or 0.")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The inverse of `as_dict`. Raises `RecipeError` for an unknown option, with the nearest known one."""
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise RecipeError(f"{name!r} is not an option of a recipe.", hint=near_names(name, known))
        return cls(**values)


def seconds(budget: str) -> float:
    """Seconds of a budget such as ``90s``, ``20m``, ``2h``. Raises `RecipeError`.

    >>> seconds("20m")
    1200.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", budget.strip())
    if not match or float(match[1]) == 0:
        raise RecipeError(
            f"budget {budget!r} is not a time: expected a number and s, m or h.", hint="For example 2m or 2h."
        )
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        hint = near_names(value, list(allowed)) if isinstance(value, str) else ""
        raise RecipeError(f"{name} {value!r} is not known: expected {', '.join(allowed)}.", hint=hint)
