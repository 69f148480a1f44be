"""Windows of images that are too large to be decoded as a whole: tiled or striped TIFF files.

tifffile tells where strips and tiles lie, and decodes them one by one; only those that a window
meets are read. What a file says of itself is checked before memory is asked for.
"""

import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.data.image_file import MAX_BYTES, MAX_PIXELS, Reading, check_bands, damaged, turn
from segal.data.tiff import Tiff, bounded_decoder, chosen_page, is_tiff, list_pages
from segal.errors import SegalError
from segal.functional.coverage import row_boxes
from segal.system.files import read_error

MAX_LARGE_PIXELS = 2**32
"""Of an image that is read in windows."""

_MAX_SEGMENT = 2**28  # bytes of a strip or tile
_MAX_ENTRIES = 2**22  # of a tag: strips or tiles
_MAX_TAG = 2**26  # bytes
_MAX_DIRECTORIES = 1100
_MAX_TAGS = 4096
_CACHED = 2**28  # bytes of strips and tiles that are held, of all files
_BAND = 256  # rows that are looked at together
_MAX_BOXES = 20_000  # of what has no data, of an image
_SLACK = 2**16

_NONE, _JPEG = 1, 7
_COMPRESSIONS = (1, 5, 7, 8, 32946, 32773, 34925, 34926, 50000)
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _YCBCR = 0, 1, 2, 6
_NODATA_TAG = 42113
_ASSOCIATED, _UNASSOCIATED = 1, 2
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_TYPE_BYTES |= {16: 8, 17: 8, 18: 8}
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


_CACHE = _Cache(_CACHED)


