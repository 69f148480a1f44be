"""Selections as tables that people and tools read, and as masks of what to annotate."""

import difflib
import math
import re
import struct
import unicodedata
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.errors import SegalError, raise_all
from segal.system.files import read_error, replacing, write_bytes
from segal.system.spreadsheet import SEPARATORS, NotATable, read_sheet, tidy

COLUMNS = ("rank", "image", "x", "y", "width", "height", "pixels", "score")
OPTIONAL = ("rank", "pixels", "score")
"""Columns that a table of what is labelled need not have."""
ANNOTATE, LEAVE = 255, 0
MASKS_FOLDER = "masks"
MAX_FILE_BYTES = 256 * 2**20
MAX_NAMED = 20
MAX_HINTS = 3  # likeness of names is slow in a large pool
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
_AS_A_WHOLE = 1 << 26  # pixels of a mask that is held as a whole
_BAND = 256  # rows
_COUNT = re.compile(r"(\d{1,9})(?:[.,]0{1,2})?", re.ASCII)
_NUMBER = re.compile(r"\d+")
_NEAR = 0.9
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
    write_bytes(path, selection_csv(picks))


def selection_csv(picks: Iterable[Selected]) -> bytes:
    """The same, as bytes."""
    lines = [",".join(COLUMNS)]
    for pick in picks:
        score = float(pick.score)
        if not math.isfinite(score):
            raise ValueError(f"expected a finite score, got {score} at rank {pick.rank}")
        x0, y0, x1, y1 = pick.box
        numbers = (x0, y0, x1 - x0, y1 - y0, pick.pixels)
        fields = [str(pick.rank), _quoted(pick.image), *map(str, numbers), repr(score)]
        lines.append(",".join(fields))
    return ("\n".join(lines) + "\n").encode()


def _quoted(name: str) -> str:
    """A CSV field; the standard library leaves a lone carriage return bare in some versions."""
    return '"' + name.replace('"', '""') + '"' if re.search(r'[",\r\n]', name) else name


def read_selection(path: Path, images: "Sizes | ImageNames | None" = None) -> list[Selected]:
    r"""Reads what `write_selection` wrote, or a table that a person or a spreadsheet made of it.

    Columns may stand in any order, their names in any case, and there may be more of them; those of
    `OPTIONAL` may be missing or blank: ranks then count the rows, pixels are the area of the box,
    and scores are 0. The separator may be a comma, a semicolon, a tab or a bar, and the text UTF-16
    where it has a byte order mark. Whole numbers may read `32.0`, scores `0,5` where the separator
    is no comma.

    Args:
        path: The file.
        images: (height, width) of every image that may be named, or these by `ImageNames`; None
            takes any name and size.

    Returns:
        The regions in the order of the file.

    Raises:
        SegalError: For what is wrong with the file: the first 20 mistakes at once, each with its
            line.
    """
    errors: list[SegalError] = []
    selected: list[Selected] = []
    lines: dict[tuple[str, Box], int] = {}
    names = images if images is None or isinstance(images, ImageNames) else ImageNames(images)
    try:
        sheet = read_sheet(_read(path), COLUMNS)
        line, header = next(sheet.rows, (1, []))
        parse = _RowParser(_columns(path, line, header, sheet.separator), sheet.separator, names)
        for line, row in sheet.rows:
            if len(errors) == MAX_NAMED:
                errors.append(SegalError(f"{path}: not read further than line {line}"))
                break
            try:
                pick = parse(row, len(lines) + 1)
                first = lines.setdefault((pick.image, pick.box), line)
                if first != line:
                    raise _Mistake(
                        "a region that is not there yet", f"the one of line {first} again"
                    )
                selected.append(pick)
            except _UnknownImage as unknown:
                if names is not None and names.skip_missing:
                    names.missing.add((unknown.name, unknown.box))
                    continue
                if names is not None and len(errors) < MAX_HINTS:
                    unknown.remedy = names.hint(unknown.name) or unknown.remedy
                errors.append(_error(path, line, unknown))
            except _Mistake as mistake:
                errors.append(_error(path, line, mistake))
    except NotATable as error:
        wrong = _Mistake(error.expected, error.got, error.remedy or _REMEDY)
        raise _error(path, error.line, wrong) from error
    raise_all(errors)
    return selected


class _Mistake(Exception):
    """What is wrong with a row."""

    def __init__(self, expected: str, got: str, remedy: str = _REMEDY) -> None:
        self.expected, self.got, self.remedy = expected, got, remedy


