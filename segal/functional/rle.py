"""Run lengths of masks, as Label Studio, CVAT and COCO write them.

Runs alternate, and the first is of pixels that are not in the mask; it may be 0, no other one is.
CVAT counts row by row within a box, COCO column by column within the image, and Label Studio row by
row the bytes of an image of four channels, packed bit by bit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask as coco

Mask = NDArray[np.bool_]
Counts = NDArray[np.int64]

_HEADER = 32 + 5 + 4 * 4  # bits: values in all, bits of a value, bits of the four kinds of lengths
_SIZES = np.array([3, 4, 8, 16])
_LARGEST = 1 << _SIZES
_LONGEST = 1 << 16
_OPAQUE = 255
_FEW, _SHORT = 40, 120  # runs, characters of a text: below it a loop costs less than calls
_CHARACTERS = "counts: expected characters from 0 to o, of whole numbers"
_DIGITS = "counts: expected numbers of at most 7 characters"
_NO_DIGITS = "characters that are no digits"
_MISSING = "a number that is missing"
_SEMICOLON = ord(";") - ord("0")
_DENSE = 6
_MOST = 1 << 29
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
    return _cropped(last - counts[held], last, len(bounds), height, width)


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


# Label Studio


@dataclass(frozen=True, eq=False)
class Brushed:
    """What was painted.

    Attributes:
        mask: (h, w) bool, no larger than it needs to be; (0, 0) where nothing is painted.
        corner: (x, y) of its first pixel.
        painted: Pixels with any alpha at all.
        partial: Those of them that are neither empty nor full.
    """

    mask: Mask
    corner: tuple[int, int]
    painted: int
    partial: int


def encode_brush(mask: Mask, corner: tuple[int, int], height: int, width: int) -> bytes:
    """A mask as Label Studio packs it: four equal channels of 0 or 255.

    Args:
        mask: (h, w) bool.
        corner: (x, y) of its first pixel in the image, within which it lies.
        height: Of the image, at least 1.
        width: Likewise.

    Returns:
        Bytes, of which the `rle` of a result is the list. They are those that label-studio-sdk's
        `encode_rle` makes.

    Raises:
        ValueError: If the mask leaves the image, or the image has more than 2**30 - 1 pixels.

    Examples:
        >>> encode_brush(np.ones((1, 1), bool), (0, 0), 1, 1).hex()
        '00000004391bfc7fe0'
    """
    return encode_brushes([(mask, corner)], height, width)[0]


def encode_brushes(
    placed: Sequence[tuple[Mask, tuple[int, int]]], height: int, width: int
) -> list[bytes]:
    """Masks of one image as Label Studio packs them, faster than one after the other.

    Args:
        placed: Of each the mask and its corner, as `encode_brush` takes them.
        height: Of the image, at least 1.
        width: Likewise.

    Raises:
        ValueError: As `encode_brush`.

    Examples:
        >>> [packed.hex() for packed in encode_brushes([(np.ones((1, 1), bool), (0, 0))], 1, 1)]
        ['00000004391bfc7fe0']
    """
    size = 4 * height * width
    if not 0 < size < 1 << 32:
        raise ValueError(f"image: expected 1 to {2**30 - 1} pixels, got {height * width}")
    for mask, (x, y) in placed:
        if not (0 <= x <= width - mask.shape[1] and 0 <= y <= height - mask.shape[0]):
            raise ValueError(f"mask: expected one within {width} x {height}")
    if not placed:
        return []
    each = [encode_placed(mask, corner, height, width) for mask, corner in placed]
    runs = 4 * np.concatenate(each)
    begins = np.cumsum([0, *map(len, each)])
    values = (np.arange(len(runs)) - np.repeat(begins[:-1], np.diff(begins))) & 1
    values *= _OPAQUE
    times = -(-runs // _LONGEST)  # 0 of those that are not there
    kinds, lengths = np.searchsorted(_LARGEST[:3], runs), runs
    if times.min() < 1 or times.max() > 1:
        # The last piece of a long run is written as long ones are.
        kinds, values, lengths = (np.repeat(x, times) for x in (kinds, values, runs))
        pieces = np.cumsum(times)
        long = np.flatnonzero(times > 1)
        lengths[lengths > _LONGEST] = _LONGEST
        lengths[pieces[long] - 1] = runs[long] - (times[long] - 1) * _LONGEST
        begins = np.concatenate([[0], pieces])[begins]
    sizes = _SIZES[kinds]
    codes = ((((4 + kinds) << sizes) + lengths - 1) << 8) + values
    header = size.to_bytes(4) + bytes([0x39, 0x1B, 0xF8])
    return _packed(header, _HEADER, codes, 11 + sizes, begins)


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


def _packed(head: bytes, bits: int, codes: Counts, widths: Counts, begins: Counts) -> list[bytes]:
    """Numbers of 11 to 32 bits each, one after the other, behind some bits of every stream.

    Args:
        head: What every stream begins with.
        bits: Of it.
        codes: (n,) the numbers of all streams.
        widths: Of each its bits.
        begins: Where those of each stream begin, and n.
    """
    ends = np.cumsum(widths)
    before = np.concatenate([[0], ends])[begins]
    counts = np.diff(begins)
    stops = np.cumsum((np.diff(before) + bits) // 8 + 1)  # in bytes; streams begin at whole ones
    starts = np.concatenate([[0], stops[:-1]])
    moved = np.repeat(8 * starts + bits - before[:-1], counts)
    first = ends - widths + moved
    packed = np.zeros(int(stops[-1]) + 4, np.uint8)
    packed[starts[:, None] + np.arange(len(head))] = np.frombuffer(head, np.uint8)
    places, shifted = first >> 3, codes << (40 - (first & 7) - widths)
    for place in range(5):
        np.add.at(packed, places + place, (shifted >> (32 - 8 * place)).astype(np.uint8))
    whole = packed.tobytes()
    return [whole[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]


def decode_brush(packed: bytes, height: int, width: int, *, threshold: int = 128) -> Brushed:
    """What Label Studio packed of an image that was painted on; see `decode_brushes`.

    Examples:
        >>> packed = encode_brush(np.ones((2, 1), bool), (4, 1), 3, 5)
        >>> found = decode_brush(packed, 3, 5)
        >>> found.mask.tolist(), found.corner, found.painted, found.partial
        ([[True], [True]], (4, 1), 2, 0)
    """
    return next(decode_brushes([packed], height, width, threshold=threshold))


def decode_brushes(
    packed: Sequence[bytes], height: int, width: int, *, threshold: int = 128
) -> Iterator[Brushed]:
    """What Label Studio packed of an image on which several things were painted.

    Args:
        packed: The bytes of the `rle` of each result.
        height: Of the image.
        width: Likewise.
        threshold: The least alpha of a pixel of a mask: the editor smooths what is painted.

    Yields:
        What was painted, in order.

    Raises:
        ValueError: If bytes end too soon, or are not of an image of four channels of this size.

    Examples:
        >>> packed = [encode_brush(np.ones((1, 1), bool), (x, 0), 1, 3) for x in (2, 0)]
        >>> [found.corner for found in decode_brushes(packed, 1, 3)]
        [(2, 0), (0, 0)]
    """
    if not packed:
        return
    size = height * width
    layouts = np.array([_layout(one, 4 * size) for one in packed])
    painted, partial = np.zeros((2, len(packed)), np.int64)
    firsts, lasts = [], []
    for layout in np.unique(layouts).tolist():
        whose = np.flatnonzero(layouts == layout)
        ends, alpha, counts = _unpacked([packed[n] for n in whose.tolist()], 4 * size, layout)
        last = ends >> 2  # of pixel i the alpha is at 4 i + 3
        first = np.empty_like(last)
        first[0], first[1:] = 0, last[:-1]
        begins = np.cumsum(counts) - counts
        pixels = (last - first) * (alpha > 0)
        painted[whose] = np.add.reduceat(pixels, begins)
        partial[whose] = np.add.reduceat(pixels * (alpha < _OPAQUE), begins)
        held = (last > first) & (alpha >= threshold)
        # Each is placed among all others: its image follows those of the ones before.
        moved = np.repeat((whose - np.arange(len(whose))) * size, counts)[held]
        firsts.append(first[held] + moved)
        lasts.append(last[held] + moved)
    first, last = firsts[0], lasts[0]
    if len(firsts) > 1:
        first, last = (np.sort(np.concatenate(parts)) for parts in (firsts, lasts))
    masks = _cropped(first, last, len(packed), height, width)
    for (mask, corner), some, few in zip(masks, painted.tolist(), partial.tolist(), strict=True):
        yield Brushed(mask, corner, some, few)


def _cropped(
    first: Counts, last: Counts, count: int, height: int, width: int
) -> Iterator[tuple[Mask, tuple[int, int]]]:
    """The masks of spans of images, no larger than they need to be, and their corners.

    Args:
        first: (n,) of each span the first pixel, ascending, counted on from image to image.
        last: (n,) likewise the pixel behind it; no span reaches from one image into the next.
        count: Of images.
        height: Of each.
        width: Likewise.
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


