"""What may be wrong with label files, in words."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segal.data.images import read_orientation
from segal.data.layout import Classes, packed
from segal.errors import SegalError
from segal.functional.labels import IGNORE_INDEX
from segal.system.files import is_there
from segal.system.unicode_forms import form_only

_MANY = 5
_JPEG = (".jpg", ".jpeg")


def no_label(image: Path, label: Path, alike: str | None) -> SegalError:
    """An image without a label, which should be at `label`; `alike` looks like its name."""
    others = (label.with_suffix(suffix) for suffix in _JPEG)
    jpeg = next((other for other in others if is_there(other)), None)
    return SegalError(
        f"{image}: the image has no label",
        expected=str(label),
        got="no such file"
        + (f"; {jpeg.name} is there, but JPEG does not keep values" if jpeg else ""),
        remedy=form_only(label.name, alike)
        if alike
        else "add the label; where its name goes on after the image's, give label_suffix; "
        "or take the image out of the data set",
    )


def other_size(
    path: Path, image: Path, page: int | None, found: tuple[int, ...], expected: tuple[int, int]
) -> SegalError:
    """A label whose (height, width) is not that of its image, which is of a page of its file."""
    orientation = read_orientation(image, page) if found == expected[::-1] else 1
    unturned = orientation >= 5
    return SegalError(
        f"{path}: the label is not of the size of its image {image}"
        + (", but of the size that it has before it is turned" if unturned else ""),
        expected=f"{expected[0]} x {expected[1]} (height x width)",
        got=f"{found[0]} x {found[1]}",
        remedy=f"turn the label as the image's EXIF orientation {orientation} says, or write the "
        "image without that tag"
        if unturned
        else "pair them rightly, or resize the label with nearest neighbour",
    )


def illegal_values(
    path: Path,
    image: Path,
    classes: Classes,
    values: NDArray[np.uint8],
    illegal: Mapping[int, int],
) -> SegalError:
    """A label, (H, W), with values that no class has; `illegal` counts them."""
    return SegalError(
        f"{path}: values outside the classes (label of {image})",
        expected=f"the values {_ranges(classes.legal)}",
        got=", ".join(f"{value} ({count} pixels)" for value, count in illegal.items()),
        remedy=_remedy_for_values(values, len(classes)),
    )


def unlisted_colours(
    path: Path, image: Path, classes: Classes, pixels: NDArray[np.uint8]
) -> SegalError:
    """A label with pixels, (n, 3), whose colours no line of the list of classes has."""
    assert classes.colours is not None
    unlisted, counts = np.unique(packed(pixels), return_counts=True)
    shown = []
    for place in np.argsort(-counts, kind="stable")[:_MANY]:
        colour = [int(unlisted[place]) >> shift & 255 for shift in (16, 8, 0)]
        nearest = int(((classes.colours.astype(int) - colour) ** 2).sum(1).argmin())
        value = int(classes.lookup[nearest])
        name = "void" if value == IGNORE_INDEX else classes.names[value]
        red, green, blue = classes.colours[nearest].tolist()
        shown.append(
            "{} {} {}".format(*colour)
            + f" ({counts[place]} pixels; nearest is {name} {red} {green} {blue})"
        )
    more = f" and {len(counts) - _MANY} more" if len(counts) > _MANY else ""
    return SegalError(
        f"{path}: colours that stand for no class (label of {image})",
        expected=f"the {len(classes.colours)} colours that are listed",
        got=", ".join(shown) + more,
        remedy="list the colour, with the name void where no class is meant; JPEG and smooth "
        "resizing make new colours: write labels as PNG, resized with nearest neighbour",
    )


def _remedy_for_values(values: NDArray[np.uint8], classes: int) -> str:
    found = np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()
    if 1 < len(found) <= classes + 1 and max(found) > classes:
        listed = ", ".join(map(str, found))
        return (
            f"if these are 8-bit masks in which the values {listed} stand for classes, give them "
            f"in classes.txt, a line each: {found[-1]} NAME; else list the class, or choose the "
            "value as ignore_index, or mend the label"
        )
    return "list the class, or choose the value as ignore_index, or mend the label"


def _ranges(legal: NDArray[np.bool_]) -> str:
    """Values that are legal, as in `0-11, 255`."""
    values = np.flatnonzero(legal)
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def refuse_black_and_white(
    root: Path, split: str, classes: Classes, values: NDArray[np.int64]
) -> None:
    """Raises a SegalError for masks of 0 and 255 where 255 is void only because none said other.

    Args:
        root: Of the images.
        split: Its name.
        classes: Of the data set.
        values: (256,) pixels of each value of its label files.
    """
    names, found = classes.names, np.flatnonzero(values).tolist()
    zero = int(classes.lookup[0])
    if not (classes.void_is_assumed and found == [0, 255] and len(names) > 1):
        return
    if zero == IGNORE_INDEX:
        return
    other = next(name for i, name in enumerate(names) if i != zero)
    raise SegalError(
        f"{root}: the labels of {split} are masks of 0 and 255, and 255 is void: all "
        f"that is labelled is {names[zero]}",
        expected=f"values of the {len(names)} classes",
        got=f"0 ({values[0]} pixels) and 255 ({values[255]} pixels)",
        remedy=f"if 255 is a class, write the values into classes.txt, such as `0 {names[zero]}` "
        f"and `255 {other}`; if it is void, give ignore_index 255",
    )
