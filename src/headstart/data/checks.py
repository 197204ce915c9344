"""The checks of `headstart check`: one small function per check, one entry in `CHECKS`.

A check reads the results of `images.validate` for each file (no image is opened here) and yields at most a few
`Finding`s, each a short sentence with a count and the paths concerned. To add one: write a function of `CheckInput`
that yields findings, and add it to `CHECKS`.

Conflicts between certain copies (the same file, the same pixels) are errors; conflicts between likely copies are
warnings, worded with room for doubt. Costs a few milliseconds per 1,000 images. Not for wrong labels, which take a
trained model to find; and not for finding copies: `data.near_duplicates` does that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from headstart.data.class_names import about_merged, about_similar
from headstart.data.copies import Copies
from headstart.data.dataset import Dataset
from headstart.data.duplicates import exact_groups, group_pairs, joined
from headstart.data.findings import Finding
from headstart.data.left_out import reject_reason
from headstart.errors import NoImages
from headstart.images.formats import DECODED, SUFFIXES
from headstart.images.remarks import kinds_of, remedy_of, shown
from headstart.images.validate import ImageInfo
from headstart.images.value_ranges import FULL, ValueRanges, chosen_ranges, is_deep

TINY_PIXELS = 32
EXTREME_ASPECT = 4.0
IMBALANCE = 5.0
SMALL_CLASS = 10

HARDLY = 1 / 16
"""Share of a set's range of values below which an image hardly uses it."""


@dataclass(frozen=True, eq=False)
class CheckInput:
    """The input of a check. N images."""

    dataset: Dataset
    infos: Sequence[ImageInfo]
    usable: np.ndarray
    """bool (N,)."""
    exact: np.ndarray
    """int64 (N,): groups of identical files."""
    copies: Copies
    """The copies among these images."""

    @cached_property
    def certain(self) -> np.ndarray:
        """int64 (N,): groups of identical files and of images with the same pixels."""
        return joined(self.exact, self.copies.pairs_M2[self.copies.certain_M])

    @cached_property
    def together(self) -> np.ndarray:
        """int64 (N,): groups that certainly must be in one set: the certain copies, and the named groups."""
        return joined(self.certain, group_pairs(self.dataset.groups))

    def near_pairs(self, different: np.ndarray) -> list[tuple[int, int]]:
        """Pairs of usable near-copies, not certain ones, with two values of `different` (N); '' is not a value."""
        pairs = self.copies.pairs_M2[~self.copies.certain_M].tolist()
        usable = [(i, j) for i, j in pairs if self.usable[i] and self.usable[j] and different[i] and different[j]]
        return [(i, j) for i, j in usable if different[i] != different[j]]

    def paths(self, chosen: Iterable[int]) -> tuple[str, ...]:
        """The paths of the images with these indices."""
        return tuple(self.dataset.paths[i] for i in chosen)

    def readable(self) -> list[int]:
        """Indices of the usable images."""
        return list(map(int, np.flatnonzero(self.usable)))

    def where(self, true: Callable[[ImageInfo], bool]) -> tuple[str, ...]:
        """Paths of the usable images for whose `ImageInfo` this is true."""
        return self.paths(i for i in self.readable() if true(self.infos[i]))


def findings(dataset: Dataset, infos: Sequence[ImageInfo], *, copies: Copies | None = None) -> list[Finding]:
    """Run all of `CHECKS` on N images: errors first, then warnings, then notes.

    `copies` are the copies among these N images; without them, only identical files count as copies. The groups of the
    dataset must be named groups, without those of near-copies.
    """
    exact = exact_groups([info.sha256 for info in infos])
    checked = CheckInput(
        dataset=dataset,
        infos=infos,
        usable=usable(infos),
        exact=exact,
        copies=Copies.none(len(infos)) if copies is None else copies,
    )
    order = ("error", "warning", "info")
    return sorted((f for check in CHECKS for f in check(checked)), key=lambda finding: order.index(finding.severity))


def usable(infos: Sequence[ImageInfo]) -> np.ndarray:
    """bool (N,): which images can be used."""
    return np.array([not info.reason for info in infos], dtype=bool)


def get_avg_size(infos: Sequence[ImageInfo]) -> tuple[float, float]:
    """(mean height, mean width) in pixels of the usable images, upright. Raises `NoImages` if there are none."""
    sizes = [(info.height, info.width) for info in infos if not info.reason]
    if not sizes:
        raise NoImages(
            f"None of {len(infos):,} files can be read as an image, so there is no mean size.",
            hint="`headstart check` says what is wrong with each.",
        )
    height, width = np.mean(sizes, axis=0)
    return float(height), float(width)


