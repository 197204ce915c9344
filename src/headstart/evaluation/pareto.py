"""Which of several choices are on the Pareto front: nothing else is at least as good in everything and better in something.

Costs T^2 comparisons for T choices. It knows no intervals: a choice can be on the front by luck, so read it together
with the paired tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def on_front(values_TC: np.ndarray, larger_is_better: Sequence[bool]) -> np.ndarray:
    """bool (T,): the choices that no other dominates, by C criteria in the columns of float (T, C).

    Choices that are equal in everything are on the front together. One with a NaN anywhere is not on it, and keeps no
    other off.

    >>> on_front(np.array([[0.97, 9.0], [0.95, 3.0], [0.95, 4.0]]), [True, False]).tolist()
    [True, True, False]
    """
    values_TC = np.asarray(values_TC, np.float64)
    known_T = ~np.isnan(values_TC).any(axis=1)
    gains_TC = np.where(np.asarray(larger_is_better, bool), values_TC, -values_TC)
    front_T = known_T.copy()
    for t in np.flatnonzero(known_T):
        others_TC = gains_TC[known_T]
        front_T[t] = not ((others_TC >= gains_TC[t]).all(axis=1) & (others_TC > gains_TC[t]).any(axis=1)).any()
    return front_T
