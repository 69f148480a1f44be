"""A run's folder: it belongs to one run, and one process at a time works in it."""

import hashlib
import json
import os
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from segal.data.changes import Changes
from segal.errors import SegalError
from segal.runs.database import LOCK_FILE, connect, damaged, explained, lock, transaction
from segal.system.files import write_error

LEDGER_FILE = "ledger.sqlite"
_APPLICATION, _VERSION = 0x5E6A1000, 7  # marks the file as segal's; the version of its tables
_META = "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)"
INPUTS_TABLE = """CREATE TABLE inputs (
        kind TEXT NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (kind, name))"""
_COLUMNS = """SELECT tables.name, columns.name, columns.type
    FROM sqlite_master AS tables, pragma_table_info(tables.name) AS columns"""
_PATHS = {"path", "file"}  # columns that hold names of files, which have no NUL
_FILES_OF_SQLITE = {LEDGER_FILE + suffix for suffix in ("", "-wal", "-shm", "-journal")}
_SHOWN_CHARACTERS = 100

Inputs = Mapping[str, Mapping[str, str]]
"""Digests by name of what a run reads, by kind, such as `labels of validation`."""


def canonical(value: object) -> str:
    """A value as JSON, in the one form that fingerprints are taken of.

    Raises:
        ValueError: For NaN or infinity, which JSON does not have.
    """
    return json.dumps(
        value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )


