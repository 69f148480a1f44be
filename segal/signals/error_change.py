"""What a few training steps on a region, with the network's own labels, do to other pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.candidates.regions import Box
from segal.errors import SegalError
from segal.functional.uncertainty import entropy
from segal.functional.updates import loss_change
from segal.models.wrapped import Model
from segal.signals.base import Meter, Need, Workbench
from segal.signals.directional import Directional
from segal.signals.directions import ReferenceGradient
from segal.signals.pixel_sample import EVERY_PIXEL, SampleSize
from segal.signals.pixels import Pixels
from segal.signals.region_updates import Gather, RegionUpdates

Reduce = Literal["positive", "all"]

GUIDE_PIXELS = 1000
"""Of the reference set, that a prefilter looks at: fewer miss some of the highest S."""

NOT_MEASURED = float(torch.finfo(torch.float64).min)
"""What stands for S where a prefilter left it out."""


class Prefilter(NamedTuple):
    """Where S is worth its cost.

    Attributes:
        share: Of the candidates on offer that are measured, in (0, 1].
        threshold: Of the guide; those from there on are. It follows from the share and the
            candidates.
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
    cross_entropy: ClassVar[Literal["differentiated", "minimised"]] = "differentiated"

    @property
    def column(self) -> str:
        """As `error_change-last_two-3x0.0001-positive-2000`, with `-top0.2` where filtered."""
        update = f"{self.layers}-{self.steps}x{self.lr!r}"
        top = "" if self.prefilter is None else f"-top{self.prefilter.share!r}"
        return f"error_change-{update}-{self.reduce}-{self.holdout.name}{top}"

    @property
    def guide(self) -> "Directional | HoldoutErrorChange":
        """What ranks as S does, at less cost.

        Over all pixels that is S_a (IWPS, eq. 10), which S over steps times their size tends to.
        It says little of the pixels whose loss rises; for these it is S itself, after one step, on
        few pixels.
        """
        size = self.holdout
        if size.per_class is None:
            if self.reduce == "all":
                return Directional(ReferenceGradient("val", self.layers))
            size = SampleSize(min(size.pixels or GUIDE_PIXELS, GUIDE_PIXELS))
        return replace(self, steps=1, holdout=size, prefilter=None)

    def guide_scores(self, values: Tensor) -> Tensor:
        """The guide, the higher the more promising, from what its column holds (minus S_a)."""
        return -values if isinstance(self.guide, Directional) else values

    def check(self, model: Model) -> None:
        """Raises a SegalError if the network has no such layers."""
        model.tail(self.layers)

    def prepare(self, bench: Workbench) -> Meter:
        """Keeps the holdout.

        Raises:
            SegalError: If memory is too small for it.
        """
        updates = RegionUpdates.on(bench, "val", self.layers, self.holdout, self.steps, self.lr)
        first = 0 if self.reduce == "positive" else 2
        if self.prefilter is None:
            return _UpdateMeter(updates, error_changes, first)
        guide, threshold = self.guide.prepare(bench), self.prefilter.threshold

        def promising(evidence: Evidence, units: Units) -> Tensor:
            return self.guide_scores(guide.measure(evidence, units)) >= threshold

        return _UpdateMeter(updates, error_changes, first, promising)


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
    cross_entropy: ClassVar[Literal["differentiated", "minimised"]] = "differentiated"

    @property
    def column(self) -> str:
        """As `updated_entropy-last_two-1x0.0001-2000`."""
        return f"updated_entropy-{self.layers}-{self.steps}x{self.lr!r}-{self.sample.name}"

    def check(self, model: Model) -> None:
        """Raises a SegalError if the network has no such layers."""
        model.tail(self.layers)

    def prepare(self, bench: Workbench) -> Meter:
        """Keeps the sample.

        Raises:
            SegalError: If memory is too small for it.
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
        promising: (B, units) bool, where to measure; None for everywhere.
    """

    updates: RegionUpdates
    gather: Gather
    first: int = 0
    promising: Callable[[Evidence, Units], Tensor] | None = None

    @property
    def catch(self) -> tuple[str, ...]:
        return (self.updates.tail.name,)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64.

        Raises:
            SegalError: If an update leads out of range, or memory is too small for one region.
        """
        # Once: it may guide another signal of the same pass.
        key = (self, units.boxes().tobytes())
        return evidence.once(key, lambda: self._measure(evidence, units))

    def _measure(self, evidence: Evidence, units: Units) -> Tensor:
        boxes: list[Box] = [(x0, y0, x1, y1) for x0, y0, x1, y1 in units.boxes().tolist()]
        shape = (len(evidence.logits), len(boxes))
        wanted = torch.ones(shape, dtype=torch.bool)
        if self.promising is not None:
            wanted = self.promising(evidence, units).cpu()
        found = torch.full(shape, NOT_MEASURED, dtype=torch.float64)
        elements = self.updates.elements
        if elements is not None and elements.take(evidence):
            images = wanted.any(1).nonzero()[:, 0].tolist()
            sums = elements.sums(evidence, images, self.gather)
            for image, value in zip(images, self._means(sums), strict=True):
                self._check(evidence, image, boxes, [0], value[None])
                found[image, wanted[image]] = value
            return found
        for image, chosen in enumerate(wanted):
            units_of_image = chosen.nonzero()[:, 0].tolist()
            if units_of_image:
                found[image, chosen] = self._image(evidence, image, boxes, units_of_image)
        return found

    def _image(
        self, evidence: Evidence, image: int, boxes: Sequence[Box], chosen: Sequence[int]
    ) -> Tensor:
        sums = self.updates.sums(evidence, image, [boxes[i] for i in chosen], self.gather)
        values = self._means(sums)
        self._check(evidence, image, boxes, chosen, values)
        return values

    def _means(self, sums: Tensor) -> Tensor:
        sums = sums.cpu()
        return sums[self.first] / sums[self.first + 1].clamp(min=1.0)

    def _check(
        self,
        evidence: Evidence,
        image: int,
        boxes: Sequence[Box],
        chosen: Sequence[int],
        values: Tensor,
    ) -> None:
        """Raises a SegalError where an update led out of range."""
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
