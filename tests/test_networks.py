"""Our own networks, and the backbones of the reference systems: built, known to timm, trained a step, saved, reloaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import headstart.model.backbones.networks
from headstart.errors import BackboneError, BadWeights, MissingWeights
from headstart.model.backbones.architectures import POPULAR_NAMES, RELATIVES
from headstart.model.backbones.build import build
from headstart.model.backbones.networks import HeadstartCNN, HeadstartTop, QuickDropout, with_top
from headstart.model.backbones.registry import Backbone, find_backbone, tuned, without_weights
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.heads.linear_layer import LinearLayer
from headstart.model.inference.classifier import Classifier, EnsembleMember
from headstart.model.inference.engines import open_network
from headstart.model.inference.features import FeatureExtractor
from headstart.model.inference.runtime import Runtime
from headstart.runs.saved_classifier import read_classifier, write_classifier

KERAS = {
    "Xception": (299, 22.9),
    "VGG16": (224, 138.4),
    "VGG19": (224, 143.7),
    "InceptionResNetV2": (299, 55.9),
    "MobileNetV2": (224, 3.5),
    "NASNetLarge": (331, 88.9),
    "ResNet50V2": (224, 25.6),
    "ResNet101V2": (224, 44.7),
    "ResNet152V2": (224, 60.4),
    "InceptionV3": (299, 23.9),
    "DenseNet121": (224, 8.1),
    "DenseNet169": (224, 14.3),
    "DenseNet201": (224, 20.2),
}
"""Input size and millions of numbers (batch statistics included), from the table at https://keras.io/api/applications."""

PLAN = Runtime("openvino", "cpu", "f32", 4)


def saved(module: nn.Module, file: Path) -> Path:
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, file)
    return file


def meta_network(name: str, **args: Any) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, **args)
    return model


# ------------------------------------------------------------------------------------------- the small network of R3
def test_the_published_network_layer_by_layer() -> None:
    model = meta_network("headstart_cnn", num_classes=6)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    assert shapes == {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.0.0.bias": (32,),
        "features.1.0.weight": (32, 32, 3, 3),
        "features.1.0.bias": (32,),
        "features.2.0.weight": (32, 32, 3, 3),
        "features.2.0.bias": (32,),
        "hidden.0.weight": (128, 17 * 17 * 32),  # 150 - 2 = 148, 74, 72, 36, 34, 17: without padding
        "hidden.0.bias": (128,),
        "classifier.weight": (6, 128),
        "classifier.bias": (6,),
    }
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.3, 0.0]
    assert sum(value.numel() for value in model.parameters()) == 896 + 2 * 9248 + 9248 * 128 + 128 + 6 * 129


def test_it_equals_the_same_layers_in_a_row() -> None:
    model = HeadstartCNN(num_classes=4, img_size=30, filters=(5, 6), drops=(0, 0), hidden=(7, 3)).eval()
    first, second = model.features[0][0], model.features[1][0]
    x = torch.rand(2, 3, 30, 30)
    pool, relu = nn.functional.max_pool2d, nn.functional.relu
    maps = pool(relu(second(pool(relu(first(x)), 2))), 2).flatten(1)
    dense = relu(model.hidden[2](relu(model.hidden[0](maps))))
    assert torch.equal(model(x), model.classifier(dense))
    assert torch.equal(model.forward_head(model.forward_features(x), pre_logits=True), dense)


def test_weights_start_as_in_keras() -> None:
    torch.manual_seed(0)
    model = HeadstartCNN(num_classes=6, img_size=150)
    for layer, fan in ((model.features[1][0], 9 * 32 + 9 * 32), (model.hidden[0], 9248 + 128), (model.classifier, 134)):
        limit = (6 / fan) ** 0.5  # Glorot and Bengio 2010, equation 16
        assert 0.9 * limit < float(layer.weight.detach().abs().max()) <= limit
        assert float(layer.weight.detach().std()) == pytest.approx(limit / 3**0.5, rel=0.1)
        assert not layer.bias.detach().any()


