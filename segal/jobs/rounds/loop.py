"""Rounds of train, evaluate, scan, select, inspect and buy, with an oracle for the annotators.

A round's stages are phases in the ledger. Each has a fingerprint of its settings and of the phase
before it, so that a run that was killed goes on from whole phases to the picks that it would have
made, and no finished training or scan is done again. A run goes on where its budgets do; of labels
that were corrected see `segal.jobs.rounds.corrections`.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segal import __version__
from segal.candidates.budget import Allowance, Budget, Prices
from segal.candidates.regions import RegionSize
from segal.candidates.selection import read_selection, write_selection
from segal.candidates.table import CandidateTable
from segal.config import RunConfig
from segal.data.changes import count
from segal.data.exclusion import together
from segal.errors import SegalError
from segal.jobs.inputs import image_sizes
from segal.jobs.keeping import Keeping
from segal.jobs.network import initial_model
from segal.jobs.passes import Scanned, run_passes, table_folder
from segal.jobs.picks import boxes_of, priced, selected_from, shown_value
from segal.jobs.prices import drawn_prices
from segal.jobs.reference import check_apart, needs_of, reference_cost, reference_note
from segal.jobs.rounds.corrections import book_answers, book_corrections, correction_notes
from segal.jobs.rounds.inspection import Inspection
from segal.jobs.rounds.results import (
    Bought,
    NeverPredicted,
    SeenClasses,
    say_score,
    summary,
)
from segal.jobs.rounds.run_data import RunData
from segal.jobs.rounds.scan import RoundScan
from segal.jobs.rounds.seeding import seeding_of
from segal.jobs.rounds.takeover import take_over
from segal.models.checkpoint import CheckpointOptions, load_checkpoint, save_checkpoint
from segal.models.wrapped import Model
from segal.runs.acquisition import (
    SEED_SET,
    SELECT,
    TRAIN,
    Offer,
    acquire,
    derive_generator,
    derive_seed,
)
from segal.runs.following import SharedLedger
from segal.runs.history import (
    EVALUATION_FILE,
    METRICS_FILE,
    MODEL_FILE,
    SEED_FOLDER,
    SELECTION_FILE,
    round_folder,
)
from segal.runs.ledger import Purchase
from segal.runs.oracle import Oracle
from segal.runs.reviews import skips_of, withheld
from segal.runs.run_folder import fingerprint
from segal.runs.texts import drop_text, keep_text
from segal.runs.withdrawal import UNFINISHED_FILE, sweep, withdrawn_files
from segal.scanning.scan import drop_blocks
from segal.signals import Signal
from segal.strategies.base import PassContext, Strategy, at_round
from segal.system.console import bar
from segal.system.files import remove, write_json
from segal.system.machine import describe, readers
from segal.tasks import find_task
from segal.tasks.judging import metric_of, one_answer, shown_score
from segal.tasks.sharing import evaluation_on
from segal.training.loop import train

SUMMARY_FILE = "summary.json"
_TRAINING_FILE = "training.json"
_NOTES_FILE = "notes.json"
_SEED_SET = "seed"

Made = tuple[Sequence[Path], Sequence[Purchase]]
"""What a phase made: its files, and what it bought."""
_NOTHING: Made = ((), ())


class Rounds:
    """A run at work; its methods are its phases, then what they share.

    Args:
        config: The configuration, resolved.
        strategy: The strategy that `config.strategy` names.
        ledger: Of the run folder, open for this process or for all ranks of its job.
        device: Where the network runs.
        data: The data sets.
        start: The folder of a run whose first round may be taken over, or None.
        measured: What is measured of every strategy's candidates, in the first pass.
    """

    def __init__(
        self,
        config: RunConfig,
        strategy: Strategy,
        ledger: SharedLedger,
        device: torch.device,
        data: RunData,
        start: Path | None,
        measured: Sequence[Signal],
    ) -> None:
        self.measured, self.ranks = measured, ledger.ranks
        self.config, self.strategy, self.ledger, self.device = config, strategy, ledger, device
        self.pool, self.held_out = data.pool_set.pool, data.held_out
        self.task = find_task(config.task)
        self.outline = self.task.outline_of(data.pool_set)
        self.oracle = Oracle(data.pool_set, self.task, data.answered)
        self.log = ledger.pool_log
        self.areas, self.sizes = data.areas(), image_sizes(self.pool)
        self.excluded, self.never_annotated = data.excluded, data.never_annotated
        self.start, self.keeping = start, Keeping.of(config)
        self.region = RegionSize.parse(config.region)
        self.seeding = seeding_of(config, device, data)
        self.bought = Bought()
        balanced = config.train.class_weights == "balanced"
        self.seen = SeenClasses(self.oracle, self.outline.class_names, balanced=balanced)
        self.never = NeverPredicted()
        self.notes = list(data.notes)
        self.chain = data.fingerprint()
        self._model: tuple[int, Model] | None = None

    def run(self) -> None:
        """Goes through the rounds; phases that are done are not done again.

        Raises:
            SegalError: For anything that the user can mend.
        """
        self.ledger.alone(self.begin)
        self.buy_seed_set()
        for number in range(len(self.config.budgets) + 1):
            if self.waits():
                return
            self.train(number)
            self.evaluate(number)
            # What was bought once is trained on, also where labels were corrected since.
            is_bought = self.ledger.phase("buy", number) is not None
            is_last = not is_bought and self.is_good_enough(number)
            if is_last or number == len(self.config.budgets):
                break
            if is_bought and number + 1 < self.log.last_step:  # of a pool that was another one
                purchases = self.ledger.purchases("buy", number)
                self.bought.add(purchases, self.allowance(number), self.log)
                continue
            taken = together(self.bought.boxes, self.excluded)
            skips = skips_of(self.ledger)
            taken = together(taken, withheld(skips, self.sizes, self.region))
            offer = Offer.of(self.sizes, self.region, taken)
            if not len(offer):
                self.notes.append(f"The pool is used up: the run ends with round {number}.")
                break
            allowance = self.allowance(number)
            if allowance.counts == "pixels" and allowance.most(offer.prices) == 0:
                self.notes.append(
                    f"Round {number}: {allowance} do not buy any of the {len(offer)} regions that "
                    "are left: the run ends here."
                )
                break
            self.select(number, self.scan(number, offer), offer, allowance)
            self.inspect(number)
            self.buy(number, allowance)
        self.ledger.alone(self.summarise)

    def begin(self) -> None:
        """Books the images, and what people have said since."""
        self.ledger.record_images(self.pool, self.never_annotated)
        if withdrawn_files(self.ledger):  # the process that withdrew them was stopped
            sweep(self.ledger)
        if "val" in {need.of for need in needs_of(self.strategy)}:
            check_apart(self.held_out["validation"].pool, self.pool)
        if self.oracle.asks_people:
            book_answers(self.ledger, self.oracle)

    # Phases

    def phase(
        self,
        name: str,
        number: int,
        settings: object,
        work: Callable[[Path], Made],
        *,
        shared: bool = False,
    ) -> None:
        """Does a phase, unless this run or the one that it starts from has done it.

        Args:
            name: Its name.
            number: The round.
            settings: What its result depends on beside the phase before it.
            work: Is given the round's folder; returns the files that it made and what it bought.
            shared: Whether all ranks of a job work, of which the first writes; else it works alone.
        """
        self.chain = fingerprint([name, number, settings, self.chain])
        if self.ledger.finished(name, number, self.chain):
            return
        if self.start is not None and take_over(self.start, self.ledger, name, number, self.chain):
            return
        # It says that a run came to its end.
        self.ledger.alone(lambda: drop_text(self.ledger, SUMMARY_FILE))
        started, made = time.perf_counter(), _NOTHING
        if shared or self.ledger.leads:
            made = work(round_folder(self.config.out, number))
        artefacts, purchases = made
        seconds = time.perf_counter() - started
        self.ledger.finish(
            name, number, self.chain, artefacts, seconds=seconds, purchases=purchases
        )

    def buy_seed_set(self) -> None:
        """Buys regions before there is a network: at random, or as a strategy chose them."""
        config = self.config
        allowance = self.affords(config.seed_set, 0)
        region = RegionSize.parse(config.seed_region)

        def draw(_: Path) -> Made:
            offer = Offer.of(self.sizes, region, self.excluded)
            generator = derive_generator(config.seed, 0, SEED_SET)
            order = torch.randperm(len(offer), generator=generator).numpy()
            order = order[allowance.takes(self.prices(region, offer, allowance)[order])]
            boxes = [
                (path, (int(x0), int(y0), int(x1), int(y1)))
                for path, size in self.sizes.items()
                for x0, y0, x1, y1 in region.grid(*size).boxes()
            ]
            drawn = [(*boxes[row], 0.0) for row in offer.rows[order]]
            return [], priced(_SEED_SET, drawn, self.oracle, self.bought.boxes)

        def take(folder: Path) -> Made:
            selected = read_selection(folder / SEED_FOLDER / SELECTION_FILE)
            drawn = [(s.image, s.box, s.score) for s in selected]
            return [], priced(_SEED_SET, drawn, self.oracle, self.bought.boxes)

        is_bought = self.ledger.phase(_SEED_SET, 0) is not None
        if self.seeding is not None and not (is_bought and self.log.last_step > 0):
            # Else it was chosen from a pool that was another one.
            offer = Offer.of(self.sizes, region, self.excluded)
            prices = self.prices(region, offer, allowance)
            bought = self.ledger.purchases(_SEED_SET, 0)
            self.seeding.choose(self.phase, self.network(), offer, allowance, prices, bought)
            said = json.loads((self.seeding.folder / _NOTES_FILE).read_text())
            self.notes += [f"Seed set: {note}" for note in said]
        settings = [config.seed, config.seed_set, config.seed_region, *self.fit()]
        self.phase(_SEED_SET, 0, settings, draw if self.seeding is None else take)
        stale = [SUMMARY_FILE, UNFINISHED_FILE]
        self.ledger.alone(lambda: book_corrections(self.ledger, self.oracle, stale))
        self.notes += correction_notes(self.ledger)
        self.bought.add(self.ledger.purchases(_SEED_SET, 0), allowance, self.log)

    def train(self, number: int) -> None:
        """Trains on all that is bought so far."""
        config, settings = self.config, self.config.train
        if not self.bought.boxes:
            raise SegalError(
                f"{config.out}: round {number} has nothing left to be trained on",
                expected="a seed set of which something is not withdrawn",
                got="one that is withdrawn as a whole",
                remedy="begin another run with --out: its seed set is drawn from what is left",
            )
        self.seen.look(number, self.bought.boxes)
        if config.steps == "proportional":
            seed_pixels = sum(p.pixels or 0 for p in self.ledger.purchases(_SEED_SET, 0))
            steps = round(settings.iterations * self.bought.pixels / seed_pixels)
            settings = settings.model_copy(update={"iterations": steps})
        warm = config.start == "warm" and number > 0

        def work(folder: Path) -> Made:
            model = self.model(number - 1) if warm else initial_model(config, self.outline)
            model.to(self.device)
            validation = self.held_out.get("validation")
            with bar(f"Round {number}: training") as advance:
                result = train(
                    model,
                    self.keeping.dataset(model, self.oracle.reveal(self.bought.boxes)),
                    settings,
                    seed=derive_seed(config.seed, number, TRAIN),
                    labelled=self.oracle.by_index(self.bought.boxes),
                    validation=validation and self.keeping.dataset(model, validation),
                    device=self.device,
                    progress=lambda step, total, loss: advance(step, total, f"loss {loss:.3f}"),
                    checkpoint=folder / UNFINISHED_FILE,
                    ranks=self.ranks,
                )
            self._model = (number, model)
            if not self.ledger.leads:
                return _NOTHING
            # The network's file has the same bytes however long it took.
            made = {key: value for key, value in asdict(result).items() if key != "seconds"}
            settled = settings.model_dump(mode="json")
            save_checkpoint(model, folder / MODEL_FILE, made | {"settings": settled})
            write_json(folder / _TRAINING_FILE, asdict(result))
            return [folder / MODEL_FILE, folder / _TRAINING_FILE], []

        folder = round_folder(config.out, number)
        folder.mkdir(parents=True, exist_ok=True)
        depends = {
            "settings": settings.identity(),
            "network": self.network(),
            "seed": config.seed,
            "warm": warm,
            "labels": self.labels(),
        }
        self.phase("train", number, depends, work, shared=True)
        remove(folder / UNFINISHED_FILE)

    def evaluate(self, number: int) -> None:
        """Evaluates on the held-out splits, and says how it went."""
        config = self.config

        def work(folder: Path) -> Made:
            model, found = self.model(number), {}
            for name, dataset in self.held_out.items():
                with bar(f"Round {number}: evaluating on {name}") as advance:
                    evaluation = evaluation_on(
                        *(self.ranks, self.task, model),
                        self.keeping.dataset(model, dataset),
                        device=self.device,
                        batch_size=config.machine.batch_size,
                        workers=readers(config.machine.workers, self.device),
                        precision=config.precision,
                        progress=advance,
                    )
                found[name] = evaluation.metrics.as_dict()
            if not self.ledger.leads:
                return _NOTHING
            training = json.loads((folder / _TRAINING_FILE).read_text())
            metrics: dict[str, object] = {"segal": __version__, "machine": describe(self.device)}
            metrics |= {k: v for k, v in training.items() if k != "seconds"} | found
            # The last of them is the split that results are reported on.
            evaluation.write(folder / EVALUATION_FILE)
            write_json(folder / METRICS_FILE, metrics)
            return [folder / EVALUATION_FILE, folder / METRICS_FILE], []

        self.phase("evaluate", number, config.precision, work, shared=True)
        share = self.bought.pixels / self.ledger.extent()[0]
        metrics = self.metrics(number)
        say_score(number, self.bought, share, metrics, list(self.held_out))
        self.never.look(number, metrics, list(self.held_out))
        for name in self.held_out:
            if said := one_answer(metrics[name]):
                self.notes.append(f"Round {number}: {said} of {name}.")

    def scan(self, number: int, offer: Offer) -> Scanned:
        """The passes that the strategy asks for."""
        config = self.config
        folder = round_folder(config.out, number)
        shared = find_task(config.task).shared_features
        context = PassContext(offered=offer.rows, shared_features=shared)
        measure = partial(self.scan_once, number)
        scanned = run_passes(self.strategy, context, folder, config.region, measure)
        self.notes += [f"Round {number}: {note}" for note in scanned.notes]
        return scanned

    def scan_once(self, number: int, index: int, asked: Sequence[Signal], tables: Path) -> None:
        """One pass over the pool."""
        config = self.config
        signals = list(dict.fromkeys([*asked, *(self.measured if index == 0 else ())]))

        def work(folder: Path) -> Made:
            scan = RoundScan(
                config=config,
                device=self.device,
                pool=self.pool,
                oracle=self.oracle,
                validation=self.held_out.get("validation"),
                seed_set=boxes_of(self.ledger.held(_SEED_SET, 0)),
                bought=self.bought.boxes,
                excluded=self.excluded,
                keeping=self.keeping,
                ranks=self.ranks,
            )
            model = self.model(number) if signals else None
            said = scan.run(number, signals, model, tables, self.chain)
            self.notes += [f"Round {number}: {note}" for note in said]
            return [tables], []

        columns = [signal.column for signal in signals]
        settings = [config.region, columns, config.precision, config.embedding_dtype]
        self.phase(f"scan-{index}", number, settings, work, shared=True)
        if self.ledger.leads:
            drop_blocks(tables)

    def select(self, number: int, scanned: Scanned, offer: Offer, allowance: Allowance) -> None:
        """Lets the strategy pick from what is on offer."""
        config = self.config

        def work(folder: Path) -> Made:
            generator = derive_generator(config.seed, number, SELECT)
            table, labelled = scanned.table, scanned.labelled
            # What is bought stays bought, also where files are made again on another machine.
            before = selected_from(self.ledger.purchases("buy", number))
            prices = self.prices(self.region, offer, allowance)
            selected, notes = (
                (before, ())
                if before
                else acquire(
                    at_round(self.strategy, number, len(config.budgets)),
                    table,
                    labelled,
                    offer,
                    allowance,
                    generator,
                    prices,
                    self.planned(offer, allowance),
                )
            )
            cost = len(offer) if allowance.counts == "regions" else int(prices.sum())
            if len(selected) == len(offer) and cost < allowance.limit:
                left = "region is" if len(offer) == 1 else f"{len(offer)} regions are"
                notes += (f"The budget outlives the pool: the last {left} taken.",)
            if not self.ledger.leads:
                return _NOTHING
            write_selection(folder / SELECTION_FILE, selected)
            write_json(folder / _NOTES_FILE, notes)
            return [folder / SELECTION_FILE, folder / _NOTES_FILE], []

        settings = [config.strategy, config.seed, allowance.limit, allowance.counts, *self.fit()]
        self.phase("select", number, settings, work, shared=True)
        notes = json.loads((round_folder(config.out, number) / _NOTES_FILE).read_text())
        self.notes += [f"Round {number}: {note}" for note in notes]

    def inspect(self, number: int) -> None:
        """Looks at what was picked."""

        def work(folder: Path) -> Made:
            look = Inspection(
                config=self.config,
                device=self.device,
                pool=self.pool,
                oracle=self.oracle,
                value=shown_value(self.strategy),
                bought=self.bought.boxes,
                excluded=self.excluded,
                keeping=self.keeping,
            )
            selected = read_selection(folder / SELECTION_FILE)
            table = CandidateTable.open(table_folder(folder, 0) / self.config.region)
            return look.write(folder, number, selected, table, self.model(number)), []

        self.phase("inspect", number, None, work)

    def buy(self, number: int, allowance: Allowance) -> None:
        """Books what was selected, at the cost that the oracle took for it."""
        name = str(self.config.strategy["name"])

        def work(folder: Path) -> Made:
            selected = read_selection(folder / SELECTION_FILE)
            drawn = [(s.image, s.box, s.score) for s in selected]
            return [], priced(name, drawn, self.oracle, self.bought.boxes)

        self.phase("buy", number, None, work)
        self.bought.add(self.ledger.purchases("buy", number), allowance, self.log)

    def waits(self) -> bool:
        """Whether people have to label something before the run can go on."""
        waiting, folder = self.oracle.waits_for(self.bought.boxes), self.config.out
        if waiting:
            self.notes.append(
                f"{count(waiting, 'region')} {'waits' if waiting == 1 else 'wait'} for annotators. "
                f"Hand them out with segal export {folder} --to FORMAT --out HANDOUT, take in what "
                f"comes back with segal import {folder} FILE, and give this command again."
            )
        return waiting > 0

    # What phases share

    def model(self, number: int) -> Model:
        """The network that a round trained."""
        if self._model is None or self._model[0] != number:
            options = CheckpointOptions(architecture=self.config.model.architecture)
            path = round_folder(self.config.out, number) / MODEL_FILE
            self._model = (number, load_checkpoint(path, options).to(self.device))
        return self._model[1]

    def network(self) -> object:
        """What identifies the network that the first round starts from."""
        named = self.ledger.configuration
        return [named["model"], named["checkpoint"]]

    def labels(self) -> object:
        """What identifies the labels of all that is bought so far."""
        if any(label is None for _, _, label in self.bought.labels):
            return self.oracle.digest(self.bought.boxes)  # as runs had it before these were booked
        return fingerprint([self.oracle.class_names, self.bought.labels])

    def allowance(self, number: int) -> Allowance:
        """What may be spent after a round: its budget, and what is left of earlier ones like it."""
        return self.bought.grant(self.affords(self.config.budgets[number], number + 1))

    def affords(self, budget: str, step: int) -> Allowance:
        """What a budget comes to, without what earlier ones have left.

        Args:
            budget: As it is configured.
            step: Which purchase it is for: its pool counts, whatever became of that later.
        """
        areas = np.array(self.ledger.areas(step), np.int64) if self.log.changes else self.areas
        return Budget.parse(budget).allowance(areas, self.pool.unit, self.config.budget_fit)

    def fit(self) -> list[str]:
        """What a phase depends on of `budget_fit`; nothing where it is as it always was."""
        return [] if self.config.budget_fit == "prefix" else [self.config.budget_fit]

    def prices(self, region: RegionSize, offer: Offer, allowance: Allowance) -> Prices:
        """What is paid for each candidate on offer; labels say where an order is cut, and no more.

        Args:
            region: Size of the candidates.
            offer: Those that can be bought.
            allowance: What is counted.
        """
        return drawn_prices(self.oracle, self.sizes, region, self.bought.boxes, offer, allowance)

    def planned(self, offer: Offer, allowance: Allowance) -> int | None:
        """How many picks a budget in boxes is planned for: at as many by area as before."""
        if allowance.counts != "boxes":
            return None
        mean = float(offer.prices.mean()) * self.bought.clicks / self.bought.pixels
        return allowance.about(mean, len(offer))

    def is_good_enough(self, number: int) -> bool:
        """Whether a round reached the target."""
        if self.config.target is None:
            return False
        metrics = self.metrics(number)["validation"]
        score = metric_of(metrics).of(metrics)
        reached = score is not None and score >= self.config.target
        if reached:
            self.notes.append(
                f"Round {number} reached the target: {shown_score(metrics)} on validation."
            )
        return reached

    def metrics(self, number: int) -> dict[str, Any]:
        """What a round was evaluated as."""
        path = round_folder(self.config.out, number) / METRICS_FILE
        metrics: dict[str, Any] = json.loads(path.read_text())
        return metrics

    def summarise(self) -> None:
        """Writes what the run came to."""
        reference = None
        self.notes += [*self.seen.notes(), *self.never.notes(), *self.keeping.notes]
        if "val" in {need.of for need in needs_of(self.strategy)}:
            reference = reference_cost(self.held_out["validation"])
            name = str(self.config.strategy["name"])
            total = int(self.areas.sum())
            self.notes.append(reference_note(name, reference, total, self.pool.unit))
        found = summary(self.ledger, self.device, reference, self.notes)
        write_json(self.config.out / SUMMARY_FILE, found)
        keep_text(self.ledger, SUMMARY_FILE)
