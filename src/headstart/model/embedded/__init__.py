"""The backbone that comes with the package, for machines on which there are no other weights: the last resort.

Half of a MobileNetV2 in width, 1.4 MB, trained by this project on pictures that may be passed on (embedded/README.md in
the repository says how, on what, and at what cost). It is quick and weak: a classifier on it is better than one
trained from scratch on a few thousand pictures, and clearly worse than one on any full network. `MEASURED` says by
how much; nothing prefers it to other weights.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

NAME, FEATURES = "mobilenetv2_050.headstart", 1280
WEIGHTS = Path(__file__).parent / f"{NAME}.safetensors"
SPEC = WEIGHTS.with_suffix(".json")


@cache
def measured() -> dict[str, float]:
    """{data set: test accuracy} of a linear head on it with default settings, as `headstart backbones` shows them."""
    return {str(name): float(value) for name, value in json.loads(SPEC.read_text(encoding="utf-8"))["measured"].items()}
