"""labelme: a JSON of shapes for each image, masks as PNGs in it.

    PATH.json         beside the crop, or where the image's path leads; imagePath says which image
    regions.json      where the regions are

Shapes of the type mask come back as they were drawn; polygons, rectangles and circles as labelme
fills them, by Pillow, and told to be lossy. Later shapes lie on top. A region is a rectangle named
`segal_region`, never a class. The flag `done` (File, Flags) marks an image that is labelled though
nothing is drawn in it; images that are classified have a flag for each class.

Source: labelme 6.3.1 (`_label_file.py`, `utils/shape.py`) and 7.9.1.
"""

import base64
import binascii
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segal.annotation.answers import Answer, DrawnBox, Layer
from segal.annotation.formats.base import Drafts, WriteOptions
from segal.annotation.formats.shared.files import (
    REGIONS_FILE,
    Drafted,
    FileNames,
    Gathered,
    Part,
    Reply,
    check_handout,
    files_at,
    new_parts,
    parts,
    put,
    read_json,
    stem,
)
from segal.annotation.formats.shared.frames import (
    PILLOW,
    draft_layers,
    filled,
    outline,
    trimmed,
    whole_box,
)
from segal.annotation.formats.shared.mistakes import Mistake, check_size, not_handed_out, said_at
from segal.annotation.formats.shared.tools import REGION, check_region, no_answers
from segal.annotation.handout import (
    CONTEXT,
    CROP,
    MANIFEST_FILE,
    AnnotationTask,
    Handout,
    Mode,
    fitting,
)
from segal.data.find import check_path, real_path
from segal.data.image_file import load, open_image
from segal.errors import SegalError

DONE = "done"
_POINTS = {"polygon": 3, "oriented_rectangle": 4, "rectangle": 2, "circle": 2}
_MASK = Path("mask.png")
_FIXED = ("rectangle", "circle", "oriented_rectangle")
_MAX_BYTES = 2**28
_EXPECTED = "labelme's JSON: imagePath, imageHeight, imageWidth, shapes"


class Labelme:
    """Shapes, masks and flags of labelme."""

    name = "labelme"
    questions: tuple[str, ...] = ("segmentation", "detection", "classification", "multilabel")
    modes: tuple[Mode, ...] = (CONTEXT, CROP)
    is_lossless = True

    def check(self, handout: Handout) -> None:
        """Raises a SegalError for names that cannot be told apart, or that mean something else."""
        check_handout(handout)
        if DONE in handout.classes:
            raise SegalError(
                f"{self.name}: a class whose name marks something else",
                expected=f"classes of other names than {DONE}",
                got=DONE,
                remedy="rename the class",
            )

    def write(
        self, folder: Path, handout: Handout, drafts: Drafts | None, options: WriteOptions
    ) -> list[Path]:
        """See `formats.base.Format`."""
        files = []
        for part in new_parts(folder, handout):
            drafted = Drafted()
            for file, tasks in part.by_file.items():
                path = part.root / f"{stem(file)}.json"
                shown = options.image_url.replace("{file}", file)
                if handout.mode == CROP:
                    shown = os.path.relpath(folder / file, path.parent).replace(os.sep, "/")
                height, width = tasks[0].frame_size
                shapes, flags = [], {DONE: False}
                for task in tasks:
                    answer = drafts(task) if drafts is not None else None
                    if handout.question in {"segmentation", "detection"}:
                        shapes += [*_region(task), *_drafts(task, handout, drafts, drafted)]
                    else:
                        chosen = () if answer is None else answer.choices
                        drafted.add(task, chosen)
                        flags |= {name: name in chosen for name in handout.classes}
                content = {
                    "version": "5.5.0",
                    "flags": flags,
                    "shapes": shapes,
                    "imagePath": shown,
                    "imageData": None,
                    "imageHeight": height,
                    "imageWidth": width,
                }
                data = json.dumps(content, ensure_ascii=False)
                files.append(put(path, data.encode(errors="surrogateescape")))
            files.append(drafted.write(part, handout))
        return files

    def read(self, path: Path, handout: Handout) -> Iterator[Answer | SegalError]:
        """See `formats.base.Format`."""
        for part in parts(path, handout):
            yield from _read(part, handout)


def _region(task: AnnotationTask) -> list[dict[str, object]]:
    """The outline of a region, unless it is all that is shown."""
    x0, y0, x1, y1 = task.region_in_frame
    if (y1 - y0, x1 - x0) == task.frame_size:
        return []
    return [{**_shape(REGION, "rectangle", [[x0, y0], [x1, y1]]), "description": task.key}]


