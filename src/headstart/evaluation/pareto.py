"""The Pareto front of several choices: those that no other one matches in everything and beats in something.

Costs T^2 comparisons for T choices. It ignores intervals: a choice can be on the front by luck, so read it together
with the paired tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def on_front(values_TC: np.ndarray, larger_is_better: Sequence[bool]) -> np.ndarray:
    """Return the choices that no other dominates, bool (T,), by C criteria in the columns of float (T, C).

    Equal choices are on the front together. A choice with a NaN is not on it, and dominates no other.

    >>> on_front(np.array([[0.97, 9.0], [0.95, 3.0], [0.95, 4.0]]), [True, False]).tolist()
    [True, True, False]
    """
    values_TC = np.asarray(values_TC, np.float64)
    complete_T = ~np.isnan(values_TC).any(axis=1)
    gains_TC = np.where(np.asarray(larger_is_better, bool), values_TC, -values_TC)
    front_T = complete_T.copy()
    for t in np.flatnonzero(complete_T):
        others_TC = gains_TC[complete_T]
        front_T[t] = not ((others_TC >= gains_TC[t]).all(axis=1) & (others_TC > gains_TC[t]).any(axis=1)).any()
    return front_T
