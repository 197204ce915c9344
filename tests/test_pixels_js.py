"""The page's pixels in JavaScript (exporters/web/pixels.js) equal Pillow's byte for byte. Needs node; skipped without one."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import PATIENCE, scene
from headstart.exporters import web_page
from headstart.exporters.pixel_contract import PixelContract
from headstart.exporters.portable_images import portable_pixels

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="needs node, which is not here")

FILTERS = ("bilinear", "bicubic", "lanczos", "nearest")
SIZES = [(1, 1), (1, 90), (90, 1), (17, 23), (96, 96), (97, 96), (300, 40), (40, 300), (301, 257), (61, 47)]
PROGRAM = """
const fs = require("fs"), folder = process.argv[2];
require(process.argv[3]);
const cases = JSON.parse(fs.readFileSync(`${folder}/cases.json`));
for (const [i, { contract, width, height, channels, strip }] of cases.entries()) {
  const bytes = fs.readFileSync(`${folder}/${i}.in`), row = width * channels;
  if (channels === 4) headstartPixels.putOnWhite(bytes);
  const maker = new headstartPixels.PixelMaker(contract, width, height);
  for (let y = 0; y < height; y += strip) {
    maker.addRows(y, bytes.subarray(y * row, Math.min(height, y + strip) * row), channels);
  }
  fs.writeFileSync(`${folder}/${i}.out`, maker.finish());
}
"""


@dataclass(frozen=True, eq=False)
class Case:
    """An image (RGB or RGBA) that is given in strips of that many rows."""

    contract: PixelContract
    image: Image.Image
    strip: int = 10_000

    def described(self) -> dict[str, Any]:
        channels = len(self.image.getbands())
        size = {"width": self.image.width, "height": self.image.height, "channels": channels, "strip": self.strip}
        return {"contract": self.contract.as_dict(), **size}

    def expected(self) -> np.ndarray:
        if self.image.mode == "RGB":
            return portable_pixels(self.image, self.contract)
        white = Image.new("RGB", self.image.size, (255, 255, 255))
        white.paste(self.image, mask=self.image)
        return portable_pixels(white, self.contract)


def in_javascript(cases: Sequence[Case], folder: Path) -> list[np.ndarray]:
    """What pixels.js makes of all of them, in one process."""
    (folder / "program.js").write_text(PROGRAM, encoding="utf-8")
    (folder / "pixels.js").write_bytes(web_page.web_part("pixels.js"))
    (folder / "cases.json").write_text(json.dumps([case.described() for case in cases]))
    for i, case in enumerate(cases):
        (folder / f"{i}.in").write_bytes(case.image.tobytes())
    command = [str(NODE), str(folder / "program.js"), str(folder), str(folder / "pixels.js")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    sides = [case.contract.image_size for case in cases]
    return [np.fromfile(folder / f"{i}.out", np.uint8).reshape(side, side, 3) for i, side in enumerate(sides)]


def different(cases: Sequence[Case], folder: Path) -> list[str]:
    """The cases whose bytes are not Pillow's."""
    found = in_javascript(cases, folder)
    return [
        f"{case.image.size} {case.contract.resize} {case.contract.interpolation} {case.contract.image_size}"
        for case, pixels in zip(cases, found, strict=True)
        if pixels.tobytes() != case.expected().tobytes()
    ]


def contracts(sides: Sequence[int], crop_pct: float = 0.875) -> Iterator[PixelContract]:
    """Every way of resizing with every filter."""
    for side in sides:
        for interpolation in FILTERS:
            yield PixelContract(side, "crop", crop_pct, interpolation)
            yield PixelContract(side, "squash", 1.0, interpolation)
            yield PixelContract(side, "pad", 1.0, interpolation, margin=(124, 116, 104))


def noise(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    shape = (size[1], size[0], len(mode))
    return Image.fromarray(np.random.default_rng([seed, *size]).integers(0, 256, shape, np.uint8))


def test_every_way_of_resizing_equals_pillow(tmp_path: Path) -> None:
    cases = [Case(contract, noise(size), strip=16) for size in SIZES for contract in contracts([96])]
    cases += [Case(contract, scene(3, (500, 375))) for contract in contracts([160])]
    assert len(cases) == 132
    assert different(cases, tmp_path) == []


def test_transparent_images_are_put_on_white_as_pillow_does(tmp_path: Path) -> None:
    every = np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1).astype(np.uint8)  # each value with each alpha
    image = Image.fromarray(np.concatenate([every[..., :1]] * 3 + [every[..., 1:]], axis=2))
    assert different([Case(PixelContract(256, "squash", 1.0, "bilinear"), image, strip=7)], tmp_path) == []


def test_strips_of_any_height_give_the_same(tmp_path: Path) -> None:
    contract, image = PixelContract(64, "crop", 0.9, "bicubic"), scene(5, (333, 222))
    found = in_javascript([Case(contract, image, strip) for strip in (1, 7, 100, 222)], tmp_path)
    assert all((pixels == found[0]).all() for pixels in found)


@pytest.mark.slow
def test_a_thousand_sizes_equal_pillow(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    cases = []
    for i in range(1_000):
        size = tuple(int(2 ** rng.uniform(0, 10)) for _ in range(2))
        resize = ("crop", "squash", "pad")[i % 3]
        crop_pct = float(rng.choice([0.875, 0.9, 0.95, 1.0, 0.5])) if resize == "crop" else 1.0
        margin = (10, 200, 90) if resize == "pad" else (0, 0, 0)
        side = int(rng.choice([32, 96, 160, 161, 224, 288]))
        contract = PixelContract(side, resize, crop_pct, FILTERS[i % 4], margin)
        image = noise(size, seed=i) if i % 2 else scene(i, size)
        cases.append(Case(contract, image, strip=int(rng.integers(1, 400))))
    assert different(cases, tmp_path) == []


@pytest.mark.slow
def test_twelve_million_pixels_equal_pillow(tmp_path: Path) -> None:
    cases = [Case(contract, noise((4000, 3000)), strip=1_024) for contract in contracts([96, 224])]
    assert different(cases, tmp_path) == []