@dataclass(frozen=True, eq=False)
class WindowedTiff:
    """A TIFF of which windows are read; made by `open_windows`.

    Attributes:
        path: The file.
        reading: How it is read.
        bytes: Of the file.
        tiff: The image in it.
        masks: What says which pixels have data, each with its own file: pages of masks.
    """

    path: Path
    reading: Reading
    bytes: int
    tiff: Tiff
    masks: Sequence["_Page"] = ()
    _page: "_Page" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_page", _Page(self.path, self.bytes, self.tiff))

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width), turned to how it is shown."""
        page = self.tiff.page
        size = page.imagelength, page.imagewidth
        return size if self.tiff.orientation < 5 else size[::-1]

    @property
    def channels(self) -> int:
        """Of what `read` gives."""
        return self.reading.channels or self.tiff.bands

    @property
    def tells_data(self) -> bool:
        """Whether the file says where there is no data."""
        return self.alpha is not None or self._no_data is not None or bool(self.masks)

    @property
    def alpha(self) -> int | None:
        """The band of alpha; None where there is none."""
        extra = list(self.tiff.page.extrasamples)
        first = self.tiff.bands - len(extra)
        return next((first + i for i, kind in enumerate(extra) if kind in (1, 2)), None)

    @property
    def _no_data(self) -> float | None:
        """The value that stands for no data, as GDAL writes it."""
        text = self.tiff.page.tags.valueof(_NODATA_TAG)
        try:
            return None if text is None else float(str(text).strip().strip("\0"))
        except ValueError:
            return None

    def read(self, box: Box) -> NDArray[Any]:
        """A window, as `segal.data.images.read_image` gives the whole.

        Args:
            box: Half-open (x0, y0, x1, y1), within the image as it is shown.

        Returns:
            (h, w, channels) uint8, or float32 in [0, 1].

        Raises:
            SegalError: If a strip or a tile is damaged, or cannot be read.
        """
        return self.reading.scaled(self._chosen(self._stored(box)))

    def has_data(self, box: Box) -> NDArray[np.bool_]:
        """(h, w), where a window has data.

        Raises:
            SegalError: As `read` does.
        """
        height, width = box[3] - box[1], box[2] - box[0]
        found = np.ones((height, width), np.bool_)
        alpha, no_data = self.alpha, self._no_data
        if alpha is not None or no_data is not None:
            stored = self._stored(box)
            if alpha is not None:
                found &= stored[..., alpha] > 0
            if no_data is not None:
                bands = [b for b in range(stored.shape[2]) if b != alpha]
                if isinstance(self.reading.bands, tuple):
                    bands = [band - 1 for band in self.reading.bands]
                found &= (stored[..., bands] != no_data).any(2)
        for mask in self.masks:
            own = mask.read(_turned_back(box, self.shape, self.tiff.orientation))
            found &= turn(own.any(2), self.tiff.orientation)
        return found

    def label(self, box: Box) -> NDArray[Any]:
        """(h, w) values of a file of one band, as they are stored."""
        return self._stored(box)[..., 0]

    def check(self) -> None:
        """Reads and decodes every strip and tile, one after another.

        Raises:
            SegalError: If one is damaged, or holds more than it should.
        """
        self._page.check()
        for mask in self.masks:
            mask.check()

    def _stored(self, box: Box) -> NDArray[Any]:
        """(h, w, bands) of a window, turned."""
        orientation = self.tiff.orientation
        return turn(self._page.read(_turned_back(box, self.shape, orientation)), orientation)

    def _chosen(self, stored: NDArray[Any]) -> NDArray[Any]:
        """The channels that are wanted of what is stored, as `Tiff.read` gives them."""
        page, bands = self.tiff.page, self.reading.bands
        if page.photometric == _WHITE_IS_ZERO:
            stored = np.iinfo(stored.dtype).max - stored
        if bands == "all":
            return np.ascontiguousarray(stored)
        if bands is not None:
            return np.ascontiguousarray(stored[..., [band - 1 for band in bands]])
        if page.photometric in {_WHITE_IS_ZERO, _BLACK_IS_ZERO}:
            return np.repeat(stored[..., :1], 3, 2)
        colours = np.ascontiguousarray(stored[..., :3])
        if stored.dtype == np.uint8 and _ASSOCIATED in page.extrasamples:
            alpha = stored[..., 3:4].astype(np.uint16)  # as Pillow divides colours by it
            whole = np.minimum(colours * np.uint16(255) // np.maximum(alpha, 1), 255)
            colours = np.where((alpha == 0) | (alpha == 255), colours, whole).astype(np.uint8)
        return colours


@dataclass(frozen=True, eq=False)
class _Page:
    """A directory of a file, whose strips or tiles are read one by one."""

    path: Path
    bytes: int
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
                    part = self._rows(index, top - row * tall, bottom - row * tall)
                    inside = slice(left - column * wide, right - column * wide)
                    out[top - y0 : bottom - y0, left - x0 : right - x0, bands] = part[:, inside]
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
                if page.compression == _NONE:
                    if count and offset + self._least(index) > self.bytes:
                        raise self._damaged("it ends early")
                    continue
                data = self._bytes(file, offset, count)
                if data and decoder is not None and not decoder(data, most):
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
        return self._sides[1] * samples * np.dtype(self.tiff.page.dtype).itemsize

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

    @property
    def _in_rows(self) -> bool:
        """Whether rows of a strip or tile can be read by themselves."""
        page = self.tiff.page
        plain = page.compression == _NONE and page.predictor == 1 and page.fillorder == 1
        return bool(plain and page.bitspersample in (8, 16))

    def _rows(self, index: int, first: int, last: int) -> NDArray[Any]:
        """(last - first, w, bands) of a strip or tile."""
        page = self.tiff.page
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if count and self._in_rows:
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

        key = self.path, self.bytes, page.offset, index
        return _CACHE.get(key, make)[first:last]

    def _bytes(self, file: BinaryIO, offset: int, count: int) -> bytes:
        if not count:
            return b""
        file.seek(offset)
        data = file.read(count)
        if len(data) < count:
            raise self._damaged("it ends early")
        return data

    def _decode(self, index: int, data: bytes) -> NDArray[Any]:
        """(h, w, bands) of a strip or tile; one that is left out is filled as tifffile does."""
        page = self.tiff.page
        tall, wide = self._sides
        if not data:
            samples = 1 if page.planarconfig == 2 else self.tiff.bands
            return np.full((tall, wide, samples), page.nodata, page.dtype)
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
        return damaged(self.path, self.bytes, error)


def open_windows(path: Path, reading: Reading, *, any_size: bool = False) -> WindowedTiff | None:
    """A file whose windows can be read.

    Args:
        path: The file.
        reading: How it is read.
        any_size: Whether it need not be large.

    Returns:
        It; None for a file that is no TIFF, or not large as `reading` has it, or of a kind that is
        not read in windows and small enough to be decoded as a whole.

    Raises:
        SegalError: If it is damaged, of a kind that is not read in windows, or has not the bands
            that are wanted.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise read_error(path, error, "an image") from error
    return _opened(path, (status.st_size, status.st_mtime_ns), reading, any_size)


