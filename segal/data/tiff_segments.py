"""Strips and tiles of TIFF files, read and decoded one by one.

What a file says of itself is checked before memory is asked for.
"""

import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.data.image_file import damaged
from segal.data.tiff import Tiff, bounded_decoder
from segal.errors import SegalError

_MAX_SEGMENT = 2**28  # bytes of a strip or tile
_CACHED = 2**28  # bytes of strips and tiles that are held, of all files
_SLACK = 2**16

_NONE, _JPEG = 1, 7
_COMPRESSIONS = (1, 5, 7, 8, 32946, 32773, 34925, 34926, 50000)
_REMEDY = "write it as a tiled TIFF, such as with gdal_translate -co TILED=YES -co BIGTIFF=IF_SAFER"


class _Cache:
    """The strips and tiles that were decoded last, of all files; at most so many bytes."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._lock = threading.Lock()
        self._found: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """What is held under a key, or what `make` gives."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        made = make()
        with self._lock:
            if key not in self._found:
                self._found[key] = made
                self._held += made.nbytes
            while self._held > self._most and len(self._found) > 1:
                self._held -= self._found.popitem(last=False)[1].nbytes
        return made


DECODED = _Cache(_CACHED)
"""What was decoded of large images."""


@dataclass(frozen=True, eq=False)
class SegmentedPage:
    """A directory of a file, whose strips or tiles are read one by one."""

    path: Path
    size: int
    tiff: Tiff

    def read(self, box: Box) -> NDArray[Any]:
        """(h, w, bands) of a window, as stored."""
        x0, y0, x1, y1 = box
        page, tall, wide = self.tiff.page, *self._sides
        samples = 1 if page.planarconfig == 2 else self.tiff.bands
        planes = self.tiff.bands // samples
        across = -(-page.imagewidth // wide)
        down = -(-page.imagelength // tall)
        out = np.empty((y1 - y0, x1 - x0, self.tiff.bands), page.dtype)
        for plane in range(planes):
            bands = slice(plane * samples, (plane + 1) * samples)
            for row in range(y0 // tall, -(-y1 // tall)):
                for column in range(x0 // wide, -(-x1 // wide)):
                    index = (plane * down + row) * across + column
                    top, left = max(y0, row * tall), max(x0, column * wide)
                    bottom, right = min(y1, (row + 1) * tall), min(x1, (column + 1) * wide)
                    target = out[top - y0 : bottom - y0, left - x0 : right - x0, bands]
                    if not page.databytecounts[index]:  # left out: filled as tifffile does
                        target[:] = page.nodata
                        continue
                    part = self._rows(index, top - row * tall, bottom - row * tall)
                    target[:] = part[:, left - column * wide : right - column * wide]
        return out

    def check(self) -> None:
        """See `WindowedTiff.check`."""
        page = self.tiff.page
        decoder = bounded_decoder(int(page.compression))
        most = 2 * self._segment_bytes + _SLACK
        with self.path.open("rb") as file:
            for index, (offset, count) in enumerate(
                zip(page.dataoffsets, page.databytecounts, strict=True)
            ):
                if not count:
                    continue
                if _has_rows(page):
                    if offset + self._least(index) > self.size:
                        raise self._damaged("it ends early")
                    continue
                data = self._bytes(file, offset, count)
                if decoder is not None and not decoder(data, most):
                    raise self._damaged("a strip or tile with too much in it, or damaged")
                self._decode(index, data)

    @property
    def _sides(self) -> tuple[int, int]:
        """(height, width) of a strip or tile."""
        page = self.tiff.page
        if page.is_tiled:
            return int(page.tilelength), int(page.tilewidth)
        return min(int(page.rowsperstrip), int(page.imagelength)), int(page.imagewidth)

    @property
    def _row_bytes(self) -> int:
        samples = 1 if self.tiff.page.planarconfig == 2 else self.tiff.bands
        return -(-self._sides[1] * samples * int(self.tiff.page.bitspersample) // 8)

    @property
    def _segment_bytes(self) -> int:
        return self._sides[0] * self._row_bytes

    def _least(self, index: int) -> int:
        """Bytes that a strip or tile without compression has."""
        page, tall = self.tiff.page, self._sides[0]
        down = -(-page.imagelength // tall)
        if page.is_tiled or index % down < down - 1:
            return self._segment_bytes
        return (page.imagelength - (down - 1) * tall) * self._row_bytes

    def _rows(self, index: int, first: int, last: int) -> NDArray[Any]:
        """(last - first, w, bands) of a strip or tile that is there."""
        page = self.tiff.page
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if _has_rows(page):
            size = (last - first) * self._row_bytes
            with self.path.open("rb") as file:
                data = self._bytes(file, offset + first * self._row_bytes, size)
            order = self.tiff.page.parent.byteorder
            values = np.frombuffer(data, np.dtype(page.dtype).newbyteorder(order))
            native: NDArray[Any] = values.astype(page.dtype, copy=False)
            return native.reshape(last - first, self._sides[1], -1)

        def make() -> NDArray[Any]:
            with self.path.open("rb") as file:
                return self._decode(index, self._bytes(file, offset, count))

        key = self, index
        return DECODED.get(key, make)[first:last]

    def _bytes(self, file: BinaryIO, offset: int, count: int) -> bytes:
        file.seek(offset)
        data = file.read(count)
        if len(data) < count:
            raise self._damaged("it ends early")
        return data

    def _decode(self, index: int, data: bytes) -> NDArray[Any]:
        """(h, w, bands) of a strip or tile."""
        page = self.tiff.page
        tall, wide = self._sides
        if page.compression == _JPEG and not _is_within(data, tall, wide):
            raise self._damaged("a JPEG that is larger than its strip or tile")
        try:
            tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
            decoded, _, _ = page.decode(data, index, **tables)
        except Exception as error:  # a broken file can make tifffile raise nearly anything
            raise self._damaged(error) from error
        if decoded is None:
            raise self._damaged("nothing in a strip or tile")
        values: NDArray[Any] = decoded[0]
        least = self._least(index) // self._row_bytes
        if len(values) < min(least, page.imagelength) or values.shape[1] < min(
            wide, page.imagewidth
        ):
            raise self._damaged(f"a strip or tile of {values.shape} values")
        return values

    def _damaged(self, error: object) -> SegalError:
        return damaged(self.path, self.size, error)


class KindError(SegalError):
    """A kind of TIFF that is not read in windows."""

    pixels: int = 0

    @classmethod
    def of(cls, tiff: Tiff, error: SegalError) -> "KindError":
        """The error, of an image of a size."""
        found = cls(error.problem, expected=error.expected, got=error.got, remedy=error.remedy)
        found.pixels = int(tiff.page.imagelength) * int(tiff.page.imagewidth)
        return found


def check_segments(tiff: Tiff, count: int) -> None:
    """Raises a SegalError for strips or tiles that cannot be read one by one."""
    page = tiff.page
    compression = int(page.compression)
    if compression not in _COMPRESSIONS or page.predictor not in {1, 2}:
        refused = tiff.refused("no, LZW, deflate, Zstandard or JPEG compression", _REMEDY)
        raise KindError.of(tiff, refused)
    can = compression == _NONE or compression in tifffile.TIFF.DECOMPRESSORS
    if not can or (compression not in (_NONE, _JPEG) and bounded_decoder(compression) is None):
        missing = SegalError(
            f"{tiff.path}: this compression needs the package imagecodecs",
            expected="no compression or deflate, or imagecodecs",
            got=str(tiff),
            remedy='install it with `pip install "segal-regions[tiff]"`, or convert the file '
            "to deflate compression",
        )
        raise KindError.of(tiff, missing)
    size = prod(page.chunks) * max(1, np.dtype(page.dtype).itemsize)
    if size > _MAX_SEGMENT and not _has_rows(page):
        untiled = SegalError(
            f"{tiff.path}: too large to be decoded as a whole, and has no tiles",
            expected=f"strips or tiles of at most {_MAX_SEGMENT:,} bytes",
            got=f"{size:,} bytes in one",
            remedy=_REMEDY,
        )
        raise KindError.of(tiff, untiled)
    if max(page.databytecounts, default=0) > count:
        raise damaged(tiff.path, count, "a strip or tile beyond the file's end")


def _has_rows(page: tifffile.TiffPage) -> bool:
    """Whether rows of a strip or tile can be read by themselves."""
    plain = page.compression == _NONE and page.predictor == 1 and page.fillorder == 1
    return bool(plain and page.bitspersample in (8, 16))


def _is_within(data: bytes, tall: int, wide: int) -> bool:
    """Whether a JPEG says that it is no larger than a strip or tile, before it is decoded."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return False
        marker = data[at + 1]
        if marker == 0xFF or 0xD0 <= marker <= 0xD9:  # a filler, or without a length
            at += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return bool(height <= tall and width <= wide)
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return False
