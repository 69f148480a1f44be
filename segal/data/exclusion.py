"""What is never annotated: a car's bonnet, a time stamp, a watermark."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import compress, pairwise, repeat
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.data.changes import count, listed
from segal.data.find import shortened
from segal.data.images import read_bytes, read_label
from segal.data.labelled import LabelCounts, LabelledDataset, PartlyLabelled
from segal.data.pool import ImagePool, Progress
from segal.errors import SegalError, raise_all
from segal.functional.coverage import remaining_pixels, row_boxes
from segal.functional.labels import drop_regions, has_class
from segal.system.files import file_digest
from segal.system.spreadsheet import NotATable, read_sheet, tidy

Excluded = Mapping[str, tuple[Box, ...]]
"""Boxes that do not overlap, by the path of an image that has some."""

COLUMNS = ("image", "x", "y", "width", "height")
_MAX_BOXES = 2**20  # of a mask
_FORMS = "one PNG mask of the images' size, a folder of masks by image name, or a CSV of boxes"


@dataclass(frozen=True)
class _Row:
    """A box of a table: of an image, or of all (an empty name)."""

    line: int
    image: str
    box: Box


@dataclass(frozen=True)
class Exclusion:
    """What is excluded, as it was given; made by `open`.

    Attributes:
        path: The mask, the folder of masks, or the table.
        masks: Of a folder, the masks by the image's path without its suffix.
        rows: Of a table, its boxes.
    """

    path: Path
    masks: Mapping[str, Path] | None = None
    rows: Sequence[_Row] | None = None

    @classmethod
    def open(cls, path: Path) -> "Exclusion":
        """Finds out what is given; no mask is read yet.

        Args:
            path: A PNG of the images' size, of which what is not 0 is excluded in all images; a
                folder of such, each named as its image (`street/7.png` for `street/7.jpg`); or a
                CSV with the columns image, x, y, width and height, a box a row, of all images where
                `image` is empty.

        Raises:
            SegalError: If it is none of these.
        """
        if path.is_dir():
            found = {
                file.relative_to(path).with_suffix("").as_posix(): file
                for file in sorted(path.rglob("*"))
                if file.suffix.lower() == ".png" and not file.name.startswith(".")
            }
            if not found:
                raise _wrong(path, "a folder without a PNG")
            return cls(path, masks=found)
        if not path.is_file():
            raise _wrong(path, "nothing there")
        if path.suffix.lower() == ".png":
            return cls(path)
        if path.suffix.lower() in {".csv", ".tsv", ".txt"}:
            return cls(path, rows=tuple(_read_rows(path)))
        raise _wrong(path, f"a file that ends with {path.suffix!r}")

    def digest(self) -> str:
        """A fingerprint of what is excluded, wherever it lies."""
        files = [("", self.path)] if self.masks is None else list(self.masks.items())
        digest = hashlib.sha256()
        for name, file in files:
            digest.update(f"{name}\0{file_digest(file)}\0".encode())
        return digest.hexdigest()

    def of(self, pools: Sequence[ImagePool], *, all_there: bool = True) -> list[Excluded]:
        """The boxes of each pool's images.

        Args:
            pools: The images.
            all_there: Whether every name that is given must be an image of these.

        Raises:
            SegalError: If a mask has not the size of its image, a name is no image's, a box lies
                outside of its image, or nothing of a pool is left.
        """
        errors = self._unknown(pools) if all_there else []
        found: list[Excluded] = []
        for pool in pools:
            boxes: dict[str, tuple[Box, ...]] = {}
            for i, path in enumerate(pool.paths):
                try:
                    mine = self._boxes(path, pool.size(i))
                except SegalError as error:
                    errors.append(error)
                    continue
                if mine:
                    boxes[path] = mine
            found.append(boxes)
        raise_all(shortened(errors))
        for pool, these in zip(pools, found, strict=True):
            if not any(_left(these.get(p, ()), pool.size(i)) for i, p in enumerate(pool.paths)):
                images = count(len(pool), "image")
                raise SegalError(
                    f"exclude: {self.path} leaves nothing of {images} of {pool.root}",
                    expected="pixels that are not excluded; in a mask those of value 0",
                    got=f"images that are excluded as a whole: {listed(pool.paths)}",
                    remedy="turn the mask round, or exclude less",
                )
        return found

    def _unknown(self, pools: Sequence[ImagePool]) -> list[SegalError]:
        paths = [path for pool in pools for path in pool.paths]
        if self.masks is not None:
            stems = {_stem(path) for path in paths}
            names = [f"{name}.png" for name in self.masks if name not in stems]
        else:
            there = {"", *paths}
            names = list(dict.fromkeys(r.image for r in self.rows or () if r.image not in there))
        names = [name for name in names if not _is_skipped(name, pools)]
        if not names:
            return []
        return [
            SegalError(
                f"exclude: {self.path} names what is no image",
                expected=f"names of images, such as {paths[0]}",
                got=f"{count(len(names), 'other')}: {listed(names)}",
                remedy="name masks and rows by the image's path below the folder of images; masks "
                "end with .png",
            )
        ]

    @cached_property
    def _rows_by_image(self) -> Mapping[str, Sequence[_Row]]:
        found: dict[str, list[_Row]] = {}
        for row in self.rows or ():
            found.setdefault(row.image, []).append(row)
        return found

    def _boxes(self, path: str, size: tuple[int, int]) -> tuple[Box, ...]:
        if self.rows is not None:
            by_image = self._rows_by_image
            rows = [*by_image.get("", ()), *by_image.get(path, ())]
            return _clipped(self.path, path, rows, size)
        file = self.path if self.masks is None else self.masks.get(_stem(path))
        if file is None:
            return ()
        status = file.stat()
        shape, boxes = _read_mask(file, (status.st_size, status.st_mtime_ns))
        if shape != size:
            raise SegalError(
                f"{file}: not of the size of {path}",
                expected=f"a mask of {size[1]} x {size[0]} pixels",
                got=f"{shape[1]} x {shape[0]}",
                remedy="draw it on the image as it is; where images differ in size give a folder "
                "of masks by image name, or a CSV of boxes",
            )
        return boxes


def never_annotated(
    exclude: Path | None, pools: Sequence[ImagePool], *, no_data: bool, all_there: bool = True
) -> list[Excluded]:
    """What is never annotated of each pool's images: what is excluded, and what has no data.

    Args:
        exclude: As `Exclusion.open` takes it; None for nothing.
        pools: The images.
        no_data: Whether parts of images without data are looked for.
        all_there: As `Exclusion.of` takes it.

    Raises:
        SegalError: As `Exclusion.of` does, and if an image cannot be read.
    """
    given = (
        [{} for _ in pools]
        if exclude is None
        else Exclusion.open(exclude).of(pools, all_there=all_there)
    )
    if not no_data:
        return given
    found: list[Excluded] = []
    for pool, excluded in zip(pools, given, strict=True):
        empty = pool.no_data()
        sizes = {path: pool.size(i) for i, path in enumerate(pool.paths) if path in empty}
        both = {
            path: apart((*excluded.get(path, ()), *boxes), sizes[path])
            for path, boxes in empty.items()
        }
        found.append({**excluded, **both})
    return found


def uncovered(boxes: Sequence[Box], excluded: Sequence[Box]) -> list[Box]:
    """Those boxes of which something is not excluded.

    Args:
        boxes: Of an image.
        excluded: Boxes that do not overlap.
    """
    return list(compress(boxes, remaining_pixels(boxes, excluded)))


def together(bought: Mapping[str, Sequence[Box]], excluded: Excluded) -> dict[str, list[Box]]:
    """Boxes by image of which nothing can be bought: what is bought, and what is excluded."""
    images = dict.fromkeys([*bought, *excluded])
    return {image: [*bought.get(image, ()), *excluded.get(image, ())] for image in images}


def excluded_pixels(boxes: Sequence[Box]) -> int:
    """Pixels of boxes that do not overlap."""
    return _area(boxes)


@dataclass(frozen=True, eq=False)
class RestOfDataset(PartlyLabelled):
    """A data set in which nothing is known of what is excluded.

    Attributes:
        dataset: It, with all its labels.
        excluded: Boxes by image index.
    """

    excluded: Mapping[int, Sequence[Box]]

    @classmethod
    def of(cls, dataset: LabelledDataset, excluded: Excluded) -> "RestOfDataset":
        """The data set without boxes that are given by path."""
        paths = enumerate(dataset.pool.paths)
        return cls(dataset, {i: excluded[path] for i, path in paths if path in excluded})

    def read_label(self, index: int) -> NDArray[Any]:
        """The label of an image; what is excluded has no class.

        Raises:
            SegalError: As `LabelledDataset.read_label` does.
        """
        label = self.dataset.read_label(index)
        return drop_regions(label, self.excluded.get(index, ()))  # type: ignore[no-any-return]

    def read_window(self, index: int, box: Box) -> NDArray[Any]:
        """As `LabelledDataset.read_window`; what is excluded has no class."""
        x0, y0, _, _ = box
        near = _common(box, self.excluded.get(index, ()))
        parts = [(a - x0, b - y0, c - x0, d - y0) for a, b, c, d in near]
        window = self.dataset.read_window(index, box)
        return drop_regions(window, parts)  # type: ignore[no-any-return]

    def check(
        self,
        indices: Iterable[int] | None = None,
        progress: Progress | None = None,
        within: Mapping[int, Sequence[Box]] | None = None,
    ) -> LabelCounts:
        """As `LabelledDataset.check`; what is excluded counts as void."""
        counts = self.dataset.check(indices, progress, within)
        chosen = sorted(within) if within is not None else indices
        pixels, void, empty = counts.pixels.copy(), counts.void, dict(counts.empty)
        for i in range(len(self)) if chosen is None else chosen:
            if i not in self.excluded or len(empty.get(i, ())) == len((within or {}).get(i, "1")):
                continue  # of a label that is not there, or all void, nothing more is lost
            height, width = self.pool.size(i)
            boxes = [(0, 0, width, height)] if within is None else within[i]
            label, rest = self.dataset.read_label(i), self.read_label(i)
            inside = np.zeros(label.shape, np.bool_)
            for x0, y0, x1, y1 in boxes:
                inside[y0:y1, x0:x1] = True
            lost = label[inside & has_class(label) & ~has_class(rest)]
            pixels -= np.bincount(lost, minlength=len(pixels))
            void += len(lost)
            none = [b for b in boxes if not has_class(rest[b[1] : b[3], b[0] : b[2]]).any()]
            if none:
                empty[i] = none
        return replace(counts, pixels=pixels, void=void, empty=empty)

    def digest(self, indices: Iterable[int] | None = None) -> str:
        """As `LabelledDataset.digest`; what is excluded is told elsewhere."""
        return self.dataset.digest(indices)

    def digests(self, indices: Iterable[int] | None = None) -> dict[str, str]:
        """As `LabelledDataset.digests`, likewise."""
        return self.dataset.digests(indices)

    def subset(self, indices: Iterable[int]) -> "RestOfDataset":
        """As `LabelledDataset.subset`."""
        chosen = list(indices)
        kept = {new: self.excluded[old] for new, old in enumerate(chosen) if old in self.excluded}
        return RestOfDataset(self.dataset.subset(chosen), kept)


def _stem(path: str) -> str:
    return PurePosixPath(path).with_suffix("").as_posix()


def _is_skipped(name: str, pools: Sequence[ImagePool]) -> bool:
    """Whether an image of that name, whatever its suffix, was left out as it cannot be read."""
    return any(r.startswith(f"{p.root / _stem(name)}.") for p in pools for r in p.skipped)


def _wrong(path: Path, got: str) -> SegalError:
    return SegalError(
        f"exclude: {path} says not what is excluded", expected=_FORMS, got=got, remedy="give such"
    )


@lru_cache(maxsize=8)
def _read_mask(file: Path, _: tuple[int, int]) -> tuple[tuple[int, int], tuple[Box, ...]]:
    """(height, width), and what is excluded, of a file of some size and time."""
    values = read_label(file)
    height, width = values.shape
    boxes = row_boxes(values != 0, width, _MAX_BOXES)
    if boxes is None:
        raise SegalError(
            f"{file}: too ragged a mask",
            expected=f"one of at most {_MAX_BOXES:,} boxes",
            got="one of more: single pixels are boxes of their own",
            remedy="draw it with straight edges, or give a CSV of boxes",
        )
    return (height, width), tuple(boxes)


def _clipped(
    table: Path, path: str, rows: Sequence[_Row], size: tuple[int, int]
) -> tuple[Box, ...]:
    height, width = size
    boxes = []
    for row in rows:
        x0, y0, x1, y1 = row.box
        box = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if box[0] >= box[2] or box[1] >= box[3]:
            raise SegalError(
                f"{table}, line {row.line}: outside of {path}",
                expected=f"a box that meets the image's {width} x {height} pixels",
                got=f"x {x0}, y {y0}, {x1 - x0} x {y1 - y0}",
                remedy="give x, y, width and height in pixels of the image, after its EXIF "
                "orientation",
            )
        boxes.append(box)
    return apart(tuple(boxes), size)


@lru_cache(maxsize=64)
def apart(boxes: tuple[Box, ...], size: tuple[int, int]) -> tuple[Box, ...]:
    """The same pixels, in boxes that do not overlap.

    Args:
        boxes: Of an image, within it.
        size: (height, width) of the image.
    """
    if len(boxes) < 2:
        return boxes
    found = row_boxes(_rows(boxes, size), size[1])
    assert found is not None
    return tuple(found)


def _rows(boxes: Sequence[Box], size: tuple[int, int]) -> Iterator[NDArray[np.bool_]]:
    """The rows of the mask of some boxes, one after another."""
    height, width = size
    sides = np.asarray(boxes, np.int64)
    row = np.zeros(width, np.bool_)
    edges = np.unique(np.concatenate([[0, height], sides[:, 1], sides[:, 3]]))
    for top, bottom in pairwise(edges[edges <= height].tolist()):
        row = np.zeros(width, np.bool_)
        for x0, _, x1, _ in sides[(sides[:, 1] <= top) & (bottom <= sides[:, 3])].tolist():
            row[x0:x1] = True
        yield from repeat(row, bottom - top)


def _common(box: Box, others: Sequence[Box]) -> list[Box]:
    x0, y0, x1, y1 = box
    cut = [(max(x0, a), max(y0, b), min(x1, c), min(y1, d)) for a, b, c, d in others]
    return [part for part in cut if part[0] < part[2] and part[1] < part[3]]


def _area(boxes: Iterable[Box]) -> int:
    return sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes)


def _left(boxes: Sequence[Box], size: tuple[int, int]) -> int:
    return size[0] * size[1] - _area(boxes)


def _read_rows(path: Path) -> Iterator[_Row]:
    try:
        rows = read_sheet(read_bytes(path), COLUMNS).rows
        line, header = next(rows, (1, []))
        names = [tidy(name) for name in header]
        missing = [name for name in COLUMNS if name not in names]
        if missing:
            raise NotATable(
                line,
                "columns " + ", ".join(COLUMNS),
                f"none of the name {', '.join(missing)}",
                "name them in the first line; leave image empty for all images",
            )
        places = [names.index(name) for name in COLUMNS]
        for line, row in rows:
            yield _row(line, [row[p].strip() if p < len(row) else "" for p in places])
    except NotATable as error:
        raise SegalError(
            f"{path}, line {error.line}: not a table of boxes",
            expected=error.expected,
            got=error.got,
            remedy=error.remedy or "mend the line",
        ) from error


def _row(line: int, fields: Sequence[str]) -> _Row:
    image, *numbers = fields
    try:
        x, y, width, height = (_whole(number) for number in numbers)
    except ValueError as error:
        raise NotATable(line, "whole numbers", ", ".join(numbers)) from error
    if width < 1 or height < 1:
        raise NotATable(line, "a width and a height of at least 1", f"{width} x {height}")
    return _Row(line, image, (x, y, x + width, y + height))


def _whole(text: str) -> int:
    number = float(text)
    if not number.is_integer() or abs(number) > 1e9:
        raise ValueError(text)
    return int(number)
