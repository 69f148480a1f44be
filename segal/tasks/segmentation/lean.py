"""A forward pass over an image so large that the network's own way would take too much memory.

Three things are done otherwise, and none of them changes a number beyond rounding. The encoder's
maps that the decoder does not read are dropped as soon as the encoder is done. The last layers that
see near only run over bands of rows, so that what lies between two of them is never held as a
whole; where they read a concatenation, that is made band by band, too. And nothing after the head
is run.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segal.candidates.evidence import Upsampling
from segal.functional.updates import receptive_radius
from segal.models.encoder_maps import dropping, spare_maps
from segal.models.noise import run_on_noise
from segal.models.tails import upsample
from segal.models.tracing import TailFinder

_BAND_BYTES = 32 << 20
"""About what the widest layer makes of a band of rows."""

_SPREAD_BYTES = 8 << 20
"""About what a band of logits at full resolution takes."""


class OtherwiseError(Exception):
    """A network runs otherwise on a large image than it did on noise."""


class _Done(Exception):
    """Ends the network's run where the rest of it is not wanted."""


class _Joins(TorchFunctionMode):
    """Watches concatenations along the channels.

    Args:
        postponed: Number of the one that is not made; what it would be of is kept, and a tensor of
            its shape that takes no memory stands in for it.
    """

    def __init__(self, postponed: int | None = None) -> None:
        super().__init__()
        self.postponed = postponed
        self.made: list[Tensor] = []
        self.parts: tuple[Tensor, ...] = ()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(zip(("tensors", "dim"), args, strict=False)) | dict(kwargs or {})
        if func is not torch.cat or set(given) != {"tensors", "dim"} or given["dim"] != 1:
            return func(*args, **(kwargs or {}))
        if len(self.made) == self.postponed:
            self.parts = tuple(given["tensors"])
            first = self.parts[0]
            channels = sum(part.shape[1] for part in self.parts)
            joined = first.new_zeros(1).expand(len(first), channels, *first.shape[2:])
        else:
            joined = func(*args, **(kwargs or {}))
        self.made.append(joined)
        return joined


