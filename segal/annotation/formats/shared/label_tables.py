"""Images that are classified: a table of them, or a folder for each class."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from segal.annotation.answers import Answer
from segal.annotation.formats.base import Drafts
from segal.annotation.formats.shared.files import Drafted, FileNames, Gathered, Part, put
from segal.annotation.formats.shared.mistakes import Mistake, not_handed_out
from segal.annotation.formats.shared.tools import no_answers
from segal.annotation.handout import Handout
from segal.data.find import SUFFIXES
from segal.errors import SegalError
from segal.tasks.classification.labels import UNKNOWN
from segal.tasks.classification.tables import read_table

TABLE_FILE = "labels.csv"


def write_choices(
    part: Part, handout: Handout, drafts: Drafts | None
) -> tuple[list[Path], Drafted]:
    """Writes a table of the images, of which labels are empty or what the network says."""
    several = handout.question == "multilabel"
    drafted, text = Drafted(), io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["path", *handout.classes] if several else ["path", "label"])
    for task in part.tasks:
        answer = drafts(task) if drafts is not None else None
        chosen = [] if answer is None else list(answer.choices)
        drafted.add(task, chosen)
        told = ["" if answer is None else str(int(x in chosen)) for x in handout.classes]
        table.writerow([task.file, *(told if several else [*chosen, ""][:1])])
    data = text.getvalue().encode(errors="surrogateescape")
    return [put(part.root / TABLE_FILE, data)], drafted


def read_choices(part: Part, handout: Handout) -> Iterator[Answer | SegalError]:
    """Reads a table, if that is what came back or it is in the folder; else folders of classes.

    Raises:
        SegalError: If the table cannot be read.
    """
    file = part.root / TABLE_FILE if part.root.is_dir() else part.root
    several = handout.question == "multilabel"
    if file.is_file():
        chosen = _of_table(file, handout, several)
    elif several:
        raise SegalError(
            f"{part.root}: no table of labels",
            expected=f"{TABLE_FILE}, with a column for each class",
            got="a folder without it",
            remedy="give the table; a folder for each class says one label only",
        )
    else:
        chosen = _of_folders(part.root)
    gathered, names = Gathered.of(part, handout), FileNames(part)
    strangers = []
    rows: dict[str, list[tuple[str, list[str] | None]]] = {}
    for path, classes in chosen:
        found = names.find(path)
        if found is None:
            strangers.append(path)
        else:
            rows.setdefault(found, []).append((path, classes))
    if strangers:
        yield not_handed_out(file if file.is_file() else part.root, strangers, part.by_file)
    if not rows and not strangers and not file.is_file():
        yield no_answers(part.root, f"{TABLE_FILE}, or a folder of images for each class")
    for found, said in rows.items():
        task, source = part.by_file[found][0], f"{part.root}: {said[0][0]}"
        if len(said) > 1:
            got = ", ".join(f"{path} ({', '.join(classes or [])})" for path, classes in said[:5])
            mistake = Mistake(part.root, "two labels", "one", got, "leave the right one only")
            yield mistake.said_of(task)
        elif said[0][1] is None:
            expected = "1 or 0 of every class, or nothing of all of them"
            got = "some classes are left open"
            yield Mistake(source, "half a label", expected, got, "fill the row").said_of(task)
        else:
            yield from gathered.choice(task, source, said[0][1], is_said=several)


def _of_table(
    file: Path, handout: Handout, several: bool
) -> Iterator[tuple[str, list[str] | None]]:
    """The classes of each image; None where it is not said of all whether they are chosen."""
    table = read_table(file, several)
    assert table.labels is not None
    for path, label in zip(table.paths, table.labels, strict=True):
        if not several:
            yield path, _named(label, handout.classes)
            continue
        if (label == UNKNOWN).all():
            continue
        assert table.columns is not None
        chosen = [table.columns[i] for i in np.flatnonzero(label == 1).tolist()]
        half = bool((label == UNKNOWN).any()) or len(table.columns) < len(handout.classes)
        yield path, None if half else chosen


def _named(label: Any, classes: tuple[str, ...]) -> list[str]:
    """The class that a table names or, unless numbers are names, numbers from 0."""
    if isinstance(label, str):
        return [str(label)] if label else []
    number = int(label)
    if number == UNKNOWN:
        return []
    is_index = str(number) not in classes and number < len(classes)
    return [classes[number] if is_index else str(number)]


def _of_folders(root: Path) -> Iterator[tuple[str, list[str] | None]]:
    """The class of each image by the folder that it lies in, which may have others in it."""
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        is_image = path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")
        if is_image and len(relative.parts) > 1:
            yield "/".join(relative.parts[1:]), [relative.parts[0]]
