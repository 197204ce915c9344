"""What is taken for copies, and in which groups: decisions on pairs and scores by hand, without any image."""

from __future__ import annotations

import doctest
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import headstart.data.copies as copies
from headstart.data.copies import CEILING, LOWEST, Copies, confirm, margins, score, sure_score

Scored = dict[tuple[int, int], float]
"""Pairs i < j and their scores: 2.0 is 1 % of the variance that differs."""


def decided(
    n: int, scored: Scored, labels: Sequence[int] = (), detail: float = 0.5, further: Scored | None = None
) -> Copies:
    """What `confirm` makes of these pairs; `detail` is that of all pairs, `further` are scores of pairs not among them."""
    pairs_M2 = np.array(sorted(scored), np.int64).reshape(-1, 2)
    labels_N = np.array(labels or [-1] * n, np.int64)
    return confirm(
        n,
        pairs_M2,
        np.array([scored[i, j] for i, j in pairs_M2.tolist()]),
        labels_N,
        detail_of=lambda pairs: np.full(len(pairs), detail),
        score_of=lambda pairs: np.array([(further or {}).get((i, j), 0.0) for i, j in pairs.tolist()]),
    )


def test_examples() -> None:
    assert doctest.testmod(copies).failed == 0


def test_the_score_is_powers_of_ten_and_ends_at_five() -> None:
    assert score(np.array([1.0, 0.1, 0.01, 1e-9, 0.0])).tolist() == [0, 1, 2, 5, 5]


# Margins


def test_the_margin_is_the_widest_gap_after_a_score_for_either_image() -> None:
    """Image 0 has scores 3.0, 2.8, 0.9: gaps 0.2, 1.9, 0.9. Image 1 has 3.0 and 2.5: gaps 0.5 and 2.5."""
    pairs_M2 = np.array([[0, 1], [0, 2], [0, 3], [1, 4]])
    found = margins(5, pairs_M2, np.array([3.0, 2.8, 0.9, 2.5]))
    np.testing.assert_allclose(found, [1.9, 1.9, 0.9, 2.5])


def test_no_margin_without_pairs() -> None:
    assert margins(3, np.empty((0, 2), np.int64), np.empty(0)).tolist() == []


@given(st.dictionaries(st.tuples(st.integers(0, 7), st.integers(0, 7)), st.floats(0, 5), max_size=20))
def test_margins_equal_those_of_a_plain_search(scored: Scored) -> None:
    kept = {pair: value for pair, value in scored.items() if pair[0] < pair[1]}
    pairs_M2 = np.array(list(kept), np.int64).reshape(-1, 2)
    expected = []
    for pair, value in kept.items():
        gaps = []
        for image in pair:
            listed = sorted((v for other, v in kept.items() if image in other and v <= value), reverse=True)
            gaps.append(max(a - b for a, b in zip(listed, [*listed[1:], 0.0], strict=True)))
        expected.append(min(gaps))
    np.testing.assert_allclose(margins(8, pairs_M2, np.array(list(kept.values()))), expected, atol=1e-12)


# One pair


def test_a_pair_that_agrees_much_better_than_all_others_is_taken() -> None:
    found = decided(4, {(0, 1): 2.0, (2, 3): 0.3})
    assert found.pairs_M2.tolist() == [[0, 1]]
    assert found.groups_N.tolist() == [0, 0, 2, 3]
    np.testing.assert_allclose(found.difference_M, [0.01])
    assert found.certain_M.tolist() == [False]


def test_a_pair_that_agrees_little_better_than_another_is_not_taken() -> None:
    """Image 0 agrees with 2 nearly as well as with 1, and 2 with 3 nearly as well as with 0 ... down to nothing."""
    scored = {(0, 1): 2.0, (0, 2): 1.6, (0, 3): 1.2, (0, 4): 0.8, (0, 5): 0.4}
    assert decided(6, scored).pairs_M2.tolist() == []


def test_the_surest_pairs_stand_first() -> None:
    assert decided(6, {(0, 1): 2.0, (2, 3): 4.0, (4, 5): 3.0}).pairs_M2.tolist() == [[2, 3], [4, 5], [0, 1]]


