"""`headstart compare DATA --out DIR`: several approaches and backbones on one split, and which of them to take.

    look -> split once -> each trial is a `train` in a process of its own -> paired tests on the test set -> advice

What it costs is the budget, and a second or two a trial. Not for picking a head or a learning rate: `train` does that
on validation. Here the test set is looked at once for each trial, so that the best of many looks a little better than
it is; the paired tests are corrected for that, the figures are not.
"""

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from headstart.data.corrections import read_corrections
from headstart.data.data_source import DataSource, as_source
from headstart.data.not_copies import read_not_copies
from headstart.data.open_dataset import Dataset, open_dataset, require_trainable
from headstart.data.splits import make_split, require_sets, split_hash, write_split
from headstart.errors import RecipeError, WriteError, near_names
from headstart.images.validate import cores
from headstart.io.files import sha256_bytes, write_csv
from headstart.io.folders import check_outside_run
from headstart.io.progress import log
from headstart.model.backbones.registry import (
    Backbone,
    at_hand,
    find_backbone,
    last_resort,
    to_choose_from,
    without_weights,
)
from headstart.model.inference.engines import choose_runtime
from headstart.model.inference.features import FeatureExtractor, embed_files, fitted_spec
from headstart.pipeline.choose_backbones import choose_backbones, fitting_size
from headstart.pipeline.comparison import PAIR_COLUMNS, ROW_COLUMNS, Comparison, compared, write_page
from headstart.pipeline.scan import ScannedDataset, prepare_groups, scan
from headstart.pipeline.trials import TrialConfig, TrialContext, TrialResult, finished, run_trial, with_latency
from headstart.training.recipe import APPROACHES, Recipe
from headstart.training.recipe import seconds as seconds_of

TOP = 5
"""So many backbones at hand are tried where none are named; of more, the best by leave-one-out on a subset."""
START_SECONDS = 4.0
"""What a trial takes besides embedding: importing, the head, the run folder. Measured on 2 cores: 2 to 3 s."""
TIMED_IMAGES = 8
ORDER = ("linear", "head_sgd", "auto", "finetune", "scratch")
"""Cheap approaches first, so that a small budget shows something."""
DEFAULT = {"linear": Recipe(approach="linear"), "auto": Recipe()}
"""Without --recipes: linear on each backbone, then what `train` does by itself."""


