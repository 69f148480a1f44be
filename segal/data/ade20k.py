"""The layout of ADE20K's scene parsing benchmark: 150 classes, of which label files count from 1.

    images/training/NAME.jpg, images/validation/NAME.jpg
    annotations/training/NAME.png, annotations/validation/NAME.png     0 is void
    objectInfo150.txt                                                  names of the classes

`classes.txt`, where there is one, takes the place of `objectInfo150.txt`; names without a value
count from 1.

Source: Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017.
"""

from dataclasses import replace
from pathlib import Path

from segal.data.class_list import classes_of, read_classes, read_lines
from segal.data.label_files import label_finder
from segal.data.layout import Classes, LabelOptions, Source
from segal.errors import SegalError

LAYOUT = """\
images/training/NAME.jpg, images/validation/NAME.jpg
annotations/training/NAME.png, annotations/validation/NAME.png
objectInfo150.txt (or classes.txt)"""

_NAMES = "objectInfo150.txt"
_COLUMNS = ["Idx", "Ratio", "Train", "Val", "Stuff", "Name"]


def found(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    return all((root / name / "training").is_dir() for name in ("images", "annotations"))


def splits(root: Path) -> list[str]:
    """The splits that there are, sorted."""
    folder = root / "images"
    return sorted(p.name for p in folder.glob("*/") if not p.name.startswith("."))


def source(root: Path, split: str, options: LabelOptions) -> Source:
    """Where a split is.

    Raises:
        SegalError: If there is no list of classes, or it is wrong.
    """
    classes = _classes(root, replace(options, reduce_zero_label=True))
    note = "0 is void, as in ADE20K; where it is a class, give layout: folder"
    return Source(
        root / "images" / split,
        None,
        label_finder(root / "annotations" / split, options.suffix),
        replace(classes, void_is_assumed=False, notes=(*classes.notes, note)),
    )


def _classes(root: Path, options: LabelOptions) -> Classes:
    own, official = root / "classes.txt", root / _NAMES
    if own.is_file() or not official.is_file():
        return read_classes(own, options)
    header, *rows = (line.split("\t") for line in read_lines(official))
    if [column.strip() for column in header] != _COLUMNS or any(len(row) != 6 for row in rows):
        raise SegalError(
            f"{official}: not the list of ADE20K's classes",
            expected="columns " + ", ".join(_COLUMNS) + ", with tabs between them",
            got="\t".join(header)[:100],
            remedy=f"write the names into {own} instead, one a line",
        )
    names = [row[5].strip() for row in rows]
    # A class has several names, as in `building, edifice`; the first one is enough to tell it.
    short = [name.split(",")[0] for name in names]
    if len(set(short)) == len(short):
        names = short
    lines = [f"{row[0]} {name}" for row, name in zip(rows, names, strict=True)]
    return classes_of(official, lines, options)
