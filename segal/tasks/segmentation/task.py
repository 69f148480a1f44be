"""Semantic segmentation: every pixel is classified, rectangles of the image are bought."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
from numpy.typing import NDArray

from segal.candidates.regions import Box, RegionSize
from segal.candidates.selection import MASKS_FOLDER, Selected, write_masks
from segal.data.datasets import (
    LAYOUTS,
    Chooser,
    LabelOptions,
    find_source,
    is_dataset,
    layout_name,
    open_dataset,
    splits,
)
from segal.data.image_file import RGB, Reading
from segal.data.labelled import LabelledDataset
from segal.data.pool import ImagePool, open_pool
from segal.data.transforms import TrainingTransform
from segal.functional.clicks import polygon_clicks
from segal.functional.metrics import confusion_matrix, iou, mean_iou, pixel_accuracy
from segal.models.wrapped import Model
from segal.tasks.base import (
    Augmentation,
    OpenOptions,
    PredictionOptions,
    SplitSource,
    Task,
    Transform,
)
from segal.tasks.drawing import Drawn, PictureWords
from segal.tasks.explaining import Explainer, Explaining
from segal.tasks.segmentation.drawing import OVERLAY_WORDS, draw_overlays
from segal.tasks.segmentation.explaining import PanelsExplainer
from segal.tasks.segmentation.model import SegmentationModel


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
    wrapper: ClassVar[type[Model]] = SegmentationModel
    default_region: ClassVar[str] = "512"

    layouts: ClassVar[tuple[str, ...]] = LAYOUTS
    picture_words: ClassVar[PictureWords] = OVERLAY_WORDS

    def is_dataset(self, root: Path) -> bool:
        """Whether a folder looks like a data set with label files."""
        return is_dataset(root)

    def splits(self, root: Path, layout: str = "auto") -> list[str]:
        """As `Task.splits`."""
        return splits(root, layout_name(layout))

    def class_names(self, source: SplitSource, split: str) -> tuple[str, ...]:
        """As `Task.class_names`; no image is opened."""
        options = LabelOptions(source.ignore_index, source.reduce_zero_label, source.label_suffix)
        layout = layout_name(source.layout)
        return find_source(source.root, split, layout, options).classes.names

    def open_split(
        self,
        source: SplitSource,
        split: str,
        only: Collection[str] | Chooser | None = None,
        *,
        missing_labels: bool = False,
        **options: Unpack[OpenOptions],
    ) -> LabelledDataset:
        """As `Task.open_split`; labels are found, but not read."""
        return open_dataset(
            source.root,
            split,
            layout=layout_name(source.layout),
            ignore_index=source.ignore_index,
            reduce_zero_label=source.reduce_zero_label,
            label_suffix=source.label_suffix,
            reading=source.reading,
            only=only,
            missing_labels=missing_labels,
            **options,
        )

    def open_pool(
        self,
        source: Path,
        paths: Sequence[str] | None = None,
        *,
        reading: Reading = RGB,
        **options: Unpack[OpenOptions],
    ) -> ImagePool:
        """As `Task.open_pool`, of the images in a folder."""
        return open_pool(source, paths, reading=reading, **options)

    def transform(
        self, settings: Augmentation, pool: ImagePool, images: Sequence[int]
    ) -> Transform:
        """Random scale, a crop around a region, flip and colours."""
        crop = RegionSize.parse(settings.crop)
        size = None
        if crop.height is not None and crop.width is not None:
            highest, widest = np.array([pool.shape(image) for image in images]).max(0).tolist()
            size = (min(crop.height, highest), min(crop.width, widest))
        return TrainingTransform(size, settings.scale, settings.flip, settings.colour_jitter)

    def clicks(self, label: NDArray[Any], boxes: Sequence[Box], before: Sequence[Box]) -> list[int]:
        """Polygon clicks; see `polygon_clicks`."""
        clicks: list[int] = polygon_clicks(label, boxes, before).tolist()
        return clicks

    def draw(
        self,
        folder: Path,
        selected: Sequence[Selected],
        count: int,
        drawn: Drawn,
        progress: Callable[[int, int], None],
    ) -> None:
        """An overlay of each image; see `Task.draw`."""
        draw_overlays(folder, selected, count, drawn, progress)

    def explainer(self, explaining: Explaining) -> Explainer:
        """Panels of each image; see `Task.explainer`."""
        return PanelsExplainer(explaining)

    def hand_out(
        self,
        folder: Path,
        selected: Sequence[Selected],
        pool: ImagePool,
        labelled: Mapping[str, Sequence[Box]],
    ) -> list[Path]:
        """Annotation masks; see `write_masks`."""
        sizes = {path: pool.size(i) for i, path in enumerate(pool.paths)}
        write_masks(folder / MASKS_FOLDER, selected, sizes, labelled)
        return [folder / MASKS_FOLDER]

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
