"""Reads annotations in Pascal VOC's XML; files are hostile, so no entity and no DTD is taken."""

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from segal.errors import SegalError
from segal.system.files import read_error
from segal.system.plain_xml import HostileXmlError, PlainXmlReader
from segal.tasks.detection.layout import number_of

MAX_BYTES = 2**24
_OBJECT = ("annotation", "object")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_EXPECTED = "an <annotation> with an <object> for each box, each with <name> and <bndbox>"


@dataclass
class Annotated:
    """An object of an annotation.

    Attributes:
        name: Its class.
        corners: By name, as they are written.
        difficult: Whether it is marked so.
    """

    name: str = ""
    corners: dict[str, str] = field(default_factory=dict)
    difficult: bool = False

    @property
    def box(self) -> tuple[float, ...]:
        """x0, y0, x1, y1; NaN where a corner is no number."""
        return tuple(number_of(self.corners.get(name, "")) for name in _CORNERS)


@dataclass
class Annotation:
    """What an annotation says of an image.

    Attributes:
        filename: Of the image; no text where it is not said.
        objects: In the file's order.
        sides: Height and width by name, as they are written.
    """

    filename: str = ""
    objects: list[Annotated] = field(default_factory=list)
    sides: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width); None where there is none: some tools write 0."""
        height, width = (number_of(self.sides.get(name, "")) for name in ("height", "width"))
        return (int(height), int(width)) if 0 < height < 2**31 and 0 < width < 2**31 else None


def read_annotation(path: Path) -> Annotation:
    """Reads a file.

    Raises:
        SegalError: If it cannot be read, is larger than 16 MiB, no well-formed XML, has a DTD or an
            entity, or is no annotation.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise read_error(path, error, _EXPECTED) from error
    if len(data) > MAX_BYTES:
        raise _wrong(path, f"more than {MAX_BYTES:,} bytes", f"at most {MAX_BYTES:,} bytes")
    reader = _Reader()
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as error:
        raise _wrong(path, f"no well-formed XML: {error}"[:200], _EXPECTED) from error
    except HostileXmlError as error:
        raise _wrong(path, str(error), "plain XML without a DTD or entities") from error
    if not reader.is_annotation:
        raise _wrong(path, f"<{reader.root[:40]}>", _EXPECTED)
    for number, one in enumerate(reader.annotation.objects, 1):
        if not one.name or set(one.corners) != set(_CORNERS):
            what = "no <name>" if not one.name else "no whole <bndbox>"
            raise _wrong(path, f"object {number} with {what}", _EXPECTED)
    return reader.annotation


class _Reader(PlainXmlReader):
    def __init__(self) -> None:
        super().__init__()
        self.annotation, self.root = Annotation(), ""

    @property
    def is_annotation(self) -> bool:
        return self.root == "annotation"

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        """See `PlainXmlReader`."""
        del attributes
        self.root = self.root or tag
        if tuple(self.open) == _OBJECT:
            self.annotation.objects.append(Annotated())

    def finish(self, tag: str, text: str) -> None:
        """See `PlainXmlReader`."""
        del tag
        place = tuple(self.open)
        if place == ("annotation", "filename"):
            self.annotation.filename = text
        elif place[:2] == ("annotation", "size") and len(place) == 3:
            self.annotation.sides[place[2]] = text
        elif place[:2] == _OBJECT:
            self._take(place[2:], text)

    def _take(self, place: tuple[str, ...], text: str) -> None:
        """What is said of the object that is open."""
        one = self.annotation.objects[-1]
        if place == ("name",):
            one.name = text
        elif place == ("difficult",):
            one.difficult = text.lower() in {"1", "true"}
        elif len(place) == 2 and place[0] == "bndbox" and place[1] in _CORNERS:
            one.corners[place[1]] = text


def _wrong(path: Path, got: str, expected: str) -> SegalError:
    return SegalError(
        f"{path}: no annotation in Pascal VOC's XML",
        expected=expected,
        got=got,
        remedy="export it again, or remove it",
    )
