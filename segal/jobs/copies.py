"""Images of a pool that are copies of others: found by their bytes, said, and left out."""

from collections.abc import Mapping, Sequence

from segal.candidates.regions import Box
from segal.data.changes import count, listed
from segal.data.pool import ImagePool


def first_of_each(
    pool: ImagePool, labelled: Mapping[int, Sequence[Box]] | None = None
) -> list[int]:
    """The images that stand for all others of the same bytes, by index.

    Args:
        pool: The images.
        labelled: Boxes by image index; of copies, one that something is labelled of comes first.
    """
    chosen: dict[str, int] = {}
    for i in sorted(range(len(pool)), key=lambda i: i not in (labelled or {})):
        chosen.setdefault(pool.infos[i].digest, i)
    return sorted(chosen.values())


def without_copies(
    pool: ImagePool, labelled: Mapping[int, Sequence[Box]]
) -> tuple[ImagePool, dict[int, list[Box]]]:
    """One image of each content; what is labelled of its copies is labelled of it.

    Args:
        pool: The images.
        labelled: Boxes by image index.

    Returns:
        The pool of these images, and the boxes by index in it.
    """
    kept = first_of_each(pool, labelled)
    places = {pool.infos[i].digest: place for place, i in enumerate(kept)}
    boxes: dict[int, set[Box]] = {}
    for i, found in labelled.items():
        boxes.setdefault(places[pool.infos[i].digest], set()).update(found)
    ordered = {i: sorted(boxes[i], key=lambda b: (b[1], b[0], b)) for i in sorted(boxes)}
    return pool.subset(kept), ordered


def copies_notes(pool: ImagePool, *, unique: bool = False) -> list[str]:
    """What to tell of copies in a pool: nothing where there are none.

    Args:
        pool: All images.
        unique: Whether one of each content is offered only.
    """
    kept = set(first_of_each(pool))
    copies = [path for i, path in enumerate(pool.paths) if i not in kept]
    if not copies:
        return []
    said = (
        f"{count(len(copies), 'image')} of {len(pool)} repeat others byte by byte "
        f"({listed(copies)})"
    )
    if unique:
        return [f"{said}: one of each content is offered."]
    return [
        f"{said}: the same content may be bought more than once. unique=true offers one of each."
    ]
