"""What annotators gave back: each answer is a file of its own, and a row of the ledger.

Nothing is ever written over: an answer that takes the place of another is its next version. The
first annotator of a region whose answer is booked gives its label; what others say of it is there
to compare.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segal.annotation.handout import Handout, task_key
from segal.annotation.manifest import manifest_text, read_manifest_text
from segal.annotation.questions import QUESTIONS
from segal.candidates.regions import Box
from segal.errors import SegalError
from segal.runs.ledger import GROWS, Ledger
from segal.runs.run_folder import fingerprint, now
from segal.runs.texts import keep_text
from segal.system.files import read_error, write_bytes

RETURNS_FOLDER, HANDOUTS_FOLDER = "returns", "handouts"
_FIRST_VERSION = 5


@dataclass(frozen=True)
class Return:
    """An answer that is booked.

    Attributes:
        image: Path of the image.
        box: The region.
        round: When the region was bought.
        annotator: Who; may be empty.
        version: From 1; a later one takes the place of an earlier one.
        label: Digest of what it says, as `segal.functional.labels.region_digest` has it.
        file: Path in the run folder.
        sha256: Of the file.
        seconds: Time spent; None where that is not known.
        source: Where it was read.
        counts: What was found, as `segal.annotation.questions.base.COUNTED` names it.
        booked: When (UTC, ISO 8601); set by `book`.
    """

    image: str
    box: Box
    round: int
    annotator: str
    version: int
    label: str
    file: str
    sha256: str
    seconds: float | None
    source: str
    counts: Mapping[str, int] = field(default_factory=dict)
    booked: str = ""


def run_key(ledger: Ledger) -> str:
    """What tasks of a run are known by; those of the same run elsewhere are the same."""
    settled = {k: v for k, v in ledger.configuration.items() if k not in GROWS}
    return fingerprint([ledger.command, settled])[:16]


def returns_of(ledger: Ledger, *, withdrawn: bool = False) -> list[Return]:
    """All answers, older versions too, in the order in which they were booked.

    Args:
        ledger: Of the run.
        withdrawn: Whether to give also what is booked of regions that were withdrawn since, whose
            files are removed.
    """
    if ledger.version < _FIRST_VERSION:
        return []
    log = ledger.pool_log
    rows = ledger.rows(
        "SELECT path, x0, y0, x1, y1, round, annotator, version, returns.label, file, sha256, "
        "returns.seconds, source, counts, booked FROM returns JOIN purchases USING (phase, rank) "
        "JOIN images ON image = images.id JOIN phases ON purchases.phase = phases.id "
        "ORDER BY returns.id"
    )
    found = [
        Return(image, (x0, y0, x1, y1), *rest, ledger.mapping(counts), booked)  # type: ignore[call-arg]
        for image, x0, y0, x1, y1, *rest, counts, booked in rows
    ]
    return [one for one in found if withdrawn or log.keeps(one.image, one.box)]


def latest(returns: Sequence[Return]) -> list[Return]:
    """Of each annotator's answers to a region the last version, in the order of the first."""
    found: dict[tuple[str, Box, str], Return] = {}
    for one in returns:
        found[one.image, one.box, one.annotator] = one
    return list(found.values())


def labels_of(returns: Sequence[Return]) -> dict[tuple[str, Box], Return]:
    """The answer that is the label of each region, by image and box."""
    found: dict[tuple[str, Box], Return] = {}
    for one in latest(returns):
        found.setdefault((one.image, one.box), one)
    return found


def hours_of(
    returns: Sequence[Return], regions: Collection[tuple[str, Box]] | None = None
) -> float | None:
    """What annotators took for regions (or all), by their latest answers; None where none tells."""
    kept = [x for x in latest(returns) if regions is None or (x.image, x.box) in regions]
    spent = [one.seconds for one in kept]
    known = [seconds for seconds in spent if seconds is not None]
    return sum(known) / 3600 if known else None


