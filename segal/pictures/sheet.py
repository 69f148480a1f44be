"""A figure laid out in pixels: one or two panels of an image, a colour bar, a header."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

_DPI = 64  # a power of two keeps the conversion to inches exact
POINTS = 72 / _DPI  # in a pixel
QUIET = "#5a5f66"
_WIDTH, _HIGHEST_PANEL, _NARROWEST = 1400, 860, 720
MARGIN, HEADER, CAPTION, BAR, BAR_GAP, BAR_LABELS = 20, 62, 24, 16, 10, 76
_GAP = 28
_STACK_ABOVE = 1.8  # times as wide as high: one panel above the other


def _is_stacked(height: int, width: int, panels: int) -> bool:
    return panels == 2 and width > _STACK_ABOVE * height


def panel_size(height: int, width: int, panels: int) -> tuple[int, int]:
    """(height, width) in pixels at which an image of that size is shown in each of its panels."""
    room = _WIDTH - 2 * MARGIN
    if panels == 2:
        room -= BAR + BAR_LABELS
        if not _is_stacked(height, width, panels):
            room = (room - _GAP) // 2
    scale = min(room / width, _HIGHEST_PANEL / height)
    return max(1, round(height * scale)), max(1, round(width * scale))


@contextmanager
def steady_style() -> Iterator[None]:
    """Matplotlib as it comes, whatever the user's settings; names in any script are no warning."""
    with style.context("default"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


class Canvas:
    """A figure laid out in its own pixels, with a header.

    Args:
        width: Of the figure, in pixels.
        height: Likewise.
        left: Where its header starts.
    """

    def __init__(self, width: int, height: int, left: int) -> None:
        self.width, self.height, self.left = width, height, left
        self.figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        FigureCanvasAgg(self.figure)

    def axes(self, x: int, y: int, width: int, height: int, caption: str = "") -> Axes:
        """A panel from (x, y) on, right and down, under its caption."""
        self.words(x, y - 7, caption, color=QUIET)
        return self._axes(x, y, width, height)

    def colour_bar(
        self, mappable: ScalarMappable, extend: str, x: int, y: int, height: int
    ) -> Axes:
        """A scale from (x, y) down."""
        bar = self._axes(x, y, BAR, height)
        self.figure.colorbar(mappable, cax=bar, extend=extend)
        bar.tick_params(labelsize=13 * POINTS, colors=QUIET)
        bar.locator_params(axis="y", nbins=max(1, height // 50))
        return bar

    def header(self, title: str, summary: str) -> None:
        """The name of the image and what is to be said about it; long ones lose their middle."""
        room = self.width - self.left - MARGIN
        self.fit(self.words(self.left, 26, title, size=17, weight="bold"), room)
        self.fit(self.words(self.left, 46, summary, color=QUIET), room)

    def pixels(self) -> NDArray[np.uint8]:
        """The figure as (h, w, 3) RGB."""
        buffer = BytesIO()
        self.figure.savefig(buffer, format="rgba")
        dots = np.frombuffer(buffer.getvalue(), np.uint8)
        return dots.reshape(self.height, self.width, 4)[..., :3].copy()

    def _axes(self, x: int, y: int, width: int, height: int) -> Axes:
        bottom = self.height - y - height
        place = (
            x / self.width,
            bottom / self.height,
            width / self.width,
            height / self.height,
        )
        return self.figure.add_axes(place)

    def words(
        self,
        x: int,
        y: int,
        text: str,
        size: int = 13,
        weight: str = "normal",
        color: str = "black",
        ha: str = "left",
    ) -> Text:
        """Writes a line whose baseline starts at (x, y); `size` is in pixels.

        With `ha` it ends there (`right`) or has its middle there (`center`).
        """
        clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
        at = x / self.width, 1 - y / self.height
        return self.figure.text(
            *at,
            clean,
            parse_math=False,
            va="baseline",
            size=size * POINTS,
            weight=weight,
            color=color,
            ha=ha,
        )

    def fit(self, text: Text, room: int) -> None:
        """Leaves the middle of a text out, as far as it is wider than `room` pixels."""
        whole = text.get_text()
        kept = len(whole)
        while kept > 2 and text.get_window_extent().width > room:
            kept = int(kept * 0.95)
            text.set_text(f"{whole[: kept // 2]}\N{HORIZONTAL ELLIPSIS}{whole[-(kept // 2) :]}")


class Sheet(Canvas):
    """A figure whose panels are shown dot for dot.

    Args:
        height: Of the image that is shown, in its own pixels.
        width: Likewise.
        panels: 1, or 2 with a colour bar right of the second.
    """

    def __init__(self, height: int, width: int, panels: int) -> None:
        stacked = _is_stacked(height, width, panels)
        self.panel_height, self.panel_width = height, width = panel_size(height, width, panels)
        across, down = (1, panels) if stacked else (panels, 1)
        self.step = (0, height + CAPTION) if stacked else (width + _GAP, 0)
        wide = 2 * MARGIN + across * width + (across - 1) * _GAP
        wide += BAR + BAR_LABELS if panels == 2 else 0
        whole = max(wide, _NARROWEST)
        left = (whole - wide) // 2 + MARGIN
        super().__init__(whole, HEADER + down * (height + CAPTION) + MARGIN, left)

    def panel(self, place: int, caption: str) -> Axes:
        """The first or the second panel, under its caption."""
        return self.axes(*self._corner(place), self.panel_width, self.panel_height, caption)

    def scale(self, mappable: ScalarMappable, extend: str) -> None:
        """The colour bar, right of the second panel."""
        x, y = self._corner(1)
        self.colour_bar(mappable, extend, x + self.panel_width + BAR_GAP, y, self.panel_height)

    def _corner(self, place: int) -> tuple[int, int]:
        return self.left + place * self.step[0], HEADER + CAPTION + place * self.step[1]
