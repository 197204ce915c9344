"""Augmentation: against Keras's matrices in SciPy, torchvision's operations, and by hand; and the grid that shows it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from conftest import draw
from headstart.errors import RecipeError, UnreadableImage
from headstart.images import augment_policies
from headstart.images.augment import (
    PLAIN,
    Augment,
    affine,
    augmented,
    decode_size,
    parse_augment,
    random_affine,
    random_crop,
    read_views,
    rng_for,
    sampled,
)
from headstart.images.augment_policies import OPERATIONS
from headstart.images.contact_sheet import caption, contact_sheet
from headstart.images.image_refs import Images
from headstart.images.preprocess import Preprocess, read_pixels
from headstart.io.files import sha256_bytes

GREY = (128, 128, 128)
sizes = st.tuples(st.integers(1, 120), st.integers(1, 120))


def smooth(side: int = 64, seed: int = 0) -> Image.Image:
    """An image without sharp edges, on which ways of interpolating hardly differ."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


# Nothing, and the mirror image


@settings(max_examples=30, deadline=None)
@given(size=sizes, resize=st.sampled_from(["crop", "pad", "squash"]), how=st.sampled_from(["bicubic", "bilinear"]))
def test_nothing_is_preprocess_to_the_bit(size: tuple[int, int], resize: str, how: str) -> None:
    spec, image = Preprocess(24, resize=resize, interpolation=how), draw(1, 2, size)
    assert not Augment()
    np.testing.assert_array_equal(augmented(image, spec, Augment(), rng_for(0, 0, "a")), spec.apply(image))


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_flip_is_the_exact_mirror_image_half_of_the_time(resize: str) -> None:
    spec, image = Preprocess(24, resize=resize), draw(1, 2)
    plain, mirrored = spec.apply(image), 0
    for epoch in range(200):
        seen = augmented(image, spec, Augment(flip=True), rng_for(0, epoch, "a"))
        mirrored += np.array_equal(seen, plain[:, ::-1])
        assert np.array_equal(seen, plain) or np.array_equal(seen, plain[:, ::-1])
    assert 75 <= mirrored <= 125  # 3.5 standard deviations of a fair coin


# The affine map


def test_affine_by_hand() -> None:
    quarter = affine(
        10, math.pi / 2, (0, 0), 0.0, (1, 1)
    )  # x' = y, y' = 10 - x: the matrices of Keras turn (row, column)
    np.testing.assert_allclose(quarter, [[0, 1, 0], [-1, 0, 10]], atol=1e-12)
    np.testing.assert_allclose(affine(10, 0.0, (3, 2), 0.0, (1, 1)), [[1, 0, 2], [0, 1, 3]])
    np.testing.assert_allclose(affine(10, 0.0, (0, 0), 0.0, (2, 1)), [[1, 0, 0], [0, 2, -5]])
    np.testing.assert_allclose(
        affine(10, 0.0, (0, 0), math.pi / 6, (1, 1)), [[math.sqrt(0.75), 0, 5 - 5 * math.sqrt(0.75)], [-0.5, 1, 2.5]]
    )


def test_a_shift_by_whole_pixels_moves_them_and_repeats_the_edge() -> None:
    image = draw(0, 0, (20, 20))
    pixels = np.asarray(image)
    moved = sampled(image, (0, 0, 20, 20), affine(20, 0.0, (0, 5), 0.0, (1, 1)), 20, "nearest", GREY)
    np.testing.assert_array_equal(np.asarray(moved)[:, :15], pixels[:, 5:])
    np.testing.assert_array_equal(np.asarray(moved)[:, 15:], np.repeat(pixels[:, -1:], 5, axis=1))
    moved = sampled(image, (0, 0, 20, 20), affine(20, 0.0, (-5, 0), 0.0, (1, 1)), 20, "reflect", GREY)
    np.testing.assert_array_equal(np.asarray(moved), np.concatenate([pixels[4::-1], pixels[:15]]))
    moved = sampled(image, (0, 0, 20, 20), affine(20, 0.0, (-5, 0), 0.0, (1, 1)), 20, "constant", (1, 2, 3))
    assert (np.asarray(moved)[:5] == (1, 2, 3)).all()
    np.testing.assert_array_equal(np.asarray(moved)[5:], pixels[:15])


