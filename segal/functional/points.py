"""Points of an embedding, and the products and differences that distances are made of.

A point is a vector, or an outer product of two short vectors that is never built: of
g = a (x) b and g' = a' (x) b' the inner product is (a.a')(b.b').
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

Index = slice | Sequence[int] | Tensor


class Points(Protocol):
    """Some points."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, index: Index, /) -> Self:
        """Some of them."""
        ...

    def put(self, where: slice, others: Self) -> None:
        """Writes others in the place of some."""
        ...

    def tensors(self) -> tuple[Tensor, ...]:
        """What they are held as, (m, ...) each."""
        ...

    def made_of(self, tensors: Sequence[Tensor]) -> Self:
        """Points of this kind that are held as some tensors."""
        ...

    def float(self) -> Self:
        """In float32."""
        ...

    def double(self) -> Self:
        """In float64."""
        ...

    def squares(self) -> Tensor:
        """(m,) squared norms."""
        ...

    def products(self, others: Self, offsets: Tensor) -> Tensor:
        """(m, k) inner products with others, each plus the other's offset (k,)."""
        ...

    def apart(self, i: Tensor, j: Tensor) -> Tensor:
        """(pairs,) squared distances between points i and j, accurate where they are close."""
        ...

    def nearest(self, others: Self) -> Tensor:
        """(m,) squared distances to the nearest of others, accurate where it is close."""
        ...

    def distances(self, others: Self) -> Tensor:
        """(m, k) distances to others."""
        ...


@dataclass(frozen=True, eq=False)
class Vectors:
    """Points that are held as they are.

    Attributes:
        values: (m, d).
    """

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Index) -> Vectors:
        return Vectors(self.values[index])

    def put(self, where: slice, others: Vectors) -> None:
        """See `Points`."""
        self.values[where] = others.values

    def tensors(self) -> tuple[Tensor, ...]:
        """See `Points`."""
        return (self.values,)

    def made_of(self, tensors: Sequence[Tensor]) -> Vectors:
        """See `Points`."""
        return Vectors(*tensors)

    def float(self) -> Vectors:
        """See `Points`."""
        return Vectors(self.values.float())

    def double(self) -> Vectors:
        """See `Points`."""
        return Vectors(self.values.double())

    def squares(self) -> Tensor:
        """See `Points`."""
        squares: Tensor = torch.linalg.vecdot(self.values, self.values)
        return squares

    def products(self, others: Vectors, offsets: Tensor) -> Tensor:
        """See `Points`."""
        return torch.addmm(offsets, self.values, others.values.T)

    def apart(self, i: Tensor, j: Tensor) -> Tensor:
        """See `Points`; from the difference itself."""
        return (self.values[i] - self.values[j]).square_().sum(1)

    def nearest(self, others: Vectors) -> Tensor:
        """See `Points`; from the difference itself."""
        mode = "donot_use_mm_for_euclid_dist"
        closest = torch.cdist(self.values, others.values, compute_mode=mode).argmin(1)
        difference = self.values - others.values[closest]
        return difference.square_().sum(1)

    def distances(self, others: Vectors) -> Tensor:
        """See `Points`."""
        return torch.cdist(self.values, others.values)


@dataclass(frozen=True, eq=False)
class Outers:
    """Points that are outer products of vectors.

    With g = n u (x) v, u and v of norm 1, `|g - g'|^2 = (n - n')^2 + 2 n n' (s + t - s t)`, where
    `s = |u - u'|^2 / 2` and `t = |v - v'|^2 / 2`: nothing cancels where directions are close.

    Attributes:
        left: (m, c).
        right: (m, d).
    """

    left: Tensor
    right: Tensor

    def __len__(self) -> int:
        return len(self.left)

    def __getitem__(self, index: Index) -> Outers:
        return Outers(self.left[index], self.right[index])

    def put(self, where: slice, others: Outers) -> None:
        """See `Points`."""
        self.left[where], self.right[where] = others.left, others.right

    def tensors(self) -> tuple[Tensor, ...]:
        """See `Points`."""
        return self.left, self.right

    def made_of(self, tensors: Sequence[Tensor]) -> Outers:
        """See `Points`."""
        return Outers(*tensors)

    def float(self) -> Outers:
        """See `Points`."""
        return Outers(self.left.float(), self.right.float())

    def double(self) -> Outers:
        """See `Points`."""
        return Outers(self.left.double(), self.right.double())

    def squares(self) -> Tensor:
        """See `Points`."""
        left: Tensor = torch.linalg.vecdot(self.left, self.left)
        right: Tensor = torch.linalg.vecdot(self.right, self.right)
        return left * right

    def products(self, others: Outers, offsets: Tensor) -> Tensor:
        """See `Points`."""
        product = torch.mm(self.left, others.left.T)
        return product.mul_(torch.mm(self.right, others.right.T)).add_(offsets)

    def apart(self, i: Tensor, j: Tensor) -> Tensor:
        """See `Points`."""
        left, right, norms = self._directions()
        halves = ((x[i] - x[j]).square_().sum(1).mul_(0.5) for x in (left, right))
        return _joined(norms[i], norms[j], *halves)

    def nearest(self, others: Outers) -> Tensor:
        """See `Points`."""
        return self._squared_distances(others).amin(1)

    def distances(self, others: Outers) -> Tensor:
        """See `Points`."""
        return self._squared_distances(others).sqrt_()

    def _squared_distances(self, others: Outers) -> Tensor:
        mode = "donot_use_mm_for_euclid_dist"
        left, right, norms = self._directions()
        their_left, their_right, their_norms = others._directions()
        halves = (
            torch.cdist(own, their, compute_mode=mode).square_().mul_(0.5)
            for own, their in ((left, their_left), (right, their_right))
        )
        return _joined(norms[:, None], their_norms, *halves)

    def _directions(self) -> tuple[Tensor, Tensor, Tensor]:
        """Factors of norm 1, or 0, and the norms of the products."""
        norms = [torch.linalg.vector_norm(x, dim=1) for x in (self.left, self.right)]
        left, right = (
            x / torch.where(norm > 0, norm, 1)[:, None]
            for x, norm in zip((self.left, self.right), norms, strict=True)
        )
        return left, right, norms[0] * norms[1]


def _joined(norms: Tensor, others: Tensor, s: Tensor, t: Tensor) -> Tensor:
    return (norms - others).square_() + 2 * norms * others * (s + t - s * t)
