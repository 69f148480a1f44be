"""Picks that are not all of one image, nor of frames next to one another."""

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def spread_out(
    order: NDArray[np.int64],
    image: NDArray[np.integer],
    *,
    per_image: int | None = None,
    frames: int | None = None,
    track: Sequence[object] = (),
    frame: Sequence[int] = (),
) -> NDArray[np.bool_]:
    """Goes through candidates in order, and keeps those that are not too near what it kept.

    Args:
        order: (m,) positions of candidates, the best first.
        image: (n,) the image of each candidate.
        per_image: The most that are kept of an image; None for any number.
        frames: The least difference between the frame numbers of two images of one track of which
            something is kept; None for any. Of one image it says nothing.
        track: Of each image, what video it is of; needed with `frames`.
        frame: Of each image, its number in it.

    Returns:
        (m,) whether each is kept.

    Examples:
        >>> order, image = np.array([0, 1, 2, 3]), np.array([0, 0, 1, 2])
        >>> spread_out(order, image, per_image=1).tolist()
        [True, False, True, True]
        >>> apart = spread_out(order, image, frames=5, track="aaa", frame=[10, 12, 15])
        >>> apart.tolist()
        [True, True, False, True]
    """
    kept = np.zeros(len(order), np.bool_)
    taken: Counter[int] = Counter()
    seen: defaultdict[object, list[int]] = defaultdict(list)
    for place, owner in enumerate(image[order].tolist()):
        if per_image is not None and taken[owner] >= per_image:
            continue
        if frames is not None and not taken[owner]:
            # What is kept is ascending, and apart: only its two neighbours can be too near.
            others, number = seen[track[owner]], frame[owner]
            at = bisect_left(others, number)
            if any(abs(number - other) < frames for other in others[max(0, at - 1) : at + 1]):
                continue
            insort(others, number)
        taken[owner] += 1
        kept[place] = True
    return kept
