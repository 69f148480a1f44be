"""Uncertainty of boxes over passes with dropout of the class branch's last layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segal.candidates.evidence import Evidence, Units
from segal.errors import SegalError
from segal.functional.divergence import DisagreementSum
from segal.models.dropouts import active_dropouts
from segal.models.wrapped import Model
from segal.signals.base import Workbench
from segal.signals.dropout import DropoutValue, drawn
from segal.tasks.detection.detectors.base import RAW
from segal.tasks.detection.evidence import Detections, RawOutputs
from segal.tasks.detection.signals.class_layer import LayerAtBoxes, at_boxes, class_layers
from segal.tasks.detection.signals.elements import Measured, lay_out, of_detections


@dataclass(frozen=True)
class DropoutOfBoxes(Measured):
    """`DropoutValue` of detections: T passes of the class branch's last layers alone.

    The boxes are those of the pass without dropout, and stay where they are: what is passed again
    is the last layer of the class branch at each of them, with the dropout before it that
    `model.insert_dropout` puts there. Any other dropout stays off. Before a convolution whole
    channels of a level's map are dropped, so that the boxes of a level share a mask; before a
    linear layer each box has its own. Masks come from the pass's seed, the image's path, the
    dropout's name and call, and the number of the pass.
    """

    signal: DropoutValue

    def check(self, model: Model) -> None:
        """Raises a SegalError if there is no such dropout, or the network is not looked into."""
        _dropouts(model)

    def prepare(self, bench: Workbench) -> "_Meter":
        """Finds the layers.

        Raises:
            SegalError: As `check`.
        """
        layers = class_layers(bench.model)
        return _Meter(self.signal, layers, _dropouts(bench.model), bench.seed)


def _dropouts(model: Model) -> dict[nn.Module, tuple[str, float]]:
    """Name and p of the dropout before each class layer.

    Raises:
        SegalError: If one has none.
    """
    names = {module: name for name, module in active_dropouts(model.network).items()}
    found: dict[nn.Module, tuple[str, float]] = {}
    for layer in class_layers(model):
        dropout = dict(layer.named_children()).get("dropout")
        if dropout not in names:
            raise SegalError(
                f"{model.spec.architecture}: no dropout before the last layer of its class branch",
                expected="one with p above 0, for MC-dropout or BALD",
                got="none",
                remedy="train with model.insert_dropout=0.2, or use another strategy",
            )
        found[layer] = names[dropout], float(dropout.p)  # type: ignore[arg-type]
    return found


@dataclass(frozen=True, eq=False)
class _Meter:
    signal: DropoutValue
    layers: Sequence[nn.Conv2d | nn.Linear]
    dropouts: dict[nn.Module, tuple[str, float]]
    seed: int
    catch: ClassVar[tuple[str, ...]] = (RAW,)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64."""
        batch = of_detections(evidence)
        values = []
        for image, found in enumerate(batch.detections):
            key = ("dropout", self.signal.samples, self.seed, image)
            passes = partial(self._of_image, found, batch.raw[image], batch.images[image])
            both = batch.once(key, passes)
            index, slices = lay_out(found, units)
            own = both[0 if self.signal.name == "mc_dropout" else 1, index][None, None, None]
            if self.signal.reduction == "max":
                values.append(slices.pool_max(own)[..., 0].double())
                continue
            sums, counts = slices.pool(own)
            values.append(sums[..., 0] if self.signal.reduction == "sum" else sums[..., 0] / counts)
        return torch.cat(values)

    @torch.no_grad()
    def _of_image(self, found: Detections, raw: RawOutputs, path: str) -> Tensor:
        """(2, N): entropy of the mean, and that less the mean entropy."""
        calls = [one for one in at_boxes(self.layers, raw, found.source) if len(one.boxes)]
        total = DisagreementSum()
        width = raw.logits.shape[1]
        for number in range(self.signal.samples):
            logits = raw.logits.new_zeros(len(found), width, dtype=torch.float32)
            for one in calls:
                kept = one.inputs * self._mask(one, path, number)
                logits[one.boxes] = one.logits(kept, width).float()
            total.add(_log_probabilities(logits, raw.softmax).T)
        return torch.stack(total.entropies())

    def _mask(self, one: LayerAtBoxes, path: str, number: int) -> Tensor:
        """(1 or n, D, ...) factors of the layer's inputs."""
        name, p = self.dropouts[one.layer]
        rng = drawn(self.seed, path, number)(f"{name}:{one.call}")
        maps = isinstance(one.layer, nn.Conv2d)
        size = (1 if maps else len(one.inputs), one.inputs.shape[1])
        mask = torch.from_numpy(rng.random(size, np.float32) < 1.0 - p)
        mask = mask.reshape(*size, *(1,) * (one.inputs.ndim - 2))
        return mask.to(one.inputs) / max(1.0 - p, torch.finfo(one.inputs.dtype).tiny)


def _log_probabilities(logits: Tensor, softmax: bool) -> Tensor:
    """(N, C) as the logits of `DetectionEvidence`, of one class (N, 2), however small they are."""
    if softmax:
        every = logits.log_softmax(1)
        return every if every.shape[1] == 2 else every[:, 1:]
    return F.logsigmoid(torch.cat([logits, -logits], 1) if logits.shape[1] == 1 else logits)
