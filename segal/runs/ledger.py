"""The ledger: what was bought, when, by which strategy and at what cost, and which stages are done.

One SQLite file in the run folder is the only source of truth. A stage first puts its files in
place and then adds its row, so that a run killed at any moment goes on from whole stages.
"""

import sqlite3
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from segal.candidates.regions import Box
from segal.data.changes import Changes
from segal.data.exclusion import Excluded, excluded_pixels
from segal.data.images import ImageInfo
from segal.data.pool import ImagePool
from segal.errors import SegalError
from segal.functional.coverage import remaining_pixels
from segal.runs.pool_log import PoolChange, PoolLog
from segal.runs.pool_rows import pool_log_of, put_changes
from segal.runs.run_folder import now
from segal.runs.stages import Stages
from segal.runs.texts import TEXT_BYTES, put_texts
from segal.system.files import write_error

SCANS = ("scan-", "seed-scan-")
"""How the names begin of stages that measure the pool."""
SEED_SELECT = "seed-select"
"""The stage by which a strategy chooses a seed set, which the stage `seed` buys."""
BUYING = {"select": ("select",), "run": ("seed", "buy")}
"""Stages by which regions are bought and charged, by command."""
GROWS = ("budgets",)
"""Keys of a run's configuration whose lists may go on from what they were."""
_ANY = ""
"""The fingerprint of a stage that stays as it is after the next change of what came before."""


@dataclass(frozen=True)
class Purchase:
    """A region to buy, or one that was bought.

    Attributes:
        rank: Position in its selection's pick order, from 1.
        strategy: What picked it.
        image: Path relative to the pool's root.
        box: Half-open (x0, y0, x1, y1) in pixels of the original image.
        score: The value that decided the pick; finite.
        pixels: What it was charged: its pixels that were not bought before. Set by the ledger.
        round: When it was bought. Set by the ledger.
        clicks: What it cost in polygon clicks (see `segal.functional.clicks`); None where
            that is not known, such as where people label.
        label: Digest of what its label says (see `segal.functional.labels.region_digest`), as it is
            trained on; None where that is not known.
    """

    rank: int
    strategy: str
    image: str
    box: Box
    score: float
    pixels: int | None = None
    round: int | None = None
    clicks: int | None = None
    label: str | None = None

    @property
    def _wanted(self) -> tuple[object, ...]:
        return self.rank, self.strategy, self.image, self.box, self.score


@dataclass(frozen=True)
class Cost:
    """What was spent.

    Attributes:
        regions: Number of purchases.
        pixels: Pixels charged; none is charged twice.
        images: The same in image equivalents: multiples of the mean image of the pool.
        clicks: Polygon clicks; None if those of any purchase are not known.
    """

    regions: int
    pixels: int
    images: float
    clicks: int | None