def book(ledger: Ledger, returns: Sequence[Return]) -> None:
    """Books answers whose files are in place, in one transaction.

    Args:
        ledger: Of the run that bought the regions.
        returns: The answers; each of a region that it bought.
    """
    with ledger.writing() as database:
        for one in returns:
            database.execute(
                "INSERT INTO returns (phase, rank, annotator, version, label, file, sha256, "
                "seconds, source, counts, booked) SELECT phase, rank, ?, ?, ?, ?, ?, ?, ?, ?, ? "
                "FROM purchases JOIN images ON image = images.id "
                "WHERE path = ? AND x0 = ? AND y0 = ? AND x1 = ? AND y1 = ?",
                (
                    *(one.annotator, one.version, one.label, one.file, one.sha256, one.seconds),
                    *(one.source, json.dumps(one.counts), now(), one.image, *map(int, one.box)),
                ),
            )


def return_file(run: str, image: str, box: Box, number: int, suffix: str) -> str:
    """Where the answer of a task goes, in the run folder.

    Args:
        run: As `run_key` gives it.
        image: Path of the image.
        box: The region.
        number: Of the answers to the region, from 1.
        suffix: Of the file.
    """
    return f"{RETURNS_FOLDER}/{task_key(run, image, box)}/{number:04d}{suffix}"


def write_return(folder: Path, file: str, data: bytes) -> str:
    """Puts an answer in its place.

    Returns:
        The sha256 of its bytes.

    Raises:
        SegalError: If it cannot be written.
    """
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / file, data)
    return hashlib.sha256(data).hexdigest()


def read_return(folder: Path, one: Return, question: str) -> Any:
    """The label of a region, as an annotator gave it.

    Args:
        folder: Of the run.
        one: What is booked of it.
        question: The name of the task.

    Raises:
        SegalError: If its file is missing, or not as it was booked.
    """
    path = folder / one.file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise read_error(path, error, "the answer of an annotator, as it was imported") from error
    problem = SegalError(
        f"{path}: not as it was booked",
        expected=f"the answer of {one.annotator or 'an annotator'} to {one.image} at "
        f"{list(one.box)}, sha256 {one.sha256[:12]}",
        got="other bytes",
        remedy=f"put the file back from a backup, or import {one.source} again",
    )
    if hashlib.sha256(data).hexdigest() != one.sha256:
        raise problem
    try:
        return QUESTIONS[question].decode(data, one.box)
    except (ValueError, KeyError, TypeError) as error:
        raise problem from error


def book_handout(ledger: Ledger, handout: Handout) -> str:
    """Keeps what was handed out with the run, so that answers can be read.

    Returns:
        The path of its manifest in the run folder.

    Raises:
        SegalError: If it cannot be written.
    """
    text = manifest_text(handout)
    digest = hashlib.sha256(text.encode()).hexdigest()
    file = f"{HANDOUTS_FOLDER}/{digest[:16]}.json"
    (ledger.folder / HANDOUTS_FOLDER).mkdir(exist_ok=True)
    write_bytes(ledger.folder / file, text.encode())
    with ledger.writing() as database:
        database.execute(
            "INSERT INTO handouts (digest, kind, file, made) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (digest) DO UPDATE SET made = excluded.made",
            (digest, handout.kind, file, now()),
        )
    keep_text(ledger, file)
    return file


def handouts_of(ledger: Ledger, kind: str | None = None) -> list[Handout]:
    """What was handed out, the latest last.

    Args:
        ledger: Of the run.
        kind: Of this format only.

    Raises:
        SegalError: If a manifest is missing, or not as it was written.
    """
    if ledger.version < _FIRST_VERSION:
        return []
    rows = ledger.rows(
        "SELECT file, digest FROM handouts WHERE :kind IS NULL OR kind = :kind ORDER BY made, id",
        {"kind": kind},
    )
    found = []
    for file, digest in rows:
        path = ledger.folder / file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise read_error(path, error, "what was handed out, as it was written") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise SegalError(
                f"{path}: not as it was written",
                expected=f"sha256 {digest[:12]}",
                got="other bytes",
                remedy="put it back from a backup, or export again",
            )
        found.append(read_manifest_text(data.decode(), str(path)))
    return found


def classes_of(ledger: Ledger) -> tuple[str, ...]:
    """The classes that the latest handout has asked for, by name."""
    last = handouts_of(ledger)[-1]
    return last.classes[: -1 if last.void else None]
