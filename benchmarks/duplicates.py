"""How many planted copies are found among images that look alike, what else is taken for a copy, and what it costs.

    python benchmarks/duplicates.py digits pages xrays --data data --seeds 3 --sheets sheets
    python benchmarks/duplicates.py intel-scenes cats-dogs --data data --sizes 1000,10000,100000

Sets: see `lookalikes.py`; those that it does not make are folders in --data. Copies of 200 random images are planted, 40 of
each kind: re-encoded at quality 30, half size, 5 % of width and height cropped at random sides, 1.3 times as bright,
mirrored. Recall is the fraction of copies in the same group as their original. Pairs found among the set's own images are
not necessarily errors: --sheets writes a contact sheet of each set, to be judged by eye, and `crossing` says how many pairs
have two labels. `shares` is the largest deviation of a class from its share of the validation and test sets of a split
(in images), `small` the size of the smallest class there.

Sizes: the images as a whole, then cut into quarters, then into ninths, until there are enough, each as a JPEG file.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from lookalikes import KINDS, SETS, open_set, plant
from PIL import Image, ImageDraw

from headstart.data.copies import Copies
from headstart.data.dataset import Dataset
from headstart.data.near_duplicates import find_copies
from headstart.data.open_dataset import open_dataset
from headstart.data.splits import make_split
from headstart.images.decode import decode
from headstart.images.image_refs import Images
from headstart.images.validate import validate_images
from headstart.pipeline.scan import scan


def recall(dataset: Dataset, seed: int) -> tuple[dict[str, float], int]:
    """The fraction of planted copies found, by kind; and how many were grouped with another image."""
    files = [dataset.file(i) for i in range(len(dataset))]
    with tempfile.TemporaryDirectory() as folder:
        planted, originals, kinds = plant(files, Path(folder), seed)
        everything = [*files, *planted]
        labels = np.concatenate([dataset.labels, dataset.labels[originals]])
        copies = find_copies(Images.inspect(everything), labels)
    groups = copies.groups_N
    alone = find_copies(Images.inspect(files), dataset.labels).groups_N
    found = {kind: [] for kind in KINDS}
    strangers = 0
    for n, (original, kind) in enumerate(zip(originals, kinds, strict=True)):
        place = len(files) + n
        found[kind].append(groups[place] == groups[original])
        others = [i for i in np.flatnonzero(groups[: len(files)] == groups[place]) if i != original]
        strangers += any(alone[i] != alone[original] for i in others)
    return {kind: float(np.mean(hits)) for kind, hits in found.items()}, strangers


def shares(dataset: Dataset, copies: Copies, seeds: int) -> tuple[float, int]:
    """The largest deviation of a class from its share of validation and test, and the smallest class there, in images."""
    dataset = undecided(dataset)
    worst, smallest = 0.0, len(dataset)
    for seed in range(seeds):
        split = make_split(dataset, seed=seed, near=copies.groups_N).split
        for k in range(len(dataset.classes)):
            own = split[dataset.labels == k]
            for name in ("val", "test"):
                count = int((own == name).sum())
                worst, smallest = max(worst, abs(count - 0.2 * len(own))), min(smallest, count)
    return worst, smallest


def undecided(dataset: Dataset) -> Dataset:
    """The same dataset without the split that came with it."""
    from dataclasses import replace

    return replace(dataset, split=np.full(len(dataset), "", "<U5"))


def examine(name: str, args: argparse.Namespace) -> None:
    looked = scan(open_set(name, args.data, args.made))
    dataset = looked.dataset
    started = time.perf_counter(), time.process_time()
    copies = find_copies(looked.images, dataset.labels)
    spent = time.perf_counter() - started[0], time.process_time() - started[1]
    runs = [recall(dataset, seed) for seed in range(args.seeds)]
    by_kind = {kind: np.mean([found[kind] for found, _ in runs]) for kind in KINDS}
    called = len(set(copies.pairs_M2.ravel().tolist()))
    first, second = dataset.labels[copies.pairs_M2].T
    deviation, smallest = shares(dataset, copies, 5)
    told = "unknown" if copies.false_share is None else f"{copies.false_share:.1%}"
    print(
        f"{name:13s}{len(dataset):6,} images  recall {np.mean(list(by_kind.values())):6.1%}"
        + "".join(f"  {kind} {by_kind[kind]:.1%}" for kind in KINDS)
        + f"  strangers {sum(s for _, s in runs)}\n{'':13s}{called} called copies in {len(copies.pairs_M2)} pairs, largest "
        f"group {np.bincount(copies.groups_N).max()}, crossing {(first != second).sum()}, doubted {len(copies.doubted_K2)}, "
        f"estimated wrong {told}, limit {copies.limit:.3f}\n{'':13s}shares {deviation:.1f}, small {smallest}; "
        f"{spent[0]:.1f} s, {1000 * spent[1] / len(dataset):.1f} ms of a core per image",
        flush=True,
    )
    if args.sheets and len(copies.pairs_M2):
        args.sheets.mkdir(parents=True, exist_ok=True)
        sheet(copies, dataset.files).save(args.sheets / f"{name}.png")


def sheet(copies: Copies, files: list[Path], side: int = 150, columns: int = 4) -> Image.Image:
    """All pairs side by side, the least certain first, with what differs."""
    pairs = list(zip(copies.pairs_M2.tolist(), copies.difference_M.tolist(), strict=True))[::-1]
    page = Image.new("RGB", (columns * (2 * side + 10), (len(pairs) // columns + 1) * (side + 14)), "white")
    pen = ImageDraw.Draw(page)
    for n, (pair, difference) in enumerate(pairs):
        x, y = n % columns * (2 * side + 10), n // columns * (side + 14)
        pen.text((x, y), f"{difference:.4f} {files[pair[0]].name} {files[pair[1]].name}"[:50], fill="black")
        for left, i in zip((x, x + side), pair, strict=True):
            page.paste(decode(files[i].read_bytes(), (side, side)).resize((side, side)), (left, y + 12))
    return page


def cost(files: list[Path], size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pieces = cut(files[:size], size, Path(folder))
        facts = validate_images(pieces)
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before = (time.perf_counter(), time.process_time())
        copies = find_copies(Images(pieces, facts))
        spent = time.perf_counter() - before[0], time.process_time() - before[1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{size:,} images: {spent[0]:.1f} s, {spent[1]:.1f} s of a core, {len(copies.pairs_M2):,} pairs; "
        f"memory {peak / 1024:,.0f} MB at most, {held / 1024:,.0f} MB before",
        flush=True,
    )


def cut(files: list[Path], size: int, folder: Path) -> list[Path]:
    """`size` images: whole, then cut 2 x 2, then 3 x 3 ..."""
    pieces, parts = list(files), 2
    while len(pieces) < size:
        for file in files:
            image = decode(file.read_bytes())
            width, height = image.width // parts, image.height // parts
            for at in range(min(parts * parts, size - len(pieces))):
                x, y = at % parts * width, at // parts * height
                pieces.append(folder / f"{len(pieces):07}.jpg")
                image.crop((x, y, x + width, y + height)).save(pieces[-1], "JPEG", quality=90)
        parts += 1
    return pieces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+", help=f"{', '.join(SETS)}, or any folder of images in --data")
    parser.add_argument("--data", type=Path, default=Path("data"), help="where the folders of photographs are")
    parser.add_argument("--made", type=Path, default=Path("made"), help="where sets that are made are kept")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sheets", type=Path, help="folder for a contact sheet of each set")
    parser.add_argument("--sizes", help="such as 1000,10000,100000: seconds and memory instead")
    args = parser.parse_args()
    if not args.sizes:
        for name in args.sets:
            examine(name, args)
        return
    sets = [open_dataset(open_set(name, args.data, args.made)) for name in args.sets]
    files = [dataset.file(i) for dataset in sets for i in range(len(dataset))]
    for size in map(int, args.sizes.split(",")):
        cost(files, size)


if __name__ == "__main__":
    main()
