"""Copies that were really changed and saved again are found, and images that merely look alike are not."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from conftest import as_jpeg, draw, scene
from headstart.data.copies import Copies
from headstart.data.dataset import Dataset
from headstart.data.near_duplicates import find_copies
from headstart.data.splits import make_split
from headstart.images.image_refs import ImageRef, Images
from headstart.images.validate import validate_images
from headstart.samples.scenes import KINDS, render


def cut(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """An image less these shares of its width and height."""
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
    )


CHANGES = {
    "re-encoded": lambda p: as_jpeg(p, 30),
    "half size": lambda p: p.resize((p.width // 2, p.height // 2), Image.Resampling.LANCZOS),
    "double size": lambda p: p.resize((p.width * 2, p.height * 2), Image.Resampling.BICUBIC),
    "squashed": lambda p: p.resize((200, 200)),
    "5 % off two sides": lambda p: cut(p, 0.05, 0, 0, 0.05),
    "5 % off each edge": lambda p: cut(p, 0.05, 0.05, 0.05, 0.05),
    "brightened": lambda p: ImageEnhance.Brightness(p).enhance(1.3),
    "darkened": lambda p: ImageEnhance.Brightness(p).enhance(0.7),
    "grey": lambda p: p.convert("L"),
    "mirrored": ImageOps.mirror,
    "mirrored and 2 % off each edge": lambda p: ImageOps.mirror(cut(p, 0.02, 0.02, 0.02, 0.02)),
    "brightened, smaller, re-encoded": lambda p: as_jpeg(
        ImageEnhance.Brightness(p).enhance(1.2).resize((180, 135)), 50
    ),
}


def copies_of(images: list[Image.Image], labels: list[int] | None = None) -> Copies:
    return find_copies(Images.inspect(images), None if labels is None else np.array(labels))


def pairs(found: Copies) -> list[tuple[int, int]]:
    return sorted((i, j) for i, j in found.pairs_M2.tolist())


def digits(n: int) -> list[Image.Image]:
    """The first n of scikit-learn's handwritten digits, 8 x 8 pixels enlarged to 64 x 64."""
    from sklearn.datasets import load_digits

    greys = (load_digits().images[:n] * (255 / 16)).astype(np.uint8)
    return [Image.fromarray(grey).resize((64, 64), Image.Resampling.BICUBIC) for grey in greys]


# Copies


@pytest.mark.parametrize("kind", CHANGES)
def test_changed_copies_are_found_and_nothing_else(kind: str) -> None:
    originals = [scene(seed) for seed in range(24)]
    found = copies_of(originals + [CHANGES[kind](p) for p in originals])
    expected = {(i, i + 24) for i in range(24)}
    assert set(pairs(found)) <= expected
    assert len(found.pairs_M2) >= (22 if kind == "5 % off two sides" else 24)
    assert (found.difference_M < 0.02).all() and not found.certain_M.any()


@pytest.mark.parametrize("kind", sorted(set(CHANGES) - {"mirrored and 2 % off each edge"}))
def test_two_images_are_enough(kind: str) -> None:
    original = scene(0)
    assert pairs(copies_of([original, CHANGES[kind](original)])) == [(0, 1)]
    assert pairs(copies_of([original, CHANGES[kind](scene(1))])) == []


def test_few_images_and_none() -> None:
    assert copies_of([]).pairs_M2.shape == (0, 2) and copies_of([]).groups_N.tolist() == []
    assert copies_of([scene(0)]).groups_N.tolist() == [0]
    assert pairs(copies_of([scene(0), scene(1), as_jpeg(scene(0), 50)])) == [(0, 2)]
    each_twice = [scene(0), scene(1), as_jpeg(scene(0), 50), as_jpeg(scene(1), 50)]
    assert copies_of(each_twice).groups_N.tolist() == [0, 1, 0, 1]


def test_ten_copies_of_one_image_are_one_group() -> None:
    ten = [as_jpeg(scene(0), 90 - 5 * n) for n in range(10)]
    found = copies_of(ten + [scene(seed) for seed in range(1, 20)])
    assert found.groups_N.tolist() == [0] * 10 + list(range(10, 29))


