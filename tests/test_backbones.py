"""Backbones: which name finds what, what is said when nothing is found, and that `build` loads all or says why."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.errors import BadWeights, MissingWeights, UnknownBackbone
from headstart.images.preprocess import Preprocess
from headstart.model.backbones.architectures import POPULAR_NAMES
from headstart.model.backbones.build import build
from headstart.model.backbones.registry import (
    Backbone,
    BackboneRow,
    at_hand,
    backbones,
    find_backbone,
    last_resort,
    to_choose_from,
    without_weights,
)
from headstart.model.backbones.weights_source import WeightsSource
from headstart.verbs.backbones import BackboneList

LIST_HINT = "`headstart backbones` lists those with weights here."
CFG = {
    "input_size": [3, 96, 96],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.1, 0.2, 0.3],
    "license": "cc0-1.0",
    "origin": "a test",
}


@pytest.fixture(autouse=True)
def no_hub_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache of whoever runs the tests does not matter."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))


def state_of(architecture: str, num_classes: int = 1000, seed: int = 0) -> dict[str, Any]:
    import timm
    import torch

    torch.manual_seed(seed)
    return timm.create_model(architecture, pretrained=False, num_classes=num_classes).state_dict()


def save_entry(folder: Path, name: str, state: dict[str, Any] | None = None, **config: Any) -> Path:
    """NAME.safetensors (one number, unless a state is given) and NAME.json."""
    from safetensors.numpy import save_file

    state = state or {"x.weight": np.zeros(1, dtype=np.float32)}
    arrays = {key: np.require(value, requirements="C") for key, value in state.items()}
    folder.mkdir(exist_ok=True)
    save_file(arrays, folder / f"{name}.safetensors")
    config = {"architecture": name.partition(".")[0], "pretrained_cfg": CFG, **config}
    (folder / f"{name}.json").write_text(json.dumps(config), encoding="utf-8")
    return folder / f"{name}.safetensors"


# ---------------------------------------------------------------------------------------------------------- in folders
def test_a_full_name_in_a_folder(tmp_path: Path) -> None:
    weights = save_entry(tmp_path, "test_resnet.mine", model_args={"drop_rate": 0.1})
    found = find_backbone("test_resnet.mine", WeightsSource(folder=tmp_path, offline=True))
    assert found == Backbone(
        name="test_resnet.mine",
        architecture="test_resnet",
        model_args=(("drop_rate", 0.1),),
        source="folder",
        weights=weights,
        sha256=found.sha256,
        preprocess=Preprocess(96, "crop", 0.875, "bicubic", (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)),
        licence="cc0-1.0",
        feature_dim=None,
        origin="a test",
    )
    assert len(found.sha256) == 64
    assert hash(found)


def test_a_bare_architecture_is_the_folders_one_entry_of_it(tmp_path: Path) -> None:
    save_entry(tmp_path, "test_resnet.mine")
    save_entry(tmp_path, "test_vit.mine")
    assert find_backbone("test_resnet", WeightsSource(folder=tmp_path, offline=True)).name == "test_resnet.mine"


def test_several_of_an_architecture_are_listed(tmp_path: Path) -> None:
    save_entry(tmp_path, "test_resnet.a")
    save_entry(tmp_path, "test_resnet.b")
    with pytest.raises(UnknownBackbone) as caught:
        find_backbone("test_resnet", WeightsSource(folder=tmp_path, offline=True))
    assert str(caught.value) == (
        f"'test_resnet' could be any of test_resnet.a, test_resnet.b in {tmp_path}.\n  Give one of these full names."
    )


def test_several_of_an_architecture_with_timms_default(tmp_path: Path) -> None:
    save_entry(tmp_path, "test_resnet.a")
    save_entry(tmp_path, "test_resnet.r160_in1k")
    assert find_backbone("test_resnet", WeightsSource(folder=tmp_path, offline=True)).name == "test_resnet.r160_in1k"


def test_names_from_elsewhere(tmp_path: Path) -> None:
    import timm

    save_entry(tmp_path, "mobilenetv2_100.mine")
    for name in (
        "MobileNetV2",
        "mobilenetv2",
        " MobileNetV2 ",
        "hf-hub:timm/mobilenetv2_100.mine",
        "timm/mobilenetv2_100",
    ):
        assert find_backbone(name, WeightsSource(folder=tmp_path, offline=True)).name == "mobilenetv2_100.mine"
    assert all(timm.get_pretrained_cfg(name) is not None for name in POPULAR_NAMES.values())


def test_the_folder_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_entry(tmp_path / "env", "test_resnet.env")
    save_entry(tmp_path / "given", "test_resnet.given")
    monkeypatch.setenv("HEADSTART_WEIGHTS", str(tmp_path / "env"))
    assert find_backbone("test_resnet", WeightsSource(offline=True)).name == "test_resnet.env"
    assert (
        find_backbone("test_resnet", WeightsSource(folder=tmp_path / "given", offline=True)).name == "test_resnet.given"
    )
    monkeypatch.setenv("HEADSTART_WEIGHTS", str(tmp_path / "gone"))
    with pytest.raises(MissingWeights) as caught:
        at_hand()
    assert str(caught.value) == (
        f"{tmp_path / 'gone'}: no such folder, given by HEADSTART_WEIGHTS.\n"
        "  It should hold NAME.safetensors and NAME.json for each backbone."
    )


def test_a_name_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    save_entry(tmp_path / "outside", "x")
    save_entry(tmp_path / "inside", "test_resnet.mine")
    with pytest.raises(UnknownBackbone):
        find_backbone("../outside/x", WeightsSource(folder=tmp_path / "inside", offline=True))


def test_a_damaged_entry_is_named_and_does_not_hide_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_entry(tmp_path, "test_resnet.good")
    save_entry(tmp_path, "test_vit.bad")
    (tmp_path / "test_vit.bad.json").write_text("{")
    save_entry(tmp_path, "test_nfnet.pickle")
    (tmp_path / "test_nfnet.pickle.safetensors").write_bytes(b"\x80\x04K\x01.")
    assert [found.name for found in at_hand(WeightsSource(folder=tmp_path))] == ["test_resnet.good"]
    assert "test_vit.bad.json: is not JSON" in caplog.text
    assert "test_nfnet.pickle.safetensors: is a pickle (protocol 4), not safetensors." in caplog.text
    assert find_backbone("test_resnet", WeightsSource(folder=tmp_path, offline=True)).name == "test_resnet.good"
    with pytest.raises(BadWeights, match=r"test_vit.bad.json: is not JSON"):
        find_backbone("test_vit", WeightsSource(folder=tmp_path, offline=True))


# ------------------------------------------------------------------------------------------------------- a weights file
def test_a_file_with_its_json(tmp_path: Path) -> None:
    weights = save_entry(tmp_path, "test_resnet.mine")
    for name in ("", "test_resnet", "test_resnet.mine"):
        found = find_backbone(name, WeightsSource(file=weights, offline=True))
        assert (found.name, found.source, found.preprocess.image_size) == ("test_resnet.mine", "file", 96)


def test_a_file_whose_json_is_of_another_architecture(tmp_path: Path) -> None:
    weights = save_entry(tmp_path, "test_resnet.mine")
    with pytest.raises(BadWeights) as caught:
        find_backbone("resnet50", WeightsSource(file=weights))
    assert str(caught.value) == (
        f"{weights.with_suffix('.json')}: architecture is 'test_resnet', but the requested backbone is 'resnet50'.\n"
        "  Use --backbone test_resnet, or another --weights file."
    )


def test_a_file_without_json_takes_timms_entry(tmp_path: Path) -> None:
    weights = save_entry(tmp_path, "x")
    (tmp_path / "x.json").unlink()
    found = find_backbone("test_resnet.r160_in1k", WeightsSource(file=weights, offline=True))
    assert (found.architecture, found.preprocess.image_size, found.preprocess.crop_pct) == ("test_resnet", 160, 0.95)
    with pytest.raises(MissingWeights) as caught:
        find_backbone("", WeightsSource(file=weights))
    assert str(caught.value) == (
        f"{weights}: has no x.json next to it, so its architecture is unknown.\n"
        "  Name the network with --backbone NAME, or write that JSON."
    )


def test_a_folder_that_timm_or_the_hub_saved(tmp_path: Path) -> None:
    save_entry(tmp_path, "model")
    (tmp_path / "model.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit", "pretrained_cfg": CFG}))
    assert find_backbone("", WeightsSource(file=tmp_path / "model.safetensors")).name == "test_vit"


def test_a_pickle_is_refused_before_anything_else_is_said(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(
        BadWeights, match=r"is a zip archive \(as torch.save writes, with a pickle inside\), not safetensors"
    ):
        find_backbone("no-such-name", WeightsSource(file=path))


# -------------------------------------------------------------------------------------------------------- unknown names
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet-50", f"'resnet-50' is not a known backbone.\n  Did you mean 'resnet50'? {LIST_HINT}"),
        ("ResNet50", f"'ResNet50' is not a known backbone.\n  Did you mean 'resnet50'? {LIST_HINT}"),
        (
            "test_resnet.r161",
            f"'test_resnet.r161' is not a known backbone.\n  Did you mean 'test_resnet.r160_in1k'? {LIST_HINT}",
        ),
        (
            "tst_resnet.mine",
            f"'tst_resnet.mine' is not a known backbone.\n  Did you mean 'test_resnet.mine'? {LIST_HINT}",
        ),
        (
            "test_resnet, test_vit",
            "'test_resnet, test_vit' is not a known backbone.\n  To combine backbones, write 'test_resnet+test_vit'.",
        ),
        ("qqq", f"'qqq' is not a known backbone.\n  {LIST_HINT}"),
        ("", f"'' is not a known backbone.\n  {LIST_HINT}"),
        (
            "a/x.safetensors",
            "'a/x.safetensors' is a file, not a backbone's name.\n  Give it with --weights a/x.safetensors.",
        ),
    ],
)
def test_unknown_names(tmp_path: Path, name: str, message: str) -> None:
    save_entry(tmp_path, "test_resnet.mine")
    with pytest.raises(UnknownBackbone) as caught:
        find_backbone(name, WeightsSource(folder=tmp_path, offline=True))
    assert str(caught.value) == message


def test_known_but_not_here_and_offline() -> None:
    with pytest.raises(MissingWeights) as caught:
        find_backbone("resnet50", WeightsSource(offline=True))
    assert str(caught.value) == (
        "resnet50.a1_in1k: its weights are not on this machine, and offline mode downloads nothing.\n  Give"
        f" the weights with --weights FILE.safetensors or --weights-dir DIR, or run once without --offline. {LIST_HINT}"
    )


def test_known_but_only_as_a_pickle() -> None:
    with pytest.raises(
        MissingWeights, match=r"gcvit_tiny.in1k: the hub has no safetensors for it, only a pickle \(https://"
    ):
        find_backbone("gcvit_tiny")


# ------------------------------------------------------------------------------------------------------------- the list
def test_rows(tmp_path: Path) -> None:
    head = {"fc.weight": np.zeros((10, 7), np.float32), "fc.bias": np.zeros(10, np.float32)}
    save_entry(tmp_path, "test_resnet.mine", {**head, "bn.running_mean": np.zeros(3, np.float32)})
    row = BackboneRow("test_resnet.mine", "folder", 96, 80, 7, "cc0-1.0")
    assert backbones(weights=WeightsSource(folder=tmp_path), only_here=True)[:-1] == [
        row
    ]  # the last one comes with the package
    assert backbones("vit", weights=WeightsSource(folder=tmp_path), only_here=True) == []
    rows = backbones("test_resnet", weights=WeightsSource(folder=tmp_path))
    assert rows == [row, BackboneRow("test_resnet.r160_in1k", "", 160, None, None, "apache-2.0")]
    assert [row.name for row in backbones("test_vi?.*", weights=WeightsSource(folder=tmp_path))] == [
        "test_vit.r160_in1k"
    ]
    assert len(backbones(weights=WeightsSource(folder=tmp_path))) > 1_000


def test_finding_and_listing_import_neither_torch_nor_timm(tmp_path: Path) -> None:
    save_entry(tmp_path, "test_resnet.mine")
    code = (
        "import sys; from pathlib import Path\n"
        "from headstart import WeightsSource\n"
        "from headstart.model.backbones.registry import at_hand, backbones, find_backbone\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "source = WeightsSource(folder=folder, offline=True)\nfind_backbone('test_resnet', source)\n"
        "at_hand(source); backbones(weights=source, only_here=True)\n"
        "print(sorted({'torch', 'timm', 'openvino', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment(tmp_path))
    assert (done.stdout, done.stderr) == ("[]\n", "")


def _environment(tmp_path: Path) -> dict[str, str]:
    import os

    return {**os.environ, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": os.pathsep.join(sys.path)}


# ------------------------------------------------------------------------------------------------------------- building
@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_efficientnet"])
def test_build_gives_the_networks_own_numbers(tmp_path: Path, architecture: str) -> None:
    """Against timm: the same state in timm's own network gives the same features, to the bit."""
    import timm
    import torch

    state = state_of(architecture)
    save_entry(tmp_path, f"{architecture}.mine", state)
    found = find_backbone(architecture, WeightsSource(folder=tmp_path))
    model = build(found)
    reference = timm.create_model(architecture, pretrained=False).eval()
    reference.load_state_dict(state)
    images_NCHW = torch.rand(2, 3, 160, 160)
    with torch.inference_mode():
        features_ND = model(images_NCHW)
        assert torch.equal(
            features_ND, reference.forward_head(reference.forward_features(images_NCHW), pre_logits=True)
        )
        assert torch.equal(build(found, 1000, keep_classifier=True)(images_NCHW), reference(images_NCHW))
        assert build(found, 5)(images_NCHW).shape == (2, 5)
    assert found.feature_dim == features_ND.shape[1]
    assert not model.training


