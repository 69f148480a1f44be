"""What a run of rounds has come to so far: what is bought, and how it is told."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from segal import __version__
from segal.budget import Allowance
from segal.console import say
from segal.jobs.labels import shown_miou
from segal.jobs.picks import boxes_of
from segal.ledger import Ledger, Purchase
from segal.machine import describe
from segal.regions import Box
from segal.run_folder import fingerprint


@dataclass
class Bought:
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
        """Books purchases that an allowance paid for."""
        spent = sum(p.pixels or 0 for p in purchases)
        self.pixels += spent
        if allowance.counts == "pixels":
            self.unspent = allowance.limit - spent
        for image, boxes in boxes_of(purchases).items():
            self.boxes.setdefault(image, []).extend(boxes)


def say_score(
    number: int, share: float, metrics: Mapping[str, Any], splits: Collection[str]
) -> None:
    """Says a round in a line.

    Args:
        number: The round.
        share: Of the pool's pixels that are labelled, in [0, 1].
        metrics: As in `metrics.json`.
        splits: What it was evaluated on.
    """
    scores = [f"mIoU {shown_miou(metrics[name])} on {name}" for name in splits]
    say(f"Round {number}: {100 * share:.2f} % of the pixels are labelled, " + ", ".join(scores))


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
    phases = ledger.phases()
    names = dict.fromkeys(p.name for p in phases)
    return {
        "segal": __version__,
        "fingerprint": fingerprint(ledger.configuration),
        "cost": asdict(ledger.cost()) | {"reference": reference},
        "seconds": {n: round(sum(p.seconds for p in phases if p.name == n), 3) for n in names},
        "machine": describe(device),
        "notes": list(notes),
    }
