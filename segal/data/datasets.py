"""Labelled data sets: a pool of images, and where their labels are."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.data import ade20k, camvid, cityscapes, folder, label_mistakes, voc
from segal.data.find import check_path, find_images, found_as, real_path, shortened
from segal.data.image_file import RGB, Reading
from segal.data.images import (
    ImageInfo,
    read_bytes,
    read_label,
    read_label_colours,
)
from segal.data.labelled import LabelCounts, LabelledDataset
from segal.data.layout import (
    Classes,
    LabelOptions,
    LayoutModule,
    Source,
    indented,
    known_layout,
    no_single_layout,
    value_counts,
)
from segal.data.pool import ImagePool, Progress, open_pool
from segal.data.windows import open_label_windows
from segal.errors import SegalError, raise_all
from segal.functional.labels import IGNORE_INDEX, has_class
from segal.system.files import is_there
from segal.system.unicode_forms import form_only, lookalike

__all__ = [
    "IGNORE_INDEX",
    "Classes",
    "LabelCounts",
    "LabelFiles",
    "LabelOptions",
    "LabelledDataset",
    "find_source",
    "is_dataset",
    "layout_name",
    "open_dataset",
    "splits",
]

Chooser = Callable[[Path, Sequence[str]], Collection[str]]
"""Chooses among all images of a folder, which are given by their paths below it."""

_LAYOUTS: dict[str, LayoutModule] = {
    "ade20k": ade20k,
    "camvid": camvid,
    "cityscapes": cityscapes,
    "folder": folder,
    "voc": voc,
}


LAYOUTS = tuple(_LAYOUTS)
"""Names of the layouts, but for `auto`."""


def layout_name(text: str) -> str:
    """The name of a layout, or auto.

    Raises:
        SegalError: For any other text.
    """
    return known_layout(text, _LAYOUTS)


@dataclass(frozen=True, eq=False)
class LabelFiles(LabelledDataset):
    """Images with a file of labels each: the class of every pixel.

    Attributes:
        pool: The images.
        label_paths: The label file of each image.
        classes: The classes.
    """

    pool: ImagePool
    label_paths: tuple[Path, ...]
    classes: Classes

    def read_label(self, index: int) -> NDArray[np.uint8]:
        """Reads the label of an image.

        Returns:
            (H, W) uint8, of the image's size: classes 0 to C - 1, or 255 where it is ignored.

        Raises:
            SegalError: If it cannot be read, differs from the image in size, or holds values that
                the classes do not have.
        """
        return self.classes.map(self._read_values(index))

    def read_window(self, index: int, box: Box) -> NDArray[np.uint8]:
        """As `LabelledDataset.read_window`; of a large TIFF nothing else is decoded."""
        path, size = self.label_paths[index], self.pool.size(index)
        windows = None
        if self.pool.is_large(index) and self.classes.colours is None:
            windows = open_label_windows(path, Reading(large=self.pool.reading.large))
        if windows is None:
            return super().read_window(index, box)
        image = self.pool.root / self.pool.paths[index]
        if windows.shape != size:
            page = self.pool.reading.page
            raise label_mistakes.other_size(path, image, page, windows.shape, size)
        values = windows.label(box)
        illegal = self.classes.illegal(values)
        if illegal:
            raise label_mistakes.illegal_values(path, image, self.classes, values, illegal)
        return self.classes.map(values)

    def has_label(self, index: int) -> bool:
        """Whether the label file of an image is there."""
        return is_there(self.label_paths[index])

    def _read_values(self, index: int) -> NDArray[np.uint8]:
        """What the label file holds, (H, W) uint8: values that are all legal."""
        image, path = self.pool.root / self.pool.paths[index], self.label_paths[index]
        colours = None if self.classes.colours is None else read_label_colours(path)
        values = read_label(path) if colours is None else self.classes.decode(colours)
        if values.shape != self.pool.size(index):
            page = self.pool.reading.page
            raise label_mistakes.other_size(path, image, page, values.shape, self.pool.size(index))
        illegal = self.classes.illegal(values)
        if illegal and colours is not None:
            unlisted = colours[~self.classes.legal[values]]
            raise label_mistakes.unlisted_colours(path, image, self.classes, unlisted)
        if illegal:
            raise label_mistakes.illegal_values(path, image, self.classes, values, illegal)
        return values

    def check(
        self,
        indices: Iterable[int] | None = None,
        progress: Progress | None = None,
        within: Mapping[int, Sequence[Box]] | None = None,
    ) -> LabelCounts:
        """Reads labels, all by default, and raises all mistakes at once.

        Args:
            indices: Images whose labels are read.
            progress: Called with (labels done, all labels) after each.
            within: Boxes by image index; only these images are read, and counted within these. A
                label file that is not there counts as void.

        Returns:
            What they hold.

        Raises:
            SegalError: As `read_label` does.
        """
        chosen = list(range(len(self)) if indices is None else indices)
        if within is not None:
            chosen = sorted(within)
        errors, counted = [], np.zeros(256, np.int64)
        empty: dict[int, list[Box]] = {}
        for done, index in enumerate(chosen, start=1):
            height, width = self.pool.size(index)
            boxes = [(0, 0, width, height)] if within is None else list(within[index])
            try:
                if within is None or self.has_label(index):
                    values = self._read_values(index)
                    found = _count(values, boxes)
                    counted += found
                    void = self._void(values, boxes, found)
                else:
                    void = boxes
                if void:
                    empty[index] = void
            except SegalError as error:
                errors.append(error)
            if progress is not None:
                progress(done, len(chosen))
        raise_all(shortened(errors))
        pixels = self.classes.counts(counted)
        return LabelCounts(pixels, int(counted.sum() - pixels.sum()), counted, empty)

    def _void(
        self, values: NDArray[np.uint8], boxes: Sequence[Box], counts: NDArray[np.int64]
    ) -> list[Box]:
        """Those boxes in which all is ignored; `counts` are of the values in their union."""
        if len(boxes) == 1:
            return [] if self.classes.counts(counts).any() else list(boxes)
        label = self.classes.map(values)
        return [
            (x0, y0, x1, y1) for x0, y0, x1, y1 in boxes if not has_class(label[y0:y1, x0:x1]).any()
        ]

    def digest(self, indices: Iterable[int] | None = None) -> str:
        """A fingerprint of labels, all by default: of their files' bytes and of the classes.

        Args:
            indices: Images whose labels count; no other label is read.

        Returns:
            A sha256 in hexadecimal digits.

        Raises:
            SegalError: If a label cannot be read.
        """
        files = list(map(list, self.digests(indices).items()))
        mapping: list[object] = [self.classes.names, self.classes.lookup.tolist()]
        if self.classes.colours is not None:
            mapping.append(self.classes.colours.tolist())
        text = json.dumps([*mapping, files])
        return hashlib.sha256(text.encode()).hexdigest()

    def digests(self, indices: Iterable[int] | None = None) -> dict[str, str]:
        """As `LabelledDataset.digests`: of the files' bytes."""
        chosen = range(len(self)) if indices is None else indices
        return {
            self.pool.paths[i]: hashlib.sha256(read_bytes(self.label_paths[i])).hexdigest()
            for i in chosen
        }

    def refuse_values(self, split: str, counts: LabelCounts) -> None:
        """Raises a SegalError for masks of 0 and 255 where 255 is void since none said other."""
        label_mistakes.refuse_black_and_white(self.pool.root, split, self.classes, counts.values)

    def subset(self, indices: Iterable[int]) -> Self:
        """The data set of some of the images, in the order given."""
        chosen = list(indices)
        labels = tuple(self.label_paths[index] for index in chosen)
        return replace(self, pool=self.pool.subset(chosen), label_paths=labels)


