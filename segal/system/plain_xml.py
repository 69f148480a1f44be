"""XML of others: without a DTD, without entities, and no deeper than anything that is read here."""

from abc import ABC, abstractmethod
from typing import NoReturn
from xml.parsers import expat

_DEEPEST, _LONGEST = 32, 4096


class HostileXmlError(Exception):
    """What no file that is read here needs; its text says what it is."""


class PlainXmlReader(ABC):
    """Follows the elements of a file that `parser` is fed.

    Attributes:
        parser: Of expat; raises HostileXmlError for what plain XML has no need of.
        open: Names of the elements that are open, the outermost first.
        quiet: Bytes since something was last read, as far as who feeds the parser counts them.
    """

    def __init__(self) -> None:
        self.open: list[str] = []
        self.quiet = 0
        self._text: list[str] = []
        self._length = 0
        self.parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = _refuse
        parser.EntityDeclHandler = _refuse
        parser.ExternalEntityRefHandler = _refuse

    @abstractmethod
    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins; it is the last of `open`."""

    @abstractmethod
    def finish(self, tag: str, text: str) -> None:
        """An element ends; it is the last of `open` still, and had that text, cut where long."""

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self.quiet = 0
        if len(self.open) == _DEEPEST:
            raise HostileXmlError(f"elements more than {_DEEPEST} deep")
        self.open.append(tag)
        self._text, self._length = [], 0
        self.begin(tag, attributes)

    def _characters(self, text: str) -> None:
        self.quiet = 0
        self._length += len(text)
        if self._length <= _LONGEST:
            self._text.append(text)

    def _end(self, tag: str) -> None:
        self.quiet = 0
        self.finish(tag, "".join(self._text).strip())
        self.open.pop()
        self._text, self._length = [], 0


def _refuse(*_: object) -> NoReturn:
    raise HostileXmlError("a DTD or an entity")