def by_keras(pixels: np.ndarray, theta: float, tx: float, ty: float, shear: float, zx: float, zy: float, mode: str):
    """What ImageDataGenerator's apply_affine_transform computes: the same product of matrices, in SciPy, on rows first."""
    from scipy import ndimage

    theta, shear = np.deg2rad(theta), np.deg2rad(shear)
    matrix = np.array([[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]])
    matrix = matrix @ [[1, 0, tx], [0, 1, ty], [0, 0, 1]]
    matrix = matrix @ [[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]]
    matrix = matrix @ [[zx, 0, 0], [0, zy, 0], [0, 0, 1]]
    o = pixels.shape[0] / 2 - 0.5
    matrix = np.array([[1, 0, o], [0, 1, o], [0, 0, 1]]) @ matrix @ [[1, 0, -o], [0, 1, -o], [0, 0, 1]]
    channels = [
        ndimage.affine_transform(pixels[..., c].astype(float), matrix[:2, :2], matrix[:2, 2], order=1, mode=mode)
        for c in range(3)
    ]
    return np.stack(channels, axis=2)


@settings(max_examples=25, deadline=None)
@given(
    theta=st.floats(-90, 90),
    tx=st.floats(-0.4, 0.4),
    ty=st.floats(-0.4, 0.4),
    shear=st.floats(-40, 40),
    zx=st.floats(0.6, 1.4),
    zy=st.floats(0.6, 1.4),
    mode=st.sampled_from(["nearest", "reflect"]),
)
def test_affine_equals_keras_through_scipy(
    theta: float, tx: float, ty: float, shear: float, zx: float, zy: float, mode: str
) -> None:
    side, image = 48, smooth(48, 3)
    matrix = affine(side, math.radians(theta), (tx * side, ty * side), math.radians(shear), (zx, zy))
    ours = np.asarray(sampled(image, (0, 0, side, side), matrix, side, mode, GREY)).astype(float)
    theirs = by_keras(np.asarray(image), theta, tx * side, ty * side, shear, zx, zy, mode)
    assert np.abs(ours - theirs).max() <= 1.001  # Pillow rounds to whole levels


def test_limits_of_the_draws_and_that_shear_is_in_degrees() -> None:
    augment = parse_augment("rotation=40,shift=0.2,shear=0.2,zoom=0.2")
    rng = np.random.default_rng(0)
    drawn = np.array([random_affine(100, augment, rng) for _ in range(2000)])
    middle = drawn @ [50, 50, 1] - 50  # where the middle looks: moved by at most 20 pixels along turned axes
    assert 26 < np.abs(middle).max() <= 20 * math.sqrt(2)
    only = np.array([random_affine(100, Augment(shear=0.2), rng) for _ in range(500)])
    assert 0.0034 < np.abs(only[:, 1, 0] + only[:, 0, 1]).max() <= math.sin(math.radians(0.2))
    zooms = np.array([random_affine(100, Augment(zoom=0.2), rng) for _ in range(500)])[:, [0, 1], [0, 1]]
    assert 0.8 <= zooms.min() < 0.81 and 1.19 < zooms.max() <= 1.2
    assert np.abs(zooms[:, 0] - zooms[:, 1]).max() > 0.2  # each axis by itself


def test_a_moved_window_shows_the_image_beyond_the_crop() -> None:
    image = smooth(40, 1).resize((80, 40))
    spec = Preprocess(40, crop_pct=1.0)
    box = spec.source_box(80, 40)
    assert box == (20.0, 0.0, 60.0, 40.0)
    moved = sampled(image, box, affine(40, 0.0, (0, 10), 0.0, (1, 1)), 40, "constant", GREY)
    np.testing.assert_array_equal(np.asarray(moved), np.asarray(image)[:, 30:70])


def test_padding_is_what_lies_beyond_a_padded_image() -> None:
    image = Image.new("RGB", (40, 20), (200, 10, 10))
    spec = Preprocess(40, resize="pad", mean=(0.5, 0.5, 0.5))
    seen = augmented(image, spec, Augment(shift=0.4), rng_for(0, 1, "a"))
    colours = {tuple(c) for c in seen.reshape(-1, 3).tolist()}
    assert {(200, 10, 10), (128, 128, 128)} <= colours and (0, 0, 0) not in colours


