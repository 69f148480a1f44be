"""Selections as tables that people and tools read, and as masks of what to annotate."""

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from segal.errors import SegalError, raise_all
from segal.files import read_error, replacing, write_bytes
from segal.regions import Box
from segal.registry import nearest
from segal.unicode_forms import form_only, lookalike

COLUMNS = ("rank", "image", "x", "y", "width", "height", "pixels", "score")
ANNOTATE, LEAVE = 255, 0
MAX_FILE_BYTES = 256 * 2**20
MAX_NAMED = 20
MAX_HINTS = 3  # likeness of names is slow in a large pool
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
_COUNT = re.compile(r"\d{1,9}", re.ASCII)
_REMEDY = "give a selection.csv as segal writes it, for the same images"

Sizes = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Selected:
    """A region that was picked.

    Attributes:
        rank: Position in the pick order, from 1.
        image: Path relative to the folder of images, with forward slashes.
        box: Half-open (x0, y0, x1, y1) in pixels of the original image.
        pixels: What it costs: its pixels that were not bought before.
        score: The value that decided the pick; finite.
    """

    rank: int
    image: str
    box: Box
    pixels: int
    score: float


def write_selection(path: Path, picks: Iterable[Selected]) -> None:
    r"""Writes picks as CSV: UTF-8, lines that end in `\n`, scores to the last bit.

    Args:
        path: The file; it appears as a whole.
        picks: In pick order.

    Raises:
        ValueError: If a score is not finite.
        SegalError: If the disk is full or the folder cannot be written.
    """
    lines = [",".join(COLUMNS)]
    for pick in picks:
        score = float(pick.score)
        if not math.isfinite(score):
            raise ValueError(f"expected a finite score, got {score} at rank {pick.rank}")
        x0, y0, x1, y1 = pick.box
        numbers = (x0, y0, x1 - x0, y1 - y0, pick.pixels)
        fields = [str(pick.rank), _quoted(pick.image), *map(str, numbers), repr(score)]
        lines.append(",".join(fields))
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def _quoted(name: str) -> str:
    """A CSV field; the standard library leaves a lone carriage return bare in some versions."""
    return '"' + name.replace('"', '""') + '"' if re.search(r'[",\r\n]', name) else name


def read_selection(path: Path, sizes: Sizes | None = None) -> list[Selected]:
    """Reads what `write_selection` wrote, or a table that a person made; more columns are allowed.

    Args:
        path: The file.
        sizes: (height, width) of every image that may be named; None takes any name and size.

    Returns:
        The regions in the order of the file.

    Raises:
        SegalError: For what is wrong with the file: the first 20 mistakes at once, each with its
            line.
    """
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    rows = _rows(path, reader)
    where = _columns(path, next(rows, (1, []))[1])
    errors: list[SegalError] = []
    selected: list[Selected] = []
    lines: dict[tuple[str, Box], int] = {}
    for line, row in rows:
        if len(errors) == MAX_NAMED:
            errors.append(SegalError(f"{path}: not read further than line {line}"))
            break
        try:
            pick = _parse(row, where, sizes)
            first = lines.setdefault((pick.image, pick.box), line)
            if first != line:
                raise _Mistake("a region that is not there yet", f"the one of line {first} again")
            selected.append(pick)
        except _Mistake as mistake:
            if isinstance(mistake, _UnknownImage) and sizes and len(errors) < MAX_HINTS:
                mistake.look_for_a_name_like_it(sizes)
            errors.append(_error(path, line, mistake))
    raise_all(errors)
    return selected


class _Mistake(Exception):
    """What is wrong with a row."""

    def __init__(self, expected: str, got: str, remedy: str = _REMEDY) -> None:
        self.expected, self.got, self.remedy = expected, got, remedy


class _UnknownImage(_Mistake):
    """An image that is not in the pool."""

    def __init__(self, name: str) -> None:
        super().__init__("image: an image of the pool", _shown(name))
        self.name = name

    def look_for_a_name_like_it(self, names: Iterable[str]) -> None:
        """Offers the same file of another folder, or else the name that is most like it."""
        if alike := lookalike(self.name, names):
            self.remedy = form_only(self.name, alike)
            return
        file = PurePosixPath(self.name).name
        near = next((name for name in names if PurePosixPath(name).name == file), None)
        near = near or nearest(self.name, list(names))
        self.remedy = f"did you mean {near!r}?" if near else self.remedy


def _error(path: Path, line: int, mistake: _Mistake) -> SegalError:
    return SegalError(
        f"{path}, line {line}: not a region that can be taken",
        expected=mistake.expected,
        got=mistake.got,
        remedy=mistake.remedy,
    )


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise SegalError(
                f"{path}: too large for a selection",
                expected=f"at most {MAX_FILE_BYTES} bytes",
                got=f"{size} bytes",
                remedy=_REMEDY,
            )
        data = path.read_bytes()
    except OSError as error:
        raise read_error(path, error, "a selection.csv") from error
    try:
        return data.decode("utf-8-sig")  # spreadsheets put a byte order mark first
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        mistake = _Mistake("text in UTF-8", f"byte {data[error.start]:#04x}", "save it as UTF-8")
        raise _error(path, line, mistake) from error


