"""The same image, the same answer: timm == torch == OpenVINO, alone == in company, cached == recomputed, Python == CLI."""

from __future__ import annotations

import csv
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import headstart
from conftest import draw, write_photos
from headstart import Preprocess, Recipe, cli
from headstart.images.image_refs import Images
from headstart.images.preprocess import read_pixels
from headstart.io.files import sha256_file
from headstart.model.backbones.registry import Backbone, find_backbone
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.inference.engines import ENGINES, features_key, network_key, open_network
from headstart.model.inference.features import FeatureExtractor, embed_images
from headstart.model.inference.runtime import Runtime
from headstart.runs.saved_classifier import timm_config

F32, BF16 = Runtime("openvino", "cpu", "f32", 8), Runtime("openvino", "cpu", "bf16", 8)
TORCH = Runtime("torch", "cpu", "f32", 8)


@pytest.fixture(scope="module")
def module_cache(tmp_path_factory: pytest.TempPathFactory, warm_cache: Path) -> Iterator[Path]:
    """A cache for the fixtures of this module, which are older than any test's own."""
    folder = tmp_path_factory.mktemp("parity") / "cache"
    shutil.copytree(warm_cache, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def split_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Split folders: 24 images to train, 9 for validation, 9 for the test."""
    folder = tmp_path_factory.mktemp("split") / "photos"
    for side, each, first in (("train", 8, 0), ("val", 3, 8), ("test", 3, 11)):
        write_photos(folder / side, each=each, first=first)
    return folder


@pytest.fixture(scope="module")
def single(module_cache: Path, split_photos: Path, tiny_weights: Path) -> Path:
    """A run of one backbone, f32, with a seed of its own."""
    recipe = Recipe(approach="linear", backbone="test_resnet.a", precision="f32", seed=3)
    headstart.train(split_photos, out=module_cache.parent / "single", recipe=recipe, weights=tiny_weights)
    return module_cache.parent / "single"


@pytest.fixture(scope="module")
def fused(module_cache: Path, split_photos: Path, tiny_weights: Path) -> Path:
    """A run that fuses two backbones, f32."""
    recipe = Recipe(backbone="test_resnet.a+test_efficientnet.b", precision="f32")
    headstart.train(split_photos, out=module_cache.parent / "fused", recipe=recipe, weights=tiny_weights)
    return module_cache.parent / "fused"


@pytest.fixture
def warm(own_cache: Path, module_cache: Path) -> Path:
    """This test's own cache, with the graphs of the module's runs but no features."""
    for name in ("graphs", "facts", "origins"):
        if (module_cache / name).is_dir():
            shutil.copytree(module_cache / name, own_cache / name)
    return own_cache


def timm_logits(folder: Path, files: list[Path], spec: Preprocess) -> tuple[np.ndarray, Any]:
    """(logits (N, K), model): timm's own loading of a folder, fed with our pixels on timm's own scale."""
    import timm
    import torch

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = timm.data.resolve_data_config({}, model=model)
    assert tuple(config["input_size"]) == (3, spec.image_size, spec.image_size)
    mean, std = (torch.tensor(config[name]).reshape(1, 3, 1, 1) for name in ("mean", "std"))
    pixels_NCHW = torch.tensor(np.stack([read_pixels(f, spec) for f in files])).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        return model((pixels_NCHW - mean) / std).numpy(), model


def test_timm_loads_a_run_and_gives_the_same_logits(single: Path, split_photos: Path, warm: Path) -> None:
    import timm

    files = sorted(split_photos.glob("test/*/*.jpg"))
    ours = headstart.predict(single, *files)
    (part,) = ours.classifier.members
    logits_NK, model = timm_logits(single, files, part.extractor.spec)
    np.testing.assert_allclose(logits_NK, ours.predictions.logits, rtol=1e-4, atol=1e-4)
    config = timm.data.resolve_data_config({}, model=model)
    spec = part.extractor.spec
    assert (tuple(config["mean"]), tuple(config["std"])) == (spec.mean, spec.std)
    assert (config["interpolation"], config["crop_pct"], config["crop_mode"]) == ("bicubic", 0.9, "center")
    assert model.pretrained_cfg["label_names"] == list(ours.predictions.classes) == ["class0", "class1", "class2"]


def test_a_fused_run_is_the_sum_of_its_folders(fused: Path, split_photos: Path, warm: Path) -> None:
    files = sorted(split_photos.glob("test/*/*.jpg"))
    ours = headstart.predict(fused, *files)
    folders = sorted(fused.glob("member*"))
    assert [f.name for f in folders] == ["member1-test_resnet.a", "member2-test_efficientnet.b"]
    summed = sum(
        timm_logits(folder, files, part.extractor.spec)[0]
        for folder, part in zip(folders, ours.classifier.members, strict=True)
    )
    np.testing.assert_allclose(summed, ours.predictions.logits, rtol=1e-4, atol=1e-4)


def test_timm_loads_real_weights_with_a_new_head(shared: Path, tmp_path: Path) -> None:
    """MobileNetV1 and V2 with their ImageNet weights, 40 real images, fused so that one training makes both folders."""
    with zipfile.ZipFile(shared / "data" / "cats-dogs.zip") as archive:
        names = [n for n in archive.namelist() if "train/" in n and n.lower().endswith((".jpg", ".png"))]
        for kind in ("cats", "dogs"):
            for name in [n for n in names if f"/{kind}/" in n][:20]:
                archive.extract(name, tmp_path)
    (data,) = (p.parent for p in tmp_path.rglob("cats"))
    backbones = "mobilenetv1_100.tf_qat_in1k+mobilenetv2_100.tf_in1k"
    recipe = Recipe(backbone=backbones, precision="f32", image_size=128)
    run = headstart.train(data, out=tmp_path / "run", recipe=recipe, weights=shared / "weights")
    files = sorted(data.glob("*/*.*"))
    ours = headstart.predict(tmp_path / "run", *files).predictions
    folders = sorted((tmp_path / "run").glob("member*"))
    summed = sum(
        timm_logits(f, files, p.extractor.spec)[0] for f, p in zip(folders, run.classifier.members, strict=True)
    )
    np.testing.assert_allclose(summed, ours.logits, rtol=1e-3, atol=1e-3)
    assert (summed.argmax(axis=1) == ours.predicted).all()


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
@pytest.mark.parametrize(("image_size", "crop_pct"), [(64, 0.9), (160, 0.875), (224, 1.0)])
def test_timms_own_transform_shows_the_same_pixels(resize: str, image_size: int, crop_pct: float) -> None:
    """Whoever loads a run with timm alone, its transform included, sees what headstart saw (within its rounding)."""
    import timm

    spec = Preprocess(image_size=image_size, resize=resize, crop_pct=crop_pct)
    backbone = Backbone("test_resnet.a", "test_resnet", (), "file", None, "", spec, "", 0, "")
    config = timm_config(["a", "b"], FeatureExtractor(backbone, spec), "fc")["pretrained_cfg"]
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, pretrained_cfg=config))
    for n, size in enumerate([(96, 72), (301, 200), (150, 263), (224, 224), (37, 500)]):
        image = draw(n, n, size=size)
        theirs = (transform(image).permute(1, 2, 0).numpy() * spec.std + spec.mean) * 255
        assert np.abs(theirs - spec.apply(image)).mean() < 0.5, size  # of 255 levels


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([8, 32, 96, 224, 225, 384]), st.floats(0.05, 1.0))
def test_what_is_cut_out_lies_in_the_image(width: int, height: int, image_size: int, crop_pct: float) -> None:
    spec = Preprocess(image_size=image_size, crop_pct=crop_pct)
    left, top, right, bottom = spec.source_box(width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    shorter = min(width, height)
    assert abs((right - left) - shorter * crop_pct) <= 2 * shorter / image_size + 1e-9
    assert abs((left + right) - width) <= 2 * shorter / image_size + 1e-9


# ------------------------------------------------------------------------------------------------------ odd last layers
def save_backbone(folder: Path, architecture: str, image_size: int, **model_args: Any) -> str:
    """Random weights of a timm architecture as a weights folder holds them; returns the name."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=0, **model_args)
    folder.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / f"{architecture}.x.safetensors")
    config = {"input_size": [3, image_size, image_size], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.95}
    described = {"architecture": architecture, "model_args": model_args, "pretrained_cfg": config}
    (folder / f"{architecture}.x.json").write_text(json.dumps(described))
    return f"{architecture}.x"


