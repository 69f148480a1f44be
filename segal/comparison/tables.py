"""Tables: for JSON, for CSV files, and as text for the console."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segal.reporting.tables import any_cell, csv_text
from segal.system.files import remove, write_bytes

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """A table of results.

    Attributes:
        title: What it shows.
        columns: Their names, with units.
        rows: Cells; None where there is no value.
        notes: How to read it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        notes: Sequence[str] = (),
    ) -> "Table":
        """Makes a table; NaN becomes None."""
        cells = tuple(
            tuple(None if isinstance(c, float) and math.isnan(c) else c for c in row)
            for row in rows
        )
        if any(len(row) != len(columns) for row in cells):
            raise ValueError(f"{title}: expected rows of {len(columns)} cells")
        return cls(title, tuple(columns), cells, tuple(notes))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Table":
        """Reads what `as_dict` gave."""
        return cls.of(values["title"], values["columns"], values["rows"], values["notes"])

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    def as_csv(self) -> str:
        """With a header line, at full precision; no value is an empty cell."""
        return csv_text(self.columns, self.rows)

    def as_text(self) -> str:
        """In columns, numbers as on the page of a report."""
        shown = [list(self.columns), *([any_cell(cell).text for cell in row] for row in self.rows)]
        widths = [max(len(row[i]) for row in shown) for i in range(len(self.columns))]
        numeric = [
            all(not isinstance(row[i], str) for row in self.rows) for i in range(len(widths))
        ]
        lines = [
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, numeric, strict=True)
            ).rstrip()
            for row in shown
        ]
        return "\n".join([self.title, "-" * len(self.title), *lines, *self.notes])


def write_tables(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Writes a CSV file a table, `01-title.csv` and so on; files of an earlier analysis go.

    Raises:
        SegalError: If the disk is full or the folder cannot be written.
    """
    remove(folder)
    files = []
    for number, table in enumerate(tables, 1):
        slug = re.sub(r"[^a-z0-9]+", "-", table.title.split(":")[0].lower()).strip("-")[:60]
        files.append(folder / f"{number:02d}-{slug}.csv")
        write_bytes(files[-1], table.as_csv().encode())
    return files
