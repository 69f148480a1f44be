"""What the strategies that pick by distance in an embedding share."""

from typing import Literal

import torch
from torch import Tensor

from segal.functional.distances import Embedding, part_of, take
from segal.functional.k_center import k_center_order
from segal.functional.kmeans_plusplus import k_means_plusplus
from segal.functional.points import Points
from segal.functional.shares import share
from segal.strategies.base import Picks
from segal.system.ranks import all_ranks

Selector = Literal["k_center", "k_means_plusplus"]
Init = Literal["labelled", "max_norm"]

_CHUNK = 1024
_NO_CENTRES = "Nothing is labelled yet: the first pick is the embedding of largest norm."


def select_by_distance(
    embedding: Embedding,
    labelled: Embedding | None,
    count: int,
    generator: torch.Generator,
    *,
    selector: Selector,
    init: Init,
) -> Picks:
    """Picks candidates far from one another and from what is labelled.

    The ranks of a job pick together, each from its part of the rows.

    Args:
        embedding: (n, d) of the candidates on offer; as stored, it need not fit into memory.
        labelled: (m, d) of what is labelled; None for nothing.
        count: Number of picks.
        generator: For `k_means_plusplus`.
        selector: `k_center` takes the farthest each time; `k_means_plusplus` draws in proportion
            to the squared distance.
        init: `labelled` starts from the distances to what is labelled (UWE, Algorithm 1, line 6);
            `max_norm` leaves it out and starts at the embedding of largest norm.

    Returns:
        The picks; scores are distances at pick, and for a first pick without centres its norm.
    """
    centers = labelled if init == "labelled" else None
    notes = (_NO_CENTRES,) if init == "labelled" and centers is None else ()
    ranks = all_ranks()
    own = part_of(embedding, share(len(embedding), ranks))
    if selector == "k_center":
        picks, distance, _ = k_center_order(own, count, centers, exchange=ranks)
    else:
        picks = k_means_plusplus(own, count, generator, centers, exchange=ranks)
        known = None if centers is None else take(centers, slice(None))
        distance = _distance_at_pick(take(embedding, picks), known)
    if centers is None:
        distance[0] = take(embedding, picks[:1]).squares()[0].sqrt()
    return Picks(picks.numpy(), distance.numpy(), notes)


def _distance_at_pick(points: Points, centers: Points | None) -> Tensor:
    """Distance of each of k picks to the nearest centre or earlier pick: (k,) float64."""
    distance = torch.full((len(points),), torch.inf, dtype=torch.float64)
    for start in range(0, len(points), _CHUNK):
        part = points[start : start + _CHUNK]
        earlier = part.distances(points[: start + len(part)])
        own = torch.arange(start, start + len(part))[:, None]
        earlier.masked_fill_(torch.arange(earlier.shape[1]) >= own, torch.inf)
        nearest = earlier.amin(1)
        if centers is not None:
            nearest = torch.minimum(nearest, part.distances(centers).amin(1))
        distance[start : start + _CHUNK] = nearest
    return distance
