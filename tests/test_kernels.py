"""Kernels beside linear layers: what they compute, when they are added, and that they arrive wherever a run goes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.numpy import load_file, save_file
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import rbf_kernel

from conftest import draw
from headstart.data.dataset import Dataset
from headstart.evaluation.probabilities import cross_entropies
from headstart.exporters.onnx_network import converted, finished
from headstart.images.image_refs import Images
from headstart.model.backbones.registry import Backbone, find_backbone
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.heads.kernel_features import kernel_features, principal_components
from headstart.model.heads.kernel_layer import KernelLayer, last_layer
from headstart.model.heads.linear import LinearHead
from headstart.model.heads.linear_layer import LinearLayer
from headstart.model.inference.classifier import Classifier, EnsembleMember
from headstart.model.inference.engines import open_network
from headstart.model.inference.features import FeatureExtractor
from headstart.model.inference.heat_maps import heat_maps
from headstart.model.inference.runtime import Runtime
from headstart.pipeline.approaches.linear_approach import _fit_member
from headstart.pipeline.candidates import Candidate
from headstart.pipeline.combine import Probe
from headstart.pipeline.fit_task import FitTask
from headstart.pipeline.kernels import can_have_kernels, with_kernels
from headstart.runs.saved_classifier import read_classifier, write_classifier
from headstart.training.recipe import Recipe

PLAN = Runtime("openvino", "cpu", "f32", 8)


def clusters(images: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes of two clusters each, at the corners of a square: no line divides them. Features (N, D) and labels (N,)."""
    rng = np.random.default_rng(seed)
    corner_N2 = rng.integers(0, 2, (images, 2))
    features_ND = rng.normal(size=(images, dim)).astype(np.float32)
    features_ND[:, :2] += 6 * corner_N2
    return features_ND, corner_N2.sum(1) % 2