@lru_cache(maxsize=4)
def _opened(
    path: Path, _: tuple[int, int], reading: Reading, any_size: bool
) -> WindowedTiff | None:
    """The same of a file of some size and time."""
    try:
        windows = _open(path, reading, any_size=any_size)
        if windows is not None:
            _check_kind(windows)
    except _KindError as error:
        if error.pixels <= MAX_PIXELS:
            return None
        raise
    return windows


def _check_kind(windows: WindowedTiff) -> None:
    """Raises a SegalError for an image whose windows are not read as `Tiff.read` reads the whole."""
    page, tiff, reading = windows.tiff.page, windows.tiff, windows.reading
    try:
        tiff.check_type()
    except SegalError as error:
        raise _KindError.of(tiff, error) from error
    grey = page.photometric in {_WHITE_IS_ZERO, _BLACK_IS_ZERO}
    colours = page.photometric == _RGB or (page.photometric == _YCBCR and page.compression == _JPEG)
    if not (grey or colours) or page.bitspersample not in (8, 16):
        refused = tiff.refused("8- or 16-bit grey or RGB, where it is large", "convert it to RGB")
        raise _KindError.of(tiff, refused)
    if reading.bands is not None:
        check_bands(tiff.path, tiff.bands, reading.bands, str(tiff))
        return
    alone = tiff.bands == 1 or (tiff.bands == 2 and windows.alpha is not None)
    if not (alone if grey else tiff.bands >= 3):
        raise tiff.refused("a grey or an RGB image, or bands that are chosen", "choose bands")


class _KindError(SegalError):
    """A kind of TIFF that is not read in windows."""

    pixels: int = 0

    @classmethod
    def of(cls, tiff: Tiff, error: SegalError) -> "_KindError":
        """The error, of an image of a size."""
        found = cls(error.problem, expected=error.expected, got=error.got, remedy=error.remedy)
        found.pixels = int(tiff.page.imagelength) * int(tiff.page.imagewidth)
        return found


def open_label_windows(path: Path, above: Reading) -> WindowedTiff | None:
    """A large label file of one band of 8 bits, whose windows are read; None for any other."""
    windows = _open(path, above, any_size=False)
    if windows is None:
        return None
    page = windows.tiff.page
    if (windows.tiff.bands, int(page.bitspersample), int(page.sampleformat)) != (1, 8, 1):
        raise windows.tiff.refused("one band of 8 bits", "write class values as 8-bit grey")
    if page.photometric == _WHITE_IS_ZERO:
        raise windows.tiff.refused("values as they are stored", "write it as BlackIsZero")
    return windows


