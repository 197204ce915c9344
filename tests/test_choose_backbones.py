"""Choosing backbones on small subsets, fitting heads on one or several, and the recipe that says how."""

from __future__ import annotations

import json
import math
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import headstart
from headstart.data.dataset import Dataset
from headstart.data.folds import stratified_order
from headstart.errors import BackboneError, RecipeError
from headstart.evaluation.image_groups import groups_of
from headstart.evaluation.probabilities import cross_entropies
from headstart.images.image_refs import Images
from headstart.images.preprocess import Preprocess
from headstart.io.files import sha256_bytes
from headstart.model.backbones.registry import Backbone, at_hand
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.inference.engines import choose_runtime, features_key
from headstart.model.inference.features import Embedder, FeatureExtractor, FeatureStore
from headstart.model.inference.runtime import Runtime
from headstart.pipeline.choose_backbones import (
    Choice,
    beginning,
    choose_backbones,
    compiled_within,
    fitting_size,
)
from headstart.pipeline.combine import (
    Probe,
    choose_members,
    fit_weights,
    may_gain,
    probe,
    probe_poolings,
)
from headstart.pipeline.fit import ResolvedBackbones, choose_extractors
from headstart.pipeline.fit_heads import block_scale, fit_best_head
from headstart.pipeline.fit_task import FitTask
from headstart.pipeline.trial_configs import fitted_extractor
from headstart.training.recipe import Recipe, seconds

PLAN = Runtime("openvino", "cpu", "f32", 8)
BACKBONE = Backbone("net.a", "net", (), "folder", Path("net.safetensors"), "ab" * 32, Preprocess(), "mit", 8, "here")


