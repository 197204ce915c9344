"""Cut a network in two: a frozen *trunk* that runs once per image, and a *tail* that is trained.

Tracing finds where a network can be cut: in a run without numbers (on torch's `meta` device), each module's input is
compared with the previous module's output. Modules that pass one tensor to the next, up to the end of the features, are
the network's *stages*; anything before them (a patch embedding with its positions, say) belongs to the first stage. So
no list of families is needed: residual and inverted-residual networks, DenseNets, VGGs, ConvNeXts and vision
transformers are cut between blocks; a network that passes several tensors (NASNet) has fewer stages, down to one. Trunk
and tail are copies of the network without each other's weights, under the same names, and `cut` compares their output
with the whole network's.

Costs: `survey` about 0.1 s; `cut` two runs on one image, and a copy of the weights. When not to use it: to compute
features; `headstart.model.inference.engines` runs whole networks faster.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod

import torch
from torch import nn

from headstart.errors import CannotCut

TOLERANCE = 1e-4
"""Largest difference in logits that a cut may cause, as a fraction of the largest logit (in float32)."""

ANOTHER = "Use another backbone, or --approach linear, which trains none of its layers."
"""What to do about a network whose stages and last layer cannot be found."""


@dataclass(frozen=True)
class Stage:
    """One stage of a network, and its output for one image.

    `steps` are the names of its modules, run one after the other (empty for a first stage that is not only modules).
    `shape` excludes the batch: (C, H, W), (T, C), and for the last stage the pooled features (D,). `multiply_adds`
    counts convolutions and dense layers.
    """

    name: str
    steps: tuple[str, ...]
    shape: tuple[int, ...]
    multiply_adds: int

    @property
    def numel(self) -> int:
        """Values cached per image if the network is cut after this stage."""
        return prod(self.shape)


class _Skipped(nn.Module):
    """Return the input and ignore all other arguments."""

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        return x


# ---------------------------------------------------------------------------------------------------------------- stages
def survey(module: nn.Module, image_size: int = 0) -> tuple[Stage, ...]:
    """Return the stages of a timm network with its last layer, for square images of `image_size` pixels (0: its own).

    Raises `CannotCut` for a network without timm's ``forward_features`` and ``forward_head``, without a single last
    layer, or that does not accept images of that size.
    """
    return _follow(module, image_size).stages


def auto_cut(module: nn.Module, image_size: int = 0, *, max_bytes: int = 64 << 10, share: float = 0.3) -> int:
    """Choose after how many stages to cut by default: the `n_frozen` of `cut`.

    It is the earliest stage whose activations take at most `max_bytes` per image in float16 and after which at most the
    fraction `share` of the computation remains; if none is small enough, the smallest. At least two stages stay
    trainable, or one of two; 0 for a network of one stage, which cannot be frozen in part. On scenes 0.3 trains 1.5 times
    as many images per second as 0.5, and is a few tenths of a point less accurate (LOG.md).
    """
    found = survey(module, image_size)
    if len(found) == 1:
        return 0
    total = sum(stage.multiply_adds for stage in found)
    late = [n for n in range(1, len(found) - 1) if sum(s.multiply_adds for s in found[n:]) <= share * total]
    if not late:
        return max(len(found) - 2, 1)
    small = [n for n in late if 2 * found[n - 1].numel <= max_bytes]
    return small[0] if small else min(late, key=lambda n: (found[n - 1].numel, n))


# --------------------------------------------------------------------------------------------------------------- cutting
class Trunk(nn.Module):
    """The frozen stages: pixels (N, 3, S, S) to activations. Always in evaluation mode; parameters take no gradient."""

    def __init__(self, network: nn.Module, pooled: bool) -> None:
        super().__init__()
        self.network = network
        self.pooled = pooled
        self.requires_grad_(False)
        self.eval()

    def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return activations (N, C, H, W) or (N, T, C); pooled features (N, D) if the whole backbone is frozen."""
        network = self.network
        out: torch.Tensor = network(pixels_NCHW).flatten(1) if self.pooled else network.forward_features(pixels_NCHW)
        return out

    def train(self, mode: bool = True) -> Trunk:
        """Stay in evaluation mode."""
        return super().train(False)


