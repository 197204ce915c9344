"""Networks cut in two: the halves give the whole's logits, share nothing, and only the tail learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import headstart.model.backbones.networks
from headstart.errors import BackboneError, CannotCut
from headstart.model.backbones.build import build
from headstart.model.backbones.cut_network import (
    Tail,
    Trunk,
    auto_cut,
    cut,
    freeze_norms,
    join,
    stage_parameters,
    survey,
)
from headstart.model.backbones.networks import with_top
from headstart.model.backbones.registry import find_backbone, without_weights
from headstart.model.backbones.weights_source import WeightsSource

FAMILIES: dict[str, tuple[int, tuple[str, ...]]] = {
    "test_resnet": (64, ("conv1", "layer1.0", "layer2.0", "layer3.0", "layer4.0")),
    "test_efficientnet": (
        64,
        ("conv_stem", "blocks.0.0", "blocks.1.0", "blocks.2.0", "blocks.3.0", "blocks.4.0", "conv_head"),
    ),
    "test_vit": (64, ("stem", *(f"blocks.{i}" for i in range(6)))),
    "test_convnext3": (
        64,
        (
            "stem",
            "stages.0.blocks.0",
            "stages.1.downsample",
            "stages.1.blocks.0",
            "stages.2.downsample",
            "stages.2.blocks.0",
            "stages.3.downsample",
            "stages.3.blocks.0",
        ),
    ),
    "test_byobnet": (64, ("stem", "stages.0.0", "stages.1.0", "stages.2.0", "stages.3.0")),
}

# First and last stages of real architectures, how many there are, and a size to cut them at.
ARCHITECTURES = {
    "mobilenetv1_100": (14, "conv_stem", "blocks.4.1", 64),
    "mobilenetv2_100": (19, "conv_stem", "conv_head", 64),
    "mobilenetv3_small_100": (13, "conv_stem", "blocks.5.0", 64),
    "resnet34": (17, "conv1", "layer4.2", 64),
    "resnetv2_50": (17, "stem", "stages.3.blocks.2", 64),
    "convnext_atto": (16, "stem", "stages.3.blocks.1", 64),
    "densenet121": (8, "features.conv0", "features.denseblock4", 64),
    "vit_tiny_patch16_224": (13, "stem", "blocks.11", 224),
    "swin_tiny_patch4_window7_224": (16, "patch_embed", "layers.3.blocks.1", 224),
}


def names_of(module: nn.Module, image_size: int = 0) -> tuple[str, ...]:
    """Names of a network's stages, input to output."""
    return tuple(stage.name for stage in survey(module, image_size))


def network(name: str, num_classes: int = 3, **args: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, num_classes=num_classes, **args)
    for part in model.modules():  # batch statistics as training leaves them, so that they matter
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(part.running_mean, -0.2, 0.2)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return model.eval()


def images(n: int, side: int) -> torch.Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def check_halves(model: nn.Module, n_frozen: int, side: int) -> None:
    """All that a cut promises."""
    trunk, tail = cut(model, n_frozen, side)
    x = images(2, side)
    with torch.no_grad():
        activations = trunk(x)
        expected = model(x)
        assert float((tail.eval()(activations) - expected).abs().max()) <= 1e-6 * float(expected.abs().max())
    expected_shape = survey(model, side)[n_frozen - 1].shape if n_frozen else (3, side, side)
    assert activations.shape[1:] == expected_shape
    own, trunks, tails = (set(m.state_dict()) for m in (model, trunk, tail))
    assert {name.removeprefix("network.") for name in trunks | tails} == own
    assert not n_frozen or not trunks & tails
    assert not {id(p) for p in (*trunk.parameters(), *tail.parameters())} & {id(p) for p in model.parameters()}
    tail.train()(activations).square().sum().backward()
    assert all(p.grad is not None for p in tail.parameters())
    grouped = [id(p) for _, parameters in stage_parameters(tail) for p in parameters]
    assert sorted(grouped) == sorted(map(id, tail.parameters()))


@pytest.mark.parametrize("name", FAMILIES)
def test_halves_of_every_family_at_every_stage(name: str) -> None:
    side, names = FAMILIES[name]
    model = network(name)
    assert names_of(model, side) == names
    for n_frozen in (0, 1, 3, len(names) - 1, len(names)):
        check_halves(model, n_frozen, side)


