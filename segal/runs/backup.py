"""A copy of a run folder, also of one that is at work: its ledger at one moment, and its files."""

import shutil
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segal.errors import SegalError
from segal.runs.database import connect, explained
from segal.runs.ledger import Ledger
from segal.runs.run_folder import LEDGER_FILE
from segal.system.files import replacing

_TRIES = 3  # a stage may be done again while its files are copied


@dataclass(frozen=True)
class Backup:
    """What was copied.

    Attributes:
        files: How many, the ledger among them.
        bytes: How much.
    """

    files: int
    bytes: int


def back_up(
    folder: Path, out: Path, progress: Callable[[int, int], None] = lambda *_: None
) -> Backup:
    """Copies a run folder.

    Args:
        folder: Of a run, which may be at work.
        out: Where to; not there yet. It appears as a whole.
        progress: Called with (files done, all files).

    Returns:
        What was copied.

    Raises:
        SegalError: If `folder` is no run folder, something is at `out`, files are not as the ledger
            says, or the disk is full.
    """
    if out.exists():
        raise SegalError(
            f"{out}: something is there",
            expected="a place where nothing is yet",
            got="a file" if out.is_file() else "a folder",
            remedy="choose another place",
        )
    for last in range(_TRIES):
        try:
            return _copied(folder, out, progress)
        except _MovedOnError as error:
            if last == _TRIES - 1:
                raise error.problem from error
    raise AssertionError


class _MovedOnError(Exception):
    def __init__(self, problem: SegalError) -> None:
        self.problem = problem


def _copied(folder: Path, out: Path, progress: Callable[[int, int], None]) -> Backup:
    with replacing(out) as temporary:
        temporary.mkdir(parents=True)
        _copy_ledger(folder, temporary / LEDGER_FILE)
        with Ledger.read(temporary) as ledger:
            listed = ledger.files(folder)
            damage: Sequence[str] = ()
            for done, name in enumerate(listed, 1):
                target = temporary / name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    shutil.copyfile(folder / name, target)
                except FileNotFoundError:
                    break
                progress(done, len(listed))
            damage = ledger.damage()
        if damage:
            raise _MovedOnError(
                SegalError(
                    f"{folder}: {len(damage)} files are not as the ledger says",
                    expected="the files that it records",
                    got="; ".join(damage[:5]).replace(str(temporary), str(folder)),
                    remedy="look at the run with segal validate",
                )
            )
        return Backup(
            len(listed) + 1,
            sum(p.stat().st_size for p in temporary.rglob("*") if p.is_file()),
        )


def _copy_ledger(folder: Path, target: Path) -> None:
    """The database as it is between two transactions."""
    with Ledger.read(folder):  # says what is wrong with it
        pass
    source = connect(folder / LEDGER_FILE, read_only=True)
    try:
        with explained(folder / LEDGER_FILE):
            copy = sqlite3.connect(target)
            try:
                source.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
            finally:
                copy.close()
    finally:
        source.close()
