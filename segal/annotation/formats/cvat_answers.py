"""What annotators did in CVAT, of the images of its XML."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from segal.annotation.answers import Answer, DrawnBox, Layer
from segal.annotation.formats.cvat_xml import Picture, Shape
from segal.annotation.formats.shared.tools import (
    RASTERISER,
    REGION,
    Mistake,
    Room,
    check_region,
    check_size,
    filled,
    of_wholes,
    trimmed,
    whole_box,
)
from segal.annotation.handout import AnnotationTask, Handout, fitting
from segal.errors import SegalError
from segal.functional.rle import decode_counts, whole_numbers

TASK, ANNOTATOR, DONE = "task", "annotator", "done"
_WHOLE = re.compile(r"\s*-?\d{1,9}\s*")
_REMEDY = "export it again; if it stays so, delete the shape in CVAT and draw it again"


def is_any_ticked(found: Iterable[Picture]) -> bool:
    """Whether an annotator ticked any region of some images."""
    return any(_is_ticked(region) for picture in found for region in _regions(picture))


def _regions(picture: Picture) -> list[Shape]:
    return [shape for shape in picture.shapes if shape.given.get("label") == REGION]


def _is_ticked(region: Shape) -> bool:
    return region.attributes.get(DONE, "").lower() == "true"


@dataclass
class _Drawing:
    """What is drawn in a frame."""

    layers: list[Layer] = field(default_factory=list)
    boxes: list[DrawnBox] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)
    drawn_choices: int = 0
    lossy: str = ""
    unread: dict[str, int] = field(default_factory=dict)

    def notes(self) -> Iterator[str]:
        """What a user should know of it."""
        for tag, count in self.unread.items():
            yield f"{count} shapes of kind {tag} are not read"
        if self.choices and not self.drawn_choices:
            yield "the network's choice, which nobody touched"

    def is_of(self, task: AnnotationTask) -> bool:
        """Whether a person drew something that belongs to a task's region."""
        x0, y0, x1, y1 = task.region_in_frame
        centres = [
            ((box.box[0] + box.box[2]) / 2, (box.box[1] + box.box[3]) / 2)
            for box in self.boxes
            if box.is_drawn
        ]
        if self.drawn_choices or any(x0 <= x < x1 and y0 <= y < y1 for x, y in centres):
            return True
        for layer in self.layers:
            x, y = layer.corner
            rows, columns = (
                slice(max(y0 - y, 0), max(y1 - y, 0)),
                slice(max(x0 - x, 0), max(x1 - x, 0)),
            )
            held = 2 * int(np.count_nonzero(layer.mask[rows, columns]))
            least = min(int(np.count_nonzero(layer.mask)), (x1 - x0) * (y1 - y0))
            if layer.is_drawn and held >= least:
                return True
        return False


