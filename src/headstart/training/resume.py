"""`ResumePoint`: where an interrupted training resumes. Imports nothing; `training.checkpoint` writes the snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, eq=False)
class ResumePoint:
    """`path` is the snapshot file; `key` is what it must agree with (options, images), in readable words.

    `choices` (JSON) are those made before training that depend on time: whoever resumes takes them over.
    """

    path: Path
    key: Mapping[str, str]
    choices: Mapping[str, Any] = field(default_factory=dict)

    def noting(self, **choices: Any) -> ResumePoint:
        """Return it with more choices."""
        return replace(self, choices={**self.choices, **choices})
