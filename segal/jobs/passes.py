"""The passes over the pool that a strategy asks for, one after another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segal.candidates.table import CandidateTable
from segal.runs.history import CANDIDATES_FOLDER
from segal.scanning.scan import LABELLED_FOLDER, scan_notes
from segal.signals import Signal
from segal.strategies.base import PassContext, Strategy

Measure = Callable[[int, Sequence[Signal], Path], None]
"""Is given a pass's number, its signals and the folder of its tables, which it sees to."""


@dataclass(frozen=True)
class Scanned:
    """What a strategy chooses from.

    Attributes:
        table: The candidates, as the last pass measured them.
        labelled: What is labelled, likewise.
        notes: What the user should be told of the passes, each once.
    """

    table: CandidateTable
    labelled: CandidateTable
    notes: tuple[str, ...]


def table_folder(folder: Path, number: int) -> Path:
    """Where the tables of a pass lie, in the folder of a selection or a round."""
    return folder / (CANDIDATES_FOLDER if number == 0 else f"{CANDIDATES_FOLDER}-{number}")


def run_passes(
    strategy: Strategy,
    context: PassContext,
    folder: Path,
    region: str,
    measure: Measure,
) -> Scanned:
    """Does what a strategy asks for; at least one pass, which without signals is of geometry alone.

    Args:
        strategy: The strategy.
        context: What the strategy knows; it is given the passes' tables.
        folder: Takes the tables, a folder for each pass.
        region: The region size that is chosen from.
        measure: Does one pass, unless it is done already.
    """
    notes: dict[str, None] = {}

    def scan(signals: Sequence[Signal]) -> None:
        number = len(context.tables)
        tables = table_folder(folder, number)
        measure(number, signals, tables)
        notes.update(dict.fromkeys(scan_notes(tables)))
        context.tables.append(CandidateTable.open(tables / region))

    # A pass may be asked for in view of the tables of those before it.
    for signals in strategy.passes(context):
        scan(signals)
    if not context.tables:
        scan([])
    last = table_folder(folder, len(context.tables) - 1)
    labelled = CandidateTable.open(last / LABELLED_FOLDER)
    return Scanned(context.tables[-1], labelled, tuple(notes))
