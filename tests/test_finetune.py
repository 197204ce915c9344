"""Training by gradient descent from end to end: each approach, interruption, and what a run folder says of it."""

from __future__ import annotations

import html
import itertools
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import headstart
from conftest import draw, write_photos
from headstart.data.dataset import Dataset
from headstart.errors import RecipeError, TrainingFailed, UnfinishedTraining
from headstart.evaluation.calibration import fit_temperature
from headstart.evaluation.image_groups import groups_of
from headstart.evaluation.probabilities import cross_entropies
from headstart.images.image_refs import Images
from headstart.io.field_docs import field_texts
from headstart.io.files import read_csv, scratch_array
from headstart.model.backbones.cut_network import cut, survey
from headstart.model.backbones.registry import find_backbone, without_weights
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.heads.linear_layer import LinearLayer
from headstart.model.inference.features import FeatureExtractor, embed_images
from headstart.model.inference.runtime import Runtime
from headstart.pipeline import approaches, fit
from headstart.pipeline.approaches import (
    finetune_approach,
    head_sgd_approach,
    linear_approach,
    scratch_approach,
)
from headstart.pipeline.approaches.linear_approach import starting_layer
from headstart.pipeline.candidates import Candidate, weighed
from headstart.pipeline.choose_backbones import Choice, choose_backbones
from headstart.pipeline.combine import fit_weights, is_clear_gain
from headstart.pipeline.fit import resolve_backbones
from headstart.pipeline.fit_task import FitTask
from headstart.pipeline.two_inputs import with_two_inputs
from headstart.runs.run_folder import RunFolder
from headstart.training.batches import Batch
from headstart.training.bf16_conv import lighten
from headstart.training.checkpoint import Checkpoint, Snapshot
from headstart.training.finetune import between, finetune
from headstart.training.pacing import Deadline
from headstart.training.passes import Passes, StepPlan, StepResult
from headstart.training.prepare import (
    CutNetwork,
    Plan,
    TrainingData,
    build_network,
    check_mixing,
    cut_network,
    parameter_groups,
    train_one_unit,
)
from headstart.training.recipe import APPROACHES as NAMES

QUICK = {"epochs": 2, "lr": 1e-3, "batch_size": 8}
APPROACHES = {
    "finetune": {"approach": "finetune", "backbone": "test_resnet.a"},
    "finetune, two stages, gradually": {
        "approach": "finetune",
        "backbone": "test_resnet.a",
        "unfreeze": "gradual",
        "layer_decay": 0.5,
    },
    "finetune, batches of mixed activations": {
        "approach": "finetune",
        "backbone": "test_resnet.a",
        "cutmix": 1.0,
        "mixup": 0.2,
    },
    "finetune, all of it": {"approach": "finetune", "backbone": "test_efficientnet.b", "unfreeze": "all"},
    "frozen": {"approach": "head_sgd", "backbone": "test_resnet.a", "hidden_layer_sizes": "16", "dropout": 0.2},
    "frozen, varied": {"approach": "head_sgd", "backbone": "test_resnet.a", "augment": "flip,shift=0.2", "tta": "flip"},
    "frozen, one sigmoid unit's loss": {"approach": "head_sgd", "backbone": "test_resnet.a", "optimizer": "rmsprop"},
    "scratch": {"approach": "scratch", "image_size": 48},
    "scratch, one of timm's": {
        "approach": "scratch",
        "backbone": "test_resnet",
        "image_size": 64,
        "model_ema_decay": 0.9,
    },
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks are slower on two threads, and results do not depend on the machine's load."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cache(own_cache: Path, warm_cache: Path) -> Path:
    """This test's cache, with the tiny backbones compiled."""
    shutil.copytree(warm_cache, own_cache, dirs_exist_ok=True)
    return own_cache


@pytest.mark.parametrize("options", APPROACHES.values(), ids=APPROACHES.keys())
def test_approach(options: dict[str, object], photos: Path, tiny_weights: Path, cache: Path, tmp_path: Path) -> None:
    """It trains, saves, predicts what timm predicts from its folder, and does the same again."""
    recipe = headstart.Recipe(**QUICK, **options)
    run = headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    folder = tmp_path / "run"
    assert {"epochs.csv", "steps.csv", "training_images.png", "model.safetensors"} <= {p.name for p in folder.iterdir()}
    assert [row["epoch"] for row in read_csv(folder / "epochs.csv")] == ["0", "1"]
    assert not (tmp_path / "run.unfinished").exists()
    known = RunFolder(folder).provenance
    assert known.tuned is not None and known.approach == known.tuned.approach == options["approach"]
    images = sorted(photos.rglob("*.jpg"))[:8]
    predictions = headstart.predict(folder, *images).predictions
    if recipe.tta == "none":
        logits_NK = _by_timm(folder, images)
        assert np.abs(logits_NK - predictions.logits).max() <= 0.05 * max(1.0, np.abs(logits_NK).max())  # bf16
    again = headstart.reproduce(folder, weights=tiny_weights)
    assert again.same, again.table()
    assert run.test["accuracy"].n > 0


def _by_timm(folder: Path, images: list[Path]) -> np.ndarray:
    import timm

    import headstart.model.backbones.networks
    from headstart.images.preprocess import read_pixels

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    (part,) = headstart.load_classifier(folder).members
    spec = part.extractor.spec
    pixels = np.stack([read_pixels(p, spec) for p in images])
    scaled = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - torch.tensor(spec.mean).reshape(3, 1, 1)) / (
        torch.tensor(spec.std).reshape(3, 1, 1)
    )
    with torch.no_grad():
        logits: np.ndarray = model(scaled).numpy()
    return logits


