"""Running trials one after another within a budget: the share of each, and whether any trial fits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from headstart.errors import RecipeError
from headstart.images.validate import cores
from headstart.io.progress import log
from headstart.model.backbones.registry import Backbone
from headstart.model.inference.engines import choose_runtime
from headstart.model.inference.features import embed_images
from headstart.pipeline.approaches import APPROACHES
from headstart.pipeline.scan import ScannedDataset
from headstart.pipeline.trial_configs import fitted_extractor
from headstart.pipeline.trials import TrialConfig, TrialContext, TrialResult, run_trial
from headstart.training.recipe import seconds as seconds_of

START_SECONDS = 4.0
"""Time for a trial besides embedding: imports, the head, the run folder. Measured on 2 cores: 2 to 3 s."""
TIMED_IMAGES = 8
LEAST = {"epochs": 1, "budget": "1h"}
"""Overrides for a trial without time for an epoch, if the budget is not firm."""


class Budget:
    """The time to spend, starting now. Raises `RecipeError` for an invalid duration.

    A firm budget is kept: trials that do not fit are left out, and it is an error if none fits. A budget that is not
    firm sets the amount of work: once it is spent, the remaining trials still run, with the minimum of work (one
    epoch).
    """

    def __init__(self, text: str, clock: Callable[[], float] = time.monotonic, *, firm: bool = True) -> None:
        self.text, self.spend, self.firm = text, seconds_of(text), firm
        self._clock, self._began = clock, clock()

    def spent(self) -> float:
        """Return the seconds since the start."""
        return round(self._clock() - self._began, 3)

    def left(self) -> float:
        """Return the remaining seconds; negative once it is exceeded."""
        return self.spend - self.spent()

    def too_small(self, why: str, enough: float) -> RecipeError:
        """Return the error for a budget in which nothing fits; `enough` seconds are probably sufficient."""
        fits = f"{math.ceil(enough / 10) * 10}s" if enough < 100 else f"{math.ceil(enough / 60)}m"
        return RecipeError(
            f"budget {self.text!r} is too small: {why}.",
            hint=f"--budget {fits} is probably enough. Features computed so far are cached.",
        )


def run_trials(
    pending: Sequence[TrialConfig], place: TrialContext, clock: Budget, *, some: bool
) -> dict[str, TrialResult]:
    """Run trials one after another. Each gets its share of the remaining time, and is stopped at twice that.

    Until a trial has finished (`some` says whether one has), a trial may use all remaining time. If the budget is not
    firm, none is stopped or left out: one without time for an epoch gets one epoch.
    """
    outcomes: dict[str, TrialResult] = {}
    for i, candidate in enumerate(pending):
        remaining = clock.left()
        if remaining <= 0 and clock.firm:
            outcomes[candidate.name] = TrialResult(error="not started: the budget is spent", interrupted=True)
            continue
        efforts = [_effort(c) for c in pending[i:]]
        share = max(remaining, 0.0) * efforts[0] / sum(efforts)
        limit = min(max(2 * share, share + 30), remaining + 0.1 * clock.spend) if some else remaining
        log.info("%s: %d of %d, share of the budget %.0f s", candidate.name, i + 1, len(pending), share)
        outcome = run_trial(candidate, place, share=share, limit=limit if clock.firm else math.inf)
        if outcome.error.startswith("BudgetTooSmall: ") and not clock.firm:
            log.info("%s: no time for an epoch; running one anyway.", candidate.name)
            outcome = run_trial(candidate, place, share=share, limit=math.inf, overrides=LEAST)
        outcomes[candidate.name] = outcome
        if outcome.error:
            log.warning("%s: %s", candidate.name, outcome.error)
        some = some or not outcome.error
    return outcomes


def check_budget(
    candidates: Sequence[TrialConfig], scanned: ScannedDataset, clock: Budget, here: Sequence[Backbone]
) -> None:
    """Raise `RecipeError` if not even the fastest trial can fit, estimated from a few images with the backbones `here`.

    Checked only in doubtful cases: 0.05 s per image is more than most backbones take.
    """
    n = len(scanned.dataset)
    if clock.left() > START_SECONDS + 0.05 * n:
        return
    wanted = {name for c in candidates for name in c.recipe.backbone.split("+")}
    usable = [b for b in here if b.name in wanted or "auto" in wanted]
    pace = 0.0
    if usable and clock.left() > START_SECONDS:
        smallest = min(usable, key=lambda b: b.weights.stat().st_size if b.weights else 0)
        extractor, runtime = fitted_extractor(smallest, scanned.images), choose_runtime()
        rows = np.arange(n)
        embed_images(scanned.images.take(rows[:1]), [extractor], runtime, keep=False)  # the first time may compile
        started = time.monotonic()
        embed_images(scanned.images.take(rows[-TIMED_IMAGES:]), [extractor], runtime)
        pace = (time.monotonic() - started) / min(TIMED_IMAGES, n) / cores()
    needed = START_SECONDS + pace * n
    if clock.left() < START_SECONDS or clock.left() < needed / 2:
        every = needed * sum(_effort(c) for c in candidates)
        raise clock.too_small(f"even the fastest trial takes about {needed:.0f} s here", every)


def _effort(candidate: TrialConfig) -> int:
    """Return its share of the budget, relative to the others."""
    return APPROACHES[candidate.recipe.approach].cost