class Tail(nn.Module):
    """The trained stages: the trunk's output (pixels, if there is no trunk) to logits (N, K).

    `network` holds the parameters under their names in the whole network. `groups` lists these names stage by stage.
    Activations may be float16; computation is in float32, or as autocast chooses.
    """

    def __init__(self, network: nn.Module, steps: Sequence[str], start: str, groups: Sequence[tuple[str, list[str]]]):
        super().__init__()
        self.network = network
        self.steps = tuple(steps)
        self.start = start  # 'pixels' | 'activations' | 'features'
        self.groups = tuple(groups)
        self.fixed_norms = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, K)."""
        out: torch.Tensor
        if self.start == "pixels":
            out = self.network(x)
        elif self.start == "activations":
            out = x.clone() if x.dtype == torch.float32 else x.float()  # the first step may work in place: keep x
            for step in self.steps:
                out = self.network.get_submodule(step)(out)
            out = self.network.forward_head(out)
        elif hasattr(self.network, "forward_top"):
            out = self.network.forward_top(x.float())
        else:
            out = self._last_layer(x.float())
        return out

    def _last_layer(self, features_ND: torch.Tensor) -> torch.Tensor:
        drop_rate = getattr(self.network, "drop_rate", 0.0)
        if drop_rate and self.training:
            features_ND = nn.functional.dropout(features_ND, drop_rate)
        layer = self.network.get_submodule(self.steps[0])
        if isinstance(layer, nn.Conv2d):
            features_ND = features_ND[:, :, None, None]
        return layer(features_ND).flatten(1)

    def train(self, mode: bool = True) -> Tail:
        """Set training mode, except for batch normalisation after `freeze_norms`."""
        super().train(mode)
        if self.fixed_norms:
            for norm in _batch_norms(self):
                norm.eval()
        return self


def cut(module: nn.Module, n_frozen: int, image_size: int = 0) -> tuple[nn.Module, nn.Module]:
    """Cut a timm network (with its last layer) after `n_frozen` stages: ``tail(trunk(x)) == module(x)``.

    Args:
        module: The network; it is not changed.
        n_frozen: 0 for no trunk (an Identity; the tail is the whole network and takes pixels); ``len(survey(module))``
            for a trunk that is the whole backbone, and a tail of the last layer (with the hidden ones of a network of
            `headstart.model.backbones.networks`) on pooled features.
        image_size: Side of the images in pixels; 0 for the network's own.

    Returns: a `Trunk` and a `Tail`, copies that share no parameters with each other or with `module`.
    Raises `CannotCut` if the two do not reproduce the network's logits.
    """
    plan = _follow(module, image_size)
    if not 0 <= n_frozen <= len(plan.stages):
        raise CannotCut(
            f"n_frozen is {n_frozen}, expected 0 to {len(plan.stages)}: {_name(module)} has {len(plan.stages)} stages."
        )
    trunk, tail = _halves(module, plan, n_frozen)
    _check(module, trunk, tail, plan.image_size, n_frozen)
    return trunk, tail


def join(module: nn.Module, tail: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict of the whole network `module` with the tail's weights, on the CPU."""
    if not isinstance(tail, Tail):
        raise TypeError(f"tail is a {type(tail).__name__}, expected what cut() gave")
    own, tuned = module.state_dict(), tail.network.state_dict()
    foreign = [key for key in tuned if key not in own or own[key].shape != tuned[key].shape]
    if foreign:
        raise CannotCut(f"the tail does not belong to {_name(module)}, which has no {foreign[0]} of this shape.")
    return {key: tuned.get(key, value).detach().cpu().contiguous() for key, value in own.items()}


def stage_parameters(tail: nn.Module) -> list[tuple[str, list[nn.Parameter]]]:
    """Return the tail's parameters, stage by stage from input to output; `head` (all after the last stage) comes last.

    Stages without parameters are left out.
    """
    if not isinstance(tail, Tail):
        raise TypeError(f"tail is a {type(tail).__name__}, expected what cut() gave")
    parameters = dict(tail.network.named_parameters())
    return [(name, [parameters[key] for key in keys]) for name, keys in tail.groups if keys]


def freeze_norms(tail: nn.Module) -> None:
    """Freeze the statistics of batch normalisation in any mode of the tail; its affine parameters are trained.

    Use it for small batches, and for activations computed with those statistics.
    """
    if not isinstance(tail, Tail):
        raise TypeError(f"tail is a {type(tail).__name__}, expected what cut() gave")
    tail.fixed_norms = True
    tail.train(tail.training)


def _batch_norms(module: nn.Module) -> Iterator[nn.Module]:
    return (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))


