"""Rounds of train, evaluate, scan, select and buy, with an oracle for the annotators.

A round's stages are phases in the ledger. Each has a fingerprint of its settings and of the phase
before it, so that a run that was killed goes on from whole phases to the picks that it would have
made, and no finished training or scan is done again.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from segal import __version__
from segal.acquisition import (
    SEED_SET,
    SELECT,
    TRAIN,
    Offer,
    acquire,
    cut_to_grid,
    derive_generator,
    derive_seed,
)
from segal.budget import Allowance, Budget
from segal.candidates import CandidateTable
from segal.config import RunConfig
from segal.console import bar, say
from segal.data.datasets import LabelledDataset
from segal.errors import SegalError
from segal.evaluation import evaluate_images
from segal.files import remove, write_bytes, write_json
from segal.functional.batch import batch_statistics
from segal.history import (
    CANDIDATES_FOLDER,
    COMMAND,
    CONFIG_FILE,
    EVALUATION_FILE,
    METRICS_FILE,
    MODEL_FILE,
    OVERLAYS_FOLDER,
    PICKS_FILE,
    SELECTION_FILE,
    History,
    read_history,
    round_folder,
)
from segal.jobs.inputs import image_digests, image_sizes
from segal.jobs.network import (
    draw_scenes,
    identity,
    initial_model,
    open_split,
    refuse_two_sources,
    resolved,
)
from segal.jobs.overlays import Overlays
from segal.jobs.takeover import take_over
from segal.ledger import Ledger, Purchase
from segal.machine import describe, find_device, use_threads
from segal.masks import Selected, read_selection, write_selection
from segal.models.checkpoint import CheckpointOptions, load_checkpoint, save_checkpoint
from segal.models.segmentation import SegmentationModel
from segal.oracle import Oracle
from segal.regions import Box, RegionSize
from segal.run_folder import LEDGER_FILE, fingerprint
from segal.scan import LABELLED_FOLDER, Scan, ScanSettings
from segal.signals import MeanFeature, Signal, Value
from segal.strategies.base import PassContext, Strategy
from segal.tasks.segmentation import Segmentation
from segal.train import train

SUMMARY_FILE = "summary.json"
_UNFINISHED_FILE, _TRAINING_FILE = ".unfinished.safetensors", "training.json"
_SEED_SET = "seed"
_SHOWN_VALUE, _FEATURE = Value("entropy"), MeanFeature()
_NOT_OF_THE_RESULT = {"overlays"}


@dataclass(frozen=True)
class RunOutcome:
    """What a run came to.

    Attributes:
        history: Its rounds.
        notes: What the user should be told about how it went.
    """

    history: History
    notes: Sequence[str]


def run_rounds(config: RunConfig, strategy: Strategy, *, start: Path | None = None) -> RunOutcome:
    """Runs the rounds and writes the run folder `config.out`.

    Args:
        config: The configuration.
        strategy: The strategy that `config.strategy` names.
        start: The folder of a run whose first round is the same, such as another arm's: what it has
            finished of the seed set and the first training and evaluation is taken over.

    Raises:
        SegalError: For anything that the user can mend.
    """
    refuse_two_sources(config)
    if config.out.resolve().is_relative_to(config.data.root.resolve()):
        raise SegalError(
            "out: within the data set",
            expected="a folder elsewhere, since its pictures are images too",
            got=str(config.out),
            remedy="choose another folder with --out",
        )
    device = find_device(config.machine.device)
    use_threads(config.machine.threads)
    draw_scenes(config.data)
    data = _Data.open(config)
    _check_budgets(config, data)
    model = initial_model(config, data.pool_set.classes.names)
    config = resolved(config, model.spec)
    del model
    with Ledger.open(config.out, COMMAND, identity(config, _NOT_OF_THE_RESULT)) as ledger:
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        write_bytes(config.out / CONFIG_FILE, text.encode())
        rounds = _Rounds(config, strategy, ledger, device, data, start)
        rounds.run()
    return RunOutcome(read_history(config.out), rounds.notes)


@dataclass(frozen=True)
class _Data:
    """The data sets of a run.

    Attributes:
        pool_set: The pool, with the labels that the oracle knows.
        held_out: Splits to evaluate on: `validation`, `test`.
    """

    pool_set: LabelledDataset
    held_out: Mapping[str, LabelledDataset]

    @classmethod
    def open(cls, config: RunConfig) -> "_Data":
        data, known = config.data, {}
        if (config.out / LEDGER_FILE).is_file():
            with Ledger.read(config.out) as ledger:
                known = ledger.known_images()
        with bar("Checking images") as advance:
            pool_set = open_split(data, data.train, config.machine, advance, known=known)
            held_out = {
                name: open_split(data, split, config.machine, advance)
                for name, split in (("validation", data.validation), ("test", data.test))
                if split
            }
        with bar("Checking labels") as advance:
            for dataset in (pool_set, *held_out.values()):
                dataset.check(progress=advance)
        return cls(pool_set, held_out)

    def fingerprint(self) -> str:
        """Of all that may be known before anything is bought: no label of the pool."""
        held_out = [
            [name, image_digests(used.pool), used.digest()] for name, used in self.held_out.items()
        ]
        return fingerprint([image_digests(self.pool_set.pool), held_out])

    def areas(self) -> NDArray[np.int64]:
        """Pixels of every image of the pool."""
        return np.array([h * w for h, w in image_sizes(self.pool_set.pool).values()], np.int64)


def _check_budgets(config: RunConfig, data: _Data) -> None:
    """Raises a SegalError, before work starts, for a budget that buys no region at all."""
    sizes, areas = image_sizes(data.pool_set.pool), data.areas()
    keys = [("seed_set", config.seed_set, config.seed_region)]
    keys += [(f"budgets.{i}", budget, config.region) for i, budget in enumerate(config.budgets)]
    for key, budget, region in keys:
        prices = Offer.of(sizes, RegionSize.parse(region), {}).prices
        allowance = Budget.parse(budget).allowance(areas)
        if allowance.most(prices) == 0:
            raise SegalError(
                f"{key}: {budget} does not buy a single region",
                expected=f"at least {prices.min()} pixels, the cheapest region's price",
                got=f"{allowance.limit} pixels",
                remedy="give a larger budget, or smaller regions",
            )


@dataclass
class _Bought:
    """What is bought so far, and what it left of the budgets.

    Attributes:
        boxes: By image.
        pixels: Charged so far.
        unspent: Pixels that budgets in pixels have left.
    """

    boxes: dict[str, list[Box]] = field(default_factory=dict)
    pixels: int = 0
    unspent: int = 0

    def add(self, purchases: Sequence[Purchase], allowance: Allowance) -> None:
        spent = sum(p.pixels or 0 for p in purchases)
        self.pixels += spent
        if allowance.counts == "pixels":
            self.unspent = allowance.limit - spent
        for p in purchases:
            self.boxes.setdefault(p.image, []).append(p.box)


class _Rounds:
    """A run at work; its methods are its phases."""

    def __init__(
        self,
        config: RunConfig,
        strategy: Strategy,
        ledger: Ledger,
        device: torch.device,
        data: _Data,
        start: Path | None,
    ) -> None:
        self.config, self.strategy, self.ledger, self.device = config, strategy, ledger, device
        self.pool, self.held_out = data.pool_set.pool, data.held_out
        self.class_names = data.pool_set.classes.names
        self.oracle = Oracle(data.pool_set)
        self.areas, self.sizes = data.areas(), image_sizes(self.pool)
        self.start = start
        self.region = RegionSize.parse(config.region)
        self.bought = _Bought()
        self.notes: list[str] = []
        self.chain = data.fingerprint()
        self._model: tuple[int, SegmentationModel] | None = None

    def run(self) -> None:
        self.ledger.record_images(self.pool)
        self.buy_seed_set()
        for number in range(len(self.config.budgets) + 1):
            self.train(number)
            self.evaluate(number)
            if self.is_good_enough(number) or number == len(self.config.budgets):
                break
            offer = Offer.of(self.sizes, self.region, self.bought.boxes)
            if not len(offer):
                self.notes.append(f"The pool is used up: the run ends with round {number}.")
                break
            allowance = self.allowance(number)
            table, labelled = self.scan(number)
            self.select(number, table, labelled, offer, allowance)
            self.buy(number, allowance)
        self.summarise()

    # Phases

    def phase(
        self,
        name: str,
        number: int,
        settings: object,
        work: Callable[[Path], tuple[Sequence[Path], Sequence[Purchase]]],
    ) -> None:
        """Does a phase, unless this run or the one that it starts from has done it.

        Args:
            name: Its name.
            number: The round.
            settings: What its result depends on beside the phase before it.
            work: Is given the round's folder; returns the files that it made and what it bought.
        """
        self.chain = fingerprint([name, number, settings, self.chain])
        if self.ledger.finished(name, number, self.chain):
            return
        if self.start is not None and take_over(self.start, self.ledger, name, number, self.chain):
            return
        started = time.perf_counter()
        artefacts, purchases = work(round_folder(self.config.out, number))
        seconds = time.perf_counter() - started
        self.ledger.finish(
            name, number, self.chain, artefacts, seconds=seconds, purchases=purchases
        )

    def buy_seed_set(self) -> None:
        config = self.config
        allowance = Budget.parse(config.seed_set).allowance(self.areas)

        def draw(folder: Path) -> tuple[Sequence[Path], Sequence[Purchase]]:
            offer = Offer.of(self.sizes, RegionSize.parse(config.seed_region), {})
            generator = derive_generator(config.seed, 0, SEED_SET)
            order = torch.randperm(len(offer), generator=generator).numpy()
            order = order[: allowance.fits(offer.prices[order])]
            boxes = [
                (path, (int(x0), int(y0), int(x1), int(y1)))
                for path, size in self.sizes.items()
                for x0, y0, x1, y1 in RegionSize.parse(config.seed_region).grid(*size).boxes()
            ]
            drawn = [(*boxes[row], 0.0) for row in order]
            return [], self.purchases(_SEED_SET, drawn)

        settings = [config.seed, config.seed_set, config.seed_region]
        self.phase(_SEED_SET, 0, settings, draw)
        self.bought.add(self.ledger.purchases(_SEED_SET, 0), allowance)

    def train(self, number: int) -> None:
        config, settings = self.config, self.config.train
        if config.steps == "proportional":
            seed_pixels = sum(p.pixels or 0 for p in self.ledger.purchases(_SEED_SET, 0))
            steps = round(settings.iterations * self.bought.pixels / seed_pixels)
            settings = settings.model_copy(update={"iterations": steps})
        warm = config.start == "warm" and number > 0

        def work(folder: Path) -> tuple[Sequence[Path], Sequence[Purchase]]:
            model = self.model(number - 1) if warm else initial_model(config, self.class_names)
            with bar(f"Round {number}: training") as advance:
                result = train(
                    model,
                    self.oracle.reveal(self.bought.boxes),
                    settings,
                    seed=derive_seed(config.seed, number, TRAIN),
                    labelled=self.oracle.by_index(self.bought.boxes),
                    validation=self.held_out.get("validation"),
                    device=self.device,
                    progress=lambda step, total, loss: advance(step, total, f"loss {loss:.3f}"),
                    checkpoint=folder / _UNFINISHED_FILE,
                )
            # The network's file has the same bytes however long it took.
            made = {key: value for key, value in asdict(result).items() if key != "seconds"}
            settled = settings.model_dump(mode="json")
            save_checkpoint(model, folder / MODEL_FILE, made | {"settings": settled})
            write_json(folder / _TRAINING_FILE, asdict(result))
            self._model = (number, model)
            return [folder / MODEL_FILE, folder / _TRAINING_FILE], []

        folder = round_folder(config.out, number)
        folder.mkdir(parents=True, exist_ok=True)
        network = identity(config, set())
        depends = {
            "settings": settings.identity(),
            "network": [network["model"], network["checkpoint"]],
            "seed": config.seed,
            "warm": warm,
            "labels": self.oracle.digest(self.bought.boxes),
        }
        self.phase("train", number, depends, work)
        remove(folder / _UNFINISHED_FILE)

    def evaluate(self, number: int) -> None:
        config = self.config

        def work(folder: Path) -> tuple[Sequence[Path], Sequence[Purchase]]:
            training = json.loads((folder / _TRAINING_FILE).read_text())
            metrics: dict[str, object] = {"segal": __version__, "machine": describe(self.device)}
            metrics |= {k: v for k, v in training.items() if k != "seconds"}
            for name, dataset in self.held_out.items():
                with bar(f"Round {number}: evaluating on {name}") as advance:
                    evaluation = evaluate_images(
                        self.model(number),
                        dataset,
                        device=self.device,
                        batch_size=config.machine.batch_size,
                        workers=config.machine.workers,
                        precision=config.precision,
                        progress=advance,
                    )
                metrics[name] = evaluation.metrics.as_dict()
            # The last of them is the split that results are reported on.
            evaluation.write(folder / EVALUATION_FILE)
            write_json(folder / METRICS_FILE, metrics)
            return [folder / EVALUATION_FILE, folder / METRICS_FILE], []

        self.phase("evaluate", number, config.precision, work)
        self.say_score(number)

    def scan(self, number: int) -> tuple[CandidateTable, CandidateTable]:
        """The tables of the strategy's last pass: the candidates, and what is labelled."""
        context = PassContext()
        passes = list(enumerate(self.strategy.passes(context)))
        for index, signals in passes or [(0, [])]:
            wanted = list(dict.fromkeys([*signals, *self.measured(index)]))
            folder = round_folder(self.config.out, number) / _table_folder(index)
            self.scan_once(number, index, wanted, folder)
            context.tables.append(CandidateTable.open(folder / self.config.region))
        return context.tables[-1], CandidateTable.open(folder / LABELLED_FOLDER)

    def scan_once(self, number: int, index: int, signals: Sequence[Signal], tables: Path) -> None:
        config = self.config
        labelled = {
            image: cut_to_grid(boxes, self.pool.size(image), self.region)
            for image, boxes in self.oracle.by_index(self.bought.boxes).items()
        }

        def work(folder: Path) -> tuple[Sequence[Path], Sequence[Purchase]]:
            scan = Scan(
                pool=self.pool,
                task=Segmentation(),
                regions=[self.region],
                settings=ScanSettings(
                    device=self.device,
                    batch_size=config.machine.batch_size,
                    workers=config.machine.workers,
                    precision=config.precision,
                    embedding_dtype=config.embedding_dtype,
                ),
                signals=signals,
                model=self.model(number) if signals else None,
                labelled=labelled,
            )
            with bar(f"Round {number}: scanning the pool") as advance:
                scan.run(tables, advance)
            return [tables], []

        columns = [signal.column for signal in signals]
        settings = [config.region, columns, config.precision, config.embedding_dtype]
        self.phase(f"scan-{index}", number, settings, work)

    def measured(self, index: int) -> list[Signal]:
        """What is measured of every strategy's candidates, in the first pass."""
        return [_SHOWN_VALUE, _FEATURE] if self.config.measure_picks and index == 0 else []

    def select(
        self,
        number: int,
        table: CandidateTable,
        labelled: CandidateTable,
        offer: Offer,
        allowance: Allowance,
    ) -> None:
        config = self.config

        def work(folder: Path) -> tuple[Sequence[Path], Sequence[Purchase]]:
            generator = derive_generator(config.seed, number, SELECT)
            selected, rows, notes = acquire(
                self.strategy, table, labelled, offer, allowance, generator
            )
            if len(selected) == len(offer):
                left = "region is" if len(offer) == 1 else f"{len(offer)} regions are"
                notes += (f"The budget outlives the pool: the last {left} taken.",)
            write_selection(folder / SELECTION_FILE, selected)
            picks: dict[str, Any] = {"region": config.region, "count": len(selected)}
            first = CandidateTable.open(folder / _table_folder(0) / config.region)
            write_json(folder / PICKS_FILE, picks | _describe(first, rows) | {"notes": notes})
            self.draw(folder / OVERLAYS_FOLDER, number, selected)
            names = (SELECTION_FILE, PICKS_FILE, OVERLAYS_FOLDER)
            return [folder / name for name in names], []

        settings = [config.strategy, config.seed, allowance.limit, allowance.counts]
        self.phase("select", number, settings, work)
        picks = json.loads((round_folder(config.out, number) / PICKS_FILE).read_text())
        self.notes += [f"Round {number}: {note}" for note in picks["notes"]]

    def buy(self, number: int, allowance: Allowance) -> None:
        name = str(self.config.strategy["name"])

        def work(folder: Path) -> tuple[Sequence[Path], Sequence[Purchase]]:
            selected = read_selection(folder / SELECTION_FILE)
            return [], self.purchases(name, [(s.image, s.box, s.score) for s in selected])

        self.phase("buy", number, None, work)
        self.bought.add(self.ledger.purchases("buy", number), allowance)

    # What phases share

    def model(self, number: int) -> SegmentationModel:
        """The network that a round trained."""
        if self._model is None or self._model[0] != number:
            options = CheckpointOptions(architecture=self.config.model.architecture)
            path = round_folder(self.config.out, number) / MODEL_FILE
            self._model = (number, load_checkpoint(path, options).to(self.device))
        return self._model[1]

    def allowance(self, number: int) -> Allowance:
        """What may be spent after a round: its budget, and the pixels left of earlier ones."""
        allowance = Budget.parse(self.config.budgets[number]).allowance(self.areas)
        if allowance.counts == "regions":
            return allowance
        return Allowance(allowance.limit + self.bought.unspent, "pixels")

    def purchases(self, strategy: str, drawn: Sequence[tuple[str, Box, float]]) -> list[Purchase]:
        """Regions in pick order, with the clicks that the oracle took for them."""
        wanted: dict[str, list[Box]] = {}
        for image, box, _ in drawn:
            wanted.setdefault(image, []).append(box)
        clicks = {
            (image, box): count
            for image, boxes in wanted.items()
            for box, count in zip(
                boxes,
                self.oracle.clicks(image, boxes, self.bought.boxes.get(image, ())),
                strict=True,
            )
        }
        return [
            Purchase(rank, strategy, image, box, score, clicks=clicks[image, box])
            for rank, (image, box, score) in enumerate(drawn, 1)
        ]

    def draw(self, folder: Path, number: int, selected: Sequence[Selected]) -> None:
        """Pictures of what was picked, and why."""
        config = self.config
        remove(folder)
        folder.mkdir(parents=True)
        signals = next(iter(self.strategy.passes(PassContext())), [])
        value = next((s for s in signals if isinstance(s, Value)), _SHOWN_VALUE)
        if config.overlays:
            with bar(f"Round {number}: drawing overlays") as advance:
                overlays = Overlays(
                    self.pool, self.model(number), value, self.bought.boxes, config.precision
                )
                overlays.write(folder, selected, config.overlays, advance)

    def is_good_enough(self, number: int) -> bool:
        if self.config.target is None:
            return False
        miou = self.metrics(number)["validation"]["miou"]
        reached: bool = miou is not None and miou >= self.config.target
        if reached:
            self.notes.append(
                f"Round {number} reached the target: mIoU {100 * miou:.2f} % on validation."
            )
        return reached

    def metrics(self, number: int) -> dict[str, Any]:
        path = round_folder(self.config.out, number) / METRICS_FILE
        metrics: dict[str, Any] = json.loads(path.read_text())
        return metrics

    def say_score(self, number: int) -> None:
        share = 100 * self.bought.pixels / int(self.areas.sum())
        metrics = self.metrics(number)
        scores = []
        for name in self.held_out:
            miou, absent = metrics[name]["miou"], metrics[name]["absent"]
            shown = "-" if miou is None else f"{100 * miou:.2f} %"
            scores.append(f"mIoU {shown} on {name}" + (f" ({absent} absent)" if absent else ""))
        say(f"Round {number}: {share:.2f} % of the pixels are labelled, " + ", ".join(scores))

    def summarise(self) -> None:
        phases = self.ledger.phases()
        names = dict.fromkeys(p.name for p in phases)
        seconds = {n: round(sum(p.seconds for p in phases if p.name == n), 3) for n in names}
        write_json(
            self.config.out / SUMMARY_FILE,
            {
                "segal": __version__,
                "fingerprint": fingerprint(self.ledger.configuration),
                "cost": asdict(self.ledger.cost()),
                "seconds": seconds,
                "machine": describe(self.device),
                "notes": self.notes,
            },
        )


def _table_folder(index: int) -> str:
    return CANDIDATES_FOLDER if index == 0 else f"{CANDIDATES_FOLDER}-{index}"


def _describe(table: CandidateTable, rows: Sequence[int]) -> dict[str, Any]:
    """Statistics of picks; empty where the scan did not measure them."""
    if _SHOWN_VALUE.column not in table.values or _FEATURE.column not in table.embeddings:
        return {}
    features = table.embedding(_FEATURE.column)[rows]
    return asdict(batch_statistics(table.values[_SHOWN_VALUE.column][rows], features))
