"""Labels as images of their own, one of each image or task: a value or a colour for each class."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segal.annotation.answers import Answer, Layer
from segal.annotation.formats.base import Drafts
from segal.annotation.formats.shared.files import (
    Drafted,
    FileNames,
    Gathered,
    Part,
    Reply,
    files_at,
    put,
    stem,
)
from segal.annotation.formats.shared.frames import draft_layers, paint
from segal.annotation.formats.shared.mistakes import Mistake, check_size, not_handed_out
from segal.annotation.formats.shared.tools import no_answers
from segal.annotation.handout import AnnotationTask, Handout, fitting
from segal.annotation.questions.base import VOID
from segal.data.find import check_path, real_path
from segal.data.image_file import open_image, read_bytes
from segal.data.images import read_label, read_label_colours
from segal.data.label_files import LABEL_SUFFIXES
from segal.data.layout import Classes
from segal.errors import SegalError
from segal.functional.labels import IGNORE_INDEX
from segal.functional.segments import masks_of_values

NO_CLASS = "no class"
"""The void that annotators give, where lists of classes leave out what is named void."""
_COLOURED = ("RGB", "RGBA", "RGBX")
_SHOWN = 5
_SUFFIXES = f"such as {next(iter(LABEL_SUFFIXES))}"


@dataclass(frozen=True)
class Meaning:
    """What the pixels of label images mean.

    Attributes:
        values: What values stand for.
        colours: What colours stand for, in images of three channels; None where they are values.
        told: Values that are nothing but are told where they occur, by name.
    """

    values: Classes
    colours: Classes | None = None
    told: Mapping[int, str] = field(default_factory=dict)

    def read(self, path: Path) -> tuple[NDArray[np.uint8], Classes]:
        """Reads an image, of whatever size.

        Returns:
            (h, w) values, and what they stand for.

        Raises:
            SegalError: If it cannot be read.
            Mistake: If it has values or colours that stand for nothing.
        """
        if self.colours is None or open_image(path, read_bytes(path)).mode not in _COLOURED:
            values = read_label(path)
            illegal = self.values.illegal(values)
            if illegal:
                got = ", ".join(f"{value} ({n} pixels)" for value, n in illegal.items())
                allowed = ", ".join(map(str, np.flatnonzero(self.values.legal).tolist()))
                raise _stray(path, "values", f"values {allowed}", got)
            return values, self.values
        pixels = read_label_colours(path)
        values = self.colours.decode(pixels)
        illegal = self.colours.illegal(values)
        if illegal:
            stray = pixels[np.isin(values, list(illegal))]
            found, counts = np.unique(stray, axis=0, return_counts=True)
            pairs = list(zip(found.tolist(), counts.tolist(), strict=True))[:_SHOWN]
            got = ", ".join(f"{tuple(colour)} ({n} pixels)" for colour, n in pairs)
            raise _stray(path, "colours", "the colours that are listed", got)
        return values, self.colours


def _stray(path: Path, what: str, expected: str, got: str) -> Mistake:
    remedy = "draw without smoothing, or list the class"
    return Mistake(path, f"{what} that no class has", expected, got, remedy)


@dataclass
class LabelFiles:
    """Label images that came back.

    Attributes:
        labels: Name of the folder that they are in.
        by_file: Of what is shown, by `AnnotationTask.file`.
        by_key: Of single tasks.
        strangers: Names that are of neither.
        errors: What cannot be opened.
        others: Files of another form, which are read where there is no image.
    """

    labels: str
    by_file: dict[str, list[Path]] = field(default_factory=dict)
    by_key: dict[str, list[Path]] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)
    errors: list[SegalError] = field(default_factory=list)
    others: Sequence[Path] = ()

    @classmethod
    def find(
        cls,
        labels: str,
        part: Part,
        names: FileNames,
        ending: str = "",
        skipped: Sequence[str] = (),
    ) -> "LabelFiles":
        """Finds them.

        Args:
            labels: Name of the folder that they are in, where it is there; else all are looked at.
            part: Whose.
            names: Of images, without what follows them in the names of labels.
            ending: What that is, but for the suffix.
            skipped: Names of folders that are not looked into.
        """
        found, root = cls(labels), part.within(labels)
        folder = root if root.is_dir() else root.parent
        real_root, keys = real_path(folder), {task.key for task in part.tasks}
        for path in files_at(root, LABEL_SUFFIXES):
            relative, name = path.relative_to(folder), path.stem
            if not name.endswith(ending) or set(relative.parts[:-1]) & {*skipped}:
                continue
            try:
                check_path(folder, relative.as_posix(), real_root)
            except SegalError as error:
                found.errors.append(error)
                continue
            name = name.removesuffix(ending)
            file = names.find_path(path, root, ending)
            if name in keys:
                found.by_key.setdefault(name, []).append(path)
            elif file is not None:
                found.by_file.setdefault(file, []).append(path)
            else:
                found.strangers.append(relative.as_posix())
        return found

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found at all."""
        return not (self.by_file or self.by_key or self.strangers or self.errors or self.others)


