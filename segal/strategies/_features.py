"""What the strategies share that look at where candidates lie in feature space."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.candidates.table import CandidateTable, StoredRows
from segal.functional.kmeans_plusplus import k_means_plusplus
from segal.signals import MeanFeature

FEATURE = MeanFeature()
Normalize = Literal["l2", "none"]
Floats = NDArray[np.floating]
Integers = NDArray[np.int64]

_CHUNK = 4096
"""Rows read at a time."""


def features_of(table: CandidateTable, normalize: Normalize) -> StoredRows:
    """(n, D) mean features as they are stored; of unit length where `normalize` is `l2`.

    Features of zeros stay as they are.
    """
    stored = table.stored(FEATURE.column)
    if normalize == "none":
        return stored
    norms = np.ones(len(stored))
    for start in range(0, len(stored), _CHUNK):
        part = np.asarray(stored[start : start + _CHUNK], np.float64)
        norms[start : start + _CHUNK] = np.linalg.norm(part, axis=1)
    return stored.scaled((1 / np.where(norms > 0, norms, 1)).astype(np.float32))


def in_memory(rows: StoredRows) -> NDArray[np.float32]:
    """(n, D) float32."""
    return np.array(rows[:], np.float32)


def k_means(
    features: NDArray[np.float32],
    clusters: int,
    generator: torch.Generator,
    first: int | None = None,
) -> tuple[Integers, Floats]:
    """Lloyd's algorithm from k-means++ seeding.

    Args:
        features: (n, D).
        clusters: How many; no more than n.
        generator: For the seeding.
        first: The row that the seeding starts at; None draws it.

    Returns:
        (n,) the cluster of each row, and the centroids; one may be empty where rows are equal.
    """
    from sklearn.cluster import KMeans  # noqa: PLC0415 (a quarter of the time any command starts in)

    if first is None:
        first = int(torch.randint(len(features), (1,), generator=generator))
    seeds = k_means_plusplus(torch.from_numpy(features), clusters, generator, first=first)
    found = KMeans(clusters, init=features[seeds.numpy()], n_init=1).fit(features)
    return found.labels_.astype(np.int64), found.cluster_centers_


def in_turn(
    features: Floats,
    labels: NDArray[np.integer],
    centroids: Floats,
    turn: Callable[[Floats, int], Floats] = lambda rank, _: rank,
) -> Integers:
    """Rows by the turn of (their rank by the distance to the centroid, the cluster's size).

    By default the nearest to each centroid, then the second nearest, and so on. In equal turns the
    cluster of the lowest row comes first.
    """
    distance = np.linalg.norm(features - centroids[labels], axis=1)
    turns = np.empty(len(features))
    first = np.empty(len(features), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranked = members[np.argsort(distance[members], kind="stable")]
        turns[ranked] = turn(np.arange(float(len(members))), len(members))
        first[members] = members[0]
    return np.lexsort((first, turns))


def joined(offered: StoredRows, labelled: StoredRows | None) -> Tensor:
    """(n + m, D) float32: what is on offer, then what is labelled."""
    parts = [in_memory(offered), *([] if labelled is None else [in_memory(labelled)])]
    return torch.from_numpy(np.concatenate(parts))
