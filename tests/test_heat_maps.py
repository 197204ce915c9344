"""Heat maps: against captum's Grad-CAM, finite differences and hand-placed cells; and sanity checks of what they show."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import draw
from headstart.errors import BackboneError, UnreadableImage
from headstart.images.preprocess import Preprocess
from headstart.model.backbones.build import build
from headstart.model.backbones.registry import find_backbone
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.heads.linear import fit_head
from headstart.model.heads.linear_layer import LinearLayer
from headstart.model.inference.classifier import Classifier, EnsembleMember
from headstart.model.inference.engines import open_network
from headstart.model.inference.features import FeatureExtractor
from headstart.model.inference.heat_maps import combined, heat_maps, seen
from headstart.model.inference.runtime import Runtime

PLAN = Runtime("openvino", "cpu", "f32", 8)
SQUASH = Preprocess(image_size=64, resize="squash", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def make_view(folder: Path, architecture: str, *, seed: int = 0, size: int = 64, **model_args: Any) -> FeatureExtractor:
    """A network with random weights that is found as users' own weights are, in a folder."""
    import timm
    import torch
    from safetensors.torch import save_file

    import headstart.model.backbones.networks  # noqa: F401  (registers ours)

    torch.manual_seed(seed)
    network = timm.create_model(architecture, num_classes=0, **model_args)
    name = f"{architecture}.s{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / f"{name}.safetensors")
    config = {"input_size": [3, size, size], "mean": [0.5] * 3, "std": [0.25] * 3, "license": "apache-2.0"}
    config |= {"interpolation": "bicubic", "crop_pct": 0.9}
    described = {"architecture": architecture, "num_classes": 0, "pretrained_cfg": config, "model_args": model_args}
    (folder / f"{name}.json").write_text(json.dumps(described))
    return FeatureExtractor(find_backbone(name, WeightsSource(folder=folder)), replace(SQUASH, image_size=size))


def with_head(*views: FeatureExtractor, classes: int = 3, seed: int = 0) -> Classifier:
    """A classifier with a random last layer on each."""
    rng = np.random.default_rng(seed)
    parts = []
    for view in views:
        dim = build(view.backbone, image_size=view.spec.image_size)(blank(view)).shape[1]
        weight_DK = rng.normal(size=(dim, classes)).astype(np.float32)
        parts.append(EnsembleMember(view, LinearLayer(weight_DK, rng.normal(size=classes).astype(np.float32))))
    return Classifier(tuple(parts), tuple(f"class{k}" for k in range(classes)), PLAN)


def blank(view: FeatureExtractor) -> Any:
    import torch

    return torch.zeros(1, 3, view.spec.image_size, view.spec.image_size)


def pixels(view: FeatureExtractor, images: list[Image.Image]) -> Any:
    """What the network takes: (N, 3, S, S)."""
    import torch

    scaled = np.stack([view.spec.apply(p) for p in images]).transpose(0, 3, 1, 2) / 255
    return torch.from_numpy((scaled - 0.5) / 0.25).float()


def centred(part: EnsembleMember) -> tuple[Any, Any]:
    """The last layer without what all classes have in common."""
    import torch

    weight, bias = part.layer.weight_DK, part.layer.bias_K
    return torch.from_numpy(weight - weight.mean(1, keepdims=True)), torch.from_numpy(bias - bias.mean())


def predicted(classifier: Classifier, images: list[Image.Image]) -> list[int]:
    """The likeliest class of each, by whole networks."""
    logits = 0
    for part in classifier.members:
        network, (weight, bias) = (
            build(part.extractor.backbone, image_size=part.extractor.spec.image_size),
            centred(part),
        )
        logits = logits + network(pixels(part.extractor, images)).detach() @ weight + bias
    return logits.argmax(1).tolist()


