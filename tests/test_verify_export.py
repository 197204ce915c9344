"""The golden samples of an export and the program that checks them: planted mistakes are found where they were made."""

from __future__ import annotations

import ast
import io
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

import headstart
from conftest import draw, scene
from headstart import cli
from headstart.errors import DamagedExport
from headstart.exporters.export_folder import ExportFolder
from headstart.exporters.golden_images import own_images, rendered_images
from headstart.exporters.golden_samples import verify_script
from headstart.exporters.pixel_contract import PixelContract
from headstart.exporters.verify_export import verify
from headstart.exporters.verify_files import EXPORTED_TEXTS, SYSTEM_NAMES, RefusedExport, check_files
from headstart.exporters.verify_steps import pillow_decode, pillow_resize, quiet_openvino
from headstart.images.decode import read
from headstart.images.preprocess import Preprocess
from headstart.images.value_ranges import ValueRanges
from headstart.io.folders import SYSTEM_FILES, write_manifest
from tiny_export import CLASSES, SPEC, Tiny, rendered, runner, write_export, write_predicting_export

pytest.importorskip("onnx", reason="needs the extra export")
pytest.importorskip("onnxruntime", reason="needs the extra export")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with one input; never written to."""
    return write_export(tmp_path_factory.mktemp("export") / "export", {"pixels": SPEC})


@pytest.fixture
def changed(exported: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(exported, tmp_path / "changed"))


# What is right


def test_an_untouched_export_agrees_in_every_step(exported: Path) -> None:
    report = verify(exported)
    assert report.ok and report.first is None, str(report)
    assert [row[0].split(",")[0] for row in report.table()[1:]] == [
        f"Pillow {Image.__version__}",
        "model.onnx",
        "image.onnx",
    ]
    assert str(report).endswith("Everything agrees.")


def test_the_program_in_the_folder_needs_neither_headstart_nor_torch(exported: Path) -> None:
    code = (
        "import runpy, sys; sys.argv = ['verify.py']; events = set()\n"
        "sys.addaudithook(lambda event, _: events.add(event) if event.startswith('socket.') else None)\n"
        "try: runpy.run_path('verify.py', run_name='__main__')\n"
        "except SystemExit as e: status = e.code\n"
        "print(status, [m for m in ('headstart', 'torch', 'timm', 'onnx') if m in sys.modules], events)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import site; site.main()\n" + code],
        cwd=exported,
        capture_output=True,
        text=True,
        env={"PATH": ""},
    )
    assert done.stdout.splitlines()[-1] == "0 [] set()", done.stdout + done.stderr
    assert verify(exported).ok, "running it leaves nothing in the folder"


def test_an_export_with_inputs_of_two_sizes_and_deep_images_agrees(tmp_path: Path) -> None:
    deep = ValueRanges(integers=(100.0, 4095.0))
    specs = {
        "pixels_1": Preprocess(image_size=64, resize="pad", interpolation="bilinear", ranges=deep),
        "pixels_2": Preprocess(image_size=96, crop_pct=0.95, interpolation="lanczos", ranges=deep),
    }
    folder = write_export(tmp_path / "export", specs, rendered_images(3, deep))
    assert (folder / "samples" / "02-deep.png").is_file()
    report = verify(folder)
    assert report.ok, str(report)


def test_openvino_is_checked_beside_onnxruntime(changed: Path) -> None:
    openvino = quiet_openvino()
    core = openvino.Core()
    for name in ("model", "image"):
        (changed / "openvino").mkdir(exist_ok=True)
        ir = str(changed / "openvino" / f"{name}.xml")
        openvino.save_model(core.read_model(str(changed / f"{name}.onnx")), ir, compress_to_fp16=False)
    write_manifest(changed)
    report = verify(changed)
    assert report.ok, str(report)
    assert [row[0].split(",")[0] for row in report.table()[3:]] == [
        "openvino/model.xml",
        "image.onnx",
        "openvino/image.xml",
    ]


def test_without_a_runtime_it_says_what_to_install(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = verify(exported)
    assert not report.ok and report.first is None
    assert str(report).startswith("model.onnx was not checked: onnxruntime is not installed (pip install onnxruntime).")
    assert str(report).endswith("Not everything could be checked.")


# Planted mistakes: each is made without the code that looks for it


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def not_turned(data: bytes) -> np.ndarray:
    return np.asarray(opened(data).convert("RGB")) if opened(data).format == "JPEG" else pillow_decode(data)


def profile_applied(data: bytes) -> np.ndarray:
    pixels, profile = pillow_decode(data), opened(data).info.get("icc_profile")
    if profile is None:
        return pixels
    standard = ImageCms.createProfile("sRGB")
    made = ImageCms.profileToProfile(Image.fromarray(pixels), ImageCms.ImageCmsProfile(io.BytesIO(profile)), standard)
    return np.asarray(made)


def premultiplied(data: bytes) -> np.ndarray:
    if opened(data).mode != "RGBA":
        return pillow_decode(data)
    multiplied = np.asarray(opened(data).convert("RGBa"))
    alpha = multiplied[..., 3:] / 255
    return (multiplied[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)


def blocks_of_colour(data: bytes) -> np.ndarray:
    """Of JPEGs of even size with subsampled colour."""
    pixels = pillow_decode(data)
    image = opened(data)
    if (
        image.format != "JPEG"
        or image.mode != "RGB"
        or image.layer[0][1:3] != (2, 2)
        or image.width % 2
        or image.height % 2
    ):  # type: ignore[attr-defined]
        return pixels
    y, cb, cr = (np.asarray(band, np.float64) for band in Image.fromarray(pixels).convert("YCbCr").split())
    cb, cr = (
        c.reshape(c.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3)).repeat(2, axis=0).repeat(2, axis=1) for c in (cb, cr)
    )
    planes = [Image.fromarray(c.round().astype(np.uint8)) for c in (y, cb, cr)]
    return np.asarray(Image.merge("YCbCr", planes).convert("RGB"))


def sampled(how: Image.Resampling) -> Callable[[np.ndarray], np.ndarray]:
    """Every output pixel looks at its neighbours only, however far away the next one is."""

    def resize(decoded: np.ndarray) -> np.ndarray:
        height, width = decoded.shape[:2]
        left, top, right, bottom = SPEC.source_box(width, height)
        side = SPEC.image_size
        matrix = ((right - left) / side, 0, left, 0, (bottom - top) / side, top)
        return np.asarray(Image.fromarray(decoded).transform((side, side), Image.Transform.AFFINE, matrix, how))

    return resize


def resized_by(**changes: Any) -> Callable[[np.ndarray], np.ndarray]:
    spec = replace(SPEC, **changes)
    return lambda decoded: pillow_resize(decoded, PixelContract.of(spec).as_dict())


def never_rounded(decoded: np.ndarray) -> np.ndarray:
    """Pillow resizes floating point without rounding."""
    box = SPEC.source_box(decoded.shape[1], decoded.shape[0])
    planes = [Image.fromarray(decoded[..., c].astype(np.float32)) for c in range(3)]
    side = (SPEC.image_size, SPEC.image_size)
    resized = [np.asarray(plane.resize(side, Image.Resampling.BICUBIC, box=box)) for plane in planes]
    return np.stack(resized, axis=-1).clip(0, 255).round().astype(np.uint8)


def swapped(labels: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(labels))


def right(given: Mapping[str, np.ndarray]) -> Any:
    return runner(Tiny().model())(given)


PLANTED: dict[str, tuple[dict[str, Any], str, str]] = {
    "BGR": ({"decode": lambda data: pillow_decode(data)[..., ::-1]}, "decoded", "BGR"),
    "no antialiasing": ({"resize": sampled(Image.Resampling.BICUBIC)}, "resized", "without antialiasing"),
    "OpenCV's linear": ({"resize": sampled(Image.Resampling.BILINEAR)}, "resized", "INTER_LINEAR"),
    "wrong crop_pct": ({"resize": resized_by(crop_pct=0.875)}, "resized", "crop_pct 0.875"),
    "wrong mean": ({"run": Tiny(mean=(0.5,) * 3, std=(0.5,) * 3)}, "logits", "mean and std 0.5 in place of"),
    "normalised twice": ({"run": Tiny(twice=True)}, "logits", "normalised twice"),
    "EXIF ignored": ({"decode": not_turned}, "decoded", "EXIF orientation"),
    "ICC applied": ({"decode": profile_applied}, "decoded", "colour profile"),
    "labels swapped": ({"run": Tiny(), "labels": swapped(CLASSES)}, "answers", "a different order"),
    "temperature missing": ({"run": Tiny(temperature=1.0)}, "logits", "1.7 times as large"),
    "bilinear for bicubic": ({"resize": resized_by(interpolation="bilinear")}, "resized", "the bilinear filter"),
    "no rounding": ({"resize": never_rounded}, "resized", "not rounded between"),
    "premultiplied alpha": ({"decode": premultiplied}, "decoded", "multiplied by alpha twice"),
    "box upsampled chroma": ({"decode": blocks_of_colour}, "decoded", "in blocks"),
}
"""What is planted, the step where it is, and what its cause is called."""


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_is_caught_in_its_step_and_named(name: str, exported: Path) -> None:
    steps, stage, cause = PLANTED[name]
    steps = {k: runner(v.model()) if isinstance(v, Tiny) else v for k, v in steps.items()}
    report = verify(exported, **steps)
    assert not report.ok and report.first is not None
    assert (report.first.stage, cause in report.first.cause) == (stage, True), str(report)


def test_a_pipeline_of_ones_own_without_mistakes_agrees(exported: Path) -> None:
    """Also one that gives only probabilities, and one that looks at fewer steps."""
    right = runner(Tiny().model())
    report = verify(
        exported, decode=pillow_decode, resize=resized_by(), run=lambda given: (None, right(given)[1]), labels=CLASSES
    )
    assert report.ok and [d.stage for d in report.differences] == ["decoded", "resized", "probabilities", "answers"]
    assert verify(exported, decode=lambda data: np.asarray(read(data).image)).ok


def test_what_is_wrong_behind_the_network_is_named(exported: Path) -> None:
    right = runner(Tiny().model())
    found = {
        "no softmax": verify(exported, run=lambda given: (None, right(given)[0])).first,
        "another order": verify(exported, run=lambda given: [x[:, ::-1] for x in right(given)]).first,
        "probabilities in place": verify(exported, run=lambda given: (right(given)[1], right(given)[1])).first,
        "mirrored": verify(exported, run=lambda given: right({"pixels": given["pixels"][:, :, ::-1].copy()})).first,
    }
    assert {part: part in difference.cause for part, difference in found.items() if difference} == dict.fromkeys(
        found, True
    )


def test_numbers_that_are_none_and_other_shapes_are_differences(exported: Path) -> None:
    report = verify(exported, run=lambda given: (np.full((1, 5), np.nan), np.zeros((1, 4))))
    assert [d.differing for d in report.differences] == [12, 12, 12]
    assert "a different shape" in str(report)
    assert not verify(exported, resize=lambda decoded: decoded).ok


# Damage


def damaged(folder: Path, name: str, data: bytes | None) -> str:
    """The refusal after a file was changed, or removed (None)."""
    (folder / name).unlink() if data is None else (folder / name).write_bytes(data)
    with pytest.raises(RefusedExport) as refusal:
        verify(folder)
    return str(refusal.value)


def test_a_changed_missing_or_additional_file_is_refused(changed: Path) -> None:
    for name in ("model.onnx", "samples/expected.json", "export.json", "verify.py", "samples/02-alpha.png"):
        data = (changed / name).read_bytes()
        flipped = bytes([*data[:-9], data[-9] ^ 1, *data[-8:]])
        assert "has changed" in damaged(changed, name, flipped)
        assert "is missing" in damaged(changed, name, None)
        (changed / name).write_bytes(data)
    assert verify(changed).ok
    assert "is not in the manifest" in damaged(changed, "model.onnx.data", b"weights")


@pytest.mark.slow
def test_one_flipped_bit_anywhere_is_refused(changed: Path) -> None:
    rng = np.random.default_rng(7)
    files = sorted(file for file in changed.rglob("*") if file.is_file())
    for _ in range(200):
        file = files[rng.integers(len(files))]
        data = bytearray(file.read_bytes())
        at = int(rng.integers(len(data)))
        data[at] ^= 1 << int(rng.integers(8))
        before = file.read_bytes()
        file.write_bytes(data)
        with pytest.raises(RefusedExport):
            check_files(changed)
        file.write_bytes(before)
    check_files(changed)


def test_a_changed_or_missing_manifest_is_refused(changed: Path, tmp_path: Path) -> None:
    manifest = json.loads((changed / "manifest.json").read_bytes())
    outside = {"sha256": {**manifest["sha256"], "../secret": "0" * 64}}
    assert "not a manifest" in damaged(changed, "manifest.json", json.dumps(outside).encode())
    assert "not a manifest" in damaged(changed, "manifest.json", b"[]")
    assert "not a manifest" in damaged(changed, "manifest.json", b"[" * 100_000)
    assert "cannot be read" in damaged(changed, "manifest.json", None)
    with pytest.raises(RefusedExport, match="is not an export"):
        verify(tmp_path / "nowhere")


def test_onnx_with_data_in_another_file_is_refused_before_a_runtime_reads_it(changed: Path) -> None:
    """Wherever in the model the tensor is, and though the manifest was made anew."""
    from onnx import TensorProto, helper

    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="../../etc/passwd")
    for place in ("initializer", "attribute", "subgraph"):
        model = Tiny().model()
        if place == "initializer":
            model.graph.initializer.append(outside)
        elif place == "attribute":
            model.graph.node.append(helper.make_node("Constant", [], ["w"], value=outside))
        else:
            branch = helper.make_graph([helper.make_node("Constant", [], ["w"], value=outside)], "branch", [], [])
            model.graph.node.append(helper.make_node("If", ["logits"], ["x"], then_branch=branch, else_branch=branch))
        (changed / "model.onnx").write_bytes(model.SerializeToString())
        write_manifest(changed)
        with pytest.raises(RefusedExport, match="weights in another file"):
            verify(changed)
    (changed / "model.onnx").write_bytes(b"\xff" * 40)
    write_manifest(changed)
    with pytest.raises(RefusedExport, match="weights in another file"):
        verify(changed)


def test_an_edited_sample_is_refused_though_the_manifest_was_made_anew(changed: Path) -> None:
    Image.new("RGB", (96, 96)).save(changed / "samples" / "01-photo.pixels.png")
    write_manifest(changed)
    with pytest.raises(RefusedExport, match=r"01-photo\.pixels\.png does not have the pixels"):
        verify(changed)


def test_nonsense_in_a_file_is_refused_in_one_sentence(changed: Path) -> None:
    """Though the manifest was made anew."""
    nonsense = b'{"inputs": {"pixels": {"contract": {}}}, "samples": 3}'
    for name, content in (
        ("export.json", b"{"),
        ("preprocess.json", b"[]"),
        ("preprocess.json", nonsense),
        ("samples/expected.json", nonsense),
        ("image.onnx", b""),
    ):
        data = (changed / name).read_bytes()
        (changed / name).write_bytes(content)
        write_manifest(changed)
        with pytest.raises(RefusedExport) as refusal:
            verify(changed)
        assert str(refusal.value).startswith(str(changed)) and "\n" not in str(refusal.value)
        (changed / name).write_bytes(data)


def test_a_network_that_was_exchanged_is_found(changed: Path) -> None:
    (changed / "model.onnx").write_bytes(Tiny(mean=(0.4, 0.4, 0.4)).model().SerializeToString())
    write_manifest(changed)
    report = verify(changed)
    assert report.first is not None and report.first.stage == "logits" and "model.onnx" in report.first.pipeline


def test_the_program_says_in_one_line_what_it_refuses(changed: Path) -> None:
    (changed / "labels.txt").write_text("more")
    done = subprocess.run([sys.executable, "verify.py"], cwd=changed, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Refused: ") and "labels.txt: is not in the manifest" in done.stderr


def test_an_export_that_was_never_compared_says_so_first(changed: Path) -> None:
    (changed / "export.json").write_text(json.dumps({"format": 1, "parity": None}))
    write_manifest(changed)
    report = verify(changed)
    assert report.ok and str(report).startswith("This export was written without comparing it with its run")


# The images


def test_rendered_images_exercise_what_decoders_do_differently() -> None:
    files = rendered()
    images = {name: Image.open(io.BytesIO(data)) for name, data in files.items()}
    sampling = {i.layer[0][1:3] for i in images.values() if i.format == "JPEG"}  # type: ignore[attr-defined]
    assert sampling >= {(1, 1), (2, 2)}
    assert {i.mode for i in images.values()} >= {"RGB", "L", "RGBA", "P"}
    assert {i.getexif().get(0x112, 1) for i in images.values()} == {1, 6}
    assert any(i.info.get("progressive") for i in images.values())
    assert any(i.info.get("icc_profile") for i in images.values())
    assert any(i.width < 64 for i in images.values()) and any(i.width % 2 for i in images.values())
    assert {name: read(data).image.tobytes() for name, data in files.items()} == {
        name: pillow_decode(data).tobytes() for name, data in files.items()
    }
    assert list(rendered_images(2).items()) == list(files.items())[:2]


def test_own_images_keep_pixels_and_orientation_and_nothing_else(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112], exif[0x13B], exif[0x9003] = 8, "Anna Artist", "2026:01:02 03:04:05"
    path = tmp_path / "anna-at-home.jpg"
    scene(3).save(
        path,
        exif=exif,
        comment=b"secret",
        icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    )
    hidden = io.BytesIO()  # phones append a second image, or a film, with facts of its own
    scene(5).save(hidden, "JPEG", exif=exif)
    path.write_bytes(path.read_bytes() + hidden.getvalue())
    other = tmp_path / "scan.webp"
    scene(4).save(other, exif=exif)
    files = own_images([path, other])
    assert list(files) == ["own-01.jpg", "own-02.png"]
    for (name, data), source in zip(files.items(), (path, other), strict=True):
        assert read(data).image.tobytes() == read(source.read_bytes()).image.tobytes()
        kept = Image.open(io.BytesIO(data))
        assert dict(kept.getexif()) == ({0x112: 8} if name.endswith("jpg") else {})
        assert not {"comment", "icc_profile", "Artist"} & set(kept.info) and b"Anna" not in data


def test_a_folder_of_samples_names_no_place_and_no_user(exported: Path) -> None:
    for file in exported.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert str(Path.home()).encode() not in data or str(Path.home()) == "/", file
            assert b"/tmp/" not in data and str(exported).encode() not in data, file


def test_verify_and_predict_forgive_the_same_files(tmp_path: Path) -> None:
    """git changes line ends on Windows, and systems leave files in folders that they show."""
    folder = write_predicting_export(tmp_path / "export", {"pixels": SPEC})
    (folder / "notes.txt").write_text("one\ntwo\n")
    write_manifest(folder)
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix in EXPORTED_TEXTS and file.suffix != ".xml":
            file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    xml = folder / "openvino" / "model.xml"
    xml.write_bytes(xml.read_bytes().replace(b"\n", b"\r\n"))
    for name in ("@eaDir/x", "thumbs.DB", "samples/Desktop.ini", ".DS_Store", "__pycache__/verify.pyc", "__MACOSX/y"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    assert verify(folder).ok
    ExportFolder(folder).check()
    assert len(headstart.predict(folder, folder / "samples" / "01-photo.jpg").predictions) == 1
    assert set(SYSTEM_NAMES) >= SYSTEM_FILES
    for name in ("eaDir/x", "thumbs.db.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
        said = f"{folder / name}: is not in the manifest"
        with pytest.raises(RefusedExport, match=re.escape(said)):
            verify(folder)
        with pytest.raises(DamagedExport, match=re.escape(said)):
            ExportFolder(folder).check()
        (folder / name).unlink()
    (folder / "openvino" / "model.bin").write_bytes(b"\r\n")
    said = f"{folder / 'openvino' / 'model.bin'}: has changed since it was written (SHA-256 differs)."
    with pytest.raises(RefusedExport, match=re.escape(said)):
        verify(folder)
    with pytest.raises(DamagedExport, match=re.escape(said)):
        ExportFolder(folder).check()


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_predict_fails_if_no_image_at_all_can_be_read(
    more: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table with the reasons is written and printed all the same."""
    monkeypatch.chdir(tmp_path)
    write_predicting_export(tmp_path / "export", {"pixels": SPEC})
    (tmp_path / "bad").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "bad" / name).write_bytes(b"no image")
    words = ["predict", "export", "bad", "--out", "p.csv", *more]
    assert cli.run(words) == 1
    said = capsys.readouterr()
    assert said.err.endswith("NoImages: None of the 2 images could be read.\n  The reasons are in the result.\n")
    assert (tmp_path / "p.csv").read_text().count("not_an_image\n") == 2
    assert json.loads(said.out)["errors"] if more else said.out.startswith("not read  not_an_image  bad/a.jpg")
    draw(1, 9).save(tmp_path / "bad" / "good.jpg")
    assert cli.run(words) == 0
    assert len(headstart.predict("export", "bad/a.jpg").predictions) == 0


def test_the_program_is_one_file_without_headstart_in_which_no_name_is_used_twice() -> None:
    tree = ast.parse(verify_script())
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    names += [
        target.id
        for n in tree.body
        if isinstance(n, ast.Assign)
        for target in n.targets
        if isinstance(target, ast.Name)
    ]
    assert [name for name, n in Counter(names).items() if n > 1] == []
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    outside = {str(name).partition(".")[0] for name in imported} - set(sys.stdlib_module_names)
    assert outside == {"numpy", "PIL", "onnxruntime", "openvino"}
    assert (ast.get_docstring(tree) or "").startswith("Checks an export of headstart")