def _rows(path: Path, reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the line that it ends on."""
    line = 0
    try:
        for row in reader:
            line = reader.line_num  # type: ignore[attr-defined]
            if row:
                yield line, row
    except csv.Error as error:
        raise _error(path, line + 1, _Mistake("comma-separated values", str(error))) from error


def _columns(path: Path, header: Sequence[str]) -> dict[str, int]:
    """Where each column is."""
    missing = [name for name in COLUMNS if name not in header]
    twice = [name for name in COLUMNS if header.count(name) > 1]
    if missing or twice:
        wrong = [f"no {name}" for name in missing] + [f"{name} twice" for name in twice]
        raise SegalError(
            f"{path}, line 1: not the header of a selection",
            expected=",".join(COLUMNS),
            got=", ".join(wrong) if header else "an empty file",
            remedy=_REMEDY,
        )
    return {name: header.index(name) for name in COLUMNS}


def _parse(row: Sequence[str], where: Mapping[str, int], sizes: Sizes | None) -> Selected:
    last = max(where.values())
    if len(row) <= last:
        raise _Mistake(f"at least {last + 1} fields", f"{len(row)} fields")
    fields = {name: row[i] for name, i in where.items()}
    image = _image_name(fields["image"], sizes)
    counts = {}
    for name, least in (("rank", 1), ("x", 0), ("y", 0), ("width", 1), ("height", 1)):
        counts[name] = _count(name, fields[name], least)
    x, y, width, height = (counts[name] for name in ("x", "y", "width", "height"))
    if sizes is not None:
        rows, columns = sizes[image]
        if x + width > columns or y + height > rows:
            raise _Mistake(
                f"a box within the {columns} x {rows} (width x height) pixels of {image!r}",
                f"x {x} + width {width}, y {y} + height {height}",
            )
    pixels = _count("pixels", fields["pixels"], 1)
    if pixels > width * height:
        raise _Mistake(f"pixels of at most {width * height}, the area of the box", str(pixels))
    return Selected(
        counts["rank"], image, (x, y, x + width, y + height), pixels, _score(fields["score"])
    )


def _count(name: str, text: str, least: int) -> int:
    if not _COUNT.fullmatch(text) or int(text) < least:
        raise _Mistake(f"{name}: a whole number from {least} to 999999999", _shown(text))
    return int(text)


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise _Mistake("score: a finite number", _shown(text))
    return score


def _image_name(name: str, sizes: Sizes | None) -> str:
    try:
        _mask_name(name)
    except ValueError:
        raise _Mistake(
            "image: a path relative to the folder of images, with forward slashes, without '..'",
            _shown(name),
        ) from None
    if sizes is not None and name not in sizes:
        raise _UnknownImage(name)
    return name


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 100 else repr(text[:100]) + "..."


def _mask_name(image: str) -> PurePosixPath:
    path = PurePosixPath(image)
    if "\0" in image or path.is_absolute() or ".." in path.parts or str(path) in ("", "."):
        raise ValueError(f"expected a relative path, got {image!r}")
    return path.with_suffix(".png")


def write_masks(
    folder: Path,
    selected: Iterable[Selected],
    sizes: Sizes,
    bought: Mapping[str, Sequence[Box]] | None = None,
) -> list[Path]:
    """Writes a mask for every image with a pick: 255 is to be annotated, 0 is to be left.

    Args:
        folder: Takes the masks, each under its image's relative path with `.png` for its suffix;
            it appears as a whole and takes the place of what was there.
        selected: The picks, in any order.
        sizes: (height, width) of the images.
        bought: By image, boxes that were bought before; their pixels stay 0.

    Returns:
        The masks' paths, 8-bit PNG files of one channel, in the order of their images' names.

    Raises:
        ValueError: If two images would share a mask, or a name leaves the folder.
        SegalError: If the disk is full or the folder cannot be written.
    """
    boxes: dict[str, list[Box]] = {}
    for pick in selected:
        boxes.setdefault(pick.image, []).append(pick.box)
    names = {image: _mask_name(image) for image in sorted(boxes, key=str.encode)}
    if len(set(names.values())) < len(names):
        raise ValueError("two images share a mask: they differ in their suffix only")
    with replacing(folder) as temporary:
        temporary.mkdir()
        for image, name in names.items():
            mask = np.full(sizes[image], LEAVE, np.uint8)
            for x0, y0, x1, y1 in boxes[image]:
                mask[y0:y1, x0:x1] = ANNOTATE
            for x0, y0, x1, y1 in (bought or {}).get(image, ()):
                mask[y0:y1, x0:x1] = LEAVE
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _, data = cv2.imencode(".png", mask, _PNG)
            path.write_bytes(data.tobytes())
    return [folder / name for name in names.values()]
