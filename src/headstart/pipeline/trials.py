"""The trials of a comparison: each is an ordinary `headstart train` in its own process, and is kept.

    DIR/runs/NAME/         its run folder, as `train` writes it
    DIR/trials/NAME.json   what is not in a run folder: seconds, peak memory, latency, or why there is no run

A separate process costs about a second. In return, a crash or lack of memory loses one trial and not the comparison,
and the memory of one trial is not counted for the next. A finished run is reused if its manifest is intact and it has
the same recipe (whatever its share of the budget), split, groups and images.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from headstart.data.curation import Curation
from headstart.data.data_source import DataSource
from headstart.data.splits import groups_hash
from headstart.errors import RunError
from headstart.io.addresses import absolute
from headstart.io.files import read_json, sha256_bytes, write_json
from headstart.io.folders import MANIFEST, read_manifest
from headstart.io.options import words_of
from headstart.io.processes import ProcessResult, run_child
from headstart.io.progress import log
from headstart.model.backbones.registry import sha256_here
from headstart.model.backbones.weights_source import WeightsSource
from headstart.pipeline.approaches import APPROACHES
from headstart.pipeline.latency import MEASURED, WARM
from headstart.runs.run_folder import REPORT_FILES, SPLIT, RunFolder
from headstart.training.recipe import Recipe

COMMAND = (sys.executable, "-P", "-m", "headstart")
"""Without modules from the current folder, which may be a folder of data."""
TRIALS = "trials"
"""Folder of the records in the folder of a comparison."""


@dataclass(frozen=True)
class TrialConfig:
    """One approach on one backbone: the user's `recipe_name`, and all its options."""

    name: str
    recipe_name: str
    recipe: Recipe


@dataclass(frozen=True)
class TrialContext:
    """What all trials share: data, the comparison's folder, weights and corrections, and what a run must match.
    `weights_sha256` covers all weights that trials may choose from; `alone`: these are only the embedded backbone."""

    source: DataSource
    out: Path
    weights: WeightsSource
    fingerprint: str
    split_hash: str
    groups_hash: str = ""
    curation: Curation = Curation()
    weights_sha256: str = ""
    alone: bool = False

    def run(self, name: str) -> Path:
        """Return the run folder of a trial."""
        return self.out / "runs" / name

    def record(self, name: str) -> Path:
        """Return the record file of a trial."""
        return self.out / TRIALS / f"{name}.json"


@dataclass(frozen=True)
class TrialResult:
    """Outcome of a trial. `error` is empty for a finished one; `interrupted` ones were stopped and can be resumed.

    Seconds and megabytes (1e6 bytes) of the training process, milliseconds per image; NaN if not measured. `budget` is
    its share as a recipe states it; `manifest` a SHA-256 of the run folder without its report; `weights` a SHA-256 of
    the weights that it names or could choose from.
    """

    seconds: float = math.nan
    peak_memory_mb: float = math.nan
    latency_ms: float = math.nan
    error: str = ""
    interrupted: bool = False
    budget: str = ""
    manifest: str = ""
    weights: str = ""


def run_trial(
    candidate: TrialConfig,
    place: TrialContext,
    *,
    share: float,
    limit: float,
    overrides: Mapping[str, Any] = MappingProxyType({}),
) -> TrialResult:
    """Train in a separate process with a budget of `share` seconds, stopped after `limit` seconds.

    Interrupted gradient training resumes; if it was for other images or with other options, it starts over. The options
    in `overrides` apply to the process only: the trial still counts as one of its recipe.
    """
    run, budget = place.run(candidate.name), f"{max(1, int(share))}s"
    recipe = replace(candidate.recipe, **{"budget": budget, **overrides})
    words = [*COMMAND, *train_words(recipe, candidate, place)]
    _keep(place, candidate, TrialResult(error="interrupted", interrupted=True, budget=budget))
    ended = run_child(words, limit)
    error, interrupted = _error_of(ended, limit)
    if error.startswith("UnfinishedTraining: "):
        log.info("%s: discarding an unfinished training with other data or options.", candidate.name)
        ended = run_child([*words, "--restart"], limit)
        error, interrupted = _error_of(ended, limit)
    if not error and not (run / MANIFEST).is_file():
        error = "ended without a run folder"
    outcome = TrialResult(
        seconds=round(ended.seconds, 3),
        peak_memory_mb=ended.peak_memory_mb,
        error=error,
        interrupted=interrupted,
        budget=budget,
        manifest="" if error else _identity(run),
        weights=_weights_for(candidate, place),
    )
    _keep(place, candidate, outcome)
    return outcome


def finished(candidate: TrialConfig, place: TrialContext) -> TrialResult | None:
    """Return the outcome of an earlier trial that is still valid, or None. Missing measurements are NaN.

    A run folder records the options finally used; the requested ones (such as auto) are in the trial's record.
    """
    run = place.run(candidate.name)
    try:
        opened = RunFolder(run)
        opened.check()
        manifest, seconds, made = _identity(run), opened.metrics.seconds["total"], opened.provenance
    except RunError as error:
        if run.exists():
            log.warning("%s Repeating it.", error.message)
        return None
    of_these = (made.split_hash, made.data.fingerprint) == (place.split_hash, place.fingerprint)
    of_these = of_these and groups_hash(opened.split) == place.groups_hash
    kept, asked = _read_record(place.record(candidate.name))
    if kept is not None and kept.manifest != manifest:
        kept = None
    here = _weights_for(candidate, place)
    if kept is not None and kept.weights and here and kept.weights != here:
        log.info("%s: made with weights other than those available; repeating it.", run)
        return None
    if not of_these or not _same(made.recipe.as_dict() if kept is None else asked, candidate.recipe):
        log.info("%s: from another recipe, split or data, or with other groups; repeating it.", run)
        return None
    return kept or TrialResult(seconds=seconds, manifest=manifest)


