"""Mixup and CutMix by hand, and what holds for all of their draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import RecipeError
from headstart.training.batches import Batch
from headstart.training.mixing import cutmix, mix, mixup, random_box, soft


def images(n: int = 6, side: int = 10) -> Batch:
    """Image i is all 10 * i, of class i % 3."""
    levels = torch.arange(n, dtype=torch.uint8)[:, None, None, None] * 10
    return Batch(levels.expand(n, side, side, 3).contiguous(), torch.arange(n) % 3, np.arange(n) + 100)


def test_mixup_by_hand() -> None:
    inputs = torch.tensor([[0.0, 8.0], [4.0, 4.0], [2.0, 0.0]])
    mixed = mixup(inputs, torch.tensor([1, 2, 0]), 0.25)
    assert mixed.tolist() == [[3.0, 5.0], [2.5, 1.0], [0.5, 6.0]]
    whole = mixup(torch.tensor([[255], [0]], dtype=torch.uint8), torch.tensor([1, 0]), 0.6)
    assert whole.dtype == torch.float32
    np.testing.assert_allclose(whole.numpy(), [[153.0], [102.0]], rtol=1e-6)


def test_cutmix_by_hand() -> None:
    batch = images(2, side=4)
    mixed, ratio = cutmix(batch.inputs, torch.tensor([1, 0]), (0, 1, 2, 4))  # rows 0-1, columns 1-3: 6 of 16
    assert ratio == 1 - 6 / 16 and mixed.dtype == torch.uint8
    assert mixed[0, :, :, 0].tolist() == [[0, 10, 10, 10], [0, 10, 10, 10], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert mixed[1, :, :, 2].tolist() == [[10, 0, 0, 0], [10, 0, 0, 0], [10, 10, 10, 10], [10, 10, 10, 10]]
    assert batch.inputs[0].max() == 0  # the given tensor is not written to
    maps = torch.arange(2.0)[:, None, None, None].expand(2, 5, 4, 6)  # activations: channels first
    mixed, ratio = cutmix(maps, torch.tensor([1, 0]), (1, 0, 2, 6))
    assert ratio == 0.75 and mixed[0, 3].tolist() == [[0.0] * 6, [1.0] * 6, [0.0] * 6, [0.0] * 6]


def test_boxes_by_hand() -> None:
    class Fixed:
        def __init__(self, *numbers: int) -> None:
            self.numbers = list(numbers)

        def integers(self, high: int) -> int:
            return self.numbers.pop(0)

    assert random_box(10, 20, 0.75, Fixed(5, 10)) == (3, 5, 7, 15)  # type: ignore[arg-type]  # half of each side
    assert random_box(10, 20, 0.75, Fixed(0, 19)) == (0, 14, 2, 20)  # type: ignore[arg-type]  # cut at two edges
    assert random_box(10, 20, 1.0, Fixed(4, 4)) == (4, 4, 4, 4)  # type: ignore[arg-type]  # nothing


def test_nothing_asked_for_returns_the_batch_itself() -> None:
    batch = images()
    assert mix(batch, 3, 0.0, 0.0, 0, 0, 0) is batch


alphas = st.sampled_from([(0.2, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.3), (0.4, 0.4)])


@settings(max_examples=60, deadline=None)
@given(alphas=alphas, n=st.integers(1, 7), side=st.integers(1, 12), seed=st.integers(0, 9), step=st.integers(0, 99))
def test_what_holds_for_every_batch(alphas: tuple[float, float], n: int, side: int, seed: int, step: int) -> None:
    batch = images(n, side)
    mixed = mix(batch, 3, *alphas, seed, 1, step)
    again = mix(batch, 3, *alphas, seed, 1, step)
    assert torch.equal(mixed.inputs, again.inputs) and torch.equal(mixed.targets, again.targets)
    assert mixed.inputs.shape == batch.inputs.shape
    assert mixed.targets.shape == (n, 3) and mixed.targets.dtype == torch.float32
    np.testing.assert_allclose(mixed.targets.sum(dim=1).numpy(), 1, rtol=1e-6)
    assert mixed.targets.min() >= 0
    np.testing.assert_array_equal(mixed.indices, batch.indices)
    # Labels are blended as pixels are: with one hot vector per image, and its level in its pixels, both give one mean.
    own = Batch(batch.inputs, torch.arange(n), batch.indices)
    mixed = mix(own, n, *alphas, seed, 1, step)
    mean_level = mixed.inputs.float().mean(dim=(1, 2, 3))
    np.testing.assert_allclose(mean_level.numpy(), (mixed.targets @ (10.0 * torch.arange(n))).numpy(), atol=1e-3)


def test_draws_differ_by_seed_epoch_and_step_and_follow_beta() -> None:
    def ratio(seed: int, epoch: int, step: int, alpha: float = 1.0) -> float:
        inputs = torch.tensor([[0.0], [1.0]])
        mixed = mix(Batch(inputs, torch.tensor([0, 1]), np.arange(2)), 2, alpha, 0.0, seed, epoch, step)
        return float(mixed.inputs[0, 0])

    assert len({ratio(0, 0, 0), ratio(0, 0, 1), ratio(0, 1, 0), ratio(1, 0, 0)} - {0.0}) >= 2
    drawn = np.array([ratio(0, 0, step) for step in range(600)])
    swapped = drawn[drawn > 0]  # half of the permutations of two change nothing
    assert 230 < len(swapped) < 370
    assert abs(swapped.mean() - 0.5) < 0.06 and abs(swapped.std() - 1 / np.sqrt(12)) < 0.04  # Beta(1, 1) is uniform
    strong = np.array([ratio(0, 0, step, 0.1) for step in range(600)])
    assert np.mean((strong[strong > 0] < 0.05) | (strong[strong > 0] > 0.95)) > 0.6  # a small alpha hardly blends


def test_both_take_turns_at_equal_chances() -> None:
    batch = images(4, 8)
    kinds = [mix(batch, 3, 1.0, 1.0, 0, 0, step).inputs.dtype for step in range(300)]
    assert 115 <= kinds.count(torch.uint8) <= 185  # cutmix leaves whole numbers


def test_soft_targets_are_blended_as_they_are() -> None:
    targets = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    batch = Batch(torch.zeros(2, 4), targets, np.arange(2))
    mixed = mix(batch, 2, 1.0, 0.0, 0, 0, 0).targets
    np.testing.assert_allclose(mixed.sum(dim=1).numpy(), 1, rtol=1e-6)
    assert soft(targets, 2) is targets
    assert soft(torch.tensor([2, 0]), 3).tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]


def test_cutmix_on_feature_vectors_is_refused() -> None:
    batch = Batch(torch.zeros(4, 20), torch.tensor([0, 1, 0, 1]), np.arange(4))
    with pytest.raises(RecipeError) as error:
        mix(batch, 2, 0.0, 1.0, 0, 0, 0)
    assert str(error.value) == (
        "cutmix cannot be used on feature vectors (inputs of shape (4, 20)): it needs images.\n"
        "  Use mixup, or an approach that trains on images, such as finetune."
    )