# Files


def unreadable(c: CheckInput) -> Iterator[Finding]:
    """Files that cannot be used: one finding per reason, named after it ('truncated', 'empty' ...)."""
    for reason in sorted({info.reason for info in c.infos} - {""}):
        bad = [i for i, info in enumerate(c.infos) if info.reason == reason]
        infos = [c.infos[i] for i in bad]
        what = f"{_images(len(bad), 'file')} of {len(c.infos):,} cannot be used ({reason.replace('_', ' ')})"
        first, details = infos[0].message.rstrip("."), tuple(info.message for info in infos)
        if len(bad) == 1:
            yield Finding(reason, "error", c.paths(bad), f"{what} and is left out: {first}.")
        elif help := remedy_of(infos):
            yield Finding(reason, "error", c.paths(bad), f"{what} and are left out{kinds_of(infos)}.{help}", details)
        else:
            example = f"for example {c.dataset.paths[bad[0]]}: {first}"
            kinds = kinds_of(infos) + "; " if kinds_of(infos) else ": "
            yield Finding(reason, "error", c.paths(bad), f"{what} and are left out{kinds}{example}.", details)


def rejected(c: CheckInput) -> Iterator[Finding]:
    """Files, folders and table rows that were left out: one finding per reason."""
    for code in sorted({code for _, code in c.dataset.rejected}):
        paths = tuple(path for path, why in c.dataset.rejected if why == code)
        severity, thing, words, _ = reject_reason(code)
        yield Finding(code, severity, paths, f"{_images(len(paths), thing)} {_is(paths)} {words}; left out.")


def wrong_extension(c: CheckInput) -> Iterator[Finding]:
    """A PNG called .jpg: harmless here, where the content decides, but a trap for other programs."""
    suffixes = {i: _suffix(c.dataset.paths[i]) for i in c.readable()}
    bad = [i for i, suffix in suffixes.items() if suffix in SUFFIXES and suffix not in _suffixes(c.infos[i].format)]
    if bad:
        first = f"{c.dataset.paths[bad[0]]} is a {c.infos[bad[0]].format}"
        what = f"{_images(len(bad))} {_has(bad)} the extension of another format, for example {first}; read anyway."
        details = [f"Has the extension of another format, but is a {c.infos[i].format}; read anyway." for i in bad]
        yield Finding("wrong_extension", "warning", c.paths(bad), what, tuple(details) if len(bad) > 1 else ())


def animated(c: CheckInput) -> Iterator[Finding]:
    """Several frames in one file."""
    text = "{is} animated; the first frame is used"
    yield from _listed(c, "animated", "warning", lambda f: f.frames > 1 and f.format not in ("HEIC", "TIFF"), text)


def several_pages(c: CheckInput) -> Iterator[Finding]:
    """TIFF files with more than one page, such as scans and stacks."""
    text = "{has} several pages; the first is used"
    yield from _listed(c, "several_pages", "warning", lambda f: f.frames > 1 and f.format == "TIFF", text)


def several_images(c: CheckInput) -> Iterator[Finding]:
    """HEIC files with more than one image, such as bursts."""
    text = "{has} others in the same HEIC file; the primary image is used"
    yield from _listed(c, "several_images", "info", lambda f: f.frames > 1 and f.format == "HEIC", text)


# Pixels


def cmyk(c: CheckInput) -> Iterator[Finding]:
    """Made for print."""
    yield from _listed(c, "cmyk", "info", lambda f: f.mode == "CMYK", "{has} CMYK colours; converted to RGB")


def sixteen_bit(c: CheckInput) -> Iterator[Finding]:
    """More than 8 bits per channel, and the range of values by which they are scaled."""
    ranges = chosen_ranges((c.infos[i].mode, c.infos[i].low, c.infos[i].high) for i in c.readable())
    for floating, what in ((False, "16 bits or more per channel"), (True, "floating-point pixels")):
        deep = [i for i in c.readable() if is_deep(f := c.infos[i].mode) and f.startswith("F") == floating]
        span = ranges.floats if floating else ranges.integers
        if not deep:
            continue
        start = f"{_images(len(deep))} {_has(deep)} {what}"
        if span is None:
            yield Finding("sixteen_bit", "info", c.paths(deep), f"{start}; scaled to 8 bits.")
            continue
        low, high = shown(min(c.infos[i].low for i in deep)), shown(max(c.infos[i].high for i in deep))
        text = f"{start}, with values from {low} to {high}; scaled from {shown(span[0])} to {shown(span[1])}"
        severity = "info" if floating and span[0] == 0 else "warning"
        yield Finding("sixteen_bit", severity, c.paths(deep), f"{text}, in training and in prediction.")


