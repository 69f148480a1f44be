"""Pictures of boxes."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from segal.candidates.selection import Selected
from segal.data.pool import open_pool
from segal.pictures.overlays import Pick
from segal.tasks.classes import ClassNames
from segal.tasks.detection.drawing import Scene, Seen, draw_picked_boxes, draw_scene
from segal.tasks.detection.evaluation import Found
from segal.tasks.detection.objects import Objects
from segal.tasks.drawing import Drawn
from tests.conftest import write_image

CLASSES = ClassNames(("cell", "rod"))
IMAGE = np.full((200, 300, 3), 120, np.uint8)
WHOLE = ((0, 0, 300, 200),)


def found(rows):
    boxes = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
    classes = np.array([row[4] for row in rows], np.int64)
    return Found(boxes, classes, np.array([row[5] for row in rows], np.float32))


def coloured(picture, number):
    return int((np.abs(picture.astype(int) - CLASSES.palette[number]).max(2) < 8).sum())


SEEN = Seen(found([(20, 20, 120, 120, 0, 0.9), (150, 50, 250, 150, 1, 0.1)]))
THERE = Objects(np.array([[22.0, 20, 118, 122]]), np.zeros(1, int), np.zeros(1, bool), WHOLE)


def test_boxes_have_the_colours_of_their_classes():
    picture = draw_scene(Scene("a", IMAGE, SEEN), CLASSES)
    assert picture.dtype == np.uint8
    assert coloured(picture, 0) > 500
    assert coloured(picture, 1) == 0  # its score is low


def test_what_made_an_image_interesting_is_drawn_whatever_its_score():
    interest = np.array([0.1, 0.9])
    picture = draw_scene(Scene("a", IMAGE, replace(SEEN, interest=interest)), CLASSES)
    assert coloured(picture, 1) > 500


@pytest.mark.parametrize(("objects", "rows"), [(None, 2), (THERE, 3)])
def test_maps_lie_over_the_image_in_panels_of_their_own(objects, rows):
    ramp = np.broadcast_to(np.linspace(0, 0.25, 300, dtype=np.float32), (200, 300))
    maps = {"one": ramp, "other": ramp[:, ::-1], "none": ramp * 0}
    row = draw_scene(Scene("a", IMAGE, SEEN, THERE), CLASSES)
    picture = draw_scene(Scene("a", IMAGE, replace(SEEN, heat=maps), objects), CLASSES)
    assert picture.shape[1] == row.shape[1]
    step = (picture.shape[0] - row.shape[0]) / (rows - 1)
    assert 400 < step < 500  # a panel and its caption
    middle = picture[round(row.shape[0] - 80 + step / 2)].mean(1)[: picture.shape[1] // 2]
    left, right = middle[60:90].mean(), middle[-90:-60].mean()
    assert (right > left + 50) if objects is THERE else (left > right + 50)


def test_what_is_not_known_has_no_panel():
    alone = draw_scene(Scene("a", IMAGE, SEEN), CLASSES)
    beside = draw_scene(Scene("a", IMAGE, SEEN, THERE), CLASSES)
    unknown = draw_scene(Scene("a", IMAGE, SEEN, replace(THERE, known=())), CLASSES)
    assert np.array_equal(alone, unknown)
    assert coloured(beside, 0) > coloured(alone, 0) / 3
    assert beside.shape != alone.shape


def test_a_picked_tile_is_outlined_and_a_whole_image_is_not():
    def drawn(box):
        return draw_scene(Scene("a", IMAGE, SEEN, None, [Pick(1, box, 0.5)]), CLASSES)

    white = [(drawn(box)[100:] > 250).all(2).sum() for box in (WHOLE[0], (0, 0, 150, 200))]
    assert white[1] > white[0] + 200


@pytest.mark.parametrize("shape", [(20, 400), (400, 20), (8, 8)])
@pytest.mark.parametrize("count", [0, 300])
def test_any_shape_and_any_number_of_boxes(shape, count):
    rng = np.random.default_rng(0)
    near = rng.uniform(0, np.array(shape[::-1]) - 2, (count, 2))
    rows = [(x, y, x + 1, y + 1, i % 2, 0.9) for i, (x, y) in enumerate(near)]
    image = np.zeros((*shape, 3), np.uint8)
    known = Objects.none([(0, 0, shape[1], shape[0])])
    picture = draw_scene(Scene("a$b\n", image, Seen(found(rows)), known), CLASSES)
    assert picture.shape[1] <= 1400


def test_pictures_of_picks_are_named_by_rank(tmp_path):
    for seed, name in enumerate("abc"):
        write_image(tmp_path / "images" / f"{name} x.png", 60, 90, seed)
    pool = open_pool(tmp_path / "images")
    picks = [
        Selected(1, "c x.png", (0, 0, 90, 60), 5400, 0.9),
        Selected(2, "a x.png", (0, 0, 90, 60), 5400, 0.8),
        Selected(3, "b x.png", (0, 0, 90, 60), 5400, 0.7),
    ]
    drawn = Drawn(pool, None, None, {}, "fp32", label=lambda path: THERE)
    asked, steps = [], []

    def find(index):
        asked.append(pool.paths[index])
        return SEEN

    files = draw_picked_boxes(
        tmp_path / "out", picks, 2, drawn, lambda *s: steps.append(s), classes=CLASSES, find=find
    )
    assert [file.name for file in files] == ["0001_c_x.png", "0002_a_x.png"]
    assert asked == ["c x.png", "a x.png"]
    assert steps == [(1, 2), (2, 2)]
    assert all(cv2.imread(str(file)) is not None for file in files)
