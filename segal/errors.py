"""What a user's mistake raises; the command line turns it into exit code 2."""

from collections.abc import Sequence


class SegalError(Exception):
    """A mistake that a user can mend: what is wrong, what was expected, what was got, the remedy.

    Args:
        problem: What is wrong, naming the file, option or key.
        expected: What would have been right.
        got: What was found instead.
        remedy: What to do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem, self.expected, self.got, self.remedy = problem, expected, got, remedy
        lines = [problem]
        lines += [f"  expected: {expected}"] if expected is not None else []
        lines += [f"  got: {got}"] if got is not None else []
        lines += [f"  remedy: {remedy}"] if remedy is not None else []
        super().__init__("\n".join(lines))

    def renamed(self, problem: str) -> "SegalError":
        """The same mistake, with what is wrong said in other words, such as with its place."""
        return SegalError(problem, expected=self.expected, got=self.got, remedy=self.remedy)


class SegalErrors(SegalError):
    """Several mistakes reported together.

    Args:
        errors: The mistakes, in the order in which they are shown; at least one.
    """

    def __init__(self, errors: Sequence[SegalError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in errors))


def raise_all(errors: Sequence[SegalError]) -> None:
    """Raises nothing for no error, the error itself for one, and all of them together for more."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SegalErrors(errors)
