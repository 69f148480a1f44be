"""What classification is judged by: accuracy, or mean average precision where classes overlap.

Of every image only its own answer is kept, never a confusion matrix: a million images of a thousand
classes take megabytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from segal.functional.metrics import (
    average_precision,
    balanced_accuracy,
    pixel_accuracy,
    recall,
    share,
)
from segal.tasks.evaluation import (
    Counts,
    Evaluation,
    Metric,
    number_or_none,
    packed,
    unpacked,
)

_FIXED_POINT = 1 << 32
"""One, in statistics that are no counts: integers add up exactly, of a million images below 2^53"""


def _labelled(metrics: Mapping[str, Any]) -> list[Any]:
    counts = [0] * len(metrics["recall"])
    for truth, _, count in metrics["confusion_pairs"]:
        counts[truth] += count
    return counts


def _answered(metrics: Mapping[str, Any]) -> Counts:
    counts = np.zeros(len(metrics["recall"]), np.int64)
    for _, predicted, count in metrics["confusion_pairs"]:
        counts[predicted] += count
    return counts


ACCURACY = Metric(
    key="accuracy",
    title="accuracy",
    class_key="recall",
    class_title="Recall",
    of_classes=False,
    absent="not in the labels",
    elements="images",
    regions="images",
    clicks="clicks",
    score=share,
    by_image="",
    labelled=_labelled,
    answered=_answered,
    by_class=lambda metrics: zip(_labelled(metrics), _answered(metrics), strict=True),
    mean_key="balanced_accuracy",
)

MEAN_AVERAGE_PRECISION = Metric(
    key="map",
    title="mAP",
    class_key="ap",
    class_title="Average precision",
    of_classes=True,
    absent="no image is known to have them",
    elements="labels",
    regions="regions",
    clicks="clicks",
    score=share,
    by_image="The test over images is of the mean average precision of an image, over its classes: "
    "mAP is no sum over images. Its difference is in points of that.",
    labelled=lambda metrics: [metrics["positives"], metrics["negatives"]],
    answered=None,
    by_class=lambda metrics: zip(
        metrics["positives"], metrics.get("predicted", ()), strict="predicted" in metrics
    ),
    mean_key=None,
)


@dataclass(frozen=True)
class ClassificationMetrics:
    """How well a network does on a data set; from one confusion matrix of all its images.

    Attributes:
        accuracy: Share of the labelled images that are right, in [0, 1]; NaN if none is labelled.
        balanced_accuracy: Mean recall over the classes that are not absent; NaN if all are.
        recall: By class name; NaN for an absent class.
        absent: Number of classes without a labelled image.
        confusion: (C, C) image counts, rows are the truth.
    """

    accuracy: float
    balanced_accuracy: float
    recall: dict[str, float]
    absent: int
    confusion: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, confusion: NDArray[np.int64], class_names: Sequence[str]) -> Self:
        """Takes every metric from a (C, C) confusion matrix."""
        recalls = recall(confusion)
        return cls(
            accuracy=pixel_accuracy(confusion),
            balanced_accuracy=balanced_accuracy(confusion),
            recall=dict(zip(class_names, recalls.tolist(), strict=True)),
            absent=int(np.isnan(recalls).sum()),
            confusion=confusion,
        )

    @property
    def score(self) -> float:
        """The accuracy."""
        return self.accuracy

    def as_dict(self) -> dict[str, object]:
        """As plain values, for JSON; NaN becomes None.

        `confusion_pairs` are the entries of the matrix that are not zero, [true class, predicted
        class, images]: a thousand classes would make a million entries of it.
        """
        pairs = np.argwhere(self.confusion)
        counts = self.confusion[tuple(pairs.T)]
        return {
            "metric": ACCURACY.key,
            "accuracy": number_or_none(self.accuracy),
            "balanced_accuracy": number_or_none(self.balanced_accuracy),
            "recall": {name: number_or_none(score) for name, score in self.recall.items()},
            "absent": self.absent,
            "confusion_pairs": np.column_stack([pairs, counts]).tolist(),
        }


@dataclass(frozen=True)
class ClassificationEvaluation(Evaluation):
    """What a network said of every image.

    Attributes:
        labels: (N,) int32 true classes; -1 is not known and left out.
        predictions: (N,) int32 predicted classes.
    """

    metric: ClassVar[Metric] = ACCURACY
    kind: ClassVar[str] = "classification"
    by_image: ClassVar[tuple[str, ...]] = ("labels", "predictions")
    labels: NDArray[np.int32]
    predictions: NDArray[np.int32]

    def __post_init__(self) -> None:
        classes, shape = len(self.class_names), (len(self.images),)
        for name, least in (("labels", -1), ("predictions", 0)):
            values = getattr(self, name)
            if values.shape != shape or not np.issubdtype(values.dtype, np.integer):
                raise ValueError(f"{name}: expected {shape} integers, got {values.shape}")
            if values.size and not least <= values.min() <= values.max() < classes:
                raise ValueError(f"{name}: expected classes below {classes}")

    @property
    def metrics(self) -> ClassificationMetrics:
        """Of the whole data set."""
        size = len(self.class_names)
        truth, predicted = (answers.astype(np.int64) for answers in self.answers)
        pairs = np.bincount(truth * size + predicted, minlength=size * size)
        return ClassificationMetrics.of(pairs.reshape(size, size), self.class_names)

    @property
    def statistics(self) -> Counts:
        """(N, 2): right, and labelled."""
        labelled = self.labels >= 0
        right = labelled & (self.labels == self.predictions)
        return np.column_stack([right, labelled]).astype(np.int64)

    @property
    def truth(self) -> NDArray[Any]:
        """(N,) labels."""
        return self.labels

    @property
    def answers(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Of the labelled images."""
        labelled = self.labels >= 0
        return self.labels[labelled], self.predictions[labelled]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As its file has it."""
        return {
            "class_names": np.array(self.class_names),
            "images": packed(self.images),
            "labels": self.labels.astype(np.int32),
            "predictions": self.predictions.astype(np.int32),
        }

    @classmethod
    def of_arrays(cls, stored: Mapping[str, NDArray[Any]]) -> Self:
        """From what a file has."""
        labels = stored["labels"]
        return cls(
            class_names=tuple(stored["class_names"].tolist()),
            images=unpacked(stored["images"], len(labels)),
            labels=labels,
            predictions=stored["predictions"],
        )


@dataclass(frozen=True)
class MultilabelMetrics:
    """How well a network ranks the images of each class.

    Attributes:
        map: Mean of `ap` over the classes that are not absent, in [0, 1]; NaN if all are.
        ap: Average precision by class name; NaN for an absent class.
        image_ap: Mean over images of the average precision of an image over its classes; images
            without a yes are left out; NaN if all are.
        accuracy: Share of the known labels that are answered right; NaN if none is known.
        absent: Number of classes that no image is known to have.
        positives: (C,) images that are known to have the class.
        negatives: (C,) images that are known not to have it.
        predicted: (C,) images that the network says have it, whatever is known of them.
    """

    map: float
    ap: dict[str, float]
    image_ap: float
    accuracy: float
    absent: int
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    predicted: tuple[int, ...]

    @property
    def score(self) -> float:
        """The mAP."""
        return self.map

    def as_dict(self) -> dict[str, object]:
        """As plain values, for JSON; NaN becomes None."""
        return {
            "metric": MEAN_AVERAGE_PRECISION.key,
            "map": number_or_none(self.map),
            "ap": {name: number_or_none(score) for name, score in self.ap.items()},
            "image_ap": number_or_none(self.image_ap),
            "accuracy": number_or_none(self.accuracy),
            "absent": self.absent,
            "positives": list(self.positives),
            "negatives": list(self.negatives),
            "predicted": list(self.predicted),
        }


@dataclass(frozen=True)
class MultilabelEvaluation(Evaluation):
    """What a network said of every image and class.

    Attributes:
        labels: (N, C) int8: 1 for yes, 0 for no, -1 for not known and left out.
        scores: (N, C) float32 logits: above 0 the network says yes.
    """

    metric: ClassVar[Metric] = MEAN_AVERAGE_PRECISION
    kind: ClassVar[str] = "multilabel"
    by_image: ClassVar[tuple[str, ...]] = ("labels", "scores")
    labels: NDArray[np.int8]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        shape = len(self.images), len(self.class_names)
        for name, kind in (("labels", np.integer), ("scores", np.floating)):
            values = getattr(self, name)
            if values.shape != shape or not np.issubdtype(values.dtype, kind):
                raise ValueError(f"{name}: expected {shape} numbers, got {values.shape}")
        if not np.isin(self.labels, (-1, 0, 1)).all():
            raise ValueError("labels: expected 1, 0 and -1 only")
        if np.isnan(self.scores).any():
            raise ValueError("scores: expected numbers, got NaN")

    @property
    def metrics(self) -> MultilabelMetrics:
        """Of the whole data set."""
        precisions = average_precision(self.labels.T, self.scores.T)
        known = precisions[~np.isnan(precisions)]
        truth, predicted = self.answers
        right = np.array([(truth == predicted).sum(), truth.size], np.float64)
        return MultilabelMetrics(
            map=float(known.mean()) if known.size else float("nan"),
            ap=dict(zip(self.class_names, precisions.tolist(), strict=True)),
            image_ap=float(share(self.statistics.sum(0).astype(np.float64))),
            accuracy=float(share(right)),
            absent=int(np.isnan(precisions).sum()),
            positives=tuple((self.labels == 1).sum(0).tolist()),
            negatives=tuple((self.labels == 0).sum(0).tolist()),
            predicted=tuple((self.scores > 0).sum(0).tolist()),
        )

    @property
    def statistics(self) -> Counts:
        """(N, 2): the average precision of an image, and one where it has any; fixed point."""
        precisions = average_precision(self.labels, self.scores)
        known = ~np.isnan(precisions)
        sums = np.column_stack([np.where(known, precisions, 0), known]) * _FIXED_POINT
        statistics: Counts = np.rint(sums).astype(np.int64)
        return statistics

    @property
    def truth(self) -> NDArray[Any]:
        """(N, C) labels."""
        return self.labels

    @property
    def answers(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Yes (1) and no (0) of all known labels."""
        known = self.labels >= 0
        return self.labels[known], (self.scores[known] > 0).astype(np.int8)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As its file has it."""
        return {
            "class_names": np.array(self.class_names),
            "images": packed(self.images),
            "labels": self.labels.astype(np.int8),
            "scores": self.scores.astype(np.float32),
        }

    @classmethod
    def of_arrays(cls, stored: Mapping[str, NDArray[Any]]) -> Self:
        """From what a file has."""
        labels = stored["labels"]
        return cls(
            class_names=tuple(stored["class_names"].tolist()),
            images=unpacked(stored["images"], len(labels)),
            labels=labels,
            scores=stored["scores"],
        )
