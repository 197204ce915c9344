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
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

from headstart import __version__
from headstart.errors import MissingInStore, OtherPlan, ShardError
from headstart.io.files import json_bytes, sha256_bytes
from headstart.io.stores.store import Store

PLAN = "_plan.json"
DONE = "_done.json"
PARTS = "part-"
SOFTWARE = ("pillow", "pyarrow")
"""Packages besides headstart whose versions can change the bytes of a part."""


@dataclass(frozen=True)
class ShardPlan:
    """What is computed: `verb` (predict or embed) of `model` on the images of `source`, `shard_size` at a time.

    `contents` is the SHA-256 of a table or an archive of images, '' for a folder or a bucket. `model` is all
    that predictions or features depend on besides the image.
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


def software_here() -> dict[str, str]:
    """Return the versions of headstart and of `SOFTWARE` on this machine."""
    return {"headstart": __version__, **{name: version(name) for name in SOFTWARE}}


def read_plan(out: Store) -> ShardPlan | None:
    """Return the plan in `out`, None if there is none. Raises `ShardError` for a damaged one."""
    try:
        return ShardPlan(**json.loads(out.read(PLAN)))
    except MissingInStore:
        return None
    except (ValueError, TypeError):
        raise ShardError(f"{out.url}: its {PLAN} is not a plan that headstart wrote.", hint=ANOTHER) from None


ANOTHER = "Choose another --shards."


def check_same(plan: ShardPlan, out: Store) -> bool:
    """Return True if `out` holds this plan, False if it holds none. Raises `OtherPlan`, which names the first difference."""
    found = read_plan(out)
    if found is None:
        return False
    there, here = dict(_flat(asdict(found))), dict(_flat(asdict(plan)))
    for name in [*there, *here]:
        if there.get(name) != here.get(name):
            raise OtherPlan(
                f"{out.url}: contains parts of another job: its {name} is {there.get(name)!r}, not {here.get(name)!r}.",
                hint="Repeat the original command, or choose another --shards.",
            )
    return True


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

    `table` says that `files` is the folder of a table, whose paths may lead out of that folder. `backbone` and `runtime`
    are for `embed`, as JSON.
    """

    plan: ShardPlan
    files: str
    out: str
    table: bool = False
    run: str = ""
    backbone: Mapping[str, Any] | None = None
    runtime: Mapping[str, Any] | None = None
    offline: bool = False

    def to_json(self) -> str:
        """Return the job as one line of JSON; see `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ShardJob:
        """Invert `to_json`."""
        fields = json.loads(text)
        return cls(**{**fields, "plan": ShardPlan(**fields["plan"])})
