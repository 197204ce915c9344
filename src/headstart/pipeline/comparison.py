"""Results of `compare`: rows, pairs, and the resulting advice. No trial is run here, and no run folder is read.

Pairs come from the predictions of all runs, matched by path.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import MissingExtra, TrainingError
from headstart.evaluation.image_groups import about_groups, groups_of
from headstart.evaluation.intervals import Estimate
from headstart.evaluation.metrics import Metrics
from headstart.evaluation.paired_tests import Difference, differences
from headstart.evaluation.probabilities import log_losses
from headstart.io.result_repr import Result
from headstart.io.text_table import columns, few, plain
from headstart.model.inference.predictions import Predictions

if TYPE_CHECKING:
    import pandas

FIGURES = (
    *("accuracy", "balanced_accuracy", "precision_weighted", "recall_weighted", "f1_weighted"),
    *("cohen_kappa", "matthews_corrcoef", "roc_auc", "log_loss", "ece"),
)
"""The eight metrics of the published comparison (precision, recall and F1 weighted by frequency), log-loss and ECE."""
MEASURES = ("train_seconds", "peak_memory_mb", "parameters", "file_bytes", "latency_ms")
ROW_COLUMNS = (
    *("name", "recipe", "backbones"),
    *(f"{name}{end}" for name in FIGURES for end in ("", "_low", "_high")),
    *(*MEASURES, "pareto_optimal", "error"),
)
PAIR_COLUMNS = ("a", "b", "metric", "images", "difference", "low", "high", "p_value", "p_holm", "verdict")
MOST_SHOWN = 15
AS_QUICK = 1.25
"""Latencies that differ by a smaller factor are not a reason to prefer one: on a busy machine they vary this much."""


@dataclass(frozen=True, eq=False)
class ComparisonRow:
    """One trial: its test metrics and costs, or the `error` that ended it. NaN and 0 if not measured."""

    name: str
    recipe: str
    backbones: str
    metrics: Metrics | None
    train_seconds: float
    peak_memory_mb: float
    parameters: int
    file_bytes: int
    latency_ms: float
    pareto_optimal: bool
    error: str

    def figure(self, name: str) -> Estimate | None:
        """Return one of the metrics, if there is a run."""
        return None if self.metrics is None else self.metrics[name]

    def values(self) -> dict[str, Any]:
        """Return a row of comparison.csv; None for missing values."""
        figures: dict[str, Any] = {}
        for name in FIGURES:
            known = self.figure(name)
            read = {} if known is None else known.to_json()
            figures |= {name: read.get("value"), f"{name}_low": read.get("low"), f"{name}_high": read.get("high")}
        measures = {name: _known(getattr(self, name)) for name in MEASURES}
        head = {"name": self.name, "recipe": self.recipe, "backbones": self.backbones}
        return {**head, **figures, **measures, "pareto_optimal": self.pareto_optimal, "error": self.error}


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result):
    """Result of `compare`: one row per trial, best accuracy first, failed ones last; all pairs; and the advice.

    `taken` names the recommended trial ('' if none finished), `advice` gives the reason in a sentence. `notes` says
    which images were left out of a pair, and whether there are groups of images.
    """

    out: str
    rows: list[ComparisonRow]
    pairs: list[Difference]
    taken: str
    advice: str
    notes: list[str]
    images: int
    split_hash: str
    seconds: float

    def check(self) -> None:
        """Raise `TrainingError` if no trial finished."""
        if not self.taken:
            raise TrainingError(self.advice)

    def summary(self) -> str:
        """Return the recommended trial and the reason."""
        return self.advice

    def facts(self) -> list[tuple[str, str]]:
        """Return the test accuracy of each trial, or why there is none."""
        return [(row.name, row.error or f"accuracy {row.figure('accuracy')}") for row in self.rows]

    def to_json(self) -> dict[str, Any]:
        """Return the document of `compare --json`."""
        return {
            "out": self.out,
            "taken": self.taken,
            "advice": self.advice,
            "rows": [row.values() for row in self.rows],
            "pairs": [_pair_values(pair) for pair in self.pairs],
            "notes": self.notes,
            "images": self.images,
            "split_hash": self.split_hash,
            "seconds": self.seconds,
        }

    def row_cells(self) -> list[list[Any]]:
        """Return the rows of comparison.csv, in the order of `ROW_COLUMNS`; empty cells for missing values."""
        return [["" if row.values()[c] is None else row.values()[c] for c in ROW_COLUMNS] for row in self.rows]

    def pair_cells(self) -> list[list[Any]]:
        """Return the rows of pairs.csv, in the order of `PAIR_COLUMNS`."""
        return [["" if cell is None else cell for cell in _pair_values(pair).values()] for pair in self.pairs]

    def table(self) -> str:
        """Format as plain text for a terminal: the trials (* on the Pareto front), the pairs that are not ties, the
        advice."""
        header = [
            "",
            "accuracy",
            "f1",
            "roc_auc",
            "log_loss",
            "ece",
            "train s",
            "peak MB",
            "weights MB",
            "ms per image",
        ]
        good = [row for row in self.rows if row.metrics is not None]
        failed = [f"not finished: {plain(row.name)}: {plain(row.error)}"[:200] for row in self.rows if row.error]
        decided = [pair for pair in self.pairs if pair.winner]
        shown = [_sentence(pair) for pair in decided][:MOST_SHOWN]
        ties = [f"{len(self.pairs) - len(decided)} of {len(self.pairs)} paired tests: a tie."] if self.pairs else []
        lines = [
            f"{self.images:,} test images, 95 % intervals; * no other trial is at least as good in accuracy, "
            "size and time, and better in one of them",
            *columns([header, *map(_cells, good[:MOST_SHOWN])]),
            *([f"and {len(good) - MOST_SHOWN:,} more"] if len(good) > MOST_SHOWN else []),
            *failed[:MOST_SHOWN],
            "",
            *shown,
            *ties,
            *map(plain, self.notes[:5]),
            f"Written to {self.out}",
            self.advice,
        ]
        return "\n".join(lines)

    def frame(self) -> pandas.DataFrame:
        """Return the rows as a pandas DataFrame, indexed by name. Raises `MissingExtra` if pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise MissingExtra(
                "pandas is not installed, but is needed for a DataFrame.", hint="pip install pandas"
            ) from error
        return pandas.DataFrame([row.values() for row in self.rows]).set_index("name")


