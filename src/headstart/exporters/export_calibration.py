"""The calibration of an exported path. A module of its own, since reading an export needs nothing else of `parity`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExportCalibration:
    """The calibration of the exported path at one precision.

    `temperature` divides the run's logits inside the graph; the other fields are as in `Calibration`. `images` is how many
    were used to fit them; if 0, the values are the run's own.
    """

    temperature: float = 1.0
    conformal_threshold: float = 1.0
    conformal_alpha: float = 0.1
    clip: float = 0.0
    images: int = 0
