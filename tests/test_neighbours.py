"""The nearest rows, against brute force: exact for few rows, nearly so for many."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.data.neighbours import EXACT, neighbours


def unit(rows_ND: np.ndarray) -> np.ndarray:
    return (rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)).astype(np.float32)


def nearest(rows_ND: np.ndarray, k: int) -> np.ndarray:
    cosine_NN = rows_ND @ rows_ND.T
    np.fill_diagonal(cosine_NN, -9)
    return np.argsort(-cosine_NN, axis=1)[:, :k]


@pytest.mark.parametrize("n", [6, 90, 900])
def test_few_rows_are_compared_with_all_others(n: int) -> None:
    rows_ND = unit(np.random.default_rng(0).normal(size=(n, 16)))
    assert neighbours(rows_ND, 4).tolist() == nearest(rows_ND, 4).tolist()


def test_by_hand() -> None:
    rows_ND = unit(np.array([[1, 0], [0, 1], [1, 0.1], [-1, 0]]))
    assert neighbours(rows_ND, 2).tolist() == [[2, 1], [2, 0], [0, 1], [1, 2]]


def test_with_fewer_rows_than_neighbours_the_rest_is_none() -> None:
    rows_ND = unit(np.random.default_rng(0).normal(size=(3, 8)))
    assert neighbours(rows_ND, 4)[:, :2].tolist() == nearest(rows_ND, 2).tolist()
    assert neighbours(rows_ND, 4)[:, 2:].tolist() == [[-1, -1]] * 3
    assert neighbours(rows_ND[:1], 4).tolist() == [[-1] * 4]
    assert neighbours(rows_ND[:0], 4).shape == (0, 4)


def test_a_forest_finds_copies_among_many() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(size=(6_000, 20))
    near = base[:1_500] + rng.normal(size=(1_500, 20)) * 0.4
    rows_ND = unit(np.concatenate([base, near]) @ rng.normal(size=(20, 48)))
    found = neighbours(rows_ND, 5, leaf=128)
    there = (found[:1_500] == np.arange(6_000, 7_500)[:, None]).any(axis=1)
    back = (found[6_000:] == np.arange(1_500)[:, None]).any(axis=1)
    assert (there | back).mean() >= 0.97
    assert all(len(set(row)) == 5 and i not in row for i, row in enumerate(found.tolist()))
    assert (neighbours(rows_ND, 5, leaf=128) == found).all()


def test_neighbours_stand_in_the_order_of_their_cosines() -> None:
    rows_ND = unit(np.random.default_rng(2).normal(size=(EXACT + 1, 8)))
    cosine = np.einsum("nd,nkd->nk", rows_ND, rows_ND[neighbours(rows_ND, 5)])
    assert (np.diff(cosine, axis=1) <= 1e-6).all()
    assert cosine[:, 0].mean() > 0.99 * np.sort(rows_ND @ rows_ND.T, axis=1)[:, -2].mean()


def test_rows_that_are_all_the_same_cost_no_more() -> None:
    assert (neighbours(np.ones((5_000, 4), np.float32) / 2, 3, trees=2) >= 0).all()