@settings(max_examples=60, deadline=None)
@given(
    size=sizes,
    resize=st.sampled_from(["crop", "pad", "squash"]),
    fill=st.sampled_from(["nearest", "reflect", "constant"]),
    amounts=st.tuples(*[st.floats(0, high) for high in (1, 180, 89, 0.99, 1)]),
    crop=st.sampled_from([0, 0.01, 0.35, 1]),
    seed=st.integers(0, 999),
)
def test_one_colour_stays_whatever_is_asked_for(
    size: tuple[int, int], resize: str, fill: str, amounts: tuple[float, ...], crop: float, seed: int
) -> None:
    shift, rotation, shear, zoom, _ = amounts
    spec = Preprocess(16, resize=resize, mean=(0.2, 0.4, 0.6))
    augment = Augment(True, shift, rotation, shear, zoom, fill, crop)
    seen = augmented(Image.new("RGB", size, (51, 102, 153)), spec, augment, rng_for(seed, 0, "a"))
    assert seen.shape == (16, 16, 3) and seen.dtype == np.uint8
    assert np.abs(seen.astype(int) - (51, 102, 153)).max() <= 1


def test_large_images_are_reduced_before_they_are_sampled() -> None:
    fine = Image.fromarray(np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8))
    seen = np.asarray(sampled(fine, (0, 0, 512, 512), affine(32, 0.3, (0, 0), 0.0, (1, 1)), 32, "nearest", GREY))
    assert seen.std() < 20  # 16 x 16 pixels of noise average out: of 74, an image sampled pixel by pixel keeps 50


# Random crops


@settings(max_examples=100, deadline=None)
@given(size=sizes, smallest=st.floats(0.01, 1), seed=st.integers(0, 999))
def test_random_crops_lie_inside_and_keep_their_shape(size: tuple[int, int], smallest: float, seed: int) -> None:
    width, height = size
    left, top, right, bottom = random_crop(width, height, smallest, np.random.default_rng(seed))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert 3 / 4 - 1e-6 <= (right - left) / (bottom - top) <= 4 / 3 + 1e-6
    if 3 / 4 <= width / height <= 4 / 3:
        assert (right - left) * (bottom - top) >= smallest * width * height * (1 - 1e-9)


def test_random_crops_are_distributed_as_torchvisions() -> None:
    import torch
    from scipy.stats import ks_2samp
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    blank, rng = torch.zeros(3, 800, 1200), np.random.default_rng(0)
    theirs = np.array([RandomResizedCrop.get_params(blank, [0.35, 1.0], [3 / 4, 4 / 3]) for _ in range(800)])
    boxes = np.array([random_crop(1200, 800, 0.35, rng) for _ in range(800)])
    ours = np.stack([boxes[:, 1], boxes[:, 0], boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]], axis=1)
    for column in range(4):  # top, left, height, width
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.001


def test_a_crop_of_everything_is_a_squash_and_decoding_keeps_enough_for_a_small_one() -> None:
    image, spec = draw(2, 2, (40, 40)), Preprocess(20, resize="squash")
    seen = augmented(image, spec, Augment(crop=1.0), rng_for(0, 7, "a"))
    inner = spec.apply(image)
    assert seen.shape == inner.shape
    assert decode_size(Preprocess(160), Augment(crop=0.25)) == (320, 320)
    assert decode_size(Preprocess(160, crop_pct=0.8), Augment(flip=True)) == (200, 200)


# Colours, noise


def test_brightness_by_hand() -> None:
    spec, image = Preprocess(8), Image.new("RGB", (8, 8), (100, 50, 200))
    seen = np.array([augmented(image, spec, Augment(brightness=0.2), rng_for(0, e, "a"))[0, 0] for e in range(300)])
    assert 80 <= seen[:, 0].min() < 83 and 117 < seen[:, 0].max() <= 120
    assert np.abs(seen[:, 2] - 2.0 * seen[:, 0]).max() <= 2
    image = Image.new("RGB", (8, 8), (100, 80, 120))
    grey = np.array([augmented(image, spec, Augment(color=1.0), rng_for(0, e, "a"))[0, 0] for e in range(300)])
    luma = 0.299 * 100 + 0.587 * 80 + 0.114 * 120  # what full loss of colour leaves (ITU-R 601)
    assert np.abs(grey - luma).sum(axis=1).min() < 12 and (np.abs(grey @ [0.299, 0.587, 0.114] - luma) < 2.5).all()


