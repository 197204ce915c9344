"""The trained classifier: backbones, the last layer on each, class names, temperature, thresholds; and its run folder.

A classifier is a sum over its members: ``logits = sum over members of (features @ weight_DK + bias_K)``, nearly always one
member. Temperature is folded into the weights, so the softmax of the logits is calibrated wherever the folder is loaded:

    timm.create_model("local-dir:RUN", pretrained=True)          # a run that fuses backbones keeps a folder for each

Open `predictor.Predictor` first: it is the way of one image from a file to probabilities.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import BadWeights, DamagedRun, MissingRun, RecipeError
from headstart.images.preprocess import Preprocess
from headstart.io.files import cache_dir, read_json, sha256_bytes, sha256_file, write_bytes, write_cache, write_json
from headstart.io.folders import MANIFEST, check_manifest
from headstart.io.progress import log
from headstart.io.result_repr import OneLineRepr, short_facts
from headstart.io.text_table import few
from headstart.model.backbones.registry import Backbone
from headstart.model.backbones.weights import is_classifier, read_header
from headstart.model.heads.linear_layer import LinearLayer
from headstart.model.inference.engines import open_network, runtime_here
from headstart.model.inference.features import FeatureExtractor
from headstart.model.inference.runtime import Runtime

FORMAT = 1
CROP_MODES = {"crop": "center", "squash": "squash", "pad": "border"}


@dataclass(frozen=True, eq=False)
class EnsembleMember:
    """One backbone and the last layer on it."""

    extractor: FeatureExtractor
    layer: LinearLayer


@dataclass(frozen=True, eq=False, repr=False)
class Classifier(OneLineRepr):
    """A frozen-backbone or fine-tuned classifier, ready to predict.

    `temperature` is what the logits were divided by (already folded into the weights). `conformal_threshold` and `alpha`
    belong to `evaluation.conformal.prediction_sets`. `clip` is the least probability to submit where log-loss is scored
    (`evaluation.clipping`); 0 if none was chosen, as in runs of older versions. `provenance` is what `headstart.json`
    records beside these.
    """

    members: tuple[EnsembleMember, ...]
    classes: tuple[str, ...]
    runtime: Runtime
    temperature: float = 1.0
    conformal_threshold: float = 1.0
    alpha: float = 0.1
    clip: float = 0.0
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def summary(self) -> str:
        """The backbones and the number of classes."""
        return f"{' + '.join(str(member.extractor) for member in self.members)}, {len(self.classes)} classes"

    def facts(self) -> list[tuple[str, str]]:
        """Backbones, classes, and the calibration."""
        shown = {
            "backbones": [str(member.extractor) for member in self.members],
            "classes": few(self.classes),
            "runtime": str(self.runtime),
            "temperature": self.temperature,
            "conformal_threshold": self.conformal_threshold,
            "alpha": self.alpha,
        }
        return list(short_facts(shown))

    @property
    def id(self) -> str:
        """A short hash of all that decides a prediction."""
        members = [
            (
                m.extractor.backbone.sha256,
                m.extractor.spec.as_dict(),
                sha256_bytes(m.layer.weight_DK.tobytes() + m.layer.bias_K.tobytes()),
            )
            for m in self.members
        ]
        return sha256_bytes(json.dumps([members, self.classes], sort_keys=True).encode())[:16]

    def logits(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """float32 (N, K) from the float32 (N, D) features of each member, in their order.

        Summed image by image in a fixed order (einsum, not a matrix product whose blocking depends on N), so that an
        image's logits do not depend on its company.
        """
        total_NK = sum(
            np.einsum("nd,dk->nk", x.astype(np.float64), m.layer.weight_DK.astype(np.float64)) + m.layer.bias_K
            for x, m in zip(features, self.members, strict=True)
        )
        return np.asarray(total_NK, np.float32)


# ------------------------------------------------------------------------------------------------------ the run folder
def save_classifier(classifier: Classifier, folder: Path) -> None:
    """Write the classifier's files into `folder`: weights and config for timm, and `headstart.json`. Raises `WriteError`."""
    names = _member_folders(classifier)
    for member, name in zip(classifier.members, names, strict=True):
        _save_member(classifier, member, folder / name)
    write_json(
        folder / "headstart.json",
        {
            "format": FORMAT,
            "id": classifier.id,
            "classes": list(classifier.classes),
            "temperature": classifier.temperature,
            "conformal": {"method": "lac", "threshold": classifier.conformal_threshold, "alpha": classifier.alpha},
            "clip": classifier.clip,
            "runtime": vars(classifier.runtime),
            "members": [
                _describe(member.extractor, name) for member, name in zip(classifier.members, names, strict=True)
            ],
            **classifier.provenance,
        },
    )


def load_classifier(run: Path, *, besides: Collection[str] = ()) -> Classifier:
    """The classifier of a run folder, after its manifest has been checked. Raises `MissingRun`, `DamagedRun`.

    Files in `besides` may be damaged or missing: they are about to be written again.
    """
    run = Path(run)
    if not run.is_dir():
        raise MissingRun(f"{run}: there is no such run folder.", hint="`headstart train DATA --out RUN` writes one.")
    if not any((run / name).is_file() for name in ("headstart.json", MANIFEST)):
        raise MissingRun(
            f"{run}: is not a run folder (it has no headstart.json).", hint="`headstart train` writes one."
        )
    check_manifest(run, besides=besides)
    try:
        return _classifier_from(run, read_json(run / "headstart.json"))
    except BadWeights as error:
        raise DamagedRun(error.message, hint="Its weights are not as headstart writes them: train again.") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError, RecursionError, RecipeError) as error:
        raise DamagedRun(
            f"{run / 'headstart.json'}: is not as headstart {FORMAT} writes it: {error!r}.",
            hint="It may be from a newer version: update headstart, or train again.",
        ) from error