ARCHITECTURES = {
    "a 1x1 convolution": ("resnetv2_50", 64, {"layers": [1, 1, 1, 1], "channels": [16, 32, 48, 64], "stem_chs": 8}, 0),
    "a norm before it": ("test_convnext", 64, {}, 0),
    "a transformer": ("test_vit", 160, {}, 0),
    "a transformer at another size": ("test_vit", 160, {}, 96),
}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_architectures_with_other_last_layers(kind: str, photos: Path, tmp_path: Path, own_cache: Path) -> None:
    architecture, native, model_args, image_size = ARCHITECTURES[kind]
    name = save_backbone(tmp_path / "weights", architecture, native, **model_args)
    recipe = Recipe(approach="linear", backbone=name, head="lda", precision="f32", image_size=image_size)
    run = headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tmp_path / "weights")
    files = sorted(photos.glob("*/00[0-2].jpg"))
    ours = headstart.predict(tmp_path / "run", *files).predictions
    logits_NK, _ = timm_logits(tmp_path / "run", files, run.classifier.members[0].extractor.spec)
    scale = float(np.abs(ours.logits).max())
    np.testing.assert_allclose(logits_NK, ours.logits, rtol=1e-3, atol=1e-3 * scale)


# ------------------------------------------------------------------------------------------------------------- engines
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["test_resnet.a", "test_efficientnet.b"])
def test_engines_agree_with_torch(engine: str, name: str, tiny_weights: Path, warm: Path) -> None:
    backbone = find_backbone(name, WeightsSource(folder=tiny_weights))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)

    def features(runtime: Runtime) -> np.ndarray:
        session = open_network(backbone, backbone.preprocess, runtime).session()
        session.pixels[...] = pixels
        return session.run().copy()

    torch_ND = features(TORCH)
    f32_ND, bf16_ND = (features(Runtime(engine, "cpu", precision, 8)) for precision in ("f32", "bf16"))
    scale = float(np.abs(torch_ND).max())
    assert np.abs(f32_ND - torch_ND).max() <= 1e-4 * scale
    assert np.abs(bf16_ND - torch_ND).max() <= 0.05 * scale  # bf16 has 8 bits of mantissa: 0.4 % at each layer
    if "bf16" in ENGINES[engine].native_precisions("cpu"):  # elsewhere f32 may stand in for it
        assert not np.array_equal(bf16_ND, f32_ND)


