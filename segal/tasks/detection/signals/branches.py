"""Last layers of a detector's branches, and the parts of the loss that it is trained by.

See `last_layers`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.transform import resize_boxes

from segal.signals.base import Parameters
from segal.tasks.detection.detectors.base import Detector, Target
from segal.tasks.detection.evidence import RawOutputs

Outputs = Mapping[str, Tensor]
"""By branch, (A, K) numbers of every anchor, cell or proposal."""


@dataclass(frozen=True, eq=False)
class Branch:
    """A last layer.

    Attributes:
        name: What the loss calls its output.
        layer: It: a convolution, or linear.
        tower: Where the raw outputs have its input: a tower, or `features`.
        width: Numbers K that it says of each anchor, cell or proposal.
        curvature: What the loss's second derivative by the K numbers is: `diagonal`; a `softmax`'s;
            or `blocks`, any matrix (K, K), and zero but for positives.
        rectified: Whether a ReLU follows.
    """

    name: str
    layer: Any
    tower: str
    width: int
    curvature: Literal["diagonal", "softmax", "blocks"]
    rectified: bool = False

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Weight and bias, where it has one, by `<name>.weight` and `<name>.bias`; no graph."""
        return {f"{self.name}.{k}": p.detach() for k, p in self.layer.named_parameters()}

    def inputs(self, raw: RawOutputs) -> tuple[Tensor, ...]:
        """(D, h, w) of each level, or one (A, D), in the dtype of the parameters."""
        own = (raw.outputs["features"],) if self.tower == "features" else raw.towers[self.tower]
        return tuple(x.to(self.layer.weight) for x in own)

    def outputs(self, raw: RawOutputs, parameters: Parameters) -> Tensor:
        """What the layer makes with other parameters, before a ReLU.

        Args:
            raw: Of an image.
            parameters: Of the names and shapes of its own, among others.

        Returns:
            (A, K), in the order of the detector's own outputs.
        """
        weight, bias = parameters[f"{self.name}.weight"], parameters.get(f"{self.name}.bias")
        inputs = self.inputs(raw)
        if isinstance(self.layer, nn.Linear):
            return F.linear(inputs[0], weight, bias)
        parts = []
        for tower in inputs:
            layer = self.layer
            said = F.conv2d(tower[None], weight, bias, layer.stride, layer.padding, layer.dilation)
            by_anchor = said[0].view(-1, self.width, *said.shape[2:]).permute(2, 3, 0, 1)
            parts.append(by_anchor.reshape(-1, self.width))
        return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class Stage:
    """A part of a detector that compares anchors, cells or proposals with the boxes of an image.

    Attributes:
        outputs: Its branches', as the detector made them.
        loss: The sum of the losses of those positive and negative ones that a slice, or indices,
            choose, each counting once, from their outputs.
        positive: (A,) bool, which stand for a box.
        negative: (A,) bool, which stand for the background; the rest do not count.
        anchors: (A, 4) where they are, in pixels of the resized image.
        drawn: How many are drawn in training, and the largest share of positives; None: all count,
            divided by the number of positives.
        of_negatives: The derivative of `loss` by the outputs, as far as the negatives go, and zeros
            elsewhere, where it is known in closed form: most are negative, and this is many times
            faster than autograd.
    """

    outputs: Outputs
    loss: Callable[[Outputs, slice | Tensor], Tensor]
    positive: Tensor
    negative: Tensor
    anchors: Tensor
    drawn: tuple[int, float] | None = None
    of_negatives: Callable[[], dict[str, Tensor]] | None = None

    def shares(self, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """What each positive and each negative counts, in candidates that have so many of them.

        Args:
            positives: Their number, any shape, float64.
            negatives: Likewise.
        """
        if self.drawn is None:
            each = 1 / positives.clamp_min(1)
            return each, each
        size, share = self.drawn
        of_positives = positives.clamp_max(int(size * share))
        of_negatives = negatives.minimum(size - of_positives)
        count = (of_positives + of_negatives).clamp_min(1)
        return (
            of_positives / positives.clamp_min(1) / count,
            of_negatives / negatives.clamp_min(1) / count,
        )

    def weights(self) -> Tensor:
        """(A,) float64, what each counts in the whole image."""
        of_positive, of_negative = self.shares(
            self.positive.sum().double(), self.negative.sum().double()
        )
        return self.positive * of_positive + self.negative * of_negative

    def residuals(self, *, create_graph: bool = False) -> tuple[dict[str, Tensor], Outputs]:
        """The derivative of `loss` by the outputs, and these.

        Args:
            create_graph: Whether it can be differentiated again by them.
        """
        if create_graph or self.of_negatives is None:
            at = {name: value.detach().requires_grad_() for name, value in self.outputs.items()}
            return self._derivative(at, slice(None), create_graph=create_graph), at
        found, here = self.of_negatives(), self.positive.nonzero()[:, 0]
        at = {name: x[here].detach().requires_grad_() for name, x in self.outputs.items()}
        for name, part in self._derivative(at, here, create_graph=False).items():
            found[name][here] = part
        return found, self.outputs

    def _derivative(
        self, at: Outputs, here: slice | Tensor, *, create_graph: bool
    ) -> dict[str, Tensor]:
        with torch.enable_grad():
            found = torch.autograd.grad(
                self.loss(at, here),
                list(at.values()),
                create_graph=create_graph,
                materialize_grads=True,
            )
        return dict(zip(at, found, strict=True))


class LastLayers(ABC):
    """The last layers of one detector.

    Args:
        detector: It.
    """

    def __init__(self, detector: Detector) -> None:
        self.network: Any = detector.network
        self.detector = detector

    @property
    @abstractmethod
    def branches(self) -> tuple[Branch, ...]:
        """They, in the order of their parameters."""

    @abstractmethod
    def stages(self, raw: RawOutputs, target: Target) -> list[Stage]:
        """What the loss of an image is made of.

        Args:
            raw: Of the image.
            target: Its boxes, in pixels of the resized image, and labels as the network counts
                them.
        """

    @property
    def parameters(self) -> dict[str, Tensor]:
        """All parameters, by branch and name."""
        return {name: p for branch in self.branches for name, p in branch.parameters.items()}

    def compared(self, raw: RawOutputs, target: Target, known: Tensor | None = None) -> list[Stage]:
        """`stages` of an image.

        Args:
            raw: Of the image.
            target: Its boxes, in its own pixels, and labels from 0.
            known: (H, W) bool, the pixels of the image whose objects are all listed; None for all.
                What has its centre elsewhere does not count: nobody said that nothing is there.
        """
        assert raw.sizes is not None
        size, resized = raw.sizes
        like = raw.logits if raw.logits.dtype == torch.float64 else raw.logits.float()
        boxes = target["boxes"].to(like).reshape(-1, 4)
        first = 1 if raw.softmax else int(getattr(self.detector, "first", 0))
        labels = target["labels"].to(like.device) + first
        stages = self.stages(raw, {"boxes": resize_boxes(boxes, size, resized), "labels": labels})
        if known is None or bool(known.all()):
            return stages
        return [_of_known(stage, raw.scale, known) for stage in stages]

    def gradient(
        self, raw: RawOutputs, target: Target, known: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The gradient of an image's loss by the parameters, in their dtype.

        Args:
            raw: Of the image.
            target: As `compared` takes it.
            known: Likewise.
        """
        found: dict[str, Tensor] = {}
        for stage in self.compared(raw, target, known):
            found |= self.by_parameters(raw, self.by_layer(stage), stage.weights())
        return found

    def by_parameters(
        self, raw: RawOutputs, by_layer: Outputs, weights: Tensor
    ) -> dict[str, Tensor]:
        """Derivatives by the parameters of layers, in their dtype, from those by what they make.

        Args:
            raw: Of an image.
            by_layer: As of the method of that name, of all branches of a stage or some.
            weights: (A,) what each anchor, cell or proposal counts.
        """
        found: dict[str, Tensor] = {}
        for branch in self.branches:
            if branch.name not in by_layer:
                continue
            own = {name: p.requires_grad_() for name, p in branch.parameters.items()}
            with torch.enable_grad():
                outputs = branch.outputs(raw, own)
                slopes = (by_layer[branch.name] * weights[:, None]).to(outputs)
                grads = torch.autograd.grad(outputs, list(own.values()), slopes)
            found |= dict(zip(own, grads, strict=True))
        return found

    def by_layer(self, stage: Stage) -> dict[str, Tensor]:
        """Derivatives of a stage's loss by what its layers make, before a ReLU."""
        residuals, at = stage.residuals()
        for branch in self.branches:
            if branch.rectified and branch.name in residuals:
                residuals[branch.name] = residuals[branch.name] * (at[branch.name] > 0)
        return residuals

    def along(self, raw: RawOutputs, stage: Stage, vector: Parameters) -> Tensor:
        """(A,) float64: the derivative along a vector of each one's loss, counting once.

        Args:
            raw: Of the image.
            stage: Of the image.
            vector: Of the names, shapes and dtypes of `parameters`.
        """
        total = torch.zeros(len(stage.anchors), dtype=torch.float64, device=stage.anchors.device)
        by_outputs = self.by_layer(stage)
        for branch in self.branches:
            if branch.name in by_outputs:
                change = branch.outputs(raw, vector).mul_(by_outputs[branch.name])
                total += change.sum(1, dtype=torch.float64)
        return total


def _of_known(stage: Stage, scale: tuple[float, float], known: Tensor) -> Stage:
    height, width = known.shape
    corners = stage.anchors
    x = ((corners[:, 0] + corners[:, 2]) * (scale[0] / 2)).long().clamp(0, width - 1)
    y = ((corners[:, 1] + corners[:, 3]) * (scale[1] / 2)).long().clamp(0, height - 1)
    held = known.to(corners.device)[y, x]
    return replace(stage, positive=stage.positive & held, negative=stage.negative & held)


def in_single(outputs: Tensor) -> Tensor:
    """In single precision at least: the losses and what they are compared with are in it."""
    return outputs if outputs.dtype == torch.float64 else outputs.float()
