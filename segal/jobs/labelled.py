"""What is labelled already: selections and run folders, with all that their ledgers know."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from itertools import takewhile
from operator import or_
from pathlib import Path

from segal.candidates.regions import Box
from segal.candidates.selection import ImageNames, plain_name, read_selection
from segal.data.changes import count, listed
from segal.data.find import shortened
from segal.data.labelled import LabelledDataset
from segal.data.pool import ImagePool
from segal.errors import SegalError, raise_all
from segal.jobs.inputs import image_digests, image_sizes
from segal.runs.history import COMMAND, ROUNDS_FOLDER, SELECTION_FILE
from segal.runs.ledger import Ledger, Purchase
from segal.runs.pool_log import PoolLog, Withdrawn
from segal.runs.returned import Answered, check_answer_classes, with_answers
from segal.runs.returns import classes_of, labels_of, returns_of
from segal.runs.run_folder import LEDGER_FILE, fingerprint
from segal.system.files import file_digest

_SELECT = "select"

Region = tuple[str, Box]
Boxes = dict[int, list[Box]]


@dataclass(frozen=True)
class _Booked:
    """What a ledger knows to be bought.

    Attributes:
        purchases: In the order of purchase.
        digests: Of the images that something is bought of, by path.
        answers: The labels that annotators gave back to its run.
        classes: Names that they chose from; empty where nothing was handed out.
        log: How its pool has changed; what is withdrawn is not among the purchases.
    """

    purchases: Sequence[Purchase]
    digests: Mapping[str, str]
    answers: Sequence[Answered] = ()
    classes: Sequence[str] = ()
    log: PoolLog = field(default_factory=PoolLog)

    @property
    def first(self) -> list[Region]:
        """What was bought first: a run's seed set, or what was labelled before a selection."""
        return _regions(
            takewhile(lambda p: p.strategy == self.purchases[0].strategy, self.purchases)
        )


@dataclass(frozen=True)
class _Source:
    """One that is given as labelled.

    Attributes:
        path: As it was given.
        file: The selection; None where a run folder is given.
        rows: What the file names, as it names it.
        booked: What the ledger of its run knows, if there is one.
    """

    path: Path
    file: Path | None
    rows: frozenset[Region]
    booked: _Booked | None

    @classmethod
    def open(cls, path: Path) -> "_Source":
        if path.is_dir():
            return cls(path, None, frozenset(), _read_ledger(path, None))
        booked = _ledger_beside(path)
        log = booked.log if booked else PoolLog()
        rows = ((plain_name(s.image), s.box) for s in read_selection(path))
        return cls(path, path, frozenset(r for r in rows if log.keeps(*r)), booked)


