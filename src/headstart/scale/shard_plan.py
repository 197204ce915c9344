"""`ShardPlan`: everything that the bytes of the parts depend on, written once and never changed.

    plan = ShardPlan(verb="predict", source="/photos", ...)
    begin(plan, out)             creates `_plan.json` unless it exists
    plan.part_name(12)           part-000012-5f0c1d3a9b7e.parquet

A part depends only on the plan and its own number, so whoever makes it makes the same bytes: retries, a second driver or
another engine do no harm. Readers of folders of parquet files ignore names that begin with `_`.

A `ShardJob` adds what a worker needs: where things are. Two machines may see the same images under different paths, so
no such path is in the parts.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

from headstart import __version__
from headstart.errors import MissingInStore, OtherPlan, ShardError
from headstart.images.formats import heif_versions
from headstart.io.files import json_bytes, sha256_bytes
from headstart.io.stores.store import Store

PLAN = "_plan.json"
DONE = "_done.json"
PARTS = "part-"
SOFTWARE = ("pillow", "numpy", "pyarrow")
"""Packages besides headstart, its engine and the library for HEIC whose versions can change the bytes of a part."""


@dataclass(frozen=True)
class ShardPlan:
    """What is computed: `verb` (predict or embed) of `model` on the images of `source`, `shard_size` at a time.

    `contents` is the SHA-256 of a table or an archive of images, '' for a folder or a bucket. `model` is all
    that predictions or features depend on besides the image and the software; its `runtime` has the fields of `Runtime`.
    """

    verb: str
    source: str
    contents: str
    model: Mapping[str, Any]
    shard_size: int
    software: Mapping[str, str]

    @cached_property
    def id(self) -> str:
        """A short hash of the plan."""
        return sha256_bytes(json.dumps(asdict(self), sort_keys=True).encode())[:16]

    def part_name(self, shard: int) -> str:
        """Return the name of a shard's part."""
        return f"{PARTS}{shard:06d}-{sha256_bytes(f'{self.id} {shard}'.encode())[:12]}.parquet"


def software_here(engine: str) -> dict[str, str]:
    """Return the versions of headstart, `SOFTWARE`, an engine and the library for HEIC on this machine."""
    packages = {name: version(name) for name in (*SOFTWARE, engine)}
    return {"headstart": __version__, **packages, "heif": " ".join(heif_versions()) or "none"}


def read_plan(out: Store) -> ShardPlan | None:
    """Return the plan in `out`, None if there is none. Raises `ShardError` for a damaged one."""
    try:
        return ShardPlan(**json.loads(out.read(PLAN)))
    except MissingInStore:
        return None
    except (ValueError, TypeError):
        raise ShardError(f"{out.url}: its {PLAN} is not a plan that headstart wrote.", hint=RESTORE) from None


ANOTHER = "Choose another --shards."
RESTORE = f"Restore it from a copy, or: {ANOTHER}"


def check_same(plan: ShardPlan, out: Store) -> bool:
    """Return True if `out` holds this plan, False if it holds none. Raises `OtherPlan`, which names the first difference."""
    found = read_plan(out)
    if found is None:
        return False
    different = first_difference(asdict(found), asdict(plan))
    if different is not None:
        name, there, here = different
        raise OtherPlan(
            f"{out.url}: contains parts of another job: its {name} is {there!r}, not {here!r}.",
            hint="Repeat the original command, or choose another --shards.",
        )
    return True


def check_worker(job: ShardJob, model: Mapping[str, Any]) -> None:
    """Raise `ShardError` unless a worker has the model and the software of the plan: its parts would differ from others.

    The message names the first difference, and the machine.
    """
    software = software_here(model["runtime"]["engine"])
    plan = job.plan
    different = first_difference(
        {"model": plan.model, "software": plan.software}, {"model": model, "software": software}
    )
    if different is not None:
        name, planned, here = different
        raise ShardError(
            f"{platform.node()}: its {name} is {here!r}, but the plan in {job.out} says {planned!r}.",
            hint="All machines need the same software and kind of processor; the run must not change during the work.",
        )


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Return the first field that differs, and its two values (None for a missing one).

    >>> first_difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}})
    ('a.c', 2, None)
    """
    one, other = dict(_flat(one)), dict(_flat(other))
    names = (name for name in [*one, *other] if one.get(name) != other.get(name))
    return next(((name, one.get(name), other.get(name)) for name in names), None)


def begin(plan: ShardPlan, out: Store) -> None:
    """Write the plan unless it is there. Raises `OtherPlan` if another process wrote another one first."""
    out.create(PLAN, json_bytes(asdict(plan)))
    check_same(plan, out)


def _flat(document: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class ShardJob:
    """A plan, and where a worker finds the images, the run and the output: absolute paths, or URLs.

    `table` says that `files` is the folder of a table, whose paths may lead out of that folder. `run` is for `predict`;
    `backbone`, as JSON, is for `embed`.
    """

    plan: ShardPlan
    files: str
    out: str
    table: bool = False
    run: str = ""
    backbone: Mapping[str, Any] | None = None
    offline: bool = False

    def to_json(self) -> str:
        """Return the job as one line of JSON; see `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ShardJob:
        """Invert `to_json`."""
        fields = json.loads(text)
        return cls(**{**fields, "plan": ShardPlan(**fields["plan"])})
