"""k-center-greedy against the textbook one-by-one loop in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from segal.functional.k_center import k_center_greedy, k_center_order


def textbook(x: Tensor, k: int, centers: Tensor | None = None) -> tuple[list[int], Tensor]:
    """One pick after the other, distances from differences, lowest row on ties."""
    x = x.to(torch.float64)
    picks: list[int] = []
    radius: list[float] = []
    nearest = torch.full((len(x),), float("inf"), dtype=torch.float64)
    for centre in [] if centers is None else centers.to(torch.float64):
        nearest = torch.minimum(nearest, (x - centre).square().sum(1))
    free = torch.ones(len(x), dtype=torch.bool)
    for _ in range(k):
        key = nearest if picks or centers is not None else x.square().sum(1)
        pick = int(torch.where(free, key, -1.0).argmax())
        picks.append(pick)
        free[pick] = False
        nearest = torch.minimum(nearest, (x - x[pick]).square().sum(1))
        radius.append(float(nearest.max().sqrt()))
    return picks, torch.tensor(radius, dtype=torch.float64)


def continuous(n: int = 700, d: int = 9, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weighted(n: int = 3000, d: int = 24, seed: int = 0) -> Tensor:
    """Norms over several orders of magnitude, so that most rows are never compared."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x * torch.randn(n, 1, generator=generator, dtype=torch.float64).mul(2).exp()


def integers(n: int = 700, d: int = 3, offset: int = 0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(-4, 5, (n, d), generator=generator) + offset).to(torch.float64)


DATA = {
    "continuous": continuous(),
    "wide": continuous(n=600, d=300),
    "many": continuous(n=5003, d=5),
    "weighted": weighted(),
    "integers": integers(),
    "integers with an offset": integers(offset=1000),
    "sparse integers": (integers(n=1200, d=12).abs() > 3).to(torch.float64),
}