def compare(
    data: Path | DataSource,
    *,
    out: Path,
    recipes: str = "",
    backbones: str = "",
    budget: str = "20m",
    seed: int = 0,
    fix: Path | None = None,
    not_copies: Path | None = None,
    weights_dir: Path | None = None,
    offline: bool = False,
) -> Comparison:
    """Compare approaches and backbones on one split, under a total budget, and say which to take. Example:

        headstart compare photos --out comparison --budget 20m

    Args:
        data: Images with labels: a folder of class folders or of split folders, a table, an archive of these, or shards.
        out: Folder to write: report.html, split.csv, comparison.csv, pairs.csv, and a run folder for each trial in runs.
        recipes: Approaches (linear, finetune), names of recipes, or recipe files, joined by commas; by default linear on
            each backbone and then auto.
        backbones: Names joined by commas, each tried with every recipe that does not name its own; by default those at
            hand.
        budget: Time to spend in all, such as 20m or 2h.
        seed: Seed of the split, of every training and of every interval.
        fix: CSV of corrections (labels, images to leave out) to apply; the data itself stays as it is.
        not_copies: CSV of copies with an x in not_copies where a pair is none (checks-copies.csv of check).
        weights_dir: Folder of NAME.safetensors and NAME.json.
        offline: Never open a socket.

    Raises:
        RecipeError: an unknown recipe, or a budget that is too small for any trial.
        BackboneError: no such backbone, or no weights for one that is named.
        DataError: the data cannot be trained on, or `fix` or `not_copies` does not fit it.
        WriteError: the folder cannot be written, lies in the data, or holds other files.
    """
    clock = _Budget(budget)
    out = Path(os.path.abspath(out))
    source = as_source(data)
    _check_place(out, source.place)
    opened = open_dataset(source)
    refused = read_not_copies(not_copies).checked(opened)
    opened = read_corrections(fix).applied_to(opened)
    prepare_groups(opened, source)
    named = _recipes(recipes)
    given = _backbones(backbones, named, weights_dir, offline)
    here = _to_choose_from(named, given, weights_dir, offline)
    scanned = scan(source, opened=opened, not_copies=refused)
    require_trainable(scanned.dataset)
    dataset = make_split(scanned.dataset, seed=seed, near=scanned.copies.groups_N)
    require_sets(dataset, ("train", "val", "test"))
    for finding in scanned.findings(replace(dataset, groups=scanned.dataset.groups), scanned.copies):
        if finding.check in ("split_leak", "possible_split_leak"):
            log.warning("%s", finding.message)
    if not named and not given:
        given = _best_of(here, scanned, dataset, clock.left() / 4, seed)
    candidates = _candidates(named or DEFAULT, given, seed)
    write_split(out / "split.csv", dataset, scanned.sha256s)
    place = TrialContext(
        source, out, weights_dir, offline, scanned.fingerprint, split_hash(dataset), fix, _identity(here),
        not_copies=not_copies, alone=[b.source for b in here] == ["embedded"],
    )  # fmt: skip
    outcomes = {c.name: done for c in candidates if (done := finished(c, place)) is not None}
    if not outcomes:
        _check_budget(candidates, scanned, clock, here or [last_resort()])
    outcomes |= _run_all([c for c in candidates if c.name not in outcomes], place, clock, some=bool(outcomes))
    if all(o.error for o in outcomes.values()) and clock.left() <= 0:
        raise clock.too_small(f"none of {len(outcomes)} trials was finished within it", 2 * clock.spend)
    images = [scanned.files[i] for i in np.flatnonzero(dataset.split == "test")]
    outcomes = {c.name: with_latency(outcomes[c.name], c, place, images) for c in candidates}
    found = compared(candidates, outcomes, place, images=len(images), seed=seed, seconds=clock.spent())
    write_csv(out / "comparison.csv", ROW_COLUMNS, found.row_cells())
    write_csv(out / "pairs.csv", PAIR_COLUMNS, found.pair_cells())
    given_words = {"recipes": recipes, "backbones": backbones, "budget": budget, "fix": fix}
    given_words |= {"not-copies": not_copies, "weights-dir": weights_dir}
    write_page(found, place, _command(source, out, seed, offline, given_words))
    return found


def _command(source: DataSource, out: Path, seed: int, offline: bool, given: Mapping[str, object]) -> str:
    """The command that makes the same comparison."""
    words = ["headstart", "compare", *source.words(), "--out", str(out)]
    words += [word for name, value in given.items() if value for word in (f"--{name}", str(value))]
    words += ["--seed", str(seed)] if seed else []
    return shlex.join([*words, *(["--offline"] if offline else [])])


class _Budget:
    """The time that may be spent, from now on. Raises `RecipeError` for what is no time."""

    def __init__(self, text: str) -> None:
        self.text, self.spend, self._began = text, seconds_of(text), time.monotonic()

    def spent(self) -> float:
        return round(time.monotonic() - self._began, 3)

    def left(self) -> float:
        return self.spend - self.spent()

    def too_small(self, why: str, enough: float) -> RecipeError:
        """The error for a budget in which nothing fits; `enough` seconds are likely to do."""
        fits = f"{math.ceil(enough / 10) * 10}s" if enough < 100 else f"{math.ceil(enough / 60)}m"
        return RecipeError(
            f"budget {self.text!r} is too small: {why}.",
            hint=f"--budget {fits} is likely to do. What was embedded so far is kept for the next time.",
        )


