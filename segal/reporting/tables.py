"""Tables of a report: cells for people, and the same as CSV."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

_LIGHTEST, _DARKEST = (247, 251, 255), (8, 69, 148)
_FORMULA = {"=", "+", "-", "@", "\t", "\r"}
_BLACK, _WHITE = "#000", "#fff"


@dataclass(frozen=True)
class Cell:
    """What stands in a table.

    Attributes:
        text: For people.
        value: For the CSV file: a number at full precision, or the text.
        heat: Place on the colour scale, in [0, 1]; None for no colour.
        mark: A word on what is to be noted, such as `worse than random`; shown and written.
        sd: Standard deviation of the value, shown behind it and written beside it.
    """

    text: str
    value: float | int | str | None = None
    heat: float | None = None
    mark: str = ""
    sd: float | None = None

    @property
    def is_number(self) -> bool:
        """Whether it stands right in its column."""
        return isinstance(self.value, int | float)

    @property
    def style(self) -> str:
        """CSS of its colours."""
        if self.heat is None:
            return ""
        ground, text = heat_colours(self.heat)
        return f"background:{ground};color:{text}"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        slug: Of its CSV file.
        title: What it shows.
        columns: Their names, with units.
        rows: Cells.
        notes: How to read it.
    """

    slug: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def numeric(self) -> tuple[bool, ...]:
        """By column, whether numbers stand in it."""
        return tuple(any(row[i].is_number for row in self.rows) for i in range(len(self.columns)))

    def as_csv(self) -> str:
        """With a header line, numbers at full precision; what goes with them in further columns."""
        places = range(len(self.columns))
        spread = [i for i in places if any(row[i].sd is not None for row in self.rows)]
        marked = [i for i in places if any(row[i].mark for row in self.rows)]
        extra = [f"{self.columns[i]}: sd" for i in spread]
        extra += [f"{self.columns[i]}: note" for i in marked]
        rows = []
        for row in self.rows:
            values = [cell.text if cell.value is None else cell.value for cell in row]
            values += ["" if (sd := row[i].sd) is None else sd for i in spread]
            rows.append([*values, *(row[i].mark for i in marked)])
        return csv_text([*self.columns, *extra], rows)


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[float | int | str | None]]) -> str:
    """A CSV file with a header line, numbers at full precision; None is an empty cell.

    A text that a spreadsheet would take for a formula, such as a class named `=1+1`, gets an
    apostrophe in front.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in (columns, *rows):
        writer.writerow(
            ["'" + cell if isinstance(cell, str) and cell[:1] in _FORMULA else cell for cell in row]
        )
    return text.getvalue()


def heat_colours(share: float) -> tuple[str, str]:
    """Colours of a cell and of its text, which keep a contrast of 4.5 to 1 at least (WCAG 2 AA).

    Args:
        share: Of the way along the scale, in [0, 1].
    """
    share = min(max(share, 0.0), 1.0)
    rgb = [round(a + (b - a) * share) for a, b in zip(_LIGHTEST, _DARKEST, strict=True)]
    linear = [((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 255 / 12.92 for c in rgb]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    darker = (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05)
    return f"rgb({rgb[0]},{rgb[1]},{rgb[2]})", _BLACK if darker else _WHITE


def words(text: object) -> Cell:
    """A cell of text."""
    return Cell(str(text), str(text))


def number(
    value: float | None,
    digits: int = 1,
    *,
    signed: bool = False,
    heat: float | None = None,
    mark: str = "",
    sd: float | None = None,
) -> Cell:
    """A cell of a number; a dash where there is none.

    Args:
        value: The number; None and NaN are none.
        digits: Behind the point.
        signed: With a plus sign, too.
        heat: As in `Cell`.
        mark: As in `Cell`.
        sd: As in `Cell`; NaN is none.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Cell("–", "", mark=mark)
    text = f"{value:{'+' if signed else ''},.{digits}f}".replace("-", "\N{MINUS SIGN}")
    if sd is None or math.isnan(sd):
        return Cell(text, value, heat, mark)
    return Cell(f"{text} ± {sd:.{digits}f}", value, heat, mark, sd)


def count(value: int | float | None) -> Cell:
    """A cell of a count, or of a mean of counts."""
    return number(value, 0 if value is None or float(value).is_integer() else 1)


def any_cell(value: object) -> Cell:
    """A cell of whatever JSON held."""
    if value is None:
        return number(None)
    if isinstance(value, bool):
        return words(str(value).lower())
    if isinstance(value, int):
        return count(value)
    return number(value, _digits(value)) if isinstance(value, float) else words(value)


def _digits(value: float) -> int:
    """Behind the point, for four digits that count; of a small number, such as p, the first two."""
    size = abs(value)
    if 1e-9 < size < 0.01:
        return 1 - int(f"{size:.1e}".partition("e")[2])
    return 3 if size < 10 else 2 if size < 100 else 1
