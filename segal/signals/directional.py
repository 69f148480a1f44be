"""Directional derivatives of regions' losses: inner products of their gradients with a vector."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.functional.directional import directional_map
from segal.functional.gradients import chunk_size
from segal.functional.tiles import Windows
from segal.models.tails import Tail
from segal.models.wrapped import Model
from segal.signals.base import Direction, Need, Parameters, Pooled, Workbench
from segal.signals.labels import LabelRule, Pseudo, residual
from segal.signals.pulled_back import PulledBack, TileGradients, is_closed, note_general_route

UNSCORED = float(torch.finfo(torch.float64).max)
"""The value of a candidate that shows nothing to take a loss on: it ranks last, at either end."""

_FEW = 2
"""Directions of the same layers and labels up to which each takes its own tangent."""


@dataclass(frozen=True)
class Directional(Pooled):
    """Inner product of each candidate's gradient with a vector of parameters.

    It is the derivative of the candidate's loss along the vector. No region is differentiated:
    the logits' tangent along the vector is propagated once, at the head's resolution, and
    multiplied with the residuals there. Several directions by the same layers and labels take the
    tiles' gradients instead, where these have a closed form: one product for them all.

    Attributes:
        direction: The vector's recipe; its layers are what is differentiated by.
        labels: Which labels the elements are given.
        reduction: `mean` over a candidate's elements (per pixel), or `sum` (of its whole effect).
    """

    direction: Direction
    labels: LabelRule = Pseudo()  # noqa: RUF009 (frozen)
    reduction: Literal["mean", "sum"] = "mean"
    of_labelled: ClassVar[bool] = False

    @property
    def column(self) -> str:
        """As `directional-<direction>-pseudo`."""
        reduced = "" if self.reduction == "mean" else f"-{self.reduction}"
        return f"directional-{self.direction.name}-{self.labels.name}{reduced}"

    @property
    def needs(self) -> frozenset[Need]:
        """What the direction is computed from."""
        return self.direction.needs

    @property
    def cross_entropy(self) -> Literal["differentiated", "minimised"]:
        """What the direction takes for granted."""
        return self.direction.cross_entropy

    def check(self, model: Model) -> None:
        """Raises a SegalError if the network has no such layers."""
        model.tail(self.direction.layers)

    def prepare(self, bench: Workbench) -> "DirectionalMeter":
        """Computes the direction, unless another signal of the pass has done so.

        Raises:
            SegalError: If the network has no such layers, or the direction cannot be computed.
        """
        layers = self.direction.layers
        tail = bench.model.tail(layers)
        if tail.affine is None:
            note_general_route(bench, layers)
        shared = PulledBack.of(bench, self.labels)
        bundle = bench.once(("Bundle", layers), lambda: Bundle(tail, shared))
        bundle.add(self.direction, self.labels, bench)
        return DirectionalMeter(self, bundle)


@dataclass(frozen=True, eq=False)
class Bundle:
    """Directions of a pass that are of the same layers.

    Attributes:
        tail: The layers.
        shared: Residuals.
        vectors: By direction.
        wanted: By label rule, the directions that were asked for with it.
    """

    tail: Tail
    shared: PulledBack
    vectors: dict[Direction, Parameters] = field(default_factory=dict)
    wanted: dict[LabelRule, list[Direction]] = field(default_factory=dict)
    _closed: dict[LabelRule, TileGradients] = field(default_factory=dict)

    def add(self, direction: Direction, labels: LabelRule, bench: Workbench) -> None:
        """Makes room for a signal."""
        if direction not in self.vectors:
            self.vectors[direction] = direction.vector(bench)
        directions = self.wanted.setdefault(labels, [])
        if direction not in directions:
            directions.append(direction)
        if labels not in self._closed and is_closed(self.tail):
            self._closed[labels] = TileGradients.of(bench, self.tail.name, labels)

    def sums(
        self, evidence: Evidence, view: Windows, direction: Direction, labels: LabelRule
    ) -> Tensor:
        """(B, tiles) float64, of each tile's summed loss."""
        directions = self.wanted[labels]
        if labels in self._closed and len(directions) > _FEW:
            found = evidence.once(
                ("table", self, labels, view.tiling.key),
                lambda: self._of_table(evidence, view, labels),
            )
            return found[..., directions.index(direction)]
        return evidence.once(
            ("map", self, labels, direction, view.tiling.key),
            lambda: self._of_tangent(evidence, view, direction, labels),
        )

    def tangent(self, evidence: Evidence, direction: Direction) -> Tensor:
        """(B, C, h, w) tangent of the logits at the head's resolution, computed once."""

        def compute() -> Tensor:
            inputs = evidence.tail_input[self.tail.name]
            return self.tail.tangent(inputs, self.vectors[direction], evidence.features)

        return evidence.once(("tangent", self, direction), compute)

    def _of_tangent(
        self, evidence: Evidence, view: Windows, direction: Direction, labels: LabelRule
    ) -> Tensor:
        pulled = self.shared.residual(evidence, view, labels)
        tangent = self.tangent(evidence, direction).to(pulled)
        sums = pulled.new_empty(pulled.shape[:2], dtype=torch.float64)
        step = chunk_size(pulled.shape[2:].numel(), pulled.device)
        for image, of_image in enumerate(tangent):
            for first in range(0, len(view), step):
                part = slice(first, min(first + step, len(view)))
                products = view.cut(of_image, part.start, part.stop).mul_(pulled[image, part])
                sums[image, part] = products.sum((1, 2), dtype=torch.float64)
        return sums

    def _of_table(self, evidence: Evidence, view: Windows, labels: LabelRule) -> Tensor:
        """(B, tiles, directions wanted)."""
        gradients, directions = self._closed[labels], self.wanted[labels]
        batch = len(evidence.logits)
        sums = evidence.logits.new_empty((batch, len(view), len(directions)), dtype=torch.float64)
        along = [
            torch.stack([self.vectors[d][name].flatten() for d in directions], 1)
            for name in gradients.names
        ]
        for image in range(batch):
            for part, tiles in gradients.chunks(evidence, view, labels, image):
                pairs = zip(tiles, along, strict=True)
                sums[image, part] = torch.stack(
                    [(of_tiles @ vectors.to(of_tiles)).double() for of_tiles, vectors in pairs]
                ).sum(0)
        return sums


@dataclass(frozen=True, eq=False)
class DirectionalMeter:
    """Measures directional derivatives.

    Attributes:
        signal: What is measured.
        bundle: The directions that share the work.
    """

    signal: Directional
    bundle: Bundle

    @property
    def catch(self) -> tuple[str, ...]:
        """The tail whose input is read."""
        return (self.bundle.tail.name,)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64."""
        view = self.bundle.shared.windows(evidence, units)
        signal = self.signal
        tiles = self.bundle.sums(evidence, view, signal.direction, signal.labels)
        sums = view.tiling.sum(tiles)
        return sums if signal.reduction == "sum" else sums / view.tiling.pixels.to(sums.device)

    def element_map(self, evidence: Evidence) -> Tensor:
        """(B, H, W), the derivative of each element's own loss."""
        tangent = self.bundle.tangent(evidence, self.signal.direction)
        size = evidence.logits.shape[-2:]
        spread = self.bundle.tail.upsample(tangent, (size[0], size[1]), evidence.upsampling)
        own = residual(evidence, self.signal.labels)
        return directional_map(own, spread.to(own))
