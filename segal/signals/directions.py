"""Directions in the space of a tail's parameters: the gradient of a set's loss, and its influence.

With G_R the gradient of a region's loss, <G_R, v> along the first is minus the first-order change
of the set's loss by a step on the region (IWPS); along the second it is minus the change by adding
the region to the training set and training to the end (ISAL, RALIF).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segal.data.image_sets import SetName
from segal.data.pool import one_of
from segal.errors import SegalError
from segal.functional import inverse as inverses
from segal.functional.labels import VOID, has_class, predicted_classes
from segal.models.wrapped import Tail
from segal.signals.base import NOT_FINITE, Need, Parameters, Visit, Workbench
from segal.signals.curvature import LARGEST_MATRIX, Curvature, curvature
from segal.signals.pixels import constants

Method = Literal["cg", "cholesky", "lissa", "identity"]


class SetLoss(NamedTuple):
    """The cross-entropy of a set of pixels.

    Attributes:
        gradient: Of the mean, float64, by the names of the tail's parameters.
        mean: Over the pixels, in nats.
        pixels: How many they are.
    """

    gradient: Parameters
    mean: float
    pixels: int


def set_loss(bench: Workbench, of: SetName, layers: str) -> SetLoss:
    """The mean loss of a set and its gradient by a tail, over every pixel; made once for a pass.

    Labels are the true ones; of the pool, the network's own (its likeliest class).

    Raises:
        SegalError: If the set has no labelled pixel, or if the loss or gradient is not finite.
    """
    return bench.once(("set loss", of, layers), lambda: _measure(bench, of, layers))


def _measure(bench: Workbench, of: SetName, layers: str) -> SetLoss:
    tail = bench.model.tail(layers)
    total = {name: torch.zeros_like(p).double() for name, p in constants(tail).items()}
    loss, pixels = 0.0, 0
    for visit in bench.visit(of, [layers]):
        labels = _labels(visit, of)
        gradient, losses = _batch_loss(tail, visit, labels)
        for name in total:
            total[name] += gradient[name].double()
        loss += float(losses.sum())
        pixels += int(has_class(labels).sum())
        _check_finite(of, visit, gradient, losses)
    if pixels == 0:
        raise SegalError(
            f"the {of} set: not one {one_of(bench.unit)} to take a gradient on",
            expected=f"{bench.unit} with a class, within what is labelled",
            got=f"void {bench.unit} only",
            remedy="check the labels, and the list of ignored classes",
        )
    return SetLoss({name: part / pixels for name, part in total.items()}, loss / pixels, pixels)


def _labels(visit: Visit, of: SetName) -> Tensor:
    """(B, H, W) classes, `VOID` where a pixel is not of the set."""
    if of == "pool":
        return predicted_classes(visit.evidence.logits, 1).masked_fill_(~visit.mask, VOID)
    if visit.labels is None:
        raise SegalError(
            f"the {of} set: its labels are unknown",
            expected="labels, since a gradient is taken on them",
            got=f"images alone, such as {visit.evidence.images[0]}",
            remedy="give a labelled set of images",
        )
    labels: Tensor = visit.labels
    return labels


def _batch_loss(tail: Tail, visit: Visit, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Gradient of the summed loss of a batch, and the (B,) float64 sums of its images."""
    parameters = {name: p.requires_grad_() for name, p in constants(tail).items()}
    inputs = visit.evidence.tail_input[tail.name].to(next(iter(parameters.values())))
    size = (labels.shape[1], labels.shape[2])
    with torch.enable_grad():
        logits = tail(inputs, parameters, size, visit.evidence.upsampling)
        each = F.cross_entropy(logits, labels, ignore_index=VOID, reduction="none")
        losses = each.double().sum((1, 2))
        # A network may have parameters that its logits do not depend on.
        gradient = torch.autograd.grad(
            losses.sum(), list(parameters.values()), allow_unused=True, materialize_grads=True
        )
    return dict(zip(parameters, gradient, strict=True)), losses.detach()


