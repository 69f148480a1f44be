"""Windows of large TIFF files are what the whole would be, and what lies is told in time."""

import struct
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from segal.candidates.selection import mask_png
from segal.data import images as reading_images
from segal.data import tiff_directories, tiff_segments, windows
from segal.data.image_file import Reading
from segal.data.images import find_no_data, inspect_image, read_image, read_label, read_window
from segal.data.pool import open_pool
from segal.errors import SegalError
from segal.functional.coverage import mask_boxes, remaining_pixels
from tests.large_images import as_large, noise, write

LARGE = as_large()
SMOOTH = cv2.GaussianBlur(noise(150, 211), (0, 0), 4)
KINDS = {
    "tiles": (noise(150, 211), {}),
    "strips": (noise(150, 211), {"rowsperstrip": 17}),
    "BigTIFF, differences": (
        noise(150, 211),
        {"bigtiff": True, "compression": "zlib", "predictor": 2},
    ),
    "LZW strips": (noise(150, 211), {"compression": "lzw", "rowsperstrip": 10}),
    "JPEG": (SMOOTH, {"compression": "jpeg"}),
    "big endian, 16 bits": (noise(150, 211).astype(np.uint16) * 200, {"byteorder": ">"}),
    "planar": (np.moveaxis(noise(150, 211), 2, 0), {"planarconfig": "separate"}),
    "grey": (noise(150, 211)[..., 0].astype(np.uint16) * 201, {"compression": "zlib"}),
    "white is zero": (noise(150, 211)[..., 0], {"photometric": "miniswhite"}),
    "alpha": (noise(150, 211, 4), {"extrasamples": ["unassalpha"]}),
    "turned": (noise(150, 211), {"extratags": [(274, "H", 1, 6, True)]}),
    "mirrored": (noise(150, 211), {"extratags": [(274, "H", 1, 7, True)]}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_windows_are_cut_out_of_the_whole(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("imagecodecs")
    pixels, options = KINDS[kind]
    path = write(tmp_path / "a.tif", pixels, **options)
    assert inspect_image(path, LARGE) == inspect_image(path)
    whole = read_image(path)
    height, width = whole.shape[:2]
    for box in ((0, 0, width, height), (5, 7, 100, 90), (63, 64, width, height), (63, 0, 66, 64)):
        x0, y0, x1, y1 = box
        shown = read_window(path, box, LARGE)
        assert shown.dtype == whole.dtype
        np.testing.assert_array_equal(shown, whole[y0:y1, x0:x1])


def test_bands_are_chosen_of_windows(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.tif", noise(80, 90, 5), photometric="minisblack", planarconfig="contig"
    )
    reading = Reading(bands=(5, 2), large=LARGE.large)
    whole = read_image(path, Reading(bands=(5, 2)))
    np.testing.assert_array_equal(read_window(path, (10, 20, 70, 75), reading), whole[20:75, 10:70])


def test_nothing_but_the_window_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tif", noise(640, 640), compression="zlib")
    decoded = []
    decode = tiff_segments.SegmentedPage._decode
    monkeypatch.setattr(
        tiff_segments.SegmentedPage,
        "_decode",
        lambda page, index, data: decoded.append(index) or decode(page, index, data),
    )
    read_window(path, (70, 70, 120, 120), LARGE)
    assert decoded == [11]


def test_other_large_files_are_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), noise(150, 211))
    whole, decoded = read_image(path), []
    monkeypatch.setattr(
        reading_images, "read_image", lambda *given: decoded.append(given) or read_image(*given)
    )
    for box in ((0, 0, 100, 100), (50, 60, 211, 150)):
        x0, y0, x1, y1 = box
        np.testing.assert_array_equal(read_window(path, box, LARGE), whole[y0:y1, x0:x1])
    assert len(decoded) == 1


def test_a_large_label_is_read_in_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = noise(150, 211)[..., 0] % 7
    path = write(tmp_path / "a.tif", values, compression="zlib")
    shown = windows.open_label_windows(path, LARGE)
    assert shown is not None
    np.testing.assert_array_equal(shown.label((11, 20, 200, 140)), values[20:140, 11:200])
    monkeypatch.setattr(reading_images, "RGB", LARGE)
    np.testing.assert_array_equal(read_label(path), values)
    assert windows.open_label_windows(path, Reading()) is None


def _flags(rows: int, columns: int) -> np.ndarray:
    shown = np.ones((rows, columns), bool)
    shown[20:70, 30:160] = False
    y, x = np.mgrid[:rows, :columns]
    shown[x + y < 40] = False
    return shown


def _covered(boxes: tuple[tuple[int, int, int, int], ...], shape: tuple[int, int]) -> np.ndarray:
    found = np.zeros(shape, int)
    for x0, y0, x1, y1 in boxes:
        found[y0:y1, x0:x1] += 1
    assert found.max(initial=0) <= 1
    return found > 0


@pytest.mark.parametrize("by", ["alpha", "value", "page", "file", "turned"])
def test_what_has_no_data_is_found(tmp_path: Path, by: str) -> None:
    pytest.importorskip("imagecodecs")
    shown, path = _flags(150, 211), tmp_path / "a.tif"
    pixels = noise(150, 211)
    if by in {"alpha", "turned"}:
        pixels = np.dstack([pixels, np.where(shown, 255, 0).astype(np.uint8)])
        more = [(274, "H", 1, 8, True)] if by == "turned" else []
        write(path, pixels, extrasamples=["unassalpha"], extratags=more)
    elif by == "value":
        pixels[~shown] = 7
        pixels[0, 200, 0] = 7  # in one band only
        write(path, pixels, compression="zlib", extratags=[(42113, "s", 0, "7", True)])
    elif by == "page":
        with tifffile.TiffWriter(path) as file:
            file.write(pixels, tile=(64, 64), photometric="rgb")
            file.write(shown, tile=(64, 64), subfiletype=4, photometric="minisblack")
    else:
        write(path, pixels)
        write(tmp_path / "a.tif.msk", shown.astype(np.uint8), compression="zlib")
    if by == "turned":
        shown = shown.T[::-1]
    np.testing.assert_array_equal(_covered(find_no_data(path, LARGE), shown.shape), ~shown)
    pool = open_pool(tmp_path, reading=LARGE)
    if by == "file":  # which is of the image: another mask makes it another one
        digest = pool.infos[0].digest
        write(tmp_path / "a.tif.msk", (~shown).astype(np.uint8))
        assert inspect_image(path, LARGE).digest != digest
        again = open_pool(tmp_path, known=known(pool), reading=LARGE)
        assert again.infos[0].digest != digest
    assert list(pool.no_data()) == ["a.tif"]
    assert open_pool(tmp_path, reading=as_large(no_data="none")).no_data() == {}
    assert open_pool(tmp_path).no_data() == {}  # none of its images is large


def known(pool):
    """What a run remembers of its images."""
    found = zip(pool.paths, pool.stats, pool.infos, strict=True)
    return {path: (*stats, info) for path, stats, info in found}


def test_a_mask_lies_where_its_image_does(tmp_path: Path) -> None:
    images, others = tmp_path / "images", tmp_path / "others"
    for folder in (images, others):
        folder.mkdir()
        write(folder / "mask.tif", _flags(150, 211).astype(np.uint8))
        write(images / f"of {folder.name}.tif", noise(150, 211))
        (images / f"of {folder.name}.tif.msk").symlink_to(folder / "mask.tif")
    assert find_no_data(images / "of images.tif", LARGE)
    with pytest.raises(SegalError, match="this mask leads out of the folder"):
        find_no_data(images / "of others.tif", LARGE)


def test_parts_without_data_of_small_images_where_that_is_asked_for(tmp_path: Path) -> None:
    shown = _flags(150, 211)
    alpha = np.where(shown, 255, 0).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([noise(150, 211), alpha]))
    cv2.imwrite(str(tmp_path / "b.png"), noise(150, 211))
    found = open_pool(tmp_path, reading=as_large(no_data="all")).no_data()
    assert list(found) == ["a.png"]
    np.testing.assert_array_equal(_covered(found["a.png"], shown.shape), ~shown)


