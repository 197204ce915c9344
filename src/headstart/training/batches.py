"""Batches of a training: tensors in, in an order that depends on (seed, epoch) alone.

A source of batches is asked for an epoch from batch number `start` on and gives the same batches whatever `start` is,
so that an interrupted training goes on where it stopped. `TensorBatches` serves activations (or pixels) that are held
in memory or memory-mapped: a step copies batch_size rows. Images that are
decoded and varied on the fly come from `training.image_batches`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class Batch:
    """What a step sees: `inputs` (B, ...), `targets` int64 (B,) or float32 (B, K), `indices` int64 (B,): which images."""

    inputs: torch.Tensor
    targets: torch.Tensor
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)


class Batches(Protocol):
    """A source of batches."""

    def __len__(self) -> int:
        """Batches in an epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (from 0) from number `start` on; the same ones whatever `start` is."""
        ...


@dataclass(frozen=True, eq=False)
class TensorBatches:
    """Batches over arrays: `inputs` (V, N, ...) holds V views of N images, `labels` is int64 (N,) or float32 (N, K).

    `inputs` may be a memory map: only the rows of a batch are read. With several views, epoch e shows image i in view
    (e + i) % V, so each epoch sees a mixture of views and V epochs see all. With `shuffle` the order is drawn anew each
    epoch from (seed, epoch). `steps_per_epoch` above 0 sets the number of batches of an epoch: further rounds over the
    images are begun, or the round is left unfinished (epoch e then begins another shuffled round). The last batch of
    a round over all images may be smaller than `batch_size`; with `steps_per_epoch` rounds are strung together and
    all batches are full.
    """

    inputs: Any
    labels: np.ndarray
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    steps_per_epoch: int = 0

    def __post_init__(self) -> None:
        if len(self.inputs.shape) < 2 or self.inputs.shape[1] != len(self.labels) or len(self.labels) == 0:
            raise ValueError(f"inputs {self.inputs.shape} are not (views, images, ...) of {len(self.labels)} labels")

    def __len__(self) -> int:
        return self.steps_per_epoch or math.ceil(len(self.labels) / self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """See `Batches`. Tensors are copies of the rows, so they may be written to."""
        order = self._order(epoch)
        views = len(self.inputs)
        for step in range(start, len(self)):
            picked = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield Batch(self._rows(picked, (epoch + picked) % views), self._targets(picked), picked)

    def _order(self, epoch: int) -> np.ndarray:
        """Numbers of the images in the order of an epoch, int64."""
        n = len(self.labels)
        wanted = self.steps_per_epoch * self.batch_size or n
        rounds = range(math.ceil(wanted / n))
        if not self.shuffle:
            return np.tile(np.arange(n), len(rounds))[:wanted]
        return np.concatenate([np.random.default_rng((self.seed, epoch, r)).permutation(n) for r in rounds])[:wanted]

    def _rows(self, picked: np.ndarray, views: np.ndarray) -> torch.Tensor:
        """In memory that torch laid out: some of its kernels round differently where numpy's happens to lie."""
        if isinstance(self.inputs, torch.Tensor):
            return self.inputs[torch.from_numpy(views), torch.from_numpy(picked)]
        dtype = torch.from_numpy(np.empty(0, self.inputs.dtype)).dtype
        rows = torch.empty((len(picked), *self.inputs.shape[2:]), dtype=dtype)
        if self.inputs.flags.c_contiguous:
            flat = self.inputs.reshape(-1, *self.inputs.shape[2:])
            np.take(flat, views * len(self.labels) + picked, axis=0, out=rows.numpy(), mode="clip")
        else:
            rows.numpy()[...] = self.inputs[views, picked]
        return rows

    def _targets(self, picked: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.labels[picked]))
