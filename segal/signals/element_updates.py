"""A few training steps on images of one element, by hand: for many candidates at once.

The last layer maps an element's features f to logits `W f + b`. The gradient of its cross-entropy
by [W, b] is the outer product of r = p - y and [f; 1], so that all steps on one candidate stay in
the space of [f; 1]: with R the sum of the steps' lr r, W and b end as W - R f^T and b - R. While
they are taken the candidate's own logits fall by lr r (|f|^2 + 1) a step; those of an element with
features g have fallen by R (<f, g> + 1) at the end. Without a bias there is no 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence
from segal.functional.labels import predicted_classes
from segal.models.wrapped import Tail
from segal.signals.pixels import WORKING_BYTES, Pixels, PixelWindows, constants

_KEPT_BYTES = 4 * WORKING_BYTES  # of features in double precision, not to be converted every time
_GATHERED_BYTES = 16 << 20  # made of pixels at a time: more leaves the cache


@dataclass(frozen=True, eq=False)
class ElementUpdates:
    """Steps of plain gradient descent on the last layer, on one element and seen at others.

    Attributes:
        tail: A last layer without a kernel, in double precision.
        steps: How many.
        lr: Their size.
        pixels: What is looked at afterwards, each a cell of its own.
        features: (U, n) of each part of the pixels, in double precision unless they are too many.
    """

    tail: Tail
    steps: int
    lr: float
    pixels: tuple[PixelWindows, ...]
    features: tuple[Tensor, ...]

    @classmethod
    def of(
        cls, tail: Tail, steps: int, lr: float, pixels: Sequence[Pixels]
    ) -> "ElementUpdates | None":
        """None where the tail, or a pixel, is another than this takes."""
        cells = tuple(p for p in pixels if isinstance(p, PixelWindows) and _one_cell(p))
        affine = tail.affine
        if affine is None or not affine.linear or len(cells) < len(pixels):
            return None
        features = tuple(p.inputs.flatten(1).T for p in cells)
        if 8 * sum(x.numel() for x in features) <= _KEPT_BYTES:
            features = tuple(x.double() for x in features)
        return cls(tail, steps, lr, cells, features)

    def take(self, evidence: Evidence) -> bool:
        """Whether the images of a batch are one element each."""
        cells = evidence.tail_input[self.tail.name].shape[2:]
        return evidence.size == (1, 1) and tuple(cells) == (1, 1)

    @torch.no_grad()
    def sums(
        self,
        evidence: Evidence,
        images: Sequence[int],
        gather: Callable[[Pixels, Tensor], Tensor],
    ) -> Tensor:
        """What comes of the steps on each image.

        Args:
            evidence: Of a batch that this takes.
            images: Which of it.
            gather: As of `RegionUpdates.sums`.

        Returns:
            (k, len(images)) float64.
        """
        parameters = constants(self.tail)
        weight, bias = parameters["weight"].flatten(1), parameters.get("bias")
        one = 0.0 if bias is None else 1.0
        features = evidence.tail_input[self.tail.name][list(images)].flatten(1).to(weight)
        labels = evidence.once(("pseudo_labels",), lambda: predicted_classes(evidence.logits, 1))
        logits = features @ weight.T + (0.0 if bias is None else bias)
        moved = self._moved(logits, labels[list(images)].flatten(), features, one)
        found = [
            self._gathered(pixels, others, features, moved, one, gather)
            for pixels, others in zip(self.pixels, self.features, strict=True)
        ]
        return torch.stack(found).sum(0)

    def _moved(self, logits: Tensor, labels: Tensor, features: Tensor, one: float) -> Tensor:
        """(r, C), what the steps take off the bias, or would."""
        own = features.square().sum(1, keepdim=True) + one
        moved = torch.zeros_like(logits)
        target = torch.nn.functional.one_hot(labels, logits.shape[1])
        for _ in range(self.steps):
            step = self.lr * (logits.softmax(1) - target)
            moved += step
            logits = logits - own * step
        return moved

    def _gathered(
        self,
        pixels: PixelWindows,
        others: Tensor,
        features: Tensor,
        moved: Tensor,
        one: float,
        gather: Callable[[Pixels, Tensor], Tensor],
    ) -> Tensor:
        """(k, r): sums of one part of the pixels."""
        products = features @ others.to(features) + one
        count = max(1, _GATHERED_BYTES // (6 * pixels.before.numel() * 8))
        parts = []
        for start in range(0, len(features), count):
            some = slice(start, start + count)
            after = pixels.before - products[some, :, None] * moved[some, None, :]
            parts.append(gather(pixels, after))
        return torch.cat(parts, 1)


def _one_cell(pixels: PixelWindows) -> bool:
    return tuple(pixels.inputs.shape[2:]) == (1, 1) and bool((pixels.weights == 1).all())
