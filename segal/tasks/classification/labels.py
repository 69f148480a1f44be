"""Labels of images as they are written, and the classes that they stand for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segal.data.class_list import read_lines
from segal.data.find import shortened
from segal.errors import SegalError, raise_all
from segal.registry import nearest
from segal.tasks.classes import ClassNames

UNKNOWN = -1
CLASSES_FILE = "classes.txt"

Labels = NDArray[Any]
"""As they are written: (n,) int64, UNKNOWN where there is none, or (n,) strings, empty where there
is none; (n, C) int64 of 0, 1 and UNKNOWN where each of C labels is told by itself."""

_VALUED = re.compile(r"(\d+)[\s,:;]+(\S.*)")
_SHOWN = 5


@dataclass(frozen=True)
class ClassList:
    """A list of classes that a user gives.

    Attributes:
        place: Where it is from.
        names: In the order of the network's outputs.
        values: The number that stands for each in labels.
    """

    place: str
    names: tuple[str, ...]
    values: tuple[int, ...]

    @classmethod
    def read(cls, path: Path) -> "ClassList | None":
        """Reads lines `NAME`, or `VALUE NAME`; None where there is no such file.

        Raises:
            SegalError: If it cannot be read, is empty, or has a name or a value twice.
        """
        if not path.is_file():
            return None
        lines = read_lines(path, "a class a line: NAME, or VALUE NAME")
        valued = [_VALUED.fullmatch(line) for line in lines]
        pairs = [(int(m[1]), m[2]) for m in valued if m]
        if len(pairs) < len(lines):
            return cls.of(str(path), lines)
        values, names = zip(*sorted(pairs), strict=True) if pairs else ((), ())
        return cls._checked(cls(str(path), names, values))

    @classmethod
    def of(cls, place: str, names: Sequence[str]) -> "ClassList":
        """Of names; numbers in their place stand for themselves."""
        numbers = all(name.isdecimal() for name in names)
        values = tuple(map(int, names)) if numbers else tuple(range(len(names)))
        return cls._checked(cls(place, tuple(names), values))

    @staticmethod
    def _checked(found: "ClassList") -> "ClassList":
        for what, items in (("name", found.names), ("value", found.values)):
            twice = sorted({str(x) for x in items if items.count(x) > 1}) if _twice(items) else []
            if twice or not items:
                raise SegalError(
                    f"{found.place}: no list of classes",
                    expected=f"a line for each class, with a {what} of its own",
                    got=f"{', '.join(twice[:_SHOWN])} more than once" if twice else "no line",
                    remedy="mend the list",
                )
        return found


def _twice(items: Sequence[object]) -> bool:
    return len(set(items)) < len(items)


def tidied(place: str, written: NDArray[Any], multilabel: bool) -> Labels:
    """Labels of an array or a table, in one of the forms of `Labels`.

    Args:
        place: Where they are from, for messages.
        written: Numbers or strings, (n,), (n, 1), or (n, C) for `multilabel`.
        multilabel: Whether each of several labels is told by itself.

    Raises:
        SegalError: If they are of another shape or type, or have values that are none.
    """
    if written.ndim == 2 and written.shape[1] == 1 and not multilabel:
        written = written[:, 0]
    if written.ndim != (2 if multilabel else 1):
        raise SegalError(
            f"{place}: labels of another shape",
            expected="(n, C) of 0 and 1" if multilabel else "one label an image, (n,)",
            got=f"{written.shape} of {written.dtype}",
            remedy="one label an image: task: classification"
            if multilabel
            else "several labels an image: task: multilabel; one in columns: save y.argmax(1)",
        )
    if written.dtype.kind == "S":
        written = np.char.decode(written, "utf-8", "replace")
    if written.dtype.kind == "U":
        text = np.char.strip(written)
        if not multilabel and not all(_is_number(x) for x in np.unique(text).tolist()):
            return text
        # Numbers as tables have them: 3, 3.0, or nothing where there is none.
        flat = [_number(x) for x in text.ravel().tolist()]
        most = 1 if multilabel else np.inf
        pairs = zip(text.ravel().tolist(), flat, strict=True)
        wrong = [x for x, n in pairs if n is None or n > most]
        if wrong:
            raise _no_labels(place, multilabel, wrong)
        return _checked(place, np.array(flat, np.int64).reshape(text.shape), multilabel)
    if written.dtype.kind == "f":
        known = ~np.isnan(written)
        if not (np.trunc(written[known]) == written[known]).all():
            part = written[known]
            raise _no_labels(place, multilabel, part[np.trunc(part) != part].tolist())
        if known.any() and np.abs(written[known]).max() >= 2**53:
            raise _no_labels(place, multilabel, [float(np.abs(written[known]).max())])
        written = np.where(known, written, UNKNOWN)
    elif written.dtype.kind not in "biu":
        raise _no_labels(place, multilabel, [f"dtype {written.dtype}"])
    if written.dtype.kind == "u" and written.size and written.max() > np.iinfo(np.int64).max:
        raise _no_labels(place, multilabel, [int(written.max())])
    return _checked(place, written.astype(np.int64), multilabel)


def _is_number(text: str) -> bool:
    return _number(text) is not None


def _number(text: str) -> int | None:
    if not text or text.casefold() == "nan":
        return UNKNOWN
    found = re.fullmatch(r"(-1|\d{1,15})(\.0*)?", text, re.ASCII)
    return int(found[1]) if found else None


def _checked(place: str, labels: NDArray[np.int64], multilabel: bool) -> NDArray[np.int64]:
    wrong = labels[(labels < UNKNOWN) | ((labels > 1) & multilabel)]
    if len(wrong):
        raise _no_labels(place, multilabel, np.unique(wrong).tolist())
    return labels


def _no_labels(place: str, multilabel: bool, wrong: Sequence[object]) -> SegalError:
    return SegalError(
        f"{place}: values that are no labels",
        expected="1, 0, or nothing where it is not known, in the column of every class"
        if multilabel
        else "names of classes, or whole numbers from 0 (-1 where it is not known)",
        got=", ".join(str(x)[:60] for x in wrong[:_SHOWN]) + (", ..." if wrong[_SHOWN:] else ""),
        remedy="mend these values",
    )


def classes_of(
    place: str,
    written: Mapping[str, Labels],
    listed: ClassList | None,
    columns: Sequence[str] | None = None,
) -> ClassNames:
    """The classes of a data set, the same for all of its splits.

    Args:
        place: The data set, for messages.
        written: The labels of each split, by its name.
        listed: The user's list of classes, if there is one.
        columns: Names of the columns, where each of several labels is told by itself.

    Returns:
        The classes that are listed; else the names that occur, sorted, or numbers from 0.

    Raises:
        SegalError: If numbers have gaps and are not listed, or `train` lacks names that another
            split has, or there is no label at all, or columns and list differ.
    """
    if any(labels.ndim == 2 for labels in written.values()):
        return _columns(place, written, listed, columns)
    if listed is not None:
        return ClassNames(listed.names)
    written = {
        split: labels for split, labels in written.items() if (labels != _none(labels)).any()
    }
    kinds = {labels.dtype.kind for labels in written.values()}
    if len(kinds) > 1:
        shown = ", ".join(
            f"{'names' if labels.dtype.kind == 'U' else 'numbers'} in {split}"
            for split, labels in written.items()
        )
        raise SegalError(
            f"{place}: labels are names in one split and numbers in another",
            expected="names everywhere, or numbers",
            got=shown,
            remedy=f"write them alike, or list the classes in {CLASSES_FILE}",
        )
    if not kinds:
        raise SegalError(
            f"{place}: no image has a label",
            expected="a label of some images at least",
            got="none",
            remedy="write the labels, or check that this is the right file",
        )
    found = np.unique(np.concatenate([np.unique(labels) for labels in written.values()]))
    found = found[found != _none(found)]
    if kinds == {"U"}:
        _refuse_new_names(place, written)
        return ClassNames(tuple(found.tolist()))
    if len(found) <= found[-1]:
        raise _gaps(place, found)
    return ClassNames(tuple(f"class {i}" for i in range(len(found))))


def _none(labels: Labels) -> Any:
    """What stands for no label."""
    return "" if labels.dtype.kind == "U" else UNKNOWN


def _gaps(place: str, found: NDArray[np.int64]) -> SegalError:
    first = range(int(min(found[-1], len(found) + _SHOWN)))
    missing = sorted(set(first) - set(found.tolist()))
    return SegalError(
        f"{place}: labels are numbers with gaps, so which classes there are is not known",
        expected=f"every number from 0 to {len(found) - 1}, for {len(found)} classes",
        got=f"{found[0]} to {found[-1]}, without {', '.join(map(str, missing[:_SHOWN]))}"
        + (", ..." if found[-1] + 1 - len(found) > _SHOWN else ""),
        remedy=f"list the classes in {CLASSES_FILE}, a line `NUMBER NAME` for each",
    )


def _refuse_new_names(place: str, written: Mapping[str, Labels]) -> None:
    """A name that `train` lacks is a slip of the pen more often than a class."""
    if "train" not in written:
        return
    there = {name for name in np.unique(written["train"]).tolist() if name}
    errors = []
    for split, labels in written.items():
        new = sorted({name for name in np.unique(labels).tolist() if name} - there)
        if new and there:
            errors.append(
                SegalError(
                    f"{place}: classes of {split} that train has no image of",
                    expected="the classes of train",
                    got=_with_nearest(new, sorted(there)),
                    remedy=f"mend the names, or list all classes in {CLASSES_FILE}",
                )
            )
    raise_all(errors)


def _with_nearest(names: Sequence[str], there: Sequence[str]) -> str:
    shown = []
    for name in names[:_SHOWN]:
        near = nearest(name, list(there))
        shown.append(f"{name[:60]!r}" + (f" (train has {near!r})" if near else ""))
    return ", ".join(shown) + (", ..." if len(names) > _SHOWN else "")


def _columns(
    place: str,
    written: Mapping[str, Labels],
    listed: ClassList | None,
    columns: Sequence[str] | None,
) -> ClassNames:
    counts = {split: labels.shape[1] for split, labels in written.items()}
    names = tuple(columns) if columns is not None else listed.names if listed is not None else None
    if len(set(counts.values())) > 1 or (names and len(names) not in counts.values()):
        raise SegalError(
            f"{place}: not as many columns as classes",
            expected=f"{len(names)} columns" if names else "as many in every split",
            got=", ".join(f"{count} in {split}" for split, count in counts.items()),
            remedy=f"give every class a column, and a line of {CLASSES_FILE}",
        )
    if listed is not None and names != listed.names:
        raise SegalError(
            f"{place}: columns are not the classes of {listed.place}",
            expected=", ".join(listed.names[:20]),
            got=", ".join((names or ())[:20]),
            remedy="name the columns as the classes, in their order",
        )
    count = next(iter(counts.values()))
    return ClassNames(names or tuple(f"class {i}" for i in range(count)))


def encoded(
    place: str,
    labels: Labels,
    classes: ClassNames,
    listed: ClassList | None,
    where: Sequence[str],
) -> NDArray[np.int32]:
    """Labels as classes.

    Args:
        place: Where they are from, for messages.
        labels: As they are written.
        classes: Of the data set.
        listed: The user's list of them, if there is one.
        where: What to call each image in messages.

    Returns:
        (n,) or (n, C) int32: classes from 0, or 0 and 1; UNKNOWN where there is none.

    Raises:
        SegalError: For labels that the classes do not have, all of them.
    """
    if labels.ndim == 2:
        return labels.astype(np.int32)
    if labels.dtype.kind == "U":
        table: dict[Any, int] = {name: i for i, name in enumerate(classes.names)} | {"": UNKNOWN}
    else:
        values = range(len(classes)) if listed is None else listed.values
        table = {value: i for i, value in enumerate(values)} | {UNKNOWN: UNKNOWN}
    found, inverse = np.unique(labels, return_inverse=True)
    wrong = [x for x in found.tolist() if x not in table]
    errors = []
    for value in wrong:
        images = np.flatnonzero(labels == value)
        near = nearest(value, list(classes.names)) if isinstance(value, str) else None
        errors.append(
            SegalError(
                f"{place}: a label that none of the {len(classes)} classes has",
                expected=", ".join(classes.names[:20]) + (", ..." if len(classes) > 20 else "")
                if isinstance(value, str)
                else f"numbers {min(table.keys() - {UNKNOWN})} to {max(table)}, as "
                f"{listed.place if listed is not None else 'train'} lists them",
                got=f"{str(value)[:60]!r} of {len(images)} images, such as {where[int(images[0])]}",
                remedy=f"did you mean {near!r}?"
                if near
                else f"mend the label, or add the class to {CLASSES_FILE}",
            )
        )
    raise_all(shortened(errors))
    mapped = np.array([table[x] for x in found.tolist()], np.int32)
    return mapped[inverse]