def _classifier_from(run: Path, known: Mapping[str, Any]) -> Classifier:
    if known["format"] != FORMAT:
        raise ValueError(f"format {known['format']}, expected {FORMAT}")
    main = ("format", "id", "classes", "temperature", "conformal", "clip", "runtime", "members")
    members, classes = tuple(_load_member(run, described) for described in known["members"]), tuple(known["classes"])
    layers = [member.layer for member in members]
    if not layers or not all(x.weight_DK.ndim == 2 and x.bias_K.shape == (len(classes),) for x in layers):
        raise ValueError(f"the last layer is not one for {len(classes)} classes")
    if not all(isinstance(c, str) for c in classes) or any(len(classes) != x.weight_DK.shape[1] for x in layers):
        raise ValueError(f"the last layer is not one for the classes {classes}")
    clip = float(known.get("clip", 0.0))
    if not 0 <= clip <= 1 / len(classes):
        raise ValueError(f"clip {clip} is no bound for {len(classes)} classes")
    return Classifier(
        members=members,
        classes=classes,
        runtime=runtime_here(Runtime(**known["runtime"])),
        temperature=float(known["temperature"]),
        conformal_threshold=float(known["conformal"]["threshold"]),
        alpha=float(known["conformal"]["alpha"]),
        clip=clip,
        provenance={k: v for k, v in known.items() if k not in main},
    )


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
        "licence": b.licence,
        "origin": b.origin,
    }


def _load_member(run: Path, described: Mapping[str, Any]) -> EnsembleMember:
    folder = run / described["folder"]
    if not folder.resolve().is_relative_to(run.resolve()):
        raise ValueError(f"folder {described['folder']!r} leads out of the run")
    file = folder / "model.safetensors"
    name = read_json(folder / "config.json")["pretrained_cfg"]["classifier"]
    weight, bias = _read_tensor(file, f"{name}.weight"), _read_tensor(file, f"{name}.bias")
    weight_DK = np.ascontiguousarray(weight.reshape(weight.shape[0], -1).T)
    backbone = Backbone(
        name=described["backbone"],
        architecture=described["architecture"],
        model_args=tuple(sorted(described["model_args"].items())),
        source="run",
        weights=file,
        sha256=described["weights_sha256"],
        preprocess=Preprocess.from_dict(described["weights_preprocess"]),
        licence=described["licence"],
        feature_dim=weight_DK.shape[0],
        origin=described["origin"],
        content=backbone_content(file),
    )
    extractor = FeatureExtractor(backbone, Preprocess.from_dict(described["preprocess"]))
    return EnsembleMember(extractor, LinearLayer(weight_DK, bias))


def backbone_content(file: Path) -> str:
    """What the graph and the features of a run folder's backbone are kept under in this user's cache.

    A run names the weights that it was made from, but it may come from anybody, and a graph built from its tensors must
    not pass for one of those weights. So the name counts only for a file that was written here, of which `_save_member`
    left a note in the cache; any other file counts as weights of their own, by its own SHA-256.
    """
    sha256 = sha256_file(file)
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


def _save_member(classifier: Classifier, member: EnsembleMember, folder: Path) -> None:
    extractor, backbone = member.extractor, member.extractor.backbone
    network = open_network(backbone, extractor.spec, classifier.runtime)
    name, tail = network.classifier, network.classifier_tail
    weight_KD = np.ascontiguousarray(member.layer.weight_DK.T, np.float32)
    layer = {f"{name}.weight": weight_KD.reshape(*weight_KD.shape, *tail), f"{name}.bias": member.layer.bias_K}
    if backbone.weights is None:
        raise DamagedRun(f"{backbone.name}: has no weights to save.")
    data = _with_layer(backbone.weights, name, layer)
    write_bytes(folder / "model.safetensors", data)
    note = json.dumps({"weights": backbone.content or backbone.sha256})
    write_cache(_origin_note(sha256_bytes(data)), note.encode())
    write_json(folder / "config.json", timm_config(classifier.classes, extractor, name))


def timm_config(classes: Sequence[str], extractor: FeatureExtractor, classifier: str) -> dict[str, Any]:
    """What timm's ``local-dir:`` reads: architecture, class names, and the input spec."""
    spec, backbone = extractor.spec, extractor.backbone
    return {
        "architecture": backbone.architecture,
        "num_classes": len(classes),
        "model_args": dict(backbone.model_args),
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
    """The bytes of a safetensors file with the backbone's tensors, untouched, and a new last layer (float32)."""
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
    """What a safetensors file holds of each of the tensors. Its header is parsed once: with 300 tensors that shows."""
    with open(file, "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(size))
        for name in names:
            start, end = header[name]["data_offsets"]
            f.seek(8 + size + start)
            yield f.read(end - start)


def _read_tensor(file: Path, name: str) -> np.ndarray:
    """A float32 tensor of a run's weights file."""
    dtype, shape = read_header(file)[name]
    if dtype != "F32":
        raise ValueError(f"{name} is {dtype}, expected F32")
    (data,) = _tensor_bytes(file, [name])
    return np.frombuffer(data, np.float32).reshape(shape)
