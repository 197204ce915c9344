"""How networks are run: `Runtime`, `Network`, `Session`.

`headstart.model.inference.engines` chooses a runtime and opens networks; nothing here imports an engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Runtime:
    """Where and how to run: `engine` openvino | torch, `device` cpu | cuda, `precision` bf16 | f32, images per `batch`."""

    engine: str
    device: str
    precision: str
    batch: int

    def __str__(self) -> str:
        return f"{self.engine} on {self.device}, {self.precision}"


class Session(Protocol):
    """One thread's access to a network: fill `pixels`, call `run`."""

    pixels: np.ndarray
    """uint8 (batch, image_size, image_size, 3)."""

    def run(self) -> np.ndarray:
        """Return features of the current `pixels`, float32 (batch, sum of block sizes); valid until the next call."""
        ...


class Network(Protocol):
    """A compiled backbone. `classifier` names timm's last layer, `classifier_tail` its weight's shape after (K, D).

    `block_sizes` are the columns of its output: the pooled features, then one block per stage.
    """

    block_sizes: tuple[int, ...]
    classifier: str
    classifier_tail: tuple[int, ...]

    def session(self) -> Session:
        """Open a new session, for one thread only."""
        ...