def test_speckle_is_taken_in_blocks_of_which_none_has_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_MAX_BOXES", 50)
    shown = np.random.default_rng(0).random((300, 211)) < 0.5
    shown[100:200, 50:180] = False
    alpha = np.where(shown, 255, 0).astype(np.uint8)
    pixels = np.dstack([noise(300, 211), alpha])
    path = write(tmp_path / "a.tif", pixels, extrasamples=["unassalpha"])
    boxes = find_no_data(path, LARGE)
    covered = _covered(boxes, shown.shape)
    assert 0 < len(boxes) <= 50
    assert not (covered & shown).any()
    assert covered[104:196, 56:176].all()


def test_damage_and_lies_are_told(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    path = write(tmp_path / "a.tif", noise(150, 211), compression="zlib")
    data = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        offsets, counts = page.dataoffsets, page.databytecounts
        at = page.tags["TileByteCounts"]
        entry = at.offset
    broken = bytearray(data)
    broken[offsets[5] + 20 : offsets[5] + 60] = bytes(40)
    plenty = bytearray(data)
    plenty[entry + 4 : entry + 8] = struct.pack("<I", 2**30)
    short = data[: max(o + c for o, c in zip(offsets, counts, strict=True)) - 100]
    for case, expected in ((broken, "damaged"), (plenty, ""), (short, "")):
        (tmp_path / "b.tif").write_bytes(case)
        with pytest.raises(SegalError) as caught:
            inspect_image(tmp_path / "b.tif", LARGE)
        assert expected in str(caught.value)
    # A JPEG that says it is larger than the tile that it is in is not decoded.
    jpeg = write(tmp_path / "c.tif", SMOOTH, compression="jpeg")
    larger = cv2.imencode(".jpg", cv2.resize(SMOOTH, (640, 640)))[1].tobytes()
    with tifffile.TiffFile(jpeg) as file:
        tags = file.pages.first.tags
        offset, count = tags["TileOffsets"].valueoffset, tags["TileByteCounts"].valueoffset
    lying = bytearray(jpeg.read_bytes() + larger)
    size = jpeg.stat().st_size
    lying[offset : offset + 4] = struct.pack("<I", size)
    lying[count : count + 4] = struct.pack("<I", len(larger))
    jpeg.write_bytes(lying)
    with pytest.raises(SegalError, match="larger than its strip or tile"):
        inspect_image(jpeg, LARGE)


def test_one_compressed_strip_that_is_too_large_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.tif", noise(150, 211), compression="zlib", rowsperstrip=150)
    monkeypatch.setattr(tiff_segments, "_MAX_SEGMENT", 1000)
    assert inspect_image(path, LARGE).height == 150  # small enough to be decoded as a whole
    monkeypatch.setattr(windows, "MAX_PIXELS", 1000)
    windows._opened.cache_clear()
    with pytest.raises(SegalError, match="has no tiles"):
        inspect_image(path, LARGE)
    windows._opened.cache_clear()


def test_masks_in_bands_are_those_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, bought = [(0, 0, 50, 300), (100, 200, 400, 550)], [(120, 10, 300, 260)]
    whole = mask_png((600, 433), boxes, bought)
    monkeypatch.setattr("segal.candidates.selection._AS_A_WHOLE", 1000)
    banded = mask_png((600, 433), boxes, bought)
    assert banded != whole
    shown = [cv2.imdecode(np.frombuffer(x, np.uint8), -1) for x in (whole, banded)]
    assert shown[1].shape == (600, 433)
    np.testing.assert_array_equal(*shown)


def test_areas_beside_very_many_boxes() -> None:
    """The plane is divided where the boxes' edges make too many cells; the areas stay exact."""
    mask = np.random.default_rng(0).random((90, 120)) < 0.4
    taken = mask_boxes(mask)
    assert len(taken) > 512
    boxes = [(x, y, min(x + 37, 120), min(y + 29, 90)) for y in (0, 11, 58) for x in (0, 33, 100)]
    expected = [int((~mask[y0:y1, x0:x1]).sum()) for x0, y0, x1, y1 in boxes]
    assert remaining_pixels(boxes, taken).tolist() == expected


@pytest.mark.parametrize("big", [False, True])
def test_directories_that_say_too_much_are_refused_before_they_are_loaded(
    tmp_path: Path, big: bool
) -> None:
    path = write(tmp_path / "a.tif", noise(150, 211), bigtiff=big)
    with tifffile.TiffFile(path) as file:
        entry, size = file.pages.first.tags["TileOffsets"].offset, path.stat().st_size
    count, form = slice(entry + 4, entry + (12 if big else 8)), "<Q" if big else "<I"
    for number, much in ((12, False), (2**22 + 1, True), (2**31, True)):
        data = bytearray(path.read_bytes())
        data[count] = struct.pack(form, number)
        path.write_bytes(data)
        with path.open("rb") as file:
            assert tiff_directories.say_too_much(file, size) is much
    for reading in (LARGE, Reading()):
        with pytest.raises(SegalError, match="say too much"):
            inspect_image(path, reading)
        with pytest.raises(SegalError):
            inspect_image(_as_file(tmp_path / "b.tif", data[: entry - 1]), reading)


def test_many_directories_may_not_name_one_array_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for _ in range(3):
            file.write(noise(150, 211), tile=(64, 64))
    page = Reading(page=1)
    assert inspect_image(tmp_path / "a.tif", page).height == 150
    monkeypatch.setattr(tiff_directories, "_MAX_ALL", 100)  # two arrays of 12 in each, and others
    with pytest.raises(SegalError, match="say too much"):
        inspect_image(tmp_path / "a.tif", page)


def _as_file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_what_is_left_out_of_a_file_takes_no_memory(tmp_path: Path) -> None:
    """Strips of no bytes are filled in the window alone, whatever they would hold."""
    path = write(tmp_path / "a.tif", noise(150, 211)[..., 0], rowsperstrip=150, tile=None)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        places = {name: tags[name].valueoffset for name in ("ImageLength", "ImageWidth")}
        places |= {name: tags[name].valueoffset for name in ("RowsPerStrip", "StripByteCounts")}
        forms = {name: "<I" if tags[name].dtype == 4 else "<H" for name in places}
    huge = {"ImageLength": 60_000, "ImageWidth": 60_000, "RowsPerStrip": 60_000}
    for name, value in {**huge, "StripByteCounts": 0}.items():
        struct.pack_into(forms[name], data, places[name], value)
    path.write_bytes(data)
    assert inspect_image(path).width == 60_000
    tracemalloc.start()
    shown = read_window(path, (59_000, 59_000, 59_016, 59_020))
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert shown.shape == (20, 16, 3)
    assert not shown.any()


@pytest.mark.parametrize("reading", [LARGE, Reading()])
def test_tiles_that_reach_far_beyond_an_image_are_refused(
    tmp_path: Path, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segal.data.tiff._ROOM", 2**20)
    path = write(tmp_path / "a.tif", noise(160, 160), tile=(16, 256), compression="zlib")
    assert inspect_image(path, reading).width == 160
    path = write(tmp_path / "a.tif", noise(320, 32), tile=(16, 4096), compression="zlib")
    with pytest.raises(SegalError, match="tiles that hold at most 16 times"):
        inspect_image(path, reading)


def test_large_labels_of_other_kinds_are_read_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey = np.repeat(noise(150, 211)[..., :1] % 7, 3, 2)
    path = write(tmp_path / "a.tif", grey)
    assert windows.open_label_windows(path, LARGE) is None
    monkeypatch.setattr(reading_images, "RGB", LARGE)
    np.testing.assert_array_equal(read_label(path), grey[..., 0])
    monkeypatch.setattr(windows, "MAX_PIXELS", 1000)
    with pytest.raises(SegalError, match="one band of 8 bits"):
        windows.open_label_windows(path, LARGE)
