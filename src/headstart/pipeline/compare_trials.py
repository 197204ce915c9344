"""Running a comparison: several approaches and backbones on one split, each a `train` in its own process.

    scan -> split once -> trials within the budget -> rows, paired tests on the test set, advice -> tables and a page

A row is made from a run folder and the record of its trial. Costs the budget, and a second or two per trial.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from headstart.data.corrections import read_corrections
from headstart.data.curation import Curation
from headstart.data.data_source import DataSource
from headstart.data.dataset import Dataset
from headstart.data.not_copies import NotCopies, read_not_copies
from headstart.data.open_dataset import open_dataset, require_trainable
from headstart.data.splits import groups_hash, make_split, require_sets, split_hash, split_rows, write_split
from headstart.errors import WriteError
from headstart.evaluation.pareto import on_front
from headstart.io.extras import require
from headstart.io.files import write_csv, write_text
from headstart.io.folders import check_outside_data, make_folder
from headstart.io.options import words_of
from headstart.io.progress import log
from headstart.io.stores.store import check_online
from headstart.io.text_table import few
from headstart.model.backbones.registry import Backbone, last_resort
from headstart.model.backbones.weights import parameter_count, read_header
from headstart.model.backbones.weights_source import WeightsSource
from headstart.pipeline.comparison import PAIR_COLUMNS, ROW_COLUMNS, Comparison, ComparisonRow, advice, paired
from headstart.pipeline.scan import ScannedDataset, prepare_groups, scan
from headstart.pipeline.trial_budget import Budget, check_budget, run_trials
from headstart.pipeline.trial_configs import (
    DEFAULT,
    backbones_to_choose_from,
    best_backbones,
    named_backbones,
    named_recipes,
    split_sizes,
    trial_configs,
    weights_identity,
)
from headstart.pipeline.trials import (
    TRIALS,
    TrialConfig,
    TrialContext,
    TrialResult,
    finished,
    has_records,
    with_latency,
)
from headstart.reports.compare_page import ComparePageData, TrialSummary, compare_page, drawn_comparison
from headstart.runs.outside_runs import check_outside_run
from headstart.runs.run_folder import PLOTS, REPORT, SPLIT, RunFolder
from headstart.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class ComparisonRequest:
    """What to compare, and where: the arguments of `compare`, with the data as a source and `out` absolute."""

    source: DataSource
    out: Path
    recipes: str
    backbones: str
    budget: str
    seed: int
    curation: Curation
    weights: WeightsSource

    def command(self) -> str:
        """Return the command for the same comparison."""
        given = {"recipes": self.recipes, "backbones": self.backbones, "budget": self.budget, "seed": self.seed}
        words = ["headstart", "compare", *self.source.words(), "--out", str(self.out)]
        words += [word for name, value in given.items() if value for word in (f"--{name}", str(value))]
        return shlex.join([*words, *words_of(self.curation), *words_of(self.weights)])


def compare_trials(asked: ComparisonRequest, clock: Budget | None = None) -> Comparison:
    """Run all unfinished trials, compare all, and write tables and page. Raises what `compare` raises."""
    require("A comparison", "matplotlib", "timm", "torch")
    clock = clock or Budget(asked.budget)
    check_online(asked.source.place, offline=asked.weights.offline)
    _check_place(asked.out, asked.source.place)
    opened, refused = _opened(asked)
    named = named_recipes(asked.recipes)
    given = named_backbones(asked.backbones, named, asked.weights)
    here = backbones_to_choose_from(named, given, asked.weights, budget_seconds=clock.left(), images=len(opened))
    scanned = scan(asked.source, opened=opened, not_copies=refused)
    dataset = _split(scanned, asked.seed, named or DEFAULT)
    if not named and not given:
        given = best_backbones(here, scanned, dataset, clock.left() / 4, asked.seed)
    candidates = trial_configs(named or DEFAULT, given, asked.seed)
    make_folder(asked.out / TRIALS)  # first: it marks the folder as a comparison's
    write_split(asked.out / SPLIT, dataset, scanned.images.sha256s)
    place = _context(asked, scanned, dataset, here)
    outcomes = {c.name: done for c in candidates if (done := finished(c, place)) is not None}
    if outcomes:
        log.info("Finished earlier, with the share of the budget they had then: %s.", _shares(outcomes))
    if not outcomes and clock.firm:
        check_budget(candidates, scanned, clock, here or [last_resort()])
    outcomes |= run_trials([c for c in candidates if c.name not in outcomes], place, clock, some=bool(outcomes))
    if all(o.error for o in outcomes.values()) and clock.left() <= 0 and clock.firm:
        raise clock.too_small(f"none of {len(outcomes)} trials finished within it", 2 * clock.spend)
    tested = [dataset.file(i) for i in dataset.sets.test]
    images = [file for file in tested if isinstance(file, Path)]  # none for a pack: then the latency stays unknown
    outcomes = {c.name: with_latency(outcomes[c.name], c, place, images) for c in candidates}
    found = _compared(candidates, outcomes, place, dataset=dataset, seed=asked.seed, seconds=clock.spent())
    write_csv(asked.out / "comparison.csv", ROW_COLUMNS, found.row_cells())
    write_csv(asked.out / "pairs.csv", PAIR_COLUMNS, found.pair_cells())
    _write_page(found, place, asked.command())
    return found


def _shares(outcomes: Mapping[str, TrialResult]) -> str:
    return ", ".join(f"{name} ({outcome.budget or 'unknown'})" for name, outcome in outcomes.items())


def _opened(asked: ComparisonRequest) -> tuple[Dataset, NotCopies]:
    """Return the corrected dataset, and the pairs that are not copies."""
    opened = open_dataset(asked.source)
    refused = read_not_copies(asked.curation.not_copies).checked(opened)
    opened = read_corrections(asked.curation.corrections).applied_to(opened)
    prepare_groups(opened, asked.source)
    return opened, refused


def _split(scanned: ScannedDataset, seed: int, recipes: Mapping[str, Recipe]) -> Dataset:
    """Split the usable images into training, validation and test set; report copies that a given split divides, and recipes
    with other shares."""
    require_trainable(scanned.dataset)
    val_size, test_size = sizes = split_sizes(recipes)
    others = [name for name, recipe in recipes.items() if (recipe.val_size, recipe.test_size) != sizes]
    if others:
        log.warning(
            "All trials use one split, with val_size %g and test_size %g; those of %s are not used.",
            val_size,
            test_size,
            few(others, 5),
        )
    near = scanned.copies.groups_N
    dataset = make_split(scanned.dataset, seed=seed, val_size=val_size, test_size=test_size, near=near)
    require_sets(dataset, ("train", "val", "test"))
    for finding in scanned.findings(replace(dataset, groups=scanned.dataset.groups), scanned.copies):
        if finding.check in ("split_leak", "possible_split_leak"):
            log.warning("%s", finding.message)
    return dataset


def _context(
    asked: ComparisonRequest, scanned: ScannedDataset, dataset: Dataset, here: Sequence[Backbone]
) -> TrialContext:
    return TrialContext(
        source=asked.source,
        out=asked.out,
        weights=asked.weights,
        fingerprint=scanned.fingerprint,
        split_hash=split_hash(dataset),
        groups_hash=groups_hash(split_rows(dataset, scanned.images.sha256s)),
        curation=asked.curation,
        weights_sha256=weights_identity(here),
        alone=[b.source for b in here] == ["embedded"],
    )


def _check_place(out: Path, data: Path) -> None:
    """Raise `WriteError` if the folder is a file, a run folder or inside the data, or holds foreign files."""
    check_outside_run(out)
    check_outside_data(out, data, name="comparison")
    if out.exists() and not out.is_dir():
        raise WriteError(f"{out}: is in the way: a folder would be written there.", hint="Choose another --out.")
    if out.is_dir() and any(out.iterdir()) and not _is_comparison(out):
        raise WriteError(
            f"{out}: holds files that headstart did not write, so it is left alone.",
            hint="Choose another --out, or an empty folder.",
        )


def _is_comparison(out: Path) -> bool:
    """Return whether a comparison was begun in a folder. A split alone may be the user's own."""
    if not (out / TRIALS).is_dir():
        return False
    return has_records(out) or (set(os.listdir(out)) <= {TRIALS, SPLIT} and not os.listdir(out / TRIALS))


