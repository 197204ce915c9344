"""How many planted near-duplicates `near_pairs` finds among real pictures, what else it joins, and what it costs.

    python benchmarks/duplicates.py DATA [DATA ...] --weights-dir weights          recall by kind, other pairs found
    python benchmarks/duplicates.py DATA [DATA ...] --sizes 1000,10000,100000      seconds and memory

Planted: 200 pictures drawn at random are saved again, 40 of each kind (re-encoded at quality 30, at half size, with 5 % of
width and height cut off at random sides, 1.3 times as bright, mirrored), 40 more with 5 % cut off each edge. Pairs found
among the real pictures are no error by themselves: `--montage FILE.png` shows them, to be judged by eye.

Sizes: the pictures whole, then in quarters, then in ninths, until there are enough, as JPEG files of their own. Their
features are not computed but mixed (0.7 of the whole picture's, 0.3 of another one's): that leaves the cost as it is,
and says nothing of recall.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from headstart.data.dataset import open_dataset
from headstart.data.duplicates import perceptual_pairs, unit_rows
from headstart.data.near import near_pairs
from headstart.model.backbones import find_backbone
from headstart.model.engine import choose_plan
from headstart.model.features import View, embed_files
from headstart.vision.decode import decode
from headstart.vision.screen import Facts, screen
from headstart.vision.screen_worker import dhash

EACH = 40
KINDS = ("re-encoded", "half size", "cropped 5 %", "brightened", "mirrored", "5 % off each edge")


def changed(picture: Image.Image, kind: str, rng: np.random.Generator) -> tuple[Image.Image, int]:
    """A copy of that kind, and the JPEG quality to save it at."""
    width, height = picture.size
    if kind == "re-encoded":
        return picture, 30
    if kind == "half size":
        return picture.resize((width // 2, height // 2), Image.Resampling.LANCZOS), 90
    if kind == "brightened":
        return ImageEnhance.Brightness(picture).enhance(1.3), 90
    if kind == "mirrored":
        return ImageOps.mirror(picture), 90
    if kind == "5 % off each edge":
        x, y = round(0.05 * width), round(0.05 * height)
        return picture.crop((x, y, width - x, height - y)), 90
    keep_x, keep_y = round(0.95 * width), round(0.95 * height)
    x, y = (int(rng.integers(0, full - keep + 1)) for full, keep in ((width, keep_x), (height, keep_y)))
    return picture.crop((x, y, x + keep_x, y + keep_y)), 90


def alike(features_ND: np.ndarray, threshold: float = 0.95) -> np.ndarray:
    """Pairs (M, 2), i < j, whose cosine is at least `threshold`: N x N numbers at once."""
    rows_ND = unit_rows(features_ND)
    return np.argwhere(np.triu(rows_ND @ rows_ND.T >= threshold, 1))


def plant(files: list[Path], folder: Path, seed: int) -> tuple[list[Path], list[int], list[str]]:
    """Changed copies in `folder`: their files, the places of their originals, their kinds."""
    rng = np.random.default_rng(seed)
    originals = rng.choice(len(files), EACH * len(KINDS), replace=False).tolist()
    kinds = [KINDS[n // EACH] for n in range(len(originals))]
    out = []
    for n, (place, kind) in enumerate(zip(originals, kinds, strict=True)):
        picture, quality = changed(decode(files[place].read_bytes()), kind, rng)
        out.append(folder / f"{n:04}.jpg")
        picture.save(out[-1], "JPEG", quality=quality)
    return out, originals, kinds


def accuracy(files: list[Path], args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copies, originals, kinds = plant(files, Path(folder), args.seed)
        everything = [*files, *copies]
        facts = screen(everything)
        backbone = find_backbone(args.backbone, weights_dir=args.weights_dir)
        view = View(backbone, backbone.preprocess.with_size(args.image_size))
        (features,), _ = embed_files(everything, [f.sha256 for f in facts], [view], choose_plan("cpu"))
        truth = {(place, len(files) + n) for n, place in enumerate(originals)}
        ways = {
            "hash": lambda: perceptual_pairs([f.dhash for f in facts]),
            "cosine": lambda: alike(features),
            "near, no features": lambda: near_pairs(None, everything, facts),
            "near": lambda: near_pairs(features, everything, facts),
        }
        for name, find in ways.items():
            before = (time.perf_counter(), time.process_time())
            pairs = {tuple(pair) for pair in find().tolist()}
            spent = time.perf_counter() - before[0], time.process_time() - before[1]
            got = np.array([pair in pairs for pair in sorted(truth, key=lambda pair: pair[1])])
            real = sorted(pair for pair in pairs if pair[1] < len(files))
            joined = joined_to(real, originals, len(files))
            strangers = [p for p in pairs - truth if p[1] >= len(files) and p not in joined]
            main = np.arange(len(got)) < 200
            print(
                f"{name:18s} {spent[0]:6.1f} s ({spent[1]:.1f} of a core)  of 200 planted {got[main].mean():6.1%}; "
                f"joined to pictures other than their originals {len(strangers)}; pairs among the real ones {len(real)}"
            )
            print("".join(f"    {kind} {got[[k == kind for k in kinds]].mean():.1%}" for kind in KINDS))
            if args.montage and name == "near":
                montage([*real, *strangers], everything).save(args.montage)


def joined_to(real: list[tuple[int, int]], originals: list[int], n: int) -> set[tuple[int, int]]:
    """Pairs of a planted copy with a picture that its original is paired with too, or with a copy of the same."""
    near: dict[int, set[int]] = {}
    for i, j in real:
        near.setdefault(i, {i}).add(j)
        near.setdefault(j, {j}).add(i)
    source = [*range(n), *originals]
    around = [(place, near.get(source[place], {source[place]})) for place in range(n, len(source))]
    return {(i, place) for place, friends in around for i in friends}


def montage(pairs: list[tuple[int, int]], files: list[Path], side: int = 110, columns: int = 6) -> Image.Image:
    """The pairs side by side, with their places."""
    sheet = Image.new("RGB", (columns * (2 * side + 10), (len(pairs) // columns + 1) * (side + 14)), "white")
    pen = ImageDraw.Draw(sheet)
    for n, pair in enumerate(pairs):
        x, y = n % columns * (2 * side + 10), n // columns * (side + 14)
        pen.text((x, y), f"{pair[0]} {pair[1]}", fill="black")
        for at, i in zip((x, x + side), pair, strict=True):
            sheet.paste(decode(files[i].read_bytes(), (side, side)).resize((side, side)), (at, y + 12))
    return sheet


def cost(files: list[Path], size: int, args: argparse.Namespace) -> None:
    rng = np.random.default_rng(args.seed)
    backbone = find_backbone(args.backbone, weights_dir=args.weights_dir)
    view = View(backbone, backbone.preprocess.with_size(args.image_size))
    whole = files[: min(len(files), size)]
    sha256s = [f.sha256 for f in screen(whole)]
    (features,), _ = embed_files(whole, sha256s, [view], choose_plan("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        pieces, parents, hashes = cut(whole, size, Path(folder))
        others = rng.integers(0, len(whole), size)
        share = np.where(np.arange(size) < len(whole), 1.0, 0.7).astype(np.float32)[:, None]
        mixed = share * features[parents] + (1 - share) * features[others]
        facts = [Facts("", 0, "JPEG", 0, 0, "RGB", 1, 1, mark, "", "") for mark in hashes]
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before = (time.perf_counter(), time.process_time())
        pairs = near_pairs(mixed, pieces, facts)
        spent = time.perf_counter() - before[0], time.process_time() - before[1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{size:,} pictures x {mixed.shape[1]:,} features: {spent[0]:.1f} s, {spent[1]:.1f} s of a core, "
        f"{len(pairs):,} pairs; memory {peak / 1024:,.0f} MB at most, {held / 1024:,.0f} MB before",
        flush=True,
    )


def cut(files: list[Path], size: int, folder: Path) -> tuple[list[Path], np.ndarray, list[int]]:
    """`size` pictures: whole, then cut 2 x 2, then 3 x 3 ...: files, places of the wholes, hashes."""
    pieces, parents, hashes = list(files), list(range(len(files))), [dhash(decode(f.read_bytes())) for f in files]
    parts = 2
    while len(pieces) < size:
        for parent, file in enumerate(files):
            picture = decode(file.read_bytes())
            width, height = picture.width // parts, picture.height // parts
            for at in range(min(parts * parts, size - len(pieces))):
                x, y = at % parts * width, at // parts * height
                piece = picture.crop((x, y, x + width, y + height))
                pieces.append(folder / f"{len(pieces):07}.jpg")
                piece.save(pieces[-1], "JPEG", quality=90)
                parents.append(parent)
                hashes.append(dhash(piece))
        parts += 1
    return pieces, np.array(parents), hashes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--weights-dir", type=Path)
    parser.add_argument("--backbone", default="mobilenetv1_100.tf_qat_in1k")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sizes", help="such as 1000,10000,100000; without it, recall is measured")
    parser.add_argument("--montage", type=Path, help="picture file for the pairs found that were not planted")
    args = parser.parse_args()
    sets = [open_dataset(data) for data in args.data]
    files = [dataset.file(i) for dataset in sets for i in range(len(dataset))]
    print(f"{len(files):,} real pictures, seed {args.seed}, {args.backbone} at {args.image_size} px", flush=True)
    if args.sizes:
        for size in map(int, args.sizes.split(",")):
            cost(files, size, args)
    else:
        accuracy(files, args)


if __name__ == "__main__":
    main()
