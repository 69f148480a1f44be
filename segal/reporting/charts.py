"""Line charts of a report: as SVG within the page, and as PNG beside it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from segal.pictures.sheet import steady_style

Floats = NDArray[np.float64]

# Okabe and Ito's colours without their yellow, which is faint on white; random is grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("solid", "dashed", "dashdot")
_GREY, _GREY_MARKERS, _INK, _GRID = "#6b7280", ("x", "+", "1"), "#1f2933", "#e3e7ec"
_PNG_DPI, _SVG_DPI = 160, 72
_FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"

MOST_BANDS = 8
"""Lines of a chart up to which bands are drawn: those of more would hide the lines."""


@dataclass(frozen=True)
class Look:
    """How an arm is drawn everywhere: no two arms of up to 21 share all three."""

    colour: str
    marker: str
    dash: str


@dataclass(frozen=True)
class Line:
    """A line with its band.

    Attributes:
        name: Of its arm.
        look: How it is drawn.
        x: (n,) places.
        mean: (n,) values; NaN leaves a gap.
        low: (n,) lower edge of the band.
        high: (n,) upper edge.
    """

    name: str
    look: Look
    x: Floats
    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Chart:
    """A chart with lines and perhaps level reference lines.

    Attributes:
        slug: Of its files.
        title: What it shows; the text that stands for it.
        x_label: With unit.
        y_label: With unit; above the axis.
        lines: What is drawn.
        levels: Height of reference lines by name.
        whole: Whether places are whole numbers, such as rounds.
        least_span: Of the axis of values, so that noise does not look like a rise.
    """

    slug: str
    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    levels: Mapping[str, float]
    whole: bool = False
    least_span: float = 0.0


def looks(names: Sequence[str], random: Sequence[str]) -> dict[str, Look]:
    """A look for every arm; arms that pick at random are grey."""
    found: dict[str, Look] = {}
    coloured = 0
    for name in names:
        if name in random:
            i = sum(other in random for other in found)
            found[name] = Look(_GREY, _GREY_MARKERS[i % 3], _DASHES[(i + 1) % 3])
        else:
            i, j = coloured % len(_COLOURS), coloured // len(_COLOURS)
            found[name] = Look(_COLOURS[i], _MARKERS[(i + j) % len(_MARKERS)], _DASHES[j % 3])
            coloured += 1
    return found


def svg(chart: Chart, width: int, height: int) -> str:
    """The chart as an SVG element for the page, without a legend.

    Args:
        chart: What to draw.
        width: In CSS pixels.
        height: Likewise.
    """
    with steady_style(), mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": chart.slug}):
        figure = _draw(chart, width, height, legend=False)
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(text.getvalue(), f"{chart.slug}-{width}")


def png(chart: Chart, width: int = 860, height: int = 480) -> bytes:
    """The chart as a PNG file, with title and legend."""
    with steady_style():
        figure = _draw(chart, width, height, legend=True)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    return buffer.getvalue()


def swatch(look: Look) -> bytes:
    """A piece of an arm's line, for the legend of the page: a PNG file of 34 by 14 CSS pixels."""
    with steady_style():
        figure = Figure(figsize=(34 / _SVG_DPI, 14 / _SVG_DPI), dpi=3 * _SVG_DPI)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.set(xlim=(0, 1), ylim=(-1, 1))
        axes.plot([0, 1], [0, 0], color=look.colour, ls=look.dash, lw=2)
        axes.plot([0.5], [0], **{**_style(look), "ls": "none"})
        buffer = BytesIO()
        figure.savefig(buffer, format="png", transparent=True, metadata={"Software": None})
    return buffer.getvalue()


def _inline(text: str, prefix: str) -> str:
    """An SVG file as an element of a page: no address in it, and no id that another one has."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    head, rest = body.split(">", 1)
    head = re.sub(r'\s(xmlns(:\w+)?|version|width|height)="[^"]*"', "", head)
    rest = rest.replace("xlink:href", "href")
    rest = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{prefix}-", rest)
    return f'{head} role="img" aria-hidden="true">{rest}'


def _draw(chart: Chart, width: int, height: int, *, legend: bool) -> Figure:
    figure = Figure(figsize=(width / _SVG_DPI, height / _SVG_DPI), dpi=_SVG_DPI)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    # Bands over bands hide the lines, and each other.
    alpha = 0.18 if len(chart.lines) <= 4 else 0.1
    banded = len(chart.lines) <= MOST_BANDS
    for line in chart.lines:
        if banded and len(line.x) > 1:
            axes.fill_between(
                line.x, line.low, line.high, color=line.look.colour, alpha=alpha, lw=0
            )
        axes.plot(line.x, line.mean, label=_clean(line.name), **_style(line.look))
    for name, level in chart.levels.items():
        axes.axhline(level, color=_INK, lw=1.4, ls=(0, (6, 3)), label=_clean(name))
        axes.annotate(
            _short(f"{name} {level:.1f}", 30),
            (0.01, level),
            xycoords=("axes fraction", "data"),
            xytext=(2, -4),
            textcoords="offset points",
            va="top",
            fontsize=11,
            color=_INK,
            parse_math=False,
        )
    _dress(axes, chart)
    if legend:
        axes.set_title(chart.title, fontsize=13, loc="left", pad=26, parse_math=False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
        for entry in figure.legends[0].get_texts():
            entry.set_parse_math(False)
    return figure


def _style(look: Look) -> dict[str, Any]:
    return {
        "color": look.colour,
        "marker": look.marker,
        "ls": look.dash,
        "lw": 2,
        "ms": 6,
        "mec": look.colour if look.marker in _GREY_MARKERS else "white",
        "mew": 1.6 if look.marker in _GREY_MARKERS else 0.8,
    }


def _dress(axes: Axes, chart: Chart) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#9aa5b1")
    axes.grid(axis="y", color=_GRID, lw=1)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=11, labelcolor="#3e4c59")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=chart.whole, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.set_xlabel(chart.x_label, fontsize=11.5, color=_INK)
    # Above the axis: a turned label is hard to read, and costs width on a phone.
    axes.set_title(" ", fontsize=11.5)  # takes its room
    label = axes.annotate(
        chart.y_label,
        (0, 1),
        xycoords=("figure fraction", "axes fraction"),
        xytext=(3, 9),
        textcoords="offset points",
        fontsize=11.5,
        color=_INK,
    )
    label.set_in_layout(False)
    axes.margins(x=0.04, y=0.08)
    low, high = axes.get_ylim()
    if high - low < chart.least_span:
        middle = (low + high) / 2
        axes.set_ylim(middle - chart.least_span / 2, middle + chart.least_span / 2)


def _clean(text: str) -> str:
    """A label of characters that can be shown; matplotlib leaves out those that begin with `_`."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return _short(shown if not shown.startswith("_") else f"\N{ZERO WIDTH SPACE}{shown}", 40)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
