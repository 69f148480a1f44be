"""Which stages of a run are done, and the files that each has left.

A stage first puts its files in place; its row, with their bytes and digests, comes after.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from segal.runs.pool_rows import pool_log_of
from segal.runs.run_folder import RunFolder
from segal.runs.tables import SCHEMA, UPGRADES
from segal.runs.texts import BESIDE
from segal.system.files import file_digest

HASHED_BYTES = 64 * 2**20  # larger artefacts are checked by size alone when a run goes on
_PHASES = "SELECT name, round, fingerprint, finished, seconds FROM phases"


@dataclass(frozen=True)
class Phase:
    """A stage that is done.

    Attributes:
        name: Such as `scan`.
        round: From 0.
        fingerprint: Of its configuration and inputs.
        finished: UTC, ISO 8601.
        seconds: How long it took.
    """

    name: str
    round: int
    fingerprint: str
    finished: str
    seconds: float


class Stages(RunFolder):
    """A run folder whose database says which stages are done; the ledger is one."""

    schema: ClassVar[tuple[str, ...]] = SCHEMA
    upgrades: ClassVar[Mapping[int, Sequence[str]]] = UPGRADES
    work: ClassVar[str] = "phases"

    def phases(self) -> list[Phase]:
        """What is done, in the order in which it was first recorded."""
        rows = self.rows(f"{_PHASES} ORDER BY id")
        return [Phase(*row) for row in rows]

    def phase(self, name: str, round: int) -> Phase | None:
        """A stage that is recorded, whatever became of its files; None if it is not."""
        rows = self.rows(f"{_PHASES} WHERE name = ? AND round = ?", [name, round])
        return Phase(*rows[0]) if rows else None

    def artefacts(self, name: str, round: int) -> list[tuple[str, int, str]]:
        """A stage's files as it left them: path within the folder, bytes, sha256; by path."""
        found = self._find(name, round)
        return self._artefacts(found[0]) if found else []

    def digests(self) -> dict[str, str]:
        """sha256 of every recorded file, by path."""
        return dict(self.rows("SELECT path, sha256 FROM artefacts")) | self._handed()

    def files(self, folder: Path | None = None) -> list[str]:
        """All recorded files, by their paths in the folder, and the configuration.

        Args:
            folder: The run folder, where the ledger that is read is a copy of its ledger.
        """
        recorded = {name for (name,) in self.rows("SELECT path FROM artefacts")} | {*self._handed()}
        beside = {name for name in BESIDE if ((folder or self.folder) / name).is_file()}
        return sorted(recorded | beside)

    def damage(self) -> list[str]:
        """What is wrong with recorded files: of all stages, and of what went to people and back."""
        keys = self.rows("SELECT id FROM phases ORDER BY id")
        lines = [line for (key,) in keys for line in self._damage(int(key))]
        handed = self._handed()
        return lines + [line for name in sorted(handed) for line in self._wrong(name, handed[name])]

    def damaged(self) -> list[tuple[str, str, int]]:
        """Recorded files that are missing, or not as they were written: path, stage and round.

        Of what went to people and came back the stage is `handouts` or `returns`.
        """
        rows = self.rows(
            "SELECT path, bytes, sha256, name, round FROM artefacts "
            "JOIN phases ON phase = phases.id ORDER BY phases.id, path"
        )
        found = [
            (path, name, round)
            for path, size, digest, name, round in rows
            if any(self._wrong(path, digest, size))
        ]
        handed = sorted(self._handed().items())
        return found + [
            (path, path.split("/")[0], 0)
            for path, digest in handed
            if any(self._wrong(path, digest))
        ]

    def renew(self, name: str, round: int, file: Path) -> None:
        """Records a file of a stage as it is now: one more, or one that has changed."""
        found = self._find(name, round)
        assert found is not None
        with self.writing() as database:
            database.executemany(
                "REPLACE INTO artefacts VALUES (?, ?, ?, ?)",
                ((found[0], *one) for one in self._measured(file)),
            )

    def forget(self, names: Iterable[str]) -> None:
        """Records files no more, which are lost and are not made again."""
        with self.writing() as database:
            database.executemany("DELETE FROM artefacts WHERE path = ?", ((n,) for n in names))

    def _artefacts(self, key: int) -> list[tuple[str, int, str]]:
        return self.rows(
            "SELECT path, bytes, sha256 FROM artefacts WHERE phase = ? ORDER BY path", [key]
        )

    def _find(self, phase: str, round: int) -> tuple[int, str] | None:
        rows = self.rows(
            "SELECT id, fingerprint FROM phases WHERE name = ? AND round = ?", [phase, round]
        )
        return (int(rows[0][0]), str(rows[0][1])) if rows else None

    def _measured(self, path: Path) -> list[tuple[str, int, str]]:
        """A file, or all files of a folder: path within the run folder, bytes, sha256."""
        found = path.rglob("*") if path.is_dir() else [path]
        files = sorted(file for file in found if not file.is_dir())
        here = self.folder.resolve()
        return [
            (file.resolve().relative_to(here).as_posix(), file.stat().st_size, file_digest(file))
            for file in files
        ]

    def _handed(self) -> dict[str, str]:
        """Digests of what was handed out and came back, by file; not of what is withdrawn."""
        if self.version < 5:
            return {}
        found = dict(self.rows("SELECT file, digest FROM handouts"))
        log = pool_log_of(self)
        rows = self.rows(
            "SELECT file, sha256, path, x0, y0, x1, y1 FROM returns "
            "JOIN purchases USING (phase, rank) JOIN images ON image = images.id"
        )
        return found | {
            file: digest for file, digest, path, *box in rows if log.keeps(path, tuple(box))
        }

    def _damage(self, key: int) -> Iterator[str]:
        for name, size, digest in self._artefacts(key):
            yield from self._wrong(name, digest, size)

    def _wrong(self, name: str, digest: str, size: int | None = None) -> Iterator[str]:
        path = self.folder / name
        found: int | None = None
        with suppress(OSError):
            found = path.stat().st_size
        if found is None:
            yield f"{path} is missing"
        elif found != (found if size is None else size) or (
            found <= HASHED_BYTES and file_digest(path) != digest
        ):
            yield f"{path} is not as it was written"
