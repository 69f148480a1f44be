"""k-center-greedy on one table of features under several weightings of its rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from segal.functional.k_center import k_center_order


def k_center_sweep(
    features: Tensor,
    weightings: Iterable[tuple[Tensor, Tensor]],
    k: int,
    centers: Tensor,
) -> Iterator[Tensor]:
    """Picks of k-center-greedy on w * f, for each weighting w.

    Args:
        features: (n, d) float32.
        weightings: For each result the weights of the rows, (n,) float32, and of the centres,
            (m,) float32.
        k: How many rows to pick, 1 to n.
        centers: (m, d) float32, features that are centres already; with none (m = 0) the row of
            largest norm is the first pick.

    Yields:
        (k,) int64 rows in pick order, as `k_center_order(w * f, k, w * c)` picks them.

    Raises:
        ValueError: If a weighted feature is not finite, or `k` is out of range.
    """
    for weights, center_weights in weightings:
        embedding = features * weights[:, None]
        yield k_center_order(embedding, k, centers * center_weights[:, None]).picks
