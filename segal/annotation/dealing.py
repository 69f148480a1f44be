"""Who is given which task, and what of an image they see."""

import math
from collections.abc import Sequence
from dataclasses import replace

from segal.annotation.handout import AnnotationTask
from segal.candidates.regions import Box

LEAST_SIDE = 32
"""Tools show nothing of very small images."""


def deal(
    tasks: Sequence[AnnotationTask], annotators: Sequence[str], overlap: float
) -> list[AnnotationTask]:
    """Shares tasks out, so that all are given as many, from the first picks to the last.

    Args:
        tasks: In pick order, for nobody yet.
        annotators: Their names; nobody for one task each that anyone may do.
        overlap: Share of the tasks, evenly spread, that a second annotator is given too, in [0, 1].

    Returns:
        Tasks in pick order, those of two annotators twice.

    Examples:
        >>> tasks = [AnnotationTask(str(i), i, "a.png", "", (8, 8), (0, 0, 8, 8), (0, 0, 8, 8), "")
        ...          for i in range(4)]
        >>> [(t.key, t.annotator) for t in deal(tasks, ["ann", "bob"], 0.25)]
        [('0', 'ann'), ('1', 'bob'), ('2', 'ann'), ('3', 'bob'), ('3', 'ann')]
    """
    if not annotators:
        return list(tasks)
    dealt, load = [], dict.fromkeys(annotators, 0)
    for place, task in enumerate(tasks):
        is_double = math.floor((place + 1) * overlap) > math.floor(place * overlap)
        chosen = sorted(annotators, key=lambda name: load[name])[: 2 if is_double else 1]
        for name in chosen:
            dealt.append(replace(task, annotator=name))
            load[name] += 1
    return dealt


def crop_frame(region: Box, size: tuple[int, int], pad: int) -> Box:
    """A region with what is around it, of at least `LEAST_SIDE` pixels a side where there are.

    Args:
        region: It.
        size: (height, width) of the image.
        pad: Pixels on each side, as far as the image reaches.

    Examples:
        >>> crop_frame((0, 8, 8, 16), (64, 20), 4)
        (0, 0, 20, 32)
    """
    height, width = size
    x0, x1 = _padded(region[0], region[2], width, pad)
    y0, y1 = _padded(region[1], region[3], height, pad)
    return x0, y0, x1, y1


def _padded(start: int, stop: int, limit: int, pad: int) -> tuple[int, int]:
    start, stop = max(0, start - pad), min(limit, stop + pad)
    short = max(0, min(LEAST_SIDE, limit) - (stop - start))
    start = max(0, start - (short + 1) // 2)
    stop = min(limit, max(stop, start + LEAST_SIDE) if short else stop)
    return max(0, min(start, stop - LEAST_SIDE)) if short else start, stop
