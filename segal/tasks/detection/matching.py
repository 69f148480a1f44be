"""Which detections are right, and what precision that makes; pycocotools decides."""

import io
from collections import defaultdict
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Floats = NDArray[np.float64]

HIT = 0.5
"""IoU from which on an object is found."""


@dataclass(frozen=True, eq=False)
class Matching:
    """Average precisions.

    Attributes:
        ap: (2, C), of each class at an IoU of .5, and as a mean over IoUs of .5, .55 to .95; NaN
            for a class without an object.
        image_ap: (N,) of each image at .5, mean over the classes that it shows; NaN if it shows
            none.
    """

    ap: Floats
    image_ap: Floats


def match(
    size: tuple[int, int],
    found: tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]],
    objects: tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]],
) -> Matching:
    """Compares detections with objects.

    Args:
        size: How many images and classes there are.
        found: (M,) images, (M, 4) boxes, (M,) classes and scores of detections.
        objects: (K,) images, (K, 4) boxes, (K,) classes and whether it is a crowd, of objects.
    """
    images, classes = size
    if not images or not len(objects[0]):  # the evaluator wants something to evaluate
        return Matching(np.full((2, classes), np.nan), np.full(images, np.nan))
    truth, detections = (
        _index(size, image, boxes, number, key, values)
        for (image, boxes, number, values), key in ((objects, "iscrowd"), (found, "score"))
    )
    evaluator = COCOeval(truth, detections, "bbox")
    parameters = evaluator.params
    parameters.imgIds, parameters.catIds = list(range(images)), list(range(classes))
    parameters.areaRng, parameters.areaRngLbl = [[0, float("inf")]], ["all"]
    parameters.maxDets = [max(1, len(found[0]))]
    with redirect_stdout(io.StringIO()):
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][..., 0, 0].mean(1)  # (IoUs, classes)
    precision[precision < 0] = np.nan
    ap = np.stack([precision[0], precision.mean(0)])
    return Matching(ap, _image_ap(evaluator.evalImgs, images, parameters.recThrs))


def sized(boxes: NDArray[Any]) -> Floats:
    """(n, 4) float64: corner and size, as COCO has boxes."""
    corners = boxes.astype(np.float64)
    return np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]])


def _index(
    size: tuple[int, int],
    images: NDArray[Any],
    boxes: NDArray[Any],
    classes: NDArray[Any],
    key: str,
    values: NDArray[Any],
) -> COCO:
    """Boxes as the evaluator takes them; ids count from 1, since it takes 0 for no match."""
    inside = sized(boxes)
    rows = zip(
        images.tolist(),
        inside.tolist(),
        inside[:, 2:].prod(1).tolist(),
        classes.tolist(),
        values.tolist(),
        strict=True,
    )
    index = COCO()
    index.dataset = {
        "images": [{"id": i} for i in range(size[0])],
        "categories": [{"id": i} for i in range(size[1])],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": name,
                "bbox": box,
                "area": area,
                "iscrowd": 0,
                key: value,
            }
            for number, (image, box, area, name, value) in enumerate(rows, 1)
        ],
    }
    with redirect_stdout(io.StringIO()):
        index.createIndex()
    return index


def _image_ap(
    evaluated: Sequence[dict[str, Any] | None], count: int, recalls: NDArray[Any]
) -> Floats:
    """(N,) from what the evaluator says of each class and image, at its first IoU."""
    by_image: dict[int, list[float]] = defaultdict(list)
    for one in evaluated:
        if one is None:
            continue
        objects = int((np.asarray(one["gtIgnore"]) == 0).sum())
        if objects:
            counted = ~one["dtIgnore"][0].astype(bool)
            right = one["dtMatches"][0][counted] > 0  # detections are sorted by score
            by_image[one["image_id"]].append(_precision(right, objects, recalls))
    return np.array([np.mean(by_image[i]) if i in by_image else np.nan for i in range(count)])


def _precision(right: NDArray[np.bool_], objects: int, recalls: NDArray[Any]) -> float:
    """Average precision, interpolated at recalls as the evaluator does for all images."""
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(hits / objects, recalls, side="left")
    return float(np.append(best, 0.0)[places].mean())


def overlaps(boxes: NDArray[Any], others: NDArray[Any]) -> Floats:
    """(n, m) intersection over union of (n, 4) boxes with (m, 4) others, by COCO's own code."""
    if not len(boxes) or not len(others):
        return np.zeros((len(boxes), len(others)))
    ious: Floats = mask.iou(sized(boxes), sized(others), np.zeros(len(others), np.uint8))
    return ious
