"""Small files of a run of which the ledger keeps copies, so that they can be made again."""

import hashlib
import sqlite3
import zlib
from collections.abc import Iterable
from pathlib import Path

from segal.runs.run_folder import RunFolder
from segal.system.files import remove

BESIDE = ("config.yaml", "summary.json")
"""Files of a run that no stage records."""
TEXT_BYTES = 2**20
"""Larger ones are not kept."""
_SUFFIXES = {".json", ".yaml"}
_SINCE = 7
"""The version of the form that ledgers have had them from."""


def put_texts(database: sqlite3.Connection, folder: Path, names: Iterable[str]) -> None:
    """Keeps those of some files that are texts, within a transaction."""
    for name in names:
        if Path(name).suffix in _SUFFIXES:
            data = (folder / name).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            values = name, digest, zlib.compress(data)
            database.execute("REPLACE INTO texts VALUES (?, ?, ?)", values)


def keep_text(ledger: RunFolder, name: str) -> None:
    """Keeps a file that is written, though no stage records it."""
    with ledger.writing() as database:
        put_texts(database, ledger.folder, [name])


def drop_text(ledger: RunFolder, name: str) -> None:
    """Removes such a file, which says what is not true any more."""
    remove(ledger.folder / name)
    with ledger.writing() as database:
        database.execute("DELETE FROM texts WHERE path = ?", [name])


def text_of(ledger: RunFolder, name: str, sha256: str | None = None) -> bytes | None:
    """A small file as it was written; None where the ledger has it not, or not that one."""
    if ledger.version < _SINCE:
        return None
    rows = ledger.rows("SELECT sha256, data FROM texts WHERE path = ?", [name])
    if not rows or sha256 not in (None, rows[0][0]):
        return None
    try:
        data = zlib.decompress(rows[0][1])
    except zlib.error:
        return None
    return data if hashlib.sha256(data).hexdigest() == rows[0][0] else None


def texts_beside(ledger: RunFolder) -> list[str]:
    """Those files that no stage records, and the ledger has."""
    if ledger.version < _SINCE:
        return []
    there = {name for (name,) in ledger.rows("SELECT path FROM texts")}
    recorded = {name for (name,) in ledger.rows("SELECT path FROM artefacts")}
    return [name for name in BESIDE if name in there - recorded]
