"""What detection is judged by: mean average precision of boxes, as COCO's own evaluator has it.

Precision is interpolated at 101 recalls, so that AP at an IoU of .5 differs a little from that of
the VOC challenge, which takes 11 of them, or all. All detections of an image count, not the 100
best of each class: images of cells, crowds or fields show more. Crowd regions, and difficult
objects, are ignored as COCO ignores crowds: what is found in one is neither right nor wrong.

Source: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from segal.functional.metrics import share
from segal.tasks.detection.matching import HIT, Matching, match, overlaps
from segal.tasks.detection.objects import Objects
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

BOX_PRECISION = Metric(
    key="map_50",
    title="mAP",
    class_key="ap",
    class_title="Average precision",
    of_classes=True,
    absent="no object",
    elements="pixels",
    regions="regions",
    clicks="boxes",
    score=share,
    by_image="The test over images is of the mean average precision of an image, over the classes "
    "that it shows: mAP is no sum over images. Its difference is in points of that.",
    labelled=lambda metrics: [metrics["objects"], metrics["crowds"], metrics["images"]],
    answered=None,
    by_class=lambda metrics: zip(metrics["objects"], metrics["found"], strict=True),
    mean_key=None,
    per_clicks=10_000,
)

COCO_PRECISION = replace(BOX_PRECISION, key="map_50_95", title="AP", class_key="ap_50_95")
"""The same over IoUs of .5, .55 to .95, which COCO calls AP; an image's own stays that at .5."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a detector found in an image.

    Attributes:
        boxes: (n, 4) float32, x0, y0, x1, y1 in pixels of the image, x0 <= x1 and y0 <= y1.
        classes: (n,) integers, 0 to C - 1.
        scores: (n,) float32, what detections are ranked by; equal ones in the order given.
    """

    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class DetectionMetrics:
    """How well a detector does on a data set.

    Attributes:
        map_50: Mean of `ap` over the classes that are not absent, in [0, 1]; NaN if all are.
        map_50_95: The same of `ap_50_95`.
        ap: Average precision at an IoU of .5 by class name; NaN for an absent class.
        ap_50_95: Its mean over IoUs of .5, .55 to .95.
        image_ap: Mean over images of the mean average precision of an image, at .5, over the
            classes that it shows; images without objects are left out; NaN if all are.
        absent: Number of classes without an object.
        objects: (C,) objects of each class, crowds left out.
        crowds: Crowd regions and difficult objects.
        found: (C,) detections of each class.
        images: How many were looked at.
        judged_by: `map_50`, or `map_50_95`.
    """

    map_50: float
    map_50_95: float
    ap: dict[str, float]
    ap_50_95: dict[str, float]
    image_ap: float
    absent: int
    objects: tuple[int, ...]
    crowds: int
    found: tuple[int, ...]
    images: int
    judged_by: str = BOX_PRECISION.key

    @property
    def score(self) -> float:
        """The one that runs are judged by."""
        return self.map_50_95 if self.judged_by == COCO_PRECISION.key else self.map_50

    def as_dict(self) -> dict[str, object]:
        """As plain values, for JSON; NaN becomes None.

        `objects_per_image` and `found_per_image` are means.
        """
        images = max(self.images, 1)
        return {
            "metric": self.judged_by,
            "map_50": number_or_none(self.map_50),
            "map_50_95": number_or_none(self.map_50_95),
            "ap": {name: number_or_none(ap) for name, ap in self.ap.items()},
            "ap_50_95": {name: number_or_none(ap) for name, ap in self.ap_50_95.items()},
            "image_ap": number_or_none(self.image_ap),
            "absent": self.absent,
            "objects": list(self.objects),
            "crowds": self.crowds,
            "found": list(self.found),
            "images": self.images,
            "objects_per_image": sum(self.objects) / images,
            "found_per_image": sum(self.found) / images,
        }


@dataclass(frozen=True)
class DetectionEvaluation(Evaluation):
    """What a detector found in every image, and what there is; see `of`.

    Attributes:
        found_counts: (N,) detections of each image; the rows of the next three are in this order.
        found_boxes: (M, 4) float32.
        found_classes: (M,) integers.
        found_scores: (M,) float32.
        object_counts: (N,) objects of each image; the rows of the next three likewise.
        object_boxes: (K, 4) float64.
        object_classes: (K,) integers.
        object_crowd: (K,) bool.
        image_ap: (N, 2) int64, as `statistics`, where it is known already.
    """

    metric: ClassVar[Metric] = BOX_PRECISION
    kind: ClassVar[str] = "detection"
    found_counts: NDArray[np.int64]
    found_boxes: NDArray[np.float32]
    found_classes: NDArray[np.int64]
    found_scores: NDArray[np.float32]
    object_counts: NDArray[np.int64]
    object_boxes: NDArray[np.float64]
    object_classes: NDArray[np.int64]
    object_crowd: NDArray[np.bool_]
    image_ap: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        count = len(self.images)
        for side, scores in (("found", ("scores",)), ("object", ("crowd",))):
            counts, boxes = (getattr(self, f"{side}_{name}") for name in ("counts", "boxes"))
            if counts.shape != (count,) or not np.issubdtype(counts.dtype, np.integer):
                raise ValueError(f"{side}_counts: expected {count} integers, got {counts.shape}")
            rows = len(boxes)
            if (counts < 0).any() or (counts > rows).any() or int(counts.sum()) != rows:
                raise ValueError(f"{side}_counts: expected counts that add up to {rows}")
            if boxes.shape != (rows, 4) or not np.issubdtype(boxes.dtype, np.floating):
                raise ValueError(f"{side}_boxes: expected ({rows}, 4) numbers, got {boxes.shape}")
            if not np.isfinite(boxes).all() or (boxes[:, :2] > boxes[:, 2:]).any():
                raise ValueError(f"{side}_boxes: expected x0 <= x1 and y0 <= y1, all finite")
            for name in ("classes", *scores):
                if getattr(self, f"{side}_{name}").shape != (rows,):
                    raise ValueError(f"{side}_{name}: expected {rows} of them")
            classes = getattr(self, f"{side}_classes")
            if not np.issubdtype(classes.dtype, np.integer) or (
                rows and not 0 <= classes.min() <= classes.max() < len(self.class_names)
            ):
                raise ValueError(f"{side}_classes: expected 0 to {len(self.class_names) - 1}")
        if not np.isfinite(self.found_scores).all():
            raise ValueError("found_scores: expected finite numbers")
        if self.object_crowd.dtype != np.bool_:
            raise ValueError("object_crowd: expected yes or no")
        self._check_image_ap()

    def _check_image_ap(self) -> None:
        stored = self.image_ap
        if stored is None:
            return
        if stored.shape != (len(self.images), 2) or not np.issubdtype(stored.dtype, np.integer):
            raise ValueError(f"image_ap: expected (N, 2) integers, got {stored.shape}")
        ap, one = stored.T
        if not np.isin(one, (0, _FIXED_POINT)).all() or (ap < 0).any() or (ap > one).any():
            raise ValueError("image_ap: expected shares in fixed point")

    @classmethod
    def of(
        cls,
        class_names: Sequence[str],
        images: Sequence[str],
        found: Sequence[Found],
        objects: Sequence[Objects],
    ) -> Self:
        """Of what was found in each image, and what there is; each image is wholly labelled.

        Args:
            class_names: The C classes.
            images: N paths.
            found: Of each image.
            objects: Of each image.

        Raises:
            ValueError: If something does not fit, or a coordinate or a score is no finite number.
        """
        return cls(
            class_names=tuple(class_names),
            images=tuple(images),
            found_counts=np.array([len(one.classes) for one in found], np.int64),
            found_boxes=_joined([one.boxes for one in found], (0, 4), np.float32),
            found_classes=_joined([one.classes for one in found], (0,), np.int64),
            found_scores=_joined([one.scores for one in found], (0,), np.float32),
            object_counts=np.array([len(one) for one in objects], np.int64),
            object_boxes=_joined([one.boxes for one in objects], (0, 4), np.float64),
            object_classes=_joined([one.classes for one in objects], (0,), np.int64),
            object_crowd=_joined([one.crowd for one in objects], (0,), np.bool_),
        )

    @property
    def metrics(self) -> DetectionMetrics:
        """Of the whole data set."""
        at_half, all_ious = self._matching.ap
        size = len(self.class_names)
        objects = np.bincount(self.object_classes[~self.object_crowd], minlength=size)
        return DetectionMetrics(
            map_50=_mean(at_half),
            map_50_95=_mean(all_ious),
            ap=dict(zip(self.class_names, at_half.tolist(), strict=True)),
            ap_50_95=dict(zip(self.class_names, all_ious.tolist(), strict=True)),
            image_ap=float(share(self.statistics.sum(0).astype(np.float64))),
            absent=int(np.isnan(at_half).sum()),
            objects=tuple(objects.tolist()),
            crowds=int(self.object_crowd.sum()),
            found=tuple(np.bincount(self.found_classes, minlength=size).tolist()),
            images=len(self.images),
            judged_by=self.metric.key,
        )

    @property
    def statistics(self) -> Counts:
        """(N, 2): the mean average precision of an image at an IoU of .5, and one where it has any.

        The mean is over the classes that it shows; fixed point.
        """
        if self.image_ap is not None:
            return self.image_ap
        precisions = self._matching.image_ap
        known = ~np.isnan(precisions)
        sums = np.column_stack([np.where(known, precisions, 0), known]) * _FIXED_POINT
        statistics: Counts = np.rint(sums).astype(np.int64)
        return statistics

    @property
    def truth(self) -> NDArray[Any]:
        """(N, 32) uint8: a sha256 of the objects of each image."""
        rows = zip(
            _split(self.object_boxes.astype("<f8"), self.object_counts),
            _split(self.object_classes.astype("<i8"), self.object_counts),
            _split(self.object_crowd, self.object_counts),
            strict=True,
        )
        digests = [hashlib.sha256(b"".join(x.tobytes() for x in row)).digest() for row in rows]
        return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)

    @property
    def answers(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Of all objects but crowds: the class, and that of the best-scored detection on it.

        On it are detections of any class with an IoU of .5 or more; C where there is none.
        """
        answers = []
        for boxes, classes, scores, objects in zip(
            _split(self.found_boxes, self.found_counts),
            _split(self.found_classes, self.found_counts),
            _split(self.found_scores, self.found_counts),
            _split(self.object_boxes, self.object_counts),
            strict=True,
        ):
            order = np.argsort(-scores, kind="stable")
            answer = np.full(len(objects), len(self.class_names))
            if len(objects) and len(boxes):
                hits = overlaps(boxes[order], objects) >= HIT
                answer = np.where(hits.any(0), classes[order][hits.argmax(0)], answer)
            answers.append(answer)
        single = ~self.object_crowd
        return self.object_classes[single], _joined(answers, (0,), np.int64)[single]

    @cached_property
    def _matching(self) -> Matching:
        found = np.repeat(np.arange(len(self.images)), self.found_counts)
        objects = np.repeat(np.arange(len(self.images)), self.object_counts)
        return match(
            (len(self.images), len(self.class_names)),
            (found, self.found_boxes, self.found_classes, self.found_scores),
            (objects, self.object_boxes, self.object_classes, self.object_crowd),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As its file has it."""
        return {
            "class_names": np.array(self.class_names),
            "images": packed(self.images),
            "found_counts": self.found_counts.astype(np.int64),
            "found_boxes": self.found_boxes.astype(np.float32),
            "found_classes": self.found_classes.astype(np.int32),
            "found_scores": self.found_scores.astype(np.float32),
            "object_counts": self.object_counts.astype(np.int64),
            "object_boxes": self.object_boxes.astype(np.float64),
            "object_classes": self.object_classes.astype(np.int32),
            "object_crowd": self.object_crowd.astype(np.bool_),
            "image_ap": self.statistics,
        }

    @classmethod
    def of_arrays(cls, stored: Mapping[str, NDArray[Any]]) -> Self:
        """From what a file has."""
        counts = stored["found_counts"]
        return cls(
            class_names=tuple(stored["class_names"].tolist()),
            images=unpacked(stored["images"], len(counts)),
            found_counts=counts,
            found_boxes=stored["found_boxes"],
            found_classes=stored["found_classes"],
            found_scores=stored["found_scores"],
            object_counts=stored["object_counts"],
            object_boxes=stored["object_boxes"],
            object_classes=stored["object_classes"],
            object_crowd=stored["object_crowd"],
            image_ap=stored["image_ap"],
        )


@dataclass(frozen=True)
class CocoEvaluation(DetectionEvaluation):
    """The same of a data set that is judged as COCO is."""

    metric: ClassVar[Metric] = COCO_PRECISION
    kind: ClassVar[str] = "detection by COCO"


def _joined(parts: Sequence[NDArray[Any]], empty: tuple[int, ...], kind: Any) -> NDArray[Any]:
    return np.concatenate([np.zeros(empty, kind), *parts]).astype(kind)


def _split(rows: NDArray[Any], counts: NDArray[np.int64]) -> list[NDArray[Any]]:
    """Rows by image."""
    return np.split(rows, np.cumsum(counts)[:-1]) if len(counts) else []


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
