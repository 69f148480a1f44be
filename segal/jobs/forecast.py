"""What `segal plan` finds out beside the pass: the time of the choice, clicks, and what is free."""

import math
import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from segal.candidates.regions import RegionSize
from segal.candidates.table import CandidateTable
from segal.config import SelectConfig
from segal.errors import SegalError
from segal.strategies.base import Strategy
from segal.system.cores import memory_limit
from segal.system.machine import readers
from segal.tasks import find_task

__all__ = ["Choice", "free_disk", "free_memory", "mean_clicks", "same_disk", "time_choice"]

_BYTES = 2**27  # of made-up embeddings at most
_ENOUGH, _FIRST, _MOST = 0.3, 2000, 200_000
"""Seconds of a trial that are enough to go by; made-up candidates at first, and at most."""
_LEAST_PICKS = 32
_POWERS = 2
_LOOKED_AT = 12  # labelled images


@dataclass(frozen=True)
class Choice:
    """How long a choice takes, by a trial.

    Attributes:
        seconds: For all candidates and picks.
        candidates: Of the trial.
        picks: Likewise.
        powers: How the time grows with either: with which powers, which are whole numbers.
    """

    seconds: float
    candidates: int
    picks: int
    powers: tuple[int, int]


def time_choice(
    strategy: Strategy, few: CandidateTable, labelled: CandidateTable, candidates: int, picks: int
) -> Choice | None:
    """Lets a strategy choose among made-up candidates, and scales the time that it takes.

    They are those that a trial measured, again and again, with a little noise, until a choice takes
    long enough, or there are as many as are on offer. Seconds then grow with whole powers of
    candidates and picks, which trials of half as many of either tell.

    Args:
        strategy: It.
        few: Candidates that were measured.
        labelled: What is labelled, measured likewise.
        candidates: How many there will be.
        picks: How many are to be picked.

    Returns:
        None where the strategy cannot choose among such candidates.
    """
    width = sum(column.shape[1] for column in few.embeddings.values())
    most = max(2, min(candidates, _MOST, _BYTES // (4 * max(1, width))))
    share = picks / candidates

    def timed(n: int, k: int) -> float:
        table = _made_up(few, n)
        generator = torch.Generator().manual_seed(0)
        started = time.perf_counter()
        strategy.select(table, labelled, k, generator)
        return time.perf_counter() - started

    n = min(_FIRST, most)
    try:
        timed(min(n, len(few)), 1)  # what is loaded late
        while True:
            k = min(n, picks, max(_LEAST_PICKS, round(n * share)))
            seconds = timed(n, k)
            if seconds >= _ENOUGH or n == most:
                break
            n = min(most, 4 * n)
        of_candidates = of_picks = 0
        if n < candidates:
            of_candidates = max(1, _power(seconds, timed(n // 2, min(k, n // 2))))
        if k < picks:
            of_picks = _power(seconds, timed(n, max(1, k // 2)))
    except SegalError:
        return None
    grown = (candidates / n) ** of_candidates * (picks / k) ** of_picks
    return Choice(seconds * grown, n, k, (of_candidates, of_picks))


def _power(whole: float, half: float) -> int:
    """With which power time grows, by that of all and that of half."""
    return min(_POWERS, max(0, round(math.log2(max(whole, 1e-9) / max(half, 1e-9)))))


def _made_up(few: CandidateTable, count: int) -> CandidateTable:
    """Candidates like a few, each of which is another one; their images are other ones, too."""
    rows = np.arange(count) % len(few)
    turn = np.arange(count) // len(few)
    rng = np.random.default_rng(0)

    def noisy(column: NDArray[Any]) -> NDArray[Any]:
        values = np.array(column, np.float32 if column.ndim > 1 else np.float64)
        spread = 0.1 * values.std(0)
        noise = rng.standard_normal((count, *values.shape[1:]), np.float32)
        made = values[rows] + noise * spread
        if column.ndim == 1:  # a strategy may take for granted that a score is positive
            made = np.clip(made, values.min(), values.max())
        return np.asarray(made, column.dtype)

    return CandidateTable(
        images=tuple(f"{lap}/{path}" for lap in range(int(turn[-1]) + 1) for path in few.images),
        image=(few.image[rows] + turn * len(few.images)).astype(np.int32),
        box=few.box[rows],
        pixels=few.pixels[rows],
        values={name: noisy(column) for name, column in few.values.items()},
        embeddings={name: noisy(column) for name, column in few.embeddings.items()},
    )


def mean_clicks(config: SelectConfig) -> tuple[float, int] | None:
    """Clicks that a region takes, by labels of some images of the reference set.

    Args:
        config: The configuration; its reference set need not be one that the strategy looks at.

    Returns:
        The mean over regions of the configured size, and the number of images; None where no
        labels are given.

    Raises:
        SegalError: If there is no such data set, or a label cannot be read.
    """
    if config.reference is None:
        return None
    task, source = find_task(config.task), config.reference.beside(config)

    def chosen(_: Path, paths: Sequence[str]) -> Collection[str]:
        return set(paths[:: max(1, len(paths) // _LOOKED_AT)][:_LOOKED_AT])

    workers = readers(config.machine.workers)
    dataset = task.open_split(source, source.split, chosen, workers=workers)
    region, counts = RegionSize.parse(config.region), list[int]()
    for index in range(len(dataset)):
        boxes = task.units(*dataset.pool.size(index), region).boxes().tolist()
        counts += task.clicks(dataset.read_label(index), [tuple(box) for box in boxes], [])
    return float(np.mean(counts)), len(dataset)


def free_disk(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be made."""
    return shutil.disk_usage(_there(folder)).free


def same_disk(one: Path, other: Path) -> bool:
    """Whether two folders are, or will be made, on one file system."""
    return _there(one).stat().st_dev == _there(other).stat().st_dev


def _there(folder: Path) -> Path:
    """The first of a folder and those that it is in that is there."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return there


def free_memory() -> int:
    """Bytes of memory that this process could have, with those that it has."""
    own = psutil.Process().memory_info().rss
    return int(min(psutil.virtual_memory().available + own, memory_limit()))
