"""Object detection: boxes are found in images; images are bought, or tiles of large ones."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.candidates.kept import Images
from segal.candidates.regions import Box, RegionSize
from segal.candidates.selection import Selected
from segal.data.datasets import Chooser
from segal.data.image_file import RGB, Reading
from segal.data.image_list import images_at
from segal.data.labelled import LabelledDataset
from segal.data.pool import ImagePool, first_shape, open_pool
from segal.data.transforms import stack_images
from segal.errors import SegalError, raise_all
from segal.models.loss_prediction import LearningLossSettings
from segal.models.spec import Answers
from segal.models.wrapped import Model
from segal.pictures.overlays import shown_bands
from segal.signals.base import Signal
from segal.system.files import is_there
from segal.system.machine import autocast
from segal.tasks.base import USUAL_LOSS, Task
from segal.tasks.classes import ClassNames
from segal.tasks.detection.costs import bought
from segal.tasks.detection.datasets import (
    LAYOUTS,
    DetectionDataset,
    class_names,
    images_of,
    is_dataset,
    layout_name,
    open_split,
    refuse_splits,
    splits,
)
from segal.tasks.detection.drawing import BOX_WORDS, Seen, draw_picked_boxes, look_at_found
from segal.tasks.detection.evaluation import (
    BOX_PRECISION,
    CocoEvaluation,
    DetectionEvaluation,
)
from segal.tasks.detection.evidence import DetectionEvidence
from segal.tasks.detection.heat_maps import heat_maps
from segal.tasks.detection.mial import MultipleInstance, has_two_heads
from segal.tasks.detection.model import DetectionModel
from segal.tasks.detection.objects import Objects
from segal.tasks.detection.predicting import detections_of, found_in, missed
from segal.tasks.detection.signals import measured
from segal.tasks.detection.targets import Targets
from segal.tasks.detection.transforms import BoxTransform
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
from segal.tasks.schemes import Scheme, SchemeSettings


class Detection(Task):
    """A detected box is an element; candidates are images, or tiles that hold a box's centre."""

    name: ClassVar[str] = "detection"
    answers: ClassVar[Answers] = Answers("objects")
    wrapper: ClassVar[type[Model]] = DetectionModel
    metric: ClassVar[Metric] = BOX_PRECISION
    default_region: ClassVar[str] = "image"
    layouts: ClassVar[tuple[str, ...]] = LAYOUTS
    strategy_defaults: ClassVar[Mapping[str, Any]] = {
        "layers": "last",
        "class_wise": "max",  # UWE, eqs. 8 and 9
        "uncertainty": "bvsb",
    }
    picture_words: ClassVar[PictureWords] = BOX_WORDS
    by_the_box: ClassVar[bool] = True

    def is_dataset(self, root: Path) -> bool:
        """Whether a path looks like a data set with boxes."""
        return is_dataset(root)

    def splits(self, root: Path, layout: str = "auto") -> list[str]:
        """As `Task.splits`."""
        return splits(root, layout_name(layout))

    def usual_network(self, channels: int | None) -> str:
        """Faster R-CNN on a backbone of one's choice."""
        return "torchvision:fasterrcnn"

    def outline(self, source: SplitSource, split: str) -> Outline:
        """As `Task.outline`; no image is opened."""
        return Outline(class_names(source.root, split, layout_name(source.layout)).names)

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
        refuse_label_files(source, "where labels are boxes")
        return open_split(
            source.root,
            split,
            layout=layout_name(source.layout),
            reading=source.reading,
            only=only,
            missing_labels=missing_labels,
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
        """As `Task.open_pool`, of a folder, or of a split of a data set as `ROOT:SPLIT`."""
        folder, paths = _images(source)
        return open_pool(folder, paths, reading=reading, **options)

    def first_shape(self, source: Path, reading: Reading = RGB) -> InputShape | None:
        """As `Task.first_shape`, of what `open_pool` opens."""
        folder, paths = _images(source)
        shape = first_shape(folder, paths, reading)
        return None if shape is None else InputShape(*shape)

    def measured(self, signal: Signal) -> Signal:
        """As `segal.tasks.detection.signals` has it."""
        return measured(signal)

    def classes_in(self, label: Any) -> list[int]:
        """Classes of an image's objects, sorted."""
        assert isinstance(label, Objects)
        return np.unique(label.classes).tolist()  # type: ignore[no-any-return]

    def transform(
        self, settings: Augmentation, pool: ImagePool, images: Sequence[int]
    ) -> Transform:
        """Whole regions, or crops around them after a change of scale; flips and colours.

        Raises:
            SegalError: For samples that only images with one class give.
        """
        if settings.augment in {"crop", "resized_crop"}:
            raise SegalError(
                f"train.augment: {settings.augment}, where images have boxes",
                expected="usual or none",
                got=settings.augment,
                remedy="leave it out; see train.crop and train.scale",
            )
        crop = RegionSize.parse(settings.crop)
        size = None
        if crop.height is not None and crop.width is not None:
            highest, widest = np.array([pool.shape(image) for image in images]).max(0).tolist()
            size = (min(crop.height, highest), min(crop.width, widest))
        if settings.augment == "none":
            return BoxTransform(size, flip=0.0)
        return BoxTransform(size, settings.scale, settings.flip, settings.colour_jitter)

    def stack(self, samples: Sequence[tuple[NDArray[Any], Any]]) -> tuple[Tensor, Targets]:
        """Images (B, H, W, channels), padded right and below, and their objects with the sizes."""
        sizes = [(image.shape[0], image.shape[1]) for image, _ in samples]
        height, width = (max(sides) for sides in zip(*sizes, strict=True))
        padded = [
            np.pad(image, ((0, height - h), (0, width - w), (0, 0)))
            for (image, _), (h, w) in zip(samples, sizes, strict=True)
        ]
        return stack_images(padded), Targets.of([objects for _, objects in samples], sizes)

    def training_scheme(
        self, settings: SchemeSettings, class_weights: Tensor | None = None
    ) -> Scheme:
        """As `Task.training_scheme`; the stages of MIAL for two class heads.

        Raises:
            SegalError: For a loss or class weights: detectors bring their losses.
        """
        said = {"loss": settings.loss, "class_weights": settings.class_weights}
        raise_all(
            [
                SegalError(
                    f"train.{key}: not for {self.name}",
                    expected="no such setting: detectors bring their own losses of boxes",
                    got=str(value),
                    remedy=f"leave train.{key} out",
                )
                for key, value in said.items()
                if value not in {None, "none"}
            ]
        )
        if settings.mial is None:
            return super().training_scheme(settings)
        return MultipleInstance(settings.mial, settings.iterations)

    def training_loss(
        self, model: Model, images: Images, labels: Any, loss: Loss = USUAL_LOSS
    ) -> Tensor:
        """The sum of the library's own losses of a batch.

        Args:
            model: The network.
            images: (B, 3, H, W), normalised, padded.
            labels: `Targets`.
            loss: Not used, nor can another one be configured.
        """
        assert isinstance(model, DetectionModel)
        assert isinstance(labels, Targets)
        assert isinstance(images, Tensor)
        losses = model.losses(labels.cut(images), labels.objects)
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    def loss_mass(self, labels: Any, loss: Loss = USUAL_LOSS) -> float:
        """The number of images: the library's losses are means over these, or nearly so."""
        assert isinstance(labels, Targets)
        return float(len(labels.objects))

    def ranked_training_loss(
        self,
        model: Model,
        images: Tensor,
        labels: Any,
        ranking: LearningLossSettings,
        *,
        stop_gradient: bool,
        loss: Loss = USUAL_LOSS,
    ) -> Tensor:
        """As `Task.ranked_training_loss`; the module's gradient never reaches the network."""
        assert isinstance(model, DetectionModel)
        assert model.loss_prediction is not None
        assert isinstance(labels, Targets)
        losses, predicted = [], []
        for image, target in zip(labels.cut(images), labels.objects, strict=True):
            maps: list[Tensor] = []
            of_image = model.losses([image], [target], maps)
            losses.append(torch.stack([loss.float() for loss in of_image.values()]).sum())
            predicted.append(model.loss_prediction([x.detach().mean((2, 3)) for x in maps]))
        each = torch.stack(losses)
        auxiliary = ranking.loss(torch.cat(predicted), each.detach())
        return each.mean() + ranking.weight * auxiliary

    def known(self, labels: Sequence[Any], size: tuple[int, int]) -> tuple[Tensor, Targets]:
        """As `Task.known`: (B, H, W) bool, the pixels whose objects are listed, and the objects."""
        mask = torch.zeros(len(labels), *size, dtype=torch.bool)
        for here, objects in zip(mask, labels, strict=True):
            for x0, y0, x1, y1 in objects.known:
                here[y0:y1, x0:x1] = True
        return mask, Targets.of(labels, [size] * len(labels))

    def clicks(self, label: Any, boxes: Sequence[Box], before: Sequence[Box]) -> list[int]:
        """The boxes that are drawn; see `bought`."""
        assert isinstance(label, Objects)
        return bought(label, boxes, before)

    def draw(
        self,
        folder: Path,
        selected: Sequence[Selected],
        count: int,
        drawn: Drawn,
        progress: Callable[[int, int], None],
    ) -> None:
        """What is found in each image beside what there is; see `Task.draw`."""
        classes = ClassNames(() if drawn.model is None else drawn.model.spec.class_names)
        draw_picked_boxes(
            folder,
            selected,
            count,
            drawn,
            progress,
            classes=classes,
            find=lambda index: _seen(drawn, index),
        )

    def look(self, drawn: Drawn, image: int) -> Look:
        """What is found in it; see `Task.look`."""
        classes = ClassNames(() if drawn.model is None else drawn.model.spec.class_names)
        bands = drawn.pool.reading.bands
        shown = shown_bands(drawn.pool.read(image), stretched=bands is not None)
        return look_at_found(shown, _seen(drawn, image), classes)

    def explainer(self, explaining: Explaining) -> Explainer:
        """Refused, as `check_explained` does."""
        self.check_explained()
        raise AssertionError

    def check_explained(self) -> None:
        """Refused: a loss is of the image's boxes together, and none has a score of its own.

        Raises:
            SegalError: Always.
        """
        raise SegalError(
            "explain: not of a network that finds boxes",
            expected="a network that classifies pixels or images",
            got="a detector",
            remedy="look at the overlays of a selection: they show what is found in an image, and "
            "with thick lines the boxes that made it interesting",
        )

    def batches(self, pool: ImagePool, batch_size: int) -> list[list[int]]:
        """As `Task.batches`: one by one."""
        return [[index] for index in range(len(pool))]

    def evaluation(
        self, model: Model, dataset: LabelledDataset, **options: Unpack[PredictionOptions]
    ) -> Evaluation:
        """As `Task.evaluation`; a data set in COCO's layout is judged as COCO is."""
        coco = isinstance(dataset, DetectionDataset) and dataset.layout == "coco"
        kind = CocoEvaluation if coco else DetectionEvaluation
        every = [(found, objects) for _, found, objects in detections_of(model, dataset, **options)]
        return kind.of(
            dataset.classes.names,
            tuple(dataset.pool.paths),
            [found for found, _ in every],
            [objects for _, objects in every],
        )

    def mistakes(
        self, model: Model, dataset: LabelledDataset, **options: Unpack[PredictionOptions]
    ) -> dict[str, float]:
        """The share of objects that no detection of their class, with a score of .5, covers.

        And the number of those that one does: selected true positives, figure 7 of MIAL's paper.
        """
        counts = [
            missed(found, objects) for _, found, objects in detections_of(model, dataset, **options)
        ]
        wrong, every = (sum(numbers) for numbers in zip(*counts, strict=True))
        return {"mistakes": wrong / every, "objects_found": every - wrong} if every else {}


def _images(source: Path) -> tuple[Path, tuple[str, ...] | None]:
    """A folder, and the images of it that are meant; None for all."""
    root, colon, split = str(source).rpartition(":")
    if colon and not is_there(source) and is_there(Path(root)):
        return images_of(Path(root), split)
    folder, paths = images_at(source)
    if paths is None:
        refuse_splits(folder)
    return folder, paths


@torch.inference_mode()
def _seen(drawn: Drawn, index: int) -> Seen | None:
    """What the detector makes of an image."""
    if drawn.model is None:
        return None
    image = torch.from_numpy(drawn.pool.read(index))[None].to(drawn.model.device)
    with autocast(drawn.model.device, drawn.precision):
        normalised = drawn.model.normalise(image)
        evidence = drawn.model(normalised)
        maps = heat_maps(drawn.model, normalised[0]) if has_two_heads(drawn.model) else {}
    assert isinstance(evidence, DetectionEvidence)
    interest = drawn.value.element_map(evidence)[0, 0].double().cpu().numpy()
    heat = {name: one.cpu().numpy() for name, one in maps.items()}
    return Seen(found_in(evidence.detections[0]), interest, drawn.caption, heat)
