"""Masks as Label Studio packs them: run lengths of an image of four channels, bit by bit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from segal.functional.rle import Counts, Mask, cropped, encode_placed

_HEADER = 32 + 5 + 4 * 4  # bits: values in all, bits of a value, bits of the four kinds of lengths
_SIZES = np.array([3, 4, 8, 16])
_LARGEST = 1 << _SIZES
_LONGEST = 1 << 16
_OPAQUE = 255


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
    masks = cropped(first, last, len(packed), height, width)
    for (mask, corner), some, few in zip(masks, painted.tolist(), partial.tolist(), strict=True):
        yield Brushed(mask, corner, some, few)


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
