"""What is wrong in files that came back, with the place in the file where it is."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from segal.annotation.formats.shared import tools
from segal.annotation.handout import NAME_HANDOUT, AnnotationTask
from segal.errors import SegalError

_SHOWN = 5


class Mistake(tools.Mistake):
    """What is wrong with an answer, before it is said whose it is.

    Args:
        source: File, and what in it.
        problem: What is wrong.
        expected: What would have been right.
        got: What was found instead.
        remedy: What to do about it.
    """

    def __init__(
        self, source: object, problem: str, expected: str, got: object, remedy: str
    ) -> None:
        super().__init__(problem, expected, got, remedy)
        self.source = str(source)

    @classmethod
    def of_error(cls, error: SegalError, source: object) -> "Mistake":
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
        return self.of(self.source, task)


@contextmanager
def said_at(source: object) -> Iterator[None]:
    """Tells of mistakes in the block where they are."""
    try:
        yield
    except Mistake:
        raise
    except tools.Mistake as mistake:
        parts = (mistake.problem, mistake.expected, mistake.got, mistake.remedy)
        raise Mistake(source, *parts) from mistake


def check_size(task: AnnotationTask, source: object, size: tuple[object, object]) -> None:
    """Raises a Mistake if a file is of another (height, width) than what a task shows."""
    with said_at(source):
        tools.check_size(task, *size)


def check_one_frame(tasks: Sequence[AnnotationTask], source: object) -> None:
    """Raises a Mistake if tasks were handed out in several frames, of which none is stated."""
    if len({task.frame for task in tasks}) > 1:
        raise Mistake(
            source,
            "handed out in several sizes, and it does not say in which it was drawn",
            "the size of what was shown",
            "none",
            f"name the handout that it is an answer to: {NAME_HANDOUT}",
        )


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