@pytest.mark.parametrize("n", [3, 10, 40])
def test_nothing_but_copies_of_one_image_are_one_group(n: int) -> None:
    found = copies_of([as_jpeg(scene(0), 95 - k) for k in range(n)], labels=[k % 2 for k in range(n)])
    assert found.groups_N.tolist() == [0] * n


def test_a_copy_of_a_copy_is_in_the_group_of_the_original() -> None:
    once = ImageOps.mirror(scene(0))
    twice = as_jpeg(ImageEnhance.Brightness(once).enhance(1.3).resize((160, 120)), 60)
    others = [scene(seed) for seed in range(1, 20)]
    assert copies_of([scene(0), *others, once, twice]).groups_N.tolist() == [*range(20), 0, 0]


def test_arrays_are_images_too() -> None:
    arrays: list[ImageRef] = [np.asarray(scene(seed)) for seed in range(8)]
    arrays += [np.asarray(scene(seed).convert("L")) for seed in range(8)]
    assert pairs(find_copies(Images.inspect(arrays))) == [(i, i + 8) for i in range(8)]


def test_the_order_of_images_makes_no_difference() -> None:
    originals = [scene(seed) for seed in range(30)]
    images = originals + [CHANGES[list(CHANGES)[i % 4]](p) for i, p in enumerate(originals)]
    order = np.random.default_rng(3).permutation(60)
    found, shuffled = copies_of(images), copies_of([images[i] for i in order])
    back = [(min(order[i], order[j]), max(order[i], order[j])) for i, j in shuffled.pairs_M2]
    assert sorted(back) == pairs(found) == [(i, i + 30) for i in range(30)]
    np.testing.assert_allclose(sorted(shuffled.difference_M), sorted(found.difference_M), rtol=0.02, atol=1e-5)


def test_the_same_images_give_the_same_copies() -> None:
    images = [scene(seed) for seed in range(12)] + [as_jpeg(scene(seed), 40) for seed in range(12)]
    one, again = copies_of(images), copies_of(images)
    assert one.pairs_M2.tolist() == again.pairs_M2.tolist() and one.difference_M.tolist() == again.difference_M.tolist()


# Files


def test_files_give_what_their_images_give(tmp_path: Path) -> None:
    files = []
    for n in range(16):
        files.append(tmp_path / f"{n}.jpg")
        scene(n % 8).save(files[-1], quality=90 if n < 8 else 40)
    assert pairs(find_copies(Images.inspect(files))) == [(i, i + 8) for i in range(8)]


