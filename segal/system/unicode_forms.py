"""Names that look alike: the same letters, composed in one name and decomposed in the other.

macOS and some archives write names decomposed (NFD), most else composed (NFC); a file system that
tells them apart holds two files then, or finds none.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable


def escaped(name: str) -> str:
    """A name with what is not ASCII as escapes, so that its form can be seen."""
    return ascii(name)


def lookalike(name: str, names: Iterable[str]) -> str | None:
    """The first of other names that differs from a name in its Unicode form only."""
    if name.isascii():
        return None
    composed = unicodedata.normalize("NFC", name)
    return next(
        (n for n in names if n != name and unicodedata.normalize("NFC", n) == composed), None
    )


def form_only(name: str, other: str) -> str:
    """Says that two names differ in their Unicode form only."""
    return (
        f"rename one: {name!r} and {other!r} differ in their Unicode form only "
        f"({escaped(name)} and {escaped(other)})"
    )


def lookalikes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that differ in their Unicode form only, in groups of two and more."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if not name.isascii():
            groups[unicodedata.normalize("NFC", name)].append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]
