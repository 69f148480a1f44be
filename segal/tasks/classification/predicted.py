"""What a network says of a classified image, for people."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.pictures.contact_sheet import Line, Tone
from segal.tasks.classification.labels import UNKNOWN

_HALF = 0.5
_MOST_NAMED = 3
_NONE = "none of them"


@dataclass(frozen=True)
class Prediction:
    """What a network says of an image.

    Attributes:
        said: The classes that it predicts, with their probabilities in [0, 1], the likeliest
            first: one, or, where each class is told by itself, all above one half.
        then: The likeliest of the others; None where there is none.
        several: Whether each class is told by itself.
    """

    said: tuple[tuple[int, float], ...]
    then: tuple[int, float] | None
    several: bool

    def lines(self, names: Sequence[str]) -> list[Line]:
        """The prediction in a few lines, and what is likeliest of the rest in grey."""
        lines = [Line(names[c], f"{p:.2f}") for c, p in self.said[:_MOST_NAMED]]
        if len(self.said) > _MOST_NAMED:
            lines.append(Line(f"and {len(self.said) - _MOST_NAMED} more"))
        if not self.said:
            lines.append(Line(_NONE))
        if self.then is not None:
            lines.append(Line(names[self.then[0]], f"{self.then[1]:.2f}", "quiet"))
        return lines

    def fields(self, names: Sequence[str]) -> dict[str, str]:
        """The prediction as fields of a table; several classes stand between bars."""
        then = () if self.then is None else (self.then,)
        return {
            "predicted": "|".join(names[c] for c, _ in self.said),
            "probability": "|".join(f"{p:.6f}" for _, p in self.said),
            "next": "".join(names[c] for c, _ in then),
            "next_probability": "".join(f"{p:.6f}" for _, p in then),
        }

    def truth(self, label: NDArray[np.integer], names: Sequence[str]) -> list[Line]:
        """What the image is, and whether the network has it right.

        Args:
            label: Of the image, as `ClassifiedImages.read_label` gives it.
            names: Of the classes.

        Returns:
            Lines; none where nothing is known.
        """
        known = set(np.flatnonzero(label != UNKNOWN).tolist())
        if not known:
            return []
        true = self.true(label)
        said = {c for c, _ in self.said if c in known or not self.several}
        texts = [names[c] for c in true[:_MOST_NAMED]] or [_NONE]
        if len(true) > _MOST_NAMED:
            texts.append(f"and {len(true) - _MOST_NAMED} more")
        tone: Tone = "right" if set(true) == said else "wrong"
        return [Line(f"true: {text}", tone=tone) for text in texts]

    def true(self, label: NDArray[np.integer]) -> list[int]:
        """The classes of an image, as far as its label is known."""
        if self.several:
            return [int(c) for c in np.flatnonzero(label == 1)]
        return [int(c) for c in label[label != UNKNOWN]]


@torch.no_grad()
def predictions(logits: Tensor, num_classes: int) -> list[Prediction]:
    """What logits say of each image of a batch.

    Args:
        logits: (B, C, 1, 1), or (B, 2, C, 1) where each of C classes is told by itself.
        num_classes: C.
    """
    several = tuple(logits.shape[1:]) != (num_classes, 1, 1)
    spread = logits.float().softmax(1)
    probability = spread[:, 1, :, 0] if several else spread[:, :, 0, 0]
    ordered, classes = (x.tolist() for x in probability.sort(dim=1, descending=True, stable=True))
    found = []
    for of_image, order in zip(ordered, classes, strict=True):
        ranked = list(zip(order, of_image, strict=True))
        kept = sum(p > _HALF for p in of_image) if several else 1
        found.append(Prediction(tuple(ranked[:kept]), next(iter(ranked[kept:]), None), several))
    return found
