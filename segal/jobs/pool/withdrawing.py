"""`segal pool withdraw`: takes images, or regions of them, out of a run for good."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segal.annotation.questions import QUESTIONS
from segal.candidates.regions import Box
from segal.candidates.selection import ImageNames, plain_name
from segal.config import RunConfig
from segal.data.feature_store import FeatureStore, is_store
from segal.data.find import shortened
from segal.data.kept import stored_as
from segal.errors import SegalError, raise_all
from segal.functional.coverage import remaining_pixels
from segal.jobs.annotate.source import SELECT, read_source_config
from segal.jobs.exclusions import takes_parts
from segal.jobs.masks import Masks
from segal.jobs.pool.adding import SUMMARY_FILE, open_phases
from segal.jobs.rounds.corrections import first_trained, to_be_done_again
from segal.jobs.strategies import strategy_of
from segal.models.spec import DEFAULT_TASK
from segal.runs.history import COMMAND, round_folder
from segal.runs.ledger import Ledger, Purchase
from segal.runs.pool_log import PoolChange, PoolLog, is_within
from segal.runs.returns import returns_of
from segal.runs.texts import drop_text
from segal.runs.withdrawal import UNFINISHED_FILE, left_behind, recorded_traces, sweep
from segal.system.files import remove

Asked = tuple[str, Box | None]
"""Name of an image, and a box of it; None for all of it."""


@dataclass
class Withdrawal:
    """What is withdrawn, or would be.

    Attributes:
        changes: Of each image.
        regions: What was bought of it: paid for, and never trained on again.
        pixels: What that has cost, which stays booked.
        answers: Answers of annotators to it, which are removed.
        since: The first round whose network is trained again; None where none saw it.
        files: What is removed of the run folder; not what is made again at once without them.
        kept_outputs: Files of the store of frozen layers that are removed; known once they are.
        notes: What the user should know.
    """

    changes: Sequence[PoolChange] = ()
    regions: int = 0
    pixels: int = 0
    answers: int = 0
    since: int | None = None
    files: list[Path] = field(default_factory=list)
    kept_outputs: int = 0
    notes: list[str] = field(default_factory=list)


def withdraw(
    folder: Path, asked: Sequence[Asked], *, reason: str = "", dry_run: bool = False
) -> Withdrawal:
    """Withdraws images from a run: nothing of them is offered or trained on any more.

    What was bought of them stays booked with its cost. The images need not be there any more.

    Args:
        folder: Of a run of `segal run` or `segal select`.
        asked: What is withdrawn. Copies of an image, byte by byte, are withdrawn with it.
        reason: For the ledger.
        dry_run: Only look.

    Raises:
        SegalError: With all that is wrong; nothing is changed then.
    """
    with Ledger.reopen(folder) as ledger:
        if ledger.command not in (SELECT, COMMAND):
            raise SegalError(
                f"{folder}: a run folder of segal {ledger.command}",
                expected="one of segal select or segal run, which have pools",
                got=f"one of segal {ledger.command}",
                remedy="withdraw from the run that the labels are of, then train again in another "
                "folder",
            )
        log = ledger.pool_log
        changes = _changes(ledger, log, asked, reason)
        after = PoolLog((*log.changes, *changes))
        lost = [p for p in ledger.held() if not after.keeps(p.image, p.box)]
        found = Withdrawal(changes, len(lost), sum(p.pixels or 0 for p in lost))
        if len(changes) < len(asked):
            found.notes.append(f"{len(asked) - len(changes)} of these were withdrawn already.")
        answers = [
            one
            for one in returns_of(ledger, withdrawn=True)
            if not after.keeps(one.image, one.box) and (folder / one.file).is_file()
        ]
        phases = {(p.name, p.round) for p in ledger.phases()}
        found.since = _since(ledger, lost, after)
        undone = open_phases(ledger.command, phases) if changes else set()
        if found.since is not None:
            later = {(n, k) for n, k in phases if k >= found.since and n != "seed"}
            undone |= to_be_done_again(later)
        removed = _traces(ledger, changes, lost, undone)
        gone = {folder / name for name in (*removed, *(one.file for one in answers))}
        gone |= {*left_behind(ledger), *_outdated(ledger, found)}
        masks = Masks(ledger, after)  # those of which something is left are only written anew
        found.answers = len(answers)
        found.files = sorted(
            f for f in gone if f.is_file() and not masks.makes(f.relative_to(folder).as_posix())
        )
        if dry_run:
            return found
        _book(ledger, found, undone, phases - undone, removed)
        found.kept_outputs = _forget(ledger, changes)
    return found


def _outdated(ledger: Ledger, found: Withdrawal) -> set[Path]:
    """What no stage records, and is not true any more: the summary, trainings that were stopped."""
    if not found.changes or ledger.command != COMMAND:
        return set()
    rounds = range(found.since, ledger.step + 1) if found.since is not None else ()
    stopped = {round_folder(ledger.folder, number) / UNFINISHED_FILE for number in rounds}
    return {ledger.folder / SUMMARY_FILE, *stopped}


def _book(
    ledger: Ledger,
    found: Withdrawal,
    undone: set[tuple[str, int]],
    kept: set[tuple[str, int]],
    removed: Sequence[str],
) -> None:
    """First the ledger says it, then files go: whenever it is stopped, nothing is offered again."""
    if found.changes:
        if ledger.command == COMMAND:
            drop_text(ledger, SUMMARY_FILE)
        for file in _outdated(ledger, found):
            remove(file)
        ledger.change_pool(found.changes, undone=undone, kept=kept, removed=removed)
    swept = sweep(ledger)
    found.notes += Masks(ledger).repair()
    found.files = sorted(f for f in {*found.files, *swept} if not f.exists())


def _changes(ledger: Ledger, log: PoolLog, asked: Sequence[Asked], reason: str) -> list[PoolChange]:
    """What is new of what is asked for.

    Raises:
        SegalError: With all that is wrong.
    """
    rows = ledger.rows("SELECT path, height, width, digest FROM images")
    sizes = {path: (height, width) for path, height, width, _ in rows}
    digests = {path: digest for path, _, _, digest in rows}
    names = ImageNames(sizes, renamed={file: name for name, file in log.files.items()})
    errors: list[SegalError] = []
    if not asked:
        errors.append(_nothing(ledger))
    wanted: dict[tuple[str, Box | None], None] = {}
    for given, box in asked:
        name = names.find(given)
        if name is None:
            errors.append(_unknown(ledger, given, names))
            continue
        errors += _unfit_box(ledger, name, box, sizes[name])
        copies = [path for path, digest in digests.items() if digest == digests[name]]
        wanted |= dict.fromkeys((path, box) for path in copies)
    raise_all(shortened(errors))
    whole = {name for name, box in wanted if box is None}
    areas = {n: _left(ledger, log, n, sizes[n]) for n, box in wanted if box is not None}
    changes: list[PoolChange] = []
    for name, box in wanted:
        if name in log.gone or (box is not None and (name in whole or not log.keeps(name, box))):
            continue
        pixels = 0
        if box is not None:
            before = [*log.boxes.get(name, ()), *(c.box for c in changes if c.image == name)]
            pixels = int(remaining_pixels([box], [b for b in before if b is not None])[0])
            pixels = min(pixels, areas[name])
        changes.append(
            PoolChange(
                *("withdraw", name, digests[name], ledger.step),
                box=box,
                pixels=pixels,
                reason=reason,
            )
        )
    return changes


def _left(ledger: Ledger, log: PoolLog, name: str, size: tuple[int, int]) -> int:
    """Elements of an image that are neither excluded nor withdrawn."""
    rows = ledger.rows(
        "SELECT pixels FROM excluded JOIN images ON image = images.id WHERE path = ?", [name]
    )
    never = rows[0][0] if rows else 0
    return size[0] * size[1] - int(never) - log.pixels_of(name, ledger.step)


def _nothing(ledger: Ledger) -> SegalError:
    return SegalError(
        f"{ledger.folder}: nothing to withdraw",
        expected="names of images, or a list of them",
        got="none",
        remedy="name images as selection.csv does, or give --list FILE",
    )


def _unknown(ledger: Ledger, name: str, names: ImageNames) -> SegalError:
    return SegalError(
        f"{name}: not in the pool of {ledger.folder}",
        expected="an image of the run, by its path below the folder of images",
        got=repr(plain_name(name)),
        remedy=names.hint(name)
        or "look it up in selection.csv; what the run does not know cannot be offered by it",
    )


def _unfit_box(
    ledger: Ledger, name: str, box: Box | None, size: tuple[int, int]
) -> Iterator[SegalError]:
    """What is wrong with withdrawing a part of an image."""
    if box is None:
        return
    task = str(ledger.configuration.get("task", DEFAULT_TASK))
    strategy = strategy_of(ledger.configuration)
    if task != DEFAULT_TASK or QUESTIONS[task].of_wholes or not takes_parts(strategy):
        yield SegalError(
            f"{name}: no part of an image can be withdrawn from {ledger.folder}",
            expected="whole images, where their labels are of wholes, or the strategy looks at "
            "whole rectangles",
            got=_shown(box),
            remedy="withdraw the image: leave --box out",
        )
        return
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0]):
        yield SegalError(
            f"{name}: the box leaves the image",
            expected=f"one within {size[1]} x {size[0]} (width x height) pixels",
            got=_shown(box),
            remedy="give x, y, width and height in pixels",
        )
        return
    for bought in ledger.bought(name).get(name, []):
        a, b, c, d = bought
        if a < x1 and x0 < c and b < y1 and y0 < d and not is_within(bought, [box]):
            yield SegalError(
                f"{name}: the box cuts a region that is bought",
                expected="all of a region, or nothing of it: an answer is never changed",
                got=f"{_shown(box)}, and {_shown(bought)} is bought",
                remedy="give a box that holds the region, or withdraw the image",
            )


def _shown(box: Box) -> str:
    x0, y0, x1, y1 = box
    return f"x {x0}, y {y0}, {x1 - x0} x {y1 - y0}"


def _since(ledger: Ledger, lost: Sequence[Purchase], after: PoolLog) -> int | None:
    """The first round that is trained again."""
    if ledger.command != COMMAND:
        return None
    of_seed = [p for p in ledger.purchases("seed") if p in lost]
    others = [p for p in ledger.purchases("buy") if p in lost]
    first = list(first_trained(of_seed, others).values())
    training = ledger.configuration.get("train")
    if isinstance(training, Mapping) and training.get("mial") and after.gone:
        first.append(0)  # it looks at images that have no label, too
    return min(first, default=None)


def _traces(
    ledger: Ledger,
    changes: Sequence[PoolChange],
    lost: Sequence[Purchase],
    undone: set[tuple[str, int]],
) -> list[str]:
    if not changes:
        return []
    ranks: dict[int, list[int]] = {}
    for p in lost:
        if p.strategy not in ("seed", "labelled"):
            ranks.setdefault(p.round or 0, []).append(p.rank)
    return recorded_traces(ledger, {one.image for one in changes}, ranks, undone)


def _forget(ledger: Ledger, changes: Sequence[PoolChange]) -> int:
    """Removes what the store of frozen layers keeps of images."""
    config = read_source_config(ledger)
    if config is None or config.store is None or not is_store(config.store.folder):
        return 0
    known = ledger.known_images()
    reading = config.data.reading if isinstance(config, RunConfig) else config.reading
    shapes = {one.digest: known[one.image][2] for one in changes}
    names = [
        stored_as(digest, (info.height, info.width), reading, flipped=flipped)
        for digest, info in shapes.items()
        for flipped in (False, True)
    ]
    store = config.store
    return FeatureStore(store.folder, round(store.gigabytes * 1e9), store.precision).forget(names)
