"""Image classification: an image is one element, or one for each of several labels."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
from numpy.typing import NDArray

from segal.candidates.regions import Box, RegionSize
from segal.candidates.selection import Selected
from segal.data.datasets import Chooser
from segal.data.image_file import RGB, Reading
from segal.data.labelled import LabelledDataset
from segal.data.pool import ImagePool
from segal.errors import SegalError
from segal.models.mial import MialSettings
from segal.models.spec import Answers
from segal.models.wrapped import Model
from segal.signals.base import Signal
from segal.signals.mial import Discrepancy
from segal.tasks.base import Task
from segal.tasks.classification.datasets import LAYOUTS, is_dataset, layout_name, open_split, splits
from segal.tasks.classification.drawing import SHEET_WORDS, draw_contact_sheets, look_at_image
from segal.tasks.classification.evaluation import (
    ACCURACY,
    MEAN_AVERAGE_PRECISION,
    ClassificationEvaluation,
    MultilabelEvaluation,
)
from segal.tasks.classification.explaining import SheetsExplainer
from segal.tasks.classification.mial import InstanceUncertainty, OfImages
from segal.tasks.classification.model import ClassificationModel
from segal.tasks.classification.pools import ArrayPool
from segal.tasks.classification.transforms import Kind, WholeImageTransform
from segal.tasks.classification.unlabelled import first_shape, open_pool
from segal.tasks.drawing import Drawn, Look, PictureWords
from segal.tasks.evaluation import Evaluation, Metric
from segal.tasks.explaining import Explainer, Explaining
from segal.tasks.losses import Loss
from segal.tasks.options import (
    Augmentation,
    InputShape,
    OpenOptions,
    Outline,
    PoolOptions,
    PredictionOptions,
    SplitSource,
    Transform,
    refuse_label_files,
)
from segal.tasks.schemes import Scheme

_USUAL_SHARE = (0.08, 1.0)


class Classification(Task):
    """An image has one class, and is one element."""

    name: ClassVar[str] = "classification"
    answers: ClassVar[Answers] = Answers("images")
    wrapper: ClassVar[type[Model]] = ClassificationModel
    metric: ClassVar[Metric] = ACCURACY
    default_region: ClassVar[str] = "image"
    layouts: ClassVar[tuple[str, ...]] = LAYOUTS
    strategy_defaults: ClassVar[Mapping[str, Any]] = {"layers": "last"}  # IWPS, section 4.1
    shared_features: ClassVar[bool] = True
    picture_words: ClassVar[PictureWords] = SHEET_WORDS
    multilabel: ClassVar[bool] = False

    def check_region(self, region: str) -> None:
        """Images are bought as wholes."""
        if region != "image":
            raise SegalError(
                f"region: {region}, where images have a class as wholes",
                expected="image",
                got=region,
                remedy="leave it out",
            )

    def usual_network(self, channels: int | None) -> str:
        """A ResNet-18, or of features a linear layer."""
        return "torchvision:resnet18" if channels is None else "linear"

    def is_dataset(self, root: Path) -> bool:
        """Whether a path looks like a data set of images that are classified."""
        return is_dataset(root, multilabel=self.multilabel)

    def splits(self, root: Path, layout: str = "auto") -> list[str]:
        """As `Task.splits`."""
        return splits(root, layout_name(layout))

    def open_split(
        self,
        source: SplitSource,
        split: str,
        only: Collection[str] | Chooser | None = None,
        *,
        missing_labels: bool = False,
        **options: Unpack[OpenOptions],
    ) -> LabelledDataset:
        """As `Task.open_split`; labels are read."""
        refuse_label_files(source, "where images have a class as wholes")
        return open_split(
            source.root,
            split,
            layout=layout_name(source.layout),
            reading=source.reading,
            only=only,
            missing_labels=missing_labels,
            multilabel=self.multilabel,
            validation_share=source.validation_share,
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
        """As `Task.open_pool`, of files or of rows of an array."""
        pool = open_pool(source, reading=reading, **options)
        return replace(pool, elements=(classes or 1, 1)) if self.multilabel else pool

    def first_shape(self, source: Path, reading: Reading = RGB) -> InputShape | None:
        """As `Task.first_shape`, of files or of rows of an array."""
        return first_shape(source, reading)

    def outline_of(self, dataset: LabelledDataset) -> Outline:
        """The classes, and how many features there are where they stand for images."""
        pool = dataset.pool
        features = isinstance(pool, ArrayPool) and pool.holds_features
        return Outline(dataset.classes.names, pool.array.shape[1] if features else None)  # type: ignore[attr-defined]

    def thinned(
        self, dataset: LabelledDataset, classes: Sequence[str], share: float
    ) -> LabelledDataset:
        """As `Task.thinned`."""
        names = dataset.classes.names
        rare = set(names[1::2] if tuple(classes) == ("half",) else classes)
        if rare - set(names):
            raise SegalError(
                "data.rare_classes: no such class",
                expected=f"some of {', '.join(names)}, or half",
                got=", ".join(sorted(rare - set(names))),
                remedy="name classes of the data set",
            )
        paths, kept = dataset.pool.paths, list[int]()
        by_class: dict[int, list[int]] = {}
        for index in range(len(dataset)):
            by_class.setdefault(int(dataset.read_label(index)[0, 0]), []).append(index)
        for number, indices in by_class.items():
            if number >= 0 and names[number] in rare:
                hashed = sorted(indices, key=lambda i: sha256(paths[i].encode()).digest())
                kept += hashed[: max(1, round(share * len(indices)))]
            else:
                kept += indices
        return dataset.subset(sorted(kept))

    def transform(
        self, settings: Augmentation, pool: ImagePool, images: Sequence[int]
    ) -> Transform:
        """A random crop and a flip, or a crop of any size; nothing where features stand for images.

        Raises:
            SegalError: If images differ in size and no size is given for the crops.
        """
        if settings.augment == "none" or (isinstance(pool, ArrayPool) and pool.holds_features):
            return WholeImageTransform("none")
        shapes = np.array([pool.shape(image) for image in images])
        alike = bool((shapes == shapes[0]).all())
        crop, size = RegionSize.parse(settings.crop), None
        if crop.height is not None and crop.width is not None:
            highest, widest = shapes.max(0).tolist()
            size = (min(crop.height, highest), min(crop.width, widest))
        elif not alike:
            raise SegalError(
                "train.crop: image, but images differ in size",
                expected="a side in pixels, so that a batch has one size",
                got="image",
                remedy="give for example train.crop=224",
            )
        usual: Kind = "crop" if alike else "resized_crop"
        return WholeImageTransform(
            usual if settings.augment == "usual" else settings.augment,
            size,
            scale=settings.scale if settings.scale[1] <= 1 else _USUAL_SHARE,
            flip=settings.flip,
            colour_jitter=settings.colour_jitter,
        )

    def measured(self, signal: Signal) -> Signal:
        """As `Task.measured`: two heads disagree about an image."""
        return OfImages(signal) if isinstance(signal, Discrepancy) else signal

    def mial_scheme(self, settings: MialSettings, iterations: int, loss: Loss) -> Scheme:
        """As `Task.mial_scheme`, of one instance an image."""
        return InstanceUncertainty(settings, iterations, loss)

    def beyond_flips(self, settings: Augmentation) -> dict[str, str]:
        """As `Task.beyond_flips`: all but the image as it is."""
        return {} if settings.augment == "none" else {"augment": "none"}

    def clicks(self, label: NDArray[Any], boxes: Sequence[Box], before: Sequence[Box]) -> list[int]:
        """One for the class of an image."""
        return [0 if before or i else 1 for i in range(len(boxes))]

    def draw(
        self,
        folder: Path,
        selected: Sequence[Selected],
        count: int,
        drawn: Drawn,
        progress: Callable[[int, int], None],
    ) -> None:
        """Contact sheets; see `Task.draw`."""
        draw_contact_sheets(folder, selected, count, drawn, progress)

    def look(self, drawn: Drawn, image: int) -> Look:
        """As `Task.look`."""
        return look_at_image(drawn, image)

    def explainer(self, explaining: Explaining) -> Explainer:
        """Sheets of both ends of the order; see `Task.explainer`."""
        return SheetsExplainer(explaining)

    def evaluation(
        self, model: Model, dataset: LabelledDataset, **options: Unpack[PredictionOptions]
    ) -> Evaluation:
        """As `Task.evaluation`."""
        labels, predictions = np.full((2, len(dataset)), -1, np.int32)
        for index, predicted, target in self.predictions(model, dataset, **options):
            labels[index], predictions[index] = int(target), int(predicted)
        return ClassificationEvaluation(
            dataset.classes.names, tuple(dataset.pool.paths), labels, predictions
        )


class Multilabel(Classification):
    """An image has any number of classes: each is an element, of two classes, no and yes."""

    name: ClassVar[str] = "multilabel"
    answers: ClassVar[Answers] = Answers("images", each=True)
    metric: ClassVar[Metric] = MEAN_AVERAGE_PRECISION
    multilabel: ClassVar[bool] = True

    def thinned(
        self, dataset: LabelledDataset, classes: Sequence[str], share: float
    ) -> LabelledDataset:
        """Refused: an image shows several classes."""
        return Task.thinned(self, dataset, classes, share)

    def clicks(self, label: NDArray[Any], boxes: Sequence[Box], before: Sequence[Box]) -> list[int]:
        """One for each class that an image has, and one for an image that has none."""
        found = max(1, int((label == 1).sum()))
        return [0 if before or i else found for i in range(len(boxes))]

    def classes_in(self, label: NDArray[Any]) -> list[int]:
        """As `Task.classes_in`: those that the image has."""
        return np.flatnonzero(label.ravel() == 1).tolist()

    def evaluation(
        self, model: Model, dataset: LabelledDataset, **options: Unpack[PredictionOptions]
    ) -> Evaluation:
        """As `Task.evaluation`."""
        shape = len(dataset), len(dataset.classes.names)
        labels, scores = np.full(shape, -1, np.int8), np.zeros(shape, np.float32)
        for index, logits, target in self.outputs(model, dataset, **options):
            labels[index] = target.flatten().cpu().numpy()
            scores[index] = logits[1].flatten().float().cpu().numpy()
        return MultilabelEvaluation(
            dataset.classes.names, tuple(dataset.pool.paths), labels, scores
        )