def _check_finite(of: SetName, visit: Visit, gradient: dict[str, Tensor], losses: Tensor) -> None:
    if losses.isfinite().all() and all(part.isfinite().all() for part in gradient.values()):
        return
    broken = (~losses.isfinite()).nonzero()[:, 0].tolist() or range(len(losses))
    raise SegalError(
        f"the {of} set: the gradient of its loss is not finite",
        expected="finite logits and features from the network",
        got="NaN or infinity at " + ", ".join(visit.evidence.images[i] for i in broken),
        remedy=NOT_FINITE,
    )


@dataclass(frozen=True)
class ReferenceGradient:
    """The gradient of the mean loss of a set, over every pixel of it (IWPS, section 3.3).

    Attributes:
        of: The set; the labels of `pool` are the network's own.
        layers: Name of the tail.
    """

    of: SetName = "val"
    layers: str = "last"
    cross_entropy: ClassVar[Literal["differentiated", "minimised"]] = "differentiated"

    @property
    def name(self) -> str:
        """As `gradient-val-last`."""
        return f"gradient-{self.of}-{self.layers}"

    @property
    def needs(self) -> frozenset[Need]:
        """The set."""
        return frozenset({Need(self.of, labels=self.of != "pool")})

    def vector(self, bench: Workbench) -> Parameters:
        """The gradient, float64, on the network's device.

        Raises:
            SegalError: As `set_loss` does.
        """
        return set_loss(bench, self.of, self.layers).gradient


@dataclass(frozen=True)
class Inverse:
    """How a vector is multiplied with the inverse of a Hessian.

    Attributes:
        method: `cg`, conjugate gradients; `cholesky`, exact, for the last layer only; `lissa`, the
            stochastic recursion of ISAL, Algorithm 3; `identity`, the vector as it is.
        damping: Added to the Hessian's eigenvalues, at least 0; for `lissa`, d.
        tolerance: Of conjugate gradients: the residual, relative to the right-hand side.
        max_iterations: Of conjugate gradients.
        samples: Of `lissa`: steps of a chain.
        repeats: Of `lissa`: chains that are averaged.
        batch: Of `lissa`: pixels that a step draws.
        scale: Of `lissa`: s; the damping of the Hessian is d times s.
        corrected: Of `lissa`: divide by s at the end, which the paper does not.
        pixels: Of the set, that the Hessian is taken on; None for all of them.
    """

    method: Method = "cg"
    damping: float = 0.01
    tolerance: float = 1e-5
    max_iterations: int = 200
    samples: int = 250
    repeats: int = 4
    batch: int = 1
    scale: float = 1e4
    corrected: bool = False
    pixels: int | None = 10_000

    @property
    def name(self) -> str:
        """What changes the result, as `cg-0.01-10000-1e-05-200`."""
        parts: tuple[object, ...] = (self.damping, "all" if self.pixels is None else self.pixels)
        if self.method == "identity":
            parts = ()
        elif self.method == "cg":
            parts = (*parts, self.tolerance, self.max_iterations)
        elif self.method == "lissa":
            chain = (self.samples, self.repeats, self.batch, self.scale)
            parts = (*parts, *chain, "corrected" if self.corrected else "plain")
        return "-".join(map(str, (self.method, *parts)))

    def solve(self, hessian: Curvature, b: Tensor, bench: Workbench) -> Tensor:
        """The inverse of a Hessian times a vector.

        Args:
            hessian: Of P parameters.
            b: (P,) float64.
            bench: For its seed, and to tell the user where conjugate gradients end early.

        Returns:
            (P,) float64.

        Raises:
            SegalError: If the damped Hessian is singular, if it is too large for `cholesky`, or if
                `lissa` diverges.
        """
        try:
            if self.method == "cholesky":
                return inverses.cholesky(self._matrix(hessian, len(b), bench.unit), b, self.damping)
            if self.method == "lissa":
                return self._lissa(hessian, b, bench.seed)
            return self._conjugate_gradients(hessian, b, bench)
        except ValueError as error:
            raise SegalError(
                "the inverse of the Hessian cannot be taken",
                expected="a scale that no drawn Hessian's eigenvalue is twice of"
                if self.method == "lissa"
                else "a Hessian that is positive definite with its damping",
                got=str(error),
                remedy=f"give a larger scale, such as strategy.scale={10 * self.scale:g}"
                if self.method == "lissa"
                else "give more damping, such as strategy.damping="
                f"{10 * self.damping if self.damping else 0.01:g}",
            ) from error

    def _matrix(self, hessian: Curvature, parameters: int, unit: str) -> Tensor:
        matrix = hessian.matrix() if parameters <= LARGEST_MATRIX else None
        if matrix is None:
            every = f"every {one_of(unit)}"
            sample = every if self.pixels is None else f"a sample of {unit}"
            raise SegalError(
                "inverse: cholesky does not serve here",
                expected=f"the last layer, a 1 x 1 convolution of at most {LARGEST_MATRIX} "
                f"parameters, on a sample of {unit} (strategy.hessian_pixels)",
                got=f"{parameters} parameters, on {sample}",
                remedy="take strategy.inverse=cg",
            )
        return matrix

    def _conjugate_gradients(self, hessian: Curvature, b: Tensor, bench: Workbench) -> Tensor:
        found = inverses.conjugate_gradients(
            hessian.product, b, self.damping, self.tolerance, self.max_iterations
        )
        if not found.converged:
            reached = f"a residual of {found.residual:.1e} after {found.iterations} iterations"
            if self.damping == 0.0:
                raise ValueError(f"H is singular, or nearly so: {reached} at damping 0")
            bench.note(
                f"Conjugate gradients ended at {reached}; the tolerance is {self.tolerance:g}. "
                "More damping or strategy.max_iterations gets there."
            )
        return found.x

    def _lissa(self, hessian: Curvature, b: Tensor, seed: int) -> Tensor:
        def product(vector: Tensor, generator: torch.Generator) -> Tensor:
            rows = torch.randint(hessian.pixels, (self.batch,), generator=generator)
            return hessian.product(vector, rows.to(vector.device))

        return inverses.lissa(
            product,
            b,
            torch.Generator().manual_seed(seed),
            samples=self.samples,
            repeats=self.repeats,
            damping=self.damping,
            scale=self.scale,
            corrected=self.corrected,
        )


