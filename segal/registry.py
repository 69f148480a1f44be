"""Names for things that a configuration chooses: uncertainties, strategies, data layouts."""

import difflib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Generic, TypeVar

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


@dataclass(frozen=True)
class Plugin:
    """What another installed package gives under a name; nothing of it is imported yet.

    Attributes:
        name: The name.
        package: Name and version of the package.
        entry: Leads to it.
    """

    name: str
    package: str
    entry: metadata.EntryPoint

    def load(self, kind: str) -> Any:
        """Imports it.

        Args:
            kind: What it is, as the message says it.

        Raises:
            SegalError: If that fails.
        """
        try:
            return self.entry.load()
        except (Exception, SystemExit) as error:  # whatever the package's own code raises
            raise SegalError(
                f"{kind} {self.name!r} of {self.package}: cannot be loaded",
                expected=f"{self.entry.value}, as its entry point says",
                got=f"{type(error).__name__}: {error}"[:300],
                remedy=f"mend or uninstall {self.package}",
            ) from error


def installed_plugins(group: str) -> list[Plugin]:
    """What installed packages give by entry points of a group, sorted by name and package."""
    found: dict[str, list[Plugin]] = {}
    for distribution in metadata.distributions():
        try:
            entries = list(distribution.entry_points.select(group=group))
        except Exception:  # a file of another package, damaged in whatever way
            continue
        # Of a package that is there twice, Python imports the first.
        if entries and distribution.name not in found:
            package = f"{distribution.name} {distribution.version}"
            found[distribution.name] = [Plugin(one.name, package, one) for one in entries]
    plugins = (plugin for given in found.values() for plugin in given)
    return sorted(plugins, key=lambda plugin: (plugin.name, plugin.package))


class Registry(Generic[T]):
    """A named collection; also takes `package.module:name` for what is not registered.

    Args:
        kind: What the names stand for, as error messages say it.
        plugins: Group of the entry points by which other packages give more of them. They are
            imported when their names are looked up, and are no part of `names()`.
    """

    def __init__(self, kind: str, plugins: str | None = None) -> None:
        self.kind = kind
        self._group = plugins
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
        """All names of segal's own, sorted."""
        return sorted(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def plugins(self) -> list[Plugin]:
        """What other packages give, sorted by name; they are not imported."""
        return [] if self._group is None else installed_plugins(self._group)

    def load(self, plugin: Plugin) -> T:
        """Imports what another package gives.

        Raises:
            SegalError: If it cannot be imported, or its name is taken.
        """
        rivals = [one.package for one in self.plugins() if one.name == plugin.name]
        taken = plugin.name in self._entries
        if taken or len(rivals) > 1:
            by = "segal itself" if taken else " and ".join(rivals)
            raise SegalError(
                f"{self.kind} {plugin.name!r} of {plugin.package}: the name is taken",
                expected="a name of its own",
                got=f"one that is given by {by}",
                remedy=f"name it as {plugin.entry.value}, or have its package rename it",
            )
        loaded: T = plugin.load(self.kind)
        return loaded

    def get(self, name: str) -> T:
        """Looks an entry up.

        Raises:
            SegalError: For an unknown name, where the nearest one is offered; or as `load` does.
        """
        if name in self._entries:
            return self._entries[name]
        if ":" in name:
            return import_object(name)  # type: ignore[return-value]
        plugins = {plugin.name: plugin for plugin in self.plugins()}
        if name in plugins:
            return self.load(plugins[name])
        names = sorted({*self._entries, *plugins})
        near = nearest(name, names)
        raise SegalError(
            f"unknown {self.kind} {name!r}",
            expected=f"one of {', '.join(names)}, or package.module:name",
            got=repr(name),
            remedy=f"did you mean {near!r}?" if near else f"choose one of the {self.kind} names",
        )
