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

from torch import nn

from segal.models.noise import NoHeadError
from segal.models.wrapped import Model
from segal.tasks.detection.detectors.base import Detector
from segal.tasks.detection.detectors.faster_rcnn import FasterRCNN
from segal.tasks.detection.detectors.fcos import FCOS
from segal.tasks.detection.detectors.retinanet import RetinaNet
from segal.tasks.detection.model import DetectionModel
from segal.tasks.detection.signals.branches import Branch, LastLayers
from segal.tasks.detection.signals.dense_layers import FCOSLayers, RetinaNetLayers
from segal.tasks.detection.signals.faster_rcnn_layers import FasterRCNNLayers

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
