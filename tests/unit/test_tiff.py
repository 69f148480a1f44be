"""TIFF files are written with tifffile or Pillow; what is read must be what was written."""

import io
import itertools
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from segal.data.image_file import MAX_PIXELS, Bands, Reading, turn
from segal.data.images import inspect_image, read_image, read_label
from segal.errors import SegalError

H, W = 24, 40
RNG = np.random.default_rng(0)


def values(dtype: str, bands: int) -> NDArray[np.unsignedinteger]:
    top = np.iinfo(dtype).max + 1
    return np.random.default_rng(bands).integers(0, top, (H, W, bands)).astype(dtype)


def write(path: Path, pixels: NDArray[np.generic], **options: object) -> Path:
    tifffile.imwrite(path, pixels, **options)
    return path


def as_read(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    if pixels.dtype == np.uint8:
        return pixels
    return (pixels.astype(np.float32) / np.float32(65535)).astype(np.float32)


def check(path: Path, expected: NDArray[np.generic], bands: Bands | None = None) -> None:
    reading = Reading(bands=bands)
    info, got = inspect_image(path, reading), read_image(path, reading)
    assert got.shape == expected.shape == (info.height, info.width, info.channels)
    np.testing.assert_array_equal(got, as_read(expected))


def refused(path: Path, *words: str, reading: Reading = Reading()) -> str:  # noqa: B008
    with pytest.raises(SegalError) as caught:
        inspect_image(path, reading)
    text = str(caught.value)
    for word in (path.name, *words, "expected:", "got:", "remedy:"):
        assert word in text
    return text


LAYOUTS = [
    (planar, tile, compression, predictor)
    for planar, tile, compression, predictor in itertools.product(
        ("contig", "separate"),
        (None, (16, 16)),
        (None, "zlib", "lzw", "zstd", "lzma", "packbits"),
        (False, True),
    )
    if not (predictor and compression not in ("zlib", "lzw"))
]


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_layout_gives_what_was_written(tmp_path: Path, dtype: str, bands: int) -> None:
    pytest.importorskip("imagecodecs")
    pixels = values(dtype, bands)
    rgb = np.repeat(pixels[..., :1], 3, 2) if bands < 3 else pixels[..., :3]
    extra = {2: ["unassalpha"], 4: ["unassalpha"], 5: ["unspecified"] * 2}.get(bands)
    for number, (planar, tile, compression, predictor) in enumerate(LAYOUTS):
        if bands == 1 and planar == "separate":
            continue
        stored = np.moveaxis(pixels, 2, 0) if planar == "separate" else pixels
        path = write(
            tmp_path / f"{number}.tif",
            stored if bands > 1 else pixels[..., 0],
            photometric="rgb" if bands > 2 else "minisblack",
            planarconfig=planar if bands > 1 else None,
            extrasamples=extra,
            tile=tile,
            compression=compression,
            predictor=predictor,
            byteorder="<>"[number % 2],
            bigtiff=number % 3 == 0,
            rowsperstrip=None if tile else 7,
        )
        check(path, rgb)
        check(path, pixels, "all")
        check(path, pixels[..., [bands - 1, 0]], (bands, 1))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_white_is_zero_is_inverted(tmp_path: Path, dtype: str) -> None:
    pixels = values(dtype, 1)
    path = write(tmp_path / "a.tif", pixels[..., 0], photometric="miniswhite")
    expected = np.iinfo(dtype).max - pixels
    check(path, np.repeat(expected, 3, 2))
    check(path, expected, (1,))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_bands_of_no_colour_must_be_chosen(tmp_path: Path, dtype: str) -> None:
    for bands in (3, 4, 7):
        pixels = values(dtype, bands)
        path = write(
            tmp_path / f"{bands}.tif", pixels, photometric="minisblack", planarconfig="contig"
        )
        text = refused(path, f"{bands} bands", "no compression", "--bands 1,2,3")
        assert f"{np.dtype(dtype).itemsize * 8}-bit unsigned" in text
        check(path, pixels[..., [2, 1, 0]], (3, 2, 1))
        check(path, pixels, "all")
        refused(path, f"no band {bands + 1}", reading=Reading(bands=(1, bands + 1)))
    two = write(
        tmp_path / "2.tif", values(dtype, 2), photometric="minisblack", planarconfig="contig"
    )
    refused(two, "2 bands", "--bands 1")


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint32", "int32", "float16", "float32"])
def test_other_types_are_refused_by_the_inspection(tmp_path: Path, dtype: str) -> None:
    pixels = np.ones((H, W, 5), dtype)
    grey = write(tmp_path / "a.tif", pixels[..., 0])
    several = write(
        tmp_path / "b.tif",
        pixels,
        compression="zlib",
        photometric="minisblack",
        planarconfig="contig",
    )
    kind = {"i": "signed", "f": "floating-point", "u": "unsigned"}[np.dtype(dtype).kind]
    refused(grey, "1 band", f"{np.dtype(dtype).itemsize * 8}-bit {kind}", "no compression")
    refused(several, "5 bands", kind, "deflate", reading=Reading(bands=(1, 2, 3)))


def test_bits_palettes_and_cmyk(tmp_path: Path) -> None:
    colours = Image.fromarray(values("uint8", 3))
    for mode in ("1", "P", "CMYK"):
        image = colours.convert(mode)
        image.save(tmp_path / f"{mode}.tif", compression="tiff_lzw")
        check(tmp_path / f"{mode}.tif", np.asarray(image.convert("RGB")))
    check(tmp_path / "1.tif", np.asarray(colours.convert("1").convert("L"))[..., None], "all")
    check(tmp_path / "P.tif", np.asarray(colours.convert("P").convert("RGB"))[..., 1:], (2, 3))
    check(tmp_path / "CMYK.tif", np.asarray(colours.convert("CMYK")), "all")


@pytest.mark.parametrize("subsampled", [False, True])
def test_jpeg_in_tiff_is_as_pillow_reads_it(tmp_path: Path, subsampled: bool) -> None:
    path = tmp_path / "a.tif"
    if subsampled:
        Image.fromarray(values("uint8", 3)).save(path, compression="jpeg")
    else:
        pytest.importorskip("imagecodecs")
        write(path, values("uint8", 3), photometric="rgb", compression="jpeg", tile=(16, 16))
    check(path, np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("extra", ["unassalpha", "unspecified"])
def test_a_fourth_band_can_be_chosen(tmp_path: Path, extra: str) -> None:
    for dtype in ("uint8", "uint16"):
        pixels = values(dtype, 4)
        path = write(tmp_path / f"{dtype}.tif", pixels, photometric="rgb", extrasamples=[extra])
        check(path, pixels[..., :3])
        check(path, pixels[..., [3, 0]], (4, 1))
    premultiplied = values("uint8", 4)
    path = write(tmp_path / "a.tif", premultiplied, photometric="rgb", extrasamples=["assocalpha"])
    check(path, premultiplied, "all")  # as stored


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, orientation: int, planar: str) -> None:
    pytest.importorskip("imagecodecs")
    kinds = itertools.product(("uint8", "uint16"), (None, "zlib", "lzw"), (None, (16, 16)))
    for dtype, compression, tile in kinds:
        pixels = values(dtype, 3)
        path = write(
            tmp_path / f"{dtype}{compression}{tile is None}.tif",
            pixels if planar == "contig" else np.moveaxis(pixels, 2, 0),
            photometric="rgb",
            planarconfig=planar,
            tile=tile,
            compression=compression,
            bigtiff=compression is None,
            extratags=[(274, "H", 1, orientation, True)],
        )
        check(path, turn(pixels, orientation))
        check(path, turn(pixels, orientation)[..., [1]], (2,))
        assert inspect_image(path).orientation == orientation


def pages(path: Path, images: list[NDArray[np.generic]], **kinds: int) -> Path:
    with tifffile.TiffWriter(path) as file:
        for number, image in enumerate(images):
            kind = kinds.get(f"page{number}", 0)
            file.write(image, photometric="rgb", subfiletype=kind, contiguous=False)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_pages_are_counted_and_chosen(tmp_path: Path, dtype: str) -> None:
    images = [np.roll(values(dtype, 3), n, 0) for n in range(3)]
    path = pages(tmp_path / "a.tif", images)
    refused(path, "3 images (pages)", "page=1 (to 3)")
    refused(path, "no page 4", "from 1 to 3", reading=Reading(page=4))
    for number, image in enumerate(images, start=1):
        reading = Reading(page=number)
        assert inspect_image(path, reading).height == H
        np.testing.assert_array_equal(read_image(path, reading), as_read(image))


def test_reduced_copies_and_masks_are_no_pages(tmp_path: Path) -> None:
    image, small = values("uint8", 3), values("uint8", 3)[::2, ::2]
    check(pages(tmp_path / "after.tif", [image, small, small], page1=1, page2=1), image)
    check(pages(tmp_path / "before.tif", [small, image], page0=1), image)
    with tifffile.TiffWriter(tmp_path / "mask.tif") as file:
        file.write(image, photometric="rgb", contiguous=False)
        file.write(image[..., 0] > 99, photometric="minisblack", subfiletype=4, contiguous=False)
    check(tmp_path / "mask.tif", image)
    assert "reduced" in refused(pages(tmp_path / "no.tif", [small, small], page0=1, page1=1))
    check(pages(tmp_path / "alone.tif", [image], page0=1), image)


def test_images_without_directories_of_their_own_are_counted(tmp_path: Path) -> None:
    stack = RNG.integers(0, 65536, (5, H, W)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True)
    refused(tmp_path / "a.tif", "5 images")


def test_frames_of_other_formats_are_counted(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(values("uint8", 3), n, 0)) for n in range(3)]
    for suffix in ("png", "webp"):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        refused(path, "3 images (frames)")
    frames[0].save(tmp_path / "b.png")
    refused(tmp_path / "b.png", "no page 2", reading=Reading(page=2))
    assert inspect_image(tmp_path / "b.png", Reading(page=1)).height == H


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd", "lzma"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
def test_truncated_files_are_refused(
    tmp_path: Path, dtype: str, photometric: str, compression: str | None
) -> None:
    pytest.importorskip("imagecodecs")
    buffer = io.BytesIO()
    options = {"photometric": photometric, "compression": compression, "planarconfig": "contig"}
    tifffile.imwrite(buffer, values(dtype, 3), rowsperstrip=8, **options)
    data = buffer.getvalue()
    for kept in (0.05, 0.3, 0.6, 0.95):
        (tmp_path / "a.tif").write_bytes(data[: int(len(data) * kept)])
        refused(tmp_path / "a.tif", reading=Reading(bands=(1, 2, 3)))


