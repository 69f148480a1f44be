"""From boxes as they are written to objects: what leaves the image, is empty or occurs twice."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segal.errors import SegalError
from segal.tasks.detection.layout import Finding, Written
from segal.tasks.detection.objects import Objects

_ROUNDING = 0.5
"""Pixels beyond an edge that no one is told of: tools round."""

_SLIVER = 1e-6
"""Pixels that rounding leaves of a side of nothing."""


def cleaned(
    place: str,
    path: str,
    written: Written,
    size: tuple[int, int],
    names: Sequence[str],
) -> tuple[Objects, list[Finding]]:
    """The objects of an image.

    Boxes whose corners are the wrong way round, that have no area, or that lie outside the image
    are left out; so are all but one that have the same corners and class. Those that lie outside
    in part are clipped.

    Args:
        place: The label, for messages.
        path: Of the image.
        written: Its boxes.
        size: (height, width) of the image after EXIF orientation.
        names: Of the classes.

    Returns:
        What is left, in the order of the label, and what was done.

    Raises:
        SegalError: If a coordinate is no finite number, or the label is of another size.
    """
    findings = _size_findings(place, path, written, size)
    height, width = size
    boxes = written.boxes
    if not np.isfinite(boxes).all():
        wrong = int((~np.isfinite(boxes).all(1)).argmax())
        raise SegalError(
            f"{place}: box {wrong + 1} has a coordinate that is no number",
            expected="four finite numbers",
            got=", ".join(f"{x:g}" for x in boxes[wrong]),
            remedy="mend or remove the box",
        )
    if written.relative:
        boxes = boxes * np.array([width, height, width, height], np.float64)
    inner = np.clip(boxes, 0, np.array([width, height, width, height], np.float64))
    beyond = np.abs(boxes - inner).max(1, initial=0)
    turned = (boxes[:, 0] > boxes[:, 2]) | (boxes[:, 1] > boxes[:, 3])
    flat = ~turned & _is_flat(boxes)
    outside = ~turned & ~flat & _is_flat(inner)
    kept = ~(turned | flat | outside)
    clipped = kept & (beyond > _ROUNDING)
    twice = _repeated(np.column_stack([inner, written.classes, written.crowd]), kept)
    for which, kind, fate in (
        (turned, "boxes with x0 > x1 or y0 > y1", "left out"),
        (flat, "boxes without area", "left out"),
        (outside, "boxes outside their image", "left out"),
        (clipped, "boxes that leave their image", "clipped"),
        (twice, "boxes that repeat another of their image and class", "left out"),
    ):
        for i in np.flatnonzero(which).tolist():
            corners = ", ".join(f"{x:g}" for x in boxes[i])
            shown = f"{path} ({names[written.classes[i]]} {corners})"
            findings.append(Finding(kind, fate, path, shown))
    left = kept & ~twice
    known = ((0, 0, width, height),)
    return Objects(inner[left], written.classes[left], written.crowd[left], known), findings


def _size_findings(place: str, path: str, written: Written, size: tuple[int, int]) -> list[Finding]:
    said = written.size
    if said is None or said == size:
        return []
    if said == size[::-1]:
        text = f"{path} ({said[1]} x {said[0]})"
        fate = "read as boxes of the image as it is seen"
        return [Finding("labels whose width and height are exchanged", fate, path, text)]
    raise SegalError(
        f"{place}: the label is of an image of another size",
        expected=f"{size[1]} x {size[0]} (width x height) as {path}",
        got=f"{said[1]} x {said[0]}",
        remedy="use the images that were annotated, or scale the boxes with them",
    )


def _is_flat(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray((boxes[:, 2:] - boxes[:, :2] <= _SLIVER).any(1))


def _repeated(rows: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the kept rows have occurred before."""
    first: dict[tuple[float, ...], int] = {}
    repeated = [
        is_kept and first.setdefault(tuple(row), i) != i
        for i, (row, is_kept) in enumerate(zip(rows.tolist(), kept.tolist(), strict=True))
    ]
    return np.array(repeated, np.bool_)
