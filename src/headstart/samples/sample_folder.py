"""The folder of a sample set: its images, flaws.csv, and a README that says how they were made.

Not for the contents of the images, and what rendering them costs: see `headstart.samples.flaws`.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import astuple
from pathlib import Path

from headstart.errors import RecipeError, WriteError, near_names
from headstart.io.files import write_bytes, write_csv, write_text
from headstart.io.folders import folder_aside
from headstart.io.text_table import columns, plain
from headstart.samples.flaws import FLAWS_HEADER, LEAST, SampleSet, sample_set
from headstart.samples.scenes import KINDS, LARGEST, SMALLEST

SETS = ("scenes",)

README = """\
{first}

These are drawings made by a program, not photographs: {n:,} images of {size} x {size} pixels in six classes
({kinds}), four fifths in train and one fifth in test. They are for trying headstart out and for its tests. They do
not show how well something works on photographs.

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


def write_sample(place: Path, what: str, *, n: int, seed: int, size: int, flaws: bool) -> SampleSet:
    """Render a sample set into an empty folder. Raises `RecipeError`, `WriteError`."""
    _check_options(what, n, size, seed)
    if os.path.lexists(place) and not place.is_dir():
        raise WriteError(f"{place}: is in the way: a folder would be written there.", hint="Choose a new folder.")
    if place.is_dir() and next(os.scandir(place), None) is not None:
        raise WriteError(f"{place}: is not empty.", hint="Choose a new folder.")
    with folder_aside(place) as aside:
        made = sample_set(n, seed=seed, size=size, flaws=flaws)
        for name, data in made.files.items():
            write_bytes(aside / name, data)
        if flaws:
            write_csv(aside / "flaws.csv", FLAWS_HEADER, [astuple(flaw) for flaw in made.flaws])
        write_text(aside / "README.txt", _readme(made, n, seed, size))
    return made


def _check_options(what: str, n: int, size: int, seed: int) -> None:
    """Raise `RecipeError` if an option is invalid."""
    if what not in SETS:
        listed = " or ".join(map(repr, SETS))
        raise RecipeError(f"{plain(what)!r} is not a sample set; expected {listed}.", hint=near_names(what, list(SETS)))
    if n < LEAST:
        raise RecipeError(f"n is {n}; expected {LEAST} or more.", hint="600 take about 10 s.")
    if not SMALLEST <= size <= LARGEST:
        raise RecipeError(f"size is {size}; expected {SMALLEST} to {LARGEST} pixels.", hint="150 is usual.")
    if seed < 0:
        raise RecipeError(f"seed is {seed}; expected 0 or more.")


def flaw_counts(made: SampleSet) -> dict[str, int]:
    """Return the number of planted flaws by name."""
    return dict(sorted(Counter(flaw.flaw for flaw in made.flaws).items()))


def _readme(made: SampleSet, n: int, seed: int, size: int) -> str:
    counts = [(f"    {name}", str(count)) for name, count in flaw_counts(made).items()]
    first = first_line(n, seed, size, flaws=bool(made.flaws))
    about = WITH_FLAWS.format(flaws="\n".join(columns(counts))) if made.flaws else WITHOUT_FLAWS
    return README.format(first=first, n=n, size=size, kinds=", ".join(KINDS), about=about)


def first_line(n: int, seed: int, size: int, *, flaws: bool) -> str:
    """Return the first line of README.txt, which identifies a set."""
    option = "" if flaws else " --no-flaws"
    return f"Rendered scenes, made by `headstart sample scenes DIR --n {n} --seed {seed} --size {size}{option}`."
