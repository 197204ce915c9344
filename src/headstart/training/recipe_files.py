"""Recipes with a name, and recipes in a file of one's own.

    read_recipe("scratch-cnn", epochs=3)    one of `recipes/*.toml` beside this module, with one option changed
    read_recipe("./mine.toml")              a file: options at the top, with the values they shall have

A recipe file is TOML. A comment at its start says what it is; then come options of `Recipe`, in its words; what is not
there keeps its default. Two tables may follow: `[published]`, the figures of the source, and `[results.DATA]`, what the
recipe gave here. Nothing is computed from those: they are for readers, and for the tables in docs/recipes.md.

Costs a millisecond, and imports neither numpy nor torch. When not to use it: in a program of one's own, `Recipe(...)`
does the same without a file.
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
    """What a recipe file says: its comment, the options it sets, figures from elsewhere and from here."""

    name: str
    text: str
    settings: dict[str, Any]
    published: dict[str, Any]
    results: dict[str, Any]


def names() -> tuple[str, ...]:
    """The recipes that come with headstart.

    >>> "scratch-cnn" in names()
    True
    """
    return tuple(sorted(file.stem for file in FOLDER.glob("*.toml")))


def read_recipe(name_or_file: str | Path, **overrides: Any) -> Recipe:
    """A recipe by its name or from a file, with some options changed.

    Whatever is a Path, has a slash in it or ends in ``.toml`` is a file; all else is a name. Raises `RecipeError`: no
    such recipe (the known ones are listed), no such file, a file that is no TOML or above 1 MB, unknown options and
    values that cannot work (all of them at once).

    >>> read_recipe("scratch-cnn", epochs=3).epochs
    3
    """
    return Recipe.from_dict({**describe(name_or_file).settings, **overrides})


def describe(name_or_file: str | Path) -> RecipeDescription:
    """A recipe's file, checked. Raises `RecipeError` as `read_recipe` does."""
    file = _file_of(name_or_file)
    text = _read(file)
    document = _parsed(text, file)
    require_none(_problems(document), where=f"{file}: ")
    settings = {name: value for name, value in document.items() if name not in TABLES}
    return RecipeDescription(file.stem, _comment(text), settings, *(document.get(table, {}) for table in TABLES))


def _file_of(name_or_file: str | Path) -> Path:
    """The path that is meant. Raises `RecipeError` for a name that is not known."""
    name = str(name_or_file)
    separators = {"/", os.sep}
    if isinstance(name_or_file, Path) or separators & set(name) or name.endswith(".toml"):
        return Path(name_or_file)
    known = names()
    if name in known:
        return FOLDER / f"{name}.toml"
    hints = [near_names(name, list(known)), "A recipe of your own is given by its path, such as ./mine.toml."]
    if name and os.path.exists(name):
        hints[1] = f"For the file of that name write {'./' + name!r}."
    raise RecipeError(
        f"recipe {name!r} is not known: expected {', '.join(known)}, or a file.", hint="\n".join(filter(None, hints))
    )


def _read(file: Path) -> str:
    """The text of a file of bounded size. Raises `RecipeError`."""
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
        return RecipeError(f"{file}: a folder, expected a recipe file.")
    beside = sorted(path.name for path in file.parent.glob("*.toml")) if file.parent.is_dir() else []
    return RecipeError(
        f"{file}: there is no such recipe file.",
        hint=near_names(file.name, beside) or near_names(file.stem, list(names())),
    )


def _parsed(text: str, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise RecipeError(f"{file}: not TOML: nested too deeply.") from None
    except ValueError as error:  # `TOMLDecodeError`, and numbers that Python refuses
        raise RecipeError(
            f"{file}: not TOML: {error}.", hint="A line is: option = value; text in quotes, such as optimizer = 'adam'."
        ) from None


def _problems(document: Mapping[str, Any]) -> Iterator[RecipeError]:
    """Unknown options, values that cannot work, and options that stand in a table."""
    known = {field.name for field in fields(Recipe)}
    for name, value in document.items():
        if name in TABLES and isinstance(value, dict):
            for option in sorted(known & value.keys()):
                yield RecipeError(f"{option} stands in [{name}]: options stand at the top, before all tables.")
        elif name in TABLES:
            yield RecipeError(f"{name} is a value, expected a table: [{name}].")
        elif isinstance(value, dict) and name not in known:
            yield RecipeError(f"[{name[:80]}] is no table of a recipe: options stand at the top, before all tables.")
        else:
            yield from problems({name: value})


def _comment(text: str) -> str:
    """The comment lines at the start of a file, without their signs."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" ").rstrip())
    return "\n".join(lines)
