"""Signals of the gradients of regions' losses, in closed form wherever there is one."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.candidates.regions import split
from segal.models.wrapped import FEATURES, Model
from segal.signals.base import Need, Pooled, Workbench
from segal.signals.labels import LabelRule, Pseudo, residual
from segal.signals.pulled_back import EntropyLoss, Loss, PulledBack, TileGradients

_HELD = 1 << 24
"""Numbers of an image's gradients that are held for their norms: 128 MiB in float64."""


@dataclass(frozen=True)
class RegionGradient(Pooled):
    """Gradient of each candidate's mean loss by the last layers' parameters, as an embedding.

    For the head it is `G_R = mean of r [up(f); 1]^T`, with r the residual of the labels and f the
    head's input (for one element: BADGE, Ash et al., ICLR 2020, eq. 1).

    Attributes:
        layers: `last` (C * D numbers for a head of 1 x 1), `last_two` or any other tail.
        labels: Which labels the elements are given.
        bias: Whether biases count.
        of_labelled: Whether what is labelled already is measured, too.
    """

    layers: str = "last"
    labels: LabelRule = Pseudo()  # noqa: RUF009 (frozen)
    bias: bool = False
    of_labelled: bool = True
    needs: ClassVar[frozenset[Need]] = frozenset()
    cross_entropy: ClassVar[Literal["differentiated", "minimised"]] = "differentiated"

    @property
    def column(self) -> str:
        """As `gradient-last-pseudo`."""
        return f"gradient-{self.layers}-{self.labels.name}{'-bias' * self.bias}"

    def check(self, model: Model) -> None:
        """Raises a SegalError if the network has no such layers."""
        model.tail(self.layers)

    def prepare(self, bench: Workbench) -> "GradientMeter":
        """Finds the layers.

        Raises:
            SegalError: If the network has none of that name.
        """
        gradients = TileGradients.of(bench, self.layers, self.labels, self.bias)
        return GradientMeter(gradients, self.labels)


@dataclass(frozen=True, eq=False)
class GradientMeter:
    """Measures gradients.

    Attributes:
        gradients: Of tiles.
        loss: What is differentiated.
    """

    gradients: TileGradients
    loss: Loss

    @property
    def catch(self) -> tuple[str, ...]:
        """What of the last layers is read."""
        return self.gradients.catch

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units, parameters) float64, in the order of the tail's parameters."""
        view = self.gradients.shared.windows(evidence, units)
        sums = self.gradients.sums(evidence, view, self.loss)
        return sums.div_(view.tiling.pixels.to(sums.device)[:, None])


@dataclass(frozen=True)
class OutputGradient:
    """Gradient of each candidate's mean loss by the last layer's output, one for each image.

    Where all elements of an image have the same features f, the gradient by the layer's weight is
    the outer product of this and f: for an image that is one element, of `p - e` with its label e.

    Attributes:
        labels: Which labels the elements are given.
        of_labelled: Whether what is labelled already is measured, too.
    """

    labels: LabelRule = Pseudo()  # noqa: RUF009 (frozen)
    of_labelled: bool = True
    needs: ClassVar[frozenset[Need]] = frozenset()
    cross_entropy: ClassVar[Literal["differentiated", "minimised"]] = "differentiated"

    @property
    def column(self) -> str:
        """As `output_gradient-pseudo`."""
        return f"output_gradient-{self.labels.name}"

    def check(self, model: Model) -> None:
        """Raises a SegalError if the network has no last layer."""
        model.after_head()

    def prepare(self, bench: Workbench) -> "OutputMeter":
        """Finds the last layer.

        Raises:
            SegalError: If the network has none.
        """
        return OutputMeter(self.labels, bench.model.after_head(), bench.model.head.out_channels)


