"""How often predictions change where features are dropped before the last layer."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.errors import SegalError
from segal.models.tails import Tail
from segal.models.wrapped import Model
from segal.signals.base import Need, Workbench
from segal.signals.dropout import drawn


@dataclass(frozen=True)
class FeatureDropout:
    """Over T passes with dropout on the features, the share that predicts another class.

    The features are what the last layer takes; each of their channels is dropped with probability
    p, the others are divided by 1 - p. All elements of an image share its masks, which are drawn
    from the pass's seed, the image's path and the number of the pass. A candidate's value is the
    mean over its elements and the passes, in [0, 1].

    Attributes:
        rate: p.
        samples: T.
    """

    rate: float = 0.75
    samples: int = 3
    needs: ClassVar[frozenset[Need]] = frozenset()
    of_labelled: ClassVar[bool] = False

    @property
    def column(self) -> str:
        """As `feature_dropout-0.75-3`."""
        return f"feature_dropout-{self.rate!r}-{self.samples}"

    def check(self, model: Model) -> None:
        """Raises a SegalError if the network has no last layer, or finds boxes."""
        if model.spec.answers.of == "objects":
            raise SegalError(
                "it drops features before the layer that classifies pixels or images",
                expected="a network that classifies pixels or images",
                got=f"a network for {model.spec.task}",
                remedy="choose another strategy, such as uwe",
            )
        model.tail("last")

    def prepare(self, bench: Workbench) -> "_Meter":
        """Finds the last layer.

        Raises:
            SegalError: As `check`.
        """
        self.check(bench.model)
        return _Meter(self, bench.model.tail("last"), bench.seed)


@dataclass(frozen=True, eq=False)
class _Meter:
    """A `FeatureDropout` that is ready."""

    signal: FeatureDropout
    tail: Tail
    seed: int

    @property
    def catch(self) -> tuple[str, ...]:
        """The last layer's input."""
        return (self.tail.name,)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64."""
        changed = evidence.once((self.signal, self.seed), lambda: self._changed(evidence))
        sums, counts = units.pool(changed)
        return sums[..., 0] / counts

    def _changed(self, evidence: Evidence) -> Tensor:
        """(B, 1, H, W) float64, the share of the passes that predict another class."""
        features = evidence.tail_input[self.tail.name]
        predicted = evidence.logits.argmax(1, keepdim=True)
        total = torch.zeros(predicted.shape, dtype=torch.float64, device=predicted.device)
        for number in range(self.signal.samples):
            masked = features * self._masks(evidence, features, number)
            logits = self.tail(masked, self.tail.parameters, evidence.size, evidence.upsampling)
            total += logits.argmax(1, keepdim=True) != predicted
        return total / self.signal.samples

    def _masks(self, evidence: Evidence, features: Tensor, number: int) -> Tensor:
        """(B, D, 1, 1): 0, or what keeps the mean."""
        kept = []
        for path in evidence.images:
            generator = drawn(self.seed, path, number)("features")
            uniform = torch.from_numpy(generator.random((features.shape[1],), np.float32))
            kept.append(uniform >= self.signal.rate)
        masks = torch.stack(kept)[:, :, None, None].to(features)
        return masks / (1 - self.signal.rate)
