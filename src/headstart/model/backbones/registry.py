"""Find backbones' weights on this machine by name. `headstart.model.backbones.build` builds their networks.

The search order is: the given file (`WeightsSource`); a folder (given, or ``HEADSTART_WEIGHTS`` in the environment)
with ``NAME.safetensors`` and ``NAME.json``; the hub's cache; the hub itself. All of them provide the preprocessing that
the weights were trained with, and only safetensors are accepted. Without a name, the candidates are all weights on this
machine; if there are none, `STARTER` is downloaded (for a task with a budget, a choice from the pool:
`headstart.model.backbones.pool_downloads`); if that fails, the small backbone in the package is the last resort
(`headstart.model.backbones.builtin`).

Costs: finding a backbone in a folder or in the hub's cache takes milliseconds, plus one SHA-256 of the file, and
imports neither timm nor torch. Bare or unknown names import timm (3 to 7 s), which building does anyway. When not to
use it: a trained run folder is loaded by `headstart.model.inference.classifier`.

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
from headstart.io.extras import require
from headstart.io.progress import log
from headstart.io.text_table import few
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
from headstart.model.backbones.hub import GIVE_HINT, LIST_HINT, cache_entries, cached, fetch, may_ask, may_hold
from headstart.model.backbones.offline_kit import check_bundled, weights_in
from headstart.model.backbones.pool import is_commercial
from headstart.model.backbones.weights import SafetensorsHeader, parameter_count, read_header, weights_sha256
from headstart.model.backbones.weights_source import WeightsSource

STARTER = "mobilenetv2_100.ra_in1k"
"""The download for a single backbone, if none is named and no weights are on this machine: 14 MB, Apache-2.0, fast on a
CPU. Most figures of this project are for this network, with other weights from the same training set."""

STARTER_MB = 15
"""Least `max_download` that allows it."""


TRAINED_HERE = "trained here from "
"""Beginning of the origin of weights that headstart has trained."""
RANDOM = "random weights"
"""Origin of weights that have not been trained."""


@dataclass(frozen=True)
class Backbone:
    """A pretrained network: where its weights are, and the input they expect."""

    name: str  # 'mobilenetv2_100.tf_in1k': timm's architecture, and the tag of the weights
    architecture: str  # 'mobilenetv2_100'
    model_args: tuple[tuple[str, Any], ...]  # further arguments for timm.create_model, e.g. (('pad_type', 'same'),)
    source: str  # file, folder, hub, embedded, random, or run (a run folder's own, whose manifest has been checked)
    weights: Path | None  # the safetensors file; None only for source 'random'
    sha256: str  # of the weights file; '' for source 'random'
    preprocess: Preprocess  # the input spec that belongs to the weights
    licence: str
    feature_dim: int | None  # None when it is not known without building the network
    origin: str
    content: str = ""  # source 'run': cache key of graphs and features, see `saved_classifier.backbone_content`
    file_sha256: str = ""  # source 'run': of the file itself, which has another last layer than the weights named above

    @property
    def trained_here(self) -> bool:
        """Whether its weights were trained by headstart, starting from those of the same name."""
        return self.origin.startswith(TRAINED_HERE)

    @property
    def expected_sha256(self) -> str:
        """SHA-256 of the bytes that the weights file must have when it is read."""
        return self.file_sha256 if self.source == "run" else self.sha256

    @property
    def training(self) -> str:
        """How headstart trained its weights: fine-tuned, trained from scratch, or '' if it did not."""
        if not self.trained_here:
            return ""
        return "trained from scratch" if self.origin.endswith(f"({RANDOM})") else "fine-tuned"


@dataclass(frozen=True)
class BackboneRow:
    """One line of `headstart backbones`."""

    name: str
    here: str  # where the weights are on this machine: 'folder', 'hub' (its cache), 'embedded', or '' if nowhere
    image_size: int  # side of the square input in pixels
    parameters: int | None  # trained values in the weights file; None if it is not on this machine
    feature_dim: int | None  # None when it is not known without building the network
    licence: str
    measured: dict[str, Any] = field(default_factory=dict)  # for the embedded one: see `builtin.measured`


# ------------------------------------------------------------------------------------------------------------ finding
def to_choose_from(weights: WeightsSource = WeightsSource()) -> list[Backbone]:
    """Return the candidates if no backbone is named: the one in the file, else all on this machine that are free to choose,
    else a fallback.

    The fallback is `STARTER`, downloaded; if the hub does not answer or may not be contacted, it is the embedded one,
    with a log message. Raises `MissingWeights` if the given folder does not exist.
    """
    found = free_to_choose(at_hand(weights))
    if found:
        return found
    if may_ask(weights.offline) and weights.max_download >= STARTER_MB:
        log.info("No weights %s: downloading %s (14 MB, once).", _where(weights), STARTER)
        try:
            return [find_backbone(STARTER, weights)]
        except (MissingWeights, WriteError) as error:
            log.warning("%s", error.message)
    return [without_download(weights)]


def free_to_choose(here: Sequence[Backbone]) -> list[Backbone]:
    """Leave out weights in the hub's cache whose licence forbids commercial use, which is logged: they may be there for
    something else. Only their name selects them, or putting them into the folder of weights."""
    left_out = [b for b in here if b.source == "hub" and not is_commercial(b.licence)]
    if left_out:
        listed = few([f"{b.name} ({b.licence})" for b in left_out], 5)
        log.warning("Not used unless named, because of their licence: %s.", listed)
    return [b for b in here if b not in left_out]


def without_download(weights: WeightsSource = WeightsSource()) -> Backbone:
    """Return `last_resort`, with a warning that says how to get a stronger backbone. Raises `BadWeights`."""
    log.warning(
        "No weights %s: using the small, weak built-in backbone. A linear head on it has accuracy "
        "%s. For a stronger one, %s; for an offline machine, see `headstart bundle`.",
        _where(weights),
        builtin.accuracies(),
        "put weights into the folder, or give none"
        if has_folder(weights)
        else "run it once with an internet connection, and neither --offline nor --max-download 0",
    )
    return last_resort()


def _where(weights: WeightsSource) -> str:
    return f"in {weights.folder} or the hub's cache" if weights.folder is not None else "on this machine"


def find_backbone(name: str, weights: WeightsSource = WeightsSource()) -> Backbone:
    """Find the backbone of that name, with its weights on this machine; download them from the hub if necessary.

    Args:
        name: timm's ``architecture.tag``; a bare ``architecture`` selects the folder's only entry of it, or timm's
            default tag; names in `POPULAR_NAMES` also work. May be empty for a weights file with its JSON.
        weights: Its ``file`` is a safetensors file: ``FILE.json`` next to it (``config.json`` next to a
            ``model.safetensors``) gives the architecture and preprocessing; otherwise timm's own entry for `name` does.
            Its ``folder`` holds ``NAME.safetensors`` + ``NAME.json``; the default is ``HEADSTART_WEIGHTS``.
            ``HF_HUB_OFFLINE`` has the same effect as its ``offline``.

    Raises: `UnknownBackbone`, `MissingWeights`, `BadWeights`; `WriteError` if the hub's cache cannot be written.
    """
    if weights.file is not None:
        return _from_file(weights.file, plain_name(name))
    found = _by_name(plain_name(name), _weights_folder(weights), weights.offline)
    log.info("%s: weights from %s (%s)", found.name, found.source, found.weights)
    return found


def sha256_here(name: str, weights: WeightsSource = WeightsSource()) -> str:
    """Return the SHA-256 of the weights that `find_backbone` uses without a file or download; '' if none."""
    name = plain_name(name)
    try:
        folder = _weights_folder(weights)
        return "" if _is_nowhere(name, folder) else _by_name(name, folder, offline=True).sha256
    except BackboneError:
        return ""


def _is_nowhere(name: str, folder: Path | None) -> bool:
    """Return whether no weights of a full name can be here, as far as that can be said without importing timm."""
    in_folder = folder is not None and name in _names_in(folder)
    return "." in name and name != builtin.NAME and not in_folder and not may_hold(name)


def _by_name(name: str, folder: Path | None, offline: bool) -> Backbone:
    found = (folder and _in_folder(folder, name)) or _in_hub_cache(name)
    return found or (last_resort() if name == builtin.NAME else _on_hub(name, folder, offline))


def last_resort() -> Backbone:
    """Return the backbone in the package, for when there is no other. Raises `BadWeights` if it is damaged."""
    found = _found(builtin.NAME, read_config(builtin.SPEC), "embedded", builtin.WEIGHTS)
    return replace(found, feature_dim=builtin.FEATURES)


def without_weights(name: str, *, image_size: int = 0, **model_args: Any) -> Backbone:
    """Return a backbone with random weights, for training from scratch: source 'random', no file. Imports timm.

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
    return Backbone(
        name=name,
        architecture=spec.architecture,
        model_args=args,
        source="random",
        weights=None,
        sha256="",
        preprocess=preprocess,
        licence="none",
        feature_dim=None,
        origin=RANDOM,
    )


