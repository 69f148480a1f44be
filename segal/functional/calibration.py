"""The temperature at which a network is as sure as it is right (Guo et al., ICML 2017)."""

from collections.abc import Sequence

import torch
from torch import Tensor


class TemperatureSearch:
    """The expected calibration error of softmax(z / T) at several temperatures T, in one pass.

    Confidences are the largest probabilities, in bins of equal width that hold their upper end;
    the error is the mean over all elements of |share that is right - mean confidence| of their bin.

    Args:
        temperatures: Above 0.
        bins: How many, 15 as in the paper.

    Examples:
        >>> search = TemperatureSearch([0.5, 1.0, 2.0])
        >>> search.add(torch.tensor([[3.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 1]))
        >>> search.best()
        2.0
    """

    def __init__(self, temperatures: Sequence[float], bins: int = 15) -> None:
        self.temperatures = tuple(temperatures)
        # Of each bin: elements that are right, less their confidence.
        self._gaps = torch.zeros(len(self.temperatures), bins, dtype=torch.float64)
        self._count = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Takes elements in.

        Args:
            logits: (n, C).
            labels: (n,) int64 classes.
        """
        logits, bins = logits.double(), self._gaps.shape[1]
        self._count += len(logits)
        right = (logits.argmax(1) == labels).double()
        for row, temperature in enumerate(self.temperatures):
            confidence = (logits / temperature).softmax(1).amax(1)
            place = (confidence * bins).ceil().long().sub_(1).clamp_(0, bins - 1)
            self._gaps[row] += torch.bincount(place, right - confidence, minlength=bins).cpu()

    def errors(self) -> Tensor:
        """(temperatures,) float64 expected calibration errors; 0 without an element."""
        return self._gaps.abs().sum(1) / max(1, self._count)

    def best(self) -> float:
        """The temperature of the least error, the first among equals."""
        return self.temperatures[int(self.errors().argmin())]
