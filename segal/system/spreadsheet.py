"""Tables in text as spreadsheets and other tools save them: encodings, separators, blank rows."""

import csv
import io
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_SEPARATOR_LINE = re.compile(r'"?sep=([,;\t|])"?[ \t]*(\r\n|\r|\n|$)', re.IGNORECASE)
_LINE = re.compile(r"[^\r\n]+")


class NotATable(Exception):
    """What stops a table from being read.

    Args:
        line: Where, from 1.
        expected: What would have been right.
        got: What was found.
        remedy: What to do.
    """

    def __init__(self, line: int, expected: str, got: str, remedy: str | None = None) -> None:
        super().__init__(line, expected, got, remedy)
        self.line, self.expected, self.got, self.remedy = line, expected, got, remedy


@dataclass(frozen=True)
class Sheet:
    """A table that is being read.

    Attributes:
        separator: Between fields: the one that a first line `sep=` names, or else the one that
            leaves most of the columns that were asked for in the first row.
        rows: Each row that is not blank, with the line that it ends on; read once.
    """

    separator: str
    rows: Iterator[tuple[int, list[str]]]


def read_sheet(data: bytes, columns: Collection[str]) -> Sheet:
    r"""Reads comma-, semicolon-, tab- or bar-separated values.

    Args:
        data: The file: UTF-8, with or without a byte order mark, or UTF-16 with one. Lines may end
            in `\n`, `\r\n` or `\r`.
        columns: Names of columns, in small letters, that the separator is told by.

    Raises:
        NotATable: If it is no text; and, while rows are read, for a field that is badly quoted or
            larger than 128 KiB.
    """
    text, skipped = _decoded(data), 0
    found = _SEPARATOR_LINE.match(text)
    if found:
        text, separator, skipped = text[found.end() :], found[1], 1
    else:
        separator = _separator(text, columns)
    return Sheet(separator, _rows(text, separator, skipped))


def tidy(name: str) -> str:
    """The name of a column, whatever its case and the blanks around it."""
    return name.strip().casefold()


def _decoded(data: bytes) -> str:
    encoding = _BYTE_ORDER_MARKS.get(data[:2], "utf-8-sig")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise NotATable(
            data.count(b"\n", 0, error.start) + 1,
            "text in UTF-8",
            f"byte {data[error.start]:#04x}",
            "save it as UTF-8",
        ) from error


def _separator(text: str, columns: Collection[str]) -> str:
    """The separator of the first line that is not blank; a comma where nothing tells."""
    lines = (line[0] for line in _LINE.finditer(text))
    header = next((line for line in lines if line.strip('"\t ,;|')), "")

    def known(separator: str) -> tuple[int, int]:
        fields = header.split(separator)
        return len({tidy(field.strip('" ')) for field in fields} & set(columns)), len(fields)

    return max(SEPARATORS, key=known)


def _rows(text: str, separator: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = skipped
    try:
        for row in reader:
            line = reader.line_num + skipped
            if any(field.strip() for field in row):
                yield line, row
    except csv.Error as error:
        kind = f"values separated by {SEPARATORS[separator]}"
        raise NotATable(line + 1, kind, str(error)) from error