# -------------------------------------------------------------------------------------------------- what is compared
def _recipes(text: str) -> dict[str, Recipe]:
    """Recipes by the names that trials go by; none where none were named. Raises `RecipeError`, with near names."""
    from headstart.training.recipe_files import names, read_recipe

    found: dict[str, Recipe] = {}
    for word in _words(text):
        name = Path(word).stem if word.endswith(".toml") else word
        if name in found:
            raise RecipeError(f"recipes: {name!r} is named twice.", hint="Give each once, and files different names.")
        known = (*APPROACHES, *names())
        if word in APPROACHES:
            found[name] = Recipe(approach=word)
        elif word in known or word.endswith(".toml") or os.sep in word:
            found[name] = read_recipe(word)
        else:
            near = near_names(word, list(known))
            raise RecipeError(f"recipe {word!r} is not known: expected {', '.join(known)}, or a .toml file.", hint=near)
    return found


def _backbones(text: str, recipes: Mapping[str, Recipe], weights_dir: Path | None, offline: bool) -> list[str]:
    """The names in full, found (or downloaded) before any long work. Raises `BackboneError`."""
    scratch = bool(recipes) and all(recipe.approach == "scratch" for recipe in recipes.values())

    def full_name(word: str) -> str:
        if scratch:
            return without_weights(word).name
        return "+".join(find_backbone(w, weights_dir=weights_dir, offline=offline).name for w in word.split("+"))

    return list(dict.fromkeys(full_name(word) for word in _words(text)))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _candidates(recipes: Mapping[str, Recipe], backbones: Sequence[str], seed: int) -> list[TrialConfig]:
    """Every recipe on every backbone, unless it names its own or (auto) chooses one; cheap approaches first."""
    found = []
    for name, recipe in recipes.items():
        recipe = replace(recipe, seed=seed)
        if recipe.backbone != "auto" or not backbones or (recipes is DEFAULT and name == "auto"):
            found.append(TrialConfig(name, name, replace(recipe, backbone=_with_tag(recipe.backbone, backbones))))
        else:
            found += [TrialConfig(f"{name}-{b}", name, replace(recipe, backbone=b)) for b in backbones]
    return sorted(found, key=lambda c: ORDER.index(c.recipe.approach))


def _with_tag(architecture: str, backbones: Sequence[str]) -> str:
    """Of several weights for the network that a recipe names (mobilenetv2_100), those that --backbones gives."""
    tagged = [name for name in backbones if name.partition(".")[0] == architecture]
    return tagged[0] if len(tagged) == 1 else architecture


def _to_choose_from(
    recipes: Mapping[str, Recipe], given: Sequence[str], weights_dir: Path | None, offline: bool
) -> list[Backbone]:
    """What trials that name no backbone choose from; one is downloaded only if there is such a trial."""
    if recipes and (given or all(r.backbone != "auto" or r.approach == "scratch" for r in recipes.values())):
        return at_hand(weights_dir=weights_dir)
    return to_choose_from(weights_dir=weights_dir, offline=offline)


def _best_of(
    found: Sequence[Backbone], scanned: ScannedDataset, dataset: Dataset, seconds: float, seed: int
) -> list[str]:
    """Names of the best of these, at most `TOP`: those with the least leave-one-out log-loss on a subset."""
    if len(found) <= TOP:
        return [b.name for b in found]
    known = np.flatnonzero(np.isin(dataset.split, ("train", "val")))
    log.info("%d backbones are at hand; looking for the best %d.", len(found), TOP)
    choice = choose_backbones(
        [_view(b, scanned) for b in found],
        [scanned.files[i] for i in known],
        [scanned.sha256s[i] for i in known],
        dataset.labels[known],
        len(dataset.classes),
        choose_runtime(),
        seconds=seconds,
        total=len(dataset),
        seed=seed,
    )
    alone = {b.name for b in found}
    ranked = sorted((t for t in choice.trials if t.backbone in alone), key=lambda t: (-t.images, t.loo_log_loss))
    return list(dict.fromkeys(t.backbone for t in ranked))[:TOP]


def _identity(found: Sequence[Backbone]) -> str:
    """SHA-256 over the names and weights of all that a trial may choose from."""
    return sha256_bytes("\n".join(sorted(f"{b.name} {b.sha256}" for b in found)).encode())


