"""One pass over the pool: every signal, at every region size, while an image is in memory.

No logits are kept, and memory does not grow with the pool: rows go to disk as they are measured.
What scores the pool gets images only; there is no label in anything that this module is given.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segal.candidates.evidence import Evidence, Units
from segal.candidates.kept import Images
from segal.candidates.regions import Box, Boxes, RegionSize, Rest
from segal.candidates.table import TableWriter
from segal.data.image_sets import ImageSet, SetName
from segal.data.pool import ImagePool
from segal.data.prefetch import Waited, prefetch
from segal.errors import SegalError
from segal.models.wrapped import Model
from segal.scanning.workbench import Bench, ScanSettings, batches, forward, read_batch, seen
from segal.signals import Meter, Signal
from segal.signals.base import NOT_FINITE
from segal.system.files import replacing, write_json
from segal.tasks.base import Task

__all__ = ["LABELLED_FOLDER", "NOTES_FILE", "Scan", "ScanSettings", "scan_notes"]

Progress = Callable[[int, int], None]
LABELLED_FOLDER = "labelled"
NOTES_FILE = "notes.json"
"""Beside the tables, where there is something to say of the pass."""


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
        excluded: What is never annotated, by image, as boxes that do not overlap: candidates are
            measured without it.
        sets: Sets of images that signals may look at before the pass.
        seed: Of everything random in the pass.
        waited: How long the network waited for images, once the pass is done.
    """

    pool: ImagePool
    task: Task
    regions: Sequence[RegionSize]
    settings: ScanSettings
    signals: Sequence[Signal] = ()
    model: Model | None = None
    labelled: Mapping[int, Sequence[Box]] = field(default_factory=dict)
    excluded: Mapping[int, tuple[Box, ...]] = field(default_factory=dict)
    sets: Mapping[SetName, ImageSet] = field(default_factory=dict)
    seed: int = 0
    waited: Waited = field(default_factory=Waited)

    def run(self, folder: Path, progress: Progress | None = None) -> tuple[str, ...]:
        """Measures, and writes the tables `folder/<size>` and `folder/labelled`, and what it notes.

        Args:
            folder: Appears as a whole when the pass is done.
            progress: Called with the number of images done and the number of all; first with 0,
                once all signals are ready.

        Returns:
            What the user should be told about how it went.

        Raises:
            SegalError: If a signal is NaN or infinite, or the disk is full.
        """
        counts = {str(region): self._count(region) for region in self.regions}
        counts[LABELLED_FOLDER] = sum(len(boxes) for boxes in self.labelled.values())
        meters, notes = self._prepare()
        if progress is not None:
            progress(0, len(self.pool))
        with replacing(folder) as temporary, ExitStack() as stack:
            writers: dict[str, TableWriter] = {}
            for name, count in counts.items():
                writer = TableWriter(
                    temporary / name, self.pool.paths, count, self.settings.embedding_dtype
                )
                writers[name] = stack.enter_context(writer)
            done = 0
            for batch, images in self._read(self._pool_for(meters)):
                self._scan_batch(batch, images, meters, writers)
                done += len(batch)
                if progress is not None:
                    progress(done, len(self.pool))
            if notes:
                write_json(temporary / NOTES_FILE, notes)
        return tuple(notes)

    def _prepare(self) -> tuple[dict[Signal, Meter], list[str]]:
        """Every signal's meter, and what was noted on the way."""
        if not self.signals:
            return {}, []
        if self.model is None:
            raise ValueError("a scan with signals needs a model")
        bench = Bench(
            self.model, self.task, self.settings, self.sets, self.seed, tuple(self.regions)
        )
        ways = {signal: self.task.measured(signal) for signal in self.signals}
        return {signal: way.prepare(bench) for signal, way in ways.items()}, bench.notes

    def _count(self, region: RegionSize) -> int:
        sizes = Counter(self.pool.size(i) for i in range(len(self.pool)))
        return sum(n * len(self.task.units(*size, region)) for size, n in sizes.items())

    def _pool_for(self, meters: Mapping[Signal, Meter]) -> ImagePool:
        """The pool as the pass reads it."""
        return self.pool if self.model is None else seen(self.model, self.pool, _catch(meters))

    def _read(self, pool: ImagePool) -> Iterator[tuple[list[int], Images | None]]:
        grouped = (
            list(alike)
            for batch in batches(self.pool, range(len(self.pool)), self.settings.batch_size)
            for _, alike in groupby(batch, self._excluded)  # a batch shares its units
        )
        if not self.signals:
            return ((batch, None) for batch in grouped)

        def read(batch: list[int]) -> tuple[list[int], Images]:
            return batch, read_batch(pool, batch, self.settings.device)

        return prefetch(read, grouped, self.settings.workers, waited=self.waited)

    def _excluded(self, image: int) -> tuple[Box, ...]:
        return self.excluded.get(image, ())

    @torch.no_grad()
    def _scan_batch(
        self,
        batch: list[int],
        images: Images | None,
        meters: Mapping[Signal, Meter],
        writers: Mapping[str, TableWriter],
    ) -> None:
        """Measures a batch and writes its rows; its evidence is gone when this returns."""
        names = [self.pool.paths[i] for i in batch]
        evidence = self._forward(images, meters, names)
        for region in self.regions:
            grid = self.task.units(*self.pool.size(batch[0]), region)
            measured = _measure(evidence, _rest(grid, self._excluded(batch[0])), meters, names)
            writers[str(region)].append(batch, grid.boxes(), measured)
        kept = {signal: meter for signal, meter in meters.items() if signal.of_labelled}
        alike: dict[tuple[Box, ...], list[int]] = {}
        for row, image in enumerate(batch):
            if self.labelled.get(image):
                alike.setdefault(tuple(self.labelled[image]), []).append(row)
        found: dict[int, tuple[Boxes, dict[str, NDArray[np.float64]]]] = {}
        for listed, rows in alike.items():  # a batch shares its units: once for all of a kind
            boxes = Boxes(listed)
            part = None if evidence is None else evidence.of(rows)
            measured = _measure(part, _rest(boxes, self._excluded(batch[0])), kept, names)
            for place, row in enumerate(rows):
                own = {c: values[place : place + 1].copy() for c, values in measured.items()}
                found[row] = boxes, own
        for row in sorted(found):
            boxes, measured = found[row]
            writers[LABELLED_FOLDER].append([batch[row]], boxes.boxes(), measured)

    def _forward(
        self, images: Images | None, meters: Mapping[Signal, Meter], names: Sequence[str]
    ) -> Evidence | None:
        if images is None or self.model is None:
            return None
        return forward(self.task, self.model, images, self.settings, _catch(meters), names)