def test_timms_conventions() -> None:
    for name, args in (
        ("headstart_cnn", {"img_size": 32}),
        ("headstart_top", {"architecture": "test_resnet"}),
        ("headstart_stages", {"architecture": "test_resnet"}),
    ):
        model = timm.create_model(name, num_classes=0, **args).eval()
        assert isinstance(model.get_classifier(), nn.Identity)
        features = model(torch.rand(2, 3, 32, 32))
        assert features.shape == (2, model.num_features)
        model.reset_classifier(5)
        assert model.pretrained_cfg["classifier"] == "classifier"
        assert model.get_classifier() is model.classifier
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    assert timm.list_models("headstart_*") == ["headstart_cnn", "headstart_stages", "headstart_top"]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({"image_size": 32}, "headstart_cnn: has no argument 'image_size'.\n  Did you mean 'img_size'?"),
        (
            {"x": 1},
            "headstart_cnn: has no argument 'x'.\n  Its arguments are num_classes, in_chans, img_size, "
            "filters, drops, hidden, drop_rate.",
        ),
        (
            {"img_size": 21},
            "headstart_cnn: img_size is 21, expected at least 22 pixels for 3 blocks of convolution and pooling.",
        ),
        ({"img_size": (32, 40)}, "headstart_cnn: img_size is (32, 40), expected one number: its images are square."),
        ({"drops": [0.5]}, "headstart_cnn: drops is [0.5], expected 3 numbers from 0 to 1."),
        ({"filters": [32, 0]}, "filters is [32, 0], expected a list of sizes such as [128] or [256, 64]."),
    ],
)
def test_arguments_that_cannot_work(args: dict[str, Any], text: str) -> None:
    with pytest.raises(BackboneError) as error:
        timm.create_model("headstart_cnn", **args)
    assert str(error.value) == text


def test_the_smallest_image() -> None:
    assert HeadstartCNN(2, img_size=22)(torch.rand(1, 3, 22, 22)).shape == (1, 2)


# ------------------------------------------------------------------------------------------------ any network with a top
def test_dense_layers_on_a_network() -> None:
    inside = build(without_weights("test_efficientnet"))
    model = with_top(inside, (16, 8), 3).eval()
    x = torch.rand(2, 3, 64, 64)
    pooled = inside(x)
    dense = nn.functional.relu(model.hidden[2](nn.functional.relu(model.hidden[0](pooled))))
    assert torch.equal(model(x), model.classifier(dense))
    assert (model.num_features, model.pretrained_cfg["architecture"]) == (8, "headstart_top")
    same = timm.create_model("headstart_top", architecture="test_efficientnet", hidden=[16, 8], num_classes=3)
    same.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(same.eval()(x), model(x))


def test_dropout_comes_before_the_last_layer_and_in_training_only() -> None:
    model = with_top(build(without_weights("test_resnet")), (64,), 2, drop_rate=0.5)
    ones = torch.ones(1, model.backbone.num_features)
    model.hidden = nn.Identity()
    model.classifier = nn.Identity()
    assert set(model.train().forward_top(ones).unique().tolist()) == {0.0, 2.0}
    assert torch.equal(model.eval().forward_top(ones), ones)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({}, "headstart_top: architecture is '', expected the plain name of a timm model."),
        (
            {"architecture": "hf-hub:timm/resnet18"},
            "headstart_top: architecture is 'hf-hub:timm/resnet18', expected the plain name of a timm model.",
        ),
        (
            {"architecture": "test_resnett"},
            "headstart_top: timm has no architecture 'test_resnett'.\n  Did you mean 'test_resnet'?",
        ),
        (
            {"architecture": "headstart_top"},
            "headstart_top: timm has no architecture 'headstart_top'.\n  Did you mean 'headstart_top'?",
        ),
        (
            {"architecture": "test_resnet", "nonsense": 1},
            "headstart_top: timm cannot build test_resnet with "
            "{'nonsense': 1}: ResNet.__init__() got an unexpected keyword argument 'nonsense'.",
        ),
        (
            {"architecture": "test_resnet", "hidden": "32"},
            "hidden is '32', expected a list of sizes such as [128] or [256, 64].",
        ),
    ],
)
def test_tops_that_cannot_be_built(args: dict[str, Any], text: str) -> None:
    with pytest.raises(BackboneError) as error:
        timm.create_model("headstart_top", **args)
    assert str(error.value) == text


