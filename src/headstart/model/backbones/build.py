"""Building a backbone's torch network and loading its weights, every tensor of them.

Costs: importing timm takes 3 to 7 s; the network takes up to a few seconds, and the memory of its weights. When not to
use it: for features (`headstart.model.inference.features` embeds with the fastest engine), and for a trained run
folder, which `headstart.model.inference.classifier` loads.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import BackboneError, BadWeights, UnknownBackbone, near_names
from headstart.model.backbones.architectures import args_at, timm_and_ours
from headstart.model.backbones.config import check_args
from headstart.model.backbones.hub import LIST_HINT
from headstart.model.backbones.weights import check_fits, is_classifier, load_tensors, misfit, wrong_architecture

if TYPE_CHECKING:
    import torch

    from headstart.model.backbones.registry import Backbone


def build(
    backbone: Backbone, num_classes: int = 0, *, image_size: int | None = None, keep_classifier: bool = False
) -> torch.nn.Module:
    """Build the network with its weights, in evaluation mode, on the CPU. Opens no socket.

    Args:
        backbone: Result of `find_backbone`.
        num_classes: 0 for a network that ends in features (N, D); otherwise a new classifier ends it.
        image_size: Side of the input in pixels, if it differs from the weights' own; for networks with a fixed input
            (vision transformers), timm resamples the position embedding.
        keep_classifier: Load the classifier from the file too, instead of making a new one.

    Raises `BadWeights` if the weights do not match the network: no tensor may be missing or left over. `BackboneError` if they
    do so at their own image size only.
    """
    model = _empty_network(backbone, num_classes, image_size)
    if backbone.weights is not None:
        classifier = () if keep_classifier else _classifier_names(model)
        try:
            _load(model, backbone, backbone.weights, classifier)
        except BadWeights as error:
            own = backbone.preprocess.image_size
            if image_size in (None, own) or not _fits_at(backbone, own):
                raise
            raise BackboneError(
                f"{backbone.name}: cannot run at {image_size} px: it takes images of {own} px only.",
                hint=f"Give its own size: --image-size {own}.",
            ) from error
    return model.eval()


def _fits_at(backbone: Backbone, image_size: int) -> bool:
    try:
        build(backbone, image_size=image_size)
    except BadWeights:
        return False
    return True


def _empty_network(backbone: Backbone, num_classes: int, image_size: int | None) -> torch.nn.Module:
    timm = timm_and_ours(backbone.name)
    name = backbone.architecture
    if not timm.is_model(name):
        hint = near_names(name, timm.list_models(), n=1) or LIST_HINT
        raise UnknownBackbone(f"{backbone.name}: timm has no architecture {name!r}.", hint=hint)
    check_args(dict(backbone.model_args), backbone.name)
    args = dict(args_at(name, backbone.model_args, image_size or 0))
    try:
        model: torch.nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, **args)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise BadWeights(
            f"{backbone.name}: timm cannot build {name} with {args}: {error}.",
            hint="Check model_args in the JSON next to the weights, and the image size.",
        ) from error
    return model


def _classifier_names(model: torch.nn.Module) -> tuple[str, ...]:
    cfg: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    names = cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _load(model: torch.nn.Module, backbone: Backbone, weights: Path, classifier: tuple[str, ...]) -> None:
    """Load all of the file's tensors into the network, strictly."""
    own = model.state_dict()
    shapes = {key: tuple(value.shape) for key, value in own.items()}
    try:
        check_fits(weights, shapes, classifier=classifier, name=backbone.architecture)
        tensors = load_tensors(weights, sha256=backbone.expected_sha256)
    except BadWeights as error:
        tensors = _as_timm_reads(model, backbone, weights, classifier, error)
    tensors = {key: value for key, value in tensors.items() if not is_classifier(key, classifier)}
    kept = {key: value for key, value in own.items() if key not in tensors}  # new classifier, counters
    model.load_state_dict({**kept, **tensors}, strict=True)


def _as_timm_reads(
    model: torch.nn.Module, backbone: Backbone, weights: Path, classifier: tuple[str, ...], misfitting: BadWeights
) -> dict[str, torch.Tensor]:
    """Rename or resample tensors with timm's own filter for the architecture; raises `misfitting` if that fails too.

    Many families store weights as their authors published them (DINOv2, CLIP), or resample a position embedding.
    """
    import timm

    tensors = load_tensors(weights, sha256=backbone.expected_sha256)
    module = sys.modules[timm.models.model_entrypoint(backbone.architecture).__module__]
    as_timm = getattr(module, "checkpoint_filter_fn", None) or getattr(module, "_checkpoint_filter_fn", None)
    if as_timm is None:
        raise misfitting
    try:
        tensors = as_timm(dict(tensors), model)
    except Exception as error:  # the filter may get tensors that it was not written for
        raise misfitting from error
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    problem = misfit(shapes, {key: tuple(value.shape) for key, value in model.state_dict().items()}, classifier)
    if problem:
        raise wrong_architecture(weights, backbone.architecture, problem) from misfitting
    return tensors
