"""What becomes of a round's picks: their statistics, the map they are shown on, their price."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from segal.candidates.regions import Box
from segal.candidates.selection import Selected
from segal.candidates.table import CandidateTable
from segal.functional.batch import batch_statistics
from segal.models.wrapped import Model, NoHeadError
from segal.runs.ledger import Purchase
from segal.runs.oracle import Oracle
from segal.signals import MeanFeature, Signal, Value
from segal.strategies.base import PassContext, Strategy
from segal.system.console import bar

_ENTROPY, _FEATURE = Value("entropy"), MeanFeature()
MEASURED: tuple[Signal, ...] = (_ENTROPY, _FEATURE)
"""What the statistics of picks are taken from, whatever the strategy goes by."""


def measured_with(model: Model) -> tuple[Signal, ...]:
    """`MEASURED` as far as a network gives it: not every one gives features."""
    try:
        model.check_features()
    except NoHeadError:
        return (_ENTROPY,)
    return MEASURED


def describe_picks(table: CandidateTable, rows: Sequence[int]) -> dict[str, Any]:
    """Statistics of picks, None for infinity; empty where the scan did not measure them.

    Args:
        table: The candidates.
        rows: Which of them were picked.
    """
    if _ENTROPY.column not in table.values or _FEATURE.column not in table.embeddings:
        return {}
    features = np.asarray(table.embeddings[_FEATURE.column][rows], np.float32)
    measured = asdict(batch_statistics(table.values[_ENTROPY.column][rows], features))
    return {k: v if math.isfinite(v) else None for k, v in measured.items()}


def boxes_of(regions: Iterable[Selected | Purchase]) -> dict[str, list[Box]]:
    """Boxes of regions by image, in their order."""
    boxes: dict[str, list[Box]] = {}
    for region in regions:
        boxes.setdefault(region.image, []).append(region.box)
    return boxes


def shown_value(strategy: Strategy) -> Value:
    """The uncertainty that a strategy goes by; entropy for one that goes by none."""
    signals = next(iter(strategy.passes(PassContext())), [])
    return next((s for s in signals if isinstance(s, Value)), _ENTROPY)


def selected_from(purchases: Iterable[Purchase]) -> list[Selected]:
    """What was selected, as it was booked."""
    return [Selected(p.rank, p.image, p.box, p.pixels or 0, p.score) for p in purchases]


def rows_of(table: CandidateTable, selected: Iterable[Selected]) -> list[int]:
    """Where picks stand in the table of the candidates."""
    places = zip(table.image.tolist(), map(tuple, table.box.tolist()), strict=True)
    rows = {(table.images[image], box): row for row, (image, box) in enumerate(places)}
    return [rows[s.image, s.box] for s in selected]


def priced(
    strategy: str,
    drawn: Sequence[tuple[str, Box, float]],
    oracle: Oracle,
    before: Mapping[str, Sequence[Box]],
) -> list[Purchase]:
    """Regions to buy, with the clicks that the oracle took for them and digests of their labels.

    Of labels that people have yet to make neither is known.

    Args:
        strategy: What picked them.
        drawn: Image, box and score of each, in pick order.
        oracle: Knows the labels.
        before: Boxes that were bought before, by image.

    Raises:
        SegalError: If a label cannot be read.
    """
    if oracle.asks_people:
        return [Purchase(rank, strategy, *one) for rank, one in enumerate(drawn, 1)]
    wanted: dict[str, list[Box]] = {}
    for image, box, _ in drawn:
        wanted.setdefault(image, []).append(box)
    clicks: dict[tuple[str, Box], int] = {}
    labels: dict[tuple[str, Box], str] = {}
    with bar("Counting clicks") as advance:
        for done, (image, boxes) in enumerate(wanted.items(), 1):
            counts = oracle.clicks(image, boxes, before.get(image, ()))
            clicks |= {(image, box): n for box, n in zip(boxes, counts, strict=True)}
            digests = oracle.digests(image, boxes)
            labels |= {(image, box): d for box, d in zip(boxes, digests, strict=True)}
            advance(done, len(wanted))
    return [
        Purchase(
            *(rank, strategy, image, box, score),
            clicks=clicks[image, box],
            label=labels[image, box],
        )
        for rank, (image, box, score) in enumerate(drawn, 1)
    ]
