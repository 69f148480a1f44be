"""Opens what objects are found in: Pascal VOC, COCO, YOLO, tables."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.data.changes import listed
from segal.data.find import check_path, real_path, shortened
from segal.data.image_file import RGB, Reading
from segal.data.images import ImageInfo
from segal.data.labelled import LabelCounts, LabelledDataset
from segal.data.layout import known_layout, no_single_layout
from segal.data.pool import ImagePool, Progress, open_pool
from segal.errors import SegalError, raise_all
from segal.tasks.classes import ClassNames
from segal.tasks.detection import coco, tables, voc, yolo
from segal.tasks.detection.cleaning import cleaned
from segal.tasks.detection.layout import Finding, Labels, LayoutModule, Source, told
from segal.tasks.detection.objects import Objects
from segal.tasks.splitting import (
    Chooser,
    check_split,
    chosen_rows,
    read_from,
    split_names,
    split_rows,
)

_LAYOUTS: dict[str, LayoutModule] = {"coco": coco, "csv": tables, "voc": voc, "yolo": yolo}

LAYOUTS = tuple(_LAYOUTS)
"""Names of the layouts, but for `auto`."""

_NEGATIVE = "taken for images without objects"


@dataclass(frozen=True, eq=False)
class DetectionDataset(LabelledDataset):
    """Images with the objects that they show.

    Attributes:
        pool: The images.
        objects: Of each image.
        classes: The classes.
        findings: What is not as a user may think it, in labels that can be used.
        layout: How its files are laid out.
    """

    pool: ImagePool
    objects: tuple[Objects, ...]
    classes: ClassNames
    findings: tuple[Finding, ...] = ()
    layout: str = ""

    def read_label(self, index: int) -> Objects:
        """The objects of an image."""
        return self.objects[index]

    def check(
        self,
        indices: Iterable[int] | None = None,
        progress: Progress | None = None,
        within: Mapping[int, Sequence[Box]] | None = None,
    ) -> LabelCounts:
        """Counts objects, of all images by default; all were checked when the data set was opened.

        Args:
            indices: Images whose objects are counted.
            progress: Called with (labels done, all labels) at the end.
            within: Boxes by image index; only objects whose centre lies in one are counted.

        Returns:
            Objects of each class as `pixels`, crowds and difficult ones as `void`; as `empty`
            images, or boxes, that have no label. An image that is known to show nothing has one.
        """
        chosen = list(range(len(self)) if indices is None else indices)
        if within is not None:
            chosen = sorted(within)
        counts, void = np.zeros(len(self.classes), np.int64), 0
        empty: dict[int, list[Box]] = {}
        for index in chosen:
            height, width = self.pool.size(index)
            boxes = [(0, 0, width, height)] if within is None else list(within[index])
            objects = self.objects[index].keep(boxes)
            counts += np.bincount(objects.classes[~objects.crowd], minlength=len(counts))
            void += int(objects.crowd.sum())
            unknown = [box for box in boxes if not self.objects[index].keep([box]).known]
            if unknown:
                empty[index] = unknown
        if progress is not None:
            progress(len(chosen), len(chosen))
        return LabelCounts(counts, void, np.zeros(256, np.int64), empty, "objects", "crowd")

    def digest(self, indices: Iterable[int] | None = None) -> str:
        """A fingerprint of objects, of all images by default, and of the classes.

        Args:
            indices: Images whose objects count.

        Returns:
            A sha256 in hexadecimal digits.
        """
        digest = hashlib.sha256(json.dumps(self.classes.names).encode())
        for i in range(len(self)) if indices is None else indices:
            one = self.objects[i]
            digest.update(f"\0{self.pool.paths[i]}\0{one.known}\0{len(one)}\0".encode())
            for array, kind in ((one.boxes, "<f8"), (one.classes, "<i8"), (one.crowd, "?")):
                digest.update(array.astype(kind).tobytes())
        return digest.hexdigest()

    def digests(self, indices: Iterable[int] | None = None) -> dict[str, str]:
        """As `LabelledDataset.digests`."""
        chosen = range(len(self)) if indices is None else indices
        return {self.pool.paths[i]: self.objects[i].digest() for i in chosen}

    def subset(self, indices: Iterable[int]) -> Self:
        """The data set of some of the images, in the order given."""
        chosen = list(indices)
        pool = self.pool.subset(chosen)
        kept = {None, *pool.paths}
        return replace(
            self,
            pool=pool,
            objects=tuple(self.objects[i] for i in chosen),
            findings=tuple(finding for finding in self.findings if finding.path in kept),
        )

    def notes(self) -> list[str]:
        """What was left out or clipped, and what else a user should know of the labels."""
        return told(str(self.pool.root), self.findings)


def layout_name(text: str) -> str:
    """The name of a layout, or auto.

    Raises:
        SegalError: For any other text.
    """
    return known_layout(text, _LAYOUTS)


def is_dataset(root: Path) -> bool:
    """Whether a folder or a file looks like a data set of some layout."""
    return any(layout.found(root) for layout in _LAYOUTS.values())


def refuse_splits(root: Path) -> None:
    """Raises a SegalError for a data set of several splits where images to choose from are wanted.

    The images of the other splits, such as those that results are reported on, would be offered.
    """
    found = [layout for layout in _LAYOUTS.values() if layout.found(root)]
    there = sorted({split for layout in found for split in layout.splits(root)})
    if len(there) > 1:
        raise SegalError(
            f"{root}: a data set of several splits, all of which would be offered",
            expected="the images to choose from",
            got=f"the splits {', '.join(there)}",
            remedy=f"name one, as in {root}:{'train' if 'train' in there else there[0]}",
        )


def splits(root: Path, layout: str = "auto", *, validation_share: float = 0.0) -> list[str]:
    """The splits of a data set, sorted.

    Args:
        root: Its folder, or the table, JSON or `data.yaml` that it is.
        layout: As in `open_split`.
        validation_share: As in `open_split`.

    Raises:
        SegalError: If there is no known layout, or it cannot be read.
    """
    return split_names(_LAYOUTS[_detect(root, layout)].splits(root), validation_share)


def class_names(root: Path, split: str, layout: str = "auto") -> ClassNames:
    """The classes of a split; no image is opened.

    Raises:
        SegalError: As `open_split` does of them.
    """
    module = _LAYOUTS[_detect(root, layout)]
    official = module.splits(root)
    return module.source(root, read_from(split, official)).classes


def images_of(root: Path, split: str, layout: str = "auto") -> tuple[Path, tuple[str, ...]]:
    """The images of a split; none is opened, no label is read.

    Args:
        root: As in `open_split`, and so are the rest.
        split: Such as train.
        layout: How files are laid out, or auto.

    Returns:
        Their folder, and their paths below it.

    Raises:
        SegalError: If layout or split is not there, or a link leads out of the root.
    """
    _, source, rows = _source(root, split, layout, 0.0)
    return source.images, tuple(source.paths[i] for i in rows.tolist())


def open_split(
    root: Path,
    split: str,
    *,
    layout: str = "auto",
    reading: Reading = RGB,
    skip_unreadable: bool = False,
    known: Mapping[str, tuple[int, int, ImageInfo]] | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    only: Collection[str] | Chooser | None = None,
    missing_labels: bool = False,
    validation_share: float = 0.0,
) -> DetectionDataset:
    """Opens one split of a data set, with its labels.

    Args:
        root: Its folder; or the table, the JSON or the `data.yaml` that it is.
        split: Such as train. Where the data set is not split, a hash of each image's path puts it
            into train, val or test, at 70, 15 and 15 %.
        layout: How files are laid out: as the module of that name shows it, or auto to tell.
        reading: Which bands of which page of image files, and what values become 0 and 1.
        skip_unreadable: Leave out what cannot be read, and list it in the pool's `skipped`.
        known: Earlier inspections, as `segal.data.pool.open_pool` takes them.
        workers: Threads that inspect images.
        progress: Called with (images done, all images).
        only: Images to open, by their paths, or what chooses them from all paths; no label of
            another image is read where each has a file of its own.
        missing_labels: Whether labels may be missing; nothing is then known of these images.
        validation_share: In (0, 1): where the data set has a split train and none that is named
            val, this share of train, rounded, is val, and train is the rest. A hash of paths
            decides; 0 for none.

    Raises:
        SegalError: If layout or split is not there, an image or a label is not as it should be, or
            a link leads out of the root.
    """
    name, source, rows = _source(root, split, layout, validation_share)
    if only is not None:
        rows = chosen_rows(source.images, source.paths, rows, (root, split), only)
    chosen = [source.paths[i] for i in rows.tolist()]
    labels = source.read(chosen)
    labels.errors += _missing(source, chosen, labels, missing_labels)
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
        raise_all([error, *shortened(labels.errors)])
        raise
    objects = _objects(source, pool, labels, missing_labels)
    kept = {None, *pool.paths}
    findings = [finding for finding in labels.findings if finding.path in kept]
    findings = [*source.findings, *findings]
    return DetectionDataset(pool, objects, source.classes, tuple(findings), name)


def _source(
    root: Path, split: str, layout: str, validation_share: float
) -> tuple[str, Source, NDArray[np.int64]]:
    """The layout, where its files are, and which of its images are of a split."""
    name = _detect(root, layout)
    module = _LAYOUTS[name]
    official = module.splits(root)
    check_split(root, split, official, validation_share)
    source = module.source(root, read_from(split, official))
    folder = root if root.is_dir() else root.parent
    check_path(folder, source.images.relative_to(folder).as_posix(), real_path(folder))
    rows = split_rows(source.images, source.paths, split, official, validation_share)
    return name, source, rows


def _objects(
    source: Source, pool: ImagePool, labels: Labels, may_miss: bool
) -> tuple[Objects, ...]:
    """The objects of each image; what is done to boxes is added to the findings."""
    objects, errors = [], labels.errors
    for index, path in enumerate(pool.paths):
        written = labels.written.get(path)
        height, width = pool.size(index)
        if written is None:
            negative = source.unlabelled_are_negative and not may_miss
            objects.append(Objects.none([(0, 0, width, height)] if negative else ()))
            continue
        try:
            place = f"label of {source.images / path}"
            one, found = cleaned(place, path, written, (height, width), source.classes.names)
        except SegalError as error:
            errors.append(error)
            continue
        objects.append(one)
        labels.findings += found
    raise_all(shortened(errors))
    return tuple(objects)


def _missing(
    source: Source, chosen: Sequence[str], labels: Labels, may_miss: bool
) -> list[SegalError]:
    """What is wrong with images without a label; where it says something it becomes a finding."""
    missing = [path for path in chosen if path not in labels.written]
    if may_miss or not missing or labels.errors:
        return []
    if source.unlabelled_are_negative and len(missing) < len(chosen):
        labels.findings += [Finding("images without a label", _NEGATIVE, p, p) for p in missing]
        return []
    return [
        SegalError(
            f"{source.images}: images without a label",
            expected="a label of every image; one without objects has an empty label",
            got=f"{len(missing)} of {len(chosen)} without: {listed(missing)}",
            remedy="write their labels, or take them out; --missing-labels skip trains on the "
            "others",
        )
    ]


def _detect(root: Path, layout: str) -> str:
    candidates = list(_LAYOUTS) if layout == "auto" else [layout_name(layout)]
    names = [name for name in candidates if _LAYOUTS[name].found(root)]
    if len(names) == 1:
        return names[0]
    drawings = {name: _LAYOUTS[name].LAYOUT for name in names or candidates}
    raise no_single_layout(root, names, drawings, "data set of detection")
