"""`headstart split DATA --out split.csv`: write a split that can be reused, shared, and verified by its hash."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headstart.data.corrections import read_corrections
from headstart.data.curation import Curation
from headstart.data.data_source import DataSource, as_source
from headstart.data.dataset import Dataset
from headstart.data.duplicates import joined
from headstart.data.not_copies import read_not_copies
from headstart.data.open_dataset import open_dataset, require_trainable
from headstart.data.splits import grow_split, make_split, require_sets, split_hash, write_split
from headstart.io.folders import check_keeps
from headstart.io.given_options import as_path, expect
from headstart.io.result_repr import Result
from headstart.io.text_table import columns, few, plain
from headstart.pipeline.scan import note_groups, prepare_groups, scan
from headstart.runs.outside_runs import check_out_file


@dataclass(frozen=True, repr=False)
class SplitResult(Result):
    """Result of `split`: the number of images per set and class, and the split's hash.

    With `keep`: how many images of the earlier split are `kept`, how many are `gone`, and the `new` ones by set ('' for
    none).
    """

    out: str
    hash: str
    images: dict[str, dict[str, int]]
    kept: int | None = None
    new: dict[str, int] = field(default_factory=dict)
    gone: int | None = None

    def summary(self) -> str:
        """Return the number of images in each set."""
        counts = ", ".join(f"{name} {sum(of_class.values()):,}" for name, of_class in self.images.items())
        return f"{self.out}: {counts}"

    def to_json(self) -> dict[str, Any]:
        """Return the document of `split --json`."""
        return asdict(self)

    def table(self) -> str:
        """Format as plain text for a terminal."""
        rows = [
            (name, f"{sum(counts.values()):,}", few([f"{plain(c)} {n:,}" for c, n in counts.items()]))
            for name, counts in self.images.items()
        ]
        return "\n".join([f"{self.out}  (hash {self.hash[:16]})", *columns(rows, "<><"), *self._grown()])

    def _grown(self) -> list[str]:
        """Return what became of an earlier split, if there was one."""
        if self.kept is None:
            return []
        sets = [f"{name or 'no set'} {n:,}" for name, n in self.new.items() if n]
        new = f"{sum(self.new.values()):,} new{f' ({few(sets)})' * bool(sets)}"
        return [f"{self.kept:,} images kept their set, {new}, {self.gone or 0:,} gone"]


def split(
    data: Path | DataSource,
    *,
    out: Path,
    keep: Path | None = None,
    seed: int = 0,
    val_size: float = 0.2,
    test_size: float = 0.2,
    curation: Curation = Curation(),
) -> SplitResult:
    """Split a dataset into train, val and test: stratified, seeded, with copies of an image in one set.

    An existing split of the data is kept; missing sets are split off its training set. With --keep, an earlier split
    grows: its images keep their sets, and new images are distributed. Example:

        headstart split photos --out split.csv

    Args:
        data: Images with labels: a folder of class folders or of split folders, a table, an archive of these, or shards.
        out: CSV to write: path, label, split, group, sha256.
        keep: An earlier split.csv whose images keep their sets. Copies of them go into the same sets, and other images are
            distributed by --val-size and --test-size.
        seed: Random seed; a different seed gives a different split.
        val_size: Fraction of the images for validation; of the training images, if the data has a test set.
        test_size: Fraction of the images for the final test; 0 for none, or with --keep for no new ones.
        curation: Corrections and refused copies to apply; the data itself stays unchanged.

    Raises:
        DataError: the data cannot be split (one class, too few images), or a table of `curation` does not fit it.
        StoreError: a bucket is missing, or refuses.
        WriteError: `out` cannot be written, or would replace an input.
    """
    expect(curation, Curation, "curation", "Curation(corrections='corrections.csv')")
    source, out = as_source(data), as_path(out, "out")
    earlier = None if keep is None else as_path(keep, "keep")
    check_out_file(out, source.place)
    corrections, opened = read_corrections(curation.corrections), open_dataset(source)
    inputs = [*opened.places, *curation.tables, *([earlier] if earlier else [])]
    check_keeps(out, inputs)
    refused = read_not_copies(curation.not_copies).checked(opened)
    opened = corrections.applied_to(opened)
    if earlier is None:
        prepare_groups(opened, source)
    else:
        note_groups(opened)
    scanned = scan(source, opened=opened, not_copies=refused)
    require_trainable(scanned.dataset)
    near, sha256s = scanned.copies.groups_N, scanned.images.sha256s
    if earlier is not None:
        certain = scanned.copies.pairs_M2[scanned.copies.certain_M]
        grown = grow_split(
            earlier,
            scanned.dataset,
            sha256s,
            seed=seed,
            val_size=val_size,
            test_size=test_size,
            near=joined(near, certain),
        )
        write_split(out, grown.dataset, sha256s)
        return SplitResult(
            str(out), split_hash(grown.dataset), _images_by_set(grown.dataset), grown.kept, grown.new, grown.gone
        )
    dataset = make_split(scanned.dataset, seed=seed, val_size=val_size, test_size=test_size, near=near)
    require_sets(dataset, ["train", *(name for name, share in (("val", val_size), ("test", test_size)) if share > 0)])
    write_split(out, dataset, sha256s)
    return SplitResult(str(out), split_hash(dataset), _images_by_set(dataset))


def _images_by_set(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Return the number of images by set and class."""
    classes = list(enumerate(dataset.classes))
    return {
        split: {name: int(((dataset.split == split) & (dataset.labels == k)).sum()) for k, name in classes}
        for split in ("train", "val", "test")
    }
