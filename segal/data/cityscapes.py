"""The official layout of Cityscapes, and its 19 classes.

    leftImg8bit/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png
    gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_labelIds.png

Where a split has no label ids but train ids (`_gtFine_labelTrainIds.png`), these are read.

Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segal.data.layout import Classes, LabelOptions, Source, make_classes
from segal.errors import SegalError
from segal.functional.labels import IGNORE_INDEX

LAYOUT = """\
leftImg8bit/<split>/<city>/*_leftImg8bit.png
gtFine/<split>/<city>/*_gtFine_labelIds.png (or labelTrainIds)"""

# Label id, name, colour; in the order of the train ids. The other label ids are not evaluated.
CLASSES = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
LABEL_IDS = range(34)  # and -1, a license plate, which is 255 in the 8-bit files

_IMAGE, _IDS, _TRAIN_IDS = (
    "_leftImg8bit",
    "_gtFine_labelIds.png",
    "_gtFine_labelTrainIds.png",
)


def classes() -> Classes:
    """The 19 classes that are evaluated; the other label ids are ignored."""
    return make_classes(
        [(label_id, name) for label_id, name, _ in CLASSES],
        ignored=[*set(LABEL_IDS).difference(value for value, _, _ in CLASSES), IGNORE_INDEX],
        palette=_palette(),
    )


def train_classes() -> Classes:
    """The same classes in files of train ids: 0 to 18, and 255 for all else."""
    return make_classes(
        [(i, name) for i, (_, name, _) in enumerate(CLASSES)],
        palette=_palette(),
        notes=(f"labels are read from files that end with {_TRAIN_IDS}",),
    )


def _palette() -> NDArray[np.uint8]:
    return np.array([colour for _, _, colour in CLASSES], np.uint8)


def found(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    return (root / "leftImg8bit").is_dir()


def splits(root: Path) -> list[str]:
    """The splits that there are, sorted."""
    folder = root / "leftImg8bit"
    return sorted(p.name for p in folder.glob("*/") if not p.name.startswith("."))


def source(root: Path, split: str, options: LabelOptions) -> Source:
    """Where a split is.

    Raises:
        SegalError: For an ignore index, since the layout fixes what is ignored, and for labels of
            another kind than label ids and train ids.
    """
    if options.ignored - {IGNORE_INDEX}:
        raise SegalError(
            f"{root}: the ignored labels of Cityscapes cannot be chosen",
            expected="no ignore index; all but the 19 train classes are ignored",
            got=", ".join(map(str, sorted(options.ignored))),
            remedy="leave ignore_index and reduce_zero_label out",
        )
    ending = _ending(root / "gtFine" / split, options.suffix)

    def label_of(path: str) -> Path:
        stem, _, _ = path.rpartition(".")
        if not stem.endswith(_IMAGE):
            raise SegalError(
                f"{root / 'leftImg8bit' / split / path}: not a name of the Cityscapes layout",
                expected=f"a name that ends with {_IMAGE}.png",
                got=path,
                remedy="rename the file, or take it out of the data set",
            )
        return root / "gtFine" / split / (stem.removesuffix(_IMAGE) + ending)

    found = classes() if ending == _IDS else train_classes()
    return Source(root / "leftImg8bit" / split, None, label_of, found)


def _ending(labels: Path, given: str | None) -> str:
    """How the names of the label files end."""
    if given is None:
        there = [kind for kind in (_IDS, _TRAIN_IDS) if any(labels.glob(f"*/*{kind}"))]
        return there[0] if there else _IDS
    for kind in (_IDS, _TRAIN_IDS):
        if kind in (given, f"{given}.png") or kind.endswith((f"_{given}", f"_{given}.png")):
            return kind
    raise SegalError(
        f"label_suffix: not a kind of labels that is read of Cityscapes: {given!r}",
        expected=f"{_IDS} or {_TRAIN_IDS}",
        got=given,
        remedy="leave it out, or give one of these",
    )