def test_no_pairs_and_no_images() -> None:
    assert decided(3, {}).groups_N.tolist() == [0, 1, 2]
    assert decided(0, {}).groups_N.tolist() == []
    assert decided(3, {}).limit == pytest.approx(10**-LOWEST)


# How sure is sure


def test_the_sure_score_lies_beyond_the_look_alikes_of_this_data() -> None:
    """Best scores of ten images: 0.5 six times, 0.9 four times. Middle 0.5, upper tenth 0.9: 0.5 + 2.6 * 0.4 = 1.54."""
    pairs_M2 = np.array([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]])
    assert sure_score(10, pairs_M2, np.array([0.5, 0.5, 0.5, 0.9, 0.9])) == pytest.approx(1.54)


def test_the_sure_score_has_bounds() -> None:
    pairs_M2 = np.array([[0, 1], [2, 3]])
    assert sure_score(4, pairs_M2, np.array([0.1, 0.1])) == LOWEST
    assert sure_score(4, pairs_M2, np.array([0.1, 2.0])) == CEILING
    assert sure_score(0, np.empty((0, 2), np.int64), np.empty(0)) == LOWEST


def test_a_pair_that_is_not_sure_needs_fine_structure_that_agrees() -> None:
    assert decided(2, {(0, 1): 1.0}, detail=0.79).pairs_M2.tolist() == []
    assert decided(2, {(0, 1): 1.0}, detail=0.81).pairs_M2.tolist() == [[0, 1]]
    assert decided(2, {(0, 1): 0.59}, detail=1.0).pairs_M2.tolist() == []  # too little to be a copy at all


def test_fine_structure_that_look_alikes_share_confirms_nothing() -> None:
    look_alikes = {(2, 3): 0.5, (4, 5): 0.5}
    assert decided(6, {(0, 1): 1.0} | look_alikes, detail=0.9).pairs_M2.tolist() == []


# Groups


def test_a_chain_is_no_group() -> None:
    """A~B, B~C and C~D: B is the best connected and takes A and C; A and D were never alike, so D is left alone."""
    found = decided(4, {(0, 1): 2.0, (1, 2): 2.1, (2, 3): 2.0})
    assert found.groups_N.tolist() == [0, 0, 0, 3]
    assert found.pairs_M2.tolist() == [[1, 2], [0, 1]]
    assert found.doubted_K2.tolist() == [[2, 3]]


def test_an_image_in_the_middle_confirms_what_was_not_compared_with_it() -> None:
    chain = {(0, 1): 2.0, (1, 2): 2.1, (2, 3): 2.0}
    assert decided(4, chain, further={(1, 3): 1.3}).groups_N.tolist() == [0, 0, 0, 0]
    assert decided(4, chain, further={(1, 3): 1.1}).groups_N.tolist() == [0, 0, 0, 3]  # less than `LOWEST`


def test_ten_copies_of_one_image_do_not_rule_each_other_out() -> None:
    scored = {(i, j): 2.0 + 0.01 * j for i in range(10) for j in range(i + 1, 10)}
    found = decided(11, scored)
    assert found.groups_N.tolist() == [0] * 10 + [10]
    assert len(found.pairs_M2) == 45


@pytest.mark.parametrize(("value", "group"), [(1.4, 1), (1.6, 12)])
def test_a_large_group_needs_stronger_evidence(value: float, group: int) -> None:
    """Sure is 1.2 here, and strong 1.5; with 11 copies of one image the group is large."""
    found = decided(12, {(0, j): value for j in range(1, 12)})
    assert np.bincount(found.groups_N).max() == group
    assert len(found.doubted_K2) == (0 if group == 12 else 11)


def test_two_labels_need_stronger_evidence() -> None:
    labels = [0, 1, 0, 1, 0, -1]
    found = decided(6, {(0, 1): 1.4, (2, 3): 1.6, (4, 5): 1.4}, labels)
    assert found.groups_N.tolist() == [0, 1, 2, 2, 4, 4]
    assert found.doubted_K2.tolist() == [[0, 1]]


def test_a_component_of_some_thousand_images_takes_no_time() -> None:
    n = 3_000
    found = decided(n, {(i, i + 1): 2.0 for i in range(n - 1)})
    assert np.bincount(found.groups_N).max() == 3


