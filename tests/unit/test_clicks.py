"""Polygon clicks: what is refused, and what comes back."""

import numpy as np
import pytest

from segal.functional.clicks import polygon_clicks

LABEL = np.zeros((6, 8), np.uint8)


def test_it_gives_a_whole_number_for_every_box():
    found = polygon_clicks(LABEL, np.array([[0, 0, 8, 6], [0, 0, 1, 1]], np.int32))
    assert found.dtype == np.int64 and found.tolist() == [1, 1]
    for nothing in ([], np.zeros((0, 4), np.int64)):
        assert polygon_clicks(LABEL, nothing).shape == (0,)
        assert polygon_clicks(LABEL, nothing).dtype == np.int64
        assert polygon_clicks(LABEL, [(0, 0, 8, 6)], nothing).tolist() == [1]


def test_the_label_map_is_left_as_it_is():
    label = np.random.default_rng(0).integers(0, 3, (20, 30)).astype(np.uint8)
    before = label.copy()
    label.setflags(write=False)
    first = polygon_clicks(label, [(0, 0, 30, 20), (3, 4, 20, 10)], [(5, 5, 9, 9)])
    assert (label == before).all()
    assert (first == polygon_clicks(label, [(0, 0, 30, 20), (3, 4, 20, 10)], [(5, 5, 9, 9)])).all()


@pytest.mark.parametrize(
    ("label", "boxes", "named", "match"),
    [
        (LABEL.astype(np.int64), [(0, 0, 1, 1)], {}, "label.*uint8.*int64"),
        (LABEL[None], [(0, 0, 1, 1)], {}, r"label.*\(H, W\).*\(1, 6, 8\)"),
        (LABEL[:0], [(0, 0, 1, 1)], {}, "label"),
        (LABEL, [(0, 0, 9, 6)], {}, "boxes.*within 8 x 6"),
        (LABEL, [(0, 0, 8, 7)], {}, "boxes.*within 8 x 6"),
        (LABEL, [(-1, 0, 8, 6)], {}, "boxes.*within 8 x 6"),
        (LABEL, [(2, 0, 2, 6)], {}, "boxes: expected x0 < x1"),
        (LABEL, [(0, 5, 2, 4)], {}, "boxes: expected x0 < x1"),
        (LABEL, [(0.0, 0.0, 2.0, 2.0)], {}, "boxes.*float64"),
        (LABEL, (0, 0, 2, 2), {}, r"boxes.*\(4,\)"),
        (LABEL, [(0, 0, 2, 2)], {"bought": [(0, 0, 9, 2)]}, "bought.*within 8 x 6"),
        (LABEL, [(0, 0, 2, 2)], {"epsilon": -0.1}, "epsilon"),
        (LABEL, [(0, 0, 2, 2)], {"epsilon": float("nan")}, "epsilon"),
        (LABEL, [(0, 0, 2, 2)], {"epsilon": float("inf")}, "epsilon"),
    ],
)
def test_a_wrong_argument_is_named(label, boxes, named, match):
    with pytest.raises(ValueError, match=match):
        polygon_clicks(label, boxes, **named)