def clouds(n: int, dim: int, classes: int, seed: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Features of `classes` Gaussian clouds, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    return (centres[labels] + spread * rng.normal(size=(n, dim))).astype(np.float32), labels


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 5))
def test_every_beginning_holds_the_classes_in_proportion(labels: list[int], seed: int) -> None:
    labels_N = np.array(labels)
    order = stratified_order(labels_N, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    for n in range(1, len(labels) + 1):
        for label in set(labels):
            expected = n * (labels_N == label).mean()
            assert abs((labels_N[order[:n]] == label).sum() - expected) <= 1 + len(set(labels)) / 2


@given(st.integers(32, 512), st.lists(st.integers(1, 2000), min_size=1, max_size=9))
def test_images_are_never_enlarged_much_nor_the_input_beyond_the_backbones_own(native: int, sides: list[int]) -> None:
    size = fitting_size(native, np.array(sides))
    assert size <= native
    assert size == native or size % 32 == 0
    assert size <= max(64, 1.5 * float(np.median(sides)) + 32)


def test_only_training_images_decide_on_the_input_size() -> None:
    """Large images in the test set make it no larger, nor do those in the validation set."""
    split = np.array(["train"] * 4 + ["val"] * 4 + ["test"] * 4)
    images = Images.inspect([np.zeros((side, 100, 3), np.uint8) for side in [100] * 4 + [60] * 4 + [900] * 4])
    names = tuple(f"{i}.jpg" for i in range(12))
    dataset = Dataset(Path("photos"), names, np.arange(12) % 2, ("a", "b"), split, np.arange(12))

    def size(sets: Dataset) -> int:
        task = FitTask(sets, images, Recipe(approach="linear"), PLAN)
        (extractor,), _ = choose_extractors(task, ResolvedBackbones((BACKBONE,), PLAN))
        return extractor.spec.image_size

    assert size(dataset) == 160
    assert size(replace(dataset, split=np.array(["val"] * 4 + ["train"] * 4 + ["test"] * 4))) == 96


def test_the_backbone_that_tells_the_classes_apart_is_chosen(
    photos: Path, tiny_weights: Path, own_cache: Path, warm_cache: Path
) -> None:
    shutil.copytree(warm_cache, own_cache, dirs_exist_ok=True)
    files = sorted(photos.rglob("*.jpg"))
    labels = np.array([int(f.parent.name[-1]) for f in files])
    views = [FeatureExtractor(b, b.preprocess) for b in at_hand(WeightsSource(folder=tiny_weights))]
    arguments = (Images.inspect(files), labels, 3, choose_runtime("cpu"))
    choice = choose_backbones(views, *arguments, seconds=1e9)
    losses = {t.backbone: t.loo_log_loss for t in choice.trials}
    assert losses[choice.extractors[0].backbone.name] == min(losses.values())
    hurried = choose_backbones(views, *arguments, seconds=0.0)
    assert hurried.extractors == choice.extractors[:1]


def test_what_is_in_the_cache_does_not_hide_what_the_others_cost(
    photos: Path, tiny_weights: Path, own_cache: Path, warm_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network takes a second for an image. The second search finds all images that it looks at in the cache."""
    shutil.copytree(warm_cache, own_cache, dirs_exist_ok=True)
    now = 0.0

    class Slow(Embedder):
        def __call__(self, images: Images) -> tuple[list[np.ndarray], dict[int, str]]:
            nonlocal now
            before, found = self.computed, super().__call__(images)
            now += self.computed - before
            return found

    monkeypatch.setattr("headstart.pipeline.choose_backbones.Embedder", Slow)
    monkeypatch.setattr("headstart.pipeline.choose_backbones.choose_members", lambda probes, *_: probes)
    files = sorted(photos.rglob("*.jpg"))
    labels = np.array([int(f.parent.name[-1]) for f in files])
    views = [FeatureExtractor(b, b.preprocess) for b in at_hand(WeightsSource(folder=tiny_weights))]
    arguments = (views, Images.inspect(files), labels, 3, choose_runtime("cpu"))
    others = Images.inspect([np.full((60, 80, 3), n, np.uint8) for n in range(100)])
    first = choose_backbones(*arguments, seconds=84 + 150, others=others, clock=lambda: now)
    assert (now, len(first.extractors)) == (84, 1)
    again = choose_backbones(*arguments, seconds=64 + 130, others=others, clock=lambda: now)
    assert (now, again.extractors) == (84 + 64, first.extractors)  # of 32 images that both had to embed
    both = choose_backbones(*arguments, seconds=64 + 130, others=others.take(range(32)), clock=lambda: now)
    assert (now, len(both.extractors)) == (84 + 64, 2)


def chosen(features: list[np.ndarray], labels: np.ndarray, *, budget: float = 1e9, part_for_all: float = 0.0) -> Choice:
    """The choice among candidates whose features are in the cache already, in the order of `features`."""
    sha256s = [sha256_bytes(str(i).encode()) for i in range(len(labels))]
    views = [
        FeatureExtractor(replace(BACKBONE, name=f"net.{i}", sha256=f"{i:064x}"), Preprocess())
        for i in range(len(features))
    ]
    for view, values in zip(views, features, strict=True):
        FeatureStore(features_key(view.backbone, view.spec, PLAN)).keep(
            [bytes.fromhex(s) for s in sha256s], values, values.shape[1:]
        )
    files = [Path(f"{i}.jpg") for i in range(len(labels))]
    classes = int(labels.max()) + 1
    return choose_backbones(
        views,
        Images.recorded(files, sha256s),
        labels,
        classes,
        PLAN,
        seconds=budget,
        part_for_all=part_for_all,
    )


def made_dataset(labels_N: np.ndarray, train_N: np.ndarray) -> Dataset:
    """Three classes; what is not for training is for validation."""
    paths, split = tuple(f"{i}.jpg" for i in range(len(labels_N))), np.where(train_N, "train", "val")
    return Dataset(Path("photos"), paths, labels_N, ("a", "b", "c"), split, np.arange(len(labels_N)))


def names(choice: Choice) -> list[str]:
    return [view.backbone.name for view in choice.extractors]


@pytest.mark.parametrize("candidates", [4, 5, 8, 13])
def test_the_best_is_found_with_a_quarter_of_the_images_and_the_second_is_what_adds_to_it(candidates: int) -> None:
    spreads = [3.5, 3.0, 3.2, *np.linspace(6, 20, candidates - 3)]
    made = [clouds(700, 20, 3, seed, spread) for seed, spread in enumerate(spreads)]
    features, labels = [x for x, _ in made], made[0][1]
    noise = np.random.default_rng(0).normal(size=features[1].shape)
    features[2] = (features[1] + noise).astype(np.float32)  # better than net.0, but it errs as the best one does
    choice = chosen(features, labels)
    images = {t.backbone: t.n_images for t in choice.trials if "+" not in t.backbone}  # of each one's last stage
    assert names(choice)[:2] == ["net.1", "net.0"]
    assert "net.2" not in names(choice)
    assert len(images) == candidates
    assert sum(images.values()) <= 0.25 * 700 * candidates
    assert sorted(images.values())[-4:] == [max(images.values())] * 4


def test_when_time_is_short_the_first_stage_decides() -> None:
    made = [clouds(700, 20, 3, seed, spread) for seed, spread in enumerate((9.0, 2.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0))]
    choice = chosen([x for x, _ in made], made[0][1], budget=0.0)
    assert names(choice) == ["net.1"]
    assert len({t.n_images for t in choice.trials}) == 1


def test_networks_that_there_is_no_time_to_compile_are_not_tried(
    tiny_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = at_hand(WeightsSource(folder=tiny_weights, offline=True))
    extractors = [FeatureExtractor(backbone, backbone.preprocess) for backbone in found]
    assert len(extractors) == 2
    moments = iter(range(0, 1_000, 10))
    with caplog.at_level("INFO", logger="headstart"):
        ready = compiled_within(5.0, extractors, choose_runtime("cpu"), clock=lambda: next(moments))
    assert len(ready) == 1
    (left,) = [extractor for extractor in extractors if extractor not in ready]
    assert caplog.messages[-1] == (
        f"The budget leaves no time to compile {left.backbone.name} for this machine; not tried."
    )
    assert compiled_within(5.0, ready, choose_runtime("cpu")) == ready  # no time is needed for what is cached
    assert compiled_within(1e9, extractors, choose_runtime("cpu")) == extractors


def test_where_time_allows_the_better_half_sees_all_images() -> None:
    made = [clouds(700, 20, 3, seed, spread) for seed, spread in enumerate((9.0, 2.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0))]
    choice = chosen([x for x, _ in made], made[0][1], part_for_all=1.0)
    assert list(dict.fromkeys(t.n_images for t in choice.trials))[1:] == [700]
    assert len({t.backbone for t in choice.trials if t.n_images == 700}) == 4


def test_a_class_of_three_images_among_a_thousand_is_not_missed() -> None:
    made = [clouds(2000, 10, 2, seed, spread) for seed, spread in enumerate((2.0, 0.5, 2.0, 2.0))]
    keep = (made[0][1] == 0) | (np.arange(2000) < 6)
    labels = made[0][1][keep]
    assert names(chosen([x[keep] for x, _ in made], labels))[0] == "net.1"
    assert np.bincount(labels[beginning(stratified_order(labels, 0), labels, 100)]).tolist() == [100, 2]


def test_of_few_images_all_are_used() -> None:
    made = [clouds(60, 20, 3, seed, 1.0 + seed) for seed in range(2)]
    choice = chosen([x for x, _ in made], made[0][1])
    assert names(choice)[0] == "net.0"
    assert [t.n_images for t in choice.trials] == [60, 60]
    assert chosen([made[0][0]], made[0][1]).trials == ()


def probed(
    features: list[np.ndarray], labels: np.ndarray, block_sizes: tuple[int, ...] = (), groups: np.ndarray | None = None
) -> list[Probe]:
    """A probe of each extractor's features."""
    extractors = [FeatureExtractor(replace(BACKBONE, name=f"net.{i}"), Preprocess()) for i in range(len(features))]
    return [
        probe(extractor, x, block_sizes or x.shape[1:], labels, int(labels.max()) + 1, groups_N=groups)
        for extractor, x in zip(extractors, features, strict=True)
    ]


def test_a_backbone_that_recognises_the_patient_is_not_the_best() -> None:
    """Sixty patients with eight images each: the first features tell patients apart, the second a little about the class."""
    rng, patients = np.random.default_rng(0), np.repeat(np.arange(60), 8)
    labels = (np.arange(60) % 3)[patients]
    of_patients = (3 * rng.normal(size=(60, 40))[patients] + rng.normal(size=(480, 40))).astype(np.float32)
    of_classes = (np.eye(3)[labels] @ rng.normal(size=(3, 40)) / 6 + rng.normal(size=(480, 40))).astype(np.float32)
    one, other = probed([of_patients, of_classes], labels)
    assert one.log_loss < other.log_loss
    one, other = probed([of_patients, of_classes], labels, groups=patients)
    assert other.log_loss < 0.9 * one.log_loss
    assert one.log_loss > 0.95 * np.log(3)  # no better than guessing
    assert one.row().loo_log_loss == one.log_loss == one.row().choosing_log_loss
    alone = probed([of_classes], labels, groups=np.arange(480))[0]
    assert alone.log_loss == probed([of_classes], labels)[0].log_loss


def test_images_of_a_class_in_one_group_are_not_scored() -> None:
    """No model without the group knows the class, so these images would add the same large loss to all candidates."""
    x, labels = clouds(120, 6, 3, seed=0, spread=1.0)
    groups = np.where(labels == 2, 1000, np.arange(120))
    (found,) = probed([x], labels, groups=groups)
    assert found.scored_S.tolist() == np.flatnonzero(labels != 2).tolist()
    assert len(found.logits_SK) == found.row().n_images == (labels != 2).sum()
    assert choose_members([found], labels, groups) == [found]
    (in_one,), (alone,) = probed([x], labels, groups=labels), probed([x], labels)  # no class is in two groups
    assert in_one.log_loss == alone.log_loss < 0.9 * np.log(3)


@pytest.mark.parametrize("lone", [0, 2])
def test_a_class_that_is_one_group_is_judged_by_the_head_of_the_training_set(lone: int) -> None:
    """Its images are in one fold, so that cross-validation cannot score them."""
    x, labels = clouds(90, 12, 3, seed=0, spread=3.0)
    groups, numbers = np.arange(90), tuple(map(str, range(90)))
    groups[labels == lone] = 1000
    split = np.where(np.arange(90) % 9 < 3, "val", "train")
    dataset = Dataset(Path("photos"), numbers, labels, ("a", "b", "c"), split, groups)
    extractor = FeatureExtractor(BACKBONE, BACKBONE.preprocess)
    found = fit_best_head(extractor, x, [12], dataset, Recipe())
    val = dataset.sets.val
    of_lone = labels[val] == lone
    assert 0 < of_lone.sum() < len(val)
    assert np.array_equal(found.val_logits_NK[of_lone], found.head.logits(x[val])[of_lone])
    assert not np.array_equal(found.val_logits_NK[~of_lone], found.head.logits(x[val])[~of_lone])


def test_a_second_backbone_is_combined_when_it_adds_something_and_only_then() -> None:
    first, labels = clouds(600, 20, 3, seed=0, spread=3.0)
    second, _ = clouds(600, 20, 3, seed=1, spread=3.0)  # the same clouds, other noise
    noise = np.random.default_rng(2).normal(size=(600, 20)).astype(np.float32)
    probes = probed([first, second, noise], labels)
    members = choose_members(probes, labels)
    assert {p.extractor.backbone.name for p in members} == {"net.0", "net.1"}
    weights = fit_weights([p.logits_SK for p in members], labels)
    assert min(weights) > 0.3 * sum(weights)


def test_few_images_cannot_rule_out_a_second_backbone() -> None:
    """The second one says little: 1,000 images show that it does not lower the log-loss by 2 %, and 50 do not."""
    taken = []
    for images in (50, 1000):
        rng, labels = np.random.default_rng(0), np.arange(images) % 2
        margins = [np.where(labels == 1, 1, -1) * rng.normal(mean, 1.5, images) for mean in (1.0, 0.2)]
        made = probed([each[:, None].astype(np.float32) for each in margins], labels)
        logits = [np.stack([-each, each], 1).astype(np.float32) / 2 for each in margins]
        probes = [replace(p, logits_SK=x) for p, x in zip(made, logits, strict=True)]
        taken.append(len(choose_members(probes, labels)))
    assert taken == [2, 1]


def test_a_gain_may_be_there_within_one_standard_error() -> None:
    gain_N = np.repeat(np.tile([0.3, -0.3], 10), 5)  # twenty groups of five images
    assert may_gain(gain_N, 1.0)
    steady_N = np.full(100, 0.015)
    assert not may_gain(steady_N, 1.0)
    mixed_N = gain_N / 3 + 0.001  # 0.001 on average; its standard error is 0.010 over images, and 0.022 over groups
    assert not may_gain(mixed_N, 1.0)
    assert may_gain(mixed_N, 1.0, groups_of(np.arange(100) // 5))


def test_weights_lower_the_log_loss_and_do_not_depend_on_the_order() -> None:
    made = [clouds(400, 20, 3, seed, spread) for seed, spread in enumerate((3.0, 4.0, 6.0))]
    labels = made[0][1]
    logits = [p.logits_SK for p in probed([x for x, _ in made], labels)]
    weights = fit_weights(logits, labels)
    combined = cross_entropies(sum(w * z for w, z in zip(weights, logits, strict=True)), labels).mean()
    alone = [cross_entropies(z, labels).mean() for z in logits]
    assert combined < min(alone)
    assert combined < cross_entropies(np.sum(logits, axis=0), labels).mean()
    np.testing.assert_allclose(fit_weights(logits[::-1], labels)[::-1], weights, rtol=1e-3)


def test_a_small_block_is_heard_beside_a_wide_one() -> None:
    useful, labels = clouds(300, 4, 3, seed=0, spread=0.5)
    wide = 100 * np.random.default_rng(1).normal(size=(300, 200)).astype(np.float32)
    joined = np.concatenate([wide, useful], axis=1)
    (found,) = probed([joined], labels, (200, 4))
    (one_block,) = probed([joined], labels)
    assert found.log_loss < 0.1 * one_block.log_loss
    scaled = joined * block_scale(joined, (200, 4))
    assert scaled[:, :200].var(0).sum() == pytest.approx(scaled[:, 200:].var(0).sum(), rel=1e-3)


def test_features_of_all_stages_are_used_where_they_clearly_help() -> None:
    useful, labels = clouds(300, 8, 3, seed=0, spread=2.0)
    stage, _ = clouds(300, 4, 3, seed=1, spread=2.0)
    noise = np.random.default_rng(1).normal(size=(300, 4)).astype(np.float32)
    extractor = FeatureExtractor(BACKBONE, Preprocess(), "stages")

    def order(extra: np.ndarray, pooling: str) -> list[str]:
        joined = np.concatenate([useful, extra], axis=1)
        return [p.extractor.pooling for p in probe_poolings(extractor, joined, (8, 4), labels, 3, pooling=pooling)]

    assert order(stage, "auto") == ["stages", "last"]
    assert order(noise, "auto") == ["last", "stages"]
    assert (order(stage, "last"), order(noise, "stages")) == (["last"], ["stages"])


def test_the_score_is_low_for_separate_classes_and_chance_for_noise() -> None:
    x, y = clouds(120, 30, 3, seed=0, spread=0.3)
    (found,) = probed([x], y)
    assert (found.log_loss < 0.1, found.accuracy) == (True, 1.0)
    (lost,) = probed([np.random.default_rng(0).normal(size=(120, 30)).astype(np.float32)], y)
    assert lost.log_loss == pytest.approx(math.log(3), abs=0.15)


def test_probing_holds_the_logits_of_one_strength_at_a_time() -> None:
    """All seven at once took 141 bytes for each of images x classes, and each probe kept 8: 7 GB for 50,000 x 1,000."""
    x, y = clouds(4000, 16, 200, seed=0)
    tracemalloc.start()
    try:
        (found,) = probed([x], y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50 * 4000 * 200
    assert found.logits_SK.nbytes == 4 * 4000 * 200


VARIANTS = st.fixed_dictionaries(
    {
        "weights": st.sampled_from(["ab" * 32, "cd" * 32]),
        "architecture": st.sampled_from(["net", "net2"]),
        "args": st.sampled_from([(), (("pad_type", "same"),)]),
        "size": st.sampled_from([64, 96]),
        "crop_pct": st.sampled_from([0.875, 1.0]),
        "precision": st.sampled_from(["f32", "bf16"]),
    }
)


@given(VARIANTS, VARIANTS)
def test_cache_keys_are_equal_when_all_that_features_depend_on_is(one: dict, other: dict) -> None:
    assert (key_of(one) == key_of(other)) == (one == other)


def key_of(v: dict) -> str:
    """The key of a variant's features; the backbone's name and place must not matter."""
    backbone = Backbone(
        str(np.random.random()),
        v["architecture"],
        v["args"],
        "file",
        Path(str(np.random.random())),
        v["weights"],
        Preprocess(),
        "mit",
        None,
        "anywhere",
    )
    spec = Preprocess(image_size=v["size"], crop_pct=v["crop_pct"])
    return features_key(backbone, spec, replace(PLAN, precision=v["precision"]))


def test_a_recipe_comes_back_from_its_own_dictionary() -> None:
    recipe = Recipe(backbone="resnet34", budget="2h", seed=7)
    assert Recipe.from_dict(recipe.as_dict()) == recipe


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("2m", 120), ("1.5h", 5400)])
def test_budgets_are_times(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"head": "rigde"},
            "head 'rigde' is not known: expected auto, ridge, lda, logistic, blend, ncm.\n  Did you mean 'ridge'?",
        ),
        ({"budget": "soon"}, "budget 'soon' is not a time: expected a number and s, m or h.\n  For example 2m or 2h."),
        ({"val_size": 1.5}, "val_size 1.5 cannot be used: expected a fraction between 0 and 1, such as 0.2."),
        ({"image_size": 4}, "image_size 4 cannot be used: expected 8 to 4096 pixels, 0 or -1."),
    ],
)
def test_options_that_cannot_work_say_what_can(options: dict, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        Recipe(**options)
    assert str(error.value) == message


def saved(folder: Path, name: str, size: int = 64, **model_args: object) -> None:
    """A network of timm with random weights, in a weights folder."""
    import timm
    from safetensors.torch import save_file

    architecture = name.partition(".")[0]
    model = timm.create_model(architecture, num_classes=0, **model_args)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / f"{name}.safetensors")
    cfg = {"input_size": [3, size, size], "mean": [0.5] * 3, "std": [0.25] * 3}
    described = {"architecture": architecture, "model_args": model_args, "pretrained_cfg": cfg}
    (folder / f"{name}.json").write_text(json.dumps(described))


