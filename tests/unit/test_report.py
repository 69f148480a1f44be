"""Overlays: what they show is where it should be, and legible."""

from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.text import Text

from segal.pictures import overlays as report
from segal.pictures.overlays import Pick, Picture, overlay, shown_bands, write_overlays
from segal.pictures.sheet import Sheet, panel_size

_CYAN = np.array([0x21, 0xE6, 0xFF])


def _image(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), (200, 60, 20), np.uint8)


def _map(height: int, width: int, high: float = 1.0) -> np.ndarray:
    return np.linspace(0, high, height * width, dtype=np.float32).reshape(height, width)


def _left_panel(drawn: np.ndarray, height: int, width: int, panels: int = 2) -> np.ndarray:
    sheet = Sheet(height, width, panels)
    x, y = sheet._corner(0)
    return drawn[y : y + sheet.panel_height, x : x + sheet.panel_width].astype(int)


@pytest.mark.parametrize(
    "size",
    [
        *((96, 128), (360, 480), (900, 400), (17, 1999)),
        *(
            pytest.param(size, marks=pytest.mark.slow)
            for size in ((720, 1280), (1024, 2048), (1000, 1801))
        ),
    ],
)
@pytest.mark.parametrize("has_map", [True, False])
def test_every_shape_of_image_gives_a_picture_that_fits_a_screen(size, has_map):
    drawn = overlay(
        _image(*size),
        [Pick(1, (0, 0, size[1] // 2, size[0] // 2), 0.5)],
        uncertainty=_map(*size) if has_map else None,
    )
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3
    assert 700 <= drawn.shape[1] <= 1400 and drawn.shape[0] <= 1600
    shown = panel_size(*size, 2 if has_map else 1)
    assert shown[1] / shown[0] == pytest.approx(size[1] / size[0], rel=0.1)
    assert min(shown[1] / 600, shown[0] / 300) > 1 or max(shown) > 800


def test_a_picked_region_keeps_its_colours_and_the_rest_is_paler():
    height, width, box = 100, 120, (40, 20, 80, 60)
    drawn = overlay(_image(height, width), [Pick(1, box, 0.5)], uncertainty=_map(height, width))
    panel = _left_panel(drawn, height, width)
    scale = panel.shape[1] / width
    inside = panel[int(45 * scale), int(65 * scale)]
    outside = panel[int(90 * scale), int(10 * scale)]
    assert inside.tolist() == [200, 60, 20]
    assert np.ptp(outside) < np.ptp(inside) / 2


def test_the_outline_runs_along_the_inside_of_the_box():
    height, width, box = 100, 120, (40, 20, 80, 60)
    drawn = overlay(_image(height, width), [Pick(1, box, 0.5)], uncertainty=_map(height, width))
    panel = _left_panel(drawn, height, width)
    rows, columns = np.nonzero((abs(panel - _CYAN) < 10).all(2))
    scale = panel.shape[1] / width
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    inner = [box[0] * scale, box[1] * scale, box[2] * scale, box[3] * scale]
    assert np.abs(np.subtract(found, inner)).max() < 4
    assert found[0] >= inner[0] and found[2] <= inner[2]


def test_bought_regions_are_hatched():
    image = _image(100, 120)
    plain, hatched = (
        _left_panel(overlay(image, [Pick(1, (0, 0, 20, 20), 1)], bought=b), 100, 120, panels=1)
        for b in ([], [(60, 60, 120, 100)])
    )
    half = plain.shape[0] * 60 // 100
    changed = (plain != hatched).any(2)
    assert changed[half + 2 :, half + 2 :].all()
    assert len(np.unique(hatched[half + 2 :, half + 2 :].reshape(-1, 3), axis=0)) > 5  # lines
    assert not changed[: half - 2].any()


def test_sixteen_bit_images_come_as_fractions():
    image = _image(40, 60)
    picks = [Pick(1, (0, 0, 30, 30), 1.0)]
    assert np.array_equal(overlay(image, picks), overlay(image.astype(np.float32) / 255, picks))


def test_the_same_input_gives_the_same_picture_whatever_the_users_style():
    arguments = {"uncertainty": _map(40, 60), "title": "a_{b}$c$ \n\0 日本.png"}
    first = overlay(_image(40, 60), [Pick(7, (0, 0, 30, 30), 1.0)], **arguments)
    with mpl.rc_context({"text.usetex": True, "savefig.dpi": 300, "font.size": 40}):
        again = overlay(_image(40, 60), [Pick(7, (0, 0, 30, 30), 1.0)], **arguments)
    assert np.array_equal(first, again)


@pytest.mark.parametrize("side", [128, 64, 32, 16])
def test_numbers_never_overlap_and_stay_in_the_panel(monkeypatch, side):
    placed: list[Text] = []

    def keep(axes, picks, panels):
        left_out = number(axes, picks, panels)
        placed[:] = axes.texts
        bounds.append(axes.bbox)
        assert left_out == len(picks) - len(placed)
        return left_out

    number, bounds = report._number, []
    monkeypatch.setattr(report, "_number", keep)
    generator = np.random.default_rng(side)
    cells = generator.permutation((512 // side) * (1024 // side))[:60]
    corners = [(int(c % (1024 // side)) * side, int(c // (1024 // side)) * side) for c in cells]
    picks = [
        Pick(int(rank), (x, y, x + side, y + side), 0.1)
        for rank, (x, y) in zip(generator.permutation(9000)[: len(corners)], corners, strict=True)
    ]
    overlay(_image(512, 1024), picks, uncertainty=_map(512, 1024))
    extents = [text.get_window_extent() for text in placed]
    assert len(extents) == len(picks) if side >= 64 else len(extents) > len(picks) / 8
    for i, one in enumerate(extents):
        assert bounds[0].x0 <= one.x0 or bounds[1].x0 <= one.x0
        assert not any(one.overlaps(other) for other in extents[:i])
    assert min(text.get_size() for text in placed) * 64 / 72 >= 10  # pixels


def test_a_long_title_keeps_within_the_picture():
    drawn = overlay(_image(90, 60), [], title="W" * 500)
    assert (drawn[:, -10:] == 255).all()
    assert (drawn[:30] < 128).any()


def test_a_map_that_is_flat_or_negative_is_drawn():
    for value in (0.0, -3.0, 2.0):
        overlay(_image(20, 20), [], uncertainty=np.full((20, 20), value))


@pytest.mark.parametrize(
    ("image", "uncertainty"),
    [(np.zeros((4, 4)), None), (np.zeros((4, 4, 4), np.uint8), None), (_image(4, 4), _map(4, 5))],
)
def test_other_shapes_are_refused(image, uncertainty):
    with pytest.raises(ValueError, match="expected"):
        overlay(image, [], uncertainty=uncertainty)


# Files


def _picture(image: str, rank: int, high: float = 1.0) -> Picture:
    picks = [Pick(rank + 5, (0, 0, 16, 16), 0.1), Pick(rank, (16, 0, 32, 16), 0.2)]
    return Picture(image, picks, lambda: (_image(48, 64), _map(48, 64, high)))


def test_files_sort_by_best_rank_and_stay_in_the_folder(tmp_path):
    pictures = [
        _picture("../../evil/../x.png", 30),
        _picture("b/ü ? *.jpg", 2),
        _picture("a/" + "n" * 250 + ".png", 117),
    ]
    files = write_overlays(tmp_path / "overlays", pictures)
    assert [f.name[:5] for f in files] == ["0002_", "0030_", "0117_"]
    assert files == sorted(files) == sorted((tmp_path / "overlays").iterdir())
    assert all(len(f.name) < 100 for f in files)
    assert [p.name for p in tmp_path.iterdir()] == ["overlays"]
    wide = write_overlays(tmp_path / "overlays", [_picture("a.png", 12345), _picture("b.png", 9)])
    assert [f.name for f in wide] == ["00009_b.png", "12345_a.png"]
    assert wide == sorted((tmp_path / "overlays").iterdir())


def test_all_files_of_a_selection_share_one_colour_scale(tmp_path):
    dim, bright = _picture("dim.png", 1, 0.5), _picture("bright.png", 2, 1.0)
    together = write_overlays(tmp_path / "a", [dim, bright])
    alone = write_overlays(tmp_path / "b", [dim])
    given = write_overlays(tmp_path / "c", [dim], value_range=(0.0, 0.5))
    sheet = Sheet(48, 64, 2)
    x, y = sheet._corner(1)

    def lightest(path: Path) -> int:
        panel = cv2.imread(str(path))[y + 200 : y + sheet.panel_height, x : x + sheet.panel_width]
        return int(panel.sum(2).max())

    assert lightest(together[1]) == lightest(alone[0]) == lightest(given[0])
    assert lightest(together[0]) < 0.8 * lightest(together[1])


def test_pictures_without_a_map(tmp_path):
    picture = Picture("a.png", [Pick(1, (0, 0, 9, 9), 0.0)], lambda: (_image(20, 20), None))
    (file,) = write_overlays(tmp_path / "overlays", [picture])
    assert cv2.imread(str(file)).shape[2] == 3
    assert write_overlays(tmp_path / "overlays", []) == []
    assert list((tmp_path / "overlays").iterdir()) == []


def test_three_of_many_bands_are_shown():
    rng = np.random.default_rng(0)
    bands = rng.integers(0, 256, (40, 50, 5), dtype=np.uint8)
    assert np.array_equal(shown_bands(bands), bands[..., :3])
    for count in (1, 2):
        grey = shown_bands(bands[..., :count])
        assert np.array_equal(grey, np.repeat(bands[..., :1], 3, 2))
    dark = (bands / 255 * [0.1, 0.2, 0.3, 1, 1]).astype(np.float32)
    assert shown_bands(dark).max() == round(0.3 * 255)
    stretched = shown_bands(dark, stretched=True)
    assert stretched.max((0, 1)).tolist() == [255] * 3
    assert stretched.min((0, 1)).tolist() == [0] * 3
    middle = np.median(stretched, (0, 1))
    assert (np.abs(middle - 127) < 12).all()
    assert shown_bands(np.full((4, 4, 4), 0.5, np.float32), stretched=True).max() == 0