def layer_of(dim: int, classes: int = 3, seed: int = 0) -> KernelLayer:
    """A layer with random numbers of usual sizes."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    linear = LinearLayer(normal(dim, classes) / dim, normal(classes))
    return KernelLayer(linear, normal(dim, 5) / dim, normal(5, 20), 5 * normal(20, classes))


# What they compute


def test_ridge_on_kernel_features_is_kernel_ridge_regression() -> None:
    features_ND, labels_N = clusters(300, 8)
    centred_NK = np.eye(2)[labels_N] - np.eye(2)[labels_N].mean(0)
    kernel = kernel_features(features_ND)
    values_NC, penalty = kernel(features_ND).astype(np.float64), 0.1
    weight_CK = np.linalg.solve(values_NC.T @ values_NC + penalty * np.eye(300), values_NC.T @ centred_NK)
    new_ND = clusters(50, 8, seed=1)[0]
    ours_NK = kernel.layer(LinearHead("ridge", weight_CK.astype(np.float32), np.zeros(2, np.float32), 1.0))(new_ND)
    among_NR = features_ND @ kernel.directions_DR
    theirs = KernelRidge(alpha=penalty, kernel="rbf", gamma=1.0).fit(among_NR, centred_NK)
    np.testing.assert_allclose(ours_NK, theirs.predict(new_ND @ kernel.directions_DR), atol=2e-3)
    apart_NN = rbf_kernel(among_NR, gamma=1.0)[np.triu_indices(300, 1)]
    assert np.median(apart_NN) == pytest.approx(np.exp(-1), abs=1e-3)


def test_distances_are_along_the_principal_components() -> None:
    rng = np.random.default_rng(0)
    features_ND = (rng.normal(size=(400, 60)) * 0.8 ** np.arange(60)).astype(np.float32) @ np.linalg.qr(
        rng.normal(size=(60, 60))
    )[0].astype(np.float32)
    ours_DR = principal_components(features_ND, 10)
    theirs_RD = np.linalg.svd(features_ND - features_ND.mean(0))[2][:10]
    np.testing.assert_allclose(np.abs(np.diag(theirs_RD @ ours_DR)), 1, atol=1e-3)
    assert principal_components(features_ND[:7], 256).shape == (60, 7)


def test_equal_images_can_be_centres() -> None:
    features_ND = np.repeat(clusters(20, 4)[0], 3, axis=0)
    assert np.isfinite(kernel_features(features_ND)(features_ND)).all()
    assert np.isfinite(kernel_features(np.ones((5, 4), np.float32))(features_ND)).all()


def test_logits_do_not_depend_on_the_other_images() -> None:
    layer, features_ND = layer_of(40), np.random.default_rng(1).normal(size=(70, 40)).astype(np.float32)
    together_NK = layer(features_ND)
    alone_NK = np.concatenate([layer(features_ND[i : i + 1]) for i in range(70)])
    np.testing.assert_array_equal(together_NK, alone_NK)
    np.testing.assert_array_equal(together_NK[3:40], layer(features_ND[3:40]))


def test_factors_and_sums_and_scales_of_layers() -> None:
    layer, features_ND = layer_of(40), np.random.default_rng(1).normal(size=(7, 40)).astype(np.float32)
    np.testing.assert_allclose(layer.times(3)(features_ND), 3 * layer(features_ND), rtol=1e-5)
    other, scale_D = layer_of(40, seed=2).linear, np.linspace(0.5, 2, 40).astype(np.float32)
    np.testing.assert_allclose(layer.plus(other)(features_ND), layer(features_ND) + other(features_ND), atol=1e-5)
    np.testing.assert_allclose(layer.scaled(scale_D)(features_ND), layer(features_ND * scale_D), atol=1e-4)
    assert repr(layer) == "KernelLayer(LinearLayer(40 features, 3 classes), 20 centres)"


@pytest.mark.parametrize("kind", ["linear", "kernel"])
def test_slopes_are_the_gradient_of_a_logit_above_the_mean(kind: str) -> None:
    layer = layer_of(12) if kind == "kernel" else layer_of(12).linear
    features_ND, classes_N = np.random.default_rng(1).normal(size=(4, 12)), np.array([0, 2, 1, 0])

    def above_mean(x_ND: np.ndarray) -> np.ndarray:
        logits_NK = layer(x_ND)
        return (logits_NK - logits_NK.mean(1, keepdims=True))[np.arange(4), classes_N]

    steps = 1e-5 * np.eye(12)
    found_ND = np.stack([(above_mean(features_ND + s) - above_mean(features_ND - s)) / 2e-5 for s in steps], 1)
    np.testing.assert_allclose(layer.slopes(features_ND, classes_N), found_ND, atol=1e-6)


# When they are added


def task_of(features_ND: np.ndarray, labels_N: np.ndarray, **options: Any) -> FitTask:
    """A quarter of the images for validation, a quarter for the test."""
    n = len(labels_N)
    split, names = np.array(["train", "val", "train", "test"])[np.arange(n) % 4], tuple(f"{i}.jpg" for i in range(n))
    dataset = Dataset(Path("photos"), names, labels_N, ("a", "b"), split, np.arange(n))
    return FitTask(dataset, Images((), ()), Recipe(**{"approach": "linear", **options}), PLAN)


def linear_and_kernels(task: FitTask, features_ND: np.ndarray, weights: Path, pooling: Any) -> tuple[Candidate, Any]:
    """The best linear layer on these features, and what `with_kernels` makes of it."""
    backbone = find_backbone("test_resnet.a", WeightsSource(folder=weights))
    extractor = FeatureExtractor(backbone, backbone.preprocess, pooling)
    linear, _ = _fit_member(task, Probe.unscored(extractor, features_ND, features_ND.shape[1:]), 1.0)
    return linear, with_kernels(task, linear, (1.0,))


def test_they_are_added_where_no_line_divides_the_classes(tiny_weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "headstart")
    features_ND, labels_N = clusters(1600, 8)
    task = task_of(features_ND, labels_N)
    linear, (both, trials) = linear_and_kernels(task, features_ND, tiny_weights, "stages")
    test = task.dataset.sets.test
    before, after = (
        cross_entropies(c.members[0].layer(features_ND[test]), labels_N[test]).mean() for c in (linear, both)
    )
    assert before > 0.6 and after < 0.05
    (member,), (head,), (row,) = both.members, both.heads, trials
    assert isinstance(member.layer, KernelLayer)
    assert (row.stage, row.head, row.pooling, row.strength, row.n_images) == (
        "head",
        "kernel",
        "stages",
        head.kernel,
        800,
    )
    assert row.loo_log_loss < 0.05 and row.val_log_loss < 0.05
    (said,) = [m for m in caplog.messages if m.startswith("Validation log-loss")]
    assert (
        said.startswith("Validation log-loss: linear 0.6") and ", kernels 0.0" in said and ", weighted sum 0.0" in said
    )
    assert said.endswith("% of the weight.") and " (out of fold); kernels have " in said


def test_they_are_left_out_where_a_line_does(tiny_weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "headstart")
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, 2, 1600)
    features_ND = rng.normal(size=(1600, 8)).astype(np.float32)
    features_ND[:, 0] += 2 * labels_N
    linear, (found, trials) = linear_and_kernels(task_of(features_ND, labels_N), features_ND, tiny_weights, "stages")
    assert found is linear and len(trials) == 1
    assert caplog.messages[-1].endswith("(out of fold); kernels do not clearly pay.")


def test_pooled_features_of_the_last_maps_keep_a_plain_layer(tiny_weights: Path) -> None:
    features_ND, labels_N = clusters(1600, 8)
    linear, found = linear_and_kernels(task_of(features_ND, labels_N), features_ND, tiny_weights, "last")
    assert found == (linear, [])


@pytest.mark.parametrize(
    ("images", "options", "expected"),
    [
        (1600, {}, True),
        (1600, {"budget": "2m"}, True),
        (1600, {"budget": "1m"}, False),
        (1600, {"head": "lda"}, False),
        (1200, {}, False),
    ],
    ids=["by default", "two minutes", "one minute", "a kind of head that was named", "900 for training and validation"],
)
def test_they_need_time_images_and_an_open_choice(images: int, options: dict[str, str], expected: bool) -> None:
    assert can_have_kernels(task_of(*clusters(images, 8), **options)) == expected


# Wherever a run goes


def staged(folder: Path) -> tuple[Backbone, Classifier]:
    """A network with random weights and a kernel on the means of all its stages."""
    backbone = find_backbone("test_resnet.a", WeightsSource(folder=folder))
    spec = replace(backbone.preprocess, image_size=64)
    dim = sum(open_network(backbone, spec, PLAN).block_sizes)
    member = EnsembleMember(FeatureExtractor(backbone, spec, "stages"), layer_of(dim))
    return backbone, Classifier((member,), ("a", "b", "c"), PLAN)


def test_a_run_folder_gives_the_same_logits_through_timm_the_engine_and_onnx(
    tiny_weights: Path, tmp_path: Path
) -> None:
    import onnxruntime

    _, classifier = staged(tiny_weights)
    (member,) = classifier.members
    spec = member.extractor.spec
    described = write_classifier(tmp_path / "run", classifier)
    pixels = np.random.default_rng(0).integers(0, 256, (PLAN.batch, 64, 64, 3), np.uint8)
    session = open_network(member.extractor.backbone, spec, PLAN).session()
    session.pixels[:] = pixels
    features_ND = session.run().copy()
    expected = classifier.logits([features_ND])
    assert np.abs(expected - member.layer.linear(features_ND)).max() > 0.1  # the kernel matters

    read = read_classifier(tmp_path / "run", described)
    assert read.id == classifier.id
    np.testing.assert_array_equal(read.logits([features_ND]), expected)

    x = ((torch.from_numpy(pixels) / 255 - torch.tensor(spec.mean)) / torch.tensor(spec.std)).permute(0, 3, 1, 2)
    network = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True).eval()
    with torch.inference_mode():
        np.testing.assert_allclose(network(x).numpy(), expected, atol=2e-3)

    model = finished(converted(classifier), 1.0).SerializeToString()
    (logits_NK, _) = onnxruntime.InferenceSession(model).run(None, {"pixels": pixels})
    np.testing.assert_allclose(logits_NK, expected, atol=2e-3)


def test_large_weights_that_cancel_each_other_are_exact_enough() -> None:
    """As those of a fit are: the sum over centres is hundreds of times as large as the logits."""
    from headstart.model.backbones.networks import KernelLinear

    features_ND, labels_N = clusters(1000, 64)
    kernel = kernel_features(features_ND)
    values_NC = kernel(features_ND).astype(np.float64)
    weight_CK = np.linalg.solve(values_NC.T @ values_NC + 0.1 * np.eye(1000), values_NC.T @ np.eye(2)[labels_N])
    head = LinearHead("ridge", (10 * weight_CK).astype(np.float32), np.zeros(2, np.float32), 0.1)
    layer = kernel.layer(head)
    module = KernelLinear(64, 2, *layer.centres_RC.shape)
    arrays = {**layer.arrays, "weight": layer.linear.weight_DK.T}
    module.load_state_dict({name: torch.tensor(np.ascontiguousarray(array)) for name, array in arrays.items()})
    with torch.inference_mode():
        logits_NK = module(torch.from_numpy(features_ND)).numpy()
    assert np.abs(layer.kernel_CK).sum(0).min() > 300 * np.abs(logits_NK).max()
    np.testing.assert_allclose(logits_NK, layer(features_ND), atol=1e-5)


def test_a_heat_map_follows_the_tangent_of_the_kernel(tiny_weights: Path) -> None:
    """A linear layer with the slopes at the image gives the same map, up to what is the same everywhere."""
    _, classifier = staged(tiny_weights)
    (member,) = classifier.members
    image = draw(1, 2).resize((64, 64))
    session = open_network(member.extractor.backbone, member.extractor.spec, PLAN).session()
    session.pixels[:] = member.extractor.spec.apply(image)
    features_1D = session.run()[:1].copy()
    logits_K = member.layer(features_1D)[0]
    k = int(logits_K.argmax())
    slope_D = member.layer.slopes(features_1D, np.array([k]))[0]
    bias = logits_K[k] - logits_K.mean() - slope_D @ features_1D[0]
    alone_K = 1.5 * np.eye(3)[k]  # 1.5 less its mean over the classes is 1
    layer = LinearLayer(np.outer(slope_D, alone_K).astype(np.float32), (bias * alone_K).astype(np.float32))
    tangent = replace(classifier, members=(EnsembleMember(member.extractor, layer),))
    maps = [heat_maps(each, [image], [k])[0] for each in (classifier, tangent)]
    assert maps[0].max() == 1
    np.testing.assert_allclose(maps[0], maps[1], atol=2e-3)


def test_a_run_with_a_kernel_names_its_parts_for_timm(tiny_weights: Path, tmp_path: Path) -> None:
    _, classifier = staged(tiny_weights)
    described = write_classifier(tmp_path, classifier)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "headstart_stages"
    assert config["model_args"]["kernel"] == [5, 20]
    name = config["pretrained_cfg"]["classifier"]
    tensors = load_file(tmp_path / "model.safetensors")
    assert [tensors[f"{name}.{part}"].shape[-1] for part in ("directions", "centres", "kernel")] == [5, 20, 3]
    del tensors[f"{name}.centres"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="the kernel of the last layer is incomplete"):
        read_classifier(tmp_path, described)


def test_a_kernel_that_does_not_fit_is_refused() -> None:
    arrays = dict(layer_of(12).arrays)
    assert isinstance(last_layer(arrays, 3), KernelLayer)
    with pytest.raises(ValueError, match="the last layer does not fit 4 classes"):
        last_layer(arrays, 4)
    with pytest.raises(ValueError, match="the kernel of the last layer does not fit 12 features and 3 classes"):
        last_layer({**arrays, "centres": arrays["centres"].T}, 3)