def _compared(
    candidates: Sequence[TrialConfig],
    outcomes: Mapping[str, TrialResult],
    place: TrialContext,
    *,
    dataset: Dataset,
    seed: int,
    seconds: float,
) -> Comparison:
    """Read all run folders and compare them. Raises `RunError` if one has been changed since."""
    rows = _marked([_row(c, outcomes[c.name], place) for c in candidates])
    good = [row.name for row in rows if row.metrics is not None]
    groups = dict(zip(dataset.paths, dataset.groups.tolist(), strict=True))
    pairs, notes = paired({name: RunFolder(place.run(name)).predictions for name in good}, seed, groups)
    taken, why = advice(rows, pairs)
    return Comparison(
        out=str(place.out),
        rows=rows,
        pairs=pairs,
        taken=taken,
        advice=why,
        notes=notes,
        images=len(dataset.sets.test),
        split_hash=place.split_hash,
        seconds=seconds,
    )


def _row(candidate: TrialConfig, outcome: TrialResult, place: TrialContext) -> ComparisonRow:
    row = ComparisonRow(
        name=candidate.name,
        recipe=candidate.recipe_name,
        backbones=candidate.recipe.backbone,
        metrics=None,
        train_seconds=round(outcome.seconds, 3),
        peak_memory_mb=outcome.peak_memory_mb,
        parameters=0,
        file_bytes=0,
        latency_ms=math.nan,
        pareto_optimal=False,
        error=outcome.error,
    )
    if outcome.error:
        return row
    run = RunFolder(place.run(candidate.name))
    backbones = [member.extractor.backbone for member in run.classifier.members]
    weights = [backbone.weights for backbone in backbones if backbone.weights is not None]
    return replace(
        row,
        backbones="+".join(dict.fromkeys(backbone.name for backbone in backbones)),
        metrics=run.metrics.test,
        parameters=sum(parameter_count(read_header(file)) for file in weights),
        file_bytes=sum(file.stat().st_size for file in weights),
        latency_ms=outcome.latency_ms,
    )


