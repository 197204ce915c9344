"""Match the columns of a sample submission to classes by name.

An equal name wins; otherwise case, spaces and punctuation are ignored (``Sugar beet`` is ``sugar_beet``, ``7`` is
``007``); then also common prefixes or suffixes of all columns, or all classes (``Status_C``, ``Status_D``), or words
such as ``is`` and ``probability``. Each column must match one class and each class one column: order is never used.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from headstart.errors import BadSubmission, near_names
from headstart.io.text_table import few, plain

WORDS = {"is", "has", "p", "prob", "probs", "probability", "pred", "predicted", "score", "label", "class", "target"}
"""Words that mark a column as being about a class, without naming which."""


def same_text(name: str) -> str:
    """Return a name reduced to what is compared.

    >>> same_text("Sugar beet"), same_text("007"), same_text("7.0")
    ('sugarbeet', '7', '7')
    """
    return "".join(_words(name)) or name


def _words(name: str) -> list[str]:
    words = re.findall(r"\d+\.\d+|[^\W_]+", unicodedata.normalize("NFKC", name).casefold())
    return [re.sub(r"^0+(?=\d)|\.0+$", "", w) if w[0].isdigit() else w for w in words]


def class_of_column(column: str, classes: Sequence[str]) -> int | None:
    """Return the index of the class that a single column names, None if it names none, or could name several.

    >>> class_of_column("is_iceberg", ["iceberg", "ship"]), class_of_column("label", ["cat", "dog"])
    (0, None)
    """
    words = _words(column)
    bare = [word for word in words if word not in WORDS]
    rules: list[Callable[[str], bool]] = [
        lambda name: name == column,
        lambda name: _words(name) == words,
        lambda name: _words(name) == bare,
        lambda name: _singular(_words(name)) == _singular(bare),
    ]
    for matches in rules:
        matching = [k for k, name in enumerate(classes) if matches(name)]
        if matching:
            return matching[0] if len(matching) == 1 else None
    return None


def _singular(words: Sequence[str]) -> str:
    return "".join(words).removesuffix("s")


def classes_of_columns(where: str, columns: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """Return the index of the class of each column; `where` is the sample, for messages.

    Raises `BadSubmission` unless columns and classes match one to one.

    >>> classes_of_columns("sample.csv", ["Status_D", "Status_CL", "Status_C"], ["C", "CL", "D"])
    (2, 1, 0)
    """
    reductions: list[Callable[[Sequence[str]], list[str]]] = [list, _same, _without_shared, _without_words]
    for of_columns in reductions:
        for of_classes in reductions[:3]:
            column_keys, class_keys = of_columns(columns), of_classes(classes)
            if len(set(class_keys)) == len(class_keys) and sorted(column_keys) == sorted(class_keys):
                return tuple(class_keys.index(key) for key in column_keys)
    raise _unlike(where, columns, classes)


def _same(names: Sequence[str]) -> list[str]:
    return [same_text(name) for name in names]


def _without_words(names: Sequence[str]) -> list[str]:
    return ["".join(word for word in _words(name) if word not in WORDS) for name in names]


def _without_shared(names: Sequence[str]) -> list[str]:
    """Remove the common prefix and suffix: whole words if punctuation separates any, else letters."""
    split = [re.split(r"[\W_]+", name) for name in names]
    first, last = _shared(split), _shared([words[::-1] for words in split])
    cut = ["".join(words[first : len(words) - last]) for words in split]
    if not all(cut) or not first + last:
        letters = _shared(names)
        cut = [name[letters:] for name in names]
    return _same(cut)


def _shared(rows: Sequence[Sequence[str]]) -> int:
    """Count the equal items with which all rows begin.

    >>> _shared(["cat", "car"])
    2
    """
    equal = [len(set(items)) == 1 for items in zip(*rows, strict=False)]
    return [*equal, False].index(False)


def _unlike(where: str, columns: Sequence[str], classes: Sequence[str]) -> BadSubmission:
    column_keys, class_keys = set(_same(columns)), set(_same(classes))
    unmatched = [name for name in columns if same_text(name) not in class_keys]
    missing = [name for name in classes if same_text(name) not in column_keys]
    problems = []
    if unmatched:
        problems.append(f"{len(unmatched):,} of its {len(columns):,} columns are not classes: {_listed(unmatched)}")
    if missing:
        problems.append(f"{len(missing):,} of {len(classes):,} classes have no column: {_listed(missing)}")
    problems = problems or [f"several of its {len(columns):,} columns match the same class"]
    near = near_names(unmatched[0], list(classes), 1) if unmatched else ""
    return BadSubmission(
        f"{where}: {'; '.join(problems)}.",
        hint=f"{near} ({unmatched[0]!r})" if near else "Train with the same class names as the sample's columns.",
    )


def _listed(names: Sequence[str]) -> str:
    return few([repr(plain(name)) for name in names], 3)
