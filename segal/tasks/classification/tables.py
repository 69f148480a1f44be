"""Images whose paths and labels are listed in tables (CSV)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from segal.data.find import SUFFIXES, shortened
from segal.data.images import read_bytes
from segal.errors import SegalError, raise_all
from segal.system.spreadsheet import NotATable, read_sheet, tidy
from segal.tasks.classification.labels import (
    CLASSES_FILE,
    ClassList,
    Labels,
    classes_of,
    encoded,
    tidied,
)
from segal.tasks.classification.layout import Source
from segal.tasks.classification.pools import open_files

LAYOUT = """\
train.csv, val.csv, test.csv (or one CSV with a column `split`; without one, split by segal)
    path,label              paths relative to the folder of the CSV; labels are names or numbers
    cats/1.jpg,cat
    or, for several labels an image, a column for each class:
    path,cat,dog
    cats/1.jpg,1,0
classes.txt (or the names that occur, sorted; needed for numbers with gaps)"""

PATH_COLUMNS = ("path", "image", "file", "filename", "filepath", "image_path", "img", "name")
LABEL_COLUMNS = ("label", "class", "target", "category", "y")
SPLIT_COLUMNS = ("split", "set", "subset")
_SPLIT_FILES = ("train.csv", "val.csv", "valid.csv", "validation.csv", "test.csv")
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Table:
    """What a table lists.

    Attributes:
        file: The table.
        paths: Of the images, relative to its folder.
        labels: As they are written; None where they were not asked for.
        splits: Of each image; None where no column says so.
        columns: Names of the classes, where each has a column.
    """

    file: Path
    paths: tuple[str, ...]
    labels: Labels | None
    splits: tuple[str, ...] | None
    columns: tuple[str, ...] | None

    def part(self, split: str) -> "Table":
        """The rows of a split."""
        assert self.splits is not None
        rows = [i for i, name in enumerate(self.splits) if name == split]
        labels = None if self.labels is None else self.labels[rows]
        paths = tuple(self.paths[i] for i in rows)
        return Table(self.file, paths, labels, None, self.columns)


def found(root: Path) -> bool:
    """Whether a file or a folder looks like this layout."""
    return bool(_files(root))


def splits(root: Path) -> list[str]:
    """The splits that there are, sorted; none where the images are not split."""
    files = _files(root)
    if _are_named(root, files):
        return sorted(file.stem for file in files)
    names: set[str] = set()
    for file in files:
        rows, header = _rows(file)
        at = _columns(file, header, rows, None).split
        names |= set() if at is None else {row[at].strip() for _, row in rows if at < len(row)}
    return sorted(names - {""})


def several(root: Path) -> bool:
    """Whether classes have columns."""
    rows, header = _rows(_files(root)[0])
    try:
        _columns(root, header, rows, False)
    except SegalError:
        return len(_columns(root, header, rows, True).labels) > 1
    return False


def source(root: Path, split: str | None, multilabel: bool) -> Source:
    """A split, or all images where they are not split.

    Raises:
        SegalError: If a table cannot be read or told, lists an image twice (also in two splits), or
            has labels that the classes do not have.
    """
    folder = root.parent if root.is_file() else root
    tables = _tables(root, multilabel)
    _refuse_in_two(folder, tables)
    columns = {s: t.columns for s, t in tables.items()}
    if len(set(columns.values())) > 1:
        raise SegalError(
            f"{root}: the tables have different columns of classes",
            expected="the same in all, in the same order",
            got="; ".join(f"{s}: {', '.join((c or ())[:10])}" for s, c in columns.items()),
            remedy="write them alike",
        )
    listed = ClassList.read(folder / CLASSES_FILE)
    written = {s: t.labels for s, t in tables.items() if t.labels is not None}
    table = tables[split or ""]
    classes = classes_of(str(root), written, listed, table.columns)
    paths, written_here = table.paths, table.labels
    assert written_here is not None
    labels = encoded(str(table.file), written_here, classes, listed, paths)
    # The pool's order is that of the bytes of paths, whatever that of the table.
    order = sorted(range(len(paths)), key=lambda i: paths[i].encode(errors="surrogateescape"))
    ordered = [paths[i] for i in order]
    return Source(
        folder,
        ordered,
        labels[order],
        classes,
        lambda rows, **options: open_files(folder, [ordered[i] for i in rows], **options),
    )


def _files(root: Path) -> list[Path]:
    """The tables of a data set."""
    if root.is_file():
        return [root] if root.suffix.lower() == ".csv" else []
    named = [root / name for name in _SPLIT_FILES if (root / name).is_file()]
    if named or not root.is_dir():
        return named
    others = [f for f in sorted(root.glob("*.csv")) if f.is_file() and _lists_images(f)]
    return others if len(others) == 1 else []


def _lists_images(file: Path) -> bool:
    """Whether the first rows of a table have a path to an image."""
    with file.open("rb") as opened:
        head = opened.read(2**16)
    try:
        sheet = read_sheet(head.rpartition(b"\n")[0] or head, PATH_COLUMNS)
        rows = [row for (_, row), _ in zip(sheet.rows, range(2), strict=False)]
    except NotATable:
        return False
    return any(_is_image(field) for row in rows for field in row)


def _are_named(root: Path, files: Sequence[Path]) -> bool:
    """Whether each table is a split, and named after it."""
    return root.is_dir() and bool(files) and files[0].name in _SPLIT_FILES


def _tables(root: Path, multilabel: bool) -> dict[str, Table]:
    """The tables by split; of "" where the images are not split."""
    files = _files(root)
    if _are_named(root, files):
        return {file.stem: read_table(file, multilabel) for file in files}
    (table,) = [read_table(file, multilabel) for file in files]
    if table.splits is None:
        return {"": table}
    return {split: table.part(split) for split in sorted(set(table.splits))}


def read_table(file: Path, multilabel: bool | None) -> Table:
    """Reads a table of paths and labels.

    Args:
        file: Comma-, semicolon-, tab- or bar-separated, with or without a row of names.
        multilabel: Whether each class has a column; None to leave labels unread.

    Raises:
        SegalError: For all that is wrong with it.
    """
    rows, header = _rows(file)
    at = _columns(file, header, rows, multilabel)
    errors = _row_errors(file, rows, at)
    raise_all(shortened(errors))
    paths = tuple(PurePosixPath(row[at.path].strip()).as_posix() for _, row in rows)
    named = None if at.split is None else tuple(row[at.split].strip() for _, row in rows)
    labels = None
    if multilabel is not None:
        fields = [[row[i] if i < len(row) else "" for i in at.labels] for _, row in rows]
        labels = tidied(str(file), np.array(fields, np.str_), multilabel)
    columns = tuple(header[i].strip() for i in at.labels) if multilabel and header else None
    return Table(file, paths, labels, named, columns)


def _rows(file: Path) -> tuple[list[tuple[int, list[str]]], list[str] | None]:
    """Rows with their line numbers, and the row of names, if there is one."""
    known = (*PATH_COLUMNS, *LABEL_COLUMNS, *SPLIT_COLUMNS)
    try:
        rows = list(read_sheet(read_bytes(file), known).rows)
    except NotATable as error:
        raise SegalError(
            f"{file}: line {error.line} cannot be read",
            expected=error.expected,
            got=error.got,
            remedy=error.remedy or "mend the line",
        ) from error
    header = rows[0][1] if rows and not any(map(_is_image, rows[0][1])) else None
    rows = rows if header is None else rows[1:]
    if not rows:
        raise SegalError(
            f"{file}: lists no image",
            expected=_shown(),
            got="a row of names alone" if header else "an empty table",
            remedy="list the images",
        )
    return rows, header


@dataclass(frozen=True)
class _At:
    """Numbers of the columns."""

    path: int
    labels: tuple[int, ...]
    split: int | None


def _columns(
    file: Path,
    header: list[str] | None,
    rows: Sequence[tuple[int, list[str]]],
    multilabel: bool | None,
) -> _At:
    names = [tidy(name) for name in header or []]
    first = rows[0][1]
    width = len(header or first)

    def one(known: Sequence[str]) -> int | None:
        return next((names.index(name) for name in known if name in names), None)

    path, split = one(PATH_COLUMNS), one(SPLIT_COLUMNS)
    if path is None or (path < len(first) and not _is_image(first[path])):
        path = next((i for i, field in enumerate(first) if _is_image(field)), path)
    others = tuple(i for i in range(width) if i not in (path, split))
    label = one(LABEL_COLUMNS)
    if label is None and len(others) == 1:
        label = others[0]
    problem = None
    if path is None:
        problem = "no column of paths to images"
    elif multilabel and (header is None or not others):
        problem = "no names of classes above the columns"
    elif multilabel and any(not names[i] for i in others):
        problem = "a column without the name of its class"
    elif multilabel and len({names[i] for i in others}) < len(others):
        problem = "a class that has two columns"
    elif multilabel is False and label is None:
        problem = "which column holds the label cannot be told"
    if problem is None and path is not None:
        chosen = others if multilabel else () if label is None else (label,)
        return _At(path, chosen if multilabel is not None else (), split)
    raise SegalError(
        f"{file}: {problem}",
        expected=_shown(),
        got=f"columns {', '.join(header)}" if header else f"no row of names; {', '.join(first)}",
        remedy="name the columns as shown"
        + ("; a column for each class is read with task: multilabel" if not multilabel else ""),
    )


def _shown() -> str:
    return "\n    path,label\n    cats/1.jpg,cat\n  or\n    path,cat,dog\n    cats/1.jpg,1,0"


def _row_errors(file: Path, rows: Sequence[tuple[int, list[str]]], at: _At) -> list[SegalError]:
    errors = []
    lines: dict[str, list[int]] = {}
    needed = max(at.path, *at.labels, -1 if at.split is None else at.split)
    for line, row in rows:
        path = row[at.path].strip() if at.path < len(row) else ""
        split = at.split is None or (at.split < len(row) and row[at.split].strip())
        if not path or not split or len(row) <= needed:
            errors.append(
                SegalError(
                    f"{file}: line {line} has no path or no split, or too few fields",
                    expected=f"at least {needed + 1} fields",
                    got=", ".join(row)[:100],
                    remedy="mend the line",
                )
            )
        else:
            lines.setdefault(PurePosixPath(path).as_posix(), []).append(line)
    errors += [
        SegalError(
            f"{file}: {path} is listed more than once",
            expected="every image once"
            + ("; several labels an image have a column each" if len(at.labels) == 1 else ""),
            got=f"lines {', '.join(map(str, found[:_SHOWN]))}",
            remedy="remove all lines but one",
        )
        for path, found in lines.items()
        if len(found) > 1
    ]
    return errors


def _refuse_in_two(root: Path, tables: dict[str, Table]) -> None:
    seen: dict[str, str] = {}
    errors = []
    for split, table in tables.items():
        for path in table.paths:
            if seen.setdefault(path, split) != split:
                errors.append(
                    SegalError(
                        f"{root}: {path} is in {seen[path]} and in {split}",
                        expected="every image in one split",
                        got="one in two",
                        remedy="take it out of one of them",
                    )
                )
    raise_all(shortened(errors))


def column_count(file: Path) -> int:
    """How many columns a table of labels alone has.

    Raises:
        SegalError: If it cannot be read.
    """
    return max(map(len, _label_rows(file)), default=0)


def _label_rows(file: Path) -> list[list[str]]:
    try:
        return [row for _, row in read_sheet(read_bytes(file), LABEL_COLUMNS).rows]
    except NotATable as error:
        raise SegalError(
            f"{file}: line {error.line} cannot be read",
            expected=error.expected,
            got=error.got,
            remedy=error.remedy or "mend the line",
        ) from error


def read_column(file: Path, count: int, multilabel: bool) -> tuple[Labels, tuple[str, ...] | None]:
    """Reads a table of labels alone, a row for each of `count` rows of features.

    Returns:
        Labels, and the names of the classes where each has a column with a name.

    Raises:
        SegalError: If it cannot be read, or has not as many rows.
    """
    rows = _label_rows(file)
    header = None
    if len(rows) == count + 1 or (rows and tidy(rows[0][0]) in LABEL_COLUMNS):
        header, rows = rows[0], rows[1:]
    if len(rows) != count:
        raise SegalError(
            f"{file}: not as many labels as features",
            expected=f"{count} rows, and a row of names above them or none",
            got=f"{len(rows)} rows",
            remedy="write a label for every row of features, in the same order",
        )
    widths = {len(row) for row in (*rows, *([header] if header else []))}
    if len(widths) > 1:
        raise SegalError(
            f"{file}: rows of different lengths",
            expected="as many fields in every row",
            got=", ".join(map(str, sorted(widths))),
            remedy="mend the table",
        )
    labels = tidied(str(file), np.array(rows, np.str_), multilabel)
    return labels, tuple(map(str.strip, header)) if header and multilabel else None


def _is_image(field: str) -> bool:
    return re.sub(r"[\s\"']+$", "", field).lower().endswith(SUFFIXES)
