"""The last layers of a detector's branches, and the loss that it is trained by, image by image.

The outputs of these layers are linear in their parameters. So the derivative of an image's loss
along a vector of parameters is the loss's derivative by the outputs times the outputs of the same
layers with the vector in place of their parameters: no pass back through the network is needed.

The loss is the library's own, on a single image: which anchors, cells or proposals stand for which
box is decided by its own functions, and it is divided by what that image alone has.

- FCOS: focal loss of the classes, GIoU of the boxes, binary cross-entropy of the centerness, by the
  last three convolutions.
- RetinaNet: focal loss of the classes and L1 of the boxes (or what the network is set to), by the
  last convolutions of both.
- Faster R-CNN: binary cross-entropy of the objectness and smooth L1 of the RPN, cross-entropy and
  smooth L1 of the RoI head, by the last two layers of each. Training draws which anchors and
  proposals count, at random; here each counts with the probability that it is drawn, which is the
  mean of the loss over all draws. The proposals are those that the image is looked at by: the
  boxes themselves, which training adds to them, have no features there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.transform import resize_boxes

from segal.models.noise import NoHeadError
from segal.models.wrapped import Model
from segal.signals.base import Parameters
from segal.tasks.detection.detectors.base import Detector, Target
from segal.tasks.detection.detectors.faster_rcnn import FasterRCNN
from segal.tasks.detection.detectors.fcos import FCOS
from segal.tasks.detection.detectors.retinanet import RetinaNet
from segal.tasks.detection.evidence import RawOutputs
from segal.tasks.detection.model import DetectionModel

Outputs = Mapping[str, Tensor]
"""By branch, (A, K) numbers of every anchor, cell or proposal."""

_BETA = 1 / 9  # of smooth L1, as torchvision's RPN and RoI head have it


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
        loss: The sum of all losses of the positive and negative ones, each counting once.
        positive: (A,) bool, which stand for a box.
        negative: (A,) bool, which stand for the background; the rest do not count.
        anchors: (A, 4) where they are, in pixels of the resized image.
        drawn: How many are drawn in training, and the largest share of positives; None: all count,
            divided by the number of positives.
    """

    outputs: Outputs
    loss: Callable[[Outputs], Tensor]
    positive: Tensor
    negative: Tensor
    anchors: Tensor
    drawn: tuple[int, float] | None = None

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
        at = {name: value.detach().requires_grad_() for name, value in self.outputs.items()}
        with torch.enable_grad():
            found = torch.autograd.grad(
                self.loss(at), list(at.values()), create_graph=create_graph, materialize_grads=True
            )
        return dict(zip(at, found, strict=True)), at


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

    def compared(self, raw: RawOutputs, target: Target) -> list[Stage]:
        """`stages` of an image.

        Args:
            raw: Of the image.
            target: Its boxes, in its own pixels, and labels from 0.
        """
        assert raw.sizes is not None
        size, resized = raw.sizes
        like = raw.logits if raw.logits.dtype == torch.float64 else raw.logits.float()
        boxes = target["boxes"].to(like).reshape(-1, 4)
        first = 1 if raw.softmax else int(getattr(self.detector, "first", 0))
        labels = target["labels"].to(like.device) + first
        return self.stages(raw, {"boxes": resize_boxes(boxes, size, resized), "labels": labels})

    def gradient(self, raw: RawOutputs, target: Target) -> dict[str, Tensor]:
        """The gradient of an image's loss by the parameters, in their dtype.

        Args:
            raw: Of the image.
            target: As `compared` takes it.
        """
        found: dict[str, Tensor] = {}
        for stage in self.compared(raw, target):
            by_outputs, weights = self.by_layer(stage), stage.weights()[:, None]
            for branch in self.branches:
                if branch.name not in by_outputs:
                    continue
                own = {name: p.requires_grad_() for name, p in branch.parameters.items()}
                with torch.enable_grad():
                    outputs = branch.outputs(raw, own)
                    grads = torch.autograd.grad(
                        outputs, list(own.values()), (by_outputs[branch.name] * weights).to(outputs)
                    )
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


