"""The last layers of a detector's class branch at boxes: what they take, and what they answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segal.errors import SegalError
from segal.models.wrapped import Model
from segal.tasks.detection.evidence import RawOutputs


@dataclass(frozen=True, eq=False)
class LayerAtBoxes:
    """One call of a class layer, at some boxes.

    Attributes:
        layer: A convolution of stride 1, or a linear layer.
        call: Number of the call of the layer in a pass.
        boxes: (n,) int64 which of the boxes asked for.
        inputs: (n, D, ...) what the layer's weight is multiplied with, of a convolution the cells
            that its kernel covers.
        anchors: (n,) int64 which of the anchors of a cell each is; 0 where there are none.
        count: Anchors of a cell.
    """

    layer: nn.Conv2d | nn.Linear
    call: int
    boxes: Tensor
    inputs: Tensor
    anchors: Tensor
    count: int

    def logits(self, inputs: Tensor, width: int) -> Tensor:
        """The layer's answers, without its dropout.

        Args:
            inputs: In place of its own, of their shape.
            width: How many logits there are of an anchor; the last ones of those that it has.

        Returns:
            (n, width) in the dtype of the layer.
        """
        weight, bias = self.layer.weight, self.layer.bias
        every = F.linear(inputs.to(weight).flatten(1), weight.flatten(1), bias)
        of_anchors = every.view(len(every), self.count, every.shape[1] // self.count)
        picked = of_anchors[torch.arange(len(every), device=every.device), self.anchors]
        return picked[:, -width:]


def class_layers(model: Model) -> list[nn.Conv2d | nn.Linear]:
    """The last layers of the class branch: one, or one for each level.

    Raises:
        NoHeadError: If the network is not looked into.
        SegalError: If a layer is of another kind.
    """
    layers = []
    for layer in model.last_layers():
        plain = isinstance(layer, nn.Linear) or (
            isinstance(layer, nn.Conv2d)
            and set(layer.stride) == {1}
            and layer.groups == 1
            and layer.padding_mode == "zeros"
            and not isinstance(layer.padding, str)
        )
        if not plain:
            raise SegalError(
                f"{model.spec.architecture}: its class layer is not one that segal looks into",
                expected="a linear layer, or a convolution of stride 1 and one group, zeros padded",
                got=type(layer).__name__,
                remedy="use another strategy",
            )
        layers.append(layer)
    return layers  # type: ignore[return-value]


def at_boxes(
    layers: Sequence[nn.Conv2d | nn.Linear], raw: RawOutputs, source: Tensor
) -> list[LayerAtBoxes]:
    """What class layers take at boxes.

    Args:
        layers: As of `class_layers`.
        raw: Of an image.
        source: (N,) what the boxes come from, as in `Detections`.

    Returns:
        Each call of a layer; every box is of one of them.
    """
    if "class" not in raw.towers:
        (layer,) = layers
        everyone = torch.arange(len(source), device=source.device)
        inputs = raw.outputs["features"][source]
        return [LayerAtBoxes(layer, 0, everyone, inputs, torch.zeros_like(source), 1)]
    shared, found, start = len(layers) == 1, [], 0
    for level, (tower, count) in enumerate(zip(raw.towers["class"], raw.levels, strict=True)):
        layer = layers[0 if shared else level]
        assert isinstance(layer, nn.Conv2d)
        boxes = torch.where((source >= start) & (source < start + count))[0]
        width = tower.shape[2]
        anchors = count // (tower.shape[1] * width)
        local = source[boxes] - start
        cells = torch.div(local, anchors, rounding_mode="floor")
        rows = torch.div(cells, width, rounding_mode="floor")
        inputs = _patches(tower, layer, rows, cells % width)
        call = level if shared else 0
        found.append(LayerAtBoxes(layer, call, boxes, inputs, local % anchors, anchors))
        start += count
    return found


def _patches(tower: Tensor, layer: nn.Conv2d, rows: Tensor, columns: Tensor) -> Tensor:
    """(n, D, kernel rows, kernel columns) of what n outputs of a convolution depend on."""
    down, across = (int(side) for side in layer.padding)
    padded = F.pad(tower, (across, across, down, down))
    y, x = (
        torch.arange(size, device=rows.device) * dilation
        for size, dilation in zip(layer.kernel_size, layer.dilation, strict=True)
    )
    patches = padded[:, (rows[:, None] + y)[:, :, None], (columns[:, None] + x)[:, None, :]]
    return patches.movedim(0, 1)