class _UnknownImage(_Mistake):
    """An image that is not in the pool."""

    def __init__(self, name: str, box: Box) -> None:
        super().__init__("image: an image of the pool", _shown(name))
        self.name, self.box = plain_name(name), box


@dataclass
class ImageNames:
    """Names of images, among which those that a table gives are looked for.

    A name that is not there is also looked for with `/` for a backslash, without `./`, and in the
    other Unicode form, as spreadsheets and other systems leave it.

    Attributes:
        sizes: (height, width) of each image.
        renamed: Names of images by names that they had before.
        skip_missing: Whether rows of images that are not there are left out, not refused.
        missing: Those that were left out, by name and box.
        unit: What sizes are in.
    """

    sizes: Sizes
    renamed: dict[str, str] = field(default_factory=dict)
    skip_missing: bool = False
    missing: set[tuple[str, Box]] = field(default_factory=set)
    unit: str = "pixels"

    def find(self, name: str) -> str | None:
        """The image that a name stands for; None where there is none."""
        plain = plain_name(name)
        for known in (name, plain):
            if known in self.sizes:
                return known
        if plain in self.renamed:
            return self.renamed[plain]
        found = self._by_form.get(unicodedata.normalize("NFC", plain), [])
        return found[0] if len(found) == 1 else None

    @cached_property
    def _by_form(self) -> Mapping[str, list[str]]:
        """Names by what they are in one Unicode form."""
        forms: dict[str, list[str]] = {}
        for name in self.sizes:
            forms.setdefault(unicodedata.normalize("NFC", name), []).append(name)
        return forms

    def hint(self, name: str) -> str | None:
        """Asks for the same file of another folder, or a name that is nearly the same.

        Names that differ in a number are of other frames, however alike they look.
        """
        plain = plain_name(name)
        file = PurePosixPath(plain).name
        same = [known for known in self.sizes if PurePosixPath(known).name == file]
        if len(same) == 1:
            return f"did you mean {same[0]!r}?"
        numbers = _NUMBER.findall(plain)
        alike = [known for known in self.sizes if _NUMBER.findall(known) == numbers]
        near = difflib.get_close_matches(plain, alike, n=1, cutoff=_NEAR)
        return f"did you mean {near[0]!r}?" if near else None


def plain_name(name: str) -> str:
    r"""The name of an image as segal writes it: `a/b.png` for `.\a\b.png`."""
    return PurePosixPath(name.replace("\\", "/")).as_posix()


def _error(path: Path, line: int, mistake: _Mistake) -> SegalError:
    return SegalError(
        f"{path}, line {line}: not a region that can be taken",
        expected=mistake.expected,
        got=mistake.got,
        remedy=mistake.remedy,
    )


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise SegalError(
                f"{path}: too large for a selection",
                expected=f"at most {MAX_FILE_BYTES} bytes",
                got=f"{size} bytes",
                remedy=_REMEDY,
            )
        return path.read_bytes()
    except OSError as error:
        raise read_error(path, error, "a selection.csv") from error


def _columns(path: Path, line: int, header: Sequence[str], separator: str) -> dict[str, int]:
    """Where each column is."""
    names = [tidy(name) for name in header]
    missing = [name for name in COLUMNS if name not in names and name not in OPTIONAL]
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if missing or twice:
        wrong = [f"no {name}" for name in missing] + [f"{name} twice" for name in twice]
        seen = f", in a line separated by {SEPARATORS[separator]}: {_shown(separator.join(header))}"
        raise SegalError(
            f"{path}, line {line}: not the header of a selection",
            expected=f"{','.join(COLUMNS)}, of which {', '.join(OPTIONAL)} may be left out",
            got=", ".join(wrong) + seen if header else "an empty file",
            remedy=_REMEDY,
        )
    return {name: names.index(name) for name in COLUMNS if name in names}


