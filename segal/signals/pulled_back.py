"""What the gradient signals of a pass share: residuals at the resolution of the head.

Each label rule's residual is brought there once per batch, tile by tile (see
`segal.functional.tiles`), for all rules together while a tile's probabilities are in the cache;
region sizes that are made of the same tiles share it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.functional.gradients import (
    Kernel,
    chunk_size,
    cut_patches,
    entropy_residual,
    through_head,
    weight_gradients,
)
from segal.functional.tiles import Windows, tile_boxes, windows
from segal.models.tails import Tail
from segal.models.wrapped import FEATURES, Model
from segal.signals.base import Workbench
from segal.signals.labels import LabelRule, residual_and_mass

_KEPT = 1 << 25
"""Numbers of tiles' gradients that are kept for a batch: 128 MiB in float32."""


@dataclass(frozen=True)
class EntropyLoss:
    """In place of a label rule: the loss is the entropy of the prediction."""

    name: ClassVar[str] = "entropy"


Loss = LabelRule | EntropyLoss


@dataclass(frozen=True, eq=False)
class PulledBack:
    """Residuals of some losses at the head's resolution; one for all signals of a pass.

    Attributes:
        model: The network.
        losses: What is differentiated.
    """

    model: Model
    losses: list[Loss] = field(default_factory=list)

    @classmethod
    def of(cls, bench: Workbench, loss: Loss) -> "PulledBack":
        """That of a pass, with one more loss."""
        shared = bench.once(cls.__name__, lambda: cls(bench.model))
        if loss not in shared.losses:
            shared.losses.append(loss)
        return shared

    @property
    def kernel(self) -> Kernel:
        """Geometry of the head."""
        head = self.model.head
        return Kernel(head.kernel_size, head.stride, head.padding, head.dilation)

    def windows(self, evidence: Evidence, units: Units) -> Windows:
        """The cells that the tiles of the units depend on."""
        height, width = evidence.caught.shape[-2:]
        upsampling = evidence.upsampling
        return windows(
            tile_boxes(units.boxes(), units.excluded),
            self.kernel.output(height, width),
            upsampling.size,
            upsampling.align_corners,
        )

    def residual(self, evidence: Evidence, view: Windows, loss: Loss) -> Tensor:
        """(B, tiles, C, cells of a window), of each tile's summed loss."""
        return self._all(evidence, view)[self.losses.index(loss)]

    def mass(self, evidence: Evidence, view: Windows, loss: Loss) -> Tensor:
        """(B, tiles) float64 sums of the label rule's weights over each tile."""
        self._all(evidence, view)
        return evidence.once(("mass", self, view.tiling.key), _absent)[self.losses.index(loss)]

    def _all(self, evidence: Evidence, view: Windows) -> Tensor:
        """(losses, B, tiles, C, cells), computed once."""

        def compute() -> Tensor:
            logits = evidence.logits
            dtype = torch.promote_types(logits.dtype, torch.float32)
            batch, classes = logits.shape[:2]
            height, width = view.shape
            out = logits.new_empty(
                (len(self.losses), batch, len(view), classes, height * width), dtype=dtype
            )
            mass = out.new_zeros((len(self.losses), batch, len(view)), dtype=torch.float64)
            evidence.once(("mass", self, view.tiling.key), lambda: mass)
            for run in view.runs(chunk_size(classes, logits.device)):
                (y0, y1), (x0, x1) = run.rows, run.columns
                part = slice(run.first, run.first + run.tiles)
                for image in range(batch):  # one by one: a batch must not change a number
                    p = logits[image : image + 1, :, y0:y1, x0:x1].to(dtype).softmax(1)
                    for i, loss in enumerate(self.losses):
                        if isinstance(loss, EntropyLoss):
                            residual = entropy_residual(p)
                        else:
                            residual, weights = residual_and_mass(p, loss)
                            mass[i, image, part] = view.sums(weights[0, 0], run)
                        out[i, image, part] = view.pull_back(residual[0], run)
            return out

        return evidence.once(("pulled back", self, view.tiling.key), compute)


def _absent() -> Tensor:
    raise AssertionError("computed with the residuals")


def is_closed(tail: Tail) -> bool:
    """Whether gradients by a tail's parameters have a closed form here."""
    return tail.affine is not None and tail.affine.head.groups == 1


def note_general_route(bench: Workbench, layers: str) -> None:
    """Tells the user, once, that layers have no closed form."""
    bench.note(
        f"{bench.model.spec.architecture}: the layers {layers!r} have no closed form; "
        "derivatives take the general route, which is slower and just as exact."
    )


