"""Groups of identical files and of connected pairs, against brute force."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headstart.data.duplicates as duplicates
from headstart.data.duplicates import exact_groups, group_pairs, joined, merge_groups


def components(n: int, pairs: list[tuple[int, int]]) -> list[int]:
    """Smallest member of each one's component, by plain search."""
    groups = list(range(n))
    for _ in range(n):
        for a, b in pairs:
            groups[a] = groups[b] = min(groups[a], groups[b])
    return groups


def test_examples() -> None:
    assert doctest.testmod(duplicates).failed == 0


def test_exact_groups_have_the_number_of_their_first_member() -> None:
    assert exact_groups(["x", "y", "y", "x", "", ""]).tolist() == [0, 1, 1, 0, 4, 5]
    assert exact_groups([]).dtype == np.int64


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30), st.data())
def test_merge_groups_equal_plain_search(n: int, data: st.DataObject) -> None:
    member = st.integers(0, n - 1)
    pairs = data.draw(st.lists(st.tuples(member, member), max_size=30))
    half = len(pairs) // 2
    parts = [np.array(part, dtype=np.int64).reshape(-1, 2) for part in (pairs[:half], pairs[half:])]
    merged = merge_groups(n, *parts)
    assert merged.tolist() == components(n, pairs)
    assert merge_groups(n, group_pairs(merged)).tolist() == merged.tolist()
    assert joined(merge_groups(n, parts[0]), parts[1]).tolist() == merged.tolist()


def test_joined_by_hand() -> None:
    groups_N = np.array([7, 7, 3, 3, 5])
    assert joined(groups_N, np.array([[1, 4]])).tolist() == [0, 0, 2, 2, 0]
    assert joined(groups_N, np.empty((0, 2), np.int64)).tolist() == [0, 0, 2, 2, 4]


def test_group_pairs_chain_the_members_of_each_group() -> None:
    assert group_pairs(np.array([4, 1, 4, 0, 4])).tolist() == [[0, 2], [2, 4]]
    assert group_pairs(np.arange(3)).shape == (0, 2)


def test_merge_groups_on_a_long_chain() -> None:
    order = np.random.default_rng(0).permutation(50_000)
    assert not merge_groups(50_000, np.stack([order[:-1], order[1:]], axis=1)).any()


def test_merge_groups_refuses_strangers() -> None:
    with pytest.raises(ValueError, match="pairs name members 0 to 5; expected 0 to 4"):
        merge_groups(5, np.array([[0, 5]]))