def _cells(row: ComparisonRow) -> list[str]:
    figures = [str(row.figure(name)) for name in ("accuracy", "f1_weighted", "roc_auc", "log_loss", "ece")]
    costs = [_number(row.train_seconds, ".1f"), _number(row.peak_memory_mb, ",.0f"), f"{row.file_bytes / 1e6:,.1f}"]
    return [("* " if row.pareto_optimal else "  ") + plain(row.name), *figures, *costs, _number(row.latency_ms, ".1f")]


def _number(value: float, spec: str) -> str:
    return "-" if math.isnan(value) else format(value, spec)


def _known(value: float) -> float | None:
    return None if value == 0 or math.isnan(value) else value


def _sentence(pair: Difference) -> str:
    loser = pair.b if pair.winner == pair.a else pair.a
    numbers = f"{pair.value:+.4f} [{pair.low:+.4f}, {pair.high:+.4f}], corrected p = {pair.p_holm:.2g}"
    return f"{plain(pair.winner)} beats {plain(loser)} in {pair.metric}: {numbers}"


def _pair_values(pair: Difference) -> dict[str, Any]:
    numbers = [None if math.isnan(x) else x for x in (pair.value, pair.low, pair.high)]
    cells = (pair.a, pair.b, pair.metric, pair.n, *numbers, pair.p, pair.p_holm, pair.verdict)
    return dict(zip(PAIR_COLUMNS, cells, strict=True))


def paired(
    predicted: Mapping[str, Predictions], seed: int, groups: Mapping[str, int] | None = None
) -> tuple[list[Difference], list[str]]:
    """Compare every pair on the labelled images that both predicted, matched by path; add a note for runs that lack
    some. `groups` has the group of each path, if images are not independent; a note says so then."""
    known = {name: _by_path(p) for name, p in predicted.items()}
    paths = sorted(set().union(*known.values()))
    right_NT, loss_NT = np.zeros((len(paths), len(known)), bool), np.full((len(paths), len(known)), math.nan)
    notes = []
    for t, (name, own) in enumerate(known.items()):
        lacking = [path for path in paths if path not in own]
        if lacking:
            notes.append(f"{name} has no prediction of {few(lacking, 3)}: left out of its pairs.")
        for n, path in enumerate(paths):
            if path in own:
                right_NT[n, t], loss_NT[n, t] = own[path]
    groups_N = np.array([(groups or {}).get(path, -1 - n) for n, path in enumerate(paths)], np.int64)
    grouped = groups_of(groups_N)
    notes = [about_groups(grouped.count), *notes] if grouped else notes
    return differences(list(known), right_NT, loss_NT, groups=groups_N, seed=seed), notes