@pytest.mark.parametrize("head_init", ["linear", "random"])
def test_wise_zero_is_the_frozen_network(
    head_init: str, photos: Path, tiny_weights: Path, cache: Path, tmp_path: Path
) -> None:
    options = {"backbone": "test_resnet.a", "precision": "f32", "val_size": 0.3, "head_init": head_init}
    for approach, more in (("linear", {}), ("finetune", {**QUICK, "wise_ft": "0"})):
        recipe = headstart.Recipe(approach=approach, **options, **more)
        headstart.train(photos, out=tmp_path / approach, recipe=recipe, weights=tiny_weights)
    frozen, tuned = (
        headstart.load_classifier(tmp_path / a).members[0].extractor.backbone for a in ("linear", "finetune")
    )
    assert _tensors(frozen.weights) == _tensors(tuned.weights)
    made = RunFolder(tmp_path / "finetune").provenance
    assert made.tuned is not None and made.tuned.wise_ft == 0


@pytest.mark.parametrize("approach", ["finetune", "auto"])
def test_hidden_layers_start_at_random(
    approach: str, photos: Path, tiny_weights: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The layer fitted on the backbone's features does not fit behind them. The run folder says so."""
    caplog.set_level("INFO", "headstart")
    recipe = headstart.Recipe(approach=approach, backbone="test_resnet.a", hidden_layer_sizes="16", **QUICK)
    headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    assert (
        "The last layers start from random weights (head_init random), because there are hidden layers."
        in caplog.messages
    )
    made = RunFolder(tmp_path / "run").provenance
    assert (made.tuned or made.attempt) is not None
    if approach == "finetune":
        assert made.recipe.head_init == "random"
        again = headstart.reproduce(tmp_path / "run", weights=tiny_weights)
        assert again.same, again.table()


@pytest.mark.parametrize("head", ["ncm", "lda", "ridge", "logistic"])
def test_starts_from_log_odds_whatever_the_head(head: str, tiny_weights: Path) -> None:
    """Distances to class means, say, are tens of times too large for cross-entropy: it began at several nats."""
    rng = np.random.default_rng(0)
    labels = np.arange(150) % 3
    features = (rng.normal(size=(150, 1280)) + 0.1 * labels[:, None]).astype(np.float32)
    split = np.where(np.arange(150) < 100, "train", "val")
    names = tuple(f"{i}.jpg" for i in range(150))
    dataset = Dataset(Path("photos"), names, labels, ("a", "b", "c"), split, np.arange(150))
    backbone = find_backbone("test_resnet.a", WeightsSource(folder=tiny_weights))
    view, recipe = FeatureExtractor(backbone, backbone.preprocess), headstart.Recipe(head=head)
    task = FitTask(dataset, Images((), ()), recipe, Runtime("openvino", "cpu", "f32", 8))
    held = split == "val"
    logits_NK = starting_layer(task, features, view)(features[held])
    assert fit_temperature(logits_NK, labels[held]) == pytest.approx(1.0, rel=1e-2)


def _tensors(file: Path | None) -> dict[str, bytes]:
    from safetensors.numpy import load_file

    assert file is not None
    return {name: array.tobytes() for name, array in load_file(file).items() if not name.startswith("fc.")}


def test_between_has_the_end_points_to_the_bit() -> None:
    torch.manual_seed(0)
    before, after = nn.BatchNorm2d(4).state_dict(), nn.BatchNorm2d(4).state_dict()
    after["weight"] = torch.randn(4)
    after["num_batches_tracked"] = torch.tensor(7)
    for part, expected in ((0.0, before), (1.0, after)):
        found = between(before, after, part)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert between(before, after, 0.5)["num_batches_tracked"] == 7


class Stopped(Exception):
    pass


@contextmanager
def stopped_at_step(number: int) -> Iterator[None]:
    """Stop the training inside the block before that step (from 1), after a snapshot of each step."""
    gradient, taken = Passes.gradient, list[int]()

    def stopping(self: Passes, batches: list[Batch], at: StepPlan, optimizer: torch.optim.Optimizer) -> StepResult:
        taken.append(1)
        if len(taken) == number:
            raise Stopped
        return gradient(self, batches, at, optimizer)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Passes, "gradient", stopping)
        patched.setattr(Checkpoint, "due", lambda *_, **__: True)  # these steps are too short to be saved otherwise
        yield


