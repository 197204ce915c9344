"""Groups of copies, against brute force and on pictures that were really saved again."""

from __future__ import annotations

import doctest
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

import headstart.data.duplicates as duplicates
from headstart.data.duplicates import (
    MIN_DETAIL,
    count_bits,
    detail,
    exact_groups,
    group_pairs,
    merge_groups,
    perceptual_groups,
    perceptual_pairs,
    unit_rows,
)
from headstart.vision.screen_worker import dhash


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A picture with large and small structure, another one for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    fine = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return Image.blend(coarse, fine, 0.2)


def as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality)
    return Image.open(io.BytesIO(data.getvalue())).convert("RGB")


def components(n: int, pairs: list[tuple[int, int]]) -> list[int]:
    """Smallest member of each one's component, by plain search."""
    groups = list(range(n))
    for _ in range(n):
        for a, b in pairs:
            groups[a] = groups[b] = min(groups[a], groups[b])
    return groups


def slow_detail(value: int) -> int:
    rows = [(value >> shift) & 255 for shift in range(56, -8, -8)]
    return sum(bin(a ^ b).count("1") for a, b in itertools.pairwise(rows))


def slow_groups(hashes: list[int], max_distance: int) -> list[int]:
    def copies(a: int, b: int) -> bool:
        least = min(slow_detail(a), slow_detail(b))
        distance = bin(a ^ b).count("1")
        return least >= MIN_DETAIL and distance <= min(max_distance, least - MIN_DETAIL + 1)

    n = len(hashes)
    return components(n, [(i, j) for i in range(n) for j in range(i + 1, n) if copies(hashes[i], hashes[j])])


def test_examples() -> None:
    assert doctest.testmod(duplicates).failed == 0


def test_exact_groups_have_the_number_of_their_first_member() -> None:
    assert exact_groups(["x", "y", "y", "x", "", ""]).tolist() == [0, 1, 1, 0, 4, 5]
    assert exact_groups([]).dtype == np.int64


def test_bits_and_detail_by_hand() -> None:
    values = np.array([0, 1, 2**64 - 1, 0xFF00_0000_0000_0000, 0x00FF_00FF_00FF_00FF], dtype=np.uint64)
    assert count_bits(values).tolist() == [0, 1, 64, 8, 32]
    assert detail(values).tolist() == [0, 1, 0, 8, 56]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=12), st.integers(0, 10), st.data())
def test_perceptual_groups_equal_brute_force(seeds: list[int], max_distance: int, data: st.DataObject) -> None:
    hashes = list(seeds)
    for _ in range(20):  # neighbours a few bits away, some of neighbours
        flips = data.draw(st.lists(st.integers(0, 63), max_size=6))
        hashes.append(data.draw(st.sampled_from(hashes)) ^ sum(1 << bit for bit in set(flips)))
    assert perceptual_groups(hashes, max_distance=max_distance).tolist() == slow_groups(hashes, max_distance)


def test_perceptual_groups_equal_brute_force_on_many() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**64, 150, dtype=np.uint64)
    noise = np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, (4, 150), dtype=np.uint64), axis=0)
    hashes = [
        int(value) for value in np.concatenate([base, base ^ noise, rng.integers(0, 2**64, 100, dtype=np.uint64)])
    ]
    found = perceptual_groups(hashes)
    assert found.tolist() == slow_groups(hashes, 4)
    assert (found[150:300] == np.arange(150)).all()


def test_hashes_that_say_nothing_are_not_lumped_together() -> None:
    blank, white, ramp = 0, 2**64 - 1, 0xF0F0_F0F0_F0F0_F0F0
    assert len(perceptual_pairs([blank] * 5 + [-1] * 5 + [white] * 5 + [ramp] * 5 + [1, 2, 3])) == 0


def test_many_equal_hashes_give_a_chain_and_not_all_pairs() -> None:
    assert len(perceptual_pairs([0x1234_5678_9ABC_DEF0] * 5_000)) == 4_999


def test_max_distance_is_checked() -> None:
    with pytest.raises(ValueError, match="max_distance is 17; expected 0 to 16 bits"):
        perceptual_pairs([1, 2], max_distance=17)


@pytest.mark.parametrize("change", ["quality 50", "half size", "double size", "square", "brighter", "grey"])
def test_pictures_saved_again_are_found_and_others_are_not(change: str) -> None:
    changes = {
        "quality 50": lambda p: as_jpeg(p, 50),
        "half size": lambda p: p.resize((160, 120), Image.Resampling.LANCZOS),
        "double size": lambda p: p.resize((640, 480), Image.Resampling.BICUBIC),
        "square": lambda p: p.resize((200, 200)),
        "brighter": lambda p: ImageEnhance.Brightness(p).enhance(1.1),
        "grey": lambda p: p.convert("L").convert("RGB"),
    }
    pictures = [scene(seed) for seed in range(40)]
    hashes = [dhash(p) for p in pictures] + [dhash(changes[change](p)) for p in pictures]
    groups = perceptual_groups(hashes)
    assert (groups[:40] == np.arange(40)).all()
    assert (groups[40:] == np.arange(40)).mean() >= 0.95
    assert ((groups[40:] == np.arange(40)) | (groups[40:] == np.arange(40, 80))).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_unit_rows_equal_brute_force(dtype: type) -> None:
    features_ND = np.random.default_rng(1).normal(size=(60, 24)).astype(dtype)
    wide_ND = features_ND.astype(np.float64)
    expected_ND = wide_ND / np.linalg.norm(wide_ND, axis=1, keepdims=True)
    assert np.allclose(unit_rows(features_ND), expected_ND, atol=1e-6)


def test_rows_that_are_no_features_are_zero() -> None:
    features_ND = np.ones((6, 4), dtype=np.float32)
    features_ND[1] = 0
    features_ND[2, 3] = np.nan
    features_ND[3, 0] = np.inf
    features_ND[4] = 1e30  # its square would overflow
    features_ND[5] = 1e-30
    assert unit_rows(features_ND).tolist() == [[0.5] * 4, [0] * 4, [0] * 4, [0] * 4, [0.5] * 4, [0.5] * 4]
    assert unit_rows(features_ND[:0]).shape == (0, 4)


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


def test_merge_groups_on_a_long_chain() -> None:
    order = np.random.default_rng(0).permutation(50_000)
    assert not merge_groups(50_000, np.stack([order[:-1], order[1:]], axis=1)).any()


def test_merge_groups_refuses_strangers() -> None:
    with pytest.raises(ValueError, match="pairs name members 0 to 5; expected 0 to 4"):
        merge_groups(5, np.array([[0, 5]]))


@pytest.mark.slow
def test_real_scenes_have_few_copies_and_no_big_group(shared: Path) -> None:
    """7,078 pictures: the pairs that were looked at one by one, and no more."""
    import zipfile

    with zipfile.ZipFile(shared / "data" / "intel-scenes.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        hashes = [dhash(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
    pairs = perceptual_pairs(hashes)
    assert 11 <= len(pairs) <= 15
    assert np.bincount(perceptual_groups(hashes)).max() <= 3
