"""How the pool of a run has changed since it began: images added, moved and withdrawn, in order.

An image keeps the name in the ledger that it had first, wherever its file lies by now: what was
bought, handed out and given back goes by that name. A step is one purchase of a run, counted from
0: its seed set, then what was bought after each round. A change counts from a step on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeVar

from segal.candidates.regions import Box
from segal.data.exclusion import Excluded, apart
from segal.data.labelled import LabelledDataset
from segal.data.pool import ImagePool

Kind = Literal["add", "move", "withdraw"]
Dataset = TypeVar("Dataset", bound=LabelledDataset)


@dataclass(frozen=True)
class PoolChange:
    """One image that was added, moved or withdrawn.

    Attributes:
        kind: Which of these.
        image: Its name in the run; empty for an image that the run never had, which a run that it
            goes on from has withdrawn.
        digest: sha256 of its file.
        step: The first purchase that it counts for.
        box: What was withdrawn; None for all of the image.
        pixels: Elements of the pool that are withdrawn by it.
        file: Of an image that moved, where it lies.
        reason: As it was given.
        made: When (UTC, ISO 8601); set by the ledger.
    """

    kind: Kind
    image: str
    digest: str
    step: int
    box: Box | None = None
    pixels: int = 0
    file: str = ""
    reason: str = ""
    made: str = ""


@dataclass(frozen=True)
class Withdrawn:
    """What is withdrawn, by content: it is known under any name, and in any other run.

    Attributes:
        images: Digests of images that are withdrawn as a whole.
        boxes: What is withdrawn of others, by digest.
    """

    images: frozenset[str] = frozenset()
    boxes: Mapping[str, tuple[Box, ...]] | None = None

    def __bool__(self) -> bool:
        """Whether anything is."""
        return bool(self.images or self.boxes)

    def __or__(self, other: "Withdrawn") -> "Withdrawn":
        """What either of them has."""
        mine, theirs = self.boxes or {}, other.boxes or {}
        both = {
            digest: tuple(dict.fromkeys([*mine.get(digest, ()), *theirs.get(digest, ())]))
            for digest in sorted(mine.keys() | theirs.keys())
        }
        return Withdrawn(self.images | other.images, both)

    def left(self, pool: ImagePool) -> list[int]:
        """Images that are not withdrawn as a whole, by index."""
        return [i for i in range(len(pool)) if pool.infos[i].digest not in self.images]

    def holds(self, digest: str, box: Box) -> bool:
        """Whether a region is withdrawn."""
        return digest in self.images or is_within(box, (self.boxes or {}).get(digest, ()))

    def together(self, pool: ImagePool, excluded: Excluded) -> dict[str, tuple[Box, ...]]:
        """What is excluded of a pool, and what is withdrawn of it, in boxes that do not overlap."""
        found = dict(excluded)
        for i, path in enumerate(pool.paths):
            boxes = (self.boxes or {}).get(pool.infos[i].digest)
            if boxes:
                found[path] = apart((*excluded.get(path, ()), *boxes), pool.size(i))
        return found


def is_within(box: Box, others: Sequence[Box]) -> bool:
    """Whether one of several boxes holds a box."""
    x0, y0, x1, y1 = box
    return any(a <= x0 and b <= y0 and x1 <= c and y1 <= d for a, b, c, d in others)


@dataclass(frozen=True)
class PoolLog:
    """All changes of a run's pool, in order.

    Attributes:
        changes: They.
    """

    changes: Sequence[PoolChange] = ()

    @cached_property
    def withdrawn(self) -> Withdrawn:
        """What is withdrawn, by content."""
        boxes: dict[str, tuple[Box, ...]] = {}
        images = set()
        for one in self.changes:
            if one.kind == "withdraw" and one.box is None:
                images.add(one.digest)
            elif one.kind == "withdraw" and one.box is not None:
                boxes[one.digest] = (*boxes.get(one.digest, ()), one.box)
        return Withdrawn(
            frozenset(images), {d: found for d, found in boxes.items() if d not in images}
        )

    @cached_property
    def gone(self) -> frozenset[str]:
        """Names of the run's images that are withdrawn as a whole."""
        return frozenset(
            one.image
            for one in self.changes
            if one.kind == "withdraw" and one.box is None and one.image
        )

    @cached_property
    def boxes(self) -> Mapping[str, tuple[Box, ...]]:
        """What is withdrawn of the other images, by name."""
        found: dict[str, tuple[Box, ...]] = {}
        for one in self.changes:
            if one.kind == "withdraw" and one.box is not None and one.image not in self.gone:
                found[one.image] = (*found.get(one.image, ()), one.box)
        return found

    @cached_property
    def files(self) -> Mapping[str, str]:
        """Where images that moved lie, by name."""
        return {one.image: one.file for one in self.changes if one.kind == "move"}

    @cached_property
    def last_step(self) -> int:
        """The first purchase that the last change counts for; moves change nothing."""
        return max((one.step for one in self.changes if one.kind != "move"), default=0)

    def keeps(self, image: str, box: Box) -> bool:
        """Whether a region, by its image's name, is not withdrawn."""
        return image not in self.gone and not is_within(box, self.boxes.get(image, ()))

    def is_there(self, image: str, step: int) -> bool:
        """Whether an image was in the pool for a purchase."""
        mine = [one for one in self.changes if one.image == image]
        added = next((one.step for one in mine if one.kind == "add"), 0)
        gone = [one.step for one in mine if one.kind == "withdraw" and one.box is None]
        return added <= step and not any(one <= step for one in gone)

    def pixels_of(self, image: str, step: int) -> int:
        """Elements of an image that were withdrawn by the time of a purchase, but not all of it."""
        return sum(
            one.pixels
            for one in self.changes
            if (one.image, one.kind) == (image, "withdraw") and one.box and one.step <= step
        )

    def pool(self, pool: ImagePool) -> ImagePool:
        """A pool as it is opened, as the run knows it: see `dataset`."""
        chosen, renamed = self._chosen(pool)
        return renamed(pool if chosen is None else pool.subset(chosen))

    def dataset(self, dataset: Dataset) -> Dataset:
        """A data set as it is opened, as the run knows it.

        Images that are withdrawn are left out, whatever they are called. Those that moved have the
        names that they had first, and their places.
        """
        chosen, renamed = self._chosen(dataset.pool)
        if chosen is not None:
            dataset = dataset.subset(chosen)
        pool = renamed(dataset.pool)
        return dataset if pool is dataset.pool else dataset.with_pool(pool)

    def _chosen(self, pool: ImagePool) -> tuple[list[int] | None, Callable[[ImagePool], ImagePool]]:
        """Which images, in which order; None for all. And what gives them their names."""
        images = self.withdrawn.images
        chosen = None
        if images and len(left := self.withdrawn.left(pool)) < len(pool):
            chosen = left
        names = {file: name for name, file in self.files.items() if name not in self.gone}
        if not names.keys() & set(pool.paths):
            return chosen, lambda found: found
        indices = range(len(pool)) if chosen is None else chosen
        named = sorted(
            (names.get(pool.paths[i], pool.paths[i]).encode(errors="surrogateescape"), i)
            for i in indices
        )

        def renamed(found: ImagePool) -> ImagePool:
            paths = tuple(names.get(path, path) for path in found.paths)
            return replace(found, paths=paths, files=tuple(found.paths))

        return [i for _, i in named], renamed
