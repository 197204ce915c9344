"""Every option of a training, written once: its name, type, default and help text.

The command line is made from this dataclass, the run folder records it, `reproduce` reads it back, and a recipe file
(`training/recipes/*.toml`, or a user's own) gives values for some of it. Options of training by gradient descent are
used by the approaches frozen, finetune and scratch, and by auto if it comes to fine-tuning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from headstart.errors import RecipeError, near_names

APPROACHES = ("auto", "linear", "frozen", "finetune", "scratch")
HEADS = ("auto", "ridge", "lda", "logistic", "blend", "ncm")
CLASS_WEIGHTS = ("none", "balanced")
OPTIMIZERS = ("adamw", "adam", "sgd", "rmsprop")
SCHEDULES = ("onecycle", "cosine", "constant")
LOSSES = ("cross_entropy", "binary", "softmax_twice")
MONITORS = ("val_log_loss", "val_accuracy")


@dataclass(frozen=True)
class Recipe:
    """How to train. All options have a default that suits most data. Raises `RecipeError` for values that cannot work."""

    approach: str = "auto"
    """linear (closed-form last layer on a frozen backbone), frozen (last layers by gradient descent), finetune, scratch
    (random weights); auto starts linear and fine-tunes if the budget allows it and validation says that it pays."""

    backbone: str = "auto"
    """A timm name; several joined by + are fused; auto picks among the weights at hand by validation."""

    image_size: int = 0
    """Side of the input square in pixels; 0 takes the backbone's own, or less if the pictures are smaller; -1 takes the
    mean side of the training pictures."""

    resize: str = "auto"
    """How a picture becomes a square: crop, pad or squash; auto takes the backbone's own."""

    head: str = "auto"
    """The last layer: ridge, lda, logistic, blend (lda and logistic) or ncm (nearest mean); auto picks on validation."""

    class_weight: str = "none"
    """none, or balanced: weigh classes inversely to their number of pictures."""

    pixels: str = "backbone"
    """Scale of the network's input: backbone (the mean and std that belong to the weights) or unit (0 to 1)."""

    hidden: str = ""
    """Sizes of dense ReLU layers before the last layer, such as 128 or 256,64."""

    dropout: float = 0.0
    """Part of the features that is dropped before the last layer while training."""

    augment: str = "auto"
    """How training pictures are varied: none, or a list such as flip,shift=0.2,rotation=40 (see docs/recipes.md)."""

    mixup: float = 0.0
    """Alpha of mixup, which blends pairs of pictures and their labels; 0 does not."""

    cutmix: float = 0.0
    """Alpha of cutmix, which pastes a piece of one picture into another; 0 does not."""

    tta: str = "none"
    """Views averaged at prediction: none, or flip (the picture and its mirror image, at twice the cost)."""

    epochs: int = 0
    """Rounds over the training pictures; 0 as many as the budget allows, at most 30."""

    steps_per_epoch: int = 0
    """Batches that count as a round; 0 takes all training pictures."""

    batch_size: int = 32
    """Pictures to a step."""

    accumulate: int = 1
    """Batches whose gradients are added up before a step."""

    optimizer: str = "adamw"
    """adamw, adam, sgd (momentum 0.9) or rmsprop."""

    max_lr: float = 0.0
    """Highest learning rate; 0 finds one with a range test."""

    schedule: str = "onecycle"
    """How the learning rate moves, batch by batch: onecycle, cosine or constant."""

    warmup: float = 0.0
    """Part of the steps in which the rate rises; 0 is 0.3 for onecycle, none for the others."""

    weight_decay: float = 0.01
    """Weight decay; not applied to biases and norms."""

    clip: float = 0.0
    """Largest norm of the gradient; 0 does not clip."""

    loss: str = "cross_entropy"
    """cross_entropy; binary (one sigmoid unit, two classes); softmax_twice (a published mistake, kept for comparison)."""

    label_smoothing: float = 0.0
    """Probability that is spread over all classes in the targets."""

    ema: float = 0.0
    """Decay of the moving average of the weights that is kept in the end, such as 0.99; 0 keeps none."""

    patience: int = 0
    """Rounds without a gain after which training stops; 0 never stops early."""

    monitor: str = "val_log_loss"
    """What the best round is known by: val_log_loss or val_accuracy."""

    unfreeze: str = "auto"
    """What is fine-tuned: all; a number of last stages, such as 3; gradual (one more stage each round); auto."""

    layer_decay: float = 1.0
    """Factor of the learning rate from each stage to the one before it; below 1, early stages learn more slowly."""

    views: int = 4
    """Augmented views a picture whose activations are kept, when the frozen stages run once only."""

    wise: str = "auto"
    """Where between the frozen (0) and the fine-tuned (1) weights to end (WiSE-FT); auto picks on validation."""

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
        for name, allowed in _CHOICES.items():
            _one_of(name, getattr(self, name), allowed)
        seconds(self.budget)
        for name, (low, high, expected) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise RecipeError(f"{name} {value!r} cannot be used: expected {expected}.")
        for name in ("val", "test", "alpha"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise RecipeError(f"{name} {value!r} cannot be used: expected a part between 0 and 1, such as 0.2.")
        if self.image_size not in (0, -1) and not 8 <= self.image_size <= 4096:
            raise RecipeError(f"image_size {self.image_size} cannot be used: expected 8 to 4096 pixels, 0 or -1.")
        if not re.fullmatch(r"auto|all|gradual|[1-9]\d?", self.unfreeze):
            raise RecipeError(f"unfreeze {self.unfreeze!r} is not known: expected all, gradual, auto, or a number such as 3.")
        if self.wise != "auto" and not re.fullmatch(r"0?\.\d+|[01](\.0*)?", self.wise):
            raise RecipeError(f"wise {self.wise!r} cannot be used: expected auto or a number from 0 to 1.")
        _ = self.hidden_sizes

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """`hidden` as numbers. Raises `RecipeError`."""
        if not re.fullmatch(r"(\d{1,5}(,\d{1,5})*)?", self.hidden.replace(" ", "")):
            raise RecipeError(f"hidden {self.hidden!r} cannot be used: expected sizes such as 128 or 256,64.")
        return tuple(int(size) for size in self.hidden.split(",") if size.strip())

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


_CHOICES = {
    "approach": APPROACHES,
    "head": HEADS,
    "class_weight": CLASS_WEIGHTS,
    "resize": ("auto", "crop", "pad", "squash"),
    "pixels": ("backbone", "unit"),
    "tta": ("none", "flip"),
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "loss": LOSSES,
    "monitor": MONITORS,
    "device": ("auto", "cpu", "cuda"),
    "precision": ("auto", "bf16", "f32"),
}
_RANGES = {
    "dropout": (0, 0.95, "0 to 0.95"),
    "mixup": (0, 10, "0 to 10"),
    "cutmix": (0, 10, "0 to 10"),
    "epochs": (0, 10_000, "0 to 10,000"),
    "steps_per_epoch": (0, 10_000_000, "0 or more"),
    "batch_size": (1, 65_536, "1 to 65,536"),
    "accumulate": (1, 65_536, "1 to 65,536"),
    "max_lr": (0, 100, "0 to 100"),
    "warmup": (0, 0.9, "0 to 0.9"),
    "weight_decay": (0, 10, "0 to 10"),
    "clip": (0, 1e9, "0 or more"),
    "label_smoothing": (0, 0.9, "0 to 0.9"),
    "ema": (0, 0.999999, "0, or a decay below 1"),
    "patience": (0, 10_000, "0 to 10,000"),
    "layer_decay": (0.01, 1, "0.01 to 1"),
    "views": (1, 1_000, "1 to 1,000"),
}


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