def grad_cam(part: EnsembleMember, images: list[Image.Image], classes: list[int]) -> np.ndarray:
    """Captum's Grad-CAM of the last stage of a residual network, with the bias added."""
    import torch
    from captum.attr import LayerGradCam

    network, (weight, bias) = build(part.extractor.backbone), centred(part)
    cam = LayerGradCam(lambda x: network(x) @ weight + bias, network.layer4)
    taken = pixels(part.extractor, images).requires_grad_()
    cells = cam.attribute(taken, target=torch.tensor(classes)).detach()[:, 0] * 4  # 2 x 2 places, whose mean is wanted
    return (cells + bias[classes][:, None, None]).numpy()


# Against other ways to get the same


@pytest.mark.parametrize("n_parts", [1, 2])
def test_a_network_that_ends_in_a_mean_has_the_map_of_grad_cam(tmp_path: Path, n_parts: int) -> None:
    views = [make_view(tmp_path, "test_resnet", seed=seed) for seed in range(n_parts)]
    classifier, images = with_head(*views), [draw(0, 1), draw(2, 5)]
    classes = predicted(classifier, images)
    cells = [grad_cam(part, images, classes) for part in classifier.members]
    for i, found in enumerate(heat_maps(classifier, images)):
        expected = combined([(c[i], SQUASH) for c in cells], images[i].size)
        assert expected.max() == 1
        assert np.abs(found - expected).max() < 1e-3


def agree(classifier: Classifier, image: Image.Image, shares_KHW: np.ndarray, tolerance: float) -> None:
    """The maps of all classes are those of the shares that finite differences gave."""
    (part,) = classifier.members
    found = heat_maps(classifier, [image] * len(shares_KHW), range(len(shares_KHW)))
    expected = [combined([(shares, part.extractor.spec)], image.size) for shares in shares_KHW]
    assert max(heat.max() for heat in found) == 1
    assert max(heat.std() for heat in found) > 0.05
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours - theirs).max() < tolerance


def test_dense_layers_on_maps_are_followed_place_by_place(tmp_path: Path) -> None:
    classifier = with_head(make_view(tmp_path, "headstart_cnn", size=64, img_size=64))
    (part,) = classifier.members
    network, (weight, bias) = build(part.extractor.backbone, image_size=64), centred(part)
    image = draw(1, 3)
    maps = network.forward_features(pixels(part.extractor, [image])).detach()
    side = maps.shape[-1]
    shares = np.zeros((3, side, side))
    for sign in (1, -1):
        for y, x in np.ndindex(side, side):
            changed = maps.clone()
            changed[0, :, y, x] *= 1 + sign * 1e-2
            shares[:, y, x] += sign * (network.forward_head(changed) @ weight + bias)[0].detach().numpy()
    agree(classifier, image, shares, 0.05)