class _Matching:
    """A dense detector whose head, asked for the loss, says which box each anchor stands for."""

    def __init__(self, network: Any) -> None:
        self._network, self.head = network, self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def compute_loss(self, _targets: Any, _outputs: Any, _anchors: Any, matched: Any) -> Any:
        return matched


class _Dense(LastLayers):
    """Of RetinaNet and FCOS."""

    names: tuple[str, ...]

    def stages(self, raw: RawOutputs, target: Target) -> list[Stage]:
        outputs = {name: _in_single(raw.outputs[name]) for name in self.names}
        assert raw.anchors is not None
        anchors, compare = raw.anchors, type(self.network).compute_loss
        targets = [dict(target)]
        shape = {name: value[None] for name, value in outputs.items()}
        levels = self.levels(raw)
        matched = compare(_Matching(self.network), targets, shape, [anchors], *levels)[0]
        positive = matched >= 0
        divisor = positive.sum().clamp_min(1)

        def loss(at: Outputs) -> Tensor:
            batch = {name: value[None] for name, value in at.items()}
            parts = self.network.head.compute_loss(targets, batch, [anchors], [matched])
            total: Tensor = torch.stack(list(parts.values())).sum() * divisor
            return total

        return [Stage(outputs, loss, positive, matched == -1, anchors)]

    def levels(self, raw: RawOutputs) -> tuple[Any, ...]:
        """What the network's `compute_loss` takes beside what all take."""
        return ()


class RetinaNetLayers(_Dense):
    """Class and box convolution."""

    names = ("cls_logits", "bbox_regression")

    @property
    def branches(self) -> tuple[Branch, ...]:
        """See `LastLayers`."""
        heads = self.network.head
        classify, regress = heads.classification_head, heads.regression_head
        count = int(classify.num_classes)
        return (
            Branch("cls_logits", classify.cls_logits, "class", count, "diagonal"),
            Branch("bbox_regression", regress.bbox_reg, "box", 4, "blocks"),
        )


class FCOSLayers(_Dense):
    """Class, box and centerness convolution."""

    names = ("cls_logits", "bbox_regression", "bbox_ctrness")

    @property
    def branches(self) -> tuple[Branch, ...]:
        """See `LastLayers`."""
        heads = self.network.head
        classify, regress = heads.classification_head, heads.regression_head
        count = int(classify.num_classes)
        return (
            Branch("cls_logits", classify.cls_logits, "class", count, "diagonal"),
            Branch("bbox_regression", regress.bbox_reg, "box", 4, "blocks", rectified=True),
            Branch("bbox_ctrness", regress.bbox_ctrness, "box", 1, "diagonal"),
        )

    def levels(self, raw: RawOutputs) -> tuple[Any, ...]:
        """Cells of each level."""
        return (list(raw.levels),)