def test_the_same_file_is_a_chain_of_certain_copies_even_if_it_is_blank(tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.png" for n in range(7)]
    scene(0).save(files[0])
    Image.new("RGB", (60, 60), "white").save(files[1])
    for n, source in ((2, 0), (3, 1), (4, 0), (5, 1)):
        shutil.copy(files[source], files[n])
    scene(1).save(files[6])
    found = find_copies(Images.inspect(files))
    assert found.pairs_M2.tolist() == [[0, 2], [0, 4], [1, 3], [1, 5]]
    assert found.difference_M.tolist() == [0] * 4 and found.certain_M.all()
    assert found.groups_N.tolist() == [0, 1, 0, 1, 0, 1, 6]


def test_the_same_pixels_in_two_formats_are_certain(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.png", "a.bmp", "a.jpg", "b.png", "c.png", "d.png")]
    for file in files[:3]:
        scene(0).save(file)
    for seed, file in enumerate(files[3:], 1):
        scene(seed).save(file)
    found = find_copies(Images.inspect(files))
    assert found.pairs_M2[0].tolist() == [0, 1] and found.difference_M[0] == 0
    assert pairs(found) == [(0, 1), (0, 2), (1, 2)]
    assert found.certain_M.tolist() == [True, False, False]


def test_a_mirror_image_has_not_the_same_pixels() -> None:
    found = copies_of([scene(0), ImageOps.mirror(scene(0)), scene(1), scene(2)])
    assert pairs(found) == [(0, 1)] and found.certain_M.tolist() == [False]


def test_lost_files_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files that were there when they were looked at, and are gone or damaged when they are compared."""
    files = [tmp_path / f"{n}.jpg" for n in range(6)]
    for n, file in enumerate(files):
        scene(n // 2).save(file, quality=90 - 20 * (n % 2))
    facts = validate_images(files)
    assert pairs(find_copies(Images(files, facts))) == [(0, 1), (2, 3), (4, 5)]
    files[1].write_bytes(b"no image any more")
    caplog.set_level("INFO", "headstart")
    assert pairs(find_copies(Images(files, facts))) == [(2, 3), (4, 5)]
    assert "1 image could not be read again and is not compared." in caplog.text
    files[3].unlink()
    assert pairs(find_copies(Images(files, facts))) == [(4, 5)]
    assert "2 images could not be read again and are not compared." in caplog.text


# Look-alikes


def test_blank_images_are_never_copies() -> None:
    blank = [Image.new("RGB", (50, 50), (grey, grey, grey)) for grey in (0, 9, 128, 254, 255)]
    assert pairs(copies_of(blank)) == []
    assert pairs(copies_of(blank + [scene(seed) for seed in range(9)])) == []


def test_stripes_of_one_kind_are_not_copies() -> None:
    stripes = [draw(kind, seed) for kind in (0, 1) for seed in range(30)]
    assert pairs(copies_of(stripes)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_rendered_scenes_of_one_kind_are_not_copies(kind: str) -> None:
    rng = np.random.default_rng(0)
    assert pairs(copies_of([Image.fromarray(render(kind, rng, 96)) for _ in range(100)])) == []


def test_parts_that_differ_in_one_spot_are_not_copies() -> None:
    """The same part under the same camera 64 times, each with noise, light and a spot of its own."""
    part, images = np.asarray(scene(0), float), []
    for seed in range(64):
        rng = np.random.default_rng(seed)
        pixels = part * rng.uniform(0.85, 1.1) + rng.normal(0, 8, part.shape)
        x, y = 30 + 24 * (seed % 8), 20 + 18 * (seed // 8)
        pixels[y : y + 14, x : x + 14] = rng.integers(0, 255, 3)
        images.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    assert pairs(copies_of(images, labels=[k % 2 for k in range(64)])) == []


@pytest.mark.slow
def test_handwritten_digits_are_not_copies_but_planted_ones_are() -> None:
    """All digits look alike at this size: by a fixed bound, 404 of the first 1,000 would be one group."""
    n = 600
    originals = digits(n)
    kinds = ("re-encoded", "brightened", "half size", "mirrored")
    planted = [CHANGES[kinds[k % 4]](originals[10 * k].convert("RGB")) for k in range(n // 10)]
    found = copies_of(originals + planted)
    assert set(pairs(found)) <= {(10 * k, n + k) for k in range(n // 10)}
    assert len(found.pairs_M2) >= 0.95 * (n // 10)
    assert found.doubted_K2.tolist() == []


# The split


def test_planted_copies_share_a_set_of_the_split() -> None:
    originals = [scene(seed) for seed in range(30)]
    images = originals + [CHANGES[list(CHANGES)[i % len(CHANGES)]](p) for i, p in enumerate(originals)]
    dataset = Dataset(
        Path("x"),
        tuple(f"{i:03}.jpg" for i in range(60)),
        np.arange(60) % 2,
        ("a", "b"),
        np.full(60, "", "<U5"),
        np.arange(60),
    )
    found = copies_of(images)
    assert len(found.pairs_M2) >= 29
    for seed in range(5):
        split = make_split(dataset, seed=seed, near=found.groups_N).split
        assert (split[found.pairs_M2[:, 0]] == split[found.pairs_M2[:, 1]]).all()
        assert set(split) == {"train", "val", "test"}


@pytest.mark.slow
def test_photographs_are_found_again(shared: Path) -> None:
    """1,078 real images and 200 changed copies; few of the other pairs are really there (`benchmarks/duplicates.py`)."""
    with zipfile.ZipFile(shared / "data" / "intel-scenes.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg") and "test" in name)
        images = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    kinds = ("re-encoded", "half size", "brightened", "grey", "mirrored", "5 % off two sides")
    n = len(images)
    images += [CHANGES[kinds[k % len(kinds)]](images[5 * k]) for k in range(200)]
    found, planted = set(pairs(copies_of(images))), {(5 * k, n + k) for k in range(200)}
    assert len(found & planted) >= 194
    assert len(found - planted) <= 5
