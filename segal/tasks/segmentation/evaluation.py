"""What segmentation is judged by: mIoU, from the confusion matrices of all images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.functional.metrics import (
    iou,
    mean_iou,
    mean_iou_of_overlaps,
    overlaps,
    pixel_accuracy,
)
from segal.tasks.evaluation import Counts, Evaluation, Metric, number_or_none

SAMPLED_PIXELS = 256
"""Pixels of every image whose prediction is kept, at fixed places."""


def _labelled(metrics: Mapping[str, Any]) -> list[Any]:
    return [sum(row) for row in metrics["confusion"]]


def _answered(metrics: Mapping[str, Any]) -> Counts:
    counts: Counts = np.array(metrics["confusion"], np.int64).sum(0)
    return counts


def sampled_places(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows and columns of these pixels of an image of (height, width)."""
    last = size[0] * size[1] - 1
    # In float32 the last place may be rounded up, past the last pixel of a large image.
    places = torch.linspace(0, last, SAMPLED_PIXELS).long().clamp(max=last)
    return places // size[1], places % size[1]


MIOU = Metric(
    key="miou",
    title="mIoU",
    class_key="iou",
    class_title="IoU",
    of_classes=True,
    absent="neither in the labels nor predicted",
    elements="pixels",
    regions="regions",
    clicks="polygon clicks",
    score=mean_iou_of_overlaps,
    by_image="",
    labelled=_labelled,
    answered=_answered,
    by_class=lambda metrics: zip(_labelled(metrics), _answered(metrics), strict=True),
    mean_key=None,
)


@dataclass(frozen=True)
class SegmentationMetrics:
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
    def of(cls, confusion: NDArray[np.int64], class_names: Sequence[str]) -> Self:
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
        """The mIoU."""
        return self.miou

    def as_dict(self) -> dict[str, object]:
        """As plain values, for JSON; NaN becomes None."""
        return {
            "miou": number_or_none(self.miou),
            "iou": {name: number_or_none(score) for name, score in self.iou.items()},
            "accuracy": number_or_none(self.accuracy),
            "absent": self.absent,
            "confusion": self.confusion.tolist(),
        }


@dataclass(frozen=True)
class SegmentationEvaluation(Evaluation):
    """What a network did on every image of a data set.

    Attributes:
        confusions: (N, C, C) int32 pixel counts (int64 where images are large), rows are the truth.
        labels: (N, K) uint8, the true class of K pixels spread evenly over each image; 255 is
            ignored.
        predictions: (N, K) uint8, the predicted class of the same pixels.
    """

    metric: ClassVar[Metric] = MIOU
    kind: ClassVar[str] = ""
    by_image: ClassVar[tuple[str, ...]] = ("confusions", "labels", "predictions")
    confusions: NDArray[np.integer]
    labels: NDArray[np.uint8]
    predictions: NDArray[np.uint8]

    @property
    def metrics(self) -> SegmentationMetrics:
        """Of the whole data set."""
        return SegmentationMetrics.of(self.confusions.sum(0, dtype=np.int64), self.class_names)

    @property
    def statistics(self) -> Counts:
        """(N, 2C): intersections and unions."""
        return overlaps(self.confusions)

    @property
    def truth(self) -> NDArray[Any]:
        """(N, C): an image has as many pixels of a class whatever predicts it."""
        truth: NDArray[Any] = self.confusions.sum(2, dtype=np.int64)
        return truth

    @property
    def answers(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Of the pixels that are kept."""
        counted = self.labels != 255
        return self.labels[counted], self.predictions[counted]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As its file has it."""
        return {
            "class_names": np.array(self.class_names),
            "images": np.array(self.images),
            "confusions": self.confusions,
            "labels": self.labels,
            "predictions": self.predictions,
        }

    @classmethod
    def of_arrays(cls, stored: Mapping[str, NDArray[Any]]) -> Self:
        """From what a file has."""
        return cls(
            class_names=tuple(stored["class_names"].tolist()),
            images=tuple(stored["images"].tolist()),
            confusions=stored["confusions"],
            labels=stored["labels"],
            predictions=stored["predictions"],
        )
