"""Kinds of image files, each written and then opened and read as `segal select` does."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from segal.data.images import Reading, inspect_image, read_image
from segal.data.pool import open_pool
from segal.errors import SegalError
from tools.compatibility.row import Row

TITLE = "Images"
INTRODUCTION = (
    "Files of 48 x 64 pixels, written in every way and opened and read as `segal select` does; "
    "what is read is compared with what was written, pixel by pixel (of JPEG and WebP, about)."
)

HEIGHT, WIDTH = 48, 64
Pixels = NDArray[Any]
Case = tuple[str, str, Callable[[Path], object], Pixels | None, Reading]
"""Its name, the file's suffix, what writes it, what must be read (None: a refusal), and how."""


def rows() -> Iterator[Row]:
    """Tries them all."""
    with TemporaryDirectory() as temporary:
        for number, (name, suffix, write, expected, reading) in enumerate(cases()):
            path = Path(temporary, str(number), f"image{suffix}")
            path.parent.mkdir()
            write(path)
            yield Row(name, outcome(path, expected, reading))
        yield Row("`.jp2`, `.heic`, ... beside a PNG", others(Path(temporary, "others")))


def outcome(path: Path, expected: Pixels | None, reading: Reading) -> str:
    """What comes of a file, in a few words."""
    try:
        inspect_image(path, reading)
    except SegalError as error:
        said = error.problem.removeprefix(f"{path}: ")
        got = "" if error.got is None else f" ({error.got.removeprefix(f'{path}: ')})"
        return f"refused: {said}{got}"
    read = read_image(path, reading)
    if expected is None:
        return "READ, THOUGH IT SHOULD BE REFUSED"
    true = expected if expected.dtype == np.uint8 else expected / 65535
    tolerance = 12 if path.suffix in {".jpg", ".webp"} else 1e-6
    if read.shape != expected.shape or np.abs(read.astype(float) - true).mean() > tolerance:
        return "MISREAD"
    return f"read: {read.shape[2]} channels" + ("" if read.dtype == np.uint8 else ", 16-bit")


def others(folder: Path) -> str:
    folder.mkdir()
    Image.fromarray(values("uint8", 3)).save(folder / "a.png")
    for name in ("b.jp2", "c.heic", "d.gif", "e.npy"):
        (folder / name).write_bytes(b"not looked at")
    (note,) = open_pool(folder).notes()
    return note.removeprefix(f"{folder}: ").rstrip(".")


def values(dtype: str, bands: int) -> Pixels:
    top = np.iinfo(dtype).max
    coarse = np.random.default_rng(bands).random((6, 8, bands))
    smooth = [cv2.resize(coarse[..., i], (WIDTH, HEIGHT)) for i in range(bands)]
    return (top * np.stack(smooth, -1)).astype(dtype)


def cases() -> Iterator[Case]:
    yield from common()
    for dtype in ("uint8", "uint16"):
        yield from tiffs(dtype)
    yield from tiffs_of_other_types()


def common() -> Iterator[Case]:
    rgb, grey, rgba = (values("uint8", bands) for bands in (3, 1, 4))
    default, image = Reading(), Image.fromarray(rgb)
    thrice = np.repeat(grey, 3, 2)
    for suffix in (".jpg", ".png", ".bmp", ".webp"):
        yield f"{suffix[1:].upper()}, RGB", suffix, image.save, rgb, default
        yield (
            f"{suffix[1:].upper()}, grey",
            suffix,
            Image.fromarray(grey[..., 0]).save,
            thrice,
            default,
        )
    for suffix in (".png", ".webp"):
        with_alpha = Image.fromarray(rgba)
        name = f"{suffix[1:].upper()} with alpha"
        yield name, suffix, lambda p, i=with_alpha: i.save(p, exact=True), rgba[..., :3], default
        yield (
            *(f"{name}, `--bands all`", suffix, lambda p, i=with_alpha: i.save(p, exact=True)),
            *(rgba, Reading(bands="all")),
        )
    palette = image.quantize(16)
    yield "PNG, palette", ".png", palette.save, np.array(palette.convert("RGB")), default
    for bands in (1, 3, 4):
        deep = values("uint16", bands)
        shown = np.repeat(deep, 3, 2) if bands == 1 else deep[..., :3]
        order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[bands]
        yield (
            *(f"PNG, 16-bit, {_bands(bands)}", ".png"),
            *(lambda p, d=deep[..., order]: cv2.imwrite(str(p), d), shown, default),
        )
    yield "JPEG, CMYK", ".jpg", image.convert("CMYK").save, rgb, default
    turned = Image.Exif()
    turned[0x0112] = 6
    yield (
        *("JPEG, turned by EXIF", ".jpg", lambda p: image.save(p, exif=turned)),
        *(rgb.swapaxes(0, 1)[:, ::-1], default),
    )
    frames = [image, image.rotate(180)]
    for suffix in (".png", ".webp"):
        yield (
            *(f"{suffix[1:].upper()} of two frames", suffix),
            *(lambda p: image.save(p, save_all=True, append_images=frames[1:]), None, default),
        )
    yield "PNG, cut off", ".png", lambda p: p.write_bytes(encoded(image)[:-500]), None, default
    yield "empty file", ".png", lambda p: p.write_bytes(b""), None, default


