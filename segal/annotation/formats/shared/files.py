"""What formats that are files have in common, rather than tools with tasks of their own.

Files are of images, and an image may hold the regions of several tasks; so what a file says is
shared out among these. What no such file says is kept beside it in `regions.json`: where the
regions are, and what the network drew. An image of which nothing is marked is one that nobody has
worked on, unless its name or a task's key is a line of `done.txt`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from segal.annotation.answers import Answer, DrawnBox, Layer
from segal.annotation.formats.shared.frames import box_digest, layer_digest, shared, shared_boxes
from segal.annotation.formats.shared.mistakes import Mistake, said_at
from segal.annotation.formats.shared.tools import Room, check_names, check_unpacked
from segal.annotation.handout import NAME_HANDOUT, AnnotationTask, Handout
from segal.data.class_list import read_lines
from segal.errors import SegalError
from segal.system.files import is_there, read_error, write_error

REGIONS_FILE = "regions.json"
DONE_FILE = "done.txt"
MAX_BYTES = 2**30
_SHOWN = 5


@dataclass(frozen=True)
class Part:
    """The tasks that one folder is of: of one annotator, or all.

    Attributes:
        annotator: Whose; empty for all.
        root: The folder, or the file that came back.
        tasks: One for each key, frame and file.
    """

    annotator: str
    root: Path
    tasks: tuple[AnnotationTask, ...]

    @cached_property
    def by_file(self) -> Mapping[str, Sequence[AnnotationTask]]:
        """Tasks by what the tool shows."""
        found: dict[str, list[AnnotationTask]] = {}
        for task in self.tasks:
            found.setdefault(task.file, []).append(task)
        return found

    @cached_property
    def folder(self) -> Path:
        """The folder."""
        return self.root if self.root.is_dir() else self.root.parent

    def within(self, name: str) -> Path:
        """Where files are looked for: in the folder of a name, where it is there; else `root`."""
        return self.root / name if (self.root / name).is_dir() else self.root

    def is_as_written(self, name: str) -> bool:
        """Whether it is what was handed out, with a folder of a name for what people draw."""
        return (self.root / name).is_dir() and is_there(self.root / REGIONS_FILE)


def parts(folder: Path, handout: Handout) -> list[Part]:
    """A folder for each annotator; where none is named, one for all.

    Args:
        folder: That came back, which may be of one annotator, or a file.
        handout: The tasks.

    Raises:
        SegalError: If it is not there, or an archive; or if a file's name has been that of two
            images.
    """
    check_unpacked(folder)
    images: dict[str, str] = {}
    for task in handout.tasks:
        if images.setdefault(task.file, task.image) != task.image:
            raise SegalError(
                f"{folder}: {task.file} was handed out as {images[task.file]} and {task.image}",
                expected="files that are one image each, in all handouts",
                got="images that were moved, or have changed names, between handouts",
                remedy=f"name the handout that these are answers to: {NAME_HANDOUT}",
            )
    names = sorted({task.annotator for task in handout.tasks})
    if folder.is_dir():
        there = [name for name in names if _is_folder(name) and (folder / name).is_dir()]
        if there:
            return [_part(name, folder / name, handout) for name in there]
    said = [name for name in names if name and name in folder.absolute().parts[-3:]]
    return [_part(said[-1] if said else "", folder, handout)]


def new_parts(folder: Path, handout: Handout) -> list[Part]:
    """The folders to write into, one for each annotator."""
    names = sorted({task.annotator for task in handout.tasks})
    return [_part(name, folder / name, handout) for name in names]


def _part(annotator: str, root: Path, handout: Handout) -> Part:
    given = [t for t in handout.tasks if not annotator or t.annotator == annotator]
    return Part(annotator, root, tuple({(t.key, t.frame, t.file): t for t in given}.values()))


def check_handout(handout: Handout) -> None:
    """Raises a SegalError for names of labels or annotators that files cannot keep."""
    check_names(handout)
    wrong = [
        x for x in sorted({task.annotator for task in handout.tasks} - {""}) if not _is_folder(x)
    ]
    if wrong:
        raise SegalError(
            f"{handout.kind}: annotators whose names are no names of folders",
            expected="names without / and \\",
            got=", ".join(map(repr, wrong[:_SHOWN])),
            remedy="rename them",
        )


def _is_folder(name: str) -> bool:
    return name not in {"", ".", ".."} and name.isprintable() and not set(name) & set("/\\")


class FileNames:
    """Which handed-out file a name means, as tools write names.

    A tool may put folders before a path, or leave its folders away; a name with other folders is
    that of another image.

    Args:
        part: Whose files.
        called: What tools call a file, such as its path without the suffix.
    """

    def __init__(self, part: Part, called: Callable[[str], str] = str) -> None:
        self._files: dict[str, str] = {}
        self._images = {file: tasks[0].image for file, tasks in part.by_file.items()}
        self._by_name: dict[str, list[str]] = {}
        for file in part.by_file:
            name = called(file)
            if self._files.setdefault(name, file) == file:
                self._by_name.setdefault(PurePosixPath(name).name, []).append(name)

    def find(self, name: str) -> str | None:
        """The file; None where no one file is meant."""
        parts = PurePosixPath(name.replace("\\", "/")).parts
        like = self._by_name.get(parts[-1], []) if parts else []
        held = [x for x in like if PurePosixPath(x).parts == parts[-len(PurePosixPath(x).parts) :]]
        if held:
            return self._files[max(held, key=len)]
        is_one = len({self._images[self._files[x]] for x in like}) == 1  # it may have been moved
        return self._files[like[0]] if len(parts) == 1 and is_one else None

    def find_path(self, path: Path, root: Path, ending: str = "") -> str | None:
        """The file that one has the name of, but for its suffix; None as in `find`.

        Args:
            path: Of a file below `root`, or `root` itself, if that is a file.
            root: What came back.
            ending: What follows the name, but for the suffix.
        """
        if path != root:
            return self.find(_bare(path.relative_to(root), ending))
        whole = self.find(_bare(path.absolute(), ending))
        return whole or self.find(_bare(Path(path.name), ending))


def _bare(path: Path, ending: str) -> str:
    return path.with_suffix("").as_posix().removesuffix(ending)


def files_at(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """A file alone, or all below a folder, that have one of some suffixes; none that is hidden."""
    there = [root] if root.is_file() else sorted(root.rglob("*"))
    return [x for x in there if x.suffix.lower() in suffixes and not x.name.startswith(".")]


def stem(file: str) -> str:
    """A path without its suffix."""
    return PurePosixPath(file).with_suffix("").as_posix()


def put(path: Path, data: bytes) -> Path:
    """Writes a file of a folder that is synced as a whole when all of it is there.

    Raises:
        SegalError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def read_json(path: Path, expected: str, most: int = MAX_BYTES) -> dict[str, Any]:
    """Reads a JSON object of at most `most` bytes.

    Raises:
        SegalError: If it cannot be read, is too large, or no JSON object.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise ValueError(f"more than {most:,} bytes")
        content = json.loads(data)
        if not isinstance(content, dict):
            raise ValueError(f"{type(content).__name__}, no object")
    except OSError as error:
        raise read_error(path, error, expected) from error
    except (ValueError, RecursionError) as error:
        raise SegalError(
            f"{path}: no JSON of the kind",
            expected=expected,
            got=str(error)[:200],
            remedy="export it again, as a whole",
        ) from error
    return content


@dataclass
class Drafted:
    """What the network drew of each task: fingerprints, kept where people's work is read."""

    digests: dict[str, list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def add(self, task: AnnotationTask, drawn: Iterable[Layer | DrawnBox | str]) -> None:
        """What is drafted of a task."""
        found = [_digest(one) for one in drawn]
        if found:
            self.digests[task.key] = found

    def write(self, part: Part, handout: Handout) -> Path:
        """Writes `regions.json`: where the regions are, and what was drafted."""
        regions = []
        for task in part.tasks:
            x0, y0, x1, y1 = task.region_in_frame
            a, b, c, d = task.region
            regions.append(
                {
                    "key": task.key,
                    "rank": task.rank,
                    "file": task.file,
                    "region": [x0, y0, x1 - x0, y1 - y0],
                    "image": task.image,
                    "region_in_image": [a, b, c - a, d - b],
                    "drafted": self.digests.get(task.key, []),
                }
            )
        content = {
            "about": "what is to be labelled: region is x, y, width, height in pixels of file",
            "run": handout.run,
            "question": handout.question,
            "annotator": part.annotator,
            "classes": list(handout.classes),
            "regions": regions,
        }
        return put(part.root / REGIONS_FILE, json.dumps(content).encode())

    @classmethod
    def read(cls, part: Part, handout: Handout) -> "Drafted":
        """Reads it from beside what came back, or from the folder above.

        Raises:
            SegalError: If the file is of another run or is damaged.
        """
        if handout.model is None:
            return cls()
        places = [part.folder, *list(part.folder.absolute().parents)[:2]]
        there = [place / REGIONS_FILE for place in places if is_there(place / REGIONS_FILE)]
        if not there:
            note = f"{REGIONS_FILE} is not beside it: what the network drew is taken for drawn"
            return cls(notes=(note,))
        content = read_json(there[0], "what was written at the export")
        regions = content.get("regions")
        whole = isinstance(regions, list) and all(
            isinstance(one, dict)
            and isinstance(one.get("key"), str)
            and isinstance(one.get("drafted"), list)
            for one in regions
        )
        if not whole or content.get("run") != handout.run:
            raise SegalError(
                f"{there[0]}: not what was written at the export",
                expected=f"the regions of run {handout.run}",
                got=f"run {content.get('run')!r:.60}" if whole else "a damaged file",
                remedy="put the exported file back, or give the run that this was exported for",
            )
        assert isinstance(regions, list)
        return cls({one["key"]: [str(x) for x in one["drafted"]] for one in regions})

    def layers(self, key: str, layers: Sequence[Layer]) -> list[Layer]:
        """Layers of a task, told whether a person drew them."""
        known = self.digests.get(key)
        if not known:
            return list(layers)
        return [replace(one, is_drawn=layer_digest(one) not in known) for one in layers]

    def boxes(self, key: str, boxes: Sequence[DrawnBox]) -> list[DrawnBox]:
        """Boxes likewise."""
        known = self.digests.get(key)
        if not known:
            return list(boxes)
        return [replace(one, is_drawn=box_digest(one) not in known) for one in boxes]


def _digest(one: Layer | DrawnBox | str) -> str:
    if isinstance(one, Layer):
        return layer_digest(one)
    return box_digest(one) if isinstance(one, DrawnBox) else one


@dataclass
class Reply:
    """What is said of one frame, before it is shared out among its tasks; layers are trimmed."""

    source: str
    layers: list[Layer] = field(default_factory=list)
    boxes: list[DrawnBox] = field(default_factory=list)
    errors: dict[str, SegalError] = field(default_factory=dict)
    lossy: str = ""
    notes: list[str] = field(default_factory=list)
    is_done: bool = False
    updated: str = ""
    room: Room | None = None

    def add(self, layer: Layer | None, task: AnnotationTask) -> None:
        """Takes a layer, if there is one.

        Raises:
            Mistake: If all of them together have more pixels than anybody draws.
        """
        if layer is not None:
            self.room = self.room or Room(task)
            with said_at(self.source):
                self.room.take(layer.mask.size)
            self.layers.append(layer)

    def fail(self, mistake: Mistake, tasks: Iterable[AnnotationTask]) -> None:
        """Takes a mistake for all of some tasks."""
        for task in tasks:
            self.errors[task.key] = mistake.said_of(task)


@dataclass(frozen=True)
class Gathered:
    """Makes answers of replies.

    Attributes:
        part: Whose tasks.
        drafted: What the network drew.
        done: Names of files and keys of tasks that are done though they show nothing.
    """

    part: Part
    drafted: Drafted
    done: frozenset[str]

    @classmethod
    def of(cls, part: Part, handout: Handout) -> "Gathered":
        """Of what lies beside an answer.

        Raises:
            SegalError: If it cannot be read.
        """
        done = part.folder / DONE_FILE
        expected = "a line for each: a file's path or a task's key"
        lines = read_lines(done, expected, 2**24) if is_there(done) else []
        return cls(part, Drafted.read(part, handout), frozenset(lines))

    def answers(
        self, reply: Reply, tasks: Sequence[AnnotationTask]
    ) -> Iterator[Answer | SegalError]:
        """The answers of the tasks that a frame shows; of those that were worked on."""
        layers = shared(reply.layers, tasks)
        boxes = shared_boxes(reply.boxes, tasks)
        for task in tasks:
            if task.key in reply.errors:
                yield reply.errors[task.key]
                continue
            is_done = reply.is_done or bool(self.done & {task.key, task.file})
            if task.key not in layers and task.key not in boxes and not is_done:
                continue
            yield Answer(
                task.key,
                reply.source,
                annotator=self.part.annotator,
                layers=self.drafted.layers(task.key, layers.get(task.key, [])),
                boxes=self.drafted.boxes(task.key, boxes.get(task.key, [])),
                lossy=reply.lossy,
                updated=reply.updated,
                notes=(*reply.notes, *self.drafted.notes),
                frame=task.frame,
            )

    def choice(
        self, task: AnnotationTask, source: str, choices: Sequence[str], *, is_said: bool = False
    ) -> Iterator[Answer]:
        """The answer of an image that is classified.

        Where nothing is chosen there is none, unless that is said: by the file, or `done.txt`.
        """
        if not choices and not is_said and not self.done & {task.key, task.file}:
            return
        known = self.drafted.digests.get(task.key)
        untouched = known is not None and sorted(choices) == sorted(known)
        told = ("the network's choice, which nobody changed",) if untouched else ()
        yield Answer(
            task.key,
            source,
            annotator=self.part.annotator,
            choices=tuple(choices),
            notes=(*told, *self.drafted.notes),
            frame=task.frame,
        )
