"""Options that are the fields of a dataclass: each written once there, with its default and its text below it.

A verb takes such a dataclass as one argument (`weights: WeightsSource`); the command line makes an option of each of its
fields (`--weights`, `--weights-dir`, `--offline`), and `words_of` writes them down again as somebody would type them. The
metadata of a field may say two things: `option`, its name on the command line where that is another than the field's,
and `section`, the title in the help that it and the fields after it stand below.

Costs about a millisecond for a dataclass, which is parsed for its texts. Not for reading a command line: `headstart.cli`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from headstart.io.field_docs import field_texts


@dataclass(frozen=True)
class Option:
    """A field of a dataclass as an option: `name` on the command line (with `_` for `-`), `field` in the dataclass."""

    name: str
    field: str
    kind: Any
    default: Any
    text: str
    section: str = ""


class OnlyFields:
    """Beside the dataclass in an `Annotated`: the fields that this verb takes, where it does not take all."""

    def __init__(self, *names: str) -> None:
        self.names = names


def options_of(cls: type) -> tuple[Option, ...]:
    """The fields of a dataclass that have a default, as options. One without is what the options are about.

    >>> from headstart.training.recipe import Recipe
    >>> options_of(Recipe)[0].name, options_of(Recipe)[0].section
    ('approach', 'Network')
    """
    texts, kinds, section, found = field_texts(cls), get_type_hints(cls), "", []
    for field in fields(cls):
        section = field.metadata.get("section", section)
        if field.default is not MISSING:
            name = _option_name(field)
            found.append(Option(name, field.name, kinds[field.name], field.default, texts[field.name], section))
    return tuple(found)


def options_class(annotation: Any) -> type | None:
    """The dataclass in the annotation of a parameter, alone or among other types; None where there is none."""
    if is_dataclass(annotation) and isinstance(annotation, type):
        return annotation
    return next(filter(None, map(options_class, get_args(annotation))), None)


def options_taken(cls: type, annotation: Any) -> tuple[Option, ...]:
    """Those of `cls` that a parameter with this annotation takes: all, unless `OnlyFields` stands beside it."""
    only = next((mark for mark in get_args(annotation) if isinstance(mark, OnlyFields)), None)
    return tuple(option for option in options_of(cls) if only is None or option.field in only.names)


def words_of(options: Any) -> Iterator[str]:
    """The options that are not at their defaults, as one writes them on a command line; paths are made absolute.

    >>> from headstart.training.recipe import Recipe
    >>> list(words_of(Recipe(approach="linear", val_size=0.3)))
    ['--approach=linear', '--val-size=0.3']
    """
    for field in fields(options):
        value = getattr(options, field.name)
        if field.default is MISSING or value == field.default:
            continue
        flag = f"--{_option_name(field).replace('_', '-')}"
        if isinstance(value, bool):
            yield flag
        else:
            yield f"{flag}={os.path.abspath(value) if isinstance(value, Path) else value}"


def _option_name(field: Field[Any]) -> str:
    return str(field.metadata.get("option", field.name))
