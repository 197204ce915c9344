"""`headstart explain RUN IMAGE...`: explain predictions, one sheet per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.data.data_source import as_source
from headstart.errors import MissingData, RecipeError
from headstart.images.given_images import GivenImages, each_image, places_among
from headstart.io.folders import check_outside_data
from headstart.io.given_options import as_path
from headstart.io.result_repr import Result
from headstart.io.text_table import columns, plain
from headstart.pipeline.explanations import Explanation, explain_images, holds_sheets
from headstart.pipeline.images_at import images_at, require_readable
from headstart.runs.outside_runs import check_earlier
from headstart.runs.run_folder import RunFolder

MOST_SHOWN = 10


@dataclass(frozen=True, repr=False)
class ExplainResult(Result):
    """Result of `explain`."""

    model: str
    out: str
    images: tuple[Explanation, ...]
    errors: dict[str, str]
    notes: tuple[str, ...]
    top: int

    def check(self) -> None:
        """Raise `NoImages` if none of the images could be read."""
        require_readable(len(self.images), len(self.errors))

    def summary(self) -> str:
        """Return the number of images and the folder of their sheets."""
        return f"{len(self.images):,} images explained in {self.out}; {len(self.errors):,} could not be read"

    def facts(self) -> list[tuple[str, str]]:
        """Return the class of each image with its probability."""
        return [(image.path, f"{image.predicted} {max(image.probabilities.values()):.1%}") for image in self.images]

    def to_json(self) -> dict[str, Any]:
        """Return the document of `explain --json`."""
        return {
            "model": self.model,
            "out": self.out,
            "images": [asdict(p) for p in self.images],
            "errors": self.errors,
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """Format as plain text for a terminal: the first ten images, and the first ten that could not be read."""
        lines = [line for image in self.images[:MOST_SHOWN] for line in self._lines(image)]
        failed = list(self.errors.items())[:MOST_SHOWN]
        lines += columns([("not read", reason, plain(path)) for path, reason in failed], "<<<")
        more = max(len(self.images) - MOST_SHOWN, 0) + len(self.errors) - len(failed)
        lines += [f"and {more:,} more"] if more else []
        n = len(self.images)
        return "\n".join([*lines, *self.notes, f"{n:,} sheet{'s' * (n != 1)} written to {self.out}"])

    def _lines(self, image: Explanation) -> list[str]:
        likely = sorted(image.probabilities.items(), key=lambda item: -item[1])[: self.top]
        classes = ", ".join(f"{plain(name)} {share:.1%}" for name, share in likely)
        label = f"; labelled {plain(image.label)}" if image.label else ""
        near = columns([(f"{n.cosine:.3f}", plain(n.label), plain(n.path)) for n in image.nearest], "><<")
        return [plain(image.path), f"  {classes}{label}", *(f"  like {line}" for line in near)]


def explain(
    run: Path, *paths: GivenImages, out: Path = Path("explained"), data: Path | None = None, top: int = 3
) -> ExplainResult:
    """Explain predictions: probabilities, a heat map, and the nearest training images. Example:

        headstart explain run holiday/one.jpg --out explained

    Args:
        run: Run folder written by `headstart train`.
        paths: Images, or folders of images; in Python also bytes of files, PIL images and arrays, or lists of these.
        out: Folder to write, one PNG per image. An earlier one is kept as OUT.previous.
        data: The training images; by default where they were during training.
        top: Number of classes and of nearest training images to show.

    Raises:
        RunError: the run folder is missing or damaged.
        MissingData: a path does not exist.
        DataError: `data` is not a dataset.
        WriteError: `out` cannot be written, holds something other than explanations, or is inside a folder of images that
            were given or trained on.
    """
    if not paths:
        raise MissingData("No images were given.", hint=f"headstart explain {run} image.jpg")
    images = each_image(paths)
    if not isinstance(top, int) or top < 1:
        raise RecipeError(f"top is {top!r}, expected 1 or more.")
    out = as_path(out, "out")
    check_earlier(out, "folder of explanations", holds_sheets)
    opened = RunFolder(run)
    _check_outside(out, opened, [*places_among(images), *([data] if data is not None else [])])
    given = images_at(images)
    found = explain_images(opened, dict(zip(given.names, given.refs, strict=True)), out=out, data=data, top=top)
    return ExplainResult(
        model=opened.classifier.id,
        out=str(out),
        images=found.images,
        errors=given.lost | found.errors,
        notes=found.notes,
        top=top,
    )


def _check_outside(out: Path, run: RunFolder, given: Sequence[Path]) -> None:
    """Raise `WriteError` if the sheets would be among images: those given, or those that the run was trained on."""
    for place in (*(as_source(each).place for each in given), run.provenance.source().place):
        check_outside_data(out, place, name="explained")