@dataclass
class Labelled:
    """Regions that are labelled; made by `open`.

    Attributes:
        sources: What was given, in its order.
        skip_missing: Leave out what is of images that are not there any more.
        own: What the run that goes on from them has withdrawn itself.
        notes: What the user should be told, from when boxes are asked for.
    """

    sources: Sequence[_Source]
    skip_missing: bool = False
    own: Withdrawn = field(default_factory=Withdrawn)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, paths: Iterable[Path], *, skip_missing: bool = False) -> "Labelled":
        """Reads selections and ledgers.

        Args:
            paths: Each a selection, or the run folder of `segal select` or `segal run`. Of a
                selection that still lies where its run put it, all is taken that the run's ledger
                knows to be bought: what was labelled before it, too.
            skip_missing: As an attribute.

        Raises:
            SegalError: If one is neither, or nothing is bought in a run folder yet.
        """
        return cls([_Source.open(path) for path in paths], skip_missing)

    def __bool__(self) -> bool:
        """Whether anything was given."""
        return bool(self.sources)

    def identity(self) -> list[str]:
        """What results depend on: by source, the file's digest, and what a ledger adds to it."""
        parts = []
        for source in self.sources:
            known = [] if source.file is None else [file_digest(source.file)]
            booked = _regions(source.booked.purchases) if source.booked else []
            added = sorted(set(booked) - self._rows)
            parts.append(fingerprint([*known, added]) if added or not known else known[0])
        if self.given_withdrawn:
            boxes = sorted((self.given_withdrawn.boxes or {}).items())
            parts.append(fingerprint([sorted(self.given_withdrawn.images), boxes]))
        return parts

    @property
    def withdrawn(self) -> Withdrawn:
        """What any of the runs has withdrawn: it is in none of them, whatever others say."""
        return self.given_withdrawn | self.own

    @cached_property
    def given_withdrawn(self) -> Withdrawn:
        """The same, of those that were given."""
        logs = [source.booked.log for source in self.sources if source.booked]
        return reduce(or_, (log.withdrawn for log in logs), Withdrawn())

    @cached_property
    def _rows(self) -> frozenset[Region]:
        """What files name, all together."""
        return frozenset[Region]().union(*(source.rows for source in self.sources))

    def images(self, root: Path, there: Collection[str]) -> set[str]:
        """Names of the images that something is labelled of.

        Args:
            root: The folder of images.
            there: Names of all images, relative to it.

        Raises:
            SegalError: If nothing is labelled at all.
        """
        names = ImageNames(dict.fromkeys(there, (1, 1)))
        found = {name: names.find(name) for name, _ in self._rows}
        gone = self._gone
        for source in self.sources:
            found |= {p.image: names.find(p.image) for p in _purchases(source)}
        found = {name: now for name, now in found.items() if name not in gone}
        if not found:
            raise SegalError(
                f"{', '.join(str(source.path) for source in self.sources)}: no region at all",
                expected="at least one region that is labelled",
                got="none",
                remedy="give the selection that was labelled",
            )
        found |= self._renamed(root, {name for name, now in found.items() if now is None}, there)
        if self.skip_missing and any(found.values()):
            return {name for name in found.values() if name}
        return {name or given for given, name in found.items()}

    @property
    def _gone(self) -> set[str]:
        """Names of labelled images that some run has withdrawn."""
        images = self.withdrawn.images
        booked = [source.booked.digests for source in self.sources if source.booked]
        return {name for digests in booked for name, d in digests.items() if d in images}

    def _renamed(self, root: Path, gone: Collection[str], there: Iterable[str]) -> dict[str, str]:
        """The images that were known by names that are gone, as far as their content is known."""
        booked = [source.booked.digests for source in self.sources if source.booked]
        known = {name: digests[name] for digests in booked for name in digests if name in gone}
        if not known:
            return {}
        files = [name for name in there if (root / name).is_file()]
        by_digest = {file_digest(root / name): name for name in reversed(files)}
        return {name: by_digest[d] for name, d in known.items() if d in by_digest}

    def boxes(self, pool: ImagePool) -> Boxes:
        """Boxes by image index, each once, by row and then by column.

        Raises:
            SegalError: If a file is no selection of these images, or an image is not there, or not
                the one that was labelled.
        """
        names = self._names(pool)
        given = {r for s in self.sources for r in _given(s, names)}
        regions = set(given)
        for source in self.sources:
            known = _found(_regions(_purchases(source)), names)
            if more := set(known) - given:
                self._note(
                    f"{source.path}: its run's ledger knows {count(len(more), 'more region')} to "
                    "be labelled or bought, and all that it knows is taken. To take the file alone,"
                    " copy it to another folder."
                )
            regions |= more
        gone = self._gone
        names.missing = {(name, box) for name, box in names.missing if name not in gone}
        if names.missing:
            left = sorted({name for name, _ in names.missing})
            self._note(
                f"Left out {count(len(names.missing), 'labelled region')} of images that are not "
                f"there: {listed(left)}."
            )
        return self._held(_sorted_boxes(regions, pool), pool)

    def _held(self, boxes: Boxes, pool: ImagePool) -> Boxes:
        """Without what is withdrawn."""
        holds = self.withdrawn.holds
        held = {i: [b for b in boxes[i] if not holds(pool.infos[i].digest, b)] for i in boxes}
        return {i: found for i, found in held.items() if found}

    @property
    def has_answers(self) -> bool:
        """Whether annotators gave labels back to a run among the sources."""
        return any(s.booked and s.booked.answers for s in self.sources)

    def answered(self, dataset: LabelledDataset, question: str) -> LabelledDataset:
        """The data set with the labels that annotators gave back to the runs among the sources.

        Args:
            dataset: Of the labelled images, whose label files may be missing.
            question: Name of the task.

        Raises:
            SegalError: If annotators chose from other classes than the data set's.
        """
        booked = [s.booked for s in self.sources if s.booked and s.booked.answers]
        if not booked:
            return dataset
        names, answers = self._names(dataset.pool), []
        digests = dict(image_digests(dataset.pool))
        for one in booked:
            check_answer_classes(one.answers[0].folder, one.classes, dataset.classes.names)
            pairs = [(names.find(answer.returned.image), answer) for answer in one.answers]
            answers += [
                (image, answer)
                for image, answer in pairs
                if image is not None
                and not self.withdrawn.holds(digests[image], answer.returned.box)
            ]
        return with_answers(dataset, question, answers)

    def first(self, pool: ImagePool) -> Boxes:
        """The same of what was bought first: by the first that was given, as its ledger tells."""
        source, names = self.sources[0], self._names(pool)
        if source.file and set(_regions(_purchases(source))) <= self._rows:
            return self._held(_sorted_boxes(_given(source, names), pool), pool)
        first = _found(source.booked.first if source.booked else [], names)
        return self._held(_sorted_boxes(first, pool), pool)

    def _names(self, pool: ImagePool) -> ImageNames:
        """The pool's names; images that were renamed are found by their content.

        Raises:
            SegalError: If an image is missing, or is not the one that was labelled.
        """
        there = dict(image_digests(pool))
        by_digest = {digest: path for path, digest in reversed(there.items())}
        names = ImageNames(image_sizes(pool), skip_missing=self.skip_missing, unit=pool.unit)
        errors: dict[str, SegalError] = {}
        for source in self.sources:
            for name, digest in (source.booked.digests if source.booked else {}).items():
                found, now = names.find(name), by_digest.get(digest)
                if digest in self.withdrawn.images:
                    continue
                if found is None and now is not None:
                    names.renamed[name] = now
                elif found is None and not self.skip_missing:
                    errors[name] = _missing(name, source, pool)
                elif found is not None and there[found] != digest:
                    errors[name] = _replaced(name, now, source, pool)
        raise_all(shortened(list(errors.values())))
        if names.renamed:
            pairs = [f"{old} is {new} now" for old, new in sorted(names.renamed.items())]
            self._note(
                f"Renamed since they were labelled, and known by their content: {listed(pairs)}."
            )
        return names

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _missing(name: str, source: _Source, pool: ImagePool) -> SegalError:
    reason = next((r for r in pool.skipped if r.startswith(f"{pool.root / name}:")), None)
    return SegalError(
        f"{pool.root / name}: {source.path} has labelled regions of it",
        expected="every image that something is labelled of",
        got=f"one that was skipped: {reason}" if reason else "no such image, nor one of its bytes",
        remedy="put it back, or go on without its regions: skip_missing=true",
    )


