"""Rendered scenes: the same image from the same seed, another one from another, any size, and not flat."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from headstart.samples.scenes import KINDS, render
from headstart.samples.scenes.painting import (
    TILE,
    blended,
    boxes,
    homography,
    mix,
    noise,
    pick,
    projected,
    ridge_line,
    tile,
)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed if len(seed) > 1 else seed[0])


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_what_its_seed_says(kind: str) -> None:
    first, again, other = render(kind, rng(1), 96), render(kind, rng(1), 96), render(kind, rng(2), 96)
    assert first.shape == (96, 96, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_another_process_renders_the_same() -> None:
    program = (
        "import hashlib, numpy as np\nfrom headstart.samples.scenes import KINDS, render\n"
        "print(hashlib.sha256(b''.join(render(k, np.random.default_rng(5), 64).tobytes() for k in KINDS)).hexdigest())"
    )
    here = hashlib.sha256(b"".join(render(kind, rng(5), 64).tobytes() for kind in KINDS)).hexdigest()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here


@pytest.mark.parametrize("kind", KINDS)
def test_images_differ_in_light_and_colour(kind: str) -> None:
    images = np.array([render(kind, rng(i), 32) for i in range(24)], float)
    assert images.mean(axis=(1, 2, 3)).std() > 10  # some are dark, some are bright
    assert images.mean(axis=(1, 2)).std(axis=0).min() > 10
    assert (images.std(axis=(1, 2, 3)) > 8).all()  # and none is empty


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_seed_fails(kind: str) -> None:
    for i in range(300):
        size = (32, 96, 128, 150, 160, 320)[i % 6]
        assert render(kind, rng(3, i), size).std() > 4, i


def test_what_cannot_be_rendered() -> None:
    known = "buildings, forest, glacier, mountain, sea, street"
    with pytest.raises(ValueError, match=f"^kind is 'desert'; expected one of {known}$"):
        render("desert", rng(0), 96)
    for size in (31, 321):
        with pytest.raises(ValueError, match=f"^size is {size}; expected 32 to 320 pixels$"):
            render("sea", rng(0), size)


# The paint box


@pytest.mark.parametrize("kind", ["hills", "soft", "rough", "fine", "white", "ridge", "cells"])
def test_noise_repeats_without_a_seam(kind: str) -> None:
    field = np.asarray(tile(kind), float)
    assert field.shape == (2 * TILE, 2 * TILE)
    assert (round(field.mean(), 3), round(field.std(), 3)) == (0, 1)
    inside = np.abs(np.diff(field, axis=0)).mean(axis=1)
    assert inside[TILE - 1] < 1.5 * inside.mean()
    assert noise(rng(0), 50, kind, span=330, stretch=2, angle=1).shape == (50, 50)


def test_a_homography_takes_corners_to_corners() -> None:
    corners = np.array([[0.1, 0.2], [0.8, 0.3], [0.9, 0.95], [0.0, 0.7]])
    matrix = homography(corners)
    assert projected(matrix, np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])) == pytest.approx(corners)
    a, b, c, d = corners  # diagonals meet where they meet
    t, _ = np.linalg.solve(np.stack([c - a, b - d], axis=1), b - a)
    assert projected(matrix, np.array([0.5, 0.5])) == pytest.approx(a + t * (c - a))


def test_small_parts() -> None:
    assert mix((0, 0, 0), (1, 2, 4), 0.5).tolist() == [0.5, 1, 2]
    assert mix((0, 0, 0), (1, 2, 4), np.array([[0, 1]])).tolist() == [[[0, 0, 0], [1, 2, 4]]]
    half = np.full((1, 2), 0.5)
    assert blended([(half, (1, 0, 0)), (1.0, (0, 1, 0))]).tolist() == [[[0.5, 1, 0]] * 2]
    assert boxes(0, 1, np.array([2, 3]), 4).tolist()[1] == [[0, 1], [3, 1], [3, 4], [0, 4]]
    line = ridge_line(rng(0), 77)
    assert line.shape == (77,)
    assert (line.min(), line.max()) == (0, 1)


def test_pick_keeps_to_its_chances() -> None:
    generator = rng(0)
    drawn = [pick(generator, {"a": 3.0, "b": 1.0, "c": 0.0}) for _ in range(4000)]
    assert drawn.count("c") == 0
    assert abs(drawn.count("a") - 3000) < 4 * 28  # four deviations of the binomial