def uneven_depth(c: CheckInput) -> Iterator[Finding]:
    """Images of more than 8 bits that hardly use the range of the set, or exceed it."""
    ranges = chosen_ranges((c.infos[i].mode, c.infos[i].low, c.infos[i].high) for i in c.readable())
    odd = [i for i in c.readable() if is_deep(c.infos[i].mode) and _is_odd(c.infos[i], ranges)]
    if odd:
        first = c.infos[odd[0]]
        low, high = ranges.of(first.mode) or FULL
        use, exceed = ("uses", "exceeds") if len(odd) == 1 else ("use", "exceed")
        text = (
            f"{_images(len(odd))} of more than 8 bits {use} hardly any of the range "
            f"{shown(low)} to {shown(high)} of the others, or {exceed} it, for example {c.dataset.paths[odd[0]]}: "
            f"{shown(first.low)} to {shown(first.high)}; {_its(odd)} contrast is lost. Save all with the same scale."
        )
        yield Finding("uneven_depth", "warning", c.paths(odd), text)


def _is_odd(info: ImageInfo, ranges: ValueRanges) -> bool:
    low, high = ranges.of(info.mode) or FULL
    return info.high > info.low and min(info.high, high) - max(info.low, low) < HARDLY * (high - low)


def palette(c: CheckInput) -> Iterator[Finding]:
    """Up to 256 colours in a table."""
    yield from _listed(c, "palette", "info", lambda f: f.mode in ("P", "PA"), "{has} a colour table; converted to RGB")


def alpha(c: CheckInput) -> Iterator[Finding]:
    """Transparency."""
    text = "{has} an alpha channel or a transparent colour; composited on white"
    yield from _listed(
        c, "alpha", "info", lambda f: f.mode.removesuffix(";16") in ("RGBA", "LA", "PA", "RGBa", "La"), text
    )


def exif_rotated(c: CheckInput) -> Iterator[Finding]:
    """Stored rotated or mirrored, with a tag for the orientation."""
    text = "{is} rotated by an EXIF tag; used upright"
    yield from _listed(c, "exif_rotated", "info", lambda f: f.orientation not in (0, 1), text)


def tiny(c: CheckInput) -> Iterator[Finding]:
    """Shorter side below 32 pixels."""
    text = f"{{is}} smaller than {TINY_PIXELS} pixels on a side; there may be little to see"
    yield from _listed(c, "tiny", "warning", lambda f: min(f.width, f.height) < TINY_PIXELS, text)


def extreme_aspect(c: CheckInput) -> Iterator[Finding]:
    """Longer than 4:1."""
    text = f"{{is}} longer than {EXTREME_ASPECT:g}:1; cropping to a square loses most of it"
    long = lambda f: max(f.width, f.height) > EXTREME_ASPECT * min(f.width, f.height)  # noqa: E731
    yield from _listed(c, "extreme_aspect", "warning", long, text)


def size_summary(c: CheckInput) -> Iterator[Finding]:
    """Mean and median size."""
    if c.usable.any():
        height, width = get_avg_size(c.infos)
        sizes = np.array([(f.width, f.height) for f in c.infos if not f.reason])
        middle = np.median(sizes, axis=0)
        text = (
            f"{_images(len(sizes))} of {len(c.infos):,} can be used: on average {width:.0f} x {height:.0f} pixels "
            f"(width x height; median {middle[0]:.0f} x {middle[1]:.0f}, "
            f"smallest side {sizes.min():,}, largest {sizes.max():,})."
        )
        yield Finding("size_summary", "info", (), text)


# Copies


def exact_duplicates(c: CheckInput) -> Iterator[Finding]:
    """The same file more than once."""
    groups = _groups(c.exact, c.usable)
    if groups:
        text = f"{_members(groups)} the same file, byte for byte ({_example(c, groups)}); they are kept in one set."
        yield Finding("exact_duplicates", "warning", _joined(c, groups), text)


