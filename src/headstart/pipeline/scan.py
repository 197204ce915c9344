"""The first step of nearly every verb: open the data, and read every image once."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from headstart.data.checks import findings
from headstart.data.class_names import about_merged, about_similar
from headstart.data.copies import Copies
from headstart.data.data_source import DataSource, as_source
from headstart.data.dataset import Dataset, fingerprint
from headstart.data.duplicates import exact_groups, group_pairs, joined, merge_groups
from headstart.data.findings import Finding
from headstart.data.groups import require_splittable
from headstart.data.left_out import note_left_out
from headstart.data.near_duplicates import find_copies
from headstart.data.not_copies import NotCopies
from headstart.data.open_dataset import open_dataset
from headstart.data.proposals import proposal
from headstart.errors import NoImages
from headstart.images.image_refs import Images
from headstart.images.remarks import kinds_of, note_unusable
from headstart.io.progress import log


@dataclass(frozen=True, eq=False)
class ScannedDataset:
    """A dataset whose files have all been read.

    `everything` and `every_image` hold all files; `dataset` and `images` the usable ones, in one order, with `groups`
    from the given groups and identical files. Other copies are in `copies`, computed on first use.
    """

    everything: Dataset
    every_image: Images
    dataset: Dataset
    images: Images
    not_copies: NotCopies
    """Pairs marked as not copies."""

    @property
    def unreadable(self) -> dict[str, str]:
        """{path: reason} of the unusable images, including rows of a table without a file."""
        bad = {p: f.reason for p, f in zip(self.everything.paths, self.every_image.infos, strict=True) if f.reason}
        return bad | self.everything.lost

    @property
    def fingerprint(self) -> str:
        """SHA-256 of paths, bytes and labels of the usable images."""
        return fingerprint(self.dataset, self.images.sha256s)

    @cached_property
    def copies(self) -> Copies:
        """Copies among the usable images by their pixels, without the pairs marked as not copies."""
        found = find_copies(self.images, self.dataset.labels)
        return self.not_copies.applied_to(found, self.dataset.paths, self.images.sha256s)

    def findings(self, dataset: Dataset, copies: Copies) -> list[Finding]:
        """Run the checks. `dataset` and `copies` are those of the usable images; the groups are named ones."""
        everything, n = _filled_in(self.everything, dataset), len(self.everything)
        places_N = self.every_image.usable
        return findings(everything, self.every_image.infos, copies=copies.among(places_N, n))


def scan(
    data: Path | str | DataSource,
    *,
    opened: Dataset | None = None,
    not_copies: NotCopies = NotCopies(),  # noqa: B008 (frozen)
    noting: bool = True,
) -> ScannedDataset:
    """Open `data` unless `opened` is given, and read every file. Files that cannot be used are logged, if `noting`.

    Raises `DataError` if nothing can be used; `BadCopies` if a pair of `not_copies` is the same file.
    """
    source = as_source(data)
    everything = open_dataset(source) if opened is None else opened
    note_reading(everything)
    every_image = Images.inspect(everything.file(i) for i in range(len(everything)))
    keep = every_image.usable
    if not len(keep):
        first, kinds = every_image.infos[0], kinds_of(every_image.infos).removeprefix(": ")
        none = f"none of {len(every_image):,} files can be used{f' ({kinds})' if kinds else ''}"
        raise NoImages(
            f"{source.where}: {none}: {everything.paths[0]}: {first.message}",
            hint=f"`headstart check {shlex.join(source.words())}` says what is wrong with each.",
        )
    if noting:
        note_unusable(every_image.infos, everything.paths)
    images = every_image.take(keep)
    dataset = with_identical_files(everything.take(keep), images)
    scanned = ScannedDataset(
        everything=everything, every_image=every_image, dataset=dataset, images=images, not_copies=not_copies
    )
    not_copies.check_files(dataset.paths, images.sha256s)
    return scanned


def note_reading(dataset: Dataset) -> None:
    """Log what was left out of the data, and names of classes that are easily taken for one another."""
    note_left_out(dataset.root, dataset.rejected)
    for sentence in filter(None, (about_merged(dataset.merged), about_similar(dataset.classes))):
        log.warning("%s: %s", dataset.root, sentence)


def prepare_groups(dataset: Dataset, source: DataSource) -> None:
    """Log possible groups (`note_groups`), and raise `BadSplit` if no split can be made."""
    note_groups(dataset)
    require_splittable(dataset, source.groups_named_by)


def note_groups(dataset: Dataset) -> None:
    """Log which option would group images that belong together."""
    sentence = proposal(dataset)
    if sentence:
        log.info("%s", sentence)


def with_named_groups(given: Dataset, scanned: ScannedDataset, source: DataSource) -> Dataset:
    """Join the groups of a given split with those named by options, so that groups it divides are reported."""
    if not (source.group_column or source.group_from):
        return given
    groups = merge_groups(len(given), group_pairs(given.groups), group_pairs(scanned.dataset.groups))
    return replace(given, groups=groups)


def with_identical_files(dataset: Dataset, images: Images) -> Dataset:
    """Join the groups of the dataset that contain the same file."""
    exact = exact_groups(images.sha256s)
    return replace(dataset, groups=joined(dataset.groups, group_pairs(exact)))


def _filled_in(everything: Dataset, part: Dataset) -> Dataset:
    """Return `everything` with the split and the groups of the images in `part`."""
    place = {path: i for i, path in enumerate(part.paths)}
    split, groups = everything.split.copy(), np.arange(len(everything), dtype=np.int64) + len(everything)
    for i, path in enumerate(everything.paths):
        if path in place:
            split[i], groups[i] = part.split[place[path]], part.groups[place[path]]
    return replace(everything, split=split, groups=groups)