@dataclass(frozen=True)
class Influence:
    """H^-1 times the gradient of a set's mean loss (ISAL's s_test, RALIF's h).

    Attributes:
        of: The set whose loss it is.
        layers: Name of the tail.
        inverse: How H is inverted.
        hessian: The set on which H is the Hessian of the mean loss: what the network is trained on
            (ISAL, eq. 1), never the pool.
    """

    of: SetName = "val"
    layers: str = "last"
    inverse: Inverse = Inverse()
    hessian: Literal["labelled", "val"] = "labelled"

    @property
    def name(self) -> str:
        """As `influence-val-last-labelled-cg-0.01-10000-1e-05-200`."""
        return f"influence-{self.of}-{self.layers}-{self.hessian}-{self.inverse.name}"

    @property
    def needs(self) -> frozenset[Need]:
        """The set, and the one of the Hessian, whose labels do not matter."""
        needs = {Need(self.of, labels=self.of != "pool")}
        if self.inverse.method != "identity":
            needs.add(Need(self.hessian, labels=False))
        return frozenset(needs)

    @property
    def cross_entropy(self) -> Literal["differentiated", "minimised"]:
        """H is of a minimum of the mean loss on what is labelled."""
        return "differentiated" if self.inverse.method == "identity" else "minimised"

    def vector(self, bench: Workbench) -> Parameters:
        """The vector, float64, on the network's device; computed once for a pass.

        Raises:
            SegalError: As `set_loss`, `curvature` and `Inverse.solve` do.
        """
        return bench.once(self, lambda: self._compute(bench))

    def _compute(self, bench: Workbench) -> Parameters:
        gradient = set_loss(bench, self.of, self.layers).gradient
        if self.inverse.method == "identity":
            return gradient
        hessian = curvature(bench, self.hessian, self.layers, self.inverse.pixels)
        solution = self.inverse.solve(hessian, hessian.flatten(gradient), bench)
        return hessian.unflatten(solution)
