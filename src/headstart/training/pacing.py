"""`Pacing`: how many steps a training takes, and the position of each in the learning-rate schedule.

    planned: 8 epochs of 100 steps   ->   after step 250 the machine slows down: 520 steps fit, not 800

The number of steps is planned from the duration of a few batches. Later, other processes start, or a laptop gets hot. So
the pace is measured during training: if the remaining steps no longer fit before the deadline, there are fewer of them,
and the rest of the schedule is run through faster, so that the learning rate still falls to its end. If the machine
recovers, steps come back, up to the planned number. All changes are recorded; with the same changes, a training is repeated
to the bit on a machine of any speed.

Costs microseconds per step. Without a deadline (a recipe that sets its epochs) nothing changes.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

WINDOW_SECONDS = 3.0
"""The pace is the mean duration of the steps of the last few seconds, without the longest, since machines have hiccups."""
WARM_UP = 3
"""The first steps of a training take longer, and are not measured."""
TOLERANCE = 0.1
"""Changes of the remaining steps by less than this fraction are ignored."""


@dataclass(frozen=True)
class Deadline:
    """When a training and all that follows it must be finished: at the time `at` of `clock`.

    `after` is the duration in seconds of what follows if a step takes `per_step` seconds; it grows in proportion if
    steps take longer. A validation takes as long as `validation_steps` steps; one follows each epoch of `per_epoch` steps, and
    `validations` more follow the last one.
    """

    at: float
    after: float = 0.0
    per_step: float = 0.0
    per_epoch: int = 1
    validation_steps: float = 0.0
    validations: int = 0
    clock: Callable[[], float] = time.monotonic

    def left(self) -> float:
        """Return the seconds that are left for training; negative if there are none."""
        return self.at - self.after - self.clock()

    def steps(self, pace: float) -> int:
        """Return how many steps of `pace` seconds still fit.

        >>> deadline = Deadline(at=100.0, after=10.0, per_step=1.0, per_epoch=10, validation_steps=2.0, clock=lambda: 0.0)
        >>> deadline.steps(pace=1.0), deadline.steps(pace=2.0)
        (73, 31)
        """
        slower = max(pace / self.per_step, 1.0)
        seconds = self.at - self.clock() - self.after * slower
        fitting = seconds / pace - (self.validations + 1) * self.validation_steps
        return max(int(fitting / (1 + self.validation_steps / self.per_epoch)), 0)


class Pacing:
    """The steps of one training: `planned` ones, unless a deadline or recorded changes say otherwise (`follow`)."""

    def __init__(self, planned: int, per_epoch: int) -> None:
        self.planned, self.per_epoch = planned, per_epoch
        self.deadline: Deadline | None = None
        self.changes: list[tuple[int, int]] = []
        """Pairs (step, total): from that step on, the training was planned to have `total` steps."""
        self._recent: deque[float] = deque()
        self._seconds, self._measured, self._compared = 0.0, 0, False

    def follow(self, deadline: Deadline | None, changes: Sequence[tuple[int, int]]) -> None:
        """Keep to a deadline, after the recorded changes of an earlier or interrupted training."""
        self.deadline, self.changes = deadline, [(int(step), int(total)) for step, total in changes]

    @property
    def clock(self) -> Callable[[], float]:
        """The clock for timing steps, in seconds."""
        return self.deadline.clock if self.deadline else time.monotonic

    def total(self, step: int) -> int:
        """Return the planned number of steps of the training, as known at a step (from 0)."""
        return next((total for at, total in reversed(self.changes) if at <= step), self.planned)

    def epochs(self, step: int) -> int:
        """Return the number of epochs, the last of which may be incomplete."""
        return math.ceil(self.total(step) / self.per_epoch)

    def position(self, step: int) -> float:
        """Return the position of a step in the schedule of the planned steps.

        >>> pacing = Pacing(100, 10)
        >>> pacing.follow(None, [(50, 75)])
        >>> [pacing.position(step) for step in (0, 50, 62, 74)]
        [0, 50.0, 74.5, 99.0]
        """
        begun, place, total = 0, 0.0, self.planned
        for at, new in (change for change in self.changes if change[0] <= step):
            place, begun, total = self._from(begun, place, total, at), at, new
        return step if begun == 0 and total == self.planned else self._from(begun, place, total, step)

    def _from(self, begun: int, place: float, total: int, step: int) -> float:
        """Return the position of `step`, from `place` at step `begun` to the end of the schedule at the last step."""
        last, end = total - 1 - begun, self.planned - 1
        return place + (end - place) * (step - begun) / last if last > 0 else float(end)

    def stepped(self, step: int, seconds: float) -> bool:
        """Record the duration of a step; `step` steps are done. Return whether the number of steps changed."""
        if self.deadline is None:
            return False
        self._measured += 1
        if self._measured <= WARM_UP:
            return False
        self._note(seconds)
        left = self.total(step) - step
        if self._seconds < WINDOW_SECONDS or left <= 0:
            return False
        if not self._compared:  # the plan was based on a few batches, often in memory; now the pace is known
            self._compared = True
            self.deadline = replace(self.deadline, per_step=max(self.deadline.per_step, self.pace))
        fitting = self.deadline.steps(self.pace)
        new = min(fitting, self.planned - step)
        if abs(new - left) <= max(TOLERANCE * left, 1):
            return False
        self.changes.append((step, step + new))
        return True

    def validated(self, seconds: float) -> None:
        """Record the duration of a validation."""
        if self.deadline is not None and self._recent:
            self.deadline = replace(self.deadline, validation_steps=seconds / self.pace)

    @property
    def pace(self) -> float:
        """Seconds per step in the last few seconds."""
        if len(self._recent) == 1:
            return self._recent[0]
        return (self._seconds - max(self._recent)) / (len(self._recent) - 1)

    def _note(self, seconds: float) -> None:
        self._recent.append(seconds)
        self._seconds += seconds
        while self._seconds - self._recent[0] >= WINDOW_SECONDS:
            self._seconds -= self._recent.popleft()
