"""Class weights of a training: as they are given, or by what is labelled."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.data.labelled import LabelledDataset
from segal.data.prefetch import prefetch
from segal.errors import SegalError
from segal.functional.labels import has_class, keep_regions
from segal.training.sampling import LabelledRegions
from segal.training.settings import TrainSettings

_SHOWN = 20


def check_class_weights(settings: TrainSettings, names: Sequence[str]) -> None:
    """Raises a SegalError unless there is a class weight for each class, where any are given."""
    given = settings.class_weights
    if isinstance(given, str) or len(given) == len(names):
        return
    more = ", ..." if len(names) > _SHOWN else ""
    raise SegalError(
        f"train.class_weights: {len(given)} of them, for {len(names)} classes",
        expected=f"a factor for each of {', '.join(names[:_SHOWN])}{more}",
        got=", ".join(f"{weight:g}" for weight in given[:_SHOWN])
        + (", ..." if len(given) > _SHOWN else ""),
        remedy="give one for each class, in this order, or balanced",
    )


def class_weights(
    settings: TrainSettings, dataset: LabelledDataset, regions: LabelledRegions, *, each: bool
) -> Tensor | None:
    """What the setting of that name comes to.

    Args:
        settings: Of the training.
        dataset: Images and labels; read where weights are balanced.
        regions: What of it is labelled.
        each: Whether each class is a question of its own, of no and yes.

    Returns:
        As `segal.tasks.losses.Loss` takes them.

    Raises:
        SegalError: If there are not as many as classes, or a label cannot be read.
    """
    given, names = settings.class_weights, dataset.classes.names
    check_class_weights(settings, names)
    if given == "none":
        return None
    if not isinstance(given, str):
        weights = torch.tensor(given)
        return weights.expand(2, -1) if each else weights

    def count(image: int) -> NDArray[np.int64]:
        label = keep_regions(dataset.read_label(image), regions.of_image(image))
        if each:
            return np.stack([(label == answer).sum(1) for answer in (0, 1)])
        return np.bincount(label[has_class(label)], minlength=len(names))

    images = np.unique(regions.images).tolist()
    counts = sum(prefetch(count, images, settings.workers))
    return torch.from_numpy(balanced(np.asarray(counts))).float()


def balanced(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights by which every class that is shown counts as much as every other.

    Args:
        counts: (K, ...) labelled elements of each class; what follows K is balanced by itself.

    Returns:
        n / (k n_c) for a class with n_c of n elements, where k classes have any: the mean weight of
        an element is 1. 0 for a class without one, which then weighs nothing.

    Examples:
        >>> balanced(np.array([6, 2, 0])).tolist()
        [0.6666666666666666, 2.0, 0.0]
    """
    shares = counts.sum(0) / np.maximum((counts > 0).sum(0), 1)
    weights: NDArray[np.float64] = np.where(counts > 0, shares / np.maximum(counts, 1), 0.0)
    return weights
