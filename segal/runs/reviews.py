"""Picks that people took back before anybody labelled them, why, and what took their place."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from segal.candidates.regions import Box, RegionSize
from segal.runs.ledger import Ledger, Purchase
from segal.runs.run_folder import now

_FIRST_VERSION = 6


@dataclass(frozen=True)
class Skip:
    """A pick that was skipped.

    Attributes:
        image: Path of the image.
        box: The region.
        phase: Name of the stage that had bought it.
        round: Of that stage.
        strategy: What had picked it.
        pixels: What it would have cost.
        score: The value that decided the pick.
        reason: Why.
        booked: When (UTC, ISO 8601); set by `book_review`.
    """

    image: str
    box: Box
    phase: str
    round: int
    strategy: str
    pixels: int
    score: float
    reason: str
    booked: str = ""


def skips_of(ledger: Ledger) -> list[Skip]:
    """All picks that were skipped, in the order in which they were."""
    if ledger.version < _FIRST_VERSION:
        return []
    rows = ledger.rows(
        "SELECT path, x0, y0, x1, y1, name, round, strategy, pixels, score, reason, booked "
        "FROM skips JOIN images ON image = images.id JOIN phases ON phase = phases.id "
        "ORDER BY skips.rowid"
    )
    return [Skip(path, (x0, y0, x1, y1), *rest) for path, x0, y0, x1, y1, *rest in rows]


def withheld(
    skips: Iterable[Skip], sizes: Mapping[str, tuple[int, int]], region: RegionSize
) -> dict[str, tuple[Box, ...]]:
    """What is never offered again, by image: every region of a grid that a skipped one touches.

    Args:
        skips: What was skipped, which may be of another grid.
        sizes: (height, width) of the images.
        region: Size of the grid's regions.
    """
    boxes: dict[str, dict[Box, None]] = {}
    for one in (skip for skip in skips if skip.image in sizes):
        x0, y0, x1, y1 = one.box
        grid = region.grid(*sizes[one.image])
        rows = [(top, bottom) for top, bottom in grid.rows if top < y1 and bottom > y0]
        columns = [(left, right) for left, right in grid.columns if left < x1 and right > x0]
        found = boxes.setdefault(one.image, {})
        found |= {(x, y, right, bottom): None for y, bottom in rows for x, right in columns}
    return {image: tuple(found) for image, found in boxes.items()}


def book_review(
    ledger: Ledger,
    phase: str,
    round: int,
    order: Sequence[Purchase],
    reasons: Mapping[tuple[str, Box], str],
) -> None:
    """Books a review of what a stage has bought, in one transaction.

    Args:
        ledger: Of the run.
        phase: Name of the stage.
        round: Of it.
        order: All that it has bought now, in order: what it had bought but for what is skipped, and
            what took its place. Ranks become 1 to n.
        reasons: Why picks are skipped, by image and box; no label of them has come back.
    """
    there = {(p.image, p.box): p.rank for p in ledger.purchases(phase, round)}
    new = [p for p in order if (p.image, p.box) not in there]
    ranks = {(p.image, p.box): rank for rank, p in enumerate(order, 1)}
    aside = max(there.values()) + len(order)  # no rank is there twice at any moment
    with ledger.writing() as database:
        # Answers and corrections hang on ranks, which move together with them.
        database.execute("PRAGMA defer_foreign_keys = ON")
        key = database.execute(
            "SELECT id FROM phases WHERE name = ? AND round = ?", (phase, round)
        ).fetchone()[0]
        # Files that say what was bought are stale from here on, also if nothing more is done.
        database.execute(
            "UPDATE artefacts SET sha256 = '' WHERE phase IN "
            "(SELECT id FROM phases WHERE round = ? AND name IN ('select', 'inspect'))",
            (round,),
        )
        for region, reason in reasons.items():
            database.execute(
                "INSERT INTO skips SELECT phase, strategy, image, x0, y0, x1, y1, pixels, score, "
                "?, ? FROM purchases WHERE phase = ? AND rank = ?",
                (reason, now(), key, there[region]),
            )
            database.execute(
                "DELETE FROM purchases WHERE phase = ? AND rank = ?", (key, there[region])
            )
        moves = [
            (ranks[region], key, aside + rank) for region, rank in there.items() if region in ranks
        ]
        for table in ("purchases", "returns", "corrections"):
            database.execute(f"UPDATE {table} SET rank = rank + ? WHERE phase = ?", (aside, key))
            database.executemany(f"UPDATE {table} SET rank = ? WHERE phase = ? AND rank = ?", moves)
        database.executemany(
            "INSERT INTO purchases SELECT ?, ?, ?, id, ?, ?, ?, ?, ?, ?, NULL, NULL FROM images "
            "WHERE path = ?",
            (
                (
                    *(key, ranks[p.image, p.box], p.strategy, *map(int, p.box)),
                    *(p.pixels, float(p.score), p.image),
                )
                for p in new
            ),
        )
