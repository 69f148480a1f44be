"""Labels that were corrected after they were bought: what is trained again, and what is history.

A network is trained again if one of its labels is another now, and evaluated again; those of the
rounds before stay. What was bought stays bought, and so does what it was picked by: no label can
make undone what annotators were paid for. Only a choice that nothing was bought by is made again.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from segal.candidates.regions import Box
from segal.data.changes import count, listed
from segal.runs.history import round_folder
from segal.runs.ledger import Ledger, Purchase
from segal.runs.oracle import Oracle
from segal.runs.texts import drop_text
from segal.system.files import remove

_TRAINED = {"train", "evaluate"}


def book_corrections(ledger: Ledger, oracle: Oracle, stale: Sequence[str]) -> None:
    """Compares the labels of all that is bought with what they were when they were trained on.

    Nothing is compared of what has no label yet, nor in a run of a version that did not book what
    labels said.

    Args:
        ledger: Of the run.
        oracle: Knows the labels as they are now.
        stale: Names of files that a change makes stale: of the run folder, or of a round's.

    Raises:
        SegalError: If a label cannot be read.
    """
    bought = first_trained(ledger.held("seed"), ledger.held("buy"))
    bought = {p: first for p, first in bought.items() if p.label is not None}
    now = labels_now(oracle, bought)
    changed = [
        replace(p, label=now[p.image, p.box]) for p in bought if p.label != now[p.image, p.box]
    ]
    if not changed:
        return
    places = {(p.image, p.box) for p in changed}
    since = min(first for p, first in bought.items() if (p.image, p.box) in places)
    phases = {(p.name, p.round) for p in ledger.phases() if p.name != "seed" and p.round >= since}
    undone = to_be_done_again(phases)
    for name in stale:
        drop_text(ledger, name)
        for number in range(since, max((n for _, n in phases), default=since) + 2):
            remove(round_folder(ledger.folder, number) / name)
    ledger.correct(changed, sorted(undone), sorted(phases - undone), since)


def first_trained(seed_set: Iterable[Purchase], bought: Iterable[Purchase]) -> dict[Purchase, int]:
    """The round whose network was the first to be trained on each purchase.

    Args:
        seed_set: Those of before the first round.
        bought: Those of after each.
    """
    return dict.fromkeys(seed_set, 0) | {p: (p.round or 0) + 1 for p in bought}


def to_be_done_again(phases: Collection[tuple[str, int]]) -> set[tuple[str, int]]:
    """Of phases whose labels are others now, those that are no history: see above.

    Args:
        phases: Name and round of each; all that come after the first of them.
    """
    return {
        (name, number)
        for name, number in phases
        if name in _TRAINED or ("buy", number) not in phases
    }


def book_answers(ledger: Ledger, oracle: Oracle) -> None:
    """Books what the labels say that people gave back to what had none.

    Args:
        ledger: Of the run.
        oracle: Knows the labels as they are now.

    Raises:
        SegalError: If a label cannot be read.
    """
    new = [p for p in ledger.held() if p.label is None]
    new = [p for p in new if not oracle.waits_for({p.image: [p.box]})]
    now = labels_now(oracle, new)
    ledger.correct([replace(p, label=now[p.image, p.box]) for p in new], [], [], 0)


def labels_now(oracle: Oracle, bought: Iterable[Purchase]) -> dict[tuple[str, Box], str]:
    """Digests of what labels say of regions now, by image and box.

    Args:
        oracle: Knows the labels.
        bought: The regions.

    Raises:
        SegalError: If a label cannot be read.
    """
    boxes: dict[str, list[Box]] = {}
    for purchase in bought:
        boxes.setdefault(purchase.image, []).append(purchase.box)
    return {
        (image, box): digest
        for image, found in boxes.items()
        for box, digest in zip(found, oracle.digests(image, found), strict=True)
    }


def correction_notes(ledger: Ledger) -> list[str]:
    """What to tell of labels that were corrected once they had been trained on."""
    booked: dict[tuple[str, int], list[tuple[str, Box]]] = {}
    for found, since, image, box in ledger.corrections():
        booked.setdefault((found, since), []).append((image, box))
    return [
        f"Labels of {count(len(regions), 'bought region')} are others since {found} than they were "
        f"when they were trained on ({listed([_named(*region) for region in regions])}). Round "
        f"{since} and what came after it by then were trained and evaluated again; what was bought "
        "stays bought, as the networks of before had picked it."
        for (found, since), regions in booked.items()
    ]


def _named(image: str, box: Box) -> str:
    x0, y0, x1, y1 = box
    return f"{image} at x {x0}, y {y0}, {x1 - x0} x {y1 - y0}"
