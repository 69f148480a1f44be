"""Statistics of a batch of picks: how uncertain, how diverse and how redundant it is.

UWE (TMLR 2024) compares batches by mean uncertainty, embedding magnitude and mean pairwise
distance (figure 7), and by the log determinant of the Gram matrix (table 6), as BADGE does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

_BLOCK = 1024
"""Rows on a side of a block of distances: 8 MiB in float64."""

_PAIRS = 1 << 21
"""Pairs of boxes compared at a time."""

_CANCELLED = 2.0**-20
"""Below this share of the squared norms, a squared distance is taken from the difference."""

RIDGE = 1e-6
"""Ridge of the Gram matrix, as a share of the mean squared norm."""

_LEAST_RIDGE = 1e-10


@dataclass(frozen=True)
class BatchStatistics:
    """A batch of picks in numbers.

    Attributes:
        count: Number of picks.
        uncertainty: Mean uncertainty.
        magnitude: Mean norm of the picks' embeddings.
        pairwise_distance: Mean Euclidean distance between two picks' features.
        log_determinant: Of the features' Gram matrix with a ridge, as in `log_determinant`. It
            grows with `count`: compare batches of one size, or what it comes to for each pick.
    """

    count: int
    uncertainty: float
    magnitude: float
    pairwise_distance: float
    log_determinant: float


@dataclass(frozen=True)
class Redundancy:
    """How much of a batch lies close together in the images.

    Attributes:
        same_image: Share of picks from an image that an earlier pick came from; 0 to 1.
        touching: Share of picks that share an edge, a corner or pixels with another pick of the
            same image; 0 to 1.
    """

    same_image: float
    touching: float


def batch_statistics(
    uncertainty: ArrayLike,
    features: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    ridge: float = RIDGE,
) -> BatchStatistics:
    """Describes a batch of picks.

    Args:
        uncertainty: (k,) uncertainty of every pick; k at least 1.
        features: (k, d) plain features, whose diversity is measured.
        weights: (k,) what scales each feature to its embedding, such as u^tau, for the magnitude;
            None: 1.
        ridge: As in `log_determinant`.

    Raises:
        ValueError: If shapes do not agree, there is no pick, or a value is not finite.
    """
    rows = _matrix(features, "features")
    values = _vector(uncertainty, "uncertainty", len(rows))
    scale = np.ones(len(rows)) if weights is None else _vector(weights, "weights", len(rows))
    if len(rows) == 0:
        raise ValueError("features: expected at least one pick, got none")
    return BatchStatistics(
        count=len(rows),
        uncertainty=float(values.mean()),
        magnitude=float((np.abs(scale) * np.linalg.norm(rows, axis=1)).mean()),
        pairwise_distance=mean_pairwise_distance(rows),
        log_determinant=log_determinant(rows, ridge),
    )


def mean_pairwise_distance(embeddings: ArrayLike) -> float:
    """Mean Euclidean distance over all pairs of rows (UWE, figure 7).

    Memory beyond the embeddings is that of a block of distances, however many rows there are.

    Args:
        embeddings: (k, d) real numbers.

    Returns:
        The mean over the k (k - 1) / 2 pairs, in the units of the embeddings; 0 for k below 2.

    Raises:
        ValueError: If `embeddings` is not a finite matrix.
    """
    rows = _matrix(embeddings, "embeddings")
    if len(rows) < 2:
        return 0.0
    points = torch.from_numpy(rows - rows.mean(0))  # small norms keep the products' digits
    squares = torch.linalg.vecdot(points, points)
    total = 0.0
    for i in range(0, len(points), _BLOCK):
        a, a_squares = points[i : i + _BLOCK], squares[i : i + _BLOCK]
        for j in range(i, len(points), _BLOCK):
            b, b_squares = points[j : j + _BLOCK], squares[j : j + _BLOCK]
            sums = a_squares[:, None] + b_squares
            squared = torch.addmm(sums, a, b.T, alpha=-2)
            lost = squared < sums * _CANCELLED
            if i == j:
                lost.fill_diagonal_(False)
                squared.fill_diagonal_(0.0)
            if bool(lost.any()):
                block = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
            else:
                block = squared.clamp_min_(0.0).sqrt_()
            total += float(block.sum()) / (2 if i == j else 1)
    return total / math.comb(len(points), 2)


def log_determinant(embeddings: ArrayLike, ridge: float = RIDGE) -> float:
    """Log determinant of the Gram matrix with a ridge: log det(E E^T + e I) (UWE, table 6).

    The Gram matrix is singular where there are more rows than columns (k > d) or rows are equal.
    The ridge e, `ridge` times the mean squared norm, keeps the value finite: every direction that
    a row fails to add costs log(ridge), whatever the units, since scaling all rows by c adds
    2 k log c and nothing else.

    Computed on the smaller of E E^T and E^T E, by Cholesky, with the matrix determinant lemma:
    det(e I_k + E E^T) = e^(k - d) det(e I_d + E^T E). 8,000 rows of 256 take a 256 x 256 matrix.

    Args:
        embeddings: (k, d) real numbers.
        ridge: At least 1e-10; a smaller one drowns in rounding.

    Returns:
        The log determinant, in nats; 0 for no row, minus infinity where all rows are zero.

    Raises:
        ValueError: If `embeddings` is not a finite matrix, or `ridge` is out of range.
    """
    rows = _matrix(embeddings, "embeddings")
    if not (math.isfinite(ridge) and ridge >= _LEAST_RIDGE):
        raise ValueError(f"ridge: expected a number of at least {_LEAST_RIDGE}, got {ridge}")
    if len(rows) == 0:
        return 0.0
    added = ridge * float(np.square(rows).sum(1).mean())
    if added == 0:
        return -math.inf
    count, width = rows.shape
    gram = rows @ rows.T if count <= width else rows.T @ rows
    gram[np.diag_indices_from(gram)] += added
    factor = np.linalg.cholesky(gram).diagonal()
    zeros = count - len(gram)
    return float(2 * np.log(factor).sum() + zeros * math.log(added))


def overlap(a: ArrayLike, b: ArrayLike) -> float:
    """Share of picks that two batches have in common.

    Args:
        a: (k,) distinct identifiers of picks, in any order.
        b: (m,) likewise.

    Returns:
        Common picks over the larger of k and m, so that 1 means the same picks and 0 none in
        common; 1 where both are empty.
    """
    first, second = np.asarray(a), np.asarray(b)
    larger = max(len(first), len(second))
    return len(np.intersect1d(first, second)) / larger if larger else 1.0


def redundancy(images: ArrayLike, boxes: ArrayLike) -> Redundancy:
    """How many picks come from the same image, and how many lie side by side.

    Args:
        images: (k,) integers, the image of every pick; k at least 1.
        boxes: (k, 4) integers, half-open (x0, y0, x1, y1) in pixels.

    Raises:
        ValueError: If shapes do not agree, or there is no pick.
    """
    image, box = np.asarray(images), np.asarray(boxes)
    if image.ndim != 1 or box.shape != (len(image), 4) or len(image) == 0:
        raise ValueError(
            "images and boxes: expected shapes (k,) and (k, 4) with k of at least 1, "
            f"got {image.shape} and {box.shape}"
        )
    distinct, place, counts = np.unique(image, return_inverse=True, return_counts=True)
    by_image = box[np.argsort(place, kind="stable")].astype(np.int64)
    return Redundancy(
        same_image=1 - len(distinct) / len(image),
        touching=float(_touching(by_image, counts).mean()),
    )


def _touching(boxes: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which boxes meet another of their group; groups of `counts` boxes follow one another."""
    starts = np.cumsum(counts) - counts
    start, others = np.repeat(starts, counts), np.repeat(counts, counts)
    ends = np.cumsum(others)  # of each box's comparisons, in one long list of all
    touching = np.zeros(len(boxes), np.bool_)
    first = 0
    while first < len(boxes):
        done = ends[first] - others[first]
        last = max(first + 1, int(np.searchsorted(ends, done + _PAIRS, side="right")))
        part = slice(first, last)
        one = np.repeat(np.arange(first, last), others[part])
        begins = ends[part] - others[part] - done
        other = np.arange(len(one)) + np.repeat(start[part] - begins, others[part])
        a, b = boxes[one], boxes[other]
        meet = (a[:, :2] <= b[:, 2:]).all(1) & (b[:, :2] <= a[:, 2:]).all(1) & (one != other)
        touching[one[meet]] = True
        first = last
    return touching


def _matrix(values: ArrayLike, name: str) -> NDArray[np.float64]:
    rows = np.asarray(values)
    if rows.ndim != 2 or rows.dtype.kind not in "fiu":
        raise ValueError(
            f"{name}: expected a real matrix (k, d), got {rows.dtype} of shape {rows.shape}"
        )
    rows = rows.astype(np.float64)
    if not np.isfinite(rows).all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    return rows


def _vector(values: ArrayLike, name: str, count: int) -> NDArray[np.float64]:
    row = np.asarray(values, dtype=np.float64)
    if row.shape != (count,) or not np.isfinite(row).all():
        raise ValueError(f"{name}: expected {count} finite values, got shape {row.shape}")
    return row
