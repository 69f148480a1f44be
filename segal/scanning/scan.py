"""One pass over the pool: every signal, at every region size, while an image is in memory.

No logits are kept, and memory does not grow with the pool: rows go to disk as they are measured, in
blocks of images (see `segal.scanning.blocks`), so that a pass that was killed goes on from its last
whole block, and several processes share a pass without a word between them.
What scores the pool gets images only; there is no label in anything that this module is given.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segal import __version__
from segal.candidates.evidence import Evidence, Units
from segal.candidates.kept import Images
from segal.candidates.regions import Box, Boxes, RegionSize, Rest
from segal.candidates.table import TableWriter
from segal.data.image_sets import ImageSet, SetName
from segal.data.pool import ImagePool
from segal.data.prefetch import Waited, prefetch
from segal.errors import SegalError
from segal.functional.shares import shares
from segal.models.wrapped import Model
from segal.scanning.blocks import NOTES_FILE, Blocks, divide, numbered
from segal.scanning.large import measure_tiled
from segal.scanning.workbench import Bench, ScanSettings, batches, forward, read_batch, seen
from segal.signals import Meter, Signal, in_pieces
from segal.signals.base import NOT_FINITE
from segal.system.digests import fingerprint
from segal.system.files import remove
from segal.system.ranks import ALONE, Ranks
from segal.tasks.base import Task
from segal.tasks.tiles import Layout, TiledImage, tiling_note

__all__ = ["LABELLED_FOLDER", "NOTES_FILE", "Scan", "ScanSettings", "scan_notes"]

Progress = Callable[[int, int], None]
LABELLED_FOLDER = "labelled"


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
        configuration: Identifies what else the rows depend on, such as code of others.
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
    configuration: str = ""
    waited: Waited = field(default_factory=Waited)

    def run(
        self, folder: Path, progress: Progress | None = None, ranks: Ranks = ALONE
    ) -> tuple[str, ...]:
        """Measures, and writes the tables `folder/<size>` and `folder/labelled`, and what it notes.

        Of a pass that was killed, whole blocks are kept. Rank 0 puts the tables in their place. The
        blocks stay until `drop_blocks`, so that a kill before the pass is booked costs little.

        Args:
            folder: Appears as a whole when the pass is done.
            progress: Called with the number of images done and the number of all; first with those
                that were done before, once all signals are ready.
            ranks: The processes that share the pass, each of which calls this.

        Returns:
            What the user should be told about how it went.

        Raises:
            SegalError: If a signal is NaN or infinite, or the disk is full.
        """
        blocks = self.blocks(working_folder(folder))
        if ranks.is_first:
            blocks.drop_others()
        self.measure(blocks, range(len(blocks.images)), progress, ranks)
        if ranks.is_first:
            blocks.gather(folder)
        ranks.wait()
        return tuple(scan_notes(folder))

    def take(self, found: Path, folder: Path, ranks: Ranks = ALONE) -> None:
        """Takes the tables from blocks that others have measured; rank 0 does.

        Args:
            found: The folder of the blocks.
            folder: As of `run`.
            ranks: Those that call this, which return once the tables are there.

        Raises:
            SegalError: If a block is missing, damaged, or of another scan.
        """
        if ranks.is_first:
            blocks = self.blocks(found)
            blocks.check()
            blocks.gather(folder)
        ranks.wait()

    def blocks(self, folder: Path) -> Blocks:
        """The blocks of this scan in a folder, which need not be there yet."""
        return Blocks(
            folder, self.identity(), divide([self.pixels(i) for i in range(len(self.pool))])
        )

    def pixels(self, image: int) -> int:
        """Of an image as it is read: what work and blocks are divided by."""
        return math.prod(self.pool.shape(image))

    def identity(self) -> dict[str, object]:
        """What the rows depend on, but for rounding."""
        images = list(zip(self.pool.paths, (i.digest for i in self.pool.infos), strict=True))
        network = None
        if self.model is not None:
            state = self.model.state_dict()
            network = fingerprint(self.model.spec.as_dict(), [*state], *state.values())
        return {
            "segal": __version__,
            "network": network,
            "images": fingerprint(images),
            "signals": [signal.column for signal in self.signals],
            "signals of what is labelled": [s.column for s in self.signals if s.of_labelled],
            "regions": [str(region) for region in self.regions],
            "labelled": _digest(self.labelled),
            "exclude": _digest(self.excluded),
            "seed": self.seed,
            "precision": self.settings.precision,
            "embedding_dtype": self.settings.embedding_dtype,
            "configuration": self.configuration,
        }

    def measure(
        self,
        blocks: Blocks,
        share: range,
        progress: Progress | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Measures what is not there yet of some blocks.

        Args:
            blocks: Those of this scan.
            share: Which of them.
            progress: As of `run`, with the images of these blocks.
            ranks: The processes that share them, each of which calls this.

        Raises:
            SegalError: If a signal is NaN or infinite, the disk is full, or the ranks do not see
                the same folder.
        """
        left: list[int] = ranks.told(blocks.lacking(share) if ranks.is_first else None)
        pixels = [sum(self.pixels(i) for i in blocks.images[n]) for n in left]
        part = shares(pixels, ranks.count)[ranks.rank]
        own = left[part.start : part.stop]
        if own:
            done = sum(len(blocks.images[n]) for n in share if n not in set(left))
            total = done + sum(len(blocks.images[n]) for n in own)
            self._measure(blocks, own, lambda new: progress and progress(done + new, total))
        ranks.wait()
        if ranks.is_first and (lost := blocks.lacking(n for n in left if n not in own)):
            raise SegalError(
                f"{blocks.folder}: block {numbered(lost)} of another rank is not there, or damaged",
                expected="what every rank has just written",
                got=f"{len(left) - len(own) - len(lost)} whole blocks of other ranks",
                remedy="give an --out that all ranks share; then run the same command again, which "
                "goes on",
            )

    def _measure(
        self, blocks: Blocks, numbers: Sequence[int], progress: Callable[[int], None]
    ) -> None:
        meters, notes = self._prepare()
        progress(0)
        done = 0
        stream = self._read(self._pool_for(meters), {n: blocks.images[n] for n in numbers})
        for number, batches_of in groupby(stream, itemgetter(0)):
            images = blocks.images[number]
            with blocks.writing(number, notes) as folder, ExitStack() as stack:
                writers = {
                    name: stack.enter_context(self._writer(folder / name, images, count))
                    for name, count in self._counts(images).items()
                }
                for _, batch, read in batches_of:
                    self._scan_batch(batch, images.start, read, meters, writers)
                    done += len(batch)
                    progress(done)

    def _writer(self, folder: Path, images: range, count: int) -> TableWriter:
        paths = [self.pool.paths[i] for i in images]
        return TableWriter(folder, paths, count, self.settings.embedding_dtype)

    def _counts(self, images: range) -> dict[str, int]:
        """Rows of each table of a block."""
        sizes = Counter(self.pool.size(i) for i in images)
        counts = {
            str(region): sum(n * len(self.task.units(*s, region)) for s, n in sizes.items())
            for region in self.regions
        }
        return counts | {LABELLED_FOLDER: sum(len(self.labelled.get(i, ())) for i in images)}

    def _prepare(self) -> tuple[dict[Signal, Meter], list[str]]:
        """Every signal's meter, and what was noted on the way."""
        if not self.signals:
            return {}, []
        if self.model is None:
            raise ValueError("a scan with signals needs a model")
        bench = Bench(
            self.model, self.task, self.settings, self.sets, self.seed, tuple(self.regions)
        )
        count = sum(self._is_large(image) for image in range(len(self.pool)))
        unfit = [signal.column for signal in self.signals if not in_pieces(signal)]
        if count and unfit:
            raise SegalError(
                f"{', '.join(unfit)}: not measured of images that are looked at in tiles",
                expected="signals that are sums over pixels of logits and features",
                got=f"{count} images of more than {self.pool.reading.large.above:g} megapixels",
                remedy="choose another strategy, or cut the images",
            )
        if count:
            bench.note(tiling_note(count, self.pool.reading.large, self.model))
        ways = {signal: self.task.measured(signal) for signal in self.signals}
        return {signal: way.prepare(bench) for signal, way in ways.items()}, bench.notes

    def _pool_for(self, meters: Mapping[Signal, Meter]) -> ImagePool:
        """The pool as the pass reads it."""
        return self.pool if self.model is None else seen(self.model, self.pool, _catch(meters))

    def _read(
        self, pool: ImagePool, blocks: Mapping[int, range]
    ) -> Iterator[tuple[int, list[int], Images | None]]:
        """Batches of each block, as numbers and as read."""
        grouped = (
            (number, list(alike))
            for number, images in blocks.items()
            for batch in batches(self.pool, images, self.settings.batch_size)
            for _, alike in groupby(batch, self._shared)  # a batch shares its units
        )
        if not self.signals:
            return ((number, batch, None) for number, batch in grouped)

        def read(item: tuple[int, list[int]]) -> tuple[int, list[int], Images | None]:
            number, batch = item
            if self._is_large(batch[0]):
                return number, batch, None
            return number, batch, read_batch(pool, batch, self.settings.device)

        return prefetch(read, grouped, self.settings.workers, waited=self.waited)

    def _is_large(self, image: int) -> bool:
        """Whether an image is looked at in tiles."""
        return self.task.in_tiles and self.pool.is_large(image)

    def _shared(self, image: int) -> tuple[int | None, tuple[Box, ...]]:
        """What images of a batch have in common; a large one is alone."""
        return image if self._is_large(image) else None, self._excluded(image)

    def _excluded(self, image: int) -> tuple[Box, ...]:
        return self.excluded.get(image, ())

    @torch.no_grad()
    def _scan_batch(
        self,
        batch: list[int],
        first: int,
        images: Images | None,
        meters: Mapping[Signal, Meter],
        writers: Mapping[str, TableWriter],
    ) -> None:
        """Measures a batch and writes its rows; its evidence is gone when this returns."""
        if self.model is not None and self.signals and self._is_large(batch[0]):
            self._scan_large(batch[0], first, meters, writers)
            return
        places = [image - first for image in batch]
        names = [self.pool.paths[i] for i in batch]
        evidence = self._forward(images, meters, names)
        for region in self.regions:
            grid = self.task.units(*self.pool.size(batch[0]), region)
            measured = _measure(evidence, _rest(grid, self._excluded(batch[0])), meters, names)
            writers[str(region)].append(places, grid.boxes(), measured)
        kept = {signal: meter for signal, meter in meters.items() if signal.of_labelled}
        alike: dict[tuple[Box, ...], list[int]] = {}
        for row, image in enumerate(batch):
            if self.labelled.get(image):
                alike.setdefault(tuple(self.labelled[image]), []).append(row)
        found: dict[int, tuple[Boxes, dict[str, NDArray[np.float64]]]] = {}
        for listed, rows in alike.items():  # a batch shares its units: once for all of a kind
            boxes = Boxes(listed)
            part = None if evidence is None else evidence.of(rows)
            own_names = [names[row] for row in rows]
            measured = _measure(part, _rest(boxes, self._excluded(batch[0])), kept, own_names)
            for place, row in enumerate(rows):
                own = {c: values[place : place + 1].copy() for c, values in measured.items()}
                found[row] = boxes, own
        for row in sorted(found):
            boxes, measured = found[row]
            writers[LABELLED_FOLDER].append([places[row]], boxes.boxes(), measured)

    def _scan_large(
        self,
        image: int,
        first: int,
        meters: Mapping[Signal, Meter],
        writers: Mapping[str, TableWriter],
    ) -> None:
        """Measures a large image, and writes its rows as they are done."""
        assert self.model is not None
        size = self.pool.size(image)
        tiled = TiledImage(
            self.pool.pixels(),
            image,
            Layout.of(size, self.pool.reading.large, self.model.spec),
            lambda images, names: self._forward_tiles(images, meters, names),
            self.settings.batch_size,
            self.settings.workers,
            self._excluded(image),
        )
        grids = {str(region): self.task.units(*size, region) for region in self.regions}
        labelled = tuple(self.labelled.get(image, ()))
        for name, boxes, measured in measure_tiled(tiled, grids, labelled, meters, _measure):
            writers[LABELLED_FOLDER if name is None else name].append(
                [image - first], boxes, measured
            )

    def _forward_tiles(
        self, images: Images, meters: Mapping[Signal, Meter], names: Sequence[str]
    ) -> Evidence:
        assert self.model is not None
        return forward(self.task, self.model, images, self.settings, _catch(meters), names)

    def _forward(
        self, images: Images | None, meters: Mapping[Signal, Meter], names: Sequence[str]
    ) -> Evidence | None:
        if images is None or self.model is None:
            return None
        return forward(self.task, self.model, images, self.settings, _catch(meters), names)


def _catch(meters: Mapping[Signal, Meter]) -> list[str]:
    """What the signals of a pass want of it beside the logits."""
    return list(dict.fromkeys(name for meter in meters.values() for name in meter.catch))


def _digest(boxes: Mapping[int, Sequence[Box]]) -> str:
    """Of boxes by image; none of an image is as if the image was not there."""
    plain = ([int(i), [list(map(int, box)) for box in boxes[i]]] for i in sorted(boxes))
    return fingerprint([one for one in plain if one[1]])


def working_folder(folder: Path) -> Path:
    """Where a pass whose tables `folder` takes keeps its blocks until it is done."""
    return folder.with_name(f".{folder.name}.blocks")


def drop_blocks(folder: Path) -> None:
    """Removes the blocks of a pass once its tables, in `folder`, are booked; or if they are not."""
    remove(working_folder(folder))


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
