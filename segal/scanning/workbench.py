"""What signals get ready with before a pass: the network, run on sets of images."""

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from segal.candidates.evidence import Evidence
from segal.candidates.kept import Images, Kept
from segal.candidates.regions import RegionSize
from segal.data.image_sets import ImageSet, SetName
from segal.data.pool import ImagePool
from segal.data.prefetch import prefetch
from segal.data.stand_in import StandInPool
from segal.errors import SegalError
from segal.models.noise import failed
from segal.models.wrapped import FURTHER_PASSES, PIXELS, Model
from segal.signals import Visit
from segal.signals.base import NOT_FINITE
from segal.system.console import bar
from segal.system.machine import Precision, autocast
from segal.tasks.base import Task

T = TypeVar("T")

_SHOWN: Mapping[SetName, str] = {
    "val": "reference set",
    "initial": "first labels",
    "labelled": "labelled regions",
    "pool": "pool",
}
_REMEDIES: Mapping[SetName, str] = {
    "val": "give reference.root and reference.split (select), or data.validation (run)",
    "initial": "give --labelled FILE, the first purchase's selection",
    "labelled": "give --labelled FILE for what is labelled",
    "pool": "give a folder of images",
}


_ROWS = 256  # of a table of features: each takes less than its own overhead


@dataclass(frozen=True)
class ScanSettings:
    """How a pass is run; none of it changes what is measured beyond rounding.

    Attributes:
        device: Where the network runs.
        batch_size: Images at a time; a batch holds images of one size only. Rows of a table of
            features come in no fewer than 256.
        workers: Threads that read ahead; 0 reads in between.
        precision: Of the network's forward pass; what is pooled is float32 at least.
        embedding_dtype: Of the embeddings as stored.
    """

    device: torch.device
    batch_size: int = 1
    workers: int = 1
    precision: Precision = "fp32"
    embedding_dtype: Literal["float32", "float16"] = "float32"


