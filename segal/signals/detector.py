"""What signals share that only a detector's boxes can be measured by."""

from typing import ClassVar, NoReturn

from segal.models.noise import NoHeadError
from segal.models.spec import ANSWERS
from segal.models.wrapped import Model
from segal.signals.base import Need, Workbench


class AsksForBoxes:
    """A signal of the boxes that a detector finds: a task of boxes has its way to measure it.

    Elsewhere it is refused before work starts.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    of_labelled: ClassVar[bool] = False

    def check(self, model: Model) -> None:
        """Raises a NoHeadError: what is asked is no detector."""
        task = next(name for name in ANSWERS if ANSWERS.get(name).of == "objects")
        raise NoHeadError(
            "it measures boxes",
            expected="a network that finds boxes",
            got=f"a network for {model.spec.task}",
            remedy=f"give a detector and --task {task}, or choose another strategy",
        )

    def prepare(self, bench: Workbench) -> NoReturn:
        """Likewise.

        Raises:
            NoHeadError: In any case.
        """
        self.check(bench.model)
        raise AssertionError