def _halves(module: nn.Module, plan: _CutPoints, n_frozen: int) -> tuple[nn.Module, nn.Module]:
    last = len(plan.stages)
    if n_frozen == 0:
        return nn.Identity(), Tail(copy.deepcopy(module), (), "pixels", plan.groups)
    steps = [step for stage in plan.stages[n_frozen:] for step in stage.steps]
    if n_frozen == last:
        top = _within(module, plan.top)
        tail = Tail(_without(module, [], top), [plan.classifier], "features", [("head", _keys(module, top))])
        return Trunk(_without(module, plan.top, _others(module, top)), pooled=True), tail
    groups = plan.groups[n_frozen:]
    gone = [step for stage in plan.stages[:n_frozen] for step in stage.steps]
    kept = _within(module, steps) | plan.head
    trunk = Trunk(_without(module, steps, _others(module, kept)), pooled=False)
    return trunk, Tail(_without(module, gone, kept), steps, "activations", groups)


def _without(module: nn.Module, gone: Iterable[str], kept: set[str]) -> nn.Module:
    """Return a copy of the network that skips the modules in `gone`, and has only the tensors in `kept`.

    The others are never copied: the memo of `deepcopy` supplies their replacements.
    """
    memo: dict[int, object] = {id(module.get_submodule(name)): _Skipped() for name in gone}
    memo |= {id(tensor): None for name, tensor in _tensors(module) if name not in kept}
    out: nn.Module = copy.deepcopy(module, memo)
    for norm in _batch_norms(out):
        if norm.num_batches_tracked is None:  # else loading weights requires one
            norm.track_running_stats = False
    return out


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _within(module: nn.Module, names: Iterable[str]) -> set[str]:
    """Return the names of the parameters and buffers in those modules."""
    return {f"{name}.{key}" for name in names for key, _ in _tensors(module.get_submodule(name))}


def _others(module: nn.Module, names: set[str]) -> set[str]:
    return {name for name, _ in _tensors(module)} - names


def _keys(module: nn.Module, names: set[str]) -> list[str]:
    """Return the parameters among `names`, in the network's order."""
    return [key for key, _ in module.named_parameters() if key in names]


def _check(module: nn.Module, trunk: nn.Module, tail: nn.Module, image_size: int, n_frozen: int) -> None:
    device = next(module.parameters()).device
    noise = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad(), _evaluating(module), _evaluating(tail):
        expected = module(noise)
        try:
            found = tail(trunk(noise))
        except (RuntimeError, AssertionError, ValueError, TypeError, AttributeError) as error:
            raise CannotCut(
                f"{_name(module)}: does not run when cut after {n_frozen} stages: {_first_line(error)}"
            ) from error
    far = float((expected - found).abs().max()) if expected.shape == found.shape else float("inf")
    if not far <= TOLERANCE * float(expected.abs().max()):
        raise CannotCut(
            f"{_name(module)}: its logits differ by {far:.3g} when cut after {n_frozen} stages.",
            hint="Cut it elsewhere, or train the whole network.",
        )
    shared = {id(p) for p in trunk.parameters()} & {id(p) for p in tail.parameters()}
    if shared:
        raise CannotCut(f"{_name(module)}: {len(shared)} of its parameters are on both sides of the cut.")


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put the module in evaluation mode; afterwards restore the mode of each submodule."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _name(module: nn.Module) -> str:
    cfg = getattr(module, "pretrained_cfg", None) or {}
    return str(cfg.get("architecture") or type(module).__name__)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# --------------------------------------------------------------------------------------------------------------- tracing
@dataclass(eq=False)
class _Call:
    """One call of a module: its input and output (None unless a single tensor), and the calls made inside it.

    The states count in-place changes, such as ``x += shortcut`` in many blocks: a tensor is the previous module's
    output only if its state matches too.
    """

    name: str
    module: nn.Module | None
    input: torch.Tensor | None = None
    output: torch.Tensor | None = None
    calls: list[_Call] = field(default_factory=list)
    input_state: int = 0
    output_state: int = 0

    def multiply_adds(self) -> int:
        layer = self.module
        if isinstance(layer, nn.Conv2d | nn.Linear) and self.output is not None:
            places = self.output.numel() // (layer.weight.shape[0])
            return places * layer.weight.numel()
        return sum(call.multiply_adds() for call in self.calls)

    def walk(self) -> Iterator[_Call]:
        yield self
        for call in self.calls:
            yield from call.walk()