def _layout(packed: bytes, size: int) -> int:
    """What the header says of the sizes of numbers: 5 and four times 4 bits, less 1 each.

    Raises:
        ValueError: If it is cut short, or of another number of values.
    """
    if len(packed) < 7:
        raise ValueError(f"rle: expected a header of {_HEADER} bits, got {8 * len(packed)}")
    header = int.from_bytes(packed[:7]) >> 3
    if (total := header >> 21) != size:
        raise ValueError(f"rle: expected {size} values, four of each pixel, got {total}")
    return header & 0x1FFFFF


def _unpacked(packed: Sequence[bytes], size: int, layout: int) -> tuple[Counts, Counts, Counts]:
    """Of streams of one layout where runs of equal values end, the values, and the runs of each.

    Each stream's values are counted on from those before.
    """
    depth, sizes = (layout >> 16) + 1, [(layout >> at & 15) + 1 for at in (12, 8, 4, 0)]
    joined = b"".join(one + bytes(8) for one in packed)
    bounds = np.cumsum([0, *(8 * len(one) + 64 for one in packed)]).tolist()
    starts, counts, are_runs = _items(joined, bounds, depth, sizes)
    words: NDArray[np.uint64] = np.ndarray(len(joined) - 7, ">u8", joined, strides=(1,))
    item = _from(words, starts)
    bits = np.array(sizes, np.uint64)[(item >> np.uint64(61)).astype(np.int64) & 3]
    lengths = ((item << np.uint64(3)) >> (np.uint64(64) - bits)).astype(np.int64) + 1
    places, values = starts + 3 + bits.astype(np.int64), item << (bits + np.uint64(3))
    if not are_runs:  # each value of the others is a run of one
        is_run = item >> np.uint64(63) > 0
        times = np.where(is_run, 1, lengths)
        within = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        lengths = np.repeat(np.where(is_run, lengths, 1), times)
        places = np.repeat(places, times) + depth * within
        values = _from(words, places)
        counts = np.diff(np.concatenate([[0], np.cumsum(times)])[np.cumsum([0, *counts])]).tolist()
    values = (values >> np.uint64(64 - depth)).astype(np.int64)
    ends = np.cumsum(lengths)
    kept: list[slice] = []
    start = before = 0
    for count, bound in zip(counts, bounds[1:], strict=True):
        own = ends[start : start + count]
        own -= before
        used = int(np.searchsorted(own, size)) + 1
        if used > count or own[used - 1] != size:
            got = own[-1] if count else 0
            raise ValueError(f"rle: expected {size} values, got {got}, or a run beyond them")
        if (spare := bound - 64 - int(places[start + used - 1]) - depth) >= 16:
            raise ValueError(f"rle: expected nothing behind {size} values, got {spare} bits")
        before += int(own[-1])
        own += size * len(kept)
        kept.append(slice(start, start + used))
        start += count
    if any(one.stop != other.start for one, other in pairwise([*kept, slice(start, start)])):
        ends, values = (np.concatenate([x[own] for own in kept]) for x in (ends, values))
    return ends, values, np.array([own.stop - own.start for own in kept])


