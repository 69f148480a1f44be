"""Heat tables as pictures, for slides and papers."""

from io import BytesIO
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from segal.pictures.sheet import steady_style
from segal.reporting.tables import Table, heat_colours

_DPI, _ROW, _COLUMN, _LETTER, _HEADER = 144, 26, 84, 7.2, 44
_MOST_LETTERS = 30


def heat_png(table: Table) -> bytes:
    """A table whose cells are coloured, as a PNG file at two dots a CSS pixel."""
    names = [_shown(row[0].text) for row in table.rows]
    first = 20 + _LETTER * max(map(len, names), default=1)
    column = max(_COLUMN, 16 + _LETTER * max(len(_shown(name)) for name in table.columns[1:]))
    width = first + column * (len(table.columns) - 1) + 10
    height = _HEADER + 30 + _ROW * len(table.rows) + 10
    with steady_style():
        figure = Figure(figsize=(width / 72, height / 72), dpi=_DPI)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        text: dict[str, Any] = {"fontsize": 11, "va": "center", "parse_math": False}
        axes.text(10, 20, _shown(table.title, 80), weight="bold", **text)
        for i, name in enumerate(table.columns[1:]):
            axes.text(first + column * (i + 0.5), _HEADER + 12, _shown(name), ha="center", **text)
        for j, row in enumerate(table.rows):
            top = _HEADER + 30 + _ROW * j
            axes.text(10, top + _ROW / 2, names[j], **text)
            for i, cell in enumerate(row[1:]):
                ground, ink = ("white", "black")
                if cell.heat is not None:
                    ground, ink = (_hex(colour) for colour in heat_colours(cell.heat))
                corner = (first + column * i, top)
                axes.add_patch(Rectangle(corner, column, _ROW, fc=ground, ec="white", lw=1))
                centre = first + column * (i + 0.5)
                axes.text(centre, top + _ROW / 2, cell.text, ha="center", color=ink, **text)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _hex(colour: str) -> str:
    """A colour of CSS as matplotlib reads it."""
    if not colour.startswith("rgb("):
        return colour
    return "#" + "".join(f"{int(part):02x}" for part in colour[4:-1].split(","))


def _shown(text: str, most: int = _MOST_LETTERS) -> str:
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return clean if len(clean) <= most else clean[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