@dataclass(frozen=True)
class _CutPoints:
    """Where a network can be cut. `head`: tensors used after the last stage; `top`: the modules on pooled features."""

    stages: tuple[Stage, ...]
    groups: tuple[tuple[str, list[str]], ...]
    head: set[str]
    top: tuple[str, ...]
    classifier: str
    image_size: int


def _follow(module: nn.Module, image_size: int) -> _CutPoints:
    classifier = _classifier(module)
    image_size = image_size or _own_size(module)
    try:
        with torch.inference_mode(False), torch.enable_grad():  # whatever mode the caller is in
            shadow = _shadow(module)
            features, head, pooled_dim = _record(shadow, image_size, classifier)
            reached = _reached(shadow, head)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise CannotCut(
            f"{_name(module)}: cannot be traced at {image_size} px: {_first_line(error)}",
            hint="Is that the size it was built for?",
        ) from error
    used = {id(parameter): name for name, parameter in shadow.named_parameters()}
    head_names = {used[id(p)] for p in reached} | _buffers_called(shadow, head)
    found = tuple(_stages(features, head, pooled_dim))
    top = tuple(name for name in ("hidden", classifier) if hasattr(module, "forward_top") or name == classifier)
    return _CutPoints(
        stages=found,
        groups=_groups(module, found, head_names),
        head=head_names,
        top=top,
        classifier=classifier,
        image_size=image_size,
    )


def _classifier(module: nn.Module) -> str:
    cfg = getattr(module, "pretrained_cfg", None) or {}
    name = cfg.get("classifier")
    if not hasattr(module, "forward_features") or not hasattr(module, "forward_head") or not isinstance(name, str):
        raise CannotCut(
            f"{_name(module)}: is not a timm network with a single last layer (its classifier is {name!r}).",
            hint=ANOTHER,
        )
    if not isinstance(module.get_submodule(name), nn.Linear | nn.Conv2d):
        raise CannotCut(f"{_name(module)}: has no last layer at {name!r}; build it with num_classes.")
    return name


def _own_size(module: nn.Module) -> int:
    """Return the image side that a network is built for, if it states one."""
    inside = getattr(module, "backbone", module)
    fixed = getattr(inside, "img_size", None) or getattr(getattr(inside, "patch_embed", None), "img_size", None)
    size = fixed or module.pretrained_cfg["input_size"][1:]
    return int(size[0] if isinstance(size, Sequence) else size)


