"""Plain files: PNGs of indices or colours; a folder for each class, or a table.

    labels/PATH.png        of an image: a pixel's value is its class's in classes.txt, or 255
    labels/KEY.png         of one task: as large as what is shown, or as the region
    drafts/PATH.png        what the network drew; copied to labels/ and painted over, or left there
    classes.txt            VALUE NAME RED GREEN BLUE
    colours.txt            NAME RED GREEN BLUE, for labels that are pictures of three channels;
                           `no class` is what is void on purpose

A format of several programs rather than of one: any editor that draws without smoothing will do.
Images that are classified come back as the table `labels.csv`, or in a folder for each class.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from segal.annotation.answers import Answer
from segal.annotation.formats.base import Drafts, WriteOptions
from segal.annotation.formats.shared.files import (
    Drafted,
    FileNames,
    Part,
    check_handout,
    new_parts,
    parts,
    put,
    stem,
)
from segal.annotation.formats.shared.label_images import (
    NO_CLASS,
    LabelFiles,
    Meaning,
    by_stem,
    full_palette,
    read_label_images,
    write_drafts,
)
from segal.annotation.formats.shared.label_tables import read_choices, write_choices
from segal.annotation.handout import CONTEXT, CROP, Handout, Mode
from segal.annotation.questions.base import VOID
from segal.data.class_list import classes_of, read_classes
from segal.data.layout import Classes, LabelOptions, distinct_colours, make_classes
from segal.errors import SegalError
from segal.functional.labels import IGNORE_INDEX

LABELS, DRAFTS = "labels", "drafts"
CLASSES_FILE, COLOURS_FILE = "classes.txt", "colours.txt"
_COLOUR_FILES = (COLOURS_FILE, "labelmap.txt")


class Folder:
    """PNGs of indices or of colours; tables, or a folder for each class."""

    name = "folder"
    questions: tuple[str, ...] = ("segmentation", "classification", "multilabel")
    modes: tuple[Mode, ...] = (CONTEXT, CROP)
    is_lossless = True

    def check(self, handout: Handout) -> None:
        """Raises a SegalError for names that lists of classes do not keep."""
        check_handout(handout)
        if handout.question == "segmentation":
            check_names(handout)

    def write(
        self, folder: Path, handout: Handout, drafts: Drafts | None, options: WriteOptions
    ) -> list[Path]:
        """See `formats.base.Format`."""
        files = []
        for part in new_parts(folder, handout):
            if handout.question == "segmentation":
                written, drafted = write_masks(part, handout, drafts, options, LABELS)
            else:
                written, drafted = write_choices(part, handout, drafts)
            files += [*written, drafted.write(part, handout)]
        return files

    def read(self, path: Path, handout: Handout) -> Iterator[Answer | SegalError]:
        """See `formats.base.Format`."""
        for part in parts(path, handout):
            if handout.question == "segmentation":
                names = FileNames(part, stem)
                found = LabelFiles.find(LABELS, part, names, skipped=(DRAFTS,))
                meaning = read_meaning(part, plain_meaning(handout))
                yield from read_label_images(found, part, handout, meaning)
            else:
                yield from read_choices(part, handout)


def write_masks(
    part: Part, handout: Handout, drafts: Drafts | None, options: WriteOptions, labels: str
) -> tuple[list[Path], Drafted]:
    """Writes lists of the classes, drafts, and an empty folder for labels."""
    values = {name: value for value, name in enumerate(handout.classes)}
    palette = full_palette(options.colours, list(values.values()))
    written, drafted = write_drafts(
        part.root / DRAFTS, part, drafts, values, palette, IGNORE_INDEX, by_stem(part)
    )
    lists = {
        CLASSES_FILE: value_lines(handout.classes, options.colours),
        COLOURS_FILE: _colour_lines(handout, options.colours),
    }
    for name, lines in lists.items():
        if lines:
            text = "".join(f"{line}\n" for line in lines)
            written.append(put(part.root / name, text.encode()))
    (part.root / labels).mkdir(exist_ok=True)
    return written, drafted


def value_lines(
    names: Sequence[str], colours: Sequence[tuple[int, int, int]] | None = None
) -> list[str]:
    """Lines of a list of classes, whose values count from 0."""
    pairs = zip(names, colours or distinct_colours(len(names)).tolist(), strict=True)
    lines = [f"{i} {name} {r} {g} {b}" for i, (name, (r, g, b)) in enumerate(pairs)]
    return [*lines, f"{IGNORE_INDEX} unlabelled 0 0 0"]


def _colour_lines(handout: Handout, colours: Sequence[tuple[int, int, int]]) -> list[str] | None:
    """The list of colours, with one for nothing; None where it would not be read back the same."""
    names = [NO_CLASS if handout.void and name == VOID else name for name in handout.classes]
    free = ((v, v, v) for v in (0, 255, *range(1, 255)))
    nothing = next(colour for colour in free if colour not in colours)
    pairs = [*zip(names, colours, strict=True), ("unlabelled", nothing)]
    lines = [f"{name} {r} {g} {b}" for name, (r, g, b) in pairs]
    return lines if _kept(lines, of_colours=True) == tuple(names) else None


def _kept(lines: list[str], of_colours: bool) -> tuple[str, ...]:
    """The names of classes that a list has, when it is read; none if it is no such list."""
    kept = [line for line in lines if not line.startswith("#")]
    try:
        classes = classes_of(Path(CLASSES_FILE), kept, LabelOptions())
    except SegalError:
        return ()
    return classes.names if (classes.colours is not None) == of_colours else ()


def check_names(handout: Handout) -> None:
    """Raises a SegalError for names that are not the same when a list of them is read."""
    kept = _kept(value_lines(handout.classes), of_colours=False)
    if kept != tuple(handout.classes):
        lost = [name for name in handout.classes if name not in kept] if kept else handout.classes
        raise SegalError(
            f"{handout.kind}: names of classes that a list of classes does not keep",
            expected="names that are read back the same from lines VALUE NAME RED GREEN BLUE",
            got=", ".join(map(repr, lost[:5])),
            remedy="rename the classes, or choose another format",
        )


def plain_meaning(handout: Handout) -> Classes:
    """Values in the order of the classes; 255 is nothing."""
    return make_classes(list(enumerate(handout.classes)))


def read_meaning(part: Part, default: Classes) -> Meaning:
    """By the lists that came back, or that lie above; where there is none, as given."""
    listed = _beside(part, (CLASSES_FILE,))
    values = read_classes(listed, LabelOptions()) if listed else default
    if values.colours is not None:
        return Meaning(default, values)
    coloured = _beside(part, _COLOUR_FILES)
    colours = read_classes(coloured, LabelOptions()) if coloured else None
    return Meaning(values, colours if colours is not None and colours.colours is not None else None)


def _beside(part: Part, names: Sequence[str]) -> Path | None:
    folders = (part.folder, part.folder.parent)
    there = (folder / name for folder in folders for name in names)
    return next((path for path in there if path.is_file()), None)