def _items(
    joined: bytes, bounds: Sequence[int], depth: int, sizes: Sequence[int]
) -> tuple[Counts, list[int], bool]:
    """Where the whole items of streams start, how many each has, and whether all are runs.

    Where an item ends only itself tells, so that they are found one after the other. For every bit
    it is known beforehand how long a run is that starts there.
    """
    single = np.unpackbits(np.frombuffer(joined, np.uint8))
    kinds = (single[:-2] << 2) | (single[1:-1] << 1) | single[2:]
    of_kinds = bytes([0] * 4 + [3 + size + depth for size in sizes] + [0] * 248)
    steps = kinds.tobytes().translate(of_kinds)
    is_start = bytearray(len(steps))
    for bound, following in pairwise(bounds):
        at, end = bound + _HEADER, following - 64
        while at < end:
            is_start[at] = 1
            at += steps[at] or _literal(joined, at + 3, depth, sizes[kinds[at]])
        if at > end and (last := is_start.rfind(1, bound, end)) >= 0:
            is_start[last] = 0
    starts = np.flatnonzero(np.frombuffer(is_start, np.bool_))
    counts = np.diff(np.searchsorted(starts, bounds)).tolist()
    return starts, counts, bool((kinds[starts] > 3).all())


def _literal(joined: bytes, place: int, depth: int, size: int) -> int:
    """The bits of an item that is no run, the number of whose values is at some place."""
    window = int.from_bytes(joined[place >> 3 : (place >> 3) + 3])
    length = (window >> (24 - (place & 7) - size)) & ((1 << size) - 1)
    return 3 + size + depth * (length + 1)


def _from(words: NDArray[np.uint64], places: Counts) -> NDArray[np.uint64]:
    """57 bits or more from some bits on; words start at every byte."""
    found: NDArray[np.uint64] = words[places >> 3].astype(np.uint64)
    return found << (places & 7).astype(np.uint64)


# COCO