@dataclass(frozen=True, eq=False)
class OutputMeter:
    """Measures gradients by the last layer's output.

    Attributes:
        labels: The label rule.
        after: From the output (B, outputs, 1, 1) to the elements' logits; linear.
        outputs: How many there are.
    """

    labels: LabelRule
    after: torch.nn.Module
    outputs: int
    catch: ClassVar[tuple[str, ...]] = ()

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units, outputs) float64."""
        of_elements = residual(evidence, self.labels)
        output = of_elements.new_zeros((len(of_elements), self.outputs, 1, 1))
        _, backward = torch.func.vjp(self.after, output)[:2]
        found = []
        for x0, y0, x1, y1 in units.boxes().tolist():
            own = torch.zeros_like(of_elements)
            own[..., y0:y1, x0:x1] = of_elements[..., y0:y1, x0:x1]
            (by_output,) = backward(own)
            found.append(by_output.flatten(1).double() / ((y1 - y0) * (x1 - x0)))
        return torch.stack(found, 1)


@dataclass(frozen=True)
class GradientNorm(Pooled):
    """Norm of the gradient of each candidate's mean entropy by the last layers' parameters.

    The entropy's gradient by the logits is `-p * (log p + H)` (GradNorm as UWE, TMLR 2024,
    compares). All parameters of the layers count, biases too. The entropy stands for the loss of
    a candidate as the mean of the cross-entropy over its possible labels.

    Attributes:
        layers: `last`, `last_two` or any other tail.
    """

    layers: str = "last"
    needs: ClassVar[frozenset[Need]] = frozenset()
    of_labelled: ClassVar[bool] = False
    cross_entropy: ClassVar[Literal["differentiated", "minimised"]] = "differentiated"

    @property
    def column(self) -> str:
        """As `gradient_norm-last`."""
        return f"gradient_norm-{self.layers}"

    def check(self, model: Model) -> None:
        """Raises a SegalError if the network has no such layers."""
        model.tail(self.layers)

    def prepare(self, bench: Workbench) -> "NormMeter":
        """Finds the layers.

        Raises:
            SegalError: If the network has none of that name.
        """
        loss = EntropyLoss()
        return NormMeter(GradientMeter(TileGradients.of(bench, self.layers, loss), loss))


@dataclass(frozen=True, eq=False)
class NormMeter:
    """Measures norms of gradients.

    Attributes:
        gradient: Measures the gradients.
    """

    gradient: GradientMeter

    @property
    def catch(self) -> tuple[str, ...]:
        """What of the last layers is read."""
        return self.gradient.catch

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64; the gradients of many units are not held all at once."""
        count = max(1, _HELD // self.gradient.gradients.width)
        gradients = (self.gradient.measure(evidence, part) for part in split(units, count))
        return torch.cat([torch.linalg.vector_norm(g, dim=-1) for g in gradients], 1)


@dataclass(frozen=True)
class KeptMass(Pooled):
    """Mean over each candidate of what a label rule's weights sum to (RALIF's constant term).

    Attributes:
        labels: The label rule.
    """

    labels: LabelRule
    needs: ClassVar[frozenset[Need]] = frozenset()
    of_labelled: ClassVar[bool] = False

    @property
    def column(self) -> str:
        """As `kept_mass-truncated-0.4-single-none`."""
        return f"kept_mass-{self.labels.name}"

    def check(self, model: Model) -> None:
        """Raises a SegalError if the network has no last layer, whose cells the tiles are of."""
        model.tail("last")

    def prepare(self, bench: Workbench) -> "MassMeter":
        """Joins the signals that share a pass."""
        return MassMeter(PulledBack.of(bench, self.labels), self.labels)


@dataclass(frozen=True, eq=False)
class MassMeter:
    """Measures kept mass.

    Attributes:
        shared: What the gradient signals of a pass share.
        labels: The label rule.
    """

    shared: PulledBack
    labels: LabelRule
    catch: ClassVar[tuple[str, ...]] = (FEATURES,)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64."""
        view = self.shared.windows(evidence, units)
        mass = view.tiling.sum(self.shared.mass(evidence, view, self.labels))
        return mass / view.tiling.pixels.to(mass.device)