@pytest.mark.slow
def test_halves_of_a_real_architecture() -> None:
    model = network("mobilenetv2_100")
    check_halves(model, auto_cut(model, 64), 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_halves_of_real_architectures_at_more_stages(name: str) -> None:
    many, first, last, side = ARCHITECTURES[name]
    model = network(name)
    names = names_of(model, side)
    assert (len(names), names[0], names[-1]) == (many, first, last)
    for n_frozen in (many // 2, many):
        check_halves(model, n_frozen, side)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "inception_v3", "legacy_xception", "inception_resnet_v2", "nasnetalarge"])
def test_halves_of_the_larger_backbones(name: str) -> None:
    side = 224 if name == "nasnetalarge" else 96
    model = network(name)
    check_halves(model, auto_cut(model, side), side)


@pytest.mark.slow
def test_a_network_that_passes_several_tensors_along_is_one_stage() -> None:
    with torch.device("meta"):
        model = timm.create_model("nasnetalarge", num_classes=2)
    (only,) = survey(model)
    assert (only.name, only.shape, auto_cut(model)) == ("features", (4032,), 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cnn", "resnet", "vit"])
def test_our_own_networks(kind: str) -> None:
    if kind == "cnn":
        model = network("headstart_cnn", img_size=40)
        assert names_of(model) == ("features.0", "features.1", "features.2")
    else:
        model = with_top(network(f"test_{kind}", 0, **({"img_size": 64} if kind == "vit" else {})), (8, 4), 3).eval()
        assert names_of(model, 64)[-1] == {"resnet": "backbone.layer4.0", "vit": "backbone.blocks.5"}[kind]
    side = 40 if kind == "cnn" else 64
    for n_frozen in (0, 2, len(survey(model, side))):
        check_halves(model, n_frozen, side)
    _, tail = cut(model, len(survey(model, side)), side)
    (head,) = stage_parameters(tail)
    assert (head[0], len(head[1])) == ("head", 4 if kind == "cnn" else 6)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 5), st.integers(33, 80), st.integers(1, 5))
def test_halves_at_any_size_and_batch(n_frozen: int, side: int, batch: int) -> None:
    model = network("test_resnet")
    trunk, tail = cut(model, n_frozen, side)
    x = images(batch, side)
    with torch.no_grad():
        torch.testing.assert_close(tail.eval()(trunk(x)), model(x), rtol=1e-4, atol=1e-5)


