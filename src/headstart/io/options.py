"""Options as fields of a dataclass: each written once there, with its default and its text below it.

A verb accepts such a dataclass as one argument (`weights: WeightsSource`); the command line turns each field into an
option (`--weights`, `--weights-dir`, `--offline`), and `words_of` converts them back to command-line words. A field's
metadata may contain two keys: `option`, its name on the command line if it differs from the field's, and `section`, the
title in the help above it and the fields that follow.

Costs about a millisecond per dataclass, whose source is parsed for the texts. Not for reading a command line: see
`headstart.cli`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from headstart.io.addresses import absolute, named_place
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
    """In an `Annotated` with the dataclass: the fields that this verb accepts, if not all."""

    def __init__(self, *names: str) -> None:
        self.names = names


def options_of(cls: type) -> tuple[Option, ...]:
    """Return the fields of a dataclass that have a default, as options. A field without one is the options' subject.

    >>> from headstart.training.recipe import Recipe
    >>> options_of(Recipe)[0].name, options_of(Recipe)[0].section
    ('approach', 'Network')
    """
    texts, kinds, section, options = field_texts(cls), get_type_hints(cls), "", []
    for field in fields(cls):
        section = field.metadata.get("section", section)
        if field.default is not MISSING:
            option = Option(
                name=_option_name(field),
                field=field.name,
                kind=kinds[field.name],
                default=field.default,
                text=texts[field.name],
                section=section,
            )
            options.append(option)
    return tuple(options)


def options_class(annotation: Any) -> type | None:
    """Return the dataclass with options in the annotation of a parameter, alone or among other types; None if none is."""
    if is_dataclass(annotation) and isinstance(annotation, type):
        return annotation if any(field.default is not MISSING for field in fields(annotation)) else None
    return next(filter(None, map(options_class, get_args(annotation))), None)


def options_taken(cls: type, annotation: Any) -> tuple[Option, ...]:
    """Return the options of `cls` that a parameter with this annotation accepts: all, unless `OnlyFields` says less."""
    only = next((mark for mark in get_args(annotation) if isinstance(mark, OnlyFields)), None)
    return tuple(option for option in options_of(cls) if only is None or option.field in only.names)


def words_of(options: Any) -> Iterator[str]:
    """Yield the options that are not at their defaults, as command-line words; paths are made absolute.

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
            yield f"{flag}={named_place(absolute(value)) if isinstance(value, Path) else value}"


def _option_name(field: Field[Any]) -> str:
    return str(field.metadata.get("option", field.name))
