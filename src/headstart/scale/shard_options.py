"""`ShardOptions`: the options that `predict` and `embed` share for work in shards. Costs nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from headstart.errors import RecipeError
from headstart.io.given_options import as_path


@dataclass(frozen=True)
class ShardOptions:
    """Where to write the parts, and what makes them.

    >>> ShardOptions("parts", shard_size=500).out.name
    'parts'
    """

    out: Path | None = field(default=None, metadata={"option": "shards", "section": "Millions of images"})
    """Folder or URL (s3://bucket/parts) to write parquet parts to, with a row per image; the same command resumes."""
    engine: str = "local"
    """What schedules the shards: local (processes on this machine) or ray."""
    workers: int = 0
    """Maximum number of worker processes; 0 means one per four cores (ray: one per machine)."""
    shard_size: int = 10_000
    """Images per part."""

    def __post_init__(self) -> None:
        if self.out is not None:
            object.__setattr__(self, "out", as_path(self.out, "shards"))


def as_shards(shards: Path | str | ShardOptions) -> ShardOptions:
    """Return options unchanged; turn a path into options with defaults for the rest."""
    return shards if isinstance(shards, ShardOptions) else ShardOptions(as_path(shards, "shards"))


def out_place(out: Path) -> str:
    """Return where parts go, as an absolute path or a URL."""
    from headstart.io.addresses import store_url

    return store_url(out) or os.path.abspath(out)


def only_shards(options: ShardOptions, **others: object) -> None:
    """Raise `RecipeError` if options for shards are given without `--shards`, or together with another output."""
    if options.out is None:
        raise RecipeError("engine, workers, shard_size: have no effect without --shards.", hint="Add --shards DIR.")
    for name in (name for name, value in others.items() if value):
        raise RecipeError(
            f"{name}: has no effect with --shards, which writes parts instead.", hint="Give only one of them."
        )
