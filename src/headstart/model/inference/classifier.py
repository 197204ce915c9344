"""The trained classifier: backbones with their last layers, class names, calibration.

A classifier is a sum over its members: ``logits = sum over members of layer(features)``. The temperature is folded into
the weights, so the softmax of the logits is calibrated. `runs.saved_classifier` writes one to disk and reads it back.

Start with `predictor.Predictor`, which shows the path of one image from file to probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from headstart.images.value_ranges import ValueRanges
from headstart.io.files import sha256_bytes
from headstart.io.result_repr import OneLineRepr, short_facts
from headstart.io.text_table import few
from headstart.model.heads.kernel_layer import LastLayer
from headstart.model.inference.features import FeatureExtractor, listed
from headstart.model.inference.runtime import Runtime


@dataclass(frozen=True, eq=False)
class EnsembleMember:
    """One backbone and the last layer on it."""

    extractor: FeatureExtractor
    layer: LastLayer


@dataclass(frozen=True)
class Calibration:
    """Results on the validation set about how far to trust the probabilities.

    `temperature` is the divisor of the logits (already folded into the weights). `conformal_threshold` and
    `conformal_alpha` belong to `evaluation.conformal.prediction_sets` (method `lac`). `clip` is the lowest probability
    to submit if log-loss is scored (`evaluation.clipping`); 0 leaves probabilities unchanged.
    """

    temperature: float = 1.0
    conformal_threshold: float = 1.0
    conformal_alpha: float = 0.1
    clip: float = 0.0


@dataclass(frozen=True, eq=False, repr=False)
class Classifier(OneLineRepr):
    """A frozen-backbone or fine-tuned classifier, ready to predict: only what determines a prediction.

    Its origin is recorded in the run (`runs.provenance`).
    """

    members: tuple[EnsembleMember, ...]
    classes: tuple[str, ...]
    runtime: Runtime
    calibration: Calibration = Calibration()

    def summary(self) -> str:
        """The backbones and the number of classes."""
        return f"{self.backbones}, {len(self.classes)} classes"

    def facts(self) -> list[tuple[str, str]]:
        """Backbones, classes and calibration."""
        facts = {
            "backbones": [str(member.extractor) for member in self.members],
            "classes": few(self.classes),
            "runtime": str(self.runtime),
            **asdict(self.calibration),
        }
        return list(short_facts(facts))

    @property
    def backbones(self) -> str:
        """The backbones, each with all its inputs."""
        return listed(member.extractor for member in self.members)

    @property
    def id(self) -> str:
        """A short hash of everything that determines a prediction."""
        members = [
            (
                m.extractor.backbone.sha256,
                m.extractor.spec.as_dict(),
                sha256_bytes(b"".join(array.tobytes() for array in m.layer.arrays.values())),
            )
            for m in self.members
        ]
        return sha256_bytes(json.dumps([members, self.classes], sort_keys=True).encode())[:16]

    @property
    def ranges(self) -> ValueRanges:
        """The values that become 0 and 255 in images of more than 8 bits per channel; equal for all members."""
        return self.members[0].extractor.spec.ranges

    def logits(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Compute logits, float32 (N, K), from the float32 (N, D) features of each member, in their order.

        An image's logits do not depend on the other images.
        """
        total_NK = sum(m.layer(features_ND) for m, features_ND in zip(self.members, features, strict=True))
        return np.asarray(total_NK, np.float32)
