"""Semantic segmentation: every pixel is classified, rectangles of the image are bought."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Unpack

import numpy as np
from numpy.typing import NDArray

from segal.data.datasets import LabelledDataset
from segal.functional.metrics import confusion_matrix, iou, mean_iou, pixel_accuracy
from segal.models.wrapped import Model
from segal.tasks.base import PredictionOptions, Task


@dataclass(frozen=True)
class Metrics:
    """How well a network does on a data set; from one confusion matrix of all its pixels.

    Attributes:
        miou: Mean IoU in [0, 1] over the classes that are not absent; NaN if all are.
        iou: IoU by class name; NaN for an absent class.
        accuracy: Share of the labelled pixels that are right; NaN if none is labelled.
        absent: Number of classes that are neither in the labels nor predicted.
        confusion: (C, C) pixel counts, rows are the truth.
    """

    miou: float
    iou: dict[str, float]
    accuracy: float
    absent: int
    confusion: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, confusion: NDArray[np.int64], class_names: Sequence[str]) -> "Metrics":
        """Takes every metric from a (C, C) confusion matrix."""
        scores = iou(confusion)
        return cls(
            miou=mean_iou(confusion),
            iou=dict(zip(class_names, scores.tolist(), strict=True)),
            accuracy=pixel_accuracy(confusion),
            absent=int(np.isnan(scores).sum()),
            confusion=confusion,
        )

    @property
    def score(self) -> float:
        """What a run is judged by: the mean IoU."""
        return self.miou

    def as_dict(self) -> dict[str, object]:
        """As plain values, for JSON; NaN becomes None."""
        return {
            "miou": _number(self.miou),
            "iou": {name: _number(score) for name, score in self.iou.items()},
            "accuracy": _number(self.accuracy),
            "absent": self.absent,
            "confusion": self.confusion.tolist(),
        }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


class Segmentation(Task):
    """Every pixel is an element."""

    name: ClassVar[str] = "segmentation"
    default_region: ClassVar[str] = "512"

    def evaluate(
        self,
        model: Model,
        dataset: LabelledDataset,
        **options: Unpack[PredictionOptions],
    ) -> Metrics:
        """Runs the network on whole images and compares it with their labels.

        Args:
            model: The network; its mode (training or not) is the same afterwards.
            dataset: Images with labels.
            **options: As `predictions` takes them.

        Raises:
            SegalError: If the network and the data set have different classes, or a file is bad.
        """
        num_classes = model.spec.num_classes
        confusion = np.zeros((num_classes, num_classes), np.int64)
        for _, predicted, target in self.predictions(model, dataset, **options):
            confusion += confusion_matrix(predicted, target, num_classes).cpu().numpy()
        return Metrics.of(confusion, dataset.classes.names)
