"""Reads images and labels: Pillow verifies and reads labels, OpenCV decodes images.

OpenCV is faster, but returns half a truncated JPEG as a success and turns palette indices into
colours; so a file is inspected once with Pillow before OpenCV decodes it, and labels are never read
with OpenCV. TIFF files have a module of their own, `tiff`.
"""

import hashlib
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile

from segal.candidates.regions import Box
from segal.data.image_file import (
    RGB,
    Bands,
    Reading,
    check_bands,
    choose_bands,
    damaged,
    decode,
    load,
    open_image,
    orientation_of,
    read_bytes,
    turn,
)
from segal.data.tiff import Tiff, is_tiff
from segal.data.tiff_segments import DECODED
from segal.data.windows import WindowedTiff, boxes_without_data, open_label_windows, open_windows
from segal.errors import SegalError
from segal.system.files import file_digest

__all__ = [
    "MIN_SIDE",
    "ImageInfo",
    "Reading",
    "inspect_image",
    "read_bytes",
    "read_image",
    "read_label",
    "read_orientation",
]

# Readers run in our own threads; OpenCV's would only compete with them and with the network.
cv2.setNumThreads(0)

MIN_SIDE = 16
_ONE_AT_A_TIME = threading.Lock()

_ALPHA = {"LA": 2, "PA": 4, "RGBA": 4}  # bands of the modes that have it
_GREY = {"1", "L", "I", "I;16", "I;16L", "I;16B", "I;16N"}
_MODES = {*_ALPHA, *_GREY, "P", "RGB", "RGBX", "CMYK"} - {"I"}  # 16-bit files among the colours too
_DECODES_ALIKE = ("JPEG", "PNG")  # what Pillow can decode of these, OpenCV can


@dataclass(frozen=True)
class ImageInfo:
    """What an image's inspection found.

    Attributes:
        height: Rows after EXIF orientation.
        width: Columns after EXIF orientation.
        digest: SHA-256 of the file's bytes, in hex.
        orientation: As EXIF has it, 1 to 8; 1 where it is not known.
        channels: That it is read with; None where it is not known.
    """

    height: int
    width: int
    digest: str
    orientation: int = field(default=1, compare=False)
    channels: int | None = field(default=None, compare=False)

    @property
    def turned_unseen(self) -> bool:
        """Whether it is turned or mirrored so that its size does not tell."""
        return self.orientation in {2, 3, 4} or (
            self.orientation >= 5 and self.height == self.width
        )


def inspect_image(path: Path, reading: Reading = RGB) -> ImageInfo:
    """Reads a file once and decodes it as a whole.

    Raises:
        SegalError: If the file cannot be read, is empty, truncated, no image, of a kind that is not
            supported, a decompression bomb, smaller than 16 pixels on a side, of several images of
            which none is chosen, or without a band that is wanted.
    """
    windows = open_windows(path, reading)
    if windows is not None:
        return _inspect_windows(path, windows)
    data = read_bytes(path)
    if is_tiff(data):
        tiff = Tiff.open(path, data, reading.page)
        height, width, channels = tiff.read(reading.bands).shape
        orientation = tiff.orientation
    else:
        image = decode(path, data)
        _check_kind(path, image, reading)
        orientation = orientation_of(image)
        width, height = image.size if orientation < 5 else image.size[::-1]
        channels = reading.channels or _count_bands(image)
        if image.format not in _DECODES_ALIKE:
            _decode_pixels(path, data, reading.bands)
    _check_sides(path, height, width)
    digest = hashlib.sha256(data).hexdigest()
    return ImageInfo(height, width, digest, orientation, channels)


def _inspect_windows(path: Path, windows: WindowedTiff) -> ImageInfo:
    """The same of a large image, of which a strip or tile is in memory at a time."""
    height, width = windows.shape
    _check_sides(path, height, width)
    windows.check()
    digest, beside = file_digest(path), windows.mask_file
    if beside is not None:  # another mask makes it another image
        digest = hashlib.sha256(f"{digest} {file_digest(beside)}".encode()).hexdigest()
    return ImageInfo(height, width, digest, windows.tiff.orientation, windows.channels)


def _check_sides(path: Path, height: int, width: int) -> None:
    if min(height, width) < MIN_SIDE:
        raise SegalError(
            f"{path}: the image is too small",
            expected=f"at least {MIN_SIDE} pixels on each side",
            got=f"{height} x {width} (height x width)",
            remedy="remove it",
        )