def _open(path: Path, reading: Reading, *, any_size: bool) -> WindowedTiff | None:
    count, large = path.stat().st_size, False
    try:
        with path.open("rb") as file:
            if not is_tiff(file.read(4)):
                return None
            if not _plain_directories(file, count):
                raise damaged(path, count, "a directory that says too much of itself")
            file.seek(0)
            with tifffile.TiffFile(file, name=path.name) as opened:
                pages, images, hidden = list_pages(opened)
                index = chosen_page(path, images, hidden, reading.page)
                height, width = pages[index].imagelength, pages[index].imagewidth
                large = reading.large.holds(height, width)
                if not (any_size or large):
                    return None
                tiff = Tiff(path, b"", pages[index], index)
                tiff.check_numbers(MAX_LARGE_PIXELS)
                mask = _mask_page(path, pages, index)
                for one in (tiff, *([mask] if mask else [])):  # which looks into the file
                    _ = one.page.decode, one.page.jpegtables, one.page.jpegheader
    except Exception as error:  # a broken file can make tifffile raise nearly anything
        if not large and count <= MAX_BYTES:
            return None  # decoding it as a whole says what is wrong
        if isinstance(error, SegalError):
            raise
        raise damaged(path, count, error) from error
    _check_segments(tiff, count)
    masks = [] if mask is None else [_Page(path, count, mask)]
    beside = path.with_name(path.name + ".msk")  # as GDAL has it
    if beside.is_file():
        masks.append(_beside(beside, tiff))
    return WindowedTiff(path, reading, count, tiff, tuple(masks))


def _mask_page(path: Path, pages: Sequence[tifffile.TiffPage], index: int) -> Tiff | None:
    """The mask of the same size that follows an image, in a directory of its own."""
    shape = pages[index].imagelength, pages[index].imagewidth
    for number, page in enumerate(pages[index + 1 :], index + 1):
        if not (page.is_mask or page.is_reduced):
            break  # the next image
        if page.is_mask and (page.imagelength, page.imagewidth) == shape:
            mask = Tiff(path, b"", page, number)
            mask.check_numbers(MAX_LARGE_PIXELS)
            _check_segments(mask, path.stat().st_size)
            return mask
    return None


def _beside(path: Path, tiff: Tiff) -> _Page:
    """The mask in a file beside an image's."""
    found = _open(path, Reading(), any_size=True)
    size = tiff.page.imagelength, tiff.page.imagewidth
    if found is None or (found.tiff.page.imagelength, found.tiff.page.imagewidth) != size:
        raise SegalError(
            f"{path}: not the mask of the image beside it",
            expected=f"a TIFF of {size[0]} x {size[1]} (height x width)",
            got="another kind of file" if found is None else str(found.tiff.page.shape),
            remedy="remove it, or write it again",
        )
    return _Page(path, path.stat().st_size, found.tiff)


def _check_segments(tiff: Tiff, count: int) -> None:
    """Raises a SegalError for strips or tiles that cannot be read one by one."""
    page = tiff.page
    compression = int(page.compression)
    if compression not in _COMPRESSIONS or page.predictor not in {1, 2}:
        refused = tiff.refused("no, LZW, deflate, Zstandard or JPEG compression", _REMEDY)
        raise _KindError.of(tiff, refused)
    can = compression == _NONE or compression in tifffile.TIFF.DECOMPRESSORS
    if not can or (compression not in (_NONE, _JPEG) and bounded_decoder(compression) is None):
        missing = SegalError(
            f"{tiff.path}: this compression needs the package imagecodecs",
            expected="no compression or deflate, or imagecodecs",
            got=str(tiff),
            remedy='install it with `pip install "segal-regions[tiff]"`, or convert the file '
            "to deflate compression",
        )
        raise _KindError.of(tiff, missing)
    size = prod(page.chunks) * max(1, np.dtype(page.dtype).itemsize)
    if size > _MAX_SEGMENT and compression != _NONE:
        untiled = SegalError(
            f"{tiff.path}: too large to be decoded as a whole, and has no tiles",
            expected=f"strips or tiles of at most {_MAX_SEGMENT:,} bytes",
            got=f"{size:,} bytes in one",
            remedy=_REMEDY,
        )
        raise _KindError.of(tiff, untiled)
    if max(page.databytecounts, default=0) > count:
        raise damaged(tiff.path, count, "a strip or tile beyond the file's end")


