"""Sentences about images for the terminal: files that cannot be used, and pixels beyond a classifier's ranges.

Every verb that reads images logs both, so that no file is left out silently. Costs nothing worth mentioning. Not for
the findings of `headstart check`: see `data.checks`.
"""

from __future__ import annotations

from collections.abc import Sequence

from headstart.images.formats import DECODED, counted_kinds, is_available, remedies
from headstart.images.validate import ImageInfo
from headstart.images.value_ranges import FULL, ValueRanges, chosen_ranges, is_deep
from headstart.io.progress import log
from headstart.io.text_table import plain


def note_unusable(infos: Sequence[ImageInfo], names: Sequence[str] = ()) -> None:
    """Warn about files that cannot be used: how many of each format, and how to convert those of other formats; if there is
    nothing to convert, why not the first, with its name if there are `names`."""
    bad = [i for i, info in enumerate(infos) if info.reason]
    if not bad:
        return
    those, name = [infos[i] for i in bad], f"{plain(names[bad[0]])}: " if names else ""
    first = f"{name}{those[0].message.rstrip('.')}"
    if len(bad) == 1:
        log.warning("1 of %s files cannot be used, and is left out: %s.", f"{len(infos):,}", first)
    else:
        kinds, what = kinds_of(those), f"{len(bad):,} of {len(infos):,} files"
        remedy = remedy_of(those) or f" The first is {first}."
        log.warning("%s cannot be used, and are left out%s.%s", what, kinds, remedy)


def kinds_of(bad: Sequence[ImageInfo]) -> str:
    """Return ': HEIC 4, PDF 1', or '' if no format is known."""
    return f": {counted_kinds(info.format for info in bad)}" if any(info.format for info in bad) else ""


def remedy_of(bad: Sequence[ImageInfo]) -> str:
    """Return ' To use HEIC: pip install ...', or '' if no format is known that could be converted."""
    other = [info for info in bad if info.reason in ("not_supported", "not_an_image")]
    text = remedies(info.format for info in other if info.format not in DECODED or not is_available(info.format))
    return f" {text}" if text else ""


def note_beyond(infos: Sequence[ImageInfo], ranges: ValueRanges) -> None:
    """Warn about images of more than 8 bits whose values do not fit the classifier's ranges."""
    deep = [info for info in infos if not info.reason and is_deep(info.mode)]
    clipped = [info for info in deep if (span := ranges.of(info.mode)) and _is_beyond((info.low, info.high), span)]
    unknown = [info for info in deep if ranges.of(info.mode) is None]
    alone = [info for info in unknown if _is_scaled_alone(info)]
    own = chosen_ranges((info.mode, info.low, info.high) for info in unknown if not _is_scaled_alone(info))
    if clipped:
        first = clipped[0]
        low, high = ranges.of(first.mode) or FULL
        log.warning(
            "%s of %s images have values outside of %s to %s, the range that the classifier was trained on (the first has "
            "%s to %s); these values are clipped.",
            *(f"{len(clipped):,}", f"{len(infos):,}", *map(shown, (low, high, first.low, first.high))),
        )
    if alone:
        first = alone[0]
        log.warning(
            "%s of %s images have values outside of 0 to %s (the first has %s to %s), for which the classifier has no range: "
            "each is scaled by its own, so their brightness cannot be compared. Save them with 8 bits, all on one scale.",
            *(f"{len(alone):,}", f"{len(infos):,}", *map(shown, (_widest(first.mode), first.low, first.high))),
        )
    if own.integers is not None:
        log.warning(
            "The images of more than 8 bits use the values %s to %s, but the classifier scales such images from 0 to "
            "65,535: they lose most of their levels. Save them with 8 bits.",
            *map(shown, own.integers),
        )


def _is_scaled_alone(info: ImageInfo) -> bool:
    """Whether an image is scaled by its own range if the classifier has none."""
    return info.low < 0 or info.high > _widest(info.mode)


def _widest(mode: str) -> float:
    """The highest value for which `decode.decode` has a scale of its own."""
    return 255.0 if mode.startswith("F") else FULL[1]


def _is_beyond(used: tuple[float, float], span: tuple[float, float]) -> bool:
    """Whether the values exceed a range by more than a sixteenth of it."""
    margin = (span[1] - span[0]) / 16
    return used[0] < span[0] - margin or used[1] > span[1] + margin


def shown(value: float) -> str:
    """Return a value of a pixel for a sentence.

    >>> shown(65535.0), shown(-0.01234567)
    ('65,535', '-0.01235')
    """
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"