def near_duplicates(c: CheckInput) -> Iterator[Finding]:
    """Copies that were saved again."""
    groups = [g for g in _groups(c.copies.groups_N, c.usable) if len(set(c.exact[g])) > 1]
    if groups:
        text = (
            f"{_members(groups)} nearly the same ({_example(c, groups)}); a split keeps them in one set where it can."
        )
        wrong = c.copies.false_share
        if wrong is not None:
            text += f" An estimated {100 * wrong:.1f} % of these pairs are wrong, judging by their labels."
        yield Finding("near_duplicates", "warning", _joined(c, groups), text)


def label_conflict(c: CheckInput) -> Iterator[Finding]:
    """The same image with different labels: at least one label is wrong."""
    labels = c.dataset.labels
    groups = [g for g in _groups(c.certain, c.usable & (labels >= 0)) if len(set(labels[g])) > 1]
    if groups:
        names = " and ".join(sorted({repr(c.dataset.label_name(i)) for i in groups[0]}))
        text = f"{_members(groups)} the same image under different labels ({_example(c, groups, labels)}: {names})."
        yield Finding("label_conflict", "error", _joined(c, groups), text)


def possible_label_conflict(c: CheckInput) -> Iterator[Finding]:
    """Near-copies with different labels: one label is wrong, or they are not copies."""
    names = np.array([c.dataset.label_name(i) if k >= 0 else "" for i, k in enumerate(c.dataset.labels)], object)
    pairs = c.near_pairs(names)
    if pairs:
        i, j = pairs[0]
        text = (
            f"{_images(len(pairs), 'pair')} of images under different labels may be copies of one image "
            f"({_example_pair(c, pairs)}: {names[i]!r} and {names[j]!r}); look at {_them(pairs)}."
        )
        yield Finding("possible_label_conflict", "warning", c.paths(i for pair in pairs for i in pair), text)


def split_leak(c: CheckInput) -> Iterator[Finding]:
    """The same image, or one named group, in different sets of the split that came with the data."""
    split = c.dataset.split
    groups = [g for g in _groups(c.together, c.usable & (split != "")) if len(set(split[g])) > 1]
    if groups:
        sets = " and ".join(name for name in ("train", "val", "test") if name in set(split[groups[0]]))
        text = (
            f"{_members(groups)} the same image or from one group, but in different sets of the split "
            f"({_example(c, groups, split)}: {sets}); measured accuracy will be too high."
        )
        yield Finding("split_leak", "error", _joined(c, groups), text)


def possible_split_leak(c: CheckInput) -> Iterator[Finding]:
    """Near-copies in different sets of the split that came with the data."""
    split = c.dataset.split
    pairs = [(i, j) for i, j in c.near_pairs(split) if c.together[i] != c.together[j]]
    if pairs:
        sets = " and ".join(str(split[i]) for i in pairs[0])
        text = (
            f"{_images(len(pairs), 'pair')} of images in different sets of the split may be copies of one image "
            f"({_example_pair(c, pairs)}: {sets}); if so, measured accuracy will be too high."
        )
        yield Finding("possible_split_leak", "warning", c.paths(i for pair in pairs for i in pair), text)


def doubted_copies(c: CheckInput) -> Iterator[Finding]:
    """Images that agree as copies do, in groups too large or too mixed to be credible."""
    pairs = [(i, j) for i, j in c.copies.doubted_K2.tolist() if c.usable[i] and c.usable[j]]
    if pairs:
        images = dict.fromkeys(i for pair in pairs for i in pair)
        text = (
            f"{len(images):,} images look like copies, but their groups have too many images or labels for copies of "
            f"one image ({_example_pair(c, pairs)}); they are treated as different images. If they belong together (one "
            "patient, one object, one burst), name the groups: --group-column or --group-from."
        )
        yield Finding("doubted_copies", "warning", c.paths(images), text)


# Classes


def class_imbalance(c: CheckInput) -> Iterator[Finding]:
    """The largest class has more than 5 times the images of the smallest."""
    counts = _class_counts(c)
    if len(counts) > 1 and counts[-1][0] > IMBALANCE * counts[0][0] > 0:
        (low, small), (high, large) = counts[0], counts[-1]
        text = (
            f"The classes are imbalanced: {large!r} has {high:,} images, {small!r} {low:,}. "
            "Use balanced accuracy rather than accuracy."
        )
        yield Finding("class_imbalance", "warning", (), text)


