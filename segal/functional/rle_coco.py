"""Run lengths as COCO compresses them: differences, five bits a character."""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco

from segal.functional.rle import Counts

_SHORT = 120  # characters of a text, below which a loop costs less than calls
_CHARACTERS = "counts: expected characters from 0 to o, of whole numbers"
_DIGITS = "counts: expected numbers of at most 7 characters"
_MOST = 1 << 29


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
