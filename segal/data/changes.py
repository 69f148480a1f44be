"""What became of images between two looks at their folder, told by their content."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_SHOWN = 5


@dataclass(frozen=True)
class Changes:
    """How a folder differs from what it was; names are sorted bytewise.

    Attributes:
        added: Images that were not there.
        removed: Images that are gone.
        renamed: Old and new name of images whose bytes are there under another name.
        changed: Images whose name stands for other bytes now.
    """

    added: Sequence[str]
    removed: Sequence[str]
    renamed: Sequence[tuple[str, str]]
    changed: Sequence[str]

    @classmethod
    def of(cls, then: Mapping[str, str], now: Mapping[str, str]) -> "Changes":
        """Compares digests by name."""
        gone, new = _sorted(then.keys() - now.keys()), _sorted(now.keys() - then.keys())
        free: dict[str, list[str]] = {}
        for name in reversed(new):
            free.setdefault(now[name], []).append(name)
        renamed = [(name, found.pop()) for name in gone if (found := free.get(then[name]))]
        old, there = {a for a, _ in renamed}, {b for _, b in renamed}
        return cls(
            added=[name for name in new if name not in there],
            removed=[name for name in gone if name not in old],
            renamed=renamed,
            changed=_sorted(n for n in then.keys() & now.keys() if then[n] != now[n]),
        )

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.added or self.removed or self.renamed or self.changed)

    def __str__(self) -> str:
        """In words, with the first names of each kind."""
        kinds = {
            "added": self.added,
            "removed": self.removed,
            "renamed": [f"{old} is {new} now" for old, new in self.renamed],
            "changed": self.changed,
        }
        return "; ".join(f"{len(n)} {kind} ({listed(n)})" for kind, n in kinds.items() if n)


def _sorted(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: name.encode(errors="surrogateescape"))


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def count(many: int, name: str) -> str:
    """A number with its noun."""
    return f"{many} {name}" if many == 1 else f"{many} {name}s"
