"""The layout of Pascal VOC, and what labelling tools write of the kind.

Coordinates are read as edges, as labelling tools write them. Those of the VOC challenge itself
count pixels from 1 and mean whole ones, so that a box of theirs lacks its first row and column;
torchvision reads them likewise.

Source: Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

from segal.data.find import SUFFIXES, check_path, find_images, real_path, shortened
from segal.data.split_list import listed_images
from segal.errors import SegalError, raise_all
from segal.system.files import is_there
from segal.tasks.classes import ClassNames
from segal.tasks.classification.labels import CLASSES_FILE, ClassList
from segal.tasks.detection.annotation_xml import Annotation, read_annotation
from segal.tasks.detection.layout import (
    SPLIT_FOLDERS,
    Finding,
    Labels,
    Source,
    Written,
    in_order,
    unknown_class,
)

LAYOUT = """\
JPEGImages/NAME.jpg                 (or images/)
Annotations/NAME.xml                (or annotations/)
ImageSets/Main/<split>.txt          (without it, split by segal)
or, as Roboflow writes them:
<split>/NAME.jpg, <split>/NAME.xml
classes.txt                         (or the names that occur, sorted)"""

_PAIRS = (("JPEGImages", "Annotations"), ("images", "annotations"))
_LISTS = Path("ImageSets", "Main")


def found(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    return root.is_dir() and (_pair(root) is not None or bool(_split_folders(root)))


def splits(root: Path) -> list[str]:
    """The splits that there are lists or folders of, sorted."""
    if _pair(root) is None:
        return _split_folders(root)
    return sorted(file.stem for file in (root / _LISTS).glob("*.txt") if not _lists_class(file))


def source(root: Path, split: str | None) -> Source:
    """A split, or all images where they are not split.

    Raises:
        SegalError: If the list of the split or of the classes cannot be read, or annotations from
            which class names are to be taken.
    """
    pair = _pair(root)
    if pair is None:
        assert split is not None
        images = annotations = root / split
        folders = [root / name for name in _split_folders(root)]
    else:
        images, annotations = (root / name for name in pair)
        folders = [annotations]
    paths: Sequence[str]
    if pair is None or split is None:
        paths = find_images(images)
    else:
        paths = in_order(listed_images(root / _LISTS / f"{split}.txt", images))
    classes = _classes(root, folders)

    def read(chosen: Sequence[str]) -> Labels:
        return _read(root, annotations, chosen, classes.names)

    return Source(images, paths, classes, read, _without_image(annotations, images))


def _pair(root: Path) -> tuple[str, str] | None:
    """The folders of images and of annotations."""
    for images, annotations in _PAIRS:
        if (root / images).is_dir() and next((root / annotations).rglob("*.xml"), None):
            return images, annotations
    return None


def _split_folders(root: Path) -> list[str]:
    return [name for name in SPLIT_FOLDERS if next((root / name).glob("*.xml"), None)]


def _lists_class(file: Path) -> bool:
    """Whether a list says of each image if it shows one class, as `cat_train.txt` does."""
    whole = file.with_name(f"{file.stem.rpartition('_')[2]}.txt")
    if whole == file or not whole.is_file():
        return False
    with file.open("rb") as opened:
        fields = opened.read(2**12).split(b"\n", 1)[0].split()
    return len(fields) == 2 and fields[1] in {b"-1", b"0", b"1"}


def _classes(root: Path, folders: Sequence[Path]) -> ClassNames:
    listed = ClassList.read(root / CLASSES_FILE)
    if listed is not None:
        return ClassNames(listed.names)
    names: set[str] = set()
    errors = []
    for folder in folders:
        for file in sorted(folder.rglob("*.xml")):
            try:
                names |= {one.name for one in _annotation(file).objects}
            except SegalError as error:
                errors.append(error)
    raise_all(shortened(errors))
    if not names:
        raise SegalError(
            f"{root}: no annotation has an object",
            expected=f"boxes, or the classes in {root / CLASSES_FILE}",
            got="images without boxes only",
            remedy=f"list the classes in {CLASSES_FILE}",
        )
    return ClassNames(tuple(sorted(names)))


def _annotation(file: Path) -> Annotation:
    try:
        status = file.stat()
    except OSError:
        return read_annotation(file)  # which says why it cannot be read
    return _remembered(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2**15)
def _remembered(file: Path, _size: int, _mtime: int) -> Annotation:
    """An annotation that is read once for its class names and once for its boxes."""
    return read_annotation(file)


def _read(root: Path, annotations: Path, paths: Sequence[str], names: Sequence[str]) -> Labels:
    numbers, real_root = {name: i for i, name in enumerate(names)}, real_path(root)
    labels = Labels()
    for path in paths:
        file = annotations / PurePosixPath(path).with_suffix(".xml")
        if not is_there(file):
            continue
        try:
            check_path(root, file.relative_to(root).as_posix(), real_root)
            annotation = _annotation(file)
        except SegalError as error:
            labels.errors.append(error)
            continue
        unknown = {one.name for one in annotation.objects} - numbers.keys()
        labels.errors += [unknown_class(str(file), name, names) for name in sorted(unknown)]
        rows = [
            (one.box, numbers[one.name], one.difficult)
            for one in annotation.objects
            if one.name in numbers
        ]
        labels.written[path] = Written.of(rows, annotation.size)
        said = PurePosixPath(annotation.filename.replace("\\", "/")).name
        if said and _stem(said) != _stem(PurePosixPath(path).name):
            labels.findings.append(
                Finding(
                    "labels that name another image",
                    "taken for those of their own names",
                    path,
                    f"{file.name} (filename {said[:100]})",
                )
            )
    return labels


def _stem(name: str) -> str:
    return name.rpartition(".")[0] if name.lower().endswith(SUFFIXES) else name


def _without_image(annotations: Path, images: Path) -> tuple[Finding, ...]:
    """Annotations of images that are not there."""
    there = {
        file.relative_to(images).with_suffix("")
        for file in images.rglob("*")
        if file.name.lower().endswith(SUFFIXES)
    }
    names = sorted(file.relative_to(annotations) for file in annotations.rglob("*.xml"))
    return tuple(
        Finding("labels without an image", "left out", None, name.as_posix())
        for name in names
        if name.with_suffix("") not in there
    )
