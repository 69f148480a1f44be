"""One pass over the pool: every signal, at every region size, while an image is in memory.

No logits are kept, and memory does not grow with the pool: rows go to disk as they are measured.
What scores the pool gets images only; there is no label in anything that this module is given.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.candidates import TableWriter
from segal.data.pool import ImagePool
from segal.data.prefetch import prefetch
from segal.data.transforms import stack_images
from segal.errors import SegalError
from segal.evidence import Evidence, Units
from segal.files import replacing
from segal.machine import Precision, autocast
from segal.models.segmentation import SegmentationModel
from segal.regions import Box, Boxes, RegionSize
from segal.signals import Signal
from segal.tasks.base import Task

Progress = Callable[[int, int], None]
LABELLED_FOLDER = "labelled"


@dataclass(frozen=True)
class ScanSettings:
    """How a pass is run; none of it changes what is measured beyond rounding.

    Attributes:
        device: Where the network runs.
        batch_size: Images at a time; a batch holds images of one size only.
        workers: Threads that read ahead; 0 reads in between.
        precision: Of the network's forward pass; what is pooled is float32 at least.
        embedding_dtype: Of the embeddings as stored.
    """

    device: torch.device
    batch_size: int = 1
    workers: int = 1
    precision: Precision = "fp32"
    embedding_dtype: Literal["float32", "float16"] = "float32"


def batches(pool: ImagePool, batch_size: int) -> Iterator[list[int]]:
    """Runs of neighbouring images of one size, in candidate order."""
    batch: list[int] = []
    for i in range(len(pool)):
        if batch and (len(batch) == batch_size or pool.size(i) != pool.size(batch[0])):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@dataclass(frozen=True)
class Scan:
    """A pass over the pool that measures signals of every region of every image.

    Attributes:
        pool: The images.
        task: What the network is asked.
        regions: Region sizes; each gets a table of its own.
        settings: How to run.
        signals: What to measure, each once; with none the tables hold geometry alone, and no image
            is read.
        model: The network, in `eval()` mode on the settings' device; None only without signals.
        labelled: Boxes that are labelled already, by image: they are measured as they are, on
            whatever grid they were bought, into a table of their own.
    """

    pool: ImagePool
    task: Task
    regions: Sequence[RegionSize]
    settings: ScanSettings
    signals: Sequence[Signal] = ()
    model: SegmentationModel | None = None
    labelled: Mapping[int, Sequence[Box]] = field(default_factory=dict)

    def run(self, folder: Path, progress: Progress | None = None) -> None:
        """Measures, and writes the tables `folder/<size>` and `folder/labelled`.

        Args:
            folder: Appears as a whole when the pass is done.
            progress: Called with the number of images done and the number of all.

        Raises:
            SegalError: If a signal is NaN or infinite, or the disk is full.
        """
        counts = {str(region): self._count(region) for region in self.regions}
        counts[LABELLED_FOLDER] = sum(len(boxes) for boxes in self.labelled.values())
        with replacing(folder) as temporary, ExitStack() as stack:
            writers: dict[str, TableWriter] = {}
            for name, count in counts.items():
                writer = TableWriter(
                    temporary / name, self.pool.paths, count, self.settings.embedding_dtype
                )
                writers[name] = stack.enter_context(writer)
            done = 0
            for batch, images in self._read():
                self._scan_batch(batch, images, writers)
                done += len(batch)
                if progress is not None:
                    progress(done, len(self.pool))

    def _count(self, region: RegionSize) -> int:
        sizes = Counter(self.pool.size(i) for i in range(len(self.pool)))
        return sum(n * len(self.task.units(*size, region)) for size, n in sizes.items())

    def _read(self) -> Iterator[tuple[list[int], Tensor | None]]:
        grouped = batches(self.pool, self.settings.batch_size)
        if not self.signals:
            return ((batch, None) for batch in grouped)
        return prefetch(self._read_batch, grouped, self.settings.workers)

    def _read_batch(self, batch: list[int]) -> tuple[list[int], Tensor]:
        return batch, stack_images([self.pool.read(i) for i in batch])

    @torch.inference_mode()
    def _scan_batch(
        self, batch: list[int], images: Tensor | None, writers: Mapping[str, TableWriter]
    ) -> None:
        """Measures a batch and writes its rows; its evidence is gone when this returns."""
        evidence = None if images is None else self._forward(images)
        names = [self.pool.paths[i] for i in batch]
        for region in self.regions:
            grid = self.task.units(*self.pool.size(batch[0]), region)
            measured = _measure(evidence, grid, self.signals, names)
            for row, image in enumerate(batch):
                rows = {column: values[row] for column, values in measured.items()}
                writers[str(region)].append(image, grid.boxes(), rows)
        for row, image in enumerate(batch):
            if self.labelled.get(image):
                boxes = Boxes(tuple(self.labelled[image]))
                measured = _measure(evidence, boxes, self.signals, names)
                rows = {column: values[row] for column, values in measured.items()}
                writers[LABELLED_FOLDER].append(image, np.array(boxes.boxes, np.int32), rows)

    def _forward(self, images: Tensor) -> Evidence:
        if self.model is None:
            raise ValueError("a scan with signals needs a model")
        try:
            with autocast(self.settings.device, self.settings.precision):
                pixels = images.to(self.settings.device, non_blocking=True)
                return self.task.evidence(self.model, self.model.normalise(pixels))
        except RuntimeError as error:
            raise SegalError(
                "the network failed on {} images of {} x {} pixels".format(*images.shape[:3]),
                expected="a network that takes images of that size, and memory for it",
                got=str(error).split("\n")[0][:300],
                remedy="try a smaller --batch-size or --input-scale, or another architecture",
            ) from error


def _measure(
    evidence: Evidence | None, units: Units, signals: Sequence[Signal], names: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Each signal of a batch by its column: (B, units) or (B, units, d)."""
    measured: dict[str, NDArray[np.float64]] = {}
    if evidence is None:
        return measured
    for signal in signals:
        values = signal.measure(evidence, units).cpu().numpy()
        finite = np.isfinite(values.reshape(len(names), -1)).all(1)
        if not finite.all():
            raise SegalError(
                f"{names[int(np.argmin(finite))]}: {signal.column} is not finite",
                expected="finite logits and features from the network",
                got="NaN or infinity",
                remedy="check --mean and --std, and the checkpoint; with fp16, try bf16 or fp32",
            )
        measured[signal.column] = values
    return measured
