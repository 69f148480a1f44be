"""Semantic segmentation: every pixel is classified, rectangles of the image are bought."""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, ClassVar, TypedDict, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from segal.candidates.evidence import Evidence
from segal.candidates.regions import Grid, RegionSize
from segal.data.datasets import IGNORE_INDEX, LabelledDataset
from segal.data.prefetch import prefetch
from segal.data.transforms import stack_images
from segal.errors import SegalError
from segal.functional.metrics import confusion_matrix
from segal.models.loss_prediction import LearningLossSettings, ranking_loss
from segal.models.segmentation import FEATURE_MAPS, SegmentationModel
from segal.models.spec import ModelSpec
from segal.system.machine import Precision, autocast
from segal.tasks.evaluation import Metric
from segal.tasks.segmentation.evaluation import (
    MIOU,
    SAMPLED_PIXELS,
    SegmentationEvaluation,
    SegmentationMetrics,
)


class PredictionOptions(TypedDict, total=False):
    """How `Segmentation.predictions` runs; see there."""

    device: torch.device | str
    batch_size: int
    workers: int
    precision: Precision
    progress: Callable[[int, int], None] | None


class Segmentation:
    """What segmentation is to the scan, the training and the evaluation.

    Args:
        class_weights: (C,) factors of the classes' losses; None for equal ones.

    Attributes:
        metric: What runs are judged by.
    """

    metric: ClassVar[Metric] = MIOU

    def __init__(self, class_weights: Sequence[float] | None = None) -> None:
        self.class_weights = None if class_weights is None else torch.tensor(class_weights)

    def units(self, height: int, width: int, region: RegionSize) -> Grid:
        """The regions of an image of (height, width) pixels that can be bought."""
        return region.grid(height, width)

    def evidence(
        self, model: SegmentationModel, images: Tensor, catch: Collection[str] = ()
    ) -> Evidence:
        """A forward pass.

        Args:
            model: The network.
            images: (B, 3, H, W), normalised.
            catch: What is wanted beside the logits; see `SegmentationModel.forward`.
        """
        evidence: Evidence = model(images, catch)
        return evidence

    def training_loss(self, model: SegmentationModel, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the labelled pixels of a batch.

        Args:
            model: The network.
            images: (B, 3, H, W), normalised.
            labels: (B, H, W), any integer dtype; 255 is left out.

        Returns:
            A float32 scalar. The sum over labelled pixels is divided by their number, or by the sum
            of their class weights; it is 0, with a gradient of 0, where no pixel is labelled.
        """
        return self._mean_loss(model(images).logits.float(), labels.long())

    def ranked_training_loss(
        self,
        model: SegmentationModel,
        images: Tensor,
        labels: Tensor,
        ranking: LearningLossSettings,
        *,
        stop_gradient: bool,
    ) -> Tensor:
        """`training_loss`, and the loss of the network's loss-prediction module beside it.

        The module predicts the mean loss of each image over its labelled pixels; images without
        any are left out.

        Args:
            model: The network; it has such a module.
            images: As `training_loss` takes them.
            labels: Likewise.
            ranking: Weight and margin of the module's loss.
            stop_gradient: Whether the module's gradient ends at the feature maps.

        Returns:
            A float32 scalar.
        """
        assert model.loss_prediction is not None
        evidence = model(images, (FEATURE_MAPS,))
        logits, target = evidence.logits.float(), labels.long()
        valid = target != IGNORE_INDEX
        used = valid.flatten(1).any(1)
        with torch.no_grad():
            losses = torch.stack(
                [self._mean_loss(logits[i, None], target[i, None]) for i in range(len(target))]
            )
        maps = [x.detach() if stop_gradient else x for x in evidence.maps]
        predicted = model.loss_prediction.of_pixels(maps, valid, evidence.upsampling)
        auxiliary = ranking_loss(predicted[used], losses[used], ranking.margin)
        return self._mean_loss(logits, target) + ranking.weight * auxiliary

    def _mean_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        total = F.cross_entropy(
            logits, target, weight=weights, ignore_index=IGNORE_INDEX, reduction="sum"
        )
        valid = target != IGNORE_INDEX
        mass = valid.sum() if weights is None else weights[target[valid]].sum()
        return total / torch.where(mass > 0, mass, 1)

    def evaluate(
        self,
        model: SegmentationModel,
        dataset: LabelledDataset,
        **options: Unpack[PredictionOptions],
    ) -> SegmentationMetrics:
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
        return SegmentationMetrics.of(confusion, dataset.classes.names)

    def evaluation(
        self,
        model: SegmentationModel,
        dataset: LabelledDataset,
        **options: Unpack[PredictionOptions],
    ) -> SegmentationEvaluation:
        """As `evaluate`, and keeps what the network did on every image.

        Args:
            model: The network; its mode (training or not) is the same afterwards.
            dataset: Images with labels.
            **options: As `predictions` takes them.

        Raises:
            SegalError: If the network and the data set have different classes, or a file is bad.
        """
        count, num_classes = len(dataset), len(dataset.classes.names)
        confusions = np.zeros((count, num_classes, num_classes), np.int32)
        labels, predictions = np.zeros((2, count, SAMPLED_PIXELS), np.uint8)
        for index, predicted, target in self.predictions(model, dataset, **options):
            confusions[index] = confusion_matrix(predicted, target, num_classes).cpu().numpy()
            # In float32 the last place may be rounded up, past the last pixel of a large image.
            last = target.numel() - 1
            places = torch.linspace(0, last, SAMPLED_PIXELS).long().clamp(max=last)
            places = places.to(target.device)
            labels[index] = target.flatten()[places].cpu().numpy()
            predictions[index] = predicted.flatten()[places].to(torch.uint8).cpu().numpy()
        return SegmentationEvaluation(
            dataset.classes.names, tuple(dataset.pool.paths), confusions, labels, predictions
        )

    def predictions(
        self,
        model: SegmentationModel,
        dataset: LabelledDataset,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 8,
        workers: int = 2,
        precision: Precision = "fp32",
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """What the network says of whole images.

        Args:
            model: The network; its mode (training or not) is the same afterwards.
            dataset: Images with labels.
            device: Where to run.
            batch_size: Images in a batch at most; a batch holds images of equal size.
            workers: Threads that read.
            precision: Of the network's products.
            progress: Called with the number of images done and in all.

        Yields:
            Index of an image, its predicted classes (H, W) int64, and its label (H, W) uint8, both
            on the device. Images of one size follow each other.

        Raises:
            SegalError: If the network and the data set have different classes, or a file is bad.
        """
        check_classes(model.spec, dataset)
        device = torch.device(device)
        was_training = model.training
        model.to(device).eval()
        done = 0
        try:
            for indices, images, labels in _whole_images(dataset, batch_size, workers):
                with torch.inference_mode(), autocast(device, precision):
                    logits = model(model.normalise(images.to(device))).logits
                yield from zip(indices, logits.argmax(1), labels.to(device), strict=True)
                done += len(images)
                if progress is not None:
                    progress(done, len(dataset.pool))
        finally:
            model.train(was_training)


def _whole_images(
    dataset: LabelledDataset, batch_size: int, workers: int
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Indices and batches (B, H, W, 3) and (B, H, W) of images of equal size."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for index in range(len(dataset.pool)):
        by_size.setdefault(dataset.pool.size(index), []).append(index)
    batches = [
        same[start : start + batch_size]
        for same in by_size.values()
        for start in range(0, len(same), batch_size)
    ]

    def read(index: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        return dataset.pool.read(index), dataset.read_label(index)

    indices = [index for batch in batches for index in batch]
    pairs = prefetch(read, indices, workers, depth=batch_size)
    for batch in batches:
        images, labels = zip(*(next(pairs) for _ in batch), strict=True)
        yield batch, stack_images(images), torch.from_numpy(np.stack(labels))


def check_classes(spec: ModelSpec, dataset: LabelledDataset) -> None:
    """Raises a SegalError if a data set has other classes than a network, or in another order."""
    check_class_names(spec, dataset.classes.names, str(dataset.pool.root))


def check_class_names(spec: ModelSpec, names: Sequence[str], where: str) -> None:
    """Compares the classes of a network with those of a data set.

    Case, blanks, hyphens and underscores do not count; names that only number the classes stand for
    any.

    Args:
        spec: Of the network.
        names: Of the data set.
        where: The data set, as the message says it.

    Raises:
        SegalError: If there are others, in number, by name or in order.
    """
    if len(names) != spec.num_classes:
        raise SegalError(
            f"{where}: labels of other classes than the network's",
            expected=f"{spec.num_classes} classes",
            got=f"{len(names)}: {', '.join(names)}"[:200],
            remedy="give the data set that the network was trained for, or a checkpoint that was "
            "trained for these classes; a class that stands for void is its ignore_index",
        )
    theirs, own = ([_plain(name) for name in given] for given in (spec.class_names, names))
    if theirs == own or are_numbers(spec.class_names) or are_numbers(names):
        return
    same = sorted(theirs) == sorted(own)
    raise SegalError(
        f"{where}: the network's classes in another order"
        if same
        else f"{where}: labels of other classes than the network's",
        expected=f"as in the checkpoint: {', '.join(spec.class_names)}",
        got=", ".join(names),
        remedy="list the classes in the checkpoint's order, with their values in label files: "
        "VALUE NAME is sorted by value, so map the files' values too"
        if same
        else "give them the checkpoint's names where they mean the same, or a checkpoint that was "
        "trained for them; to fine-tune it to other classes: --new-classes",
    )


def are_numbers(names: Sequence[str]) -> bool:
    """Whether names only number the classes, as those of a plain state_dict do."""
    numbered = [re.fullmatch(r"(?:class|label)?\s*(\d+)", _plain(name)) for name in names]
    numbers = [int(match[1]) for match in numbered if match]
    return numbers == list(range(len(names)))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
