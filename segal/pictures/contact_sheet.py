"""Contact sheets: many images as thumbnails on a page, each above a few lines of words."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeVar

import cv2
import numpy as np
from matplotlib.cm import ScalarMappable
from numpy.typing import NDArray

from segal.pictures.sheet import (
    BAR,
    BAR_GAP,
    CAPTION,
    HEADER,
    MARGIN,
    POINTS,
    QUIET,
    Canvas,
    steady_style,
)

Item = TypeVar("Item")

THUMBNAIL = 128
"""Sides of the square that an image is shown in, in pixels of the page."""
ACROSS = 9
MOST = 54
"""Images on a page; with more in a row or a column, pages do not fit a screen."""

_GAP, _ROW_GAP, _LINE = 24, 26, 17
_FRAME = 4
_LONGEST = 2 * THUMBNAIL
_NARROWEST, _BAR_ROOM, _TALLEST_BAR = 720, 90, 400
_CELL = 236  # grey, so that images without contrast to the page have edges
Tone = Literal["plain", "bold", "quiet", "right", "wrong"]
_COLOURS: dict[Tone, str] = {
    "plain": "black",
    "bold": "black",
    "quiet": QUIET,
    # Blue and vermilion of Okabe and Ito: told apart without colour vision.
    "right": "#0072b2",
    "wrong": "#c04f00",
}
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Line:
    """A line of words below a thumbnail.

    Attributes:
        left: A name, of which the middle is left out where it is too long.
        right: A short number, shown as it is.
        tone: How it looks.
    """

    left: str
    right: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True)
class Tile:
    """An image of a page.

    Attributes:
        image: As `thumbnail` gives it.
        lines: Below it.
        frame: RGB colour of its frame; None for no frame.
    """

    image: NDArray[np.uint8]
    lines: Sequence[Line]
    frame: Colour | None = None


@dataclass(frozen=True)
class Scale:
    """What frames' colours mean.

    Attributes:
        mappable: Of numbers to colours.
        caption: What the numbers are.
        extend: As of a colour bar, whether numbers lie beyond its ends.
    """

    mappable: ScalarMappable
    caption: str
    extend: str = "neither"


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Brings an image to the size of a thumbnail.

    Args:
        image: (H, W, 3), RGB.

    Returns:
        (h, w, 3), of which the longer side is `THUMBNAIL`; of a smaller image it is the largest
        whole multiple of its own, so that every pixel of it is a square of the same size.
    """
    height, width = image.shape[:2]
    longest = max(height, width)
    if longest <= THUMBNAIL:
        times = THUMBNAIL // longest
        return np.ascontiguousarray(image.repeat(times, 0).repeat(times, 1))
    size = [max(1, round(side * THUMBNAIL / longest)) for side in (width, height)]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def contact_sheet(
    tiles: Sequence[Tile], title: str, summary: str, scale: Scale | None = None
) -> NDArray[np.uint8]:
    """Draws a page, from left to right and down.

    Args:
        tiles: Of its images, at least one.
        title: Of the page.
        summary: A line below it.
        scale: Of the frames' colours.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    across = min(ACROSS, len(tiles))
    down = -(-len(tiles) // across)
    step = THUMBNAIL + _LINE * max(len(tile.lines) for tile in tiles) + _ROW_GAP
    top = HEADER + (0 if scale is None else CAPTION)
    wide = across * (THUMBNAIL + _GAP) - _GAP
    room = 0 if scale is None else BAR_GAP + BAR + _BAR_ROOM
    height = top + down * step - _ROW_GAP + MARGIN
    corners = [
        (MARGIN + i % across * (THUMBNAIL + _GAP), top + i // across * step)
        for i in range(len(tiles))
    ]
    with steady_style():
        canvas = Canvas(max(_NARROWEST, wide + room + 2 * MARGIN), height, MARGIN)
        canvas.header(title, summary)
        for tile, corner in zip(tiles, corners, strict=True):
            _write(canvas, tile, corner)
        if scale is not None:
            _explain_frames(canvas, scale, MARGIN + wide + BAR_GAP + _FRAME, top)
        page = canvas.pixels()
    for tile, corner in zip(tiles, corners, strict=True):
        _paste(page, tile, corner)
    return page


def _write(canvas: Canvas, tile: Tile, corner: tuple[int, int]) -> None:
    x, y = corner[0], corner[1] + THUMBNAIL + _FRAME
    for line in tile.lines:
        y += _LINE
        weight = "bold" if line.tone in ("bold", "wrong") else "normal"
        room = THUMBNAIL
        if line.right:
            right = canvas.words(
                x + THUMBNAIL, y, line.right, color=_COLOURS[line.tone], ha="right"
            )
            room -= round(right.get_window_extent().width) + 6
        left = line.left
        if len(left) > _LONGEST:  # to measure it takes its time
            left = left[: _LONGEST // 2] + left[-_LONGEST // 2 :]
        canvas.fit(canvas.words(x, y, left, color=_COLOURS[line.tone], weight=weight), room)


def _explain_frames(canvas: Canvas, scale: Scale, x: int, top: int) -> None:
    """A colour bar, below its caption and, where numbers are tiny, their common factor."""
    canvas.words(x + BAR + _BAR_ROOM, top - 9, scale.caption, color=QUIET, ha="right")
    y = top + 20
    height = min(_TALLEST_BAR, canvas.height - MARGIN - y)
    bar = canvas.colour_bar(scale.mappable, scale.extend, x, y, height)
    bar.yaxis.OFFSETTEXTPAD = 8
    bar.yaxis.get_offset_text().set(size=13 * POINTS, color=QUIET, ha="left")


def _paste(page: NDArray[np.uint8], tile: Tile, corner: tuple[int, int]) -> None:
    """Shows a thumbnail dot for dot."""
    x, y = corner
    if tile.frame is not None:
        page[y - _FRAME : y + THUMBNAIL + _FRAME, x - _FRAME : x + THUMBNAIL + _FRAME] = tile.frame
    page[y : y + THUMBNAIL, x : x + THUMBNAIL] = _CELL
    height, width = tile.image.shape[:2]
    y, x = y + (THUMBNAIL - height) // 2, x + (THUMBNAIL - width) // 2
    page[y : y + height, x : x + width] = tile.image


def encoded(page: NDArray[np.uint8]) -> bytes:
    """A page (h, w, 3) as PNG."""
    _, data = cv2.imencode(".png", cv2.cvtColor(page, cv2.COLOR_RGB2BGR))
    return data.tobytes()


def paged(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items by page; no more than one page of them is held."""
    waiting = iter(items)
    while page := list(islice(waiting, MOST)):
        yield page