def _shape(label: str, kind: str, points: list[list[float]]) -> dict[str, object]:
    return {
        "label": label,
        "points": points,
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
    }


def _drafts(
    task: AnnotationTask, handout: Handout, drafts: Drafts | None, drafted: Drafted
) -> list[dict[str, object]]:
    if handout.question == "detection":
        answer = drafts(task) if drafts is not None else None
        boxes = () if answer is None else answer.boxes
        drafted.add(task, boxes)
        return [_shape(one.name, "rectangle", [[*one.box[:2]], [*one.box[2:]]]) for one in boxes]
    layers = draft_layers(drafts, task)
    drafted.add(task, layers)
    return [_mask_shape(layer) for layer in layers]


def _mask_shape(layer: Layer) -> dict[str, object]:
    (x, y), (height, width) = layer.corner, layer.mask.shape
    data = bilevel_png(layer.mask)
    shape = _shape(layer.name, "mask", [[x, y], [x + width - 1, y + height - 1]])
    return {**shape, "mask": base64.b64encode(data).decode("ascii")}


def bilevel_png(mask: NDArray[np.bool_]) -> bytes:
    """A mask, (h, w), as a PNG of one bit a pixel, which labelme takes as any grey one.

    libpng packs bits one by one, which takes longer than all the rest.
    """
    height, width = mask.shape
    rows = np.zeros((height, 1 + -(-width // 8)), np.uint8)  # each begins with 0: no filter
    rows[:, 1:] = np.packbits(mask, 1)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes(), 1)),
        (b"IEND", b""),
    )
    written = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def _read(part: Part, handout: Handout) -> Iterator[Answer | SegalError]:
    root, own = part.root, {REGIONS_FILE, MANIFEST_FILE}
    paths = [path for path in files_at(root, (".json",)) if path.name not in own]
    if not paths:
        yield no_answers(root, "a JSON of labelme for each image")
    gathered, real_root = Gathered.of(part, handout), real_path(part.folder)
    names, stems = FileNames(part), FileNames(part, stem)
    strangers = []
    for path in paths:
        relative = path.relative_to(part.folder)
        named = stems.find_path(path, root)
        try:
            check_path(part.folder, relative.as_posix(), real_root)
            content = read_json(path, _EXPECTED, _MAX_BYTES)
        except SegalError as error:
            mistake = Mistake.of_error(error, path)
            yield from [mistake.said_of(t) for t in part.by_file[named]] if named else [error]
            continue
        said = content.get("imagePath")
        meant = names.find(PureWindowsPath(said).as_posix()) if isinstance(said, str) else None
        file = meant or named
        if file is None:
            strangers.append(f"{relative.as_posix()} (imagePath {said!r:.60})")
            continue
        size = (content.get("imageHeight"), content.get("imageWidth"))
        tasks, reply = fitting(part.by_file[file], size), Reply(str(path))
        try:
            if named is not None and named != file:
                remedy = "give the file the name of its image"
                raise Mistake(path, "a file of another image", f"imagePath {named}", said, remedy)
            check_size(tasks[0], path, size)
            flags = content.get("flags")
            marked = [x for x, on in flags.items() if on is True] if isinstance(flags, dict) else []
            if handout.question in {"segmentation", "detection"}:
                reply.is_done = DONE in marked
                _shapes(reply, path, content, tasks, handout)
        except Mistake as mistake:
            reply.fail(mistake, tasks)
        if handout.question in {"segmentation", "detection"} or reply.errors:
            yield from gathered.answers(reply, tasks)
        else:
            chosen = [name for name in marked if name != DONE]
            is_said = DONE in marked and handout.question == "multilabel"
            yield from gathered.choice(tasks[0], str(path), chosen, is_said=is_said)
    if strangers:
        yield not_handed_out(root, strangers, part.by_file)


def _shapes(
    reply: Reply,
    path: Path,
    content: Mapping[str, Any],
    tasks: Sequence[AnnotationTask],
    handout: Handout,
) -> None:
    shapes = content.get("shapes")
    if not isinstance(shapes, list) or not all(isinstance(one, dict) for one in shapes):
        raise Mistake(path, "no list of shapes", _EXPECTED, shapes, "save it again")
    by_key = {task.key: task for task in tasks}
    for order, shape in enumerate(shapes):
        source = f"{path}: shape {order}"
        name = shape.get("label")
        if not isinstance(name, str):
            raise Mistake(source, "without a label", "a name", repr(name), "name it")
        if name == REGION:
            moved = by_key.get(str(shape.get("description")))
            if moved is not None:
                _check_region(moved, source, shape.get("points"))
        elif handout.question == "detection":
            reply.boxes.append(DrawnBox(name, _box(shape, tasks[0], source)))
        else:
            reply.add(_layer(name, shape, tasks[0], order, source, reply), tasks[0])


