"""The images on which an export is verified: the run's own validation and test images, if they are still there.

Without them, rendered scenes are used. These show whether the network was converted correctly; but no network was trained on
them, so they do not show how often the export decides as the run does.

Each image is read once, to compare its SHA-256 with the run's split.csv; one that has changed is left out. About 0.3 ms
per image if this machine has seen it before, otherwise the time to decode it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from headstart.data.open_dataset import open_dataset
from headstart.data.splits import SplitRow
from headstart.errors import DataError, MissingExtra, NoImages, StoreError
from headstart.images.image_refs import Images
from headstart.io.files import jpeg_bytes
from headstart.io.progress import log
from headstart.io.text_table import plain
from headstart.runs.run_folder import RunFolder
from headstart.samples.scenes import KINDS, LARGEST, render

RENDERED = 60


@dataclass(frozen=True, eq=False)
class ParityImages:
    """Usable images, each with the index of its class (-1 if unknown), its set (val, test, or '' if rendered), and its
    group: images with equal numbers are not independent.

    `about` is a sentence that says where they come from.
    """

    images: Images
    labels_N: np.ndarray
    sets_N: np.ndarray
    groups_N: np.ndarray
    about: str

    @property
    def own(self) -> bool:
        """Whether they are the run's own."""
        return bool((self.sets_N != "").any())

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Sequence[int] | np.ndarray) -> ParityImages:
        """Return the images of these rows (indices), in this order."""
        chosen = np.asarray(rows, np.int64)
        each = (self.labels_N[chosen], self.sets_N[chosen], self.groups_N[chosen])
        return ParityImages(self.images.take(chosen), *each, self.about)


def parity_images(
    run: RunFolder, data: Path | None, most: int, splits: Sequence[str] = ("val", "test")
) -> ParityImages:
    """Return up to `most` images of the validation set and as many of the test set, or rendered ones if there are none.

    `splits` are the sets to take them from. `data` is where the images are now, by default where they were.
    Raises `DataError` if none is in `data`.
    """
    source = run.provenance.source(data)
    try:
        opened = open_dataset(source)
    except (DataError, StoreError, MissingExtra):
        if data is not None:
            raise
        log.info("The run's images are no longer at %s.", plain(source.where))
        return _rendered(most, "The run's images are no longer where they were")
    file_of = {path: opened.file(i) for i, path in enumerate(opened.paths)}
    rows = [row for split in splits for row in _some(run.split, split, most) if row.path in file_of]
    images = Images.inspect([file_of[row.path] for row in rows])
    same = [i for i in images.usable if images.sha256s[i] == rows[i].sha256]
    if not same:
        if data is not None:
            raise NoImages(
                f"{source.where}: has none of the images of {run.path} that are needed.",
                hint="Give the place of the images that the run was trained on, or leave out --data.",
            )
        log.info("None of the run's images are at %s.", plain(source.where))
        return _rendered(most, "None of the run's images were found")
    number = {name: k for k, name in enumerate(run.classifier.classes)}
    kept = [rows[i] for i in same]
    return ParityImages(
        images.take(same),
        np.array([number.get(row.label, -1) for row in kept], np.int64),
        np.array([row.split for row in kept], "<U5"),
        np.array([row.group for row in kept], np.int64),
        _about(kept, run),
    )


def _some(rows: Sequence[SplitRow], split: str, most: int) -> list[SplitRow]:
    """Return up to `most` images of a set, chosen by their hashes, so that the sample is always the same."""
    return sorted((row for row in rows if row.split == split and row.label), key=lambda row: row.sha256)[:most]


def _about(kept: Sequence[SplitRow], run: RunFolder) -> str:
    names = {"val": "validation", "test": "test"}
    parts = []
    for split, name in names.items():
        found = sum(row.split == split for row in kept)
        total = sum(row.split == split and bool(row.label) for row in run.split)
        parts += [f"{found:,} of {total:,} {name} images" if found < total else f"all {found:,} {name} images"] * (
            found > 0
        )
    return f"The run's own: {' and '.join(parts)}."


def _rendered(most: int, why: str) -> ParityImages:
    """Return rendered scenes as encoded JPEGs, which are processed in the same way as files."""
    count = min(most, RENDERED)
    kinds = list(KINDS)
    pixels = (render(kinds[i % len(kinds)], np.random.default_rng([17, i]), LARGEST) for i in range(count))
    images = Images.inspect([jpeg_bytes(Image.fromarray(each), 92) for each in pixels])
    about = f"{why}, so {count} rendered scenes stand in. They verify the conversion, not how often decisions agree."
    return ParityImages(images, np.full(count, -1), np.full(count, "", "<U5"), np.arange(count), about)