def test_build_at_another_size_resamples_a_position_embedding(tmp_path: Path) -> None:
    import torch

    save_entry(tmp_path, "test_vit.mine", state_of("test_vit"))
    found = find_backbone("test_vit", WeightsSource(folder=tmp_path))
    with torch.inference_mode():
        assert build(found, image_size=96)(torch.rand(1, 3, 96, 96)).shape == (1, found.feature_dim)


def test_build_from_random_weights() -> None:
    import torch

    found = without_weights("test_resnet")
    assert (found.source, found.weights, found.sha256) == ("random", None, "")
    with torch.inference_mode():
        assert build(found, 3)(torch.rand(2, 3, 64, 64)).shape == (2, 3)


def test_weights_of_another_network(tmp_path: Path) -> None:
    weights = save_entry(tmp_path, "test_resnet.mine", state_of("test_efficientnet"))
    with pytest.raises(BadWeights) as caught:
        build(find_backbone("test_resnet", WeightsSource(folder=tmp_path)))
    assert caught.value.message.startswith(
        f"{weights}: these are not the weights of test_resnet:"
        " 71 missing (conv1.0.weight, conv1.1.weight, conv1.1.bias and 68 more);"
    )
    assert caught.value.hint == "Name the backbone that the file was saved from (--backbone NAME), or use another file."