@pytest.mark.parametrize(("pool", "reads"), [pytest.param("token", "norm1", marks=pytest.mark.slow), ("avg", "norm")])
def test_tokens_of_a_vision_transformer_lie_on_their_grid(tmp_path: Path, pool: str, reads: str) -> None:
    classifier = with_head(make_view(tmp_path, "vit_tiny_patch16_224", size=64, img_size=64, global_pool=pool))
    (part,) = classifier.members
    network, (weight, bias) = build(part.extractor.backbone, image_size=64), centred(part)
    image = draw(1, 3)
    read = network.blocks[-1].norm1 if reads == "norm1" else network.norm
    scale: dict[int, float] = {}

    def fade(_module: Any, _args: Any, tokens: Any) -> Any:
        out = tokens.clone()
        for place, factor in scale.items():
            out[:, place] *= factor
        return out

    read.register_forward_hook(fade)
    taken, shares = pixels(part.extractor, [image]), np.zeros((3, 4, 4))
    for sign in (1, -1):
        for place in range(16):
            scale = {place + network.num_prefix_tokens: 1 + sign * 0.05}
            shares[:, place // 4, place % 4] += sign * (network(taken) @ weight + bias)[0].detach().numpy()
    agree(classifier, image, shares, 0.05)


# Where cells come to lie


def test_a_cell_lies_where_the_network_saw_it() -> None:
    wide, at = (200, 100), {"crop": (0, 0), "squash": (0, 0), "pad": (1, 0)}  # pad: above that row is padding
    peaks = {}
    for resize, place in at.items():
        spec, cells = Preprocess(image_size=64, resize=resize, crop_pct=0.5), np.zeros((4, 4))
        cells[place] = 1
        heat = combined([(cells, spec)], wide)
        assert heat.shape == (80, 160)
        peaks[resize] = [int(x) for x in np.unravel_index(heat.argmax(), heat.shape)]
        if resize == "crop":  # the middle 50 x 50 of 200 x 100
            assert seen(spec, *wide) == pytest.approx((0.375, 0.25, 0.625, 0.75), abs=0.01)
            outside = np.ones_like(heat, bool)
            outside[19:61, 59:101] = False
            assert not heat[outside].any()
    assert peaks["crop"] == pytest.approx([20 + 5, 60 + 5], abs=5)
    assert peaks["squash"] == pytest.approx([10, 20], abs=20)
    assert peaks["pad"] == pytest.approx([20, 20], abs=20)


def test_parts_that_see_different_squares_are_added_as_densities() -> None:
    flat = np.ones((4, 4))
    squash, crop = Preprocess(image_size=64, resize="squash"), Preprocess(image_size=64, crop_pct=0.5)
    heat = combined([(flat, squash), (flat, crop)], (100, 100))
    assert heat[80, 80] == 1
    assert heat[2, 2] == pytest.approx(1 / (1 + 4))  # the middle quarter holds as much again


def test_no_place_that_speaks_for_a_class_is_a_map_of_zeros() -> None:
    assert not combined([(-np.ones((3, 3)), SQUASH)], (50, 40)).any()


@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet"])
def test_the_maps_of_all_stages_are_part_of_the_evidence(architecture: str, tmp_path: Path) -> None:
    view = make_view(tmp_path, architecture)
    (last,) = with_head(view).members
    _, *others = open_network(view.backbone, view.spec, PLAN).block_sizes
    rng, image = np.random.default_rng(0), draw(1, 2)

    def staged(strength: float) -> np.ndarray:
        stages_DK = strength * rng.normal(size=(sum(others), 3))
        layer = LinearLayer(np.concatenate([last.layer.weight_DK, stages_DK.astype(np.float32)]), last.layer.bias_K)
        member = EnsembleMember(replace(view, pooling="stages"), layer)
        return heat_maps(Classifier((member,), ("a", "b", "c"), PLAN), [image], [1])[0]

    alone = heat_maps(with_head(view), [image], [1])[0]
    np.testing.assert_allclose(staged(0.0), alone, atol=1e-5)
    assert np.abs(staged(1.0) - alone).max() > 0.05


def test_views_averaged_at_prediction_mirror_the_map(tmp_path: Path) -> None:
    view = make_view(tmp_path, "test_resnet")
    classifier = with_head(FeatureExtractor(view.backbone, replace(view.spec, tta="flip")))
    image = draw(1, 2)
    (plain,) = heat_maps(classifier, [image], [1])
    (mirrored,) = heat_maps(classifier, [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)], [1])
    assert np.abs(plain[:, ::-1] - mirrored).max() < 1e-3


# Which class


def test_one_unit_for_two_classes_explains_both(tmp_path: Path) -> None:
    view = make_view(tmp_path, "test_resnet")
    (part,) = with_head(view, classes=2).members
    unit, bias = part.layer.weight_DK[:, 1], part.layer.bias_K[1]
    one = EnsembleMember(view, LinearLayer(np.stack([0 * unit, unit], 1), np.array([0, bias], np.float32)))
    two = EnsembleMember(
        view, LinearLayer(np.stack([-unit / 2, unit / 2], 1), np.array([-bias / 2, bias / 2], np.float32))
    )
    image = draw(2, 1)
    for k in (0, 1):
        maps = [heat_maps(Classifier((p,), ("a", "b"), PLAN), [image], [k])[0] for p in (one, two)]
        assert np.abs(maps[0] - maps[1]).max() < 1e-3
    by_default = heat_maps(Classifier((one,), ("a", "b"), PLAN), [image])[0]
    assert by_default.max() == 1  # of the class predicted, some place speaks for it


