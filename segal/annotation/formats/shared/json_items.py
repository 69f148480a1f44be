"""Reads a JSON array of any length one item after the other, in bounded memory."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from segal.errors import SegalError
from segal.system.files import read_error

MAX_BYTES = 2**34
MAX_ITEM = 2**26
"""Characters of one item; what it becomes takes some times more."""
_CHUNK = 2**20
_BLANK = " \t\n\r"


def json_items(path: Path, expected: str, *, as_text: str = "") -> Iterator[dict[str, Any]]:
    """The objects of an array.

    Args:
        path: Of a file in UTF-8.
        expected: What it should have been, for messages.
        as_text: A key, of letters; lists of digits that have it are given as text, `"1, 2"` for
            `[1, 2]`. To make thousands of numbers of them is most of the work of reading a file.

    Yields:
        Them, in order.

    Raises:
        SegalError: If the file cannot be read, has more than 16 GiB, is no array of objects, ends
            too soon, or has an object of more than 64 million characters.
    """
    try:
        with path.open("rb") as file:
            chunks = iter(lambda: file.read(_CHUNK), b"")
            yield from _Reader(path, expected, chunks, as_text).items()
    except OSError as error:
        raise read_error(path, error, expected) from error


class _Reader:
    """What is read of a file and not yet used is `text` from `at`."""

    def __init__(self, path: Path, expected: str, chunks: Iterator[bytes], as_text: str) -> None:
        self.path, self.expected, self.chunks = path, expected, chunks
        # Quotes before and behind: within a text of JSON these would have a backslash before them.
        self.lists = re.compile(rf'("{as_text}"\s*:\s*)\[([0-9, ]+)\]') if as_text else None
        self.text, self.at, self.read = "", 0, 0
        self.utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self.decoder = json.JSONDecoder(parse_constant=_refuse)

    def items(self) -> Iterator[dict[str, Any]]:
        if self._next() != "[":
            self._fail("another file")
        self.at += 1
        number = 0
        if self._next() != "]":
            while True:
                number += 1
                yield self._item(number)
                if (mark := self._next()) != ",":
                    break
                self.at += 1
            if mark != "]":
                self._fail(f"it ends, or is damaged, after item {number}")
        self.at += 1
        if self._next():
            self._fail("more behind the end of the array")

    def _item(self, number: int) -> dict[str, Any]:
        if self._next() != "{":
            self._fail(f"item {number} is no object, or the file ends there")
        while True:
            try:
                item, self.at = self.decoder.raw_decode(self.text, self.at)
            except RecursionError:
                self._fail(f"item {number} is nested too deeply")
            except ValueError as error:
                # It may only not be there as a whole; twice as much of it is tried next.
                missing = len(self.text) - self.at
                if missing > MAX_ITEM:
                    self._fail(
                        f"item {number} is damaged, or has more than {MAX_ITEM:,} characters"
                    )
                if not self._more(missing):
                    self._fail(f"item {number} is damaged or cut short: {error}")
            else:
                return item  # type: ignore[no-any-return]

    def _next(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in _BLANK:
                    return self.text[self.at]
                self.at += 1
            if not self._more():
                return ""

    def _more(self, least: int = 1) -> bool:
        """Whether there was more to read; what is used is let go."""
        parts = [self.text[self.at :]]
        got = 0
        while got < least and (chunk := next(self.chunks, b"")):
            self.read += len(chunk)
            if self.read > MAX_BYTES:
                self._fail(f"more than {MAX_BYTES:,} bytes")
            parts.append(self._decoded(chunk))
            got += len(parts[-1])
        if not got:
            self._decoded(b"", final=True)
        self.text, self.at = "".join(parts), 0
        if self.lists is not None:
            self.text = self.lists.sub(r'\1"\2"', self.text)
        return got > 0

    def _decoded(self, chunk: bytes, final: bool = False) -> str:
        try:
            return self.utf8.decode(chunk, final)
        except UnicodeDecodeError as error:
            self._fail(f"no UTF-8: {error.reason}")

    def _fail(self, got: str) -> NoReturn:
        raise SegalError(
            f"{self.path}: not what was expected",
            expected=self.expected,
            got=got[:200],
            remedy="export it again, as a whole",
        )


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
