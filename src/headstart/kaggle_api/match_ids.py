"""Match the ids of a sample submission to images by name, never by order.

    id           image                  rule
    a/1.jpg      a/1.jpg                equal
    1.jpg        test/1.jpg             the end of the path
    1            test/1.jpg             the end of the path without the suffix
    test/1.jpg   1.jpg                  the path is the end of the id
    IMG1.JPG     test/img1.png          ignoring case, Unicode form, slashes and image suffixes
    7            test/007.jpg           the same number

Each rule is tried for all remaining ids and images before the next one: an exact match is never lost to a loose one.
Costs 10 to 30 microseconds per id.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from headstart.data.dataset import IMAGES
from headstart.errors import BadSubmission
from headstart.io.text_table import few, plain

Rule = Callable[[Sequence[str], Sequence[str]], Iterable[tuple[str, str]]]


def match_ids(where: str, ids: Sequence[str], paths: Sequence[str]) -> dict[str, str]:
    """Return {id: path} for all ids that have an image; `where` is the file of the ids, for messages.

    Raises `BadSubmission` if one rule of the table above matches an id to several images, or several ids to one image.

    >>> match_ids("sample.csv", ["2", "1", "3"], ["test/1.jpg", "test/2.jpg"])
    {'2': 'test/2.jpg', '1': 'test/1.jpg'}
    """
    matched: dict[str, str] = {}
    ids_left, paths_left = list(dict.fromkeys(ids)), list(dict.fromkeys(paths))
    for rule in RULES:
        pairs = list(rule(ids_left, paths_left))
        _check_single(where, pairs)
        matched |= dict(pairs)
        used = {path for _, path in pairs}
        ids_left = [name for name in ids_left if name not in matched]
        paths_left = [path for path in paths_left if path not in used]
    return {name: matched[name] for name in ids if name in matched}


def _check_single(where: str, pairs: Sequence[tuple[str, str]]) -> None:
    images, names = defaultdict(list), defaultdict(list)
    for name, path in pairs:
        images[name].append(path)
        names[path].append(name)
    for these, what, which in (
        (images, "ids match several images", "id"),
        (names, "images match several ids", "image"),
    ):
        several = {key: values for key, values in these.items() if len(values) > 1}
        if several:
            key, values = next(iter(several.items()))
            raise BadSubmission(
                f"{where}: {len(several):,} {what} each; the {which} {plain(key)!r}: {few([plain(v) for v in values], 3)}.",
                hint="Give only the images to submit, such as the folder test."
                if which == "id"
                else "Give the images the same names as the ids.",
            )


def _same(ids: Sequence[str], paths: Sequence[str]) -> Iterable[tuple[str, str]]:
    available = set(paths)
    return ((name, name) for name in ids if name in available)


def _ends(of_id: Callable[[str], str], of_path: Callable[[str], str]) -> Rule:
    """The id, mapped by `of_id`, is the end of the path, mapped by `of_path`, in whole components between slashes."""

    def rule(ids: Sequence[str], paths: Sequence[str]) -> Iterable[tuple[str, str]]:
        keys = {name: of_id(name) for name in ids}
        by_end = _by_end({path: of_path(path) for path in paths}, {key.count("/") for key in keys.values()})
        return ((name, path) for name, key in keys.items() if key for path in by_end.get(key, ()))

    return rule


def _beginnings_apart(of: Callable[[str], str]) -> Rule:
    """The path is the end of the id."""

    def rule(ids: Sequence[str], paths: Sequence[str]) -> Iterable[tuple[str, str]]:
        keys = {path: of(path) for path in paths}
        by_end = _by_end({name: of(name) for name in ids}, {key.count("/") for key in keys.values()})
        return ((name, path) for path, key in keys.items() for name in by_end.get(key, ()))

    return rule


def _by_end(texts: Mapping[str, str], slashes: Iterable[int]) -> dict[str, list[str]]:
    """Index the keys of `texts` by the ends of their values with each number of slashes in `slashes`."""
    index: dict[str, list[str]] = defaultdict(list)
    for n in slashes:
        for key, text in texts.items():
            parts = text.rsplit("/", n + 1)
            if len(parts) > n:
                index["/".join(parts[-(n + 1) :])].append(key)
    return index


def _number(ids: Sequence[str], paths: Sequence[str]) -> Iterable[tuple[str, str]]:
    by_number: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_number[_digits(_bare(path).rpartition("/")[2])].append(path)
    return ((name, path) for name in ids if _digits(_bare(name)) for path in by_number[_digits(_bare(name))])


def _digits(text: str) -> str:
    """Return ``7`` for ``007``, '' if it is not a whole number."""
    text = text.strip()
    return (text.lstrip("0") or "0") if text.isascii() and text.isdigit() else ""


def _whole(text: str) -> str:
    return text


def _bare(path: str) -> str:
    """Return a path without an image suffix."""
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGES else path


def _loose(text: str) -> str:
    text = unicodedata.normalize("NFC", text.strip().replace("\\", "/")).casefold()
    return _bare(text).removeprefix("./").lstrip("/")


RULES: tuple[Rule, ...] = (
    _same,
    _ends(_whole, _whole),
    _ends(_whole, _bare),
    _beginnings_apart(_whole),
    _ends(_loose, _loose),
    _beginnings_apart(_loose),
    _number,
)
