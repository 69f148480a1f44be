"""What the strategies that pick by distance in an embedding share."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.candidates.table import StoredRows
from segal.functional.k_center import k_center_order
from segal.functional.kmeans_plusplus import k_means_plusplus
from segal.strategies.base import Picks

Selector = Literal["k_center", "k_means_plusplus"]
Init = Literal["labelled", "max_norm"]

_CHUNK = 1024
_NO_CENTRES = "Nothing is labelled yet: the first pick is the embedding of largest norm."


def select_by_distance(
    embedding: NDArray[np.float32] | StoredRows,
    labelled: NDArray[np.float32],
    count: int,
    generator: torch.Generator,
    *,
    selector: Selector,
    init: Init,
) -> Picks:
    """Picks candidates far from one another and from what is labelled.

    Args:
        embedding: (n, d) of the candidates on offer; as stored, it need not fit into memory.
        labelled: (m, d) of what is labelled; m may be 0.
        count: Number of picks.
        generator: For `k_means_plusplus`.
        selector: `k_center` takes the farthest each time; `k_means_plusplus` draws in proportion
            to the squared distance.
        init: `labelled` starts from the distances to what is labelled (UWE, Algorithm 1, line 6);
            `max_norm` leaves it out and starts at the embedding of largest norm.

    Returns:
        The picks; scores are distances at pick, and for a first pick without centres its norm.
    """
    use_labelled = init == "labelled" and len(labelled) > 0
    notes = (_NO_CENTRES,) if init == "labelled" and not use_labelled else ()
    x = embedding if isinstance(embedding, StoredRows) else torch.from_numpy(embedding)
    centers = torch.from_numpy(labelled) if use_labelled else None
    if selector == "k_center":
        picks, distance, _ = k_center_order(x, count, centers)
    else:
        picks = k_means_plusplus(x, count, generator, centers)
        distance = _distance_at_pick(_rows(embedding, picks), centers)
    if centers is None:
        distance[0] = _rows(embedding, picks[:1]).norm()
    return Picks(picks.numpy(), distance.numpy(), notes)


def _rows(embedding: NDArray[np.float32] | StoredRows, rows: Tensor) -> Tensor:
    return torch.from_numpy(embedding[rows.numpy()].astype(np.float64))


def _distance_at_pick(points: Tensor, centers: Tensor | None) -> Tensor:
    """Distance of each pick to the nearest centre or earlier pick: (k, d) to (k,) float64."""
    distance = torch.full((len(points),), torch.inf, dtype=torch.float64)
    for start in range(0, len(points), _CHUNK):
        part = points[start : start + _CHUNK]
        earlier = torch.cdist(part, points[: start + len(part)])
        own = torch.arange(start, start + len(part))[:, None]
        earlier.masked_fill_(torch.arange(earlier.shape[1]) >= own, torch.inf)
        nearest = earlier.amin(1)
        if centers is not None:
            nearest = torch.minimum(nearest, torch.cdist(part, centers.double()).amin(1))
        distance[start : start + _CHUNK] = nearest
    return distance