def test_a_missing_a_surplus_and_a_misshapen_tensor(tmp_path: Path) -> None:
    state = state_of("test_resnet")
    del state["layer1.0.bn1.weight"]
    state["surplus"] = np.zeros(2, np.float32)
    state["layer1.0.bn1.bias"] = np.zeros(3, np.float32)
    weights = save_entry(tmp_path, "test_resnet.mine", state)
    with pytest.raises(BadWeights) as caught:
        build(find_backbone("test_resnet", WeightsSource(folder=tmp_path)))
    assert caught.value.message == (
        f"{weights}: these are not the weights of test_resnet: 1 missing (layer1.0.bn1.weight); 1 unexpected (surplus);"
        " 1 of another shape (layer1.0.bn1.bias: (3,), expected (32,))."
    )


def test_weights_that_change_after_they_were_found(tmp_path: Path) -> None:
    weights = save_entry(tmp_path, "test_resnet.mine", state_of("test_resnet"))
    found = find_backbone("test_resnet", WeightsSource(folder=tmp_path))
    save_entry(tmp_path, "test_resnet.mine", state_of("test_resnet", seed=1))
    with pytest.raises(BadWeights, match=r"has changed since it was selected \(SHA-256 \w{12}, expected \w{12}\)"):
        build(found)
    weights.unlink()
    with pytest.raises(MissingWeights):
        build(found)


