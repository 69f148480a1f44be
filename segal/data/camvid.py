"""The layout of CamVid as SegNet and most tutorials use it, and its 11 classes.

    train/NAME.png, val/NAME.png, test/NAME.png
    trainannot/NAME.png, valannot/NAME.png, testannot/NAME.png     0 to 10, and 11, which is void

`classes.txt`, where there is one, brings other classes.

Sources: Brostow, Fauqueur, Cipolla, "Semantic object classes in video", Pattern Recognition Letters
2009; Badrinarayanan, Kendall, Cipolla, "SegNet", TPAMI 2017.
"""

from pathlib import Path

import numpy as np

from segal.data.class_list import read_classes
from segal.data.label_files import label_finder
from segal.data.layout import Classes, LabelOptions, Source, make_classes
from segal.functional.labels import IGNORE_INDEX

LAYOUT = """\
<split>/NAME.png
<split>annot/NAME.png"""
CLASSES = (
    ("Sky", (128, 128, 128)),
    ("Building", (128, 0, 0)),
    ("Pole", (192, 192, 128)),
    ("Road", (128, 64, 128)),
    ("Pavement", (60, 40, 222)),
    ("Tree", (128, 128, 0)),
    ("SignSymbol", (192, 128, 128)),
    ("Fence", (64, 64, 128)),
    ("Car", (64, 0, 128)),
    ("Pedestrian", (64, 64, 0)),
    ("Bicyclist", (0, 128, 192)),
)

_ANNOTATIONS = "annot"


def found(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    return bool(splits(root))


def splits(root: Path) -> list[str]:
    """The splits that there are, sorted: folders beside which there is one of annotations."""
    names = {p.name for p in root.glob("*/") if not p.name.startswith(".")}
    return sorted(name for name in names if name + _ANNOTATIONS in names)


def source(root: Path, split: str, options: LabelOptions) -> Source:
    """Where a split is.

    Raises:
        SegalError: If `classes.txt` is there and wrong.
    """
    labels = root / (split + _ANNOTATIONS)
    return Source(root / split, None, label_finder(labels, options.suffix), _classes(root, options))


def _classes(root: Path, options: LabelOptions) -> Classes:
    if (root / "classes.txt").is_file():
        return read_classes(root / "classes.txt", options)
    ignored = options.ignored | {len(CLASSES), IGNORE_INDEX}
    kept = [(i, name) for i, (name, _) in enumerate(CLASSES) if i not in ignored]
    colours = np.array([CLASSES[i][1] for i, _ in kept], np.uint8)
    return make_classes(kept, ignored, colours)
