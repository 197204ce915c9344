"""The screenshot of a report in the README: `python benchmarks/screenshot.py run/report.html --out docs/figures/report.png`.

    headstart sample scenes scenes --n 600 --seed 0
    headstart train scenes --out run --approach linear

Needs playwright and an installed Chromium. Three parts of the page side by side, in 64 colours to keep the file small. The
images in it must be rendered ones, since the screenshot goes into the repository.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image

COLUMNS = (("verdict", "metrics"), ("confusion", "confidence"), ("mistakes",))
WIDTH, HEIGHT, GAP = 760, 1010, 28
"""Width and height of a column, and the gap between columns, in CSS pixels."""
SCALE = 0.66


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="report.html of a run on rendered images")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    given = parser.parse_args()
    columns = [stacked([cut(shot) for shot in shots]) for shots in photographed(given.page)]
    sheet = Image.new("RGB", (sum(c.width for c in columns) + GAP * (len(columns) + 1), HEIGHT), "white")
    left = GAP
    for column in columns:
        sheet.paste(column, (left, GAP // 2))
        left += column.width + GAP
    small = sheet.resize((round(sheet.width * SCALE), round(sheet.height * SCALE)), Image.Resampling.LANCZOS)
    small.quantize(64, dither=Image.Dither.NONE).save(given.out, optimize=True)
    print(f"{given.out}: {small.width} x {small.height}, {given.out.stat().st_size / 1000:.0f} kB")


def photographed(page: Path) -> list[list[bytes]]:
    """A PNG of each section, column by column."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": WIDTH, "height": 1200}, color_scheme="light")
        tab.goto(page.resolve().as_uri())
        tab.evaluate("document.querySelector('nav').style.display = 'none'")  # it would cover the page
        return [[tab.locator(f"section#{name}").screenshot() for name in column] for column in COLUMNS]


def cut(shot: bytes) -> Image.Image:
    """The screenshot without the empty space on its right and at its bottom."""
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    box = Image.eval(image.convert("L"), lambda value: 255 if value < 245 else 0).getbbox() or (0, 0, *image.size)
    return image.crop((0, 0, box[2], box[3]))


def stacked(parts: list[Image.Image]) -> Image.Image:
    """The parts one above another, as far as there is room."""
    column = Image.new("RGB", (max(p.width for p in parts), HEIGHT - GAP), "white")
    top = 0
    for part in parts:
        column.paste(part, (0, top))
        top += part.height + GAP
    return column


if __name__ == "__main__":
    main()
