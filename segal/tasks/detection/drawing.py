"""Draws what a detector finds in images, and what there is, in the colours of the classes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.candidates.selection import Selected
from segal.data.changes import count
from segal.data.labelled import NamedClasses
from segal.pictures.overlays import Pick, plain_name, shown_bands
from segal.pictures.sheet import (
    CAPTION,
    HEADER,
    MARGIN,
    POINTS,
    Canvas,
    panel_size,
    steady_style,
)
from segal.system.files import replacing
from segal.tasks.detection.evaluation import Found
from segal.tasks.detection.objects import Objects
from segal.tasks.drawing import Drawn, Look, PictureWords

BOX_WORDS = PictureWords(
    shown="Picked images with what the detector found, by class and with its score, beside the "
    "objects that there are where these are known; the boxes that made an image interesting have "
    "thick lines. Of two class heads, maps of where they disagree and of the MIL score.",
    instead="Image {image}, picked by {arm} after round {round}, with the boxes that the detector "
    "found",
)

_LEAST_SCORE = 0.3
"""Detections below are counted, not drawn, unless they are why an image was picked."""

_MOST_INTERESTING = 5
_GAP, _LEGEND, _SWATCH = 28, 30, 12
_WIDEST = 1400
_THIN, _THICK = (1.0, 2.0), 3.5  # lines, in pixels of the picture; thinner around small boxes
_PICKED = 2.5
_LABEL, _ROOM = 11, 16  # of a number: its size, and the height that it takes
_DARK = 0.4
_LINES = 250  # how many lines' widths an image has, of boxes drawn into it
_OPAQUE, _NOTHING = 0.7, 1e-30  # of a map over the image; end of the scale of one that is 0
_CROWDED = 0.05
"""Of a panel's longer side: boxes whose middle size is below have thin lines, and no scores."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a detector makes of an image.

    Attributes:
        found: What it found.
        interest: (n,) how interesting each detection is, such as its p2 / p1; None if not asked.
        interest_name: What that is, with its unit.
        heat: (H, W) each, of the image's pixels, by name: why it was picked beside what was found.
    """

    found: Found
    interest: NDArray[np.float64] | None = None
    interest_name: str = ""
    heat: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Scene:
    """What is drawn of an image.

    Attributes:
        title: Such as its path.
        image: (H, W, 3) RGB, uint8.
        seen: What the detector makes of it; None leaves its panel out.
        objects: What there is; None, or nothing known, leaves its panel out.
        picks: Regions that were picked; outlined unless they are the whole image.
    """

    title: str
    image: NDArray[np.uint8]
    seen: Seen | None = None
    objects: Objects | None = None
    picks: Sequence[Pick] = ()


def draw_picked_boxes(
    folder: Path,
    selected: Sequence[Selected],
    number: int,
    drawn: Drawn,
    progress: Callable[[int, int], None],
    *,
    classes: NamedClasses,
    find: Callable[[int], Seen | None],
) -> list[Path]:
    """Writes a picture of each of the images with the best ranks; see `Task.draw`.

    Args:
        folder: Takes the pictures, `0001_<name of the image>.png`, where 1 is its best rank.
        selected: The picks, in their order.
        number: Of images to show.
        drawn: What they are drawn from; `drawn.label` gives `Objects`.
        progress: Called with (images done, all images).
        classes: Names and colours.
        find: Gives what the detector makes of an image by its number in the pool; None where there
            is no detector.

    Returns:
        The files, best rank first.

    Raises:
        SegalError: If the disk is full or the folder cannot be written.
    """
    picks: dict[str, list[Pick]] = {}
    for one in selected:
        picks.setdefault(one.image, []).append(Pick(one.rank, one.box, one.score))
    shown = sorted(picks, key=lambda image: picks[image][0].rank)[:number]
    places = {path: i for i, path in enumerate(drawn.pool.paths)}
    digits = max([4, *(len(str(picks[image][0].rank)) for image in shown)])
    files = []
    with replacing(folder) as temporary:
        temporary.mkdir()
        for done, image in enumerate(shown, 1):
            index = places[image]
            pixels = drawn.pool.read(index)
            bands = shown_bands(pixels, stretched=drawn.pool.reading.bands is not None)
            objects: Any = None if drawn.label is None else drawn.label(image)
            scene = Scene(image, bands, find(index), objects, picks[image])
            name = f"{picks[image][0].rank:0{digits}d}_{plain_name(image)}.png"
            picture = cv2.cvtColor(draw_scene(scene, classes), cv2.COLOR_RGB2BGR)
            (temporary / name).write_bytes(cv2.imencode(".png", picture)[1].tobytes())
            files.append(folder / name)
            progress(done, len(shown))
    return files


def look_at_found(image: NDArray[np.uint8], seen: Seen | None, classes: NamedClasses) -> Look:
    """An image, and what a detector finds in it; see `Task.look`.

    Args:
        image: (H, W, 3) RGB.
        seen: What the detector makes of it; None where there is none.
        classes: Names and colours.
    """
    if seen is None:
        return Look(image)
    shown = _drawn(seen)
    boxes, numbers = seen.found.boxes[shown], seen.found.classes[shown]
    canvas, width = image.copy(), max(1, round(max(image.shape[:2]) / _LINES))
    for box, number in zip(boxes.round().astype(int).tolist(), numbers.tolist(), strict=True):
        for thick, colour in ((width + 2, (0, 0, 0)), (width, classes.palette[number].tolist())):
            cv2.rectangle(canvas, box[:2], box[2:], colour, thick)
    legend = [
        (classes.names[c], (int(r), int(g), int(b)))
        for c in np.unique(numbers).tolist()
        for r, g, b in [classes.palette[c]]
    ]
    heat = next(iter(seen.heat.values()), None)
    below = len(seen.found.scores) - len(boxes)
    said = [f"{len(boxes)} found, and {below} more of scores below {_LEAST_SCORE:g}"]
    return Look(image, heat, canvas, legend, said)


def draw_scene(scene: Scene, classes: NamedClasses) -> NDArray[np.uint8]:
    """Draws what a detector finds in an image beside what there is.

    Args:
        scene: It.
        classes: Names and colours.

    Returns:
        (h, w, 3) uint8 RGB, at most 1400 pixels wide; the panels lie in rows of two, or below each
        other where the image is very wide.
    """
    if scene.objects is not None and not scene.objects.known:
        scene = replace(scene, objects=None)
    height, width = scene.image.shape[:2]
    panels = _panels(scene)
    across = min(2, len(panels))
    rows, columns = panel_size(height, width, across)
    if across * columns + (across - 1) * _GAP + 2 * MARGIN > _WIDEST:
        across = 1
    down = -(-len(panels) // across)
    wide = max(720, 2 * MARGIN + across * columns + (across - 1) * _GAP)
    left = (wide - across * columns - (across - 1) * _GAP) // 2
    canvas = Canvas(wide, HEADER + down * (rows + CAPTION) + _LEGEND + MARGIN, left)
    way = cv2.INTER_AREA if rows < height else cv2.INTER_LINEAR
    small = cv2.resize(scene.image, (columns, rows), interpolation=way).astype(np.uint8, copy=False)
    with steady_style():
        for place, (caption, draw) in enumerate(panels):
            down, right = divmod(place, across)
            x, y = left + right * (columns + _GAP), HEADER + CAPTION + down * (rows + CAPTION)
            axes = canvas.axes(x, y, columns, rows, caption)
            _show(axes, small, (height, width))
            draw(axes, scene, classes, columns / width)
            _outline(axes, scene.picks, (height, width), columns / width)
        canvas.header(scene.title, _summary(scene))
        _write_legend(canvas, scene, classes)
        return canvas.pixels()


_Draw = Callable[[Axes, Scene, NamedClasses, float], None]


def _panels(scene: Scene) -> list[tuple[str, _Draw]]:
    """Captions of the panels, and what draws each onto the image."""
    panels: list[tuple[str, _Draw]] = []
    if scene.seen is not None:
        panels.append(("found", _draw_found))
    if scene.objects is not None:
        panels.append(("what there is", _draw_objects))
    if scene.seen is not None:
        for name, heat in scene.seen.heat.items():
            caption = f"{name}, up to {float(heat.max()):.2g}"
            panels.append((caption, partial(_draw_heat, heat=heat)))
    return panels or [("the image", _draw_nothing)]


def _show(axes: Axes, image: NDArray[np.uint8], size: tuple[int, int]) -> None:
    extent = (0, size[1], size[0], 0)
    axes.imshow(image, extent=extent, aspect="auto", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _interesting(seen: Seen) -> NDArray[np.bool_]:
    """(n,) the detections that have most of what the image was picked for."""
    chosen = np.zeros(len(seen.found.scores), np.bool_)
    if seen.interest is not None:
        chosen[np.argsort(-seen.interest, kind="stable")[:_MOST_INTERESTING]] = True
    return chosen


def _drawn(seen: Seen) -> NDArray[np.bool_]:
    return (seen.found.scores >= _LEAST_SCORE) | _interesting(seen)


def _draw_found(axes: Axes, scene: Scene, classes: NamedClasses, scale: float) -> None:
    assert scene.seen is not None
    seen = scene.seen
    found, thick, shown = seen.found, _interesting(seen), _drawn(seen)
    thin, labelled = _style(found.boxes[shown], scene, scale)
    # The best are drawn last, and those that made the image interesting above all.
    for i in np.lexsort((found.scores, thick)).tolist():
        if not shown[i]:
            continue
        colour = _colour(classes, int(found.classes[i]))
        _rectangle(axes, found.boxes[i], colour, _THICK if thick[i] else thin)
        if seen.interest is not None and thick[i]:
            _label(axes, found.boxes[i], f"{seen.interest[i]:.2g}", colour, scale)
        elif seen.interest is None and labelled:
            _label(axes, found.boxes[i], f"{found.scores[i]:.2f}", colour, scale)


def _draw_objects(axes: Axes, scene: Scene, classes: NamedClasses, scale: float) -> None:
    assert scene.objects is not None
    objects = scene.objects
    thin, _ = _style(objects.boxes, scene, scale)
    for box, name, crowd in zip(objects.boxes, objects.classes, objects.crowd, strict=True):
        style = "--" if crowd else "-"
        _rectangle(axes, box, _colour(classes, int(name)), thin, style)


def _draw_heat(
    axes: Axes,
    scene: Scene,
    classes: NamedClasses,
    scale: float,
    *,
    heat: NDArray[np.float32],
) -> None:
    """A map over the image, from 0 to its own largest value."""
    height, width = heat.shape
    top = max(float(heat.max()), _NOTHING)
    extent = (0, width, height, 0)
    axes.imshow(heat, "inferno", extent=extent, aspect="auto", vmin=0, vmax=top, alpha=_OPAQUE)


def _draw_nothing(axes: Axes, scene: Scene, classes: NamedClasses, scale: float) -> None:
    """The image alone."""


def _style(boxes: NDArray[Any], scene: Scene, scale: float) -> tuple[float, bool]:
    """Width of the lines in pixels of the picture, and whether there is room for scores."""
    if not len(boxes):
        return _THIN[1], True
    middle = float(np.median(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)))) * scale
    crowded = middle < _CROWDED * max(scene.image.shape[:2]) * scale
    return (_THIN[0] if crowded else _THIN[1]), not crowded


def _rectangle(axes: Axes, box: NDArray[Any], colour: str, wide: float, style: str = "-") -> None:
    x0, y0, x1, y1 = box.tolist()
    axes.add_patch(
        Rectangle(
            (x0, y0),
            x1 - x0,
            y1 - y0,
            fill=False,
            ec=colour,
            lw=wide * POINTS,
            ls=style,
            joinstyle="miter",
            path_effects=[withStroke(linewidth=(wide + 1.5) * POINTS, foreground="black")],
        )
    )


def _label(axes: Axes, box: NDArray[Any], text: str, colour: str, scale: float) -> None:
    """Writes a number into the near corner of a box; above it where it would hide most of it."""
    above = box[1] * scale > _ROOM and (box[3] - box[1]) * scale < 2 * _ROOM
    axes.annotate(
        text,
        (float(box[0]), float(box[1])),
        (2, 2 if above else -2),
        textcoords="offset pixels",
        ha="left",
        va="bottom" if above else "top",
        size=_LABEL * POINTS,
        color="black" if np.dot(to_rgb(colour), (0.3, 0.59, 0.11)) > _DARK else "white",
        bbox={"boxstyle": "square,pad=0.15", "fc": colour, "ec": "none"},
        annotation_clip=False,
    )


def _outline(axes: Axes, picks: Sequence[Pick], size: tuple[int, int], scale: float) -> None:
    """Outlines of picked tiles, with their ranks."""
    whole: Box = (0, 0, size[1], size[0])
    for pick in picks:
        if pick.box != whole:
            box = np.array(pick.box)
            _rectangle(axes, box, "white", _PICKED, "--")
            _label(axes, box, str(pick.rank), "white", scale)


def _colour(classes: NamedClasses, number: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*classes.palette[number].tolist())


def _summary(scene: Scene) -> str:
    """Rank and score of the picks, and what is drawn, in a line."""
    parts = []
    ranks = [str(pick.rank) for pick in scene.picks]
    if len(ranks) == 1:
        parts.append(f"rank {ranks[0]}, score {scene.picks[0].score:.4g}")
    elif ranks:
        parts.append(f"ranks {', '.join(ranks[:8])}" + (", ..." if len(ranks) > 8 else ""))
    if scene.seen is not None:
        shown = int(_drawn(scene.seen).sum())
        below = len(scene.seen.found.scores) - shown
        parts.append(
            f"{shown} found" + (f" ({below} more of scores below {_LEAST_SCORE:g})" * (below > 0))
        )
    if scene.objects is not None:
        crowds = int(scene.objects.crowd.sum())
        parts.append(
            count(len(scene.objects) - crowds, "object")
            + (f", {crowds} dashed: crowd" * (crowds > 0))
        )
    if scene.seen is not None and scene.seen.interest is not None:
        name = scene.seen.interest_name or "interest"
        parts.append(
            f"thick: the {_MOST_INTERESTING} of highest {name}, which is the number on each"
        )
    return "; ".join(parts)


def _write_legend(canvas: Canvas, scene: Scene, classes: NamedClasses) -> None:
    """The classes that are drawn, as many as there is room for."""
    numbers: set[int] = set()
    if scene.seen is not None:
        numbers |= set(scene.seen.found.classes[_drawn(scene.seen)].tolist())
    if scene.objects is not None:
        numbers |= set(scene.objects.classes.tolist())
    x, y = canvas.left, canvas.height - MARGIN
    for number in sorted(numbers):
        corner = x / canvas.width, 1 - y / canvas.height
        side = _SWATCH / canvas.width, _SWATCH / canvas.height
        patch = Rectangle(corner, *side, fc=_colour(classes, number), ec="black", lw=POINTS)
        text = canvas.words(x + _SWATCH + 6, y, classes.names[number])
        end = x + _SWATCH + 6 + text.get_window_extent().width
        if end > canvas.width - MARGIN:
            text.set_text("\N{HORIZONTAL ELLIPSIS}")
            break
        canvas.figure.add_artist(patch)
        x = round(end) + 24
