"""The candidates if no backbone is named: those on this machine, or a choice from the pool that suits the task.

    candidates(WeightsSource(), budget_seconds=600, images=2_000)

The pool is used if downloads are allowed and nobody has chosen weights: no file, no folder, and nothing but members of the
pool in the hub's cache. `headstart.model.backbones.pool` decides what to take; that is logged, and downloaded from small to
large. A backbone that is not available is replaced by the next of its size; a slow hub, a full disk or a lost connection
ends the downloads. Whatever is there by then is used; if that is nothing, the embedded backbone is.

Costs: a second, and the downloads, which may use `DOWNLOAD_PART` of the budget: once that is used up, no further one is
started. A download that has been started is not stopped. When not to use it: for a backbone that was named, or for work
without a budget (`registry.to_choose_from`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from shutil import disk_usage

from headstart.errors import BackboneError, NoAnswer, UnknownBackbone, WriteError
from headstart.io.extras import install_command, is_installed
from headstart.io.progress import log
from headstart.io.text_table import few
from headstart.model.backbones.architectures import timm_cfg
from headstart.model.backbones.conv_speed import conv_speed
from headstart.model.backbones.hub import cache_folder, may_ask
from headstart.model.backbones.pool import PoolEntry, PoolTask, read_pool, to_take
from headstart.model.backbones.registry import (
    Backbone,
    at_hand,
    find_backbone,
    free_to_choose,
    has_folder,
    without_download,
)
from headstart.model.backbones.weights_source import WeightsSource

DOWNLOAD_PART = 0.2
"""Fraction of the budget after which no further download is started, or earlier if it would end after that."""

SPARE_MB = 200.0
"""Space to leave free on the disk, for compiled networks and features."""


def candidates(
    weights: WeightsSource,
    *,
    budget_seconds: float,
    images: int,
    device: str = "cpu",
    pool: Sequence[PoolEntry] | None = None,
) -> list[Backbone]:
    """Return the backbones to choose from for a task of that many images, at least one.

    `pool` is that of the package unless given. Raises `MissingWeights` if the given folder does not exist.
    """
    pool = read_pool() if pool is None else pool
    here = free_to_choose(at_hand(weights))
    is_complete = _is_chosen(weights) or not {b.name for b in here} <= {e.name for e in pool}
    if is_complete or not may_ask(weights.offline) or weights.max_download <= 0:
        return here or [without_download(weights)]
    if not is_installed("timm", "torch"):
        log.info("No weights are downloaded, since timm and torch are not installed: %s.", install_command("timm"))
        return here or [without_download(weights)]
    task = PoolTask(budget_seconds, images, conv_speed(device), room_for(weights.max_download))
    return _Downloads(weights, pool, task, {b.name: b for b in here}).all() or [without_download(weights)]


def room_for(max_download: float) -> float:
    """Return the MB that may be downloaded: at most what fits on the disk of the hub's cache, which is logged."""
    folder = cache_folder()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = max(0.0, disk_usage(folder).free / 1e6 - SPARE_MB)
    if free < max_download:
        log.warning(
            "%s: its disk has room for %s MB of weights (%s MB are left free), less than --max-download allows.",
            folder,
            f"{free:,.0f}",
            f"{SPARE_MB:,.0f}",
        )
    return min(free, max_download)


def _is_chosen(weights: WeightsSource) -> bool:
    return weights.file is not None or has_folder(weights)


@dataclass
class _Downloads:
    """The state of one download of the pool: `found` by name, including those already on this machine."""

    weights: WeightsSource
    pool: Sequence[PoolEntry]
    task: PoolTask
    found: dict[str, Backbone]
    got_mb: float = 0.0
    seconds: float = 0.0
    missing: list[str] = field(default_factory=list)

    def all(self) -> list[Backbone]:
        """Download what suits the task, and return it with all that was here before; nothing if no download succeeded."""
        self._announce()
        while (entry := self._next()) is not None and self._has_time(entry) and self._download(entry):
            pass
        if self.missing[1:]:
            log.warning("%s could not be downloaded either.", few(self.missing[1:], 4))
        return list(self.found.values())

    def _next(self) -> PoolEntry | None:
        task = replace(self.task, most_mb=self.task.most_mb - self.got_mb)
        return next((e for e in to_take(self.pool, task, self.found) if e.name not in self.found), None)

    def _announce(self) -> None:
        wanted = [e for e in to_take(self.pool, self.task, self.found) if e.name not in self.found]
        if wanted:
            log.info(
                "%s: downloading %s from the hub's pool, %.0f MB in all, once (--max-download %d): %s.",
                "More weights suit this budget" if self.found else "No weights on this machine",
                "1 backbone" if len(wanted) == 1 else f"{len(wanted)} backbones",
                sum(e.mb for e in wanted),
                self.weights.max_download,
                ", ".join(f"{e.name} ({e.mb:.0f} MB, {e.licence})" for e in wanted),
            )

    def _has_time(self, entry: PoolEntry) -> bool:
        """Return whether a download would end in time at the rate so far; the first one is always tried."""
        left = DOWNLOAD_PART * self.task.seconds - self.seconds
        expected = entry.mb * self.seconds / self.got_mb if self.got_mb else 0.0
        if self.seconds and (left <= 0 or expected > left):
            log.warning(
                "The hub is slow (%.0f MB in %.0f s), so %s (%.0f MB) is not downloaded within this budget.",
                self.got_mb,
                self.seconds,
                entry.name,
                entry.mb,
            )
            return False
        return True

    def _download(self, entry: PoolEntry) -> bool:
        """Get one backbone, or drop it from the pool. Returns whether to go on with others."""
        try:
            timm_cfg(entry.name)  # imports timm, whose seconds are not the hub's
        except UnknownBackbone as error:
            return self._drop(entry, error)
        begun = time.monotonic()
        try:
            self.found[entry.name] = find_backbone(entry.name, self.weights)
            self.got_mb += entry.mb
        except (NoAnswer, WriteError) as error:
            log.warning("%s", error.message)
            return False
        except BackboneError as error:
            self._drop(entry, error)
        finally:
            self.seconds += time.monotonic() - begun
        return True

    def _drop(self, entry: PoolEntry, error: BackboneError) -> bool:
        """Go on without that entry; the first such error is logged in full."""
        if not self.missing:
            log.warning("%s", error.message)
        self.missing.append(entry.name)
        self.pool = [e for e in self.pool if e is not entry]
        return True
