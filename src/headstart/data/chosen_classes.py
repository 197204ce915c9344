"""The classes to use, if not all: those that `--classes` names, or those that have images left after corrections.

    --classes cats,dogs              only images of these classes, and those without a label
    --classes 'cats,"wolf, grey"'    a name that contains a comma is put in double quotes, as in a CSV

Images of the other classes are left out as if they were not there, with a note that counts them. Costs milliseconds per
100,000 images. Not for merging or renaming classes: corrections and tables of labels do that.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from headstart.data.dataset import Dataset, counted
from headstart.errors import BadLabels, near_names
from headstart.io.progress import log
from headstart.io.text_table import few, number_of


def names_in_list(text: str) -> tuple[str, ...]:
    """The names in a list of classes, each once.

    >>> names_in_list('cats, dogs,"wolf, grey"')
    ('cats', 'dogs', 'wolf, grey')
    """
    cells = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    return tuple(dict.fromkeys(name for row in cells for cell in row if (name := cell.strip())))


def listed_classes(names: str | Iterable[object]) -> str:
    """Names as the text that `names_in_list` reads; text is returned unchanged. Raises `BadLabels` if there are none.

    >>> listed_classes(["cats", "wolf, grey"])
    'cats,"wolf, grey"'
    """
    if isinstance(names, str):
        return names
    text, listed = io.StringIO(), [str(name) for name in names]
    if not listed:
        raise no_name()
    csv.writer(text, lineterminator="").writerow(listed)
    return text.getvalue()


def only_classes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The images of these classes, and those without a label. Logs how many are left out.

    Raises `BadLabels` if no image has one of the classes.
    """
    counts = Counter(dataset.label_name(i) for i in range(len(dataset)))
    counts.pop("", None)
    found = {name: _class_called(name, list(counts)) for name in names}
    unknown = [name for name in names if not found[name]]
    if unknown or not names:
        raise _no_such_class(dataset, unknown, counts)
    kept = without_classes(dataset, set(dataset.classes) - set(found.values()))
    others = Counter({name: n for name, n in counts.items() if name not in found.values()})
    if others:
        log.info(
            "%s: %s of %s %s left out, because --classes names others: %s.",
            *(dataset.root, number_of(others.total(), "image"), number_of(len(others), "class")),
            "is" if others.total() == 1 else "are",
            counted(sorted(others), [others[name] for name in sorted(others)]),
        )
    return kept


def without_classes(dataset: Dataset, names: Iterable[str]) -> Dataset:
    """The dataset without these classes and their images, which are remembered in `left_out`."""
    gone = set(names)
    number = {k: n for n, k in enumerate(k for k, name in enumerate(dataset.classes) if name not in gone)}
    keep = np.array([label < 0 or label in number for label in dataset.labels.tolist()], bool)
    left_out = {dataset.paths[i]: dataset.label_name(i) for i in np.flatnonzero(~keep).tolist()}
    taken = dataset.take(keep)
    return replace(
        taken,
        labels=np.array([number.get(label, -1) for label in taken.labels.tolist()], np.int64),
        classes=tuple(name for name in dataset.classes if name not in gone),
        left_out={**dataset.left_out, **left_out},
    )


def _class_called(name: str, known: Sequence[str]) -> str:
    """The class of that name, in whatever Unicode form; '' if there is none."""
    alike = [other for other in known if _form(other) == _form(name)]
    return name if name in known else alike[0] if len(alike) == 1 else ""


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip())


def no_name() -> BadLabels:
    """The error for classes to use that name none."""
    return BadLabels("classes: names no class.", hint="Separate names by commas, such as --classes cats,dogs.")


def _no_such_class(dataset: Dataset, unknown: Sequence[str], counts: Counter[str]) -> BadLabels:
    if not unknown:
        return no_name()
    there = sorted(counts)
    near = near_names(unknown[0], there)
    alike = [name for name in there if name.casefold() == unknown[0].casefold()]
    commas = "Put a name that contains a comma in double quotes: --classes 'cats,\"wolf, grey\"'."
    which = f"class {unknown[0]!r}" if len(unknown) == 1 else f"classes {few(list(map(repr, unknown)), 3)}"
    hint = f"Did you mean {alike[0]!r}?" if alike else near
    return BadLabels(
        f"{dataset.root}: no image has the {which} (--classes); its classes are "
        f"{counted(there, [counts[name] for name in there]) or 'none'}.",
        hint=hint or (commas if any("," in name for name in there) else ""),
    )
