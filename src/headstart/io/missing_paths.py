"""`hint_for_missing`: what the user may have meant by a path that does not exist.

    raise MissingData("photo: there is no such folder.", hint=hint_for_missing(Path("photo")))    Did you mean 'photos'?

Costs one listing of the folder above.
"""

from __future__ import annotations

import os
from pathlib import Path

from headstart.errors import near_names


def hint_for_missing(place: Path) -> str:
    """Return a similar name in the same folder; if that folder is missing too, the last folder above it that exists."""
    above = place.parent
    if above.is_dir():
        near = near_names(place.name, sorted(name for name in os.listdir(above) if not name.startswith(".")))
        return near or f"Check the spelling; it was looked for in {above.absolute()}."
    there = next(folder for folder in above.absolute().parents if folder.is_dir())
    return f"Check the spelling: {there} exists, {above} does not."
