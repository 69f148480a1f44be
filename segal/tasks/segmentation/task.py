"""Semantic segmentation: every pixel is classified, rectangles of the image are bought."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    refuse_dataset,
    splits,
)
from segal.data.image_file import RGB, Reading
from segal.data.image_list import images_at
from segal.data.labelled import LabelledDataset
from segal.data.pool import ImagePool, open_pool
from segal.data.transforms import TrainingTransform
from segal.errors import SegalError
from segal.functional.clicks import polygon_clicks
from segal.functional.metrics import confusion_matrix
from segal.models.spec import Answers
from segal.models.wrapped import Model
from segal.tasks.base import Task
from segal.tasks.classes import check_classes
from segal.tasks.drawing import Drawn, Look, PictureWords
from segal.tasks.evaluation import Metric
from segal.tasks.explaining import Explainer, Explaining
from segal.tasks.options import (
    Augmentation,
    OpenOptions,
    Outline,
    PoolOptions,
    PredictionOptions,
    SplitSource,
    Transform,
)
from segal.tasks.segmentation.drawing import OVERLAY_WORDS, draw_overlays, look_at_pixels
from segal.tasks.segmentation.evaluation import (
    MIOU,
    SAMPLED_PIXELS,
    SegmentationEvaluation,
    SegmentationMetrics,
    sampled_places,
)
from segal.tasks.segmentation.explaining import PanelsExplainer
from segal.tasks.segmentation.in_tiles import predicted_in_tiles
from segal.tasks.segmentation.model import SegmentationModel


class Segmentation(Task):
    """Every pixel is an element."""

    name: ClassVar[str] = "segmentation"
    answers: ClassVar[Answers] = Answers("pixels")
    wrapper: ClassVar[type[Model]] = SegmentationModel
    metric: ClassVar[Metric] = MIOU
    default_region: ClassVar[str] = "512"
    in_tiles: ClassVar[bool] = True

    layouts: ClassVar[tuple[str, ...]] = LAYOUTS
    picture_words: ClassVar[PictureWords] = OVERLAY_WORDS

    def is_dataset(self, root: Path) -> bool:
        """Whether a folder looks like a data set with label files."""
        return is_dataset(root)

    def splits(self, root: Path, layout: str = "auto") -> list[str]:
        """As `Task.splits`."""
        return splits(root, layout_name(layout))

    def usual_network(self, channels: int | None) -> str:
        """DeepLabV3+."""
        return "DeepLabV3Plus"

    def outline(self, source: SplitSource, split: str) -> Outline:
        """As `Task.outline`; no image is opened."""
        options = LabelOptions(source.ignore_index, source.reduce_zero_label, source.label_suffix)
        layout = layout_name(source.layout)
        return Outline(find_source(source.root, split, layout, options).classes.names)

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
        if source.validation_share:
            raise SegalError(
                "validation_share: not where label files are laid out by split",
                expected="0",
                got=str(source.validation_share),
                remedy="leave it out, and lay images out by split",
            )
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
        *,
        reading: Reading = RGB,
        classes: int | None = None,
        **options: Unpack[PoolOptions],
    ) -> ImagePool:
        """As `Task.open_pool`, of the images in a folder or of a list."""
        folder, paths = images_at(source)
        if paths is None:
            refuse_dataset(folder)
        return open_pool(folder, paths, reading=reading, **options)

    def transform(
        self, settings: Augmentation, pool: ImagePool, images: Sequence[int]
    ) -> Transform:
        """Random scale, a crop around a region, flip and colours; or a crop alone.

        Raises:
            SegalError: For samples that only whole images give.
        """
        if settings.augment in {"crop", "resized_crop"}:
            raise SegalError(
                f"train.augment: {settings.augment}, where pixels have classes",
                expected="usual or none",
                got=settings.augment,
                remedy="leave it out; see train.crop and train.scale",
            )
        crop = RegionSize.parse(settings.crop)
        size = None
        large = [image for image in images if pool.is_large(image)]
        if large and crop.height is None:
            raise SegalError(
                "train.crop: image, where images are too large for one pass",
                expected="crops of a size, such as 512",
                got=f"{pool.paths[large[0]]}, of {pool.shape(large[0])} pixels (height, width)",
                remedy="give train.crop a size",
            )
        if crop.height is not None and crop.width is not None:
            highest, widest = np.array([pool.shape(image) for image in images]).max(0).tolist()
            size = (min(crop.height, highest), min(crop.width, widest))
        if settings.augment == "none":
            return TrainingTransform(size, (1.0, 1.0), 0.0, 0.0)
        return TrainingTransform(size, settings.scale, settings.flip, settings.colour_jitter)

    def beyond_flips(self, settings: Augmentation) -> dict[str, str]:
        """As `Task.beyond_flips`: crops, scales and colours."""
        found = {} if settings.crop == "image" else {"crop": "image"}
        if settings.augment != "none":
            found |= {} if settings.scale == (1.0, 1.0) else {"scale": "1,1"}
            found |= {"colour_jitter": "0"} if settings.colour_jitter else {}
        return found

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

    def look(self, drawn: Drawn, image: int) -> Look:
        """As `Task.look`."""
        return look_at_pixels(drawn, image)

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
        self, model: Model, dataset: LabelledDataset, **options: Unpack[PredictionOptions]
    ) -> SegmentationMetrics:
        """As `Task.evaluate`, of which nothing is kept but one confusion matrix."""
        num_classes = model.spec.num_classes
        confusion = np.zeros((num_classes, num_classes), np.int64)
        for _, _, predicted, target in self._pieces(model, dataset, **options):
            confusion += confusion_matrix(predicted, target, num_classes).cpu().numpy()
        return SegmentationMetrics.of(confusion, dataset.classes.names)

    def evaluation(
        self, model: Model, dataset: LabelledDataset, **options: Unpack[PredictionOptions]
    ) -> SegmentationEvaluation:
        """As `Task.evaluation`."""
        count, num_classes = len(dataset), len(dataset.classes.names)
        counts = np.int64 if any(map(dataset.pool.is_large, range(count))) else np.int32
        confusions = np.zeros((count, num_classes, num_classes), counts)
        labels, predictions = np.zeros((2, count, SAMPLED_PIXELS), np.uint8)
        for index, (top, left), classes, target in self._pieces(model, dataset, **options):
            predicted = classes.to(torch.uint8)
            confusions[index] += confusion_matrix(predicted, target, num_classes).cpu().numpy()
            y, x = (axis.to(target.device) for axis in sampled_places(dataset.pool.size(index)))
            height, width = target.shape
            here = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
            of_piece, chosen = (y[here] - top, x[here] - left), here.cpu().numpy()
            labels[index, chosen] = target[of_piece].cpu().numpy()
            predictions[index, chosen] = predicted[of_piece].cpu().numpy()
        return SegmentationEvaluation(
            dataset.classes.names, tuple(dataset.pool.paths), confusions, labels, predictions
        )

    def predictions(
        self, model: Model, dataset: LabelledDataset, **options: Unpack[PredictionOptions]
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """As `Task.predictions`; a large image comes in several pieces."""
        for index, _, predicted, target in self._pieces(model, dataset, **options):
            yield index, predicted, target

    def _pieces(
        self, model: Model, dataset: LabelledDataset, **options: Unpack[PredictionOptions]
    ) -> Iterator[tuple[int, tuple[int, int], Tensor, Tensor]]:
        """The same, with the (top, left) place of what comes."""
        pool, progress = dataset.pool, options.pop("progress", None)

        def told(before: int) -> PredictionOptions:
            if progress is None:
                return options
            return {**options, "progress": lambda done, _: progress(before + done, len(pool))}

        large = [index for index in range(len(pool)) if pool.is_large(index)]
        whole = [index for index in range(len(pool)) if not pool.is_large(index)]
        if whole:
            rest = dataset.subset(whole) if large else dataset
            for index, predicted, target in super().predictions(model, rest, **told(0)):
                yield whole[index], (0, 0), predicted, target
        if large:
            check_classes(model.spec, dataset)
            for index, place, predicted in predicted_in_tiles(
                model, pool, large, **told(len(whole))
            ):
                (top, left), (height, width) = place, predicted.shape
                label = dataset.read_window(index, (left, top, left + width, top + height))
                yield index, place, predicted, torch.from_numpy(label).to(predicted.device)
