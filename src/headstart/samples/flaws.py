"""A sample set with planted flaws for a data check to find, and a table that lists them.

    made = sample_set(600, seed=0, size=150, flaws=True)
    made.files["train/sea/0007.jpg"], made.flaws[0]

Rendered scenes (`samples.scenes`) in train and test folders, with flaws in the training set: 2 % corrupt files, 5 %
near-duplicates, 5 % wrong labels, 3 % rotated by EXIF, and one training image that is also in the test set. No image
has two flaws. Equal arguments give equal bytes, with the same Pillow on the same kind of CPU. 600 images of 150 pixels
take about 8 s on one core and 6 MB of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from headstart.io.files import jpeg_bytes
from headstart.io.progress import bar
from headstart.samples.scenes import KINDS, render

KINDS_OF_FLAWS = ("corrupt", "near_duplicate", "leak", "exif_rotation", "wrong_label")
COPIES = ("near_duplicate", "leak")
FLAWS_HEADER = ("path", "flaw", "detail", "of")
LEAST = 60
TEST_PART = 0.2
CORRUPT, DUPLICATES, MISLABELLED, TURNED = 0.02, 0.05, 0.05, 0.03
"""Fractions of the training set."""
TURNS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""{EXIF orientation: how the pixels are stored for it}."""


@dataclass(frozen=True)
class Flaw:
    """One row of flaws.csv: `detail` is the damage, the true class, the orientation, or the change to the image `of`."""

    path: str
    flaw: str
    """One of `KINDS_OF_FLAWS`."""
    detail: str
    of: str = ""
    """For copies: the path of the other image."""


@dataclass(frozen=True)
class SampleSet:
    """The result of `sample_set`: {path: bytes of the file}, and the flaws, sorted by path."""

    files: dict[str, bytes]
    flaws: tuple[Flaw, ...]


def sample_set(n: int, *, seed: int, size: int, flaws: bool) -> SampleSet:
    """Render `n` images of six classes, a fifth of each for the test set; near-duplicates and the leak are among them.

    Raises `ValueError` if `n` is below 60 or `size` cannot be rendered.
    """
    if n < LEAST:
        raise ValueError(f"n is {n}; expected {LEAST} or more")
    names = _names(n)
    planned = _plan(names, np.random.default_rng([seed, 1])) if flaws else {}
    files: dict[str, bytes] = {}
    pixels: dict[str, np.ndarray] = {}
    originals = {flaw.of for flaw in planned.values()}
    with bar("Rendering", n) as advance:
        for place, name in enumerate(names):
            flaw = planned.get(name)
            if flaw is None or flaw.flaw not in COPIES:
                rng = np.random.default_rng([seed, 2, place])
                kind = flaw.detail if flaw is not None and flaw.flaw == "wrong_label" else name.split("/")[1]
                image = render(kind, rng, size)
                if name in originals:
                    pixels[name] = image
                files[name] = _written(rng, image, flaw)
            advance(1)
    for name, flaw in planned.items():
        if flaw.flaw in COPIES:
            rng = np.random.default_rng([seed, 3, names.index(name)])
            files[name] = _copied(rng, files[flaw.of], pixels[flaw.of], flaw)
    return SampleSet(dict(sorted(files.items())), tuple(planned[name] for name in sorted(planned)))


def _names(n: int) -> list[str]:
    """Return train/CLASS/0001.jpg ..., as balanced as n allows; the numbers do not reveal copies."""
    names = []
    for k, kind in enumerate(KINDS):
        count = n // len(KINDS) + (k < n % len(KINDS))
        test = round(count * TEST_PART)
        names += [f"train/{kind}/{i:04}.jpg" for i in range(1, count - test + 1)]
        names += [f"test/{kind}/{i:04}.jpg" for i in range(1, test + 1)]
    return names


# How many were found


@dataclass(frozen=True)
class FlawRecall:
    """The result of a check for one kind of flaw.

    `others` counts listed items of that kind that were not planted: files, or, for near-duplicates, groups other than a
    planted copy with its original; leaked copies are among those groups, so for leaks it is None.
    """

    flaw: str
    found: tuple[Flaw, ...]
    missed: tuple[Flaw, ...]
    others: int | None

    @property
    def planted(self) -> int:
        return len(self.found) + len(self.missed)


