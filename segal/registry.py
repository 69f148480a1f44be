"""Names for things that a configuration chooses: uncertainties, strategies, data layouts."""

import difflib
import importlib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from segal.errors import SegalError

T = TypeVar("T")


def nearest(name: str, names: list[str]) -> str | None:
    """The name most like a misspelt one, or None when none comes near."""
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return found[0] if found else None


def import_object(path: str) -> object:
    """Imports `package.module:name`.

    Raises:
        SegalError: If the module or the name is not there.
    """
    module_name, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SegalError(
            f"{path}: cannot be imported ({error})",
            expected="an import path such as mypackage.module:name",
            got=path,
            remedy="install the package, or run where Python finds the module",
        ) from error


class Registry(Generic[T]):
    """A named collection; also takes `package.module:name` for what is not registered.

    Args:
        kind: What the names stand for, as error messages say it.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds an entry under a name that is not taken."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered already")
            self._entries[name] = entry
            return entry

        return add

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def get(self, name: str) -> T:
        """Looks an entry up.

        Raises:
            SegalError: For an unknown name; the nearest one is offered.
        """
        if name in self._entries:
            return self._entries[name]
        if ":" in name:
            return import_object(name)  # type: ignore[return-value]
        near = nearest(name, self.names())
        raise SegalError(
            f"unknown {self.kind} {name!r}",
            expected=f"one of {', '.join(self.names())}, or package.module:name",
            got=repr(name),
            remedy=f"did you mean {near!r}?" if near else f"choose one of the {self.kind} names",
        )