def test_the_frames_of_a_video_are_compared_in_proportion_to_their_number() -> None:
    """Each frame is a copy of the six before it, and paired with the three before it."""

    def compared(n: int) -> int:
        pairs_M2 = np.array([(i, j) for i in range(n) for j in range(i + 1, min(i + 4, n))])
        asked: list[np.ndarray] = []

        def score_of(pairs_K2: np.ndarray) -> np.ndarray:
            asked.append(pairs_K2)
            return np.where(pairs_K2[:, 1] - pairs_K2[:, 0] <= 6, 2.0, 0.0)

        ones_M, labels_N = np.ones(len(pairs_M2)), np.full(n, -1)
        found = confirm(
            n, pairs_M2, 2 * ones_M, labels_N, detail_of=lambda pairs: np.ones(len(pairs)), score_of=score_of
        )
        assert np.bincount(found.groups_N).max() == 10
        return sum(map(len, asked))

    assert compared(60) < compared(120) < 2.5 * compared(60)


def test_sure_pairs_are_none_if_their_fine_structure_says_the_contrary() -> None:
    pairs = {(0, 1): 1.4, (2, 3): 1.6}
    assert decided(4, pairs, detail=0.25).groups_N.tolist() == [0, 0, 2, 2]
    assert decided(4, pairs, detail=0.1).groups_N.tolist() == [0, 1, 2, 2]


# How many are wrong


def test_the_share_of_wrong_pairs_follows_from_their_labels() -> None:
    """One in 20 pairs taken has two labels, and half of the look-alikes: a tenth is wrong, if wrong ones are alike."""
    taken = {(2 * k, 2 * k + 1): 3.0 for k in range(20)}
    look_alikes = {(40 + 2 * k, 41 + 2 * k): 0.3 for k in range(12)}
    labels = [0, 1] + [0] * 38 + [0, 1] * 6 + [0, 0] * 6
    assert decided(64, taken | look_alikes, labels).false_share == pytest.approx(0.1)


def test_the_share_of_wrong_pairs_is_not_told_from_few_or_without_labels() -> None:
    taken = {(0, 1): 3.0}
    look_alikes = {(2 * k, 2 * k + 1): 0.3 for k in range(1, 5)}
    assert decided(10, taken | look_alikes, [0, 1] * 5).false_share is None
    assert decided(10, taken | look_alikes).false_share is None


# What is done with them


def found(
    n: int, pairs: list[tuple[int, int]], groups: list[int], doubted: list[tuple[int, int]] | None = None
) -> Copies:
    pairs_M2, doubted_K2 = (np.array(some, np.int64).reshape(-1, 2) for some in (pairs, doubted or []))
    m = len(pairs)
    return Copies(pairs_M2, np.arange(m) / 100, np.zeros(m, bool), np.array(groups), doubted_K2=doubted_K2)


def test_none() -> None:
    none = Copies.none(3)
    assert none.pairs_M2.shape == (0, 2) and none.groups_N.tolist() == [0, 1, 2]


def test_without_a_pair_its_group_is_what_the_other_pairs_hold_together() -> None:
    three = found(5, [(0, 1), (1, 2), (3, 4)], [0, 0, 0, 3, 3])
    left = three.without([(1, 0)])
    assert left.pairs_M2.tolist() == [[1, 2], [3, 4]] and left.difference_M.tolist() == [0.01, 0.02]
    assert left.groups_N.tolist() == [0, 1, 1, 3, 3]
    assert three.without([]).groups_N.tolist() == three.groups_N.tolist()


def test_without_an_image_nothing_holds_it() -> None:
    three = found(3, [(0, 1), (0, 2), (1, 2)], [0, 0, 0])
    assert three.without([(0, 1)]).groups_N.tolist() == [0, 0, 0]  # by way of 2
    assert three.without([(0, 1), (0, 2)]).groups_N.tolist() == [0, 1, 1]


def test_among_more_images_copies_keep_to_their_places() -> None:
    """Images 0, 1 and 2 are the second, third and sixth of six."""
    wider = found(3, [(0, 2)], [0, 1, 0], [(1, 2)]).among(np.array([1, 2, 5]), 6)
    assert wider.pairs_M2.tolist() == [[1, 5]]
    assert wider.groups_N.tolist() == [0, 1, 2, 3, 4, 1]
    assert wider.doubted_K2.tolist() == [[2, 5]]
