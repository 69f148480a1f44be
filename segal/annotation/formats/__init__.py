"""One file a tool or format; each writes a handout and reads answers."""

from segal.annotation.formats.base import Format
from segal.annotation.formats.cvat import Cvat
from segal.annotation.formats.label_studio import LabelStudio

FORMATS: dict[str, Format] = {
    "cvat": Cvat(),
    "label-studio": LabelStudio(),
}
"""By the name that commands take."""
