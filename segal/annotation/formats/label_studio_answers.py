"""What annotators did in Label Studio, of the tasks of its plain JSON export.

Its results are in the order of their creation, so that a draft which a person extends stays below
the drafts behind it. What the network drew therefore lies below all that people did: of a draft
that was changed the pixels that it had before, too, which `annotations[].prediction` tells.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segal.annotation.answers import Answer, DrawnBox, Layer
from segal.annotation.formats.shared.tools import (
    RASTERISER,
    REGION,
    Mistake,
    Room,
    check_region,
    check_size,
    filled,
    whole_box,
)
from segal.annotation.handout import AnnotationTask, Handout
from segal.errors import SegalError
from segal.functional.rle import whole_bytes
from segal.functional.rle_brushes import Brushed, decode_brushes

KEY, PACKED = "segal_task", "rle"
EXPECTED = (
    "the plain JSON export of Label Studio, with all tasks: an array of tasks, "
    "each with its data and annotations"
)
FULL = 100.0  # percent
_DIGITS = 6  # of a pixel: percent of it do not come out even


def answers(
    file: Path, number: int, raw: Mapping[str, Any], handout: Handout
) -> Iterator[Answer | SegalError]:
    """The answers of a task, which may have several annotations.

    Args:
        file: Where it is from.
        number: Of the task in it, from 1.
        raw: The task as the file has it.
        handout: What was handed out.

    Yields:
        As `Format.read`.

    Raises:
        SegalError: If it is no task of such an export.
    """
    data, annotations = raw.get("data"), raw.get("annotations")
    listed = isinstance(annotations, list) and all(isinstance(a, dict) for a in annotations)
    if not listed or not isinstance(data, dict):
        raise SegalError(
            f"{file}: item {number} is no task with annotations",
            expected=EXPECTED,
            got=f"an item with {', '.join(map(str, list(raw)[:8]))}"[:200],
            remedy="choose the format JSON at the export, not JSON-MIN or another one",
        )
    assert isinstance(annotations, list)
    submitted = [one for one in annotations if not one.get("was_cancelled")]
    if not submitted:
        return
    place, key = f"{file}: task {raw.get('id', number)!r:.30}", data.get(KEY)
    given = handout.by_key.get(key, ()) if isinstance(key, str) else ()
    if not given:
        yield _stranger(place, data, handout)
        return
    meant = [task for task in given if task.annotator == data.get("segal_annotator")]
    for one in submitted:
        task = _as_shown(meant or given, one)
        source = f"{place}, annotation {one.get('id')!r:.30}"
        try:
            yield _answer(source, task, one, data, raw, handout)
        except Mistake as mistake:
            yield mistake.of(source, task)


def _as_shown(tasks: Sequence[AnnotationTask], annotation: Mapping[str, Any]) -> AnnotationTask:
    """The task in the frame that has the size of the image that something was drawn on."""
    results = annotation.get("result")
    listed = [one for one in results if isinstance(one, dict)] if isinstance(results, list) else []
    sizes = [(one.get("original_height"), one.get("original_width")) for one in listed]
    return next((task for task in tasks if task.frame_size in sizes), tasks[0])


def _stranger(place: str, data: Mapping[str, Any], handout: Handout) -> SegalError:
    """The error for a task that was not handed out here."""
    image, region, run = (data.get(f"segal_{name}") for name in ("image", "region", "run"))
    got = f"{KEY} {data.get(KEY)!r:.40}"
    if run != handout.run:
        got += f" of run {run!r:.60}"
    return SegalError(
        f"{place}, {image!r:.100} at region {region!r:.60}: not a task of this handout",
        expected=f"a task of run {handout.run}, with the {KEY} that was handed out in its data",
        got=got,
        remedy="give the run that it was exported for, or remove it from the project",
    )


@dataclass(frozen=True)
class _Brush:
    """A brush; `draft` is what the network had drawn, where a person changed that."""

    packed: list[Any] | str
    name: str
    order: int
    is_drawn: bool
    draft: list[Any] | str | None


@dataclass
class _Reading:
    """What was read of an annotation so far; `lowest` is below the order of every result."""

    task: AnnotationTask
    room: Room
    lowest: int
    drafts: Mapping[str, Mapping[str, Any]]
    brushes: list[_Brush] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    boxes: list[DrawnBox] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)
    lossy: str = ""
    painted: int = 0
    partial: int = 0
    untouched_choices: bool = False


def _answer(
    source: str,
    task: AnnotationTask,
    annotation: Mapping[str, Any],
    data: Mapping[str, Any],
    raw: Mapping[str, Any],
    handout: Handout,
) -> Answer:
    results = annotation.get("result")
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise Mistake("no list of results", "a list", results, "export it again")
    reading = _Reading(task, Room(task), -len(results), _drafts(annotation))
    unread = dict[str, int]()
    for order, result in enumerate(results):
        kind = result.get("type")
        if kind == "rectanglelabels" and _is_region(result):
            check_region(task, _corners(task, result))
        elif isinstance(kind, str) and kind in _READERS.get(handout.question, {}):
            _READERS[handout.question][kind](reading, result, order)
        else:
            unread[f"{kind!s:.40}"] = unread.get(f"{kind!s:.40}", 0) + 1
    _decode(reading)
    notes = [f"{count} results of type {kind} are not read" for kind, count in unread.items()]
    if reading.untouched_choices:
        notes.append("the network's choice, which nobody touched")
    if raw.get("drafts"):
        notes.append("a draft was not submitted, and is not read")
    seconds = annotation.get("lead_time")
    if seconds is not None and not (_is_number(seconds) and seconds >= 0):
        notes.append(f"a lead_time of {seconds!r:.40} is no time")
        seconds = None
    return Answer(
        task.key,
        source,
        annotator=_annotator(annotation.get("completed_by"), data),
        layers=reading.layers,
        boxes=reading.boxes,
        choices=reading.choices,
        seconds=None if seconds is None else float(seconds),
        updated=_text(annotation.get("updated_at")) or _text(annotation.get("created_at")),
        lossy=reading.lossy,
        partial=reading.partial / reading.painted if reading.painted else 0.0,
        notes=tuple(notes),
        frame=task.frame,
    )


def _drafts(annotation: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """The values of the drafts that an annotation came of, by id."""
    prediction = annotation.get("prediction")
    results = prediction.get("result") if isinstance(prediction, dict) else None
    return {
        one["id"]: one["value"]
        for one in (results if isinstance(results, list) else [])
        if isinstance(one, dict) and isinstance(one.get("id"), str)
        if isinstance(one.get("value"), dict)
    }


def _annotator(user: Any, data: Mapping[str, Any]) -> str:
    """Whose annotation it is: a user's address or number; else whom the task was given to."""
    if isinstance(user, dict):
        user = user.get("email") or user.get("username") or user.get("id")
    known = isinstance(user, str | int) and not isinstance(user, bool) and user != ""
    return str(user)[:200] if known else _text(data.get("segal_annotator"))


