"""What a few training steps on a region, with the network's own labels, do to other pixels."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from segal.errors import SegalError
from segal.evidence import Evidence, Units
from segal.functional.uncertainty import entropy
from segal.functional.updates import interval_windows, loss_change, region_loss, sgd_steps
from segal.image_sets import SetName
from segal.models.segmentation import Tail
from segal.regions import Box
from segal.signals.base import Meter, Need, Workbench
from segal.signals.directional import Directional
from segal.signals.directions import ReferenceGradient
from segal.signals.pixel_sample import (
    EVERY_PIXEL,
    WORKING_BYTES,
    Pixels,
    SampleSize,
    constants,
    free_bytes,
    in_float64,
    interpolations,
    keep_pixels,
    tail_radius,
    work_bytes,
)

Reduce = Literal["positive", "all"]
Gather = Callable[[Pixels, Tensor], Tensor]
"""Of some pixels and their logits (r, n, C) after r updates: (k, r) float64 to be summed up."""


NOT_MEASURED = float(torch.finfo(torch.float64).min)
"""What stands for S where a prefilter left it out."""


class Prefilter(NamedTuple):
    """Where S is worth its cost.

    Attributes:
        share: Of the candidates on offer that are measured, in (0, 1].
        threshold: Of S_a; those from there on are. It follows from the share and the candidates.
    """

    share: float
    threshold: float = 0.0


@dataclass(frozen=True)
class HoldoutErrorChange:
    """How much the loss on a labelled holdout rises by steps on a region (IWPS, eqs. 2-5).

    `S(R) = l_v(theta') - l_v(theta)`, where theta' is reached from theta by plain gradient descent
    on the region's mean cross-entropy with the network's own classes, which stay as they are. Exact
    for the whole image as input and the loss masked to the region.

    Attributes:
        layers: Name of the tail that is updated.
        steps: Of gradient descent.
        lr: Their size.
        reduce: Over the holdout's pixels: `positive` is the mean over those whose loss rose, 0
            where there is none (IWPS, section 4.2), `all` the mean over all.
        holdout: How many pixels of the reference set make up the holdout.
        prefilter: Where it is measured; None for everywhere.
    """

    layers: str = "last_two"
    steps: int = 3
    lr: float = 1e-4
    reduce: Reduce = "positive"
    holdout: SampleSize = EVERY_PIXEL
    prefilter: Prefilter | None = None
    needs: ClassVar[frozenset[Need]] = frozenset({Need("val", labels=True)})
    of_labelled: ClassVar[bool] = False

    @property
    def column(self) -> str:
        """As `error_change-last_two-3x0.0001-positive-2000`, with `-top0.2` where filtered."""
        update = f"{self.layers}-{self.steps}x{self.lr!r}"
        top = "" if self.prefilter is None else f"-top{self.prefilter.share!r}"
        return f"error_change-{update}-{self.reduce}-{self.holdout.name}{top}"

    @property
    def first_order(self) -> Directional:
        """Minus S_a (IWPS, eq. 10), what S over steps times their size tends to with `all`."""
        return Directional(ReferenceGradient("val", self.layers))

    def prepare(self, bench: Workbench) -> Meter:
        """Keeps the holdout.

        Raises:
            SegalError: If memory is too small for it, or the layers cannot be run by themselves.
        """
        updates = RegionUpdates.on(bench, "val", self.layers, self.holdout, self.steps, self.lr)
        first = 0 if self.reduce == "positive" else 2
        if self.prefilter is None:
            return _UpdateMeter(updates, error_changes, first)
        guide = self.first_order.prepare(bench)
        return _UpdateMeter(updates, error_changes, first, guide, self.prefilter.threshold)


@dataclass(frozen=True)
class UpdatedEntropy:
    """Mean entropy over a sample of the pool after steps on a region (expected-error reduction).

    Attributes:
        layers: Name of the tail that is updated.
        steps: Of gradient descent, with the network's own classes, which stay as they are.
        lr: Their size.
        sample: How many pixels of the pool it is measured on.
    """

    layers: str = "last_two"
    steps: int = 1
    lr: float = 1e-4
    sample: SampleSize = EVERY_PIXEL
    needs: ClassVar[frozenset[Need]] = frozenset({Need("pool", labels=False)})
    of_labelled: ClassVar[bool] = False

    @property
    def column(self) -> str:
        """As `updated_entropy-last_two-1x0.0001-2000`."""
        return f"updated_entropy-{self.layers}-{self.steps}x{self.lr!r}-{self.sample.name}"

    def prepare(self, bench: Workbench) -> Meter:
        """Keeps the sample.

        Raises:
            SegalError: If memory is too small for it, or the layers cannot be run by themselves.
        """
        updates = RegionUpdates.on(bench, "pool", self.layers, self.sample, self.steps, self.lr)
        return _UpdateMeter(updates, _entropies)


def error_changes(pixels: Pixels, after: Tensor) -> Tensor:
    """Sum and number of the changes of the loss that are rises, and sum and number of all."""
    assert pixels.labels is not None
    change = loss_change(pixels.before, after, pixels.labels)
    rises, number = change.clamp(min=0.0).sum(1), (change > 0).sum(1)
    return torch.stack([rises, number, change.sum(1), torch.full_like(number, change.shape[1])])


def _entropies(pixels: Pixels, after: Tensor) -> Tensor:
    """Sum and number of the entropies."""
    values = entropy(after.movedim(-1, 1))
    return torch.stack([values.sum(1), torch.full_like(values[:, 0], values.shape[1])])


@dataclass(frozen=True)
class _UpdateMeter:
    """The mean of what is gathered, 0 of nothing.

    Attributes:
        updates: The steps.
        gather: Of the pixels.
        first: Row of the sum in what is gathered; the number is the row after.
        guide: Measures minus S_a; None to measure everywhere.
        threshold: Of S_a.
    """

    updates: "RegionUpdates"
    gather: Gather
    first: int = 0
    guide: Meter | None = None
    threshold: float = 0.0

    @property
    def catch(self) -> tuple[str, ...]:
        return (self.updates.tail.name,)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64.

        Raises:
            SegalError: If an update leads out of range, or memory is too small for one region.
        """
        boxes: list[Box] = [(x0, y0, x1, y1) for x0, y0, x1, y1 in units.boxes().tolist()]
        shape = (len(evidence.logits), len(boxes))
        wanted = torch.ones(shape, dtype=torch.bool)
        if self.guide is not None:
            wanted = -self.guide.measure(evidence, units).cpu() >= self.threshold
        found = torch.full(shape, NOT_MEASURED, dtype=torch.float64)
        for image, chosen in enumerate(wanted):
            units_of_image = chosen.nonzero()[:, 0].tolist()
            if units_of_image:
                found[image, chosen] = self._image(evidence, image, boxes, units_of_image)
        return found

    def _image(
        self, evidence: Evidence, image: int, boxes: Sequence[Box], chosen: Sequence[int]
    ) -> Tensor:
        sums = self.updates.sums(evidence, image, [boxes[i] for i in chosen], self.gather).cpu()
        values = sums[self.first] / sums[self.first + 1].clamp(min=1.0)
        bad = (~values.isfinite()).nonzero()
        if len(bad):
            name = evidence.images[image] if evidence.images else f"image {image + 1}"
            raise SegalError(
                f"{name}, region {chosen[int(bad[0])] + 1} of {len(boxes)}: the updated network "
                "is not finite",
                expected=f"steps of {self.updates.lr!r} that leave the logits in range",
                got="NaN or infinity",
                remedy="give a smaller strategy.lr, or check the checkpoint",
            )
        return values


