"""Batches for the training loop, in an order that depends on (seed, epoch) alone.

A source yields the batches of an epoch from number `start` on, the same ones whatever `start` is, so an interrupted
training can resume where it stopped. `TensorBatches` serves activations (or pixels) that are in memory or
memory-mapped: a step copies batch_size rows. `training.image_batches` serves images decoded and augmented on the fly.
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
    """Data for one step: `inputs` (B, ...), `targets` int64 (B,) or float32 (B, K), images `indices` int64 (B,)."""

    inputs: torch.Tensor
    targets: torch.Tensor
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)


EVERY_BATCH = (0, 1)
"""All batches of an epoch, as a remainder and a divisor: see `Batches.epoch`."""


class Batches(Protocol):
    """A source of batches."""

    def __len__(self) -> int:
        """Batches per epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0, only: tuple[int, int] = EVERY_BATCH) -> Iterator[Batch]:
        """Yield the batches of an epoch (from 0) from number `start` on; the same ones whatever `start` is.

        With `only` (r, W), yield batches r, r + W, ... alone: the share of process r of W. The others are not read.
        """
        ...


def shared_numbers(start: int, end: int, only: tuple[int, int]) -> range:
    """Return the numbers of a share of the batches from `start` to before `end`.

    >>> list(shared_numbers(4, 9, (1, 2)))
    [5, 7]
    """
    remainder, divisor = only
    return range(start + (remainder - start) % divisor, end, divisor)


@dataclass(frozen=True, eq=False)
class TensorBatches:
    """Batches over arrays: `inputs` (V, N, ...) holds V views of N images, `labels` is int64 (N,) or float32 (N, K).

    `inputs` may be a memory map: only the rows of a batch are read. With several views, epoch e shows image i in view
    (e + i) % V, so each epoch mixes views and V epochs cover all. With `shuffle`, each epoch draws its order from
    (seed, epoch). A `steps_per_epoch` above 0 sets the number of batches per epoch: an epoch then repeats the images in
    a new order, or stops before it has used all (the next epoch shuffles again). The last batch of a pass over all
    images may be smaller than `batch_size`; with `steps_per_epoch`, passes are concatenated and all batches are full.
    With `maps`, inputs are (V, N, H, W, C) and batches are (B, C, H, W), as networks take them, in the same memory order.
    """

    inputs: Any
    labels: np.ndarray
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    steps_per_epoch: int = 0
    maps: bool = False

    def __post_init__(self) -> None:
        if len(self.inputs.shape) < 2 or self.inputs.shape[1] != len(self.labels) or len(self.labels) == 0:
            raise ValueError(f"inputs {self.inputs.shape} are not (views, images, ...) of {len(self.labels)} labels")

    def __len__(self) -> int:
        return self.steps_per_epoch or math.ceil(len(self.labels) / self.batch_size)

    def epoch(self, epoch: int, start: int = 0, only: tuple[int, int] = EVERY_BATCH) -> Iterator[Batch]:
        """Yield batches, see `Batches`. Tensors are copies of the rows, so they may be modified."""
        order = self._order(epoch)
        views = len(self.inputs)
        for step in shared_numbers(start, len(self), only):
            picked = order[step * self.batch_size : (step + 1) * self.batch_size]
            rows = self._rows(picked, (epoch + picked) % views)
            yield Batch(rows.permute(0, 3, 1, 2) if self.maps else rows, self._targets(picked), picked)

    def _order(self, epoch: int) -> np.ndarray:
        """Return the image numbers in the order of an epoch, int64."""
        n = len(self.labels)
        wanted = self.steps_per_epoch * self.batch_size or n
        rounds = range(math.ceil(wanted / n))
        if not self.shuffle:
            return np.tile(np.arange(n), len(rounds))[:wanted]
        return np.concatenate([np.random.default_rng((self.seed, epoch, r)).permutation(n) for r in rounds])[:wanted]

    def _rows(self, picked: np.ndarray, views: np.ndarray) -> torch.Tensor:
        """Copy rows into memory allocated by torch: some of its kernels round differently on numpy's alignment."""
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
