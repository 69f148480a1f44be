"""The plain layout: folders of images and labels with the same names, and a list of classes.

    images/<split>/NAME.jpg    any format that is read; folders below <split> may be used
    labels/<split>/NAME.png    one channel, a class value for each pixel
    classes.txt                a line for each class

`classes.txt` holds either names, the first of value 0, or `VALUE NAME` on each line, or
`VALUE NAME RED GREEN BLUE`. Empty lines and lines that begin with # do not count.

Without official splits (images directly in `images/`, labels in `labels/`), a hash of the path
puts each image into train, val or test, at 70, 15 and 15 %. An image keeps its split whatever
other images come or go. Frames of one video are spread over the splits this way; folders are
better for them.
"""

import hashlib
import re
from pathlib import Path

from segal.data.layout import IGNORE_INDEX, Classes, Source, distinct_colours, make_classes
from segal.data.pool import SUFFIXES, find_images
from segal.errors import SegalError, raise_all

LAYOUT = """\
images/<split>/NAME.jpg
labels/<split>/NAME.png
classes.txt"""
FORMS = "a line for each class: NAME, or VALUE NAME, or VALUE NAME RED GREEN BLUE"

_SEEDED = ("train", "val", "test")
_SHARES = (0.70, 0.85)  # cumulative
_MAX_BYTES = 2**20
_LINE = re.compile(
    r"(?P<value>\d+)[\s,:]+(?P<name>\S.*?)(?:[\s,:]+(?P<rgb>\d+[\s,]+\d+[\s,]+\d+))?"
)

_Line = tuple[int, str, tuple[int, ...] | None]


def found(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    return (root / "images").is_dir()


def splits(root: Path) -> list[str]:
    """The splits that there are, sorted; train, val and test where they are made by hash."""
    folder = root / "images"
    if _is_flat(folder):
        return sorted(_SEEDED)
    return sorted(p.name for p in folder.glob("*/") if not p.name.startswith("."))


def source(root: Path, split: str, ignore_index: int | None = None) -> Source:
    """Where a split is.

    Args:
        root: The data set.
        split: One of `splits`.
        ignore_index: A value that is ignored beside 255. If it has a line in `classes.txt`, that
            class is dropped and the rest reindexed.

    Raises:
        SegalError: If `classes.txt` is missing or wrong, or a split by hash holds no image.
    """
    classes = read_classes(root / "classes.txt", ignore_index)
    if not _is_flat(root / "images"):
        labels = root / "labels" / split
        return Source(
            root / "images" / split, None, lambda path: _label_path(labels, path), classes
        )
    paths = tuple(path for path in find_images(root / "images") if split_of(path) == split)
    if not paths:
        raise SegalError(
            f"{root}: the split {split!r} holds no image",
            expected="enough images for 70 % train, 15 % val, 15 % test",
            got=f"images directly in {root / 'images'}, of which none falls to {split}",
            remedy=f"make the folders images/{split} and labels/{split} yourself",
        )
    return Source(root / "images", paths, lambda path: _label_path(root / "labels", path), classes)


def split_of(path: str) -> str:
    """The split of an image where there are no official ones.

    Args:
        path: Relative to `images/`, with forward slashes.

    Returns:
        train (70 %), val or test (15 % each), decided by SHA-256 of the path.
    """
    digest = hashlib.sha256(path.encode()).digest()
    position = int.from_bytes(digest[:8]) / 2**64
    return _SEEDED[sum(position >= share for share in _SHARES)]


def read_classes(path: Path, ignore_index: int | None = None) -> Classes:
    """Reads `classes.txt`.

    Args:
        path: The file; its forms are listed at the top of this module.
        ignore_index: As in `source`.

    Raises:
        SegalError: If the file cannot be read, has lines of no or of mixed form, a value or name
            twice, a value above 255, or no class that is not ignored.
    """
    ignored = {IGNORE_INDEX} if ignore_index is None else {IGNORE_INDEX, ignore_index}
    if not all(0 <= value <= 255 for value in ignored):
        raise SegalError(
            "the ignore index is no label value", expected="0 to 255", got=str(ignore_index)
        )
    lines = _parse(path, _read_lines(path))
    kept = sorted(line for line in lines if line[0] not in ignored)
    if not kept:
        raise SegalError(
            f"{path}: no class is left",
            expected=FORMS,
            got=f"{len(lines)} lines, of which {len(lines)} are ignored",
            remedy="list the classes, one a line",
        )
    palette = distinct_colours(len(kept))
    for row, (_, _, colour) in enumerate(kept):
        if colour is not None:
            palette[row] = colour
    return make_classes([(value, name) for value, name, _ in kept], sorted(ignored), palette)


def _read_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise SegalError(
            f"{path}: cannot be read",
            expected=FORMS,
            got=error.strerror,
            remedy="write the names of the classes into it, in the order of their label values",
        ) from error
    except UnicodeDecodeError as error:
        raise SegalError(
            f"{path}: this is no text in UTF-8",
            expected=FORMS,
            got=str(error),
            remedy="save it as UTF-8",
        ) from error
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _parse(path: Path, lines: list[str]) -> list[_Line]:
    matches = [_LINE.fullmatch(line) for line in lines]
    if any(matches):
        plain = [line for line, match in zip(lines, matches, strict=True) if match is None]
        if plain:
            raise SegalError(
                f"{path}: some lines give a value and some do not",
                expected=FORMS,
                got=f"{lines[0]!r}, but {plain[0]!r}",
                remedy="give all classes a value, or none",
            )
        parsed = [_of_match(match) for match in matches if match is not None]
    else:
        parsed = [(value, name, None) for value, name in enumerate(lines)]
    _refuse_wrong(path, parsed)
    return parsed


def _of_match(match: re.Match[str]) -> _Line:
    rgb = match["rgb"] and tuple(map(int, re.split(r"[\s,]+", match["rgb"])))
    return int(match["value"]), match["name"], rgb or None


def _refuse_wrong(path: Path, lines: list[_Line]) -> None:
    errors = []
    seen: set[int | str] = set()
    for value, name, colour in lines:
        if value > 255 or (colour is not None and max(colour) > 255):
            errors.append(
                SegalError(
                    f"{path}: a number of class {name!r} is too large",
                    expected="values and colours from 0 to 255",
                    got=f"{value}" if colour is None else f"{value}, colour {colour}",
                )
            )
        errors += [
            SegalError(
                f"{path}: {key!r} occurs twice",
                expected="one line for each class, each with a value and name of its own",
                got=f"{value} {name}",
                remedy="remove or rename one",
            )
            for key in (value, name)
            if key in seen
        ]
        seen |= {value, name}
    raise_all(errors)


def _is_flat(images: Path) -> bool:
    return any(
        p.name.lower().endswith(SUFFIXES) and not p.name.startswith(".")
        for p in images.glob("*")
        if not p.is_dir()
    )


def _label_path(labels: Path, path: str) -> Path:
    return labels / f"{path.rpartition('.')[0]}.png"
