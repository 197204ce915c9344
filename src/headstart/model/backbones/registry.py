"""Backbones: from a name to weights on this machine. `headstart.model.backbones.build` makes networks of them.

Weights are looked for in this order: a file that was given (`WeightsSource`); a folder (given, or the environment's
``HEADSTART_WEIGHTS``) with ``NAME.safetensors`` and ``NAME.json``; the hub's cache; the hub itself. Whichever has
them, the preprocessing they were trained with comes along, and only safetensors are taken. Where no name is given, those
on this machine are taken; where there are none, `STARTER` is downloaded; where that cannot be, the small one that comes
with the package is the last resort (`headstart.model.backbones.builtin`).

Costs: finding a backbone in a folder or in the hub's cache takes milliseconds, plus one SHA-256 of the file, and
imports neither timm nor torch. Bare or unknown names import timm (3 to 7 s); building does anyway.
When not to use it: a trained run folder is loaded by `headstart.model.inference.classifier`.

>>> find_backbone("resnet-50", WeightsSource(offline=True))
Traceback (most recent call last):
    ...
headstart.errors.UnknownBackbone: 'resnet-50' is not a known backbone.
  Did you mean 'resnet50'? `headstart backbones` lists those with weights here.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headstart.errors import BackboneError, BadWeights, MissingWeights, UnknownBackbone, WriteError
from headstart.images.preprocess import Preprocess
from headstart.io.progress import log
from headstart.model.backbones import builtin
from headstart.model.backbones.architectures import (
    RELATIVES,
    args_at,
    default_name,
    plain_name,
    timm_cfg,
    timm_spec,
)
from headstart.model.backbones.config import BackboneConfig, check_args, read_config
from headstart.model.backbones.hub import GIVE_HINT, LIST_HINT, cache_entries, cached, fetch, may_ask
from headstart.model.backbones.offline_kit import check_bundled, weights_in
from headstart.model.backbones.weights import SafetensorsHeader, parameter_count, read_header, weights_sha256
from headstart.model.backbones.weights_source import WeightsSource

STARTER = "mobilenetv2_100.ra_in1k"
"""What is downloaded where no backbone is named and no weights are here: 14 MB, Apache-2.0, quick on a CPU. Most figures
of this project are of this network, with other weights from the same training set."""


@dataclass(frozen=True)
class Backbone:
    """A pretrained network that was found: where its weights are, and what they expect."""

    name: str  # 'mobilenetv2_100.tf_in1k': timm's architecture, and the tag of the weights
    architecture: str  # 'mobilenetv2_100'
    model_args: tuple[tuple[str, Any], ...]  # further arguments for timm.create_model, e.g. (('pad_type', 'same'),)
    source: str  # file, folder, hub, embedded, random, or run (a run folder's own, whose manifest has been checked)
    weights: Path | None  # the safetensors file; None only for source 'random'
    sha256: str  # of the weights file; '' for source 'random'
    preprocess: Preprocess  # the input spec that travels with the weights
    licence: str
    feature_dim: int | None  # None when it is not known without building the network
    origin: str
    content: str = ""  # source 'run': what graphs and features are kept under, see `classifier.backbone_content`


@dataclass(frozen=True)
class BackboneRow:
    """One line of `headstart backbones`."""

    name: str
    here: str  # where on this machine the weights are: 'folder', 'hub' (its cache), 'embedded', or '' if they are not
    image_size: int  # side of the square input in pixels
    parameters: int | None  # trained numbers in the weights file; None when it is not here
    feature_dim: int | None  # None when it is not known without building the network
    licence: str
    measured: dict[str, Any] = field(default_factory=dict)  # of the embedded one: see `builtin.measured`


# ------------------------------------------------------------------------------------------------------------ finding
def to_choose_from(weights: WeightsSource = WeightsSource()) -> list[Backbone]:
    """What to choose from where no backbone is named: the one in the file, else all that are on this machine, and if there
    are none, one more.

    That is `STARTER`, downloaded; without an answer from the hub, or where it may not be asked, the embedded one, with
    a note that says so. Raises `MissingWeights` if the folder that was named does not exist.
    """
    found = at_hand(weights)
    if found:
        return found
    where = f"in {weights.folder} or the hub's cache" if weights.folder is not None else "on this machine"
    if may_ask(weights.offline):
        log.info("No weights are %s: downloading %s (14 MB, once).", where, STARTER)
        try:
            return [find_backbone(STARTER, weights)]
        except (MissingWeights, WriteError) as error:
            log.warning("%s", error.message)
    log.warning(
        "No weights are %s: a small, weak backbone that comes with headstart is used. A linear head on it has accuracy "
        "%s. Stronger ones: with a network, and without --offline, %s is downloaded; for a machine that has none, see "
        "`headstart bundle`.",
        where,
        builtin.accuracies(),
        STARTER,
    )
    return [last_resort()]


def find_backbone(name: str, weights: WeightsSource = WeightsSource()) -> Backbone:
    """The backbone of that name, with weights on this machine; they are downloaded from the hub if need be.

    Args:
        name: timm's ``architecture.tag``; a bare ``architecture`` takes the folder's one entry of it, or timm's default
            tag; names in `POPULAR_NAMES` do as well. May be empty if there is a weights file with a JSON beside it.
        weights: Its ``file`` is a safetensors file: ``FILE.json`` beside it (``config.json`` beside a
            ``model.safetensors``) says the architecture and preprocessing; without it timm's own entry for `name` does.
            Its ``folder`` holds ``NAME.safetensors`` + ``NAME.json``; by default it is ``HEADSTART_WEIGHTS``.
            ``HF_HUB_OFFLINE`` does the same as its ``offline``.

    Raises: `UnknownBackbone`, `MissingWeights`, `BadWeights`; `WriteError` if the hub's cache cannot be written.
    """
    if weights.file is not None:
        return _from_file(weights.file, plain_name(name))
    found = _by_name(plain_name(name), _weights_folder(weights), weights.offline)
    log.info("%s: weights from %s (%s)", found.name, found.source, found.weights)
    return found


def sha256_here(name: str, weights: WeightsSource = WeightsSource()) -> str:
    """Of the weights that `find_backbone` takes without a file or a download; '' if there are none that can be used."""
    try:
        return _by_name(plain_name(name), _weights_folder(weights), offline=True).sha256
    except BackboneError:
        return ""


def _by_name(name: str, folder: Path | None, offline: bool) -> Backbone:
    found = (folder and _in_folder(folder, name)) or _in_hub_cache(name)
    return found or (last_resort() if name == builtin.NAME else _on_hub(name, folder, offline))


def last_resort() -> Backbone:
    """The backbone that comes with the package, for where there is no other. Raises `BadWeights` if it is damaged."""
    found = _found(builtin.NAME, read_config(builtin.SPEC), "embedded", builtin.WEIGHTS)
    return replace(found, feature_dim=builtin.FEATURES)


def without_weights(name: str, *, image_size: int = 0, **model_args: Any) -> Backbone:
    """A network with random weights, for training from scratch: source 'random', no file. Imports timm.

    Args:
        name: As for `find_backbone`, or one of `headstart.model.backbones.networks`, such as ``headstart_cnn``.
        image_size: Side of its images in pixels; 0 for its own.
        model_args: Further arguments of the network, such as ``filters=(16, 32)`` for ``headstart_cnn``.

    Raises `UnknownBackbone`; `BadWeights` for an argument that is not plain.
    """
    name = plain_name(name)
    cfg = timm_cfg(name.partition(".")[0])
    check_args(model_args, name)
    spec = timm_spec(cfg)
    preprocess = replace(spec.preprocess, image_size=image_size or spec.preprocess.image_size)
    args = args_at(spec.architecture, model_args, image_size)
    return Backbone(name, spec.architecture, args, "random", None, "", preprocess, "none", None, "random weights")


def tuned(backbone: Backbone, weights: Path, *, image_size: int = 0, hidden: Sequence[int] = ()) -> Backbone:
    """What training made of a backbone: all of the network is in the safetensors file `weights`, from here on its own.

    Args:
        backbone: What training started from.
        weights: The state dict of the whole network, its last layer included or not.
        image_size: Side of the images that it was trained on; networks with a fixed input remember it.
        hidden: Sizes of its dense layers, if it was made by `headstart.model.backbones.networks.with_top`.

    Raises `MissingWeights`, `BadWeights`; `BackboneError` for hidden layers around one of our own networks.
    """
    header = read_header(weights)
    architecture, args = backbone.architecture, args_at(backbone.architecture, backbone.model_args, image_size)
    if hidden and architecture.startswith("headstart_"):
        raise BackboneError(f"{backbone.name}: {architecture} has hidden layers of its own, given as an argument.")
    if hidden:
        inside = {**dict(args), "architecture": architecture, "hidden": tuple(hidden)}
        architecture, args = "headstart_top", tuple(sorted(inside.items()))
    return replace(
        backbone,
        architecture=architecture,
        model_args=args,
        source="file",
        weights=weights,
        sha256=weights_sha256(weights),
        feature_dim=_feature_dim(header),
        origin=f"trained here from {backbone.name} ({backbone.origin})",
        content="",
    )


def _found(name: str, spec: BackboneConfig, source: str, weights: Path, origin: str = "") -> Backbone:
    header = read_header(weights)  # before anything else reads the file
    return Backbone(
        name=name or spec.architecture,
        architecture=spec.architecture,
        model_args=spec.model_args,
        source=source,
        weights=weights,
        sha256=weights_sha256(weights),
        preprocess=spec.preprocess,
        licence=spec.licence,
        feature_dim=_feature_dim(header),
        origin=origin or spec.origin or str(weights),
    )


def _feature_dim(header: SafetensorsHeader) -> int | None:
    """Columns of the classifier, if the file has one: it is what the features go into."""
    for module in ("classifier", "fc", "head.fc", "head", "last_linear"):
        shape = header.get(f"{module}.weight", ("", ()))[1]
        if len(shape) in (2, 4) and f"{module}.bias" in header:
            return shape[1]
    return None


def _from_file(path: Path, name: str) -> Backbone:
    read_header(path)  # a pickle is refused as such, whatever else is wrong
    check_bundled(path)
    beside = [path.with_suffix(".json"), path.with_name(path.name + ".json")]
    if path.name == "model.safetensors":
        beside.append(path.with_name("config.json"))
    spec_file = next((file for file in beside if file.is_file()), None)
    if spec_file is None:
        if not name:
            raise MissingWeights(
                f"{path}: has no {beside[0].name} beside it, so its architecture is not known.",
                hint="Say which network it is with --backbone NAME, or write that JSON.",
            )
        return _found(name, timm_spec(timm_cfg(name)), "file", path)
    spec = read_config(spec_file)
    if name and name.partition(".")[0] != spec.architecture:
        raise BadWeights(
            f"{spec_file}: architecture is {spec.architecture!r}, but the backbone {name!r} was asked for.",
            hint=f"Ask for --backbone {spec.architecture}, or give another --weights file.",
        )
    return _found(name if "." in name or path.stem == "model" else path.stem, spec, "file", path)


# ------------------------------------------------------------------------------------------------------------ folders
def _weights_folder(weights: WeightsSource) -> Path | None:
    given = "--weights-dir" if weights.folder is not None else "HEADSTART_WEIGHTS"
    text = os.environ.get("HEADSTART_WEIGHTS") if weights.folder is None else weights.folder
    if not text:
        return None
    folder = weights_in(Path(text))
    if not folder.is_dir():
        raise MissingWeights(
            f"{folder}: no such folder, and {given} names it.",
            hint="It should hold NAME.safetensors and NAME.json for each backbone.",
        )
    return folder


def _names_in(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.iterdir() if file.suffix == ".safetensors")


def _folder_entry(folder: Path, name: str) -> Backbone:
    check_bundled(folder / f"{name}.safetensors")
    spec_file = folder / f"{name}.json"
    spec = read_config(spec_file) if spec_file.is_file() else timm_spec(timm_cfg(name))
    return _found(name, spec, "folder", folder / f"{name}.safetensors")


def _in_folder(folder: Path, name: str) -> Backbone | None:
    names = _names_in(folder)  # compared with, not joined to: a name never leads out of the folder
    if name in names:
        return _folder_entry(folder, name)
    if "." in name:
        return None
    fitting = [entry for entry in names if (folder / f"{entry}.json").is_file() and _is_of(folder, entry, name)]
    if len(fitting) > 1:
        default = default_name(name)
        if default not in fitting:
            raise UnknownBackbone(
                f"{name!r} could be any of {', '.join(fitting)} in {folder}.", hint="Give one of these names in full."
            )
        fitting = [default]
    return _folder_entry(folder, fitting[0]) if fitting else None


def _is_of(folder: Path, entry: str, architecture: str) -> bool:
    """Whether the entry's JSON names that architecture. A damaged JSON of another name does not stand in the way."""
    if entry.partition(".")[0] == architecture:
        return read_config(folder / f"{entry}.json").architecture == architecture
    try:
        return read_config(folder / f"{entry}.json").architecture == architecture
    except BadWeights as error:
        log.warning("%s", error)
        return False