def _catch(meters: Mapping[Signal, Meter]) -> list[str]:
    """What the signals of a pass want of it beside the logits."""
    return list(dict.fromkeys(name for meter in meters.values() for name in meter.catch))


def scan_notes(folder: Path) -> list[str]:
    """What a pass that is done noted, from the folder that it wrote."""
    path = folder / NOTES_FILE
    notes: list[str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return notes


@lru_cache(maxsize=64)
def _rest(units: Units, excluded: tuple[Box, ...]) -> Units:
    """Units without what is excluded."""
    return Rest(units, excluded) if excluded else units


def _measure(
    evidence: Evidence | None, units: Units, meters: Mapping[Signal, Meter], names: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Each signal of a batch by its column: (B, units) or (B, units, d)."""
    measured: dict[str, NDArray[np.float64]] = {}
    if evidence is None:
        return measured
    for signal, meter in meters.items():
        values = meter.measure(evidence, units).cpu().numpy()
        finite = np.isfinite(values.reshape(*values.shape[:2], -1)).all(-1)
        if not finite.all():
            image, unit = map(int, np.argwhere(~finite)[0])
            raise SegalError(
                f"{names[image]}, region {unit + 1} of {len(units)}: {signal.column} is not finite",
                expected="finite logits and features from the network",
                got="NaN or infinity",
                remedy=NOT_FINITE,
            )
        measured[signal.column] = values
    return measured