def read_label_images(
    found: LabelFiles, part: Part, handout: Handout, meaning: Meaning
) -> Iterator[Answer | SegalError]:
    """Reads answers, one image after the other.

    An image is of all that a tool shows, or, if it has the name of a task's key, of that task; it
    may then be of the region alone.

    Args:
        found: The images.
        part: Whose.
        handout: What was handed out.
        meaning: What pixels mean.
    """
    gathered, root = Gathered.of(part, handout), part.within(found.labels)
    if found.is_empty and not gathered.done and not part.is_as_written(found.labels):
        yield no_answers(part.root, f"label images named as what was handed out, {_SUFFIXES}")
        return
    yield from found.errors
    if found.strangers:
        yield not_handed_out(root, found.strangers, part.by_file)
    alone: dict[str, list[AnnotationTask]] = {key: [] for key in found.by_key}
    together: dict[str, list[AnnotationTask]] = {}
    for task in part.tasks:
        if task.key in alone:
            alone[task.key].append(task)
        else:
            together.setdefault(task.file, []).append(task)
    came = [(together[file], paths) for file, paths in found.by_file.items() if file in together]
    came += [(alone[key], paths) for key, paths in found.by_key.items()]
    for asked, paths in came:
        tasks, reply = fitting(asked, None), Reply(str(paths[0]))
        try:
            if len(paths) > 1:
                got = ", ".join(path.relative_to(root).as_posix() for path in paths)
                raise Mistake(root, "two labels", "one", got, "leave the right one only")
            values, classes = _opened(paths[0], meaning)
            tasks = fitting(asked, values.shape)
            _read(reply, paths[0], values, classes, tasks[0], meaning, handout)
        except Mistake as mistake:
            reply.fail(mistake, tasks)
        yield from gathered.answers(reply, tasks)
    if root.is_dir():  # what is done though there is no image of it
        told = {task.key for asked, _ in came for task in asked}
        for task in part.tasks:
            for one in () if task.key in told else gathered.answers(Reply(str(root)), [task]):
                told.add(task.key)
                yield one


def _opened(path: Path, meaning: Meaning) -> tuple[NDArray[np.uint8], Classes]:
    try:
        return meaning.read(path)
    except SegalError as error:
        raise Mistake.of_error(error, path) from error


def _read(
    reply: Reply,
    path: Path,
    values: NDArray[np.uint8],
    classes: Classes,
    task: AnnotationTask,
    meaning: Meaning,
    handout: Handout,
) -> None:
    corner = (0, 0)
    x0, y0, x1, y1 = task.region_in_frame
    if path.stem.startswith(task.key) and values.shape == (y1 - y0, x1 - x0):
        corner = (x0, y0)
    else:
        check_size(task, path, values.shape)
    left, top = corner
    for value, mask, (x, y) in masks_of_values(values):
        if value in meaning.told:
            note = f"{np.count_nonzero(mask)} pixels of {meaning.told[value]!r}, which is no class,"
            reply.notes.append(f"{note} are taken for unpainted")
        number = int(classes.lookup[value])
        if number == IGNORE_INDEX or _is_background(classes.names[number], handout):
            continue
        is_void = classes.names[number] == NO_CLASS and handout.void
        name = VOID if is_void else classes.names[number]
        reply.layers.append(Layer(name, mask, (left + x, top + y)))


def _is_background(name: str, handout: Handout) -> bool:
    """Whether a name says that nothing is painted, as CVAT writes it."""
    return name.casefold() == "background" and name not in handout.classes


def write_drafts(
    folder: Path,
    part: Part,
    drafts: Drafts | None,
    values: Mapping[str, int],
    palette: NDArray[np.uint8],
    unpainted: int,
    named: Mapping[str, str],
) -> tuple[list[Path], Drafted]:
    """Writes what the network drew, an image of indices with a palette for each that has any.

    Args:
        folder: Where.
        part: Whose.
        drafts: What it drew.
        values: Of each class's name.
        palette: (256, 3) uint8.
        unpainted: The value of the rest.
        named: Path of the label of each that is shown.

    Returns:
        The files, and what is in them.
    """
    drafted = Drafted()
    files = []
    for file, tasks in part.by_file.items():
        image: NDArray[np.uint8] | None = None
        for task in tasks:
            layers = draft_layers(drafts, task)
            drafted.add(task, layers)
            if layers and image is None:
                image = np.full(task.frame_size, unpainted, np.uint8)
            if image is not None:
                paint(image, layers, values)
        if image is not None:
            files.append(put(folder / named[file], index_png(image, palette)))
    return files, drafted


def by_stem(part: Part) -> dict[str, str]:
    """Of each that is shown, its path with .png for the suffix."""
    return {file: f"{stem(file)}.png" for file in part.by_file}


def index_png(image: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """An image of indices, (H, W) uint8, with a palette, (256, 3) uint8, as a PNG."""
    picture = Image.fromarray(image)
    picture.putpalette(palette.tobytes())
    data = io.BytesIO()
    picture.save(data, "PNG", compress_level=1)
    return data.getvalue()


def full_palette(
    colours: Sequence[tuple[int, int, int]], values: Sequence[int]
) -> NDArray[np.uint8]:
    """(256, 3) uint8: colours at values, black elsewhere."""
    palette = np.zeros((256, 3), np.uint8)
    palette[list(values)] = np.array(colours, np.uint8).reshape(-1, 3)
    return palette