@pytest.mark.parametrize("bands", [3, 5])
def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path, bands: int) -> None:
    """A strip that inflates to a gigabyte, and pixels beyond the limit."""
    pixels = values("uint16", bands)
    options = {"photometric": "minisblack", "planarconfig": "contig", "rowsperstrip": H}
    path = write(tmp_path / "a.tif", pixels, compression="zlib", **options)
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        offset = path.stat().st_size
        tags = {name: page.tags[name].valueoffset for name in ("StripOffsets", "StripByteCounts")}
    squeezer = zlib.compressobj()
    strip = b"".join(squeezer.compress(bytes(2**20)) for _ in range(64)) + squeezer.flush()
    data = bytearray(path.read_bytes() + strip)
    data[tags["StripOffsets"] : tags["StripOffsets"] + 4] = offset.to_bytes(4, "little")
    data[tags["StripByteCounts"] : tags["StripByteCounts"] + 4] = len(strip).to_bytes(4, "little")
    path.write_bytes(data)
    refused(path, "too much", reading=Reading(bands="all"))

    side = int((3 * MAX_PIXELS / bands) ** 0.5) + 2
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        places = [page.tags[n].valueoffset for n in ("ImageWidth", "ImageLength", "RowsPerStrip")]
    for place in places:
        data[place : place + 4] = side.to_bytes(4, "little")
    path.write_bytes(data)
    refused(path, "no tiles" if bands == 3 else "values", reading=Reading(bands="all"))


