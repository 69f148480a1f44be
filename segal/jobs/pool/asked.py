"""What a user asks to be withdrawn, as the command line takes it."""

from collections.abc import Sequence
from pathlib import Path

from segal.candidates.regions import Box
from segal.candidates.selection import read_selection
from segal.data.class_list import read_lines
from segal.errors import SegalError
from segal.jobs.pool.withdrawing import Asked

_MAX_BYTES = 2**26


def what_is_asked(names: Sequence[str], box: str, listed: Path | None) -> list[Asked]:
    """Images, and regions of them.

    Args:
        names: Of images.
        box: `x,y,width,height` of what is meant of the one image; empty for all of it.
        listed: A `.txt` file with a name a line, or a table of regions as `selection.csv`.

    Raises:
        SegalError: If the box is none, it is not of one image, or the list cannot be read.
    """
    asked: list[Asked] = [(name, _box(box, names) if box else None) for name in names]
    if box and not names:
        _box(box, names)
    if listed is not None and listed.suffix.lower() == ".csv":
        asked += [(one.image, one.box) for one in read_selection(listed)]
    elif listed is not None:
        asked += [(x, None) for x in read_lines(listed, "an image a line, by its path", _MAX_BYTES)]
    return list(dict.fromkeys(asked))


def _box(text: str, names: Sequence[str]) -> Box:
    parts = text.split(",")
    if len(names) != 1 or len(parts) != 4 or not all(p.strip().isdecimal() for p in parts):
        raise SegalError(
            f"box: {text!r}" + f", of {len(names)} images" * (len(names) != 1),
            expected="x,y,width,height in whole pixels, of one image",
            got=text,
            remedy="give --box 0,0,512,512 and one image; for more regions --list FILE.csv",
        )
    x, y, width, height = map(int, parts)
    return x, y, x + width, y + height