def test_a_file_cannot_make_timm_fetch_something() -> None:
    found = replace(without_weights("test_resnet"), model_args=(("checkpoint_path", "weights.pt"),))
    with pytest.raises(BadWeights, match=r"test_resnet: model_args\.checkpoint_path is 'weights.pt'"):
        build(found)


def test_our_own_networks_have_hidden_layers_already(tmp_path: Path) -> None:
    found = without_weights("headstart_cnn", image_size=32)
    with pytest.raises(BackboneError, match="HeadstartCNN has hidden layers of its own"):
        with_top(build(found), (8,), 2)
    with pytest.raises(BackboneError, match="headstart_cnn has hidden layers of its own"):
        tuned(found, saved(nn.Linear(1, 1), tmp_path / "x.safetensors"), hidden=(8,))


# ----------------------------------------------------------------------------------------------- from training to a run
def test_random_networks_remember_their_size_and_arguments() -> None:
    found = without_weights("headstart_cnn", image_size=48, filters=(4, 4), drops=(0, 0), hidden=())
    assert (found.source, found.preprocess.image_size) == ("random", 48)
    assert dict(found.model_args) == {"img_size": 48, "filters": (4, 4), "drops": (0, 0), "hidden": ()}
    assert build(found, 3)(torch.rand(1, 3, 48, 48)).shape == (1, 3)
    assert without_weights("test_resnet", image_size=48).model_args == ()  # takes any size
    assert without_weights("headstart_cnn", image_size=150).model_args == ()
    with pytest.raises(BadWeights, match=r"headstart_cnn: model_args.filters is \{1\}, expected an argument of"):
        without_weights("headstart_cnn", filters={1})


def test_random_networks_are_not_used_before_they_are_saved() -> None:
    found = without_weights("test_resnet")
    with pytest.raises(BackboneError, match="test_resnet: has random weights; save them"):
        open_network(found, found.preprocess, PLAN)


def run_of(
    backbone: Backbone, module: nn.Module, image_size: int, folder: Path, hidden: tuple[int, ...] = ()
) -> Classifier:
    """A run folder of a network, as after training."""
    found = tuned(backbone, saved(module, folder / "tuned.safetensors"), image_size=image_size, hidden=hidden)
    layer: Any = module.get_classifier()
    weight_DK = np.ascontiguousarray(layer.weight.detach().numpy().T)
    part = EnsembleMember(
        FeatureExtractor(found, replace(found.preprocess, image_size=image_size)),
        LinearLayer(weight_DK, layer.bias.detach().numpy()),
    )
    classifier = Classifier((part,), ("a", "b", "c"), PLAN)
    write_classifier(folder, classifier)
    return classifier


