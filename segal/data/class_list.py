"""Reads lists of classes: `classes.txt`, and what other tools write of the kind.

Every line has one and the same form:

    NAME                            values 0, 1, 2, ... in the order of the lines
    VALUE NAME                      such as `7 traffic light`, or NAME VALUE
    VALUE NAME RED GREEN BLUE       with the colour that the class is drawn in
    NAME RED GREEN BLUE             label files hold colours; or RED GREEN BLUE NAME

A colour may be `#804080` too. Blanks, tabs, commas, colons and semicolons separate; a name may have
several words. Empty lines, a byte-order mark and lines that begin with # do not count.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segal.data.layout import (
    MAX_CLASSES,
    Classes,
    LabelOptions,
    distinct_colours,
    make_classes,
)
from segal.errors import SegalError, raise_all
from segal.functional.labels import IGNORE_INDEX

FORMS = (
    "a line for each class: NAME, or VALUE NAME [RED GREEN BLUE], or NAME VALUE, "
    "or NAME RED GREEN BLUE where label files hold colours"
)

_LONGEST = 300
"""Characters that a line may have; patterns take far longer on more."""

_VOID_NAMES = {"void", "ignore", "ignored", "unlabelled", "unlabeled", "don't care", "dont care"}

_GAP = r"[\s,:;]+"
_NAME = r"(?P<name>\S.*?)"
_RGB = r"[(\[]?(?P<rgb>\d+(?:[\s,;]+\d+){2})[)\]]?"
_COLOUR = rf"(?:{_RGB}|(?P<hex>#[0-9a-fA-F]{{6}}))"
_VALUE_FIRST = re.compile(rf"(?P<value>\d+){_GAP}{_NAME}(?:{_GAP}{_COLOUR})?")
_VALUE_LAST = re.compile(rf"{_NAME}{_GAP}(?P<value>\d+)")
_COLOUR_FIRST = re.compile(rf"{_RGB}{_GAP}(?P<name>[^\d\s].*?)")
_COLOUR_LAST = re.compile(rf"{_NAME}{_GAP}{_COLOUR}")


@dataclass(frozen=True)
class _Line:
    """A class: its value in label files, or the number of its colour, and how it is drawn."""

    value: int
    name: str
    colour: tuple[int, ...] | None

    @property
    def is_void(self) -> bool:
        """Whether the name says that no class is meant."""
        return re.sub(r"[\s_-]+", " ", self.name).casefold() in _VOID_NAMES


def read_classes(path: Path, options: LabelOptions) -> Classes:
    """Reads a list of classes.

    A class whose value is ignored (or, where label files hold colours, whose line's number from 0
    is) is dropped and the rest reindexed; so is one of the value 255, or of a colour, that is named
    void, ignore, unlabelled or the like.

    Args:
        path: The file; its forms are listed at the top of this module.
        options: What is ignored.

    Raises:
        SegalError: If the file cannot be read, has lines of mixed form, a value, colour or name
            twice, a number above 255, more than 255 classes, or none that is not ignored.
    """
    return classes_of(path, read_lines(path), options)


def classes_of(path: Path, texts: list[str], options: LabelOptions) -> Classes:
    """`read_classes` of lines that are read already; the path is for messages."""
    if options.ignore_index is not None and not 0 <= options.ignore_index <= 255:
        raise SegalError(
            "the ignore index is no label value",
            expected="0 to 255",
            got=str(options.ignore_index),
            remedy="give the value of label files that stands for no class",
        )
    if len(texts) > MAX_CLASSES + 1:
        _refuse_count(path, len(texts), len(texts))
    if longest := max(texts, key=len, default="")[_LONGEST:]:
        raise SegalError(
            f"{path}: a line is too long",
            expected=f"{FORMS}; at most {_LONGEST} characters",
            got=f"{_LONGEST + len(longest)} characters",
            remedy="shorten the name, or check that this is the right file",
        )
    coded = _as_colours(path, texts)
    if coded is not None:
        return _coded_classes(path, coded, options)
    return _valued_classes(path, *_as_values(path, texts, options), options)


def _coded_classes(path: Path, lines: list[_Line], options: LabelOptions) -> Classes:
    """Of label files of colours: a class's value is the number of its line."""
    if options.reduce_zero_label:
        raise SegalError(
            f"{path}: labels of colours have no value 0 to leave out",
            expected="no reduce_zero_label where classes.txt lists colours",
            got="reduce_zero_label: true",
            remedy="name the colour that stands for no class void in classes.txt",
        )
    dropped = {line.value for line in lines if line.is_void} | options.ignored
    kept = [line for line in lines if line.value not in dropped]
    _refuse_count(path, len(lines), len(lines) if len(lines) > MAX_CLASSES else len(kept))
    void = [line.value for line in lines if line.value in dropped]
    made = make_classes([(line.value, line.name) for line in kept], void, _palette(kept))
    colours = np.array([line.colour for line in lines], np.uint8)
    return Classes(made.names, made.palette, made.lookup, made.legal, colours)