def test_what_only_the_native_parser_refuses_is_bad_weights_too(tmp_path: Path) -> None:
    from headstart.model.backbones.weights import load_tensors

    a, b = (b'"dtype":"F32","shape":[%d],"data_offsets":[%d,4]' % numbers for numbers in ((1, 0), (0, 4)))
    text = b'{"a":{' + a + b'},"b":{' + b + b"}}  "
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    assert {key: tuple(value.shape) for key, value in load_tensors(path).items()} == {"a": (1,), "b": (0,)}
    for bad in (text.replace(b"[1]", b"[01]"), text.replace(b'"a"', b'"\\ud800"'), text.replace(b"4,4", b"4,4.0")):
        path.write_bytes(struct.pack("<Q", len(bad)) + bad + bytes(4))
        with pytest.raises(BadWeights):
            load_tensors(path)


def test_arguments_and_architectures_that_timm_does_not_have(tmp_path: Path) -> None:
    save_entry(tmp_path, "test_resnet.mine", model_args={"no_such_option": 1})
    found = find_backbone("test_resnet", WeightsSource(folder=tmp_path))
    with pytest.raises(
        BadWeights, match=r"test_resnet.mine: timm cannot build test_resnet with \{'no_such_option': 1\}: "
    ):
        build(found)
    with pytest.raises(UnknownBackbone) as caught:
        build(dataclasses.replace(found, architecture="test_resnett"))
    assert str(caught.value) == (
        "test_resnet.mine: timm has no architecture 'test_resnett'.\n  Did you mean 'test_resnet'?"
    )