@pytest.mark.parametrize("block", [1, 7, 64, 512, None])
@pytest.mark.parametrize("name", DATA)
def test_picks_are_the_textbook_loops(name: str, block: int) -> None:
    x = DATA[name]
    expected, expected_radius = textbook(x, 150)
    picks, radius = k_center_greedy(x, 150, block=block)
    assert picks.dtype == torch.int64 and radius.dtype == torch.float64
    assert picks.tolist() == expected
    torch.testing.assert_close(radius, expected_radius, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("m", [1, 200])
def test_given_centres_are_covered_first(name: str, m: int) -> None:
    x = DATA[name]
    centers = x[torch.arange(m) * 3 % len(x)] + (0 if "integers" in name else 0.01)
    expected, expected_radius = textbook(x, 100, centers)
    picks, radius = k_center_greedy(x, 100, centers, block=32)
    assert picks.tolist() == expected
    torch.testing.assert_close(radius, expected_radius, rtol=1e-12, atol=0)


def test_no_rows_of_given_centres_is_no_centres() -> None:
    x = DATA["continuous"]
    assert k_center_greedy(x, 20, x[:0])[0].tolist() == k_center_greedy(x, 20)[0].tolist()


def test_every_row_can_be_picked() -> None:
    x = continuous(n=130, d=4)
    expected, expected_radius = textbook(x, 130)
    picks, radius = k_center_greedy(x, 130, block=16)
    assert picks.tolist() == expected
    torch.testing.assert_close(radius, expected_radius, rtol=1e-12, atol=0)
    assert radius[-1] == 0


@pytest.mark.parametrize("block", [4, 512])
@pytest.mark.parametrize("name", ["continuous", "wide", "weighted"])
def test_float32_covers_as_float64_does(name: str, block: int) -> None:
    x = DATA[name].to(torch.float32)
    expected, expected_radius = textbook(x, 150)
    picks, radius = k_center_greedy(x, 150, block=block)
    assert picks.tolist() == expected
    torch.testing.assert_close(radius, expected_radius, rtol=1e-12, atol=0)
    torch.testing.assert_close(radius, textbook(DATA[name], 150)[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e14, 1e100])
def test_the_scale_of_the_data_does_not_matter(scale: float) -> None:
    """Beyond the range of float32 nothing is computed in it."""
    x = DATA["weighted"]
    assert k_center_greedy(x * scale, 80)[0].tolist() == textbook(x * scale, 80)[0]


def test_reduced_precision_products_are_not_trusted() -> None:
    x = DATA["wide"].to(torch.float32)
    expected = textbook(x, 60)[0]
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert k_center_greedy(x, 60)[0].tolist() == expected
    finally:
        torch.set_float32_matmul_precision(before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert k_center_greedy(x, 60)[0].tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_offset_costs_no_digits(dtype: torch.dtype) -> None:
    x = (continuous() + 33).to(dtype)
    expected, expected_radius = textbook(x, 150)
    picks, radius = k_center_greedy(x, 150)
    assert picks.tolist() == expected
    torch.testing.assert_close(radius, expected_radius, rtol=1e-12, atol=0)


def test_tight_clusters_keep_their_digits() -> None:
    """Distances of 1e-6 of the norms: products alone would lose them."""
    x = 1e3 * continuous(n=5, d=8)[torch.arange(400) % 5] + 1e-3 * continuous(n=400, d=8, seed=1)
    expected, expected_radius = textbook(x, 100)
    picks, radius = k_center_greedy(x, 100, block=32)
    assert picks.tolist() == expected
    torch.testing.assert_close(radius, expected_radius, rtol=1e-12, atol=0)


def test_duplicates_are_covered_as_in_the_loop() -> None:
    x = continuous(n=60, d=6)[torch.arange(300) % 60]
    expected_radius = textbook(x, 100)[1]
    picks, radius = k_center_greedy(x, 100)
    torch.testing.assert_close(radius, expected_radius, rtol=1e-12, atol=0)
    assert len(set(picks.tolist())) == 100


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_memory_map_gives_the_picks_of_the_tensor(tmp_path: Path, dtype: type) -> None:
    stored = DATA["many"].numpy().astype(dtype)
    np.save(tmp_path / "x.npy", stored)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    picks, radius = k_center_greedy(mapped, 100, block=64)
    expected, expected_radius = textbook(torch.from_numpy(stored), 100)
    assert picks.tolist() == expected
    torch.testing.assert_close(radius, expected_radius, rtol=1e-12, atol=0)


def test_distance_at_pick_is_the_radius_before_it() -> None:
    x = DATA["continuous"]
    order = k_center_order(x, 50)
    assert order.distance[0] == float("inf")
    assert torch.equal(order.distance[1:], order.radius[:-1])
    centred = k_center_order(x, 50, x[:1])
    assert centred.distance[0] == pytest.approx(float((x - x[0]).norm(dim=1).max()), rel=1e-12)


def test_the_input_is_left_as_it_was() -> None:
    x = continuous() + 5
    before, centers = x.clone(), x[:3].clone()
    k_center_greedy(x, 30, centers)
    assert torch.equal(x, before) and torch.equal(centers, before[:3])


@pytest.mark.parametrize(
    ("x", "k", "centers", "block", "message"),
    [
        (torch.zeros(4, 2), 5, None, 8, "expected 1 to 4 .* got 5"),
        (torch.zeros(4, 2), 0, None, 8, "expected 1 to 4 .* got 0"),
        (torch.zeros(4, 2), 1, None, 0, "block .* got 0"),
        (torch.zeros(4), 1, None, 8, "matrix"),
        (torch.zeros(4, 2, dtype=torch.int64), 1, None, 8, "floating-point"),
        (torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), 1, None, 8, "row 1"),
        (torch.tensor([[0.0, 1.0], [float("inf"), 0.0]]), 1, None, 8, "row 1"),
        (torch.zeros(4, 2), 1, torch.zeros(3, 5), 8, r"\(m, 2\).* got \(3, 5\)"),
        (torch.zeros(4, 2), 1, torch.zeros(2), 8, r"\(m, 2\)"),
        (torch.zeros(4, 2), 1, torch.full((1, 2), float("nan")), 8, "finite"),
        (np.zeros((4, 2), dtype=np.int32), 1, None, 8, "floating-point"),
    ],
)
def test_wrong_input_is_named(
    x: Tensor, k: int, centers: Tensor | None, block: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        k_center_greedy(x, k, centers, block)