def _shadow(module: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose tensors have shapes but no data."""
    memo: dict[int, object] = {id(b): b.detach().to("meta") for b in module.buffers()}
    memo |= {id(p): nn.Parameter(p.detach().to("meta")) for p in module.parameters()}
    shadow: nn.Module = copy.deepcopy(module, memo)
    return shadow.eval()


def _record(shadow: nn.Module, image_size: int, classifier: str) -> tuple[_Call, _Call, int]:
    """Record the calls in ``forward_features`` and ``forward_head``, and the number of pooled features."""
    features, head = _Call("", None), _Call("", None)
    open_calls = [features]

    def before(call_name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            alone = len(args) == 1 and all(value is None or value is False for value in kwargs.values())
            call = _Call(call_name, module)
            if alone and isinstance(args[0], torch.Tensor):
                call.input, call.input_state = args[0], args[0]._version
            open_calls[-1].calls.append(call)
            open_calls.append(call)

        return hook

    def after(module: nn.Module, args: object, out: object) -> None:
        call = open_calls.pop()
        if isinstance(out, torch.Tensor):
            call.output, call.output_state = out, out._version

    for name, part in shadow.named_modules():
        if name:
            part.register_forward_pre_hook(before(name), with_kwargs=True)
            part.register_forward_hook(after)
    features.input = torch.zeros(1, 3, image_size, image_size, device="meta")
    features.output = shadow.forward_features(features.input)
    if not isinstance(features.output, torch.Tensor):
        raise CannotCut(f"{_name(shadow)}: its features are not one tensor.", hint=ANOTHER)
    features.output_state = features.output._version
    open_calls[:] = [head]
    head.input = features.output.detach()
    head.output = shadow.forward_head(head.input)
    first = "hidden" if hasattr(shadow, "forward_top") else classifier
    entry = next(call for call in head.walk() if call.name == first)
    if entry.input is None:
        raise CannotCut(f"{_name(shadow)}: {first} takes more than one tensor.", hint=ANOTHER)
    return features, head, entry.input[0].numel()


def _reached(shadow: nn.Module, head: _Call) -> list[nn.Parameter]:
    """Return the parameters that the head's output depends on, according to autograd."""
    if head.output is None:
        return []
    parameters = list(shadow.parameters())
    grads = torch.autograd.grad(head.output.sum(), parameters, allow_unused=True)
    return [p for p, grad in zip(parameters, grads, strict=True) if grad is not None]


def _buffers_called(shadow: nn.Module, head: _Call) -> set[str]:
    called = {call.name for call in head.walk() if call.name}
    return {name for name, _ in shadow.named_buffers() if name.rpartition(".")[0] in called}


def _stages(features: _Call, head: _Call, pooled_dim: int) -> Iterator[Stage]:
    """Group the features' calls into stages: a stage starts at a block or a convolution; norms and the like join it."""
    steps = _own_steps(features, head)
    groups: list[list[_Call]] = []
    for step in steps:
        if _has_layer(step) or not groups:
            groups.append([step])
        else:
            groups[-1].append(step)
    if groups and not _has_layer(groups[0][0]):  # anything before the first one belongs to it, or to the stem
        ahead = groups.pop(0)
        if groups and ahead[0].input is features.input:
            groups[0] = ahead + groups[0]
    counts = [sum(step.multiply_adds() for step in group) for group in groups]
    pieces = [(g[0].name, tuple(s.name for s in g), g[-1].output, n) for g, n in zip(groups, counts, strict=True)]
    if not groups or groups[0][0].input is not features.input:
        entry = groups[0][0].input if groups else None
        pieces.insert(0, ("stem" if groups else "features", (), entry, features.multiply_adds() - sum(counts)))
    for i, (name, names, given, count) in enumerate(pieces):
        shape = (pooled_dim,) if given is None or i == len(pieces) - 1 else tuple(given.shape[1:])
        yield Stage(name, names, shape, count)


def _own_steps(features: _Call, head: _Call) -> list[_Call]:
    """Return the chain at the end of the features, after its last module that runs more than once."""
    times = Counter(id(call.module) for root in (features, head) for call in root.walk())
    steps = [step for call in _chain(features) for step in _expanded(call)]
    again = max((i for i, step in enumerate(steps) if times[id(step.module)] > 1), default=-1)
    return steps[again + 1 :]


def _chain(root: _Call) -> list[_Call]:
    """Return the last calls in `root`, each of which takes only the previous output, up to the output of `root`."""
    wanted, state, chain = root.output, root.output_state, []
    for call in reversed(root.calls):
        if call.output is None or call.output is not wanted or call.output_state != state or call.input is None:
            break
        chain.append(call)
        wanted, state = call.input, call.input_state
    return chain[::-1]


def _expanded(call: _Call) -> list[_Call]:
    """Replace a container by the calls inside it; a block stays one call."""
    chain = _chain(call)
    complete = bool(chain) and len(chain) == len(call.calls) and chain[0].input is call.input
    complete = complete and chain[0].input_state == call.input_state
    if not complete or not _is_container(call, chain):
        return [call]
    return [step for inner in chain for step in _expanded(inner)]


def _is_container(call: _Call, chain: Sequence[_Call]) -> bool:
    def blocks(calls: Sequence[_Call]) -> bool:
        return any(_has_layer(c) and not isinstance(c.module, nn.Conv2d | nn.Linear) for c in calls)

    if isinstance(call.module, nn.Sequential):
        return blocks(chain) or sum(_has_layer(c) for c in chain) > 3
    return any(isinstance(c.module, nn.Sequential) and blocks(c.calls) for c in chain)


def _has_layer(call: _Call) -> bool:
    return any(isinstance(inner.module, nn.Conv2d | nn.Linear) for inner in call.walk())


def _groups(module: nn.Module, found: Sequence[Stage], head_names: set[str]) -> tuple[tuple[str, list[str]], ...]:
    """Return the parameters of each stage, then of the head. The first stage has those in no other."""
    later = [_within(module, stage.steps) for stage in found[1:]]
    first = _others(module, head_names.union(*later))
    names = [*(stage.name for stage in found), "head"]
    return tuple((name, _keys(module, keys)) for name, keys in zip(names, [first, *later, head_names], strict=True))