def _check_region(task: AnnotationTask, source: str, points: object) -> None:
    xs, ys = zip(*outline(task, source, points, least=2), strict=True)
    with said_at(source):
        check_region(task, (min(xs), min(ys), max(xs), max(ys)))


def _box(
    shape: Mapping[str, Any], task: AnnotationTask, source: str
) -> tuple[float, float, float, float]:
    """The box around a shape."""
    if shape.get("shape_type") == "mask":
        layer = _mask("", shape, task, 0, source)
        if layer is not None:
            (x, y), (height, width) = layer.corner, layer.mask.shape
            return float(x), float(y), float(x + width), float(y + height)
    xs, ys = zip(*_points(shape, task, source), strict=True)
    return whole_box(task, source, (min(xs), min(ys), max(xs), max(ys)))


def _layer(
    name: str, shape: Mapping[str, Any], task: AnnotationTask, order: int, source: str, reply: Reply
) -> Layer | None:
    if shape.get("shape_type") == "mask":
        return _mask(name, shape, task, order, source)
    points = _points(shape, task, source)
    reply.lossy = PILLOW
    return filled(name, points, task, order, _kind(shape))


def _kind(shape: Mapping[str, Any]) -> str:
    return str(shape.get("shape_type") or "polygon")


def _points(
    shape: Mapping[str, Any], task: AnnotationTask, source: str
) -> list[tuple[float, float]]:
    kind = _kind(shape)
    if kind not in _POINTS:
        expected = f"mask, {', '.join(_POINTS)}"
        raise Mistake(source, "a shape without an area", expected, kind, "draw it as one of these")
    points = outline(task, source, shape.get("points"), _POINTS[kind])
    if kind in _FIXED and len(points) != _POINTS[kind]:
        expected = f"{_POINTS[kind]} points of a {kind}"
        raise Mistake(source, "points that are not of the shape", expected, points, "draw it again")
    return points


def _mask(
    name: str, shape: Mapping[str, Any], task: AnnotationTask, order: int, source: str
) -> Layer | None:
    """A mask; its two points are pixels, both within it, if they are whole numbers."""
    points = outline(task, source, shape.get("points"), least=2)
    mask = _decoded(shape.get("mask"), task, source)
    height, width = mask.shape
    (x, y), (far_x, far_y) = points[0], points[1]
    if all(float(value).is_integer() for value in (x, y, far_x, far_y)):
        size = (int(far_y - y) + 1, int(far_x - x) + 1)
        if size != (height, width):
            expected = f"{size[0]} x {size[1]} (height x width), as its points say"
            got = f"{height} x {width}"
            raise Mistake(source, "a mask of another size", expected, got, "draw it again")
    left, top = round(x), round(y)
    rows, columns = task.frame_size
    if left < 0 or top < 0 or left + width > columns or top + height > rows:
        expected = f"a mask within {columns} x {rows}"
        got = f"{width} x {height} at {left}, {top}"
        raise Mistake(source, "a mask that leaves the image", expected, got, "draw it again")
    return trimmed(Layer(name, mask, (left, top), order))


def _decoded(text: object, task: AnnotationTask, source: str) -> NDArray[np.bool_]:
    expected = "a grey PNG in base64, no larger than the image"
    rows, columns = task.frame_size
    try:
        if not isinstance(text, str):
            raise ValueError("no text")
        data = base64.b64decode(text, validate=True)
        image = open_image(_MASK, data)
        if image.height > rows or image.width > columns:
            raise ValueError(f"{image.height} x {image.width} (height x width)")
        pixels = np.array(load(_MASK, data, image))
    except (ValueError, binascii.Error) as error:
        raise Mistake(source, "no mask", expected, error, "draw it again") from error
    except SegalError as error:
        raise Mistake(source, "no mask", expected, error.got, "draw it again") from error
    if pixels.ndim != 2:
        raise Mistake(source, "no mask", expected, f"{pixels.shape}", "draw it again")
    return np.asarray(pixels, np.bool_)
