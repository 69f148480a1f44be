"""Windows of images that are too large to be decoded as a whole: tiled or striped TIFF files.

tifffile tells where strips and tiles lie, and decodes them; only those that a window meets are read
(see `segal.data.tiff_segments`).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.data.image_file import MAX_BYTES, MAX_PIXELS, Reading, check_bands, damaged, turn
from segal.data.tiff import Tiff, chosen_page, is_tiff, list_pages
from segal.data.tiff_directories import say_too_much
from segal.data.tiff_segments import KindError, SegmentedPage, check_segments
from segal.errors import SegalError
from segal.functional.coverage import row_boxes
from segal.system.files import read_error

MASK_SUFFIX = ".msk"
"""What GDAL adds to the name of a file for that of its mask."""

MAX_LARGE_PIXELS = 2**32
"""Of an image that is read in windows."""

_BAND = 256  # rows that are looked at together
_MAX_BOXES = 20_000  # of what has no data, of an image

_JPEG = 7
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _YCBCR = 0, 1, 2, 6
_NODATA_TAG = 42113
_ASSOCIATED = 1


@dataclass(frozen=True, eq=False)
class WindowedTiff:
    """A TIFF of which windows are read; made by `open_windows`.

    Attributes:
        path: The file.
        reading: How it is read.
        size: Bytes of the file.
        tiff: The image in it.
        masks: What says which pixels have data, each with its own file: pages of masks.
    """

    path: Path
    reading: Reading
    size: int
    tiff: Tiff
    masks: Sequence[SegmentedPage] = ()
    _page: SegmentedPage = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_page", SegmentedPage(self.path, self.size, self.tiff))

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
    def mask_file(self) -> Path | None:
        """The file beside the image's that is its mask; None where there is none."""
        return next((mask.path for mask in self.masks if mask.path != self.path), None)

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
            found &= turn(np.asarray((own > 0).any(2)), self.tiff.orientation)
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
        files = [
            file.stat() for file in (path, _mask_beside(path)) if file == path or file.exists()
        ]
    except OSError as error:
        raise read_error(path, error, "an image") from error
    stats = tuple((status.st_size, status.st_mtime_ns) for status in files)
    return _opened(path, stats, reading, any_size)


@lru_cache(maxsize=4)
def _opened(
    path: Path, _: tuple[tuple[int, int], ...], reading: Reading, any_size: bool
) -> WindowedTiff | None:
    """The same of files of some sizes and times: the image, and its mask."""
    return _checked(path, reading, _check_kind, any_size=any_size)


def _checked(
    path: Path, reading: Reading, check: Callable[[WindowedTiff], None], *, any_size: bool
) -> WindowedTiff | None:
    """What `check` lets pass; None for what it does not where that can be decoded as a whole."""
    try:
        windows = _open(path, reading, any_size=any_size)
        if windows is not None:
            check(windows)
    except KindError as error:
        if error.pixels <= MAX_PIXELS:
            return None
        raise
    return windows


def _check_kind(windows: WindowedTiff) -> None:
    """Raises a SegalError for an image whose windows are not read as its whole would be."""
    page, tiff, reading = windows.tiff.page, windows.tiff, windows.reading
    try:
        tiff.check_type()
    except SegalError as error:
        raise KindError.of(tiff, error) from error
    grey = page.photometric in {_WHITE_IS_ZERO, _BLACK_IS_ZERO}
    colours = page.photometric == _RGB or (page.photometric == _YCBCR and page.compression == _JPEG)
    if not (grey or colours) or page.bitspersample not in (8, 16):
        refused = tiff.refused("8- or 16-bit grey or RGB, where it is large", "convert it to RGB")
        raise KindError.of(tiff, refused)
    if reading.bands is not None:
        check_bands(tiff.path, tiff.bands, reading.bands, str(tiff))
        return
    alone = tiff.bands == 1 or (tiff.bands == 2 and windows.alpha is not None)
    if not (alone if grey else tiff.bands >= 3):
        raise tiff.refused("a grey or an RGB image, or bands that are chosen", "choose bands")


def open_label_windows(path: Path, above: Reading) -> WindowedTiff | None:
    """A large label file of one band of 8 bits, whose windows are read.

    Args:
        path: The file.
        above: Which files are large.

    Returns:
        It; None for any other that can be decoded as a whole.

    Raises:
        SegalError: If it is damaged, or too large for that.
    """
    return _checked(path, above, _check_label, any_size=False)


def _check_label(windows: WindowedTiff) -> None:
    page, tiff = windows.tiff.page, windows.tiff
    if (tiff.bands, int(page.bitspersample), int(page.sampleformat)) != (1, 8, 1):
        refused = tiff.refused("one band of 8 bits", "write class values as 8-bit grey")
        raise KindError.of(tiff, refused)
    if page.photometric == _WHITE_IS_ZERO:
        raise tiff.refused("values as they are stored", "write it as BlackIsZero")


def _open(path: Path, reading: Reading, *, any_size: bool) -> WindowedTiff | None:
    count, large = path.stat().st_size, False
    try:
        with path.open("rb") as file:
            if not is_tiff(file.read(4)):
                return None
            if say_too_much(file, count):
                raise damaged(path, count, "directories that say too much of themselves")
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
    check_segments(tiff, count)
    masks = [] if mask is None else [SegmentedPage(path, count, mask)]
    beside = _mask_beside(path)
    if beside.is_file():
        _check_lies_beside(beside, path)
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
            check_segments(mask, path.stat().st_size)
            return mask
    return None


def _mask_beside(path: Path) -> Path:
    return path.with_name(path.name + MASK_SUFFIX)


def _check_lies_beside(mask: Path, image: Path) -> None:
    """Raises a SegalError for a link to another folder than the image's."""
    folders = [Path(os.path.realpath(file)).parent for file in (mask, image)]
    if mask.is_symlink() and folders[0] != folders[1]:
        raise SegalError(
            f"{mask}: this mask leads out of the folder",
            expected=f"a file in {folders[1]}, where the image is",
            got=f"a link to {folders[0]}",
            remedy="replace the link by a copy, or remove it",
        )


def _beside(path: Path, tiff: Tiff) -> SegmentedPage:
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
    return SegmentedPage(path, path.stat().st_size, found.tiff)


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
                band = np.asarray(band.reshape(shape).all((1, 3)))
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
