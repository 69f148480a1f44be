"""Images, or features, and labels as arrays of one `.npz` archive."""

import re
from pathlib import Path

import numpy as np

from segal.errors import SegalError
from segal.tasks.classification.arrays import member_names, open_array
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

LAYOUT = """\
FILE.npz, with arrays such as
    x_train (N, H, W, 3) uint8, or features (N, D); y_train (N,), or (N, C) of 0 and 1
    x_test, y_test, ...; or images and labels alone, which are split by segal
    classes (C,) names (or classes.txt; else numbers without gaps)"""

_DATA = ("x", "images", "image", "data", "features", "embeddings")
_LABELS = ("y", "labels", "label", "targets")
_CLASSES = ("classes", "class_names", "label_names", "names")


def found(root: Path) -> bool:
    """Whether this is such an archive, or a folder with one."""
    return _file(root) is not None


def splits(root: Path) -> list[str]:
    """The splits that there are, sorted; none where the images are not split."""
    return sorted(split for split in _pairs(root) if split)


def several(root: Path) -> bool:
    """Whether an array of labels has columns."""
    file, (_, y) = _file(root), next(iter(_pairs(root).values()))
    assert file is not None
    labels = open_array(file, y, values=False)
    return labels.ndim == 2 and labels.shape[1] > 1


def source(root: Path, split: str | None, multilabel: bool) -> Source:
    """A split, or all images where they are not split.

    Raises:
        SegalError: If arrays are missing or wrong, or labels are not as many as images.
    """
    pairs, file = _pairs(root), _file(root)
    assert file is not None
    written = {s: _labels(file, *pair, multilabel) for s, pair in pairs.items()}
    listed = _listed(file)
    classes = classes_of(str(file), written, listed)
    x, y = pairs[split or ""]
    labels = written[split or ""]
    paths = row_paths(file, x, len(labels))
    return Source(
        file,
        paths,
        encoded(str(file / y), labels, classes, listed, paths),
        classes,
        lambda rows, **options: open_rows(file, x, np.asarray(rows, np.int64), **options),
    )


def _file(root: Path) -> Path | None:
    if root.is_file():
        return root if root.suffix.lower() == ".npz" else None
    files = [file for file in root.glob("*.npz") if file.is_file()] if root.is_dir() else []
    return files[0] if len(files) == 1 else None


def _labels(file: Path, x: str, y: str, multilabel: bool) -> Labels:
    count = len(as_rows(file / x, open_array(file, x, values=False)))
    labels = tidied(str(file / y), open_array(file, y), multilabel)
    if len(labels) != count:
        raise SegalError(
            f"{file}: {x} and {y} differ in length",
            expected=f"{count} labels, as many as rows of {x}",
            got=str(len(labels)),
            remedy="save a label for every row, in the same order",
        )
    return labels


def _listed(file: Path) -> ClassList | None:
    there = {name.lower(): name for name in member_names(file)}
    member = next((there[name] for name in _CLASSES if name in there), None)
    if member is None:
        return ClassList.read(file.parent / CLASSES_FILE)
    names = open_array(file, member)
    if names.ndim != 1 or names.dtype.kind not in "USiu":
        raise SegalError(
            f"{file / member}: no list of classes",
            expected="names of the classes, (C,)",
            got=f"{names.shape} of {names.dtype}",
            remedy="save it as np.array(['cat', 'dog'])",
        )
    if names.dtype.kind == "S":
        names = np.char.decode(names, "utf-8", "replace")
    return ClassList.of(str(file / member), names.astype(str).tolist())


def _pairs(root: Path) -> dict[str, tuple[str, str]]:
    """Names of the arrays of images and of labels, by split; "" where there is none."""
    file = _file(root)
    assert file is not None
    members = member_names(file)
    found: dict[str, dict[str, str]] = {}
    for member in members:
        for kind, names in (("x", _DATA), ("y", _LABELS)):
            any_of = "|".join(names)
            match = re.fullmatch(
                rf"(?:{any_of})(?:_(?P<after>\w+))?|(?P<before>\w+)_(?:{any_of})", member.lower()
            )
            if match:
                found.setdefault(match["after"] or match["before"] or "", {})[kind] = member
    pairs = {s: (both["x"], both["y"]) for s, both in found.items() if len(both) == 2}
    alone = [next(iter(both.values())) for both in found.values() if len(both) == 1]
    # One that stands alone is a slip where it is of a split, and nothing of ours where it is not.
    alone = [name for name in alone if name.lower() not in (*_DATA, *_LABELS)] if pairs else alone
    if pairs and not alone and ("" not in pairs or len(pairs) == 1):
        return pairs
    raise SegalError(
        f"{file}: arrays of images and of labels cannot be told",
        expected="\n      " + LAYOUT.replace("\n", "\n      "),
        got=", ".join(members[:20]) or "no array",
        remedy="name the arrays as shown"
        + (f"; {', '.join(alone)} has no counterpart" if alone else ""),
    )