def _valued_classes(
    path: Path, lines: list[_Line], notes: tuple[str, ...], options: LabelOptions
) -> Classes:
    top = [line for line in lines if line.value == IGNORE_INDEX]
    top_is_class = bool(top) and not top[0].is_void and IGNORE_INDEX not in options.ignored
    if top_is_class:
        notes += (
            f"{path}: the value 255 is the class {top[0].name!r}; if it is void, take its line "
            "out, or give ignore_index 255",
        )
    ignored = options.ignored if top_is_class else options.ignored | {IGNORE_INDEX}
    kept = sorted((line for line in lines if line.value not in ignored), key=lambda x: x.value)
    _refuse_count(path, len(lines), len(kept))
    made = make_classes([(line.value, line.name) for line in kept], ignored, _palette(kept))
    return Classes(
        made.names,
        made.palette,
        made.lookup,
        made.legal,
        void_is_assumed=not top and IGNORE_INDEX not in options.ignored,
        notes=notes,
    )


def _refuse_count(path: Path, listed: int, kept: int) -> None:
    if not kept:
        raise SegalError(
            f"{path}: no class is left",
            expected=FORMS,
            got=f"{listed} lines, of which {listed} are ignored",
            remedy="list the classes, one a line",
        )
    if kept > MAX_CLASSES:
        raise SegalError(
            f"{path}: too many classes",
            expected=f"at most {MAX_CLASSES}, since labels are of 8 bits and 255 is void",
            got=str(kept),
            remedy="merge classes, or map those that matter little to 255 in the label files",
        )


def _palette(lines: list[_Line]) -> NDArray[np.uint8]:
    palette = distinct_colours(min(len(lines), MAX_CLASSES))
    for row, line in enumerate(lines):
        if line.colour is not None:
            palette[row] = line.colour
    return palette