# ------------------------------------------------------------------------------------------------------------- company
@pytest.fixture
def view(tiny_weights: Path) -> FeatureExtractor:
    backbone = find_backbone("test_resnet.a", WeightsSource(folder=tiny_weights))
    return FeatureExtractor(backbone, backbone.preprocess)


def embedded(
    files: list[Path], view: FeatureExtractor, plan: Runtime, *, keep: bool = False
) -> tuple[np.ndarray, dict[int, str]]:
    sha256s = [sha256_file(f) if f.exists() else "0" * 64 for f in files]
    (values_ND,), errors = embed_images(Images.recorded(files, sha256s), [view], plan, keep=keep)
    return values_ND, errors


@pytest.mark.parametrize("plan", [F32, BF16], ids=str)
def test_features_do_not_depend_on_company(
    plan: Runtime, view: FeatureExtractor, photos: Path, tmp_path: Path, warm: Path
) -> None:
    files = sorted(photos.glob("*/*.jpg"))[:20]
    expected, errors = embedded(files, view, plan)
    assert not errors
    order = np.random.default_rng(0).permutation(20)
    assert (embedded([files[i] for i in order], view, plan)[0] == expected[order]).all()
    for i in (0, 7, 8, 19):
        assert (embedded([files[i]], view, plan)[0] == expected[[i]]).all()
    for before in range(8):  # every place in a batch
        assert (embedded([*files[1 : before + 1], files[0]], view, plan)[0][-1] == expected[0]).all()
    gone = tmp_path / "gone.jpg"
    values_ND, errors = embedded([gone, *files[:3], gone, *files[3:]], view, plan)
    assert errors == {0: "not_a_file", 4: "not_a_file"}
    assert (np.delete(values_ND, [0, 4], axis=0) == expected).all()
    assert (values_ND[[0, 4]] == 0).all()


