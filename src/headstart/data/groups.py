"""Named groups: images of one patient, camera or burst, which must stay in one set of a split.

    --group-column patient_id        equal values in a column of the table (or of the shards) are one group
    --group-from 'person(\\d+)'       equal matches in the paths of the images are one group

A group is identified by its text alone: `person12` is one group, whatever class folders its images are in, and in either
Unicode form. An image without a group is a group of its own. Costs about 1 s per million images, more for a slow regular
expression. Not for copies of one image, which are found automatically (`data.duplicates`), and not for an existing split:
pass that instead.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from headstart.data.dataset import Dataset, group_numbers
from headstart.data.match_files import compiled, text_in
from headstart.data.proposals import likely_pattern
from headstart.errors import BadLabels, BadSplit
from headstart.io.progress import log
from headstart.io.text_table import few


def with_groups(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The dataset with groups by N names, '' for a group of its own; its previous groups are discarded."""
    return replace(dataset, groups=group_numbers(names), proposal="")


def groups_from_paths(where: Path, paths: Sequence[str], pattern: str) -> list[str]:
    """The group of each image: the match of `pattern` in its path (N, with ``/``), '' without a match.

    Logs how many have none. Raises `BadLabels` for an invalid regular expression, or if no image has a group.
    """
    expression = compiled(pattern, what="group")
    groups = [text_in(path, expression, what="group") for path in paths]
    without = [path for path, group in zip(paths, groups, strict=True) if not group]
    if len(without) == len(paths):
        raise BadLabels(
            f"{where}: group_from {pattern!r} matches none of {len(paths):,} paths, such as "
            f"{few([repr(path) for path in without], 3)}.",
            hint=_pattern_hint(paths, pattern),
        )
    if without:
        log.info(
            "%s: %s of %s images have no group by %r, such as %r; each of them is a group of its own.",
            *(where, f"{len(without):,}", f"{len(paths):,}", pattern, without[0]),
        )
    return groups


def check_group_column(where: Path, column: str, groups: Sequence[str], *, what: str = "rows") -> None:
    """Log how many of N groups are empty. Raises `BadLabels` if all of them are."""
    empty = sum(not group for group in groups)
    if empty == len(groups):
        raise BadLabels(
            f"{where}: the column {column!r} (group_column) is empty for all {len(groups):,} {what}.",
            hint="Name a column that says which images belong together, or leave the option out.",
        )
    if empty:
        log.info(
            "%s: the column %r is empty for %s of %s %s; each of them is a group of its own.",
            *(where, column, f"{empty:,}", f"{len(groups):,}", what),
        )


def require_splittable(dataset: Dataset, named_by: str) -> None:
    """Raise `BadSplit` if a split is needed but the groups keep a class out of the training set or the test set.

    `named_by` is the source of the groups, for the message, such as '--group-column patient_id'.
    """
    problems = unsplittable(dataset, named_by)
    if problems:
        raise BadSplit(
            problems[0],
            hint="Add images of other groups, leave the class out, or name smaller groups. A split of your own is used "
            "as it is.",
        )


def unsplittable(dataset: Dataset, named_by: str) -> list[str]:
    """Sentences about groups that prevent a split: all images, or all images of a class, in a single group.

    Empty for data that brings its own training set and test set.
    """
    labelled = dataset.labels >= 0
    if {"train", "test"} <= set(dataset.split[labelled].tolist()):
        return []
    labels, groups = dataset.labels[labelled], dataset.groups[labelled]
    if len(groups) > 1 and len(set(groups.tolist())) == 1:
        return [f"{dataset.root}: all {len(groups):,} images are one group by {named_by}, so no split can be made."]
    lone = [k for k in range(len(dataset.classes)) if _is_one_group(groups[labels == k])]
    return [_lone_class(dataset, lone, named_by)] if lone else []


def _is_one_group(groups: np.ndarray) -> bool:
    return len(groups) > 1 and bool((groups == groups[0]).all())


def _lone_class(dataset: Dataset, lone: Sequence[int], named_by: str) -> str:
    listed, one = few([repr(dataset.classes[k]) for k in lone], 3), len(lone) == 1
    what = f"class {listed} is" if one else f"each of the {len(lone):,} classes {listed} is"
    return (
        f"{dataset.root}: {what} a single group by {named_by}, so {'it' if one else 'they'} cannot be both trained on "
        "and tested."
    )


def _pattern_hint(paths: Sequence[str], pattern: str) -> str:
    """A pattern that would match: the same without regard to case, or one that the paths suggest; else an example."""
    if any(text_in(path, re.compile(pattern, re.IGNORECASE), what="group") for path in paths):
        return f"It would match without regard to case: --group-from {shlex.quote(f'(?i){pattern}')}."
    likely = likely_pattern(paths)
    if likely:
        return f"--group-from {shlex.quote(likely)} would match."
    return "It is matched against the path relative to the data, folders included. For example: 'person(\\d+)'."
