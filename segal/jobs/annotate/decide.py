"""`segal import` of reviews: takes picks back, puts the next ones in their place, reorders them."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segal.annotation.handout import task_key
from segal.annotation.review import KIND, Review, is_review, read_review
from segal.candidates.regions import Box
from segal.candidates.selection import write_selection
from segal.config import SelectConfig
from segal.data.changes import count
from segal.data.find import shortened
from segal.data.pool import ImagePool
from segal.errors import SegalError, raise_all
from segal.jobs.annotate.shown import drawn_of
from segal.jobs.annotate.source import RunSource
from segal.jobs.annotate.spares import Reserve, last_purchase
from segal.jobs.picks import selected_from
from segal.runs.history import ROUNDS_FOLDER, SELECTION_FILE, round_folder
from segal.runs.ledger import Ledger, Purchase
from segal.runs.returns import handouts_of, labels_of, returns_of, run_key
from segal.runs.reviews import book_review, skips_of
from segal.runs.stages import Phase
from segal.system.console import bar
from segal.system.files import write_json
from segal.tasks import find_task

_SUMMARY, _CONFIG, _OVERLAYS, _NOTES = "summary.json", "config.yaml", "overlays", "notes.json"


@dataclass
class Decided:
    """What reviews came to.

    Attributes:
        kept: Picks that people said to keep.
        skipped: How many were skipped, by reason.
        replaced: Picks that took their place, in order.
        moved: Whether the order is another one.
        known: Picks whose skipping was booked before.
        open: Picks that nobody decided on, which stay.
        notes: What the user should know.
    """

    kept: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    replaced: list[Purchase] = field(default_factory=list)
    moved: bool = False
    known: int = 0
    open: int = 0
    notes: list[str] = field(default_factory=list)


def are_reviews(paths: Sequence[Path], kind: str) -> bool:
    """Whether files are reviews, and not answers of annotators.

    Args:
        paths: What is to be imported.
        kind: The format, where it is named.

    Raises:
        SegalError: If some are, and others are not.
    """
    if kind:
        return kind == KIND
    found = [path for path in paths if is_review(path)]
    if found and len(found) < len(paths):
        raise SegalError(
            "import: reviews and answers together",
            expected="reviews alone, or what a tool has exported",
            got=", ".join(str(path) for path in found[:3]) + ", and others that are no reviews",
            remedy="import the reviews first, and the answers then",
        )
    return bool(found)


def import_reviews(
    folder: Path, paths: Sequence[Path], *, images: Path | None = None, dry_run: bool = False
) -> Decided:
    """Reads reviews, checks all of them, and books them together.

    Args:
        folder: Of the run.
        paths: The reviews, of parts of one selection.
        images: Where the run's images are, if they moved.
        dry_run: Only look.

    Raises:
        SegalError: With all that is wrong; nothing is booked then.
    """
    reviews, errors = list[Review](), list[SegalError]()
    for path in dict.fromkeys(paths):
        try:
            reviews.append(read_review(path))
        except SegalError as error:
            errors.append(error)
    with Ledger.reopen(folder) as ledger:
        source = RunSource.open(ledger)
        asks = _Asked.of(ledger)
        decided = Decided()
        new = [one for one in reviews if not asks.knows(one)]
        decided.known = sum(len(r.skipped) for r in reviews if r not in new)
        errors += [error for one in new for error in asks.problems(one, folder)]
        errors += _twice(new)
        raise_all(shortened(errors))
        if not new:
            decided.notes.append("All of it was booked before: nothing has changed.")
            return decided
        order = asks.ordered(new)
        reasons = {asks.region(key): why for one in new for key, why in one.skipped.items()}
        decided.kept = sum(len(one.kept) for one in new)
        decided.open = sum(len(r.picks) - len(r.kept) - len(r.skipped) for r in new)
        for why in reasons.values():
            decided.skipped[why] = decided.skipped.get(why, 0) + 1
        kept = [p for p in order if (p.image, p.box) not in reasons]
        decided.moved = kept != [p for p in asks.bought if (p.image, p.box) not in reasons]
        pool = source.pool(images) if reasons or asks.phase.name == "select" else None
        if reasons:
            assert pool is not None
            reserve = Reserve.of(ledger, source, asks.phase, pool)
            gone = {*reasons, *((s.image, s.box) for s in skips_of(ledger))}
            decided.replaced = reserve.next(kept, gone, len(reasons))
        decided.notes += _notes(asks, reasons, decided.replaced)
        if not kept and not decided.replaced:
            raise SegalError(
                f"{folder}: nothing is left of the selection",
                expected="at least one pick that is kept, or one that takes a place",
                got=f"{len(reasons)} skipped, and nothing else fits the budget",
                remedy="keep a pick; or select anew, from other images or at a larger budget",
            )
        if dry_run:
            decided.notes.append("Nothing was booked: this was a dry run.")
        elif reasons or decided.moved:
            phase = asks.phase
            book_review(ledger, phase.name, phase.round, [*kept, *decided.replaced], reasons)
            _renew(ledger, source, phase, pool, decided)
    return decided


@dataclass(frozen=True)
class _Asked:
    """What a run can be reviewed of.

    Attributes:
        run: Its key.
        phase: The stage that bought last.
        bought: What it has bought, in order.
        keys: Their keys, in order.
        skipped: Why regions were skipped before, by their keys.
        returned: Keys of those whose labels have come back.
        handed: Keys of those that were handed out.
    """

    run: str
    phase: Phase
    bought: Sequence[Purchase]
    keys: Sequence[str]
    skipped: Mapping[str, str]
    returned: Collection[str]
    handed: Collection[str]

    @classmethod
    def of(cls, ledger: Ledger) -> "_Asked":
        phase = last_purchase(ledger)
        run, bought = run_key(ledger), ledger.purchases(phase.name, phase.round)
        return cls(
            run,
            phase,
            bought,
            [task_key(run, p.image, p.box) for p in bought],
            {task_key(run, s.image, s.box): s.reason for s in skips_of(ledger)},
            {task_key(run, *region) for region in labels_of(returns_of(ledger))},
            {key for handout in handouts_of(ledger) for key in handout.by_key},
        )

    def region(self, key: str) -> tuple[str, Box]:
        """The pick of a key, by image and box."""
        one = self.bought[self.keys.index(key)]
        return one.image, one.box

    def knows(self, review: Review) -> bool:
        """Whether a review that changed something was booked before."""
        changes = review.skipped or review.order != review.picks
        if not changes or review.run != self.run:
            return False
        left, shown = [key for key in review.order if key not in review.skipped], set(review.picks)
        booked = all(self.skipped.get(key) == why for key, why in review.skipped.items())
        return booked and left == [key for key in self.keys if key in shown]

    def problems(self, review: Review, folder: Path) -> list[SegalError]:
        """What is wrong with a review."""
        path = review.path
        again = f"make the page again with segal review {folder}, and review it there"
        if review.run != self.run:
            return [
                SegalError(
                    f"{path}: a review of another run",
                    expected=f"one of {folder}, which is run {self.run}",
                    got=f"run {review.run}",
                    remedy="import it into the run whose page it was saved from",
                )
            ]
        here = (self.phase.name, self.phase.round)
        if (review.phase, review.round) != here:
            return [
                SegalError(
                    f"{path}: a review of another selection",
                    expected=f"of what was bought last: {here[0]} of round {here[1]}",
                    got=f"{review.phase} of round {review.round}",
                    remedy=again,
                )
            ]
        shown = set(review.picks)
        now = tuple(key for key in self.keys if key in shown)
        if now != review.picks:
            gone = [key for key in review.picks if key in self.skipped]
            unknown = shown - set(self.keys) - set(gone)
            got = (
                f"task {min(unknown)}, which it has not picked"
                if unknown
                else f"{count(len(gone), 'pick')} of it skipped since"
                if gone
                else "picks in another order"
            )
            return [
                SegalError(
                    f"{path}: a review of another selection",
                    expected="the picks that there are, in their order",
                    got=got,
                    remedy=again,
                )
            ]
        return [
            SegalError(
                f"{path}: {self._named(key)} cannot be skipped",
                expected="a pick that nobody has labelled yet",
                got="one whose label has come back, and is paid for",
                remedy="keep it in the review, and leave its image out of later trainings if it "
                "must not be used",
            )
            for key in review.skipped
            if key in self.returned
        ]

    def ordered(self, reviews: Iterable[Review]) -> list[Purchase]:
        """What is bought in the order that is wanted; picks change places among those shown."""
        by_key, keys = dict(zip(self.keys, self.bought, strict=True)), list(self.keys)
        for review in reviews:
            shown = set(review.picks)
            places = [place for place, key in enumerate(keys) if key in shown]
            for place, key in zip(places, review.order, strict=True):
                keys[place] = key
        return [by_key[key] for key in keys]

    def _named(self, key: str) -> str:
        image, (x0, y0, x1, y1) = self.region(key)
        return f"{image} at x {x0}, y {y0}, {x1 - x0} x {y1 - y0}"


def _twice(reviews: Sequence[Review]) -> list[SegalError]:
    """Picks that two reviews decided otherwise, or put elsewhere."""
    errors = []
    for place, one in enumerate(reviews):
        for other in reviews[:place]:
            both = set(one.picks) & set(other.picks)
            differ = [
                key
                for key in sorted(both)
                if (key in one.kept, one.skipped.get(key))
                != (key in other.kept, other.skipped.get(key))
            ]
            moved = both and (one.order != one.picks or other.order != other.picks)
            if differ or (moved and one.order != other.order):
                errors.append(
                    SegalError(
                        f"{one.path} and {other.path}: reviews of the same picks that differ",
                        expected="one review of a pick",
                        got=f"{count(len(differ), 'pick')} decided otherwise"
                        if differ
                        else "two orders",
                        remedy="import one of them",
                    )
                )
    return errors


def _notes(
    asks: _Asked, reasons: Mapping[tuple[str, Box], str], replaced: Sequence[Purchase]
) -> list[str]:
    notes = []
    handed = [r for r in reasons if task_key(asks.run, *r) in asks.handed]
    if handed:
        named = ", ".join(f"{image} at {list(box)}" for image, box in handed[:5])
        notes.append(
            f"{count(len(handed), 'skipped region')} had been handed out: tell the annotators. "
            f"What still comes back of it is not taken ({named}"
            + (", ...)." if len(handed) > 5 else ").")
        )
    if len(replaced) < len(reasons):
        notes.append(
            f"{len(replaced)} of {len(reasons)} places were filled: nothing else of the order "
            "fits what is left of the budget."
        )
    return notes


def _renew(
    ledger: Ledger, source: RunSource, phase: Phase, pool: ImagePool | None, decided: Decided
) -> None:
    """Makes the files anew that say what was bought; a run that is killed here makes them itself.

    Of a round the pictures are made by `segal run` when it goes on.
    """
    if isinstance(source.config, SelectConfig):
        assert pool is not None
        _renew_selection(ledger, source, source.config, phase, pool, decided)
        return
    selecting = ledger.phase("select", phase.round)
    if phase.name != "buy" or selecting is None:
        return
    folder = round_folder(source.folder, phase.round)
    bought = ledger.purchases(phase.name, phase.round)
    write_selection(folder / SELECTION_FILE, selected_from(bought))
    ledger.finish(
        *("select", phase.round, selecting.fingerprint),
        [folder / SELECTION_FILE, folder / _NOTES],
        seconds=selecting.seconds,
    )
    ledger.correct([], [("inspect", phase.round)], [], 0)
    decided.notes.append(
        f"Pictures in {ROUNDS_FOLDER}/{phase.round:03d} are drawn anew when segal run goes on."
    )


def _renew_selection(
    ledger: Ledger,
    source: RunSource,
    config: SelectConfig,
    phase: Phase,
    pool: ImagePool,
    decided: Decided,
) -> None:
    folder, task = source.folder, find_task(config.task)
    bought = ledger.purchases(phase.name, phase.round)
    selected = selected_from(bought)
    drawn, notes = drawn_of(ledger, source, phase, pool)
    decided.notes += notes
    write_selection(folder / SELECTION_FILE, selected)
    left = {i: (*b, *drawn.excluded.get(i, ())) for i, b in drawn.bought.items()}
    handed_out = task.hand_out(folder, selected, pool, {**drawn.excluded, **left})
    with bar("Drawing pictures") as advance:
        task.draw(folder / _OVERLAYS, selected, config.overlays, drawn, advance)
    summary = json.loads((folder / _SUMMARY).read_text())
    pixels = sum(p.pixels or 0 for p in bought)
    total, images = ledger.extent()
    summary["counts"]["picks"] = len(bought)
    summary["cost"] |= {
        "regions": len(bought),
        "pixels": pixels,
        "share_of_pool": pixels / total,
        "image_equivalents": pixels * images / total,
    }
    summary["notes"] = [*summary["notes"], *decided.notes]
    write_json(folder / _SUMMARY, summary)
    names = [SELECTION_FILE, _OVERLAYS, _CONFIG, _SUMMARY]
    ledger.finish(
        *(phase.name, phase.round, phase.fingerprint),
        [*(folder / name for name in names), *handed_out],
        seconds=phase.seconds,
    )
