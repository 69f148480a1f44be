"""`segal status`: what is open, what came back, what was trained on, and what to do next."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segal.annotation.handout import task_key
from segal.annotation.questions import QUESTIONS
from segal.candidates.regions import Box
from segal.data.changes import count
from segal.jobs.annotate.source import own_purchases
from segal.models.spec import DEFAULT_TASK
from segal.runs.history import COMMAND
from segal.runs.ledger import Ledger, Purchase
from segal.runs.pool_log import PoolLog
from segal.runs.returns import (
    Return,
    handouts_of,
    hours_of,
    latest,
    read_return,
    returns_of,
    run_key,
)
from segal.runs.reviews import Skip, skips_of

SEED_SET = "seed"


@dataclass(frozen=True)
class RoundStatus:
    """Of what was bought at once.

    Attributes:
        round: Its number.
        strategy: What picked it.
        bought: Regions.
        withdrawn: Regions of these that were withdrawn since; they count no further.
        handed: Regions of the others that were handed out.
        returned: Regions of the others that came back.
        pixels: What they cost.
        hours: What they took, as far as it is known.
        skipped: Regions that were skipped in a review, by reason; they are not among the bought.
        is_trained: Whether a network was trained on them in this run; None of a selection, which
            trains none.
    """

    round: int
    strategy: str
    bought: int
    withdrawn: int
    handed: int
    returned: int
    pixels: int
    hours: float
    is_trained: bool | None
    skipped: Mapping[str, int]


@dataclass(frozen=True)
class Status:
    """Of a run.

    Attributes:
        rounds: What was bought, in order.
        agreement: By class name, what both annotators say, and what one of them alone; empty where
            no region has two answers.
        unit: What agreement counts.
        advice: What to run next, a line each.
    """

    rounds: Sequence[RoundStatus]
    agreement: Mapping[str, tuple[int, int]]
    unit: str
    advice: Sequence[str]


def status_of(folder: Path) -> Status:
    """Looks at a run folder; nothing is written.

    Raises:
        SegalError: If it is none, or an answer is damaged.
    """
    with Ledger.read(folder) as ledger:
        question = str(ledger.configuration.get("task", DEFAULT_TASK))
        purchases, returns, handouts = (
            own_purchases(ledger),
            returns_of(ledger, withdrawn=True),
            handouts_of(ledger),
        )
        trained = None
        if ledger.command == COMMAND:
            trained = {phase.round for phase in ledger.phases() if phase.name == "train"}
        handed = {key for handout in handouts for key in handout.by_key}
        run = run_key(ledger)
        skips, log = skips_of(ledger), ledger.pool_log
        rounds = [
            _round(run, group, returns, handed, trained, skips, log) for group in _groups(purchases)
        ]
        returns = [one for one in returns if log.keeps(one.image, one.box)]
        names = handouts[-1].classes if handouts else ()
        agreement = _agreement(folder, returns, question, names)
        advice = _advice(folder, ledger.command, rounds)
    return Status(rounds, agreement, QUESTIONS[question].unit, advice)


def _groups(purchases: Sequence[Purchase]) -> list[list[Purchase]]:
    """Purchases of one round and strategy."""
    groups: dict[tuple[int, str], list[Purchase]] = {}
    for one in purchases:
        groups.setdefault((one.round or 0, one.strategy), []).append(one)
    return list(groups.values())


def _round(
    run: str,
    group: Sequence[Purchase],
    returns: Sequence[Return],
    handed: Collection[str],
    trained: Collection[int] | None,
    skips: Sequence[Skip],
    log: PoolLog,
) -> RoundStatus:
    everything = {(one.image, one.box) for one in group}
    regions = {region for region in everything if log.keeps(*region)}
    back = [one for one in latest(returns) if (one.image, one.box) in everything]
    number = group[0].round or 0
    first = number if group[0].strategy == SEED_SET else number + 1
    return RoundStatus(
        round=number,
        strategy=group[0].strategy,
        bought=len(group),
        withdrawn=len(everything) - len(regions),
        handed=sum(task_key(run, *region) in handed for region in regions),
        returned=len({(one.image, one.box) for one in back} & regions),
        pixels=sum(one.pixels or 0 for one in group),
        hours=hours_of(back) or 0.0,
        is_trained=first in trained if trained is not None else None,
        skipped=Counter(
            one.reason for one in skips if (one.round, one.strategy) == (number, group[0].strategy)
        ),
    )


def _agreement(
    folder: Path, returns: Sequence[Return], question: str, names: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Of regions with several answers: the first against each of the others."""
    by_region: dict[tuple[str, Box], list[Return]] = {}
    for one in latest(returns):
        by_region.setdefault((one.image, one.box), []).append(one)
    total = np.zeros((len(names), 3), np.int64)
    for answers in by_region.values():
        first, *others = answers
        for other in others:
            mine, theirs = (read_return(folder, one, question) for one in (first, other))
            total += QUESTIONS[question].agreement(mine, theirs, len(names))
    return {
        name: (int(same), int(one + other))
        for name, (same, one, other) in zip(names, total.tolist(), strict=True)
        if same + one + other
    }


def _advice(folder: Path, command: str, rounds: Sequence[RoundStatus]) -> list[str]:
    bought, withdrawn, handed, returned = (
        sum(getattr(one, key) for one in rounds)
        for key in ("bought", "withdrawn", "handed", "returned")
    )
    if bought:
        bought -= withdrawn
    else:
        return [f"Nothing is bought yet: let segal {command} go on."]
    advice = []
    if handed < bought:
        advice.append(
            f"{count(bought - handed, 'region')} to hand out: segal export {folder} --to FORMAT "
            "--out HANDOUT"
        )
    if returned < handed:
        advice.append(
            f"{count(handed - returned, 'region')} with annotators: segal import {folder} FILE "
            "takes in what comes back, all at once or in parts"
        )
    if returned:
        then = (
            "the same segal run goes on with them"
            if command == COMMAND
            else f"segal train --labelled {folder} trains on them"
        )
        part = "" if returned == bought else f", {returned} of {bought}"
        advice.append(f"What came back has its labels in {folder}{part}: {then}")
    if command != COMMAND and returned == bought > 0:
        advice.append(
            f"Then the next selection: segal select ... --labelled {folder} --checkpoint TRAINED "
            "--out NEXT"
        )
    return advice
