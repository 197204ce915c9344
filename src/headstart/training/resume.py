"""`ResumePoint`: where an interrupted training resumes. Imports nothing; `training.checkpoint` writes the snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, eq=False)
class ResumePoint:
    """`path` is the snapshot file; `key` is what it must agree with (options, images), in readable words."""

    path: Path
    key: Mapping[str, str]
