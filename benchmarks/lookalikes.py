"""Sets of images that naturally look alike, made or opened by name, with copies planted in them.

    from lookalikes import SETS, open_set, plant

    digits          scikit-learn's 1,797 handwritten digits at 64 px, ten classes
    seas, streets   800 rendered scenes of one kind, 150 px, in two classes at random
    products        800 rendered products on the same table under the same lamp, four classes, 240 px
    pages           800 rendered pages of text, letters and invoices, 280 x 396 px
    xrays, trash, intel-scenes, cats-dogs      folders of that name in --data, if there are any

Everything is drawn from a seed, so a set is the same on every machine. Not for training: results on rendered images say
nothing about photographs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

EACH = 40
KINDS = ("re-encoded", "half size", "cropped 5 %", "brightened", "mirrored")


# Planted copies


def changed(image: Image.Image, kind: str, rng: np.random.Generator) -> tuple[Image.Image, int]:
    """A copy of that kind, and the JPEG quality for saving it."""
    width, height = image.size
    if kind == "re-encoded":
        return image, 30
    if kind == "half size":
        return image.resize((width // 2, height // 2), Image.Resampling.LANCZOS), 90
    if kind == "brightened":
        return ImageEnhance.Brightness(image).enhance(1.3), 90
    if kind == "mirrored":
        return ImageOps.mirror(image), 90
    keep_x, keep_y = round(0.95 * width), round(0.95 * height)
    x, y = (int(rng.integers(0, full - keep + 1)) for full, keep in ((width, keep_x), (height, keep_y)))
    return image.crop((x, y, x + keep_x, y + keep_y)), 90


def plant(files: list[Path], folder: Path, seed: int) -> tuple[list[Path], list[int], list[str]]:
    """Save `EACH` changed copies of each kind in `folder`; return files, indices of their originals, kinds."""
    rng = np.random.default_rng(seed)
    originals = rng.choice(len(files), EACH * len(KINDS), replace=False).tolist()
    kinds = [KINDS[n // EACH] for n in range(len(originals))]
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for n, (place, kind) in enumerate(zip(originals, kinds, strict=True)):
        with Image.open(files[place]) as opened:
            image, quality = changed(ImageOps.exif_transpose(opened).convert("RGB"), kind, rng)
        copies.append(folder / f"{n:04}.jpg")
        image.save(copies[-1], "JPEG", quality=quality)
    return copies, originals, kinds


# Sets that are made


def digits(folder: Path, rng: np.random.Generator) -> None:
    """Write all 1,797 digits, enlarged from 8 x 8 pixels to 64 x 64."""
    from sklearn.datasets import load_digits

    data = load_digits()
    for n, (pixels, label) in enumerate(zip(data.images, data.target, strict=True)):
        grey = Image.fromarray((pixels * (255 / 16)).astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        _save(grey, folder / str(label) / f"{n:04}.png")


def scenes(kind: str) -> Callable[[Path, np.random.Generator], None]:
    """800 scenes of one kind, each in a random class."""

    def make(folder: Path, rng: np.random.Generator) -> None:
        from headstart.samples.scenes import render

        for n in range(800):
            _save(Image.fromarray(render(kind, rng, 150)), folder / "ab"[int(rng.integers(2))] / f"{n:04}.jpg")

    return make


def products(folder: Path, rng: np.random.Generator) -> None:
    """800 products, each alone in the middle of the same table: bottles, boxes, mugs, plates."""
    table = _table(np.random.default_rng(7))
    for n in range(800):
        kind = ("bottle", "box", "mug", "plate")[n % 4]
        image = _product(kind, table.copy(), rng).resize((240, 240), Image.Resampling.LANCZOS)
        noisy = np.asarray(image, np.float32) + rng.normal(0, 2.5, (240, 240, 3))
        _save(Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)), folder / kind / f"{n:04}.jpg")


def _table(rng: np.random.Generator) -> Image.Image:
    """A grained wooden table, darker towards its far edge, 480 x 480."""
    grain = rng.normal(0, 1, (480, 1)) * 9 + np.cumsum(rng.normal(0, 1, (480, 480)), axis=1) * 0.6
    light = np.linspace(0.75, 1.1, 480)[:, None, None]
    pixels = (np.array([172, 132, 92]) + grain[..., None]) * light
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))


def _product(kind: str, sheet: Image.Image, rng: np.random.Generator) -> Image.Image:
    """One product on the table, its size, colours, label and place a little different each time."""
    pen = ImageDraw.Draw(sheet)
    x, y, s = 240 + rng.normal(0, 12), 260 + rng.normal(0, 12), rng.uniform(0.85, 1.15)
    colour = tuple(int(v) for v in rng.integers(30, 226, 3))
    dark = tuple(int(0.6 * v) for v in colour)

    def at(x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
        return x + s * x0, y + s * y0, x + s * x1, y + s * y1

    pen.ellipse(at(-80, 70, 110, 130), fill=(90, 66, 44))
    if kind == "bottle":
        pen.rounded_rectangle(at(-45, -60, 45, 110), 18 * s, fill=colour)
        pen.rectangle(at(-15, -140, 15, -50), fill=dark)
    elif kind == "box":
        pen.rectangle(at(-80, -70, 80, 110), fill=colour)
        pen.polygon(
            [at(-80, -70, 0, 0)[:2], at(-50, -110, 0, 0)[:2], at(110, -110, 0, 0)[:2], at(80, -70, 0, 0)[:2]], dark
        )
    elif kind == "mug":
        pen.ellipse(at(40, -20, 120, 70), outline=dark, width=int(14 * s))
        pen.rounded_rectangle(at(-70, -60, 70, 110), 14 * s, fill=colour)
    else:
        pen.ellipse(at(-130, -60, 130, 110), fill=colour)
        pen.ellipse(at(-85, -32, 85, 82), fill=dark)
    _label(pen, at(-38, -20, 38, 60), rng)
    return sheet


def _label(pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float], rng: np.random.Generator) -> None:
    """A printed label: a word, a line below it, some bars."""
    pen.rectangle(box, fill=(240, 238, 230))
    word = "".join(rng.choice(list("ABCDEFGHIKLMNOPRSTUVWZ"), int(rng.integers(3, 6))))
    pen.text((box[0] + 4, box[1] + 4), word, fill=(20, 20, 20), font=ImageFont.load_default(size=22))
    bars = box[0] + 5 + np.cumsum(rng.uniform(2, 6, 14))
    for left in bars[bars < box[2] - 4]:
        pen.line([(left, box[1] + 40), (left, box[3] - 6)], fill=(20, 20, 20), width=int(rng.integers(1, 4)))


def pages(folder: Path, rng: np.random.Generator) -> None:
    """800 pages of text: letters (paragraphs) and invoices (columns of figures), in one typeface."""
    letters = list("eeeetttaaooiinnssrrhhldcumfpgwybvk")
    words = ["".join(rng.choice(letters, int(rng.integers(2, 10)))) for _ in range(600)]
    font = ImageFont.load_default(size=11)
    for n in range(800):
        kind = ("letter", "invoice")[n % 2]
        sheet = Image.new("L", (280, 396), int(rng.integers(238, 256)))
        pen = ImageDraw.Draw(sheet)
        pen.text((24, 18), "North Star Trading Company", fill=30, font=ImageFont.load_default(size=13))
        for row, line in enumerate(_lines(kind, words, rng)):
            for column, text in line:
                pen.text((column, 60 + 14 * row), text, fill=30, font=font)
        turned = sheet.rotate(rng.normal(0, 0.3), Image.Resampling.BICUBIC, fillcolor=247)
        _save(turned, folder / kind / f"{n:04}.png")


def _lines(kind: str, words: list[str], rng: np.random.Generator) -> list[list[tuple[int, str]]]:
    """Rows of (column in pixels, text)."""
    if kind == "letter":
        return [
            [(24, " ".join(rng.choice(words, int(rng.integers(3, 6))))[:38])] for _ in range(int(rng.integers(12, 22)))
        ]
    rows = int(rng.integers(8, 22))
    return [
        [(24, str(rng.choice(words))), (150, f"{rng.integers(1, 30)}"), (200, f"{rng.uniform(1, 900):.2f}")]
        for _ in range(rows)
    ]


MADE: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "digits": digits,
    "seas": scenes("sea"),
    "streets": scenes("street"),
    "products": products,
    "pages": pages,
}
PHOTOGRAPHS = ("xrays", "trash", "intel-scenes", "cats-dogs")
SETS = (*MADE, *PHOTOGRAPHS)


def open_set(name: str, data: Path, made: Path) -> Path:
    """The folder of a set: in `data`, or in `made`, where it is made unless it exists."""
    if name not in MADE:
        return data / name
    folder = made / name
    if not folder.is_dir():
        partial = made / f"{name}.partial"
        MADE[name](partial, np.random.default_rng(0))
        partial.rename(folder)
    return folder


def _save(image: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, **({"quality": 90} if file.suffix == ".jpg" else {}))