def test_erasing_puts_noise_in_one_rectangle() -> None:
    spec, image = Preprocess(40), Image.new("RGB", (40, 40), (1, 2, 3))
    parts = []
    for epoch in range(60):
        changed = (augmented(image, spec, Augment(erasing=1.0), rng_for(0, epoch, "a")) != (1, 2, 3)).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.99
        parts.append(changed.mean())
    assert 0.01 < min(parts) < 0.1 and 0.3 < max(parts) < 0.43
    plain = [augmented(image, spec, Augment(erasing=0.25), rng_for(0, e, "a")) for e in range(200)]
    assert 110 <= sum((p == (1, 2, 3)).all() for p in plain) <= 180


# Policies


TORCHVISION_NAMES = {
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    **{name: name.title() for name in ("rotate", "brightness", "color", "contrast", "sharpness", "posterize")},
    **{name: name.title() for name in ("solarize", "equalize", "identity")},
    "autocontrast": "AutoContrast",
}
CASES = [
    *[(name, m) for name in ("shear_x", "shear_y") for m in (0.3, -0.99)],
    *[(name, m) for name in ("translate_x", "translate_y") for m in (12.7, -7.0)],
    *[("rotate", 30.0), ("rotate", -135.0), ("posterize", 2.0), ("posterize", 8.0), ("solarize", 0.0)],
    *[("solarize", 127.5), ("solarize", 255.0), ("autocontrast", 0.0), ("equalize", 0.0), ("identity", 0.0)],
    *[(name, m) for name in ("brightness", "color", "contrast", "sharpness") for m in (0.9, -0.6)],
]


@pytest.mark.parametrize(("name", "magnitude"), CASES)
def test_operations_equal_torchvisions_on_tensors(name: str, magnitude: float) -> None:
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.autoaugment import _apply_op

    for image in (smooth(64, 5), draw(1, 4, (64, 64))):
        ours = np.asarray(OPERATIONS[name](image, magnitude, GREY)).astype(float)
        tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
        theirs = _apply_op(tensor, TORCHVISION_NAMES[name], magnitude, InterpolationMode.BILINEAR, [128.0] * 3)
        apart = np.abs(ours - theirs.permute(1, 2, 0).numpy())
        if name in ("shear_x", "shear_y", "rotate"):  # the two blend the border row with the blank differently
            assert np.quantile(apart, 0.95) <= 3
        elif name in ("contrast", "color", "brightness", "sharpness", "autocontrast"):
            assert apart.max() <= 2  # rounding of a grey mean, times the factor
        else:
            assert apart.max() == 0


@pytest.mark.parametrize(
    ("policy", "reach"), [("TrivialAugmentWide", augment_policies._WIDE), ("RandAugment", augment_policies._USUAL)]
)
def test_magnitudes_equal_torchvisions(policy: str, reach: augment_policies._Reach) -> None:
    from torchvision.transforms import autoaugment

    size = () if policy == "TrivialAugmentWide" else ((160, 160),)
    space = getattr(autoaugment, policy)()._augmentation_space(31, *size)
    assert set(space) == {TORCHVISION_NAMES[name] for name in OPERATIONS}
    for name in OPERATIONS:
        magnitudes, signed = space[TORCHVISION_NAMES[name]]
        if magnitudes.ndim == 0:
            continue
        ours = [reach.magnitude(name, bin_ / 30, 1, 160) for bin_ in range(31)]
        np.testing.assert_allclose(ours, magnitudes.numpy(), atol=1e-4)
        assert (reach.magnitude(name, 0.5, -1, 160) == -reach.magnitude(name, 0.5, 1, 160)) == signed


def test_policies_draw_all_operations_and_leave_the_image_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[str]] = {}
    drawn: set[str] = set()

    def noted(name: str) -> augment_policies.Operation:
        def operate(image: Image.Image, magnitude: float, blank: augment_policies.FillColour) -> Image.Image:
            drawn.add(name)
            return OPERATIONS[name](image, magnitude, blank)

        return operate

    monkeypatch.setattr(augment_policies, "OPERATIONS", {name: noted(name) for name in OPERATIONS})
    image, spec = draw(0, 1, (24, 24)), Preprocess(24)
    before = image.tobytes()
    for text in ("trivial", "rand", "rand=3/30", "augmix"):
        drawn.clear()
        for epoch in range(90):
            pixels = augmented(image, spec, parse_augment(text), rng_for(1, epoch, "a"))
            assert pixels.shape == (24, 24, 3) and pixels.dtype == np.uint8
        seen[text] = set(drawn)
    assert image.tobytes() == before
    assert seen["trivial"] == seen["rand"] == seen["rand=3/30"] == set(OPERATIONS)
    assert seen["augmix"] == set(OPERATIONS) - {"identity", "brightness", "color", "contrast", "sharpness"}


