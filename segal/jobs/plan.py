"""What a selection would take, from trials on a few images: time, memory and disk."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from segal.candidates.budget import Allowance
from segal.candidates.regions import Box, RegionSize
from segal.candidates.table import CandidateTable
from segal.config import SelectConfig
from segal.data.feature_store import held_bytes
from segal.data.image_sets import ImageSet, SetName
from segal.data.pool import ImagePool
from segal.jobs.forecast import (
    Choice,
    free_disk,
    free_memory,
    mean_clicks,
    same_disk,
    time_choice,
)
from segal.jobs.inputs import (
    by_index,
    image_shapes,
    image_sizes,
    scan_settings,
)
from segal.jobs.keeping import Keeping
from segal.jobs.network import with_folder
from segal.jobs.passes import run_passes
from segal.jobs.prices import EXPECTED, signals_of
from segal.jobs.reference import needs_of
from segal.jobs.select import load_network, make_offer, open_labels_of
from segal.jobs.selection_pool import SelectionPool
from segal.models.build import check_image_sizes
from segal.models.wrapped import Model
from segal.runs.acquisition import Offer
from segal.runs.pool_log import PoolLog
from segal.scanning.scan import Scan, drop_blocks
from segal.signals import Signal
from segal.strategies.base import PassContext, Strategy
from segal.system.console import bar, tell
from segal.system.machine import (
    find_device,
    peak_memory_bytes,
    precision_note,
    use_threads,
)
from segal.tasks import find_task

_TRIALS = ((1, 1), (3, 1), (1, 12))
"""Images of the pool, and of each set beside it, that a trial looks at."""

CLICK_SECONDS = 2.0
"""How long a click of an annotator is taken to last, where nothing else is said."""

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
        scan_seconds: The passes over the pool; of several ranks, each with as many cores as there
            are here, or a GPU of its own.
        disk_bytes: Candidate tables.
        embedding_bytes: What embeddings take of them.
        temporary_bytes: What a pass takes beside its table until it is done: the blocks of it.
        scan_bytes: Peak memory of the passes.
        select_bytes: Embeddings that the choice holds in memory.
        check_seconds: To open the pool, each image of which is decoded once.
        choice: The choice, by one rank; None where the strategy could not be tried.
        ranks: Processes that share the pass.
        clicks: Of all that the budget buys; None where no labels tell.
        clicks_of: Images whose labels tell it.
        click_seconds: That a click is taken to last.
        by_the_box: Whether clicks are boxes.
        free_disk: Bytes where the run would be.
        free_memory: Bytes that a process could have here.
        notes: What the user should be told about the inputs and the machine.
        network: What the network expects of its input; None without a network.
        boxes: Expected of a candidate, in the mean; None where the budget counts something else.
        store_bytes: What frozen layers give for the pool; None where there is no store of it.
        store_limit: The most that the store may take.
        free_store: Bytes that the store has, or that are free where it is, or will be.
    """

    images: int
    candidates: int
    picks: int
    prepare_seconds: float
    scan_seconds: float
    disk_bytes: int
    embedding_bytes: int
    temporary_bytes: int
    scan_bytes: int
    select_bytes: int
    check_seconds: float = 0.0
    choice: Choice | None = None
    ranks: int = 1
    clicks: float | None = None
    clicks_of: int = 0
    click_seconds: float = CLICK_SECONDS
    by_the_box: bool = False
    free_disk: int | None = None
    free_memory: int | None = None
    notes: tuple[str, ...] = ()
    network: str | None = None
    boxes: float | None = None
    store_bytes: int | None = None
    store_limit: int = 0
    free_store: int | None = None

    def lines(self) -> list[str]:
        """For people."""
        buys = f"{self.picks} of them at most"
        if self.boxes is not None:
            buys = f"about {self.picks} of them, at {self.boxes:.1f} expected boxes each"
        return [
            f"{self.images} images, {self.candidates} regions on offer; the budget buys {buys}",
            f"time: about {_minutes(self.check_seconds)} to check the images, "
            f"{_minutes(self.prepare_seconds)} before the pass, "
            f"{_minutes(self.scan_seconds)} for the pass over the pool{self._shared()}, and "
            + self._choice_words(),
            f"memory: about {_size(self.scan_bytes)} for the pass, and embeddings of "
            f"{_size(self.select_bytes)} for the choice" + (", a rank" if self.ranks > 1 else ""),
            f"disk: {_size(self.disk_bytes)} of candidate tables, {_size(self.embedding_bytes)} "
            f"of them embeddings; {_size(self.temporary_bytes)} beside them until a pass is done"
            + ("" if self.store_bytes is None else f"; {_size(self.store_bytes)} in the store"),
            self._cost(),
            *([self.network] if self.network else []),
            *self.notes,
            *self.lacking(),
        ]

    def lacking(self) -> list[str]:
        """What will not fit, in a line each."""
        lines = []
        disk = self.disk_bytes + self.temporary_bytes
        if self.free_disk is not None and disk > self.free_disk:
            lines.append(
                f"DOES NOT FIT: {_size(disk)} of disk for candidate tables and what a pass takes "
                f"beside them, where {_size(self.free_disk)} are free. Give --out on another disk, "
                "a larger --region, or embedding_dtype=float16."
            )
        kept = min(self.store_bytes or 0, self.store_limit)
        if self.free_store is not None and kept > self.free_store:
            lines.append(
                f"DOES NOT FIT: {_size(kept)} in the store, where {_size(self.free_store)} are "
                "free; what is not kept is made again in every pass. Give store.folder on another "
                "disk, store.precision=float16, or a lower store.gigabytes."
            )
        memory = self.scan_bytes + self.select_bytes
        if self.free_memory is not None and memory > self.free_memory:
            lines.append(
                f"DOES NOT FIT: {_size(memory)} of memory for the network and what the choice "
                f"holds, where there are {_size(self.free_memory)}. Give a larger --region, or "
                "fewer images."
            )
        elif self.free_memory is not None and self.ranks * memory > self.free_memory:
            fitting = max(1, self.free_memory // memory)
            lines.append(
                f"DOES NOT FIT: {self.ranks} ranks of {_size(memory)} of memory on one machine "
                f"like this, where there are {_size(self.free_memory)}: {fitting} at most."
            )
        return lines

    def _shared(self) -> str:
        if self.ranks == 1:
            return ""
        return f" (by {self.ranks} ranks, each with cores, or a GPU, as this process has)"

    def _choice_words(self) -> str:
        if self.choice is None:
            return "the choice, which could not be tried"
        words = f"{_minutes(self.choice.seconds)} for the choice"
        if any(self.choice.powers):
            grows = " and ".join(
                f"{what} to the power {power}"
                for what, power in zip(("candidates", "picks"), self.choice.powers, strict=True)
                if power
            )
            words += (
                f" (by one of {self.choice.picks} among {self.choice.candidates} made-up ones, "
                f"growing with {grows})"
            )
        return words

    def _cost(self) -> str:
        if self.clicks is None:
            return "cost: not known without labels; --reference DATASET:val tells it by a few"
        unit = "boxes" if self.by_the_box else "clicks"
        hours = self.clicks * self.click_seconds / 3600
        return (
            f"cost: about {self.clicks:,.0f} {unit}, {hours:,.1f} h at {self.click_seconds:g} s "
            f"each, by the labels of {self.clicks_of} images of the reference set"
        )


def plan_selection(
    config: SelectConfig,
    strategy: Strategy,
    *,
    ranks: int = 1,
    click_seconds: float = CLICK_SECONDS,
) -> Plan:
    """Tries a selection on a few images; nothing is left behind.

    Args:
        config: The configuration; nothing is written to `out`.
        strategy: The strategy that `config.strategy` names.
        ranks: Processes that would share it.
        click_seconds: How long an annotator takes for a click, or a box.

    Raises:
        SegalError: For whatever would stop the selection.
    """
    config = with_folder(config)
    use_threads(config.machine.threads)
    device = find_device(config.machine.device)
    model = load_network(config, strategy)
    labels = open_labels_of(config, strategy, model)
    if model is not None:
        tell(*model.notes)
        model.to(device)
    started = time.perf_counter()
    looked_at = SelectionPool.open(config, strategy, labels, model, PoolLog(), {})
    check_seconds = time.perf_counter() - started
    pool, excluded = looked_at.pool, looked_at.excluded
    if model is not None:
        check_image_sizes(model, image_shapes(pool, model.spec))
    slow = precision_note(device, config.precision)
    notes = [*looked_at.notes, *labels.labelled.notes, *([slow] if slow else [])]
    boxes = {pool.paths[image]: found for image, found in looked_at.labelled.items()}
    offer, allowance = make_offer(config, pool, boxes, excluded)
    sets, needed = looked_at.sets(config, labels), {need.of for need in needs_of(strategy)}
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
    clicks = mean_clicks(config)
    return replace(
        plan,
        notes=tuple(notes),
        store_bytes=store_bytes,
        store_limit=0 if config.store is None else round(config.store.gigabytes * 1e9),
        free_store=_free_for_store(config, plan),
        check_seconds=check_seconds,
        scan_seconds=plan.scan_seconds / ranks,
        ranks=ranks,
        clicks=None if clicks is None else clicks[0] * plan.picks,
        clicks_of=0 if clicks is None else clicks[1],
        click_seconds=click_seconds,
        by_the_box=find_task(config.task).by_the_box,
        free_disk=free_disk(config.out),
        free_memory=free_memory(),
    )


def _free_for_store(config: SelectConfig, plan: Plan) -> int | None:
    """Bytes that a store has or that are free for it, without what a pass takes of its disk."""
    if config.store is None:
        return None
    free = free_disk(config.store.folder) + held_bytes(config.store.folder)
    if same_disk(config.store.folder, config.out):
        free = max(0, free - plan.disk_bytes - plan.temporary_bytes)
    return free


@dataclass(frozen=True)
class _Measured:
    """What a trial took.

    Attributes:
        prepare: Seconds before the passes.
        passes: Seconds of all passes.
        images: Of the pool, that they went over.
        beside: Images of the sets that were looked at before.
        disk: Bytes of their tables for each row of one.
        few: The candidates, in memory.
        labelled: What is labelled, likewise.
        boxes: Expected of a candidate, in the mean; None where nobody asked.
    """

    prepare: float
    passes: float
    images: int
    beside: int
    disk: float
    few: CandidateTable
    labelled: CandidateTable
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

        def measure(number: int, signals: Sequence[Signal], tables: Path) -> None:
            nonlocal prepare, passes
            before, during = self._scan(pool, sets, signals, tables)
            if number == 0 and self.config.from_scan is not None:
                return  # it is there
            prepare, passes = prepare + (before if signals else 0.0), passes + during

        with TemporaryDirectory() as temporary:
            folder, region = Path(temporary), self.config.region
            context = PassContext(shared_features=find_task(self.config.task).shared_features)
            scanned = run_passes(self.strategy, context, folder, region, measure)
            last = scanned.table
            disk = sum(path.stat().st_size for path in Path(temporary).rglob("*.npy"))
            return _Measured(
                prepare=prepare,
                passes=passes,
                images=len(pool),
                beside=sum(len(found.indices()) for found in sets.values()),
                disk=disk / len(last),
                few=_in_memory(last),
                labelled=_in_memory(scanned.labelled),
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
            pool=Keeping(None, "", reducing_gap=config.reducing_gap).pool(self.model, pool),
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
        drop_blocks(folder)
        return ready[0] - started, during


def _in_memory(table: CandidateTable) -> CandidateTable:
    return replace(table, embeddings={k: np.array(v) for k, v in table.embeddings.items()})


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
    picks = allowance.most(offer.prices)
    if more.boxes is not None:
        picks = allowance.about(more.boxes, len(offer))
    scan_bytes = max(peak_memory_bytes(find_device(trial.config.machine.device)).values())
    embeddings = more.few.embeddings.values()
    disk = round(more.disk * rows)
    return Plan(
        images=len(areas),
        candidates=len(offer),
        picks=picks,
        prepare_seconds=max(0.0, one.prepare - of_set * one.beside) + of_set * beside,
        scan_seconds=(of_image + of_pair * (beside - one.beside)) * share,
        disk_bytes=disk,
        embedding_bytes=rows * sum(x.dtype.itemsize * x.shape[1] for x in embeddings),
        temporary_bytes=disk,
        scan_bytes=scan_bytes,
        select_bytes=4 * len(offer) * sum(x.shape[1] for x in embeddings),
        choice=time_choice(trial.strategy, more.few, more.labelled, len(offer), picks),
        network=None if trial.model is None else trial.model.spec.input_line,
        boxes=more.boxes,
    )


def _minutes(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _size(count: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e6:.0f} MB"
