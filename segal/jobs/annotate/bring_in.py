"""`segal import`: takes in what annotators gave back."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from segal.annotation.answers import Answer
from segal.annotation.formats import FORMATS
from segal.annotation.handout import NAME_HANDOUT, AnnotationTask, Handout, as_one, task_key
from segal.annotation.manifest import read_manifest_text
from segal.annotation.questions.base import ERROR, IGNORE, Rules, place
from segal.candidates.regions import Box
from segal.data.changes import count
from segal.data.find import shortened
from segal.errors import SegalError, raise_all
from segal.jobs.annotate.source import RunSource
from segal.runs.ledger import Ledger, Purchase
from segal.runs.returns import (
    Return,
    book,
    handouts_of,
    hours_of,
    latest,
    return_file,
    returns_of,
    run_key,
    write_return,
)
from segal.runs.reviews import skips_of
from segal.system.console import bar
from segal.system.files import read_error


@dataclass(frozen=True)
class ImportSettings:
    """How answers are taken in.

    Attributes:
        kind: The format; empty for that of the latest handout.
        rules: What becomes of what is left open.
        replace: Answers that differ from what is booked take its place.
        annotator: Only the answers of this one are taken.
        skip_bad: Take the good ones, and tell of the others, instead of refusing all.
        handout: The manifest of the handout, where the run does not know it.
        dry_run: Only look.
    """

    kind: str = ""
    rules: Rules = field(default_factory=Rules)
    replace: bool = False
    annotator: str = ""
    skip_bad: bool = False
    handout: Path | None = None
    dry_run: bool = False


@dataclass
class Imported:
    """What was taken in.

    Attributes:
        regions: Regions that have a label now and had none.
        replaced: Answers that took the place of others.
        second: Answers that are there to compare.
        known: Answers that were booked already.
        mended: Files of those that were lost or damaged, with what goes into them again.
        open: Regions that have not come back.
        counts: Elements by name of `COUNTED`, over all that was taken in.
        hours: What annotators took for it, as far as it is known.
        classes: Their names.
        unit: What is counted.
        notes: What the user should know.
        bad: What was not taken.
    """

    classes: Sequence[str]
    unit: str
    regions: int = 0
    replaced: int = 0
    second: int = 0
    known: int = 0
    mended: list[tuple[str, bytes]] = field(default_factory=list)
    open: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    hours: float | None = None
    notes: list[str] = field(default_factory=list)
    bad: list[SegalError] = field(default_factory=list)


@dataclass(frozen=True)
class _Found:
    """An answer that was read; of its label what goes into a file, so that memory is bounded.

    Attributes:
        answer: It, without what was drawn.
        task: Of it.
        image: Of the purchase.
        box: Likewise.
        annotator: Who; may be empty.
        digest: Of the label.
        data: The label, encoded.
        counts: What was found.
    """

    answer: Answer
    task: AnnotationTask
    image: str
    box: Box
    annotator: str
    digest: str
    data: bytes
    counts: Mapping[str, int]

    @property
    def region(self) -> tuple[str, Box]:
        return self.image, self.box


def import_answers(folder: Path, paths: Sequence[Path], settings: ImportSettings) -> Imported:
    """Reads answers, checks all of them, and books them.

    Args:
        folder: Of the run that bought the regions.
        paths: What the tool exported.
        settings: How.

    Raises:
        SegalError: With all that is wrong; nothing is booked then, unless bad ones are skipped.
    """
    with Ledger.reopen(folder) as ledger:
        source = RunSource.open(ledger)
        handout, others = _handout(ledger, settings)
        classes = _classes(handout, settings.rules)
        booked = returns_of(ledger)
        imported = Imported(classes, source.question.unit)
        found = list(_read(paths, handout, source, settings, classes, ledger, imported))
        found = _chosen(found, handout, booked, imported)
        returns = list(_settled(found, ledger, source, booked, settings, imported))
        if imported.bad and others:
            imported.bad.insert(0, _of_other_classes(folder, handout, others))
        if not settings.skip_bad:
            raise_all(shortened(imported.bad))
        if settings.dry_run:
            imported.notes.append("Nothing was booked: this was a dry run.")
        else:
            for file, data in imported.mended:
                write_return(folder, file, data)
            if imported.mended:
                imported.notes.append(f"{len(imported.mended)} answers were lost, and are back.")
            _book(ledger, source, returns)
        current = latest([*booked, *(one for one, _ in returns)])
        imported.open = len(source.purchases) - len({(one.image, one.box) for one in current})
        imported.hours = hours_of(current)
    return imported


def _handout(ledger: Ledger, settings: ImportSettings) -> tuple[Handout, list[Handout]]:
    """All tasks that were handed out in a format, in all frames, the latest first.

    Returns:
        They, as one handout; and handouts that asked for other classes, whose tasks are left out.
    """
    if settings.handout is not None:
        try:
            text = settings.handout.read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = error if isinstance(error, OSError) else OSError("not text")
            raise read_error(settings.handout, reason, "the manifest of a handout") from error
        return read_manifest_text(text, str(settings.handout)), []
    handouts = handouts_of(ledger, settings.kind or None)
    if not handouts:
        raise SegalError(
            f"{ledger.folder}: nothing was handed out"
            + f" to {settings.kind}" * bool(settings.kind),
            expected="regions that segal export has handed out",
            got="none",
            remedy="hand them out with segal export; or give the manifest of the handout with "
            "--handout",
        )
    last = handouts[-1]
    of_kind = [one for one in reversed(handouts) if one.kind == last.kind]
    same = [(one.classes, one.void) == (last.classes, last.void) for one in of_kind]
    others = [one for one, is_same in zip(of_kind, same, strict=True) if not is_same]
    return as_one([one for one, is_same in zip(of_kind, same, strict=True) if is_same]), others


def _of_other_classes(folder: Path, handout: Handout, others: Sequence[Handout]) -> SegalError:
    asked, now = (", ".join(one.classes) for one in (others[0], handout))
    return SegalError(
        f"{folder}: {count(len(others), 'handout')} to {handout.kind} had other classes, and no "
        "answers to them were looked for",
        expected=f"answers to handouts with the classes of the last: {now}",
        got=f"handouts with {asked}",
        remedy=f"if these are answers to one of them, name it: {NAME_HANDOUT}",
    )


def _classes(handout: Handout, rules: Rules) -> tuple[str, ...]:
    """Names of the classes, without the label for none of them."""
    classes = handout.classes[: -1 if handout.void else None]
    if rules.unpainted not in (ERROR, IGNORE, *classes):
        raise SegalError(
            f"unpainted: {rules.unpainted} is no class",
            expected=f"{ERROR}, {IGNORE}, or one of {', '.join(classes)}",
            got=rules.unpainted,
            remedy="name a class, or make these pixels void with --unpainted ignore",
        )
    return classes


def _read(
    paths: Sequence[Path],
    handout: Handout,
    source: RunSource,
    settings: ImportSettings,
    classes: Sequence[str],
    ledger: Ledger,
    imported: Imported,
) -> Iterable[_Found]:
    run = run_key(ledger)
    skipped = {task_key(run, one.image, one.box): one for one in skips_of(ledger)}
    purchases = {task_key(run, p.image, p.box): p for p in source.purchases}
    withdrawn = {task_key(run, p.image, p.box): p for p in source.withdrawn}
    form = FORMATS[handout.kind]
    total = len(handout.by_key)
    with bar("Reading answers") as advance:
        done = 0
        for path in paths:
            before = done
            for one in form.read(path, handout):
                done += 1
                advance(min(done, total), total)
                if isinstance(one, SegalError):
                    imported.bad.append(one)
                    continue
                tasks = handout.by_key.get(one.key, ())
                if one.key in withdrawn:
                    imported.bad.append(_withdrawn(one, withdrawn[one.key], source))
                    continue
                if one.key in skipped:
                    _note(
                        imported,
                        f"{one.source}: {skipped[one.key].image} was skipped in a review "
                        f"({skipped[one.key].reason}); this answer is not taken.",
                    )
                    continue
                if not tasks or one.key not in purchases:
                    imported.bad.append(_foreign(one, source))
                    continue
                task = next((task for task in tasks if task.frame == one.frame), tasks[0])
                asked = {task.annotator for task in tasks}
                annotator = one.annotator or (task.annotator if len(asked) == 1 else "")
                if settings.annotator and annotator != settings.annotator:
                    continue
                bought = purchases[one.key]
                try:
                    settled = source.question.settle(one, task, classes, settings.rules)
                except SegalError as error:
                    imported.bad.append(error)
                    continue
                yield _Found(
                    replace(one, layers=(), boxes=(), choices=()),
                    *(task, bought.image, bought.box, annotator),
                    source.question.digest(settled.label),
                    source.question.encode(settled.label),
                    settled.counts,
                )
            if done == before:
                _note(imported, f"{path}: nobody has worked on any of its tasks yet.")


def _foreign(answer: Answer, source: RunSource) -> SegalError:
    return SegalError(
        f"{answer.source}: task {answer.key} is none of {source.folder}",
        expected="answers to what this run has handed out",
        got="a task of another run, or of a region that this one did not buy",
        remedy="import it into the run that it was exported from; or leave it out with --skip-bad",
    )


def _withdrawn(answer: Answer, bought: Purchase, source: RunSource) -> SegalError:
    return SegalError(
        f"{answer.source}: task {answer.key} is of {bought.image}, which is withdrawn",
        expected="answers to regions that are not withdrawn",
        got=f"one to {list(bought.box)}",
        remedy=f"leave it out with --skip-bad, and remove it: see segal pool show {source.folder}",
    )


def _chosen(
    found: Sequence[_Found], handout: Handout, booked: Sequence[Return], imported: Imported
) -> list[_Found]:
    """One answer a person and region: the last. Two people only where two were asked."""
    last: dict[tuple[str, Box, str], _Found] = {}
    for one in found:
        key = (*one.region, one.annotator)
        before = last.pop(key, None)
        if before is not None:
            imported.notes.append(
                f"{place(one.answer, one.task)}: answered twice by "
                f"{one.annotator or 'the same annotator'}; the later answer is taken."
            )
        is_older = before is not None and before.answer.updated > one.answer.updated
        last[key] = before if before is not None and is_older else one
    people: dict[tuple[str, Box], set[str]] = {}
    for known in latest(booked):
        people.setdefault((known.image, known.box), set()).add(known.annotator)
    kept = []
    for one in last.values():
        names = people.setdefault(one.region, set())
        asked = len({task.annotator for task in handout.by_key[one.task.key]})
        if one.annotator not in names and len(names) >= asked:
            imported.bad.append(
                SegalError(
                    f"{place(one.answer, one.task)}: answered by {one.annotator or 'somebody'} too",
                    expected=f"{count(asked, 'annotator')}, as it was handed out",
                    got=f"an answer of {' and of '.join(n or 'somebody' for n in sorted(names))} "
                    "before",
                    remedy="choose whose answers are taken with --annotator NAME, or hand regions "
                    "out with --overlap to compare",
                )
            )
            continue
        names.add(one.annotator)
        kept.append(one)
    return kept


def _settled(
    found: Sequence[_Found],
    ledger: Ledger,
    source: RunSource,
    booked: Sequence[Return],
    settings: ImportSettings,
    imported: Imported,
) -> Iterable[tuple[Return, bytes]]:
    """What is to be booked, with the content of its file."""
    rounds = {(p.image, p.box): p.round or 0 for p in source.purchases}
    run = run_key(ledger)
    current = {(*(o.image, o.box), o.annotator): o for o in latest(booked)}
    numbers: dict[tuple[str, Box], int] = {}
    for known in booked:
        numbers[known.image, known.box] = numbers.get((known.image, known.box), 0) + 1
    labelled = set(numbers)
    for one in found:
        before = current.get((*one.region, one.annotator))
        if before is not None and (before.label, before.seconds) == (
            one.digest,
            one.answer.seconds,
        ):
            imported.known += 1
            if _is_lost(source.folder, before) and sha256(one.data).hexdigest() == before.sha256:
                imported.mended.append((before.file, one.data))
            continue
        if before is not None and not settings.replace:
            imported.bad.append(
                SegalError(
                    f"{place(one.answer, one.task)}: came back before, and says something else now",
                    expected=f"the answer that was booked at {before.booked}",
                    got="another label" if before.label != one.digest else "another time spent",
                    remedy="take the new one with --replace: the old one is kept as version "
                    f"{before.version}",
                )
            )
            continue
        if before is not None:
            imported.replaced += 1
        elif one.region in labelled:
            imported.second += 1
        else:
            imported.regions += 1
        labelled.add(one.region)
        numbers[one.region] = number = numbers.get(one.region, 0) + 1
        for name, many in one.counts.items():
            imported.counts[name] = imported.counts.get(name, 0) + many
        if one.answer.lossy:
            _note(imported, f"Outlines were made pixels by {one.answer.lossy}: not exact.")
        for note in one.answer.notes:
            _note(imported, note)
        yield (
            Return(
                image=one.image,
                box=one.box,
                round=rounds[one.region],
                annotator=one.annotator,
                version=1 if before is None else before.version + 1,
                label=one.digest,
                file=return_file(run, one.image, one.box, number, source.question.suffix),
                sha256="",
                seconds=one.answer.seconds,
                source=one.answer.source,
                counts=one.counts,
            ),
            one.data,
        )


def _is_lost(folder: Path, one: Return) -> bool:
    path = folder / one.file
    return not path.is_file() or sha256(path.read_bytes()).hexdigest() != one.sha256


def _note(imported: Imported, note: str) -> None:
    if note not in imported.notes:
        imported.notes.append(note)


def _book(ledger: Ledger, source: RunSource, returns: Sequence[tuple[Return, bytes]]) -> None:
    """Puts the files in place, and then books them all."""
    written = []
    with bar("Keeping answers") as advance:
        for done, (one, data) in enumerate(returns, 1):
            written.append(replace(one, sha256=write_return(source.folder, one.file, data)))
            advance(done, len(returns))
    book(ledger, written)