class Ledger(Stages):
    """A run folder's ledger; made by `open` or `read`, and closed as a context manager."""

    _excluded: Excluded = MappingProxyType({})

    @property
    def leads(self) -> bool:
        """Whether this process writes; see `segal.runs.following`."""
        return True

    def alone(self, work: Callable[[], None]) -> None:
        """Does what one process has to do for all that work at this run."""
        work()

    def known_images(self) -> dict[str, tuple[int, int, ImageInfo]]:
        """By path: bytes, modification time in nanoseconds, and what was read of the image."""
        sides, tables = "images.height, images.width", "images"
        if self.version > 2:
            sides = "coalesce(shapes.height, images.height), coalesce(shapes.width, images.width)"
            tables = "images LEFT JOIN shapes ON image = images.id"
        rows = self.rows(f"SELECT path, bytes, mtime_ns, {sides}, digest FROM {tables}")
        return {path: (size, mtime, ImageInfo(*info)) for path, size, mtime, *info in rows}

    def extent(self) -> tuple[int, int]:
        """What there is to buy: elements (pixels, where these are bought), and images."""
        rows = self.rows("SELECT coalesce(sum(height * width), 0), count(*) FROM images")
        elements, images = rows[0]
        if self.version > 3:
            elements -= self.rows("SELECT coalesce(sum(pixels), 0) FROM excluded")[0][0]
        return elements, images

    def excluded_images(self) -> set[str]:
        """Images of which something is never annotated."""
        if self.version < 4:
            return set()
        rows = self.rows("SELECT path FROM excluded JOIN images ON image = images.id")
        return {path for (path,) in rows}

    @property
    def pool_log(self) -> PoolLog:
        """How the pool has changed since the run began."""
        return pool_log_of(self)

    @property
    def step(self) -> int:
        """How many purchases were made: the number of the next one."""
        buying = BUYING.get(self.command, ())
        return sum(phase.name in buying for phase in self.phases())

    def areas(self, step: int) -> list[int]:
        """Elements that could be annotated of each image that was in the pool for a purchase."""
        log = self.pool_log
        rows = self.rows(
            "SELECT path, height * width - coalesce(pixels, 0) FROM images "
            "LEFT JOIN excluded ON image = images.id ORDER BY path"
        )
        return [area - log.pixels_of(path, step) for path, area in rows if log.is_there(path, step)]

    def change_pool(
        self,
        changes: Sequence[PoolChange],
        pool: ImagePool | None = None,
        *,
        undone: Collection[tuple[str, int]] = (),
        kept: Collection[tuple[str, int]] = (),
        removed: Collection[str] = (),
    ) -> None:
        """Books changes of the pool, in one transaction.

        Args:
            changes: They.
            pool: Images that are added.
            undone: Name and round of stages that are to be done again; they have bought nothing.
            kept: Of those that stay done, whatever comes before them now.
            removed: Recorded files that will be removed, and are recorded no more.
        """
        with self.writing() as database:
            if pool is not None:
                self._put_images(database, pool)
            put_changes(database, changes)
            self._undo(database, undone, kept)
            database.executemany(
                "DELETE FROM artefacts WHERE path = ?", ((name,) for name in removed)
            )

    def record_images(self, pool: ImagePool, excluded: Excluded | None = None) -> None:
        """Makes the table of images that of the pool; it stays that once a stage is done.

        Images that are withdrawn stay in it.

        Args:
            pool: The images.
            excluded: What of them is never annotated, and never charged by this ledger.

        Raises:
            SegalError: If a stage is done, and the images are not those that it was done with.
        """
        digests = {path: info.digest for path, info in zip(pool.paths, pool.infos, strict=True)}
        gone = self.pool_log.gone
        then = {p: info.digest for p, (*_, info) in self.known_images().items() if p not in gone}
        changes = Changes.of(then, digests)
        if changes and self.phases():
            stays = (
                f", and give --labelled {self.folder} there, so that what it bought stays bought"
            )
            told = f"segal pool withdraw or move {self.folder}"
            if self.command == "run":
                told = f"segal pool add, withdraw or move {self.folder}"
            raise SegalError(
                f"{pool.root}: not the images that {self.folder} began with",
                expected=f"the same {len(then)} images to its end",
                got=f"{len(digests)} images: {changes}",
                remedy=f"put the images back as they were; or tell the run of it: {told}; or "
                "choose another folder with --out"
                + (stays if self.command == "select" and self.bought() else ""),
            )
        with self.writing() as database:
            database.execute(
                "DELETE FROM images WHERE id NOT IN "
                "(SELECT image FROM purchases UNION SELECT image FROM skips) "
                "AND path NOT IN (SELECT image FROM pool_changes WHERE kind = 'withdraw')"
            )
            self._put_images(database, pool)
            self._excluded = excluded or {}
            database.execute(
                "DELETE FROM excluded WHERE image NOT IN (SELECT images.id FROM images "
                "JOIN pool_changes ON image = path WHERE kind = 'withdraw' AND x0 IS NULL)"
            )
            database.executemany(
                "INSERT INTO excluded SELECT id, ? FROM images WHERE path = ?",
                ((excluded_pixels(boxes), path) for path, boxes in self._excluded.items()),
            )

    def _put_images(self, database: sqlite3.Connection, pool: ImagePool) -> None:
        database.executemany(
            """INSERT INTO images (path, height, width, digest, bytes, mtime_ns)
            VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET
            bytes = excluded.bytes, mtime_ns = excluded.mtime_ns""",
            (
                (path, *pool.size(i), info.digest, *stat)
                for i, (path, info, stat) in enumerate(
                    zip(pool.paths, pool.infos, pool.stats, strict=True)
                )
            ),
        )
        database.executemany(
            "REPLACE INTO shapes SELECT id, ?, ? FROM images WHERE path = ?",
            (
                (*pool.shape(i), path)
                for i, path in enumerate(pool.paths)
                if pool.shape(i) != pool.size(i)
            ),
        )

    def finished(self, phase: str, round: int, fingerprint: str) -> bool:
        """Whether a stage is done and its files are there as it left them.

        One that `correct` kept takes the fingerprint that is asked for.

        A missing or damaged file is warned of, and the stage is to be done again. What it bought
        stays bought: take it from `purchases`, and write the files from that.

        Raises:
            SegalError: If it was done with another fingerprint.
        """
        found = self._find(phase, round)
        if found is None:
            return False
        if found[1] == _ANY:
            with self.writing() as database:
                database.execute(
                    "UPDATE phases SET fingerprint = ? WHERE id = ?", (fingerprint, found[0])
                )
        else:
            self._check_fingerprint(phase, round, found[1], fingerprint)
        damage = list(self._damage(found[0]))
        if damage:
            more = f" and {len(damage) - 1} more" if len(damage) > 1 else ""
            warnings.warn(
                f"{damage[0]}{more}: {phase} of round {round} is done again", stacklevel=2
            )
        return not damage

    def finish(
        self,
        phase: str,
        round: int,
        fingerprint: str,
        artefacts: Sequence[Path] = (),
        *,
        seconds: float = 0.0,
        purchases: Sequence[Purchase] = (),
    ) -> list[Purchase]:
        """Records a stage whose files are in place, and what it bought, in one transaction.

        A purchase that overlaps what is bought is charged the rest only. Recording a stage again
        renews its files; what it bought must be the same, or left out. Clicks that are booked
        stay, and those that were not known are filled in.

        Args:
            phase: Name of the stage.
            round: From 0.
            fingerprint: Of its configuration and inputs.
            artefacts: Files, or folders with all their files, within the run folder.
            seconds: How long it took.
            purchases: In pick order.

        Returns:
            What the stage bought, as charged.

        Raises:
            SegalError: If the stage is recorded with another fingerprint, an image is not
                recorded, a box leaves its image, or nothing of it is left to buy; if the disk is
                full or a file is missing.
            ValueError: If a recorded stage would buy something else, or a path leaves the folder.
        """
        try:
            files = [file for path in artefacts for file in self._measured(path)]
        except OSError as error:
            raise write_error(Path(error.filename or self.folder), error) from error
        with self.writing() as database:
            row = self._find(phase, round)
            if row is None:
                cursor = database.execute(
                    "INSERT INTO phases (name, round, fingerprint, finished, seconds) "
                    "VALUES (?, ?, ?, ?, ?)",
                    (phase, round, fingerprint, now(), seconds),
                )
                key = int(cursor.lastrowid or 0)
                self._buy(key, purchases)
            else:
                key = row[0]
                self._check_fingerprint(phase, round, row[1], fingerprint)
                bought = [p._wanted for p in self.purchases(phase, round)]
                if purchases and sorted(bought) != sorted(p._wanted for p in purchases):
                    raise ValueError(f"{phase} of round {round} has bought something else already")
                database.executemany(
                    "UPDATE purchases SET clicks = coalesce(clicks, ?) "
                    "WHERE phase = ? AND rank = ?",
                    ((_whole(p.clicks), key, int(p.rank)) for p in purchases),
                )
                database.execute(
                    "UPDATE phases SET finished = ?, seconds = ? WHERE id = ?",
                    (now(), seconds, key),
                )
                database.execute("DELETE FROM artefacts WHERE phase = ?", (key,))
            database.executemany(
                "INSERT INTO artefacts VALUES (?, ?, ?, ?)", ((key, *file) for file in files)
            )
            if not phase.startswith(SCANS):
                small = [name for name, size, _ in files if size <= TEXT_BYTES]
                put_texts(database, self.folder, small)
        return self.purchases(phase, round)

    def _check_fingerprint(self, phase: str, round: int, there: str, now: str) -> None:
        if there != now:
            raise SegalError(
                f"{self.folder}: {phase} of round {round} was done with other inputs or settings",
                expected=f"fingerprint {now[:12]}",
                got=f"fingerprint {there[:12]}",
                remedy="put the inputs back as they were; or, if they are, take the versions of "
                "segal and of all code of others that it began with; or choose another folder with "
                "--out",
            )

    def correct(
        self,
        purchases: Sequence[Purchase],
        undone: Collection[tuple[str, int]],
        kept: Collection[tuple[str, int]],
        since: int,
    ) -> None:
        """Books labels that have changed since they were bought, in one transaction.

        Args:
            purchases: As they are recorded, with `label` as it is now.
            undone: Name and round of the stages that were done with the old labels, and are to be
                done again; they have bought nothing.
            kept: Of those that stay done, whatever comes before them now.
            since: The first round that is done again.
        """
        with self.writing() as database:
            for purchase in purchases:
                x0, y0, x1, y1 = purchase.box
                phase, rank = database.execute(
                    "SELECT phase, rank FROM purchases JOIN images ON image = images.id "
                    "WHERE path = ? AND x0 = ? AND y0 = ? AND x1 = ? AND y1 = ?",
                    (purchase.image, x0, y0, x1, y1),
                ).fetchone()
                database.execute(
                    "UPDATE purchases SET label = ? WHERE phase = ? AND rank = ?",
                    (purchase.label, phase, rank),
                )
                if undone:
                    database.execute(
                        "INSERT INTO corrections VALUES (?, ?, ?, ?)", (phase, rank, now(), since)
                    )
            self._undo(database, undone, kept)

    def _undo(
        self,
        database: sqlite3.Connection,
        undone: Collection[tuple[str, int]],
        kept: Collection[tuple[str, int]],
    ) -> None:
        keys = "SELECT id FROM phases WHERE name = ? AND round = ?"
        database.executemany(f"DELETE FROM artefacts WHERE phase = ({keys})", undone)
        database.executemany("DELETE FROM phases WHERE name = ? AND round = ?", undone)
        database.executemany(
            f"UPDATE phases SET fingerprint = '{_ANY}' WHERE name = ? AND round = ?", kept
        )

    def corrections(self) -> list[tuple[str, int, str, Box]]:
        """Labels that changed after they were trained on, in the order in which it was seen.

        Returns:
            Of each when it was seen (UTC, ISO 8601), the first round that was done again, the
            image and the box.
        """
        if self.version < 4:
            return []
        rows = self.rows(
            "SELECT found, since, path, x0, y0, x1, y1 FROM corrections "
            "JOIN purchases USING (phase, rank) JOIN images ON image = images.id "
            "ORDER BY corrections.rowid"
        )
        return [(found, since, path, tuple(box)) for found, since, path, *box in rows]

    def purchases(self, phase: str | None = None, round: int | None = None) -> list[Purchase]:
        """What was bought, by round and rank; of one stage or one round where asked for."""
        rows = self.rows(
            f"SELECT rank, strategy, path, x0, y0, x1, y1, score, pixels, round, {self._clicks()}, "
            f"{'label' if self.version > 3 else 'NULL'} "
            "FROM purchases JOIN images ON image = images.id JOIN phases ON phase = phases.id "
            "WHERE (:phase IS NULL OR name = :phase) AND (:round IS NULL OR round = :round) "
            "ORDER BY round, phase, rank",
            {"phase": phase, "round": round},
        )
        return [
            Purchase(rank, strategy, image, (x0, y0, x1, y1), *rest)
            for rank, strategy, image, x0, y0, x1, y1, *rest in rows
        ]

    def held(self, phase: str | None = None, round: int | None = None) -> list[Purchase]:
        """As `purchases`, without what was withdrawn since."""
        log = self.pool_log
        return [p for p in self.purchases(phase, round) if log.keeps(p.image, p.box)]

    def _clicks(self) -> str:
        """The column of clicks; a ledger that is only read may be of before there was one."""
        return "clicks" if self.version > 1 else "NULL"

    def bought(self, image: str | None = None) -> dict[str, list[Box]]:
        """Boxes that are bought, by image, in the order of purchase; of one image if named."""
        rows = self.rows(
            "SELECT path, x0, y0, x1, y1 FROM purchases JOIN images ON image = images.id "
            "WHERE :image IS NULL OR path = :image ORDER BY purchases.phase, rank",
            {"image": image},
        )
        boxes: dict[str, list[Box]] = {}
        for path, *box in rows:
            boxes.setdefault(path, []).append((box[0], box[1], box[2], box[3]))
        return boxes

    def cost(self, through_round: int | None = None) -> Cost:
        """What was spent, up to and including a round where one is given."""
        regions, pixels, known, clicks = self.rows(
            "SELECT count(*), coalesce(sum(pixels), 0), count(clicks), coalesce(sum(clicks), 0) "
            f"FROM (SELECT pixels, round, {self._clicks()} AS clicks FROM purchases "
            "JOIN phases ON phase = phases.id) WHERE :last IS NULL OR round <= :last",
            {"last": through_round},
        )[0]
        area, images = self.extent()
        images_worth = pixels * images / max(area, 1)
        return Cost(regions, pixels, images_worth, clicks if known == regions else None)

    def _buy(self, key: int, purchases: Sequence[Purchase]) -> None:
        sizes = {
            path: (number, height, width)
            for number, path, height, width in self.rows(
                "SELECT id, path, height, width FROM images"
            )
        }
        known, withdrawn = self.bought(), self.pool_log.boxes
        for purchase in purchases:
            box = _plain(purchase.box)
            x0, y0, x1, y1 = box
            number, height, width = sizes.get(purchase.image, (0, 0, 0))
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                raise SegalError(
                    f"{purchase.image}: no such region can be bought",
                    expected=f"a box within {width} x {height} pixels"
                    if number
                    else "an image of the pool",
                    got=f"box {box}",
                    remedy="select from the images that this run was started with",
                )
            boxes = known.setdefault(purchase.image, [])
            never = *self._excluded.get(purchase.image, ()), *withdrawn.get(purchase.image, ())
            pixels = _price(box, [*boxes, *never])
            if pixels == 0:
                raise SegalError(
                    f"{purchase.image}: box {box} is bought already",
                    expected="a region with pixels that are not bought",
                    got="one without",
                    remedy="leave it out of the selection",
                )
            boxes.append(box)
            self._database.execute(
                "INSERT INTO purchases VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(key, int(purchase.rank), purchase.strategy, number, *box, pixels),
                    *(float(purchase.score), _whole(purchase.clicks), purchase.label),
                ),
            )


def _plain(box: Box) -> Box:
    """The box in Python's integers; SQLite would take NumPy's for bytes."""
    x0, y0, x1, y1 = map(int, box)
    return x0, y0, x1, y1


def _whole(count: int | None) -> int | None:
    return None if count is None else int(count)


def _price(box: Box, bought: Iterable[Box]) -> int:
    x0, y0, x1, y1 = box
    near = [b for b in bought if b[0] < x1 and b[2] > x0 and b[1] < y1 and b[3] > y0]
    return int(remaining_pixels([box], near)[0])
