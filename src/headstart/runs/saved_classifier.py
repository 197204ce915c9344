"""A classifier on disk: `headstart.json` holds what determines predictions, and each member is a folder for timm.

    timm.create_model("local-dir:RUN", pretrained=True)          # a run with fused backbones has one folder per backbone

The backbone's tensors are copied byte for byte, the last layer is float32. Reading costs a SHA-256 of the weights and
loads the last layer; the backbone's tensors are read when the network is opened. Not for the rest of a run:
`runs.run_folder` compares the files with the manifest before anything here reads one.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import DamagedRun
from headstart.images.preprocess import Preprocess
from headstart.io.files import cache_dir, read_json, sha256_bytes, write_bytes, write_cache, write_json
from headstart.io.progress import log
from headstart.model.backbones.config import STAGED
from headstart.model.backbones.registry import RANDOM, TRAINED_HERE, Backbone
from headstart.model.backbones.weights import is_classifier, read_header, weights_sha256
from headstart.model.heads.kernel_layer import KERNEL_ARRAYS, KernelLayer, last_layer
from headstart.model.inference.classifier import Calibration, Classifier, EnsembleMember
from headstart.model.inference.engines import open_network, runtime_here
from headstart.model.inference.features import FeatureExtractor
from headstart.model.inference.runtime import Runtime

WEIGHTS = "model.safetensors"
TIMM_CONFIG = "config.json"
CROP_MODES = {"crop": "center", "squash": "squash", "pad": "border"}


def write_classifier(folder: Path, classifier: Classifier) -> dict[str, Any]:
    """Write the members' weights and configs into `folder`; return the classifier's part of `headstart.json`. Raises
    `WriteError`."""
    names = _member_folders(classifier)
    for member, name in zip(classifier.members, names, strict=True):
        _write_member(classifier, member, folder / name)
    return {
        "id": classifier.id,
        "classes": list(classifier.classes),
        "calibration": asdict(classifier.calibration),
        "runtime": vars(classifier.runtime),
        "members": [_describe(member.extractor, name) for member, name in zip(classifier.members, names, strict=True)],
    }


def member_files(described: Mapping[str, Any]) -> list[str]:
    """Return the relative paths of the files that `read_classifier` reads. Raises as that does."""
    folders = [Path(str(each["folder"])) for each in described["members"]]
    return [(folder / name).as_posix() for folder in folders for name in (TIMM_CONFIG, WEIGHTS)]


def origin_without_path(origin: str) -> str:
    """Return the origin of weights unless it is a place on this machine.

    >>> origin_without_path("hub: timm/resnet50.a1_in1k at 0123456789ab"), origin_without_path("/home/anna/a.safetensors")
    ('hub: timm/resnet50.a1_in1k at 0123456789ab', '')
    >>> origin_without_path("trained here from resnet50 (/home/anna/weights.safetensors)")
    'trained here from resnet50'
    """
    if "hub: " in origin or origin.endswith(f"({RANDOM})"):
        return origin
    return origin.partition(" (")[0] if origin.startswith(TRAINED_HERE) else ""


def read_classifier(folder: Path, described: Mapping[str, Any]) -> Classifier:
    """Invert `write_classifier`; unknown keys are ignored.

    Raises whatever a value of the wrong type raises (`KeyError`, `TypeError`, `ValueError` ...), and `BadWeights`.
    """
    classes = tuple(described["classes"])
    members = tuple(_read_member(folder, each, len(classes)) for each in described["members"])
    if not members or not all(isinstance(c, str) for c in classes):
        raise ValueError(f"no member, or classes that are not names: {classes}")
    read = described["calibration"]
    calibration = Calibration(**{f.name: float(read[f.name]) for f in fields(Calibration)})
    if not 0 <= calibration.clip <= 1 / len(classes):
        raise ValueError(f"clip {calibration.clip} is not a valid bound for {len(classes)} classes")
    return Classifier(members, classes, runtime_here(Runtime(**described["runtime"])), calibration)


def _member_folders(classifier: Classifier) -> list[str]:
    if len(classifier.members) == 1:
        return ["."]
    return [f"member{i}-{p.extractor.backbone.name}" for i, p in enumerate(classifier.members, 1)]


def _describe(extractor: FeatureExtractor, folder: str) -> dict[str, Any]:
    b = extractor.backbone
    return {
        "folder": folder,
        "backbone": b.name,
        "architecture": b.architecture,
        "model_args": dict(b.model_args),
        "weights_sha256": b.sha256,
        "weights_preprocess": b.preprocess.as_dict(),
        "preprocess": extractor.spec.as_dict(),
        **({} if extractor.pooling == "last" else {"pooling": extractor.pooling}),
        "licence": b.licence,
        "origin": b.origin,
    }


def _read_member(run: Path, described: Mapping[str, Any], n_classes: int) -> EnsembleMember:
    folder = run / described["folder"]
    if not folder.resolve().is_relative_to(run.resolve()):
        raise ValueError(f"folder {described['folder']!r} is outside the run")
    file = folder / WEIGHTS
    name = read_json(folder / TIMM_CONFIG)["pretrained_cfg"]["classifier"]
    kernel = [part for part in KERNEL_ARRAYS if f"{name}.{part}" in read_header(file)]
    arrays = {part: _read_tensor(file, f"{name}.{part}") for part in ("weight", "bias", *kernel)}
    weight_KD = arrays["weight"].reshape(len(arrays["weight"]), -1)
    layer = last_layer({**arrays, "weight": np.ascontiguousarray(weight_KD.T)}, n_classes)
    backbone = Backbone(
        name=described["backbone"],
        architecture=described["architecture"],
        model_args=tuple(sorted(described["model_args"].items())),
        source="run",
        weights=file,
        sha256=described["weights_sha256"],
        preprocess=Preprocess.from_dict(described["weights_preprocess"]),
        licence=described["licence"],
        feature_dim=layer.n_features,
        origin=described["origin"],
        content=backbone_content(file),
        file_sha256=weights_sha256(file),
    )
    pooling = described.get("pooling", "last")
    if pooling not in ("last", "stages"):
        raise ValueError(f"pooling {pooling!r} is not known")
    extractor = FeatureExtractor(backbone, Preprocess.from_dict(described["preprocess"]), pooling)
    return EnsembleMember(extractor, layer)


def backbone_content(file: Path) -> str:
    """Return the key for the graph and features of a run folder's backbone in this user's cache.

    A run names the weights that it was made from, but it may come from anyone, and a graph built from its tensors must
    not be mistaken for one of those weights. So the name counts only for files written here, which `_write_member`
    recorded in the cache; any other file counts as separate weights, identified by its own SHA-256.
    """
    sha256 = weights_sha256(file)
    note = _origin_note(sha256)
    try:
        origin = read_json(note)["weights"]
    except FileNotFoundError:
        return sha256
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.debug("%s: %s", note, error)
        return sha256
    return origin if isinstance(origin, str) and re.fullmatch("[0-9a-f]{64}", origin) else sha256


def _origin_note(sha256: str) -> Path:
    return cache_dir() / "origins" / f"{sha256}.json"


def _write_member(classifier: Classifier, member: EnsembleMember, folder: Path) -> None:
    extractor, backbone = member.extractor, member.extractor.backbone
    network = open_network(backbone, extractor.spec, classifier.runtime)
    name, tail = network.classifier, network.classifier_tail
    arrays = dict(member.layer.arrays)
    weight_KD = arrays["weight"].T
    arrays["weight"] = weight_KD.reshape(*weight_KD.shape, *tail)
    if backbone.weights is None:
        raise DamagedRun(f"{backbone.name}: has no weights to save.")
    data = _with_layer(backbone.weights, name, {f"{name}.{part}": array for part, array in arrays.items()})
    write_bytes(folder / WEIGHTS, data)
    note = json.dumps({"weights": backbone.content or backbone.sha256})
    write_cache(_origin_note(sha256_bytes(data)), note.encode())
    kernel = member.layer.centres_RC.shape if isinstance(member.layer, KernelLayer) else ()
    write_json(folder / TIMM_CONFIG, timm_config(classifier.classes, extractor, name, kernel=kernel))


def timm_config(
    classes: Sequence[str], extractor: FeatureExtractor, classifier: str, *, kernel: Sequence[int] = ()
) -> dict[str, Any]:
    """Return the config that timm's ``local-dir:`` reads: architecture, class names, and the input spec.

    With features of all stages, that is `headstart.model.backbones.networks.HeadstartStages`, which timm knows once that
    module is imported; `kernel` are the numbers of directions and centres of its `KernelLayer`, if it has one.
    """
    spec, backbone = extractor.spec, extractor.backbone
    stages = extractor.pooling == "stages"
    inside: dict[str, Any] = {"architecture": backbone.architecture} if stages else {}
    inside |= {"kernel": list(kernel)} if kernel else {}
    return {
        "architecture": STAGED if stages else backbone.architecture,
        "num_classes": len(classes),
        "model_args": dict(backbone.model_args) | inside,
        "label_names": list(classes),
        "pretrained_cfg": {
            "tag": backbone.name.partition(".")[2],
            "num_classes": len(classes),
            "input_size": [3, spec.image_size, spec.image_size],
            "interpolation": spec.interpolation,
            "crop_pct": spec.crop_pct if spec.resize == "crop" else 1.0,
            "crop_mode": CROP_MODES[spec.resize],
            "mean": list(spec.mean),
            "std": list(spec.std),
            "classifier": classifier,
            "label_names": list(classes),
            "license": backbone.licence,
            "custom_load": False,
        },
    }


def _with_layer(weights: Path, classifier: str, layer: Mapping[str, np.ndarray]) -> bytes:
    """Encode a safetensors file with the backbone's tensors unchanged and a new last layer (float32)."""
    entries: dict[str, Any] = {}
    blocks: list[bytes] = []
    end = 0

    def add(name: str, dtype: str, shape: Sequence[int], data: bytes) -> None:
        nonlocal end
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(data)]}
        blocks.append(data)
        end += len(data)

    kept = {name: kind for name, kind in read_header(weights).items() if not is_classifier(name, (classifier,))}
    for (name, (dtype, shape)), data in zip(kept.items(), _tensor_bytes(weights, kept), strict=True):
        add(name, dtype, shape, data)
    for name, array in layer.items():
        add(name, "F32", array.shape, np.ascontiguousarray(array, np.float32).tobytes())
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + b"".join(blocks)


def _tensor_bytes(file: Path, names: Iterable[str]) -> Iterator[bytes]:
    """Yield the bytes of each tensor of a safetensors file. The header is parsed once: with 300 tensors that
    matters."""
    with open(file, "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(size))
        for name in names:
            start, end = header[name]["data_offsets"]
            f.seek(8 + size + start)
            yield f.read(end - start)


def _read_tensor(file: Path, name: str) -> np.ndarray:
    """Read a float32 tensor from a run's weights file."""
    dtype, shape = read_header(file)[name]
    if dtype != "F32":
        raise ValueError(f"{name} is {dtype}, expected F32")
    (data,) = _tensor_bytes(file, [name])
    return np.frombuffer(data, np.float32).reshape(shape)