@dataclass(frozen=True, eq=False)
class TileGradients:
    """Gradients of summed losses by the parameters of a tail.

    In closed form, tile by tile, where there is one; else by a backward pass for each unit.

    Attributes:
        tail: The tail.
        shared: The residuals.
        names: Of the parameters that count, in the order of the tail's.
    """

    tail: Tail
    shared: PulledBack
    names: tuple[str, ...]

    @classmethod
    def of(cls, bench: Workbench, layers: str, loss: Loss, bias: bool = True) -> "TileGradients":
        """Those of a tail; without a closed form the user is told.

        Args:
            bench: Of the pass.
            layers: Name of the tail.
            loss: What is differentiated.
            bias: Whether biases count.

        Raises:
            SegalError: If the network has no such tail.
        """
        tail = bench.model.tail(layers)
        if not is_closed(tail):
            note_general_route(bench, layers)
        names = tuple(n for n in tail.parameters if bias or not n.endswith("bias"))
        return cls(tail, PulledBack.of(bench, loss), names)

    @property
    def catch(self) -> tuple[str, ...]:
        """Names of the tails whose input is read, or the features alone."""
        affine = self.tail.affine
        of_head = affine is not None and affine.pointwise is None
        return (FEATURES,) if of_head and is_closed(self.tail) else (self.tail.name,)

    @property
    def width(self) -> int:
        """Number of parameters that count."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """Numbers in each of them."""
        return [self.tail.parameters[name].numel() for name in self.names]

    def sums(self, evidence: Evidence, view: Windows, loss: Loss) -> Tensor:
        """(B, units, width) float64, gradients of the units' summed losses.

        Where the tiles' own fit into memory, they are kept for other sizes of units.
        """
        if not is_closed(self.tail):
            return self._by_backward(evidence, view, loss)
        tiling, batch = view.tiling, range(len(evidence.logits))
        numbers = len(batch) * len(view) * self.width
        if numbers <= _KEPT and tiling.count < len(view):

            def compute() -> Tensor:
                kept = evidence.logits.new_empty(
                    (len(batch), len(view), self.width),
                    dtype=self.shared.residual(evidence, view, loss).dtype,
                )
                for image in batch:
                    for part, tiles in self.chunks(evidence, view, loss, image):
                        kept[image, part] = torch.cat(tiles, 1)
                return kept

            key = ("tile gradients", self.tail.name, self.names, loss, view.tiling.key)
            return tiling.sum(evidence.once(key, compute))
        sums = evidence.logits.new_zeros(
            (len(batch), tiling.count, self.width), dtype=torch.float64
        )
        for image in batch:
            by_parameter = torch.split(sums[image], self.sizes, 1)
            for part, tiles in self.chunks(evidence, view, loss, image):
                for total, values in zip(by_parameter, tiles, strict=True):
                    tiling.add(total, values, part)
        return sums

    def _by_backward(self, evidence: Evidence, view: Windows, loss: Loss) -> Tensor:
        """As `sums`: the units' residuals, laid together, go back through any tail."""
        pulled, tiling = self.shared.residual(evidence, view, loss), view.tiling
        parameters = {name: self.tail.parameters[name].detach() for name in self.names}
        inputs = evidence.tail_input[self.tail.name].to(next(iter(parameters.values())))
        sums = pulled.new_empty((len(pulled), tiling.count, self.width), dtype=torch.float64)
        tiles = [tiling.part[tiling.box == row].tolist() for row in range(tiling.count)]
        for image, given in enumerate(inputs):
            low, backward, *_ = torch.func.vjp(partial(self.tail.low, given[None]), parameters)
            for row, own in enumerate(tiles):
                residual = torch.zeros_like(low[0], dtype=pulled.dtype)
                for tile in own:
                    view.add(residual, pulled[image, tile], tile)
                (found,) = backward(residual[None].to(low))
                sums[image, row] = torch.cat([found[name].flatten() for name in self.names])
        return sums

    def chunks(
        self, evidence: Evidence, view: Windows, loss: Loss, image: int
    ) -> Iterator[tuple[slice, list[Tensor]]]:
        """Tiles of an image in order, a few at a time, and their gradients by each parameter.

        For a tail that has a closed form.

        Yields:
            The tiles, and (tiles, numbers) for each of `names`.
        """
        pulled = self.shared.residual(evidence, view, loss)[image]
        kernel = self.shared.kernel
        features = evidence.caught[image].to(pulled)
        padded = features if kernel.pointwise else F.pad(features, kernel.margins)
        cells = view.shape[0] * view.shape[1]
        numbers = max(self.width, cells * kernel.cells * len(features))
        step = chunk_size(numbers, pulled.device)
        for first in range(0, len(view), step):
            last = min(first + step, len(view))
            shown = cut_patches(view, padded, first, last, kernel)
            parts = self._of_parameters(evidence, view, image, pulled[first:last], shown, first)
            yield slice(first, last), [parts[name]().flatten(1) for name in self.names]

    def _of_parameters(
        self,
        evidence: Evidence,
        view: Windows,
        image: int,
        pulled: Tensor,
        shown: Tensor,
        first: int,
    ) -> dict[str, Callable[[], Tensor]]:
        """How each parameter's gradient is computed, by its name."""
        affine = self.tail.affine
        assert affine is not None
        prefix = affine.head_prefix
        parts: dict[str, Callable[[], Tensor]] = {
            f"{prefix}weight": lambda: weight_gradients(pulled, shown),
            f"{prefix}bias": lambda: pulled.sum(2),
        }
        if affine.pointwise is None:
            return parts
        through = through_head(
            pulled,
            affine.head.weight.flatten(1).to(pulled),
            None if affine.scale is None else affine.scale.to(pulled),
            shown if affine.rectified else None,
        )
        inputs = evidence.tail_input[self.tail.name][image].to(pulled)
        seen = view.cut(inputs, first, first + len(pulled))
        parts[f"{affine.pointwise_prefix}weight"] = lambda: weight_gradients(through, seen)
        parts[f"{affine.pointwise_prefix}bias"] = lambda: through.sum(2)
        return parts
