"""Offers and cuts of regions, against a mask of every pixel."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from segal.candidates.regions import RegionSize
from segal.runs.acquisition import Offer, cut_to_grid, derive_seed

HEIGHT, WIDTH = 20, 30
SIZES = st.sampled_from(["image", "7", "4x11", "30", "1x30"]).map(RegionSize.parse)


@st.composite
def boxes(draw):
    x0, y0 = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
    return x0, y0, draw(st.integers(x0 + 1, WIDTH)), draw(st.integers(y0 + 1, HEIGHT))


def paint(drawn):
    mask = np.zeros((HEIGHT, WIDTH), int)
    for x0, y0, x1, y1 in drawn:
        mask[y0:y1, x0:x1] += 1
    return mask


@given(boxes(), SIZES)
def test_a_cut_box_is_partitioned_within_regions(box, region):
    parts = cut_to_grid([box], (HEIGHT, WIDTH), region)
    assert np.array_equal(paint(parts), paint([box]))
    grid = region.grid(HEIGHT, WIDTH).boxes()
    for x0, y0, x1, y1 in parts:
        within = (grid[:, 0] <= x0) & (grid[:, 1] <= y0) & (grid[:, 2] >= x1) & (grid[:, 3] >= y1)
        assert within.sum() == 1


@given(st.lists(boxes(), max_size=5), SIZES)
def test_an_offer_is_what_is_left(bought, region):
    offer = Offer.of({"a": (HEIGHT, WIDTH), "b": (HEIGHT, WIDTH)}, region, {"b": bought})
    free = paint(bought) == 0
    grid = region.grid(HEIGHT, WIDTH).boxes()
    left = [int(free[y0:y1, x0:x1].sum()) for x0, y0, x1, y1 in grid]
    whole = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in grid]
    prices = np.array(whole + left)
    assert offer.rows.tolist() == np.flatnonzero(prices).tolist()
    assert offer.prices.tolist() == prices[prices > 0].tolist()


def test_every_use_of_randomness_has_a_seed_of_its_own():
    seeds = {derive_seed(s, n, t) for s in range(20) for n in range(20) for t in range(4)}
    assert len(seeds) == 20 * 20 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)