def encode_coco(counts: Counts) -> str:
    """Run lengths as COCO compresses them: differences, five bits a character.

    From the fourth on, a run is written as its difference from the one before the last.

    Args:
        counts: As `encode_counts` makes them of a transposed mask.

    Returns:
        The `counts` of a segmentation, those that pycocotools writes.

    Raises:
        ValueError: For a run of 2^29 pixels or more.

    Examples:
        >>> encode_coco(np.array([6, 1, 40, 4, 5, 4, 5, 4, 21]))
        '61X13mN000`0'
    """
    if counts.max(initial=0) >= _MOST:  # pycocotools has room for six characters a number
        raise ValueError(f"counts: expected runs below {_MOST}, got {counts.max()}")
    written = coco.frPyObjects({"counts": counts, "size": (1, 1)}, 1, 1)["counts"]
    return str(written, "ascii")


def decode_coco(text: str | bytes) -> Counts:
    """The run lengths that COCO compressed.

    Args:
        text: The `counts` of a segmentation.

    Returns:
        (n,) int64, to be checked: they may be anything in a damaged file.

    Raises:
        ValueError: If a character is none that COCO writes, a number is not whole at the end, or
            has more than seven characters.

    Examples:
        >>> decode_coco("61X13mN000`0").tolist()
        [6, 1, 40, 4, 5, 4, 5, 4, 21]
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) <= _SHORT:
        return np.array(_few_numbers(data), np.int64)
    return decode_cocos([data])[0]


def decode_cocos(texts: Sequence[str | bytes]) -> tuple[Counts, list[int]]:
    """The run lengths of several masks that COCO compressed, faster than one after the other.

    Args:
        texts: The `counts` of each segmentation.

    Returns:
        (n,) int64 of all, to be checked; and where those of each end.

    Raises:
        ValueError: As `decode_coco`.

    Examples:
        >>> counts, bounds = decode_cocos(["61X13mN000`0", "32"])
        >>> counts.tolist(), bounds
        ([6, 1, 40, 4, 5, 4, 5, 4, 21, 3, 2], [9, 11])
    """
    each = [x.encode("utf-8", "surrogatepass") if isinstance(x, str) else x for x in texts]
    if not each:
        return np.zeros(0, np.int64), []
    stops = np.cumsum([len(data) for data in each])
    characters = np.frombuffer(b"".join(each), np.uint8) - np.uint8(48)
    whole = all(each) and characters.max() <= 63 and not (characters[stops - 1] & 32).any()
    if not whole:
        raise ValueError(_CHARACTERS)
    # Of a number's last digit the highest bit is its sign. Most numbers have no other.
    is_last = characters < 32
    last = characters[is_last]
    numbers = ((last ^ 16).view(np.int8) - np.int8(16)).astype(np.int64)
    bounds = stops
    if more := len(characters) - len(last):
        places = np.flatnonzero(~is_last)
        nth = np.arange(more)
        whose = places - nth  # as many numbers have ended before
        bounds = stops - np.searchsorted(places, stops)
        nth[1:] -= np.maximum.accumulate(np.where(whose[1:] > whose[:-1], nth[1:], 0))
        if nth.max() > 5:
            raise ValueError(_DIGITS)
        np.left_shift.at(numbers, whose, 5)
        np.add.at(numbers, whose, (characters[places] & 31).astype(np.int64) << (5 * nth))
    # From the fourth on they are differences from the one before the last. Of sums over everything,
    # what was there before the chain began is taken off.
    begins = np.concatenate([[0], bounds[:-1]])
    sums = numbers.copy()
    for chain in (sums[::2], sums[1::2]):
        np.cumsum(chain, out=chain)
    lengths = bounds - begins
    before = np.concatenate([[0], sums])[begins]
    of_odd, of_even = np.repeat(before, lengths), np.repeat(sums[begins], lengths)
    is_odd = (np.arange(len(numbers)) - np.repeat(begins, lengths)) & 1 > 0
    found = sums - np.where(is_odd, of_odd, of_even)
    found[begins] = numbers[begins]
    return found, bounds.tolist()


def _few_numbers(data: bytes) -> list[int]:
    """The same of a short text, without the calls that cost more than it does."""
    numbers: list[int] = []
    number = shift = 0
    for byte in data:
        character = byte - 48
        if not 0 <= character < 64:
            raise ValueError(_CHARACTERS)
        number |= (character & 31) << shift
        shift += 5
        if shift > 35:
            raise ValueError(_DIGITS)
        if character < 32:
            number -= (character & 16) << (shift - 4)
            numbers.append(number + numbers[-2] if len(numbers) > 2 else number)
            number = shift = 0
    if shift or not numbers:
        raise ValueError(_CHARACTERS)
    return numbers
