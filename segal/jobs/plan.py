"""What a selection would take, from trials on a few images: time, memory and disk."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from segal.acquisition import Offer
from segal.budget import Budget
from segal.candidates import CandidateTable
from segal.config import SelectConfig
from segal.console import bar
from segal.data.pool import ImagePool, open_pool
from segal.errors import SegalError
from segal.image_sets import ImageSet, SetName
from segal.jobs.inputs import image_sizes, read_labelled, scan_settings
from segal.jobs.reference import SelectionLabels, needs_of
from segal.machine import find_device, peak_memory_bytes, use_threads
from segal.models.checkpoint import CheckpointOptions, load_checkpoint
from segal.models.segmentation import SegmentationModel
from segal.regions import RegionSize
from segal.scan import Scan
from segal.strategies.base import PassContext, Strategy
from segal.tasks.segmentation import Segmentation

_TRIALS = ((1, 1), (3, 1), (1, 3))
"""Images of the pool, and of each set beside it, that a trial looks at."""


@dataclass(frozen=True)
class Plan:
    """What a selection would take, about.

    Attributes:
        images: Of the pool.
        candidates: Regions on offer.
        picks: The most that the budget buys.
        prepare_seconds: Before the pass, on the sets of images that the strategy measures on.
        scan_seconds: The passes over the pool.
        disk_bytes: Candidate tables.
        scan_bytes: Peak memory of the passes.
        select_bytes: Embeddings that the choice holds in memory.
    """

    images: int
    candidates: int
    picks: int
    prepare_seconds: float
    scan_seconds: float
    disk_bytes: int
    scan_bytes: int
    select_bytes: int

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"{self.images} images, {self.candidates} regions on offer; "
            f"the budget buys {self.picks} of them at most",
            f"time: about {_minutes(self.prepare_seconds)} before the pass, "
            f"{_minutes(self.scan_seconds)} for the pass over the pool, and the choice",
            f"memory: about {_size(self.scan_bytes)} for the pass, and embeddings of "
            f"{_size(self.select_bytes)} for the choice",
            f"disk: {_size(self.disk_bytes)} of candidate tables",
        ]


def plan_selection(config: SelectConfig, strategy: Strategy) -> Plan:
    """Tries a selection on a few images; nothing is left behind.

    Args:
        config: The configuration; `out` is not used.
        strategy: The strategy that `config.strategy` names.

    Raises:
        SegalError: For whatever would stop the selection.
    """
    use_threads(config.machine.threads)
    device = find_device(config.machine.device)
    with bar("Checking images") as advance:
        pool = open_pool(
            config.images,
            skip_unreadable=config.skip_unreadable,
            value_range=config.value_range,
            workers=max(1, config.machine.workers),
            progress=advance,
        )
    labelled = read_labelled(config.labelled, pool)
    sizes = image_sizes(pool)
    boxes = {pool.paths[image]: found for image, found in labelled.items()}
    offer = Offer.of(sizes, RegionSize.parse(config.region), boxes)
    areas = np.array([h * w for h, w in sizes.values()], np.int64)
    picks = Budget.parse(config.budget).allowance(areas).most(offer.prices)
    sets = SelectionLabels.open(config, strategy).sets(config, pool, labelled)
    model = None
    if config.checkpoint is not None:
        options = CheckpointOptions(**config.model.model_dump())
        model = load_checkpoint(config.checkpoint, options).to(device)
    elif next(iter(strategy.passes(PassContext())), []):
        raise SegalError(
            "checkpoint: missing",
            expected=f"a network, which {config.strategy['name']} measures the pool with",
            got="no --checkpoint",
            remedy="give --checkpoint FILE",
        )
    needed = [sets[of].indices() for of in {need.of for need in needs_of(strategy)}]
    return _extrapolate(
        _Trial(config, strategy, pool, sets, model), len(offer), picks, sum(map(len, needed))
    )


@dataclass(frozen=True)
class _Measured:
    """What a trial took.

    Attributes:
        seconds: Of all passes.
        disk: Bytes of their tables for each candidate.
        embedded: Numbers in a candidate's embeddings.
    """

    seconds: float
    disk: float
    embedded: int


@dataclass(frozen=True)
class _Trial:
    """The passes of a selection, over its first images."""

    config: SelectConfig
    strategy: Strategy
    pool: ImagePool
    sets: Mapping[SetName, ImageSet]
    model: SegmentationModel | None

    def __call__(self, images: int, beside: int) -> _Measured:
        """Runs all passes over the first images of the pool, and of each set beside it."""
        config, context = self.config, PassContext()
        sizes = dict.fromkeys([config.region, *config.extra_regions])
        started = time.perf_counter()
        with TemporaryDirectory() as temporary:
            for number, signals in enumerate(self.strategy.passes(context)):
                scan = Scan(
                    pool=self.pool.subset(range(min(images, len(self.pool)))),
                    task=Segmentation(),
                    regions=[RegionSize.parse(size) for size in sizes],
                    settings=scan_settings(config, find_device(config.machine.device)),
                    signals=signals,
                    model=self.model,
                    sets={name: found.first(beside) for name, found in self.sets.items()},
                )
                scan.run(Path(temporary) / str(number))
                table = CandidateTable.open(Path(temporary) / str(number) / config.region)
                context.tables.append(table)
            seconds = time.perf_counter() - started
            files = (p for p in Path(temporary).rglob("*.npy"))
            disk = sum(path.stat().st_size for path in files)
        columns = [c for table in context.tables for c in table.embeddings.values()]
        embedded = sum(column.shape[1] for column in columns)
        return _Measured(seconds, disk / sum(map(len, context.tables)), embedded)


def _extrapolate(trial: _Trial, candidates: int, picks: int, beside: int) -> Plan:
    """From a few images to all, as if time and disk grew with the pixels."""
    trial(1, 1)  # the first pass of all pays for what is loaded late
    with bar("Trying it on a few images") as advance:
        measured = []
        for sizes in _TRIALS:
            measured.append(trial(*sizes))
            advance(len(measured), len(_TRIALS))
    one, more, more_beside = measured
    areas = [h * w for h, w in image_sizes(trial.pool).values()]
    tried = areas[: max(images for images, _ in _TRIALS)]
    of_image = max(0.0, (more.seconds - one.seconds) / 2)
    of_set = max(0.0, (more_beside.seconds - one.seconds) / 2) if beside else 0.0
    fixed = max(0.0, one.seconds - of_image - of_set)
    return Plan(
        images=len(areas),
        candidates=candidates,
        picks=picks,
        prepare_seconds=fixed + of_set * beside,
        scan_seconds=of_image * len(tried) * sum(areas) / sum(tried),
        disk_bytes=round(more.disk * candidates),
        scan_bytes=max(peak_memory_bytes(find_device(trial.config.machine.device)).values()),
        select_bytes=one.embedded * 4 * candidates,
    )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _size(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
