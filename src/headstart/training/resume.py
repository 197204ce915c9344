"""`ResumePoint`: where an interrupted training goes on from. Imports nothing; `training.checkpoint` keeps what lies there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, eq=False)
class ResumePoint:
    """`path` is the file of the snapshots; `key` names what they must agree with (options, images), in words for people."""

    path: Path
    key: Mapping[str, str]
