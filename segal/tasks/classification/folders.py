"""Images in folders that are named after their classes."""

from collections import Counter
from pathlib import Path

import numpy as np

from segal.data.find import SUFFIXES, find_files, shortened
from segal.errors import SegalError, raise_all
from segal.tasks.classes import ClassNames
from segal.tasks.classification.labels import (
    CLASSES_FILE,
    ClassList,
    classes_of,
    encoded,
)
from segal.tasks.classification.layout import Source
from segal.tasks.classification.pools import open_files

LAYOUT = """\
<split>/<class>/NAME.jpg, such as train/cat/1.jpg; or <class>/NAME.jpg, which are split by segal
classes.txt (or the names of the folders, sorted)"""

_SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")


def found(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    return any(_has_image(folder) for name in (splits(root) or [""]) for folder in _in(root / name))


def splits(root: Path) -> list[str]:
    """The folders beside one that is named as a split is; none where there is no such."""
    names = [f.name for f in _in(root) if any(map(_has_image, _in(f)))]
    return names if any(name.lower() in _SPLITS for name in names) else []


def several(root: Path) -> bool:
    """Never: a folder is one class."""
    return False


def source(root: Path, split: str | None, multilabel: bool) -> Source:
    """A split, or all images where they are not split.

    Raises:
        SegalError: If an image lies in no class's folder, a class has no image, or a folder is
            none of the classes.
    """
    if multilabel:
        raise SegalError(
            f"{root}: a folder for each class gives an image one label",
            expected="a CSV with a column for each class, or an array (N, C), for task: multilabel",
            got="images in folders by class",
            remedy="write such a file, or choose task: classification",
        )
    images = root / split if split else root
    listed = ClassList.read(root / CLASSES_FILE)
    paths, other = find_files(images)
    names = [path.split("/", 1)[0] if "/" in path else "" for path in paths]
    errors = _misplaced(images, [path for path in paths if "/" not in path])
    counts = Counter(names)
    empty = [f.name for f in _in(images) if not counts[f.name]]
    errors += [
        SegalError(
            f"{images / name}: a class with no image",
            expected="at least one image of every class",
            got="a folder without images",
            remedy="put its images there, or remove the folder",
        )
        for name in empty
    ]
    written = {
        s or "all": np.array(sorted({f.name for f in _in(root / s)} - set(empty)))
        for s in (splits(root) or [""])
    }
    raise_all(shortened(errors))
    classes = classes_of(str(root), {s: x for s, x in written.items() if len(x)}, listed)
    labels = encoded(str(images), np.array(names), classes, listed, paths)
    return Source(
        images,
        paths,
        labels,
        ClassNames(classes.names, _order_notes(root, classes.names, listed)),
        lambda rows, **options: open_files(images, [paths[i] for i in rows], **options),
        tuple(other),
    )


def _misplaced(images: Path, paths: list[str]) -> list[SegalError]:
    if not paths:
        return []
    return [
        SegalError(
            f"{images}: images that lie in no class's folder",
            expected="<class>/NAME.jpg",
            got=f"{len(paths)}, such as {', '.join(paths[:3])}",
            remedy="move them into the folders of their classes",
        )
    ]


def _order_notes(root: Path, names: tuple[str, ...], listed: ClassList | None) -> tuple[str, ...]:
    numbers = all(name.isdecimal() for name in names)
    if listed is not None or not numbers or list(names) == sorted(names, key=int):
        return ()
    return (
        f"{root}: folders that are numbers are sorted as text, as torchvision's ImageFolder does: "
        f"{', '.join(names[:4])}, ... {CLASSES_FILE} gives another order",
    )


def _in(folder: Path) -> list[Path]:
    """The folders in a folder, sorted; hidden ones left out."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _has_image(folder: Path) -> bool:
    files = (p for p in folder.rglob("*") if p.name.lower().endswith(SUFFIXES))
    return next(files, None) is not None