def test_randaugment_without_strength_changes_levels_only() -> None:
    image, spec = draw(0, 1, (24, 24)), Preprocess(24, crop_pct=1.0)
    allowed = [np.asarray(OPERATIONS[name](image, 0, GREY)) for name in ("identity", "autocontrast", "equalize")]
    allowed += [np.asarray(OPERATIONS["solarize"](image, 255, GREY))]
    for epoch in range(40):
        seen = augmented(image, spec, parse_augment("rand=1/0"), rng_for(0, epoch, "a"))
        assert any(np.array_equal(seen, a) for a in allowed)


def test_augmix_blends_levels_that_lie_between_its_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        augment_policies, "OPERATIONS", dict.fromkeys(OPERATIONS, lambda p, m, b: Image.new("RGB", p.size, b))
    )
    image, spec = Image.new("RGB", (8, 8), (0, 100, 200)), Preprocess(8, mean=(0.5, 0.5, 0.5))
    kept = []
    for epoch in range(50):
        pixel = augmented(image, spec, parse_augment("augmix"), rng_for(0, epoch, "a"))[0, 0].astype(float)
        kept.append(1 - pixel[0] / 128)  # every chain gives (128, 128, 128): what is left is the image's part
        np.testing.assert_allclose(pixel, kept[-1] * np.array([0, 100, 200]) + (1 - kept[-1]) * 128, atol=1.2)
    assert min(kept) < 0.15 and max(kept) > 0.85  # Beta(1, 1): uniform


# Randomness


