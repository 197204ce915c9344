"""Arguments of verbs as Python programs give them: paths as text, and errors in words instead of a TypeError.

Costs nothing. Not for data, which may be more than a path: see `data.in_memory`.
"""

from __future__ import annotations

import os
from pathlib import Path

from headstart.errors import RecipeError


def as_path(value: object, name: str) -> Path:
    """A path from text or a path. Raises `RecipeError`, which names the argument (`name`), for anything else.

    >>> as_path("photos/run", "out").name
    'run'
    """
    if isinstance(value, str | os.PathLike) and (place := os.fspath(value)) and isinstance(place, str):
        return Path(place)
    shown = repr(value) if value is None or isinstance(value, str | bytes | int | float) else type(value).__name__
    raise RecipeError(f"{name}: {shown} is not a path.", hint="Give a str or a pathlib.Path.")


def expect(value: object, kind: type, name: str, example: str) -> None:
    """Raise `RecipeError` unless an argument that holds several options is of that type; `example` shows how to give
    it."""
    if not isinstance(value, kind):
        raise RecipeError(
            f"{name}: {value!r:.80} is not a {kind.__name__}.", hint=f"Give it as {name}=headstart.{example}."
        )


def names_given(value: object, name: str) -> str:
    """Names separated by commas, from such text or from a list. Raises `RecipeError`.

    >>> names_given(["linear", "finetune"], "recipes")
    'linear,finetune'
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, str | os.PathLike) for item in value):
        return ",".join(os.fspath(item) for item in value)
    raise RecipeError(
        f"{name}: {value!r:.80} is not a list of names.", hint="Separate names by commas, or give a list."
    )
