"""Labelled data sets: a pool of images, and where their labels are."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segal.data import cityscapes, folder
from segal.data.images import ImageInfo, read_bytes, read_label
from segal.data.layout import IGNORE_INDEX, Classes, LayoutModule, Source
from segal.data.pool import (
    ImagePool,
    Progress,
    check_path,
    find_images,
    open_pool,
    real_path,
    shortened,
)
from segal.errors import SegalError, raise_all

__all__ = ["IGNORE_INDEX", "Classes", "LabelledDataset", "Layout", "open_dataset", "splits"]

Layout = Literal["auto", "cityscapes", "folder"]
Chooser = Callable[[Sequence[str]], Collection[str]]

_LAYOUTS: dict[str, LayoutModule] = {"cityscapes": cityscapes, "folder": folder}


@dataclass(frozen=True, eq=False)
class LabelledDataset:
    """Images with labels. What scores the pool is given `pool`, which knows nothing of the labels.

    Attributes:
        pool: The images.
        label_paths: The label file of each image.
        classes: The classes.
    """

    pool: ImagePool
    label_paths: tuple[Path, ...]
    classes: Classes

    def __len__(self) -> int:
        return len(self.label_paths)

    def read_label(self, index: int) -> NDArray[np.uint8]:
        """Reads the label of an image.

        Returns:
            (H, W) uint8, of the image's size: classes 0 to C - 1, or 255 where it is ignored.

        Raises:
            SegalError: If it cannot be read, differs from the image in size, or holds values that
                the classes do not have.
        """
        image, path = self.pool.root / self.pool.paths[index], self.label_paths[index]
        values = read_label(path)
        if values.shape != self.pool.size(index):
            height, width = self.pool.size(index)
            raise SegalError(
                f"{path}: the label is not of the size of its image {image}",
                expected=f"{height} x {width} (height x width)",
                got=f"{values.shape[0]} x {values.shape[1]}",
                remedy="pair them rightly, or resize the label with nearest neighbour",
            )
        illegal = self.classes.illegal(values)
        if illegal:
            raise SegalError(
                f"{path}: values outside the classes (label of {image})",
                expected=f"the values {_ranges(self.classes.legal)}",
                got=", ".join(f"{value} ({count} pixels)" for value, count in illegal.items()),
                remedy="list the class, or choose the value as ignore_index, or mend the label",
            )
        return self.classes.map(values)

    def check(self, indices: Iterable[int] | None = None, progress: Progress | None = None) -> None:
        """Reads labels, all by default, and raises all mistakes at once.

        Args:
            indices: Images whose labels are read.
            progress: Called with (labels done, all labels) after each.

        Raises:
            SegalError: As `read_label` does.
        """
        chosen = list(range(len(self)) if indices is None else indices)
        errors = []
        for done, index in enumerate(chosen, start=1):
            try:
                self.read_label(index)
            except SegalError as error:
                errors.append(error)
            if progress is not None:
                progress(done, len(chosen))
        raise_all(shortened(errors))

    def digest(self, indices: Iterable[int] | None = None) -> str:
        """A fingerprint of labels, all by default: of their files' bytes and of the classes.

        Args:
            indices: Images whose labels count; no other label is read.

        Returns:
            A sha256 in hexadecimal digits.

        Raises:
            SegalError: If a label cannot be read.
        """
        chosen = range(len(self)) if indices is None else indices
        files = [
            [self.pool.paths[i], hashlib.sha256(read_bytes(self.label_paths[i])).hexdigest()]
            for i in chosen
        ]
        text = json.dumps([self.classes.names, self.classes.lookup.tolist(), files])
        return hashlib.sha256(text.encode()).hexdigest()

    def subset(self, indices: Iterable[int]) -> "LabelledDataset":
        """The data set of some of the images, in the order given."""
        chosen = list(indices)
        labels = tuple(self.label_paths[index] for index in chosen)
        return replace(self, pool=self.pool.subset(chosen), label_paths=labels)


def splits(root: Path, layout: Layout = "auto") -> list[str]:
    """The splits of a data set, sorted.

    Raises:
        SegalError: If the folder has no known layout.
    """
    return _LAYOUTS[_detect(root, layout)].splits(root)


def open_dataset(
    root: Path,
    split: str,
    *,
    layout: Layout = "auto",
    ignore_index: int | None = None,
    skip_unreadable: bool = False,
    workers: int = 1,
    known: Mapping[str, tuple[int, int, ImageInfo]] | None = None,
    progress: Progress | None = None,
    value_range: tuple[float, float] | None = None,
    only: Collection[str] | Chooser | None = None,
) -> LabelledDataset:
    """Opens one split of a data set. Labels are found, but not read.

    Args:
        root: Folder of the data set.
        split: Such as train.
        layout: How files are laid out: as `segal.data.cityscapes` or `segal.data.folder` say, or
            auto to tell from the folders.
        ignore_index: Label value that is ignored beside 255 (layout folder only).
        skip_unreadable: As `open_pool` takes it, and so are the rest.
        workers: Threads that inspect images.
        known: Earlier inspections.
        progress: Called with (images done, all images).
        value_range: Lowest and highest value of 16-bit images.
        only: Images to open, by their paths below the split's folder, or what chooses them from
            all paths; the others need no label.

    Raises:
        SegalError: If layout or split is not there, an image of `only` is not, a link leads out of
            the root, or an image cannot be read or has no label.
    """
    source = _source(root, split, layout, ignore_index)
    check_path(root, source.images.relative_to(root).as_posix(), real_path(root))
    pool = open_pool(
        source.images,
        source.paths if only is None else _chosen(root, split, only, source),
        skip_unreadable=skip_unreadable,
        known=known,
        workers=workers,
        progress=progress,
        value_range=value_range,
    )
    labels = _find_labels(root, pool, source.label_of)
    return LabelledDataset(pool, labels, source.classes)


def read_class_names(
    root: Path, split: str, *, layout: Layout = "auto", ignore_index: int | None = None
) -> tuple[str, ...]:
    """The classes of a split, as `open_dataset` finds them; no image is opened.

    Raises:
        SegalError: If layout or split is not there.
    """
    return _source(root, split, layout, ignore_index).classes.names


def _source(root: Path, split: str, layout: Layout, ignore_index: int | None) -> Source:
    name = _detect(root, layout)
    there = _LAYOUTS[name].splits(root)
    if split not in there:
        raise SegalError(
            f"{root}: there is no split {split!r}",
            expected=f"one of {', '.join(there)}" if there else "folders of images, one a split",
            got=split,
            remedy="choose one that is there, or check the path",
        )
    return _LAYOUTS[name].source(root, split, ignore_index)


def _chosen(root: Path, split: str, only: Collection[str] | Chooser, source: Source) -> list[str]:
    """The images of `only`, each of which must be one of the split's."""
    there = find_images(source.images) if source.paths is None else source.paths
    chosen = set(only(there) if callable(only) else only)
    foreign = sorted(chosen - set(there))
    if foreign:
        raise SegalError(
            f"{root}: images that are not of split {split!r}",
            expected=f"paths relative to {source.images}",
            got=", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else ""),
            remedy="choose the split that they were selected from, and select with that folder "
            "as --images",
        )
    return list(chosen)


