"""Run lengths of masks, as CVAT and COCO count them, and numbers as texts write them.

Runs alternate, and the first is of pixels that are not in the mask; it may be 0, no other one is.
CVAT counts row by row within a box, COCO column by column within the image. Label Studio packs them
bit by bit (`segal.functional.rle_brushes`), COCO as characters (`segal.functional.rle_coco`).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Mask = NDArray[np.bool_]
Counts = NDArray[np.int64]

_FEW = 40  # runs, below which a loop costs less than calls
_NO_DIGITS = "characters that are no digits"
_MISSING = "a number that is missing"
_SEMICOLON = ord(";") - ord("0")
_DENSE = 6
"""Pixels a run, below which masks are made by bits."""


def encode_counts(mask: Mask) -> Counts:
    """The run lengths of a mask, row by row; of `mask.T` those that COCO counts.

    Args:
        mask: (h, w) bool; not empty.

    Returns:
        (n,) int64, their sum is h * w.

    Examples:
        >>> encode_counts(np.array([[0, 1, 1], [1, 0, 0]], bool))
        array([1, 3, 2])
    """
    return _between(_changes(mask), mask.size)


def encode_placed(mask: Mask, corner: tuple[int, int], height: int, width: int) -> Counts:
    """The run lengths of an image in which a mask lies, row by row.

    Args:
        mask: (h, w) bool.
        corner: (x, y) of its first pixel in the image, within which it lies.
        height: Of the image, at least 1.
        width: Likewise.

    Returns:
        (n,) int64, their sum is height * width.

    Examples:
        >>> encode_placed(np.ones((2, 1), bool), (1, 0), 2, 3)
        array([1, 1, 2, 1, 1])
    """
    return _between(_changes_within(mask, corner, width), height * width)


def decode_counts(counts: ArrayLike, height: int, width: int) -> Mask:
    """The mask of run lengths, row by row; transposed, that of those that COCO counts.

    Args:
        counts: Whole numbers, none below 0; a run within may be 0.
        height: Of the mask, at least 1.
        width: Likewise.

    Returns:
        (height, width) bool.

    Raises:
        ValueError: If the counts are others, or their sum is not height * width.

    Examples:
        >>> decode_counts([1, 3, 2], 2, 3).astype(int)
        array([[0, 1, 1],
               [1, 0, 0]])
    """
    runs, size = np.asarray(counts), height * width
    if runs.ndim == 1 and runs.dtype.kind in "iu" and 0 < len(runs) <= _FEW:
        return _of_few(runs.tolist(), size).reshape(height, width)
    if runs.ndim != 1 or not runs.size or runs.dtype.kind not in "iu":
        raise ValueError("runs: expected a list of whole numbers")
    _check_runs(int(runs.min()), int(runs.max()), size)
    _check_sum(int(runs.sum(dtype=np.int64)), size)  # fewer than 2**31 of less than 2**32
    return _alternating(runs).reshape(height, width)


def decode_cropped(
    counts: Counts, bounds: Sequence[int], height: int, width: int
) -> Iterator[tuple[Mask, tuple[int, int]]]:
    """The masks of run lengths, no larger than they need to be: the rest is not made.

    Args:
        counts: (n,) int64 of all masks, one after the other; none below 0, height * width together
            for each mask.
        bounds: Where the runs of each mask end, ascending; the last is n.
        height: Of the image, at least 1.
        width: Likewise.

    Yields:
        (h, w) bool, (0, 0) where nothing is in it; and (x, y) of its first pixel.

    Examples:
        >>> list(decode_cropped(np.array([4, 1, 1, 6]), [3, 4], 2, 3))
        [(array([[ True]]), (1, 1)), (array([], shape=(0, 0), dtype=bool), (0, 0))]
    """
    ends = np.cumsum(counts)
    begins = np.repeat([0, *bounds[:-1]], np.diff(bounds, prepend=0))
    held = ((np.arange(len(counts)) - begins) & 1 > 0) & (counts > 0)
    last = ends[held]
    return cropped(last - counts[held], last, len(bounds), height, width)


def _check_runs(least: int, most: int, size: int) -> None:
    if least < 0 or most > size:
        raise ValueError(f"runs: expected 0 to {size}, got {least} to {most}")


def _check_sum(got: int, size: int) -> None:
    if got != size:
        raise ValueError(f"runs: expected {size} pixels in all, got {got}")


def _of_few(runs: Sequence[int], size: int) -> Mask:
    """A flat mask of checked runs, without the calls that cost more than small masks do."""
    _check_runs(min(runs), max(runs), size)
    _check_sum(sum(runs), size)
    flat, at = bytearray(size), 0
    for place, run in enumerate(runs):
        if place % 2:
            flat[at : at + run] = b"\1" * run
        at += run
    return np.frombuffer(flat, np.bool_)


def whole_numbers(text: str) -> Counts:
    """Numbers as tools write runs: digits, with a comma between, and a blank at most behind it.

    Args:
        text: It.

    Returns:
        (n,) int64, none below 0; those that are too large become the largest.

    Raises:
        ValueError: If it is something else, or empty.

    Examples:
        >>> whole_numbers("1, 3,2")
        array([1, 3, 2])
    """
    dense = text.replace(", ", ",").encode()
    if dense.translate(None, b"0123456789,"):
        raise ValueError(_NO_DIGITS)
    if not dense or b",," in b"," + dense + b",":
        raise ValueError(_MISSING)
    return np.fromstring(dense, np.int64, sep=",")


def whole_bytes(texts: Sequence[str]) -> list[bytes]:
    """The same of numbers below 256, of several texts.

    Args:
        texts: Each as `whole_numbers` takes it.

    Returns:
        Of each text a byte for each number.

    Raises:
        ValueError: If one is something else, or empty, or a number has more than three digits or
            does not fit a byte.

    Examples:
        >>> [numbers.hex() for numbers in whole_bytes(["1, 3,255", "0"])]
        ['0103ff', '00']
    """
    if not texts:
        return []
    dense = ";".join(texts).replace(", ", ",").encode()
    if dense.translate(None, b"0123456789,;"):
        raise ValueError(_NO_DIGITS)
    values = np.frombuffer(dense, np.uint8) - np.uint8(ord("0"))
    marks = np.flatnonzero(values > 9)
    ends = np.append(marks, len(values))
    digits = np.diff(ends, prepend=-1) - 1
    if digits.min() < 1:
        raise ValueError(_MISSING)
    if digits.max() > 3:
        raise ValueError("numbers of more than three digits")
    numbers = values[ends - 1].astype(np.uint16)
    numbers += (digits > 1) * values[ends - 2] * np.uint16(10)
    numbers += (digits > 2) * values[ends - 3] * np.uint16(100)
    if numbers.max() > 255:
        raise ValueError("bytes must be in range(0, 256)")
    found = numbers.astype(np.uint8).tobytes()
    stops = np.flatnonzero(values[marks] == _SEMICOLON) + 1
    if len(stops) != len(texts) - 1:
        raise ValueError(_NO_DIGITS)
    bounds = [0, *stops.tolist(), len(found)]
    return [found[start:stop] for start, stop in pairwise(bounds)]


def _changes(mask: Mask) -> Counts:
    """Where a mask changes, row by row; from out of it, so that 0 is there if it starts within."""
    flat = np.ascontiguousarray(mask).reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return np.concatenate([[0], changes]) if flat[0] else changes


def _between(changes: Counts, size: int) -> Counts:
    """The runs between changes."""
    runs = np.empty(len(changes) + 1, np.int64)
    runs[:-1] = changes
    runs[-1] = size
    runs[1:] -= changes
    return runs


def _alternating(runs: Counts) -> Mask:
    """A flat mask of runs, from False."""
    ends = np.cumsum(runs, dtype=np.int64)
    if _DENSE * len(runs) > ends[-1] and runs[1:-1].all():
        return _flipped(ends[:-1], int(ends[-1]))
    values = np.zeros(len(runs), np.bool_)
    values[1::2] = True
    return np.repeat(values, runs)


def _flipped(places: Counts, size: int) -> Mask:
    """A flat mask that is another at each of some places; it takes as long for one as for all."""
    flips = np.zeros(-(-size // 64) * 64 + 1, np.uint8)
    flips[places] = 1
    bits = np.packbits(flips[:-1]).view(">u8").astype(np.uint64)
    for shift in (1, 2, 4, 8, 16, 32):
        bits ^= bits >> np.uint64(shift)
    odd = np.bitwise_xor.accumulate(bits & np.uint64(1))
    bits[1:] ^= np.where(odd[:-1] > 0, ~np.uint64(0), np.uint64(0))
    return np.unpackbits(bits.astype(">u8").view(np.uint8))[:size].view(np.bool_)


def _changes_within(mask: Mask, corner: tuple[int, int], width: int) -> Counts:
    """Where an image of some width changes, in which a mask lies."""
    rows, columns = mask.shape
    if not mask.size:
        return np.zeros(0, np.int64)
    if columns == width:  # what is at the end of a row goes on in the next one, but for the last
        changes = np.append(_changes(mask), mask.size) if mask[-1, -1] else _changes(mask)
        return changes + corner[1] * width
    padded = np.zeros((rows, columns + 1), np.bool_)  # whatever is at the end of a row ends there
    padded[:, :columns] = mask
    row, column = np.divmod(_changes(padded), columns + 1)
    return (row + corner[1]) * width + column + corner[0]


def cropped(
    first: Counts, last: Counts, count: int, height: int, width: int
) -> Iterator[tuple[Mask, tuple[int, int]]]:
    """The masks of spans of images, no larger than they need to be, and their corners.

    Args:
        first: (n,) of each span the first pixel, ascending, counted on from image to image.
        last: (n,) likewise the pixel behind it; no span reaches from one image into the next.
        count: Of images.
        height: Of each.
        width: Likewise.

    Yields:
        (h, w) bool, (0, 0) where nothing is in it; and (x, y) of its first pixel.

    Examples:
        >>> list(cropped(np.array([4]), np.array([5]), 1, 2, 3))
        [(array([[ True]]), (1, 1))]
    """
    size = height * width
    joined = (first[1:] == last[:-1]) & (first[1:] % size > 0)
    if joined.any():
        first, last = first[np.append(True, ~joined)], last[np.append(~joined, True)]
    begins = np.searchsorted(first, np.arange(count + 1) * size)
    counts = np.diff(begins)
    some = np.flatnonzero(counts)
    if some.size:
        (row, left), (bottom, right) = np.divmod(first, width), np.divmod(last - 1, width)
        # Cut to columns are those alone of which no span goes on in the next row.
        groups = begins[some]
        whole = np.add.reduceat(row != bottom, groups) > 0
        x0 = np.where(whole, 0, np.minimum.reduceat(left, groups))
        x1 = np.where(whole, width, np.maximum.reduceat(right, groups) + 1)
        y0, y1 = row[groups], bottom[begins[some + 1] - 1] + 1
        corners = np.stack([x0, y0, x1 - x0, y1 - y0], 1)
        x, y, columns, _ = np.repeat(corners, counts[some], 0).T
        changes = np.empty(2 * len(first), np.int64)
        changes[::2] = (row - y) * columns + left - x
        changes[1::2] = changes[::2] + last - first
    places = iter(corners.tolist() if some.size else ())
    for begin, end in pairwise((2 * begins).tolist()):
        if begin == end:
            yield np.zeros((0, 0), np.bool_), (0, 0)
        else:
            left_, top, columns_, rows = next(places)
            runs = _between(changes[begin:end], rows * columns_)
            yield _alternating(runs).reshape(rows, columns_), (left_, top % height)
