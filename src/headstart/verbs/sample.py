"""`headstart sample scenes DIR`: rendered images to try things out with, and a table of what is wrong with them."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from headstart.errors import RecipeError, WriteError, near_names
from headstart.io.files import write_bytes, write_csv, write_text
from headstart.io.folders import folder_aside
from headstart.io.result_repr import Result
from headstart.io.text_table import columns, plain
from headstart.samples.flaws import FLAWS_HEADER, LEAST, SampleSet, sample_set
from headstart.samples.scenes import KINDS, LARGEST, SMALLEST

SETS = ("scenes",)

README = """\
{first}

These are drawings made by a program, not photographs: {n:,} images of {size} x {size} pixels in six classes
({kinds}), four fifths in train and one fifth in test. They are for trying headstart out and for its tests. How well
something works on photographs they do not tell.

{about}
The images and this text are under the licence of headstart (Apache-2.0).
"""
WITH_FLAWS = """\
Some files are bad on purpose. flaws.csv lists them all:

{flaws}

Columns: path; flaw; detail (the damage, the true class, the EXIF orientation, or how the copy was changed); of (the
image that it is a copy of).
"""
WITHOUT_FLAWS = "Nothing is planted: no damaged files, copies or wrong labels.\n"


@dataclass(frozen=True, repr=False)
class SampleResult(Result):
    """What `sample` wrote: images by set and class, and how many of each flaw."""

    out: str
    images: dict[str, dict[str, int]]
    flaws: dict[str, int]

    def summary(self) -> str:
        """How many images, and where they are."""
        counts = ", ".join(f"{name} {sum(of_class.values()):,}" for name, of_class in self.images.items())
        return f"{self.out}: {counts} rendered images, {sum(self.flaws.values()):,} flaws planted"

    def to_json(self) -> dict[str, Any]:
        """The document of `sample --json`."""
        return asdict(self)

    def table(self) -> str:
        """Plain text for a terminal."""
        kinds = list(KINDS)
        counted = [(side, *(f"{counts[kind]:,}" for kind in kinds)) for side, counts in self.images.items()]
        lines = columns([("", *kinds), *counted])
        planted = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in self.flaws.items())
        lines += [f"Planted: {planted} ({self.out}/flaws.csv lists them)." if planted else "No flaws are planted."]
        lines += [f"Rendered images, written to {self.out}. Next: headstart check {self.out} --labels"]
        return "\n".join(lines)


def sample(
    what: str, folder: Path, *, n: int = 600, seed: int = 0, size: int = 150, flaws: bool = True
) -> SampleResult:
    """Render a sample set: six classes of scenes in train and test folders, with known flaws planted. Example:

        headstart sample scenes images --n 600 --seed 0

    Args:
        what: Which set: scenes.
        folder: Folder to write; it must be empty or not be there yet.
        n: Number of images.
        seed: Another seed gives other images.
        size: Side of an image in pixels.
        flaws: Plant corrupt files, near-duplicates, wrong labels, EXIF rotations and a leak; flaws.csv lists them.

    Raises:
        RecipeError: no such set, too few images, or a size that cannot be rendered.
        WriteError: `folder` holds something, or cannot be written.
    """
    _check_options(what, n, size, seed)
    place = Path(folder)
    if place.is_dir() and next(os.scandir(place), None) is not None:
        raise WriteError(f"{place}: is not empty.", hint="Choose a new folder.")
    with folder_aside(place) as aside:
        made = sample_set(n, seed=seed, size=size, flaws=flaws)
        for name, data in made.files.items():
            write_bytes(aside / name, data)
        if flaws:
            write_csv(aside / "flaws.csv", FLAWS_HEADER, [astuple(flaw) for flaw in made.flaws])
        write_text(aside / "README.txt", _readme(made, n, seed, size))
    sides = {side: dict.fromkeys(KINDS, 0) for side in ("train", "test")}
    for name in made.files:
        side, kind, _ = name.split("/")
        sides[side][kind] += 1
    return SampleResult(str(folder), sides, _counts(made))


def _check_options(what: str, n: int, size: int, seed: int) -> None:
    """Raise `RecipeError` if one of them cannot work."""
    if what not in SETS:
        known = " or ".join(map(repr, SETS))
        raise RecipeError(f"{plain(what)!r} is no sample set; expected {known}.", hint=near_names(what, list(SETS)))
    if n < LEAST:
        raise RecipeError(f"n is {n}; expected {LEAST} or more.", hint="600 take about 10 s.")
    if not SMALLEST <= size <= LARGEST:
        raise RecipeError(f"size is {size}; expected {SMALLEST} to {LARGEST} pixels.", hint="150 is usual.")
    if seed < 0:
        raise RecipeError(f"seed is {seed}; expected 0 or more.")


def _counts(made: SampleSet) -> dict[str, int]:
    return dict(sorted(Counter(flaw.flaw for flaw in made.flaws).items()))


def _readme(made: SampleSet, n: int, seed: int, size: int) -> str:
    counts = [(f"    {name}", str(count)) for name, count in _counts(made).items()]
    first = first_line(n, seed, size, flaws=bool(made.flaws))
    about = WITH_FLAWS.format(flaws="\n".join(columns(counts))) if made.flaws else WITHOUT_FLAWS
    return README.format(first=first, n=n, size=size, kinds=", ".join(KINDS), about=about)


def first_line(n: int, seed: int, size: int, *, flaws: bool) -> str:
    """How README.txt begins, by which a set is known."""
    option = "" if flaws else " --no-flaws"
    return f"Rendered scenes, made by `headstart sample scenes DIR --n {n} --seed {seed} --size {size}{option}`."
