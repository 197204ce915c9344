"""Architectures: timm's entry for a network's name, including our own networks, and the arguments to build it with.

Costs: importing timm, 3 to 7 s, at the first call of any of these but `plain_name`.
When not to use it: for weights on this machine, which `headstart.model.backbones.registry` finds without timm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from headstart.errors import UnknownBackbone, near_names
from headstart.io.extras import require
from headstart.model.backbones.config import BackboneConfig, spec_of
from headstart.model.backbones.hub import LIST_HINT

POPULAR_NAMES = {
    "Xception": "legacy_xception",  # as published; timm's xception41 is DeepLab's "aligned" one
    "VGG16": "vgg16",
    "VGG19": "vgg19",
    "InceptionResNetV2": "inception_resnet_v2",
    "MobileNetV2": "mobilenetv2_100",
    "NASNetLarge": "nasnetalarge",
    "ResNet50V2": "resnetv2_50",
    "ResNet101V2": "resnetv2_101",
    "ResNet152V2": "resnetv2_152",
    "InceptionV3": "inception_v3",
    "DenseNet121": "densenet121",
    "DenseNet169": "densenet169",
    "DenseNet201": "densenet201",
    "ResNet34": "resnet34",
}
"""Names from elsewhere (Keras applications, torchvision) -> timm's. Case does not matter."""

RELATIVES = {"legacy_xception": "xception41", "resnetv2_152": "resnetv2_101"}
"""Those for which the hub has no safetensors -> the nearest architecture for which it has."""


def plain_name(name: str) -> str:
    """Return timm's name, without prefixes, for a name from elsewhere."""
    name = name.strip().removeprefix("hf-hub:").removeprefix("timm/")
    popular = {known.casefold(): timm_name for known, timm_name in POPULAR_NAMES.items()}
    return popular.get(name.casefold(), name)


def timm_and_ours(name: str) -> Any:
    """Return timm, with our own networks registered, for the network `name`. Raises `MissingExtra`."""
    require(name, "timm", "torch")
    import timm

    import headstart.model.backbones.networks  # noqa: F401  (registers them)

    return timm


def timm_cfg(name: str, others: Sequence[str] = ()) -> Any:
    """Return timm's PretrainedCfg for a name; for a bare architecture, its default tag's.

    Raises `UnknownBackbone`, with the nearest name in timm or among `others`, and `MissingExtra`.
    """
    timm = timm_and_ours(name)
    from timm.models import get_deprecated_models

    if name.endswith(".safetensors"):
        raise UnknownBackbone(f"{name!r} is a file, not a backbone's name.", hint=f"Give it with --weights {name}.")
    name = get_deprecated_models().get(name) or name
    architecture, _, tag = name.partition(".")
    if timm.is_model(architecture):
        cfg = timm.get_pretrained_cfg(architecture)
        known = list(timm.list_models(f"{architecture}.*", include_tags=True))
        if cfg is not None and (not tag or name in known):
            return timm.get_pretrained_cfg(name)
    else:
        known = timm.list_models(include_tags=bool(tag))
    if "," in name:
        joined = "+".join(part.strip() for part in name.split(","))
        raise UnknownBackbone(f"{name!r} is not a known backbone.", hint=f"To combine backbones, write {joined!r}.")
    near = near_names(name.lower(), [*known, *others, *map(str.lower, POPULAR_NAMES)], n=1)
    if not near and timm.is_model(architecture):
        near = f"timm has {', '.join(known[:8])}."
    raise UnknownBackbone(f"{name!r} is not a known backbone.", hint=f"{near} {LIST_HINT}".strip())


def timm_spec(cfg: Any) -> BackboneConfig:
    """Return the config of weights with that PretrainedCfg."""
    plain = {key: value for key, value in asdict(cfg).items() if value is not None}
    config = {"architecture": cfg.architecture, "pretrained_cfg": plain}
    return spec_of(config, f"timm's entry for {cfg.architecture}")


def default_name(architecture: str) -> str:
    """Return the name with timm's default tag: ``resnet34.a1_in1k``."""
    cfg = timm_cfg(architecture)
    return f"{architecture}.{cfg.tag}"


def args_at(
    architecture: str, model_args: Mapping[str, Any] | Iterable[tuple[str, Any]], image_size: int
) -> tuple[tuple[str, Any], ...]:
    """Return a network's arguments for images of that size, which a fixed input needs; 0 for its own size."""
    timm = timm_and_ours(architecture)
    from headstart.model.backbones.networks import input_architecture

    args = dict(model_args)
    cfg = timm.get_pretrained_cfg(input_architecture(architecture, args))
    if (
        image_size
        and cfg is not None
        and cfg.fixed_input_size
        and image_size != args.get("img_size", cfg.input_size[1])
    ):
        args["img_size"] = image_size
    return tuple(sorted(args.items()))
