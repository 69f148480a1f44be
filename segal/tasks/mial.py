"""The stages of MIAL as a scheme of training, whatever the network finds or classifies.

After Yuan et al., "Multiple Instance Active Learning for Object Detection" (CVPR 2021), sections
3.2 and 3.3; equations are in `segal.functional.mial`, stages in `segal.models.mial`.
"""

from collections.abc import Collection, Sequence

import numpy as np

from segal.models.mial import MialSettings, Stage, moving, schedule
from segal.models.wrapped import Model
from segal.tasks.schemes import SemiSupervised


class Stages(SemiSupervised):
    """Which stage a step is of, what moves in it, and what it draws; see `MialSettings`.

    Args:
        settings: How it is done.
        iterations: Steps in all.
    """

    def __init__(self, settings: MialSettings, iterations: int) -> None:
        self.settings = settings
        self.stages = schedule(settings, iterations)

    def stage(self, step: int) -> Stage:
        """The stage that a step is of."""
        return next(one for one in self.stages if one.start <= step < one.stop)

    def unlabelled_before(self, step: int) -> int:
        """See `Scheme.unlabelled_before`: the steps that are not on the labelled set alone."""
        lengths = (min(step, one.stop) - one.start for one in self.stages if one.kind != "label")
        return sum(max(0, length) for length in lengths)

    def unlabelled_images(
        self, labelled: Sequence[int], others: Sequence[int], generator: np.random.Generator
    ) -> list[int]:
        """All others, or in the preset `code` as many as are labelled, drawn at random.

        Labelled images take the place of those that are too few, or not there at all.
        """
        if self.settings.preset == "paper":
            return list(others or labelled)
        count = len(labelled)
        drawn = generator.permutation(others).astype(np.int64)[:count].tolist()
        rest = generator.permutation(labelled)[: count - len(drawn)].tolist()
        return sorted(drawn + rest)

    def moving(self, step: int, model: Model) -> Collection[str] | None:
        """See `Scheme.moving`."""
        return moving(self.stage(step).kind, self.settings.preset, model)

    def validates(self, step: int) -> bool:
        """See `Scheme.validates`: the last stage's."""
        return step >= self.stages[-1].start