def test_interrupted_training_goes_on(
    photos: Path, tiny_weights: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped in the second epoch, gone on with by the same command: equal weights. Another recipe is refused."""
    recipe = headstart.Recipe(approach="finetune", backbone="test_resnet.a", **QUICK)
    headstart.train(photos, out=tmp_path / "whole", recipe=recipe, weights=tiny_weights)
    with stopped_at_step(5), pytest.raises(Stopped):
        headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    assert (tmp_path / "run.unfinished").is_file() and not (tmp_path / "run").exists()
    other = headstart.Recipe(approach="finetune", backbone="test_resnet.a", lr=1e-3, batch_size=9)
    with pytest.raises(UnfinishedTraining) as refused:
        headstart.train(photos, out=tmp_path / "run", recipe=other, weights=tiny_weights)
    assert str(refused.value) == (
        f"{tmp_path / 'run.unfinished'}: an unfinished training run is in the way, and this one differs from it:\n"
        "    batch_size: was 8, is 9\n"
        "    epochs: was 2, is the default (0)\n"
        "  Repeat the earlier command to resume it, or add --restart to discard it."
    )
    caplog.set_level("INFO", logger="headstart")
    with pytest.raises(UnfinishedTraining, match="approach: was finetune, is linear\n"):
        linear = headstart.Recipe(approach="linear", backbone="test_resnet.a")
        headstart.train(photos, out=tmp_path / "run", recipe=linear, weights=tiny_weights)
    assert not any(message.startswith("Head: ") for message in caplog.messages)  # before any work
    headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run"))
    assert one == two
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "run")]
    assert metrics[0]["test"] == metrics[1]["test"] and metrics[0]["val"] == metrics[1]["val"]


def test_interrupted_training_goes_on_with_what_it_had_chosen(
    photos: Path, tiny_weights: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backbones and their inputs depend on the time that is left: the second command would choose others, which do not fit."""

    def another_backbone(extractors: Sequence[FeatureExtractor], *data: Any, **options: Any) -> Choice:
        found = choose_backbones(extractors, *data, **options)
        return replace(found, extractors=tuple(each for each in extractors if each.backbone is not best(found)))

    def best(choice: Choice) -> object:
        return choice.extractors[0].backbone

    def another_number(
        task: FitTask, extractors: Sequence[FeatureExtractor]
    ) -> tuple[tuple[FeatureExtractor, ...], int]:
        if task.earlier.two_inputs is not None:
            return with_two_inputs(task, extractors)
        return with_two_inputs(replace(task, earlier=replace(task.earlier, two_inputs=1)), extractors)

    recipe = headstart.Recipe(**QUICK)
    with monkeypatch.context() as otherwise:
        otherwise.setattr(fit, "choose_backbones", another_backbone)
        otherwise.setattr(linear_approach, "with_two_inputs", another_number)
        headstart.train(photos, out=tmp_path / "whole", recipe=recipe, weights=tiny_weights)
        with stopped_at_step(5), pytest.raises(Stopped):
            headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    whole, resumed = (RunFolder(tmp_path / name).provenance for name in ("whole", "run"))
    assert resumed.chosen == whole.chosen and resumed.recipe == whole.recipe
    assert resumed.two_inputs == whole.two_inputs == 1
    for name in ("history.csv", "steps.csv"):
        one, two = (
            [{k: v for k, v in row.items() if k != "seconds"} for row in read_csv(tmp_path / folder / name)]
            for folder in ("whole", "run")
        )
        assert one == two
    one, two = (sorted((tmp_path / name).rglob("model.safetensors")) for name in ("whole", "run"))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two] and len(one) > 1
    headstart.train(photos, out=tmp_path / "new", recipe=recipe, weights=tiny_weights)
    new = RunFolder(tmp_path / "new").provenance
    assert new.chosen != whole.chosen and new.two_inputs == 0


