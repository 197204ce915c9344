"""The JSON next to a weights file: which network it is, and what images it was trained on.

Its keys are those of timm's ``config.json``, so a folder saved by timm or downloaded from the hub works unchanged. Its
contents are untrusted: each value is checked, errors name the file and the key, and arguments that would make timm
fetch or open another file are rejected.

Costs: a millisecond; imports neither timm nor torch.
When not to use it: `headstart.model.backbones.registry.find_backbone` reads it along with the weights.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from headstart.errors import BadWeights
from headstart.images.preprocess import INTERPOLATIONS, Preprocess
from headstart.model.backbones.weights import short_repr

STAGED = "headstart_stages"
"""Our network around a backbone (`headstart.model.backbones.networks`). Its file has the backbone's own tensors."""

MAX_SPEC_BYTES = 16 << 20
"""Longest accepted JSON. Those with the names of 21,000 classes have about 1 MB."""

_SPEC_HINT = (
    "The JSON needs architecture and pretrained_cfg{input_size, mean, std}; it may have model_args and pretrained_cfg"
    "{interpolation, crop_pct, crop_mode, license, origin}, as timm writes them."
)


@dataclass(frozen=True)
class BackboneConfig:
    """Contents of the JSON next to a weights file: the network, and the images it was trained on."""

    architecture: str
    model_args: tuple[tuple[str, Any], ...]
    preprocess: Preprocess
    licence: str
    origin: str


# Arguments of timm.create_model that name files, addresses or checkpoints: only this module loads weights.
_NOT_FROM_FILES = re.compile(
    r"pretrained|checkpoint|cache_dir|_path$|_file$|^url$|^(features_only|out_indices|scriptable)$"
)
_RESIZE_OF_CROP_MODE: dict[str, Literal["crop", "squash", "pad"]] = {
    "center": "crop",
    "squash": "squash",
    "border": "pad",
}


