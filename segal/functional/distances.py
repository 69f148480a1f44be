"""Squared Euclidean distances between the rows of a large embedding and centres, in float64."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segal.functional.exchange import ALONE, Exchange
from segal.functional.points import Outers, Points, Vectors
from segal.functional.shares import gathered, joined, spread


class ReadRows(Protocol):
    """An (n, d) floating-point matrix of which rows are read when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        ...

    @property
    def ndim(self) -> int:
        """2."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """A floating one."""
        ...

    def __len__(self) -> int:
        """How many rows."""
        ...

    def __getitem__(self, rows: Any, /) -> npt.NDArray[np.floating]:
        """Rows of a slice, or of an array of positions."""
        ...

    def part(self, where: slice, /) -> Self:
        """Some rows that follow one another, not read yet."""
        ...


Matrix = Tensor | npt.NDArray[np.floating] | ReadRows
"""An (n, d) floating-point matrix; a NumPy array may be memory-mapped and is read in pieces."""


@dataclass(frozen=True, eq=False)
class OuterProducts:
    """An embedding whose row i is the outer product of rows i of two matrices, flattened.

    Attributes:
        left: (n, c).
        right: (n, d).

    Examples:
        >>> products = OuterProducts(torch.eye(2), torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        >>> len(products)
        2
    """

    left: Matrix
    right: Matrix

    def __len__(self) -> int:
        return int(self.left.shape[0])


Embedding = Matrix | OuterProducts
"""An (n, d) floating-point matrix, or (n, c d) outer products that are never built."""


def part_of(x: Embedding, where: slice) -> Embedding:
    """Some rows of an embedding that follow one another; none is read."""
    if isinstance(x, OuterProducts):
        return OuterProducts(_part(x.left, where), _part(x.right, where))
    return _part(x, where)


def _part(x: Matrix, where: slice) -> Matrix:
    return x[where] if isinstance(x, Tensor | np.ndarray) else x.part(where)


_CLOSE = 2.0**-8
"""Below this share of the squared norm a product has lost too many digits: use the difference."""

_LONGEST_CHUNK, _NUMBERS = 512, 2**20
"""Rows, and numbers in them, that are converted and multiplied at a time on a processor."""

_SQUARED = 2**16
"""Numbers that are squared at a time there: in float64 they stay in the processor's cache."""

DIGEST = 16
"""Bytes by which rows are known for equal: no two that differ have been found to share them."""

_FACTOR_LIMIT = 2.0**30
"""Of the squared norm of a factor: what the other loses to underflow is small beside 2^-100."""


class _Reader:
    """A matrix whose rows are read in pieces, in the precision that is asked for."""

    def __init__(self, x: Matrix, name: str = "x") -> None:
        floating = x.is_floating_point() if isinstance(x, Tensor) else x.dtype.kind == "f"
        if x.ndim != 2 or not floating:
            raise ValueError(
                f"{name}: expected a floating-point matrix (n, d), "
                f"got {x.dtype} of shape {tuple(x.shape)}"
            )
        self.count, self.width = int(x.shape[0]), int(x.shape[1])
        self.device = x.device if isinstance(x, Tensor) else torch.device("cpu")
        # A view of a memory map as a plain array is read with less ado.
        plain = x.view(np.ndarray) if isinstance(x, np.ndarray) else x
        self._x = plain.detach() if isinstance(plain, Tensor) else plain
        size = x.element_size() if isinstance(x, Tensor) else x.dtype.itemsize
        self.fits_float32 = size <= 4

    def read(self, index: slice | Tensor, dtype: torch.dtype) -> Tensor:
        """Rows; those of a slice may be a view of the caller's."""
        if isinstance(self._x, Tensor):
            # index_select is several times faster than indexing.
            part = self._x[index] if isinstance(index, slice) else self._x.index_select(0, index)
            return part.to(dtype)
        where = index.numpy() if isinstance(index, Tensor) else index
        rows = np.asarray(self._x[where])
        if rows.dtype == np.float16:  # which torch converts several times faster
            half = torch.from_numpy(rows if rows.flags.writeable else rows.copy())
            return half.float().to(dtype)
        narrow = np.float32 if dtype == torch.float32 else np.float64
        own = isinstance(index, Tensor)  # such rows are a copy already
        return torch.from_numpy(rows.astype(narrow, order="C", copy=not own))

    def exact(self, index: Tensor) -> npt.NDArray[np.floating]:
        """Rows such that equal ones are equal byte for byte: there is one zero."""
        rows = self.read(index, torch.float32 if self.fits_float32 else torch.float64)
        return (rows + 0.0).cpu().numpy()


class Rows(ABC):
    """The rows of an embedding, read in pieces as points, in float64 unless said otherwise.

    The processes of an exchange hold a contiguous part each. Reading is by position in the own
    part; what processes tell each other is by position in the whole.

    Attributes:
        exchange: The processes.
        count: How many are this process's.
        first: The position of its first row in the whole.
        total: How many all processes have.
        width: Terms in an inner product of two of them.
        device: Where they are.
        chunk: How many are converted and multiplied at a time.
        in_range: Whether products in float32 neither overflow nor lose more to underflow than
            2^-100; known once `squares` and `centres` were asked for.
    """

    exchange: Exchange
    count: int
    first: int
    total: int
    width: int
    device: torch.device
    chunk: int
    in_range: bool = True

    @abstractmethod
    def read(self, index: slice | Tensor) -> Points:
        """Some rows, taken from the middle."""

    @abstractmethod
    def read_float32(self, index: Tensor) -> Points:
        """Likewise, rounded once to float32."""

    @abstractmethod
    def centres(self, given: Embedding | None, more: int = 0) -> Points:
        """Centres, taken from the middle; in float64.

        Args:
            given: (m, d), as the embedding is; None for none.
            more: Room for as many more after them, of the embedding's own. All are in float32 then
                where it holds every one of them exactly.

        Raises:
            ValueError: If they do not fit the embedding, or are not finite.
        """

    @abstractmethod
    def squares(self) -> tuple[Tensor, Tensor]:
        """Squared norms about the middle and about the origin, each (count,) float64.

        Raises:
            ValueError: If one is not finite, of whichever process.
        """

    @abstractmethod
    def digests(self, index: Tensor) -> Tensor:
        """(m, 16) uint8 of some rows: the same where rows are the same, number by number."""

    def owned(self, ids: Tensor) -> Tensor:
        """(m,) bool: which positions in the whole are this process's."""
        return (ids >= self.first) & (ids < self.first + self.count)

    def shared(self, ids: Tensor, squares: Tensor) -> tuple[Points, Tensor]:
        """Some rows of the whole and their squared norms, on every process, by one gather.

        Args:
            ids: (m,) their positions in the whole, the same on all processes.
            squares: (count,) squared norms of this process's rows.
        """
        own = self.owned(ids)
        points, norms = self.read(ids[own] - self.first), squares[ids[own] - self.first]
        filled = [spread(one, own) for one in (*points.tensors(), norms)]
        every = gathered(self.exchange, own, *filled)
        owner = every[0].byte().argmax(0), torch.arange(len(ids), device=ids.device)
        *tensors, norms = (one[owner] for one in every[1:])
        return points.made_of(tensors), norms

    def furthest(self, values: Tensor) -> int:
        """The position in the whole of the largest of (count,) values, the lowest of equals."""
        best = values.argmax()[None] if self.count else torch.empty(0, dtype=torch.int64)
        highest, rows = joined(self.exchange, values[best], best + self.first)
        return int(rows[highest.argmax()])

    def _divide(self, exchange: Exchange, count: int, width: int) -> None:
        every = exchange.gather(torch.tensor([count, width]))
        self.exchange, self.count, self.width = exchange, count, width
        self.total, self.first = (int(part[:, 0].sum()) for part in (every, every[: exchange.rank]))
        if bool((every[:, 1] != width).any()):
            raise ValueError(
                f"x: expected as many columns on every process, got {every[:, 1].tolist()}"
            )

    def _check_finite(self, squares: Tensor) -> None:
        bad = (~torch.isfinite(squares)).nonzero()[:1, 0]
        rows, values = joined(self.exchange, bad + self.first, squares[bad])
        if len(rows):
            raise ValueError(
                f"x: expected finite values (and squared norms), got {float(values[0])} "
                f"for the squared norm of row {int(rows[0])}"
            )

    def _look(self, squares: Tensor, limit: float = 2.0**100) -> None:
        self.in_range &= not len(squares) or float(squares.max()) < limit

    def parts(self, size: int | None = None) -> Iterator[slice]:
        """All rows, so many at a time; a chunk by default."""
        size = size or self.chunk
        for start in range(0, self.count, size):
            yield slice(start, min(start + size, self.count))


def rows_of(x: Embedding, exchange: Exchange = ALONE) -> Rows:
    """Reads an embedding of either kind.

    Args:
        x: The rows of this process.
        exchange: The processes; the rows of all of them, in order of rank, are the embedding.

    Raises:
        ValueError: If it is no floating-point matrix, or a pair of unequal length.
    """
    return _OuterRows(x, exchange) if isinstance(x, OuterProducts) else _VectorRows(x, exchange)


def _chunk(device: torch.device, width: int) -> int:
    if device.type != "cpu":
        return 16384
    return min(_LONGEST_CHUNK, _NUMBERS // max(1, width) + 1)


class _VectorRows(Rows):
    """Rows of a matrix, taken from the data's middle.

    The middle is a sample's mean rounded to a binary grid of two to four standard deviations: near
    enough to the mean to save the products' digits, zero (no rounding at all) unless the data are
    offset, and with so few digits of its own that integer-valued rows stay exact.
    """

    def __init__(self, x: Matrix, exchange: Exchange) -> None:
        self._reader = _Reader(x)
        self._divide(exchange, self._reader.count, self._reader.width)
        self.device = self._reader.device
        self.chunk = _chunk(self.device, self.width)
        self._middle = self._find_middle()
        self._offset = bool((self._middle != 0).any())
        narrow = self._middle.float()
        # The difference of two numbers that float32 holds is rounded once in float32, too.
        holds = self._reader.fits_float32 and bool((narrow.double() == self._middle).all())
        self._narrow_middle = narrow if holds else None

    def _find_middle(self) -> Tensor:
        step = max(1, self.total // 1024)
        own = self._reader.read(slice(-self.first % step, None, step), torch.float64)
        (sample,) = joined(self.exchange, own)
        mean = sample.mean(0)
        if not bool(torch.isfinite(mean).all()):  # nor are all values, or there are no rows
            return torch.zeros_like(mean)
        spread = sample.std(0, correction=0)
        grid = torch.exp2(spread.log2().floor() + 2)
        middle = torch.where(spread > 0, (mean / grid).round() * grid, sample[0])
        return torch.where(torch.isfinite(middle), middle, mean)

    def read(self, index: slice | Tensor) -> Vectors:
        rows = self._reader.read(index, torch.float64)
        return Vectors(rows - self._middle if isinstance(index, slice) else rows.sub_(self._middle))

    def read_float32(self, index: Tensor) -> Vectors:
        if self._narrow_middle is None:
            return self.read(index).float()
        rows = self._reader.read(index, torch.float32)
        return Vectors(rows.sub_(self._narrow_middle) if self._offset else rows)

    def centres(self, given: Embedding | None, more: int = 0) -> Vectors:
        if isinstance(given, OuterProducts):
            raise ValueError("centers: expected a matrix as x is one, got outer products")
        points = _as_centres(given, self._reader, "centers")
        exact = self._narrow_middle is not None and not self._offset
        exact &= given is None or _Reader(given, "centers").fits_float32
        dtype = torch.float32 if more and exact else torch.float64
        room = points.new_empty(len(points) + more, self.width, dtype=dtype)
        placed = points - self._middle
        room[: len(points)] = placed
        self._look(torch.linalg.vecdot(placed, placed))
        return Vectors(room)

    def digests(self, index: Tensor) -> Tensor:
        return _digests(self._reader.exact(index))

    def squares(self) -> tuple[Tensor, Tensor]:
        centred = torch.empty(self.count, dtype=torch.float64, device=self.device)
        raw = torch.empty_like(centred)
        at_once = min(self.chunk, max(1, _SQUARED // max(1, self.width)))
        for part in self.parts(self.chunk if self.device.type != "cpu" else at_once):
            values = self._reader.read(part, torch.float64)
            torch.linalg.vecdot(values, values, out=raw[part])
            if self._offset:
                values = values - self._middle
                torch.linalg.vecdot(values, values, out=centred[part])
        self._check_finite(raw)
        centred = centred if self._offset else raw
        self._look(centred)
        return centred, raw


class _OuterRows(Rows):
    """Outer products; their middle is the origin, since a product less a matrix is none."""

    def __init__(self, x: OuterProducts, exchange: Exchange) -> None:
        self._left, self._right = _Reader(x.left, "x.left"), _Reader(x.right, "x.right")
        if self._left.count != self._right.count:
            raise ValueError(
                f"x: expected as many rows of either factor, got {self._left.count} and "
                f"{self._right.count}"
            )
        self.device = self._left.device
        self._divide(exchange, self._left.count, self._left.width + self._right.width)
        self.chunk = _chunk(self.device, max(self._left.width, self._right.width))

    def read(self, index: slice | Tensor) -> Outers:
        return self._read(index, torch.float64)

    def read_float32(self, index: Tensor) -> Outers:
        return self._read(index, torch.float32)

    def _read(self, index: slice | Tensor, dtype: torch.dtype) -> Outers:
        return Outers(self._left.read(index, dtype), self._right.read(index, dtype))

    def centres(self, given: Embedding | None, more: int = 0) -> Outers:
        if not (given is None or isinstance(given, OuterProducts)):
            raise ValueError("centers: expected outer products as x is, got a matrix")
        factors = (None, None) if given is None else (given.left, given.right)
        rooms = []
        for factor, reader, name in zip(
            factors, (self._left, self._right), ("left", "right"), strict=True
        ):
            points = _as_centres(factor, reader, f"centers.{name}")
            room = points.new_empty(len(points) + more, reader.width)
            room[: len(points)] = points
            self._look(torch.linalg.vecdot(points, points), _FACTOR_LIMIT)
            rooms.append(room)
        return Outers(*rooms)

    def digests(self, index: Tensor) -> Tensor:
        factors = (self._left.exact(index), self._right.exact(index))
        return _digests(np.concatenate([rows.view(np.uint8) for rows in factors], 1))

    def squares(self) -> tuple[Tensor, Tensor]:
        squares = torch.empty(self.count, dtype=torch.float64, device=self.device)
        for part in self.parts():
            points = self.read(part)
            factors = [torch.linalg.vecdot(x, x) for x in (points.left, points.right)]
            torch.mul(*factors, out=squares[part])
            for factor in factors:
                self._look(factor, _FACTOR_LIMIT)
        self._check_finite(squares)
        return squares, squares


def _digests(rows: npt.NDArray[Any]) -> Tensor:
    data = b"".join(blake2b(row, digest_size=DIGEST).digest() for row in rows)
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy()).reshape(-1, DIGEST)


def _as_centres(given: Matrix | None, rows: _Reader, name: str) -> Tensor:
    """Given centres as an (m, d) float64 tensor on the embedding's device; m may be 0."""
    if given is None:
        return torch.empty(0, rows.width, dtype=torch.float64, device=rows.device)
    if given.ndim != 2 or given.shape[1] != rows.width:
        raise ValueError(
            f"{name}: expected shape (m, {rows.width}) as x has {rows.width} columns, "
            f"got {tuple(given.shape)}"
        )
    centres = _Reader(given, name).read(slice(None), torch.float64).to(rows.device)
    if not bool(torch.isfinite(centres).all()):
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    return centres


def take(x: Embedding, index: slice | Tensor) -> Points:
    """Some rows of an embedding as points in float64, taken from the origin."""
    if isinstance(x, OuterProducts):
        return Outers(*(_Reader(f).read(index, torch.float64) for f in (x.left, x.right)))
    return Vectors(_Reader(x).read(index, torch.float64))


def lower(
    current: Tensor, points: Points, squares: Tensor, centres: Points, centre_squares: Tensor
) -> Tensor:
    """The lower of `current` and each point's squared distance to the nearest of the centres.

    From |x - c|^2 = |x|^2 - 2 (x.c - |c|^2 / 2); where that cancels, from the difference itself.
    """
    closest = points.products(centres, centre_squares * -0.5).amax(1)
    squared = squares - 2 * closest
    cancelled = (squared < squares * _CLOSE) & (squared < current)
    if bool(cancelled.any()):
        squared[cancelled] = points[cancelled].nearest(centres)
    return torch.minimum(current, squared)


def squared_distances(points: Points, squares: Tensor, some: Tensor, chunk: int) -> Tensor:
    """Squared distances of some of m points to all of them, (s, m); by difference where close.

    Args:
        points: m points.
        squares: (m,) their squared norms.
        some: (s,) positions.
        chunk: Differences taken at a time.
    """
    own = squares[some, None]
    squared = points[some].products(points, squares * -0.5).mul_(-2).add_(own)
    i, j = (squared < own * _CLOSE).nonzero(as_tuple=True)
    for one, other in zip(torch.split(i, chunk), torch.split(j, chunk), strict=True):
        squared[one, other] = points.apart(some[one], other)
    return squared
