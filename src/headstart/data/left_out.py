"""What was left out of a dataset, and why: the codes in `Dataset.rejected`, and one sentence for all of them.

Every verb that opens data logs this sentence, so that nothing is skipped silently; checks.csv has a row for each
path. Costs microseconds. Not for damaged images, which are found when the files are read: see `images.validate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from headstart.io.progress import log
from headstart.io.text_table import few, plain


class RejectReason(NamedTuple):
    """Why a path was left out. `severity` is that of its finding; `lost`: it should have been an image."""

    severity: str
    thing: str
    words: str
    lost: bool = False


REJECT_REASONS = {
    "not_a_file": RejectReason("error", "file", "listed but missing", lost=True),
    "address": RejectReason("error", "file", "listed by an address, which is not fetched", lost=True),
    "two_labels": RejectReason("error", "file", "listed with two labels", lost=True),
    "two_splits": RejectReason("error", "file", "listed in two sets", lost=True),
    "no_permission": RejectReason("error", "file", "in a folder that cannot be read", lost=True),
    "no_images": RejectReason("warning", "folder", "without images"),
    "masks": RejectReason("warning", "folder", "named like masks or annotations of images"),
    "mask": RejectReason("warning", "file", "named like the mask of an image"),
    "link_up": RejectReason("warning", "link", "to a folder above"),
    "link_inside": RejectReason("warning", "link", "to a folder that is part of the data anyway"),
    "system_folder": RejectReason("info", "folder", "made by the system or a program"),
    "not_an_image_name": RejectReason("info", "file", "not named like an image"),
}
"""The codes in `Dataset.rejected`, in the order in which messages name them; images with other codes are lost."""


def reject_reason(code: str) -> RejectReason:
    """The reason with this code."""
    return REJECT_REASONS.get(code) or RejectReason("warning", "file", code.replace("_", " "), lost=True)


def left_out(rejected: Sequence[tuple[str, str]]) -> str:
    """What was left out (paths and codes), by reason, with the first paths of each; '' if nothing was.

    >>> left_out([("a.jpg", "not_a_file"), ("b.jpg", "not_a_file"), ("x", "no_images")])
    '2 files listed but missing (a.jpg, b.jpg); 1 folder without images (x)'
    """
    codes = {code for _, code in rejected}
    ordered = [code for code in REJECT_REASONS if code in codes] + sorted(codes - set(REJECT_REASONS))
    return "; ".join(_counted(code, [path for path, why in rejected if why == code]) for code in ordered)


def note_left_out(root: Path, rejected: Sequence[tuple[str, str]]) -> None:
    """Log what was left out of the data: a warning if it is more than files that are not named like images."""
    text = left_out(rejected)
    if text:
        note = log.info if all(reject_reason(code).severity == "info" for _, code in rejected) else log.warning
        note("%s: left out: %s.", root, text)


def _counted(code: str, paths: Sequence[str]) -> str:
    thing, words = reject_reason(code).thing, reject_reason(code).words
    return f"{len(paths):,} {thing}{'s' * (len(paths) > 1)} {words} ({few([plain(path) for path in paths], 3)})"
