"""An SQLite file that one process writes, and what to say when that goes wrong."""

import errno
import fcntl
import os
import socket
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from segal.errors import SegalError
from segal.system.files import write_error

LOCK_FILE = ".lock"
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs"}
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_ERRNO = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_IOERR: errno.EIO,
}


def lock(folder: Path) -> int:
    """Takes a folder for this process; a dead process's lock is free by itself.

    Returns:
        The descriptor that holds the lock until it is closed.

    Raises:
        SegalError: If a living process holds it, or the folder cannot be written.
    """
    path = folder / LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise write_error(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    except BlockingIOError as error:
        holder = os.read(descriptor, 300).decode(errors="replace").strip()
        os.close(descriptor)
        raise SegalError(
            f"{folder}: another process is at work in this folder",
            expected="one process at a time",
            got=holder or "a process that did not say its name",
            remedy="wait until it ends, or choose another folder with --out",
        ) from error
    except OSError as error:
        os.close(descriptor)
        raise write_error(path, error) from error
    return descriptor


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Opens a database in autocommit, with foreign keys and full synchronisation.

    Its journal is a write-ahead log, but a plain rollback journal where the folder is on a network
    file system, which has no shared memory. Whoever closes it last puts the log into the database
    and removes it, a reader too if the folder lets it.

    Raises:
        SegalError: If it is damaged, or cannot be read or written.
    """
    mode = "rw" if read_only else "rwc"
    if read_only and not os.access(path.parent, os.W_OK):
        # Without a log nobody writes, and there its shared memory could not be made.
        mode = "ro" if _log(path).exists() else "ro&immutable=1"
    # These statements are right: if SQLite takes one for wrong, the file is.
    with explained(path, damage=(*_DAMAGE, sqlite3.SQLITE_ERROR)):
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=10)
        try:
            database.isolation_level = None
            database.execute("PRAGMA foreign_keys = ON")
            if read_only:
                database.execute("PRAGMA query_only = ON")
            else:
                database.execute("PRAGMA synchronous = FULL")
                _set_journal(database, path.parent)
            check = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if check != "ok":
                raise damaged(path, check)
        except BaseException:
            database.close()
            raise
    return database


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _set_journal(database: sqlite3.Connection, folder: Path) -> None:
    if not on_network(folder):
        mode = database.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode == "wal":
            return
    database.execute("PRAGMA journal_mode = DELETE")


def on_network(folder: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether a folder is on a network file system (FUSE counts as one); False where none tells."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    folder, best, kind = folder.resolve(), Path(), ""
    for line in lines:
        _, point, found, *_ = line.split(" ")
        mount = Path(point.replace("\\040", " "))
        if folder.is_relative_to(mount) and len(mount.parts) >= len(best.parts):
            best, kind = mount, found  # a later mount on the same point hides the earlier
    return kind in _NETWORK or kind.startswith("fuse")


@contextmanager
def transaction(database: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """All of the block's statements, or none of them.

    Raises:
        SegalError: If the disk is full, or the database is damaged or cannot be written.
    """
    with explained(path):
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
            database.execute("COMMIT")
        finally:
            if database.in_transaction:
                database.execute("ROLLBACK")


@contextmanager
def explained(path: Path, damage: Collection[int] = _DAMAGE) -> Iterator[None]:
    """Turns SQLite's errors into ones that say what to do.

    An SQL statement that is wrong is no mistake of a user, and stays what it is.

    Args:
        path: The database.
        damage: The codes of SQLite's errors that say that it is damaged.
    """
    try:
        yield
    except UnicodeDecodeError as error:  # SQLite's own message quotes damaged bytes
        raise damaged(path, str(error)) from error
    except sqlite3.Error as error:
        found = getattr(error, "sqlite_errorcode", None)
        code = (found or 0) & 0xFF
        not_text = found is None and isinstance(error, sqlite3.OperationalError)
        if code in damage or not_text:
            raise damaged(path, str(error)) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise SegalError(
                f"{path}: another program holds this database",
                got=str(error),
                remedy="close that program, then run the command again",
            ) from error
        if code in _ERRNO:
            raise write_error(path, OSError(_ERRNO[code], str(error))) from error
        raise


def damaged(path: Path, what: str) -> SegalError:
    """The error to raise for a database that says what segal never wrote."""
    return SegalError(
        f"{path}: the ledger is damaged",
        expected="an SQLite database as segal wrote it",
        got=what,
        remedy="put a backup of this file in its place, or start again with another --out",
    )
