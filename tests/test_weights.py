"""Weights files: what is taken, what is refused, and that nothing in them is ever run."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from headstart.errors import BadWeights, MissingWeights
from headstart.images.preprocess import Preprocess
from headstart.model.backbones.config import BackboneConfig, read_config
from headstart.model.backbones.weights import MAX_HEADER_BYTES, check_fits, misfit, read_header, weights_sha256

ARRAYS = {
    "conv.weight": np.arange(12, dtype=np.float32).reshape(3, 2, 2),
    "bn.num_batches_tracked": np.array(7, dtype=np.int64),
    "fc.weight": np.ones((5, 3), dtype=np.float16),
    "fc.bias": np.zeros(5, dtype=np.float16),
}
GOOD = save(ARRAYS, metadata={"format": "pt"})
CONVERT = (
    "Only safetensors are loaded. If you trust the file, convert it with safetensors.torch.save_file(state_dict, FILE)"
    " and use the result."
)

unpickled: list[object] = []
watching = False


def _watch(event: str, args: tuple[object, ...]) -> None:
    if watching and event.startswith("pickle."):
        unpickled.append(args)


sys.addaudithook(_watch)  # audit hooks cannot be removed, so this one is switched


@pytest.fixture
def no_unpickling() -> Iterator[None]:
    """Fails the test if anything in the process looks up a pickle's global meanwhile."""
    global watching
    unpickled.clear()
    watching = True
    yield
    watching = False
    assert unpickled == []