# ---------------------------------------------------------------------------------------------------------------- hub
def _in_hub_cache(name: str) -> Backbone | None:
    """A full name whose two files the cache has: found without timm, and without asking the hub anything."""
    if not re.fullmatch(r"\w+\.[\w.-]*\w", name, re.ASCII):
        return None
    repo = f"timm/{name}"
    weights, config = cached(repo, "model.safetensors"), cached(repo, "config.json")
    return _hub_entry(name, repo, weights, config) if weights and config else None


def _hub_entry(
    name: str, repo: str, weights: Path, config: Path | None, spec: BackboneConfig | None = None
) -> Backbone:
    """The backbone in those two files. timm's own entry, if given, decides on the architecture."""
    architecture = name.partition(".")[0]
    own = read_config(config) if config else None
    if own is not None and own.architecture == architecture:  # if not, it was renamed since: its arguments do not apply
        spec = own
    spec = spec or timm_spec(timm_cfg(name))
    return _found(name, spec, "hub", weights, origin=f"hub: {repo} at {weights.parent.name[:12]}")


def _on_hub(name: str, folder: Path | None, offline: bool) -> Backbone:
    cfg = timm_cfg(name, _names_in(folder) if folder else ())
    name = f"{cfg.architecture}.{cfg.tag}" if cfg.tag else cfg.architecture
    if not cfg.hf_hub_id:
        raise MissingWeights(
            f"{name}: the hub has no safetensors of it" + (f", only a pickle ({cfg.url})." if cfg.url else "."),
            hint=f"{GIVE_HINT}, or choose another backbone{_relative(cfg.architecture)}. {LIST_HINT}",
        )
    repo, _, revision = cfg.hf_hub_id.partition("@")
    wanted = cfg.hf_hub_filename or ""
    wanted = wanted if wanted.endswith(".safetensors") else "model.safetensors"
    config = fetch(repo, "config.json", revision or "main", name, offline)
    commit = config.parent.name if config else revision or "main"  # both files from one commit
    weights = fetch(repo, wanted, commit, name, offline)
    if weights is None:
        raise MissingWeights(
            f"{name}: {repo} on the hub has no {wanted}; its other formats can be pickles, which are not loaded.",
            hint=f"{GIVE_HINT}, or choose another backbone. {LIST_HINT}",
        )
    return _hub_entry(name, repo, weights, config, timm_spec(cfg))