class FasterRCNNLayers(LastLayers):
    """The RPN's two convolutions of 1 x 1, and the RoI head's two linear layers."""

    @property
    def branches(self) -> tuple[Branch, ...]:
        """See `LastLayers`."""
        rpn, boxes = self.network.rpn.head, self.network.roi_heads.box_predictor
        return (
            Branch("objectness", rpn.cls_logits, "rpn", 1, "diagonal"),
            Branch("rpn_regression", rpn.bbox_pred, "rpn", 4, "diagonal"),
            Branch("logits", boxes.cls_score, "features", boxes.cls_score.out_features, "softmax"),
            Branch(
                "bbox_regression",
                boxes.bbox_pred,
                "features",
                boxes.bbox_pred.out_features,
                "diagonal",
            ),
        )

    def stages(self, raw: RawOutputs, target: Target) -> list[Stage]:
        """See `LastLayers`."""
        return [self._rpn(raw, target), self._roi(raw, target)]

    def _rpn(self, raw: RawOutputs, target: Target) -> Stage:
        rpn, anchors = self.network.rpn, raw.outputs["rpn_anchors"]
        (labels,), (boxes,) = rpn.assign_targets_to_anchors([anchors], [dict(target)])
        positive, negative = labels >= 1, labels == 0
        wanted = rpn.box_coder.encode([boxes[positive]], [anchors[positive]])[0]
        counted = positive | negative

        def loss(at: Outputs) -> Tensor:
            deltas = at["rpn_regression"][positive]
            said = at["objectness"][counted, 0]
            return F.smooth_l1_loss(deltas, wanted, beta=_BETA, reduction="sum") + (
                F.binary_cross_entropy_with_logits(said, labels[counted].to(said), reduction="sum")
            )

        names = ("objectness", "rpn_regression")
        outputs = {name: _in_single(raw.outputs[name]) for name in names}
        return Stage(outputs, loss, positive, negative, anchors, _drawn(rpn.fg_bg_sampler))

    def _roi(self, raw: RawOutputs, target: Target) -> Stage:
        heads, proposals = self.network.roi_heads, raw.anchors
        assert proposals is not None
        boxes = target["boxes"].to(proposals)
        (matched,), (labels,) = heads.assign_targets_to_proposals(
            [proposals], [boxes], [target["labels"]]
        )
        positive, negative = labels >= 1, labels == 0
        wanted = heads.box_coder.encode([boxes[matched[positive]]], [proposals[positive]])[0]
        counted = positive | negative

        def loss(at: Outputs) -> Tensor:
            deltas = at["bbox_regression"].reshape(len(proposals), -1, 4)
            deltas = deltas[positive, labels[positive]]
            return F.smooth_l1_loss(deltas, wanted, beta=_BETA, reduction="sum") + (
                F.cross_entropy(at["logits"][counted], labels[counted], reduction="sum")
            )

        outputs = {
            "logits": _in_single(raw.logits),
            "bbox_regression": _in_single(raw.outputs["bbox_regression"]),
        }
        return Stage(outputs, loss, positive, negative, proposals, _drawn(heads.fg_bg_sampler))


def _drawn(sampler: Any) -> tuple[int, float]:
    return int(sampler.batch_size_per_image), float(sampler.positive_fraction)


def _in_single(outputs: Tensor) -> Tensor:
    """In single precision at least: the losses and what they are compared with are in it."""
    return outputs if outputs.dtype == torch.float64 else outputs.float()


_FAMILIES: dict[type[Detector], type[LastLayers]] = {
    RetinaNet: RetinaNetLayers,
    FCOS: FCOSLayers,
    FasterRCNN: FasterRCNNLayers,
}


def last_layers(model: Model) -> LastLayers:
    """The last layers of a detector.

    Raises:
        NoHeadError: If it is of another family, or has layers of another kind.
    """
    detector = model.detector if isinstance(model, DetectionModel) else None
    family = _FAMILIES.get(type(detector)) if detector is not None else None
    if family is None:
        raise _refused(model, "another network")
    assert detector is not None
    found = family(detector)
    try:
        odd = [branch.name for branch in found.branches if not _is_plain(branch)]
    except AttributeError as error:  # a head of the user's own
        raise _refused(model, "a head of another form") from error
    if odd:
        raise _refused(model, f"other layers for {', '.join(odd)}")
    return found


def _is_plain(branch: Branch) -> bool:
    layer = branch.layer
    if type(layer) is nn.Linear:
        return branch.tower == "features"
    return (
        type(layer) is nn.Conv2d
        and branch.tower != "features"
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def _refused(model: Model, got: str) -> NoHeadError:
    return NoHeadError(
        f"{model.spec.architecture}: no last layers that a loss is differentiated by",
        expected="Faster R-CNN, RetinaNet or FCOS of torchvision, whose branches end in "
        "convolutions or linear layers",
        got=got,
        remedy="use one of these, or a strategy that measures boxes, such as uwe or entropy",
    )
