"""What withdrawing images takes out of a run folder: all that shows them, or was made of them."""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

from segal.candidates.selection import MASKS_FOLDER, mask_name
from segal.pictures.overlays import plain_name
from segal.runs.history import (
    CANDIDATES_FOLDER,
    OVERLAYS_FOLDER,
    ROUNDS_FOLDER,
    SEED_FOLDER,
)
from segal.runs.ledger import SCANS, Ledger
from segal.runs.returns import RETURNS_FOLDER, returns_of
from segal.system.files import remove

UNFINISHED_FILE = ".unfinished.safetensors"
"""Where a training that was stopped goes on; in the folder of a round."""
_NUMBERED = re.compile(r"\d+_(?P<name>.*)\.png")
_SHEET = re.compile(r"\d+_ranks-(?P<first>\d+)-to-(?P<last>\d+)\.png")


def recorded_traces(
    ledger: Ledger,
    images: Collection[str],
    ranks: Mapping[int, Collection[int]],
    undone: Collection[tuple[str, int]],
) -> list[str]:
    """Recorded files to remove when images are withdrawn, by their paths in the run folder.

    These are masks and pictures of the images, tables of the candidates that they were among, and
    whatever stages have made that are to be done again.

    Args:
        ledger: Of the run.
        images: Their names.
        ranks: Of their regions among what was bought, by round.
        undone: Name and round of those stages.
    """
    found = []
    for phase in ledger.phases():
        of_images = _Showing(images, ranks.get(phase.round, ()))
        is_all = (phase.name, phase.round) in undone or phase.name.startswith(SCANS)
        for path, _, _ in ledger.artefacts(phase.name, phase.round):
            if is_all or of_images(PurePosixPath(path)):
                found.append(path)
    return sorted(set(found))


class _Showing:
    """Whether a picture or mask is of some images."""

    def __init__(self, images: Collection[str], ranks: Collection[int]) -> None:
        self.ranks = ranks
        self.masks = {PurePosixPath(MASKS_FOLDER) / mask_name(image) for image in images}
        self.names = {plain_name(image) for image in images}

    def __call__(self, path: PurePosixPath) -> bool:
        if path in self.masks:
            return True
        if OVERLAYS_FOLDER not in path.parts:
            return False
        if sheet := _SHEET.fullmatch(path.name):
            return any(int(sheet["first"]) <= rank <= int(sheet["last"]) for rank in self.ranks)
        one = _NUMBERED.fullmatch(path.name)
        return one["name"] in self.names if one else bool(self.ranks)  # a table of all picks


def left_behind(ledger: Ledger) -> list[Path]:
    """Files of the run's own folders that nothing has recorded, such as what is withdrawn.

    What a stage has begun to make is among them, so that they may be removed only by a process
    that has the folder to itself; trainings that go on are not.
    """
    recorded = {ledger.folder / name for name in ledger.files()}
    return sorted(file for file in _own_files(ledger.folder) if file not in recorded)


def withdrawn_files(ledger: Ledger) -> list[Path]:
    """Files that are there though what they are of is withdrawn."""
    log = ledger.pool_log
    if not log.withdrawn:
        return []
    showing = _Showing(log.gone, ())
    files = {
        ledger.folder / one.file
        for one in returns_of(ledger, withdrawn=True)
        if not log.keeps(one.image, one.box)
    }
    files |= {
        file
        for file in left_behind(ledger)
        if showing(PurePosixPath(file.relative_to(ledger.folder).as_posix()))
    }
    return sorted(file for file in files if file.is_file())


def sweep(ledger: Ledger) -> list[Path]:
    """Removes what `left_behind` names, and folders that are empty then.

    Returns:
        The files that were removed.
    """
    files = left_behind(ledger)
    for file in files:
        remove(file)
    for parent in {file.parent for file in files}:
        folder = parent
        while folder != ledger.folder and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent
    return files


def _own_files(folder: Path) -> Iterator[Path]:
    rounds = list((folder / ROUNDS_FOLDER).glob("[0-9][0-9][0-9]*"))
    for place in (folder, *rounds, *(one / SEED_FOLDER for one in rounds)):
        owns = [OVERLAYS_FOLDER, MASKS_FOLDER, RETURNS_FOLDER]
        # Those with a dot are of passes that were stopped.
        owns += [path.name for path in place.glob(f"{CANDIDATES_FOLDER}*")]
        owns += [path.name for path in place.glob(f".{CANDIDATES_FOLDER}*")]
        for name in owns:
            yield from (file for file in (place / name).rglob("*") if not file.is_dir())
    for place in rounds:
        yield from (
            file for file in place.iterdir() if not file.is_dir() and file.name != UNFINISHED_FILE
        )