@pytest.mark.parametrize("kind", ["cnn", "resnet with a top", "vit", "vit with a top"])
def test_a_run_gives_the_same_logits_through_timm_and_through_the_engine(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    size, hidden = (48, ()) if kind == "cnn" else (64, (16, 8) if "top" in kind else ())
    name = {"cnn": "headstart_cnn", "res": "test_resnet", "vit": "test_vit"}[kind[:3]]
    found = without_weights(name, image_size=size)
    inside = build(found, 0 if hidden else 3, image_size=size)
    module = with_top(inside, hidden, 3).eval() if hidden else inside
    classifier = run_of(found, module, size, tmp_path, hidden)
    spec = classifier.members[0].extractor.spec
    pixels = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    x = (torch.from_numpy(pixels) / 255 - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    x = x.permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = module(x).numpy()
        through_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(x).numpy()
    session = open_network(classifier.members[0].extractor.backbone, spec, PLAN).session()
    session.pixels[:] = pixels
    np.testing.assert_allclose(through_timm, expected, atol=1e-6)
    features_ND = session.run()[:, : len(classifier.members[0].layer.weight_DK)]
    np.testing.assert_allclose(classifier.logits([features_ND]), expected, atol=2e-4)
    json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_efficientnet"])
def test_a_run_on_all_stages_gives_the_same_logits_through_timm_and_through_the_engine(
    architecture: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    found = without_weights(architecture, image_size=64)
    file = saved(build(found, 3, image_size=64), tmp_path / "tuned.safetensors")
    backbone = tuned(found, file, image_size=64)
    spec = replace(backbone.preprocess, image_size=64)
    network = open_network(backbone, spec, PLAN)
    rng = np.random.default_rng(0)
    weight_DK = rng.normal(size=(sum(network.block_sizes), 3)).astype(np.float32)
    layer = LinearLayer(weight_DK, rng.normal(size=3).astype(np.float32))
    member = EnsembleMember(FeatureExtractor(backbone, spec, "stages"), layer)
    classifier = Classifier((member,), ("a", "b", "c"), PLAN)
    described = write_classifier(tmp_path / "run", classifier)
    pixels = rng.integers(0, 256, (PLAN.batch, 64, 64, 3), np.uint8)
    x = ((torch.from_numpy(pixels) / 255 - torch.tensor(spec.mean)) / torch.tensor(spec.std)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        through_timm = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True).eval()(x).numpy()
    session = network.session()
    session.pixels[:] = pixels
    np.testing.assert_allclose(classifier.logits([session.run()]), through_timm, atol=2e-3)
    read = read_classifier(tmp_path / "run", described)
    assert read.members[0].extractor.pooling == "stages"
    np.testing.assert_array_equal(read.members[0].layer.weight_DK, weight_DK)


def test_tuned_backbones(tmp_path: Path) -> None:
    found = without_weights("test_vit")
    file = saved(with_top(build(found, image_size=96), (16,), 3), tmp_path / "x.safetensors")
    new = tuned(found, file, image_size=96, hidden=(16,))
    assert (new.name, new.architecture, new.source, new.feature_dim) == ("test_vit", "headstart_top", "file", 16)
    assert new.model_args == (("architecture", "test_vit"), ("hidden", (16,)), ("img_size", 96))
    assert isinstance(build(new, image_size=96), HeadstartTop)
    assert new.origin == "trained here from test_vit (random weights)"
    assert str(FeatureExtractor(new, new.preprocess)).endswith(" px, trained from scratch")
    again = tuned(replace(new, origin="hub"), file)
    assert str(FeatureExtractor(again, new.preprocess)).endswith(" px, fine-tuned")
    with pytest.raises(BadWeights, match="these are not the weights of test_vit"):
        build(tuned(found, file, image_size=96))


# ------------------------------------------------------------------------------- the backbones of the reference systems
def test_the_reference_systems_backbones_are_known_by_their_names() -> None:
    assert set(POPULAR_NAMES) == {*KERAS, "ResNet34"}
    for name, timm_name in POPULAR_NAMES.items():
        assert without_weights(name.upper()).architecture == timm_name
    for name, (image_size, _) in KERAS.items():
        assert without_weights(name).preprocess.image_size == image_size


@pytest.mark.parametrize("name", sorted(KERAS))
def test_they_are_the_same_architectures(name: str) -> None:
    model = meta_network(POPULAR_NAMES[name])
    statistics = sum(value.numel() for key, value in model.named_buffers() if "running" in key)
    millions = (sum(value.numel() for value in model.parameters()) + statistics) / 1e6
    assert millions == pytest.approx(KERAS[name][1], abs=0.1)
    assert isinstance(model.pretrained_cfg["classifier"], str)


def test_the_hub_has_safetensors_of_them_or_of_a_relative() -> None:
    for timm_name in POPULAR_NAMES.values():
        assert timm.get_pretrained_cfg(RELATIVES.get(timm_name, timm_name)).hf_hub_id
        assert (timm_name in RELATIVES) == (not timm.get_pretrained_cfg(timm_name).hf_hub_id)
    with pytest.raises(MissingWeights, match="or choose another backbone, such as xception41"):
        find_backbone("Xception", WeightsSource(offline=True))


def last_layer(layer: Any, features_ND: torch.Tensor) -> torch.Tensor:
    """Logits of a dense layer, or of a 1x1 convolution."""
    return nn.functional.linear(features_ND, layer.weight.flatten(1), layer.bias)


SMALLEST = {"NASNetLarge": 331, "Xception": 96, "InceptionV3": 96, "InceptionResNetV2": 96}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(POPULAR_NAMES))
def test_built_embedded_trained_a_step_saved_reloaded(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = SMALLEST.get(name, 64)
    found = without_weights(name, image_size=size)
    module = build(found, 3, image_size=size)
    x, y = torch.randn(2, 3, size, size), torch.tensor([0, 2])
    if name == "NASNetLarge":  # the memory of two at 331 px is more than a small machine has
        x, y = x[:1], y[:1]
    with torch.no_grad():
        features = module.forward_head(module.forward_features(x), pre_logits=True).flatten(1)
        assert features.isfinite().all()
        assert torch.allclose(last_layer(module.get_classifier(), features), module(x), rtol=1e-4, atol=1e-5)
    before = {key: float(value.double().sum()) for key, value in module.named_parameters()}
    loss = nn.functional.cross_entropy(module.train()(x), y)
    loss.backward()
    torch.optim.RMSprop(module.parameters(), lr=1e-5).step()  # its step does not grow with the gradient, huge here
    assert loss.isfinite() and all(
        value.grad is not None and value.grad.isfinite().all() for value in module.parameters()
    )
    module.zero_grad(set_to_none=True)
    changed = [key for key, value in module.named_parameters() if float(value.double().sum()) != before[key]]
    assert len(changed) > 0.3 * len(before)  # residual branches that start at zero pass no gradient yet
    with torch.no_grad():
        expected = module.eval()(x[:1])
        layer, file = module.get_classifier(), saved(module, tmp_path / "tuned.safetensors")
        del module
        new = tuned(found, file, image_size=size)
        assert new.feature_dim in (None, features.shape[1])
        features = build(new, image_size=size)(x[:1])
        assert torch.allclose(last_layer(layer, features), expected, rtol=1e-4)
        assert torch.equal(build(new, 3, image_size=size, keep_classifier=True)(x[:1]), expected)


def test_importing_the_networks_registers_them() -> None:
    assert headstart.model.backbones.networks.default_cfgs["headstart_cnn"].default.fixed_input_size


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_keeps_the_mean_and_the_layout(layout: torch.memory_format) -> None:
    x = torch.rand(8, 16, 33, 31).contiguous(memory_format=layout).requires_grad_()
    dropout = QuickDropout(0.3)
    torch.manual_seed(0)
    y = dropout(x)
    y.sum().backward()
    kept = y != 0
    assert float(kept.float().mean()) == pytest.approx(0.7, abs=0.005)  # 131,000 draws: four standard errors
    assert torch.allclose(y[kept], x[kept] / 0.7, rtol=1e-4) and y.stride() == x.stride()
    assert x.grad is not None and torch.allclose(x.grad, kept / 0.7, rtol=1e-4)
    torch.manual_seed(0)
    assert torch.equal(dropout(x), y)
    per_place = dropout(torch.ones(4000, 4)).mean(0)  # each of the four numbers that share a draw
    assert torch.allclose(per_place, torch.ones(4), atol=0.05)
    assert torch.equal(dropout.eval()(x), x) and torch.equal(QuickDropout(0.0)(x), x)


def test_pooling_before_rectifying_gives_the_same() -> None:
    network = timm.create_model("headstart_cnn", num_classes=4, img_size=40, drops=(0.0, 0.0, 0.0))
    pixels = torch.randn(2, 3, 40, 40)
    expected = pixels
    for block in network.features:
        expected = nn.functional.max_pool2d(block[0](expected).relu(), 2)
    assert torch.equal(network.forward_features(pixels), expected)
