"""Pixels are compared with what was written, or with Pillow's own decoding."""

import hashlib
import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from segal.data.images import ImageInfo, Reading, inspect_image, read_image, read_label
from segal.errors import SegalError

H, W = 24, 40


def smooth(channels: int = 3) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 10, channels), dtype=np.uint8)
    return cv2.resize(coarse, (W, H), interpolation=cv2.INTER_CUBIC).reshape(H, W, channels)


def pillow_rgb(path: Path) -> NDArray[np.uint8]:
    return np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))


def agree(path: Path, tolerance: int = 0) -> NDArray[np.uint8]:
    expected, got, info = pillow_rgb(path), read_image(path), inspect_image(path)
    assert got.dtype == np.uint8
    assert got.shape == expected.shape == (info.height, info.width, 3)
    assert np.abs(got.astype(int) - expected).max() <= tolerance
    return got


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.tif", {}),
        ("b.tiff", {"compression": "tiff_lzw"}),
        ("a.webp", {"lossless": True}),
    ],
)
def test_lossless_formats_give_what_was_written(
    tmp_path: Path, name: str, options: dict[str, object]
) -> None:
    pixels = smooth()
    Image.fromarray(pixels).save(tmp_path / name, **options)
    assert np.array_equal(agree(tmp_path / name), pixels)


def test_jpeg_agrees_with_pillow(tmp_path: Path) -> None:
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", quality=90)
    agree(tmp_path / "a.jpg", tolerance=2)
    Image.fromarray(smooth()).convert("CMYK").save(tmp_path / "b.jpg", quality=90)
    agree(tmp_path / "b.jpg", tolerance=3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_modes_become_rgb_without_alpha(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if mode in ("LA", "RGBA"):
        Image.fromarray(smooth(len(mode))).save(path)
    else:
        Image.fromarray(smooth()).convert(mode).save(path)
    assert Image.open(path).mode == mode
    got = agree(path)
    if mode == "RGBA":
        assert np.array_equal(got, smooth(4)[..., :3])


@pytest.mark.parametrize("transparency", [3, bytes(range(16))])
def test_palette_with_transparency(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.fromarray(smooth()).quantize(16)
    image.save(tmp_path / "a.png", transparency=transparency)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit(tmp_path: Path, suffix: str, channels: int) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (H, W, channels), dtype=np.uint16)
    path = tmp_path / f"a.{suffix}"
    assert cv2.imwrite(str(path), values)  # takes blue, green, red
    expected = np.repeat(values, 3, 2) if channels == 1 else values[..., 2::-1]
    got = read_image(path)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected / 65535.0, atol=1e-7)
    ranged = read_image(path, Reading((1000, 4095)))
    np.testing.assert_allclose(ranged, np.clip((expected - 1000.0) / 3095, 0, 1), atol=1e-6)
    assert (ranged.min(), ranged.max()) == (0, 1)
    info = inspect_image(path)
    assert (info.height, info.width) == (H, W)


def test_a_value_range_leaves_8_bits_alone(tmp_path: Path) -> None:
    Image.fromarray(smooth()).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", Reading((0, 10))), smooth())


# Row and column of the stored image's corner, by the definition of the tag (TIFF 6.0, page 36):
# where row 0 and column 0 of the file are shown.
SHOWN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(smooth()).save(path, exif=exif, **options)
    got = agree(path, tolerance=2 if suffix == "jpg" else 0)
    if suffix != "jpg":
        assert np.array_equal(got, SHOWN[orientation](smooth()))
        label = tmp_path / f"label.{suffix}"
        if suffix != "webp":
            Image.fromarray(smooth(1)[..., 0]).save(label, exif=exif)
            assert np.array_equal(read_label(label), SHOWN[orientation](smooth(1)[..., 0]))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_after_the_pixels_and_broken_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, "PNG", exif=exif)
    data, chunks, at = buffer.getvalue(), [], 8
    while at < len(data):
        size = 12 + struct.unpack(">I", data[at : at + 4])[0]
        chunks.append(data[at : at + size])
        at += size
    moved = sorted(chunks[:-1], key=lambda chunk: chunk[4:8] == b"eXIf") + chunks[-1:]
    assert moved != chunks
    (tmp_path / "a.png").write_bytes(data[:8] + b"".join(moved))
    agree(tmp_path / "a.png")

    Image.fromarray(smooth()).save(tmp_path / "b.jpg", exif=b"Exif\0\0MM\0*" + b"\xff" * 30)
    assert inspect_image(tmp_path / "b.jpg").height == H == read_image(tmp_path / "b.jpg").shape[0]


