"""Polygon clicks of any label map: against clipping and walking in float64, and what adds up."""

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from segal.functional.clicks import _Outlines, polygon_clicks

VOID = 255
NOTHING = np.zeros((0, 4), np.int64)
_SETTINGS = settings(max_examples=60, deadline=None)
EPSILONS = st.sampled_from([0.0, 0.5, 1.0, 2.0])


@st.composite
def labels(draw):
    """Small maps of blocks, so that outlines have edges of many slopes and lengths."""
    block = draw(st.integers(1, 4))
    shape = (draw(st.integers(1, 8)), draw(st.integers(1, 8)))
    cells = draw(arrays.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, VOID])))
    label = np.kron(cells, np.ones((block, block), np.uint8))
    skew = draw(st.integers(0, 2))
    return np.stack([np.roll(row, skew * y // 2) for y, row in enumerate(label)])


@st.composite
def box_of(draw, label):
    height, width = label.shape
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))


def polygons(label, epsilon):
    """Those of every class, from masks of the whole image."""
    found = []
    for value in set(label.ravel().tolist()) - {VOID}:
        mask = (label == value).astype(np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        found += [cv2.approxPolyDP(c, epsilon, True)[:, 0].astype(float) for c in contours]
    return found


def edges(label, epsilon):
    for polygon in polygons(label, epsilon):
        yield from zip(polygon, np.roll(polygon, -1, 0), strict=True)


def clipped_crossings(start, end, box):
    """Ends that clipping an edge to a box's inside cuts off (Liang and Barsky), in float64."""
    low, high = 0.0, 1.0
    for axis in (0, 1):
        least, most = box[axis] - 0.5, box[axis + 2] - 0.5
        way = end[axis] - start[axis]
        if way == 0:
            if not least < start[axis] < most:
                return 0
            continue
        first, last = sorted(((least - start[axis]) / way, (most - start[axis]) / way))
        low, high = max(low, first), min(high, last)
    if high - low < 1e-9:  # outside, or it touches a corner
        return 0
    return int(low > 1e-9) + int(high < 1 - 1e-9)


def walked_crossings(start, end, wanted):
    """Changes between wanted and other pixels along an edge, in float64."""
    times = [0.0, 1.0]
    for axis in (0, 1):
        a, b = sorted((start[axis], end[axis]))
        if a < b:
            times += [
                (k + 0.5 - start[axis]) / (end[axis] - start[axis]) for k in range(int(a), int(b))
            ]
    times = np.sort(times)
    times = times[np.append(True, np.diff(times) > 1e-9)]
    if len(times) < 2:
        return 0
    middles = (times[:-1] + times[1:]) / 2
    x, y = np.rint(start[:, None] + (end - start)[:, None] * middles).astype(int)
    return int(np.count_nonzero(np.diff(wanted[y, x].astype(int))))


def components(label, wanted):
    """How many components have wanted pixels, and whether one of them has all."""
    count, pixels = 0, 0
    for value in set(label.ravel().tolist()) - {VOID}:
        numbers, _ = ndimage.label(label == value, structure=np.ones((3, 3)))
        inside = numbers[wanted]
        count += len(set(inside.tolist()) - {0})
        pixels += int((inside > 0).sum())
    return count, count == 1 and pixels == int(wanted.sum())


def rest_of(label, box, bought):
    wanted = np.zeros(label.shape, bool)
    wanted[box[1] : box[3], box[0] : box[2]] = True
    for x0, y0, x1, y1 in bought:
        wanted[y0:y1, x0:x1] = False
    return wanted


@_SETTINGS
@given(st.data(), labels(), EPSILONS)
def test_clicks_are_those_of_clipping_every_polygon(data, label, epsilon):
    boxes = data.draw(st.lists(box_of(label), min_size=1, max_size=4))
    expected = []
    for box in boxes:
        wanted = rest_of(label, box, [])
        count, is_filled = components(label, wanted)
        vertices = sum(int(wanted[int(y), int(x)]) for p in polygons(label, epsilon) for x, y in p)
        crossings = sum(clipped_crossings(a, b, box) for a, b in edges(label, epsilon))
        expected.append(1 if is_filled else vertices + crossings + count if count else 0)
    assert polygon_clicks(label, boxes, epsilon=epsilon).tolist() == expected


@_SETTINGS
@given(st.data(), labels(), EPSILONS)
def test_clicks_of_the_rest_are_those_of_walking_every_polygon(data, label, epsilon):
    box = data.draw(box_of(label))
    bought = data.draw(st.lists(box_of(label), max_size=4))
    wanted = rest_of(label, box, bought)
    count, is_filled = components(label, wanted)
    vertices = sum(int(wanted[int(y), int(x)]) for p in polygons(label, epsilon) for x, y in p)
    crossings = sum(walked_crossings(a, b, wanted) for a, b in edges(label, epsilon))
    expected = 1 if is_filled else vertices + crossings + count if count else 0
    assert polygon_clicks(label, [box], bought, epsilon=epsilon).tolist() == [expected]


@_SETTINGS
@given(labels(), st.integers(1, 9), st.integers(1, 9), EPSILONS)
def test_what_adds_up_over_a_grid(label, step_x, step_y, epsilon):
    height, width = label.shape
    cells = [
        (x, y, min(x + step_x, width), min(y + step_y, height))
        for y in range(0, height, step_y)
        for x in range(0, width, step_x)
    ]
    outlines = _Outlines(label, epsilon, VOID)
    parts = np.array([outlines.parts(np.array(cell), NOTHING) for cell in cells])
    total = outlines.parts(np.array([0, 0, width, height]), NOTHING)
    assert parts[:, 0].sum() == total[0] == sum(map(len, polygons(label, epsilon)))
    assert total[1] == 0
    assert (parts[:, 1] % 2 == 0).all()  # outlines are closed: whatever enters leaves
    number = np.zeros(label.shape, int)
    for i, (x0, y0, x1, y1) in enumerate(cells):
        number[y0:y1, x0:x1] = i
    shared = sum(walked_crossings(a, b, number == i) for a, b in edges(label, epsilon)
                 for i in range(len(cells)))  # fmt: skip
    assert parts[:, 1].sum() == shared
    assert parts[:, 2].sum() >= total[2]
    alone = [len(np.unique(label[y0:y1, x0:x1])) == 1 for x0, y0, x1, y1 in cells]
    void = [bool((label[y0:y1, x0:x1] == VOID).all()) for x0, y0, x1, y1 in cells]
    clicks = polygon_clicks(label, cells, epsilon=epsilon)
    assert (clicks[np.array(alone) & ~np.array(void)] == 1).all()
    assert (clicks[void] == 0).all()


@_SETTINGS
@given(st.data(), labels(), EPSILONS)
def test_both_sides_of_a_cut_count_its_crossings(data, label, epsilon):
    height, width = label.shape
    cut = data.draw(st.integers(0, width))
    outlines = _Outlines(label, epsilon, VOID)
    whole = np.array([0, 0, width, height])
    if 0 < cut < width:
        left, right = np.array([0, 0, cut, height]), np.array([cut, 0, width, height])
        assert outlines.parts(left, NOTHING)[1] == outlines.parts(right, NOTHING)[1]
        assert outlines.parts(whole, left[None]) == outlines.parts(right, NOTHING)
    assert polygon_clicks(label, [whole], [whole]).tolist() == [0]


@_SETTINGS
@given(st.data(), labels())
def test_boxes_are_counted_each_for_itself_and_classes_are_names(data, label):
    boxes = data.draw(st.lists(box_of(label), min_size=2, max_size=5))
    together = polygon_clicks(label, boxes).tolist()
    assert together == [polygon_clicks(label, [box]).tolist()[0] for box in boxes]
    names = np.arange(256, dtype=np.uint8)
    names[:3] = data.draw(st.permutations([7, 0, 254]))
    assert polygon_clicks(names[label], boxes).tolist() == together
    assert polygon_clicks(np.asfortranarray(label), boxes).tolist() == together