def test_a_cut_changes_neither_the_network_nor_the_random_numbers() -> None:
    model = network("test_resnet").train()
    model.layer1.eval()
    modes = [part.training for part in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    cut(model, 2, 64)
    assert torch.equal(torch.rand(3), expected)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# ------------------------------------------------------------------------------------------------------------- training
def test_joining_puts_the_tuned_tail_back() -> None:
    model = network("test_efficientnet")
    trunk, tail = cut(model, 4, 64)
    assert all(torch.equal(join(model, tail)[key], value) for key, value in model.state_dict().items())
    x, y = images(8, 64), torch.arange(8) % 3
    with torch.no_grad():
        activations = trunk(x)
    optimizer = torch.optim.SGD(tail.train().parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(tail(activations), y).backward()
        optimizer.step()
    whole = join(model, tail)
    assert list(whole) == list(model.state_dict())
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, whole[key])}
    assert changed == {key.removeprefix("network.") for key in tail.state_dict()}
    fresh = network("test_efficientnet")
    fresh.load_state_dict(whole, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(fresh(x), tail.eval()(trunk(x)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fresh(x), tail(trunk(x).half()), rtol=0.05, atol=0.05)


def test_kept_activations_stay_as_they_are() -> None:
    torch.manual_seed(0)
    model = timm.create_model("legacy_xception", num_classes=2).eval()  # its blocks start with a ReLU in place
    with torch.inference_mode():
        trunk, tail = cut(model, len(survey(model, 96)) - 3, 96)
        activations = torch.randn(1, *survey(model, 96)[-4].shape)
        before = activations.clone()
        first = tail.eval()(activations)
        assert torch.equal(activations, before)
        assert torch.equal(tail(activations), first)
    assert isinstance(trunk, Trunk)


def test_the_trunk_does_not_learn_and_stays_in_evaluation_mode() -> None:
    trunk, tail = cut(network("test_resnet"), 3, 64)
    both = nn.Sequential(trunk, tail).train()
    assert not any(part.training for part in trunk.modules())
    assert not any(p.requires_grad for p in trunk.parameters())
    assert all(p.requires_grad for p in tail.parameters())
    before = {key: value.clone() for key, value in trunk.state_dict().items()}
    both(images(4, 64)).sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in trunk.state_dict().items())


@pytest.mark.filterwarnings("ignore")  # timm's shape arithmetic is traced at the fixed shape, as intended
def test_a_trunk_can_be_traced() -> None:
    for name, side in (("test_resnet", 64), ("test_vit", 64)):
        model = network(name)
        for n_frozen in (3, len(survey(model, side))):
            trunk, _ = cut(model, n_frozen, side)
            with torch.no_grad():
                traced = torch.jit.trace(trunk, images(2, side), check_trace=False)
                x = torch.rand(2, 3, side, side)
                assert torch.equal(traced(x), trunk(x))


def test_stage_parameters_from_input_to_output() -> None:
    model = network("test_resnet")
    _, tail = cut(model, 3, 64)
    assert [(name, len(parameters)) for name, parameters in stage_parameters(tail)] == [
        ("layer3.0", 12),
        ("layer4.0", 9),
        ("head", 2),
    ]
    _, whole = cut(model, 0, 64)
    assert [name for name, _ in stage_parameters(whole)] == [*names_of(model, 64), "head"]
    _, last = cut(model, 5, 64)
    assert [(name, [tuple(p.shape) for p in ps]) for name, ps in stage_parameters(last)] == [("head", [(3, 96), (3,)])]
    vit = network("test_vit")
    _, whole = cut(vit, 0)
    stem = {id(p) for p in dict(stage_parameters(whole))["stem"]}
    found = {name.partition(".")[0] for name, p in whole.network.named_parameters() if id(p) in stem}
    assert found == {"patch_embed", "pos_embed", "cls_token"}


def test_frozen_norms_keep_their_statistics_and_train_their_scale() -> None:
    _, tail = cut(network("test_resnet"), 2, 64)
    freeze_norms(tail)
    nn.Sequential(tail).train()
    norms = [m for m in tail.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms and not any(norm.training for norm in norms)
    assert tail.training and tail.network.layer4.training
    before = [norm.running_mean.clone() for norm in norms]
    tail(torch.rand(4, *survey(network("test_resnet"), 64)[1].shape)).square().sum().backward()
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    assert all(norm.weight.grad is not None for norm in norms)


def test_dropout_before_the_last_layer_is_kept_where_the_backbone_is_frozen() -> None:
    model = network("test_resnet", drop_rate=0.5)
    _, tail = cut(model, 5, 64)
    features = torch.rand(4, 96)
    tail.train()
    assert not torch.equal(tail(features), tail(features))
    assert torch.equal(tail.eval()(features), model.fc(features))


# ---------------------------------------------------------------------------------------------------------------- places
def test_what_a_stage_costs_is_counted_by_hand() -> None:
    first, second, third = survey(network("headstart_cnn", img_size=40), 40)
    assert (first.steps, first.shape, first.numel) == (("features.0",), (32, 19, 19), 32 * 19 * 19)
    assert first.multiply_adds == 38 * 38 * 32 * 27
    assert second.multiply_adds == 17 * 17 * 32 * 9 * 32
    assert (third.shape, third.multiply_adds) == ((32 * 3 * 3,), 6 * 6 * 32 * 9 * 32)
    mobile = survey(network("mobilenetv1_100"), 224)
    assert sum(s.multiply_adds for s in mobile) == pytest.approx(569e6 - 1.0e6, rel=0.01)  # Howard et al. 2017, table 4


def test_where_to_cut() -> None:
    model = network("mobilenetv1_100")
    found = survey(model, 160)
    names = [stage.name for stage in found]
    total = sum(stage.multiply_adds for stage in found)

    def left(n: int) -> float:
        return sum(stage.multiply_adds for stage in found[n:]) / total

    n = auto_cut(model, 160)
    assert (names[n - 1], found[n - 1].shape) == ("blocks.3.4", (512, 10, 10))  # nothing later but one is smaller
    assert left(n) <= 0.3 < left(n - 1)
    assert names[auto_cut(model, 160, share=0.5) - 1] == "blocks.3.2"
    assert names[auto_cut(model, 160, share=1, max_bytes=1 << 20) - 1] == "conv_stem"
    assert auto_cut(model, 160, share=0) == len(names) - 2
    mobile = network("mobilenetv2_100")
    n = auto_cut(mobile, 160)
    assert names_of(mobile, 160)[n - 1] == "blocks.4.2"
    assert 2 * survey(mobile, 160)[n - 1].numel <= 64 << 10
    whole = network("eva02_tiny_patch14_224", img_size=28, depth=2, embed_dim=48, num_heads=3)
    assert len(survey(whole)) == 1 and auto_cut(whole) == auto_cut(whole, share=1) == 0


def test_following_a_network_takes_no_memory_for_numbers() -> None:
    with torch.device("meta"):
        model = timm.create_model("vgg19", num_classes=2)
    assert len(survey(model, 224)) == 16


# -------------------------------------------------------------------------------------------------------------- refusals
class Tangled(nn.Module):
    """A network whose head looks at what the first block gave, past the second."""

    def __init__(self, detached: bool) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)
        self.pretrained_cfg = {"architecture": "tangled", "classifier": "fc", "input_size": (3, 16, 16)}
        self.detached = detached

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        out = self.first(x)
        self.seen = 10 * (out.detach() if self.detached else out).mean()
        return self.second(out)

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean((2, 3)) + getattr(self, "seen", 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


def test_a_cut_that_changes_the_logits_is_refused() -> None:
    with pytest.raises(
        CannotCut, match=r"tangled: its logits differ by \S+ when cut after 1 stages\.\n  Cut it elsewhere"
    ):
        cut(Tangled(detached=True), 1)
    with pytest.raises(CannotCut, match=r"tangled: does not run when cut after 1 stages: "):
        cut(Tangled(detached=False), 1)


class InPlace(nn.Module):
    """A block whose shortcut is added in place: what comes out is the tensor that its Sequential gave."""

    def __init__(self) -> None:
        super().__init__()
        conv = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.rep = nn.Sequential(conv, nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.rep(x)
        out += x
        return out


def test_a_shortcut_added_in_place_is_not_taken_apart() -> None:
    model = Tangled(detached=True)
    model.second = nn.Sequential(InPlace(), InPlace())
    assert names_of(model.eval()) == ("first", "second.0", "second.1")
    xception = timm.create_model("legacy_xception", num_classes=2)
    assert names_of(xception, 96) == ("conv1", "conv2", *(f"block{i}" for i in range(1, 13)), "conv3", "conv4")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: cut(network("test_resnet"), 6, 64), "n_frozen is 6, expected 0 to 5: test_resnet has 5 stages."),
        (lambda: cut(network("test_resnet"), -1, 64), "n_frozen is -1, expected 0 to 5: test_resnet has 5 stages."),
        (
            lambda: survey(network("test_resnet", 0)),
            "test_resnet: has no last layer at 'fc'; build it with num_classes.",
        ),
        (
            lambda: survey(nn.Linear(2, 2)),
            "Linear: is not a timm network with a single last layer (its classifier is None).\n"
            "  Use another backbone, or --approach linear, which trains none of its layers.",
        ),
        (
            lambda: survey(network("coat_tiny", img_size=32, serial_depths=(1, 1, 1, 1)), 32),
            "coat_tiny: its features are not one tensor.\n"
            "  Use another backbone, or --approach linear, which trains none of its layers.",
        ),
        (
            lambda: join(network("test_resnet"), cut(network("test_efficientnet"), 1, 64)[1]),
            "the tail does not belong to test_resnet, which has no blocks.0.0.conv.weight of this shape.",
        ),
    ],
)
def test_what_cannot_be_done(make: Any, text: str) -> None:
    with pytest.raises(BackboneError) as error:
        make()
    assert isinstance(error.value, CannotCut)
    assert str(error.value) == text


