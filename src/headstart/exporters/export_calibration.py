"""The calibration of an exported path. A module of its own, since reading an export needs it, and no more of `parity`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExportCalibration:
    """What belongs to the exported path at one precision.

    `temperature` is a divisor of the run's logits, in the graph; the others as in `Calibration`. `images` were used to
    fit them; with 0, they are the run's own.
    """

    temperature: float = 1.0
    conformal_threshold: float = 1.0
    conformal_alpha: float = 0.1
    clip: float = 0.0
    images: int = 0
