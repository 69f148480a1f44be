"""`segal pool add` and `segal pool move`: the files of a run's images, as they are now."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segal.candidates.selection import plain_name
from segal.config import RunConfig
from segal.data.find import shortened
from segal.data.pool import ImagePool
from segal.errors import SegalError, raise_all
from segal.jobs.annotate.source import SELECT, RunSource
from segal.jobs.labels import check_labels
from segal.jobs.rounds.run_data import open_splits
from segal.runs.ledger import Ledger
from segal.runs.pool_log import PoolChange
from segal.runs.texts import drop_text

SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class PoolEdit:
    """What is changed, or would be.

    Attributes:
        changes: Of each image.
        notes: What the user should know.
    """

    changes: Sequence[PoolChange]
    notes: Sequence[str] = ()


def add_images(
    folder: Path,
    names: Collection[str],
    *,
    images: Path | None = None,
    reason: str = "",
    dry_run: bool = False,
) -> PoolEdit:
    """Adds images of the data set to the pool of a run, from its next selection on.

    Args:
        folder: Of a run of `segal run`.
        names: Of the images, relative to the folder of images; empty for all that are new there.
        images: The data set, if it moved.
        reason: For the ledger.
        dry_run: Only look.

    Raises:
        SegalError: With all that is wrong; nothing is changed then.
    """
    with Ledger.reopen(folder) as ledger:
        source = RunSource.open(ledger)
        config = _run_config(source)
        if images is not None:
            data = config.data.model_copy(update={"root": images})
            config = config.model_copy(update={"data": data})
        dataset, _, _ = open_splits(config)
        files = dict(zip(dataset.pool.paths, dataset.pool.infos, strict=True))
        log = ledger.pool_log
        known = {name: info.digest for name, (*_, info) in ledger.known_images().items()}
        lies_at = {log.files.get(name, name): name for name in known}
        withdrawn = log.withdrawn.images
        new = [
            path
            for path, info in files.items()
            if not _is_known(path, info.digest, lies_at, known) and info.digest not in withdrawn
        ]
        wanted = [plain_name(name) for name in names] if names else new
        raise_all(shortened(list(_mistakes(wanted, dataset.pool, known, lies_at, source))))
        added = [p for p in dict.fromkeys(wanted) if p in set(new)]
        chosen = dataset.subset([i for i, p in enumerate(dataset.pool.paths) if p in set(added)])
        if added and not config.annotate:
            check_labels(chosen, config.data.train)
        notes = []
        if names and (more := len(set(new) - set(added))):
            notes.append(f"{more} more images are new: segal run wants them added or taken away.")
        if len(added) < len(set(wanted)):
            notes.append(f"{len(set(wanted)) - len(added)} images were in the pool already.")
        changes = [PoolChange("add", p, files[p].digest, ledger.step, reason=reason) for p in added]
        if changes and not dry_run:
            phases = {(p.name, p.round) for p in ledger.phases()}
            undone = open_phases(ledger.command, phases)
            drop_text(ledger, SUMMARY_FILE)
            ledger.change_pool(changes, chosen.pool, undone=undone, kept=phases - undone)
    return PoolEdit(changes, notes)


def move_images(
    folder: Path, *, images: Path | None = None, reason: str = "", dry_run: bool = False
) -> PoolEdit:
    """Finds the images of a run that lie elsewhere now, by their content.

    Args:
        folder: Of a run of `segal run` or `segal select`.
        images: The data set or the folder of images, if it moved.
        reason: For the ledger.
        dry_run: Only look.

    Raises:
        SegalError: If the content of an image is nowhere any more.
    """
    with Ledger.reopen(folder) as ledger:
        source = RunSource.open(ledger)
        pool = source.opened(images)
        there = {p: info.digest for p, info in zip(pool.paths, pool.infos, strict=True)}
        log = ledger.pool_log
        known = {
            name: info.digest
            for name, (*_, info) in ledger.known_images().items()
            if name not in log.gone
        }
        at = {name: log.files.get(name, name) for name in known}
        taken = {at[name] for name, digest in known.items() if there.get(at[name]) == digest}
        free: dict[str, list[str]] = {}
        for path in reversed(pool.paths):
            if path not in taken:
                free.setdefault(there[path], []).append(path)
        changes, lost = [], []
        for name, digest in known.items():
            if at[name] in taken:
                continue
            if free.get(digest):
                file = free[digest].pop()
                changes.append(
                    PoolChange("move", name, digest, ledger.step, file=file, reason=reason)
                )
            else:
                lost.append(_lost(pool.root / at[name], name, there.get(at[name]), folder))
        raise_all(shortened(lost))
        if changes and not dry_run:
            ledger.change_pool(changes)
    return PoolEdit(changes)


def open_phases(command: str, phases: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    """Of stages those that look at the pool, and by which nothing is bought yet.

    Args:
        command: Of the run.
        phases: Name and round of each.
    """
    there, buys = set(phases), SELECT if command == SELECT else "buy"
    stays = {"train", "evaluate", "seed", "labelled"}
    found = {(n, number) for n, number in there if n not in stays and (buys, number) not in there}
    if ("seed", 0) in there:  # by which the seed set was chosen
        found = {(n, number) for n, number in found if not n.startswith("seed-")}
    return found


def _is_known(path: str, digest: str, lies_at: Mapping[str, str], known: Mapping[str, str]) -> bool:
    return path in lies_at and known[lies_at[path]] == digest


def _run_config(source: RunSource) -> RunConfig:
    config = source.config
    if not isinstance(config, RunConfig):
        raise SegalError(
            f"{source.folder}: a selection, whose pool stays as it is",
            expected="a run of segal run, which selects again",
            got="one of segal select",
            remedy=f"select from all images that are there now, with --labelled {source.folder} "
            "and another --out",
        )
    mistakes = {
        "data.validation_share": config.data.validation_share,
        "data.rare_classes": config.data.rare_classes,
    }
    raise_all(
        [
            SegalError(
                f"{source.folder}: {key} chooses among all images",
                expected="a data set whose images are given",
                got=f"{key}: {value}, which would choose others",
                remedy="begin another run with all images",
            )
            for key, value in mistakes.items()
            if value
        ]
    )
    return config


def _mistakes(
    wanted: Sequence[str],
    pool: ImagePool,
    known: Mapping[str, str],
    lies_at: Mapping[str, str],
    source: RunSource,
) -> Iterable[SegalError]:
    """What is wrong with images to add."""
    there = {path: info.digest for path, info in zip(pool.paths, pool.infos, strict=True)}
    by_digest: dict[str, str] = {}
    for file, name in lies_at.items():
        by_digest.setdefault(known[name], file)
    withdrawn, seen = source.log.withdrawn.images, dict[str, str]()
    for path in dict.fromkeys(wanted):
        digest = there.get(path)
        if digest is None:
            yield SegalError(
                f"{pool.root / path}: no such image",
                expected="an image of the data set, by its path below the folder of images",
                got="nothing that is read there",
                remedy="put it there first, or mend the name",
            )
        elif digest in withdrawn:
            yield SegalError(
                f"{pool.root / path}: withdrawn from {source.folder}",
                expected="an image that was never withdrawn",
                got="its bytes" + f", once {by_digest.get(digest)}" * (path not in lies_at),
                remedy="leave it out: what is withdrawn never comes back",
            )
        elif _is_known(path, digest, lies_at, known):
            continue
        elif (first := by_digest.get(digest) or seen.get(digest)) is not None:
            moved = digest in by_digest and there.get(first) != digest
            yield SegalError(
                f"{pool.root / path}: its content is in the pool as {first}",
                expected="an image that is not there yet",
                got="the same bytes" + ", which are not there under that name any more" * moved,
                remedy=f"tell the run that it moved: segal pool move {source.folder}"
                if moved
                else "leave one of them out: the same content would be bought twice",
            )
        elif path in known:
            yield SegalError(
                f"{pool.root / path}: an image of {source.folder} has this name",
                expected="a new name, since the ledger knows images by theirs",
                got="other bytes under the same name",
                remedy="rename the new file; and put the old one back, or withdraw it",
            )
        else:
            seen[digest] = path


def _lost(path: Path, name: str, found: str | None, folder: Path) -> SegalError:
    return SegalError(
        f"{path}: not there, under any name",
        expected=f"the bytes of {name}, wherever they lie among the images",
        got="other bytes" if found else "no file of these bytes",
        remedy=f"put it back; or, if it is never to be used again: segal pool withdraw {folder} "
        f"{name}",
    )