@dataclass(frozen=True)
class Reply:
    """What came back of an image.

    Attributes:
        file: Where it is from.
        picture: It.
        handout: What was handed out.
        ticked: Whether some region of the file is ticked.
    """

    file: Path
    picture: Picture
    handout: Handout
    ticked: bool

    @property
    def source(self) -> str:
        """For messages."""
        return f"{self.file}: image {self.picture.name!r:.200}"

    def answers(
        self, by_file: Mapping[str, Sequence[AnnotationTask]]
    ) -> Iterator[Answer | SegalError]:
        """An answer of each region that was worked on."""
        found: dict[str, list[Shape]] = {}
        for region in _regions(self.picture):
            found.setdefault(region.attributes.get(TASK, ""), []).append(region)
        drawing: _Drawing | Mistake | None = None
        for key, regions in found.items():
            is_done = any(map(_is_ticked, regions))
            if self.ticked and not is_done:
                continue
            given = self.handout.by_key.get(key, ())
            annotator = regions[0].attributes.get(ANNOTATOR, "")
            meant = [task for task in given if task.annotator == annotator]
            task = self._as_shown(meant or given) if given else None
            if task is None:
                if is_done or any(map(self._is_drawn, self._others())):
                    yield self._stranger(f"{TASK} {key!r:.40}")
                continue
            if drawing is None:
                drawing = self._drawing(task)
            try:
                if isinstance(drawing, Mistake):
                    raise drawing
                if is_done or drawing.is_of(task):
                    yield self._answer(task, regions, drawing)
            except Mistake as mistake:
                yield mistake.of(self.source, task)
        if not found and any(map(self._is_drawn, self._others())):
            yield self._without_region(by_file.get(self.picture.name, ()))

    def _others(self) -> Iterable[Shape]:
        return (shape for shape in self.picture.shapes if shape.given.get("label") != REGION)

    def _is_drawn(self, shape: Shape) -> bool:
        untouched = {"auto", "file"} if self.handout.model is not None else {"auto"}
        return shape.given.get("source", "manual") not in untouched

    def _stranger(self, got: str) -> SegalError:
        return SegalError(
            f"{self.source}: not a region of this handout",
            expected=f"a region of run {self.handout.run}",
            got=got,
            remedy="give the run that it was exported for, or delete it in CVAT",
        )

    def _without_region(self, tasks: Sequence[AnnotationTask]) -> SegalError:
        """The error for an image on which somebody has drawn, but that shows no region."""
        if not tasks:
            return self._stranger("an image that was not handed out, on which something is drawn")
        mistake = Mistake(
            "the region's outline is gone",
            f"a shape with the label {REGION} and the attribute {TASK}",
            "none",
            f"draw it again, with {TASK} {tasks[0].key} and {DONE} ticked",
        )
        return mistake.of(self.source, tasks[0])

    def _answer(self, task: AnnotationTask, regions: Sequence[Shape], drawing: _Drawing) -> Answer:
        self._check_name(task)
        for region in regions:
            if region.tag == "box":
                check_region(task, _corners(region))
        annotator = regions[0].attributes.get(ANNOTATOR, "") or self.picture.assignee
        return Answer(
            task.key,
            f"{self.source}, region {regions[0].given.get('id', task.key)}",
            annotator=annotator[:200],
            layers=drawing.layers,
            boxes=drawing.boxes,
            choices=drawing.choices,
            updated=self.picture.updated,
            lossy=drawing.lossy,
            notes=tuple(drawing.notes()),
            frame=task.frame,
        )

    def _as_shown(self, tasks: Sequence[AnnotationTask]) -> AnnotationTask:
        """The task as it was handed out with this image; as the latest, where it never was."""
        named = [task for task in tasks if self._is_named(task)]
        return fitting(named or tasks, self._size())[0]

    def _size(self) -> tuple[object, object]:
        """(height, width), as numbers where they are some."""
        height, width = (self.picture.given.get(side, "") for side in ("height", "width"))
        return _if_whole(height), _if_whole(width)

    def _is_named(self, task: AnnotationTask) -> bool:
        """Whether it is of this image; tools put folders before a name, or leave them away."""
        own, other = PurePosixPath(task.file).parts, PurePosixPath(self.picture.name).parts
        shorter = min(len(own), len(other))
        return bool(shorter) and own[-shorter:] == other[-shorter:]

    def _check_name(self, task: AnnotationTask) -> None:
        if not self._is_named(task):
            raise Mistake(
                "the region of another image",
                f"an image named {task.file}",
                self.picture.name,
                "upload the XML to a task that has the images under these names",
            )

    def _drawing(self, task: AnnotationTask) -> _Drawing | Mistake:
        """What is drawn, or what is wrong with it; the frame is that of all tasks of the image."""
        drawing, room = _Drawing(), Room(task)
        try:
            check_size(task, *self._size())
            for shape in self._others():
                self._take(drawing, shape, task, room)
        except Mistake as mistake:
            return mistake
        return drawing

    def _take(self, drawing: _Drawing, shape: Shape, task: AnnotationTask, room: Room) -> None:
        name, is_drawn = shape.given.get("label", ""), self._is_drawn(shape)
        if shape.tag == "mask" and self.handout.question == "segmentation":
            mask, corner = _mask(task, shape, room)
            if mask.size:
                drawing.layers.append(Layer(name, mask, corner, _z_order(shape), is_drawn))
        elif shape.tag == "polygon" and self.handout.question == "segmentation":
            mask, corner = filled(task, _points(shape), room)
            drawing.lossy = RASTERISER
            if mask.size:
                drawing.layers.append(Layer(name, mask, corner, _z_order(shape), is_drawn))
        elif shape.tag == "box" and self.handout.question == "detection":
            drawing.boxes.append(DrawnBox(name, whole_box(task, _corners(shape)), is_drawn))
        elif shape.tag == "tag" and of_wholes(self.handout):
            drawing.choices += [name] if name not in drawing.choices else []
            drawing.drawn_choices += is_drawn
        else:
            drawing.unread[shape.tag[:40]] = drawing.unread.get(shape.tag[:40], 0) + 1


def _if_whole(text: str) -> int | str:
    return int(text) if _WHOLE.fullmatch(text) else text


def _whole(shape: Shape, name: str, default: str = "") -> int:
    text = shape.given.get(name, default)
    if not _WHOLE.fullmatch(text):
        raise Mistake(f"a {shape.tag} whose {name} is none", "a whole number", text, _REMEDY)
    return int(text)


def _z_order(shape: Shape) -> int:
    return _whole(shape, "z_order", "0")


def _mask(
    task: AnnotationTask, shape: Shape, room: Room
) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    left, top, width, height = (_whole(shape, x) for x in ("left", "top", "width", "height"))
    rows, columns = task.frame_size
    fits = 0 <= left < left + width <= columns and 0 <= top < top + height <= rows
    text = shape.given.get("rle", "")
    if not fits:
        raise Mistake(
            "a mask that leaves the image",
            f"a box within {columns} x {rows}",
            f"left {left}, top {top}, width {width}, height {height}",
            _REMEDY,
        )
    try:
        mask = decode_counts(whole_numbers(text), height, width)
    except ValueError as error:
        raise Mistake(
            "a mask whose runs are damaged",
            f"whole numbers, {height * width} in all",
            f"{str(error)[:100]} ({text[:40]})",
            _REMEDY,
        ) from error
    kept, corner = trimmed(mask, (left, top))
    room.take(kept.size)
    return kept, corner


def _numbers(shape: Shape, texts: Sequence[str]) -> list[float]:
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise Mistake(f"a {shape.tag} that is none", "finite numbers", list(texts)[:8], _REMEDY)
    return numbers


def _corners(shape: Shape) -> tuple[float, ...]:
    """x0, y0, x1, y1 of a box."""
    if _numbers(shape, [shape.given.get("rotation", "0")]) != [0]:
        rotation = shape.given["rotation"]
        raise Mistake(
            "a box that is rotated", "a rotation of 0", rotation, "rotate it back in CVAT"
        )
    return tuple(_numbers(shape, [shape.given.get(x, "") for x in ("xtl", "ytl", "xbr", "ybr")]))


def _points(shape: Shape) -> list[tuple[float, float]]:
    pairs = [pair.split(",") for pair in shape.given.get("points", "").split(";")]
    if not all(len(pair) == 2 for pair in pairs):
        raise Mistake("an outline that is none", "points x,y;x,y", pairs[:4], _REMEDY)
    numbers = _numbers(shape, [text for pair in pairs for text in pair])
    return list(zip(numbers[::2], numbers[1::2], strict=True))