def _view(backbone: Backbone, scanned: ScannedDataset) -> FeatureExtractor:
    """The backbone as `train` will use it on these images."""
    sides = np.array([min(f.width, f.height) for f in scanned.infos])
    return FeatureExtractor(
        backbone, fitted_spec(backbone, fitting_size(backbone.preprocess.image_size, sides), "auto")
    )


# ---------------------------------------------------------------------------------------------------- within a budget
def _run_all(
    pending: Sequence[TrialConfig], place: TrialContext, clock: _Budget, *, some: bool
) -> dict[str, TrialResult]:
    """One after the other. Each is told its share of what is left, and stopped at twice that.

    As long as nothing is finished (`some` says whether anything is), a trial may use all that is left.
    """
    outcomes: dict[str, TrialResult] = {}
    for i, candidate in enumerate(pending):
        remaining = clock.left()
        if remaining <= 0:
            outcomes[candidate.name] = TrialResult(error="not started: the budget was spent", interrupted=True)
            continue
        efforts = [_effort(c) for c in pending[i:]]
        share = remaining * efforts[0] / sum(efforts)
        limit = min(max(2 * share, share + 30), remaining + 0.1 * clock.spend) if some else remaining
        log.info("%s: %d of %d, share of the budget %.0f s", candidate.name, i + 1, len(pending), share)
        outcome = outcomes[candidate.name] = run_trial(candidate, place, share=share, limit=limit)
        if outcome.error:
            log.warning("%s: %s", candidate.name, outcome.error)
        some = some or not outcome.error
    return outcomes


def _check_budget(
    candidates: Sequence[TrialConfig], scanned: ScannedDataset, clock: _Budget, here: Sequence[Backbone]
) -> None:
    """Raise `RecipeError` if not even the quickest trial can fit, going by the time that a few images take `here`.

    Asked only where it is doubtful: 0.05 s an image is more than most backbones take.
    """
    n = len(scanned.dataset)
    if clock.left() > START_SECONDS + 0.05 * n:
        return
    wanted = {name for c in candidates for name in c.recipe.backbone.split("+")}
    usable = [b for b in here if b.name in wanted or "auto" in wanted]
    pace = 0.0
    if usable and clock.left() > START_SECONDS:
        smallest = min(usable, key=lambda b: b.weights.stat().st_size if b.weights else 0)
        extractor, runtime = _view(smallest, scanned), choose_runtime()
        embed_files(
            scanned.files[:1], scanned.sha256s[:1], [extractor], runtime, keep=False
        )  # the first time may compile
        started = time.monotonic()
        embed_files(scanned.files[-TIMED_IMAGES:], scanned.sha256s[-TIMED_IMAGES:], [extractor], runtime)
        pace = (time.monotonic() - started) / min(TIMED_IMAGES, n) / cores()
    needed = START_SECONDS + pace * n
    if clock.left() < START_SECONDS or clock.left() < needed / 2:
        every = needed * sum(_effort(c) for c in candidates)
        raise clock.too_small(f"even the quickest trial takes about {needed:.0f} s here", every)


def _effort(candidate: TrialConfig) -> int:
    """Its share of the budget, relative to the others'."""
    return 1 if candidate.recipe.approach == "linear" else 4


# -------------------------------------------------------------------------------------------------------- the places
def _check_place(out: Path, data: Path) -> None:
    """Raise `WriteError` if the folder is a file, a run folder or in the data, or holds what no comparison wrote."""
    check_outside_run(out)
    if data.is_dir() and out.resolve().is_relative_to(data.resolve()):
        raise WriteError(
            f"{out}: lies inside the data ({data}), where the next training would take it for images.",
            hint=f"Choose an --out outside of it, such as {data.resolve().parent / 'comparison'}.",
        )
    if out.exists() and not out.is_dir():
        raise WriteError(f"{out}: is in the way: a folder is to be written there.", hint="Choose another --out.")
    if out.is_dir() and any(out.iterdir()) and not (out / "split.csv").is_file():
        raise WriteError(
            f"{out}: holds files that headstart did not write, so it is left alone.",
            hint="Choose another --out, or an empty folder.",
        )
