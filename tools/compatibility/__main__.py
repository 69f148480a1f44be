"""Writes docs/results/compatibility.md: tries every case of every kind, and says what came of it.

    python -m tools.compatibility [KIND...]

Without a kind all are tried; with some, the sections of the others stay as they are.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from tools.compatibility import checkpoints, images, labels, networks
from tools.compatibility.row import Row

KINDS = {
    "networks": networks,
    "checkpoints": checkpoints,
    "images": images,
    "labels": labels,
}
"""Modules with a TITLE, an INTRODUCTION and a function `rows`, which yields a `Row` for each case;
in the order of the document."""

FILE = Path(__file__).parents[2] / "docs" / "results" / "compatibility.md"
_HEAD = """# What was tried

Each line was tried by `python -m tools.compatibility`, and says what came of it: what segal reads
it reads right, and what it does not it refuses before work starts.
"""


def section(title: str, introduction: str, rows: Iterable[Row]) -> str:
    """A section of the document, as Markdown."""
    lines = [f"## {title}", "", introduction, "", "| Case | Outcome |", "| --- | --- |"]
    for row in rows:
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in row) + " |")
    return "\n".join(lines) + "\n"


def written(text: str) -> dict[str, str]:
    """The sections of a document by their titles."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {part.splitlines()[0].removeprefix("## "): part.rstrip() + "\n" for part in parts}


def main() -> None:
    chosen = sys.argv[1:] or list(KINDS)
    unknown = [name for name in chosen if name not in KINDS]
    if unknown:
        sys.exit(f"{', '.join(unknown)}: not one of {', '.join(KINDS)}")
    sections = written(FILE.read_text()) if FILE.exists() else {}
    for name in chosen:
        kind = KINDS[name]
        print(f"{kind.TITLE} ...", file=sys.stderr)
        sections[kind.TITLE] = section(kind.TITLE, kind.INTRODUCTION, kind.rows())
    order = [kind.TITLE for kind in KINDS.values()]
    FILE.write_text("\n".join([_HEAD, *(sections[title] for title in order if title in sections)]))


if __name__ == "__main__":
    main()
