"""Parts of a configuration, whose keys say whether the results of a run depend on them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from segal.system.files import file_digest

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """How a key of a configuration has part in what identifies a run.

    Attributes:
        by: Its `value`; the digest of the `file` that it names; what is read there, which a job
            adds (`input`); or not at all (`none`).
        unless: Values that come to the same as no such key, and leave it out: so runs from before
            there was the key stay the same runs.
    """

    by: Literal["value", "file", "input", "none"]
    unless: tuple[object, ...] = ()


Result = Annotated[T, Part("value")]
"""A key that results depend on."""

FileResult = Annotated[T, Part("file")]
"""A file; results depend on what is in it, wherever it lies."""

Input = Annotated[T, Part("input")]
"""Names what is read; jobs add what identifies that, and the ledger what was found."""

Aside = Annotated[T, Part("none")]
"""A key that no result depends on."""


def result_unless(*values: object) -> Part:
    """Of a key that results depend on unless it has one of these values, which change nothing."""
    return Part("value", values)


class Section(BaseModel):
    """A part of a configuration; a key that it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def parts(cls) -> Iterator[tuple[str, Part]]:
        """How each key has part in what identifies a run.

        Raises:
            TypeError: If a key does not say so, exactly once.
        """
        for key, field in cls.model_fields.items():
            said = [one for one in field.metadata if isinstance(one, Part)]
            if len(said) != 1:
                raise TypeError(f"{cls.__name__}.{key} must say once what part it has in identity")
            yield key, said[0]

    def identity(self) -> dict[str, object]:
        """What results depend on, as JSON has it: no paths, no device, no workers.

        Raises:
            SegalError: If a file that counts cannot be read.
        """
        dumped = self.model_dump(mode="json")
        named: dict[str, object] = {}
        for key, part in self.parts():
            value = getattr(self, key)
            if value in part.unless:
                continue
            if part.by == "file":
                named[key] = value and file_digest(value)
            elif part.by == "value":
                named[key] = _identity(value, dumped[key])
        return named


def split_commas(value: object) -> object:
    """Lets `a,b` or `[a, b]` on the command line stand for a list, and nothing for an empty one."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1].strip()
    return [part.strip() for part in text.split(",")] if text else []


def _identity(value: object, dumped: object) -> object:
    if isinstance(value, Section):
        return value.identity()
    if isinstance(value, tuple) and any(isinstance(one, Section) for one in value):
        return [one.identity() for one in value]
    return dumped
