"""What adding a candidate to the training set would do: the signals of ISAL and RALIF."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.errors import SegalError
from segal.functional.labels import count_labelled
from segal.models.wrapped import Model
from segal.signals.base import Direction, Meter, Need, Pooled, Workbench
from segal.signals.directional import Directional, DirectionalMeter
from segal.signals.directions import set_loss
from segal.signals.gradients import KeptMass
from segal.signals.labels import LabelRule, Pseudo, TopK, Truncated

Classes = Literal["single", "expectation", "truncated"]
Baseline = Literal["paper", "drop", "renorm"]


@dataclass(frozen=True)
class TopKDirectional(Directional):
    """`Directional` with the labels `TopK`, whose K is checked against the network's classes."""

    def check(self, model: Model) -> None:
        """Raises a SegalError if there are no such layers, or K is not below the number of classes.

        With all of them, every candidate's gradient sum_k p_k (p - e_k) is identically zero.
        """
        super().check(model)
        classes = model.spec.element_classes
        if isinstance(self.labels, TopK) and self.labels.count >= classes:
            raise SegalError(
                f"strategy.top_k: {self.labels.count} of {classes} classes",
                expected=f"from 1 to {classes - 1}: with every class weighted by its probability "
                "the gradient of a candidate is identically zero, and its influence rounding noise",
                got=str(self.labels.count),
                remedy="give a smaller strategy.top_k; the paper's is 1",
            )

    def prepare(self, bench: Workbench) -> DirectionalMeter:
        """Computes the direction, unless another signal of the pass has done so.

        Raises:
            SegalError: As `check`, or if the direction cannot be computed.
        """
        self.check(bench.model)
        return super().prepare(bench)


@dataclass(frozen=True)
class EstimatedLoss(Pooled):
    """The pool's mean loss as estimated after training on a candidate too (RALIF, eqs. 7-10).

    With class k for a candidate z it is `L_k(z) = L - g_{z,k}^T h / m`: L the pool's mean loss on
    the network's own labels, h the inverse Hessian times its gradient, m the number of labelled
    pixels. A region's gradient is the sum over its pixels; each pixel has its own classes.

    Attributes:
        direction: h.
        classes: `single` (eq. 7): the likeliest class; `expectation` (eq. 8): every class by its
            probability; `truncated` (eq. 9): those likelier than the threshold.
        threshold: tau of eq. 10; None for 4 / C.
        empty: As of `Truncated`: what a pixel without such a class gets.
        reduce: `sum` (the paper) or `mean` (the authors' code) over a pixel's kept classes.
        baseline: `paper` weighs L with the kept probability; `drop` leaves L out; `renorm` divides
            by the kept probability.
    """

    direction: Direction
    classes: Classes = "truncated"
    threshold: float | None = None
    empty: Literal["paper", "single"] = "single"
    reduce: Literal["sum", "mean"] = "sum"
    baseline: Baseline = "paper"
    of_labelled: ClassVar[bool] = False

    @property
    def column(self) -> str:
        """As `estimated_loss-truncated-4perC-single-sum-paper-influence-pool-last-...`."""
        parts: tuple[object, ...] = (self.classes,)
        if self.classes == "truncated":
            threshold = "4perC" if self.threshold is None else self.threshold
            parts = (*parts, threshold, self.empty, self.reduce)
        return "-".join(map(str, ("estimated_loss", *parts, self.baseline, self.direction.name)))

    @property
    def needs(self) -> frozenset[Need]:
        """What h is computed from, and what is labelled, whose pixels are counted."""
        return self.direction.needs | {Need("labelled", labels=False), Need("pool", labels=False)}

    @property
    def cross_entropy(self) -> Literal["differentiated", "minimised"]:
        """What the direction takes for granted."""
        return self.direction.cross_entropy

    def check(self, model: Model) -> None:
        """Raises a SegalError if there are no such layers, or the default threshold keeps none."""
        model.tail(self.direction.layers)
        self.labels(model.spec.element_classes)

    def prepare(self, bench: Workbench) -> "LossMeter":
        """Computes L, h and m.

        Raises:
            SegalError: If the default threshold would keep no class, or h cannot be computed.
        """
        labels = self.labels(bench.model.spec.element_classes)
        return LossMeter(
            signal=self,
            inner=Directional(self.direction, labels, "sum").prepare(bench),
            mass=KeptMass(labels).prepare(bench),
            pool_loss=set_loss(bench, "pool", self.direction.layers).mean,
            labelled=bench.once("labelled pixels", lambda: labelled_pixels(bench)),
        )

    def labels(self, num_classes: int) -> LabelRule:
        """The classes of a pixel, with their weights.

        Raises:
            SegalError: If the default threshold 4 / C is 1 or more, which no class is likelier
                than.
        """
        if self.classes == "single":
            return Pseudo()
        if self.classes == "expectation":
            return Truncated(0.0)
        threshold = 4.0 / num_classes if self.threshold is None else self.threshold
        if threshold >= 1.0:
            raise SegalError(
                f"strategy.tau: its default 4 / C is {threshold:g} with {num_classes} classes",
                expected="a threshold below 1, which a class can be likelier than",
                got="none given",
                remedy="give one, such as strategy.tau=0.4",
            )
        if self.baseline == "renorm":
            return Truncated(threshold, self.empty, "mass")
        return Truncated(threshold, self.empty, "count" if self.reduce == "mean" else "none")


def labelled_pixels(bench: Workbench) -> int:
    """Pixels that are labelled, without void ones where labels are known."""
    images = bench.images("labelled")
    if images.dataset is None:
        return sum(int(images.mask(i).sum()) for i in images.indices())
    return sum(count_labelled(images.label(i)) for i in images.indices())


@dataclass(frozen=True, eq=False)
class LossMeter:
    """Measures the estimated loss.

    Attributes:
        signal: What is measured.
        inner: Of g^T h, summed over a candidate.
        mass: Of the mean kept weight.
        pool_loss: L.
        labelled: m.
    """

    signal: EstimatedLoss
    inner: Meter
    mass: Meter
    pool_loss: float
    labelled: int

    @property
    def catch(self) -> tuple[str, ...]:
        """The tail whose input is read."""
        return (*self.inner.catch, *self.mass.catch)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64, in nats."""
        change = -self.inner.measure(evidence, units) / self.labelled
        if self.signal.baseline == "drop":
            return change
        return self.mass.measure(evidence, units) * self.pool_loss + change
