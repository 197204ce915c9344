"""Columns that say which set of a split a row is in: names of sets, or truth values such as fastai's `is_valid`.

    split, set, subset, data set, usage      train, valid, dev, test, holdout, PublicTest ...
    is_valid, is_test, is_train              TRUE and FALSE, or 1 and 0

Costs nothing. Not for folders named like a set: `data.dataset.split_name` knows those, and fewer names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headstart.data.dataset import split_name
from headstart.data.one_hot import bits

_MORE_NAMES = {
    **dict.fromkeys(("dev", "devel", "development", "publictest", "public_test"), "val"),
    **dict.fromkeys(("holdout", "hold-out", "hold_out", "heldout", "privatetest", "private_test", "tst"), "test"),
    **dict.fromkeys(("trn",), "train"),
}
FLAGS = {
    **dict.fromkeys(("is_train", "is_training", "istrain", "is_training_image"), "train"),
    **dict.fromkeys(("is_valid", "is_val", "is_validation", "isvalid", "is_dev"), "val"),
    **dict.fromkeys(("is_test", "is_testing", "istest", "is_holdout"), "test"),
}
"""Names of columns of truth values, and the set that they are about."""
TWO_SETS = "\0two sets"
"""What `flagged_sets` gives for a row to leave out."""


def set_name(text: str) -> str:
    """'train', 'val' or 'test' for a cell that names a set, else ''.

    >>> set_name("TRAIN"), set_name("dev"), set_name("PrivateTest"), set_name("0")
    ('train', 'val', 'test', '')
    """
    return split_name(text) or _MORE_NAMES.get(text.strip().casefold(), "")


def flagged_sets(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """The set of each row by columns of truth values, keyed by a name in `FLAGS`.

    Rows that no column claims are the training set; if that has a column itself, they are the first set that has none.
    Rows that are claimed for two sets are `TWO_SETS`.

    >>> flagged_sets({"is_valid": ["0", "1"]}), flagged_sets({"is_train": ["1", "0"]})
    (['train', 'val'], ['train', 'test'])
    """
    claims = [(FLAGS[name], bits(cells) or []) for name, cells in columns.items()]
    rest = next((name for name in ("train", "test", "val") if name not in dict(claims)), "")
    rows = zip(*(claimed for _, claimed in claims), strict=True)
    claimants = [{name for (name, _), claimed in zip(claims, row, strict=True) if claimed} for row in rows]
    return [rest if not sets else TWO_SETS if len(sets) > 1 else next(iter(sets)) for sets in claimants]