def _by_path(p: Predictions) -> dict[str, tuple[bool, float]]:
    """Return {path: (right, log-loss in nats)} of the labelled images."""
    labels_N = np.full(len(p), -1) if p.labels is None else p.labels
    known = np.flatnonzero(labels_N >= 0)
    loss_M = log_losses(p.probabilities[known], labels_N[known])
    right_M = p.predicted[known] == labels_N[known]
    return {p.paths[i]: (bool(r), float(x)) for i, r, x in zip(known, right_M, loss_M, strict=True)}


def advice(rows: Sequence[ComparisonRow], pairs: Sequence[Difference]) -> tuple[str, str]:
    """Return the recommended trial ('' for none) and the reason in one sentence.

    Of the trials within one standard error of the most accurate that no trial beats in accuracy, nor any of them in
    log-loss: the fastest; among those of about the same speed (`AS_QUICK`), the one with the lowest log-loss. Speed does
    not count if that of one of them is not known.

    This is the one-standard-error rule (Breiman et al. 1984, section 3.4.3), applied to the paired difference: with few
    test images nearly all trials tie, and a tie alone does not justify giving up ten points.
    """
    good = [row for row in rows if row.metrics is not None]
    if not good:
        trials = f"None of {len(rows)} trials finished" if len(rows) > 1 else "The trial did not finish"
        return "", f"{trials}: see the error{'s' if len(rows) > 1 else ''}."
    best = good[0]
    if len(good) == 1:
        return best.name, f"Take {best.name}: it is the only one that finished."
    gap = {frozenset((pair.a, pair.b)): pair for pair in pairs if pair.metric == "accuracy"}
    beaten = {_loser(pair) for pair in gap.values() if pair.winner}
    close = [best] + [
        row for row in good[1:] if row.name not in beaten and _within_one_error(gap[frozenset((best.name, row.name))])
    ]
    near = {row.name for row in close}
    beats = {(pair.winner, _loser(pair)) for pair in pairs if pair.metric == "log_loss" and pair.winner in near}
    worse = {loser for _, loser in beats}
    left = [row for row in close if row.name not in worse] or close
    untimed = [row.name for row in left if math.isnan(row.latency_ms)]
    limit = math.inf if untimed else AS_QUICK * min(row.latency_ms for row in left)
    taken = min((row for row in left if untimed or row.latency_ms <= limit), key=_loss)
    why = _reason(taken, best, good, gap.values(), beats, timed=not untimed)
    unknown = f"; the speed of {few(untimed, 3)} is not known, so it did not count" if untimed and len(left) > 1 else ""
    return taken.name, f"Take {taken.name}: {why}{unknown}."


def _reason(
    taken: ComparisonRow,
    best: ComparisonRow,
    good: Sequence[ComparisonRow],
    in_accuracy: Iterable[Difference],
    in_log_loss: Container[tuple[str, str]],
    *,
    timed: bool,
) -> str:
    losers = [_loser(pair) for pair in in_accuracy if pair.winner == taken.name]
    if len(losers) == len(good) - 1:
        return f"it beats {'all others' if len(losers) > 1 else 'the other'} in accuracy"
    if taken is best:
        more = f", and beats {few(losers, 3)}" if losers else ", though that is a tie with all others"
        return f"it has the highest accuracy{more}"
    ratio = (
        best.latency_ms / taken.latency_ms if timed else math.nan
    )  # nan if that of `best`, which is beaten, is unknown
    if (taken.name, best.name) in in_log_loss:
        faster = f", and is {ratio:.1f}x faster" if ratio > AS_QUICK else ""
        return f"it ties with {best.name} in accuracy, and beats it in log-loss{faster}"
    if ratio > AS_QUICK or (ratio > 1 and _loss(taken) >= _loss(best)):
        return f"nothing beats it in accuracy, and it is {ratio:.1f}x faster than {best.name}, with which it ties"
    if _loss(taken) < _loss(best):
        quick = ", is about as fast," if ratio >= 1 / AS_QUICK else ""
        return f"it ties with {best.name} in accuracy{quick} and has the lower log-loss"
    return f"it ties with {best.name} in accuracy, and no trial that does so beats it in log-loss"


def _loser(pair: Difference) -> str:
    return pair.b if pair.winner == pair.a else pair.a


def _within_one_error(pair: Difference) -> bool:
    error = (pair.high - pair.low) / 2 / NormalDist().inv_cdf(0.975)
    return pair.verdict == "tie" and abs(pair.value) <= error


def _loss(row: ComparisonRow) -> float:
    known = row.figure("log_loss")
    return math.inf if known is None else known.value
