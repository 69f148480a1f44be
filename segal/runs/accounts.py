"""Whether a ledger's account is right: what was charged, skipped, and came back."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from segal.annotation.questions import QUESTIONS
from segal.candidates.selection import ANNOTATE
from segal.errors import SegalError
from segal.functional.coverage import remaining_pixels
from segal.runs.ledger import Ledger, Purchase
from segal.runs.returns import read_return, returns_of
from segal.runs.reviews import skips_of


def account_problems(ledger: Ledger, question: str) -> list[str]:
    """What is wrong: elements that were charged twice or not at all, answers that say otherwise.

    Args:
        ledger: Of a run.
        question: The name of the task.

    Returns:
        A line for each mistake; none of a ledger that only segal wrote.
    """
    return [*_charges(ledger), *_skips(ledger), *_answers(ledger, question)]


def _skips(ledger: Ledger) -> Iterator[str]:
    """Nothing of what was skipped in a review is bought."""
    bought = ledger.bought()
    for one in skips_of(ledger):
        if int(remaining_pixels([one.box], bought.get(one.image, []))[0]) < one.pixels:
            yield f"{one.image} at {list(one.box)} was skipped, and is bought"


def _charges(ledger: Ledger) -> Iterator[str]:
    """Every purchase is charged what no purchase before it has bought, but for what is excluded."""
    excluded = ledger.excluded_images() | set(ledger.pool_log.boxes)
    before: dict[str, list[tuple[int, int, int, int]]] = {}
    for one in ledger.purchases():
        boxes = before.setdefault(one.image, [])
        left = int(remaining_pixels([one.box], boxes)[0])
        charged, fits = one.pixels or 0, one.pixels == left
        if one.image in excluded:
            fits = 0 < charged <= left
        if not fits:
            yield f"{one.image} at {list(one.box)} was charged {charged}, and {left} were left"
        boxes.append(one.box)


def _answers(ledger: Ledger, question: str) -> Iterator[str]:
    for one in returns_of(ledger):
        try:
            label = read_return(ledger.folder, one, question)
        except SegalError as error:
            yield str(error.problem)
            continue
        if QUESTIONS[question].digest(label) != one.label:
            yield f"{one.file} says something else than was booked"


def mask_problems(folder: Path, bought: Sequence[Purchase], cut: Collection[str]) -> list[str]:
    """Whether masks ask for what was bought, and for nothing else.

    Args:
        folder: Of a selection's masks.
        bought: By the selection, and not withdrawn.
        cut: Images of which a part is withdrawn, so that less may be asked for.
    """
    problems, by_image = [], dict[str, list[Purchase]]()
    for one in bought:
        by_image.setdefault(one.image, []).append(one)
    for image, purchases in by_image.items():
        path = folder / PurePosixPath(image).with_suffix(".png")
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
        if mask is None:
            problems.append(f"{path} cannot be read")
            continue
        asked = np.asarray(mask) == ANNOTATE
        within = np.zeros(asked.shape, np.bool_)
        for x0, y0, x1, y1 in (p.box for p in purchases):
            within[y0:y1, x0:x1] = True
        charged = sum(p.pixels or 0 for p in purchases)
        wrong = (asked & ~within).any() or int(asked.sum()) != charged
        if wrong if image not in cut else (asked & ~within).any():
            problems.append(f"{path} asks for {int(asked.sum())} pixels, and {charged} were bought")
    return problems
