"""Remaining pixels against painting every pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segal.functional.coverage import remaining_pixels

_SIDE = 24


@st.composite
def _box(draw: st.DrawFn) -> tuple[int, int, int, int]:
    x0, y0 = draw(st.integers(0, _SIDE - 1)), draw(st.integers(0, _SIDE - 1))
    return x0, y0, draw(st.integers(x0 + 1, _SIDE)), draw(st.integers(y0 + 1, _SIDE))


@given(st.lists(_box(), max_size=8), st.lists(_box(), max_size=8))
def test_equals_painted_pixels(boxes, bought):
    free = np.ones((_SIDE, _SIDE), bool)
    for x0, y0, x1, y1 in bought:
        free[y0:y1, x0:x1] = False
    expected = [int(free[y0:y1, x0:x1].sum()) for x0, y0, x1, y1 in boxes]
    result = remaining_pixels(boxes, bought)
    assert result.dtype == np.int64
    assert result.tolist() == expected


def test_many_boxes_of_many_sizes_in_a_large_image():
    generator = np.random.default_rng(0)
    corners = generator.integers(0, 900, (10_000, 2))
    boxes = np.concatenate([corners, corners + generator.integers(1, 100, (10_000, 2))], 1)
    bought = boxes[generator.permutation(len(boxes))[:300]]
    free = np.ones((1000, 1000), np.int64)
    for x0, y0, x1, y1 in bought:
        free[y0:y1, x0:x1] = 0
    table = np.zeros((1001, 1001), np.int64)
    table[1:, 1:] = free.cumsum(0).cumsum(1)
    x0, y0, x1, y1 = boxes.T
    expected = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
    assert np.array_equal(remaining_pixels(boxes.astype(np.int32), bought), expected)


def test_coordinates_beyond_32_bits_stay_exact():
    side = 2**20
    assert remaining_pixels([(0, 0, side, side)], [(0, 0, side - 1, side)]).tolist() == [side]


@pytest.mark.parametrize(
    "boxes", [[(0, 0, 1)], [(0.5, 0, 1, 1)], [(0, 0, 0, 1)], [(3, 0, 2, 1)], np.ones((2, 2, 4))]
)
def test_refuses_what_is_no_box(boxes):
    with pytest.raises(ValueError, match="expected"):
        remaining_pixels(boxes, [])