def _identity(run: Path) -> str:
    """Return the SHA-256 of the run folder's manifest without its report, which can be rewritten at any time."""
    listed = {name: sha256 for name, sha256 in read_manifest(run, "").items() if name not in REPORT_FILES}
    return sha256_bytes(json.dumps(sorted(listed.items())).encode())


def _weights_for(candidate: TrialConfig, place: TrialContext) -> str:
    """Return the SHA-256 of the weights that a trial chooses from or names; '' for none, or if not available."""
    recipe = candidate.recipe
    if not APPROACHES[recipe.approach].pretrained:
        return ""
    if recipe.backbone == "auto":
        return place.weights_sha256
    here = [sha256_here(name, place.weights) for name in recipe.backbone.split("+")]
    return "+".join(here) if all(here) else ""


def _same(recorded: Any, recipe: Recipe) -> bool:
    """Return whether these are the recipe's options, whatever the share of the budget."""
    return isinstance(recorded, dict) and {**recorded, "budget": ""} == {**recipe.as_dict(), "budget": ""}


def with_latency(
    outcome: TrialResult, candidate: TrialConfig, place: TrialContext, images: Sequence[Path]
) -> TrialResult:
    """Add milliseconds per image to the outcome, measured in a separate process unless known.

    It is given only as many images as it measures, since a system limits the length of a command. They are spread over
    all, because neighbours are mostly of one class.
    """
    if outcome.error or not math.isnan(outcome.latency_ms) or not images:
        return outcome
    n = min(len(images), WARM + MEASURED)
    files = [os.path.abspath(images[i * len(images) // n]) for i in range(n)]
    command = [sys.executable, "-P", "-m", "headstart.pipeline.latency", str(place.run(candidate.name)), *files]
    try:
        ended = run_child(command, 600.0)
        outcome = replace(outcome, latency_ms=float(json.loads(ended.stdout)))
    except OSError as error:
        log.warning("%s: its latency could not be measured: %s", candidate.name, error.strerror)
        return outcome
    except ValueError:
        why = "stopped after 600 s" if ended.stopped else _error_of(ended, 600.0)[0]
        log.warning("%s: its latency could not be measured: %s", candidate.name, why)
        return outcome
    _keep(place, candidate, outcome)
    return outcome


def train_words(recipe: Recipe, candidate: TrialConfig, place: TrialContext) -> list[str]:
    """Return the `headstart` arguments of a trial, with every non-default option, so that anyone can repeat it."""
    there = replace(place.source, place=absolute(place.source.place))
    words = ["train", *there.words(), "--out", str(place.run(candidate.name)), "--json", "--no-report"]
    words += ["--split", str(place.out / SPLIT)]
    alone = place.alone and recipe.backbone == "auto"  # the hub has been queried already
    most = 0 if recipe.backbone == "auto" else place.weights.max_download  # the comparison has downloaded what suits it
    weights = replace(place.weights, offline=place.weights.offline or alone, max_download=most)
    return [*words, *words_of(place.curation), *words_of(weights), *words_of(recipe)]


def _keep(place: TrialContext, candidate: TrialConfig, outcome: TrialResult) -> None:
    values = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(outcome).items()}
    write_json(place.record(candidate.name), values | {"recipe": candidate.recipe.as_dict()})


def has_records(out: Path) -> bool:
    """Return whether a folder holds the record of a trial."""
    for path in (out / TRIALS).glob("*.json"):
        with suppress(OSError, ValueError):
            read = read_json(path)
            if isinstance(read, dict) and {"recipe", "manifest", "interrupted"} <= set(read):
                return True
    return False


def _read_record(path: Path) -> tuple[TrialResult | None, Any]:
    """Read what `_keep` wrote: the outcome and the requested options; (None, None) if there is no record."""
    try:
        read = read_json(path)
        read = {"weights": ""} | read  # which earlier versions did not record
        values: dict[str, Any] = {
            f.name: math.nan if read[f.name] is None else read[f.name] for f in fields(TrialResult)
        }
        return TrialResult(**values), read["recipe"]
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s: is not a valid record of a trial (%s); measuring again.", path, error)
        return None, None


def _error_of(ended: ProcessResult, limit: float) -> tuple[str, bool]:
    """Say briefly why there is no result (empty if there is one), and whether the process was interrupted."""
    if ended.stopped:
        return f"stopped after {limit:.0f} s: its share of the budget was spent", True
    if ended.code < 0:
        name = {int(s): s.name for s in signal.Signals}.get(-ended.code, f"signal {-ended.code}")
        why = " (probably out of memory)" if name == "SIGKILL" else ""
        held = "" if math.isnan(ended.peak_memory_mb) else f"; peak memory {ended.peak_memory_mb:,.0f} MB"
        return f"killed by {name}{why}{held}", True
    if ended.code == 0:
        return "", False
    lines = ended.stderr.strip().splitlines() or [f"exit code {ended.code} without a message"]
    starts = [i for i, line in enumerate(lines) if re.match(r"[A-Za-z_.]+: ", line) or line.startswith("headstart")]
    return " ".join(line.strip() for line in lines[starts[-1] if starts else -1 :]), ended.code == 130
