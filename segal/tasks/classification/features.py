"""Features of images, as CLIP, DINO and the like give them, in place of the images."""

from pathlib import Path

import numpy as np

from segal.data.find import check_path, real_path
from segal.errors import SegalError
from segal.tasks.classification.arrays import open_array
from segal.tasks.classification.labels import (
    CLASSES_FILE,
    ClassList,
    Labels,
    classes_of,
    encoded,
    tidied,
)
from segal.tasks.classification.layout import Source
from segal.tasks.classification.pools import as_rows, open_rows, row_paths
from segal.tasks.classification.tables import column_count, read_column

LAYOUT = """\
<split>/features.npy    (N, D) float16, float32 or float64
<split>/labels.npy      (N,), or (N, C) of 0 and 1; or labels.csv, a label a line
classes.txt             (or the names that occur, sorted; needed for numbers with gaps)
or features.npy and labels.npy alone, which are split by segal"""

_FILE = "features.npy"
_LABELS = ("labels.npy", "labels.csv")


def found(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    return bool((root / _FILE).is_file() or splits(root))


def splits(root: Path) -> list[str]:
    """The splits that there are, sorted; none where the features are not split."""
    folders = root.iterdir() if root.is_dir() else ()
    return sorted(f.name for f in folders if (f / _FILE).is_file() and not f.name.startswith("."))


def several(root: Path) -> bool:
    """Whether labels have columns."""
    folder = root / next(iter(splits(root)), "")
    if (folder / _LABELS[0]).is_file():
        labels = open_array(folder / _LABELS[0], values=False)
        return labels.ndim == 2 and labels.shape[1] > 1
    return column_count(folder / _LABELS[1]) > 1


def source(root: Path, split: str | None, multilabel: bool) -> Source:
    """A split, or all features where they are not split.

    Raises:
        SegalError: If files are missing or wrong, or labels are not as many as features.
    """
    folders = {s: root / s for s in splits(root)} or {"": root}
    if (root / _FILE).is_file() and "" not in folders:
        raise SegalError(
            f"{root}: features in the folder and in folders of splits",
            expected="\n      " + LAYOUT.replace("\n", "\n      "),
            got=", ".join([_FILE, *(f"{s}/{_FILE}" for s in folders)]),
            remedy="remove one or the other",
        )
    for folder in folders.values():
        for name in (_FILE, *_LABELS):
            if (folder / name).is_file():
                path = (folder / name).relative_to(root).as_posix()
                check_path(root, path, real_path(root))
    read = {s: _labels(folder, multilabel) for s, folder in folders.items()}
    columns = {names for _, names in read.values()} - {None}
    if len(columns) > 1:
        raise SegalError(
            f"{root}: the tables of labels have different columns",
            expected="the same in all splits, in the same order",
            got="; ".join(", ".join((c or ())[:10]) for _, c in read.values()),
            remedy="write them alike",
        )
    written = {s: labels for s, (labels, _) in read.items()}
    listed = ClassList.read(root / CLASSES_FILE)
    classes = classes_of(str(root), written, listed, next(iter(columns), None))
    folder, labels = folders[split or ""], written[split or ""]
    file = folder / _FILE
    paths = row_paths(file, None, len(labels))
    return Source(
        folder,
        paths,
        encoded(str(folder), labels, classes, listed, paths),
        classes,
        lambda rows, **options: open_rows(file, None, np.asarray(rows, np.int64), **options),
    )


def _labels(folder: Path, multilabel: bool) -> tuple[Labels, tuple[str, ...] | None]:
    features = as_rows(folder / _FILE, open_array(folder / _FILE, values=False))
    there = [folder / name for name in _LABELS if (folder / name).is_file()]
    if len(there) != 1:
        raise SegalError(
            f"{folder}: labels cannot be told" if there else f"{folder}: no labels",
            expected=f"{_LABELS[0]} or {_LABELS[1]} beside {_FILE}",
            got=" and ".join(file.name for file in there) or "neither",
            remedy="remove one of the two" if there else "save a label for every row",
        )
    if there[0].suffix == ".csv":
        return read_column(there[0], len(features), multilabel)
    labels = tidied(str(there[0]), open_array(there[0]), multilabel)
    if len(labels) != len(features):
        raise SegalError(
            f"{folder}: features and labels differ in length",
            expected=f"{len(features)} labels, as many as rows of {_FILE}",
            got=str(len(labels)),
            remedy="save a label for every row, in the same order",
        )
    return labels, None
