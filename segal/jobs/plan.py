"""What a selection would take, from trials on a few images: time, memory and disk."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from segal.candidates.budget import Allowance
from segal.candidates.regions import Box, RegionSize
from segal.config import SelectConfig
from segal.data.image_sets import ImageSet, SetName
from segal.data.pool import ImagePool
from segal.jobs.cold_start import is_encoder
from segal.jobs.copies import copies_notes, without_copies
from segal.jobs.exclusions import excluded_of
from segal.jobs.inputs import by_index, check_channels, image_shapes, image_sizes, scan_settings
from segal.jobs.keeping import Keeping
from segal.jobs.network import with_folder
from segal.jobs.passes import run_passes
from segal.jobs.prices import EXPECTED, signals_of
from segal.jobs.reference import SelectionLabels, needs_of
from segal.jobs.select import load_network, make_offer
from segal.models.build import check_image_sizes
from segal.models.wrapped import Model
from segal.runs.acquisition import Offer
from segal.scanning.scan import Scan
from segal.signals import Signal
from segal.strategies.base import PassContext, Strategy, check_images
from segal.system.console import bar, tell
from segal.system.machine import (
    find_device,
    peak_memory_bytes,
    precision_note,
    readers,
    use_threads,
)
from segal.tasks import find_task

_TRIALS = ((1, 1), (3, 1), (1, 12))
"""Images of the pool, and of each set beside it, that a trial looks at."""

_CLEAR = 1.3
"""What a pass takes with more images beside it, as a multiple, that is more than noise."""


@dataclass(frozen=True)
class Plan:
    """What a selection would take, about.

    Attributes:
        images: Of the pool.
        candidates: Regions on offer.
        picks: The most that the budget buys; of one in boxes, about how many at the mean price of
            the images that were tried.
        prepare_seconds: Before the pass, on the sets of images that the strategy measures on.
        scan_seconds: The passes over the pool.
        disk_bytes: Candidate tables.
        scan_bytes: Peak memory of the passes.
        select_bytes: Embeddings that the choice holds in memory.
        notes: What the user should be told about the inputs and the machine.
        network: What the network expects of its input; None without a network.
        boxes: Expected of a candidate, in the mean; None where the budget counts something else.
        store_bytes: What frozen layers give for the pool; None where there is no store of it.
    """

    images: int
    candidates: int
    picks: int
    prepare_seconds: float
    scan_seconds: float
    disk_bytes: int
    scan_bytes: int
    select_bytes: int
    notes: tuple[str, ...] = ()
    network: str | None = None
    boxes: float | None = None
    store_bytes: int | None = None

    def lines(self) -> list[str]:
        """For people."""
        buys = f"{self.picks} of them at most"
        if self.boxes is not None:
            buys = f"about {self.picks} of them, at {self.boxes:.1f} expected boxes each"
        return [
            f"{self.images} images, {self.candidates} regions on offer; the budget buys {buys}",
            f"time: about {_minutes(self.prepare_seconds)} before the pass, "
            f"{_minutes(self.scan_seconds)} for the pass over the pool, and the choice",
            f"memory: about {_size(self.scan_bytes)} for the pass, and embeddings of "
            f"{_size(self.select_bytes)} for the choice",
            f"disk: {_size(self.disk_bytes)} of candidate tables"
            + ("" if self.store_bytes is None else f", {_size(self.store_bytes)} in the store"),
            *([self.network] if self.network else []),
            *self.notes,
        ]


def plan_selection(config: SelectConfig, strategy: Strategy) -> Plan:
    """Tries a selection on a few images; nothing is left behind.

    Args:
        config: The configuration; `out` is not used.
        strategy: The strategy that `config.strategy` names.

    Raises:
        SegalError: For whatever would stop the selection.
    """
    config = with_folder(config)
    use_threads(config.machine.threads)
    device = find_device(config.machine.device)
    model = load_network(config, strategy)
    labels = SelectionLabels.open(config, strategy)
    if model is not None:
        tell(*model.notes)
        model.to(device)
    answering = None if is_encoder(config) else model
    if answering is not None:
        labels.check(answering.spec)
    with bar("Checking images") as advance:
        pool = find_task(config.task).open_pool(
            config.images,
            skip_unreadable=config.skip_unreadable,
            follow_links=config.follow_links,
            reading=config.reading,
            classes=None if answering is None else answering.spec.num_classes,
            workers=readers(config.machine.workers),
            progress=advance,
        )
    withdrawn = labels.labelled.withdrawn
    pool = pool.subset(withdrawn.left(pool)) if withdrawn else pool
    if model is not None:
        check_channels(model.spec, pool)
        check_image_sizes(model, image_shapes(pool))
    check_images(strategy, pool.paths)
    notes, whole = [*pool.notes(), *copies_notes(pool, unique=config.unique)], pool
    labelled = labels.labelled.boxes(pool)
    if config.unique:
        pool, labelled = without_copies(pool, labelled)
    slow = precision_note(device, config.precision)
    notes += [*labels.labelled.notes, *([slow] if slow else [])]
    boxes = {pool.paths[image]: found for image, found in labelled.items()}
    excluded = withdrawn.together(whole, excluded_of(config.exclude, whole))
    offer, allowance = make_offer(config, pool, boxes, excluded)
    sets, needed = (
        labels.sets(config, pool, labelled, whole, excluded),
        {need.of for need in needs_of(strategy)},
    )
    trial = _Trial(
        *(config, strategy, pool, {name: sets[name] for name in sets if name in needed}, model),
        excluded=by_index(pool, excluded),
    )
    rows = len(Offer.of(image_sizes(pool), RegionSize.parse(config.region), {}))
    plan = _extrapolate(trial, rows, offer, allowance)
    store_bytes = None if model is None else Keeping.bytes_for(config.store, model, pool)
    if config.store is not None and (store_bytes or 0) > config.store.gigabytes * 1e9:
        notes.append(
            f"store.gigabytes: {config.store.gigabytes:g} is less than the images take, so that "
            "some are made again in every pass."
        )
    return replace(plan, notes=tuple(notes), store_bytes=store_bytes)


@dataclass(frozen=True)
class _Measured:
    """What a trial took.

    Attributes:
        prepare: Seconds before the passes.
        passes: Seconds of all passes.
        images: Of the pool, that they went over.
        beside: Images of the sets that were looked at before.
        disk: Bytes of their tables for each row of one.
        embedded: Numbers in a candidate's embeddings.
        boxes: Expected of a candidate, in the mean; None where nobody asked.
    """

    prepare: float
    passes: float
    images: int
    beside: int
    disk: float
    embedded: int
    boxes: float | None


@dataclass(frozen=True)
class _Trial:
    """The passes of a selection, over its first images."""

    config: SelectConfig
    strategy: Strategy
    pool: ImagePool
    sets: Mapping[SetName, ImageSet]
    model: Model | None
    excluded: Mapping[int, tuple[Box, ...]]

    def __call__(self, images: int, beside: int) -> _Measured:
        """Runs all passes over the first images of the pool, and of each set beside it."""
        pool = self.pool.subset(range(min(images, len(self.pool))))
        sets = {name: found.first(beside) for name, found in self.sets.items()}
        prepare = passes = 0.0

        def measure(_: int, signals: Sequence[Signal], tables: Path) -> None:
            nonlocal prepare, passes
            before, during = self._scan(pool, sets, signals, tables)
            prepare, passes = prepare + (before if signals else 0.0), passes + during

        with TemporaryDirectory() as temporary:
            folder, region = Path(temporary), self.config.region
            context = PassContext(shared_features=find_task(self.config.task).shared_features)
            last = run_passes(self.strategy, context, folder, region, measure).table
            disk = sum(path.stat().st_size for path in Path(temporary).rglob("*.npy"))
            return _Measured(
                prepare=prepare,
                passes=passes,
                images=len(pool),
                beside=sum(len(found.indices()) for found in sets.values()),
                disk=disk / len(last),
                embedded=sum(column.shape[1] for column in last.embeddings.values()),
                boxes=float(last.values[EXPECTED.column].mean())
                if EXPECTED.column in last.values
                else None,
            )

    def _scan(
        self,
        pool: ImagePool,
        sets: Mapping[SetName, ImageSet],
        signals: Sequence[Signal],
        folder: Path,
    ) -> tuple[float, float]:
        """Seconds until the signals were ready, and of the pass."""
        config, ready = self.config, list[float]()
        sizes = dict.fromkeys([config.region, *config.extra_regions])
        scan = Scan(
            pool=pool,
            task=find_task(config.task),
            regions=[RegionSize.parse(size) for size in sizes],
            settings=scan_settings(config, find_device(config.machine.device)),
            signals=list(dict.fromkeys([*signals, *signals_of(config.budget)])),
            model=self.model,
            excluded=self.excluded,
            sets=sets,
        )
        started = time.perf_counter()
        scan.run(folder, lambda done, _: None if done else ready.append(time.perf_counter()))
        during = time.perf_counter() - ready[0]
        return ready[0] - started, during


def _extrapolate(trial: _Trial, rows: int, offer: Offer, allowance: Allowance) -> Plan:
    """From a few images to all, as if time and disk grew with the pixels."""
    trial(1, 1)  # the first pass of all pays for what is loaded late
    with bar("Trying it on a few images") as advance:
        measured = []
        for sizes in _TRIALS:
            measured.append(trial(*sizes))
            advance(len(measured), len(_TRIALS))
    one, more, deep = measured
    areas = [h * w for h, w in image_sizes(trial.pool).values()]
    share = sum(areas) * more.images / sum(areas[: more.images])  # the pool, in images like those
    beside = sum(len(found.indices()) for found in trial.sets.values())
    further = max(1, deep.beside - one.beside)
    of_set = max(0.0, deep.prepare - one.prepare) / further
    # Of a pass: what an image takes, and what it takes more for each image of a set, where every
    # candidate is measured on all of them.
    of_image = max(0.0, more.passes - one.passes) / max(1, more.images - one.images)
    of_pair = (deep.passes - one.passes) / (further * one.images)
    if deep.passes < _CLEAR * one.passes:
        of_pair = 0.0
    return Plan(
        images=len(areas),
        candidates=len(offer),
        picks=allowance.most(offer.prices)
        if more.boxes is None
        else allowance.about(more.boxes, len(offer)),
        prepare_seconds=max(0.0, one.prepare - of_set * one.beside) + of_set * beside,
        scan_seconds=(of_image + of_pair * (beside - one.beside)) * share,
        disk_bytes=round(more.disk * rows),
        scan_bytes=max(peak_memory_bytes(find_device(trial.config.machine.device)).values()),
        select_bytes=one.embedded * 4 * len(offer),
        network=None if trial.model is None else trial.model.spec.input_line,
        boxes=more.boxes,
    )


def _minutes(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _size(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
