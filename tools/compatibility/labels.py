"""Kinds of labels, lists of classes and layouts, each written and then opened as segal does."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segal.data.datasets import open_dataset
from segal.data.voc import palette
from segal.errors import SegalError
from segal.jobs.labels import refuse_unlabelled
from tools.compatibility.row import Row

TITLE = "Labels"
INTRODUCTION = (
    "Data sets of one image of 48 x 64 pixels, written in every way and read as `segal train` "
    "reads them; what is read is compared with what was written, pixel by pixel."
)

SIZE = (48, 64)
VOID = 255
Label = NDArray[np.uint8]
Case = tuple[str, Callable[[Path], None], Label | None, dict[str, object]]
"""Its name, what writes the data set, the classes to be read (None: a refusal), and options."""

_NAMES = "sky\nroad\ntraffic light\n"
_COLOURS = np.array([[70, 130, 180], [128, 64, 128], [250, 170, 30], [0, 0, 0]], np.uint8)
_COLOURED = "sky 70 130 180\nroad 128 64 128\ntraffic light #FAAA1E\nvoid 0 0 0\n"


def rows() -> Iterator[Row]:
    """Tries them all."""
    for name, write, expected, options in cases():
        with TemporaryDirectory() as temporary:
            write(Path(temporary))
            yield Row(name, _outcome(Path(temporary), expected, options))


def _outcome(root: Path, expected: Label | None, options: dict[str, object]) -> str:
    """What comes of a data set, in a few words."""
    settings = {"split": "train"} | options
    try:
        data = open_dataset(root, **settings)  # type: ignore[arg-type]
        counts = data.check()
        data.refuse_values("train", counts)
        refuse_unlabelled(data, "train", counts, "trained on")
    except SegalError as error:
        said = str(error).splitlines()
        problem = said[0].replace(f"{root}/", "").replace(str(root), "the data set")
        got = next((x.strip() for x in said if x.strip().startswith("got: ")), "")
        return f"refused: {problem}" + (f" ({got})" if got else "")
    if expected is None:
        return "READ, THOUGH IT SHOULD BE REFUSED"
    if not np.array_equal(data.read_label(0), expected):
        return "MISREAD"
    told = "".join(f"; {note}" for note in data.classes.notes).replace(f"{root}/", "")
    return f"read: {len(data.classes)} classes{told}"


def cases() -> Iterator[Case]:
    """All that is tried."""
    three, four = _label([0, 1, 2]), _label([0, 1, 2, VOID])
    yield from _formats(three)
    yield from _values(three, four)
    yield from _lists(three)
    yield from _layouts(four)


def _formats(three: Label) -> Iterator[Case]:
    for suffix in ("png", "PNG", "tif", "tiff", "TIFF", "bmp"):
        yield f"8-bit grey `.{suffix}`", _plain(three, suffix=suffix), three, {}
    yield "16-bit grey PNG", _plain(three.astype(np.uint16)), three, {}
    yield "1-bit PNG", _plain(three // 2, mode="1", classes="a\nb"), three // 2, {}
    yield "palette PNG, values are its indices", _plain(three, colours=palette(256)), three, {}
    yield "grey saved as RGB", _plain(np.dstack([three] * 3)), three, {}
    yield (
        "grey saved as RGBA, opaque",
        _plain(np.dstack([three] * 3 + [three * 0 + VOID])),
        three,
        {},
    )
    yield "`.jpg`", _plain(three, suffix="jpg"), None, {}
    yield "two label files of one image", _both(three), None, {}
    suffix = {"label_suffix": "_mask"}
    yield "`NAME_mask.png`, `label_suffix: _mask`", _plain(three, ending="_mask"), three, suffix
    yield "`NAME_mask.png` without `label_suffix`", _plain(three, ending="_mask"), None, {}
    for folder in ("annotations", "masks"):
        yield f"in `{folder}/`", _plain(three, folder=folder), three, {}
    yield "of another size", _plain(three[:-1]), None, {}


def _values(three: Label, four: Label) -> Iterator[Case]:
    both = _label([0, VOID])
    two = both // np.uint8(VOID)
    mask = np.array([0, 128, 255], np.uint8)[three]
    yield "255 is void", _plain(four), four, {}
    yield "a value of no class", _plain(three + np.uint8(1)), None, {}
    yield "masks of 0 and 255, classes by name", _plain(both, classes="soil\nweed\n"), None, {}
    yield (
        "the same, `0 soil`, `255 weed`",
        _plain(both, classes="0 soil\n255 weed"),
        two,
        {},
    )
    yield (
        "the same, `soil 0`, `weed 255`",
        _plain(both, classes="soil 0\nweed 255"),
        two,
        {},
    )
    explicit: dict[str, object] = {"ignore_index": 255}
    yield "the same, `ignore_index: 255`", _plain(both), both, explicit
    yield "masks of 0, 128 and 255, classes by name", _plain(mask), None, {}
    listed = "0 sky\n128 road\n255 traffic light\n"
    yield "the same, values listed", _plain(mask, classes=listed), three, {}
    yield (
        "`255 void` beside other classes",
        _plain(four, classes="0 a\n1 b\n2 c\n255 void"),
        four,
        {},
    )
    void = np.where(three == 0, VOID, three - np.uint8(1)).astype(np.uint8)
    yield (
        "`reduce_zero_label: true`",
        _plain(three, classes="road\ncar\n"),
        void,
        {"reduce_zero_label": True},
    )
    dropped = np.array([0, VOID, 1], np.uint8)[three]
    yield "`ignore_index: 1`, which has a line", _plain(three), dropped, {"ignore_index": 1}
    yield "void everywhere", _plain(three * 0 + np.uint8(VOID)), None, {}


def _lists(three: Label) -> Iterator[Case]:
    for form, text in (
        ("names of two words", _NAMES),
        (
            "`VALUE NAME`, tabs, byte-order mark, CRLF",
            "\ufeff0\tsky\r\n1\troad\r\n2\tlight\r\n",
        ),
        ("`NAME VALUE`", "sky 0\nroad 1\ntraffic light 2\n"),
        ("`lane 0`, `lane 1`, `lane 2`", "lane 0\nlane 1\nlane 2\n"),
        ("`VALUE NAME RED GREEN BLUE`", "0 sky 1 2 3\n1 road 4 5 6\n2 traffic light 7 8 9\n"),
    ):
        yield f"classes.txt: {form}", _plain(three, classes=text), three, {}
    many = "\n".join(f"c{i}x" for i in range(256))
    yield "classes.txt: 256 classes", _plain(three, classes=many), None, {}
    yield "classes.txt: a name twice", _plain(three, classes="a\nb\na\n"), None, {}
    mixed = "sky\n1 road\n2 car\n"
    yield "classes.txt: values for some", _plain(three, classes=mixed), None, {}
    four = _label([0, 1, 2, 3])
    coded = np.where(four == 3, VOID, four).astype(np.uint8)
    yield "colours: `NAME RED GREEN BLUE`", _plain(_COLOURS[four], classes=_COLOURED), coded, {}
    first = "70 130 180\tsky\n128 64 128\troad\n250 170 30\tlight\n0 0 0\tVoid\n"
    yield "colours: `RED GREEN BLUE NAME`", _plain(_COLOURS[four], classes=first), coded, {}
    shifted = _COLOURS[four].copy()
    shifted[:2, :3] += np.uint8(1)
    yield "colours: one that is not listed", _plain(shifted, classes=_COLOURED), None, {}


def _layouts(four: Label) -> Iterator[Case]:
    yield "PASCAL VOC", _voc(four, palette(256)), four, {}
    yield (
        "VOC as CVAT writes it, `labelmap.txt`",
        _voc_of_colours(_label([0, 1, 2])),
        _label([0, 1, 2]),
        {},
    )
    yield "VOC, an image of the list is missing", _voc(four, palette(256), listed="b"), None, {}
    reduced = np.array([VOID, 0, 1], np.uint8)[_label([0, 1, 2])]
    yield "ADE20K, 0 is void", _ade(_label([0, 1, 2])), reduced, {"split": "training"}
    void = np.where(_label([0, 1, 11]) == 11, VOID, _label([0, 1, 11])).astype(np.uint8)
    yield "CamVid as SegNet has it, 11 is void", _camvid(_label([0, 1, 11])), void, {}
    ids = np.array([7, 8, 11, 3], np.uint8)[_label([0, 1, 2, 3])]
    read = np.array([0, 1, 2, VOID], np.uint8)[_label([0, 1, 2, 3])]
    yield "Cityscapes, label ids", _cityscapes(ids, "labelIds"), read, {}
    yield "Cityscapes, train ids only", _cityscapes(read, "labelTrainIds"), read, {}


def _label(values: list[int]) -> Label:
    return np.random.default_rng(0).choice(np.array(values, np.uint8), SIZE)


def _save(path: Path, pixels: "NDArray[np.uint8 | np.uint16]", mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if mode == "1":
        image = Image.fromarray(pixels.astype(bool))
    image.save(path)


def _picture(path: Path) -> None:
    _save(path, np.zeros((*SIZE, 3), np.uint8))


def _save_palette(path: Path, values: Label, colours: Label) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    image.putpalette(colours.ravel().tolist())
    image.save(path)


def _plain(
    pixels: "NDArray[np.uint8 | np.uint16]",
    *,
    classes: str = _NAMES,
    suffix: str = "png",
    mode: str | None = None,
    colours: Label | None = None,
    ending: str = "",
    folder: str = "labels",
) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        _picture(root / "images" / "train" / "a.png")
        path = root / folder / "train" / f"a{ending}.{suffix}"
        if colours is None:
            _save(path, pixels, mode)
        else:
            _save_palette(path, pixels.astype(np.uint8), colours)
        (root / "classes.txt").write_text(classes, encoding="utf-8")

    return write


def _both(label: Label) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        _plain(label, suffix="tif")(root)
        _plain(label, suffix="bmp")(root)

    return write


def _voc(
    label: Label, colours: Label | None, listed: str = "a", names: str = ""
) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        _picture(root / "JPEGImages" / "a.jpg")
        path = root / "SegmentationClass" / "a.png"
        if colours is None:
            _save(path, label)
        else:
            _save_palette(path, label, colours)
        lists = root / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text(f"{listed}\n")
        if names:
            (root / "labelmap.txt").write_text(names)

    return write


def _voc_of_colours(label: Label) -> Callable[[Path], None]:
    names = "# label:color_rgb:parts:actions\nsky:70,130,180::\nroad:128,64,128::\n"
    return _voc(_COLOURS[label], None, names=names + "traffic light:250,170,30::\n")


def _ade(label: Label) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        _picture(root / "images" / "training" / "a.jpg")
        _save(root / "annotations" / "training" / "a.png", label)
        header = "Idx\tRatio\tTrain\tVal\tStuff\tName\n"
        rows = "1\t0.2\t1\t1\t1\twall\n2\t0.1\t1\t1\t1\tbuilding, edifice\n"
        (root / "objectInfo150.txt").write_text(header + rows)

    return write


def _camvid(label: Label) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        _picture(root / "train" / "a.png")
        _save(root / "trainannot" / "a.png", label)

    return write


def _cityscapes(label: Label, kind: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        stem = "train/ulm/ulm_000000_000019"
        _picture(root / "leftImg8bit" / f"{stem}_leftImg8bit.png")
        _save(root / "gtFine" / f"{stem}_gtFine_{kind}.png", label)

    return write
