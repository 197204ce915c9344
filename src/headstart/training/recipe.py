"""All training options, each defined once: name, type, default and help text.

The command line is generated from this dataclass, the run folder records it, `reproduce` reads it back, and a recipe
file (`training/recipes/*.toml`, or a user's own) sets some of its values. Options of gradient training apply to the
approaches head_sgd, finetune and scratch, and to auto if it fine-tunes.

Costs nothing to import: neither numpy nor torch. Options are interpreted where they are used; this module only checks
each value on its own, and reports all problems at once.
"""

from __future__ import annotations

import itertools
import numbers
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from headstart.errors import RecipeError, near_names
from headstart.io.result_repr import OneLineRepr

APPROACHES = ("auto", "linear", "head_sgd", "finetune", "scratch")
POOLINGS = ("auto", "last", "stages")
HEADS = ("auto", "ridge", "lda", "logistic", "blend", "ncm")
CLASS_WEIGHTS = ("none", "balanced")
OPTIMIZERS = ("adamw", "adam", "sgd", "rmsprop")
SCHEDULES = ("onecycle", "cosine", "constant")
LOSSES = ("cross_entropy", "binary", "softmax_twice")
MONITORS = ("val_log_loss", "val_accuracy")


@dataclass(frozen=True, repr=False)
class Recipe(OneLineRepr):
    """How to train. All options have defaults that suit most data. Raises `RecipeError` listing all bad values."""

    approach: str = field(default="auto", metadata={"section": "Network"})
    """linear (fits a head on a frozen backbone, in seconds), head_sgd (trains the head by gradient descent), finetune (also
    trains the backbone), scratch (trains a network from random weights); auto starts with linear, and fine-tunes if the
    budget and validation allow."""

    backbone: str = "auto"
    """A timm name; several joined by + are all used; auto combines up to four of those with available
    weights."""

    image_size: int = 0
    """Side of the input square in pixels; 0 means the backbone's own, or less if the training images are smaller; -1 means
    their mean side."""

    image_scale: float = 0.0
    """Factor on the image size, such as 1.3; 0 takes 1, or 1.3 for one of two inputs (frozen backbones)."""

    resize: str = "auto"
    """How an image becomes a square: crop, pad or squash; auto takes the backbone's own, usually crop, and for a second
    input (frozen backbones) squash."""

    pooling: str = "auto"
    """Features of a frozen backbone: last (its own pooled features), stages (those, and the mean of each stage's feature
    maps); auto picks by leave-one-out."""

    head: str = "auto"
    """Kind of head: ridge, lda, logistic, blend (lda and logistic) or ncm (nearest class mean); auto picks on validation, and
    adds kernels if they pay."""

    class_weight: str = "none"
    """none, or balanced: weight classes in inverse proportion to their number of images."""

    normalize: str = "backbone"
    """How pixels are scaled: backbone (by the mean and std that belong to the weights) or unit (0 to 1)."""

    hidden_layer_sizes: str = ""
    """Sizes of dense ReLU layers before the head, such as 128 or 256,64."""

    dropout: float = 0.0
    """Fraction of features dropped before the head while training."""

    augment: str = field(default="auto", metadata={"section": "Augmentation"})
    """Augmentation of training images: none, or a list such as flip,shift=0.2,rotation=40 (see docs/recipes.md)."""

    mixup: float = 0.0
    """Alpha of mixup, which blends pairs of images and their labels; 0 turns it off."""

    cutmix: float = 0.0
    """Alpha of cutmix, which pastes a patch of one image into another; 0 turns it off."""

    tta: str = "none"
    """Test-time augmentation: none, or flip (averages the image and its mirror image, at twice the cost)."""

    epochs: int = field(default=0, metadata={"section": "Gradient descent (head_sgd, finetune, scratch)"})
    """Passes over the training images; 0 means as many as the budget allows, at most 8 for fine-tuning and 30 otherwise."""

    steps_per_epoch: int = 0
    """Batches per epoch; 0 means all training images."""

    batch_size: int = 32
    """Images per batch."""

    grad_accum_steps: int = 1
    """Batches per step; the step follows their mean gradient."""

    optimizer: str = "adamw"
    """adamw, adam, sgd (momentum 0.9) or rmsprop."""

    lr: float = 0.0
    """Peak learning rate; 0 takes 1e-4 for fine-tuning (1e-3 with sgd), and otherwise finds one with a range test if the
    budget allows (else 1e-3, with sgd 1e-2)."""

    lr_scheduler: str = "onecycle"
    """Learning-rate schedule, stepped every batch: onecycle, cosine or constant."""

    warmup_ratio: float = 0.0
    """Fraction of the steps over which the learning rate rises; 0 means 0.3 for onecycle, none for the others."""

    weight_decay: float = -1.0
    """Weight decay, not applied to biases and norms: an L2 penalty, but decoupled for adamw. -1 means 0.01 for adamw, none for
    the others."""

    clip_grad: float = 0.0
    """Largest norm of the gradient, to which larger ones are scaled down; 0 turns clipping off."""

    loss: str = "cross_entropy"
    """cross_entropy; binary (one sigmoid unit, two classes); softmax_twice (a published mistake, kept for comparison)."""

    label_smoothing: float = 0.0
    """Probability spread evenly over all classes in the targets."""

    model_ema_decay: float = 0.0
    """Decay of a moving average of the weights, which becomes the result, such as 0.99; 0 turns it off."""

    patience: int = 0
    """Epochs without improvement after which training stops; 0 never stops early."""

    monitor: str = "val_log_loss"
    """Metric that selects the best epoch: val_log_loss or val_accuracy."""

    unfreeze: str = field(default="auto", metadata={"section": "Fine-tuning"})
    """What to fine-tune: all; a number of final stages, such as 3; gradual (one more stage each epoch); auto."""

    head_init: str = "linear"
    """Initial head for fine-tuning: linear (fitted on frozen features, LP-FT) or random; always random with hidden layers."""

    layer_decay: float = 1.0
    """Factor on the learning rate from each stage to the one before it; below 1, early stages learn more slowly."""

    n_views: int = 4
    """Augmented copies of each image whose activations are cached, if the frozen stages run only once; an epoch uses one."""

    wise_ft: str = "auto"
    """Mix of frozen (0) and fine-tuned (1) weights to end with (WiSE-FT); auto picks on validation."""

    budget: str = field(default="10m", metadata={"section": "Budget, split and machine"})
    """Time to spend, such as 2m, 10m or 2h, on choosing a backbone and fine-tuning."""

    val_size: float = 0.2
    """Fraction of the images kept for validation, if the data has no validation set; of the training images, if it has a
    test set."""

    test_size: float = 0.2
    """Fraction of the images kept for the final test, if the data has no test set; 0 keeps none, for a final training on
    everything, and all metrics are then from the validation set."""

    conformal_alpha: float = 0.1
    """Probability that a prediction set misses the right class, on images like the validation images (split conformal)."""

    device: str = "auto"
    """auto, cpu or cuda."""

    precision: str = "auto"
    """auto (bf16 where the CPU supports it), bf16 or f32."""

    seed: int = 0
    """Seed for the split, the intervals, and everything random in training."""

    def __post_init__(self) -> None:
        require_none(problems(vars(self)))
        for option in fields(self):  # 1 becomes 1.0 for fractions, so that equal recipes are written alike
            object.__setattr__(self, option.name, _KINDS[str(option.type)][0](getattr(self, option.name)))

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """`hidden_layer_sizes` as numbers."""
        return tuple(int(size) for size in self.hidden_layer_sizes.split(",") if size.strip())

    @property
    def decay(self) -> float:
        """`weight_decay`, or the optimiser's own if it is left open.

        As a penalty, 0.01 would erase pretrained weights with Adam, whose steps do not get smaller with the gradient.
        """
        return self.weight_decay if self.weight_decay >= 0 else 0.01 if self.optimizer == "adamw" else 0.0

    def __repr__(self) -> str:
        """The constructor call, with the options that differ from the defaults."""
        return f"Recipe({', '.join(f'{name}={value!r}' for name, value in self._changed().items())})"

    def summary(self) -> str:
        """The options that are not the default."""
        return ", ".join(f"{name}={value}" for name, value in self._changed().items()) or "all options at their default"

    def facts(self) -> list[tuple[str, str]]:
        """The options that are not the default."""
        return [(name, str(value)) for name, value in self._changed().items()]

    def _changed(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Invert `as_dict`. Raises `RecipeError` listing unknown options, with the nearest ones, and bad values."""
        require_none(problems(values))
        return cls(**values)


def options_in(*sections: str) -> frozenset[str]:
    """Return the names of the options in sections of the help, which are named by their first word.

    >>> sorted(options_in("Fine-tuning"))
    ['head_init', 'layer_decay', 'n_views', 'unfreeze', 'wise_ft']
    """
    found, section = [], ""
    for option in fields(Recipe):
        section = option.metadata.get("section", section)
        if section.partition(" ")[0] in sections:
            found.append(option.name)
    return frozenset(found)


_KINDS: dict[str, tuple[type, type, str]] = {
    "str": (str, str, "text"),
    "int": (int, numbers.Integral, "a whole number"),
    "float": (float, numbers.Real, "a number"),
}
"""Annotation of a field -> type of its value, accepted type, and name."""

_CHOICES = {
    "approach": APPROACHES,
    "pooling": POOLINGS,
    "head": HEADS,
    "class_weight": CLASS_WEIGHTS,
    "resize": ("auto", "crop", "pad", "squash"),
    "normalize": ("backbone", "unit"),
    "tta": ("none", "flip"),
    "head_init": ("linear", "random"),
    "optimizer": OPTIMIZERS,
    "lr_scheduler": SCHEDULES,
    "loss": LOSSES,
    "monitor": MONITORS,
    "device": ("auto", "cpu", "cuda"),
    "precision": ("auto", "bf16", "f32"),
}
_RANGES = {
    "image_scale": (0, 4, "0 to 4"),
    "dropout": (0, 0.95, "0 to 0.95"),
    "mixup": (0, 10, "0 to 10"),
    "cutmix": (0, 10, "0 to 10"),
    "epochs": (0, 10_000, "0 to 10,000"),
    "steps_per_epoch": (0, 10_000_000, "0 or more"),
    "batch_size": (1, 65_536, "1 to 65,536"),
    "grad_accum_steps": (1, 65_536, "1 to 65,536"),
    "lr": (0, 100, "0 to 100"),
    "warmup_ratio": (0, 0.9, "0 to 0.9"),
    "weight_decay": (0, 10, "0 to 10, or -1"),
    "clip_grad": (0, 1e9, "0 or more"),
    "label_smoothing": (0, 0.9, "0 to 0.9"),
    "model_ema_decay": (0, 0.999999, "0, or a decay below 1"),
    "patience": (0, 10_000, "0 to 10,000"),
    "layer_decay": (0.01, 1, "0.01 to 1"),
    "n_views": (1, 1_000, "1 to 1,000"),
    "seed": (0, 2**63 - 1, "0 or more"),
}
_FRACTIONS = ("val_size", "test_size", "conformal_alpha")
_NO_VALIDATION = (
    "The validation set chooses the head and fits the temperature; linear heads are then fitted on it as well."
)
_WRITTEN = {
    "hidden_layer_sizes": (
        r" *([1-9][0-9]{0,4}( *, *[1-9][0-9]{0,4})*)? *",
        "cannot be used: expected sizes such as 128 or 256,64.",
    ),
    "unfreeze": (r"auto|all|gradual|[1-9][0-9]?", "is not known: expected all, gradual, auto, or a number such as 3."),
    "wise_ft": (r"auto|0?\.[0-9]+|[01](\.0*)?", "cannot be used: expected auto or a number from 0 to 1."),
}
_LISTED = 40


def seconds(budget: str) -> float:
    """Return the seconds of a budget such as ``90s``, ``20m``, ``2h``. Raises `RecipeError`.

    >>> seconds("20m")
    1200.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", budget.strip()) if isinstance(budget, str) else None
    if not match or float(match[1]) == 0:
        raise RecipeError(
            f"budget {_shown(budget)} is not a time: expected a number and s, m or h.", hint="For example 2m or 2h."
        )
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def problems(values: Mapping[str, Any]) -> Iterator[RecipeError]:
    """Yield all problems with options and their values, in order, as errors that are not raised."""
    for name, value in values.items():
        try:
            _check(name, value)
        except RecipeError as error:
            yield error


def require_none(found: Iterable[RecipeError], where: str = "") -> None:
    """Raise one `RecipeError` for all errors, if any; its message starts with `where` (a file).

    >>> require_none(problems({"epoch": 3, "lr": -1}))
    Traceback (most recent call last):
        ...
    headstart.errors.RecipeError: 2 options cannot be used.
      'epoch' is not an option of a recipe. Did you mean 'epochs' or 'approach'?
      lr -1 cannot be used: expected 0 to 100.
    """
    errors = list(itertools.islice(found, _LISTED + 1))
    if not errors:
        return
    if len(errors) == 1:
        raise RecipeError(where + errors[0].message, hint=errors[0].hint)
    count = len(errors) if len(errors) <= _LISTED else f"more than {_LISTED}"
    lines = [f"{error.message} {error.hint}".rstrip() for error in errors[:_LISTED]]
    raise RecipeError(f"{where}{count} options cannot be used.", hint="\n".join(lines))


def _check(name: str, value: Any) -> None:
    """Raise `RecipeError` for an unknown option or an invalid value."""
    known = {field.name: str(field.type) for field in fields(Recipe)}
    if name not in known:
        raise RecipeError(f"{_shown(name)} is not an option of a recipe.", hint=_near_option(name, list(known)))
    if name in _CHOICES:
        _one_of(name, value, _CHOICES[name])
        return
    _of_kind(name, value, known[name])
    if name == "budget":
        seconds(value)
    is_open = name == "weight_decay" and value == -1
    if name in _RANGES and not is_open and not _RANGES[name][0] <= value <= _RANGES[name][1]:
        raise RecipeError(f"{name} {_shown(value)} cannot be used: expected {_RANGES[name][2]}.")
    if name in _FRACTIONS and not (0 < value < 1 or (name == "test_size" and value == 0)):
        raise RecipeError(
            f"{name} {_shown(value)} cannot be used: expected a fraction between 0 and 1, such as 0.2.",
            hint=_NO_VALIDATION if name == "val_size" and value == 0 else "",
        )
    if name == "image_size" and value not in (0, -1) and not 8 <= value <= 4096:
        raise RecipeError(f"{name} {_shown(value)} cannot be used: expected 8 to 4096 pixels, 0 or -1.")
    if name in _WRITTEN and not re.fullmatch(_WRITTEN[name][0], value):
        raise RecipeError(f"{name} {_shown(value)} {_WRITTEN[name][1]}")


ALSO_CALLED = {
    "backbone": ("arch", "architecture", "model", "model_name"),
    "batch_size": ("batch", "bs", "train_batch_size"),
    "budget": ("time_limit",),
    "clip_grad": ("clip", "clipnorm", "max_grad_norm"),
    "conformal_alpha": ("alpha",),
    "device": ("cuda", "gpu"),
    "dropout": ("drop",),
    "epochs": ("max_epochs", "num_epochs", "num_train_epochs"),
    "grad_accum_steps": ("accumulate", "gradient_accumulation_steps"),
    "head_init": ("start",),
    "hidden_layer_sizes": ("hidden",),
    "image_size": ("img_size", "imgsz", "input_size", "size"),
    "label_smoothing": ("smoothing",),
    "lr": ("base_lr", "learning_rate", "max_lr"),
    "lr_scheduler": ("sched", "schedule"),
    "model_ema_decay": ("ema",),
    "n_views": ("views",),
    "normalize": ("pixels",),
    "optimizer": ("opt",),
    "seed": ("random_state",),
    "test_size": ("test", "test_split"),
    "unfreeze": ("freeze",),
    "val_size": ("val", "val_split", "valid_pct", "validation_fraction", "validation_split"),
    "warmup_ratio": ("warmup",),
    "weight_decay": ("wd",),
    "wise_ft": ("wise",),
}
"""Names of options in Keras, fastai, timm, scikit-learn or an earlier headstart: for hints only."""


def usual_name(name: str) -> str:
    """Return the option that other tools call `name`, '' if there is none.

    >>> usual_name("learning_rate"), usual_name("colour")
    ('lr', '')
    """
    return next((option for option, names in ALSO_CALLED.items() if name in names), "")


def _near_option(name: str, known: list[str]) -> str:
    same = usual_name(name)
    return f"Did you mean {same!r}?" if same else near_names(name, known)


def _of_kind(name: str, value: Any, annotation: str) -> None:
    _, accepted, expected = _KINDS[annotation]
    if isinstance(value, accepted) and not isinstance(value, bool):
        return
    hint = ""
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", value):
        hint = "Leave out the quotes."
    elif accepted is str and isinstance(value, numbers.Real) and not isinstance(value, bool):
        hint = f"Put it in quotes: '{_shown(value)}'."
    raise RecipeError(f"{name} {_shown(value)} cannot be used: expected {expected}.", hint=hint)


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        hint = near_names(value, list(allowed)) if isinstance(value, str) else ""
        raise RecipeError(f"{name} {_shown(value)} is not known: expected {', '.join(allowed)}.", hint=hint)


def _shown(value: Any) -> str:
    """`repr`, shortened: a file may hold anything."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    try:
        return short.repr(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits
        return "(a number of thousands of digits)"