@pytest.mark.parametrize("plan", [F32, BF16], ids=str)
def test_what_is_kept_is_what_would_be_computed(
    plan: Runtime, view: FeatureExtractor, photos: Path, warm: Path
) -> None:
    files = sorted(photos.glob("*/*.jpg"))[:11]
    computed = embedded(files, view, plan)[0]
    assert (embedded(files[3:8], view, plan, keep=True)[0] == computed[3:8]).all()
    assert (embedded(files, view, plan, keep=True)[0] == computed).all()  # some kept, some new
    assert (embedded(files[::-1], view, plan, keep=True)[0] == computed[::-1]).all()  # all kept


# --------------------------------------------------------------------------------------------------------------- cache
def shards(cache: Path) -> set[Path]:
    return {p.relative_to(cache) for p in cache.glob("features/*/*")}


def test_what_hits_the_cache_and_what_misses(
    view: FeatureExtractor,
    photos: Path,
    tmp_path: Path,
    warm: Path,
    tiny_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "one.png"
    Image.open(photos / "class0" / "000.jpg").save(file)
    first, _ = embedded([file], view, F32, keep=True)
    known = shards(warm)
    assert len(known) == 1

    renamed = file.rename(tmp_path / "-other name\n.png")
    assert (embedded([renamed], view, F32, keep=True)[0] == first).all()
    moved = warm.rename(warm.with_name(warm.name + "-moved"))
    monkeypatch.setenv("HEADSTART_CACHE", str(moved))
    graphs = set(moved.glob("graphs/*"))
    assert (embedded([renamed], view, F32, keep=True)[0] == first).all()
    assert shards(moved) == known
    assert set(moved.glob("graphs/*")) == graphs

    image = Image.open(renamed)
    image.putpixel((40, 30), (0, 0, 0))
    image.save(file)
    assert (embedded([file], view, F32, keep=True)[0] != first).any()
    assert len(shards(moved)) == 2
    squashed = FeatureExtractor(view.backbone, Preprocess.from_dict({**view.spec.as_dict(), "resize": "squash"}))
    assert (embedded([renamed], squashed, F32, keep=True)[0] != first).any()
    assert len(shards(moved)) == 3
    other = find_backbone(
        "test_resnet.a", WeightsSource(folder=_with_one_weight_changed(tiny_weights, tmp_path / "weights"))
    )
    assert (embedded([renamed], FeatureExtractor(other, view.spec), F32, keep=True)[0] != first).any()
    assert len(shards(moved)) == 4


def _with_one_weight_changed(weights: Path, folder: Path) -> Path:
    from safetensors.numpy import load_file, save_file

    shutil.copytree(weights, folder)
    tensors = load_file(folder / "test_resnet.a.safetensors")
    tensors["conv1.0.weight"].reshape(-1)[0] += 1
    save_file(tensors, folder / "test_resnet.a.safetensors")
    return folder


def test_features_are_kept_by_all_that_they_depend_on(view: FeatureExtractor) -> None:
    spec = view.spec.as_dict()
    changed = {"image_size": 72, "resize": "pad", "crop_pct": 0.8, "interpolation": "bilinear", "mean": (0.4,) * 3}
    specs = [view.spec, *(Preprocess.from_dict({**spec, k: v}) for k, v in {**changed, "std": (0.3,) * 3}.items())]
    keys = [features_key(view.backbone, s, plan) for s in specs for plan in (F32, BF16)]
    assert len(set(keys)) == 14
    graphs = {network_key(view.backbone, s, F32) for s in specs}
    assert len(graphs) == 4  # one for each size, mean and std: how images become pixels makes no other network


# ---------------------------------------------------------------------------------------------- predict and evaluate
def rows_of(path: Path) -> dict[str, list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return {row[0]: row[2:] for row in csv.reader(file)}


@pytest.mark.parametrize("run", ["single", "fused"])
def test_predict_says_what_the_run_says(
    run: str, request: pytest.FixtureRequest, split_photos: Path, tmp_path: Path, warm: Path
) -> None:
    folder = request.getfixturevalue(run)
    headstart.predict(folder, split_photos / "test", out=tmp_path / "again.csv")
    recorded, again = rows_of(folder / "predictions.csv"), rows_of(tmp_path / "again.csv")
    prefix = (split_photos.as_posix() + "/") if split_photos.as_posix() in next(iter(set(again) - {"path"})) else ""
    assert {path.removeprefix(prefix): row for path, row in again.items()} == recorded
    assert len(recorded) == 1 + 9


@pytest.mark.parametrize("run", ["single", "fused"])
def test_evaluate_says_what_the_run_says(
    run: str, request: pytest.FixtureRequest, split_photos: Path, tmp_path: Path, warm: Path
) -> None:
    folder = request.getfixturevalue(run)
    headstart.evaluate(folder, split_photos, out=tmp_path / "judged")
    recorded, again = (json.loads((f / "metrics.json").read_text())["test"] for f in (folder, tmp_path / "judged"))
    assert again == recorded
    assert rows_of(tmp_path / "judged" / "predictions.csv") == rows_of(folder / "predictions.csv")


# -------------------------------------------------------------------------------------------------- Python and the CLI
def document(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """What the command line prints with `--json`."""
    capsys.readouterr()
    assert cli.run([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def as_read(result: Any) -> Any:
    """A Python result's document as it looks after JSON."""
    return json.loads(json.dumps(result.to_json()))


def test_python_and_the_command_line_say_the_same(
    single: Path,
    photos: Path,
    split_photos: Path,
    tiny_weights: Path,
    warm: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, weights, one = tmp_path / "out.csv", ("--weights-dir", tiny_weights), photos / "class0" / "000.jpg"
    assert document(capsys, "check", photos) == as_read(headstart.check(photos))
    made = headstart.split(photos, out=out, seed=5)
    first = out.read_bytes()
    assert document(capsys, "split", photos, "--out", out, "--seed", 5) == as_read(made)
    assert out.read_bytes() == first
    assert document(capsys, "backbones", *weights) == as_read(headstart.backbones(weights=tiny_weights))
    kept = headstart.embed(photos, backbone="test_resnet.a", weights=tiny_weights)
    assert document(capsys, "embed", photos, "--backbone", "test_resnet.a", *weights) == as_read(kept)
    assert document(capsys, "predict", single, one) == as_read(headstart.predict(single, one))
    assert document(capsys, "evaluate", single, split_photos) == as_read(headstart.evaluate(single, split_photos))
    again = headstart.reproduce(single, weights=tiny_weights)
    assert again.same, again.table()
    assert document(capsys, "reproduce", single, *weights) == as_read(again)


def test_train_says_the_same_from_the_command_line(
    single: Path,
    split_photos: Path,
    tiny_weights: Path,
    warm: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    recipe = Recipe(approach="linear", backbone="test_resnet.a", precision="f32", seed=3)
    python = as_read(headstart.train(split_photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights))
    words = ("train", split_photos, "--out", tmp_path / "run", "--weights-dir", tiny_weights)
    options = ("--approach", "linear", "--backbone", "test_resnet.a", "--precision", "f32", "--seed", 3)
    typed = document(capsys, *words, *options)
    assert python.pop("seconds").keys() == typed.pop("seconds").keys()
    assert typed == python
    files = ("model.safetensors", "config.json", "headstart.json", "predictions.csv", "split.csv", "checks.csv")
    for name in files:
        assert (tmp_path / "run" / name).read_bytes() == (single / name).read_bytes(), name
    assert os.environ["HEADSTART_CACHE"] == str(warm)