def _relative(architecture: str) -> str:
    return f", such as {RELATIVES[architecture]}" if architecture in RELATIVES else ""


# ------------------------------------------------------------------------------------------------------------ listing
def at_hand(weights: WeightsSource = WeightsSource()) -> list[Backbone]:
    """All backbones whose weights are on this machine, those of the folder first; of a weights file, the one in it. Opens no
    socket, imports no timm.

    Without the one that comes with the package: that is `last_resort`. A damaged entry is logged and left out. Raises
    `MissingWeights` if the folder that was named does not exist.
    """
    if weights.file is not None:
        return [_from_file(weights.file, "")]
    found = {}
    for name, source, spec, file in _entries(weights):
        origin = f"hub: timm/{name} at {file.parent.name[:12]}" if source == "hub" else ""
        found[name] = _found(name, spec, source, file, origin)
    return list(found.values())


def backbones(
    pattern: str = "", *, weights: WeightsSource = WeightsSource(), only_here: bool = False
) -> list[BackboneRow]:
    """Backbones by name: those with weights here first, then all that timm has pretrained weights for.

    Args:
        pattern: Part of a name (``resnet``), or a wildcard pattern (``resnet50.*``).
        weights: As for `find_backbone`; a file in it is not listed.
        only_here: Only those with weights on this machine: takes milliseconds, where timm's list takes seconds.
    """
    pattern = pattern if any(sign in pattern for sign in "*?[") else f"*{plain_name(pattern)}*"
    rows = {entry[0]: _row_here(*entry) for entry in _entries(weights)}
    own = (builtin.NAME, "embedded", read_config(builtin.SPEC), builtin.WEIGHTS)
    row = replace(_row_here(*own), feature_dim=builtin.FEATURES, measured=builtin.measured())
    rows.setdefault(builtin.NAME, row)
    if not only_here:
        import timm

        for name in timm.list_pretrained():
            if name not in rows:
                cfg = timm.get_pretrained_cfg(name)
                rows[name] = BackboneRow(name, "", max(cfg.input_size[1:]), None, None, cfg.license or "unknown")
    return [row for name, row in rows.items() if fnmatch.fnmatchcase(name, pattern)]


def _row_here(name: str, source: str, spec: BackboneConfig, weights: Path) -> BackboneRow:
    header = read_header(weights)
    size = spec.preprocess.image_size
    return BackboneRow(name, source, size, parameter_count(header), _feature_dim(header), spec.licence)


def _entries(source: WeightsSource) -> Iterator[tuple[str, str, BackboneConfig, Path]]:
    """(name, source, spec, weights) of all that is on this machine, each name once, the folder's before the hub's."""
    folder = _weights_folder(source)
    names = _names_in(folder) if folder else []
    places = [(name, "folder", folder / f"{name}.json", folder / f"{name}.safetensors") for name in names if folder]
    hub = [(name, "hub", config, weights) for name, config, weights in cache_entries()]
    seen = set()
    for name, kind, config, weights in [*places, *hub]:
        if name in seen:
            continue
        try:
            spec = read_config(config)  # without one, what the weights expect is not known; `find_backbone` asks timm
            read_header(weights)
            check_bundled(weights)
        except BackboneError as error:
            log.warning("left out: %s", error)
            continue
        seen.add(name)
        yield name, kind, spec, weights