@dataclass(frozen=True)
class _RowParser:
    """Makes regions of rows.

    Attributes:
        where: Position of each column that is there.
        separator: Between fields.
        names: Of the images that may be named; None for any.
    """

    where: Mapping[str, int]
    separator: str
    names: ImageNames | None

    def __call__(self, row: Sequence[str], number: int) -> Selected:
        last = max(i for name, i in self.where.items() if name not in OPTIONAL)
        if len(row) <= last:
            raise _Mistake(
                f"at least {last + 1} fields",
                f"{len(row)} fields, separated by {SEPARATORS[self.separator]}",
            )
        fields = {name: row[i] for name, i in self.where.items() if i < len(row)}
        given = {name for name in OPTIONAL if fields.get(name, "").strip()}
        _check_name(fields["image"], is_exact=self.names is None)
        rank = _count("rank", fields["rank"], 1) if "rank" in given else number
        x, y = (_count(name, fields[name], 0) for name in ("x", "y"))
        width, height = (_count(name, fields[name], 1) for name in ("width", "height"))
        box = (x, y, x + width, y + height)
        image = fields["image"] if self.names is None else self.names.find(fields["image"])
        if image is None:
            raise _UnknownImage(fields["image"], box)
        if self.names is not None:
            rows, columns = self.names.sizes[image]
            if x + width > columns or y + height > rows:
                raise _Mistake(
                    f"a box within the {columns} x {rows} (width x height) {self.names.unit} of "
                    f"{image!r}",
                    f"x {x} + width {width}, y {y} + height {height}",
                )
        area = width * height
        pixels = _count("pixels", fields["pixels"], 1) if "pixels" in given else area
        if pixels > area:
            raise _Mistake(f"pixels of at most {area}, the area of the box", str(pixels))
        score = self._score(fields["score"]) if "score" in given else 0.0
        return Selected(rank, image, box, pixels, score)

    def _score(self, text: str) -> float:
        number = text if self.separator == "," else text.replace(",", ".")
        try:
            score = float(number)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise _Mistake("score: a finite number", _shown(text))
        return score


def _check_name(name: str, *, is_exact: bool) -> None:
    try:
        mask_name(name if is_exact else plain_name(name))
    except ValueError:
        raise _Mistake(
            "image: a path relative to the folder of images, without '..'", _shown(name)
        ) from None


def _count(name: str, text: str, least: int) -> int:
    # Not `1.000`, which is a thousand in some countries.
    found = _COUNT.fullmatch(text.strip())
    if not found or int(found[1]) < least:
        raise _Mistake(f"{name}: a whole number from {least} to 999999999", _shown(text))
    return int(found[1])


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 100 else repr(text[:100]) + "..."


def mask_name(image: str) -> PurePosixPath:
    """Where the mask of an image goes, in the folder of masks.

    Raises:
        ValueError: If it would leave that folder.
    """
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
    names = {image: mask_name(image) for image in sorted(boxes, key=str.encode)}
    if len(set(names.values())) < len(names):
        raise ValueError("two images share a mask: they differ in their suffix only")
    with replacing(folder) as temporary:
        temporary.mkdir()
        for image, name in names.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(mask_png(sizes[image], boxes[image], (bought or {}).get(image, ())))
    return [folder / name for name in names.values()]


def mask_png(size: tuple[int, int], boxes: Iterable[Box], bought: Iterable[Box]) -> bytes:
    """The mask of one image, as `write_masks` writes it.

    Args:
        size: (height, width) of the image.
        boxes: What is to be annotated.
        bought: What is left all the same.
    """
    height, width = size
    painted = [(*box, ANNOTATE) for box in boxes] + [(*box, LEAVE) for box in bought]
    if height * width > _AS_A_WHOLE:
        return _png_in_bands(size, painted)
    _, data = cv2.imencode(".png", _painted(0, height, width, painted), _PNG)
    return data.tobytes()


def _painted(
    top: int, bottom: int, width: int, boxes: Iterable[tuple[int, int, int, int, int]]
) -> NDArray[np.uint8]:
    """Rows of a mask: each box (x0, y0, x1, y1) has its value, a later one over an earlier one."""
    mask = np.full((bottom - top, width), LEAVE, np.uint8)
    for x0, y0, x1, y1, value in boxes:
        if y0 < bottom and top < y1:
            mask[max(y0 - top, 0) : y1 - top, x0:x1] = value
    return mask


def _png_in_bands(size: tuple[int, int], boxes: Sequence[tuple[int, int, int, int, int]]) -> bytes:
    """A PNG file of a mask that is never held as a whole (PNG 1.2: each row after a filter's 0)."""
    height, width = size
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
    packed = bytearray()
    for top in range(0, height, _BAND):
        rows = _painted(top, min(top + _BAND, height), width, boxes)
        packed += packer.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    packed += packer.flush()
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))]
    parts += [(b"IDAT", bytes(packed)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
