"""The trials of a comparison: the named recipes and backbones, and every pair of them that makes sense.

Names are resolved, and weights downloaded, before any long work. If more backbones are available than are worth a
trial, a subset of the images decides; only that costs more than milliseconds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from headstart.data.dataset import Dataset
from headstart.errors import RecipeError, near_names
from headstart.images.image_refs import Images
from headstart.io.files import sha256_bytes
from headstart.io.progress import log
from headstart.model.backbones.pool_downloads import candidates
from headstart.model.backbones.registry import Backbone, at_hand, find_backbone, without_weights
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.inference.engines import choose_runtime
from headstart.model.inference.features import FeatureExtractor, fitted_spec
from headstart.pipeline.approaches import APPROACHES
from headstart.pipeline.choose_backbones import choose_backbones, fitting_size
from headstart.pipeline.scan import ScannedDataset
from headstart.pipeline.trials import TrialConfig
from headstart.training.recipe import Recipe

TOP = 5
"""Number of available backbones to try if none are named; of more, the best by leave-one-out on a subset."""
DEFAULT = {"linear": Recipe(approach="linear"), "auto": Recipe()}
"""Without --recipes: linear on each backbone, then the default of `train`."""


def named_recipes(text: str) -> dict[str, Recipe]:
    """Return recipes by name; none if none were named. Raises `RecipeError`, with similar names."""
    from headstart.training.recipe_files import names, read_recipe

    found: dict[str, Recipe] = {}
    for word in _words(text):
        name = Path(word).stem if word.endswith(".toml") else word
        if name in found:
            raise RecipeError(
                f"recipes: {name!r} is named twice.", hint="Name each recipe once, and give files different names."
            )
        known = (*APPROACHES, *names())
        if word in APPROACHES:
            found[name] = Recipe(approach=word)
        elif word in known or word.endswith(".toml") or os.sep in word:
            found[name] = read_recipe(word)
        else:
            near = near_names(word, list(known))
            raise RecipeError(f"recipe {word!r} is not known: expected {', '.join(known)}, or a .toml file.", hint=near)
    return found


def named_backbones(text: str, recipes: Mapping[str, Recipe], weights: WeightsSource) -> list[str]:
    """Return the full names; find or download the weights before any long work. Raises `BackboneError`."""
    scratch = bool(recipes) and not any(APPROACHES[recipe.approach].pretrained for recipe in recipes.values())

    def full_name(word: str) -> str:
        if scratch:
            return without_weights(word).name
        return "+".join(find_backbone(w, weights).name for w in word.split("+"))

    return list(dict.fromkeys(full_name(word) for word in _words(text)))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def trial_configs(recipes: Mapping[str, Recipe], backbones: Sequence[str], seed: int) -> list[TrialConfig]:
    """Combine every recipe with every backbone, unless it names its own or (auto) chooses one; cheap approaches
    first. Raises `RecipeError` if two trials would have one name, and so one run folder."""
    found = []
    val_size, test_size = split_sizes(recipes)
    for name, recipe in recipes.items():
        recipe = replace(recipe, seed=seed, val_size=val_size, test_size=test_size)
        if recipe.backbone != "auto" or not backbones or (recipes is DEFAULT and name == "auto"):
            found.append(TrialConfig(name, name, replace(recipe, backbone=_with_tag(recipe.backbone, backbones))))
        else:
            found += [TrialConfig(f"{name}-{b}", name, replace(recipe, backbone=b)) for b in backbones]
    first: dict[str, str] = {}
    for config in found:
        other = first.setdefault(config.name.casefold(), config.recipe_name)
        if other != config.recipe_name:
            raise RecipeError(
                f"recipes: {other!r} and {config.recipe_name!r} give two trials called {config.name!r}.",
                hint="Rename the file of one of them.",
            )
    return sorted(found, key=lambda c: APPROACHES[c.recipe.approach].cost)


def split_sizes(recipes: Mapping[str, Recipe]) -> tuple[float, float]:
    """Return `val_size` and `test_size` of the split that all trials use: those of the recipes if they agree and keep a test
    set, else the defaults."""
    sizes = {(recipe.val_size, recipe.test_size) for recipe in recipes.values()}
    usual = (Recipe().val_size, Recipe().test_size)
    (found,) = sizes if len(sizes) == 1 else [usual]
    return found if found[1] else usual


def _with_tag(architecture: str, backbones: Sequence[str]) -> str:
    """Add the tag given in --backbones to the network that a recipe names (mobilenetv2_100)."""
    tagged = [name for name in backbones if name.partition(".")[0] == architecture]
    return tagged[0] if len(tagged) == 1 else architecture


def backbones_to_choose_from(
    recipes: Mapping[str, Recipe], given: Sequence[str], weights: WeightsSource, *, budget_seconds: float, images: int
) -> list[Backbone]:
    """Return the backbones for trials that name none; download some only if there is such a trial."""
    if recipes and (
        given or all(r.backbone != "auto" or not APPROACHES[r.approach].pretrained for r in recipes.values())
    ):
        return at_hand(weights)
    return candidates(weights, budget_seconds=budget_seconds, images=images)


def best_backbones(
    found: Sequence[Backbone], scanned: ScannedDataset, dataset: Dataset, seconds: float, seed: int
) -> list[str]:
    """Return the names of at most `TOP` backbones, those with the lowest log-loss on a subset."""
    if len(found) <= TOP:
        return [b.name for b in found]
    rows = dataset.sets.train_val
    log.info("%d backbones are available; selecting the best %d.", len(found), TOP)
    trained = scanned.images.take(dataset.sets.train)
    choice = choose_backbones(
        [fitted_extractor(b, trained) for b in found],
        scanned.images.take(rows),
        dataset.labels[rows],
        len(dataset.classes),
        choose_runtime(),
        seconds=seconds,
        others=scanned.images.take(np.setdiff1d(np.arange(len(dataset)), rows)),
        groups_N=dataset.groups[rows],
        seed=seed,
    )
    alone = {b.name for b in found}
    ranked = sorted((t for t in choice.trials if t.backbone in alone), key=lambda t: (-t.n_images, t.choosing_log_loss))
    return list(dict.fromkeys(t.backbone for t in ranked))[:TOP]


def weights_identity(found: Sequence[Backbone]) -> str:
    """Return a SHA-256 of the names and weights of all backbones that a trial may choose from."""
    return sha256_bytes("\n".join(sorted(f"{b.name} {b.sha256}" for b in found)).encode())


def fitted_extractor(backbone: Backbone, images: Images) -> FeatureExtractor:
    """Return the backbone as `train` will use it with these training images."""
    size = fitting_size(backbone.preprocess.image_size, images.sizes_N2.min(axis=1))
    return FeatureExtractor(backbone, fitted_spec(backbone, size, "auto", images.ranges))
