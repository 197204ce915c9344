"""Provenance of a classifier: the part of `headstart.json` that `reproduce`, the reports and the model card read.

It costs nothing and affects no prediction. Together with the tables of the run folder, it holds everything needed to
repeat the training. Not for measurements: metrics and seconds are in `metrics.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from headstart.data.data_source import DataSource
from headstart.data.in_memory import place_of
from headstart.training.recipe import Recipe


@dataclass(frozen=True)
class HeadRecord:
    """A closed-form last layer: its kind, and its regularisation strength (None if the kind has none).

    `kernel` is the strength for the kernel that is added to it, None if there is none.
    """

    kind: str
    strength: float | None
    kernel: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for `headstart.json`."""
        return {name: value for name, value in asdict(self).items() if name != "kernel" or value is not None}


@dataclass(frozen=True)
class FinetuneRecord:
    """Settings and outcome of gradient descent. `best_epoch` counts from 0; `stopped` says why it ended before the last
    epoch; `wise_ft` is the coefficient of WiSE-FT (None if unused). `images_per_second` is None if not recorded.
    `replanned` are changes of the number of steps, made to keep the budget (see `training.pacing`).
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
    replanned: tuple[tuple[int, int], ...] = ()

    @classmethod
    def from_json(cls, read: Mapping[str, Any]) -> FinetuneRecord:
        """Invert `asdict`; a missing speed is None."""
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
            replanned=tuple((int(step), int(total)) for step, total in read.get("replanned", ())),
        )


@dataclass(frozen=True)
class DataRecord:
    """Where the images were (absolute path and label options), how many were usable, and their fingerprint."""

    source: DataSource
    images: int
    fingerprint: str


@dataclass(frozen=True)
class CorrectionsRecord:
    """Number of labels corrected, and of images left out."""

    relabelled: int
    dropped: int


@dataclass(frozen=True)
class CopiesRecord:
    """The largest difference that certainly means a copy in this data, and the number of pairs marked as not copies."""

    limit: float
    refused: int


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a run was made. `recipe` holds every option as it was used.

    `chosen` are the selected backbones, best first, and `two_inputs` is how many of the first ones see each image in two
    ways. `heads` are the closed-form heads, in the order of their members, and
    `tuned` is the gradient training in the classifier, None if not part of it; `attempt` is fine-tuning that was tried and
    not selected, and `why` a sentence on what was compared. `corrections` is None if none were given.
    """

    recipe: Recipe
    chosen: tuple[str, ...]
    two_inputs: int = 0
    heads: tuple[HeadRecord, ...]
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
        """The recipe's approach as it was used."""
        return self.recipe.approach

    @property
    def head(self) -> HeadRecord | None:
        """The first of the closed-form heads, if any."""
        return self.heads[0] if self.heads else None

    @property
    def seed(self) -> int:
        """The recipe's seed."""
        return self.recipe.seed

    @property
    def training(self) -> FinetuneRecord | None:
        """The record of gradient descent, whether its network was selected or not."""
        return self.tuned or self.attempt

    def source(self, given: object = None) -> DataSource:
        """Return the source of the images: as recorded, or at the path `given` with the options as recorded.

        A `DataSource` brings options of its own; data in memory is accepted too.
        """
        if given is None or isinstance(given, DataSource):
            return given or self.data.source
        return replace(self.data.source, place=place_of(given))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `headstart.json`."""
        source = self.data.source
        return {
            "chosen": list(self.chosen),
            **({"two_inputs": self.two_inputs} if self.two_inputs else {}),
            "head": self.head and self.head.as_dict(),
            **({"heads": [head.as_dict() for head in self.heads]} if len(self.heads) > 1 else {}),
            "tuned": _plain(self.tuned),
            "attempt": _plain(self.attempt),
            "why": self.why,
            "recipe": self.recipe.as_dict(),
            "data": {
                "path": source.where,
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
        """Invert `to_json`; unknown keys are ignored.

        Raises `KeyError`, `TypeError` or `ValueError` for a missing key or one of the wrong type, and `RecipeError`.
        """
        data, head, corrections, copies = (read[name] for name in ("data", "head", "corrections", "copies"))
        heads = read.get("heads", () if head is None else (head,))
        tuned, attempt = (None if read[k] is None else FinetuneRecord.from_json(read[k]) for k in ("tuned", "attempt"))
        return cls(
            recipe=_recipe(read["recipe"]),
            chosen=tuple(map(str, read["chosen"])),
            two_inputs=int(read.get("two_inputs", 0)),
            heads=tuple(
                HeadRecord(str(each["kind"]), _number(each["strength"]), _number(each.get("kernel"))) for each in heads
            ),
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
        if k not in ("images_per_second", "replanned") or v
    }


def _recipe(read: Mapping[str, Any]) -> Recipe:
    """Return the recipe; in older runs, `tta` may be auto, which had been settled as none."""
    return Recipe.from_dict({**read, "tta": "none"} if read.get("tta") == "auto" else read)


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)
