"""A line of the table."""

from typing import NamedTuple


class Row(NamedTuple):
    """A case and what came of it, as Markdown."""

    case: str
    outcome: str
