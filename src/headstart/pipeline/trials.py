"""The trials of a comparison: each is an ordinary `headstart train` in a process of its own, and is kept.

    DIR/runs/NAME/         its run folder, as `train` writes it
    DIR/trials/NAME.json   what a run folder cannot say: seconds, peak memory, latency, or why there is no run

A process of its own costs about a second, and buys that a crash, or the system running out of memory, loses one trial and
not the comparison, and that the memory of one is not counted for the next. A finished run is taken up again if its manifest
holds and it is of the same recipe (whatever its share of the budget), split and images.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from headstart.data.curation import Curation
from headstart.data.data_source import DataSource
from headstart.errors import RunError
from headstart.io.files import read_json, sha256_bytes, write_json
from headstart.io.folders import MANIFEST, read_manifest
from headstart.io.options import words_of
from headstart.io.processes import ProcessResult, run_child
from headstart.io.progress import log
from headstart.model.backbones.registry import sha256_here
from headstart.model.backbones.weights_source import WeightsSource
from headstart.pipeline.approaches import APPROACHES
from headstart.runs.run_folder import REPORT_FILES, SPLIT, RunFolder
from headstart.training.recipe import Recipe

COMMAND = (sys.executable, "-m", "headstart")


@dataclass(frozen=True)
class TrialConfig:
    """One approach on one backbone: `recipe_name` as the user calls it, and all its options."""

    name: str
    recipe_name: str
    recipe: Recipe


@dataclass(frozen=True)
class TrialContext:
    """What all trials share: the data, the folder of the comparison, where weights and corrections are; and what a run must
    agree with. `weights_sha256` is one over all that trials may choose from; `alone`: that is the package's own backbone."""

    source: DataSource
    out: Path
    weights: WeightsSource
    fingerprint: str
    split_hash: str
    curation: Curation = Curation()
    weights_sha256: str = ""
    alone: bool = False

    def run(self, name: str) -> Path:
        """The run folder of a trial."""
        return self.out / "runs" / name

    def record(self, name: str) -> Path:
        """The file that says how a trial went."""
        return self.out / "trials" / f"{name}.json"


@dataclass(frozen=True)
class TrialResult:
    """How a trial went. `error` is empty for a finished one; `interrupted` ones were stopped and can go on.

    Seconds and megabytes (1e6 bytes) of the training process, milliseconds per image; NaN where not measured. `budget` is
    its share, in a recipe's words; `manifest` a SHA-256 over all that is in the run folder but its report; `weights` one over
    those that the trial could choose from, if it was to choose.
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
    told: Mapping[str, Any] = MappingProxyType({}),
) -> TrialResult:
    """Train in a process of its own that is told to spend `share` seconds and stopped after `limit` seconds.

    Training by gradient descent that was interrupted goes on from where it was; if that was of other images or with other
    options, it begins anew. What is `told` in place of options of the recipe is for the process only: the trial is still
    one of that recipe.
    """
    run, budget = place.run(candidate.name), f"{max(1, int(share))}s"
    recipe = replace(candidate.recipe, **{"budget": budget, **told})
    words = [*COMMAND, *train_words(recipe, candidate, place)]
    _keep(place, candidate, TrialResult(error="it was cut off", interrupted=True, budget=budget))
    ended = run_child(words, limit)
    error, interrupted = _error_of(ended, limit)
    if error.startswith("UnfinishedTraining: "):
        log.info("%s: an unfinished training of something else is discarded.", candidate.name)
        ended = run_child([*words, "--restart"], limit)
        error, interrupted = _error_of(ended, limit)
    if not error and not (run / MANIFEST).is_file():
        error = "it ended without a run folder"
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
    """The outcome of a trial that was finished earlier and is still valid, or None. What was not measured is NaN.

    A run folder records the options that were used in the end; what was asked for, auto say, is in the trial's record.
    """
    run = place.run(candidate.name)
    try:
        opened = RunFolder(run)
        manifest, seconds, made = _identity(run), opened.metrics.seconds["total"], opened.provenance
    except RunError as error:
        if run.exists():
            log.warning("%s It is done again.", error.message)
        return None
    of_these = (made.split_hash, made.data.fingerprint) == (place.split_hash, place.fingerprint)
    kept, asked = _read_record(place.record(candidate.name))
    if kept is not None and kept.manifest != manifest:
        kept = None
    here = _weights_for(candidate, place)
    if kept is not None and kept.weights and here and kept.weights != here:
        log.info("%s: made with other weights than those at hand; it is done again.", run)
        return None
    if not of_these or not _same(made.recipe.as_dict() if kept is None else asked, candidate.recipe):
        log.info("%s: of another recipe, split or data; it is done again.", run)
        return None
    return kept or TrialResult(seconds=seconds, manifest=manifest)


def _identity(run: Path) -> str:
    """SHA-256 over the run folder's manifest without its report, which can be written again at any time."""
    listed = {name: sha256 for name, sha256 in read_manifest(run, "").items() if name not in REPORT_FILES}
    return sha256_bytes(json.dumps(sorted(listed.items())).encode())


