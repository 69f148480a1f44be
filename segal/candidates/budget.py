"""Budgets: how much may be bought, and the longest prefix of a pick order that fits."""

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segal.errors import SegalError

Unit = Literal["regions", "share", "images"]
_UNITS: dict[str | None, Unit] = {None: "regions", "%": "share", "img": "images"}
_FORMS = "a number of regions such as 500, a share of the pool such as 2%, or 10img"


@dataclass(frozen=True)
class Budget:
    """A budget as it was given.

    Attributes:
        amount: Above 0: regions, per cent of the pool's pixels, or image equivalents (multiples of
            the mean image of the pool).
        unit: What `amount` counts.
    """

    amount: Fraction
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Reads `500`, `2%` or `10img`.

        Raises:
            SegalError: For another form, or an amount that is not above 0.
        """
        match = re.fullmatch(r"(-?\d{1,12}(?:\.\d{1,12})?)(%|img)?", str(text).strip())
        amount = Fraction(match[1]) if match else Fraction(0)
        unit = _UNITS[match[2]] if match else "regions"
        if amount <= 0 or (unit == "regions" and amount.denominator != 1):
            raise SegalError(
                "budget: not a budget",
                expected=_FORMS + ", above 0",
                got=repr(text),
                remedy="give for example --budget 500",
            )
        return cls(amount, unit)

    def __str__(self) -> str:
        # Exact: the denominator is a power of ten.
        number = f"{Decimal(self.amount.numerator) / Decimal(self.amount.denominator):f}"
        return number + next(suffix or "" for suffix, unit in _UNITS.items() if unit == self.unit)

    def allowance(self, image_pixels: NDArray[np.int64], elements: str = "pixels") -> "Allowance":
        """What the budget comes to for a pool.

        Args:
            image_pixels: Pixels of every image of the pool, bought or not, so that a share means
                the same in every round.
            elements: What pixels are called, in messages.
        """
        total = int(image_pixels.sum())
        if self.unit == "regions":
            return Allowance(int(self.amount), "regions", elements)
        if self.unit == "share":
            return Allowance(int(self.amount * total / 100), "pixels", elements)
        return Allowance(int(self.amount * total / len(image_pixels)), "pixels", elements)


@dataclass(frozen=True)
class Allowance:
    """A budget in countable terms.

    Attributes:
        limit: What may be spent.
        counts: Whether that is a number of regions or of pixels.
        elements: What pixels are called, in messages: a task may count something else.
    """

    limit: int
    counts: Literal["regions", "pixels"]
    elements: str = "pixels"

    def __str__(self) -> str:
        return f"{self.limit} {'regions' if self.counts == 'regions' else self.elements}"

    def fits(self, pixels: NDArray[np.int64]) -> int:
        """Length of the longest prefix that fits.

        Args:
            pixels: (n,) price of each pick in pixels, in pick order.
        """
        prices = np.ones_like(pixels) if self.counts == "regions" else pixels
        return int(np.searchsorted(np.cumsum(prices), self.limit, side="right"))

    def most(self, pixels: NDArray[np.int64]) -> int:
        """The most picks that could fit, whichever they are, of candidates at these prices."""
        return self.fits(np.sort(pixels))