def test_training_goes_on_if_the_time_decided_the_number_of_epochs(
    photos: Path,
    tiny_weights: Path,
    cache: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep = Checkpoint.keep

    def keep_and_stop(self: Checkpoint, snapshot: Snapshot) -> None:
        keep(self, snapshot)
        raise Stopped

    recipe = headstart.Recipe(approach="finetune", backbone="test_resnet.a", lr=1e-3, batch_size=8)
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(Checkpoint, "keep", keep_and_stop)
        patched.setattr(Checkpoint, "due", lambda *_, **__: True)
        headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    unfinished = tmp_path / "run.unfinished"
    recorded = Checkpoint(unfinished, {}).recorded()
    assert recorded["epochs"] == "0" and int(recorded["number of epochs"]) > 0
    caplog.set_level("INFO", logger="headstart")
    headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    assert any(m.startswith(f"Resuming the unfinished training in {unfinished}: epoch 1, ") for m in caplog.messages)
    assert not unfinished.exists()


def test_training_does_not_go_on_with_other_sets(photos: Path, tiny_weights: Path, cache: Path, tmp_path: Path) -> None:
    """Groups that are named later move images between the sets: some of the new test images were trained on."""
    recipe = headstart.Recipe(approach="finetune", backbone="test_resnet.a", **QUICK)
    with stopped_at_step(3), pytest.raises(Stopped):
        headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    grouped = headstart.DataSource(photos, group_from=r"(?P<group>\d)\.jpg")
    with pytest.raises(UnfinishedTraining) as refused:
        headstart.train(grouped, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    assert str(refused.value) == (
        f"{tmp_path / 'run.unfinished'}: an unfinished training run is in the way, and this one differs from it:\n"
        "    groups: not the same\n"
        "    split: not the same\n"
        "  Repeat the earlier command to resume it, or add --restart to discard it."
    )
    headstart.train(grouped, out=tmp_path / "run", recipe=recipe, weights=tiny_weights, restart=True)
    assert not (tmp_path / "run.unfinished").exists()


def test_restart_discards(photos: Path, tiny_weights: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "run.unfinished").write_bytes(b"anything")
    recipe = headstart.Recipe(approach="scratch", image_size=32, **QUICK)
    headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights, restart=True)
    assert not (tmp_path / "run.unfinished").exists()


def test_budget_too_small(
    photos: Path, tiny_weights: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And no time is spent on finding a learning rate."""
    caplog.set_level("INFO", logger="headstart")
    recipe = headstart.Recipe(approach="scratch", image_size=32, budget="0.01s")
    with pytest.raises(RecipeError) as refused:
        headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    assert "budget 0.01s is too small for scratch" in str(refused.value)
    assert "one epoch over the training images takes about" in str(refused.value)
    assert "earning rate" not in caplog.text


def test_a_range_test_is_part_of_the_budget(photos: Path, own_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every look at the clock takes a second, and so does a step: 100 of them would take most of the budget."""
    caplog.set_level("INFO", logger="headstart")
    images = Images.inspect(sorted(photos.rglob("*.jpg"))[:24])
    rows, mode = np.arange(24), scratch_approach.APPROACH.mode
    data = TrainingData(images, rows // 12, rows[::2], rows[1::2], 2)
    backbone = without_weights("headstart_cnn", image_size=32)
    recipe = headstart.Recipe(approach="scratch", batch_size=4)
    clock = itertools.count()
    deadline = Deadline(at=150.0, clock=lambda: float(next(clock)))
    extractor, runtime = FeatureExtractor(backbone, backbone.preprocess), Runtime("openvino", "cpu", "f32", 8)
    result = finetune(extractor, data, recipe, runtime, mode=mode, deadline=deadline)
    result.discard()
    assert "Learning rate: 0.001, because the budget is too small to find one by a range test." in caplog.messages
    assert result.recipe.lr == 1e-3


def test_auto_without_time_is_linear(
    photos: Path, tiny_weights: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And says so in the run folder, so that reproducing it elsewhere does not fine-tune. A snapshot is not its own."""
    recipe = headstart.Recipe(backbone="test_resnet.a", budget="1s")
    caplog.set_level("INFO", logger="headstart")
    (tmp_path / "run.unfinished").write_bytes(b"")
    headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    kept = f"The unfinished training in {tmp_path / 'run.unfinished'} is kept."
    assert kept in caplog.messages and (tmp_path / "run.unfinished").exists()
    said = "No fine-tuning: only 0 s of the budget are left. A larger --budget allows it (now: 1s)."
    assert said in caplog.messages
    assert RunFolder(tmp_path / "run").provenance.approach == "linear"


def test_auto_is_linear_if_fine_tuning_fails(
    photos: Path, tiny_weights: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:

    def failing(*_: object) -> StepResult:
        raise TrainingFailed("Out of memory with one image & no more.")

    recipe = headstart.Recipe(backbone="test_resnet.a", **QUICK)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Passes, "gradient", failing)
        headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    made = RunFolder(tmp_path / "run").provenance
    assert (made.approach, made.attempt) == ("linear", None)
    assert made.why == "No fine-tuning: Out of memory with one image & no more."
    assert made.why in caplog.messages
    assert html.escape(made.why) in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(RecipeError, match="'flp' is unknown"):
        resolve_backbones(replace(recipe, augment="flp"))


@pytest.mark.parametrize(
    ("noise", "taken"),
    [(0.5, True), (8.0, False)],
    ids=["as good, with other errors", "much worse"],
)
def test_a_fine_tuned_network_is_weighed_against_the_frozen_ones(noise: float, taken: bool) -> None:
    rng, n = np.random.default_rng(0), 2000
    labels_N = rng.integers(0, 3, n)
    signal_NK = 1.5 * np.eye(3)[labels_N]
    frozen = Candidate((), (), signal_NK + rng.normal(0, 1, (n, 3)))
    tuned = Candidate((), (), signal_NK + rng.normal(0, noise, (n, 3)), finetuned=object())  # type: ignore[arg-type]
    found, why = weighed(frozen, tuned, labels_N)
    assert why.startswith("Validation log-loss: frozen ") and ", weighted sum " in why
    assert why.endswith("of the weight." if taken else "; fine-tuning does not clearly pay.")
    assert (found.finetuned is not None) == taken


@pytest.mark.parametrize("seed", [7, 24, 38, 44, 50])
def test_a_fine_tuned_network_is_not_taken_for_noise(seed: int) -> None:
    """The best of 13 on 210 images, none better than the frozen ones: the sum gains 2 % on the images it was fitted on."""
    rng, n = np.random.default_rng(seed), 210
    labels_N = rng.integers(0, 6, n)
    frozen_NK = 6 * np.eye(6)[labels_N] + rng.normal(0, 1.4, (n, 6))
    others = [frozen_NK + rng.normal(0, 0.3, (n, 6)) for _ in range(13)]
    best_NK = min(others, key=lambda logits_NK: float(cross_entropies(logits_NK, labels_N).mean()))
    frozen = Candidate((), (), frozen_NK).tempered(labels_N)
    tuned = Candidate((), (), best_NK, finetuned=object()).tempered(labels_N)  # type: ignore[arg-type]
    one, other = fit_weights([frozen.val_logits_NK, tuned.val_logits_NK], labels_N, towards=(1.0, 0.0))
    both = frozen.times(one).plus(tuned.times(other)).tempered(labels_N)
    before, after = (cross_entropies(each.val_logits_NK, labels_N).mean() for each in (frozen, both))
    assert after < 0.98 * before
    found, why = weighed(frozen, tuned, labels_N)
    assert found.finetuned is None
    assert re.sub(r"\d\.\d{4}", "0.0000", why) == (
        "Validation log-loss: frozen 0.0000, fine-tuned 0.0000, weighted sum 0.0000 (out of fold); fine-tuning does not "
        "clearly pay."
    )


@pytest.mark.parametrize(("seed", "heads"), [(0, ("lda",)), (1, ()), (4, ())], ids=["11 %", "0.07 %", "none"])
def test_frozen_backbones_with_next_to_no_weight_are_left_out(seed: int, heads: tuple[str, ...]) -> None:
    rng, labels_N = np.random.default_rng(seed), np.arange(3000) % 3
    tuned_NK = 2 * np.eye(3)[labels_N] + rng.normal(0, 1, (3000, 3))
    frozen = Candidate((), (), tuned_NK + rng.normal(0, 1.5, (3000, 3)), heads=("lda",))  # type: ignore[arg-type]
    found, why = weighed(frozen, Candidate((), (), tuned_NK, finetuned=object()), labels_N)  # type: ignore[arg-type]
    assert (found.finetuned is not None, found.heads) == (True, heads)
    assert heads or why.endswith("the fine-tuned network has 100% of the weight.")


def of_patients(seed: int) -> tuple[Candidate, Candidate, np.ndarray, np.ndarray]:
    """Ten patients of one class each and 20 images; the second candidate is the first, plus an error for each patient."""
    rng, patients_N = np.random.default_rng(seed), np.repeat(np.arange(10), 20)
    labels_N = rng.integers(0, 3, 10)[patients_N]
    own_NK = 2 * np.eye(3)[labels_N] + rng.normal(0, 1, (200, 3)) + 1.5 * rng.normal(0, 1, (10, 3))[patients_N]
    tuned_NK = own_NK + rng.normal(0, 1, (10, 3))[patients_N]
    return Candidate((), (), own_NK), Candidate((), (), tuned_NK, finetuned=object()), labels_N, patients_N  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [9, 10, 23, 24])
def test_a_fine_tuned_network_is_not_taken_for_the_luck_of_a_few_patients(seed: int) -> None:
    """It is taken with these seeds if each image counts as independent (in 38 of 150; in 10 with groups)."""
    frozen, tuned, labels_N, patients_N = of_patients(seed)
    assert weighed(frozen, tuned, labels_N)[0].finetuned is not None
    assert weighed(frozen, tuned, labels_N, patients_N)[0].finetuned is None


def test_a_fine_tuned_network_that_helps_is_taken_with_groups_if_there_are_enough() -> None:
    rng, labels_N = np.random.default_rng(0), np.arange(240) % 3
    one, two = (2 * np.eye(3)[labels_N] + rng.normal(0, 1, (240, 3)) for _ in range(2))
    frozen, tuned = Candidate((), (), one), Candidate((), (), two, finetuned=object())  # type: ignore[arg-type]
    assert weighed(frozen, tuned, labels_N, np.arange(240) % 7)[0].finetuned is not None
    found, why = weighed(frozen, tuned, labels_N, np.arange(240) % 4)
    assert found.finetuned is None
    assert why == "The validation set has 4 groups of images, too few to tell whether fine-tuning pays."


def test_a_gain_of_images_of_one_group_counts_once() -> None:
    gain_N = np.repeat([0.5, -0.4, 0.5, -0.4, 0.3], 8)
    assert is_clear_gain(gain_N, 1.0)
    assert not is_clear_gain(gain_N, 1.0, groups_of(np.repeat(np.arange(5), 8)))
    steady_N = np.full(40, 0.1)
    assert is_clear_gain(steady_N, 1.0, groups_of(np.arange(40) % 5))
    assert not is_clear_gain(steady_N, 1.0, groups_of(np.arange(40) % 4))


@pytest.mark.parametrize("n", [2, 3, 7])
def test_a_few_images_are_enough_to_weigh(n: int) -> None:
    """Some folds are empty then, and classes are missing from others."""
    logits_NK = np.random.default_rng(n).normal(size=(n, 3))
    one = Candidate((), (), logits_NK)
    found, _ = weighed(one, one, np.arange(n) % 3)
    assert np.isfinite(found.val_logits_NK).all()


def test_trained_weights_are_in_the_run_folder_only(
    photos: Path, tiny_weights: Path, cache: Path, tmp_path: Path
) -> None:
    """The result refers to them there, and not to the file in the cache that was needed until then."""
    recipe = headstart.Recipe(approach="finetune", backbone="test_resnet.a", **QUICK)
    result = headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights, report=False)
    assert [*(cache / "tuned").iterdir()] == []
    assert result.classifier.members[0].extractor.backbone.weights == tmp_path / "run" / "model.safetensors"
    assert result.classifier.id == RunFolder(tmp_path / "run").classifier.id
    image = photos / "class0" / "000.jpg"
    (alone,) = headstart.predict(tmp_path / "run", image).predictions.predicted
    images = Images.inspect([image])
    assert headstart.Predictor(result.classifier).predict(images, ["0"]).predicted.tolist() == [alone]


@pytest.mark.parametrize(("wise_ft", "kept"), [("0", False), ("1", True)])
def test_trained_weights_stay_in_the_cache_while_they_are_wanted(
    wise_ft: str, kept: bool, photos: Path, tiny_weights: Path, cache: Path
) -> None:
    """With wise_ft 0 the network is the frozen one, which does not pay: auto drops it. Without a run folder nothing else has
    the weights of the one that is wanted."""
    approach = "finetune" if kept else "auto"
    recipe = headstart.Recipe(approach=approach, backbone="test_resnet.a", wise_ft=wise_ft, **QUICK)
    files = sorted(photos.rglob("*.jpg"))
    labels_N, images = np.array([int(file.parent.name[-1]) for file in files]), Images.inspect(files)
    split = np.where(np.arange(len(files)) % 3 == 0, "val", "train")
    dataset = Dataset(photos, tuple(map(str, files)), labels_N, ("0", "1", "2"), split, np.arange(len(files)))
    resolved = fit.resolve_backbones(recipe, weights=WeightsSource(folder=tiny_weights))
    result = fit.fit_classifier(FitTask(dataset, images, recipe, resolved.runtime), resolved)
    files = [*(cache / "tuned").rglob("*.safetensors")]
    assert (result.finetuned is not None, result.attempt is not None) == (kept, not kept)
    assert len(files) == kept
    if result.finetuned is not None:
        assert files == [result.classifier.members[0].extractor.backbone.weights]
        result.finetuned.discard()
        assert [*(cache / "tuned").iterdir()] == []


def test_binary_has_one_unit(tiny_weights: Path, cache: Path, tmp_path: Path) -> None:
    """The logit of the first class is 0, as of one sigmoid unit; more than two classes are refused."""
    photos = write_photos(tmp_path / "two", classes=2)
    recipe = headstart.Recipe(
        approach="head_sgd", backbone="test_resnet.a", hidden_layer_sizes="8", loss="binary", **QUICK
    )
    headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    (part,) = headstart.load_classifier(tmp_path / "run").members
    assert not part.layer.weight_DK[:, 0].any() and part.layer.bias_K[0] == 0
    assert part.layer.weight_DK[:, 1].any() and part.layer.bias_K[1] != 0
    photos = write_photos(tmp_path / "three")
    with pytest.raises(RecipeError) as refused:
        headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    assert str(refused.value) == f"loss 'binary' requires two classes, but {photos} has 3.\n  Use --loss cross_entropy."


def test_one_unit_begins_with_both_units_of_a_fitted_layer(tiny_weights: Path) -> None:
    """Its logits are (0, z1 - z0): the same probabilities."""
    backbone = find_backbone("test_resnet.a", WeightsSource(folder=tiny_weights, offline=True))
    view = FeatureExtractor(backbone, backbone.preprocess)
    rng = np.random.default_rng(0)
    start = LinearLayer(rng.normal(size=(96, 2)).astype(np.float32), np.array([0.7, -0.4], np.float32))
    network = build_network(view, headstart.Recipe(approach="finetune", loss="binary"), 2, start).eval()
    pixels = torch.from_numpy(rng.normal(size=(4, 3, 64, 64)).astype(np.float32))
    with torch.no_grad():
        fitted_NK = network(pixels).numpy()
        train_one_unit(network, "fc")
        logits_NK = network(pixels).numpy()
    assert not logits_NK[:, 0].any()
    assert np.allclose(logits_NK[:, 1], fitted_NK[:, 1] - fitted_NK[:, 0], atol=1e-3)


def test_several_backbones_cannot_be_trained_by_gradient(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    recipe = headstart.Recipe(approach="finetune", backbone="test_resnet.a+test_efficientnet.b")
    with pytest.raises(RecipeError) as refused:
        headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    assert str(refused.value) == (
        "backbone 'test_resnet.a+test_efficientnet.b' names several, but finetune trains one.\n"
        "  Name one of them, or use --approach linear, which can fuse them."
    )


def test_cutmix_on_features_of_a_frozen_backbone_is_refused(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    recipe = headstart.Recipe(approach="head_sgd", backbone="test_resnet.a", cutmix=1.0, **QUICK)
    with pytest.raises(RecipeError) as refused:
        headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    assert str(refused.value) == (
        "cutmix cannot be used with head_sgd, which trains on feature vectors: it needs images.\n"
        "  Use mixup, or an approach that trains on images, such as finetune."
    )


def test_cutmix_on_tokens_is_refused_before_they_are_computed(tiny_weights: Path) -> None:
    backbone = find_backbone("test_resnet.a", WeightsSource(folder=tiny_weights, offline=True))
    view, recipe = FeatureExtractor(backbone, backbone.preprocess), headstart.Recipe(approach="finetune", cutmix=1.0)
    rows = np.arange(2)
    data = TrainingData(Images((), ()), rows, rows, rows, 2)
    plan = Plan(view, data, recipe, Runtime("openvino", "cpu", "f32", 8), finetune_approach.MODE)
    maps = CutNetwork(nn.Identity(), nn.Identity(), nn.Identity(), n_frozen=1, n_stages=2, shape=(8, 4, 4))
    check_mixing(plan, maps)
    check_mixing(plan, replace(maps, n_frozen=0, shape=()))
    with pytest.raises(RecipeError, match=r"test_resnet.a \(shape \(7, 7, 768\)\)"):  # channels last, as in Swin
        check_mixing(plan, replace(maps, shape=(7, 7, 768)))
    with pytest.raises(RecipeError) as refused:
        check_mixing(plan, replace(maps, shape=(17, 64)))
    assert str(refused.value) == (
        "cutmix cannot be used on the activations of test_resnet.a (shape (17, 64)): it needs images or maps.\n"
        "  Use --unfreeze all, which trains on images, or mixup."
    )
    check_mixing(replace(plan, recipe=headstart.Recipe(mixup=1.0)), replace(maps, shape=(17, 64)))


@pytest.mark.parametrize("unfreeze", ["auto", "gradual", "2", "all"])
def test_a_network_that_cannot_be_cut_is_trained_whole(unfreeze: str, tiny_weights: Path) -> None:
    """Its blocks take more than one tensor. With all of it frozen, only the last layer would be trained."""
    import timm

    module = timm.create_model("eva02_tiny_patch14_224", img_size=28, depth=2, embed_dim=48, num_heads=3, num_classes=2)
    backbone = find_backbone("test_resnet.a", WeightsSource(folder=tiny_weights, offline=True))
    extractor = FeatureExtractor(backbone, replace(backbone.preprocess, image_size=28))
    rows, recipe = np.arange(2), headstart.Recipe(approach="finetune", unfreeze=unfreeze)
    data = TrainingData(Images((), ()), rows, rows, rows, 2)
    plan = Plan(extractor, data, recipe, Runtime("openvino", "cpu", "f32", 8), finetune_approach.MODE)
    network = cut_network(module, plan, recorded={}, seconds=10.0, timed=False)
    assert network.n_frozen == 0
    assert [group.name for group in parameter_groups(network.tail, recipe)] == ["features", "head"]


def test_flipped_features_are_the_mean_of_both(photos: Path, tiny_weights: Path, cache: Path) -> None:
    backbone = find_backbone("test_resnet.a", WeightsSource(folder=tiny_weights))
    image = np.asarray(draw(1, 5, (64, 64)))
    spec = replace(backbone.preprocess, resize="squash")
    runtime = Runtime("openvino", "cpu", "f32", 8)
    values = []
    for pixels, tta in ((image, "none"), (image[:, ::-1].copy(), "none"), (image, "flip")):
        view = FeatureExtractor(backbone, replace(spec, tta=tta))
        (value,), _ = embed_images(Images.inspect([pixels]), [view], runtime)
        values.append(value[0])
    assert np.allclose((values[0] + values[1]) / 2, values[2], atol=1e-5)


def test_lightened_convolutions_give_the_same_numbers() -> None:
    """1 x 1, depthwise with stride 2 in torch's padding and in TensorFlow's: forwards and backwards. Others stay."""
    import copy

    from timm.layers import Conv2dSame, ScaledStdConv2d, StdConv2d

    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(6, 10, 1),
        nn.Conv2d(10, 10, 3, 2, 1, groups=10),
        Conv2dSame(10, 10, 3, stride=2, groups=10),
        nn.Conv2d(10, 10, 3, 2, (0, 2), (2, 1), groups=10, bias=False),
        nn.Conv2d(10, 4, 1),
        nn.Conv2d(4, 4, 1, stride=2),
        nn.Conv2d(4, 8, 1, stride=2, groups=4),
        StdConv2d(8, 4, 1),
        ScaledStdConv2d(4, 2, 1),
    )
    light = copy.deepcopy(plain)
    assert lighten(light) == 5
    x = torch.randn(2, 6, 37, 38)
    for module in (plain, light):
        module(x).square().sum().backward()
    assert torch.allclose(plain(x), light(x), atol=1e-5)
    for one, two in zip(plain.parameters(), light.parameters(), strict=True):
        assert one.grad is not None and two.grad is not None
        assert torch.allclose(one.grad, two.grad, rtol=1e-3, atol=1e-3)


def test_a_random_last_layer_begins_small(tiny_weights: Path) -> None:
    """timm's own would be uniform up to 1 / sqrt(2) here, and the first logits far from zero."""
    backbone = find_backbone("test_efficientnet.b", WeightsSource(folder=tiny_weights, offline=True))
    view = FeatureExtractor(backbone, backbone.preprocess)
    network = build_network(view, headstart.Recipe(approach="head_sgd", head_init="random"), 2, None)
    last = network.get_classifier().requires_grad_(False)
    n_classes, n_features = last.weight.shape
    assert float(last.weight.abs().max()) <= (6 / (n_features + n_classes)) ** 0.5 < 0.2
    assert float(last.weight.std()) > 0.01
    assert not last.bias.any()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "headstart_cnn"])
@pytest.mark.parametrize("frozen", [False, True])
def test_dropout_comes_before_the_last_layer_in_every_family(name: str, frozen: bool) -> None:
    backbone = without_weights(name, image_size=48)
    extractor = FeatureExtractor(backbone, backbone.preprocess)
    network = build_network(extractor, headstart.Recipe(approach="scratch", dropout=0.5), 2, None)
    trunk, tail = cut(network, len(survey(network, 48)) if frozen else 0, 48)
    last, inputs = tail.network.get_classifier(), list[torch.Tensor]()
    last.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        activations = trunk(torch.rand(40, 3, 48, 48))
        evaluated = tail.eval()(activations)
        last.train()  # and nothing else
        assert not torch.equal(tail(activations), evaluated)
    whole, dropped = inputs
    kept = dropped != 0
    assert 0.4 < float(kept[whole != 0].float().mean()) < 0.6
    assert torch.allclose(dropped[kept], 2 * whole[kept])


def test_scratch_array_leaves_no_file(own_cache: Path) -> None:
    array = scratch_array((3, 5), np.float16)
    array[:] = 7
    assert array.shape == (3, 5) and array.dtype == np.float16 and array.sum() == 105
    assert list((own_cache / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "ignored"),
    [
        ({"approach": "scratch"}, True),
        ({"approach": "head_sgd"}, False),
        ({"approach": "finetune"}, False),
        ({"approach": "finetune", "unfreeze": "all"}, True),
        ({"approach": "linear"}, True),
    ],
)
def test_views_are_not_used_where_nothing_is_frozen(options: dict[str, str], ignored: bool) -> None:
    recipe = headstart.Recipe(**options)
    assert ("n_views" in approaches.APPROACHES[recipe.approach].ignores(recipe)) is ignored


def test_the_help_states_the_defaults_of_the_approaches() -> None:
    tuned, others = finetune_approach.MODE, (head_sgd_approach.APPROACH.mode, scratch_approach.APPROACH.mode)
    (most,) = {mode.most_epochs for mode in others}
    docs = field_texts(headstart.Recipe)
    assert docs["epochs"].endswith(f"at most {tuned.most_epochs} for fine-tuning and {most} otherwise.")
    assert tuned.lr == 1e-4 and {mode.lr for mode in others} == {None}
    assert "0 takes 1e-4 for fine-tuning (1e-3 with sgd), and otherwise finds one with a range test" in docs["lr"]


def test_every_approach_of_a_recipe_has_a_file_and_no_other_has() -> None:
    assert tuple(approaches.APPROACHES) == NAMES
    files = Path(approaches.__file__).parent.glob("*_approach.py")
    assert sorted(file.name for file in files) == sorted(f"{name}_approach.py" for name in NAMES)
    assert min(approach.cost for approach in approaches.APPROACHES.values()) == approaches.APPROACHES["linear"].cost
