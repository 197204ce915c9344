"""`headstart sample scenes DIR`: rendered images to try things out with, and a table of what is wrong with them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.io.result_repr import Result
from headstart.io.text_table import columns
from headstart.samples.sample_folder import flaw_counts, write_sample
from headstart.samples.scenes import KINDS


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
    made = write_sample(Path(folder), what, n=n, seed=seed, size=size, flaws=flaws)
    sides = {side: dict.fromkeys(KINDS, 0) for side in ("train", "test")}
    for name in made.files:
        side, kind, _ = name.split("/")
        sides[side][kind] += 1
    return SampleResult(str(folder), sides, flaw_counts(made))