def test_inspect_gives_size_and_digest(tmp_path: Path) -> None:
    Image.fromarray(smooth()).save(tmp_path / "a.png")
    digest = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert inspect_image(tmp_path / "a.png") == ImageInfo(H, W, digest)


def refused(path: Path, *words: str) -> None:
    with pytest.raises(SegalError) as caught:
        inspect_image(path)
    text = str(caught.value)
    assert path.name in text
    for word in (*words, "expected:", "got:", "remedy:"):
        assert word in text


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    buffer, names = io.BytesIO(), {"jpg": "JPEG", "tif": "TIFF"}
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, names.get(suffix, suffix.upper()))
    data = buffer.getvalue()
    (tmp_path / f"a.{suffix}").write_bytes(data[: int(len(data) * kept)])
    refused(tmp_path / f"a.{suffix}")


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("this is text" * 20)
    (tmp_path / "eps.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\nshowpage\n"
    )
    refused(tmp_path / "empty.png", "empty", "0 bytes")
    refused(tmp_path / "text.png", "no image")
    refused(tmp_path / "eps.png", "no image")
    refused(tmp_path / "missing.png", "No such file")


def test_small_and_unsupported_images_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (15, 40)).save(tmp_path / "narrow.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "just.png")
    Image.fromarray(np.zeros((H, W), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(smooth()).convert("LAB").save(tmp_path / "lab.tif")
    refused(tmp_path / "narrow.png", "too small", "40 x 15")
    assert inspect_image(tmp_path / "just.png").height == 16
    refused(tmp_path / "float.tif", "not supported")
    refused(tmp_path / "lab.tif", "not supported")


def png(width: int, height: int, depth: int, rows: bytes) -> bytes:
    """A grey PNG written by hand."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_a_decompression_bomb_is_refused_unopened(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png(60000, 60000, 8, bytes(1000)))
    refused(tmp_path / "bomb.png", "too many pixels")


def test_labels_keep_palette_indices(tmp_path: Path) -> None:
    indices = np.random.default_rng(3).integers(0, 19, (H, W), dtype=np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(np.random.default_rng(4).integers(0, 256, 768).astype(np.uint8).tobytes())
    assert image.mode == "P"
    image.save(tmp_path / "a.png")
    got = read_label(tmp_path / "a.png")
    assert got.dtype == np.uint8
    assert np.array_equal(got, indices)


@pytest.mark.parametrize(("depth", "width"), [(1, 32), (2, 16), (4, 8)])
def test_labels_of_few_bits_keep_their_values(tmp_path: Path, depth: int, width: int) -> None:
    row = bytes([0x01, 0x23, 0xA5, 0xEF])
    (tmp_path / "a.png").write_bytes(png(width, 3, depth, (b"\0" + row) * 3))
    bits = "".join(f"{byte:08b}" for byte in row)
    values = [int(bits[i : i + depth], 2) for i in range(0, 32, depth)]
    assert read_label(tmp_path / "a.png").tolist() == [values] * 3


def test_labels_of_16_bits(tmp_path: Path) -> None:
    values = np.arange(H * W, dtype=np.uint16).reshape(H, W)
    Image.fromarray(values % 256).save(tmp_path / "small.png")
    Image.fromarray(values).save(tmp_path / "large.png")
    assert np.array_equal(read_label(tmp_path / "small.png"), values % 256)
    with pytest.raises(SegalError, match="do not fit 8 bits"):
        read_label(tmp_path / "large.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_coloured_labels_are_refused(tmp_path: Path, mode: str) -> None:
    Image.fromarray(smooth()).convert(mode).save(tmp_path / "a.png")
    with pytest.raises(SegalError, match="no label image"):
        read_label(tmp_path / "a.png")
