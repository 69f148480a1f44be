"""What must hold of k-center-greedy on any data: duplicates, zeros, ties, offsets, wide norms."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segal.functional.k_center import k_center_greedy


def loop(x: Tensor, k: int) -> tuple[list[int], list[float]]:
    """Textbook farthest-first order in float64 from all pairwise differences."""
    x = x.to(torch.float64)
    pairwise = (x[:, None] - x[None]).square().sum(2)
    picks = [int(x.square().sum(1).argmax())]
    while len(picks) < k:
        nearest = pairwise[picks].min(0).values
        nearest[picks] = -1
        picks.append(int(nearest.argmax()))
    radius = [float(pairwise[picks[:i]].min(0).values.max().sqrt()) for i in range(1, k + 1)]
    return picks, radius


@st.composite
def integer_rows(draw: st.DrawFn) -> tuple[Tensor, int, int]:
    """Small integers: many ties, duplicates and zero vectors."""
    n, d = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    size = draw(st.sampled_from([0, 1, 2, 50]))
    offset = draw(st.sampled_from([0, -3, 1000]))
    values = draw(st.lists(st.integers(-size, size), min_size=n * d, max_size=n * d))
    x = torch.tensor(values, dtype=torch.float64).reshape(n, d) + offset
    return x, draw(st.integers(1, n)), draw(st.integers(1, 12))


@st.composite
def real_rows(draw: st.DrawFn, most: int = 120) -> tuple[Tensor, int, int]:
    """Gaussian rows with norms over up to nine orders of magnitude, and an offset."""
    n, d = draw(st.integers(2, most)), draw(st.integers(1, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([0.0, 1.0, 4.0]))
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    x *= torch.exp(spread * torch.randn(n, 1, generator=generator, dtype=torch.float64))
    x += draw(st.sampled_from([0.0, 33.0]))
    return x, draw(st.integers(1, n)), draw(st.integers(1, 40))


@given(integer_rows())
@settings(deadline=None, max_examples=150)
def test_ties_duplicates_and_zeros_go_to_the_lowest_row(case: tuple[Tensor, int, int]) -> None:
    x, k, block = case
    picks, radius = k_center_greedy(x, k, block=block)
    expected, expected_radius = loop(x, k)
    assert picks.tolist() == expected
    assert radius.tolist() == expected_radius


@given(real_rows())
@settings(deadline=None, max_examples=150)
def test_skipping_changes_no_pick(case: tuple[Tensor, int, int]) -> None:
    x, k, block = case
    picks, radius = k_center_greedy(x, k, block=block)
    expected, expected_radius = loop(x, k)
    assert picks.tolist() == expected
    torch.testing.assert_close(
        radius, torch.tensor(expected_radius, dtype=torch.float64), rtol=1e-12, atol=1e-300
    )


@given(real_rows(most=40), st.integers(1, 5))
@settings(deadline=None, max_examples=60)
def test_duplicated_rows_are_covered_alike(case: tuple[Tensor, int, int], copies: int) -> None:
    x, k, block = case
    repeated = x.repeat(copies, 1)
    radius = k_center_greedy(repeated, k, block=block)[1]
    torch.testing.assert_close(radius, k_center_greedy(x, k)[1], rtol=1e-12, atol=0)
    picks = k_center_greedy(repeated, len(repeated), block=block)[0]
    assert sorted(picks.tolist()) == list(range(len(repeated)))


@given(real_rows())
@settings(deadline=None, max_examples=60)
def test_the_radius_never_grows_and_covers(case: tuple[Tensor, int, int]) -> None:
    x, k, block = case
    picks, radius = k_center_greedy(x, k, block=block)
    assert bool((radius[1:] <= radius[:-1]).all())
    distance = torch.cdist(x, x[picks], compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    torch.testing.assert_close(distance.max(), radius[-1], rtol=1e-12, atol=0)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_of_equal_rows_the_lowest_goes_first_whatever_the_block(seed: int) -> None:
    """Rows of single precision, some several times: rounding must not tell copies apart."""
    generator = torch.Generator().manual_seed(seed)
    distinct = torch.randn(12, 37, generator=generator)
    x = distinct[torch.randint(12, (40,), generator=generator)]
    x = x if seed % 2 else x + 100
    found = {
        tuple(k_center_greedy(x, 40, block=block)[0].tolist()) for block in (1, 3, 7, 64, None)
    }
    assert len(found) == 1
    (picks,) = found
    first: dict[tuple[float, ...], int] = {}
    for row, values in enumerate(x.tolist()):
        first.setdefault(tuple(values), row)
    assert set(picks[: len(first)]) == set(first.values())
    assert list(picks[len(first) :]) == sorted(set(range(40)) - set(first.values()))