def _replaced(name: str, now: str | None, source: _Source, pool: ImagePool) -> SegalError:
    return SegalError(
        f"{pool.root / name}: not the picture that was labelled under this name",
        expected=f"the bytes that it had when {source.path} was made",
        got="another file" + ("" if now is None else f"; the one that was labelled is {now} now"),
        remedy="put the old file back; or, if its labels fit the new one, give a copy of the "
        "selection.csv in another folder, which is taken as it is",
    )


def _ledger_beside(file: Path) -> _Booked | None:
    """The ledger of the run that a selection still lies in."""
    folder = file.resolve().parent
    if file.name != SELECTION_FILE:
        return None
    if (folder / LEDGER_FILE).is_file():
        with Ledger.read(folder) as ledger:
            return _booked(ledger, None) if ledger.command == _SELECT else None
    if folder.parent.name == ROUNDS_FOLDER and folder.name.isdecimal():
        run = folder.parent.parent
        if (run / LEDGER_FILE).is_file():
            return _read_ledger(run, int(folder.name))
    return None


def _read_ledger(folder: Path, last: int | None) -> _Booked:
    with Ledger.read(folder) as ledger:
        if ledger.command not in (_SELECT, COMMAND):
            raise SegalError(
                f"labelled: {folder} is a run folder of segal {ledger.command}",
                expected="a selection.csv, or the folder of segal select or segal run",
                got=f"a folder of segal {ledger.command}, which buys nothing",
                remedy="give the selections that were labelled",
            )
        booked = _booked(ledger, last)
        is_begun_only = ledger.command == _SELECT and ledger.phase(_SELECT, 0) is None
        if is_begun_only or not booked.purchases:
            raise SegalError(
                f"labelled: {folder} has not bought anything yet",
                expected="a run that has",
                got="one that has begun only",
                remedy=f"let it go on: give its segal {ledger.command} again",
            )
        return booked


def _booked(ledger: Ledger, last: int | None) -> _Booked:
    purchases = [p for p in ledger.held() if last is None or (p.round or 0) <= last]
    images = {p.image for p in purchases}
    digests = {
        path: info.digest for path, (*_, info) in ledger.known_images().items() if path in images
    }
    answers = [Answered(ledger.folder, one) for one in labels_of(returns_of(ledger)).values()]
    classes = classes_of(ledger) if answers else ()
    return _Booked(purchases, digests, answers, classes, ledger.pool_log)


def _purchases(source: _Source) -> Sequence[Purchase]:
    return source.booked.purchases if source.booked else ()


def _regions(purchases: Iterable[Purchase]) -> list[Region]:
    return [(p.image, p.box) for p in purchases]


def _given(source: _Source, names: ImageNames) -> list[Region]:
    """What was given by itself: the rows of a file, or all that was bought in a run folder."""
    if source.file is None:
        return _found(_regions(_purchases(source)), names)
    if source.booked and source.booked.log.changes:
        return _found(source.rows, names)
    return [(selected.image, selected.box) for selected in read_selection(source.file, names)]


def _found(regions: Iterable[Region], names: ImageNames) -> list[Region]:
    """Regions of images that are there, under the names that they have now."""
    pairs = [(names.find(name), name, box) for name, box in regions]
    names.missing |= {(name, box) for found, name, box in pairs if found is None}
    return [(found, box) for found, _, box in pairs if found is not None]


def _sorted_boxes(regions: Iterable[Region], pool: ImagePool) -> Boxes:
    positions = {path: i for i, path in enumerate(pool.paths)}
    boxes: dict[int, set[Box]] = {}
    for name, box in regions:
        boxes.setdefault(positions[name], set()).add(box)
    return {i: sorted(boxes[i], key=lambda b: (b[1], b[0], b)) for i in sorted(boxes)}
