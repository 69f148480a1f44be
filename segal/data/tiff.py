"""Reads TIFF files: tifffile tells what is in one, and decodes what Pillow and OpenCV misread.

Measured with OpenCV 4.14 and Pillow 13: OpenCV mixes up the bands of 16-bit planar files, ignores
WhiteIsZero at 16 bits, multiplies 8-bit colours by alpha, reads no tiled 8-bit file without
compression, and jumbles the tiles of one whose orientation mirrors rows; Pillow halves 16-bit
colours to 8 bits. At 8 bits Pillow is right wherever it opens a file at all, and at 16 bits OpenCV
is right about bands that are stored pixel by pixel.
"""

import io
import logging
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile

from segal.data.image_file import (
    MAX_PIXELS,
    ORIENTATION,
    Bands,
    check_pixels,
    choose_bands,
    damaged,
    load,
    open_image,
    turn,
    valid_orientation,
)
from segal.data.tiff_directories import say_too_much
from segal.errors import SegalError

MAX_PAGES = 1000
_BIG_ENDIAN_BIGTIFF = b"MM\0+"  # which Pillow takes for a classic TIFF
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", _BIG_ENDIAN_BIGTIFF)

_NONE, _LZW, _DEFLATE, _PACKBITS, _LZMA = 1, 5, (8, 32946), 32773, 34925
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_COMPRESSIONS = {
    **{1: "no", 2: "CCITT", 3: "CCITT", 4: "CCITT", 5: "LZW", 6: "old JPEG", 7: "JPEG"},
    **{8: "deflate", 32946: "deflate", 32773: "PackBits", 34712: "JPEG 2000", 34887: "LERC"},
    **{34925: "LZMA", 34926: "Zstandard", 50000: "Zstandard", 34927: "WebP", 50001: "WebP"},
    **{50002: "JPEG XL", 34892: "lossy JPEG"},
}
_KINDS = {1: "unsigned", 2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
_WITH_IMAGECODECS = {5: "lzw", 32773: "packbits", 34926: "zstd", 50000: "zstd"}
_NUMBERS = (
    *("imagelength", "imagewidth", "imagedepth", "samplesperpixel", "sampleformat"),
    *("photometric", "planarconfig", "compression", "predictor"),
)
_BACK = {6: 8, 8: 6}  # every other orientation undoes itself
_MOST_BY_PILLOW = 6  # bands; it says so of more on the terminal
_SLACK = 2**16  # bytes that a strip may hold beyond its pixels
_PADDED, _ROOM = 16, 2**28
"""Values of all tiles, which reach beyond the image: of each of the image's, and beside these."""

# tifffile tells of odd tags by logging, which without a handler goes to the terminal.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def is_tiff(data: bytes) -> bool:
    """Whether a file begins as TIFF files do."""
    return data[:4] in _MAGIC


@dataclass(frozen=True, eq=False)
class Tiff:
    """One image of a TIFF file that can be read.

    Attributes:
        path: The file.
        data: Its bytes.
        page: The image's directory.
        index: Its number among all directories of the file, from 0.
    """

    path: Path
    data: bytes
    page: tifffile.TiffPage
    index: int

    @classmethod
    def open(cls, path: Path, data: bytes, page: int | None = None) -> "Tiff":
        """Finds the image in the file; its pixels are not decoded.

        Args:
            path: The file.
            data: Its bytes.
            page: Number of the image, from 1, where there are several.

        Raises:
            SegalError: If the file is damaged, of a kind that is not read, or of several images of
                which none is chosen.
        """
        if say_too_much(io.BytesIO(data), len(data)):
            raise damaged(path, data, "directories that say too much of themselves")
        try:
            pages, images, hidden = list_pages(tifffile.TiffFile(io.BytesIO(data)))
        except Exception as error:  # a broken file can make tifffile raise nearly anything
            raise damaged(path, data, error) from error
        index = chosen_page(path, images, hidden, page)
        tiff = cls(path, data, pages[index], index)
        tiff._check()
        return tiff

    @property
    def bands(self) -> int:
        """Number of bands that are stored, alpha included."""
        return int(self.page.samplesperpixel)

    @property
    def orientation(self) -> int:
        """1 to 8, as in EXIF."""
        return valid_orientation(self.page.tags.valueof(ORIENTATION, 1))

    def __str__(self) -> str:
        """Bands, type and compression, for messages."""
        page = self.page
        kind = _KINDS.get(int(page.sampleformat), f"sample format {page.sampleformat}")
        compression = int(page.compression)
        layout = "" if self.bands == 1 else ", planar" if page.planarconfig == 2 else ""
        bands = "1 band" if self.bands == 1 else f"{self.bands} bands"
        name = getattr(page.photometric, "name", str(page.photometric))
        return (
            f"a TIFF of {bands} ({name}{layout}), {page.bitspersample}-bit {kind}, "
            f"{_COMPRESSIONS.get(compression, f'unknown ({compression})')} compression"
        )

    def read(self, bands: Bands | None) -> NDArray[Any]:
        """Decodes the image.

        Args:
            bands: As in `Reading`.

        Returns:
            (H, W, channels) uint8 or uint16, turned to how it is shown.

        Raises:
            SegalError: If it is damaged, or its bands or its compression are not read.
        """
        if bands is None:
            return self._read_rgb()
        return choose_bands(self.path, self._read_bands(), bands, str(self))

    def read_label(self) -> NDArray[Any]:
        """The values as stored, (H, W) turned, or (H, W, bands) where there are several.

        Raises:
            SegalError: As `read` does, and if it is not told whether white stands for 0.
        """
        if self.page.photometric == _WHITE_IS_ZERO:
            raise SegalError(
                f"{self.path}: readers disagree about the values of this label",
                expected="values that are stored as they are (BlackIsZero, or a palette)",
                got=f"{self}, of which some readers turn v into the largest value minus v",
                remedy="write the label again, as an 8-bit grey PNG",
            )
        if int(self.page.bitspersample) <= 8 and int(self.page.sampleformat) == 1:
            image = self._pillow
            if image is not None:
                few = {2: 85, 4: 17} if image.mode == "L" else {}  # which Pillow multiplies by
                return np.array(image) // np.array(few.get(self.page.bitspersample, 1), np.uint8)
        values = self._decode()
        return turn(values[..., 0] if self.bands == 1 else values, self.orientation)

    def _check(self) -> None:
        """Raises a SegalError for what is not read, whichever bands are wanted."""
        self.check_numbers(MAX_PIXELS)

    def check_numbers(self, most: int) -> None:
        """Raises a SegalError for an image of more than `most` pixels, and for what is not read."""
        page, bits = self.page, self.page.bitspersample
        height, width = page.imagelength, page.imagewidth
        numbers = {name: getattr(page, name) for name in _NUMBERS}
        odd = [f"{name} {value!r}" for name, value in numbers.items() if not isinstance(value, int)]
        if odd:
            raise damaged(self.path, self.data, f"{', '.join(odd)}: no whole number"[:200])
        if min(height, width, self.bands) < 1:
            raise damaged(self.path, self.data, f"{height} x {width} x {self.bands} values")
        check_pixels(self.path, height, width, most)
        values = height * width * self.bands * page.imagedepth
        if values > 3 * most:
            raise self.refused(f"at most {3 * most:,} values", "cut it into smaller ones")
        if page.imagedepth != 1:
            raise self.refused("a flat image", "save its slices as images of their own")
        if not isinstance(bits, int) or bits > 64:
            raise self.refused("bands of one type", "convert it to 8- or 16-bit unsigned bands")

        try:
            chunks, there = prod(page.chunked), (len(page.dataoffsets), len(page.databytecounts))
            _ = page.chunks
        except Exception as error:  # a broken file can make tifffile raise nearly anything
            raise damaged(self.path, self.data, error) from error
        if there != (chunks, chunks):
            raise damaged(self.path, self.data, f"{there[0]} of {chunks} strips or tiles")
        if page.is_tiled and chunks * prod(page.chunks) > _PADDED * values + _ROOM:
            raise self.refused(
                f"tiles that hold at most {_PADDED} times what the image does",
                "write it with tiles of 256 x 256 pixels",
            )

    def refused(self, expected: str, remedy: str) -> SegalError:
        """The error to raise for a kind that is not read."""
        return SegalError(
            f"{self.path}: this kind of TIFF is not supported",
            expected=expected,
            got=str(self),
            remedy=remedy,
        )

    def check_type(self) -> None:
        """Raises a SegalError for numbers or colours that are not read."""
        page, bits = self.page, int(self.page.bitspersample)
        few = self.bands == 1 and bits in {1, 2, 4}
        if int(page.sampleformat) != 1 or not (bits in {8, 16} or few):
            raise self.refused(
                "8- or 16-bit unsigned bands", "convert it to 8- or 16-bit unsigned bands"
            )
        known = {_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _SEPARATED}
        jpeg = page.photometric == _YCBCR and page.compression == 7
        if page.photometric not in known and not jpeg:
            raise self.refused("grey, RGB or palette", "convert it to 8- or 16-bit RGB")

    def _read_rgb(self) -> NDArray[Any]:
        self.check_type()
        page, bits = self.page, int(self.page.bitspersample)
        grey = page.photometric in {_WHITE_IS_ZERO, _BLACK_IS_ZERO}
        with_alpha = self.bands == 2 and any(extra in {1, 2} for extra in page.extrasamples)
        if grey and self.bands > 1 and not with_alpha:
            raise SegalError(
                f"{self.path}: which bands are red, green and blue is not said",
                expected="a grey or an RGB image, or bands that are chosen",
                got=str(self),
                remedy=f"choose bands by number, such as --bands {_some(self.bands)}, or "
                f"--bands all for a network with {self.bands} inputs",
            )
        if bits == 16 and page.photometric in {_PALETTE, _SEPARATED}:
            raise self.refused("grey or RGB at 16 bits", "convert it to 16-bit RGB")
        image = self._pillow if bits <= 8 else None
        if image is not None:
            return np.array(image.convert("RGB"))
        stored = self._read_bands()
        return np.repeat(stored[..., :1], 3, 2) if grey else np.ascontiguousarray(stored[..., :3])

    def _read_bands(self) -> NDArray[Any]:
        """(H, W, bands) as stored, turned; a palette expanded, WhiteIsZero inverted."""
        self.check_type()
        page, bits = self.page, int(self.page.bitspersample)
        if bits <= 8 and (image := self._pillow) is not None:
            if page.photometric == _PALETTE:
                return np.array(image.convert("RGB"))
            plain = image if image.mode != "1" else image.convert("L")
            if len(plain.getbands()) == self.bands and not self._has_premultiplied:
                return np.array(plain).reshape(plain.height, plain.width, self.bands)
        if bits < 8 or page.photometric == _PALETTE:
            raise self.refused("8- or 16-bit unsigned bands", "convert it to 8-bit RGB")
        values = self._decode()
        if page.photometric == _WHITE_IS_ZERO:
            values = np.iinfo(values.dtype).max - values
        return turn(values, self.orientation)

    @property
    def _has_premultiplied(self) -> bool:
        """Whether Pillow divides colours by alpha."""
        return 1 in self.page.extrasamples

    @cached_property
    def _pillow(self) -> ImageFile | None:
        """The image as Pillow reads it, turned; None where it knows no such kind."""
        planar_pair = self.bands == 2 and self.page.planarconfig == 2  # opens, and then fails
        if planar_pair or self.bands > _MOST_BY_PILLOW or self.data[:4] == _BIG_ENDIAN_BIGTIFF:
            return None
        try:
            image = open_image(self.path, self.data)
            image.seek(self.index)
        except SegalError:
            return None
        except Exception as error:  # a broken file can make Pillow raise nearly anything
            raise damaged(self.path, self.data, error) from error
        return load(self.path, self.data, image)

    def _decode(self) -> NDArray[Any]:
        """(H, W, bands) as stored."""
        page = self.page
        by_opencv = (
            page.compression in {_LZW, _PACKBITS}
            and page.planarconfig == 1
            and page.photometric in {_BLACK_IS_ZERO, _RGB}
            and (int(page.bitspersample), int(page.sampleformat)) == (16, 1)
            and self.bands in {1, 3, 4}
            and self._pillow is not None  # OpenCV takes half an image for a whole one
        )
        if by_opencv:
            values = self._by_opencv()
        else:
            self._check_codec()
            try:
                values = page.asarray(squeeze=False, maxworkers=1)
            except Exception as error:  # a broken file can make tifffile raise nearly anything
                raise damaged(self.path, self.data, error) from error
            planes, _, height, width, samples = page.shaped
            values = values.reshape(planes, height, width, samples)
            values = np.moveaxis(values, 0, 2).reshape(height, width, planes * samples)
        expected = (page.imagelength, page.imagewidth, self.bands)
        if values.shape != expected:
            raise damaged(self.path, self.data, f"{values.shape} instead of {expected} values")
        return values

    def _by_opencv(self) -> NDArray[Any]:
        flat = np.frombuffer(self.data, np.uint8)
        pages = (self.index, self.index + 1)
        try:
            done, images = cv2.imdecodemulti(flat, cv2.IMREAD_UNCHANGED, range=pages)
        except cv2.error as error:
            raise damaged(self.path, self.data, error) from error
        if not done or images[0].dtype != np.uint16:
            raise damaged(self.path, self.data, "OpenCV cannot decode it")
        values = images[0].reshape(*images[0].shape[:2], -1)
        order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[self.bands]
        # It turns a TIFF whatever the flags say.
        return turn(values[..., order], _BACK.get(self.orientation, self.orientation))

    def _check_codec(self) -> None:
        """Raises a SegalError where tifffile cannot decode, or would fill the memory."""
        page, compression = self.page, int(self.page.compression)
        decoder = bounded_decoder(compression)
        if compression in _WITH_IMAGECODECS and decoder is None:
            raise SegalError(
                f"{self.path}: this compression needs the package imagecodecs",
                expected="no compression or deflate, or imagecodecs",
                got=str(self),
                remedy='install it with `pip install "segal-regions[tiff]"`, or convert the file '
                "to deflate compression",
            )
        if compression != _NONE and decoder is None:
            raise self.refused("no, LZW or deflate compression", "convert it to deflate")
        if page.predictor not in {1, 2}:
            raise self.refused("no predictor, or differences", "convert it to deflate")
        most = 2 * prod(page.chunks) * np.dtype(page.dtype).itemsize + _SLACK
        if most > 8 * 3 * MAX_PIXELS:
            raise damaged(self.path, self.data, "a strip or tile beyond the image")
        if decoder is not None:
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                if count and not decoder(self.data[offset : offset + count], most):
                    raise damaged(self.path, self.data, "a strip with too much in it, or damaged")


def list_pages(file: tifffile.TiffFile) -> tuple[list[tifffile.TiffPage], list[int], int]:
    """The directories of a file, those of them that are images, and images behind the only one."""
    pages = cast(list[tifffile.TiffPage], list(islice(file.pages, MAX_PAGES + 1)))
    images = [i for i, p in enumerate(pages) if not (p.is_reduced or p.is_mask)]
    if len(pages) == 1:
        images = [0]
    return pages, images, _hidden_images(file) if len(pages) == 1 else 1


def chosen_page(path: Path, images: list[int], hidden: int, page: int | None) -> int:
    """The directory of the image that is meant."""
    most = f"{'more than ' if len(images) > MAX_PAGES else ''}{min(len(images), MAX_PAGES)}"
    if hidden > 1:
        raise SegalError(
            f"{path}: the file holds {hidden} images in one directory",
            expected="one image, or several pages of which one is chosen",
            got=f"an ImageJ stack of {hidden}",
            remedy="save its images as files of their own",
        )
    if not images:
        raise SegalError(
            f"{path}: the file holds reduced copies and masks only",
            expected="an image",
            got="0 pages",
            remedy="save the image itself as a file of its own",
        )
    if page is not None and page > len(images):
        raise SegalError(
            f"{path}: there is no page {page}",
            expected=f"a page from 1 to {most}",
            got=str(page),
            remedy="choose a page that all files have, or remove the file",
        )
    if page is None and len(images) > 1:
        raise SegalError(
            f"{path}: the file holds {most} images (pages)",
            expected="one image a file, or a page that is chosen",
            got=f"{most} pages",
            remedy=f"choose one for all files, such as page=1 (to {most}), or save the pages as "
            "files of their own",
        )
    return images[(page or 1) - 1]


def _hidden_images(file: tifffile.TiffFile) -> int:
    """Images that ImageJ keeps behind the only directory, without directories of their own."""
    if not file.is_imagej:
        return 1
    found = (file.imagej_metadata or {}).get("images", 1)
    return found if isinstance(found, int) else 1


def _some(bands: int) -> str:
    return "1,2,3" if bands >= 3 else "1"


_Check = Callable[[bytes, int], bool]
"""Whether a strip decompresses to at most so many bytes."""


def bounded_decoder(compression: int) -> _Check | None:
    """What tells whether a strip or tile of a compression keeps to its size; None: unknown."""
    if compression in _DEFLATE:
        return _inflates
    if compression == _LZMA:
        return _unpacks
    name = _WITH_IMAGECODECS.get(compression)
    if name is None:
        return None
    try:
        import imagecodecs  # noqa: PLC0415 - an extra

        decode = getattr(imagecodecs, f"{name}_decode")
    except (ImportError, AttributeError):
        return None

    def check(data: bytes, most: int) -> bool:
        try:
            return len(decode(data, out=most)) < most
        except Exception:  # of a class of its own for each codec
            return False

    return check


def _inflates(data: bytes, most: int) -> bool:
    try:
        return len(zlib.decompressobj().decompress(data, most)) < most
    except zlib.error:
        return False


def _unpacks(data: bytes, most: int) -> bool:
    try:
        return len(lzma.LZMADecompressor(memlimit=2**28).decompress(data, most)) < most
    except (lzma.LZMAError, EOFError):
        return False
