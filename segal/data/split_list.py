"""Reads the lists of image names that some data sets have for their splits."""

from collections import Counter
from pathlib import Path, PurePosixPath

from segal.data.class_list import read_lines
from segal.data.find import SUFFIXES, shortened
from segal.errors import SegalError, raise_all
from segal.system.files import is_there

_EXPECTED = "one name on each line, relative to the folder of images"
_MAX_BYTES = 2**26


def listed_images(file: Path, images: Path) -> tuple[str, ...]:
    """The images that a list names.

    Args:
        file: A name on each line, without an extension or with one.
        images: The folder that the names are relative to.

    Returns:
        Paths relative to `images`, in the order of the list; of an image that is not there, the
        path that it should have.

    Raises:
        SegalError: If the list cannot be read, is empty, or has lines that are no names, or a name
            twice: all mistakes at once.
    """
    lines = read_lines(file, _EXPECTED, _MAX_BYTES)
    outside = {x for x in lines if x.startswith("/") or ".." in PurePosixPath(x).parts}
    there = _stems(images, [line for line in lines if line not in outside])
    mistakes = [
        SegalError(
            f"{file}: not a list of images",
            expected=_EXPECTED,
            got=repr(line[:100]),
            remedy="write names such as those of the files, one a line",
        )
        for line in lines
        if line in outside or (len(line.split()) > 1 and _stem(line) not in there)
    ]
    mistakes += [
        SegalError(
            f"{file}: {line} may be any of several images",
            expected="one image of each name, or its extension in the list",
            got=" and ".join(sorted(there[_stem(line)])),
            remedy="rename or remove all but one",
        )
        for line in lines
        if line not in (found := there.get(_stem(line), [line])) and len(found) > 1
    ]
    twice = [line for line, times in Counter(lines).items() if times > 1]
    if twice or not lines:
        mistakes.append(
            SegalError(
                f"{file}: names that occur twice" if twice else f"{file}: names no image",
                expected="every image once",
                got=", ".join(twice[:5]) if twice else "an empty list",
                remedy="mend the list",
            )
        )
    raise_all(shortened(mistakes))
    return tuple(_path(line, there.get(_stem(line), [])) for line in lines)


def _path(line: str, found: list[str]) -> str:
    """The image that a line means, of those that have its name but for the extension."""
    if line in found or not found:
        return line if _has_suffix(line) else f"{line}.jpg"
    return found[0]


def _has_suffix(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _stem(name: str) -> str:
    return name.rpartition(".")[0] if _has_suffix(name) else name


def _stems(images: Path, lines: list[str]) -> dict[str, list[str]]:
    """The images of the folders that a list names, by their paths without the extension."""
    found: dict[str, list[str]] = {}
    for folder in {PurePosixPath(line).parent for line in lines}:
        if is_there(images / folder) and (images / folder).is_dir():
            for entry in (images / folder).iterdir():
                if _has_suffix(entry.name):
                    path = (folder / entry.name).as_posix()
                    found.setdefault(_stem(path), []).append(path)
    return found