def _check_kind(path: Path, image: ImageFile, reading: Reading) -> None:
    """Raises a SegalError for an image, not a TIFF, that cannot be read as it is wanted."""
    if image.mode not in _MODES and (image.mode, image.format) != ("I", "PNG"):
        raise SegalError(
            f"{path}: this kind of image is not supported",
            expected="8- or 16-bit grey, RGB, RGBA or palette",
            got=f"{image.format} of Pillow mode {image.mode}",
            remedy="convert it to 8- or 16-bit RGB",
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 or (reading.page or 1) > 1:
        raise SegalError(
            f"{path}: the file holds {frames} images (frames)"
            if frames > 1
            else f"{path}: there is no page {reading.page}",
            expected="one image a file, or a TIFF of several pages",
            got=f"{image.format} of {frames}",
            remedy="save the frames as files of their own, or remove the file",
        )
    if reading.bands is not None:
        check_bands(path, _count_bands(image), reading.bands, _shown(image))


def _count_bands(image: ImageFile) -> int:
    return 1 if image.mode in _GREY else _ALPHA.get(image.mode, 3)


def _shown(image: ImageFile) -> str:
    return f"a {image.format} of Pillow mode {image.mode}"


def read_image(path: Path, reading: Reading = RGB) -> NDArray[Any]:
    """Decodes an image that has been inspected.

    Args:
        path: The file.
        reading: Which bands, of which page, and what values become 0 and 1.

    Returns:
        (H, W, channels) after EXIF orientation: uint8 for 8-bit files, float32 in [0, 1] for 16-bit
        files. Unless bands are chosen it is RGB, grey replicated, alpha dropped. A palette is
        expanded in either case.

    Raises:
        SegalError: If the file cannot be decoded.
    """
    data = read_bytes(path)
    if is_tiff(data):
        pixels = Tiff.open(path, data, reading.page).read(reading.bands)
    else:
        pixels = _decode_pixels(path, data, reading.bands)
    return reading.scaled(pixels)


def read_window(path: Path, box: Box, reading: Reading = RGB) -> NDArray[Any]:
    """A window of an image that has been inspected; of a large TIFF nothing else is decoded.

    Any other file is decoded as a whole, and held until others are.

    Args:
        path: The file.
        box: Half-open (x0, y0, x1, y1), within the image.
        reading: As `read_image` takes it.

    Returns:
        (h, w, channels), as `read_image`.

    Raises:
        SegalError: If it cannot be decoded.
    """
    windows = open_windows(path, reading)
    if windows is not None:
        return windows.read(box)
    x0, y0, x1, y1 = box
    status = path.stat()
    key = path, status.st_size, status.st_mtime_ns, reading
    with _ONE_AT_A_TIME:  # or each thread that reads ahead would hold the whole
        whole = DECODED.get(key, lambda: read_image(path, reading))
    return whole[y0:y1, x0:x1]


def find_no_data(path: Path, reading: Reading = RGB) -> tuple[Box, ...]:
    """Boxes of an image without data: by its alpha, its mask or the value that stands for none.

    Args:
        path: The file.
        reading: As `read_image` takes it.

    Raises:
        SegalError: If it cannot be decoded.
    """
    windows = open_windows(path, reading, any_size=True)
    if windows is not None:
        return boxes_without_data(windows.shape, windows.has_data) if windows.tells_data else ()
    with path.open("rb") as file:
        if is_tiff(file.read(4)):
            return ()  # of a kind that tells nothing of that
    data = read_bytes(path)
    bands = _ALPHA.get(open_image(path, data).mode)
    if bands is None:
        return ()
    alpha = _decode_pixels(path, data, (bands,))[..., 0] > 0
    return boxes_without_data(
        (alpha.shape[0], alpha.shape[1]), lambda box: alpha[box[1] : box[3], box[0] : box[2]]
    )


def _decode_pixels(path: Path, data: bytes, bands: Bands | None) -> NDArray[Any]:
    """(H, W, channels) uint8 or uint16 of a file that is no TIFF."""
    if bands is None:
        return decode_colours(path, data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    image = open_image(path, data)
    file = _shown(image)
    if image.mode not in _ALPHA:
        rgb = _decode_pixels(path, data, None)
        return choose_bands(path, rgb[..., : _count_bands(image)], bands, file)
    bgra = _opencv(path, data, cv2.IMREAD_UNCHANGED)  # which also leaves it as it is turned
    order = [0, 3] if image.mode == "LA" else [2, 1, 0, 3]
    orientation = orientation_of(load(path, data, image))  # EXIF may come after the pixels
    return choose_bands(path, turn(bgra[..., order], orientation), bands, file)


def decode_colours(path: Path, data: bytes, flags: int) -> NDArray[Any]:
    """Decodes a file that is no TIFF with OpenCV.

    Args:
        path: Of the file.
        data: All of it.
        flags: OpenCV's, of colours.

    Returns:
        (H, W, 3) RGB after EXIF orientation.

    Raises:
        SegalError: If it cannot be decoded.
    """
    return np.asarray(cv2.cvtColor(_opencv(path, data, flags), cv2.COLOR_BGR2RGB))


def _opencv(path: Path, data: bytes, flags: int) -> NDArray[Any]:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # such as for a size that is damaged
        raise damaged(path, data, error) from error
    wanted = 4 if flags == cv2.IMREAD_UNCHANGED else 3
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16) or pixels.shape[2:] != (wanted,):
        raise SegalError(
            f"{path}: cannot be decoded",
            expected="an 8- or 16-bit image",
            got="no image" if pixels is None else f"{pixels.dtype} values {pixels.shape}",
            remedy="convert it to 8- or 16-bit RGB",
        )
    return np.asarray(pixels)


def read_orientation(path: Path, page: int | None = None) -> int:
    """EXIF orientation of an image that can be read, 1 to 8; of a page of a TIFF of several.

    Raises:
        SegalError: If it cannot be read.
    """
    data = read_bytes(path)
    if is_tiff(data):
        return Tiff.open(path, data, page).orientation
    return orientation_of(decode(path, data))


def read_label(path: Path) -> NDArray[np.uint8]:
    """Reads a label image: one class value a pixel.

    Returns:
        (H, W) uint8 after EXIF orientation. Of a palette image, the indices; of a colour image
        whose channels are all alike, one of them.

    Raises:
        SegalError: If the file cannot be read, has colours or alpha, several pages, or values above
            255.
    """
    windows = open_label_windows(path, RGB)
    if windows is not None:
        height, width = windows.shape
        return windows.label((0, 0, width, height))
    data = read_bytes(path)
    if is_tiff(data):
        tiff = Tiff.open(path, data)
        values, kind = tiff.read_label(), str(tiff)
    else:
        image = open_image(path, data)
        step = _grey_step(image)
        load(path, data, image)
        values, kind = turn(np.array(image), orientation_of(image)), _shown(image)
        values = values // np.array(step, np.uint8) if step > 1 else values
    if values.ndim == 3 and values.shape[2] in {2, 3, 4}:
        values = _one_channel(values)
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise SegalError(
            f"{path}: this is no label image",
            expected="one channel of class values from 0 to 255 (grey or palette)",
            got=kind,
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
    return values.astype(np.uint8)


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
    data = read_bytes(path)
    if is_tiff(data):
        tiff = Tiff.open(path, data)
        colours, kind = tiff.read(None), str(tiff)
        transparent = False  # alpha is left out
        plain = colours.dtype == np.uint8
    else:
        image = decode(path, data)
        kind = _shown(image)
        transparent = "A" in image.mode and np.array(image.getchannel("A")).min() < 255
        plain = image.mode in {"1", "L", "LA", "P", "RGB", "RGBA", "RGBX"}
        colours = turn(np.array(image.convert("RGB")), orientation_of(image))
    if not plain or transparent:
        raise SegalError(
            f"{path}: this is no label image of colours",
            expected="8-bit RGB, palette or grey, opaque everywhere",
            got=kind + (", transparent in places" if transparent else ""),
            remedy="write it as an 8-bit RGB PNG",
        )
    return np.asarray(colours)


def _grey_step(image: ImageFile) -> int:
    """What Pillow multiplies grey values of 2 and 4 bits by, to fill the range to 255."""
    arguments = image.tile[0].args if image.tile else None
    raw_mode = arguments[0] if isinstance(arguments, tuple) else arguments
    return {"L;2": 85, "L;4": 17}.get(str(raw_mode), 1)
