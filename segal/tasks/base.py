"""What a task is: what its images and labels are, how a network is trained on them, how judged."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.candidates.evidence import Evidence
from segal.candidates.kept import Images
from segal.candidates.regions import Box, Grid, RegionSize
from segal.candidates.selection import Selected
from segal.data.datasets import Chooser
from segal.data.image_file import RGB, Reading
from segal.data.image_list import images_at
from segal.data.labelled import LabelledDataset
from segal.data.pool import ImagePool, first_shape
from segal.data.prefetch import prefetch
from segal.data.transforms import stack_padded
from segal.errors import SegalError
from segal.functional.labels import class_indices, has_class, predicted_classes
from segal.models.loss_prediction import LearningLossSettings
from segal.models.mial import MialSettings
from segal.models.spec import Answers
from segal.models.wrapped import FEATURE_MAPS, Model
from segal.signals.base import Signal
from segal.system.machine import Precision, autocast
from segal.tasks.classes import check_classes
from segal.tasks.drawing import Drawn, Look, PictureWords
from segal.tasks.evaluation import Evaluation, Metric, Metrics
from segal.tasks.explaining import Explainer, Explaining
from segal.tasks.losses import CROSS_ENTROPY, OF_CLASSES, OF_ELEMENTS, Loss
from segal.tasks.options import (
    Augmentation,
    InputShape,
    OpenOptions,
    Outline,
    PoolOptions,
    PredictionOptions,
    SplitSource,
    Transform,
)
from segal.tasks.schemes import Ranked, Scheme, SchemeSettings, Usual
from segal.tasks.splitting import refuse_shared

USUAL_LOSS = Loss()


class Task(ABC):
    """What a network is asked, of each element of an image.

    An element is what is classified, and what is bought in rectangles: a pixel in segmentation.

    Attributes:
        name: As `segal.tasks.TASKS` has it.
        answers: What its networks answer.
        wrapper: What its networks are wrapped in.
        metric: What runs are judged by.
        default_region: The region size where none is given.
        layouts: Names of the layouts of data sets that it reads.
        strategy_defaults: Parameters of strategies, where these have them and none are given.
        picture_words: How a report speaks of what `draw` writes.
        shared_features: Whether all elements of an image have the same features.
        by_the_box: Whether `clicks` counts boxes, so that budgets may be counted in them.
        in_tiles: Whether its networks can look at a large image tile by tile.
    """

    name: ClassVar[str]
    answers: ClassVar[Answers]
    wrapper: ClassVar[type[Model]]
    metric: ClassVar[Metric]
    default_region: ClassVar[str]
    layouts: ClassVar[tuple[str, ...]]
    strategy_defaults: ClassVar[Mapping[str, Any]] = {}
    picture_words: ClassVar[PictureWords]
    shared_features: ClassVar[bool] = False
    by_the_box: ClassVar[bool] = False
    in_tiles: ClassVar[bool] = False

    def units(self, height: int, width: int, region: RegionSize) -> Grid:
        """The regions of an image of (height, width) pixels that can be bought."""
        return region.grid(height, width)

    def measured(self, signal: Signal) -> Signal:
        """How the task measures what a strategy asks for: as it is, where nothing else is said.

        Args:
            signal: What a strategy names.

        Returns:
            A signal of the same column.
        """
        return signal

    def evidence(self, model: Model, images: Images, catch: Collection[str] = ()) -> Evidence:
        """A forward pass.

        Args:
            model: The network.
            images: (B, 3, H, W), normalised, or what a frozen part left of images.
            catch: What is wanted beside the logits; see `Model.forward`.
        """
        evidence: Evidence = model(images, catch)
        return evidence

    def training_scheme(
        self, settings: SchemeSettings, class_weights: Tensor | None = None
    ) -> Scheme:
        """How the steps of a training go.

        Args:
            settings: Of the training.
            class_weights: What its setting of that name comes to, as in `Loss`.

        Raises:
            SegalError: If the task's networks are not trained so.
        """
        loss = Loss(settings.loss or CROSS_ENTROPY, class_weights)
        if self.answers.of != "pixels" and set(loss.terms) & set(OF_CLASSES):
            raise SegalError(
                f"train.loss: {loss.name}, where an image has one answer for each question",
                expected=f"{' or '.join(OF_ELEMENTS)}: overlap is of pixels",
                got=loss.name,
                remedy="choose one of these, or leave it out",
            )
        if settings.mial is not None:
            return self.mial_scheme(settings.mial, settings.iterations, loss)
        if settings.learning_loss is not None:
            of_batch = partial(self.ranked_training_loss, loss=loss)
            return Ranked(of_batch, settings.learning_loss, settings.iterations)
        of_elements = set(loss.terms) <= set(OF_ELEMENTS)
        return Usual(
            partial(self.training_loss, loss=loss),
            partial(self.loss_mass, loss=loss) if of_elements else None,
        )

    def mial_scheme(self, settings: MialSettings, iterations: int, loss: Loss) -> Scheme:
        """How networks are trained in the stages of MIAL.

        Args:
            settings: Of these.
            iterations: Steps in all.
            loss: Of labelled elements.

        Raises:
            SegalError: If the task's networks are not trained so.
        """
        raise SegalError(
            f"train.mial: not for {self.name}",
            expected="a network that finds boxes, with two class heads, or one that classifies "
            "images",
            got=f"task: {self.name}",
            remedy="leave train.mial out",
        )

    def training_loss(
        self, model: Model, images: Images, labels: Tensor, loss: Loss = USUAL_LOSS
    ) -> Tensor:
        """The loss of the labelled elements of a batch.

        Args:
            model: The network.
            images: (B, 3, H, W), normalised, or what a frozen part left of images.
            labels: (B, H, W), as `segal.functional.labels.has_class` takes them.
            loss: Which; mean cross-entropy by default.

        Returns:
            A float32 scalar; 0, with a gradient of 0, where no element is labelled.
        """
        return loss(model(images).logits.float(), class_indices(labels))

    def loss_mass(self, labels: Any, loss: Loss = USUAL_LOSS) -> float:
        """What labels count in a mean over the elements of several batches.

        Args:
            labels: As `training_loss` takes them.
            loss: Of elements.
        """
        return loss.mass(class_indices(labels))

    def ranked_training_loss(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        ranking: LearningLossSettings,
        *,
        stop_gradient: bool,
        loss: Loss = USUAL_LOSS,
    ) -> Tensor:
        """`training_loss`, and the loss of the network's loss-prediction module beside it.

        The module predicts the loss of each image by itself; images without a labelled element are
        left out.

        Args:
            model: The network; it has such a module.
            images: As `training_loss` takes them.
            labels: Likewise.
            ranking: Weight and kind of the module's loss.
            stop_gradient: Whether the module's gradient ends at the feature maps.
            loss: As `training_loss` takes it.

        Returns:
            A float32 scalar.
        """
        assert model.loss_prediction is not None
        evidence = model(images, (FEATURE_MAPS,))
        logits, target = evidence.logits.float(), class_indices(labels)
        valid = has_class(target)
        used = valid.flatten(1).any(1)
        with torch.no_grad():
            losses = loss.of_images(logits, target)
        maps = [x.detach() if stop_gradient else x for x in evidence.maps]
        predicted = model.loss_prediction.of_pixels(maps, valid, evidence.upsampling)
        auxiliary = ranking.loss(predicted[used], losses[used])
        return loss(logits, target) + ranking.weight * auxiliary

    @abstractmethod
    def is_dataset(self, root: Path) -> bool:
        """Whether a path looks like a data set of the task."""

    @abstractmethod
    def splits(self, root: Path, layout: str = "auto") -> list[str]:
        """The splits of a data set, sorted.

        Raises:
            SegalError: If it has no known layout.
        """

    @abstractmethod
    def open_split(
        self,
        source: SplitSource,
        split: str,
        only: Collection[str] | Chooser | None = None,
        *,
        missing_labels: bool = False,
        **options: Unpack[OpenOptions],
    ) -> LabelledDataset:
        """Opens one split of a data set.

        Args:
            source: It.
            split: Such as train.
            only: Images to open, by their paths in the pool, or what chooses them from all paths;
                the others need no label.
            missing_labels: Whether a label may be missing.
            **options: As `PoolOptions` says.

        Raises:
            SegalError: If something is missing, damaged, or said that the task has no use for.
        """

    def outline(self, source: SplitSource, split: str) -> Outline:
        """What a network must fit of a data set.

        Raises:
            SegalError: As `open_split` does.
        """
        return self.outline_of(self.open_split(source, split))

    def outline_of(self, dataset: LabelledDataset) -> Outline:
        """The same of one that is open."""
        return Outline(dataset.classes.names)

    def check_splits(self, opened: Mapping[str, LabelledDataset]) -> None:
        """Raises a SegalError for a picture that is in two splits.

        Args:
            opened: The data sets by their splits' names.
        """
        refuse_shared({split: dataset.pool for split, dataset in opened.items()})

    def thinned(
        self, dataset: LabelledDataset, classes: Sequence[str], share: float
    ) -> LabelledDataset:
        """A data set in which some classes are rare; refused here, where an image shows several.

        Args:
            dataset: It.
            classes: Their names; `half` for every second class.
            share: Of their images that is kept, in (0, 1).

        Raises:
            SegalError: If there is no such class, or none can be made rare.
        """
        raise SegalError(
            "data.rare_classes: not where an image shows several classes",
            expected="images of one class each",
            got=", ".join(classes),
            remedy="leave it out",
        )

    def check_region(self, region: str) -> None:  # noqa: B027
        """Raises a SegalError for a region size that cannot be bought.

        Args:
            region: As `RegionSize.parse` takes it.
        """

    @abstractmethod
    def usual_network(self, channels: int | None) -> str:
        """The architecture where none is named.

        Args:
            channels: As in `Outline`.
        """

    def classes_in(self, label: NDArray[Any]) -> list[int]:
        """Classes that a label shows, sorted."""
        return np.unique(label[has_class(label)]).tolist()  # type: ignore[no-any-return]

    @abstractmethod
    def open_pool(
        self,
        source: Path,
        *,
        reading: Reading = RGB,
        classes: int | None = None,
        **options: Unpack[PoolOptions],
    ) -> ImagePool:
        """Opens images without labels.

        Args:
            source: Where they are.
            reading: How they are read.
            classes: How many the network tells apart; None where there is no network.
            **options: As `OpenOptions` says.

        Raises:
            SegalError: If there is none, or one cannot be read.
        """

    def first_shape(self, source: Path, reading: Reading = RGB) -> InputShape | None:
        """Of the first image of a pool that can be read; no other is looked at.

        Args:
            source: As `open_pool` takes it.
            reading: Likewise.

        Returns:
            The shape; None where no image can be read.

        Raises:
            SegalError: If there is no image.
        """
        shape = first_shape(*images_at(source), reading)
        return None if shape is None else InputShape(*shape)

    @abstractmethod
    def transform(
        self, settings: Augmentation, pool: ImagePool, images: Sequence[int]
    ) -> Transform:
        """What makes training samples.

        Args:
            settings: Of the training.
            pool: Where the images are.
            images: Those that are trained on.
        """

    def beyond_flips(self, settings: Augmentation) -> dict[str, str]:
        """Settings by which samples are something else than whole images, as they are or mirrored.

        Args:
            settings: Of the training.

        Returns:
            What each of them would have to be, such as `crop` `image`.

        Raises:
            SegalError: If samples are never whole images.
        """
        raise SegalError(
            f"store: not for {self.name}",
            expected="a network of which a part runs on whole images of one size",
            got=f"task: {self.name}",
            remedy="leave the store out",
        )

    def stack(self, samples: Sequence[tuple[NDArray[Any], Any]]) -> tuple[Tensor, Any]:
        """A batch of training samples.

        Args:
            samples: Images and labels, as `transform` makes them.

        Returns:
            Images (B, H, W, channels), and labels as `training_loss` takes them, which have `to`.
        """
        return stack_padded(samples)

    def known(self, labels: Sequence[Any], size: tuple[int, int]) -> tuple[Tensor, Any]:
        """The labels of a batch of images of one size, as signals take them.

        Args:
            labels: As `LabelledDataset.read_label` gives them.
            size: (H, W) of the images in elements.

        Returns:
            (B, H, W) bool, which elements are labelled; and (B, H, W) int64 classes, `VOID`
            elsewhere. The latter have `to`.
        """
        classes = class_indices(torch.from_numpy(np.stack(labels)))
        return has_class(classes), classes

    @abstractmethod
    def clicks(self, label: NDArray[Any], boxes: Sequence[Box], before: Sequence[Box]) -> list[int]:
        """What an annotator does to label boxes of an image, in order.

        Args:
            label: Of the image, as `LabelledDataset.read_label` gives it.
            boxes: What is bought.
            before: What was bought of it before, and costs no click again.
        """

    @abstractmethod
    def draw(
        self,
        folder: Path,
        selected: Sequence[Selected],
        count: int,
        drawn: Drawn,
        progress: Callable[[int, int], None],
    ) -> None:
        """Draws what was picked.

        Args:
            folder: Takes the pictures; it appears as a whole and takes the place of what was there.
                Their names, of `.png` files, are the best rank that each shows, an underscore, and
                what it shows.
            selected: The picks, in their order.
            count: Of images to show, those with the best ranks; at least 1.
            drawn: What they are drawn from.
            progress: Called with (images done, all images).
        """

    @abstractmethod
    def look(self, drawn: Drawn, image: int) -> Look:
        """An image as people see it, and what the network makes of it.

        Args:
            drawn: What it is drawn from.
            image: Its position in the pool.

        Raises:
            SegalError: If it cannot be read.
        """

    def check_explained(self) -> None:  # noqa: B027
        """Raises a SegalError if images are not explained, see `explainer`."""

    @abstractmethod
    def explainer(self, explaining: Explaining) -> Explainer:
        """What draws images whose elements have a score.

        Args:
            explaining: What is explained.
        """

    def hand_out(
        self,
        folder: Path,
        selected: Sequence[Selected],
        pool: ImagePool,
        labelled: Mapping[str, Sequence[Box]],
    ) -> list[Path]:
        """Writes what annotators need beside the selection itself; nothing here.

        Args:
            folder: Of the run.
            selected: The picks.
            pool: The images.
            labelled: Boxes that are labelled already, by image.

        Returns:
            What was written.
        """
        return []

    def batches(self, pool: ImagePool, batch_size: int) -> list[list[int]]:
        """Images of a pool as they are run together, in that order: of one size each.

        Args:
            pool: The images.
            batch_size: At most so many.
        """
        by_size: dict[tuple[int, int], list[int]] = {}
        for index in range(len(pool)):
            by_size.setdefault(pool.shape(index), []).append(index)
        return [
            same[start : start + batch_size]
            for same in by_size.values()
            for start in range(0, len(same), batch_size)
        ]

    def evaluate(
        self, model: Model, dataset: LabelledDataset, **options: Unpack[PredictionOptions]
    ) -> Metrics:
        """As `evaluation`, of which nothing is kept."""
        return self.evaluation(model, dataset, **options).metrics

    @abstractmethod
    def evaluation(
        self, model: Model, dataset: LabelledDataset, **options: Unpack[PredictionOptions]
    ) -> Evaluation:
        """Runs the network on whole images and compares it with their labels.

        Args:
            model: The network; its mode (training or not) is the same afterwards.
            dataset: Images with labels.
            **options: As `predictions` takes them.

        Raises:
            SegalError: If the network and the data set have different classes, or a file is bad.
        """

    def mistakes(
        self, model: Model, dataset: LabelledDataset, **options: Unpack[PredictionOptions]
    ) -> dict[str, float]:
        """How much the network has wrong (of picks: the mistake-selection rate of IWPS).

        Args:
            model: The network.
            dataset: Images with labels.
            **options: As `predictions` takes them.

        Returns:
            The share of wrong elements among the labelled ones; empty where all are void.

        Raises:
            SegalError: If a file cannot be read.
        """
        wrong = labelled = 0
        for _, predicted, target in self.predictions(model, dataset, **options):
            valid = has_class(target)
            labelled += int(valid.sum())
            wrong += int((valid & (predicted != target)).sum())
        return {"mistakes": wrong / labelled} if labelled else {}

    def predictions(
        self, model: Model, dataset: LabelledDataset, **options: Unpack[PredictionOptions]
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """As `outputs`, with the predicted classes (H, W) int64 in place of the logits."""
        for index, logits, label in self.outputs(model, dataset, **options):
            yield index, predicted_classes(logits, 0), label

    def outputs(
        self,
        model: Model,
        dataset: LabelledDataset,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 8,
        workers: int = 2,
        precision: Precision = "fp32",
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """What the network gives for whole images.

        Args:
            model: The network; its mode (training or not) is the same afterwards.
            dataset: Images with labels.
            device: Where to run.
            batch_size: Images in a batch at most; a batch holds images of equal size.
            workers: Threads that read.
            precision: Of the network's products.
            progress: Called with the number of images done and in all.

        Yields:
            Index of an image, its logits (C, H, W), and its label (H, W), both on the device.
            Images of one size follow each other.

        Raises:
            SegalError: If the network and the data set have different classes, or a file is bad.
        """
        check_classes(model.spec, dataset)
        device = torch.device(device)
        was_training = model.training
        model.to(device).eval()
        done = 0
        try:
            for indices, images, labels in _whole_images(
                dataset, self.batches(dataset.pool, batch_size), workers
            ):
                with torch.inference_mode(), autocast(device, precision):
                    logits = model(model.normalise(images.to(device))).logits
                yield from zip(indices, logits, labels.to(device), strict=True)
                done += len(images)
                if progress is not None:
                    progress(done, len(dataset.pool))
        finally:
            model.train(was_training)


def _whole_images(
    dataset: LabelledDataset, batches: Sequence[list[int]], workers: int
) -> Iterator[tuple[list[int], Images, Tensor]]:
    """Indices and batches (B, H, W, 3) and (B, H, W) of images of equal size."""

    def read(batch: list[int]) -> tuple[list[int], Images, Tensor]:
        labels = np.stack([dataset.read_label(index) for index in batch])
        return batch, dataset.pool.batch(batch), torch.from_numpy(labels)

    yield from prefetch(read, batches, workers, depth=max(1, workers))
