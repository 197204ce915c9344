"""A person's decisions about the images of a dataset: corrections of labels, and pairs that are not copies.

    headstart.train("photos", out="run", curation=Curation(corrections="corrections.csv"))

Both are tables that `headstart check` writes and a person edits (`data.corrections`, `data.not_copies`). Costs nothing:
only their paths are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headstart.io.given_options import as_path


@dataclass(frozen=True)
class Curation:
    """Tables of a person's decisions; the data itself stays unchanged.

    >>> [table.name for table in Curation(corrections="corrections.csv").tables]
    ['corrections.csv']
    """

    corrections: Path | None = None
    """CSV of corrections (labels, images to leave out) to apply; the data itself stays unchanged."""
    not_copies: Path | None = None
    """CSV of copies with an x in not_copies where a pair is not a copy (checks-copies.csv of check)."""

    def __post_init__(self) -> None:
        for name in ("corrections", "not_copies"):  # text is accepted too
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_path(getattr(self, name), name))

    @property
    def tables(self) -> list[Path]:
        """The given tables."""
        return [table for table in (self.corrections, self.not_copies) if table is not None]
