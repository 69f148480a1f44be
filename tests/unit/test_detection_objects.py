"""Objects of an image: which tile holds them, and what they cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segal.candidates.regions import RegionSize
from segal.functional.labels import count_labelled, drop_regions, keep_regions
from segal.tasks.detection.costs import bought
from segal.tasks.detection.objects import Objects

WHOLE = ((0, 0, 100, 80),)


def objects(boxes, known=WHOLE):
    boxes = np.array(boxes, float).reshape(-1, 4)
    classes = np.arange(len(boxes))
    return Objects(boxes, classes, classes % 2 == 1, known)


def tiles(height, width, size):
    grid = RegionSize.parse(size).grid(height, width)
    return [(x0, y0, x1, y1) for y0, y1 in grid.rows for x0, x1 in grid.columns]


@given(st.integers(0, 2**32 - 1), st.sampled_from(["image", "16", "7x31", "80x100"]))
def test_a_box_is_in_exactly_one_tile(seed, size):
    rng = np.random.default_rng(seed)
    near = rng.uniform(0, [90, 70], (20, 2)).round(rng.integers(0, 3))
    one = objects(np.hstack([near, near + rng.integers(1, 10, (20, 2))]))
    held = np.array([one.inside([tile]) for tile in tiles(80, 100, size)])
    assert (held.sum(0) == 1).all()
    assert one.inside(tiles(80, 100, size)).all()


def test_a_centre_on_an_edge_is_in_the_tile_that_begins_there():
    one = objects([(40, 0, 60, 20)])
    assert not one.inside([(0, 0, 50, 80)]).any()
    assert one.inside([(50, 0, 100, 80)]).all()


def test_the_thinnest_box_at_the_far_edge_is_in_the_image():
    one = objects([(np.nextafter(100, 0), np.nextafter(80, 0), 100, 80)])
    assert one.inside(WHOLE).all()


def test_keeping_a_tile_keeps_its_objects_in_order():
    one = objects([(60, 10, 70, 20), (0, 0, 10, 10), (55, 0, 61, 4)])
    kept = one.keep([(50, 0, 100, 80)])
    assert kept.classes.tolist() == [0, 2]
    assert np.array_equal(kept.boxes, one.boxes[[0, 2]])
    assert kept.crowd.tolist() == [False, False]
    assert kept.known == ((50, 0, 100, 80),)


def test_nothing_is_kept_of_what_is_not_known():
    part = objects([(0, 0, 10, 10)], known=((0, 0, 50, 80),))
    assert part.keep([(50, 0, 100, 80)]).known == ()
    both = part.keep([(40, 40, 60, 60), (45, 0, 50, 20)])
    assert both.known == ((40, 40, 50, 60), (45, 0, 50, 20))
    assert len(both) == 0
    assert len(Objects.none().keep(WHOLE)) == 0
    assert Objects.none(WHOLE).keep(WHOLE).known == WHOLE


def test_arrays_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match=r"\(n, 4\)"):
        Objects(np.zeros((2, 4)), np.zeros(1, int), np.zeros(1, bool), ())


def test_a_box_is_paid_for_where_its_centre_lies():
    one = objects([(0, 0, 10, 10), (60, 0, 70, 10), (61, 0, 71, 10)])
    halves = [(0, 0, 50, 80), (50, 0, 100, 80)]
    assert bought(one, halves, []) == [1, 2]
    assert bought(one, [(0, 40, 50, 80)], []) == [0]
    assert bought(Objects.none(WHOLE), list(WHOLE), []) == [0]


def test_what_was_bought_costs_nothing_again():
    one = objects([(0, 0, 10, 10), (60, 0, 70, 10), (61, 0, 71, 10)])
    assert bought(one, [*WHOLE], [(50, 0, 100, 80)]) == [1]
    assert bought(one, [(0, 0, 65, 80), (0, 0, 100, 80)], []) == [1, 2]
    assert bought(one, [(0, 0, 100, 80), (0, 0, 100, 80)], []) == [3, 0]


@given(st.integers(0, 2**32 - 1))
def test_tiles_cost_together_what_the_image_costs(seed):
    rng = np.random.default_rng(seed)
    near = rng.uniform(0, [90, 70], (30, 2))
    one = objects(np.hstack([near, near + rng.uniform(1, 10, (30, 2))]))
    parts = tiles(80, 100, "32")
    before = [tile for tile in parts if rng.random() < 0.3]
    assert sum(bought(one, parts, [])) == 30
    assert sum(bought(one, parts, before)) == sum(bought(one, list(WHOLE), before))


@given(st.integers(0, 2**32 - 1))
def test_what_is_kept_and_dropped_is_what_a_mask_of_pixels_says(seed):
    rng = np.random.default_rng(seed)

    def rectangles(count):
        near = rng.integers(0, [90, 70], (count, 2))
        far = np.minimum(near + rng.integers(1, 60, (count, 2)), [100, 80])
        return [tuple(map(int, box)) for box in np.hstack([near, far])]

    def painted(boxes, value=True, onto=None):
        mask = np.zeros((80, 100), bool) if onto is None else onto.copy()
        for x0, y0, x1, y1 in boxes:
            mask[y0:y1, x0:x1] = value
        return mask

    near = rng.integers(0, [90, 70], (30, 2)).astype(float)
    one = objects(np.hstack([near, near + rng.integers(1, 10, (30, 2))]), tuple(rectangles(2)))
    kept, dropped = rectangles(3), rectangles(2)
    known = painted(one.known) & painted(kept)
    left = painted(dropped, False, known)
    label = drop_regions(keep_regions(one, kept), dropped)
    assert np.array_equal(painted(label.known), left)
    assert count_labelled(label) == left.sum()
    x, y = one.centres.T.astype(int)
    assert np.array_equal(label.boxes, one.boxes[left[y, x]])
