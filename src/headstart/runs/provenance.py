"""Where a classifier comes from: the part of `headstart.json` that `reproduce`, the reports and the model card read.

It costs nothing and decides no prediction. Everything that a training with the same result needs is here or in the tables
of the run folder. Not for what is measured: metrics and seconds are in `metrics.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from headstart.data.data_source import DataSource
from headstart.training.recipe import Recipe


@dataclass(frozen=True)
class HeadRecord:
    """A closed-form last layer: its kind, and its regularisation (None where the kind has none)."""

    kind: str
    strength: float | None


@dataclass(frozen=True)
class FinetuneRecord:
    """What gradient descent did. `best_epoch` counts from 0; `stopped` says why it ended before the last epoch; `wise_ft` is
    the coefficient of WiSE-FT (None where it was not used). `images_per_second` is None where it is not part of the record.
    """

    approach: str
    backbone: str
    trained: tuple[str, ...]
    epochs: int
    best_epoch: int
    stopped: str
    lr: float
    wise_ft: float | None
    images_per_second: float | None = None

    @classmethod
    def from_json(cls, read: Mapping[str, Any]) -> FinetuneRecord:
        """The inverse of `asdict`; a missing speed is None."""
        return cls(
            approach=str(read["approach"]),
            backbone=str(read["backbone"]),
            trained=tuple(map(str, read["trained"])),
            epochs=int(read["epochs"]),
            best_epoch=int(read["best_epoch"]),
            stopped=str(read["stopped"]),
            lr=float(read["lr"]),
            wise_ft=_number(read["wise_ft"]),
            images_per_second=_number(read.get("images_per_second")),
        )


@dataclass(frozen=True)
class DataRecord:
    """Where the images were (an absolute path, and how labels were found), how many were usable, and their fingerprint."""

    source: DataSource
    images: int
    fingerprint: str


@dataclass(frozen=True)
class CorrectionsRecord:
    """How many labels were corrected, and how many images left out."""

    relabelled: int
    dropped: int


@dataclass(frozen=True)
class CopiesRecord:
    """The largest difference that is sure to be a copy in this data, and how many pairs were said to be no copies."""

    limit: float
    refused: int


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a run was made. `recipe` holds every option as it was used.

    `chosen` are the backbones that the training went on with, best first. `head` is the closed-form head that takes part,
    `tuned` what gradient descent gave, each None if it takes no part; `attempt` is fine-tuning that was tried and not taken,
    and `why` a sentence on what was compared. `corrections` is None where none were given.
    """

    recipe: Recipe
    chosen: tuple[str, ...]
    head: HeadRecord | None
    tuned: FinetuneRecord | None
    attempt: FinetuneRecord | None
    why: str
    data: DataRecord
    corrections: CorrectionsRecord | None
    copies: CopiesRecord
    split_hash: str
    versions: Mapping[str, str]

    @property
    def approach(self) -> str:
        """That of the recipe as it was used."""
        return self.recipe.approach

    @property
    def seed(self) -> int:
        """That of the recipe."""
        return self.recipe.seed

    @property
    def training(self) -> FinetuneRecord | None:
        """Gradient descent, whether what it gave was taken or not."""
        return self.tuned or self.attempt

    def source(self, given: Path | None = None) -> DataSource:
        """Where the images are: where they were at the time, or at the place that is given; labels as at the time."""
        return self.data.source if given is None else replace(self.data.source, place=Path(given))

    def to_json(self) -> dict[str, Any]:
        """Plain values for `headstart.json`."""
        source = self.data.source
        return {
            "chosen": list(self.chosen),
            "head": _plain(self.head),
            "tuned": _plain(self.tuned),
            "attempt": _plain(self.attempt),
            "why": self.why,
            "recipe": self.recipe.as_dict(),
            "data": {
                "path": str(source.place),
                **source.options,
                "images": self.data.images,
                "fingerprint": self.data.fingerprint,
            },
            "corrections": _plain(self.corrections),
            "copies": asdict(self.copies),
            "split_hash": self.split_hash,
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, read: Mapping[str, Any]) -> Provenance:
        """The inverse of `to_json`; keys that it does not know are left alone.

        Raises `KeyError`, `TypeError` or `ValueError` for a key that is missing or of another kind, and `RecipeError`.
        """
        data, head, corrections, copies = (read[name] for name in ("data", "head", "corrections", "copies"))
        tuned, attempt = (None if read[k] is None else FinetuneRecord.from_json(read[k]) for k in ("tuned", "attempt"))
        return cls(
            recipe=Recipe.from_dict(read["recipe"]),
            chosen=tuple(map(str, read["chosen"])),
            head=None if head is None else HeadRecord(str(head["kind"]), _number(head["strength"])),
            tuned=tuned,
            attempt=attempt,
            why=str(read["why"]),
            data=DataRecord(
                DataSource.from_dict({**data, "place": data["path"]}), int(data["images"]), str(data["fingerprint"])
            ),
            corrections=None
            if corrections is None
            else CorrectionsRecord(int(corrections["relabelled"]), int(corrections["dropped"])),
            copies=CopiesRecord(float(copies["limit"]), int(copies["refused"])),
            split_hash=str(read["split_hash"]),
            versions={str(k): str(v) for k, v in read["versions"].items()},
        )


def _plain(record: HeadRecord | FinetuneRecord | CorrectionsRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    values = asdict(record)
    return {
        k: list(v) if isinstance(v, tuple) else v
        for k, v in values.items()
        if k != "images_per_second" or v is not None
    }


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)
