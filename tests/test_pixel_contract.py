"""The portable pixel contract: equal to Pillow byte for byte, and written down completely."""

from __future__ import annotations

import doctest
import io
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import scene
from headstart.errors import RecipeError, UnreadableImage
from headstart.exporters import pixel_contract
from headstart.exporters.pixel_contract import FILTERS, PixelContract
from headstart.exporters.portable_images import portable_pixels, read_portable
from headstart.exporters.verify_steps import pillow_resize
from headstart.images.image_refs import read_image
from headstart.images.preprocess import INTERPOLATIONS, RESIZES, Preprocess, read_pixels
from headstart.images.value_ranges import ValueRanges

SIZES = [
    *(
        (500, 375),
        (375, 500),
        (160, 160),
        (96, 96),
        (1, 1),
        (1, 120),
        (120, 1),
        (7, 9),
        (109, 96),
        (700, 31),
        (31, 700),
    ),
    *((64, 48), (48, 64), (192, 192), (320, 213), (213, 320), (97, 95)),
]
"""Width and height: ordinary, just as large as the input, smaller, one pixel, multiples, odd."""


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng([width, height]).integers(0, 256, (height, width, 3), np.uint8)


def pillow(pixels: np.ndarray, spec: Preprocess) -> np.ndarray:
    """As `Preprocess.apply`, in one step and without its shortcut."""
    how, side = INTERPOLATIONS[spec.interpolation], spec.image_size
    image = Image.fromarray(pixels)
    if spec.resize != "pad":
        return np.asarray(image.resize((side, side), how, box=spec.source_box(*image.size)))
    size = tuple(max(1, round(x * (side / max(image.size)))) for x in image.size)
    square = Image.new("RGB", (side, side), tuple(round(255 * m) for m in spec.mean))
    square.paste(image.resize(size, how), ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(square)


def test_the_examples_in_the_module_hold() -> None:
    assert doctest.testmod(pixel_contract).failed == 0


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_numpy_equals_pillow_byte_for_byte(resize: str, interpolation: str) -> None:
    for (width, height), side in itertools.product(SIZES, (96, 17)):
        contract = PixelContract.of(Preprocess(side, resize, 0.9, interpolation))
        pixels = noise(width, height)
        made = portable_pixels(Image.fromarray(pixels), contract)
        assert np.array_equal(contract.apply(pixels), made), (width, height, side)
        assert np.array_equal(pillow_resize(pixels, contract.as_dict()), made), (width, height, side)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_one_call_of_pillow_gives_the_same_unless_the_image_is_tall(resize: str, interpolation: str) -> None:
    """Pillow 13 resizes tall images by height first; that differs by a level where rounding does."""
    for width, height in SIZES:
        spec, pixels = Preprocess(96, resize, 0.9, interpolation), noise(width, height)
        found, expected = PixelContract.of(spec).apply(pixels), pillow(pixels, spec)
        if height <= width or interpolation == "nearest":
            assert np.array_equal(found, expected), (width, height)


def test_the_contract_differs_little_from_what_predict_sees() -> None:
    """`predict` decodes at a fraction of the size and reduces in two steps."""
    file = io.BytesIO()
    scene(5, (1000, 750)).save(file, "JPEG", quality=92)
    spec = Preprocess(image_size=160)
    gap = np.abs(read_portable(file.getvalue(), spec).astype(int) - read_pixels(file.getvalue(), spec))
    assert 0 < gap.mean() < 3


def test_a_file_is_decoded_in_full_turned_and_scaled_by_the_ranges(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    path = tmp_path / "turned.jpg"
    scene(6, (400, 300)).save(path, exif=exif)
    spec = Preprocess(image_size=64)
    whole = np.asarray(read_image(path))
    assert whole.shape == (400, 300, 3)
    assert np.array_equal(read_portable(path, spec), PixelContract.of(spec).apply(whole))
    deep = Image.fromarray(np.full((80, 80), 2000, np.uint16))
    deep.save(tmp_path / "deep.png")
    assert set(read_portable(tmp_path / "deep.png", spec).flat) == {8}
    ranged = replace(spec, ranges=ValueRanges(integers=(0.0, 4000.0)))
    assert set(read_portable(tmp_path / "deep.png", ranged).flat) == {128}
    with pytest.raises(UnreadableImage):
        read_portable(path, spec, sha256="0" * 64)


def test_specs_with_the_same_pixels_have_the_same_contract() -> None:
    spec = Preprocess(image_size=96, crop_pct=0.9)
    assert PixelContract.of(spec) == PixelContract.of(replace(spec, mean=(0.1, 0.2, 0.3), tta="flip"))
    squashed = replace(spec, resize="squash")
    assert PixelContract.of(squashed) == PixelContract.of(replace(squashed, crop_pct=0.5))
    assert PixelContract.of(replace(spec, resize="pad")).margin == (124, 116, 104)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_numbers_are_complete_and_read_back(resize: str, interpolation: str) -> None:
    ranges = ValueRanges(integers=(0.0, 4095.0), floats=(0.0, 1.0))
    contract = PixelContract.of(Preprocess(96, resize, 0.9, interpolation, ranges=ranges))
    values = json.loads(json.dumps(contract.as_dict()))
    assert PixelContract.from_dict(values) == contract
    for name in values:
        with pytest.raises(RecipeError):
            PixelContract.from_dict({**values, name: "other"})
    with pytest.raises(RecipeError, match="later_step"):
        PixelContract.from_dict({**values, "later_step": "sharpen"})


def test_sentences_say_what_the_numbers_say() -> None:
    deep = ValueRanges(integers=(0.0, 4095.0))
    steps = " ".join(PixelContract.of(Preprocess(160, "crop", 0.875, "bicubic", ranges=deep)).sentences())
    for said in (
        "160 x 160",
        "182 pixels",
        "integers 0 to 4095",
        "bicubic",
        "antialiasing",
        "2^-22",
        "EXIF",
        "on white",
    ):
        assert said in steps
    padded = " ".join(PixelContract.of(Preprocess(160, "pad", mean=(0.5,) * 3)).sentences())
    assert "longer side is 160 pixels" in padded and "(128, 128, 128)" in padded
    assert "whatever its shape" in " ".join(PixelContract.of(Preprocess(160, "squash")).sentences())
    assert "input pixel that its centre lies in" in PixelContract(interpolation="nearest").sentences()[-2]


def test_filters_are_what_their_formulas_say() -> None:
    x = np.linspace(-4, 4, 4001)
    for made in FILTERS.values():
        assert np.all(made.weight(x)[np.abs(x) > made.support] == 0)
        assert made.weight(np.array([0.0]))[0] == 1
    y = np.abs(x)
    near, far = 1.5 * y**3 - 2.5 * y**2 + 1, -0.5 * y**3 + 2.5 * y**2 - 4 * y + 2
    assert np.allclose(FILTERS["bicubic"].weight(x), np.where(y < 1, near, np.where(y < 2, far, 0)))


def test_invalid_values_are_refused() -> None:
    with pytest.raises(RecipeError, match="image_size"):
        PixelContract(image_size=3)
    with pytest.raises(RecipeError, match="is not a pixel contract"):
        PixelContract.from_dict({})
