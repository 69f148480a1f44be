"""The table of a ledger that holds how the pool has changed."""

import sqlite3
from collections.abc import Iterable
from typing import Any

from segal.runs.pool_log import Kind, PoolChange, PoolLog
from segal.runs.run_folder import RunFolder, now

_SINCE = 7
"""The version of the form that ledgers have had it from."""


def pool_log_of(ledger: RunFolder) -> PoolLog:
    """All changes that are booked; none in a ledger of before there were any."""
    if ledger.version < _SINCE:
        return PoolLog()
    rows = ledger.rows(
        "SELECT kind, image, digest, step, x0, y0, x1, y1, pixels, file, reason, made "
        "FROM pool_changes ORDER BY id"
    )
    return PoolLog(tuple(_change(*row) for row in rows))


def put_changes(database: sqlite3.Connection, changes: Iterable[PoolChange]) -> None:
    """Books changes, within a transaction."""
    database.executemany(
        "INSERT INTO pool_changes (kind, image, digest, step, x0, y0, x1, y1, pixels, "
        "file, reason, made) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                *(one.kind, one.image, one.digest, one.step),
                *(one.box or (None,) * 4),
                *(one.pixels, one.file, one.reason, now()),
            )
            for one in changes
        ),
    )


def _change(kind: Kind, image: str, digest: str, step: int, *rest: Any) -> PoolChange:
    *corners, pixels, file, reason, made = rest
    box = None if corners[0] is None else (corners[0], corners[1], corners[2], corners[3])
    return PoolChange(kind, image, digest, step, box, pixels, file, reason, made)