def test_without_imagecodecs_what_needs_it_is_named(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    pixels = values("uint16", 5)
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    for compression in ("zstd", "lzw", "packbits", "lzma", "zlib"):
        for predictor in {False, compression in ("lzw", "zlib")}:
            name = f"{compression}{'-differences' * predictor}.tif"
            write(tmp_path / name, pixels, compression=compression, predictor=predictor, **options)
    write(tmp_path / "plain-lzw.tif", pixels[..., :3], photometric="rgb", compression="lzw")
    np.save(tmp_path / "expected.npy", as_read(pixels))
    code = """
import sys
sys.modules["imagecodecs"] = None
from pathlib import Path
import numpy as np
from segal.data.images import Reading, inspect_image, read_image
from segal.errors import SegalError
folder = Path(sys.argv[1])
expected = np.load(folder / "expected.npy")
for path in sorted(folder.glob("*.tif")):
    reading = Reading(bands=(1, 2, 3))
    try:
        inspect_image(path, reading)
        print(path.stem, np.array_equal(read_image(path, reading), expected[..., :3]))
    except SegalError as error:
        print(path.stem, "segal-regions[tiff]" in error.remedy, error.got)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    kind = "a TIFF of 5 bands (MINISBLACK), 16-bit unsigned,"
    assert sorted(done.stdout.splitlines()) == [
        "lzma True",
        f"lzw True {kind} LZW compression",
        f"lzw-differences True {kind} LZW compression",
        f"packbits True {kind} PackBits compression",
        "plain-lzw True",
        "zlib True",
        "zlib-differences True",
        f"zstd True {kind} Zstandard compression",
    ]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "int8"])
def test_labels_of_any_whole_type(tmp_path: Path, dtype: str) -> None:
    classes = RNG.integers(0, 100, (H, W)).astype(dtype)
    for number, (compression, tile) in enumerate(
        itertools.product((None, "zlib"), (None, (16, 16)))
    ):
        path = write(tmp_path / f"{number}.tif", classes, compression=compression, tile=tile)
        assert np.array_equal(read_label(path), classes)
    if np.dtype(dtype).kind == "i":
        with pytest.raises(SegalError, match="do not fit 8 bits"):
            read_label(write(tmp_path / "minus.tif", classes - 50))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_labels_of_few_bits(tmp_path: Path, bits: int) -> None:
    classes = RNG.integers(0, 2**bits, (H, W)).astype(np.uint8)
    if bits == 1:
        Image.fromarray(classes.astype(bool)).save(tmp_path / "a.tif")
    else:
        write(tmp_path / "a.tif", classes, photometric="minisblack")
        path = pack(tmp_path / "a.tif", classes, bits)
        assert np.array_equal(read_label(path), classes)
        check(path, np.repeat(classes[..., None] * (255 // (2**bits - 1)), 3, 2))
        return
    assert np.array_equal(read_label(tmp_path / "a.tif"), classes)


def pack(path: Path, classes: NDArray[np.uint8], bits: int) -> Path:
    """Writes values of few bits into the place of 8-bit ones."""
    planes = np.unpackbits(classes[..., None], axis=2)[..., 8 - bits :]
    rows = np.packbits(planes.reshape(len(classes), -1), axis=1)
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        places = {n: page.tags[n].valueoffset for n in ("BitsPerSample", "StripByteCounts")}
        start = page.dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[start : start + rows.size] = rows.tobytes()
    data[places["BitsPerSample"]] = bits
    data[places["StripByteCounts"] : places["StripByteCounts"] + 4] = rows.size.to_bytes(
        4, "little"
    )
    path.write_bytes(data)
    return path


def test_labels_that_readers_disagree_about_are_refused(tmp_path: Path) -> None:
    classes = values("uint8", 1)[..., 0]
    with pytest.raises(SegalError, match="disagree"):
        read_label(write(tmp_path / "a.tif", classes, photometric="miniswhite"))
    with pytest.raises(SegalError, match="2 images"):
        with tifffile.TiffWriter(tmp_path / "b.tif") as file:
            file.write(classes, contiguous=False)
            file.write(classes, contiguous=False)
        read_label(tmp_path / "b.tif")
    indices = Image.fromarray(classes)
    indices.putpalette(bytes(range(256)) * 3)
    indices.save(tmp_path / "c.tif")
    assert np.array_equal(read_label(tmp_path / "c.tif"), classes)


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [("png", "RGBA"), ("png", "LA"), ("webp", "RGBA"), ("png", "RGB"), ("png", "L")],
)
def test_bands_of_other_formats(tmp_path: Path, suffix: str, mode: str) -> None:
    bands = {"RGBA": 4, "LA": 2, "RGB": 3, "L": 1}[mode]
    pixels = values("uint8", bands)
    image = Image.fromarray(pixels if bands > 1 else pixels[..., 0])
    assert image.mode == mode
    path = tmp_path / f"a.{suffix}"
    for orientation in (1, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(
            path, exif=exif, **({"lossless": True, "exact": True} if suffix == "webp" else {})
        )
        check(path, turn(pixels, orientation), "all")
        check(path, turn(pixels, orientation)[..., [bands - 1]], (bands,))
    refused(path, f"no band {bands + 1}", reading=Reading(bands=(bands + 1,)))


def test_16_bit_png_with_alpha_as_a_band(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = values("uint16", 4)
    cv2.imwrite(str(tmp_path / "a.png"), pixels[..., [2, 1, 0, 3]])
    check(tmp_path / "a.png", pixels, "all")
    check(tmp_path / "a.png", pixels[..., :3])


def test_damage_is_told_and_never_anything_else(tmp_path: Path) -> None:
    """Bytes are changed at random; what is accepted is read, with the size that was told."""
    pytest.importorskip("imagecodecs")
    rng, sources = np.random.default_rng(0), []
    for number, compression in enumerate(("zlib", "lzw", "zstd", "lzma", None)):
        path = write(
            tmp_path / "a.tif",
            values("uint16" if number % 2 else "uint8", 4),
            photometric="rgb",
            extrasamples=["unassalpha"],
            compression=compression,
            tile=(16, 16) if number < 2 else None,
            bigtiff=number == 2,
        )
        sources.append(path.read_bytes())
    accepted = 0
    for number in range(200):
        data = bytearray(sources[number % len(sources)])
        for place in rng.integers(0, [300, len(data)] * 2):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        reading = (Reading(), Reading(bands="all"), Reading(bands=(4, 1), page=1))[number % 3]
        try:
            info = inspect_image(path, reading)
        except SegalError:
            continue
        accepted += 1
        assert read_image(path, reading).shape == (info.height, info.width, info.channels)
    assert 0 < accepted < 200
