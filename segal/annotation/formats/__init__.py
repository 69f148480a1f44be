"""One file a tool or format; each writes a handout and reads answers."""

from segal.annotation.formats.base import Format

FORMATS: dict[str, Format] = {}
"""By the name that commands take."""
