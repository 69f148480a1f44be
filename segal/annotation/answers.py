"""What comes back of a task, before it is clipped to its region: the same of every tool."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segal.candidates.regions import Box


@dataclass(frozen=True, eq=False)
class Layer:
    """Pixels that were given one label.

    Attributes:
        name: Of the label, as the tool has it.
        mask: (h, w) bool.
        corner: (x, y) of the mask's first pixel in the task's frame, within which the mask lies.
        order: Layers of higher order lie on top; those of the same order conflict where they share
            pixels and differ in their names.
        is_drawn: False for what the network drew and nobody touched.
    """

    name: str
    mask: NDArray[np.bool_]
    corner: tuple[int, int] = (0, 0)
    order: int = 0
    is_drawn: bool = True


@dataclass(frozen=True)
class DrawnBox:
    """A box that was given a label.

    Attributes:
        name: Of the label.
        box: x0, y0, x1, y1 in pixels of the task's frame, continuous edges.
        is_drawn: As `Layer.is_drawn`.
    """

    name: str
    box: tuple[float, float, float, float]
    is_drawn: bool = True


@dataclass(frozen=True, eq=False)
class Answer:
    """What one annotator gave back for one task.

    Attributes:
        key: Of the task.
        source: Where it was read, for messages: file and the tool's own number.
        annotator: As the tool names them; empty where it does not.
        layers: Of a segmented image, in the order in which they were made.
        boxes: Of an image in which objects are found.
        choices: Names of the classes of an image that is classified.
        seconds: Time spent; None where the tool does not say.
        updated: When, as the tool writes it; empty where it does not.
        lossy: How pixels came of outlines, where they did; empty where the tool kept pixels.
        partial: Share of painted pixels that the tool holds as partly covered (0 to 1).
        notes: What else a user should know of it.
        frame: Of what the annotator saw, which coordinates are in; None for that of the task, as it
            was handed out last.
    """

    key: str
    source: str
    annotator: str = ""
    layers: Sequence[Layer] = ()
    boxes: Sequence[DrawnBox] = ()
    choices: Sequence[str] = ()
    seconds: float | None = None
    updated: str = ""
    lossy: str = ""
    partial: float = 0.0
    notes: Sequence[str] = field(default=())
    frame: Box | None = None
