"""`headstart sample scenes DIR`: rendered images for experiments, with a table of their planted flaws."""

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
    """Result of `sample`: images by set and class, and the number of each flaw."""

    out: str
    images: dict[str, dict[str, int]]
    flaws: dict[str, int]

    def summary(self) -> str:
        """Return the number of images and their folder."""
        counts = ", ".join(f"{name} {sum(of_class.values()):,}" for name, of_class in self.images.items())
        return f"{self.out}: {counts} rendered images, {sum(self.flaws.values()):,} flaws planted"

    def to_json(self) -> dict[str, Any]:
        """Return the document of `sample --json`."""
        return asdict(self)

    def table(self) -> str:
        """Format as plain text for a terminal."""
        kinds = list(KINDS)
        counted = [(split, *(f"{counts[kind]:,}" for kind in kinds)) for split, counts in self.images.items()]
        lines = columns([("", *kinds), *counted])
        planted = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in self.flaws.items())
        lines += [f"Planted: {planted} ({self.out}/flaws.csv lists them)." if planted else "No planted flaws."]
        lines += [f"Rendered images, written to {self.out}. Next: headstart check {self.out} --labels"]
        return "\n".join(lines)


def sample(
    what: str, folder: Path, *, n: int = 600, seed: int = 0, size: int = 150, flaws: bool = True
) -> SampleResult:
    """Render a sample dataset: six classes of scenes in train and test folders, with planted flaws. Example:

        headstart sample scenes images --n 600 --seed 0

    Args:
        what: Name of the sample dataset: scenes.
        folder: Folder to write; must be empty or not exist.
        n: Number of images.
        seed: Random seed; another seed gives other images.
        size: Side of an image in pixels.
        flaws: Plant corrupt files, near-duplicates, wrong labels, EXIF rotations and a leak; flaws.csv lists them.

    Raises:
        RecipeError: the dataset is unknown, there are too few images, or the size cannot be rendered.
        WriteError: `folder` is not empty, or cannot be written.
    """
    made = write_sample(Path(folder), what, n=n, seed=seed, size=size, flaws=flaws)
    images = {split: dict.fromkeys(KINDS, 0) for split in ("train", "test")}
    for name in made.files:
        split, kind, _ = name.split("/")
        images[split][kind] += 1
    return SampleResult(str(folder), images, flaw_counts(made))
