"""Built-in recipes by name, and recipes from a user's own file.

    read_recipe("scratch-cnn", epochs=3)    one of `recipes/*.toml` next to this module, with one option changed
    read_recipe("./mine.toml")              a file: options at the top, with their values

A recipe file is TOML. A comment at its start describes it; then come options of `Recipe`, by the same names; options
left out keep their defaults. Two tables may follow: `[published]`, figures from the source, and `[results.DATA]`,
figures measured here. They do not affect training: they are for readers, and for the tables in docs/recipes.md.

Costs a millisecond, and imports neither numpy nor torch. When not to use it: in Python, `Recipe(...)` does the same
without a file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from headstart.errors import RecipeError, near_names
from headstart.training.recipe import Recipe, problems, require_none

FOLDER = Path(__file__).with_name("recipes")
LARGEST = 1_000_000  # bytes of a recipe file
TABLES = ("published", "results")


@dataclass(frozen=True)
class RecipeDescription:
    """Contents of a recipe file: its comment, the options it sets, published figures and our own."""

    name: str
    text: str
    settings: dict[str, Any]
    published: dict[str, Any]
    results: dict[str, Any]


def names() -> tuple[str, ...]:
    """Return the names of the recipes that come with headstart.

    >>> "scratch-cnn" in names()
    True
    """
    return tuple(sorted(file.stem for file in FOLDER.glob("*.toml")))


def read_recipe(name_or_file: str | Path, **overrides: Any) -> Recipe:
    """Read a recipe by name or from a file, with some options changed.

    A Path, or text that contains a slash or ends in ``.toml``, is a file; anything else is a name. Raises
    `RecipeError`: no such recipe (lists the known ones), no such file, a file that is not TOML or above 1 MB, unknown
    options and invalid values (all of them at once).

    >>> read_recipe("scratch-cnn", epochs=3).epochs
    3
    """
    return Recipe.from_dict({**describe(name_or_file).settings, **overrides})


def describe(name_or_file: str | Path) -> RecipeDescription:
    """Read and check a recipe's file. Raises `RecipeError` as `read_recipe` does."""
    file = _file_of(name_or_file)
    text = _read(file)
    document = _parsed(text, file)
    require_none(_problems(document), where=f"{file}: ")
    settings = {name: value for name, value in document.items() if name not in TABLES}
    return RecipeDescription(
        name=file.stem,
        text=_comment(text),
        settings=settings,
        published=document.get("published", {}),
        results=document.get("results", {}),
    )


def _file_of(name_or_file: str | Path) -> Path:
    """Return the file of a recipe. Raises `RecipeError` for an unknown name."""
    name = str(name_or_file)
    separators = {"/", os.sep}
    if isinstance(name_or_file, Path) or separators & set(name) or name.endswith(".toml"):
        return Path(name_or_file)
    known = names()
    if name in known:
        return FOLDER / f"{name}.toml"
    hints = [near_names(name, list(known)), "For a recipe of your own, give its path, such as ./mine.toml."]
    if name and os.path.exists(name):
        hints[1] = f"For the file of that name write {'./' + name!r}."
    raise RecipeError(
        f"recipe {name!r} is not known: expected {', '.join(known)}, or a file.", hint="\n".join(filter(None, hints))
    )


def _read(file: Path) -> str:
    """Read the text of a file of limited size. Raises `RecipeError`."""
    try:
        if not file.is_file():
            raise _missing(file)
        with open(file, "rb") as opened:
            data = opened.read(LARGEST + 1)
    except OSError as error:
        raise RecipeError(f"{file}: cannot be read ({error.strerror}).") from None
    if len(data) > LARGEST:
        raise RecipeError(f"{file}: larger than {LARGEST:,} bytes, expected a small text file.")
    try:
        return data.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file}: byte {error.start:,} is not UTF-8, expected TOML.") from None


def _missing(file: Path) -> RecipeError:
    if file.is_dir():
        return RecipeError(f"{file}: is a folder, expected a recipe file.")
    siblings = sorted(path.name for path in file.parent.glob("*.toml")) if file.parent.is_dir() else []
    return RecipeError(
        f"{file}: no such recipe file.",
        hint=near_names(file.name, siblings) or near_names(file.stem, list(names())),
    )


def _parsed(text: str, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise RecipeError(f"{file}: not TOML: nested too deeply.") from None
    except ValueError as error:  # `TOMLDecodeError`, and numbers that Python rejects
        raise RecipeError(
            f"{file}: not TOML: {error}.", hint="A line is: option = value; text in quotes, such as optimizer = 'adam'."
        ) from None


def _problems(document: Mapping[str, Any]) -> Iterator[RecipeError]:
    """Yield errors for unknown options, invalid values, and options inside a table."""
    known = {field.name for field in fields(Recipe)}
    for name, value in document.items():
        if name in TABLES and isinstance(value, dict):
            for option in sorted(known & value.keys()):
                yield RecipeError(f"{option} is in [{name}]: options go at the top, before all tables.")
        elif name in TABLES:
            yield RecipeError(f"{name} is a value, expected a table: [{name}].")
        elif isinstance(value, dict) and name not in known:
            yield RecipeError(f"[{name[:80]}] is not a table of a recipe: options go at the top, before all tables.")
        else:
            yield from problems({name: value})


def _comment(text: str) -> str:
    """Return the comment lines at the start of a file, without the # signs."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" ").rstrip())
    return "\n".join(lines)