def _bands(count: int) -> str:
    return "1 band" if count == 1 else f"{count} bands"


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def tiffs(dtype: str) -> Iterator[Case]:
    """TIFF files of unsigned bands, as tifffile writes them."""
    bits = np.dtype(dtype).itemsize * 8
    default, top = Reading(), np.iinfo(dtype).max
    for planar in ("contig", "separate"):
        for bands in (3, 4, 5):
            pixels = values(dtype, bands)
            stored = pixels if planar == "contig" else np.moveaxis(pixels, 2, 0)
            for tile in (None, (16, 16)):
                options = {"photometric": "rgb", "planarconfig": planar, "tile": tile}
                name = f"TIFF, {bits}-bit, {bands} bands, RGB"
                name += ", planar" * (planar == "separate") + ", tiled" * (tile is not None)
                write = writer(stored, extrasamples=["unspecified"] * (bands - 3), **options)
                yield name, ".tif", write, pixels[..., :3], default
                if bands > 3:
                    yield f"{name}, `--bands all`", ".tif", write, pixels, Reading(bands="all")
    for compression in ("lzw", "zlib", "packbits", "lzma", "zstd"):
        pixels = values(dtype, 3)
        write = writer(pixels, photometric="rgb", compression=compression)
        yield f"TIFF, {bits}-bit RGB, {compression}", ".tif", write, pixels, default
    pixels = values(dtype, 7)
    write = writer(pixels, photometric="minisblack", planarconfig="contig", compression="zlib")
    name = f"TIFF, {bits}-bit, 7 bands without colours"
    yield name, ".tif", write, None, default
    yield (
        f"{name}, `--bands 4,3,2`",
        ".tif",
        write,
        pixels[..., [3, 2, 1]],
        Reading(None, (4, 3, 2)),
    )
    yield f"{name}, `--bands 9`", ".tif", write, None, Reading(bands=(9,))
    pixels = values(dtype, 4)
    write = writer(pixels, photometric="rgb", extrasamples=["unassalpha"], bigtiff=True)
    yield f"BigTIFF, {bits}-bit with alpha", ".tif", write, pixels[..., :3], default
    grey = values(dtype, 1)
    write = writer(grey[..., 0], photometric="miniswhite")
    yield f"TIFF, {bits}-bit, WhiteIsZero", ".tif", write, np.repeat(top - grey, 3, 2), default
    yield from tiffs_of_pages(dtype)


def tiffs_of_pages(dtype: str) -> Iterator[Case]:
    bits, first = np.dtype(dtype).itemsize * 8, values(dtype, 3)
    second = np.ascontiguousarray(first[::-1])

    def pages(path: Path, **second_kind: int) -> None:
        with tifffile.TiffWriter(path) as file:
            file.write(first, photometric="rgb", contiguous=False)
            file.write(second, photometric="rgb", contiguous=False, **second_kind)

    name = f"TIFF, {bits}-bit, two pages"
    yield name, ".tif", pages, None, Reading()
    yield f"{name}, `--page 2`", ".tif", pages, second, Reading(page=2)
    yield (
        *(f"TIFF, {bits}-bit, with a reduced copy", ".tif"),
        *(lambda p: pages(p, subfiletype=1), first, Reading()),
    )


def tiffs_of_other_types() -> Iterator[Case]:
    for dtype in ("int8", "int16", "uint32", "float16", "float32", "float64"):
        pixels = np.ones((HEIGHT, WIDTH), dtype)
        yield f"TIFF, {dtype}", ".tif", writer(pixels), None, Reading()
    image = Image.fromarray(values("uint8", 3))
    for mode in ("1", "P", "CMYK"):
        shown = image.convert(mode)
        expected = np.array(shown.convert("RGB"))
        yield f"TIFF of Pillow mode {mode}", ".tif", shown.save, expected, Reading()
    lab = image.convert("LAB")
    yield "TIFF, CIE L*a*b*", ".tif", lab.save, None, Reading()


def writer(pixels: Pixels, **options: object) -> Callable[[Path], object]:
    return lambda path: tifffile.imwrite(path, pixels, **options)