@dataclass(frozen=True, eq=False)
class RegionUpdates:
    """Steps of gradient descent on regions, and what comes of them at pixels that are kept.

    Attributes:
        tail: The layers that are updated, in double precision.
        steps: How many.
        lr: Their size.
        pixels: What is looked at afterwards.
        radius: Of the tail, in cells.
    """

    tail: Tail
    steps: int
    lr: float
    pixels: tuple[Pixels, ...]
    radius: int

    @classmethod
    def on(
        cls,
        bench: Workbench,
        of: SetName,
        layers: str,
        size: SampleSize,
        steps: int,
        lr: float,
    ) -> "RegionUpdates":
        """Keeps pixels of a set, and looks how far the tail reaches."""
        pixels = keep_pixels(bench, of, layers, size)
        tail = in_float64(bench.model.tail(layers))
        return cls(tail, steps, lr, pixels, tail_radius(tail, pixels[0].inputs.shape[1]))

    @torch.no_grad()
    def sums(self, evidence: Evidence, image: int, boxes: Sequence[Box], gather: Gather) -> Tensor:
        """What comes of the steps on each region.

        Args:
            evidence: Of a batch.
            image: Which of it.
            boxes: Regions of that image.
            gather: What to sum over the pixels.

        Returns:
            (k, len(boxes)) float64.

        Raises:
            SegalError: If memory is too small for the steps on one region.
        """
        parameters, found = constants(self.tail), []
        # All regions' parameters are held while the pixels are gone through.
        each = sum(value.numel() * value.element_size() for value in parameters.values())
        held = max(1, WORKING_BYTES // each)
        for start in range(0, len(boxes), held):
            updated = self._updated(evidence, image, boxes[start : start + held], parameters)
            parts = [self._gathered(pixels, updated, gather) for pixels in self.pixels]
            found.append(torch.stack(parts).sum(0))
        return torch.cat(found, 1)

    def _gathered(self, pixels: Pixels, updated: Mapping[str, Tensor], gather: Gather) -> Tensor:
        """(k, r): sums of one part of the pixels, for r updates."""
        batch, channels, *window = pixels.inputs.shape
        each = work_bytes(constants(self.tail), channels, batch * math.prod(window))
        each += 6 * pixels.before.numel() * pixels.before.element_size()
        count = max(1, WORKING_BYTES // each)
        sums = []
        for start in range(0, len(next(iter(updated.values()))), count):
            some = {name: value[start : start + count] for name, value in updated.items()}
            after = torch.func.vmap(lambda p: pixels.logits(self.tail, p))(some)
            sums.append(gather(pixels, after))
        return torch.cat(sums, 1)

    def _updated(
        self,
        evidence: Evidence,
        image: int,
        boxes: Sequence[Box],
        parameters: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """The parameters after the steps on each region, with the regions as first dimension."""
        like = next(iter(parameters.values()))
        inputs = evidence.tail_input[self.tail.name][image].to(like)
        labels = evidence.once(("pseudo_labels",), lambda: evidence.logits.argmax(1))[image]
        matrices = interpolations(inputs, evidence.upsampling)
        each = self._region_bytes(inputs, matrices, boxes, parameters, evidence.logits.shape[1])
        if each > free_bytes(inputs.device):
            raise SegalError(
                "too little memory to take a step on one region",
                expected=f"{each / 2**20:.0f} MiB",
                got=f"{free_bytes(inputs.device) / 2**20:.0f} MiB that are free",
                remedy="give a smaller --region, fewer strategy.holdout_pixels, "
                "or strategy.layers=last",
            )
        count = max(1, WORKING_BYTES // each)
        parts = [
            self._step(inputs, labels, matrices, boxes[start : start + count], parameters)
            for start in range(0, len(boxes), count)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parameters}

    def _region_bytes(
        self,
        inputs: Tensor,
        matrices: tuple[Tensor, Tensor],
        boxes: Sequence[Box],
        parameters: Mapping[str, Tensor],
        classes: int,
    ) -> int:
        """About what the steps on the largest region take."""
        sides = [max(b[3] - b[1] for b in boxes), max(b[2] - b[0] for b in boxes)]
        cells = math.prod(
            min(
                -(-side * matrix.shape[1] // matrix.shape[0]) + 2 + 2 * self.radius, matrix.shape[1]
            )
            for side, matrix in zip(sides, matrices, strict=True)
        )
        return region_bytes(parameters, inputs.shape[0], classes, cells, math.prod(sides))

    def _step(
        self,
        inputs: Tensor,
        labels: Tensor,
        matrices: tuple[Tensor, Tensor],
        boxes: Sequence[Box],
        parameters: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """The steps on some regions at once."""
        top, rows = interval_windows(matrices[0], [(b[1], b[3]) for b in boxes], self.radius)
        left, columns = interval_windows(matrices[1], [(b[0], b[2]) for b in boxes], self.radius)
        height, width = rows.shape[2], columns.shape[2]
        windows = torch.stack(
            [inputs[:, y : y + height, x : x + width] for y, x in zip(top, left, strict=True)]
        )
        targets = labels.new_zeros(len(boxes), rows.shape[1], columns.shape[1])
        weights = inputs.new_zeros(targets.shape)
        for i, (x0, y0, x1, y1) in enumerate(boxes):
            targets[i, : y1 - y0, : x1 - x0] = labels[y0:y1, x0:x1]
            weights[i, : y1 - y0, : x1 - x0] = 1.0 / ((y1 - y0) * (x1 - x0))

        def steps(window: Tensor, *of_region: Tensor) -> dict[str, Tensor]:
            def loss(current: Mapping[str, Tensor]) -> Tensor:
                outputs = self.tail.low(window[None], current)[0]
                return region_loss(outputs, *of_region)

            return sgd_steps(loss, parameters, self.steps, self.lr)

        updated: dict[str, Tensor] = torch.func.vmap(steps)(
            windows, rows, columns, targets, weights
        )
        return updated


def region_bytes(
    parameters: Mapping[str, Tensor], channels: int, classes: int, cells: int, pixels: int
) -> int:
    """About what the steps on one region take.

    Args:
        parameters: Of the tail.
        channels: Of its input.
        classes: Of the network.
        cells: Of the region's window.
        pixels: Of the region.
    """
    size = next(iter(parameters.values())).element_size()
    held = 3 * sum(value.numel() for value in parameters.values())
    return work_bytes(parameters, channels, cells) + (6 * classes * pixels + held) * size
