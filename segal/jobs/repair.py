"""Mends a run folder: what its ledger can tell is made again, and what it cannot is named."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from segal.candidates.selection import MASKS_FOLDER, selection_csv
from segal.jobs.annotate.source import SELECT
from segal.jobs.masks import Masks
from segal.jobs.picks import selected_from
from segal.runs.history import CONFIG_FILE, SELECTION_FILE
from segal.runs.ledger import SCANS, SEED_SELECT, Ledger
from segal.runs.returns import returns_of
from segal.runs.texts import text_of, texts_beside
from segal.runs.withdrawal import sweep, withdrawn_files
from segal.system.files import write_bytes

HANDOUTS, RETURNS = "handouts", "returns"


@dataclass
class Repaired:
    """What became of a run folder.

    Attributes:
        mended: Files as they were again, or that are gone as they should be.
        lost: What is not there any more, each with what makes it again.
    """

    mended: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def repair(folder: Path) -> Repaired:
    """Makes again what the ledger can tell, byte for byte.

    Args:
        folder: Of a run that is not at work.

    Raises:
        SegalError: If it is none, or another process is at work in it.
    """
    found = Repaired()
    with Ledger.reopen(folder) as ledger:
        if withdrawn_files(ledger):
            found.mended += [f"{file}: removed, as it is withdrawn" for file in sweep(ledger)]
        before = ledger.damaged()
        _write_texts(ledger, before)
        _write_selections(ledger, before)
        found.lost += Masks(ledger).repair()
        after = {path for path, *_ in ledger.damaged()}
        found.mended += [path for path, *_ in before if path not in after]
        found.mended += _beside(ledger)
        still = [one for one in before if one[0] in after]
        found.lost += _lost_answers(ledger, {path for path, name, _ in still if name == RETURNS})
        never = _never_again(ledger, still)
        found.lost += [f"{path}: lost, and not made again: the pool has changed" for path in never]
        ledger.forget(never)
        found.lost += [
            _made_by(ledger, path)
            for path, name, _ in still
            if name != RETURNS and path not in never and not path.startswith(f"{MASKS_FOLDER}/")
        ]
    return found


def _write_texts(ledger: Ledger, damaged: list[tuple[str, str, int]]) -> None:
    """Small files, of which the ledger has copies."""
    recorded = ledger.digests()
    for path, *_ in damaged:
        data = text_of(ledger, path, recorded[path])
        if data is not None:
            write_bytes(ledger.folder / path, data)


def _write_selections(ledger: Ledger, damaged: list[tuple[str, str, int]]) -> None:
    """What was selected, of what was bought of it."""
    buys = {SELECT: SELECT if ledger.command == SELECT else "buy", SEED_SELECT: "seed"}
    for path, name, number in damaged:
        if PurePosixPath(path).name != SELECTION_FILE or name not in buys:
            continue
        bought = ledger.purchases(buys[name], number)
        if bought:
            write_bytes(ledger.folder / path, selection_csv(selected_from(bought)))


def _beside(ledger: Ledger) -> Iterator[str]:
    """Files that no stage records."""
    for name in texts_beside(ledger):
        data, path = text_of(ledger, name), ledger.folder / name
        if data is not None and (not path.is_file() or path.read_bytes() != data):
            write_bytes(path, data)
            yield name


def _never_again(ledger: Ledger, lost: list[tuple[str, str, int]]) -> list[str]:
    """Tables and pictures of a pool that was another one."""
    last, buys = ledger.pool_log.last_step, SELECT if ledger.command == SELECT else "buy"
    offset = 0 if ledger.command == SELECT else 1
    return [
        path
        for path, name, number in lost
        if (name.startswith(SCANS) or name in (SELECT, "inspect"))
        and number + offset < last
        and ledger.phase(buys, number) is not None
        and not path.startswith(f"{MASKS_FOLDER}/")
    ]


def _lost_answers(ledger: Ledger, files: set[str]) -> Iterator[str]:
    for one in returns_of(ledger):
        if one.file in files:
            yield (
                f"{one.file}: lost, the answer of {one.annotator or 'an annotator'} to {one.image} "
                f"at {list(one.box)}: segal import {ledger.folder} {one.source.split(',')[0]}"
            )


def _made_by(ledger: Ledger, path: str) -> str:
    if path.startswith(f"{HANDOUTS}/"):
        return f"{path}: lost, what was handed out: segal import takes it with --handout FILE"
    return f"{path}: lost: segal {ledger.command} --config {ledger.folder / CONFIG_FILE}"
