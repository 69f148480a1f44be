"""Reads images and labels: Pillow verifies and reads labels, OpenCV decodes images.

OpenCV is faster, but returns half a truncated JPEG as a success and turns palette indices into
colours; so a file is inspected once with Pillow before OpenCV decodes it, and labels are never read
with OpenCV.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from segal.errors import SegalError
from segal.files import read_error

# Readers run in our own threads; OpenCV's would only compete with them and with the network.
cv2.setNumThreads(0)

MIN_SIDE = 16
MAX_BYTES = 2**30
MAX_PIXELS = 2 * (2**30 // 4 // 3)  # as Pillow's own limit against decompression bombs

# Pillow knows dozens of formats, some of which start other programs.
_FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK"}
_MODES_16_BIT = {"I;16", "I;16L", "I;16B", "I;16N"}
_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageInfo:
    """What an image's inspection found.

    Attributes:
        height: Rows after EXIF orientation.
        width: Columns after EXIF orientation.
        digest: SHA-256 of the file's bytes, in hex.
    """

    height: int
    width: int
    digest: str


def inspect_image(path: Path) -> ImageInfo:
    """Reads a file once and decodes it as a whole.

    Raises:
        SegalError: If the file cannot be read, is empty, truncated, no image, of a kind that is not
            supported, a decompression bomb, or smaller than 16 pixels on a side.
    """
    data = read_bytes(path)
    image = _decode(path, data)
    if image.mode not in _MODES | _MODES_16_BIT and (image.mode, image.format) != ("I", "PNG"):
        raise SegalError(
            f"{path}: this kind of image is not supported",
            expected="8- or 16-bit grey, RGB, RGBA or palette",
            got=f"{image.format} of Pillow mode {image.mode}",
            remedy="convert it to 8- or 16-bit RGB",
        )
    width, height = image.size
    if _orientation(image) >= 5:
        width, height = height, width
    if min(height, width) < MIN_SIDE:
        raise SegalError(
            f"{path}: the image is too small",
            expected=f"at least {MIN_SIDE} pixels on each side",
            got=f"{height} x {width} (height x width)",
            remedy="remove it",
        )
    return ImageInfo(height, width, hashlib.sha256(data).hexdigest())


def read_image(path: Path, value_range: tuple[float, float] | None = None) -> NDArray[Any]:
    """Decodes an image that has been inspected.

    Args:
        path: The file.
        value_range: The values of 16-bit files that become 0 and 1 (others are clipped); 0 and
            65535 by default. 8-bit files are left alone.

    Returns:
        (H, W, 3) RGB after EXIF orientation: uint8 for 8-bit files, float32 in [0, 1] for 16-bit
        files. Grey is replicated, alpha dropped, a palette expanded.

    Raises:
        SegalError: If the file cannot be decoded.
    """
    data = read_bytes(path)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise SegalError(
            f"{path}: cannot be decoded",
            expected="an 8- or 16-bit image",
            got="no image" if pixels is None else f"{pixels.dtype} values",
            remedy="convert it to 8- or 16-bit RGB",
        )
    if pixels.dtype == np.uint8:
        if data[:4] in (b"II*\0", b"MM\0*") and (rgb := _tiff_with_alpha(path, data)) is not None:
            return rgb
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    low, high = value_range or (0, 65535)
    values = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.float32)
    values -= np.float32(low)
    values /= np.float32(high - low)
    return np.clip(values, 0, 1, out=values)


def _tiff_with_alpha(path: Path, data: bytes) -> NDArray[np.uint8] | None:
    # OpenCV multiplies the colours of an 8-bit RGBA TIFF by its alpha.
    if "A" not in _open(path, data).mode:
        return None
    return np.array(_decode(path, data).convert("RGB"))


def read_label(path: Path) -> NDArray[np.uint8]:
    """Reads a label image: one class value a pixel.

    Returns:
        (H, W) uint8 after EXIF orientation. Of a palette image, the indices; of a colour image
        whose channels are all alike, one of them.

    Raises:
        SegalError: If the file cannot be read, has colours or alpha, or values above 255.
    """
    data = read_bytes(path)
    step = _grey_step(_open(path, data))
    image = _decode(path, data)
    orientation = _orientation(image)
    values = np.array(image.transpose(_TRANSPOSE[orientation]) if orientation > 1 else image)
    if image.mode in {"RGB", "RGBA", "LA"}:
        values = _one_channel(values)
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise SegalError(
            f"{path}: this is no label image",
            expected="one channel of class values from 0 to 255 (grey or palette)",
            got=f"Pillow mode {image.mode}",
            remedy="write each pixel's class value into an 8-bit grey PNG, or, where colours stand "
            "for classes, list NAME RED GREEN BLUE in classes.txt",
        )
    if values.max() > 255 or values.min() < 0:
        raise SegalError(
            f"{path}: label values do not fit 8 bits",
            expected="class values from 0 to 255",
            got=f"values from {values.min()} to {values.max()}",
            remedy="map the classes to values from 0 to 255",
        )
    return values.astype(np.uint8) // np.uint8(step)


def _one_channel(values: NDArray[Any]) -> NDArray[Any]:
    """Grey values that are written as opaque colours, (H, W); what is none is returned as it is."""
    colours = values[..., :3] if values.shape[2] >= 3 else values[..., :1]
    opaque = values.shape[2] in (1, 3) or bool((values[..., -1] == 255).all())
    grey = opaque and bool((colours == colours[..., :1]).all())
    return np.ascontiguousarray(colours[..., 0]) if grey else values


def read_label_colours(path: Path) -> NDArray[np.uint8]:
    """Reads a label image whose colours stand for classes.

    Returns:
        (H, W, 3) uint8, RGB, after EXIF orientation; grey is replicated, a palette expanded.

    Raises:
        SegalError: If the file cannot be read, or is neither grey nor in colours of 8 bits, or is
            transparent somewhere.
    """
    image = _decode(path, read_bytes(path))
    orientation = _orientation(image)
    transparent = "A" in image.mode and np.array(image.getchannel("A")).min() < 255
    if image.mode not in {"1", "L", "LA", "P", "RGB", "RGBA", "RGBX"} or transparent:
        raise SegalError(
            f"{path}: this is no label image of colours",
            expected="8-bit RGB, palette or grey, opaque everywhere",
            got=f"Pillow mode {image.mode}" + (", transparent in places" if transparent else ""),
            remedy="write it as an 8-bit RGB PNG",
        )
    colours = image.convert("RGB")
    return np.array(colours.transpose(_TRANSPOSE[orientation]) if orientation > 1 else colours)


def _grey_step(image: ImageFile) -> int:
    """What Pillow multiplies grey values of 2 and 4 bits by, to fill the range to 255."""
    arguments = image.tile[0].args if image.tile else None
    raw_mode = arguments[0] if isinstance(arguments, tuple) else arguments
    return {"L;2": 85, "L;4": 17}.get(str(raw_mode), 1)


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


def _open(path: Path, data: bytes) -> ImageFile:
    """Reads the header only."""
    if not data:
        raise SegalError(
            f"{path}: the file is empty",
            expected="an image",
            got="0 bytes",
            remedy="copy the file again, or remove it",
        )
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(path, str(error)) from error
    except Exception as error:  # a broken file can make Pillow raise nearly anything
        raise SegalError(
            f"{path}: this is no image",
            expected=f"a file of format {', '.join(_FORMATS)}",
            got=f"{len(data):,} bytes that no decoder knows",
            remedy="copy the file again, or remove it",
        ) from error
    if image.width * image.height > MAX_PIXELS:
        raise _too_many_pixels(path, f"{image.height} x {image.width} (height x width)")
    return image


def _decode(path: Path, data: bytes) -> ImageFile:
    image = _open(path, data)
    try:
        image.load()
    except Exception as error:  # as above
        raise SegalError(
            f"{path}: the image is damaged",
            expected="a complete image",
            got=f"{len(data):,} bytes; {error}",
            remedy="copy the file again, or remove it",
        ) from error
    return image


def _too_many_pixels(path: Path, got: str) -> SegalError:
    return SegalError(
        f"{path}: the image has too many pixels",
        expected=f"at most {MAX_PIXELS:,} pixels",
        got=got,
        remedy="cut the image into smaller ones",
    )


def _orientation(image: ImageFile) -> int:
    """EXIF orientation of a loaded image, 1 to 8; 1 where there is none or it is broken."""
    # Pillow has turned a TIFF already when it is loaded. Image.getexif() would also look into XMP,
    # which OpenCV does not.
    if image.format == "TIFF" or "exif" not in image.info:
        return 1
    exif = Image.Exif()
    try:
        exif.load(image.info["exif"])
        orientation = exif.get(_ORIENTATION, 1)
    except Exception:  # broken EXIF does not make the pixels worthless
        return 1
    return orientation if orientation in _TRANSPOSE else 1
