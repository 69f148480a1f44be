"""Weights from a file into a network: all of them, and no others."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from segal.errors import SegalError
from segal.models.matching import WRAPPERS, Match, matches
from segal.models.spec import ModelSpec
from segal.models.weight_files import StoredTensors, shown_unread

_CLASSIFIERS = (
    *("fc.", "classifier.", "head.", "last_linear.", "linear.", "conv_head.", "bn2.", "_fc."),
    *("norm.", "fc_norm.", "downsamp_modules.", "final_layer."),  # of transformers and HRNet
)
"""Layers of a network of whole images that come after the last map of its encoder."""
_SHOWN, _LONGEST = 3, 160


def load_weights(
    module: nn.Module,
    stored: StoredTensors,
    source: Path,
    state: str | None = None,
    classes: int | None = None,
) -> list[str]:
    """Loads the one set of tensors in a file that fits a network exactly.

    It may lie under a prefix or in dictionaries; losses, metrics and auxiliary heads beside it are
    left out, and names of an older version of the network's library are renamed as that does it.

    Args:
        module: The network.
        stored: What the file holds.
        source: The file.
        state: Which of several; the name of their dictionary or the beginning of their prefix.
        classes: How many the network has; it finds those of a file with another number.

    Returns:
        What the user should be told.

    Raises:
        SegalError: If no set of tensors fits or several do, or for values that are not finite.
    """
    return _load(module, stored, source, matches(module, stored, state), state, classes)


def load_encoder(
    network: nn.Module,
    spec: ModelSpec,
    stored: StoredTensors,
    source: Path,
    state: str | None = None,
) -> list[str]:
    """Loads the weights of an encoder alone, which must fit; a classifier in them is left out.

    Returns:
        What the user should be told.

    Raises:
        SegalError: As `load_weights` does, or if the network has no encoder.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise SegalError(
            f"{spec.architecture}: has no encoder to load weights into",
            expected="an architecture of segmentation_models_pytorch",
            got=spec.architecture,
            remedy="leave --encoder-weights out, and load the weights in your own function",
        )
    return load_backbone(encoder, stored, source, state)


def load_backbone(
    encoder: nn.Module, stored: StoredTensors, source: Path, state: str | None = None
) -> list[str]:
    """As `load_encoder`, for the encoder itself.

    A BatchNorm whose statistics are frozen has no counter of batches, which is left out.
    """

    def spare(name: str) -> bool:
        return name.startswith(_CLASSIFIERS) or name.endswith("num_batches_tracked")

    found = matches(encoder, stored, state, spare)
    return _load(encoder, stored, source, found, state, named_by="--encoder")


def load_all_but(
    network: nn.Module, layer: str, stored: StoredTensors, source: Path, state: str | None = None
) -> list[str]:
    """Loads the weights of all of a network but one layer, which keeps its own.

    Args:
        network: It.
        layer: Name of the layer that is left out, such as the last one of a network of whole
            images: the file may have it with another number of classes, or lack it.
        stored: As `load_weights` takes it.
        source: Likewise.
        state: Likewise.

    Returns:
        What the user should be told.

    Raises:
        SegalError: As `load_weights` does.
    """

    def spare(name: str) -> bool:  # without what all names begin with
        return f".{layer}".endswith(f".{name.rpartition('.')[0]}")

    kept = network.get_submodule(layer)
    network.set_submodule(layer, nn.Identity())
    try:
        return _load(network, stored, source, matches(network, stored, state, spare), state)
    finally:
        network.set_submodule(layer, kept)


def _load(
    module: nn.Module,
    stored: StoredTensors,
    source: Path,
    found: list[Match],
    state: str | None,
    classes: int | None = None,
    named_by: str | None = None,
) -> list[str]:
    fitting = [match for match in found if match.fits]
    if not found:
        groups = _groups(stored.tensors, "")
        raise SegalError(
            f"model.state: {source} holds nothing of that name",
            expected=f"one of {_some(groups)}",
            got=repr(state),
            remedy="leave model.state out, or give one of these",
        )
    if not fitting:
        raise _misfit(module, stored, source, found[0], classes, named_by)
    differing = [match for match in fitting[1:] if not match.equals(fitting[0])]
    if differing:
        names = [match.name for match in (fitting[0], *differing)]
        raise SegalError(
            f"{source}: holds several sets of weights that fit",
            expected="one, or model.state to say which",
            got=", ".join(names),
            remedy="add " + " or ".join(f"model.state={name}" for name in names),
        )
    match = fitting[0]
    own = module.state_dict()
    for key, value in match.weights.items():
        _check_values(source, key, value, own[key])
    # Copied in place: the encoders of smp override load_state_dict to pass over some keys.
    with torch.no_grad():
        for key, value in match.weights.items():
            own[key].copy_(value)
    return _notes(stored, source, match)


