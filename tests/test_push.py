"""A run as a model repository: timm reads the folder, the hub's client its card; and `push` with the real client."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import headstart
from conftest import draw
from headstart.errors import ExportError, HeadstartError, MissingRun, RecipeError, Unreachable
from headstart.exporters.hub_folder import DEEP, ONLY_WITH_HEADSTART, hub_card, needs_headstart, write_hub_folder
from headstart.exporters.hub_upload import check_repo, pushable
from headstart.images.image_refs import read_image
from headstart.images.preprocess import read_pixels
from headstart.io.folders import folder_aside, write_manifest
from headstart.model.backbones import builtin
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.inference.engines import open_network
from headstart.model.inference.runtime import Runtime
from headstart.runs.run_folder import RunFolder
from headstart.training.recipe import Recipe
from hub_server import TOKEN, Hub, run, serve

F32 = Runtime("torch", "cpu", "f32", 8)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> dict[str, Path]:
    """Runs on `photos`: with the backbone's own features, with those of all stages, and of two backbones."""
    folder = tmp_path_factory.mktemp("runs")
    two = folder / "weights"
    two.mkdir()
    for tag in "ab":
        shutil.copy(builtin.WEIGHTS, two / f"mobilenetv2_050.{tag}.safetensors")
        shutil.copy(builtin.SPEC, two / f"mobilenetv2_050.{tag}.json")
    recipes = {
        "last": Recipe(approach="linear", backbone="mobilenetv2_050.a", pooling="last"),
        "stages": Recipe(approach="linear", backbone="mobilenetv2_050.a", pooling="stages"),
        "ensemble": Recipe(approach="linear", backbone="mobilenetv2_050.a+mobilenetv2_050.b"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(folder / "cache"))
        for name, recipe in recipes.items():
            headstart.train(photos, out=folder / name, recipe=recipe, weights=WeightsSource(folder=two), report=False)
    return {name: folder / name for name in recipes}


def hub_folder(run: Path, out: Path) -> Path:
    with folder_aside(out) as folder:
        write_hub_folder(RunFolder(run), folder)
    return out


def logits_of_the_run(opened: RunFolder, files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, S, S, 3), and the run's logits of them in float32."""
    (member,) = opened.classifier.members
    pixels = np.stack([read_pixels(file, member.extractor.spec) for file in files])
    session = open_network(member.extractor.backbone, member.extractor.spec, F32).session()
    session.pixels[: len(files)] = pixels
    columns = len(member.layer.weight_DK)
    return pixels, opened.classifier.logits([session.run()[: len(files), :columns]])


@pytest.mark.slow  # imports torch; the files are copies of the run's, whose logits in timm other tests compare
@pytest.mark.parametrize("name", ["last", "stages"])
def test_timm_gives_the_same_logits(runs: dict[str, Path], photos: Path, tmp_path: Path, name: str) -> None:
    import timm
    import torch

    opened = RunFolder(runs[name])
    assert needs_headstart(opened.classifier) == (name == "stages")
    pixels, expected = logits_of_the_run(opened, sorted((photos / "class1").iterdir())[:8])
    model = timm.create_model(f"local-dir:{hub_folder(runs[name], tmp_path / 'hub')}", pretrained=True).eval()
    mean, std = (torch.tensor(model.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    with torch.inference_mode():
        found = model((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert tuple(model.pretrained_cfg["label_names"]) == opened.classifier.classes


def test_the_card_is_one_that_the_hub_reads(runs: dict[str, Path], tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    folder = hub_folder(runs["last"], tmp_path / "hub")
    assert {file.name for file in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "manifest.json",
    }
    for name in ("config.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (runs["last"] / name).read_bytes()
    card = ModelCard.load(folder / "README.md")
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == (
        "timm",
        "image-classification",
        "apache-2.0",
    )
    metrics = RunFolder(runs["last"]).metrics
    found = {result.metric_type: result for result in card.data.eval_results}
    assert found["accuracy"].metric_value == pytest.approx(metrics.test["accuracy"].value)
    assert found["accuracy"].dataset_split == "test"
    assert f"| accuracy | {metrics.test['accuracy']} | {metrics.val['accuracy']} |" in card.text
    assert 'timm.create_model("hf-hub:OWNER/NAME", pretrained=True)' in card.text
    assert "transformers" in card.text


def test_the_card_names_no_place_and_no_image(runs: dict[str, Path], photos: Path) -> None:
    card = pushable(runs["last"])["README.md"].decode()
    for private in (str(photos), str(photos.parent), photos.parent.name, "000.jpg", str(Path.home())):
        assert private not in card


def test_a_card_says_that_a_network_needs_headstart(runs: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "headstart"):
        card = pushable(runs["stages"])["README.md"].decode()
    assert caplog.messages == [ONLY_WITH_HEADSTART]
    assert "library_name: headstart" in card
    assert "import headstart.model.backbones.networks  # needs headstart with its extra 'train'" in card
    assert "transformers, and the widget of this page, cannot load it" in card


def card_code(text: str) -> Callable[[Path], Image.Image]:
    """The function with which a model card's timm code opens an image."""
    (code,) = re.findall(r"```python\n(import timm.*?)```", text, re.S)
    (opener,) = [each for each in ast.parse(code).body if isinstance(each, ast.FunctionDef)]
    space: dict[str, Any] = {"Image": Image, "ImageOps": ImageOps}
    exec(ast.unparse(opener), space)
    return space[opener.name]


def with_facts(run: Path, folder: Path, file: str, change: Callable[[Any], None]) -> RunFolder:
    """A copy of a run in which a JSON file is changed, with a new manifest."""
    shutil.copytree(run, folder)
    facts = json.loads((folder / file).read_text())
    change(facts)
    (folder / file).write_text(json.dumps(facts))
    write_manifest(folder)
    return RunFolder(folder)


@pytest.mark.parametrize("kind", ["transparent", "grey and transparent", "palette", "sideways", "CMYK"])
def test_the_code_of_a_card_opens_images_as_predict_does(runs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    photo, exif = draw(1, 9), Image.Exif()
    exif[0x112] = 6
    drawing = Image.new("RGBA", photo.size)
    drawing.putalpha(photo.convert("L"))
    file = tmp_path / ("image.png" if "transparent" in kind or kind == "palette" else "image.jpg")
    {
        "transparent": lambda: drawing.save(file),
        "grey and transparent": lambda: drawing.convert("LA").save(file),
        "palette": lambda: photo.quantize(8).save(file, transparency=0),
        "sideways": lambda: photo.resize((60, 40)).save(file, exif=exif),
        "CMYK": lambda: photo.convert("CMYK").save(file),
    }[kind]()
    opened = card_code(hub_card(RunFolder(runs["last"])))(file)
    assert opened.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(opened), np.asarray(read_image(file)))


def test_the_code_of_a_card_scales_deep_images_as_training_did(
    runs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ranges = {"integers": [800.0, 3800.0], "floats": [-2.0, 6.0]}

    def deepen(facts: Any) -> None:
        facts["members"][0]["preprocess"].update(ranges=ranges)

    run = with_facts(runs["last"], tmp_path / "deep", "headstart.json", deepen)
    with caplog.at_level("WARNING", "headstart"):
        card = str(pushable(run.path)["README.md"], "utf-8")
    assert caplog.messages == [DEEP]
    assert "The run's images have more than 8 bits per channel." in card
    assert "more than 8 bits" not in hub_card(RunFolder(runs["last"]))
    grey = np.linspace(0, 1, 50 * 40).reshape(40, 50)
    for name, pixels in (
        ("a.png", np.round(600 + 3400 * grey).astype(np.uint16)),
        ("b.tiff", (9 * grey - 2.5).astype(np.float32)),
    ):
        Image.fromarray(pixels).save(tmp_path / name)
        opened = np.asarray(card_code(card)(tmp_path / name)).astype(int)
        expected = np.asarray(read_image(tmp_path / name, ranges=run.classifier.ranges)).astype(int)
        assert expected.min() == 0 and expected.max() == 255 and np.abs(opened - expected).max() <= 1


def test_a_card_leaves_out_figures_that_are_undefined(runs: dict[str, Path], tmp_path: Path) -> None:
    def undefine(metrics: Any) -> None:
        metrics["test"]["overall"]["roc_auc"].update(
            value=None, low=None, high=None, method="undefined: one class only"
        )

    card = hub_card(with_facts(runs["last"], tmp_path / "run", "metrics.json", undefine))
    data = card.split("---")[1]
    assert "nan" not in data and "roc_auc" not in data and "type: accuracy" in data
    assert "roc_auc" in hub_card(RunFolder(runs["last"])).split("---")[1]


def test_several_backbones_are_not_one_network(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        hub_folder(runs["ensemble"], tmp_path / "hub")
    names = ", ".join(str(member.extractor) for member in headstart.load_classifier(runs["ensemble"]).members)
    assert str(caught.value) == (
        f"{runs['ensemble']}: combines 2 networks ({names}), and a model repository holds one.\n"
        "  Export it `--to onnx`, which makes them one graph, or train with one of them and one input: --backbone NAME "
        "--resize crop."
    )
    assert not (tmp_path / "hub").exists()


# Push


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    yield from serve(tmp_path / "hub")


def pushes(hub: Hub, tmp_path: Path, *calls: str, **environment: str) -> list[dict[str, str]]:
    """What each call of `push` gives, in one fresh process. A call may begin with statements, each ending in a semicolon."""
    lines = ["import os", "from headstart import push", "from huggingface_hub import constants", "out = []"]
    for call in calls:
        *before, call = call.split("; ")
        lines += [*before, f"out.append(told(push, {call}))"]
    given = {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | environment
    return run(hub, "\n".join(lines), tmp_path, **given)


def test_push_makes_a_repository_or_a_commit(hub: Hub, runs: dict[str, Path], tmp_path: Path) -> None:
    """The weights are sent again after an error of the server, but never a second time."""
    last = repr(str(runs["last"]))
    hub.down, hub.private["anna/public"] = 1, False
    first, again, short, public, refused = pushes(
        hub,
        tmp_path,
        f"{last}, 'anna/photos', private=True",
        f"{last}, 'anna/photos', private=True, message='once more'",
        f"{last}, 'photos'",
        f"{last}, 'anna/other'",
        f"{last}, 'anna/public', private=True",
    )
    page = f"{hub.address}/anna/photos"
    assert first == {"found": f"<Pushed: a new repository: {page}, 3 files>"}
    assert again == short == {"found": f"<Pushed: a new commit in the repository: {page}, 3 files>"}
    assert "a new repository" in public["found"]
    assert hub.private == {"anna/photos": True, "anna/other": False, "anna/public": False}
    said = ["Upload with headstart", "once more", "Upload with headstart"]
    assert hub.commits == [*(("anna/photos", message) for message in said), ("anna/other", said[0])]
    assert [method for method, _, _ in hub.requests].count("PUT") == 2
    weights = hub.folder / "anna/photos/model.safetensors"
    assert weights.read_bytes() == (runs["last"] / "model.safetensors").read_bytes()
    assert ["hf-hub:anna/" in card for card in hub.cards] == [True] * 4
    assert refused == {
        "error": "NotAllowed",
        "text": "anna/public: already exists and is public; --private only applies to new repositories.\n"
        "  Choose another name, make it private on its page first, or leave out --private.",
    }


def test_what_the_hub_refuses(hub: Hub, runs: dict[str, Path], tmp_path: Path) -> None:
    last = repr(str(runs["last"]))
    other, wrong, none, forbidden = pushes(
        hub,
        tmp_path,
        f"{last}, 'bob/photos'",
        f"os.environ['HF_TOKEN'] = 'hf_wrong'; {last}, 'anna/photos'",
        f"os.environ['HF_TOKEN'] = ''; {last}, 'anna/photos'",
        f"constants.HF_HUB_OFFLINE = True; {last}, 'anna/photos'",
    )
    hint = f"Make a token that may write at {hub.address}/settings/tokens; then `hf auth login`, or set HF_TOKEN."
    assert other == {
        "error": "NotAllowed",
        "text": f"bob/photos: this token may not write there (HTTP 403).\n  Is the owner's name right? {hint}",
    }
    assert wrong == {
        "error": "NoCredentials",
        "text": f"anna/photos: the hub does not accept the token (HTTP 401).\n  {hint}",
    }
    assert none == {
        "error": "NoCredentials",
        "text": "anna/photos: uploading needs a token of the Hugging Face hub, and there is none here.\n  " + hint,
    }
    assert forbidden == {
        "error": "Unreachable",
        "text": "anna/photos: nothing is uploaded while HF_HUB_OFFLINE is set.\n  Unset it.",
    }
    (nobody,) = pushes(hub, tmp_path, f"{last}, 'anna/photos'", HF_ENDPOINT="http://127.0.0.1:9")
    assert nobody["error"] == "Unreachable"
    assert nobody["text"].startswith("anna/photos: no answer from http://127.0.0.1:9 (")
    assert hub.commits == []


def test_a_token_for_one_repository_is_enough(hub: Hub, runs: dict[str, Path], tmp_path: Path) -> None:
    """It may not create repositories, so the hub refuses that although the repository exists."""
    last = repr(str(runs["last"]))
    hub.only_existing, hub.private["anna/photos"] = True, True
    done, short, absent = pushes(
        hub, tmp_path, f"{last}, 'anna/photos', private=True", f"{last}, 'photos'", f"{last}, 'anna/other'"
    )
    page = f"{hub.address}/anna/photos"
    assert done == short == {"found": f"<Pushed: a new commit in the repository: {page}, 3 files>"}
    assert (absent["error"], absent["text"].partition("\n")[0]) == (
        "NotAllowed",
        "anna/other: this token may not write there (HTTP 403).",
    )


def test_a_folder_made_before_is_pushed_with_its_name(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = hub_folder(runs["last"], tmp_path / "hub")
    assert pushable(folder)["README.md"] == pushable(runs["last"])["README.md"]
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(HeadstartError, match=r"model.safetensors: has changed since it was written"):
        pushable(folder)


def test_only_runs_and_exports_are_pushed(tmp_path: Path) -> None:
    with pytest.raises(MissingRun, match="is neither a run folder nor an export"):
        headstart.push(tmp_path, "anna/photos")
    with pytest.raises(MissingRun):
        headstart.push(tmp_path / "no-run", "anna/photos")


@pytest.mark.parametrize("repo", ["", "a/b/c", "anna/", "/photos", "anna/my photos", "anna/..", "../x", "anna/a--b"])
def test_names_that_no_repository_has(repo: str) -> None:
    with pytest.raises(RecipeError, match="is not the name of a repository"):
        check_repo(repo)


def test_offline_opens_nothing(runs: dict[str, Path]) -> None:
    with pytest.raises(Unreachable, match="cannot be uploaded to anna/photos with --offline"):
        headstart.push(runs["last"], "anna/photos", offline=True)


def test_what_is_pushed_holds_no_list_of_images(runs: dict[str, Path]) -> None:
    files = pushable(runs["last"])
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads(files["config.json"].read_text())
    assert "path" not in json.dumps(config)
