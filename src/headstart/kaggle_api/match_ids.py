"""Which image an id of a sample submission means: by name, never by order.

    id           image                  how
    a/1.jpg      a/1.jpg                the same
    1.jpg        test/1.jpg             the end of its path
    1            test/1.jpg             the end of its path without the suffix
    test/1.jpg   1.jpg                  its path is the end of the id
    IMG1.JPG     test/img1.png          case, Unicode form, slashes and suffixes of images aside
    7            test/007.jpg           the same number

Each line is tried for all ids before the next one, for the images and ids that are left: an exact name is never lost to
a loose one. Costs some 10 to 30 microseconds an id.
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
    """{id: path} for all ids that have an image; `where` is the file that they are from, for messages.

    Raises `BadSubmission` if an id means several images by the same line of the table above, or several ids one.

    >>> match_ids("sample.csv", ["2", "1", "3"], ["test/1.jpg", "test/2.jpg"])
    {'2': 'test/2.jpg', '1': 'test/1.jpg'}
    """
    found: dict[str, str] = {}
    ids_left, paths_left = list(dict.fromkeys(ids)), list(dict.fromkeys(paths))
    for rule in RULES:
        pairs = list(rule(ids_left, paths_left))
        _check_single(where, pairs)
        found |= dict(pairs)
        taken = {path for _, path in pairs}
        ids_left = [name for name in ids_left if name not in found]
        paths_left = [path for path in paths_left if path not in taken]
    return {name: found[name] for name in ids if name in found}


def _check_single(where: str, pairs: Sequence[tuple[str, str]]) -> None:
    images, names = defaultdict(list), defaultdict(list)
    for name, path in pairs:
        images[name].append(path)
        names[path].append(name)
    for these, what, which in (
        (images, "ids mean several images", "id"),
        (names, "images are meant by several ids", "image"),
    ):
        several = {key: values for key, values in these.items() if len(values) > 1}
        if several:
            key, values = next(iter(several.items()))
            raise BadSubmission(
                f"{where}: {len(several):,} {what} each; the {which} {plain(key)!r}: {few([plain(v) for v in values], 3)}.",
                hint="Give only the images that are to be submitted, such as the folder test."
                if which == "id"
                else "Name the images as the ids are written.",
            )


def _same(ids: Sequence[str], paths: Sequence[str]) -> Iterable[tuple[str, str]]:
    known = set(paths)
    return ((name, name) for name in ids if name in known)


def _ends(of_id: Callable[[str], str], of_path: Callable[[str], str]) -> Rule:
    """The id, as `of_id` has it, is the end of the path, as `of_path` has it: of whole parts between slashes."""

    def rule(ids: Sequence[str], paths: Sequence[str]) -> Iterable[tuple[str, str]]:
        keys = {name: of_id(name) for name in ids}
        known = _by_end({path: of_path(path) for path in paths}, {key.count("/") for key in keys.values()})
        return ((name, path) for name, key in keys.items() if key for path in known.get(key, ()))

    return rule


def _beginnings_apart(of: Callable[[str], str]) -> Rule:
    """The path is the end of the id."""

    def rule(ids: Sequence[str], paths: Sequence[str]) -> Iterable[tuple[str, str]]:
        keys = {path: of(path) for path in paths}
        known = _by_end({name: of(name) for name in ids}, {key.count("/") for key in keys.values()})
        return ((name, path) for path, key in keys.items() for name in known.get(key, ()))

    return rule


def _by_end(texts: Mapping[str, str], slashes: Iterable[int]) -> dict[str, list[str]]:
    """The keys of `texts` by the ends of their values that have so many slashes."""
    found: dict[str, list[str]] = defaultdict(list)
    for n in slashes:
        for key, text in texts.items():
            parts = text.rsplit("/", n + 1)
            if len(parts) > n:
                found["/".join(parts[-(n + 1) :])].append(key)
    return found


def _number(ids: Sequence[str], paths: Sequence[str]) -> Iterable[tuple[str, str]]:
    known: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        known[_digits(_bare(path).rpartition("/")[2])].append(path)
    return ((name, path) for name in ids if _digits(_bare(name)) for path in known[_digits(_bare(name))])


def _digits(text: str) -> str:
    """``7`` for ``007``, empty for what is no whole number."""
    text = text.strip()
    return (text.lstrip("0") or "0") if text.isascii() and text.isdigit() else ""


def _whole(text: str) -> str:
    return text


def _bare(path: str) -> str:
    """Without an image's suffix."""
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
