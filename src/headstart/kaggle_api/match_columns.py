"""Which class a column of a sample submission is of, by its name.

The same name wins; else case, blanks and signs are set aside (``Sugar beet`` is ``sugar_beet``, ``7`` is ``007``); else also
what all columns, or all classes, begin or end with (``Status_C``, ``Status_D``), or words such as ``is`` and
``probability``. Every column has to find a class of its own, and every class a column: nothing is guessed by order.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from headstart.errors import BadSubmission, near_names
from headstart.io.text_table import few, plain

WORDS = {"is", "has", "p", "prob", "probs", "probability", "pred", "predicted", "score", "label", "class", "target"}
"""Words that say of a column that it is about a class, and nothing about which."""


def same_text(name: str) -> str:
    """What is left of a name to compare it by.

    >>> same_text("Sugar beet"), same_text("007"), same_text("7.0")
    ('sugarbeet', '7', '7')
    """
    return "".join(_words(name)) or name


def _words(name: str) -> list[str]:
    words = re.findall(r"\d+\.\d+|[^\W_]+", unicodedata.normalize("NFKC", name).casefold())
    return [re.sub(r"^0+(?=\d)|\.0+$", "", w) if w[0].isdigit() else w for w in words]


def class_of_column(column: str, classes: Sequence[str]) -> int | None:
    """The class that a lone column names, None if it names none, or could name several.

    >>> class_of_column("is_iceberg", ["iceberg", "ship"]), class_of_column("label", ["cat", "dog"])
    (0, None)
    """
    asked = _words(column)
    bare = [word for word in asked if word not in WORDS]
    ways: list[Callable[[str], bool]] = [
        lambda name: name == column,
        lambda name: _words(name) == asked,
        lambda name: _words(name) == bare,
        lambda name: _singular(_words(name)) == _singular(bare),
    ]
    for way in ways:
        found = [k for k, name in enumerate(classes) if way(name)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _singular(words: Sequence[str]) -> str:
    return "".join(words).removesuffix("s")


def classes_of_columns(where: str, columns: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """For each column the class, by its number; `where` is the sample, for messages.

    Raises `BadSubmission` unless columns and classes fit one to one.

    >>> classes_of_columns("sample.csv", ["Status_D", "Status_CL", "Status_C"], ["C", "CL", "D"])
    (2, 1, 0)
    """
    ways: list[Callable[[Sequence[str]], list[str]]] = [list, _same, _without_shared, _without_words]
    for of_columns in ways:
        for of_classes in ways[:3]:
            keys, known = of_columns(columns), of_classes(classes)
            if len(set(known)) == len(known) and sorted(keys) == sorted(known):
                return tuple(known.index(key) for key in keys)
    raise _unlike(where, columns, classes)


def _same(names: Sequence[str]) -> list[str]:
    return [same_text(name) for name in names]


def _without_words(names: Sequence[str]) -> list[str]:
    return ["".join(word for word in _words(name) if word not in WORDS) for name in names]


def _without_shared(names: Sequence[str]) -> list[str]:
    """Without what all begin or end with: whole words if there are any between signs, else letters."""
    split = [re.split(r"[\W_]+", name) for name in names]
    first, last = _shared(split), _shared([words[::-1] for words in split])
    cut = ["".join(words[first : len(words) - last]) for words in split]
    if not all(cut) or not first + last:
        letters = _shared(names)
        cut = [name[letters:] for name in names]
    return _same(cut)


def _shared(rows: Sequence[Sequence[str]]) -> int:
    """With how many equal items all rows begin.

    >>> _shared(["cat", "car"])
    2
    """
    equal = [len(set(items)) == 1 for items in zip(*rows, strict=False)]
    return [*equal, False].index(False)


def _unlike(where: str, columns: Sequence[str], classes: Sequence[str]) -> BadSubmission:
    keys, known = set(_same(columns)), set(_same(classes))
    strange = [name for name in columns if same_text(name) not in known]
    lost = [name for name in classes if same_text(name) not in keys]
    parts = []
    if strange:
        parts.append(f"{len(strange):,} of its {len(columns):,} columns are no class: {_listed(strange)}")
    if lost:
        parts.append(f"{len(lost):,} of {len(classes):,} classes have no column: {_listed(lost)}")
    parts = parts or [f"several of its {len(columns):,} columns are called like one class"]
    near = near_names(strange[0], list(classes), 1) if strange else ""
    return BadSubmission(
        f"{where}: {'; '.join(parts)}.",
        hint=f"{near} ({strange[0]!r})" if near else "Train with classes that are named as the sample's columns are.",
    )


def _listed(names: Sequence[str]) -> str:
    return few([repr(plain(name)) for name in names], 3)
