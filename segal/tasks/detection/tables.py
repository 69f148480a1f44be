"""Boxes that are listed in tables (CSV), a row for each, as pandas and `supervision` users have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from segal.data.find import SUFFIXES, shortened
from segal.data.images import read_bytes
from segal.errors import SegalError, raise_all
from segal.system.spreadsheet import NotATable, read_sheet, tidy
from segal.tasks.classes import ClassNames
from segal.tasks.classification.labels import CLASSES_FILE, ClassList
from segal.tasks.classification.tables import LABEL_COLUMNS, PATH_COLUMNS, SPLIT_COLUMNS
from segal.tasks.detection.layout import Labels, Source, Written, in_order, number_of, unknown_class

LAYOUT = """\
train.csv, val.csv, test.csv (or one CSV with a column `split`; without one, split by segal)
    path,x0,y0,x1,y1,class     paths relative to the folder of the CSV, pixels, a row for each box
    a/1.jpg,10,20,110,70,cat
    a/2.jpg,,,,,               an image without objects
    or, with these names, a corner and a size: path,x,y,width,height,class
classes.txt (or the names that occur, sorted; needed for numbers with gaps)"""

_CLASS_COLUMNS = ("class_name", "class", "label_name", *LABEL_COLUMNS, "class_id", "category_id")
_CROWD_COLUMNS = ("crowd", "iscrowd", "difficult")
_CORNERS = (
    ("x0", "y0", "x1", "y1"),
    ("x1", "y1", "x2", "y2"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("left", "top", "right", "bottom"),
)
_SIZES = (
    ("x", "y", "width", "height"),
    ("x", "y", "w", "h"),
    ("xmin", "ymin", "width", "height"),
    ("x_min", "y_min", "width", "height"),
    ("x0", "y0", "width", "height"),
    ("left", "top", "width", "height"),
    ("bbox_x", "bbox_y", "bbox_width", "bbox_height"),
    ("bbox_x", "bbox_y", "bbox_w", "bbox_h"),
)
_COLUMNS = {*PATH_COLUMNS, *_CLASS_COLUMNS, *SPLIT_COLUMNS, *sum(_CORNERS, ()), *sum(_SIZES, ())}
_SPLIT_FILES = ("train.csv", "val.csv", "valid.csv", "validation.csv", "test.csv")
_HEAD = 2**16


@dataclass(frozen=True)
class _Columns:
    """Where a table has what.

    Attributes:
        path: Of the image.
        box: Four columns.
        is_size: Whether the last two of these are width and height.
        name: The class.
        split: None where there is none; so are the rest.
        crowd: Of regions that stand for many objects.
        size: Height and width of the image.
    """

    path: int
    box: tuple[int, ...]
    is_size: bool
    name: int
    split: int | None
    crowd: int | None
    size: tuple[int, int] | None


@dataclass(frozen=True)
class _Row:
    """A box, or an image without one."""

    line: int
    path: str
    box: tuple[float, ...] | None
    name: str
    split: str
    crowd: bool
    size: tuple[int, int] | None


def found(root: Path) -> bool:
    """Whether a file or a folder looks like this layout."""
    return bool(_files(root))


def splits(root: Path) -> list[str]:
    """The splits that there are, sorted; none where the images are not split."""
    return sorted(split for split in _tables(root) if split)


def source(root: Path, split: str | None) -> Source:
    """A split, or all images where they are not split.

    Raises:
        SegalError: For all that is wrong with the tables.
    """
    folder = root.parent if root.is_file() else root
    tables = _tables(root)
    _refuse_in_two(folder, tables)
    names = {row.name for rows in tables.values() for _, row in rows if row.box is not None}
    classes, numbers = _classes(folder, names)
    by_image: dict[str, list[tuple[Path, _Row]]] = {}
    for file, row in tables[split or ""]:
        by_image.setdefault(row.path, []).append((file, row))

    def read(chosen: Sequence[str]) -> Labels:
        labels = Labels()
        for path in chosen:
            boxes = []
            for file, row in by_image[path]:
                if row.box is None:
                    continue
                if row.name in numbers:
                    boxes.append((row.box, numbers[row.name], row.crowd))
                else:
                    place = f"{file}: line {row.line}"
                    labels.errors.append(unknown_class(place, row.name, classes.names))
            labels.written[path] = Written.of(boxes, by_image[path][0][1].size)
        return labels

    return Source(folder, in_order(list(by_image)), classes, read)


def _classes(folder: Path, names: set[str]) -> tuple[ClassNames, dict[str, int]]:
    """The classes, and the class of each text that may stand for one."""
    listed = ClassList.read(folder / CLASSES_FILE)
    if listed is not None:
        by_name = {name: i for i, name in enumerate(listed.names)}
        by_value = {str(value): i for i, value in enumerate(listed.values)}
        return ClassNames(listed.names), by_value | by_name
    numbers = sorted(int(name) for name in names if name.isdecimal() and len(name) < 10)
    if not names or (len(numbers) == len(names) and numbers != list(range(len(numbers)))):
        raise SegalError(
            f"{folder}: the classes cannot be told",
            expected=f"names, numbers from 0 without gaps, or the classes in {CLASSES_FILE}",
            got=f"the numbers {', '.join(map(str, numbers[:20]))}" if names else "no box",
            remedy=f"write {CLASSES_FILE}: a class a line, NAME or VALUE NAME",
        )
    ordered = sorted(names, key=int) if len(numbers) == len(names) else sorted(names)
    return ClassNames(tuple(ordered)), {name: i for i, name in enumerate(ordered)}


def _files(root: Path) -> list[Path]:
    """The tables of a data set."""
    if root.is_file():
        return [root] if root.suffix.lower() == ".csv" and _lists_boxes(root) else []
    named = [root / name for name in _SPLIT_FILES if (root / name).is_file()]
    others = sorted(root.glob("*.csv")) if root.is_dir() and not named else []
    tables = [file for file in named or others if file.is_file() and _lists_boxes(file)]
    return tables if named or len(tables) == 1 else []


def _lists_boxes(file: Path) -> bool:
    """Whether the first row of a table names the columns of boxes, or is a box."""
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD)
    except OSError:
        return False
    # Where a later row is no text, the first one tells, and reading says what is wrong.
    for part in (head.rpartition(b"\n")[0] or head, head.partition(b"\n")[0]):
        try:
            _columns(file, next(read_sheet(part, _COLUMNS).rows, (1, []))[1])
        except NotATable:
            continue
        except SegalError:
            return False
        return True
    return False


def _tables(root: Path) -> dict[str, list[tuple[Path, _Row]]]:
    """The rows by split; of "" where the images are not split."""
    files = _files(root)
    by_split: dict[str, list[tuple[Path, _Row]]] = {}
    errors: list[SegalError] = []
    for file in files:
        is_split = file.name in _SPLIT_FILES and root.is_dir()
        status = file.stat()
        rows, wrong = _rows(file, status.st_size, status.st_mtime_ns)
        errors += wrong
        for row in rows:
            by_split.setdefault(file.stem if is_split else row.split, []).append((file, row))
    raise_all(shortened(errors))
    return by_split


@lru_cache(maxsize=8)
def _rows(file: Path, _size: int, _mtime: int) -> tuple[tuple[_Row, ...], list[SegalError]]:
    """The rows of a table, and what is wrong with others."""
    try:
        sheet = list(read_sheet(read_bytes(file), _COLUMNS).rows)
    except NotATable as error:
        raise SegalError(
            f"{file}: line {error.line} cannot be read",
            expected=error.expected,
            got=error.got,
            remedy=error.remedy or "mend the line",
        ) from error
    at = _columns(file, sheet[0][1] if sheet else [])
    rows, errors = [], []
    for line, fields in sheet[1:] if _is_header(sheet[0][1]) else sheet:
        try:
            rows.append(_row(file, line, fields, at))
        except SegalError as error:
            errors.append(error)
    if not sheet or not (rows or errors):
        errors = [_wrong(f"{file}: lists no box", "a table without a row")]
    return tuple(rows), errors


def _is_header(fields: Sequence[str]) -> bool:
    return not any(field.strip().lower().endswith(SUFFIXES) for field in fields)


def _columns(file: Path, first: Sequence[str]) -> _Columns:
    """Where what is, by the first row: names of columns, or the first box."""
    if not _is_header(first):  # as keras-retinanet and others have it
        if len(first) == 6 and first[0].strip().lower().endswith(SUFFIXES):
            return _Columns(0, (1, 2, 3, 4), False, 5, None, None, None)
        raise _wrong(f"{file}: the columns cannot be told", ", ".join(first)[:200])
    names = {tidy(name): i for i, name in reversed(list(enumerate(first)))}

    def one(known: Sequence[str]) -> int | None:
        return next((names[name] for name in known if name in names), None)

    def four(known: Sequence[Sequence[str]]) -> tuple[int, ...] | None:
        sets = (tuple(names[x] for x in four) for four in known if set(four) <= names.keys())
        return next(sets, None)

    path, name = one(PATH_COLUMNS), one(_CLASS_COLUMNS)
    corners, sized = four(_CORNERS), four(_SIZES)
    box = corners or sized
    if path is None or name is None or box is None:
        raise _wrong(f"{file}: the columns cannot be told", ", ".join(first)[:200])
    size = None
    if corners is not None and {"width", "height"} <= names.keys():
        size = (names["height"], names["width"])
    crowd, split = one(_CROWD_COLUMNS), one(SPLIT_COLUMNS)
    return _Columns(path, box, corners is None, name, split, crowd, size)


def _row(file: Path, line: int, fields: Sequence[str], at: _Columns) -> _Row:
    def field(column: int | None) -> str:
        return fields[column].strip() if column is not None and column < len(fields) else ""

    place = f"{file}: line {line}"
    path, split, name = field(at.path), field(at.split), field(at.name)
    texts = [field(column) for column in at.box]
    if not path or (at.split is not None and not split):
        raise _wrong(f"{place} has no path or no split", ", ".join(fields)[:200])
    box = None
    if any(texts):
        numbers = [number_of(text) for text in texts]
        if not all(abs(x) < 2**53 for x in numbers) or not name:
            raise _wrong(f"{place} is no box with a class", ", ".join(fields)[:200])
        x0, y0, *far = numbers
        box = (x0, y0, x0 + far[0], y0 + far[1]) if at.is_size else (x0, y0, *far)
    sides = None if at.size is None else tuple(number_of(field(column)) for column in at.size)
    size = (int(sides[0]), int(sides[1])) if sides and all(0 < x < 2**31 for x in sides) else None
    crowd = field(at.crowd).lower() in {"1", "true"}
    return _Row(line, PurePosixPath(path).as_posix(), box, name, split, crowd, size)


def _refuse_in_two(root: Path, tables: Mapping[str, Sequence[tuple[Path, _Row]]]) -> None:
    seen: dict[str, str] = {}
    both = {
        row.path: (seen[row.path], split)
        for split, rows in tables.items()
        for _, row in rows
        if seen.setdefault(row.path, split) != split
    }
    errors = [
        SegalError(
            f"{root}: {path} is in {one} and in {other}",
            expected="every image in one split",
            got="one in two",
            remedy="take it out of one of them",
        )
        for path, (one, other) in both.items()
    ]
    raise_all(shortened(errors))


def _wrong(problem: str, got: str) -> SegalError:
    return SegalError(
        problem,
        expected="\n    path,x0,y0,x1,y1,class\n    a/1.jpg,10,20,110,70,cat\n    a/2.jpg,,,,,",
        got=got,
        remedy="name the columns, and write the rows, as shown",
    )
