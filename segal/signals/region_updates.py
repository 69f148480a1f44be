"""A few training steps on each region of an image, and what is gathered from pixels after them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Upsampling
from segal.candidates.regions import Box
from segal.data.image_sets import SetName
from segal.errors import SegalError
from segal.functional.forward_mode import plain_attention
from segal.functional.labels import predicted_classes
from segal.functional.updates import (
    Strip,
    column_strips,
    interval_windows,
    linear_steps,
    region_loss,
    sgd_steps,
)
from segal.models.wrapped import Tail
from segal.signals.base import Workbench
from segal.signals.element_updates import ElementUpdates
from segal.signals.pixel_sample import SampleSize, free_bytes, keep_pixels
from segal.signals.pixels import (
    WORKING_BYTES,
    Pixels,
    constants,
    in_float64,
    interpolations,
    tail_radius,
    whole_run,
    work_bytes,
)

Gather = Callable[[Pixels, Tensor], Tensor]
"""Of some pixels and their logits (r, n, C) after r updates: (k, r) float64 to be summed up."""


@dataclass(frozen=True, eq=False)
class RegionUpdates:
    """Steps of gradient descent on regions, and what comes of them at pixels that are kept.

    Attributes:
        tail: The layers that are updated, in double precision.
        steps: How many.
        lr: Their size.
        pixels: What is looked at afterwards.
        radius: Of the tail, in cells; None where it must be run on whole images.
        elements: The same by hand, for images of one element; None where that cannot be.
    """

    tail: Tail
    steps: int
    lr: float
    pixels: tuple[Pixels, ...]
    radius: int | None
    elements: ElementUpdates | None = None

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
        """Keeps pixels of a set, and looks how far the tail reaches; once for a pass."""

        def compute() -> RegionUpdates:
            pixels = keep_pixels(bench, of, layers, size)
            tail = in_float64(bench.model.tail(layers))
            radius = tail_radius(tail, pixels[0].inputs.shape[1])
            elements = ElementUpdates.of(tail, steps, lr, pixels)
            return cls(tail, steps, lr, pixels, radius, elements)

        return bench.once(("region_updates", of, layers, size, steps, lr), compute)

    @torch.no_grad()
    @plain_attention()  # what is batched below runs over regions, which fused kernels cannot
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
        classes = evidence.once(("pseudo_labels",), lambda: predicted_classes(evidence.logits, 1))
        labels = classes[image]
        if self.tail.linear:
            return self._by_hand(inputs, labels, evidence.upsampling, boxes, parameters)
        sides = [max(b[3] - b[1] for b in boxes), max(b[2] - b[0] for b in boxes)]
        matrices, run = self._reached(inputs, evidence.upsampling, sides)
        each = run + step_bytes(parameters, evidence.logits.shape[1], math.prod(sides))
        if each > free_bytes(inputs.device):
            raise SegalError(
                "too little memory to take a step on one region",
                expected=f"{each / 2**20:.0f} MiB",
                got=f"{free_bytes(inputs.device) / 2**20:.0f} MiB that are free",
                remedy="give a smaller --region, or strategy.layers=last",
            )
        count = max(1, WORKING_BYTES // each)
        parts = [
            self._step(inputs, labels, matrices, boxes[start : start + count], parameters)
            for start in range(0, len(boxes), count)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parameters}

    def _by_hand(
        self,
        inputs: Tensor,
        labels: Tensor,
        upsampling: Upsampling,
        boxes: Sequence[Box],
        parameters: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """The steps on each region, of a tail that is linear in its input."""
        _, height, width = inputs.shape
        matrices = interpolations((height, width), upsampling, inputs.device)
        updated: dict[str, list[Tensor]] = {name: [] for name in parameters}
        weight = parameters["weight"]

        @cache  # regions of a grid share their sides
        def window(axis: int, start: int, stop: int) -> tuple[int, Tensor]:
            (first,), (matrix,) = interval_windows(matrices[axis], [(start, stop)], 0)
            return first, matrix

        @cache
        def strips(x0: int, x1: int, pixels: int) -> list[Strip]:
            return column_strips(window(1, x0, x1)[1], len(weight) * pixels)

        for x0, y0, x1, y1 in boxes:
            (top, rows), (left, columns) = window(0, y0, y1), window(1, x0, x1)
            steps = linear_steps(
                inputs[:, top : top + rows.shape[1], left : left + columns.shape[1]],
                labels[y0:y1, x0:x1],
                rows,
                strips(x0, x1, y1 - y0),
                weight.flatten(1),
                parameters.get("bias"),
                self.steps,
                self.lr,
            )
            updated["weight"].append(steps[0].view_as(weight))
            if steps[1] is not None:
                updated["bias"].append(steps[1])
        return {name: torch.stack(values) for name, values in updated.items()}

    def _reached(
        self, inputs: Tensor, upsampling: Upsampling, sides: Sequence[int]
    ) -> tuple[tuple[Tensor, Tensor], int]:
        """How outputs are spread over pixels, and the bytes of a run for a region of some sides."""
        if self.radius is None:
            cells, run = whole_run(self.tail, inputs)
            return interpolations(cells, upsampling, inputs.device), run
        channels, height, width = inputs.shape
        matrices = interpolations((height, width), upsampling, inputs.device)
        window = _window_cells(sides, matrices, self.radius)
        return matrices, work_bytes(constants(self.tail), channels, window)

    def _step(
        self,
        inputs: Tensor,
        labels: Tensor,
        matrices: tuple[Tensor, Tensor],
        boxes: Sequence[Box],
        parameters: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """The steps on some regions at once."""
        # A radius as large as the map leaves all of it.
        radius = max(m.shape[1] for m in matrices) if self.radius is None else self.radius
        top, rows = interval_windows(matrices[0], [(b[1], b[3]) for b in boxes], radius)
        left, columns = interval_windows(matrices[1], [(b[0], b[2]) for b in boxes], radius)
        windows = inputs.expand(len(boxes), *inputs.shape)
        if self.radius is not None:
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


def _window_cells(sides: Sequence[int], matrices: Sequence[Tensor], radius: int) -> int:
    """Cells of the window of a region of some (height, width), at most."""
    return math.prod(
        min(-(-side * matrix.shape[1] // matrix.shape[0]) + 2 + 2 * radius, matrix.shape[1])
        for side, matrix in zip(sides, matrices, strict=True)
    )


def step_bytes(parameters: Mapping[str, Tensor], classes: int, pixels: int) -> int:
    """About what the steps on one region take beside the run of the tail.

    Args:
        parameters: Of the tail.
        classes: Of the network.
        pixels: Of the region.
    """
    size = next(iter(parameters.values())).element_size()
    held = 3 * sum(value.numel() for value in parameters.values())
    return (6 * classes * pixels + held) * size