SMALL_NET = {"embed_dim": 16, "img_size": 64}


@pytest.fixture(scope="module")
def some_unusable(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Path:
    """A weights folder of four, of which one can be used for small images."""
    folder = tmp_path_factory.mktemp("some") / "weights"
    folder.mkdir()
    for file in tiny_weights.glob("test_resnet.a.*"):
        shutil.copy(file, folder)
    saved(folder, "deit_tiny_distilled_patch16_224.two_in1k", **SMALL_NET, depth=1, num_heads=2)
    saved(folder, "mixer_s32_224.fixed_in1k", 224, mlp_ratio=(0.02, 0.02))
    shutil.copy(folder / "test_resnet.a.safetensors", folder / "test_resnet9.new_in1k.safetensors")
    described = (folder / "test_resnet.a.json").read_text()
    (folder / "test_resnet9.new_in1k.json").write_text(described.replace("test_resnet", "test_resnet9"))
    return folder


def unusable(folder: Path) -> dict[str, str]:
    """Why three of the four cannot be used, by name."""
    return {
        "deit_tiny_distilled_patch16_224.two_in1k": "deit_tiny_distilled_patch16_224.two_in1k: ends in "
        "('head', 'head_dist'), but headstart can only replace a single last layer.",
        "mixer_s32_224.fixed_in1k": "mixer_s32_224.fixed_in1k: cannot run at 96 px: it takes images of 224 px only.",
        "test_resnet9.new_in1k": "test_resnet9.new_in1k: timm has no architecture 'test_resnet9'.",
    }


def fitted_to(images: Images, folder: Path) -> list[FeatureExtractor]:
    return [fitted_extractor(backbone, images) for backbone in at_hand(WeightsSource(folder=folder, offline=True))]


def test_weights_that_cannot_be_used_are_left_out_of_the_choice(
    photos: Path, some_unusable: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = sorted(photos.rglob("*.jpg"))
    labels, images = np.array([int(file.parent.name[-1]) for file in files]), Images.inspect(files)
    extractors = [
        replace(each, spec=replace(each.spec, image_size=96)) if "mixer" in str(each) else each
        for each in fitted_to(images, some_unusable)
    ]
    runtime = choose_runtime("cpu")
    with caplog.at_level("INFO", logger="headstart"):
        choice = choose_backbones(extractors, images, labels, 3, runtime, seconds=1e9)
    assert names(choice) == ["test_resnet.a"]
    why = [f"Not tried: {reason}" for reason in unusable(some_unusable).values()]
    assert [message for message in caplog.messages if message.startswith("Not tried")] == why
    caplog.clear()
    with caplog.at_level("INFO", logger="headstart"):
        ready = compiled_within(1e9, extractors, runtime)
    assert [each.backbone.name for each in ready] == ["test_resnet.a"]
    assert sorted(message for message in caplog.messages if message.startswith("Not tried")) == sorted(why)


def test_where_no_weights_can_be_used_the_first_error_is_raised(photos: Path, some_unusable: Path) -> None:
    files = sorted(photos.rglob("*.jpg"))
    labels, images = np.array([int(file.parent.name[-1]) for file in files]), Images.inspect(files)
    extractors = [each for each in fitted_to(images, some_unusable) if "in1k" in each.backbone.name]
    runtime = choose_runtime("cpu")
    for attempt in (
        lambda: choose_backbones(extractors, images, labels, 3, runtime, seconds=1e9),
        lambda: compiled_within(1e9, extractors, runtime),
    ):
        with pytest.raises(BackboneError) as error:
            attempt()
        assert error.value.message in unusable(some_unusable).values()


def test_training_and_checking_do_without_weights_that_cannot_be_used(
    photos: Path, some_unusable: Path, tmp_path: Path
) -> None:
    recipe = Recipe(approach="linear")
    result = headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=some_unusable, report=False)
    assert [member.extractor.backbone.name for member in result.classifier.members] == ["test_resnet.a"]
    assert headstart.check(photos, labels=True, weights=some_unusable).label_errors is not None


def test_embedding_takes_the_first_weights_that_can_be_used(
    photos: Path, some_unusable: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    before_it = {name: why for name, why in unusable(some_unusable).items() if name < "test_resnet.a"}
    with caplog.at_level("INFO", logger="headstart"):
        for more in ({}, {"shards": tmp_path / "parts"}):
            caplog.clear()
            made = headstart.embed(photos, image_size=96, weights=some_unusable, **more)
            said = [message for message in caplog.messages if message.startswith("Not tried")]
            assert said == [f"Not tried: {why}" for why in before_it.values()]
    plan, features = (
        json.loads((tmp_path / "parts" / "_plan.json").read_text()),
        headstart.embed(photos, backbone="test_resnet.a", image_size=96, weights=some_unusable).features,
    )
    assert plan["model"]["backbone"] == features.backbone == "test_resnet.a"
    assert made.errors == {}


def test_embedding_without_usable_weights_says_why_the_first_cannot_be_used(
    photos: Path, some_unusable: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(some_unusable, tmp_path / "weights"))
    for file in folder.glob("test_resnet.a.*"):
        file.unlink()
    with pytest.raises(BackboneError) as error:
        headstart.embed(photos, image_size=96, weights=folder)
    assert error.value.message == next(iter(unusable(folder).values()))