def _marked(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Sort the rows, and mark those on the Pareto front of accuracy, latency and file size.

    If no latency could be measured, the other two decide.
    """
    timed = any(not math.isnan(row.latency_ms) for row in rows)
    accuracies = [math.nan if row.metrics is None else row.metrics["accuracy"].value for row in rows]
    latencies = [row.latency_ms if timed else 0.0 for row in rows]
    sizes = [float(row.file_bytes) for row in rows]
    front = on_front(np.column_stack([accuracies, latencies, sizes]), (True, False, False))
    marked = [replace(row, pareto_optimal=bool(on)) for row, on in zip(rows, front, strict=True)]
    return sorted(marked, key=lambda row: (row.metrics is None, *_rank(row)))


def _rank(row: ComparisonRow) -> tuple[float, float, float]:
    """Sort key: higher accuracy first, then lower log-loss, then lower latency."""
    if row.metrics is None:
        return 0.0, 0.0, 0.0
    latency = math.inf if math.isnan(row.latency_ms) else row.latency_ms
    return -row.metrics["accuracy"].value, row.metrics["log_loss"].value, latency


def _write_page(found: Comparison, place: TrialContext, command: str) -> None:
    """Write report.html and plots/ into the folder of the comparison. Raises `WriteError`, `OSError`."""
    infos = (
        ("data", place.source.where),
        ("test images", f"{found.images:,}"),
        ("split", found.split_hash[:12]),
        ("seconds", f"{found.seconds:,.0f}"),
    )
    title = f"Comparison on {place.source.title}"
    rows = [_contender(row, place) for row in found.rows]
    page = ComparePageData(
        title=title,
        advice=found.advice,
        taken=found.taken,
        contenders=rows,
        pairs=found.pairs,
        notes=found.notes,
        groups=max((row.metrics.groups for row in found.rows if row.metrics), default=0),
        facts=infos,
        command=command,
    )
    write_text(place.out / REPORT, compare_page(page, drawn_comparison(page, place.out / PLOTS)))


def _contender(row: ComparisonRow, place: TrialContext) -> TrialSummary:
    """Return a row as the page shows it, with its epochs if it was trained by gradient descent."""
    known = TrialSummary(
        name=row.name,
        recipe=row.recipe,
        backbones=row.backbones,
        figures={},
        train_seconds=row.train_seconds,
        peak_memory_mb=row.peak_memory_mb,
        file_bytes=row.file_bytes,
        latency_ms=row.latency_ms,
        pareto_optimal=False,
        error=row.error,
    )
    if row.metrics is None:
        return known
    run = RunFolder(place.run(row.name))
    tuned = run.provenance.tuned
    return replace(
        known,
        figures=dict(row.metrics.overall),
        pareto_optimal=row.pareto_optimal,
        error="",
        epochs=[asdict(epoch) for epoch in run.epochs] if tuned else [],
        best_epoch=tuned.best_epoch if tuned else None,
        stopped=tuned.stopped if tuned else "",
    )