def _weights_for(candidate: TrialConfig, place: TrialContext) -> str:
    """SHA-256 over the weights that a trial chooses from, or of those that it names; '' for none, or if they are not here."""
    recipe = candidate.recipe
    if not APPROACHES[recipe.approach].pretrained:
        return ""
    if recipe.backbone == "auto":
        return place.weights_sha256
    here = [sha256_here(name, place.weights) for name in recipe.backbone.split("+")]
    return "+".join(here) if all(here) else ""


def _same(recorded: Any, recipe: Recipe) -> bool:
    """Whether these are the recipe's options, whatever the share of the budget."""
    return isinstance(recorded, dict) and {**recorded, "budget": ""} == {**recipe.as_dict(), "budget": ""}


def with_latency(
    outcome: TrialResult, candidate: TrialConfig, place: TrialContext, images: Sequence[Path]
) -> TrialResult:
    """The outcome with milliseconds per image, measured in a process of its own unless it is known."""
    if outcome.error or not math.isnan(outcome.latency_ms) or not images:
        return outcome
    files = [os.path.abspath(image) for image in images]
    command = [sys.executable, "-m", "headstart.pipeline.latency", str(place.run(candidate.name)), *files]
    ended = run_child(command, 600.0)
    try:
        outcome = replace(outcome, latency_ms=float(json.loads(ended.stdout)))
    except ValueError:
        log.warning("%s: its latency could not be measured: %s", candidate.name, _error_of(ended, 600.0)[0])
        return outcome
    _keep(place, candidate, outcome)
    return outcome


def train_words(recipe: Recipe, candidate: TrialConfig, place: TrialContext) -> list[str]:
    """`headstart` words of a trial: every option that is not the default is spelled out, so anybody can run it again."""
    there = replace(place.source, place=Path(os.path.abspath(place.source.place)))
    words = ["train", *there.words(), "--out", str(place.run(candidate.name)), "--json", "--no-report"]
    words += ["--split", str(place.out / SPLIT)]
    alone = place.alone and recipe.backbone == "auto"  # the hub was asked once
    weights = replace(place.weights, offline=place.weights.offline or alone)
    return [*words, *words_of(place.curation), *words_of(weights), *words_of(recipe)]


def _keep(place: TrialContext, candidate: TrialConfig, outcome: TrialResult) -> None:
    values = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(outcome).items()}
    write_json(place.record(candidate.name), values | {"recipe": candidate.recipe.as_dict()})


def _read_record(path: Path) -> tuple[TrialResult | None, Any]:
    """What `_keep` wrote: the outcome and the options that were asked for; (None, None) where there is none."""
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
        log.warning("%s: is not a record of a trial (%s); what it said is measured again.", path, error)
        return None, None


def _error_of(ended: ProcessResult, limit: float) -> tuple[str, bool]:
    """Why there is no result, in a few words (empty if there is one); and whether the process was cut off."""
    if ended.stopped:
        return f"stopped after {limit:.0f} s: its share of the budget was spent", True
    if ended.code < 0:
        name = {int(s): s.name for s in signal.Signals}.get(-ended.code, f"signal {-ended.code}")
        why = " (if nobody did that, memory ran out)" if name == "SIGKILL" else ""
        held = "" if math.isnan(ended.peak_memory_mb) else f"; it had held up to {ended.peak_memory_mb:,.0f} MB"
        return f"killed by {name}{why}{held}", True
    if ended.code == 0:
        return "", False
    lines = ended.stderr.strip().splitlines() or [f"exit code {ended.code}, and no message"]
    starts = [i for i, line in enumerate(lines) if re.match(r"[A-Za-z_.]+: ", line) or line.startswith("headstart")]
    return " ".join(line.strip() for line in lines[starts[-1] if starts else -1 :]), ended.code == 130
