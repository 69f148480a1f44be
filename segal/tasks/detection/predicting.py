"""Runs a detector on labelled images, one after another."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from segal.data.labelled import LabelledDataset
from segal.data.prefetch import prefetch
from segal.errors import SegalError
from segal.models.wrapped import Model
from segal.signals.base import NOT_FINITE
from segal.system.machine import Precision, autocast
from segal.tasks.classes import check_classes
from segal.tasks.detection.evaluation import Found
from segal.tasks.detection.evidence import DetectionEvidence, Detections
from segal.tasks.detection.matching import HIT, overlaps
from segal.tasks.detection.objects import Objects

SURE = 0.5
"""Score from which on a detection counts as the network's answer, where one is asked for."""


def found_in(detections: Detections) -> Found:
    """Detections as evaluations keep them."""
    boxes = detections.boxes.float().cpu().numpy()
    # torchvision clips before it undoes its resize: rounding may cross the sides of thin boxes.
    boxes = np.concatenate([boxes[:, :2], np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)
    return Found(boxes, detections.classes.cpu().numpy(), detections.scores.float().cpu().numpy())


def detections_of(
    model: Model,
    dataset: LabelledDataset,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 8,
    workers: int = 2,
    precision: Precision = "fp32",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, Found, Objects]]:
    """What a detector finds in whole images.

    Args:
        model: The network; its mode (training or not) is the same afterwards.
        dataset: Images with labels.
        device: Where to run.
        batch_size: Images that are read ahead.
        workers: Threads that read.
        precision: Of the network's products.
        progress: Called with the number of images done and in all.

    Yields:
        Index of an image, what is found in it, and what there is, in candidate order.

    Raises:
        SegalError: If the network and the data set have different classes, a file is bad, or the
            network gives numbers that are not finite.
    """
    check_classes(model.spec, dataset)
    device, was_training, count = torch.device(device), model.training, len(dataset)
    model.to(device).eval()

    def read(index: int) -> tuple[NDArray[np.uint8], Objects]:
        return dataset.pool.read(index), dataset.read_label(index)

    try:
        pairs = prefetch(read, range(count), workers, depth=batch_size)
        for index, (image, objects) in enumerate(pairs):
            with torch.inference_mode(), autocast(device, precision):
                evidence = model(model.normalise(torch.from_numpy(image)[None].to(device)))
            assert isinstance(evidence, DetectionEvidence)
            found = found_in(evidence.detections[0])
            if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
                raise SegalError(
                    f"{dataset.pool.paths[index]}: the network's boxes are not finite",
                    expected="finite boxes and scores",
                    got="NaN or infinity",
                    remedy=NOT_FINITE,
                )
            yield index, found, objects
            if progress is not None:
                progress(index + 1, count)
    finally:
        model.train(was_training)


def missed(found: Found, objects: Objects) -> tuple[int, int]:
    """Objects of an image that no sure detection of their class covers, and all of its objects.

    Crowds and difficult objects are left out.

    Args:
        found: What is found; of scores of `SURE` and above.
        objects: What there is.
    """
    plain, sure = ~objects.crowd, found.scores >= SURE
    same = objects.classes[plain][:, None] == found.classes[sure]
    covered = same & (overlaps(objects.boxes[plain], found.boxes[sure]) >= HIT)
    count = int(plain.sum())
    return count - int(covered.any(1).sum()), count
