"""The pool: backbones that may be downloaded if none is named and none is on this machine, and which of them suit a task.

`pool.toml` lists them, with facts from timm's tables. `to_take` decides from the budget, the number of images, the speed
of this machine and the limit on downloads:

    tier       MB of weights    taken at most
    small      up to 30         3
    medium     up to 150        2
    large      above            2

Small ones come first; a larger one is added only if all images can be embedded with it within `EMBED_PART` of the budget,
and the search among all of them stays within `SEARCH_PART`. Weights whose licence forbids commercial use are never taken:
only their names in `--backbone` select them.

Costs: a millisecond; opens no socket. `headstart.model.backbones.pool_downloads` fetches what is decided here. When not to
use it: for a backbone that was named.

>>> [entry.name.partition(".")[0] for entry in to_take(read_pool(), PoolTask(seconds=60, images=500, speed=100, most_mb=40))]
['mobilenetv2_100', 'mobilenetv3_large_100']
"""

from __future__ import annotations

import tomllib
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

POOL = Path(__file__).with_name("pool.toml")

TIERS = {30.0: 3, 150.0: 2, float("inf"): 2}
"""Largest weights file of each tier in MB -> how many of the tier are taken at most."""

EMBED_PART = 0.4
"""Fraction of the budget within which a backbone has to embed all images."""

SEARCH_PART = 0.3
"""Fraction of the budget that opening all of them, and choosing among them, may take."""

SEARCHED = 0.22
"""Fraction of the images that the search embeds with each backbone (`SHARE` of `pipeline.choose_backbones`)."""

OPEN_SECONDS = 4.0
"""Seconds to trace and compile a network on its first use."""

NOT_COMMERCIAL = ("-nc", "noncommercial", "non-commercial", "amlr", "research")
"""Parts of the names of licences that forbid commercial use."""


@dataclass(frozen=True)
class PoolEntry:
    """A backbone that may be downloaded, with the facts of `pool.toml`, which describes them."""

    name: str
    pretraining: str
    licence: str
    parameters: int
    mb: float
    px: int
    gmacs: float
    pace: float = 0.5
    top1: float | None = None
    robust: float | None = None

    @property
    def tier(self) -> float:
        """Return the upper limit of its tier in MB."""
        return next(limit for limit in TIERS if self.mb <= limit)

    def seconds(self, images: int, speed: float) -> float:
        """Return the estimated seconds to embed that many images; `speed` in GMAC/s is that of `conv_speed`."""
        return images * self.gmacs / (speed * self.pace)


@dataclass(frozen=True)
class PoolTask:
    """What the choice depends on: the budget in `seconds`, the number of `images`, the machine's `speed` in GMAC/s, and
    the `most_mb` to download (1e6 bytes)."""

    seconds: float
    images: int
    speed: float
    most_mb: float


def read_pool(file: Path = POOL) -> tuple[PoolEntry, ...]:
    """Read a table of backbones, best first within each tier. It is part of the package, so errors are not translated."""
    return tuple(PoolEntry(**row) for row in tomllib.loads(file.read_text(encoding="utf-8"))["backbone"])


def is_commercial(licence: str) -> bool:
    """Return whether a licence does not forbid commercial use, as far as its name tells.

    >>> is_commercial("apache-2.0"), is_commercial("cc-by-nc-4.0")
    (True, False)
    """
    return not any(part in licence.lower() for part in NOT_COMMERCIAL)


def to_take(pool: Sequence[PoolEntry], task: PoolTask, here: Container[str] = ()) -> list[PoolEntry]:
    """Return the backbones of the pool that suit the task, small files first; those `here` need no download.

    If none suits, it is the fastest one that may be downloaded; the list is empty if `most_mb` allows none.
    """
    allowed = [entry for entry in pool if is_commercial(entry.licence)]
    taken: list[PoolEntry] = []
    for limit, most in TIERS.items():
        for entry in (e for e in allowed if e.tier == limit):
            if sum(e.tier == limit for e in taken) < most and _fits([*taken, entry], task, here):
                taken.append(entry)
    small_enough = [e for e in allowed if _megabytes([e], here) <= task.most_mb]
    if not taken and small_enough:
        taken = [min(small_enough, key=lambda e: e.seconds(1, task.speed))]
    return sorted(taken, key=lambda entry: entry.mb)


def _fits(entries: Sequence[PoolEntry], task: PoolTask, here: Container[str]) -> bool:
    """Return whether the last entry embeds fast enough, and all of them can be downloaded and searched."""
    seconds = [entry.seconds(task.images, task.speed) for entry in entries]
    searched = sum(OPEN_SECONDS + SEARCHED * s for s in seconds)
    return (
        seconds[-1] <= EMBED_PART * task.seconds
        and searched <= SEARCH_PART * task.seconds
        and _megabytes(entries, here) <= task.most_mb
    )


def _megabytes(entries: Sequence[PoolEntry], here: Container[str]) -> float:
    return sum(entry.mb for entry in entries if entry.name not in here)
