"""Polygon clicks of label maps drawn by hand, with counts worked out by hand."""

import numpy as np
import pytest

from segal.functional.clicks import polygon_clicks

VOID = 255


def drawn(text: str) -> np.ndarray:
    """A label map of digits; a dot is void."""
    rows = [[VOID if c == "." else int(c) for c in line] for line in text.split()]
    return np.array(rows, np.uint8)


def clicks(label, *boxes, **named):
    return polygon_clicks(label, np.array(boxes), **named).tolist()


def grid(label, size):
    height, width = label.shape
    return [
        (x, y, min(x + size, width), min(y + size, height))
        for y in range(0, height, size)
        for x in range(0, width, size)
    ]


def whole(label):
    return (0, 0, label.shape[1], label.shape[0])


def test_a_rectangle_in_a_background_split_by_a_grid():
    label = np.zeros((20, 20), np.uint8)
    label[6:12, 4:14] = 1
    # Rectangle 4, background 4 and its hole 4 vertices, two class clicks.
    assert clicks(label, whole(label)) == [4 + 4 + 4 + 2]
    # Each of the three outlines has one vertex in each cell, and enters and leaves it once.
    assert clicks(label, *grid(label, 10)) == [3 + 6 + 2] * 4
    # The corner of the image, with the background's corner: one component fills it.
    assert clicks(label, (0, 0, 3, 3)) == [1]
    # Over the rectangle's top edge: it and the hole both enter and leave.
    assert clicks(label, (7, 3, 10, 9)) == [4 + 2]


def test_a_straight_border():
    label = drawn("00001111 00001111 00001111 00001111 00001111 00001111")
    assert clicks(label, whole(label)) == [4 + 4 + 2]
    assert clicks(label, *grid(label, 2)) == [1] * 12
    assert clicks(label, (2, 2, 6, 4)) == [2 + 2 + 2]  # the border, drawn for either side
    # The same with two corners of the image: a vertex of either on the frame, and those corners.
    assert clicks(label, (0, 0, 8, 3)) == [4 + 4 + 2]
    # Its edges all run within the image, and are not crossed by its frame.
    assert clicks(label, (0, 0, 5, 6)) == [(4 + 2 + 1) + (2 + 1)]


def test_a_slope_through_the_point_where_four_cells_meet():
    label = np.tri(8, dtype=np.uint8)
    # 1: (0, 0), (7, 7), (0, 7); 0: (1, 0), (7, 0), (7, 6).
    assert clicks(label, whole(label)) == [3 + 3 + 2]
    # The first cell: (0, 0) and (1, 0). 1's slope leaves through the cell's corner, once; its left
    # edge, 0's top edge and 0's slope leave too. The other cells across hold one class.
    assert clicks(label, *grid(label, 4)) == [2 + 4 + 2, 1, 1, 2 + 4 + 2]
    # Two clicks of the slope where it passes, none where it touches the corner of a box with the
    # slope of 0 alone: (4, 3) is entered from (3, 2) and left to (5, 4).
    assert clicks(label, (3, 3, 5, 5)) == [(2 + 1) + (2 + 1)]


def test_void_is_not_outlined():
    label = drawn(".......... .......... ...2222... ...2222... ...2222... ..........")
    assert clicks(label, whole(label)) == [4 + 1]
    assert clicks(label, (0, 0, 3, 6)) == [0]
    assert clicks(label, (0, 0, 5, 6)) == [2 + 2 + 1]
    assert clicks(label, (4, 3, 6, 4)) == [1]
    assert clicks(label, (4, 3, 6, 6)) == [2 + 1]  # the lower edge, against void
    label[label == VOID] = 7
    assert clicks(label, whole(label), ignore_index=7) == [4 + 1]
    assert clicks(np.full((4, 4), VOID, np.uint8), (0, 0, 4, 4), (1, 1, 2, 2)) == [0, 0]


def test_one_class_takes_one_click():
    label = np.full((9, 11), 3, np.uint8)
    assert clicks(label, whole(label), (0, 0, 1, 1), (2, 3, 7, 5)) == [1, 1, 1]


def test_a_component_is_named_once_however_it_is_cut():
    label = drawn("1.....1 1.....1 1.....1 1111111 1111111")
    ends = clicks(label, (0, 0, 7, 2), epsilon=0.4)[0]
    # Two prongs, one pixel wide: a vertex at the end of either, two crossings each.
    assert ends == 2 + 4 + 1
    squares = np.full((8, 8), VOID, np.uint8)
    squares[:4, :4] = squares[4:, 4:] = 1  # they touch at a corner: one polygon, through it twice
    assert clicks(squares, whole(squares), epsilon=0.5) == [(4 + 1 + 4 + 1) + 1]
    assert clicks(squares, (0, 0, 4, 4), (4, 0, 8, 4)) == [1, 0]
    squares[:4, :4] = 2
    assert clicks(squares, whole(squares), epsilon=0.5) == [4 + 4 + 2]
    apart = np.full((8, 9), VOID, np.uint8)
    apart[:4, :4] = apart[4:, 5:] = 1
    assert clicks(apart, whole(apart)) == [4 + 4 + 2]


def test_specks_and_lines_take_their_ends():
    label = drawn(".......... .1......2. .......... .3333333.. ..........")
    assert clicks(label, whole(label)) == [(1 + 1) + (1 + 1) + (2 + 1)]
    # A line is drawn there and back.
    assert clicks(label, (3, 2, 6, 5)) == [2 + 2 + 1]


@pytest.mark.parametrize(("epsilon", "expected"), [(0.0, False), (1.0, True), (2.5, True)])
def test_a_staircase_is_one_edge_unless_all_is_wanted(epsilon, expected):
    label = (np.arange(30)[None] < 5 + np.arange(30)[:, None] // 2).astype(np.uint8)
    label[label == 0] = VOID
    count = clicks(label, whole(label), epsilon=epsilon)[0]
    assert (count == 4 + 1) is expected
    assert expected or count > 15


def test_what_is_bought_is_not_paid_again():
    label = drawn("00001111 00001111 00001111 00001111 00001111 00001111")
    box = whole(label)
    assert clicks(label, box, bought=[(0, 0, 4, 6)]) == [1]
    lower = clicks(label, (0, 3, 8, 6))
    assert clicks(label, box, bought=[(0, 0, 8, 3)]) == lower == [(2 + 2 + 1) * 2]
    assert clicks(label, box, bought=[(0, 0, 5, 3), (3, 0, 8, 3)]) == lower
    # An L: all of 1, and the lower half of 0 with two crossings.
    assert clicks(label, box, bought=[(0, 0, 4, 3)]) == [(4 + 1) + (2 + 2 + 1)]
    # A hole in the middle of the border: both outlines run into it and out of it again.
    assert clicks(label, box, bought=[(2, 2, 6, 4)]) == [(4 + 2 + 1) * 2]
    assert clicks(label, box, bought=[box]) == [0]
    assert clicks(label, (0, 0, 2, 2), (6, 0, 8, 2), bought=[(0, 0, 4, 6)]) == [0, 1]