def test_images_are_files_arrays_or_images(tmp_path: Path) -> None:
    classifier = with_head(make_view(tmp_path, "test_resnet"))
    image = draw(0, 4)
    image.save(tmp_path / "one.png")
    maps = heat_maps(classifier, [image, np.asarray(image), tmp_path / "one.png"], [1, 1, 1])
    assert np.array_equal(maps[0], maps[1])
    assert np.array_equal(maps[0], maps[2])
    assert maps[0].shape == (120, 160)
    assert maps[0].dtype == np.float32
    assert heat_maps(classifier, []) == []
    with pytest.raises(UnreadableImage, match=r"gone\.png: could not be read"):
        heat_maps(classifier, [tmp_path / "gone.png"])


def test_a_network_without_places_says_so(tmp_path: Path) -> None:
    classifier = with_head(make_view(tmp_path, "vit_tiny_patch16_224", size=16, img_size=16, depth=1))
    with pytest.raises(BackboneError) as caught:
        heat_maps(classifier, [draw(0, 0)])
    assert str(caught.value) == (
        "vit_tiny_patch16_224.s0: its last maps (2, 192) have no spatial positions, so no heat map can be made."
    )


# Sanity: Adebayo et al. 2018, arXiv 1810.03292


def planted(n: int, seed: int, side: int = 160, patch: int = 36) -> tuple[list[Image.Image], np.ndarray, np.ndarray]:
    """Grey noise with a patch at a random place, red in class 0 and green in class 1; its corner (x, y) for each."""
    rng = np.random.default_rng(seed)
    labels, corners = np.arange(n) % 2, rng.integers(0, side - patch, (n, 2))
    images = []
    for label, (x, y) in zip(labels, corners, strict=True):
        noise = rng.normal(110, 20, (side, side, 3))
        noise[y : y + patch, x : x + patch, label] += 110
        images.append(Image.fromarray(noise.clip(0, 255).astype(np.uint8)))
    return images, labels, corners


def fitted(view: FeatureExtractor, images: list[Image.Image], labels: np.ndarray) -> Classifier:
    """A ridge head on a network's features."""
    import torch

    with torch.no_grad():
        features = build(view.backbone, image_size=view.spec.image_size)(pixels(view, images)).numpy()
    head = fit_head("ridge", features, labels, 2, strength=0.1)
    return Classifier((EnsembleMember(view, LinearLayer(head.weight_DK, head.bias_K)),), ("red", "green"), PLAN)


def test_heat_is_where_the_patch_is_that_decides_the_class(tmp_path: Path) -> None:
    images, labels, _ = planted(80, seed=0)
    classifier = fitted(make_view(tmp_path, "test_resnet", size=160), images, labels)
    images, labels, corners = planted(24, seed=1)
    hits = 0
    for heat, (x, y) in zip(heat_maps(classifier, images, labels), corners, strict=True):
        peak_y, peak_x = np.unravel_index(heat.argmax(), heat.shape)
        hits += abs(peak_x - (x + 18)) <= 34 and abs(peak_y - (y + 18)) <= 34  # one of the 5 x 5 cells is 32 wide
    assert hits >= 20  # by chance it would be some 4 of 24


def test_other_weights_give_another_map(tmp_path: Path) -> None:
    images, labels, _ = planted(12, seed=2)
    classifier = fitted(make_view(tmp_path, "test_resnet", size=160), images, labels)
    (part,) = classifier.members
    other = EnsembleMember(make_view(tmp_path, "test_resnet", seed=7, size=160), part.layer)
    before = heat_maps(classifier, images, labels)
    after = heat_maps(Classifier((other,), classifier.classes, PLAN), images, labels)
    alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] if b.any() else 0.0 for a, b in zip(before, after, strict=True)]
    assert np.mean(alike) < 0.5
    assert max(np.abs(np.subtract(a, b)).max() for a, b in zip(before, after, strict=True)) > 0.5