def _plain_directories(file: BinaryIO, count: int) -> bool:
    """Whether directories say no more of themselves than can be held: they are lists on a disk."""
    header = file.read(12)
    file.seek(0)
    magic = file.read(4)
    order = "<" if magic[:2] == b"II" else ">"
    big = magic[2:4] in (b"+\0", b"\0+")
    offset = struct.unpack(order + "Q", header[4:12])[0] if big else 0
    if not big:
        offset = struct.unpack(order + "I", header[:4])[0]
    for _ in range(_MAX_DIRECTORIES):
        if not 8 <= offset < count:
            return offset == 0
        file.seek(offset)
        width, form = (8, "Q") if big else (2, "H")
        head = file.read(width)
        if len(head) < width:
            return False
        entries = struct.unpack(order + form, head)[0]
        size = 20 if big else 12
        if entries > _MAX_TAGS:
            return False
        table = file.read(entries * size)
        following = file.read(8 if big else 4)
        if len(table) < entries * size or len(following) < (8 if big else 4):
            return False
        for i in range(entries):
            entry = table[i * size : (i + 1) * size]
            kind = struct.unpack(order + "H", entry[2:4])[0]
            number = struct.unpack(order + ("Q" if big else "I"), entry[4 : 12 if big else 8])[0]
            numeric = kind not in (1, 2, 6, 7)
            if number * _TYPE_BYTES.get(kind, 8) > _MAX_TAG or (numeric and number > _MAX_ENTRIES):
                return False
        offset = struct.unpack(order + ("Q" if big else "I"), following)[0]
    return True


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


def _turned_back(box: Box, shape: tuple[int, int], orientation: int) -> Box:
    """A box of an image as it is shown, in the image as it is stored; see `turn`."""
    x0, y0, x1, y1 = box
    height, width = shape
    if orientation in {3, 4, 7, 8}:
        y0, y1 = height - y1, height - y0
    if orientation in {2, 3, 6, 7}:
        x0, x1 = width - x1, width - x0
    return (y0, x0, y1, x1) if orientation >= 5 else (x0, y0, x1, y1)


def boxes_without_data(
    shape: tuple[int, int], has_data: Callable[[Box], NDArray[np.bool_]]
) -> tuple[Box, ...]:
    """Boxes of an image that have no data, and do not overlap.

    They are exact where 20,000 suffice; else what has no data is taken in blocks of 2 x 2, 4 x 4
    and so on pixels, of which none has any.

    Args:
        shape: (height, width).
        has_data: Gives (h, w) of a box.
    """
    height, width = shape
    packed = []
    for top in range(0, height, _BAND):
        band = ~has_data((0, top, width, min(top + _BAND, height)))
        packed.append(np.packbits(band, axis=1) if band.any() else None)

    def rows(block: int) -> Iterator[NDArray[np.bool_]]:
        for number, bits in enumerate(packed):
            tall = min(_BAND, height - number * _BAND)
            if bits is None:
                yield from np.zeros((-(-tall // block), -(-width // block)), np.bool_)
                continue
            band = np.unpackbits(bits, axis=1, count=width).astype(np.bool_)
            if block > 1:
                fill = ((0, -tall % block), (0, -width % block))
                band = np.pad(band, fill, constant_values=True)
                shape = (band.shape[0] // block, block, band.shape[1] // block, block)
                band = band.reshape(shape).all((1, 3))
            yield from band

    if all(bits is None for bits in packed):
        return ()
    block = 1
    while True:
        found = row_boxes(rows(block), -(-width // block), _MAX_BOXES)
        if found is not None:
            scaled = ((x0 * block, y0 * block, x1 * block, y1 * block) for x0, y0, x1, y1 in found)
            return tuple((x, y, min(a, width), min(b, height)) for x, y, a, b in scaled)
        if block == _BAND:
            return ()
        block *= 2