def tuned(backbone: Backbone, weights: Path, *, image_size: int = 0, hidden: Sequence[int] = ()) -> Backbone:
    """Return a trained backbone: the whole network is in the safetensors file `weights`, which is now its own.

    Args:
        backbone: What training started from.
        weights: The state dict of the whole network, its last layer included or not.
        image_size: Side of the images it was trained on; networks with a fixed input store it.
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
        origin=f"{TRAINED_HERE}{backbone.name} ({backbone.origin})",
        content="",
    )


def _found(name: str, spec: BackboneConfig, source: str, weights: Path, origin: str = "") -> Backbone:
    header = read_header(weights)  # checked before anything else reads the file
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
    """Return the number of columns of the classifier, which takes the features, if the file has one."""
    for module in ("classifier", "fc", "head.fc", "head", "last_linear"):
        shape = header.get(f"{module}.weight", ("", ()))[1]
        if len(shape) in (2, 4) and f"{module}.bias" in header:
            return shape[1]
    return None


def _from_file(path: Path, name: str) -> Backbone:
    read_header(path)  # reports a pickle as such, whatever else is wrong
    check_bundled(path)
    candidates = [path.with_suffix(".json"), path.with_name(path.name + ".json")]
    if path.name == "model.safetensors":
        candidates.append(path.with_name("config.json"))
    spec_file = next((file for file in candidates if file.is_file()), None)
    if spec_file is None:
        if not name:
            raise MissingWeights(
                f"{path}: has no {candidates[0].name} next to it, so its architecture is unknown.",
                hint="Name the network with --backbone NAME, or write that JSON.",
            )
        return _found(name, timm_spec(timm_cfg(name)), "file", path)
    spec = read_config(spec_file)
    if name and name.partition(".")[0] != spec.architecture:
        raise BadWeights(
            f"{spec_file}: architecture is {spec.architecture!r}, but the requested backbone is {name!r}.",
            hint=f"Use --backbone {spec.architecture}, or another --weights file.",
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
            f"{folder}: no such folder, given by {given}.",
            hint="It should hold NAME.safetensors and NAME.json for each backbone.",
        )
    return folder


def has_folder(weights: WeightsSource) -> bool:
    """Return whether a folder of weights is given, as an option or in the environment."""
    return weights.folder is not None or bool(os.environ.get("HEADSTART_WEIGHTS"))


def _names_in(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.iterdir() if file.suffix == ".safetensors")


def _folder_entry(folder: Path, name: str) -> Backbone:
    check_bundled(folder / f"{name}.safetensors")
    spec_file = folder / f"{name}.json"
    spec = read_config(spec_file) if spec_file.is_file() else timm_spec(timm_cfg(name))
    return _found(name, spec, "folder", folder / f"{name}.safetensors")


def _in_folder(folder: Path, name: str) -> Backbone | None:
    names = _names_in(folder)  # compared, not joined to the path: a name cannot lead out of the folder
    if name in names:
        return _folder_entry(folder, name)
    if "." in name:
        return None
    fitting = [entry for entry in names if (folder / f"{entry}.json").is_file() and _is_of(folder, entry, name)]
    if len(fitting) > 1:
        default = _usual_weights(name, fitting)
        if not default:
            raise UnknownBackbone(
                f"{name!r} could be any of {', '.join(fitting)} in {folder}.", hint="Give one of these full names."
            )
        fitting = [default]
    return _folder_entry(folder, fitting[0]) if fitting else None


def _usual_weights(architecture: str, names: Sequence[str]) -> str:
    """Return which of several weights of an architecture is meant: timm's default, else those of plain ImageNet-1k, which
    have the shortest tag of those that end with in1k. '' if that is unclear."""
    default = default_name(architecture)
    if default in names:
        return default
    imagenet = sorted((name for name in names if name.endswith("in1k")), key=len)
    if not imagenet or (len(imagenet) > 1 and len(imagenet[0]) == len(imagenet[1])):
        return ""
    log.info("%s: of %s, the ImageNet weights %s are used.", architecture, ", ".join(names), imagenet[0])
    return imagenet[0]


def _is_of(folder: Path, entry: str, architecture: str) -> bool:
    """Return whether the entry's JSON names that architecture. Ignores damaged JSON of other names."""
    if entry.partition(".")[0] == architecture:
        return read_config(folder / f"{entry}.json").architecture == architecture
    try:
        return read_config(folder / f"{entry}.json").architecture == architecture
    except BadWeights as error:
        log.warning("%s", error)
        return False


