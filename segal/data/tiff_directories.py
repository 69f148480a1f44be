"""What the directories of a TIFF file say of themselves, looked at before any is loaded.

A directory names arrays by their length and place, and tifffile loads those of strips and tiles as
soon as it comes to it: a small file may name the same array in every one of its directories.
"""

import struct
from typing import BinaryIO

_MAX_DIRECTORIES = 1100
_MAX_TAGS = 4096
_MAX_TAG = 2**26  # bytes
_MAX_ENTRIES = 2**22  # of a tag: strips or tiles
_MAX_ALL = 2**23  # entries of all tags and directories

_TEXTS = (1, 2, 6, 7)
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_TYPE_BYTES |= {16: 8, 17: 8, 18: 8}


def say_too_much(file: BinaryIO, count: int) -> bool:
    """Whether directories name more than can be held.

    Args:
        file: A TIFF; where it ends early, what is there counts.
        count: Its bytes.
    """
    file.seek(0)
    header = file.read(16)
    order = "<" if header[:2] == b"II" else ">"
    big = header[2:4] in (b"+\0", b"\0+")
    try:
        return _say_too_much(file, count, header, order, big=big)
    except struct.error:  # it ends early
        return False


def _say_too_much(file: BinaryIO, count: int, header: bytes, order: str, *, big: bool) -> bool:
    pointer, number, size, at = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    width = struct.calcsize(pointer)
    offset: int = struct.unpack(order + pointer, header[at : at + width])[0]
    entries = 0
    for _ in range(_MAX_DIRECTORIES):
        if not 8 <= offset < count:
            return False
        file.seek(offset)
        tags = struct.unpack(order + number, file.read(struct.calcsize(number)))[0]
        if tags > _MAX_TAGS:
            return True
        for _ in range(tags):
            entry = file.read(size)
            kind = struct.unpack(order + "H", entry[2:4])[0]
            values = struct.unpack(order + pointer, entry[4 : 4 + width])[0]
            if values * _TYPE_BYTES.get(kind, 8) > _MAX_TAG:
                return True
            if kind not in _TEXTS:
                entries += values
                if values > _MAX_ENTRIES or entries > _MAX_ALL:
                    return True
        offset = struct.unpack(order + pointer, file.read(width))[0]
    return False
