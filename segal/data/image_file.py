"""What image files have in common: how they are to be read, their bytes, and Pillow's header."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from segal.errors import SegalError
from segal.system.files import read_error

MAX_BYTES = 2**30
MAX_PIXELS = 2 * (2**30 // 4 // 3)  # as Pillow's own limit against decompression bombs

# Pillow knows dozens of formats, some of which start other programs.
FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
ORIENTATION = 0x0112

Bands = tuple[int, ...] | Literal["all"]


@dataclass(frozen=True)
class Large:
    """How images are looked at that are too large to be looked at as a whole.

    Attributes:
        above: An image of more than so many megapixels (10^6 pixels) is large.
        tile: Side of the tiles that a network is given of it, in pixels.
        overlap: Of neighbouring tiles, in pixels: a quarter of it at either side of a tile is not
            used, over the half in between a tile passes into the next.
        no_data: Which images have regions without data (where alpha or a mask is 0, or all bands
            have the value that stands for no data), which are never annotated: the large ones, all
            or none.
    """

    above: float = 64.0
    tile: int = 1024
    overlap: int = 128
    no_data: Literal["large", "all", "none"] = "large"

    def holds(self, height: int, width: int) -> bool:
        """Whether an image of (height, width) pixels is large."""
        return height * width > self.above * 1e6


@dataclass(frozen=True)
class Reading:
    """How images are read.

    Attributes:
        value_range: The values of 16-bit files that become 0 and 1 (others are clipped), in all
            bands; 0 and 65535 by default. 8-bit files are left alone.
        bands: The channels that an image has: bands of the file by number, from 1, in this order,
            or all of them. None: red, green and blue, or grey three times; alpha and what comes
            after blue is dropped.
        page: Which image of a TIFF of several, from 1; None where there is only one.
        large: How large images are looked at.
    """

    value_range: tuple[float, float] | None = None
    bands: Bands | None = None
    page: int | None = None
    large: Large = Large()

    @property
    def channels(self) -> int | None:
        """Channels of every image; None where it has as many as its file has bands."""
        return 3 if self.bands is None else None if self.bands == "all" else len(self.bands)

    def check(self) -> None:
        """Raises a SegalError if the value range is empty."""
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise SegalError(
                "the value range of 16-bit images is empty",
                expected="a lowest value below the highest",
                got=f"{self.value_range[0]}, {self.value_range[1]}",
                remedy="give the values that stand for black and white, such as 0,4095",
            )

    def identity(self) -> dict[str, object]:
        """What of it results depend on and differs from the default."""
        found = {key: value for key, value in vars(self).items() if value is not None}
        large = found.pop("large")
        return found if large == Large() else {**found, "large": vars(large)}

    def scaled(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Pixels of a file as they are given out: uint8, or float32 in [0, 1] of 16 bits."""
        if pixels.dtype == np.uint8:
            return pixels
        low, high = self.value_range or (0, 65535)
        values = pixels.astype(np.float32)
        values -= np.float32(low)
        values /= np.float32(high - low)
        return np.clip(values, 0, 1, out=values)


RGB = Reading()
"""As most networks want their images."""


def read_bytes(path: Path) -> bytes:
    """Reads a file of at most `MAX_BYTES`.

    Raises:
        SegalError: If it cannot be read or is larger.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise read_error(path, error, "a file that may be read") from error
    if len(data) > MAX_BYTES:
        raise SegalError(
            f"{path}: the file is too large",
            expected=f"at most {MAX_BYTES:,} bytes",
            got=f"more than {MAX_BYTES:,} bytes",
            remedy="cut the image into smaller ones",
        )
    return data


def open_image(path: Path, data: bytes) -> ImageFile:
    """Reads the header only, with Pillow."""
    if not data:
        raise SegalError(
            f"{path}: the file is empty",
            expected="an image",
            got="0 bytes",
            remedy="copy the file again, or remove it",
        )
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise too_many_pixels(path, str(error)) from error
    except Exception as error:  # a broken file can make Pillow raise nearly anything
        raise SegalError(
            f"{path}: this is no image",
            expected=f"a file of format {', '.join(FORMATS)}",
            got=f"{len(data):,} bytes that no decoder knows",
            remedy="copy the file again, or remove it",
        ) from error
    check_pixels(path, image.height, image.width)
    return image


def decode(path: Path, data: bytes) -> ImageFile:
    """Decodes the image as a whole, with Pillow."""
    return load(path, data, open_image(path, data))


def load(path: Path, data: bytes, image: ImageFile) -> ImageFile:
    """Decodes an image that was opened."""
    try:
        image.load()
    except Exception as error:  # as above
        raise damaged(path, data, error) from error
    return image


def damaged(path: Path, data: bytes | int, error: object) -> SegalError:
    """The error to raise where decoding failed, of a file of some bytes."""
    count = data if isinstance(data, int) else len(data)
    return SegalError(
        f"{path}: the image is damaged",
        expected="a complete image",
        got=f"{count:,} bytes; {error}",
        remedy="copy the file again, or remove it",
    )


def check_pixels(path: Path, height: int, width: int, most: int = MAX_PIXELS) -> None:
    """Raises a SegalError if there are too many pixels to decode."""
    if height * width > most:
        raise too_many_pixels(path, f"{height} x {width} (height x width)", most)


def too_many_pixels(path: Path, got: str, most: int = MAX_PIXELS) -> SegalError:
    """The error to raise for a decompression bomb."""
    return SegalError(
        f"{path}: the image has too many pixels",
        expected=f"at most {most:,} pixels",
        got=got,
        remedy="cut the image into smaller ones",
    )


def orientation_of(image: ImageFile) -> int:
    """EXIF orientation of a loaded image, 1 to 8; 1 where there is none or it is broken."""
    # Image.getexif() would also look into XMP, which OpenCV does not.
    if "exif" not in image.info:
        return 1
    exif = Image.Exif()
    try:
        exif.load(image.info["exif"])
        orientation = exif.get(ORIENTATION, 1)
    except Exception:  # broken EXIF does not make the pixels worthless
        return 1
    return valid_orientation(orientation)


def valid_orientation(value: object) -> int:
    """A tag's value, or 1 where it is none from 1 to 8."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def turn(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """An array (H, W, ...) as stored, turned to how it is shown (TIFF 6.0, page 36)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows = -1 if orientation in {3, 4, 7, 8} else 1
    columns = -1 if orientation in {2, 3, 6, 7} else 1
    return np.ascontiguousarray(pixels[::rows, ::columns])


def choose_bands(path: Path, stored: NDArray[Any], bands: Bands, file: str) -> NDArray[Any]:
    """The channels that are wanted of (H, W, bands).

    Args:
        path: Of the file.
        stored: All of its bands.
        bands: As in `Reading`.
        file: What it is, for the message.

    Raises:
        SegalError: If the file has not all of them.
    """
    check_bands(path, stored.shape[2], bands, file)
    if bands == "all":
        return stored
    return np.ascontiguousarray(stored[..., [band - 1 for band in bands]])


def check_bands(path: Path, count: int, bands: Bands, file: str) -> None:
    """Raises a SegalError if a file of `count` bands has not all that are wanted."""
    missing = [] if bands == "all" else [band for band in bands if not 1 <= band <= count]
    if missing:
        raise SegalError(
            f"{path}: there is no band {missing[0]}",
            expected=f"bands from 1 to {count}",
            got=f"bands {','.join(map(str, bands))} of {file}",
            remedy="choose bands that all images have, or remove the image",
        )