@dataclass(frozen=True)
class SpreadLogits:
    """Logits of a large image, spread over its pixels when they are asked for.

    Attributes:
        low: (B, C, h, w), at the head's resolution.
        upsampling: How they are spread.
        size: (H, W) of the image.
    """

    low: Tensor
    upsampling: Upsampling
    size: tuple[int, int]

    def __getitem__(self, images: list[int]) -> "SpreadLogits":
        """Those of some of the batch's images."""
        return replace(self, low=self.low[images])

    def whole(self) -> Tensor:
        """(B, C, H, W)."""
        return upsample(self.low, self.upsampling)[..., : self.size[0], : self.size[1]]

    def bands(self) -> Iterator[Tensor]:
        """(B, C, rows, W) from the top to the bottom, one after another."""
        batch, channels = self.low.shape[:2]
        row_bytes = batch * channels * self.size[1] * self.low.element_size()
        rows = max(1, _SPREAD_BYTES // row_bytes)
        for top in range(0, self.size[0], rows):
            yield self._rows(top, min(top + rows, self.size[0]))

    def _rows(self, start: int, stop: int) -> Tensor:
        """Rows of `whole`: along the width first, then along the height, as torch does."""
        cells, (pixels, width) = self.low.shape[2], self.upsampling.size
        corners = self.upsampling.align_corners
        if tuple(self.low.shape[2:]) == self.upsampling.size:
            return self.low[:, :, start:stop, : self.size[1]]
        y = torch.arange(start, stop, dtype=torch.float32, device=self.low.device)
        if corners:
            source = y * ((cells - 1) / max(1, pixels - 1))
        else:
            source = ((y + 0.5) * (cells / pixels) - 0.5).clamp_(min=0)
        above = source.long().clamp_(max=cells - 1)
        below = (above + 1).clamp_(max=cells - 1)
        weight = (source - above)[:, None]
        first = int(above[0])
        read = self.low[:, :, first : int(below[-1]) + 1]
        wide = F.interpolate(read, (read.shape[2], width), mode="bilinear", align_corners=corners)
        wide = wide[..., : self.size[1]].to(torch.promote_types(wide.dtype, torch.float32))
        spread = wide[:, :, above - first] * (1 - weight) + wide[:, :, below - first] * weight
        return spread.to(self.low.dtype)


@dataclass(frozen=True)
class LeanPass:
    """How a network is run on a large image; `find_lean_pass` finds it.

    Attributes:
        network: The network, in `eval()` mode.
        layers: Its last layers, in the order that they run in; the last of them is the head.
        radius: How far their outputs depend on cells of their input.
        width: The most channels that is made of a cell.
        join: Number of the concatenation that they read, among all; None where they read none.
        spare: Positions of the encoder's maps that the decoder does not read.
        cells: Of their input along a side, for each pixel of the network's.
    """

    network: nn.Module
    layers: tuple[nn.Module, ...]
    radius: int
    width: int
    join: int | None
    spare: frozenset[int]
    cells: float

    def __call__(self, images: Tensor, *, features: bool) -> tuple[Tensor, Tensor | None]:
        """Runs the network without gradients, up to its head.

        Args:
            images: (B, 3, h, w), as the network takes them.
            features: Whether the head's input is wanted.

        Returns:
            The head's output (B, C, h', w'), and its input (B, D, h', w') if it is wanted.

        Raises:
            OtherwiseError: If the network runs otherwise on these images than it did on noise.
        """
        caught: list[Tensor] = []

        def stop(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            caught.append(inputs[0])
            raise _Done

        hook = self.layers[0].register_forward_pre_hook(stop)
        try:
            with torch.no_grad(), dropping(self.network, self.spare), _Joins(self.join) as joins:
                self.network(images)
        except _Done:
            pass
        finally:
            hook.remove()
        parts = joins.parts or tuple(caught)
        if not caught or (joins.parts and caught[0] is not joins.made[-1]):
            raise OtherwiseError
        caught.clear()
        joins.made.clear()
        # Of images in tiles, or scaled to a size of the network's own, this would be a part.
        found = (parts[0].shape[0], *parts[0].shape[2:])
        wanted = (len(images), *(side * self.cells for side in images.shape[2:]))
        if any(abs(n - n_wanted) >= 1 for n, n_wanted in zip(found, wanted, strict=True)):
            raise OtherwiseError
        # Nobody but these two names holds what the network made for its own use.
        alone = _holders((torch.empty(0),))[0]
        own = [
            n == alone and not part._is_view() and part.is_contiguous()
            for n, part in zip(_holders(parts), parts, strict=True)
        ]
        with torch.no_grad():
            return self._in_bands(parts, own, features=features)

    def _in_bands(
        self, parts: Sequence[Tensor], own: Sequence[bool], *, features: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Runs the last layers over bands of rows of what they read.

        Args:
            parts: (B, D_i, h, w), which they read side by side.
            own: Which of them may be written over.
            features: Whether the head's input is wanted.
        """
        batch, _, height, width = parts[0].shape
        rows = max(1, _BAND_BYTES // (batch * self.width * width * parts[0].element_size()))
        low: Tensor | None = None
        kept: Tensor | None = None
        above: Tensor | None = None
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            below = torch.cat([part[:, :, top : bottom + self.radius] for part in parts], 1)
            window = below if above is None else torch.cat([above, below], 2)
            start = window.shape[2] - below.shape[2]
            inside = slice(start, start + bottom - top)
            # What the next band sees of this one, before that is written over.
            above = window[:, :, max(0, inside.stop - self.radius) : inside.stop].clone()
            for layer in self.layers[:-1]:
                window = layer(window)
            if features:
                if kept is None:
                    kept = _room(parts, window, own)
                kept[:, :, top:bottom] = window[:, :, inside]
            output = self.layers[-1](window)
            if low is None:
                low = output.new_empty(batch, output.shape[1], height, width)
            low[:, :, top:bottom] = output[:, :, inside]
        assert low is not None
        return low, kept


def _room(parts: Sequence[Tensor], like: Tensor, own: Sequence[bool]) -> Tensor:
    """Where features can be kept: in the place of what they are made of, if there is room."""
    depth = like.shape[1]
    for part, free in zip(parts, own, strict=True):
        if free and part.shape[1] >= depth and part.dtype == like.dtype:
            return part[:, :depth]
    return like.new_empty(len(like), depth, *parts[0].shape[2:])


def _holders(parts: Sequence[Tensor]) -> list[int]:
    """How many hold each of some tensors, counted alike for all."""
    return [sys.getrefcount(part) for part in parts]


def find_lean_pass(finder: TailFinder) -> LeanPass | None:
    """How a network is run on large images; None where its last layers see far.

    It is tried on noise, and found only if it gives the same as the network.

    Args:
        finder: Of the network.
    """
    layers = finder.last_layers()
    spare = spare_maps(finder.network, finder.spec)
    for start, first in enumerate(layers):
        chain = layers[start:]
        if not isinstance(first, nn.Conv2d) or (radius := _radius(first, chain)) is None:
            continue
        made = [layer.out_channels for layer in chain if isinstance(layer, nn.Conv2d)]
        width = max(first.in_channels, *made)
        join, cells = _read_by(finder, first)
        found = LeanPass(finder.network, tuple(chain), radius, width, join, spare, cells)
        return found if _same_on_noise(finder, found) else None
    return None


def _radius(first: nn.Conv2d, chain: Sequence[nn.Module]) -> int | None:
    try:
        with torch.no_grad():
            return receptive_radius(nn.Sequential(*chain), first.in_channels, first.weight)
    except Exception:  # the layers' own, which may not take so small a map
        return None


def _read_by(finder: TailFinder, first: nn.Module) -> tuple[int | None, float]:
    """What a module is given: the number of the concatenation that made it; cells for a pixel."""
    found: list[int] = []
    sides: list[int] = []
    with _Joins() as joins:

        def look(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            found.extend(i for i, made in enumerate(joins.made) if made is inputs[0])
            sides.append(inputs[0].shape[-1])

        hooks = [
            finder.network.register_forward_pre_hook(
                lambda _m, given: sides.__setitem__(slice(None), [given[0].shape[-1]])
            ),
            first.register_forward_pre_hook(look),
        ]
        try:
            run_on_noise(finder.network, finder.spec)
        finally:
            for hook in hooks:
                hook.remove()
    return found[0] if len(found) == 1 else None, sides[-1] / sides[0]


def _same_on_noise(finder: TailFinder, found: LeanPass) -> bool:
    """Whether a lean pass gives the head's input and output as the network does."""
    plain: list[tuple[Tensor, Tensor]] = []
    inputs: list[Tensor] = []
    head = found.layers[-1]
    hooks = [
        head.register_forward_hook(lambda _m, given, out: plain.append((given[0], out))),
        finder.network.register_forward_pre_hook(lambda _m, given: inputs.append(given[0])),
    ]
    try:
        run_on_noise(finder.network, finder.spec)
    finally:
        for hook in hooks:
            hook.remove()
    try:
        low, features = found(inputs[0], features=True)
    except Exception:  # the network's own, or that it runs otherwise
        return False
    assert features is not None
    pairs = zip((features, low), plain[-1], strict=True)
    return all(torch.allclose(one, other, rtol=1e-4, atol=1e-5) for one, other in pairs)