def similar_names(c: CheckInput) -> Iterator[Finding]:
    """Classes whose names are easily taken for one another, and names that were read as one class."""
    for sentence in filter(None, (about_merged(c.dataset.merged), about_similar(c.dataset.classes))):
        yield Finding("similar_names", "warning", (), sentence)


def small_class(c: CheckInput) -> Iterator[Finding]:
    """A class with fewer than 10 images."""
    small = [(count, name) for count, name in _class_counts(c) if count < SMALL_CLASS]
    if small:
        names = ", ".join(f"{name!r}: {count}" for count, name in small[:5]) + (" ..." if len(small) > 5 else "")
        text = f"{_images(len(small), 'class', 'classes')} {_has(small)} fewer than {SMALL_CLASS} images ({names})."
        yield Finding("small_class", "warning", (), text)


CHECKS: tuple[Callable[[CheckInput], Iterator[Finding]], ...] = (
    *(unreadable, rejected, label_conflict, split_leak),
    *(wrong_extension, animated, several_pages, tiny, extreme_aspect, exact_duplicates, near_duplicates),
    *(possible_label_conflict, possible_split_leak, doubted_copies),
    *(
        similar_names,
        class_imbalance,
        small_class,
        cmyk,
        sixteen_bit,
        uneven_depth,
        palette,
        alpha,
        exif_rotated,
        several_images,
        size_summary,
    ),
)
"""All checks, in the order of their findings (within a severity)."""


def _listed(
    c: CheckInput, check: str, severity: str, true: Callable[[ImageInfo], bool], text: str
) -> Iterator[Finding]:
    """One finding with all usable images for which `true` is; ``{is}`` and ``{has}`` agree with their number."""
    paths = c.where(true)
    if paths:
        sentence = text.format_map({"is": _is(paths), "has": _has(paths)})
        yield Finding(check, severity, paths, f"{_images(len(paths))} {sentence}.")


def _groups(groups: np.ndarray, among: np.ndarray) -> list[np.ndarray]:
    """Indices of each group with two or more members in `among`, in order of the first member."""
    members = np.flatnonzero(among)
    order = members[np.argsort(groups[members], kind="stable")]
    cuts = np.flatnonzero(np.diff(groups[order])) + 1
    return sorted((g for g in np.split(order, cuts) if len(g) > 1), key=lambda g: int(g[0]))


def _joined(c: CheckInput, groups: list[np.ndarray]) -> tuple[str, ...]:
    return c.paths(int(i) for group in groups for i in group)


def _members(groups: list[np.ndarray]) -> str:
    total = sum(len(group) for group in groups)
    return f"{total:,} images" + (f" in {len(groups):,} groups" if len(groups) > 1 else "") + " are"


def _example(c: CheckInput, groups: list[np.ndarray], different: np.ndarray | None = None) -> str:
    """The first two of the first group, or its first and the next with another value of `different` (N)."""
    start = "for example " if len(groups) > 1 or len(groups[0]) > 2 else ""
    first = int(groups[0][0])
    others = [int(i) for i in groups[0][1:] if different is None or different[i] != different[first]]
    return start + " and ".join(c.paths((first, others[0])))


def _example_pair(c: CheckInput, pairs: list[tuple[int, int]]) -> str:
    return ("for example " if len(pairs) > 1 else "") + " and ".join(c.paths(pairs[0]))


def _class_counts(c: CheckInput) -> list[tuple[int, str]]:
    """(usable images, name) of each class, smallest first."""
    counts = Counter(c.dataset.label_name(i) for i in c.readable())
    return sorted((counts[name], name) for name in c.dataset.classes)


def _suffix(path: str) -> str:
    name = path.rpartition("/")[2]
    return ("." + name.rpartition(".")[2]).lower() if "." in name else ""


def _suffixes(format: str) -> tuple[str, ...]:
    return DECODED.get(format, ("." + format.lower(),))


def _images(n: int, one: str = "image", many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _is(things: Sequence[object]) -> str:
    return "is" if len(things) == 1 else "are"


def _has(things: Sequence[object]) -> str:
    return "has" if len(things) == 1 else "have"


def _its(things: Sequence[object]) -> str:
    return "its" if len(things) == 1 else "their"


def _them(things: Sequence[object]) -> str:
    return "it" if len(things) == 1 else "them"
