"""Groups of images that are not independent: one patient, one camera, copies of one picture; and what that means for figures.

Fifteen images of one patient are right or wrong together, so 300 images of 20 patients say little more than 20 images
would. What is resampled, left out or flipped in sign must then be a whole group. Costs one pass over the images. Not
for images that are each on their own: `groups_of` returns None for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart.errors import DataError


@dataclass(frozen=True, eq=False)
class ImageGroups:
    """The group of each image: `number_N` int64 (N,), from 0 to `count` - 1, each of them used."""

    number_N: np.ndarray
    count: int

    def sums(self, values_N: np.ndarray) -> np.ndarray:
        """Return the sum of each group, float64 (G,) or (G, P), of values (N,) or (N, P)."""
        if values_N.ndim == 1:
            return np.bincount(self.number_N, weights=values_N, minlength=self.count)
        order = np.argsort(self.number_N, kind="stable")
        starts = np.searchsorted(self.number_N[order], np.arange(self.count))
        sums_G: np.ndarray = np.add.reduceat(values_N[order], starts, axis=0, dtype=np.float64)
        return sums_G

    def take(self, rows: np.ndarray) -> ImageGroups | None:
        """Return the groups among some images (a bool mask or indices); None if each of these is on its own."""
        return groups_of(self.number_N[rows])


def groups_of(groups_N: np.ndarray | None, images: int | None = None) -> ImageGroups | None:
    """Return the groups, images with equal numbers being one; None if each image is on its own.

    Raises `DataError` unless there are as many as `images`.
    """
    if groups_N is None:
        return None
    groups_N = np.asarray(groups_N)
    if images is not None and groups_N.shape != (images,):
        raise DataError(f"groups: shape {groups_N.shape}, expected one number for each of {images:,} images.")
    names, number_N = np.unique(groups_N, return_inverse=True)
    return None if len(names) == len(groups_N) else ImageGroups(number_N.astype(np.int64), len(names))


def standard_error(values_N: np.ndarray, grouped: ImageGroups | None = None) -> float:
    """Return the standard error of the mean of `values_N`: over images, or with groups, over the sums of whole groups.

    >>> values = np.array([1.0, -1.0, 1.0, -1.0])
    >>> standard_error(values), round(standard_error(values, groups_of(np.array([0, 1, 0, 1]))), 3)
    (0.5, 0.707)
    """
    off_N = values_N - values_N.mean()
    sums_G = off_N if grouped is None else grouped.sums(off_N)
    return float(np.sqrt((sums_G**2).sum()) / len(values_N))


def about_groups(groups: int) -> str:
    """Return the sentence that goes with figures over so many groups; '' for none.

    >>> about_groups(20)
    'Images of one group are not independent, so intervals and tests are over whole groups: 20 groups.'
    """
    if not groups:
        return ""
    return (
        "Images of one group are not independent, so intervals and tests are over whole groups: "
        f"{counted_groups(groups)}."
    )


def counted_groups(groups: int) -> str:
    """Return the number of groups as a text, such as '1 group'."""
    return f"{groups:,} group{'s' * (groups != 1)}"