def _find_labels(root: Path, pool: ImagePool, label_of: Callable[[str], Path]) -> tuple[Path, ...]:
    real_root = real_path(root)
    labels, errors = [], []
    for path in pool.paths:
        try:
            label = label_of(path)
            if not label.exists():
                raise SegalError(
                    f"{pool.root / path}: the image has no label",
                    expected=str(label),
                    got="no such file",
                    remedy="add the label, or take the image out of the data set",
                )
            check_path(root, label.relative_to(root).as_posix(), real_root)
            labels.append(label)
        except SegalError as error:
            errors.append(error)
    raise_all(shortened(errors))
    return tuple(labels)


def _detect(root: Path, layout: Layout) -> str:
    candidates = list(_LAYOUTS) if layout == "auto" else [layout]
    names = [name for name in candidates if _LAYOUTS[name].found(root)]
    if len(names) == 1:
        return names[0]
    shown = "\n".join(
        f"    {name}:\n      " + _LAYOUTS[name].LAYOUT.replace("\n", "\n      ")
        for name in candidates
    )
    if not names:
        entries = sorted(p.name for p in root.glob("*"))[:10] if root.is_dir() else []
        raise SegalError(
            f"{root}: no data set of a known layout",
            expected=f"\n{shown}",
            got=", ".join(entries)
            if entries
            else "an empty folder"
            if root.is_dir()
            else "nothing",
            remedy="check the path, or arrange the files as shown",
        )
    raise SegalError(
        f"{root}: this folder has more than one layout",
        expected=f"one of\n{shown}",
        got=" and ".join(names),
        remedy=f"choose it with layout: {names[0]} (or {names[1]})",
    )


def _ranges(legal: NDArray[np.bool_]) -> str:
    """Values that are legal, as in `0-11, 255`."""
    values = np.flatnonzero(legal)
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)
