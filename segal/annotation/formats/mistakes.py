"""What is wrong with what came back: every message names the task, its image and its region."""

from collections.abc import Iterable, Sequence

from segal.annotation.handout import AnnotationTask
from segal.errors import SegalError

_SHOWN = 5


class Mistake(Exception):
    """Something is wrong with what was drawn in a frame, whichever tasks it shows.

    Args:
        source: File, and what in it.
        problem: What is wrong.
        expected: What would have been right.
        got: What was found.
        remedy: What to do.
    """

    def __init__(self, source: object, problem: str, expected: str, got: object, remedy: str):
        super().__init__(problem)
        self.source, self.problem = source, problem
        self.expected, self.got, self.remedy = expected, str(got)[:300], remedy

    @classmethod
    def of(cls, error: SegalError, source: object) -> "Mistake":
        """What made a file unreadable."""
        return cls(
            source,
            error.problem.splitlines()[0],
            error.expected or "a file that can be read",
            error.got or "",
            error.remedy or "mend the file",
        )

    def said_of(self, task: AnnotationTask) -> SegalError:
        """The error to show in place of a task's answer."""
        x0, y0, x1, y1 = task.region
        place = f"task {task.key}, {task.image}, region {x0},{y0},{x1 - x0},{y1 - y0}"
        return SegalError(
            f"{self.source}: {place}: {self.problem}",
            expected=self.expected,
            got=self.got,
            remedy=self.remedy,
        )


def check_size(task: AnnotationTask, source: object, size: tuple[object, object]) -> None:
    """Raises a Mistake if a file is of another (height, width) than what a task shows."""
    height, width = task.frame_size
    if size == (height, width):
        return
    remedy = "label the image that was handed out, at its size"
    if size == (width, height):
        remedy = (
            "height and width are swapped, or the image was not turned as its EXIF says: " + remedy
        )
    shown = " x ".join(map(str, size))
    expected = f"{height} x {width} (height x width)"
    raise Mistake(source, "of another size than the image", expected, shown, remedy)


def not_handed_out(source: object, names: Sequence[str], files: Iterable[str]) -> SegalError:
    """What is wrong with a file that names images of which no task is."""
    shown = ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
    some = ", ".join(list(files)[:_SHOWN])
    return SegalError(
        f"{source}: images that were not handed out ({len(names)})",
        expected=f"paths as they were handed out, such as {some}",
        got=shown[:300],
        remedy="give the run that they were handed out for, or the names that they had",
    )


def is_number(value: object) -> bool:
    """Whether a value of JSON is a finite number."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and -(2**53) < value < 2**53
    )
