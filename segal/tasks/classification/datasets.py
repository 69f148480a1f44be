"""Opens what images are classified from: folders by class, tables, archives, features."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.data.changes import count, listed
from segal.data.find import check_path, real_path
from segal.data.image_file import RGB, Reading
from segal.data.labelled import LabelCounts, LabelledDataset
from segal.data.layout import known_layout, no_single_layout
from segal.data.pool import Progress
from segal.errors import SegalError
from segal.tasks.classes import ClassNames
from segal.tasks.classification import archives, features, folders, tables
from segal.tasks.classification.labels import UNKNOWN
from segal.tasks.classification.layout import LayoutModule, Source
from segal.tasks.classification.pools import Known, WholeImagePool
from segal.tasks.splitting import (
    Chooser,
    check_split,
    chosen_rows,
    read_from,
    split_names,
    split_rows,
)

_LAYOUTS: dict[str, LayoutModule] = {
    "csv": tables,
    "features": features,
    "folders": folders,
    "npz": archives,
}


@dataclass(frozen=True, eq=False)
class ClassifiedImages(LabelledDataset):
    """Images with labels. What scores the pool is given `pool`, which knows nothing of the labels.

    Attributes:
        pool: The images.
        labels: (n,) int32, or (n, C) of 0 and 1 where each of C labels is told by itself; UNKNOWN
            where there is none.
        classes: The classes.
    """

    pool: WholeImagePool
    labels: NDArray[np.int32]
    classes: ClassNames

    def __len__(self) -> int:
        return len(self.labels)

    def read_label(self, index: int) -> NDArray[np.int32]:
        """The label of an image.

        Returns:
            (1, 1) int32: a class from 0 to C - 1, or -1 where it is not known. Where each of C
            labels is told by itself, (C, 1) of 0, 1 and -1.
        """
        label: NDArray[np.int32] = self.labels[index].reshape(self.pool.size(index))
        return label

    def check(
        self,
        indices: Iterable[int] | None = None,
        progress: Progress | None = None,
        within: Mapping[int, Sequence[Box]] | None = None,
    ) -> LabelCounts:
        """Counts labels, of all images by default; all of them were checked when it was opened.

        Args:
            indices: Images whose labels are counted.
            progress: Called with (labels done, all labels) at the end.
            within: Boxes by image index; only elements within these are counted.

        Returns:
            By class the images of which it is the label, or of which it is known to be one; as
            `void`, elements that are not known.
        """
        chosen = list(range(len(self)) if indices is None else indices)
        if within is not None:
            chosen = sorted(within)
        labels = self.labels[chosen].reshape(len(chosen), -1)
        inside = np.ones(labels.shape, np.bool_)
        empty: dict[int, list[Box]] = {}
        if within is not None:
            inside[:] = False
            for row, index in enumerate(chosen):
                for _, y0, _, y1 in within[index]:
                    inside[row, y0:y1] = True
                void = [b for b in within[index] if (labels[row, b[1] : b[3]] == UNKNOWN).all()]
                if void:
                    empty[index] = void
        else:
            boxes = [(0, 0, 1, labels.shape[1])]
            nothing = np.flatnonzero((labels == UNKNOWN).all(1)).tolist()
            empty = {chosen[row]: boxes for row in nothing}
        known = inside & (labels != UNKNOWN)
        if self.labels.ndim == 2:
            counts = (known & (labels == 1)).sum(0, dtype=np.int64)
        else:
            counts = np.bincount(labels[known], minlength=len(self.classes)).astype(np.int64)
        if progress is not None:
            progress(len(chosen), len(chosen))
        void_elements = int((inside & ~known).sum())
        return LabelCounts(counts, void_elements, np.zeros(256, np.int64), empty)

    def digest(self, indices: Iterable[int] | None = None) -> str:
        """A fingerprint of labels, all by default, and of the classes.

        Args:
            indices: Images whose labels count.

        Returns:
            A sha256 in hexadecimal digits.
        """
        chosen = list(range(len(self)) if indices is None else indices)
        digest = hashlib.sha256(json.dumps(self.classes.names).encode())
        for i, label in zip(chosen, self.labels[chosen].tolist(), strict=True):
            digest.update(f"\0{self.pool.paths[i]}\0{label}".encode())  # no name holds NUL
        return digest.hexdigest()

    def digests(self, indices: Iterable[int] | None = None) -> dict[str, str]:
        """As `LabelledDataset.digests`."""
        chosen = range(len(self)) if indices is None else indices
        return {
            self.pool.paths[i]: hashlib.sha256(f"{self.labels[i].tolist()}".encode()).hexdigest()
            for i in chosen
        }

    def subset(self, indices: Iterable[int]) -> Self:
        """The data set of some of the images, in the order given."""
        chosen = list(indices)
        return replace(self, pool=self.pool.subset(chosen), labels=self.labels[chosen])

    def notes(self) -> list[str]:
        """What a user should know of the labels, though nothing is wrong with their files."""
        first: dict[str, int] = {}
        pairs = []
        for i, info in enumerate(self.pool.infos):
            j = first.setdefault(info.digest, i)
            if i != j and not np.array_equal(self.labels[i], self.labels[j]):
                pairs.append(f"{self.pool.paths[j]} and {self.pool.paths[i]}")
        if not pairs:
            return []
        pictures = count(len(pairs), "pair")
        return [
            f"{self.pool.root}: {pictures} of the same picture differ in label: {listed(pairs)}"
        ]


LAYOUTS = tuple(_LAYOUTS)
"""Names of the layouts, but for `auto`."""


def layout_name(text: str) -> str:
    """The name of a layout, or auto.

    Raises:
        SegalError: For any other text.
    """
    return known_layout(text, _LAYOUTS)


def is_dataset(root: Path, *, multilabel: bool = False) -> bool:
    """Whether a folder or a file looks like a data set of some layout.

    Args:
        root: It.
        multilabel: Whether it is one of several labels an image; what cannot be told has one.
    """
    names = _found(root, _LAYOUTS)
    if names == ["folders"] and not folders.splits(root):  # folders may be no classes
        return False  # what looks like a class holds the images, or the labels of their pixels
    return any(_is_several(_LAYOUTS[name], root) == multilabel for name in names)


def _is_several(layout: LayoutModule, root: Path) -> bool:
    try:
        return layout.several(root)
    except SegalError:  # which opening it says
        return False


def splits(root: Path, layout: str = "auto", *, validation_share: float = 0.0) -> list[str]:
    """The splits of a data set, sorted.

    Args:
        root: Its folder, or the table or archive that it is.
        layout: As in `open_split`.
        validation_share: As in `open_split`.

    Raises:
        SegalError: If there is no known layout.
    """
    return split_names(_LAYOUTS[_detect(root, layout)].splits(root), validation_share)


def open_split(
    root: Path,
    split: str,
    *,
    layout: str = "auto",
    reading: Reading = RGB,
    skip_unreadable: bool = False,
    known: Known | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    only: Collection[str] | Chooser | None = None,
    missing_labels: bool = False,
    multilabel: bool = False,
    validation_share: float = 0.0,
) -> ClassifiedImages:
    """Opens one split of a data set, with its labels.

    Args:
        root: Its folder; or the CSV or the `.npz` archive that it is.
        split: Such as train. Where the data set is not split, a hash of each image's path puts it
            into train, val or test, at 70, 15 and 15 %.
        layout: How files are laid out: as the module of that name shows it, or auto to tell.
        reading: Which bands of which page of image files, and what values become 0 and 1.
        skip_unreadable: Leave out what cannot be read, and list it in the pool's `skipped`.
        known: Earlier inspections, as `segal.data.pool.open_pool` takes them.
        workers: Threads that inspect images.
        progress: Called with (images done, all images).
        only: Images to open, by their paths, or what chooses them from all paths; the others need
            no label.
        missing_labels: Whether labels may be missing; they are then UNKNOWN.
        multilabel: Whether each class is told by itself, yes or no, and an image may have several.
        validation_share: In (0, 1): where the data set has a split train and none that is named
            val, this share of train, rounded, is val, and train is the rest. A hash of paths
            decides; 0 for none.

    Raises:
        SegalError: If layout or split is not there, an image or a label is not as it should be, or
            a link leads out of the root.
    """
    module = _LAYOUTS[_detect(root, layout)]
    official = module.splits(root)
    check_split(root, split, official, validation_share)
    source = module.source(root, read_from(split, official), multilabel)
    if root.is_dir():
        check_path(root, source.images.relative_to(root).as_posix(), real_path(root))
    rows = split_rows(source.images, source.paths, split, official, validation_share)
    if only is not None:
        rows = chosen_rows(source.images, source.paths, rows, (root, split), only)
    if not missing_labels:
        _refuse_unknown(source, rows, root, split)
    pool = source.open(
        rows,
        reading=reading,
        skip_unreadable=skip_unreadable,
        known=known,
        workers=workers,
        progress=progress,
    )
    if pool.skipped:
        kept = set(pool.paths)
        rows = rows[[source.paths[i] in kept for i in rows.tolist()]]
    labels = source.labels[rows]
    elements = (labels.shape[1], 1) if multilabel else (1, 1)
    pool = replace(pool, elements=elements, other=source.other)
    return ClassifiedImages(pool, labels, source.classes)


def _refuse_unknown(source: Source, rows: NDArray[np.int64], root: Path, split: str) -> None:
    labels = source.labels[rows].reshape(len(rows), -1)
    missing = rows[(labels == UNKNOWN).all(1)]
    if len(missing):
        raise SegalError(
            f"{root}: images of {split} without a label",
            expected="a label of every image",
            got=f"{len(missing)} without: {listed([source.paths[i] for i in missing.tolist()])}",
            remedy="write their labels, or take them out; --missing-labels skip trains on the "
            "others",
        )


def _found(root: Path, candidates: Iterable[str]) -> list[str]:
    """Names of the layouts, among some, that a folder or a file looks like."""
    names = [name for name in candidates if _LAYOUTS[name].found(root)]
    # Any folder of images looks like a class; a file beside it says more.
    if len(names) > 1 and "folders" in names and not folders.splits(root):
        names.remove("folders")
    return names


def _detect(root: Path, layout: str) -> str:
    candidates = list(_LAYOUTS) if layout == "auto" else [layout_name(layout)]
    names = _found(root, candidates)
    if len(names) == 1:
        return names[0]
    drawings = {name: _LAYOUTS[name].LAYOUT for name in names or candidates}
    raise no_single_layout(root, names, drawings, "data set")
