"""Which of the maps that an encoder returns the rest of its network reads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from segal.models.noise import on_noise
from segal.models.spec import ModelSpec


@contextmanager
def dropping(network: nn.Module, spare: frozenset[int]) -> Iterator[None]:
    """Puts empty tensors in the place of some of the maps that the encoder returns."""
    encoder = getattr(network, "encoder", None)
    if not spare or not isinstance(encoder, nn.Module):
        yield
        return
    hook = encoder.register_forward_hook(
        lambda _m, _i, maps: [x.new_empty(0) if i in spare else x for i, x in enumerate(maps)]
    )
    try:
        yield
    finally:
        hook.remove()


def spare_maps(network: nn.Module, spec: ModelSpec) -> frozenset[int]:
    """Positions of the maps of a network's child `encoder` without which the logits are the same.

    Tried on noise; none where it returns something else than a list of maps.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module):
        return frozenset()
    returned: list[object] = []
    hook = encoder.register_forward_hook(lambda _m, _i, output: returned.append(output))
    try:
        with torch.no_grad():
            logits, side = on_noise(network, spec)
    finally:
        hook.remove()
    maps = returned[0] if returned else None
    if not isinstance(maps, list) or not all(isinstance(x, Tensor) for x in maps):
        return frozenset()
    spare: set[int] = set()
    for i in range(len(maps)):
        try:
            with dropping(network, frozenset({i})), torch.no_grad():
                without, _ = on_noise(network, spec, [side])
        except Exception:  # the decoder's own, whatever it makes of an empty map
            continue
        if torch.equal(without, logits):
            spare.add(i)
    return frozenset(spare)