def read_config(path: Path) -> BackboneConfig:
    """Read the JSON next to a weights file: timm's config keys ``architecture, model_args, pretrained_cfg{...}``.

    Raises `BadWeights` naming the file and the key.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_SPEC_BYTES:
            raise ValueError(f"more than {MAX_SPEC_BYTES:,} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadWeights(f"{path}: cannot be read: {error.strerror or error}.", hint=_SPEC_HINT) from error
    except (ValueError, RecursionError) as error:
        raise BadWeights(f"{path}: is not JSON: {error}.", hint=_SPEC_HINT) from None
    if not isinstance(config, dict):
        raise BadWeights(f"{path}: is {short_repr(config)}, expected an object.", hint=_SPEC_HINT)
    return spec_of(config, path)


def spec_of(config: Mapping[str, Any], where: Path | str) -> BackboneConfig:
    """Check a timm config (already parsed) key by key. `where` names it in errors. Raises `BadWeights`."""
    architecture = config.get("architecture")
    # a plain name: timm would fetch other weights for 'hf-hub:...' and 'local-dir:...'
    if not isinstance(architecture, str) or not re.fullmatch(r"\w+", architecture, re.ASCII):
        raise _bad(where, "architecture", architecture, "the plain name of a timm model")
    cfg = config.get("pretrained_cfg")
    if not isinstance(cfg, Mapping):
        raise _bad(where, "pretrained_cfg", cfg, "an object")
    args = config.get("model_args") or {}
    if not isinstance(args, Mapping):
        raise _bad(where, "model_args", args, "an object")
    if architecture == STAGED and "architecture" in args:
        inside = {name: value for name, value in args.items() if name not in ("architecture", "kernel")}
        return spec_of({**config, "architecture": args["architecture"], "model_args": inside}, where)
    check_args(args, where)
    kept = tuple((key, _frozen(value)) for key, value in sorted(args.items()) if key not in ("num_classes", "in_chans"))
    licence = cfg.get("license") or config.get("license") or "unknown"
    origin = cfg.get("origin") or cfg.get("origin_url") or ""
    return BackboneConfig(
        architecture=architecture,
        model_args=kept,
        preprocess=preprocess_of(cfg, where),
        licence=str(licence),
        origin=str(origin),
    )


def config_of(spec: BackboneConfig) -> dict[str, Any]:
    """Invert `spec_of`: return the JSON to write next to a weights file."""
    p = spec.preprocess
    mode = next(mode for mode, resize in _RESIZE_OF_CROP_MODE.items() if resize == p.resize)
    cfg: dict[str, Any] = {"input_size": [3, p.image_size, p.image_size], "mean": p.mean, "std": p.std}
    cfg |= {"interpolation": p.interpolation, "crop_pct": p.crop_pct, "crop_mode": mode}
    cfg |= {"license": spec.licence, "origin": spec.origin}
    return {"architecture": spec.architecture, "model_args": dict(spec.model_args), "pretrained_cfg": cfg}


def check_args(args: Mapping[str, Any], where: Path | str) -> None:
    """Raise `BadWeights` for arguments of a network that are not plain values, or that name files or addresses."""
    for key, value in args.items():
        if _NOT_FROM_FILES.search(key) or not _is_plain(value):
            raise _bad(
                where, f"model_args.{key}", value, "an argument of the network: a number, text, or a list of these"
            )


def preprocess_of(cfg: Mapping[str, Any], where: Path | str) -> Preprocess:
    """Return the input that weights expect, from timm's ``pretrained_cfg``. Raises `BadWeights`.

    ``crop_mode`` center, squash, border are `crop`, `squash`, `pad` here; a ``crop_pct`` above 1 (three of timm's volo
    models) becomes 1.
    """
    size = cfg.get("input_size")
    square = isinstance(size, Sequence) and len(size) == 3 and all(type(n) is int for n in size) and size[1] == size[2]
    if not square or size[0] != 3 or not 8 <= size[1] <= 4096:  # type: ignore[index]
        raise _bad(where, "pretrained_cfg.input_size", size, "[3, n, n] with n pixels, 8 to 4096")
    interpolation = cfg.get("interpolation", "bicubic")
    if not isinstance(interpolation, str) or interpolation not in INTERPOLATIONS:
        raise _bad(where, "pretrained_cfg.interpolation", interpolation, "one of " + ", ".join(INTERPOLATIONS))
    crop_pct = cfg.get("crop_pct", 0.875)
    if not _is_number(crop_pct) or not 0 < crop_pct <= 2:
        raise _bad(where, "pretrained_cfg.crop_pct", crop_pct, "a number above 0, at most 1")
    crop_mode = cfg.get("crop_mode") or "center"
    if not isinstance(crop_mode, str) or crop_mode not in _RESIZE_OF_CROP_MODE:
        raise _bad(where, "pretrained_cfg.crop_mode", crop_mode, "one of " + ", ".join(_RESIZE_OF_CROP_MODE))
    return Preprocess(
        image_size=size[1],  # type: ignore[index]
        resize=_RESIZE_OF_CROP_MODE[crop_mode],
        crop_pct=min(float(crop_pct), 1.0),
        interpolation=interpolation,
        mean=_three(cfg, "mean", where, low=-1e6),
        std=_three(cfg, "std", where, low=1e-6),
    )


def _three(cfg: Mapping[str, Any], key: str, where: Path | str, low: float) -> tuple[float, float, float]:
    value = cfg.get(key)
    if not isinstance(value, Sequence) or len(value) != 3 or not all(_is_number(x) and low <= x <= 1e6 for x in value):
        expected = "three numbers above 0" if low > 0 else "three numbers"
        raise _bad(where, f"pretrained_cfg.{key}", value, f"{expected}, one per colour channel")
    return float(value[0]), float(value[1]), float(value[2])


def _bad(where: Path | str, key: str, value: object, expected: str) -> BadWeights:
    given = "is missing" if value is None else f"is {short_repr(value)}"
    return BadWeights(f"{where}: {key} {given}, expected {expected}.", hint=_SPEC_HINT)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value
