"""Budgets: how much may be bought, and what of a pick order that buys."""

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segal.errors import SegalError

Unit = Literal["regions", "share", "images", "boxes"]
Fit = Literal["skip", "prefix"]
"""What becomes of picks that a budget does not buy any more: `skip` goes on to later ones that it
does, `prefix` ends there."""
_UNITS: dict[str | None, Unit] = {
    None: "regions",
    "%": "share",
    "img": "images",
    "box": "boxes",
}
FORMS = "a number of regions such as 500, a share of the pool such as 2%, or 10img"
"""Those that every task takes."""

Prices = NDArray[np.int64 | np.float64]


@dataclass(frozen=True)
class Budget:
    """A budget as it was given.

    Attributes:
        amount: Above 0: regions, per cent of the pool's pixels, image equivalents (multiples of the
            mean image of the pool), or boxes that annotators draw.
        unit: What `amount` counts.
    """

    amount: Fraction
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Reads `500`, `2%`, `10img` or `500box`.

        Raises:
            SegalError: For another form, or an amount that is not above 0.
        """
        match = re.fullmatch(r"(-?\d{1,12}(?:\.\d{1,12})?)(%|img|box)?", str(text).strip())
        amount = Fraction(match[1]) if match else Fraction(0)
        unit = _UNITS[match[2]] if match else "regions"
        if amount <= 0 or (unit in {"regions", "boxes"} and amount.denominator != 1):
            raise SegalError(
                "budget: not a budget",
                expected=FORMS + "; where objects are found 500box; above 0",
                got=repr(text),
                remedy="give for example --budget 500",
            )
        return cls(amount, unit)

    def __str__(self) -> str:
        # Exact: the denominator is a power of ten.
        number = f"{Decimal(self.amount.numerator) / Decimal(self.amount.denominator):f}"
        return number + next(suffix or "" for suffix, unit in _UNITS.items() if unit == self.unit)

    def allowance(
        self, image_pixels: NDArray[np.int64], elements: str = "pixels", fit: Fit = "prefix"
    ) -> "Allowance":
        """What the budget comes to for a pool.

        Args:
            image_pixels: Pixels of every image of the pool, bought or not, so that a share means
                the same in every round.
            elements: What pixels are called, in messages.
            fit: What becomes of picks that do not fit. In boxes it is `prefix` always: nobody knows
                what a pick costs before it is labelled.
        """
        total = int(image_pixels.sum())
        if self.unit == "regions":
            return Allowance(int(self.amount), "regions", elements, fit)
        if self.unit == "boxes":
            return Allowance(int(self.amount), "boxes", "boxes")
        if self.unit == "share":
            return Allowance(int(self.amount * total / 100), "pixels", elements, fit)
        return Allowance(int(self.amount * total / len(image_pixels)), "pixels", elements, fit)


@dataclass(frozen=True)
class Allowance:
    """A budget in countable terms.

    Attributes:
        limit: What may be spent.
        counts: Whether that is a number of regions, of pixels, or of boxes.
        elements: What it counts is called, in messages, where that is not regions.
        fit: What becomes of picks that do not fit.
    """

    limit: int
    counts: Literal["regions", "pixels", "boxes"]
    elements: str = "pixels"
    fit: Fit = "prefix"

    def __str__(self) -> str:
        return f"{self.limit} {'regions' if self.counts == 'regions' else self.elements}"

    def fits(self, prices: Prices) -> int:
        """Length of the longest prefix that fits.

        Args:
            prices: (n,) price of each pick in what is counted, at least 0, in pick order; of no use
                where regions are counted.
        """
        counted = np.ones_like(prices) if self.counts == "regions" else prices
        return int(np.searchsorted(np.cumsum(counted), self.limit, side="right"))

    def takes(self, prices: Prices) -> NDArray[np.int64]:
        """What of a pick order is bought.

        Args:
            prices: As `fits` takes them.

        Returns:
            Positions in the order, ascending: the longest prefix that fits, and with `skip` each
            later pick that what is left then buys.
        """
        counted = np.ones_like(prices) if self.counts == "regions" else prices
        ahead, left, taken = np.arange(len(counted)), self.limit, [np.zeros(0, np.int64)]
        while len(ahead):
            sums = np.cumsum(counted[ahead])
            fits = int(np.searchsorted(sums, left, side="right"))
            taken.append(ahead[:fits])
            if self.fit == "prefix":
                break
            left -= sums[fits - 1] if fits else 0
            ahead = ahead[fits:][counted[ahead[fits:]] <= left]
        return np.concatenate(taken)

    def most(self, prices: Prices) -> int:
        """The most picks that could fit, whichever they are, of candidates at these prices."""
        return self.fits(np.sort(prices))

    def about(self, price: float, candidates: int) -> int:
        """How many of some candidates it buys at a mean price: from 1 to all of them."""
        if self.limit >= price * candidates:
            return candidates
        return max(1, round(self.limit / price))