def test_another_size_than_it_was_built_for() -> None:
    hint = r"\n  Is that the size it was built for\?"
    with pytest.raises(CannotCut, match=r"headstart_cnn: cannot be traced at 64 px: .*" + hint):
        survey(network("headstart_cnn", img_size=40), 64)


def test_other_modules_are_no_tails() -> None:
    for function in (stage_parameters, freeze_norms, lambda tail: join(network("test_resnet"), tail)):
        with pytest.raises(TypeError, match="tail is a Linear, expected what cut"):
            function(nn.Linear(1, 1))


# ----------------------------------------------------------------------------------------------------------- real weights
def test_halves_of_the_weights_here(shared: Path) -> None:
    backbone = find_backbone("mobilenetv1_100.tf_qat_in1k", WeightsSource(folder=shared / "weights", offline=True))
    model = build(backbone, 6, image_size=96)
    trunk, tail = cut(model, auto_cut(model, 96), 96)
    assert isinstance(trunk, Trunk) and isinstance(tail, Tail)
    with torch.no_grad():
        x = images(2, 96)
        np.testing.assert_allclose(tail.eval()(trunk(x)), model(x), rtol=1e-3, atol=1e-4)


def test_random_networks_can_be_cut_too() -> None:
    model = build(without_weights("headstart_cnn", image_size=32), 2)
    check_halves(model, 1, 32)
    assert headstart.model.backbones.networks.HeadstartCNN is type(model)