class Bomb:
    """Unpickling it looks up `os.system`; the audit hook sees that before anything is run."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("true",)


def torch_zip(payload: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def tar(payload: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("pickle")
        info.size = len(payload)
        archive.addfile(info, io.BytesIO(payload))
    return file.getvalue()


BOMB = pickle.dumps({"state_dict": Bomb()}, protocol=2)
DISGUISES: dict[str, tuple[bytes, str]] = {
    **{f"protocol {p}": (pickle.dumps([Bomb()], protocol=p), f"a pickle (protocol {p})") for p in (2, 3, 4, 5)},
    **{f"protocol {p}": (pickle.dumps([Bomb()], protocol=p), "a pickle (protocol 0 or 1) or text") for p in (0, 1)},
    "torch zip": (torch_zip(BOMB), "a zip archive (as torch.save writes, with a pickle inside)"),
    "torch legacy": (
        pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2) + BOMB,
        "a pickle (protocol 2)",
    ),
    "gzip": (gzip.compress(BOMB), "a gzip file"),
    "tar": (tar(BOMB), "a tar archive"),
    "numpy": (b"\x93NUMPY\x01\x00v\x00{'descr': '|O'}", "a NumPy file"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file (as Keras writes)"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\n",
        "a Git LFS pointer (the weights themselves were not fetched)",
    ),
    "page": (b"<!doctype html><title>Sign in</title>", "a web page or XML"),
    "noise": (bytes(range(200, 256)) * 4, "a file of unknown format"),
    "one byte": (b"\x80", "a file of unknown format"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".pkl", ".bin", ""])
@pytest.mark.parametrize("disguise", DISGUISES)
def test_nothing_but_safetensors_whatever_its_name(
    tmp_path: Path, disguise: str, suffix: str, no_unpickling: None
) -> None:
    content, called = DISGUISES[disguise]
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(BadWeights) as caught:
        read_header(path)
    assert str(caught.value) == f"{path}: is {called}, not safetensors.\n  {CONVERT}"


def test_the_audit_hook_sees_unpickling() -> None:
    global watching
    unpickled.clear()
    watching = True
    pickle.loads(pickle.dumps(Path))
    watching = False
    assert unpickled


def test_no_module_can_unpickle() -> None:
    """No call in the package could load a pickle; torch.load and its like are named nowhere in its code."""
    import ast

    package = Path(read_header.__code__.co_filename).parent.parent
    for source in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & {"pickle", "joblib", "dill", "shelve"}, source
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in (
                "torch.load",
                "np.load",
                "numpy.load",
                "torch.hub.load",
                "timm.models.load_checkpoint",
            )
            pretrained = [k for k in getattr(node, "keywords", []) if getattr(k, "arg", "") == "pretrained"]
            if called.startswith("timm."):
                assert all(ast.unparse(k.value) == "False" for k in pretrained), source


def test_header_of_a_good_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(GOOD)
    assert read_header(path) == {
        "conv.weight": ("F32", (3, 2, 2)),
        "bn.num_batches_tracked": ("I64", ()),
        "fc.weight": ("F16", (5, 3)),
        "fc.bias": ("F16", (5,)),
    }


def header_file(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty (0 bytes)."),
        (GOOD[:100], "truncated safetensors: the header alone has 304 bytes, the file 100."),
        (GOOD[:-1], "truncated safetensors (95 of 96 bytes of numbers)."),
        (GOOD + b"abc", "has 3 bytes after its last tensor, which safetensors never has."),
        (header_file(b"{nonsense}"), "damaged safetensors header: Expecting property name"),
        (header_file(b'{"a\xff": 1}'), "damaged safetensors header: 'utf-8' codec"),
        (header_file(b'{"a":' + b"[" * 100_000 + b"}"), "damaged safetensors header: "),
        (header_file(b'{"a":1,"a":2}'), "damaged safetensors header: a name occurs twice."),
        (
            header_file({"__metadata__": {"a": 1}}),
            "damaged safetensors header: __metadata__ is not an object of strings.",
        ),
        (header_file({}), "holds no tensors."),
        (header_file({"a": entry("F33")}, bytes(8)), "damaged safetensors header: tensor 'a' is {'dtype': 'F33'"),
        (header_file({"a": entry(["F32"])}, bytes(8)), "damaged safetensors header: tensor 'a' is {'dtype': ['F32']"),
        (header_file({"a": entry(shape=[-2])}, bytes(8)), "damaged safetensors header: tensor 'a' is"),
        (header_file({"a": entry(shape=[True])}, bytes(8)), "damaged safetensors header: tensor 'a' is"),
        (header_file({"a": entry(shape=[2.0])}, bytes(8)), "damaged safetensors header: tensor 'a' is"),
        (
            header_file({"a": [1, 2]}, bytes(8)),
            "damaged safetensors header: tensor 'a' is [1, 2], expected a known dtype",
        ),
        (
            header_file({"a": entry(shape=[3])}, bytes(8)),
            "damaged safetensors header: tensor 'a' has 8 bytes, F32 (3,) needs 12.",
        ),
        (
            header_file({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)),
            "damaged safetensors header: tensor 'b' begins at byte 4, expected 8.",
        ),
        (
            header_file({"a": entry(offsets=[8, 16])}, bytes(16)),
            "damaged safetensors header: tensor 'a' begins at byte 8, expected 0.",
        ),
    ],
    ids=range(19),
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadWeights) as caught:
        read_header(path)
    assert caught.value.message.startswith(f"{path}: {problem}")
    assert caught.value.hint


def test_a_huge_header_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with open(path, "wb") as file:  # sparse: it takes no disk
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{")
        file.truncate(MAX_HEADER_BYTES + 100)
    with pytest.raises(BadWeights, match="its header has 16,777,217 bytes, above the limit of 16,777,216"):
        read_header(path)


def test_places_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights) as missing:
        read_header(tmp_path / "no.safetensors")
    assert str(missing.value) == (
        f"{tmp_path / 'no.safetensors'}: no such weights file.\n  Check the path given with --weights."
    )
    with pytest.raises(BadWeights, match="is not a file, so it cannot be weights"):
        read_header(tmp_path)


def accepts_or_says_why(path: Path) -> None:
    """The one thing that is allowed besides a good header is BadWeights; and what is taken, the native parser takes."""
    try:
        header = read_header(path)
    except BadWeights:
        return
    with safe_open(path, framework="np") as tensors:
        assert set(tensors.keys()) == set(header)
        assert all(tuple(tensors.get_slice(name).get_shape()) == header[name][1] for name in header)


def mutations(length: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    return st.lists(st.tuples(st.integers(0, length - 1), st.integers(0, 255)), min_size=1, max_size=4)


quick = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
thorough = settings(quick, max_examples=10_000)
HEADER_END = 8 + struct.unpack("<Q", GOOD[:8])[0]


def check_mutated(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    content = bytearray(GOOD)
    for at, value in changes:
        content[at] = value
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    try:
        accepts_or_says_why(path)
    except SafetensorError as error:  # stricter than the reader: fine, as `load_tensors` turns it into BadWeights
        assert "eader" in str(error) or "JSON" in str(error), error


@quick
@given(mutations(HEADER_END))
def test_mutated_headers_load_or_are_bad_weights(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    check_mutated(tmp_path, changes)


@pytest.mark.slow
@thorough
@given(mutations(HEADER_END))
def test_mutated_headers_load_or_are_bad_weights_many(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    check_mutated(tmp_path, changes)


@quick
@given(st.integers(0, len(GOOD) - 1))
def test_every_truncation_is_bad_weights(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(GOOD[:length])
    with pytest.raises(BadWeights):
        read_header(path)


@quick
@given(st.binary(max_size=300))
def test_any_bytes_are_bad_weights(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    accepts_or_says_why(path)


def test_hash_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import headstart.model.backbones.weights as module

    reads: list[Path] = []
    hashed: Callable[[Path], str] = module.sha256_file
    monkeypatch.setattr(module, "sha256_file", lambda path: reads.append(path) or hashed(path))
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"abc")
    assert weights_sha256(path) == weights_sha256(path)
    assert weights_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert len(reads) == 1
    path.write_bytes(b"abcd")
    assert weights_sha256(path) == "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589"
    assert len(reads) == 2


# ------------------------------------------------------------------------------------------------------- architecture
SHAPES = {"conv.weight": (3, 2, 2), "bn.num_batches_tracked": (), "bn.weight": (3,)}


def test_a_file_that_fits(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(GOOD)
    check_fits(path, {key: array.shape for key, array in ARRAYS.items()})
    check_fits(path, {"conv.weight": (3, 2, 2), "bn.num_batches_tracked": ()}, classifier=["fc"])
    check_fits(
        path,
        {"conv.weight": (3, 2, 2), "other.num_batches_tracked": (), "bn.num_batches_tracked": ()},
        classifier=["fc"],
    )


def test_a_file_of_another_architecture(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(GOOD)
    shapes = {"conv.weight": (3, 2, 4), "bn.weight": (3,), "bn.num_batches_tracked": (), "fc.weight": (2, 3)}
    with pytest.raises(BadWeights) as caught:
        check_fits(path, shapes, classifier=["fc"], name="resnet18")
    assert str(caught.value) == (
        f"{path}: these are not the weights of resnet18: 1 missing (bn.weight);"
        " 1 of another shape (conv.weight: (3, 2, 2), expected (3, 2, 4)).\n"
        "  Name the backbone that the file was saved from (--backbone NAME), or use another file."
    )
    with pytest.raises(BadWeights, match=r"2 unexpected \(fc.bias, fc.weight\); 1 of another shape"):
        check_fits(path, {"conv.weight": (3, 2, 4), "bn.num_batches_tracked": ()})


def test_only_the_first_few_are_named() -> None:
    assert misfit({}, {f"t{i}": (1,) for i in range(1_200)}, ()) == "1,200 missing (t0, t1, t2 and 1,197 more)"


# ------------------------------------------------------------------------------------------------ the JSON beside them
SPEC = {
    "architecture": "mobilenetv2_100",
    "model_args": {"pad_type": "same", "sizes": [1, 2]},
    "num_classes": 0,
    "pretrained_cfg": {
        "input_size": [3, 192, 192],
        "mean": [0.5, 0.4, 0.3],
        "std": [0.1, 0.2, 0.3],
        "interpolation": "bilinear",
        "crop_pct": 1.15,
        "crop_mode": "border",
        "license": "apache-2.0",
        "origin": "somewhere",
    },
}


def write_spec(path: Path, **changes: object) -> Path:
    """SPEC with some keys changed: `pretrained_cfg__mean=...` goes one level down; None takes a key out."""
    spec = json.loads(json.dumps(SPEC))
    for key, value in changes.items():
        *outer, last = key.split("__")
        place = spec[outer[0]] if outer else spec
        place[last] = value
        if value is None:
            del place[last]
    path.write_text(json.dumps(spec), encoding="utf-8")
    return path


def test_a_good_spec(tmp_path: Path) -> None:
    assert read_config(write_spec(tmp_path / "x.json")) == BackboneConfig(
        architecture="mobilenetv2_100",
        model_args=(("pad_type", "same"), ("sizes", (1, 2))),
        preprocess=Preprocess(192, "pad", 1.0, "bilinear", (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)),
        licence="apache-2.0",
        origin="somewhere",
    )


def test_what_a_spec_may_leave_out(tmp_path: Path) -> None:
    gone = dict.fromkeys(["interpolation", "crop_pct", "crop_mode", "license", "origin"])
    spec = read_config(
        write_spec(tmp_path / "x.json", model_args=None, **{f"pretrained_cfg__{key}": None for key in gone})
    )
    assert (spec.model_args, spec.licence, spec.origin) == ((), "unknown", "")
    assert (spec.preprocess.resize, spec.preprocess.interpolation, spec.preprocess.crop_pct) == (
        "crop",
        "bicubic",
        0.875,
    )


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("architecture", None, "architecture is missing, expected the plain name of a timm model."),
        ("architecture", "hf-hub:somebody/net", "architecture is 'hf-hub:somebody/net', expected the plain name"),
        ("architecture", "local-dir:/tmp/x", "architecture is 'local-dir:/tmp/x', expected the plain name"),
        ("pretrained_cfg", [1], "pretrained_cfg is [1], expected an object."),
        ("model_args", [1], "model_args is [1], expected an object."),
        ("model_args", {"checkpoint_path": "x.pt"}, "model_args.checkpoint_path is 'x.pt', expected an argument"),
        ("model_args", {"pretrained": True}, "model_args.pretrained is True, expected an argument of the network"),
        ("model_args", {"pretrained_cfg": {}}, "model_args.pretrained_cfg is {}, expected an argument of the network"),
        ("model_args", {"a": {"b": 1}}, "model_args.a is {'b': 1}, expected an argument of the network"),
        ("pretrained_cfg__input_size", [3, 224, 192], "pretrained_cfg.input_size is [3, 224, 192], expected [3, n, n]"),
        ("pretrained_cfg__input_size", [1, 224, 224], "pretrained_cfg.input_size is [1, 224, 224], expected [3, n, n]"),
        ("pretrained_cfg__input_size", 224, "pretrained_cfg.input_size is 224, expected [3, n, n]"),
        ("pretrained_cfg__input_size", None, "pretrained_cfg.input_size is missing, expected [3, n, n]"),
        (
            "pretrained_cfg__mean",
            [0.5, 0.5],
            "pretrained_cfg.mean is [0.5, 0.5], expected three numbers, one per colour",
        ),
        ("pretrained_cfg__mean", "abc", "pretrained_cfg.mean is 'abc', expected three numbers"),
        ("pretrained_cfg__std", [1, 1, 0], "pretrained_cfg.std is [1, 1, 0], expected three numbers above 0"),
        (
            "pretrained_cfg__std",
            [1, 1, float("nan")],
            "pretrained_cfg.std is [1, 1, nan], expected three numbers above 0",
        ),
        ("pretrained_cfg__interpolation", "random", "pretrained_cfg.interpolation is 'random', expected one of"),
        ("pretrained_cfg__interpolation", ["bicubic"], "pretrained_cfg.interpolation is ['bicubic'], expected one of"),
        ("pretrained_cfg__crop_pct", 0, "pretrained_cfg.crop_pct is 0, expected a number above 0, at most 1."),
        (
            "pretrained_cfg__crop_mode",
            "tile",
            "pretrained_cfg.crop_mode is 'tile', expected one of center, squash, border.",
        ),
    ],
)
def test_a_spec_error_names_file_and_key(tmp_path: Path, key: str, value: object, problem: str) -> None:
    path = write_spec(tmp_path / "x.json", **{key: value})
    with pytest.raises(BadWeights) as caught:
        read_config(path)
    assert caught.value.message.startswith(f"{path}: {problem}")
    assert caught.value.hint.startswith("The JSON needs architecture and pretrained_cfg{input_size, mean, std};")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5_000, b"[]", b"null"])
def test_a_spec_that_is_no_json_object(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text)
    with pytest.raises(BadWeights) as caught:
        read_config(path)
    assert caught.value.message.startswith(f"{path}: is ")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
cfg_keys = st.sampled_from([*SPEC["pretrained_cfg"], "x"])  # type: ignore[misc]


@quick
@given(st.dictionaries(st.sampled_from([*SPEC, "x"]), values), st.dictionaries(cfg_keys, values))
def test_any_spec_is_read_or_bad_weights(tmp_path: Path, top: dict[str, Any], inner: dict[str, Any]) -> None:
    spec = json.loads(json.dumps(SPEC))
    spec["pretrained_cfg"].update(inner)
    spec.update(top)
    path = tmp_path / "x.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    with suppress(BadWeights):
        hash(read_config(path))
