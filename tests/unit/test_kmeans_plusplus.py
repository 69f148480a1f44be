"""k-means++ seeding: its distribution, its first pick, duplicates, refused input."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from segal.functional import kmeans_plusplus
from segal.functional.kmeans_plusplus import k_means_plusplus


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(n: int = 400, d: int = 6) -> Tensor:
    return torch.randn(n, d, generator=seeded(0))


def pair_probabilities(x: Tensor, nearest: Tensor) -> dict[tuple[int, int], float]:
    """Of drawing i and then j, from squared differences."""
    pairwise = (x[:, None] - x[None]).square().sum(2)
    out = {}
    for i in range(len(x)):
        after = torch.minimum(nearest, pairwise[i])
        for j in range(len(x)):
            out[i, j] = float(nearest[i] / nearest.sum() * after[j] / after.sum())
    return out


@pytest.mark.parametrize("pending", [1, pytest.param(64, marks=pytest.mark.slow)])
def test_draws_follow_squared_distances(monkeypatch: pytest.MonkeyPatch, pending: int) -> None:
    """Both with every distance up to date and with rejection from old distances."""
    monkeypatch.setattr(kmeans_plusplus, "_PENDING", pending)
    x = torch.tensor([[0.0], [1.0], [1.5], [4.0], [4.1]], dtype=torch.float64)
    centre = torch.tensor([[0.5]], dtype=torch.float64)
    expected = pair_probabilities(x, (x - centre).square().sum(1))
    generator, draws = seeded(1), 2000
    counts = Counter(
        tuple(k_means_plusplus(x, 2, generator, centre).tolist()) for _ in range(draws)
    )
    for pair, probability in expected.items():
        error = abs(counts[pair] / draws - probability)
        assert error <= 4.5 * (probability * (1 - probability) / draws) ** 0.5 + 1e-12, pair


def test_the_generator_decides() -> None:
    x = sample()
    first = k_means_plusplus(x, 150, seeded(3)).tolist()
    assert first == k_means_plusplus(x, 150, seeded(3)).tolist()
    assert first != k_means_plusplus(x, 150, seeded(4)).tolist()
    assert len(set(first)) == 150


def test_the_first_row() -> None:
    x = sample()
    assert int(k_means_plusplus(x, 1, seeded(0))[0]) == int(x.norm(dim=1).argmax())
    assert int(k_means_plusplus(x, 3, seeded(0), first=17)[0]) == 17


def test_a_memory_map_gives_the_draws_of_the_tensor(tmp_path: Path) -> None:
    x = sample(1500)
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = k_means_plusplus(x, 100, seeded(5)).tolist()
    assert k_means_plusplus(mapped, 100, seeded(5)).tolist() == expected


def test_rows_on_centres_come_last_and_lowest_first() -> None:
    x = torch.tensor([0.3, 0.3, 7.1, 0.3, 7.1, 0.3], dtype=torch.float64)[:, None].repeat(1, 5)
    picks = k_means_plusplus(x, 6, seeded(0)).tolist()
    assert picks == [2, picks[1], *sorted(set(range(6)) - {2, picks[1]})]
    assert picks[1] in {0, 1, 3, 5}
    assert k_means_plusplus(x, 3, seeded(0), x[[0, 2]]).tolist() == [0, 1, 2]


def test_every_row_is_drawn_once() -> None:
    x = sample(200).repeat(2, 1)
    assert sorted(k_means_plusplus(x, 400, seeded(0)).tolist()) == list(range(400))


def test_the_input_is_left_as_it_was() -> None:
    x = sample().double() + 5
    before = x.clone()
    k_means_plusplus(x, 30, seeded(0), x[:3])
    assert torch.equal(x, before)


def test_wrong_input_is_named() -> None:
    x = sample(5)
    with pytest.raises(ValueError, match="expected 1 to 5"):
        k_means_plusplus(x, 6, seeded(0))
    with pytest.raises(ValueError, match="first"):
        k_means_plusplus(x, 1, seeded(0), first=5)
    with pytest.raises(ValueError, match="first"):
        k_means_plusplus(x, 1, seeded(0), first="lowest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="centers"):
        k_means_plusplus(x, 1, seeded(0), torch.zeros(2, 7))
    x[3, 0] = float("nan")
    with pytest.raises(ValueError, match="row 3"):
        k_means_plusplus(x, 1, seeded(0))
