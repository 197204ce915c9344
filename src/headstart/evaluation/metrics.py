"""All metrics of a classifier on labelled images, each with an interval: `compute_metrics` returns `Metrics`.

Names and meanings are scikit-learn's. One pass computes them all: 1,078 images and 6 classes take about 0.05 s with
1,000 resamples, 50,000 images and 100 classes about 10 s, in a few times the memory of the scores. Do not use the
intervals to compare two models on the same images (they are too wide for that, because both models find the same images
hard): use `compare`'s paired test.

Undefined figures, and definitions that vary between sources:

- A class that is never predicted has no precision of its own (``undefined``); in averages it counts as 0, which is
  scikit-learn's ``zero_division=0``. Averages are over the classes among labels or predictions; `balanced_accuracy`
  and the areas under ROC curves are over those among the labels.
- `roc_auc` is the usual one for two classes (the second is the positive one) and the mean of one-vs-rest areas for
  more; `roc_auc_weighted` weighs these by the classes' frequencies. A class that no image has, or that every image has,
  is left out of both.
- `log_loss` counts probabilities below 2.2e-16 as 2.2e-16. `brier_score` is the squared distance to the one-hot label,
  halved for two classes (so 0 to 1 there, 0 to 2 otherwise).
- `ece` is the expected calibration error of the top class in 15 equal-width bins (Guo et al. 2017, equation 3). Noise
  raises it, so its value is often near the upper end of its interval (see `headstart.evaluation.calibration`).

Intervals: Wilson's for plain proportions; the BCa bootstrap over images for the rest; where all resamples are alike
(everything right, say), the bound is the figure with z^2 = 3.84 more bad images, placed where they hurt most: the rule
that gives Wilson's bound for a proportion of 1. The upper bounds of log-loss and Brier score allow for at least as many
errors as the accuracy's interval does, which resampling a set with few errors would not. Images of one group (a patient,
copies of one image) are not independent: given `groups`, all intervals are over whole groups, and Student's t takes the
place of BCa (`evaluation.intervals`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headstart.errors import BadLabels, DataError
from headstart.evaluation.calibration import calibration_error, check_scores, group_noise, reliability
from headstart.evaluation.confusion import confusion_of, count_figures
from headstart.evaluation.image_groups import about_groups, groups_of
from headstart.evaluation.intervals import Estimate, Resampling, shrunk, undefined
from headstart.evaluation.probabilities import LEAST, log_losses, softmax
from headstart.evaluation.roc_auc import Ranking, rankings
from headstart.io.result_repr import OneLineRepr
from headstart.io.text_table import columns, plain

MOST_SHOWN = 20  # classes in a table; JSON has all of them


@dataclass(frozen=True, eq=False, repr=False)
class Metrics(OneLineRepr):
    """Result of `compute_metrics`. `metrics["accuracy"]` is `metrics.overall["accuracy"]`.

    `overall` holds estimates by name; `per_class` the same for each class (precision, recall, specificity, f1,
    roc_auc); `confusion` is int64 (K, K), rows the true class and columns the predicted one; `n` labelled images were
    evaluated and `unlabelled` ones left out. `groups` is the number of groups that intervals are over, 0 if each image
    is on its own.
    """

    classes: tuple[str, ...]
    n: int
    unlabelled: int
    overall: Mapping[str, Estimate]
    per_class: Mapping[str, Mapping[str, Estimate]]
    confusion: np.ndarray
    level: float
    resamples: int
    seed: int
    groups: int = 0

    def __getitem__(self, name: str) -> Estimate:
        return self.overall[name]

    @property
    def support(self) -> np.ndarray:
        """Number of images per class, int64 (K,)."""
        return self.confusion.sum(axis=1)

    @property
    def weakest(self) -> str:
        """The class with the lowest recall, of those that images have."""
        recalls = {name: row["recall"] for name, row in self.per_class.items() if not row["recall"].undefined}
        return min(recalls, key=lambda name: recalls[name].value)

    @property
    def about_groups(self) -> str:
        """A sentence about the groups, '' if there are none."""
        return about_groups(self.groups)

    def summary(self) -> str:
        """The accuracy, the log-loss, and the number of images."""
        figures = [
            f"{name.replace('_', '-')} {self[name]}" for name in ("accuracy", "log_loss") if name in self.overall
        ]
        return f"{', '.join(figures)}, {self.n:,} images, {len(self.classes)} classes"

    def facts(self) -> list[tuple[str, str]]:
        """Every overall metric with its interval."""
        return [("images", f"{self.n:,}"), *((name, str(estimate)) for name, estimate in self.overall.items())]

    def to_json(self) -> dict[str, Any]:
        """Return a dict for `json.dump(..., allow_nan=False)`; undefined figures are null."""
        return {
            "classes": list(self.classes),
            "n": self.n,
            "unlabelled": self.unlabelled,
            "level": self.level,
            "resamples": self.resamples,
            "seed": self.seed,
            **({"groups": self.groups} if self.groups else {}),
            "overall": {name: estimate.to_json() for name, estimate in self.overall.items()},
            "per_class": {c: {name: e.to_json() for name, e in row.items()} for c, row in self.per_class.items()},
            "confusion": self.confusion.tolist(),
        }

    @classmethod
    def from_json(cls, read: dict[str, Any]) -> Metrics:
        """Invert `to_json`."""
        return cls(
            classes=tuple(read["classes"]),
            **{name: read[name] for name in ("n", "unlabelled", "level", "resamples", "seed")},
            groups=int(read.get("groups", 0)),
            overall={name: Estimate.from_json(e) for name, e in read["overall"].items()},
            per_class={c: {m: Estimate.from_json(e) for m, e in row.items()} for c, row in read["per_class"].items()},
            confusion=np.array(read["confusion"], dtype=np.int64),
        )

    def table(self) -> str:
        """Return aligned plain text for a terminal: overall figures, then a line per class (of many, the lowest f1)."""
        head = f"{self.n:,} image{'s' * (self.n != 1)}, {len(self.classes)} classes, {self.level:.0%} intervals"
        rows = [[name, str(estimate)] for name, estimate in self.overall.items()]
        selected, support = list(range(len(self.classes))), self.support
        if len(self.classes) > MOST_SHOWN:
            selected = sorted(selected, key=lambda k: self._rank(self.classes[k]))[:MOST_SHOWN]
        names = ("precision", "recall", "f1", "roc_auc")
        lines = [["class", "images", *names]]
        for k in selected:
            row = self.per_class[self.classes[k]]
            lines.append([plain(self.classes[k]), f"{support[k]:,}", *(str(row[name]) for name in names)])
        left_out = len(self.classes) - len(selected)
        end = [f"and {left_out:,} more, none with a lower f1 (--json has them all)"] if left_out else []
        about = [self.about_groups] if self.groups else []
        return "\n".join([head, *about, "", *columns(rows), "", *columns(lines), *end])

    def _rank(self, name: str) -> float:
        f1 = self.per_class[name]["f1"]
        return math.inf if f1.undefined else f1.value


def compute_metrics(
    scores_NK: np.ndarray,
    labels_N: np.ndarray,
    classes: Sequence[str],
    *,
    groups: np.ndarray | None = None,
    probabilities: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Metrics:
    """Evaluate logits (N, K), or probabilities (N, K) if so flagged, against labels (N,), where -1 means unknown.

    `groups` int64 (N,) are equal for images that are not independent (one patient, copies), None if all are. The
    predicted class has the highest score, the first one in a tie. Equal arguments give equal numbers. Raises
    `DataError` for scores that are not finite or do not fit the labels and classes, or groups that do not, `BadLabels`
    if no image has a label.
    """
    scores_NK, labels_N = np.asarray(scores_NK, dtype=np.float64), np.asarray(labels_N)
    check_scores(scores_NK, labels_N, len(classes))
    labelled_N = labels_N >= 0
    if not labelled_N.any():
        raise BadLabels(f"labels: none of {len(labels_N):,} images has one, so nothing can be evaluated.")
    grouped = groups_of(np.arange(len(labels_N)) if groups is None else groups, len(labels_N))
    grouped = None if grouped is None else grouped.take(labelled_N)
    scores_NK, labels_N = scores_NK[labelled_N], labels_N[labelled_N].astype(np.int64)
    if probabilities and (scores_NK.min() < 0 or np.abs(scores_NK.sum(axis=1) - 1).max() > 1e-3):
        raise DataError("probabilities: expected rows of numbers from 0 to 1 that sum to 1.", hint="Are these logits?")
    chances_NK = scores_NK if probabilities else softmax(scores_NK)
    n, k = scores_NK.shape
    guesses_N = scores_NK.argmax(axis=1)
    draw = Resampling(level, resamples, np.random.default_rng(seed), grouped)

    counts, f1 = count_figures(labels_N * k + guesses_N, k, draw)
    areas, cases = _resampled_figures(chances_NK, labels_N, draw)
    accuracy = draw.proportion(guesses_N == labels_N)
    noise_BM = None if grouped is None else group_noise(chances_NK, labels_N, draw)
    ece = calibration_error(reliability(chances_NK, labels_N), draw, accuracy, noise_BM)
    overall = {
        "accuracy": accuracy,
        **_top_k(scores_NK, labels_N, draw),
        **_with_weighted_recall(counts, accuracy),
        **cases,
        "ece": ece,
    }
    per_class = {
        name: {**_proportions(labels_N == c, guesses_N == c, draw), "f1": f1[c], "roc_auc": areas[c]}
        for c, name in enumerate(classes)
    }
    unlabelled = int(np.count_nonzero(~labelled_N))
    return Metrics(
        classes=tuple(classes),
        n=n,
        unlabelled=unlabelled,
        overall=overall,
        per_class=per_class,
        confusion=confusion_of(labels_N * k + guesses_N, k),
        level=level,
        resamples=resamples,
        seed=seed,
        groups=grouped.count if grouped else 0,
    )


def _with_weighted_recall(counts: Mapping[str, Estimate], accuracy: Estimate) -> dict[str, Estimate]:
    """Add weighted recall, which equals the accuracy, next to macro recall."""
    found: dict[str, Estimate] = {}
    for name, estimate in counts.items():
        found[name] = estimate
        if name == "recall_macro":
            found["recall_weighted"] = accuracy
    return found


def _proportions(own_N: np.ndarray, guessed_N: np.ndarray, draw: Resampling) -> dict[str, Estimate]:
    """Compute precision, recall and specificity of one class, from which images have it, and are said to."""
    never, none, all_ = "the class is never predicted", "no image has the class", "no other class"
    return {
        "precision": draw.proportion(own_N, guessed_N) if guessed_N.any() else undefined(never),
        "recall": draw.proportion(guessed_N, own_N) if own_N.any() else undefined(none),
        "specificity": draw.proportion(~guessed_N, ~own_N) if not own_N.all() else undefined(all_),
    }


def _top_k(scores_NK: np.ndarray, labels_N: np.ndarray, draw: Resampling) -> dict[str, Estimate]:
    """Compute the fraction of images whose class is among the k highest scores; in a tie, the first class wins."""
    own_N1 = scores_NK[np.arange(len(labels_N)), labels_N][:, None]
    earlier_NK = np.arange(scores_NK.shape[1]) < labels_N[:, None]
    rank_N = ((scores_NK > own_N1) | ((scores_NK == own_N1) & earlier_NK)).sum(axis=1)
    ks = [k for k in (2, 3, 5) if k < scores_NK.shape[1]]
    return {f"top_{k}_accuracy": draw.proportion(rank_N < k) for k in ks}


def _resampled_figures(
    chances_NK: np.ndarray, labels_N: np.ndarray, draw: Resampling
) -> tuple[list[Estimate], dict[str, Estimate]]:
    """Compute the figures that need images resampled: AUC of each class; AUC averages and losses."""
    n, k = chances_NK.shape
    # With two classes both areas are the same; 1 - p would tie where p does not.
    curves = rankings(chances_NK if k > 2 else chances_NK[:, 1:] * [[-1.0, 1.0]], labels_N)
    case_NC = _case_values(chances_NK, labels_N)
    means_bC, areas_Kb, supports_Kb = [], [], []
    for weights_Nb in draw.weights(n):
        none = np.full(weights_Nb.shape[1], math.nan)
        drawn_b = np.full(len(none), n) if draw.groups is None else weights_Nb.sum(axis=0, dtype=np.int64)
        sums_bC = (weights_Nb.T.astype(np.float32) @ case_NC.astype(np.float32)).astype(np.float64)
        means_bC.append(sums_bC / drawn_b[:, None])
        areas_Kb.append([c.areas(weights_Nb, int(drawn_b.max())) if c else none for c in curves])
        supports_Kb.append([c.supports(weights_Nb) if c else none for c in curves])
    areas, means = _area_figures(curves, np.hstack(areas_Kb), np.hstack(supports_Kb), draw)
    return areas, means | _case_figures(chances_NK, labels_N, np.concatenate(means_bC), draw)


def _area_figures(
    curves: list[Ranking | None], areas_KB: np.ndarray, supports_KB: np.ndarray, draw: Resampling
) -> tuple[list[Estimate], dict[str, Estimate]]:
    """Compute each class's AUC, and the averages: `roc_auc`, and for more than two classes `roc_auc_weighted`."""
    found = [(k, curve) for k, curve in enumerate(curves) if curve is not None]
    names = ["roc_auc"] if len(curves) == 2 else ["roc_auc", "roc_auc_weighted"]
    each = [undefined("no image has the class, or all have it")] * len(curves)
    if not found:
        return each, dict.fromkeys(names, undefined("the images are all of one class"))
    n = found[0][1].n
    weights = np.array([[1.0, len(curve.positives)] for _, curve in found])
    weights /= weights.sum(axis=0)
    ends_K2, macro_N, weighted_N = [], np.zeros(n), np.zeros(n)
    for (k, curve), (even, share) in zip(found, weights, strict=True):
        area, influence_N = curve.area(), curve.influence()
        # Limited by the smaller side in the pairs (Obuchowski and Lieber 2002).
        smaller = min(draw.independent(curve.positives), draw.independent(curve.negatives))
        ends_K2.append(shrunk(area, smaller, draw.level, 0.0, 1.0))
        each[k] = draw.estimate(area, areas_KB[k], draw.skewness(influence_N), n, ends_K2[-1], groups=smaller)
        macro_N += even * influence_N
        weighted_N += share * influence_N
        weighted_N[curve.positives] += area  # the frequencies move as well
    values = weights.T @ [curve.area() for _, curve in found]
    classes = [k for k, _ in found]
    resampled = [
        _mean_without_gaps(areas_KB[classes], w) for w in (np.ones_like(supports_KB[classes]), supports_KB[classes])
    ]
    means = [
        draw.estimate(float(v), r, draw.skewness(i), n, tuple(w @ ends_K2))
        for v, r, i, w in zip(values, resampled, (macro_N, weighted_N), weights.T, strict=True)
    ]
    return each, dict(zip(names, means, strict=False))


