"""Finds the runs of a comparison that were finished with labels that are others now."""

from collections.abc import Sequence
from pathlib import Path

from segal.data.images import ImageInfo
from segal.errors import SegalError
from segal.jobs.network import open_split
from segal.jobs.planning import PlannedRun
from segal.jobs.rounds.corrections import labels_now
from segal.runs.ledger import Ledger, Purchase
from segal.runs.oracle import Oracle
from segal.system.console import bar, tell
from segal.tasks import find_task


def corrected_runs(runs: Sequence[PlannedRun]) -> list[Path]:
    """The folders of runs of which a bought label has changed since it was trained on.

    Args:
        runs: Finished runs of one comparison, which have their data in common. Where that is not
            there any more, nothing is compared, and the user is told.
    """
    booked: dict[Path, list[Purchase]] = {}
    known: dict[str, tuple[int, int, ImageInfo]] = {}
    for run in runs:
        with Ledger.read(run.config.out) as ledger:
            purchases = ledger.purchases()
            if purchases and all(p.label is not None for p in purchases):
                booked[run.config.out] = purchases
                known = known or ledger.known_images()
    if not booked:
        return []
    config = runs[0].config
    try:
        with bar("Checking images") as advance:
            dataset = open_split(
                *(config.task, config.data, config.data.train, config.machine, advance),
                known=known,
            )
        there = set(dataset.pool.paths)
        bought = {p for found in booked.values() for p in found if p.image in there}
        now = labels_now(Oracle(dataset, find_task(config.task)), bought)
    except SegalError as error:
        tell(f"Whether labels of finished runs were corrected cannot be told: {error.problem}")
        return []
    return [
        folder
        for folder, found in booked.items()
        if any(now.get((p.image, p.box), p.label) != p.label for p in found)
    ]
