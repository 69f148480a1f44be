"""Tries at which sizes a network runs: without computing anything, where that can be told so."""

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from segal.errors import SegalError
from segal.models.callables import CallableNetwork
from segal.models.noise import evaluating, floating

Size = tuple[int, int]

_SIDES = (64, 256)  # pixels that a trial's sides have at least
_SMALL = 128 * 128  # pixels up to which computing takes less time than running the shapes alone


def failure(network: nn.Module, channels: int, size: Size) -> str | None:
    """Why a network does not run at a size; None if it does.

    The shapes are run through it on torch's device `meta`, which takes a fraction of a second at
    any size. Where an operation is not written for it, of a function of the user's, and at a small
    size, the network is run in earnest.

    Args:
        network: It; left as it was.
        channels: Of its input.
        size: Height and width of its input.
    """
    if isinstance(network, CallableNetwork):
        return _failure(network, channels, size)
    try:
        copied = twin(network, None if size[0] * size[1] <= _SMALL else "meta")
    except Exception:  # whatever its parts raise that cannot be copied
        return _failure(network, channels, size)
    why = _failure(copied, channels, size)
    return _failure(network, channels, size) if why is not None and _of_meta(why) else why


def twin(network: nn.Module, device: str | None = None) -> nn.Module:
    """A copy of a network, for passes that leave no trace in it.

    On `meta` it has no values; where the network is, it has the parameters themselves.

    Args:
        network: It.
        device: Where the copy is; None for where the network is.
    """
    tensors: dict[int, Tensor] = {
        id(p): p if device is None else nn.Parameter(p.to(device), requires_grad=False)
        for p in network.parameters()
    }
    tensors |= {id(b): b.clone() if device is None else b.to(device) for b in network.buffers()}
    return copy.deepcopy(network, dict(tensors))


def _of_meta(why: str) -> bool:
    """Whether a failure may be of the device `meta` itself, not of the network."""
    return why.startswith("NotImplementedError") or "meta" in why.lower() or "device" in why


def _failure(network: nn.Module, channels: int, size: Size) -> str | None:
    """As `failure`, where the network is."""
    images = torch.zeros(1, channels, *size).to(floating(network))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), evaluating(network):
            network(images)
    except Exception as error:  # whatever the network's own code raises
        return f"{type(error).__name__}: {error}".split("\n")[0][:300]
    return None


def find_multiple(
    network: nn.Module, channels: int, multiples: Sequence[int], fixed: int | None, name: str
) -> int:
    """The first of some multiples at which a network runs, whatever the size.

    Args:
        network: It.
        channels: Of its input.
        multiples: Candidates; a single one is taken as it is.
        fixed: The side of the one square that it may be bound to, or None.
        name: Of the network, for messages.

    Returns:
        The multiple; `fixed` also where the network runs at that square only.

    Raises:
        SegalError: If it runs at none of them.
    """
    if len(multiples) == 1 and fixed is None:
        return multiples[0]
    reason = None
    for multiple in dict.fromkeys(multiples):
        for side in _SIDES:  # some refuse small images, which is said of the pool's own sizes
            least = -(-side // multiple)
            # Neighbours: not square, one of them odd, and no side is another's multiple.
            trials = ((least, least + 1), (least + 1, least + 2))
            sizes = [(down * multiple, right * multiple) for down, right in trials]
            why = next(filter(None, (failure(network, channels, size) for size in sizes)), None)
            if why is None:
                return multiple
            reason = reason or why
    if fixed is not None and failure(network, channels, (fixed, fixed)) is None:
        return fixed
    raise SegalError(
        f"{name}: runs at no size that was tried",
        expected="a network that runs at some size",
        got=str(reason),
        remedy="choose another encoder, or another architecture for it",
    )


def check_sizes(
    network: nn.Module, channels: int, multiple: int, sizes: Iterable[Size], name: str
) -> None:
    """Refuses a network that does not run at the sizes of the images, before work starts.

    Of many sizes the lowest, the highest, the narrowest and the widest are tried.

    Args:
        network: It.
        channels: Of its input.
        multiple: That the sides are padded to.
        sizes: Of its input, padded.
        name: Of the network, for messages.

    Raises:
        SegalError: With a size that it takes.
    """
    distinct = sorted(set(sizes))
    if len(distinct) > 4:
        by_width = sorted(distinct, key=lambda size: (size[1], size[0]))
        distinct = list(dict.fromkeys((distinct[0], by_width[0], distinct[-1], by_width[-1])))
    for size in distinct:
        why = failure(network, channels, size)
        if why is None:
            continue
        takes = _takes(network, channels, multiple, size)
        raise SegalError(
            f"{name}: does not run at {size[0]} x {size[1]} pixels, padded to multiples of "
            f"{multiple}",
            expected=takes or "a size that it runs at; none was found",
            got=why,
            remedy="choose another encoder or architecture, or another --input-scale or image size",
        )


def _takes(network: nn.Module, channels: int, multiple: int, size: Size) -> str | None:
    """What a network takes in place of a size."""

    def runs(height: int, width: int) -> bool:
        return failure(network, channels, (height, width)) is None

    if runs(multiple, multiple) and not runs(2 * multiple, 2 * multiple):
        return f"{multiple} x {multiple} pixels, which it is bound to"
    for factor in range(2, 17):
        larger = [max(side, factor * multiple) for side in size]
        if not runs(larger[0], larger[1]):
            continue
        if not runs(larger[0], larger[1] + multiple):
            return f"sizes such as {larger[0]} x {larger[1]} pixels"
        return f"sides of at least {factor * multiple} pixels"
    return None