def is_dataset(root: Path) -> bool:
    """Whether a folder looks like a data set of some layout."""
    return any(layout.found(root) for layout in _LAYOUTS.values())


def refuse_dataset(root: Path) -> None:
    """Raises a SegalError for a data set where a folder of images is wanted.

    Its label files are images too, and so are those of the other splits.
    """
    if not is_dataset(root):
        return
    try:
        images = [find_source(root, one, "auto", LabelOptions()).images for one in splits(root)]
    except SegalError:  # whatever is wrong with its labels is no matter here
        images = []
    raise SegalError(
        f"{root}: a data set, whose labels and other splits would be taken for images",
        expected="the folder of the images to choose from",
        got="the folder above images and labels",
        remedy=f"give {' or '.join(dict.fromkeys(map(str, images)))}"
        if images
        else "give the folder that holds the images alone",
    )


def splits(root: Path, layout: str = "auto") -> list[str]:
    """The splits of a data set, sorted.

    Raises:
        SegalError: If the folder has no known layout.
    """
    return _LAYOUTS[_detect(root, layout)].splits(root)


def open_dataset(
    root: Path,
    split: str,
    *,
    layout: str = "auto",
    ignore_index: int | None = None,
    reduce_zero_label: bool = False,
    label_suffix: str | None = None,
    skip_unreadable: bool = False,
    workers: int = 1,
    known: Mapping[str, tuple[int, int, ImageInfo]] | None = None,
    progress: Progress | None = None,
    reading: Reading = RGB,
    only: Collection[str] | Chooser | None = None,
    missing_labels: bool = False,
) -> LabelFiles:
    """Opens one split of a data set. Labels are found, but not read.

    Args:
        root: Folder of the data set.
        split: Such as train.
        layout: How files are laid out: as the module of that name in `segal.data` says, or auto to
            tell from the folders.
        ignore_index: As in `LabelOptions`, and so are the next two.
        reduce_zero_label: Whether 0 stands for no class.
        label_suffix: What follows an image's name in its label's.
        skip_unreadable: As `open_pool` takes it, and so are the rest.
        workers: Threads that inspect images.
        known: Earlier inspections.
        progress: Called with (images done, all images).
        reading: Which bands of which page, and what values become 0 and 1.
        only: Images to open, by their paths below the split's folder, or what chooses them from
            all paths; the others need no label.
        missing_labels: Whether a label file may be missing; its path is then where it should be.

    Raises:
        SegalError: If layout or split is not there, an image of `only` is not, a link leads out of
            the root, or an image cannot be read or has no label.
    """
    options = LabelOptions(ignore_index, reduce_zero_label, label_suffix)
    source = find_source(root, split, layout, options)
    check_path(root, source.images.relative_to(root).as_posix(), real_path(root))
    chosen = source.paths if only is None else _chosen(root, split, only, source)
    try:
        pool = open_pool(
            source.images,
            chosen,
            skip_unreadable=skip_unreadable,
            known=known,
            workers=workers,
            progress=progress,
            reading=reading,
        )
    except SegalError as error:
        # What is wrong with labels is told along with it, where it is known which there must be.
        labels = [] if chosen is None else _find_labels(root, source, chosen, missing_labels)[1]
        raise_all([error, *shortened(labels)])
        raise
    if source.other:
        pool = replace(pool, other=source.other)
    labels_found, errors = _find_labels(root, source, pool.paths, missing_labels)
    raise_all(shortened(errors))
    return LabelFiles(pool, labels_found, source.classes)


