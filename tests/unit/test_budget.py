"""Budgets: reading them, and what they come to."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segal.candidates.budget import Allowance, Budget
from segal.errors import SegalError


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("500", "500"),
        ("2%", "2%"),
        ("0.5%", "0.5%"),
        ("10img", "10img"),
        ("150%", "150%"),
        ("12.3456789%", "12.3456789%"),
        ("0.00001%", "0.00001%"),
        ("1234567.5img", "1234567.5img"),
        ("2.50%", "2.5%"),
        ("500box", "500box"),
    ],
)
def test_reads_its_forms(text, normal):
    assert str(Budget.parse(text)) == normal


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-3",
        "0%",
        "-1img",
        "abc",
        "",
        "1.5",
        "5 regions",
        "1e3",
        "1.5box",
        "0box",
        "5 box",
        "3boxes",
    ],
)
def test_refuses_others(text):
    with pytest.raises(SegalError, match="expected: a number of regions") as caught:
        Budget.parse(text)
    assert repr(text) in str(caught.value)


def test_counts_in_pixels_exactly():
    images = np.array([100, 200, 300])
    assert Budget.parse("2%").allowance(images) == Allowance(12, "pixels")
    assert Budget.parse("2img").allowance(images) == Allowance(400, "pixels")
    assert Budget.parse("7").allowance(images) == Allowance(7, "regions")
    assert Budget.parse("7box").allowance(images) == Allowance(7, "boxes", "boxes")
    assert str(Budget.parse("7box").allowance(images, "images")) == "7 boxes"
    assert Budget.parse(str(Budget.parse("12.3456789%"))) == Budget.parse("12.3456789%")
    assert Budget.parse("0.1%").allowance(np.array([1000])) == Allowance(1, "pixels")


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 400))
def test_keeps_the_longest_prefix_that_fits(prices, limit):
    pixels = np.array(prices, np.int64)
    fits = Allowance(limit, "pixels").fits(pixels)
    assert pixels[:fits].sum() <= limit
    assert fits == len(pixels) or pixels[: fits + 1].sum() > limit
    assert fits <= Allowance(limit, "pixels").most(pixels)
    assert Allowance(limit, "regions").fits(pixels) == min(limit, len(prices))


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 400))
def test_what_does_not_fit_ends_the_picks_or_is_skipped(prices, limit):
    pixels = np.array(prices, np.int64)
    left, expected = limit, []
    for place, price in enumerate(prices):
        if price <= left:
            expected.append(place)
            left -= price
    skip, prefix = (Allowance(limit, "pixels", fit=fit) for fit in ("skip", "prefix"))
    assert skip.takes(pixels).tolist() == expected
    assert prefix.takes(pixels).tolist() == list(range(prefix.fits(pixels)))
    for fit in ("skip", "prefix"):
        counted = Allowance(limit, "regions", fit=fit).takes(pixels)
        assert counted.tolist() == list(range(min(limit, len(prices))))


def test_boxes_are_never_skipped():
    assert Budget.parse("7box").allowance(np.array([9]), fit="skip").fit == "prefix"
    assert Budget.parse("7%").allowance(np.array([9]), fit="skip").fit == "skip"


@given(st.lists(st.integers(0, 6), max_size=8), st.integers(1, 20), st.sampled_from([1, 0.5]))
def test_what_is_free_always_fits(counts, limit, scale):
    allowance, prices = Allowance(limit, "boxes", "boxes"), np.array(counts, np.int64) * scale
    fits = allowance.fits(prices)
    assert prices[:fits].sum() <= limit
    assert fits == len(prices) or prices[: fits + 1].sum() > limit
    affordable = [
        size
        for size in range(len(counts) + 1)
        if any(sum(chosen) <= limit for chosen in combinations(prices.tolist(), size))
    ]
    assert allowance.most(prices) == max(affordable)


def test_about_how_many_a_budget_buys():
    allowance = Allowance(30, "boxes", "boxes")
    assert allowance.about(4.0, 100) == 8
    assert allowance.about(50.0, 100) == 1
    assert allowance.about(0.0, 100) == 100
    assert allowance.about(0.25, 100) == 100
