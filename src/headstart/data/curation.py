"""What a person decided about the images of a data set: corrections of labels, and pairs that are no copies.

    headstart.train("photos", out="run", curation=Curation(corrections="corrections.csv"))

Both are tables that `headstart check` writes and somebody edits (`data.corrections`, `data.not_copies`). Costs nothing: it
only names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Curation:
    """Tables of what a person decided; the data itself stays as it is.

    >>> [table.name for table in Curation(corrections="corrections.csv").tables]
    ['corrections.csv']
    """

    corrections: Path | None = None
    """CSV of corrections (labels, images to leave out) to apply; the data itself stays as it is."""
    not_copies: Path | None = None
    """CSV of copies with an x in not_copies where a pair is none (checks-copies.csv of check)."""

    def __post_init__(self) -> None:
        for name in ("corrections", "not_copies"):  # where text was given
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))

    @property
    def tables(self) -> list[Path]:
        """The tables that are given."""
        return [table for table in (self.corrections, self.not_copies) if table is not None]