@pytest.mark.slow
# --------------------------------------------------------------------------------------------------------- real weights
def test_all_real_weights_load_strictly(shared: Path) -> None:
    import torch
    from safetensors.torch import load_file

    found = at_hand(WeightsSource(folder=shared / "weights"))
    assert {b.architecture.split("_")[0] for b in found} >= {"mobilenetv1", "mobilenetv2"}
    images_NCHW = torch.rand(1, 3, 64, 64)
    for backbone in found:
        model = build(backbone)
        assert backbone.weights is not None
        on_disk, loaded = load_file(backbone.weights), model.state_dict()
        assert set(on_disk) == set(loaded)
        assert all(torch.equal(loaded[key], on_disk[key].to(loaded[key].dtype)) for key in loaded)
        with torch.inference_mode():
            features_ND = model(images_NCHW)
        assert features_ND.shape == (1, 1024 if "v1" in backbone.name else 1280)
        assert torch.isfinite(features_ND).all()
        assert dict(backbone.model_args) == ({"pad_type": "same"} if backbone.name.startswith("mobilenet") else {})


# The one that comes with the package


def test_the_embedded_backbone_is_the_last_resort(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (found,) = to_choose_from(WeightsSource(folder=tmp_path, offline=True))
    assert (found.name, found.source, found.licence) == ("mobilenetv2_050.headstart", "embedded", "apache-2.0")
    assert f"No weights in {tmp_path} or the hub's cache: using the small, weak built-in backbone" in caplog.text
    assert found == find_backbone("mobilenetv2_050.headstart", WeightsSource(folder=tmp_path, offline=True))
    assert at_hand(WeightsSource(folder=tmp_path)) == []
    caplog.clear()
    save_entry(tmp_path, "test_resnet.mine")
    (found,) = to_choose_from(WeightsSource(folder=tmp_path, offline=True))
    assert found.name == "test_resnet.mine"  # anything else goes before it
    assert caplog.text == ""


def test_other_weights_of_its_architecture_are_not_mistaken_for_it(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match=r"mobilenetv2_050.lamb_in1k: its weights are not on this machine"):
        find_backbone("mobilenetv2_050", WeightsSource(folder=tmp_path, offline=True))
    save_entry(tmp_path, "mobilenetv2_050.headstart")  # a bundle has it too
    assert find_backbone("mobilenetv2_050.headstart", WeightsSource(folder=tmp_path, offline=True)).source == "folder"


def test_the_embedded_backbone_is_listed_with_its_accuracies(tmp_path: Path) -> None:
    save_entry(tmp_path, "test_resnet.mine")
    rows = backbones(weights=WeightsSource(folder=tmp_path), only_here=True)
    assert [(row.name, row.here, bool(row.measured)) for row in rows] == [
        ("test_resnet.mine", "folder", False),
        ("mobilenetv2_050.headstart", "embedded", True),
    ]
    assert set(rows[1].measured) == {"intel-scenes", "cats-dogs"}
    assert min(estimate["low"] for estimate in rows[1].measured.values()) > 0.8
    last = BackboneList(rows).table().splitlines()[-1]
    assert re.search(r"Accuracy of a linear head on it: 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\] on 1,078 photographs", last)


def test_the_embedded_backbone_is_small_and_computes(tmp_path: Path) -> None:
    import torch

    found = last_resort()
    assert found.weights is not None and found.weights.stat().st_size < 4_000_000
    with torch.no_grad():
        features_ND = build(found)(torch.rand(2, 3, 64, 64) * 2 - 1)
    assert features_ND.shape == (2, 1280)
    assert features_ND.isfinite().all() and features_ND.std() > 0.1