def _check_values(source: Path, key: str, value: Tensor, own: Tensor) -> None:
    # A mean of several networks' counters has fractions.
    counts = key.endswith("num_batches_tracked") and value.is_floating_point()
    if value.is_floating_point() != own.is_floating_point() and not counts:
        raise SegalError(
            f"{source}: {key} is of another type",
            expected=str(own.dtype).removeprefix("torch."),
            got=str(value.dtype).removeprefix("torch."),
            remedy="save the weights as they were trained, not quantised",
        )
    finite = torch.isfinite(value.to(own.dtype))
    if not finite.all():
        raise SegalError(
            f"{source}: {key} holds values that are not finite",
            expected=f"finite weights, as {own.dtype}".replace("torch.", ""),
            got=f"{int((~finite).sum())} NaN or infinite values",
            remedy="use a checkpoint from before the training diverged",
        )


def _misfit(
    module: nn.Module,
    stored: StoredTensors,
    source: Path,
    match: Match,
    classes: int | None,
    named_by: str | None,
) -> SegalError:
    """What differs, and what that tells of how the file was made."""
    own = module.state_dict()
    where = f"under {_short(match.name)!r}: " if match.prefix else ""
    unread = f"; objects were passed over: {shown_unread(stored)}" if stored.unread else ""
    if not match.matched:
        return SegalError(
            f"{source}: weights of another network",
            expected=f"tensors such as {_some(own)}",
            got=f"{len(stored.tensors)} tensors, none with a name of this network: "
            f"{_some(stored.tensors)}{unread}",
            remedy=f"check {named_by or _options(own)} against how the file was made",
        )
    in_file = _classes(match, own, classes)
    if in_file is not None:
        return SegalError(
            f"{source}: weights of a network with another number of classes",
            expected=f"{classes} classes",
            got=f"the file has {in_file} class{'es' * (in_file > 1)}: {_shapes(match, own)}",
            remedy=f"give --num-classes {in_file}, or data with as many classes"
            if in_file > 1
            else "for one output of two classes give --num-classes 2 and model.options.classes=1 "
            "(of torchvision model.options.num_classes=1)",
        )
    differences = (("missing", match.missing), ("extra", match.extra), ("shape", match.shapes))
    got = "; ".join(
        f"{len(names)} {label} ({_shapes(match, own) if label == 'shape' else _some(names)})"
        for label, names in differences
        if names
    )
    # Other encoders also change the shapes of what comes after them.
    differing = [*match.missing, *match.extra] or match.shapes
    return SegalError(
        f"{source}: weights of another network",
        expected=f"{len(own)} tensors of this architecture, encoder and number of classes",
        got=f"{where}{got}{unread}",
        remedy=f"check {named_by or _options(differing)} against how the file was made",
    )


def _options(differing: Iterable[str]) -> str:
    """The options that decide over what differs."""
    parts = {key.partition(".")[0] for key in differing}
    if parts == {"encoder"}:
        return "--encoder"
    if "encoder" not in parts:
        return "--arch and model.options"
    return "--arch, --encoder and --num-classes"


def _classes(match: Match, own: Mapping[str, Tensor], classes: int | None) -> int | None:
    """The file's number of classes, if that is all that differs."""
    if classes is None or match.missing or match.extra or not match.shapes:
        return None
    found = set[int]()
    for key in match.shapes:
        theirs, ours = match.weights[key].shape, own[key].shape
        if not theirs or not ours or theirs[1:] != ours[1:] or ours[0] != classes:
            return None
        found.add(theirs[0])
    return found.pop() if len(found) == 1 else None


def _notes(stored: StoredTensors, source: Path, match: Match) -> list[str]:
    """A line for what was not plainly the network's state_dict; none for a file of that alone."""
    counters = "num_batches_tracked"  # of which a frozen BatchNorm has none
    left_out = _groups((n for n in match.left_out if not n.endswith(counters)), match.prefix)
    wrappers = {segment for name in stored.tensors for segment in name.split(".")} & WRAPPERS
    told = []
    if match.prefix:
        told.append(f"the weights under {match.name!r}")
    if wrappers:
        told.append(f"without {', '.join(sorted(wrappers))} in the names")
    if match.renamed:
        old, new = match.renamed[0]
        told.append(f"{len(match.renamed)} names of an older version changed, as {old} to {new}")
    if left_out:
        told.append(f"left out: {_some(left_out)}")
    return [f"{source.name}: {'; '.join(told)}."] if told else []


def _groups(names: Iterable[str], prefix: str) -> list[str]:
    """Names up to the segment in which they leave the prefix, each once."""
    segments = prefix.split(".")
    groups = dict[str, None]()
    for name in names:
        split = name.split(".")
        shared = next((i for i, s in enumerate(split) if segments[i : i + 1] != [s]), 0)
        groups[".".join(split[: shared + 1])] = None
    return list(groups)


def _some(names: Iterable[str]) -> str:
    # A stable order, but for the counters, which tell least.
    listed = sorted(names, key=lambda name: name.endswith("num_batches_tracked"))
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(_short(name) for name in listed[:_SHOWN]) + more


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"...{name[-_LONGEST:]}"


def _shapes(match: Match, own: Mapping[str, Tensor]) -> str:
    return _some(
        f"{key} {tuple(match.weights[key].shape)} instead of {tuple(own[key].shape)}"
        for key in match.shapes
    )
