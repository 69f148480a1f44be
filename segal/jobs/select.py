"""The main job: look at the pool once, pick regions, buy them, and write masks and pictures.

Every stage is recorded in the run's ledger when what it made is in place, so that a run that was
killed goes on where it stopped, and one that is done is not done again.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from segal import __version__
from segal.candidates.budget import Allowance, Budget, Prices
from segal.candidates.regions import Box, RegionSize
from segal.candidates.selection import Selected, read_selection, write_selection
from segal.config import SelectConfig
from segal.data.exclusion import Excluded, together
from segal.data.pool import ImagePool
from segal.errors import SegalError
from segal.functional.coverage import remaining_pixels
from segal.jobs.cold_start import encoder_alone, is_encoder
from segal.jobs.inputs import (
    image_areas,
    image_digests,
    image_shapes,
    image_sizes,
    named_inputs,
    refuse_out_within,
)
from segal.jobs.keeping import Keeping
from segal.jobs.losses import TrainedBy
from segal.jobs.network import with_folder
from segal.jobs.own_code import code_notes, identity_of
from segal.jobs.passes import Scanned, run_passes
from segal.jobs.picks import rows_of, selected_from, shown_value
from segal.jobs.prices import expected_prices, signals_of
from segal.jobs.reference import SelectionLabels, reference_cost, reference_note
from segal.jobs.selection_pool import SelectionPool, SelectionScan
from segal.jobs.strategies import (
    by_features,
    check_network,
    goes_by_features,
    notes_of_loss,
)
from segal.jobs.threads import fix_threads
from segal.models.build import check_image_sizes
from segal.models.checkpoint import CheckpointOptions, load_checkpoint
from segal.models.spec import DEFAULT_TASK
from segal.models.wrapped import Model
from segal.runs.acquisition import SELECT, Offer, acquire, derive_generator
from segal.runs.following import SharedLedger, check_alike, open_shared
from segal.runs.ledger import Purchase
from segal.runs.pool_log import PoolChange, Withdrawn
from segal.runs.run_folder import fingerprint
from segal.scanning.scan import drop_blocks
from segal.signals import Signal
from segal.strategies.base import PassContext, Strategy
from segal.system.console import bar, say
from segal.system.files import write_bytes, write_json
from segal.system.machine import (
    describe,
    find_device,
    peak_memory_bytes,
    precision_note,
    use_threads,
)
from segal.system.ranks import Ranks, all_ranks
from segal.tasks import find_task
from segal.tasks.drawing import Drawn

SELECTION_FILE, SUMMARY_FILE, CONFIG_FILE = "selection.csv", "summary.json", "config.yaml"
OVERLAYS_FOLDER = "overlays"
_ROUND = 0


@dataclass
class _Clock:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - start, 3)


@dataclass(frozen=True)
class SelectionResult:
    """What a selection came to.

    Attributes:
        out: The run folder.
        picks: In pick order.
        summary: As in `summary.json`.
    """

    out: Path
    picks: Sequence[Selected]
    summary: Mapping[str, Any]

    @property
    def selection(self) -> Path:
        """The picks as a file, as `--labelled` takes it."""
        return self.out / SELECTION_FILE

    @property
    def headline(self) -> str:
        """The selection in a line."""
        cost, counts = self.summary["cost"], self.summary["counts"]
        metric = find_task(self.summary["configuration"].get("task", DEFAULT_TASK)).metric
        expected = cost.get("expected_boxes")
        return (
            f"{counts['picks']} of {counts['offered']} {metric.regions}, in "
            f"{len({p.image for p in self.picks})} of {counts['images']} images: "
            f"{100 * cost['share_of_pool']:.2f} % of the {metric.elements}, "
            f"worth {cost['image_equivalents']:.1f} images"
            + ("" if expected is None else f", of about {expected:.0f} boxes")
        )


@dataclass(frozen=True)
class GivenNetwork:
    """A network that is no file.

    Attributes:
        model: It, in `eval()` mode.
        identity: What tells it from every other, of what JSON can hold.
    """

    model: Model
    identity: Mapping[str, object]


def run_selection(
    config: SelectConfig, strategy: Strategy, given: GivenNetwork | None = None
) -> SelectionResult:
    """Selects regions and writes the run folder `config.out`.

    Args:
        config: The configuration.
        strategy: The strategy that `config.strategy` names.
        given: The network, where `config` names no checkpoint.

    Returns:
        The selection; of a run that was done before, what it wrote then.

    Raises:
        SegalError: For anything that the user can mend.
    """
    config, ranks = with_folder(config), all_ranks()
    device = find_device(config.machine.device)
    use_threads(config.machine.threads)
    refuse_out_within(config.out, config.images, "folder of images")
    if given is None:
        model = load_network(config, strategy)
    else:
        model = given.model
        check_network(strategy, model)
    labels = open_labels_of(config, strategy, model)
    identity = identity_with(config, labels)
    if given is not None:
        identity["checkpoint"] = dict(given.identity)
    read = named_inputs({"reference": labels.reference, "training": labels.training})
    opened = open_shared(config.out, "select", identity, ranks=ranks, inputs=read)
    with opened as ledger:
        selection = _Selection(config, strategy, ledger, ranks, model, device, labels, identity)
        selection.notes += fix_threads(ledger, config.machine.threads)
        return selection.run()


def open_labels_of(
    config: SelectConfig, strategy: Strategy, model: Model | None
) -> SelectionLabels:
    """What is labelled, and the labelled data sets that a strategy looks at.

    Raises:
        SegalError: As `SelectionLabels.open`, or if they are not what the network answers.
    """
    labels = SelectionLabels.open(config, strategy)
    if model is not None and not is_encoder(config):
        labels.check(model.spec)
    return labels


def load_network(config: SelectConfig, strategy: Strategy) -> Model | None:
    """The network that the pool is measured with; None where there is none, nor a need of one.

    Raises:
        SegalError: If it is missing, cannot be loaded, or has not what the strategy asks for.
    """
    if config.checkpoint is not None:
        options = CheckpointOptions(**config.model.of_checkpoint(), task=config.task)
        model = load_checkpoint(config.checkpoint, options)
        check_network(strategy, model)
        model.notes += notes_of_loss(strategy, TrainedBy.checkpoint(config.checkpoint))
        return model
    asks = next(iter(strategy.passes(PassContext())), [])
    if asks and is_encoder(config):
        model = encoder_alone(config)
        check_network(strategy, model)
        return model
    if asks:
        name = config.strategy["name"]
        others = f"; or --encoder NAME and --encoder-weights FILE for {', '.join(by_features())}"
        if goes_by_features(strategy):
            others = f", or --encoder NAME and --encoder-weights FILE, as {name} needs no more"
        raise SegalError(
            "checkpoint: missing",
            expected=f"a network, which {name} measures the pool with",
            got="no --checkpoint",
            remedy=f"give --checkpoint FILE{others}; or --strategy random, which needs none",
        )
    if signals_of(config.budget):
        raise SegalError(
            "checkpoint: missing",
            expected="a network, by whose detections boxes are counted before anyone draws them",
            got=f"no --checkpoint, and a budget of {config.budget}",
            remedy="give --checkpoint FILE, or a budget in images such as 10img",
        )
    return None


def make_offer(
    config: SelectConfig,
    pool: ImagePool,
    labelled: Mapping[str, Sequence[Box]],
    excluded: Excluded,
) -> tuple[Offer, Allowance]:
    """The candidates of which something is left to buy, and what may be spent.

    Args:
        config: The configuration.
        pool: The pool.
        labelled: Boxes that are labelled, by image.
        excluded: What is never annotated.

    Raises:
        SegalError: If nothing is left, or the budget buys nothing.
    """
    sizes = image_sizes(pool)
    offer = Offer.of(sizes, RegionSize.parse(config.region), together(labelled, excluded))
    if not len(offer):
        raise SegalError(
            f"{config.images}: nothing is left to select",
            expected=f"{pool.unit} that are not labelled yet",
            got="candidates that are all labelled",
            remedy="add images",
        )
    areas = image_areas(pool, excluded)
    allowance = Budget.parse(config.budget).allowance(areas, pool.unit, config.budget_fit)
    if allowance.counts != "boxes" and allowance.most(offer.prices) == 0:
        raise SegalError(
            f"budget: {config.budget} does not buy a single region",
            expected=f"at least {offer.prices.min()} {pool.unit}, the cheapest region's price",
            got=str(allowance),
            remedy="give a larger --budget, or a smaller --region",
        )
    return offer, allowance


def identity_with(config: SelectConfig, labels: SelectionLabels) -> dict[str, object]:
    """What the result depends on, but for the images."""
    labelled = {"labelled": labels.labelled.identity()}
    return identity_of(config) | labelled | labels.identity(config.reading)


class _Selection:
    """One selection at work; its methods are its stages, in order."""

    def __init__(
        self,
        config: SelectConfig,
        strategy: Strategy,
        ledger: SharedLedger,
        ranks: Ranks,
        model: Model | None,
        device: torch.device,
        labels: SelectionLabels,
        identity: Mapping[str, object],
    ) -> None:
        self.labels, self.identity = labels, identity
        self.config, self.strategy, self.ledger, self.ranks = config, strategy, ledger, ranks
        self.task = find_task(config.task)
        self.model = None if model is None else model.to(device)
        self.answering = None if is_encoder(config) else self.model  # an encoder gives no answer
        self.device, self.keeping = device, Keeping.of(config)
        self.clock = _Clock()
        self.waited: dict[str, Mapping[str, float]] = {}
        self.notes = [*([] if model is None else model.notes), *code_notes(identity)]
        self.reference_cost: Mapping[str, int] | None = None
        self.expected_boxes: float | None = None

    def run(self) -> SelectionResult:
        log, labels = self.ledger.pool_log, self.labels
        slow = precision_note(self.device, self.config.precision)
        self.notes += [slow] if slow else []
        with self.clock("check"):
            looked_at = SelectionPool.open(
                *(self.config, self.strategy, labels, self.model),
                *(log, self.ledger.known_images()),
            )
        self.notes += looked_at.notes
        pool, self.excluded = looked_at.pool, looked_at.excluded
        if self.model is not None:
            say(self.model.spec.input_line)
        digests = image_digests(pool)
        check_alike(self.ranks, {}, {f"images in {self.config.images}": dict(digests)})
        inputs = fingerprint(digests)
        self.ledger.alone(lambda: self.book_images(looked_at))
        if log.last_step and self.ledger.phase("select", _ROUND) is not None:
            say(f"{self.config.out} holds this selection already, of which some is withdrawn.")
            return self.read_result()
        self.labelled = {pool.paths[image]: b for image, b in looked_at.labelled.items()}
        sets = looked_at.sets(self.config, labels)
        self.notes += labels.labelled.notes
        self.scans = SelectionScan(
            *(self.config, looked_at, sets, self.model, self.device, self.keeping, self.identity)
        )
        if self.model is not None and not self.ledger.finished("scan-0", _ROUND, inputs):
            check_image_sizes(self.model, image_shapes(pool, self.model.spec))
        offer, allowance = make_offer(self.config, pool, self.labelled, self.excluded)
        scanned = run_passes(
            self.strategy,
            PassContext(offered=offer.rows, shared_features=self.task.shared_features),
            self.config.out,
            self.config.region,
            partial(self.scan, inputs),
        )
        self.notes += [note for note in scanned.notes if note not in self.notes]
        self.book_labelled(inputs)
        if self.ledger.finished("select", _ROUND, inputs):
            say(f"{self.config.out} holds this selection already; nothing was done again.")
            return self.read_result()
        # What is bought stays bought, also where a file of it was lost.
        prices = expected_prices(scanned.table, offer, allowance)
        selected = self.bought_already() or self.choose(scanned, offer, allowance, prices)
        if allowance.counts == "boxes":
            at = np.searchsorted(offer.rows, rows_of(scanned.table, selected))
            self.expected_boxes = float(prices[at].sum())
        self.counts = {
            "images": len(pool),
            "skipped": len(pool.skipped),
            "candidates": len(scanned.table),
            "labelled": len(scanned.labelled),
            "offered": len(offer),
            "picks": len(selected),
        }
        if self.labels.reference is not None:
            self.reference_cost = cost = reference_cost(self.labels.reference)
            total = int(image_areas(pool, self.excluded).sum())
            name = str(self.config.strategy["name"])
            self.notes.append(reference_note(name, cost, total, pool.unit))
        if len(selected) == len(offer):
            self.notes.append(
                f"The budget {self.config.budget} covers all {len(selected)} candidates, "
                "so all are taken."
            )
        return self.write(pool, selected, inputs)

    # Inputs

    def book_images(self, looked_at: SelectionPool) -> None:
        """Books the pool, and what of it is withdrawn."""
        self.ledger.record_images(looked_at.pool, looked_at.never_annotated)
        self.book_withdrawn(self.labels.labelled.withdrawn, looked_at.pool)

    def book_withdrawn(self, given: Withdrawn, pool: ImagePool) -> None:
        """What runs that this one goes on from have withdrawn is withdrawn from it, too."""
        log = self.ledger.pool_log
        named = {info.digest: path for path, info in zip(pool.paths, pool.infos, strict=True)}
        new = [
            PoolChange("withdraw", "", digest, 0)
            for digest in sorted(given.images - log.withdrawn.images)
        ]
        new += [
            PoolChange("withdraw", named[digest], digest, 0, box)
            for digest, boxes in (given.boxes or {}).items()
            for box in boxes
            if digest in named and not log.withdrawn.holds(digest, box)
        ]
        if new:
            self.ledger.change_pool(new)

    def book_labelled(self, inputs: str) -> None:
        """What is labelled is bought: it is never offered again, nor charged."""
        if not self.labelled or self.ledger.finished("labelled", _ROUND, inputs):
            return
        purchases: list[Purchase] = []
        for image, boxes in self.labelled.items():
            for i, box in enumerate(boxes):
                before = [*boxes[:i], *self.excluded.get(image, ())]
                if remaining_pixels([box], before)[0]:
                    rank = len(purchases) + 1
                    purchases.append(Purchase(rank, "labelled", image, box, 0.0))
        self.ledger.finish("labelled", _ROUND, inputs, purchases=purchases)

    # The pass over the pool

    def scan(self, inputs: str, number: int, signals: Sequence[Signal], folder: Path) -> None:
        """One pass, unless it is done already."""
        phase = f"scan-{number}"
        if self.ledger.finished(phase, _ROUND, inputs):
            done = next(p for p in self.ledger.phases() if p.name == phase)
            self.clock.seconds[phase] = done.seconds
        else:
            self._scan(number, inputs, signals, folder)
        if self.ledger.leads:
            drop_blocks(folder)

    def _scan(self, number: int, inputs: str, signals: Sequence[Signal], folder: Path) -> None:
        phase, given = f"scan-{number}", self.config.from_scan if number == 0 else None
        scan = self.scans.of(signals)
        with bar("Scanning the pool") as advance, self.clock(phase):
            if given is None:
                scan.run(folder, advance, self.ranks)
                self.waited[phase] = scan.waited.as_dict()
                self.notes += scan.waited.notes()
            else:
                scan.take(given, folder, self.ranks)
        self.notes += [note for note in self.keeping.notes if note not in self.notes]
        self.ledger.finish(
            phase, _ROUND, inputs, artefacts=[folder], seconds=self.clock.seconds[phase]
        )

    # The choice

    def choose(
        self, scanned: Scanned, offer: Offer, allowance: Allowance, prices: Prices
    ) -> list[Selected]:
        generator = derive_generator(self.config.seed, _ROUND, SELECT)
        # Those that plan for a number of picks are not to plan for the cheapest boxes.
        mean = float(prices.mean())
        planned = allowance.about(mean, len(offer)) if allowance.counts == "boxes" else None
        table, labelled = scanned.table, scanned.labelled
        with bar("Choosing regions") as advance, self.clock("select"):
            selected, notes = acquire(
                self.strategy, table, labelled, offer, allowance, generator, prices, planned
            )
            advance(len(selected), len(selected))
        self.notes.extend(notes)
        return selected

    def bought_already(self) -> list[Selected]:
        """The selection as the ledger has it; empty before it is made."""
        return selected_from(self.ledger.purchases("select", _ROUND))

    # What is written

    def write(self, pool: ImagePool, selected: list[Selected], inputs: str) -> SelectionResult:
        """Writes the artefacts, then books what was bought; rank 0 does."""
        summary = self.summarise(pool, selected)
        written = self.write_files(pool, selected, summary) if self.ledger.leads else []
        name = str(self.config.strategy["name"])
        self.ledger.finish(
            "select",
            _ROUND,
            inputs,
            artefacts=written,
            seconds=self.clock.seconds.get("select", 0.0),
            purchases=[Purchase(s.rank, name, s.image, s.box, s.score) for s in selected],
        )
        return SelectionResult(self.config.out, selected, summary)

    def write_files(
        self, pool: ImagePool, selected: list[Selected], summary: dict[str, object]
    ) -> list[Path]:
        """The selection, its pictures and the summary."""
        out, config = self.config.out, self.config
        with self.clock("write"):
            write_selection(out / SELECTION_FILE, selected)
            left = together(self.labelled, self.excluded)
            handed_out = self.task.hand_out(out, selected, pool, left)
        with self.clock("overlays"), bar("Drawing pictures") as advance:
            drawn = Drawn(
                self.keeping.pool(self.model, pool),
                self.answering,
                shown_value(self.strategy),
                self.labelled,
                config.precision,
                excluded=self.excluded,
            )
            self.task.draw(out / OVERLAYS_FOLDER, selected, config.overlays, drawn, advance)
        resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        write_bytes(out / CONFIG_FILE, resolved.encode())
        summary["peak_memory_bytes"] = peak_memory_bytes(self.device)
        write_json(out / SUMMARY_FILE, summary)
        names = [SELECTION_FILE, OVERLAYS_FOLDER, CONFIG_FILE, SUMMARY_FILE]
        return [*(out / name for name in names), *handed_out]

    def summarise(self, pool: ImagePool, selected: Sequence[Selected]) -> dict[str, object]:
        pixels = sum(s.pixels for s in selected)
        total = int(image_areas(pool, self.excluded).sum())
        return {
            "segal": __version__,
            "configuration": self.config.model_dump(mode="json"),
            "fingerprint": fingerprint(self.identity),
            "counts": self.counts,
            "cost": {
                "regions": len(selected),
                "pixels": pixels,
                "share_of_pool": pixels / total,
                "image_equivalents": pixels * len(pool) / total,
                "expected_boxes": self.expected_boxes,
                "reference": self.reference_cost,
            },
            "ranks": self.ranks.count,
            "seconds": self.clock.seconds,
            "waited_for_images": self.waited,
            "peak_memory_bytes": {},
            "machine": describe(self.device),
            "network": self.model and self.model.spec.as_dict(),
            "notes": self.notes,
            "skipped": list(pool.skipped),
        }

    def read_result(self) -> SelectionResult:
        """What this run folder was left with."""
        out = self.config.out
        summary = json.loads((out / SUMMARY_FILE).read_text())
        return SelectionResult(out, read_selection(out / SELECTION_FILE), summary)
