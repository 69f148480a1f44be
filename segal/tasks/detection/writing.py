"""Writes labels of objects in the layouts that are read: Pascal VOC, COCO, YOLO, tables.

What is written lies beside the images: it says where they are, and copies none.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

import numpy as np
import yaml

from segal.errors import SegalError
from segal.system.files import write_bytes, write_json
from segal.tasks.classification.labels import CLASSES_FILE
from segal.tasks.detection.objects import Objects

_OFFICIAL = ("test", "train", "val")


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image whose objects are all known.

    Attributes:
        path: Relative to `images_folder`.
        height: In pixels, after EXIF orientation.
        width: Likewise.
        objects: What it shows.
    """

    path: str
    height: int
    width: int
    objects: Objects


def images_folder(root: Path, layout: str, split: str) -> Path:
    """Where a layout has the images of a split.

    Args:
        root: The data set.
        layout: One of `segal.tasks.detection.datasets.LAYOUTS`.
        split: train, val or test.
    """
    folders = {"coco": split, "csv": "", "voc": "JPEGImages", "yolo": f"images/{split}"}
    return root / folders[layout]


def write_labels(
    root: Path, layout: str, split: str, images: Sequence[LabelledImage], classes: Sequence[str]
) -> list[Path]:
    """Writes the labels of a split.

    A file that is there is replaced. COCO, VOC and tables say which objects are crowds (VOC:
    difficult); YOLO cannot, and does not have these.

    Args:
        root: The data set.
        layout: As `images_folder` takes it.
        split: train, val or test; the reader of a layout may know other names too.
        images: Each of them once.
        classes: Their names, the same for all splits.

    Returns:
        The files.

    Raises:
        SegalError: If a path is none below the folder of images, two images would share a label,
            a name of a class cannot be written, or the disk is full or the folder cannot be
            written.
    """
    _check(layout, split, images, classes)
    return _WRITERS[layout](root, split, images, classes)


def _check(
    layout: str, split: str, images: Sequence[LabelledImage], classes: Sequence[str]
) -> None:
    pure = [PurePosixPath(image.path) for image in images]
    outside = [p for p in pure if p.is_absolute() or ".." in p.parts or not p.suffix]
    stems = {path.with_suffix("") for path in pure}
    wrong_split = layout not in {"coco", "voc"} and split not in _OFFICIAL
    lined = [name for name in classes if name != name.strip() or not name or "\n" in name]
    first = next(iter(outside or lined), None)
    if first is not None or len(stems) < len(pure) or wrong_split or "/" in split or not split:
        raise SegalError(
            f"{layout}: labels that cannot be written",
            expected="paths below the folder of images, of different names but for the suffix, "
            "names of classes on a line, and the split train, val or test",
            got=repr(str(first)) if first is not None else f"{len(pure)} images of {split!r}",
            remedy="rename them",
        )


def _write_voc(
    root: Path, split: str, images: Sequence[LabelledImage], classes: Sequence[str]
) -> list[Path]:
    files = []
    for image in images:
        path = PurePosixPath(image.path)
        lines = [
            "<annotation>",
            f"  <folder>{escape((PurePosixPath('JPEGImages') / path.parent).as_posix())}</folder>",
            f"  <filename>{escape(path.name)}</filename>",
            f"  <size><width>{image.width}</width><height>{image.height}</height>"
            "<depth>3</depth></size>",
        ]
        for box, name, difficult in _rows(image):
            corners = zip(("xmin", "ymin", "xmax", "ymax"), map(_number, box), strict=True)
            lines += [
                f"  <object><name>{escape(classes[name])}</name>"
                f"<difficult>{int(difficult)}</difficult>",
                "    <bndbox>" + "".join(f"<{k}>{v}</{k}>" for k, v in corners) + "</bndbox>",
                "  </object>",
            ]
        files.append(root / "Annotations" / path.with_suffix(".xml"))
        write_bytes(files[-1], "\n".join([*lines, "</annotation>\n"]).encode())
    names = "".join(f"{PurePosixPath(image.path)}\n" for image in images)
    files.append(root / "ImageSets" / "Main" / f"{split}.txt")
    write_bytes(files[-1], names.encode())
    return [*files, _write_classes(root, classes)]


def _write_coco(
    root: Path, split: str, images: Sequence[LabelledImage], classes: Sequence[str]
) -> list[Path]:
    annotations: list[dict[str, object]] = []
    for number, image in enumerate(images, 1):
        for (x0, y0, x1, y1), name, crowd in _rows(image):
            width, height = _side(x0, x1), _side(y0, y1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": name + 1,
                    "bbox": [x0, y0, width, height],
                    "area": width * height,
                    "iscrowd": int(crowd),
                }
            )
    content = {
        "images": [
            {"id": number, "file_name": image.path, "height": image.height, "width": image.width}
            for number, image in enumerate(images, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
    }
    file = root / "annotations" / f"instances_{split}.json"
    write_json(file, content)
    return [file]


def _write_yolo(
    root: Path, split: str, images: Sequence[LabelledImage], classes: Sequence[str]
) -> list[Path]:
    files = []
    for image in images:
        sides = np.array([image.width, image.height], np.float64)
        lines = []
        for box, name, crowd in _rows(image):
            if not crowd:
                near, far = np.array(box[:2]) / sides, np.array(box[2:]) / sides
                shares = [*((near + far) / 2).tolist(), *(far - near).tolist()]
                lines.append(f"{name} {' '.join(map(repr, shares))}\n")
        files.append((root / "labels" / split / image.path).with_suffix(".txt"))
        write_bytes(files[-1], "".join(lines).encode())
    there = [name for name in _OFFICIAL if name == split or (root / "labels" / name).is_dir()]
    folders = {name: f"images/{name}" for name in there}
    content = {**folders, "nc": len(classes), "names": dict(enumerate(classes))}
    files.append(root / "data.yaml")
    write_bytes(files[-1], yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())
    return files


def _write_tables(
    root: Path, split: str, images: Sequence[LabelledImage], classes: Sequence[str]
) -> list[Path]:
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow(["path", "x0", "y0", "x1", "y1", "class", "crowd"])
    for image in images:
        rows = _rows(image)
        for box, name, crowd in rows:
            table.writerow([image.path, *map(_number, box), classes[name], int(crowd)])
        if not rows:
            table.writerow([image.path, *[""] * 6])
    file = root / f"{split}.csv"
    write_bytes(file, written.getvalue().encode(errors="surrogateescape"))
    return [file, _write_classes(root, classes)]


_WRITERS: dict[str, Callable[[Path, str, Sequence[LabelledImage], Sequence[str]], list[Path]]] = {
    "coco": _write_coco,
    "csv": _write_tables,
    "voc": _write_voc,
    "yolo": _write_yolo,
}


def _write_classes(root: Path, classes: Sequence[str]) -> Path:
    file = root / CLASSES_FILE
    write_bytes(file, "".join(f"{name}\n" for name in classes).encode())
    return file


def _rows(image: LabelledImage) -> list[tuple[list[float], int, bool]]:
    one = image.objects
    return list(zip(one.boxes.tolist(), one.classes.tolist(), one.crowd.tolist(), strict=True))


def _number(value: float) -> str:
    """As short as it is read back the same."""
    return str(int(value)) if value == int(value) else repr(value)


def _side(near: float, far: float) -> float:
    """A length that gives the far edge back when it is added to the near one."""
    side = far - near
    for near_by in (side, float(np.nextafter(side, np.inf)), float(np.nextafter(side, -np.inf))):
        if near + near_by == far:
            return near_by
    return side