def _mean_without_gaps(values_KB: np.ndarray, weights_KB: np.ndarray) -> np.ndarray:
    """Return the weighted mean over the classes in each resample, (B,); NaN if it has none."""
    weights_KB = np.where(np.isnan(values_KB), 0.0, weights_KB)
    total_B = weights_KB.sum(axis=0)
    sums_B = (np.nan_to_num(values_KB) * weights_KB).sum(axis=0)
    return np.divide(sums_B, total_B, out=np.full(len(total_B), math.nan), where=total_B > 0)


def _case_values(chances_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return each image's log-loss and Brier score, (N, 2)."""
    n, k = chances_NK.shape
    each = np.arange(n)
    case_NC = np.zeros((n, 2))
    own_N = chances_NK[each, labels_N]
    case_NC[:, 0] = log_losses(chances_NK, labels_N)
    case_NC[:, 1] = np.maximum((chances_NK**2).sum(axis=1) - 2 * own_N + 1, 0.0)
    if k == 2:
        case_NC[:, 1] /= 2
    return case_NC


def _case_figures(
    chances_NK: np.ndarray, labels_N: np.ndarray, means_BC: np.ndarray, draw: Resampling
) -> dict[str, Estimate]:
    """Compute log-loss and Brier score from `_case_values` and their means in each resample.

    No resampling of a set with few or no errors can show what errors cost. So the upper bounds allow for as many errors
    as the accuracy's interval does, at the mean cost of the observed errors and of those that the model expects (each
    correct image turns out to be the runner-up class, with its probability).
    """
    n, k = chances_NK.shape
    case_NC = _case_values(chances_NK, labels_N)
    right_N = chances_NK.argmax(axis=1) == labels_N
    others_NK = chances_NK[right_N].copy()
    others_NK[np.arange(len(others_NK)), labels_N[right_N]] = -1.0
    expected_R = others_NK.max(axis=1)
    errors = n - len(others_NK) + expected_R.sum()
    costs_RC = _case_values(chances_NK[right_N], others_NK.argmax(axis=1))
    accuracy = draw.proportion(right_N)
    more_errors = accuracy.value - accuracy.low
    independent = draw.independent(np.arange(n))
    found = {}
    for c, (name, worst) in enumerate({"log_loss": -math.log(LEAST), "brier_score": 1.0 if k == 2 else 2.0}.items()):
        value = float(case_NC[:, c].mean())
        ends = shrunk(value, independent, draw.level, worst, 0.0)
        span = (0.0, math.inf if name == "log_loss" else worst)
        estimate = draw.estimate(value, means_BC[:, c], draw.skewness(case_NC[:, c]), n, ends, span=span)
        if right_N.any() and errors > 0:
            cost = (case_NC[~right_N, c].sum() + expected_R @ costs_RC[:, c]) / errors - case_NC[right_N, c].mean()
            estimate = replace(estimate, high=max(estimate.high, value + more_errors * float(cost)))
        found[name] = estimate
    return found