def _text(value: object) -> str:
    return value[:200] if isinstance(value, str) else ""


def _is_number(value: object) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and math.isfinite(value)  # type: ignore[arg-type]


def _is_region(result: Mapping[str, Any]) -> bool:
    value = result.get("value")
    labels = value.get("rectanglelabels") if isinstance(value, dict) else None
    return result.get("from_name") == REGION or labels == [REGION]


def _value(result: Mapping[str, Any]) -> Mapping[str, Any]:
    value = result.get("value")
    if not isinstance(value, dict):
        raise Mistake("a result without a value", "an object", value, "export it again")
    return value


def _label(value: Mapping[str, Any], kind: str) -> str:
    """The one label of a result."""
    labels = value.get(kind)
    if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str):
        raise Mistake(
            "something drawn that has not one label",
            "one label each",
            labels or "none",
            "give it a label in the tool, and only one",
        )
    return labels[0]


def _placed(task: AnnotationTask, result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The value of a result in the frame's pixels or percent."""
    check_size(task, result.get("original_height"), result.get("original_width"))
    value = _value(result)
    for rotation in (result.get("image_rotation"), value.get("rotation")):
        if rotation not in (None, 0):
            raise Mistake(
                "rotated in the tool", "a rotation of 0", rotation, "rotate it back in the tool"
            )
    return value


def _corners(task: AnnotationTask, result: Mapping[str, Any]) -> tuple[float, ...]:
    """x0, y0, x1, y1 of a rectangle in pixels of the frame."""
    value = _placed(task, result)
    numbers = [value.get(name) for name in ("x", "y", "width", "height")]
    if not all(map(_is_number, numbers)):
        raise Mistake(
            "a rectangle that is none",
            "x, y, width, height in percent",
            numbers,
            "draw it again",
        )
    (height, width), (x, y, wide, high) = task.frame_size, map(float, numbers)  # type: ignore[arg-type]
    shares = x * width, y * height, (x + wide) * width, (y + high) * height
    return tuple(round(share / FULL, _DIGITS) for share in shares)


def _is_drawn(result: Mapping[str, Any]) -> bool:
    return result.get("origin") != "prediction"


def _order(reading: _Reading, result: Mapping[str, Any], order: int) -> int:
    """As `Layer.order`: below all others where nobody touched it."""
    return order if _is_drawn(result) else reading.lowest + order


def _brush(reading: _Reading, result: Mapping[str, Any], order: int) -> None:
    value = _placed(reading.task, result)
    name, numbers = _label(value, "brushlabels"), value.get(PACKED)
    if value.get("format", "rle") != "rle" or not isinstance(numbers, list | str):
        found = "strokes" if "touches" in value else f"{value.get('format')!r:.40}"
        raise Mistake("a brush without pixels", "a list of bytes, rle", found, _UPDATE)
    draft, before = None, reading.drafts.get(str(result.get("id")))
    if result.get("origin") == "prediction-changed" and before is not None:
        draft = before.get(PACKED) if before.get("brushlabels") == [name] else None
    old = draft if isinstance(draft, list | str) else None
    reading.brushes.append(_Brush(numbers, name, order, _is_drawn(result), old))


def _bytes(each: Sequence[list[Any] | str]) -> list[bytes]:
    """Of numbers as `json_items` leaves them; all texts together, which is faster.

    Raises:
        ValueError: If they are none, or larger than bytes; TypeError and OverflowError likewise.
    """
    found = iter(whole_bytes([numbers for numbers in each if isinstance(numbers, str)]))
    return [next(found) if isinstance(numbers, str) else bytes(numbers) for numbers in each]


def _decode(reading: _Reading) -> None:
    """Makes layers of all brushes."""
    brushes, size = reading.brushes, reading.task.frame_size
    try:
        drafted = decode_brushes(_bytes([b.draft for b in brushes if b.draft is not None]), *size)
        packed = _bytes([brush.packed for brush in brushes])
        for one, brush in zip(decode_brushes(packed, *size), brushes, strict=True):
            reading.painted += one.painted
            reading.partial += one.partial
            low, masks = reading.lowest + brush.order, [(brush.order, one.mask)]
            if not brush.is_drawn:
                masks = [(low, one.mask)]
            elif brush.draft is not None:
                old = _common(one, next(drafted))
                masks = [(low, old), (brush.order, one.mask & ~old)]
            reading.room.take(one.mask.size * len(masks))
            for order, mask in masks:
                if mask.any():
                    reading.layers.append(
                        Layer(brush.name, mask, one.corner, order, brush.is_drawn)
                    )
    except (ValueError, TypeError, OverflowError) as error:
        raise _damaged(error) from error
    reading.layers.sort(key=lambda layer: layer.order)


def _common(one: Brushed, other: Brushed) -> NDArray[np.bool_]:
    """Those pixels of the one that the other has, too; of the one's shape."""
    (left, top), (x, y) = one.corner, other.corner
    (rows, columns), (height, width) = one.mask.shape, other.mask.shape
    found = np.zeros_like(one.mask)
    window = (
        slice(max(0, y - top), max(0, min(rows, y + height - top))),
        slice(max(0, x - left), max(0, min(columns, x + width - left))),
    )
    theirs = other.mask[max(0, top - y) :, max(0, left - x) :]
    mine = found[window]
    mine[:] = one.mask[window] & theirs[: mine.shape[0], : mine.shape[1]]
    return found


_UPDATE = "open the task in the tool, and update the annotation"


def _damaged(error: Exception) -> Mistake:
    return Mistake("a brush whose pixels are damaged", "a whole rle", str(error), _UPDATE)


def _polygon(reading: _Reading, result: Mapping[str, Any], order: int) -> None:
    value = _placed(reading.task, result)
    name, points = _label(value, "polygonlabels"), value.get("points")
    pairs = points if isinstance(points, list) else []
    if not all(isinstance(p, list) and len(p) == 2 and all(map(_is_number, p)) for p in pairs):
        raise Mistake("an outline that is none", "points [x, y]", pairs, "draw it again")
    height, width = reading.task.frame_size
    outline = [(x * width / FULL, y * height / FULL) for x, y in pairs]
    mask, corner = filled(reading.task, outline, reading.room)
    reading.lossy = RASTERISER
    if mask.size:
        placed = _order(reading, result, order)
        reading.layers.append(Layer(name, mask, corner, placed, _is_drawn(result)))


def _rectangle_drawn(reading: _Reading, result: Mapping[str, Any], order: int) -> None:
    name = _label(_value(result), "rectanglelabels")
    box = whole_box(reading.task, _corners(reading.task, result))
    reading.boxes.append(DrawnBox(name, box, _is_drawn(result)))


def _choose(reading: _Reading, result: Mapping[str, Any], order: int) -> None:
    names = _value(result).get("choices")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Mistake("a choice that is none", "a list of names", names, "choose again")
    reading.choices += [name for name in names if name not in reading.choices]
    reading.untouched_choices |= not _is_drawn(result)


_Reader = Callable[[_Reading, Mapping[str, Any], int], None]
_READERS: Mapping[str, Mapping[str, _Reader]] = {
    "segmentation": {"brushlabels": _brush, "polygonlabels": _polygon},
    "detection": {"rectanglelabels": _rectangle_drawn},
    "classification": {"choices": _choose},
    "multilabel": {"choices": _choose},
}
