"""Two images laid over each other: known shifts are found, and what differs is told from what is only brighter."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from headstart.data.alignment import (
    COARSE,
    COARSEST,
    MAX_SCALE,
    MAX_SHIFT,
    align,
    as_bright,
    blurred,
    correlation,
    detail,
    differing,
    place,
    place_coarsely,
    shrunk,
    warp,
    within,
)

NOWHERE = np.array([1, 0, 1, 0], np.float32)
"""The scale and shift of an image that stays where it is."""


def images(n: int, side: int = 64, first: int = 0) -> np.ndarray:
    """Float32 (n, side, side), 0 to 255: noise that is stronger the coarser it is, as in photographs."""
    rows = np.fft.fftfreq(side)[:, None]
    power = 1 / np.maximum(np.hypot(rows, rows.T), 1 / side)
    noise = np.stack([np.random.default_rng(first + k).normal(size=(side, side)) for k in range(n)])
    made = np.fft.ifft2(np.fft.fft2(noise) * power**1.2).real
    return np.clip(128 + 50 * made / made.std(axis=(1, 2), keepdims=True), 0, 255).astype(np.float32)


def whole(a: np.ndarray) -> np.ndarray:
    return np.ones((len(a), *a.shape[-2:]), np.float32)


# Reading, blurring, shrinking


def test_a_place_says_which_part_of_the_image_is_read() -> None:
    """Coordinates go from -1 to 1: half the scale, moved by half to the right, is the right half of the middle rows."""
    b = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    read, inside = warp(b, np.array([[0.5, 0.5, 0.5, 0.0]], np.float32))
    assert read[0, 0].tolist() == [4.75, 5.25, 5.75, 6.0]  # columns 1.75, 2.25, 2.75, 3 of row 0.75
    assert inside.all()
    same, _ = warp(b, NOWHERE[None])
    assert same.tolist() == b.tolist()


def test_what_lies_outside_of_the_image_is_said_to() -> None:
    _, inside = warp(np.ones((1, 4, 4), np.float32), np.array([[1, 1, 1, 0]], np.float32))
    assert inside[0].tolist() == [[1, 1, 0, 0]] * 4


def test_reading_equals_that_of_scipy() -> None:
    b = images(1, 32)
    read, inside = warp(b, np.array([[0.9, 0.05, 1.1, -0.02]], np.float32))
    at = (np.arange(32) + 0.5) / 16 - 1
    down, across = ((scale * at + shift + 1) * 16 - 0.5 for scale, shift in ((1.1, -0.02), (0.9, 0.05)))
    expected = ndimage.map_coordinates(b[0], np.meshgrid(down, across, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(read[0], expected, atol=0.01)
    assert inside[0].all(axis=0).sum() == 0 and inside[0, 16].all()


def test_shrunk_by_hand() -> None:
    grey = np.array([[[0, 4, 1, 1], [8, 0, 1, 1], [2, 2, 0, 0], [2, 2, 0, 8]]], np.uint8)
    assert shrunk(grey, 2).tolist() == [[[3, 1], [2, 2]]]


@pytest.mark.parametrize("sigma", [0.7, 1.5, 3])
def test_blurred_is_a_gaussian_with_its_weights_renormalised_at_the_edges(sigma: float) -> None:
    grey = images(2, 32)
    options = {"sigma": (0, sigma, sigma), "mode": "constant", "truncate": 8}
    expected = ndimage.gaussian_filter(grey, **options) / ndimage.gaussian_filter(np.ones_like(grey), **options)
    np.testing.assert_allclose(blurred(grey, sigma), expected, atol=0.05)
    np.testing.assert_allclose(blurred(np.full((1, 16, 16), 9, np.float32), sigma), 9, rtol=1e-5)


def test_correlation_equals_that_of_numpy() -> None:
    a, b = images(1, 16), images(1, 16, first=1)
    inside = whole(a)
    inside[:, :, :5] = 0
    expected = np.corrcoef(a[inside > 0], b[inside > 0])[0, 1]
    np.testing.assert_allclose(correlation(a, b, inside), [expected], atol=1e-4)
    assert correlation(a, np.full_like(a, 7), inside).tolist() == [-1]


def test_within_takes_a_border_from_each_edge() -> None:
    inside = np.ones((1, 6, 6), np.float32)
    inside[:, :, 5] = 0  # the second image ends here
    assert within(inside, 1)[0].tolist() == [[0] * 6, *[[0, 1, 1, 1, 0, 0]] * 4, [0] * 6]


# Alignment


def test_align_finds_a_known_shift_and_scale_whatever_the_brightness() -> None:
    b = blurred(images(20, 32), 0.7)
    truth = np.tile(np.array([0.93, 0.05, 1.06, -0.04], np.float32), (20, 1))
    a, _ = warp(b, truth)
    np.testing.assert_allclose(align(a * 0.7 + 20, b, steps=10), truth, atol=0.01)


def test_align_goes_no_farther_than_its_bounds() -> None:
    b = blurred(images(8, 32), 1.5)
    a, _ = warp(b, np.tile(np.array([0.7, 0.3, 0.7, 0.3], np.float32), (8, 1)))
    found = align(a, b, steps=10)
    assert (found[:, ::2] >= np.float32(1 / MAX_SCALE)).all() and (found[:, ::2] <= np.float32(MAX_SCALE)).all()
    assert (np.abs(found[:, 1::2]) <= np.float32(MAX_SHIFT)).all()


def test_align_of_blank_images_stays_in_place() -> None:
    blank = np.full((2, 16, 16), 200, np.float32)
    np.testing.assert_allclose(align(blank, blank, steps=5), np.tile(NOWHERE, (2, 1)), atol=1e-3)


def test_place_finds_crops_and_tells_other_images() -> None:
    """5 % off each edge is a scale of 0.9; 5 % off the left alone a scale of 0.95 and a shift of 0.05."""
    b = images(12, 128)
    for truth in ([0.9, 0, 0.9, 0], [0.95, 0.05, 1, 0], [0.95, -0.05, 0.95, 0.05]):
        whole_one, crop = shrunk(b, 2), shrunk(warp(b, np.tile(np.array(truth, np.float32), (12, 1)))[0], 2)
        begun, likely = place_coarsely(shrunk(crop, 4), shrunk(whole_one, 4), np.ones(12))
        placed, alike = place(crop, whole_one, begun)
        np.testing.assert_allclose(placed, np.tile(truth, (12, 1)), atol=0.01)
        assert (likely >= COARSEST).all() and (alike > 0.9).all()
    first, other = shrunk(b, 2), shrunk(images(12, 128, first=50), 2)
    begun, likely = place_coarsely(shrunk(first, 4), shrunk(other, 4), np.ones(12))
    assert (likely < COARSEST).all()
    assert (place(first, other, begun)[1] < COARSE).all()


# What differs


def test_an_image_differs_in_nothing_from_itself() -> None:
    a = images(3)[:, None]
    np.testing.assert_allclose(differing(a, a, whole(a)), 0, atol=1e-6)


def test_brightness_is_no_difference_even_where_it_is_cut_off_at_white() -> None:
    a = images(6)[:, None]
    darker, clipped = 0.6 * a + 15, np.minimum(1.4 * a, 255)
    np.testing.assert_allclose(differing(a, darker, whole(a)), 0, atol=1e-5)
    assert (clipped == 255).mean() > 0.1
    assert (differing(a, clipped, whole(a)) < 0.02).all()
    np.testing.assert_allclose(differing(a, clipped, whole(a)), differing(clipped, a, whole(a)), atol=1e-6)


def test_different_images_differ_in_more_than_all_of_the_variance() -> None:
    """Only the blocks that differ most count, and there even independent images differ in more than their variance."""
    a, b = images(6)[:, None], images(6, first=20)[:, None]
    assert (differing(a, b, whole(a)) > 1).all()


def test_a_small_spot_counts_as_much_as_a_difference_all_over() -> None:
    """White noise of standard deviation 10 in four of the 64 blocks, or in all: some 100 of a variance of 2,500."""
    a = np.clip(images(6), 20, 220)[:, None]
    noise = np.random.default_rng(9).normal(0, 10, a.shape).astype(np.float32)
    spot = np.zeros_like(noise)
    spot[..., :16, :16] = noise[..., :16, :16]
    one, all_over = differing(a, a + spot, whole(a)), differing(a, a + noise, whole(a))
    assert (one > 0.025).all() and (one < 0.07).all()
    assert (all_over > one).all() and (all_over < 2 * one).all()


def test_what_is_not_inside_does_not_count() -> None:
    a = images(2)[:, None]
    b = a.copy()
    b[..., :16] = 0
    inside = whole(a)
    inside[:, :, :16] = 0
    np.testing.assert_allclose(differing(a, b, inside), 0, atol=1e-6)


def test_gain_and_offset_are_those_of_least_squares() -> None:
    b = np.clip(images(4), 20, 200)[:, None]
    gain, offset = as_bright(0.8 * b + 12, b, whole(b)[:, None])
    np.testing.assert_allclose(gain[:, 0, 0, 0], 0.8, atol=1e-4)
    np.testing.assert_allclose(offset[:, 0, 0, 0], 12, atol=0.01)


def test_what_does_not_fit_hardly_changes_gain_and_offset() -> None:
    """Plain least squares with 5 % of black pixels would be off by more than 0.05."""
    b = np.clip(images(4), 20, 200)[:, None]
    a = 0.8 * b + 12
    a[..., 10:24, 10:24] = 0
    gain, _ = as_bright(a, b, whole(b)[:, None])
    np.testing.assert_allclose(gain[:, 0, 0, 0], 0.8, atol=0.03)


def test_detail_is_that_of_one_image_only_if_fine_structure_agrees() -> None:
    """Two images with the same coarse structure, and fine structure of their own, are no copies."""
    coarse = blurred(images(6, 128), 8)
    fine, other = (images(6, 128, first=k) for k in (10, 30))
    fine, other = fine - blurred(fine, 3), other - blurred(other, 3)
    one = coarse + fine
    np.testing.assert_allclose(detail(one, one, whole(one)), 1, atol=0.2)
    assert (detail(one, coarse + other, whole(one)) < 0.3).all()


def test_flat_images_have_no_detail_that_agrees() -> None:
    flat = np.full((1, 64, 64), 100, np.float32)
    noisy = [flat + np.random.default_rng(k).normal(0, 0.5, flat.shape).astype(np.float32) for k in (0, 1)]
    assert abs(detail(*noisy, whole(flat))[0]) < 0.2
    np.testing.assert_allclose(detail(flat, flat, whole(flat)), 0, atol=1e-6)