def test_numbers_depend_on_seed_epoch_and_image_only() -> None:
    assert rng_for(0, 0, "a").random() == rng_for(0, 0, "a").random()
    others = {rng_for(*key).random() for key in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"), (0, 11, "a"))}
    assert len(others) == 5
    assert rng_for(0, 0, "a").random() == 0.8669174438787615  # a change of it breaks resuming


# Reading


def test_views_of_one_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    draw(1, 1, (300, 200)).save(path, quality=90)
    sha256, spec = sha256_bytes(path.read_bytes()), Preprocess(32)
    augment, pixels = parse_augment("flip,rotation=15,zoom=0.1"), np.asarray(draw(1, 1))
    images = Images.recorded([path, path, tmp_path / "b.jpg", pixels], [sha256, "0" * 64, sha256, "any"])
    views = read_views(images, 0, spec, augment, seed=3, numbers=(PLAIN, 0, 5))
    assert views.shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(views[0], read_pixels(path, spec))
    np.testing.assert_array_equal(views[2], read_views(images, 0, spec, augment, seed=3, numbers=(5,))[0])
    assert len({v.tobytes() for v in views}) == 3
    with pytest.raises(UnreadableImage, match="changed while in use") as changed:
        read_views(images, 1, spec, augment, seed=3, numbers=(0,))
    assert changed.value.reason == "changed"
    with pytest.raises(UnreadableImage, match="could not be read: No such file") as gone:
        read_views(images, 2, spec, augment, seed=3, numbers=(0,))
    assert gone.value.reason == "not_a_file"
    plain = read_views(images, 3, spec, augment, seed=0, numbers=(PLAIN,))[0]
    np.testing.assert_array_equal(plain, read_pixels(pixels, spec))


# Options


def test_options_are_read() -> None:
    assert parse_augment("none") == parse_augment("") == Augment()
    text = "flip, shift=0.2,rotation=40,shear=0.2,zoom=0.2,fill=reflect,crop=.35,rand=3/7,erasing=0.25,color=0.1"
    assert parse_augment(text) == Augment(
        flip=True,
        shift=0.2,
        rotation=40,
        shear=0.2,
        zoom=0.2,
        fill="reflect",
        crop=0.35,
        color=0.1,
        policy="rand",
        rand_operations=3,
        rand_magnitude=7,
        erasing=0.25,
    )


@given(
    st.builds(
        Augment,
        flip=st.booleans(),
        shift=st.floats(0, 1),
        rotation=st.floats(0, 180),
        zoom=st.floats(0, 0.99),
        crop=st.floats(0.01, 1),
        fill=st.sampled_from(["nearest", "reflect"]),
        policy=st.sampled_from(["", "trivial", "augmix", "rand"]),
        erasing=st.floats(0, 1),
    )
)
def test_written_options_read_back(augment: Augment) -> None:
    assert parse_augment(str(augment)) == augment


def test_all_problems_of_options_are_named_at_once() -> None:
    with pytest.raises(RecipeError) as error:
        parse_augment("flop,rotatoin=15,shift=2,zoom,fill=wrap,flip=1,crop=x,rand=9,shear=nan,crop=0.5,trivial")
    assert str(error.value) == (
        "augment 'flop,rotatoin=15,shift=2,zoom,fill=wrap,flip=1,crop=x,rand=9,shear=nan,crop=0.5,trivial' cannot be "
        "used: 'flop' is unknown; 'rotatoin' is unknown; shift=2: expected a fraction of the side from 0 to 1, such as "
        "shift=0.2; zoom needs a fraction from 0 to 0.99, such as zoom=0.2; fill=wrap: expected one of nearest, "
        "reflect, "
        "constant; flip=1: flip takes no value; crop=x: expected the smallest fraction of the area, 0.01 to 1, such as "
        "crop=0.35; rand=9: expected operations (1 to 14) and a magnitude (0 to 30), such as rand=2/9; shear=nan: "
        "expected degrees from 0 to 89, such as shear=10; crop appears twice; trivial and rand exclude each other.\n"
        "  Did you mean 'flip'?\n"
        "  Did you mean 'rotation'?\n"
        "  Expected flip, fill, shift, rotation, shear, zoom, crop, erasing, brightness, contrast, color, trivial, "
        "rand, "
        "augmix, none."
    )
    with pytest.raises(RecipeError, match="none cannot be combined with others"):
        parse_augment("none,flip")


def test_problems_of_a_dataclass_are_named_at_once() -> None:
    with pytest.raises(RecipeError) as error:
        Augment(shift=-0.1, fill="black", policy="auto", rand_operations=0)
    assert error.value.message == (
        "augment cannot be used: shift=-0.1: expected a fraction of the side from 0 to 1, such as shift=0.2; "
        "fill=black: "
        "expected one of nearest, reflect, constant; policy 'auto': expected one of trivial, rand, augmix; rand=0/9: "
        "expected operations (1 to 14) and a magnitude (0 to 30), such as rand=2/9."
    )


# The grid


def test_grid_by_hand() -> None:
    images = np.zeros((3, 100, 100, 3), np.uint8)
    images[1] = (255, 0, 0)
    sheet = contact_sheet(images, ["cat", "dog", "a name that is much longer than the image is wide"], columns=2)
    assert sheet.size == (2 * 106 + 6, 2 * 122 + 6)
    assert sheet.getpixel((6, 6)) == (0, 0, 0) and sheet.getpixel((112, 6)) == (255, 0, 0)
    below = np.asarray(sheet)[106:122, 6:106]  # the first caption
    assert below.min() < 100 and (np.asarray(sheet)[6:106, 106:112] == 255).all()
    assert (np.asarray(sheet)[128 + 100 : 128 + 116, 106:112] == 255).all()  # the long one ends below its own image
    assert contact_sheet(images[:1, :32, :32], ["x"]).size == (
        6 + 96 + 6,
        6 + 96 + 16 + 6,
    )  # small images are enlarged


def test_captions_never_fail() -> None:
    font = ImageFont.load_default()
    assert caption("cat", font, 200) == "cat"
    assert caption("two\nlines\t\x00", font, 200) == "two lines"
    assert caption("猫", font, 200) == "U+732B"
    assert caption("\udc80x", font, 200) == "U+DC80 x"
    assert caption("ünïcode", font, 200) in ("ünïcode", "unicode")
    assert caption("ａ", font, 200) == "a"  # full width
    assert caption("anything", font, 1) == ""
    short = caption("a name that is much longer than the image is wide", font, 96)
    assert short.endswith("...") and font.getlength(short) <= 96
    for odd in ("", "😀", "é" * 500, "\u202egnp", "日本語", "\ufffe"):
        contact_sheet(np.zeros((1, 16, 16, 3), np.uint8), [odd])


def test_grid_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="3 images, 2 labels, 8 columns"):
        contact_sheet(np.zeros((3, 8, 8, 3), np.uint8), ["a", "b"])
    with pytest.raises(ValueError, match="0 images"):
        contact_sheet(np.zeros((0, 8, 8, 3), np.uint8), [])
