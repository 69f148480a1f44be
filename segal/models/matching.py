"""Which of a file's tensors are those of a network, whatever prefix or nesting they are under."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from segal.models.weight_files import StoredTensors

WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Segments that torch puts into the names of what it wraps, at any depth."""

_AUXILIARY = {
    *("aux_classifier", "classification_head", "auxiliary_head", "aux_head"),
    *("aux1", "aux2", "AuxLogits"),  # of GoogLeNet and Inception
}
"""Heads that torchvision, smp, mmseg and transformers add for training alone."""

_BESIDE = re.compile(
    r"loss|criteri|metric|iou|jaccard|confmat|confusion|accuracy|dice|precision|recall"
    r"|(^|_)(acc|f1|auroc)(_|$)|(class|pos)_weights?$"
)
"""Names of losses and metrics that lie among the network's own children."""

_OF_TORCHVISION = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(encoder_layer_\d+\.mlp\.)linear_1\."), r"\g<1>0."),
    (re.compile(r"(encoder_layer_\d+\.mlp\.)linear_2\."), r"\g<1>3."),
)
"""Names in the published files of DenseNet and ViT, and what they are today."""

_COUNTER = "num_batches_tracked"  # of BatchNorm; files of torch before 0.4.1 have none
_MOST_PREFIXES = 16


@dataclass(frozen=True)
class Match:
    """A network's tensors under one prefix of a file.

    Attributes:
        prefix: What the names begin with before the network's own; empty or with a dot at the end.
        weights: The network's tensors by its own names, as far as the file has them; counters that
            it lacks are the network's own.
        matched: How many of them the file has.
        missing: Names of the network that the file lacks under the prefix.
        extra: Names under the prefix that the network lacks.
        shapes: Names whose tensor has another shape.
        left_out: Heads, losses and metrics under the prefix, and all else that the file holds.
        renamed: Names that the network's library has changed since, as (old, new).
    """

    prefix: str
    weights: dict[str, Tensor]
    matched: int
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The prefix, as a user gives it to choose it."""
        return self.prefix.removesuffix(".") or "."

    @property
    def fits(self) -> bool:
        """Whether these are the network's tensors, all of them and no others."""
        return not (self.missing or self.extra or self.shapes)

    def equals(self, other: "Match") -> bool:
        """Whether another one has the same values throughout."""
        return all(
            value.dtype == other.weights[key].dtype and torch.equal(value, other.weights[key])
            for key, value in self.weights.items()
        )


def matches(
    module: nn.Module,
    stored: StoredTensors,
    state: str | None = None,
    spare: Callable[[str], bool] = lambda name: False,
) -> list[Match]:
    """What lies under each prefix that a file's names may have before the module's; best first.

    Args:
        module: The network, or its encoder.
        stored: What the file holds.
        state: Only prefixes that begin with it.
        spare: Names under a prefix that may be left out if the module lacks them, beside heads for
            auxiliary tasks, losses and metrics.

    Returns:
        At least one, unless `state` leaves none.
    """
    own = module.state_dict()
    shared = _shared(list(own))
    stored = _unwrapped(stored, own)
    prefixes = _prefixes({key.removeprefix(shared) for key in own}, stored)
    if state is not None:
        prefixes = [p for p in prefixes if p.startswith(f"{state}.") or (p or ".") == state]
    found = [
        _match(module, own, shared, stored, prefix, spare) for prefix in prefixes[:_MOST_PREFIXES]
    ]
    for match in found:
        _set_apart(match, shared, [other.prefix for other in found if other.fits])
    return sorted(found, key=lambda match: (not match.fits, -match.matched))


def _set_apart(match: Match, shared: str, fitting: list[str]) -> None:
    """A second network among the children of a first one, such as a teacher, is beside it."""
    full = {key: match.prefix + key.removeprefix(shared) for key in match.extra}
    inner = tuple(p for p in fitting if p.startswith(match.prefix) and p != match.prefix)
    match.left_out.extend(name for name in full.values() if name.startswith(inner))
    match.extra[:] = [key for key, name in full.items() if not name.startswith(inner)]


def _prefixes(own: set[str], stored: StoredTensors) -> list[str]:
    """What is left of the file's names where one of the module's ends them; most frequent first."""
    depth = max((key.count(".") for key in own), default=0)
    votes, flat = Counter[str](), {_flat(key) for key in own}
    for name in stored.tensors:
        segments = name.rsplit(".", depth + 1)
        for i in range(len(segments)):
            end = ".".join(segments[i:])
            if _flat(end) in flat:
                votes[name.removesuffix(end)] += 1
    # The plain names last, which may be those of an older file, all of them other than today's.
    return [prefix for prefix, _ in votes.most_common()] + [""] * ("" not in votes)