# ---------------------------------------------------------------------------------------------------------------- hub
def _in_hub_cache(name: str) -> Backbone | None:
    """Find a full name whose two files are in the cache, without timm and without contacting the hub."""
    if not re.fullmatch(r"\w+\.[\w.-]*\w", name, re.ASCII):
        return None
    repo = f"timm/{name}"
    weights, config = cached(repo, "model.safetensors"), cached(repo, "config.json")
    return _hub_entry(name, repo, weights, config) if weights and config else None


def _hub_entry(
    name: str, repo: str, weights: Path, config: Path | None, spec: BackboneConfig | None = None
) -> Backbone:
    """Return the backbone in those two files. timm's own entry, if given, determines the architecture."""
    architecture = name.partition(".")[0]
    own = read_config(config) if config else None
    if own is not None and own.architecture == architecture:  # else it was renamed, and its arguments do not apply
        spec = own
    spec = spec or timm_spec(timm_cfg(name))
    return _found(name, spec, "hub", weights, origin=f"hub: {repo} at {weights.parent.name[:12]}")


def _on_hub(name: str, folder: Path | None, offline: bool) -> Backbone:
    cfg = timm_cfg(name, _names_in(folder) if folder else ())
    name = f"{cfg.architecture}.{cfg.tag}" if cfg.tag else cfg.architecture
    if not cfg.hf_hub_id:
        raise MissingWeights(
            f"{name}: the hub has no safetensors for it" + (f", only a pickle ({cfg.url})." if cfg.url else "."),
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
    """Return all backbones with weights on this machine, the folder's first; for a weights file, the one in it.

    Opens no socket and does not import timm. Excludes the one in the package, `last_resort`. Damaged entries are logged
    and left out. Raises
    `MissingWeights` if the given folder does not exist.
    """
    if weights.file is not None:
        return [_from_file(weights.file, "")]
    found = {}
    for name, source, spec, file in _entries(weights):
        origin = f"hub: timm/{name} at {file.parent.name[:12]}" if source == "hub" else ""
        found[name] = _found(name, spec, source, file, origin)
    return list(found.values())


def name_pattern(text: str) -> str:
    """Return the wildcard pattern of full names that contain a text, or the text if it is such a pattern.

    >>> name_pattern("resnet"), name_pattern("resnet50.*")
    ('*resnet*', 'resnet50.*')
    """
    return text if any(sign in text for sign in "*?[") else f"*{plain_name(text)}*"


def backbones(
    pattern: str = "", *, weights: WeightsSource = WeightsSource(), only_here: bool = False
) -> list[BackboneRow]:
    """List backbones by name: those with weights on this machine first, then all others with weights in timm.

    Args:
        pattern: Part of a name (``resnet``), or a wildcard pattern (``resnet50.*``).
        weights: As for `find_backbone`; a file in it is not listed.
        only_here: Only those with weights on this machine: takes milliseconds, while timm's list takes seconds.
    """
    pattern = name_pattern(pattern)
    rows = {entry[0]: _row_here(*entry) for entry in _entries(weights)}
    own = (builtin.NAME, "embedded", read_config(builtin.SPEC), builtin.WEIGHTS)
    row = replace(_row_here(*own), feature_dim=builtin.FEATURES, measured=builtin.measured())
    rows.setdefault(builtin.NAME, row)
    if not only_here:
        require("The list of all backbones", "timm")
        import timm

        for name in timm.list_pretrained():
            if name not in rows:
                cfg = timm.get_pretrained_cfg(name)
                rows[name] = BackboneRow(
                    name=name,
                    here="",
                    image_size=max(cfg.input_size[1:]),
                    parameters=None,
                    feature_dim=None,
                    licence=cfg.license or "unknown",
                )
    return [row for name, row in rows.items() if fnmatch.fnmatchcase(name, pattern)]


def _row_here(name: str, source: str, spec: BackboneConfig, weights: Path) -> BackboneRow:
    header = read_header(weights)
    size = spec.preprocess.image_size
    return BackboneRow(
        name=name,
        here=source,
        image_size=size,
        parameters=parameter_count(header),
        feature_dim=_feature_dim(header),
        licence=spec.licence,
    )


def _entries(source: WeightsSource) -> Iterator[tuple[str, str, BackboneConfig, Path]]:
    """Yield (name, source, spec, weights) of all weights here, each name once, the folder's before the hub's."""
    folder = _weights_folder(source)
    names = _names_in(folder) if folder else []
    places = [(name, "folder", folder / f"{name}.json", folder / f"{name}.safetensors") for name in names if folder]
    hub = [(name, "hub", config, weights) for name, config, weights in cache_entries()]
    seen = set()
    for name, kind, config, weights in [*places, *hub]:
        if name in seen:
            continue
        try:
            spec = read_config(config)  # without one, the expected input is unknown; `find_backbone` asks timm
            read_header(weights)
            check_bundled(weights)
        except BackboneError as error:
            log.warning("left out: %s", error)
            continue
        seen.add(name)
        yield name, kind, spec, weights
