"""Near-duplicates: pictures that were really changed and saved again, look-alikes that are none, and the parts alone."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from conftest import draw
from headstart.data.dataset import Dataset
from headstart.data.duplicates import count_bits, merge_groups, mirrored_hashes
from headstart.data.near import (
    SIDE,
    agreement,
    align,
    bound,
    main_axes,
    near_pairs,
    neighbours,
    richness,
    same_picture,
    thumbnail,
    warp,
)
from headstart.data.split import make_split
from headstart.vision.memory import look_at
from headstart.vision.screen import screen
from headstart.vision.screen_worker import dhash


def scene(seed: int, size: tuple[int, int] = (240, 180)) -> Image.Image:
    """A picture with structure of all sizes, another one for each seed."""
    rng = np.random.default_rng(seed)
    layers = [rng.integers(0, 256, (rows, rows * 4 // 3, 3), dtype=np.uint8) for rows in (6, 24, 60)]
    coarse, middle, fine = (Image.fromarray(layer).resize(size, Image.Resampling.BICUBIC) for layer in layers)
    return Image.blend(Image.blend(coarse, middle, 0.4), fine, 0.2)


def as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality)
    return Image.open(io.BytesIO(data.getvalue())).convert("RGB")


CHANGES = {
    "re-encoded": lambda p: as_jpeg(p, 30),
    "half size": lambda p: p.resize((p.width // 2, p.height // 2), Image.Resampling.LANCZOS),
    "squashed": lambda p: p.resize((200, 200)),
    "5 % off one side": lambda p: p.crop((12, 0, p.width, p.height - 9)),
    "5 % off each edge": lambda p: p.crop((12, 9, p.width - 12, p.height - 9)),
    "brightened": lambda p: ImageEnhance.Brightness(p).enhance(1.3),
    "grey": lambda p: p.convert("L"),
    "mirrored": ImageOps.mirror,
    "mirrored and cut": lambda p: ImageOps.mirror(p.crop((12, 9, p.width, p.height))),
}


def plain_features(pictures: list[Image.Image]) -> np.ndarray:
    """Colours of a 4 x 4 grid, the same for a mirror image."""
    small_NHWC = np.stack([np.asarray(p.convert("RGB").resize((4, 4), Image.Resampling.BOX)) for p in pictures]) / 255
    return (small_NHWC + small_NHWC[:, :, ::-1]).reshape(len(pictures), -1)


@pytest.mark.parametrize("kind", CHANGES)
def test_changed_copies_are_found_and_nothing_else(kind: str) -> None:
    originals = [scene(seed) for seed in range(24)]
    pictures = originals + [CHANGES[kind](p) for p in originals]
    pairs = near_pairs(plain_features(pictures), pictures, look_at(pictures))
    expected = {(i, i + 24) for i in range(24)}
    assert len(expected & set(map(tuple, pairs.tolist()))) >= 23
    assert set(map(tuple, pairs.tolist())) <= expected


def test_hashes_alone_find_what_was_saved_again_or_mirrored() -> None:
    originals = [scene(seed) for seed in range(20)]
    pictures = originals + [CHANGES["mirrored" if i % 2 else "re-encoded"](p) for i, p in enumerate(originals)]
    assert near_pairs(None, pictures, look_at(pictures)).tolist() == [[i, i + 20] for i in range(20)]


def test_simple_pictures_that_look_alike_are_not_copies() -> None:
    """Stripes of one kind agree well once they are aligned, and blank pages altogether."""
    stripes = [draw(kind, seed) for kind in (0, 1) for seed in range(30)]
    blank = [Image.new("RGB", (50, 50), (grey, grey, grey)) for grey in (0, 9, 128, 255)]
    pictures = stripes + blank
    assert near_pairs(plain_features(pictures), pictures, look_at(pictures)).tolist() == []
    assert near_pairs(None, pictures, look_at(pictures)).tolist() == []


def test_identical_files_are_chained_and_lost_ones_left_out(tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.jpg" for n in range(6)]
    for n, file in enumerate(files):
        scene(n // 2 if n < 4 else 7).save(file, quality=90 - 20 * (n % 2 if n < 4 else 0))
    facts = screen(files)
    assert facts[4].sha256 == facts[5].sha256
    assert near_pairs(None, files, facts).tolist() == [[0, 1], [2, 3], [4, 5]]
    files[1].write_bytes(b"no picture any more")
    files[3].unlink()
    assert near_pairs(None, files, facts).tolist() == [[4, 5]]


def test_few_pictures_and_none() -> None:
    one = [scene(0)]
    assert near_pairs(None, [], []).shape == (0, 2)
    assert near_pairs(np.empty((0, 5)), [], []).shape == (0, 2)
    assert near_pairs(np.ones((1, 5)), one, look_at(one)).shape == (0, 2)


def test_features_that_say_nothing_do_no_harm() -> None:
    pictures = [scene(seed) for seed in range(8)] + [as_jpeg(scene(seed), 40) for seed in range(8)]
    facts = look_at(pictures)
    for features_ND in (np.zeros((16, 4)), np.ones((16, 4)), np.full((16, 4), np.nan)):
        assert set(map(tuple, near_pairs(features_ND, pictures, facts).tolist())) <= {(i, i + 8) for i in range(8)}


def test_planted_copies_share_a_side_of_the_split() -> None:
    originals = [scene(seed) for seed in range(30)]
    pictures = originals + [CHANGES[list(CHANGES)[i % len(CHANGES)]](p) for i, p in enumerate(originals)]
    n = len(pictures)
    dataset = Dataset(
        Path("x"), tuple(f"{i:03}.jpg" for i in range(n)), np.arange(n) % 2, ("a", "b"),
        np.full(n, "", "<U5"), np.arange(n),
    )  # fmt: skip
    pairs = near_pairs(plain_features(pictures), pictures, look_at(pictures))
    assert len(pairs) >= 29
    for seed in range(5):
        split = make_split(replace(dataset, groups=merge_groups(n, pairs)), seed=seed).split
        assert (split[pairs[:, 0]] == split[pairs[:, 1]]).all()
        assert set(split) == {"train", "val", "test"}


# Neighbours


def unit(rows_ND: np.ndarray) -> np.ndarray:
    return (rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)).astype(np.float32)


def test_neighbours_equal_brute_force_in_one_leaf() -> None:
    rows_ND = unit(np.random.default_rng(0).normal(size=(90, 8)))
    cosine = rows_ND @ rows_ND.T
    np.fill_diagonal(cosine, -9)
    assert neighbours(rows_ND, 4).tolist() == np.argsort(-cosine, axis=1)[:, :4].tolist()
    assert neighbours(rows_ND[:3], 4)[:, 2:].tolist() == [[-1, -1]] * 3


def test_neighbours_equal_brute_force_of_some_hundred() -> None:
    rows_ND = unit(np.random.default_rng(0).normal(size=(900, 16)))
    cosine = rows_ND @ rows_ND.T
    np.fill_diagonal(cosine, -9)
    assert neighbours(rows_ND, 4).tolist() == np.argsort(-cosine, axis=1)[:, :4].tolist()


def test_a_forest_finds_copies_among_many() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(size=(6_000, 20))
    near = base[:1_500] + rng.normal(size=(1_500, 20)) * 0.4
    rows_ND = unit(np.concatenate([base, near]) @ rng.normal(size=(20, 48)))
    found = neighbours(rows_ND, 5, leaf=128)
    hit = (found[6_000:] == np.arange(1_500)[:, None]).any(axis=1) | (
        found[:1_500] == np.arange(6_000, 7_500)[:, None]
    ).any(axis=1)
    assert hit.mean() >= 0.97
    assert all(len(set(row)) == 5 and i not in row for i, row in enumerate(found.tolist()))
    assert (neighbours(rows_ND, 5, leaf=128) == found).all()


def test_rows_that_are_all_the_same_cost_no_more() -> None:
    assert (neighbours(np.ones((5_000, 4), np.float32) / 2, 3, trees=2) >= 0).all()


def test_main_axes_are_centred_and_of_length_one() -> None:
    rows_ND = np.random.default_rng(2).normal(size=(50, 6)) + 30
    rows_ND[3] = 0
    out = main_axes(rows_ND, axes=4)
    assert out.shape == (50, 4) and out.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, atol=1e-5)


# Pixels


def test_mirrored_hashes_are_those_of_mirrored_pictures() -> None:
    pictures = [scene(seed) for seed in range(30)]
    plain = np.array([dhash(p) for p in pictures], dtype=np.uint64)
    turned = np.array([dhash(ImageOps.mirror(p)) for p in pictures], dtype=np.uint64)
    different = count_bits(mirrored_hashes(plain) ^ turned)  # where two neighbouring greys are equal
    assert different.mean() < 2 and different.max() <= 6
    assert (mirrored_hashes(mirrored_hashes(plain)) == plain).all()


def test_alignment_finds_a_known_shift_and_scale() -> None:
    b = np.stack([thumbnail(scene(seed)) for seed in range(20)]).astype(np.float32)
    b = b.reshape(20, 32, 2, 32, 2).mean(axis=(2, 4))
    truth = np.tile(np.array([0.93, 0.05, 1.06, -0.04], np.float32), (20, 1))
    a, _ = warp(b, truth)
    np.testing.assert_allclose(align(a * 0.7 + 20, b, steps=10), truth, atol=0.01)


def test_agreement_of_a_picture_with_itself_is_one_and_of_a_blank_one_none() -> None:
    thumbs = np.stack([thumbnail(scene(seed)) for seed in range(3)])
    np.testing.assert_allclose(agreement(thumbs, thumbs), 1, atol=1e-3)
    blank = np.full_like(thumbs, 200)
    assert agreement(thumbs, blank).tolist() == agreement(blank, blank).tolist() == [-1, -1, -1]
    assert same_picture(thumbs, thumbs).all() and not same_picture(blank, blank).any()


def test_richness_and_bound_by_hand() -> None:
    x = np.arange(SIDE)
    wave = np.broadcast_to(127 + 100 * np.sin(2 * np.pi * x / 8), (1, SIDE, SIDE)).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE), dtype=np.uint8)
    assert richness(wave)[0] < 2 < 200 < richness(noise)[0]
    assert bound(np.array([0.0, 30.0, 60.0, 200.0])).tolist() == [1.0, 0.875, 0.75, 0.75]


@pytest.mark.slow
def test_real_scenes_are_found_again_without_features(shared: Path, tmp_path: Path) -> None:
    """1,078 real pictures and 200 changed copies; hashes alone propose (with features: benchmarks/duplicates.py)."""
    import zipfile

    with zipfile.ZipFile(shared / "data" / "intel-scenes.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg") and "test" in name)
        pictures = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    kinds = ("re-encoded", "half size", "brightened", "grey", "mirrored")
    for n in range(200):
        pictures.append(CHANGES[kinds[n // 40]](pictures[5 * n]))
    pairs = set(map(tuple, near_pairs(None, pictures, look_at(pictures)).tolist()))
    planted = {(5 * n, len(names) + n) for n in range(200)}
    assert len(pairs & planted) >= 190
    assert len(pairs - planted) <= 25