def recalled(
    flaws: Sequence[Flaw],
    *,
    unreadable: Collection[str],
    groups: Sequence[Sequence[str]],
    turned: Collection[str],
    suspects: Collection[str],
) -> list[FlawRecall]:
    """Return which flaws `check` listed, one row per kind, in the order of `KINDS_OF_FLAWS`.

    Args:
        flaws: The rows of flaws.csv.
        unreadable: Paths of files that were left out as damaged.
        groups: Paths of images considered copies of each other, one list per group.
        turned: Paths of images that EXIF rotates.
        suspects: Paths of images whose label may be wrong.
    """
    together = {path: frozenset(group) for group in groups for path in group}

    def is_found(flaw: Flaw) -> bool:
        if flaw.flaw in COPIES:
            return flaw.of in together.get(flaw.path, ())
        return flaw.path in listed[flaw.flaw]

    listed = {"corrupt": unreadable, "exif_rotation": turned, "wrong_label": suspects}
    pairs = {frozenset((flaw.path, flaw.of)) for flaw in flaws if flaw.flaw in COPIES}
    rows = []
    for kind in KINDS_OF_FLAWS:
        planted = [flaw for flaw in flaws if flaw.flaw == kind]
        found = tuple(flaw for flaw in planted if is_found(flaw))
        others: int | None = None
        if kind == "near_duplicate":
            others = len(set(together.values()) - pairs)
        elif kind != "leak":
            others = len(set(listed[kind]) - {flaw.path for flaw in planted})
        rows.append(FlawRecall(kind, found, tuple(flaw for flaw in planted if flaw not in found), others))
    return rows


# Planting


def _plan(names: list[str], rng: np.random.Generator) -> dict[str, Flaw]:
    """Return {path: flaw}; no path has two, and originals of copies have none."""
    train = [name for name in names if name.startswith("train/")]
    free = [train[i] for i in rng.permutation(len(train))]
    planned: dict[str, Flaw] = {}

    def take(part: float) -> list[str]:
        return [free.pop() for _ in range(max(3, round(part * len(train))))]

    for place, name in enumerate(take(CORRUPT)):
        planned[name] = Flaw(name, "corrupt", ("truncated", "empty", "text")[place % 3])
    for name in take(MISLABELLED):
        others = [kind for kind in KINDS if kind != name.split("/")[1]]
        planned[name] = Flaw(name, "wrong_label", others[int(rng.integers(len(others)))])
    for place, name in enumerate(take(TURNED)):
        planned[name] = Flaw(name, "exif_rotation", str(tuple(TURNS)[place % 3]))
    for place, name in enumerate(take(DUPLICATES)):
        change = tuple(CHANGES)[place % len(CHANGES)]
        original = _original(name, free)
        while original is None:  # with 60 images, all others of its class may have a flaw
            name = free.pop()
            original = _original(name, free)
        planned[name] = Flaw(name, "near_duplicate", change, original)
    leaked = [name for name in names if name.startswith("test/")]
    name = leaked[int(rng.integers(len(leaked)))]
    original = _original(name, free)
    if original is None:
        name = next(name for name in leaked if any(_kind(name) == _kind(other) for other in free))
        original = str(_original(name, free))
    planned[name] = Flaw(name, "leak", "same file", original)
    return planned


def _original(name: str, free: list[str]) -> str | None:
    """Return an image of the same class that is and stays without flaws; None if none is left."""
    place = next((i for i in range(len(free) - 1, -1, -1) if _kind(free[i]) == _kind(name)), None)
    return None if place is None else free.pop(place)


def _kind(name: str) -> str:
    return name.split("/")[1]


# Files


def _written(rng: np.random.Generator, pixels: np.ndarray, flaw: Flaw | None) -> bytes:
    image, quality = Image.fromarray(pixels), int(rng.integers(72, 95))
    if flaw is not None and flaw.flaw == "exif_rotation":
        return _turned(image, quality, int(flaw.detail))
    data = jpeg_bytes(image, quality)
    if flaw is None or flaw.flaw != "corrupt":
        return data
    damage: dict[str, Callable[[], bytes]] = {
        "truncated": lambda: data[: int(len(data) * rng.uniform(0.2, 0.7))],
        "empty": lambda: b"",
        "text": lambda: b"<html><head><title>404 Not Found</title></head><body>No such image.</body></html>\n",
    }
    return damage[flaw.detail]()


def _turned(image: Image.Image, quality: int, orientation: int) -> bytes:
    """Store pixels as a rotated camera would, with the EXIF orientation that makes them upright again."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg_bytes(image.transpose(TURNS[orientation]), quality, exif)


def _copied(rng: np.random.Generator, original: bytes, pixels: np.ndarray, flaw: Flaw) -> bytes:
    """Return a typical copy: re-encoded, resized, cropped, brightened or mirrored. A leak is the same file."""
    if flaw.flaw == "leak":
        return original
    changed = CHANGES[flaw.detail](Image.fromarray(pixels), rng)
    return jpeg_bytes(changed, int(rng.integers(55, 72)))  # below any original: never the same bytes


def _again(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image


def _resized(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = round(image.width * rng.uniform(0.6, 1.5))
    return image.resize((side, side), Image.Resampling.BICUBIC)


def _cut(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Crop 5 % of the width and of the height, split at random between the sides."""
    side, lost = image.width, round(image.width * 0.05)
    x, y = rng.integers(0, lost + 1, 2).tolist()
    return image.crop((x, y, x + side - lost, y + side - lost))


def _brighter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    factor = rng.uniform(1.1, 1.25)
    return image.point([min(255, round(v * factor)) for v in range(256)] * 3)


def _mirrored(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


CHANGES = {"re-encoded": _again, "resized": _resized, "cropped": _cut, "brightened": _brighter, "mirrored": _mirrored}
