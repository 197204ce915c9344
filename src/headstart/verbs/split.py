"""`headstart split DATA --out split.csv`: write a split that can be reused, shared, and verified by its hash."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.data.corrections import read_corrections
from headstart.data.curation import Curation
from headstart.data.data_source import DataSource, as_source
from headstart.data.not_copies import read_not_copies
from headstart.data.open_dataset import open_dataset, require_trainable
from headstart.data.splits import make_split, require_sets, split_hash, write_split
from headstart.io.folders import check_keeps
from headstart.io.result_repr import Result
from headstart.io.text_table import columns, few, plain
from headstart.pipeline.scan import prepare_groups, scan
from headstart.runs.outside_runs import check_out_file


@dataclass(frozen=True, repr=False)
class SplitResult(Result):
    """Result of `split`: the number of images per set and class, and the split's hash."""

    out: str
    hash: str
    sides: dict[str, dict[str, int]]

    def summary(self) -> str:
        """Return the number of images in each set."""
        counts = ", ".join(f"{name} {sum(of_class.values()):,}" for name, of_class in self.sides.items())
        return f"{self.out}: {counts}"

    def to_json(self) -> dict[str, Any]:
        """Return the document of `split --json`."""
        return asdict(self)

    def table(self) -> str:
        """Format as plain text for a terminal."""
        rows = [
            (side, f"{sum(counts.values()):,}", few([f"{plain(c)} {n:,}" for c, n in counts.items()]))
            for side, counts in self.sides.items()
        ]
        return "\n".join([f"{self.out}  (hash {self.hash[:16]})", *columns(rows, "<><")])


def split(
    data: Path | DataSource,
    *,
    out: Path,
    seed: int = 0,
    val_size: float = 0.2,
    test_size: float = 0.2,
    curation: Curation = Curation(),
) -> SplitResult:
    """Split a dataset into train, val and test: stratified, seeded, with copies of an image in one set.

    An existing split of the data is kept; missing sets are split off its training set. Example:

        headstart split photos --out split.csv

    Args:
        data: Images with labels: a folder of class folders or of split folders, a table, an archive of these, or shards.
        out: CSV to write: path, label, split, group, sha256.
        seed: Random seed; another seed gives another split.
        val_size: Fraction of the training images for validation.
        test_size: Fraction of the images for the final test.
        curation: Corrections and refused copies to apply; the data itself stays as it is.

    Raises:
        DataError: the data cannot be split (one class, too few images), or a table of `curation` does not fit it.
        WriteError: `out` cannot be written, or would replace an input.
    """
    source = as_source(data)
    check_out_file(Path(out), source.place)
    corrections, opened = read_corrections(curation.corrections), open_dataset(source)
    check_keeps(Path(out), [*map(opened.file, range(len(opened))), *curation.tables])
    refused = read_not_copies(curation.not_copies).checked(opened)
    opened = corrections.applied_to(opened)
    prepare_groups(opened, source)
    scanned = scan(source, opened=opened, not_copies=refused)
    require_trainable(scanned.dataset)
    dataset = make_split(
        scanned.dataset, seed=seed, val_size=val_size, test_size=test_size, near=scanned.copies.groups_N
    )
    require_sets(dataset, ["train", *(name for name, share in (("val", val_size), ("test", test_size)) if share > 0)])
    write_split(Path(out), dataset, scanned.images.sha256s)
    sides = {
        side: {
            name: int(((dataset.split == side) & (dataset.labels == k)).sum()) for k, name in enumerate(dataset.classes)
        }
        for side in ("train", "val", "test")
    }
    return SplitResult(str(out), split_hash(dataset), sides)