def _match(
    module: nn.Module,
    own: Mapping[str, Tensor],
    shared: str,
    stored: StoredTensors,
    prefix: str,
    spare: Callable[[str], bool],
) -> Match:
    under = {name.removeprefix(prefix): name for name in stored.tensors if name.startswith(prefix)}
    # Other dictionaries of the file, such as an optimizer's, are beside the network.
    flat = {_flat(key.removeprefix(shared)) for key in own}
    homes = {stored.homes[name] for key, name in under.items() if _flat(key) in flat}
    state = {
        shared + key: stored.tensors[name]
        for key, name in under.items()
        if not homes or stored.homes[name] in homes
    }
    renamed: list[tuple[str, str]] = []
    if any(key not in state for key in own):
        for rename in (_renamed_by_library, _renamed_by_flattening, _renamed_in_torchvision):
            new_names = rename(module, own, state)
            if len(set(new_names.values())) == len(state):  # else the file has both names
                renamed += [(old, new) for old, new in new_names.items() if old != new]
                state = {new_names[key]: state[key] for key in new_names}
    weights = {key: state[key] for key in own if key in state}
    match = Match(prefix, weights, len(weights), renamed=renamed)
    used = {id(value) for value in state.values()}
    match.left_out.extend(name for name, t in stored.tensors.items() if id(t) not in used)
    children = {key.removeprefix(shared).partition(".")[0] for key in own}
    for key, value in own.items():
        if key in state:
            if state[key].shape != value.shape:
                match.shapes.append(key)
        elif key.endswith(_COUNTER):
            match.weights[key] = value
        else:
            match.missing.append(key)
    for key in state:
        if key not in own:
            child = key.removeprefix(shared).partition(".")[0]
            beside = child not in children and (
                child in _AUXILIARY or _BESIDE.search(child.lower()) is not None
            )
            if beside or spare(key.removeprefix(shared)):
                match.left_out.append(prefix + key.removeprefix(shared))
            else:
                match.extra.append(key)
    return match


def _renamed_by_library(
    module: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, str]:
    """New names of an older file by its own, as the module's own `load_state_dict` changes them.

    Networks of segmentation_models_pytorch rename the keys of the dictionary that they are given;
    tensors without data are given, so that nothing is loaded.
    """
    same = {key: key for key in state}
    if type(module).load_state_dict is nn.Module.load_state_dict:
        return same
    empty = {key: torch.empty(value.shape, device="meta") for key, value in state.items()}
    kept = list(empty.items())  # which keeps their identities theirs
    with suppress(Exception):  # that nothing can be loaded is what it raises
        module.load_state_dict(empty)
    names = {id(value): key for key, value in empty.items()}
    return {old: names.get(id(value), old) for old, value in kept}


def _renamed_by_flattening(
    _: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, str]:
    """New names where timm has put a model's stages on one level: `stages_0` of `stages.0`."""
    lacking = {_flat(key): key for key in own if key not in state}
    count = Counter(_flat(key) for key in state)
    return {
        key: lacking.get(_flat(key), key) if key not in own and count[_flat(key)] == 1 else key
        for key in state
    }


def _renamed_in_torchvision(
    _: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, str]:
    """New names of torchvision's published files, which its builders change as they load them."""
    new_names = {}
    for key in state:
        new = key
        for old, by in _OF_TORCHVISION:
            new = old.sub(by, new)
        new_names[key] = new if key not in own and new in own else key
    return new_names


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _shared(names: Sequence[str]) -> str:
    """The dotted prefix that all names begin with, of whole segments."""
    split = [name.split(".")[:-1] for name in names]
    shared = list[str]()
    for segments in zip(*split, strict=False):
        if len(set(segments)) > 1:
            break
        shared.append(segments[0])
    return "".join(f"{segment}." for segment in shared)


def _unwrapped(stored: StoredTensors, own: Mapping[str, Tensor]) -> StoredTensors:
    """Names without what torch's wrappers put into them, unless the network itself has them."""
    wrappers = WRAPPERS - {segment for key in own for segment in key.split(".")}
    tensors, homes = dict[str, Tensor](), dict[str, str]()
    for name, tensor in stored.tensors.items():
        new = ".".join(segment for segment in name.split(".") if segment not in wrappers)
        new = name if new in stored.tensors or new in tensors else new
        tensors[new], homes[new] = tensor, stored.homes[name]
    return StoredTensors(tensors, homes, stored.unread)
