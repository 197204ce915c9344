"""The backbone in the package, for machines without any other weights: the last resort.

Half of a MobileNetV2 in width, 1.5 MB, trained by this project on synthetic images and crops of a few photographs
(embedded/README.md in the repository has the method, data, licence and cost). It is fast and weak: a classifier on it
is better than one trained from scratch on a few thousand images, and worse than one on a full network with ImageNet
weights. `measured` returns its accuracy; no automatic choice prefers it to other weights.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

NAME, FEATURES = "mobilenetv2_050.headstart", 1280
WEIGHTS = Path(__file__).parent / f"{NAME}.safetensors"
SPEC = WEIGHTS.with_suffix(".json")
SHOWN = {"intel-scenes": "photographs of six scenes", "cats-dogs": "cats and dogs"}
"""The datasets it was measured on, in words."""


@cache
def measured() -> dict[str, dict[str, Any]]:
    """Return {dataset: test accuracy of a linear head on it with default settings: value, low, high, n, method}."""
    found: dict[str, dict[str, Any]] = json.loads(SPEC.read_text(encoding="utf-8"))["measured"]
    return found


def accuracies() -> str:
    """Return the accuracies in words."""
    texts = [
        f"{e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}] on {e['n']:,} {SHOWN.get(name, name)}"
        for name, e in measured().items()
    ]
    return " and ".join(texts)