def read_lines(path: Path, expected: str = FORMS, most: int = 2**20) -> list[str]:
    """The lines of a text file that are neither empty nor comments, without blanks around them.

    Args:
        path: The file.
        expected: What it should hold, for messages.
        most: Bytes that it may have.

    Raises:
        SegalError: If it cannot be read, is too large, or no text in UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise SegalError(
                f"{path}: too large",
                expected=f"{expected}; at most {most:,} bytes",
                got=f"more than {most:,} bytes",
                remedy="check that this is the right file",
            )
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise SegalError(
            f"{path}: cannot be read",
            expected=expected,
            got=error.strerror,
            remedy="write it: a line for each, in UTF-8",
        ) from error
    except UnicodeDecodeError as error:
        raise SegalError(
            f"{path}: this is no text in UTF-8",
            expected=expected,
            got=str(error),
            remedy="save it as UTF-8",
        ) from error
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _as_colours(path: Path, texts: list[str]) -> list[_Line] | None:
    """The lines where label files hold colours; None where they hold values."""
    bare = [text.strip(" \t,:;") for text in texts]
    for form in (_COLOUR_FIRST, _COLOUR_LAST):
        matches = [form.fullmatch(text) for text in bare]
        fits = [m is not None and not _VALUE_FIRST.fullmatch(m["name"]) for m in matches]
        if form is _COLOUR_LAST and any(fits) and not all(fits):
            _refuse_mixed(path, texts, fits, "colour")
        if texts and all(fits):
            lines = [_Line(i, m["name"], _colour(m)) for i, m in enumerate(matches) if m]
            _refuse_wrong(path, lines, ("colour", "name"))
            return lines
    return None


def _as_values(
    path: Path, texts: list[str], options: LabelOptions
) -> tuple[list[_Line], tuple[str, ...]]:
    """The lines where label files hold values, and what to tell of how they were read."""
    bare = [text.strip(" \t,:;") for text in texts]
    first = [_VALUE_FIRST.fullmatch(text) for text in bare]
    last = [_VALUE_LAST.fullmatch(text) for text in bare]
    notes: tuple[str, ...] = ()
    if any(first):
        if not all(first):
            _refuse_mixed(path, texts, [m is not None for m in first], "value")
        lines = [_Line(int(m["value"]), m["name"], _colour(m)) for m in first if m]
    # `lane 1`, `lane 2` are names: without their numbers they would not be told apart.
    elif texts and all(m and int(m["value"]) <= 255 for m in last) and _distinct(last):
        lines = [_Line(int(m["value"]), m["name"], None) for m in last if m]
        notes = (f"{path}: the number that ends each line is the value of its class",)
    else:
        start = 1 if options.reduce_zero_label else 0
        lines = [_Line(start + i, text, None) for i, text in enumerate(texts)]
        _refuse_count(path, 0, start + len(lines) if lines else 1)
    _refuse_wrong(path, lines, ("value", "name"))
    return lines, notes


def _distinct(matches: Iterable[re.Match[str] | None]) -> bool:
    names = [m["name"] for m in matches if m]
    return len(set(names)) == len(names)


def _colour(match: re.Match[str]) -> tuple[int, ...] | None:
    groups = match.groupdict()
    if groups.get("hex"):
        return tuple(bytes.fromhex(groups["hex"][1:]))
    return tuple(map(int, re.split(r"[\s,;]+", groups["rgb"]))) if groups["rgb"] else None


def _refuse_mixed(path: Path, texts: list[str], fits: list[bool], what: str) -> None:
    with_it = next(text for text, fit in zip(texts, fits, strict=True) if fit)
    without = next(text for text, fit in zip(texts, fits, strict=True) if not fit)
    raise SegalError(
        f"{path}: some lines give a {what} and some do not",
        expected=FORMS,
        got=f"{with_it!r}, but {without!r}",
        remedy=f"give all classes a {what}, or none"
        + ("; a name that begins with a number needs a value before it" if what == "value" else ""),
    )


def _refuse_wrong(path: Path, lines: list[_Line], unique: tuple[str, ...]) -> None:
    errors = []
    seen: set[object] = set()
    for line in lines:
        if line.value > 255 or (line.colour is not None and max(line.colour) > 255):
            errors.append(
                SegalError(
                    f"{path}: a number of class {line.name!r} is too large",
                    expected="values and colours from 0 to 255",
                    got=f"{line.value}" + (f", colour {line.colour}" if line.colour else ""),
                    remedy="labels are of 8 bits: give the class another value",
                )
            )
        for key in (getattr(line, of) for of in unique):
            if key in seen:
                errors.append(
                    SegalError(
                        f"{path}: {key!r} occurs twice",
                        expected=f"one line for each class, each with a {' and '.join(unique)} "
                        "of its own",
                        got=f"{line.value} {line.name}",
                        remedy="remove or rename one",
                    )
                )
            seen.add(key)
    raise_all(errors)
