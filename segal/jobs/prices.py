"""What candidates cost in what a budget counts: as expected, or as annotators would draw them."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from segal.candidates.budget import FORMS, Allowance, Budget, Prices
from segal.candidates.regions import Box, RegionSize
from segal.candidates.table import CandidateTable
from segal.config import RunConfig, SelectConfig
from segal.errors import SegalError
from segal.runs.acquisition import Offer
from segal.runs.oracle import Oracle
from segal.signals import Signal
from segal.signals.expected_objects import ExpectedObjects
from segal.tasks import TASKS, find_task

EXPECTED = ExpectedObjects()


def signals_of(budget: str) -> tuple[Signal, ...]:
    """What is measured of candidates to tell what they will cost, beside what a strategy asks."""
    return (EXPECTED,) if Budget.parse(budget).unit == "boxes" else ()


def unfit_budgets(config: SelectConfig | RunConfig) -> list[SegalError]:
    """Budgets in boxes, of a task whose annotators draw none, or before they have drawn them."""
    asks_people = isinstance(config, RunConfig) and config.annotate
    if find_task(config.task).by_the_box and not asks_people:
        return []
    if isinstance(config, SelectConfig):
        given = {"budget": config.budget}
    else:
        given = {f"budgets.{i}": budget for i, budget in enumerate(config.budgets)}
        given["seed_set"] = config.seed_set
    drawing = ", ".join(name for name in TASKS if TASKS.get(name).by_the_box)
    return [
        SegalError(
            f"{key}: in boxes, which "
            + ("nobody has drawn yet" if asks_people else f"nobody draws in {config.task}"),
            expected=FORMS,
            got=budget,
            remedy="give one of these, such as 10img"
            if asks_people
            else f"give one of these; boxes are of the task {drawing}",
        )
        for key, budget in given.items()
        if Budget.parse(budget).unit == "boxes"
    ]


def expected_prices(table: CandidateTable, offer: Offer, allowance: Allowance) -> Prices:
    """What is known of prices before anyone has labelled.

    Args:
        table: All candidates of the region size, at their whole pixels; of an allowance in boxes
            with what `signals_of` names.
        offer: Which of them can be bought.
        allowance: What is counted.

    Returns:
        (n,) of those on offer: pixels; or boxes that are expected, of a candidate that is bought in
        part the share of its pixels that is left.
    """
    if allowance.counts != "boxes":
        return offer.prices
    left = offer.prices / table.pixels[offer.rows]
    prices: NDArray[np.float64] = table.values[EXPECTED.column][offer.rows] * left
    return prices


def drawn_prices(
    oracle: Oracle,
    sizes: Mapping[str, tuple[int, int]],
    region: RegionSize,
    bought: Mapping[str, Sequence[Box]],
    offer: Offer,
    allowance: Allowance,
) -> Prices:
    """What annotators will be paid, as the oracle of a simulation knows it.

    Args:
        oracle: Knows the labels.
        sizes: (height, width) of the pool's images, in candidate order.
        region: Size of the candidates.
        bought: Boxes by image.
        offer: Which candidates can be bought.
        allowance: What is counted.

    Returns:
        (n,) of those on offer: pixels, or boxes that are not drawn yet.
    """
    if allowance.counts != "boxes":
        return offer.prices
    counts: list[int] = []
    for path, size in sizes.items():
        tiles = [(x0, y0, x1, y1) for x0, y0, x1, y1 in region.grid(*size).boxes().tolist()]
        counts += oracle.clicks(path, tiles, bought.get(path, ()))  # tiles of an image are apart
    return np.array(counts, np.int64)[offer.rows]
