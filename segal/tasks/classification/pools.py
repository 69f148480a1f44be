"""Pools of images that are classified: an image is one element, whatever its size in pixels.

Images are files, rows of an array of pixels, or rows of a table of features.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from segal.data.image_file import RGB, Reading, choose_bands
from segal.data.images import ImageInfo
from segal.data.pool import ImagePool, Progress, Stat
from segal.data.pool import open_pool as open_file_pool
from segal.data.prefetch import prefetch
from segal.errors import SegalError
from segal.tasks.classification.arrays import open_array

Known = Mapping[str, tuple[int, int, ImageInfo]]
T = TypeVar("T")

_FEATURES = Reading(bands="all")
_BLOCK_BYTES, _BLOCK_ROWS = 2**22, 2**12
_SHOWN = 5


@dataclass(frozen=True)
class WholeImagePool(ImagePool):
    """Image files that are bought as wholes.

    Attributes:
        elements: (height, width) of every image in elements: (1, 1), or (C, 1) where each of C
            labels is told by itself.
    """

    elements: tuple[int, int] = (1, 1)

    @property
    def unit(self) -> str:
        """What elements are called, in messages."""
        return "images" if self.elements == (1, 1) else "labels"

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of an image in elements."""
        return self.elements


class _Each(Sequence[T], Generic[T]):
    """Something of each row, made when it is asked for: a million rows take no memory."""

    def __init__(self, make: Callable[[int], T], rows: NDArray[np.int64]) -> None:
        self._make, self._rows = make, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> "_Each[T]": ...
    def __getitem__(self, index: int | slice) -> "T | _Each[T]":
        if isinstance(index, slice):
            return _Each(self._make, self._rows[index])
        return self._make(int(self._rows[index]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def _at(items: Sequence[Any], rows: NDArray[np.int64]) -> Any:
    assert isinstance(items, _Each)
    return _Each(items._make, rows)


@dataclass(frozen=True, eq=False)
class ArrayPool(WholeImagePool):
    """Rows of an array: pictures, or features in place of pictures.

    A row's path is the array's name and its number, such as `x_train/000017`; its digest is of its
    bytes.

    Attributes:
        array: (N, H, W, channels) uint8, or (N, D) floating point.
        rows: (n,) int64, those that are in the pool.
    """

    array: NDArray[Any] = field(kw_only=True)
    rows: NDArray[np.int64] = field(kw_only=True)

    @property
    def holds_features(self) -> bool:
        """Whether rows are features, which cannot be looked at."""
        return self.array.ndim == 2

    def read(self, index: int) -> NDArray[Any]:
        """A row: (H, W, channels) uint8, or features as (1, 1, D) float32."""
        row = self.array[self.rows[index]]
        if self.holds_features:
            return np.asarray(row, np.float32)[None, None]
        if self.reading.bands is not None:
            path = self.root / self.paths[index]
            return choose_bands(path, np.asarray(row), self.reading.bands, "an array")
        rgb = np.repeat(row, 3, axis=2) if row.shape[2] < 3 else row[..., :3]
        return np.ascontiguousarray(rgb)

    def subset(self, indices: Iterable[int]) -> Self:
        """The pool of some of the rows, in the order given."""
        rows = self.rows[np.fromiter(indices, np.int64)]
        paths, infos, stats = (_at(x, rows) for x in (self.paths, self.infos, self.stats))
        return replace(self, rows=rows, paths=paths, infos=infos, stats=stats)


def open_files(
    root: Path,
    paths: Sequence[str] | None = None,
    *,
    reading: Reading = RGB,
    skip_unreadable: bool = False,
    known: Known | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    follow_links: bool = False,
) -> WholeImagePool:
    """As `segal.data.pool.open_pool`, of images that are bought as wholes."""
    pool = open_file_pool(
        root,
        paths,
        skip_unreadable=skip_unreadable,
        known=known,
        workers=workers,
        progress=progress,
        reading=reading,
        follow_links=follow_links,
    )
    return WholeImagePool(**vars(pool))


def row_paths(path: Path, member: str | None, count: int) -> Sequence[str]:
    """Names of the rows of an array, as `open_rows` has them."""
    return _Each(_namer(path, member, count), np.arange(count))


def open_rows(
    path: Path,
    member: str | None = None,
    rows: NDArray[np.int64] | None = None,
    *,
    reading: Reading = RGB,
    skip_unreadable: bool = False,
    known: Known | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> ArrayPool:
    """Opens an array as a pool, and reads it once to take each row's digest.

    Args:
        path: An `.npy` file, or an `.npz` archive.
        member: Name of the array in the archive.
        rows: (n,) those to take; all by default.
        reading: Bands of pictures; features are taken as they are.
        skip_unreadable: Leave out rows of features that are not finite, and list them in `skipped`.
        known: Path to (bytes and mtime in ns of the file, info) of an earlier inspection; rows are
            not read again while these are the same.
        workers: Threads that inspect.
        progress: Called with (rows done, all rows).

    Raises:
        SegalError: If the array cannot be read, is neither pictures nor features, has no rows, or
            has features that are not finite in float32.
    """
    reading.check()
    place = path if member is None else path / member
    array = as_rows(place, open_array(path, member))
    status = path.stat()
    stat: Stat = (status.st_size, status.st_mtime_ns)
    chosen = np.arange(len(array)) if rows is None else rows
    name = _namer(path, member, len(array))
    if array.ndim == 2:
        reading = _FEATURES
    digests, wrong = _inspect(array, chosen, name, stat, known or {}, workers, progress)
    skipped: tuple[str, ...] = ()
    if len(wrong):
        if not skip_unreadable or len(wrong) == len(chosen):
            raise _not_finite(place, wrong, len(chosen))
        skipped = tuple(f"{place}: row {row} is not finite" for row in wrong.tolist())
        chosen = chosen[~np.isin(chosen, wrong)]
    height, width = (1, 1) if array.ndim == 2 else array.shape[1:3]
    channels = reading.channels or array.shape[-1]

    def info(row: int) -> ImageInfo:
        return ImageInfo(height, width, digests[row].tobytes().hex(), channels=channels)

    pool = ArrayPool(
        root=path.parent if member is None else path,
        paths=_Each(name, chosen),
        infos=_Each(info, chosen),
        stats=_Each(lambda row: stat, chosen),
        skipped=skipped,
        reading=reading,
        array=array,
        rows=chosen,
    )
    if array.ndim == 4:
        pool.read(0)  # bands that are not there
    return pool


def as_rows(place: Path, array: NDArray[Any]) -> NDArray[Any]:
    """An array as `ArrayPool` has it: (N, H, W, channels) uint8 or (N, D) floating point.

    Pictures may be grey (N, H, W), and their channels may come first, where there are 1 to 4 of
    them and the last axis has more.

    Raises:
        SegalError: If it is neither.
    """
    if not (array.size and array.ndim):
        wrong, remedy = "an array without values", "save an array that holds some"
    elif array.ndim == 2 and array.dtype.kind == "f" and array.dtype.itemsize <= 8:
        return array
    elif array.ndim == 2:
        wrong = "neither pictures nor features"
        remedy = (
            "reshape rows of pixels to (N, H, W, 3)"
            if array.dtype == np.uint8
            else "convert features with .astype(np.float32)"
        )
    elif array.ndim not in (3, 4):
        wrong, remedy = "neither pictures nor features", "reshape it"
    elif array.dtype != np.uint8:
        wrong = "pictures of another dtype"
        remedy = "convert values of 0 to 1 with (255 * x).round().astype(np.uint8)"
    elif array.ndim == 3:
        return array[..., None]
    elif array.shape[3] <= 4:
        return array
    elif array.shape[1] <= 4:
        return np.moveaxis(array, 1, 3)
    else:
        wrong, remedy = "pictures of more than 4 channels", "save 1 to 4 channels on the last axis"
    raise SegalError(
        f"{place}: {wrong}",
        expected="pictures (N, H, W, 3), (N, 3, H, W) or (N, H, W) of uint8, or features (N, D) of "
        "float16, float32 or float64",
        got=f"{array.shape} of {array.dtype}",
        remedy=remedy,
    )


def _namer(path: Path, member: str | None, count: int) -> Callable[[int], str]:
    name, digits = member or path.stem, max(6, len(str(count - 1)))
    return lambda row: f"{name}/{row:0{digits}d}"


def _inspect(
    array: NDArray[Any],
    rows: NDArray[np.int64],
    name: Callable[[int], str],
    stat: Stat,
    known: Known,
    workers: int,
    progress: Progress | None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """SHA-256 of each row, (N, 32), and the rows that are not finite."""
    digests = np.zeros((len(array), 32), np.uint8)
    each = min(_BLOCK_ROWS, max(1, _BLOCK_BYTES // array[0].nbytes))
    blocks = [rows[start : start + each] for start in range(0, len(rows), each)]

    def inspect(block: NDArray[np.int64]) -> tuple[bytes, NDArray[np.bool_] | None]:
        before = [known.get(name(row)) for row in block.tolist()] if known else [None]
        if all(k is not None and k[:2] == stat for k in before):
            return b"".join(bytes.fromhex(k[2].digest) for k in before if k), None
        # Rows in order are a slice, which a memory map gives without a search for every row.
        in_order = bool((np.diff(block) == 1).all())
        part = array[block[0] : block[-1] + 1] if in_order else array[block]
        part = np.ascontiguousarray(part)
        finite = _finite(part) if part.ndim == 2 else None
        length, data = part[0].nbytes, part.reshape(-1).view(np.uint8).data
        ends = range(0, len(data), length)
        return b"".join(hashlib.sha256(data[x : x + length]).digest() for x in ends), finite

    wrong, done = [], 0
    for block, (found, finite) in zip(blocks, prefetch(inspect, blocks, workers), strict=True):
        digests[block] = np.frombuffer(found, np.uint8).reshape(-1, 32)
        if finite is not None and not finite.all():
            wrong.append(block[~finite])
        done += len(block)
        if progress is not None:
            progress(done, len(rows))
    return digests, np.concatenate(wrong) if wrong else np.empty(0, np.int64)


def _finite(features: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows are finite in float32."""
    with np.errstate(over="ignore"):
        return np.asarray(np.isfinite(features.astype(np.float32)).all(1))


def _not_finite(place: Path, rows: NDArray[np.int64], total: int) -> SegalError:
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return SegalError(
        f"{place}: features that are not finite in float32",
        expected="finite numbers everywhere",
        got=f"NaN or infinity in {len(rows)} of {total} rows: "
        + ", ".join(map(str, rows[:_SHOWN].tolist()))
        + more,
        remedy="compute them again"
        + ("" if len(rows) == total else ", or go on without these rows: --skip-unreadable"),
    )
