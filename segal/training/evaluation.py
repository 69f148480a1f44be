"""Evaluates a network image by image, so that two networks can be compared on the same images."""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from segal.data.labelled import LabelledDataset
from segal.errors import SegalError
from segal.functional.metrics import confusion_matrix, largest_answer
from segal.models.wrapped import Model
from segal.system.files import read_error, replacing
from segal.tasks import task_of
from segal.tasks.base import PredictionOptions
from segal.tasks.segmentation.task import Metrics

SAMPLED_PIXELS = 256
"""Pixels of every image whose prediction is kept, at fixed places."""


ONE_CLASS = 0.999
"""Share of the pixels above which a network answers one class only."""


def one_answer(metrics: Mapping[str, Any]) -> str | None:
    """What to say of a network that answers one class wherever it is asked; None of others.

    Args:
        metrics: Of one split, as `Metrics.as_dict` gives them.
    """
    most, share = largest_answer(np.array(metrics["confusion"]))
    if not share > ONE_CLASS:
        return None
    name, percent = list(metrics["iou"])[most], math.floor(10_000 * share) / 100
    return f"the network answers {name!r} on {percent:g} % of the pixels"


@dataclass(frozen=True)
class Evaluation:
    """What a network did on every image of a data set.

    Attributes:
        class_names: The C classes.
        images: N paths relative to the split's folder.
        confusions: (N, C, C) int32 pixel counts, rows are the truth.
        labels: (N, K) uint8, the true class of K pixels spread evenly over each image; 255 is
            ignored.
        predictions: (N, K) uint8, the predicted class of the same pixels.
    """

    class_names: tuple[str, ...]
    images: tuple[str, ...]
    confusions: NDArray[np.int32]
    labels: NDArray[np.uint8]
    predictions: NDArray[np.uint8]

    @property
    def metrics(self) -> Metrics:
        """Of the whole data set."""
        return Metrics.of(self.confusions.sum(0, dtype=np.int64), self.class_names)

    def write(self, path: Path) -> None:
        """Writes a compressed `.npz`.

        Raises:
            SegalError: If the disk is full or the folder cannot be written.
        """
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                class_names=np.array(self.class_names),
                images=np.array(self.images),
                confusions=self.confusions,
                labels=self.labels,
                predictions=self.predictions,
            )

    @classmethod
    def read(cls, path: Path) -> "Evaluation":
        """Reads what `write` wrote.

        Raises:
            SegalError: If the file is missing, or is no such file.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(
                    class_names=tuple(stored["class_names"].tolist()),
                    images=tuple(stored["images"].tolist()),
                    confusions=stored["confusions"],
                    labels=stored["labels"],
                    predictions=stored["predictions"],
                )
        except OSError as error:
            raise read_error(path, error, "an evaluation") from error
        except (ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error) as error:
            raise SegalError(
                f"{path}: cannot be read as an evaluation",
                expected="a file that segal run wrote",
                got=str(error),
                remedy="run the same command again: it makes damaged files anew",
            ) from error


def evaluate_images(
    model: Model, dataset: LabelledDataset, **options: Unpack[PredictionOptions]
) -> Evaluation:
    """Runs a network on whole images; the options are those of `Task.predictions`.

    Raises:
        SegalError: If the network and the data set have different classes, or a file is bad.
    """
    count, num_classes = len(dataset), len(dataset.classes.names)
    confusions = np.zeros((count, num_classes, num_classes), np.int32)
    labels, predictions = np.zeros((2, count, SAMPLED_PIXELS), np.uint8)
    for index, predicted, target in task_of(model.spec).predictions(model, dataset, **options):
        confusions[index] = confusion_matrix(predicted, target, num_classes).cpu().numpy()
        # In float32 the last place may be rounded up, past the last pixel of a large image.
        last = target.numel() - 1
        places = torch.linspace(0, last, SAMPLED_PIXELS).long().clamp(max=last).to(target.device)
        labels[index] = target.flatten()[places].cpu().numpy()
        predictions[index] = predicted.flatten()[places].to(torch.uint8).cpu().numpy()
    return Evaluation(
        dataset.classes.names, tuple(dataset.pool.paths), confusions, labels, predictions
    )
