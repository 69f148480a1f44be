"""What a run of rounds has come to so far: what is bought, and how it is told."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from segal import __version__
from segal.candidates.budget import Allowance
from segal.candidates.regions import Box
from segal.data.pool import one_of
from segal.jobs.picks import boxes_of
from segal.runs.ledger import Ledger, Purchase
from segal.runs.oracle import Oracle
from segal.runs.pool_log import PoolLog
from segal.runs.returns import hours_of, returns_of
from segal.runs.run_folder import fingerprint
from segal.system.console import say
from segal.system.machine import describe
from segal.tasks.judging import metric_of, named, never_predicted, remark, shown_score

_MOST_NAMES = 20


@dataclass
class Bought:
    """What is bought so far, and what it left of the budgets.

    Attributes:
        boxes: By image.
        pixels: Charged so far.
        clicks: Likewise.
        unspent: By what budgets count, what they have left of it.
        labels: What is bought, in order, each with the digest of its label where it is known.
    """

    boxes: dict[str, list[Box]] = field(default_factory=dict)
    pixels: int = 0
    clicks: int = 0
    unspent: dict[str, int] = field(default_factory=dict)
    labels: list[tuple[str, Box, str | None]] = field(default_factory=list)

    def grant(self, allowance: Allowance) -> Allowance:
        """An allowance, and what is left of earlier ones like it."""
        unspent = self.unspent.get(allowance.counts, 0)
        return replace(allowance, limit=allowance.limit + unspent)

    def add(self, purchases: Sequence[Purchase], allowance: Allowance, log: PoolLog) -> None:
        """Books purchases that an allowance paid for; what was withdrawn since is paid for only."""
        pixels = sum(p.pixels or 0 for p in purchases)
        clicks = sum(p.clicks or 0 for p in purchases)
        self.pixels += pixels
        self.clicks += clicks
        if allowance.counts != "regions":
            spent = pixels if allowance.counts == "pixels" else clicks
            self.unspent[allowance.counts] = allowance.limit - spent
        purchases = [p for p in purchases if log.keeps(p.image, p.box)]
        self.labels += [(p.image, p.box, p.label) for p in purchases]
        for image, boxes in boxes_of(purchases).items():
            self.boxes.setdefault(image, []).extend(boxes)


class SeenClasses:
    """Which classes have had a labelled pixel, and since which round.

    Args:
        oracle: Knows the labels.
        names: Of the classes.
        balanced: Whether classes are weighted by how much is labelled of each.
    """

    def __init__(self, oracle: Oracle, names: Sequence[str], *, balanced: bool) -> None:
        self.oracle, self.names, self.balanced = oracle, names, balanced
        self.unit = oracle.task.metric.elements
        self.since: dict[int, int] = {}
        self._looked_at: dict[str, int] = {}

    def look(self, number: int, bought: Mapping[str, Sequence[Box]]) -> None:
        """Looks at what a round trains on; labels are read while a class has not been seen yet.

        Args:
            number: The round.
            bought: Boxes by image, those of earlier rounds first.
        """
        new = {image: boxes[self._looked_at.get(image, 0) :] for image, boxes in bought.items()}
        self._looked_at = {image: len(boxes) for image, boxes in bought.items()}
        new = {image: boxes for image, boxes in new.items() if boxes}
        revealed = self.oracle.reveal(new)
        for index in revealed.bought:
            if len(self.since) == len(self.names):
                break
            for found in self.oracle.task.classes_in(revealed.read_label(index)):
                self.since.setdefault(found, number)

    def notes(self) -> list[str]:
        """What to tell of classes that the first network, or all of them, never saw."""
        late = [
            f"{name!r} until round {self.since[i]}" if i in self.since else f"{name!r} to the end"
            for i, name in enumerate(self.names)
            if self.since.get(i) != 0
        ]
        if not late:
            return []
        weights = "; balanced class weights are of the others." if self.balanced else "."
        return [
            f"Classes without a labelled {one_of(self.unit)}: {', '.join(late)}. Nothing is learnt "
            f"of a class that is not shown{weights}"
        ]


class NeverPredicted:
    """Which classes the networks of a run never predict, by split.

    Attributes:
        rounds: How many were looked at.
    """

    def __init__(self) -> None:
        self.rounds = 0
        self._found: dict[str, dict[str, list[int]]] = {}

    def look(self, number: int, metrics: Mapping[str, Any], splits: Collection[str]) -> None:
        """Looks at the metrics of a round; arguments are as of `say_score`."""
        self.rounds += 1
        for split in splits:
            for name in never_predicted(metrics[split]):
                self._found.setdefault(split, {}).setdefault(name, []).append(number)

    def notes(self) -> list[str]:
        """What to tell of each split, classes that are longest without a prediction first."""
        notes = []
        for split, found in self._found.items():
            by_rounds: dict[tuple[int, ...], list[str]] = {}
            for name, numbers in found.items():
                by_rounds.setdefault(tuple(numbers), []).append(name)
            longest = sorted(by_rounds, key=lambda numbers: (-len(numbers), numbers))
            parts = [
                f"{named(by_rounds[numbers], _MOST_NAMES)} {self._when(numbers)}"
                for numbers in longest
            ]
            notes.append(
                f"Classes that {split} has and the network never predicts there: "
                f"{'; '.join(parts)}."
            )
        return notes

    def _when(self, numbers: Sequence[int]) -> str:
        if len(numbers) == self.rounds:
            return "in every round"
        shown = ", ".join(map(str, numbers))
        return f"in round {shown}" if len(numbers) == 1 else f"in rounds {shown}"


def say_score(
    number: int, bought: Bought, share: float, metrics: Mapping[str, Any], splits: Collection[str]
) -> None:
    """Says a round in a line.

    Args:
        number: The round.
        bought: What is labelled.
        share: Of the pool's pixels that are labelled, in [0, 1].
        metrics: As in `metrics.json`.
        splits: What it was evaluated on.
    """
    scores = []
    metric = metric_of(metrics[next(iter(splits))])
    drawn = f" with {bought.clicks:,} {metric.clicks}" if metric.per_clicks else ""
    for name in splits:
        said = remark(metrics[name])
        beside = f" ({said})" if said else ""
        scores.append(f"{shown_score(metrics[name])} on {name}{beside}")
    labelled = f"{100 * share:.2f} % of the {metric.elements}{drawn} are labelled"
    say(f"Round {number}: {labelled}, " + ", ".join(scores))


def summary(
    ledger: Ledger,
    device: torch.device,
    reference: Mapping[str, int] | None,
    notes: Sequence[str],
) -> dict[str, object]:
    """A run as `summary.json` has it.

    Args:
        ledger: Of the run.
        device: Where the network ran.
        reference: The cost of a reference set that the strategy measured on.
        notes: What the user should be told.
    """
    phases, hours = ledger.phases(), hours_of(returns_of(ledger, withdrawn=True))
    names = dict.fromkeys(p.name for p in phases)
    return {
        "segal": __version__,
        "fingerprint": fingerprint(ledger.configuration),
        "cost": asdict(ledger.cost()) | {"annotation_hours": hours, "reference": reference},
        "seconds": {n: round(sum(p.seconds for p in phases if p.name == n), 3) for n in names},
        "machine": describe(device),
        "notes": list(notes),
    }
