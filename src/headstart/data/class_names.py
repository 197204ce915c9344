"""Names of classes: one spelling of each, and names that are easily taken for one another.

macOS writes the é of a folder's name as e and an accent, Linux and Windows as one character, and a blank at the end of a
name is invisible. Such names are one class (`class_name`). Names that differ in case (`Cat`, `cat`) may be two classes,
so they stay apart, and `similar_names` finds them for a warning. Costs microseconds per name. Not for misspelled names:
see `errors.near_names`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

from headstart.io.text_table import few


def class_name(text: str) -> str:
    """The name without blanks at its ends, its letters composed (NFC).

    >>> class_name("cafe\\u0301 ") == "caf\\xe9"
    True
    """
    return unicodedata.normalize("NFC", text).strip() or text


def similar_names(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of names that differ only in case, in blanks, hyphens and underscores, or in the form of their letters.

    >>> similar_names(["Cat", "cat", "dog", "red_fox", "red fox"])
    [('Cat', 'cat'), ('red fox', 'red_fox')]
    """
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        groups[_key(name)].append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def shown_names(names: Sequence[str]) -> str:
    """The names in quotes, with escapes if two of them look the same.

    >>> shown_names(["Cat", "cat"]), shown_names(["caf\\xe9", "cafe\\u0301"])
    ("'Cat' and 'cat'", "'caf\\\\xe9' and 'cafe\\\\u0301'")
    """
    alike = len({_visible(name) for name in names}) < len(names)
    quoted = [ascii(name) if alike else repr(name) for name in names]
    return " and ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]]))


def about_merged(merged: Sequence[tuple[str, ...]]) -> str:
    """A sentence about names that were read as one class, '' if there are none."""
    if not merged:
        return ""
    return (
        "Read as one class, because they differ only in case between the sets, in blanks at the ends, or in their Unicode "
        f"form: {few([shown_names(names) for names in merged], 3, separator='; ')}."
    )


def about_similar(classes: Sequence[str]) -> str:
    """A sentence about classes whose names are similar, '' if there are none."""
    groups = similar_names(classes)
    if not groups:
        return ""
    return (
        "Different classes whose names differ only in case, blanks, or the form of their letters: "
        f"{few([shown_names(names) for names in groups], 3, separator='; ')}. If they are one class, give them one name."
    )


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", _visible(name).casefold()).strip()


def _visible(name: str) -> str:
    """A name as it looks: without invisible characters, and with the usual form of each letter."""
    usual = unicodedata.normalize("NFKC", name)
    return "".join(c for c in usual if unicodedata.category(c) != "Cf").strip()