def fingerprint(value: object) -> str:
    """sha256 of a value's canonical JSON, in hexadecimal digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def goes_on(
    there: Mapping[str, object], here: Mapping[str, object], grows: Collection[str]
) -> bool:
    """Whether a configuration is another one, but for lists that go on from what they were.

    Args:
        there: The other.
        here: It.
        grows: Keys of such lists.

    Examples:
        >>> goes_on({"budgets": ["5%"]}, {"budgets": ["5%", "10%"]}, ["budgets"])
        True
        >>> goes_on({"budgets": ["5%"]}, {"budgets": ["10%"]}, ["budgets"])
        False
    """
    for key in there.keys() | here.keys():
        old, new = there.get(key), here.get(key)
        if key in grows and isinstance(old, list) and isinstance(new, list):
            new = new[: len(old)]
        if (key in there) != (key in here) or canonical(old) != canonical(new):
            return False
    return True


class RunFolder:
    """A run folder and its database; made by `open` or `read`, closed as a context manager.

    Attributes:
        folder: The run folder.
        command: The command that the folder belongs to.
        configuration: What it was configured with.
        schema: Statements that make the tables, beside the one for what the folder belongs to.
        upgrades: By version, the statements that bring its tables to the next one.
        work: The table with a row for whatever is done; until there is one, the folder may be
            opened with another configuration.
    """

    schema: ClassVar[tuple[str, ...]] = ()
    upgrades: ClassVar[Mapping[int, Sequence[str]]] = {}
    work: ClassVar[str] = "meta"

    def __init__(self, folder: Path, database: sqlite3.Connection, descriptor: int | None) -> None:
        self.folder, self.path = folder, folder / LEDGER_FILE
        self._database, self._lock = database, descriptor

    @classmethod
    def open(
        cls,
        folder: Path,
        command: str,
        configuration: Mapping[str, object],
        *,
        grows: Collection[str] = (),
        inputs: Inputs | None = None,
    ) -> Self:
        """Opens a run folder for this process alone; makes it where there is none.

        Args:
            folder: The run folder: not there yet, empty, or of the same run.
            command: The command that runs.
            configuration: All that its result depends on, of what JSON can hold.
            grows: Keys of the configuration whose lists may go on from what they were.
            inputs: What is read beside; the folder keeps the digests, to name what changed.

        Raises:
            SegalError: If the folder holds another run or something else, another process is at
                work in it, the disk is full or read-only, or the database is damaged or newer.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            others = {p.name for p in folder.iterdir()} - {LOCK_FILE}
        except OSError as error:
            raise write_error(folder, error) from error
        if LEDGER_FILE not in others and others - _FILES_OF_SQLITE:
            raise SegalError(
                f"{folder}: not a run folder of segal, and not empty",
                expected="a folder that is not there yet, that is empty, or that segal made",
                got=f"a folder that holds {', '.join(repr(n) for n in sorted(others)[:3])}",
                remedy="choose another folder with --out",
            )
        descriptor = lock(folder)
        try:
            opened = cls(folder, connect(folder / LEDGER_FILE), descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        try:
            files = {name for name in others - _FILES_OF_SQLITE if not name.startswith(".")}
            opened._begin(command, configuration, not files, grows, inputs or {})
        except BaseException:
            opened.close()
            raise
        return opened

    @classmethod
    def reopen(cls, folder: Path) -> Self:
        """Opens a run folder for this process alone, as it is, whatever it was configured with.

        Raises:
            SegalError: As `read` and `open` do.
        """
        with cls.read(folder) as there:
            command, configuration = there.command, there.configuration
        return cls.open(folder, command, configuration)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Opens a run folder's ledger to look at; it may be at work, and nothing is written.

        Raises:
            SegalError: If there is no ledger, or it is damaged or newer.
        """
        path = folder / LEDGER_FILE
        if not path.is_file():
            raise SegalError(
                f"{folder}: not a run folder of segal",
                expected=f"a folder with {LEDGER_FILE}",
                got="no such folder" if not folder.exists() else "a folder without it",
                remedy="give the folder that was the --out of a command",
            )
        opened = cls(folder, connect(path, read_only=True), None)
        try:
            with explained(path):
                opened._check_version()
                opened._check_tables()
        except BaseException:
            opened.close()
            raise
        return opened

    def close(self) -> None:
        """Closes the database and frees the folder."""
        self._database.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def command(self) -> str:
        """The command that the folder belongs to."""
        return self._meta("command")

    @property
    def configuration(self) -> dict[str, object]:
        """What the run was configured with."""
        return self.mapping(self._meta("configuration"))

    @property
    def version(self) -> int:
        """Of the tables; older ones are brought up to date by `open`, and only read by `read`."""
        return int(self.rows("PRAGMA user_version")[0][0])

    def _meta(self, key: str) -> str:
        rows = self.rows("SELECT value FROM meta WHERE key = ?", [key])
        if not rows:
            raise damaged(self.path, f"no {key} of the run")
        return str(rows[0][0])

    def mapping(self, text: str) -> dict[str, Any]:
        """A mapping that a table holds as JSON.

        Raises:
            SegalError: If it is none any more.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise damaged(self.path, f"{error}, in {text[:_SHOWN_CHARACTERS]!r}") from error
        if not isinstance(value, dict):
            raise damaged(self.path, f"{text[:_SHOWN_CHARACTERS]!r}, which is no mapping")
        return value

    def began_with(self, key: str, value: str) -> str:
        """What a run began with: `value`, unless something is done already and it was another.

        Args:
            key: What it is; the folder keeps it beside what the run was configured with.
            value: What it is now.
        """
        with self.writing() as database:
            begun = database.execute(f"SELECT EXISTS (SELECT * FROM {self.work})").fetchone()[0]
            statement = "INSERT OR IGNORE" if begun else "REPLACE"
            database.execute(f"{statement} INTO meta VALUES (?, ?)", [key, value])
        return self._meta(key)

    def rows(
        self, statement: str, values: Sequence[object] | Mapping[str, object] = ()
    ) -> list[Any]:
        """What a query gives."""
        with explained(self.path):
            return self._database.execute(statement, values).fetchall()

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """A transaction."""
        return transaction(self._database, self.path)

    def _check_version(self) -> None:
        application = self._database.execute("PRAGMA application_id").fetchone()[0]
        if application != _APPLICATION:
            raise SegalError(
                f"{self.path}: not a ledger of segal",
                expected="a database that segal made",
                got="an empty database" if not application else "another program's database",
                remedy="choose another folder with --out",
            )
        if self.version > _VERSION:
            raise SegalError(
                f"{self.path}: made by a newer segal",
                expected=f"a ledger of version {_VERSION}",
                got=f"version {self.version}",
                remedy="upgrade segal (pip install --upgrade segal-regions)",
            )

    def _check_tables(self) -> None:
        """Raises a SegalError for tables that segal never made, or values of other types.

        SQLite checks its pages and the tables' conditions, not names nor the types of values.
        """
        made, columns = _columns_of(self.schema), set(self.rows(_COLUMNS))
        missing = made - columns if self.version == _VERSION else set()
        for table, column, kind in sorted(columns - made or missing):
            raise damaged(self.path, f"tables in which {table}.{column} ({kind}) is not as it was")
        wrong: dict[str, list[str]] = {}
        for table, column, kind in sorted(columns):
            wrong.setdefault(table, []).append(
                f"typeof({column}) NOT IN ('{kind.lower()}', 'null')"
            )
            if column in _PATHS:
                wrong[table].append(f"instr({column}, char(0))")
        tables = (
            f"SELECT '{table}' WHERE EXISTS (SELECT * FROM {table} WHERE {' OR '.join(conditions)})"
            for table, conditions in wrong.items()
        )
        for (table,) in self.rows(" UNION ALL ".join(tables)):
            raise damaged(self.path, f"a value in the table {table} of another type than its own")

    def _begin(
        self,
        command: str,
        configuration: Mapping[str, object],
        is_empty: bool,
        grows: Collection[str],
        inputs: Inputs,
    ) -> None:
        text = canonical(configuration)
        with self.writing() as database:
            tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if is_empty and not tables:  # also after a kill while it was being made
                for statement in (_META, INPUTS_TABLE, *self.schema):
                    database.execute(statement)
                database.execute(f"PRAGMA application_id = {_APPLICATION}")
                database.execute(f"PRAGMA user_version = {_VERSION}")
                rows = {"command": command, "configuration": text, "created": now()}
                database.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
            self._check_version()
            self._check_tables()
            for version in range(self.version, _VERSION):
                for statement in self.upgrades.get(version, ()):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {version + 1}")
            begun = database.execute(f"SELECT EXISTS (SELECT * FROM {self.work})").fetchone()[0]
            # Where nothing is done yet, such as after a mistake, the folder may still change.
            if begun or not is_empty or self.command != command:
                self._check(command, json.loads(text), grows, inputs)
            if (self.command, canonical(self.configuration)) != (command, text):
                rows = {"command": command, "configuration": text}
                database.executemany("REPLACE INTO meta VALUES (?, ?)", rows.items())
            if not begun:
                database.execute("DELETE FROM inputs")
                database.executemany(
                    "INSERT INTO inputs VALUES (?, ?, ?)",
                    ((kind, *item) for kind, found in inputs.items() for item in found.items()),
                )

    def _check(
        self,
        command: str,
        configuration: Mapping[str, object],
        grows: Collection[str],
        inputs: Inputs,
    ) -> None:
        """Raises a SegalError, with all that differs, unless it is the folder's own run."""
        then: dict[str, dict[str, str]] = {}
        for kind, name, digest in self.rows("SELECT kind, name, digest FROM inputs"):
            then.setdefault(kind, {})[name] = digest
        changes = {k: Changes.of(then[k], now) for k, now in inputs.items() if k in then}
        changed = [f"\n    {kind}: {found}" for kind, found in changes.items() if found]
        if self.command == command and goes_on(self.configuration, configuration, grows):
            if changed:
                raise SegalError(
                    f"{self.folder}: not the files that it began with",
                    expected="the same files to its end",
                    got="files that differ" + "".join(changed),
                    remedy="put them back as they were, or choose another folder with --out",
                )
            return
        there = {"command": self.command, **_flat(self.configuration)}
        here = {"command": command, **_flat(configuration)}
        keys = _differing(there, here)
        differing = [f"\n    {x}" for x in differences(there, here, "in the folder", "now")]
        lists = " and ".join(key for key in grows if key in keys)
        raise SegalError(
            f"{self.folder}: holds another run",
            expected=f"the configuration of this command, fingerprint {fingerprint(here)[:12]}",
            got=f"fingerprint {fingerprint(there)[:12]}, which differs in"
            + "".join(differing + changed),
            remedy="choose another folder with --out, or remove this one"
            + (f"; {lists} may go on here from those in the folder" if lists else ""),
        )


@cache
def _columns_of(schema: Sequence[str]) -> frozenset[tuple[str, str, str]]:
    """The columns of new tables: table, name and type."""
    with closing(sqlite3.connect(":memory:")) as database:
        for statement in (_META, INPUTS_TABLE, *schema):
            database.execute(statement)
        return frozenset(database.execute(_COLUMNS))


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def differences(
    there: Mapping[str, object], here: Mapping[str, object], where: str, now: str
) -> list[str]:
    """What of two configurations differs, a line for each key.

    Args:
        there: One of them.
        here: The other.
        where: Where the first one is, behind its value.
        now: Likewise of the other.

    Examples:
        >>> differences({"lr": {"first": 1}}, {"lr": {"first": 2}}, "there", "here")
        ['lr.first: 1 there, 2 here']
    """
    old, new = _flat(there), _flat(here)
    return [
        f"{key}: {_shown(old, key)} {where}, {_shown(new, key)} {now}"
        for key in _differing(old, new)
    ]


def _differing(there: Mapping[str, object], here: Mapping[str, object]) -> list[str]:
    """Keys, sorted, whose values are not the same in both, or there in one alone."""
    return [
        key
        for key in sorted(there.keys() | here.keys())
        if key not in there or key not in here or canonical(there[key]) != canonical(here[key])
    ]


def _flat(value: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, object] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            flat |= _flat(inner, f"{prefix}{key}.")
        else:
            flat[prefix + str(key)] = inner
    return flat


def _shown(values: Mapping[str, object], key: str) -> str:
    if key not in values:
        return "not set"
    text = "set" if values[key] == {} else canonical(values[key])
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