def find_source(root: Path, split: str, layout: str, options: LabelOptions) -> Source:
    """Where the files of a split are; no image is opened.

    Raises:
        SegalError: If layout or split is not there, or its classes are wrong.
    """
    name = _detect(root, layout)
    there = _LAYOUTS[name].splits(root)
    if split not in there:
        raise SegalError(
            f"{root}: there is no split {split!r}",
            expected=f"one of {', '.join(there)}"
            if there
            else "splits, as in\n" + indented(_LAYOUTS[name].LAYOUT),
            got=split,
            remedy="choose one that is there, or check the path",
        )
    return _LAYOUTS[name].source(root, split, options)


def _chosen(root: Path, split: str, only: Collection[str] | Chooser, source: Source) -> list[str]:
    """The images of `only`, each of which must be one of the split's."""
    there = find_images(source.images) if source.paths is None else source.paths
    chosen = set(only(source.images, there) if callable(only) else only)
    foreign = sorted(chosen - set(there))
    if foreign:
        alike = lookalike(foreign[0], there)
        raise SegalError(
            f"{root}: images that are not of split {split!r}",
            expected=f"paths relative to {source.images}",
            got=", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else ""),
            remedy=form_only(foreign[0], alike)
            if alike
            else "choose the split that they were selected from, and select with that folder "
            "as --images",
        )
    return list(chosen)


def _find_labels(
    root: Path, source: Source, paths: Sequence[str], may_miss: bool
) -> tuple[tuple[Path, ...], list[SegalError]]:
    """The label of every image, and what is wrong with those that cannot be taken."""
    real_root = real_path(root)
    labels, errors = [], []
    for path in paths:
        try:
            label = source.label_of(path)
            if is_there(label):
                check_path(root, label.relative_to(root).as_posix(), real_root)
            elif not may_miss:
                raise label_mistakes.no_label(source.images / path, label, found_as(label))
            labels.append(label)
        except SegalError as error:
            errors.append(error)
    return tuple(labels), errors


def _count(values: NDArray[np.uint8], boxes: Sequence[Box]) -> NDArray[np.int64]:
    """Pixels of each value, (256,), in the union of boxes."""
    if len(boxes) == 1:
        x0, y0, x1, y1 = boxes[0]
        return value_counts(values[y0:y1, x0:x1])
    inside = np.zeros(values.shape, np.bool_)
    for x0, y0, x1, y1 in boxes:
        inside[y0:y1, x0:x1] = True
    return value_counts(values[inside])


def _detect(root: Path, layout: str) -> str:
    candidates = list(_LAYOUTS) if layout == "auto" else [layout]
    names = [name for name in candidates if _LAYOUTS[name].found(root)]
    if "ade20k" in names:  # which has the folders of `folder` too
        names = [name for name in names if name != "folder"]
    if len(names) == 1:
        return names[0]
    drawings = {name: _LAYOUTS[name].LAYOUT for name in names or candidates}
    raise no_single_layout(root, names, drawings, "data set")
