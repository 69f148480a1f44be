"""Where the images of a pool are: below a folder, or where a list says."""

import os
from collections import Counter
from pathlib import Path

from segal.data.changes import listed
from segal.data.class_list import read_lines
from segal.data.find import SUFFIXES
from segal.errors import SegalError, raise_all

_EXPECTED = "the path of an image on each line, absolute or relative to the list's folder"
_MAX_BYTES = 2**28


def images_at(source: Path) -> tuple[Path, tuple[str, ...] | None]:
    """The folder of a pool, and which of its images are meant.

    Args:
        source: A folder, or a `.txt` file with a path on each line, absolute or relative to the
            file's folder; blank lines and those that begin with `#` say nothing.

    Returns:
        The folder and None for all of its images. Of a list: its own folder, or where it names
        images outside of that the nearest folder above all of them, and paths relative to it.

    Raises:
        SegalError: If the list cannot be read, names no image, names one twice, or something that
            is none by its name: all mistakes at once.
    """
    if source.suffix.lower() != ".txt" or not source.is_file():
        return source, None
    here = source.parent.absolute()
    paths = [os.path.normpath(here / line) for line in read_lines(source, _EXPECTED, _MAX_BYTES)]
    others = [path for path in paths if not path.lower().endswith(SUFFIXES)]
    twice = [path for path, times in Counter(paths).items() if times > 1]
    mistakes = (
        ("names no image", [] if paths else ["an empty list"]),
        ("names files that are no images", others),
        ("names images twice", twice),
    )
    raise_all(
        [
            SegalError(
                f"{source}: {mistake}",
                expected=_EXPECTED,
                got=listed(got),
                remedy="mend the list, or give the folder that holds the images",
            )
            for mistake, got in mistakes
            if got
        ]
    )
    folder = here
    if not all(Path(path).is_relative_to(folder) for path in paths):
        folder = Path(os.path.commonpath([Path(path).parent for path in paths]))
    return folder, tuple(Path(path).relative_to(folder).as_posix() for path in paths)
