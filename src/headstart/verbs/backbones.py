"""`headstart backbones [PATTERN]`: list networks, and show which have weights on this machine.

With --pool, it lists those that training may choose to download, with estimates for this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from headstart.errors import RecipeError
from headstart.io.result_repr import Result
from headstart.io.text_table import columns
from headstart.model.backbones import builtin
from headstart.model.backbones.conv_speed import conv_speed
from headstart.model.backbones.pool import PoolEntry, PoolTask, is_commercial, read_pool, to_take
from headstart.model.backbones.registry import BackboneRow, name_pattern
from headstart.model.backbones.registry import backbones as find_all
from headstart.model.backbones.weights_source import WeightsPool, WeightsSource, as_weights_folder
from headstart.training.recipe import Recipe, seconds


@dataclass(frozen=True, repr=False)
class BackboneList(Result):
    """Rows of `backbones`, those with local weights first."""

    rows: list[BackboneRow]

    def summary(self) -> str:
        """Count the backbones, and those with local weights."""
        return (
            f"{len(self.rows):,} backbones, {sum(bool(row.here) for row in self.rows):,} with weights on this machine"
        )

    def facts(self) -> list[tuple[str, str]]:
        """Return a row per backbone: where its weights are, image size, licence."""
        return [(row.name, f"{row.here or '-'}, {row.image_size} px, {row.licence}") for row in self.rows]

    def to_json(self) -> dict[str, Any]:
        """Return the document of `backbones --json`."""
        return {"backbones": [asdict(row) for row in self.rows]}

    def table(self) -> str:
        """Format as plain text for a terminal."""
        if not self.rows:
            return "None. `headstart backbones --all` lists everything that timm has pretrained weights for."
        width = max(len(r.name) for r in self.rows)
        lines = [f"{'name':<{width}}  {'weights':<8}{'px':>5}{'parameters':>13}{'features':>10}  licence"]
        for r in self.rows:
            numbers = [f"{x:,}" if x else "-" for x in (r.parameters, r.feature_dim)]
            lines.append(
                f"{r.name:<{width}}  {r.here or '-':<8}{r.image_size:>5}{numbers[0]:>13}{numbers[1]:>10}  {r.licence}"
            )
        if any(r.measured for r in self.rows):
            lines.append(
                f"{builtin.NAME} is built in, as a fallback. Accuracy of a linear head on it: {builtin.accuracies()}."
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class PoolRow:
    """A backbone of the pool, with estimates for this machine."""

    entry: PoolEntry
    here: str  # as in `BackboneRow`
    seconds_per_1000: float  # to embed 1,000 images
    taken: bool  # whether training of `IMAGES` images would use it, with the default budget


@dataclass(frozen=True, repr=False)
class PoolList(Result):
    """The pool of backbones in the order of their size; `speed` is that of this machine in GMAC/s."""

    rows: list[PoolRow]
    speed: float
    budget: str
    most_mb: float

    def summary(self) -> str:
        """Count the backbones, and those that would be used."""
        return f"a pool of {len(self.rows)} backbones; {self._use()}"

    def _use(self) -> str:
        taken = [row.entry.mb for row in self.rows if row.taken]
        task = f"{IMAGES:,} images and a budget of {self.budget}"
        return f"{len(taken)} of them ({sum(taken):.0f} MB) suit {task} on this machine"

    def facts(self) -> list[tuple[str, str]]:
        """Return a row per backbone: size, speed, licence."""
        return [
            (r.entry.name, f"{r.entry.mb:.0f} MB, {r.seconds_per_1000:.1f} s per 1,000 images, {r.entry.licence}")
            for r in self.rows
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the document of `backbones --pool --json`."""
        rows = [
            asdict(r.entry) | {"here": r.here, "seconds_per_1000": round(r.seconds_per_1000, 2), "taken": r.taken}
            for r in self.rows
        ]
        return {"pool": rows, "speed": round(self.speed, 1), "budget": self.budget, "images": IMAGES}

    def table(self) -> str:
        """Format as plain text for a terminal."""
        head = ["name", "take", "weights", "MB", "s/1,000", "px", "top-1", "ImageNet-R", "licence", "pretraining"]
        lines = columns([head, *(_pool_cells(row) for row in self.rows)], "<<<>>>>><<")
        return "\n".join([*lines, f"{self._use()} (--max-download {self.most_mb:.0f})."])


IMAGES = 1_000
"""Images of the task for which `PoolRow.taken` is estimated."""


def _pool_cells(row: PoolRow) -> list[str]:
    e = row.entry
    taken = "yes" if row.taken else "no" if is_commercial(e.licence) else "if named"
    figures = [f"{x:.1f}" if x is not None else "-" for x in (e.top1, e.robust)]
    return [
        e.name,
        taken,
        row.here or "-",
        f"{e.mb:.0f}",
        f"{row.seconds_per_1000:.1f}",
        str(e.px),
        *figures,
        e.licence,
        e.pretraining,
    ]


def backbones(
    pattern: str = "", *, weights: WeightsPool = WeightsSource(), all: bool = False, pool: bool = False
) -> BackboneList | PoolList:
    """List backbones: those with weights on this machine; with --all or a pattern, all that timm knows. Example:

        headstart backbones resnet

    Args:
        pattern: Part of a name, or a wildcard pattern such as 'resnet50.*'.
        weights: Where to look for weights: a folder, only on this machine.
        all: Include backbones whose weights would have to be downloaded.
        pool: Only those that training may choose to download, with estimates for this machine.

    Raises:
        MissingWeights: the weights folder does not exist.
    """
    source = as_weights_folder(weights)
    if not isinstance(pattern, str):
        raise RecipeError(f"pattern: {pattern!r:.80} is not text.", hint="Give part of a name, such as 'resnet'.")
    if pool:
        return _pool(source, pattern)
    return BackboneList(find_all(pattern, weights=source, only_here=not (all or pattern)))


def _pool(weights: WeightsSource, pattern: str) -> PoolList:
    """List the pool; measures the speed of this machine."""
    entries, speed, budget = read_pool(), conv_speed(), Recipe().budget
    here = {row.name: row.here for row in find_all(weights=weights, only_here=True)}
    taken = to_take(entries, PoolTask(seconds(budget), IMAGES, speed, weights.max_download), here)
    named = [e for e in entries if fnmatchcase(e.name, name_pattern(pattern))]
    rows = [PoolRow(e, here.get(e.name, ""), e.seconds(1_000, speed), e in taken) for e in named]
    return PoolList(sorted(rows, key=lambda row: row.entry.mb), speed, budget, weights.max_download)
