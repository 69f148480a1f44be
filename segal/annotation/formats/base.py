"""What a format is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from segal.annotation.answers import Answer
from segal.annotation.handout import AnnotationTask, Handout, Mode
from segal.errors import SegalError

Drafts = Callable[[AnnotationTask], Answer | None]
"""What the network says of a task, as an answer that nobody has touched; None for nothing.

Of pixels, as the question makes it: a layer for each class, within the region, none over another.
"""


@dataclass(frozen=True)
class WriteOptions:
    """What a user may say of how a handout is written.

    Attributes:
        image_url: Where the tool finds an image, with `{file}` for its path.
        colours: Of each class, RGB.
    """

    image_url: str
    colours: tuple[tuple[int, int, int], ...]


class Format(Protocol):
    """A tool or format.

    Attributes:
        name: As the command line has it.
        questions: Names of segal's tasks that it can ask.
        modes: `context`, `crop` or both.
        is_lossless: Whether pixels come back as they were drawn.
    """

    name: str
    questions: tuple[str, ...]
    modes: tuple[Mode, ...]
    is_lossless: bool

    def check(self, handout: Handout) -> None:
        """Raises a SegalError for names of classes that this format cannot tell apart or keep."""
        ...

    def write(
        self, folder: Path, handout: Handout, drafts: Drafts | None, options: WriteOptions
    ) -> list[Path]:
        """Writes what the tool takes; the manifest and crops are not its business.

        Args:
            folder: There, empty but for crops.
            handout: The tasks.
            drafts: Pre-annotations; None without.
            options: See there.

        Returns:
            The files that it wrote.
        """
        ...

    def read(self, path: Path, handout: Handout) -> Iterator[Answer | SegalError]:
        """Reads what came back, one answer after the other, in bounded memory.

        Args:
            path: What the tool exported: a file, or a folder.
            handout: What was handed out.

        Yields:
            Answers; or, in place of one, what is wrong with it: it names the file, the task, the
            image and the region, and a remedy. Tasks that nobody has worked on are left out.

        Raises:
            SegalError: If the file as a whole cannot be read.
        """
        ...
