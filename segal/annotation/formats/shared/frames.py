"""What is drawn in a frame: layers and boxes, shared out among the tasks that it shows."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segal.annotation.answers import DrawnBox, Layer
from segal.annotation.formats.base import Drafts
from segal.annotation.formats.shared import tools
from segal.annotation.formats.shared.mistakes import Mistake, is_number, said_at
from segal.annotation.handout import AnnotationTask

PILLOW = "outlines filled by Pillow, which counts pixels that an edge touches as inside"


def trimmed(layer: Layer) -> Layer | None:
    """A layer cut to what is painted, which does not hold on to the rest; None for nothing."""
    mask, corner = tools.trimmed(layer.mask, layer.corner)
    if not mask.size:
        return None
    return layer if mask is layer.mask else replace(layer, mask=mask, corner=corner)


def turned(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Columns as rows, in memory too."""
    return cv2.transpose(mask.view(np.uint8)).view(np.bool_)


def shared(layers: Iterable[Layer], tasks: Sequence[AnnotationTask]) -> dict[str, list[Layer]]:
    """Shares out what is painted in a frame among the tasks that are shown in it.

    Args:
        layers: Of the whole frame, in order.
        tasks: All that are shown in it.

    Returns:
        The layers of each task's key: of each its pixels in the region, and with the first of those
        that have any (else with the first of all) the pixels that lie in no region, so that every
        pixel is there once. Of a single task, the layers as they are. Nothing is left out.
    """
    layers = list(layers)
    if len(tasks) == 1:
        return {tasks[0].key: layers} if layers else {}
    found: dict[str, list[Layer]] = {}
    rests: list[Layer] = []
    for layer in layers:
        inside = 0
        for task in tasks:
            piece = cut(layer, task)
            if piece is not None:
                found.setdefault(task.key, []).append(piece)
                inside += int(np.count_nonzero(piece.mask))
        if inside < np.count_nonzero(layer.mask):
            rest = layer.mask.copy()
            for task in tasks:
                rest[_slices(layer, task)] = False
            rests.append(replace(layer, mask=rest))
    if rests:
        first = next((task.key for task in tasks if task.key in found), tasks[0].key)
        found.setdefault(first, []).extend(rests)
    return found


def _slices(layer: Layer, task: AnnotationTask) -> tuple[slice, slice]:
    x0, y0, x1, y1 = task.region_in_frame
    x, y = layer.corner
    return slice(max(y0 - y, 0), max(y1 - y, 0)), slice(max(x0 - x, 0), max(x1 - x, 0))


def cut(layer: Layer, task: AnnotationTask) -> Layer | None:
    """A layer's pixels in a task's region; None where there are none."""
    rows, columns = _slices(layer, task)
    x, y = layer.corner
    corner = x + columns.start, y + rows.start
    return trimmed(replace(layer, mask=layer.mask[rows, columns], corner=corner))


def shared_boxes(
    boxes: Iterable[DrawnBox], tasks: Sequence[AnnotationTask]
) -> dict[str, list[DrawnBox]]:
    """Shares out boxes among tasks, by the region that holds a box's centre, else to the first."""
    found: dict[str, list[DrawnBox]] = {}
    for box in boxes:
        x, y = (box.box[0] + box.box[2]) / 2, (box.box[1] + box.box[3]) / 2
        holds = [
            task.key
            for task in tasks
            for x0, y0, x1, y1 in [task.region_in_frame]
            if x0 <= x < x1 and y0 <= y < y1
        ]
        found.setdefault(holds[0] if holds else tasks[0].key, []).append(box)
    return found


def whole_box(
    task: AnnotationTask, source: object, corners: Sequence[float]
) -> tuple[float, float, float, float]:
    """A box within a frame, but for what tools round.

    Raises:
        Mistake: If it has no area or leaves the frame.
    """
    with said_at(source):
        x0, y0, x1, y1 = map(float, corners)
        return tools.whole_box(task, (x0, y0, x1, y1))


def outline(
    task: AnnotationTask, source: object, points: object, least: int = 3
) -> list[tuple[float, float]]:
    """The points of an outline, which may leave the frame by its size.

    Args:
        task: Whose frame.
        source: For messages.
        points: As JSON has them: [[x, y], ...].
        least: How many there must be.

    Raises:
        Mistake: If there are fewer, or one is none or too far away.
    """
    height, width = task.frame_size
    pairs = points if isinstance(points, list) else []
    fits = len(pairs) >= least and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(map(is_number, pair))
        and -width <= pair[0] <= 2 * width
        and -height <= pair[1] <= 2 * height
        for pair in pairs
    )
    if not fits:
        raise Mistake(
            source,
            "an outline that is none, or far from the image",
            f"at least {least} points [x, y], of finite numbers, in an image {width} x {height}",
            f"{points!r:.100}",
            "mend it in the tool",
        )
    return [(x, y) for x, y in pairs]


def filled(
    name: str,
    points: Sequence[tuple[float, float]],
    task: AnnotationTask,
    order: int = 0,
    shape: str = "polygon",
) -> Layer | None:
    """The pixels of an outline, as Pillow fills it with its edge; None where there are none.

    Args:
        name: Of the label.
        points: Of a polygon; two corners of a rectangle; centre and a point of a circle.
        task: Whose frame.
        order: As in `Layer`.
        shape: polygon, rectangle or circle.
    """
    height, width = task.frame_size
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    if shape == "rectangle":
        xs, ys = zip(*points, strict=True)
        draw.rectangle(((min(xs), min(ys)), (max(xs), max(ys))), fill=1, outline=1)
    elif shape == "circle":
        (x, y), (px, py) = points
        radius = math.hypot(x - px, y - py)
        draw.ellipse(((x - radius, y - radius), (x + radius, y + radius)), fill=1, outline=1)
    else:
        draw.polygon(list(points), fill=1, outline=1)
    return trimmed(Layer(name, np.array(image, np.bool_), order=order))


def draft_layers(drafts: Drafts | None, task: AnnotationTask) -> list[Layer]:
    """What the network drew of a task, cut to what is painted; nothing where nothing is."""
    answer = drafts(task) if drafts is not None else None
    layers = [] if answer is None else answer.layers
    return [kept for layer in layers if (kept := trimmed(layer)) is not None]


def paint(
    image: NDArray[np.uint8], layers: Iterable[Layer], values: Mapping[str, int]
) -> NDArray[np.uint8]:
    """Paints layers into a label image, (H, W) uint8, in place."""
    for layer in layers:
        paint_layer(image, layer, values[layer.name])
    return image


def paint_layer(image: NDArray[np.uint8], layer: Layer, value: int) -> None:
    """Paints one layer; numpy's `copyto` takes twice as long."""
    (x, y), (height, width) = layer.corner, layer.mask.shape
    window = image[y : y + height, x : x + width]
    cv2.copyTo(np.full(window.shape, value, np.uint8), layer.mask.view(np.uint8), window)


def layer_digest(layer: Layer) -> str:
    """A fingerprint of the pixels of a layer, which is to be `trimmed`."""
    digest = hashlib.sha256(json.dumps([layer.name, *layer.corner, *layer.mask.shape]).encode())
    digest.update(np.packbits(layer.mask).tobytes())
    return digest.hexdigest()[:16]


def box_digest(box: DrawnBox) -> str:
    """A fingerprint of a box, to a thousandth of a pixel."""
    rounded = [box.name, *(round(x * 1000) for x in box.box)]
    return hashlib.sha256(json.dumps(rounded).encode()).hexdigest()[:16]
