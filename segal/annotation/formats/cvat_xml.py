"""Reads XML as CVAT exports it, image by image; files are hostile, so no entity is taken."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from xml.parsers import expat

from segal.errors import SegalError
from segal.system.files import read_error
from segal.system.plain_xml import HostileXmlError, PlainXmlReader

MAX_BYTES = 2**34
_MAX_PIECE, _MAX_IMAGE, _MAX_SHAPES = 2**26, 2**28, 100_000
_CHUNK = 2**20
_IMAGE = ["annotations", "image"]
EXPECTED = "XML or ZIP, as CVAT exports it as «CVAT for images 1.1»"


@dataclass
class Shape:
    """Something drawn.

    Attributes:
        tag: What: `mask`, `polygon`, `box`, `tag` or another.
        given: What the tag says, as it is written.
        attributes: Of its label, by name.
    """

    tag: str
    given: dict[str, str]
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass
class Picture:
    """An image.

    Attributes:
        given: What its tag says, as it is written.
        assignee: Whose work it is; empty where that is not said.
        updated: When the work was last changed; empty likewise.
        shapes: What is drawn, in the file's order.
    """

    given: dict[str, str]
    assignee: str
    updated: str
    shapes: list[Shape] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As CVAT has it."""
        return self.given.get("name", "")


def pictures(path: Path) -> Iterator[Picture]:
    """The images of a file, one after the other.

    Args:
        path: An XML file, or a ZIP file with `annotations.xml` in it.

    Raises:
        SegalError: If it cannot be read, is not well-formed, has a DTD or an entity, has more than
            16 GiB, or an image with more than 100,000 shapes or 256 MiB of them; or if it was
            exported for videos.
    """
    reader = _Reader(path)
    try:
        with ExitStack() as stack:
            file = _opened(path, stack)
            while chunk := file.read(_CHUNK):
                reader.feed(chunk)
                yield from reader.ready
                reader.ready.clear()
            reader.parser.Parse(b"", True)
    except OSError as error:
        raise read_error(path, error, EXPECTED) from error
    except expat.ExpatError as error:
        raise _wrong(path, f"damaged or cut short: {error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise _wrong(path, f"a damaged ZIP file: {error}") from error
    except HostileXmlError as error:
        raise _wrong(path, str(error)) from error
    yield from reader.ready


def _opened(path: Path, stack: ExitStack) -> IO[bytes]:
    if not zipfile.is_zipfile(path):
        return stack.enter_context(path.open("rb"))
    held = stack.enter_context(zipfile.ZipFile(path))
    names = [name for name in held.namelist() if name.rpartition("/")[2] == "annotations.xml"]
    if len(names) != 1:
        raise HostileXmlError(f"a ZIP file with {len(names)} files annotations.xml")
    return stack.enter_context(held.open(names[0]))


class _Reader(PlainXmlReader):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.ready: list[Picture] = []
        self.read = self._held = 0
        self._picture: Picture | None = None
        self._attribute = ""
        self._task, self._said = "", dict[str, dict[str, str]]()

    def feed(self, chunk: bytes) -> None:
        self.read += len(chunk)
        self.quiet += len(chunk)
        if self.read > MAX_BYTES:
            raise HostileXmlError(f"more than {MAX_BYTES:,} bytes")
        self.parser.Parse(chunk, False)
        if self.quiet > _MAX_PIECE:
            raise HostileXmlError(f"a piece of more than {_MAX_PIECE:,} bytes")

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        """See `PlainXmlReader`."""
        if self.open[0] != "annotations":
            raise HostileXmlError(f"<{tag[:40]}>")
        depth = len(self.open)
        if depth == 2 and tag == "track":
            raise HostileXmlError("tracks: it was exported as «CVAT for video 1.1»")
        if self.open == _IMAGE:
            said = self._said.get(attributes.get("task_id", ""), {}) or self._alone()
            assignee, updated = said.get("username", ""), said.get("updated", "")
            self._picture, self._held = Picture(attributes, assignee, updated), 0
        elif self._picture is not None:
            self._held += sum(map(len, attributes.values())) + 100
            if self._held > _MAX_IMAGE or len(self._picture.shapes) > _MAX_SHAPES:
                raise HostileXmlError(f"more of image {self._picture.name[:80]} than anybody draws")
            if depth == 3:
                self._picture.shapes.append(Shape(tag, attributes))
            elif depth == 4 and tag == "attribute":
                self._attribute = attributes.get("name", "")

    def _alone(self) -> dict[str, str]:
        """What is said of the one task that there is."""
        return next(iter(self._said.values())) if len(self._said) == 1 else {}

    def finish(self, tag: str, text: str) -> None:
        """See `PlainXmlReader`."""
        depth = len(self.open)
        if self.open == _IMAGE:
            assert self._picture is not None
            self.ready.append(self._picture)
            self._picture = None
        elif self._picture is not None:
            if depth == 4 and tag == "attribute":
                self._picture.shapes[-1].attributes[self._attribute] = text
        elif self.open[:2] == ["annotations", "meta"]:
            self._meta(tag, text)

    def _meta(self, tag: str, text: str) -> None:
        """What is said of a task; of several, each says its id first."""
        holder = self.open[-2]
        if holder in {"task", "job"} and tag == "id":
            self._task = text
        is_told = tag == "username" if holder == "assignee" else tag == "updated"
        if is_told and holder in {"assignee", "task", "job"} and len(self._said) < _MAX_SHAPES:
            self._said.setdefault(self._task, {})[tag] = text


def _wrong(path: Path, got: str) -> SegalError:
    return SegalError(
        f"{path}: not what CVAT exports",
        expected=EXPECTED,
        got=got[:200],
        remedy="export it again, as a whole",
    )
