"""Boxes and masks of values, against scipy and comparisons of whole images."""

import numpy as np
import pytest
from scipy.ndimage import find_objects

from segal.functional.segments import boxes_of_values, masks_of_values


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3), (17, 23)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint32])
def test_boxes_are_those_of_scipy(size, kind):
    rng = np.random.default_rng(0)
    for most in (1, 2, 5, 200):
        values = (rng.integers(0, most, size) + 1).astype(kind)
        values[: size[0] // 2] = np.sort(values[: size[0] // 2], 1)
        found = find_objects(values.astype(np.int64))
        expected = {
            value: (box[1].start, box[0].start, box[1].stop, box[0].stop)
            for value, box in enumerate(found, 1)
            if box is not None
        }
        assert boxes_of_values(values) == expected
        whole = np.zeros_like(values)
        for value, mask, (x, y) in masks_of_values(values):
            for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1]):
                assert side.any()
            whole[y : y + mask.shape[0], x : x + mask.shape[1]][mask] += value
        assert (whole == values).all()