def batches(pool: ImagePool, images: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Runs of neighbours among `images` that are of one size; many where that is one pixel."""
    batch: list[int] = []
    for i in images:
        if batch:
            shape = pool.shape(batch[0])
            most = max(batch_size, _ROWS) if shape == (1, 1) else batch_size
            if len(batch) == most or pool.shape(i) != shape:
                yield batch
                batch = []
        batch.append(i)
    if batch:
        yield batch


def seen(model: Model, pool: ImagePool, catch: Collection[str]) -> ImagePool:
    """A pool as a pass reads it: what a frozen part left of its images, where that is enough.

    Args:
        model: The network.
        pool: The images.
        catch: What is wanted of the pass; see `segal.signals.Meter`.
    """
    if isinstance(pool, StandInPool) and not model.gives(catch, pool.layers):
        return pool.pixels()
    return pool


def read_batch(pool: ImagePool, batch: Sequence[int], device: torch.device) -> Images:
    """Images of one size, where a GPU can fetch them from while it computes."""
    images = pool.batch(batch)
    return images.pin_memory() if device.type == "cuda" else images


def forward(
    task: Task,
    model: Model,
    images: Images,
    settings: ScanSettings,
    catch: Collection[str],
    names: Sequence[str],
) -> Evidence:
    """A forward pass, without gradients.

    Args:
        task: What the network is asked.
        model: The network.
        images: (B, H, W, 3) as read, or what a frozen part left of images.
        settings: How to run.
        catch: What is wanted beside the logits; see `segal.signals.Meter`.
        names: Paths of the images.

    Raises:
        SegalError: If the network fails.
    """
    try:
        with torch.no_grad(), autocast(settings.device, settings.precision):
            inputs = model.normalise(images.to(settings.device, non_blocking=True))
            caught = [name for name in catch if name not in {PIXELS, FURTHER_PASSES}]
            evidence = task.evidence(model, inputs, caught)
    except RuntimeError as error:  # what is beside the network's own pass: memory
        batch, *sides = images.shape
        height, width = sides[1:] if isinstance(images, Kept) else sides[:2]
        shape = (batch, model.spec.channels, height, width)
        raise failed(model.spec.architecture, shape, error) from error
    evidence.inputs, evidence.images = inputs, tuple(names)
    return evidence


@dataclass(frozen=True, eq=False)
class Bench:
    """The workbench of one pass (see `segal.signals.Workbench`).

    Attributes:
        model: The network, in `eval()` mode on the settings' device.
        task: What the network is asked.
        settings: How to run.
        sets: The sets of images that there are.
        seed: Of everything random in the pass.
        regions: Sizes of the candidates that the pass measures.
        notes: What the user was told.
    """

    model: Model
    task: Task
    settings: ScanSettings
    sets: Mapping[SetName, ImageSet] = field(default_factory=dict)
    seed: int = 0
    regions: Sequence[RegionSize] = (RegionSize(),)
    notes: list[str] = field(default_factory=list)
    _memo: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @property
    def unit(self) -> str:
        """What elements are called."""
        return self.task.metric.elements

    @property
    def precision(self) -> Precision:
        """Of the network's forward passes."""
        return self.settings.precision

    @property
    def workers(self) -> int:
        """Threads that read ahead."""
        return self.settings.workers

    def images(self, of: SetName) -> ImageSet:
        """A set of images.

        Raises:
            SegalError: If there is none of that name, or nothing in it.
        """
        found = self.sets.get(of)
        if found is None or not found.indices():
            raise SegalError(
                f"the {_SHOWN[of]}: none",
                expected="images to measure on",
                got="no image" if found is not None else "nothing given",
                remedy=_REMEDIES[of],
            )
        return found

    def visit(
        self, of: SetName, catch: Collection[str] = (), only: Collection[int] | None = None
    ) -> Iterator[Visit]:
        """Forward passes over a set; see `segal.signals.Workbench`.

        Raises:
            SegalError: If there is no such set, an image or a label cannot be read, or a logit is
                NaN or infinite.
        """
        images, settings = self.images(of), self.settings
        chosen = [i for i in images.indices() if only is None or i in only]
        grouped = batches(images.pool, chosen, settings.batch_size)

        pool = seen(self.model, images.pool, catch)

        def read(batch: list[int]) -> tuple[list[int], Images, Tensor, Any]:
            pixels = read_batch(pool, batch, settings.device)
            if images.dataset is None:
                masks = np.stack([images.mask(i) for i in batch])
                return batch, pixels, torch.from_numpy(masks), None
            labels = [images.label(i) for i in batch]
            return batch, pixels, *self.task.known(labels, images.pool.size(batch[0]))

        done = 0
        with bar(f"Measuring the {_SHOWN[of]}") as advance:
            for batch, pixels, mask, labels in prefetch(read, grouped, settings.workers):
                names = [images.pool.paths[i] for i in batch]
                evidence = forward(self.task, self.model, pixels, settings, catch, names)
                _check_finite(of, evidence)
                known = None if labels is None else labels.to(settings.device)
                yield Visit(evidence, mask.to(settings.device), known)
                done += len(batch)
                advance(done, len(chosen))

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Returns `compute()`, run at most once for a key before a pass."""
        if key not in self._memo:
            self._memo[key] = compute()
        found: T = self._memo[key]
        return found

    def note(self, text: str) -> None:
        """Keeps something to tell the user, once."""
        if text not in self.notes:
            self.notes.append(text)


def _check_finite(of: SetName, evidence: Evidence) -> None:
    every = zip(evidence.images, evidence.finite(), strict=True)
    broken = [name for name, good in every if not good]
    if broken:
        raise SegalError(
            f"the {_SHOWN[of]}: the network's logits are not finite",
            expected="finite logits",
            got="NaN or infinity at " + ", ".join(broken),
            remedy=NOT_FINITE,
        )
