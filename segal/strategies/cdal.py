"""CDAL: candidates whose predictions differ, class by class."""

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from torch import Tensor

from segal.candidates.table import CandidateTable
from segal.functional.divergence import class_profile_k_center
from segal.signals import Signal
from segal.signals.class_profiles import ClassProfiles
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks

_PROFILES = ClassProfiles()
_NO_CENTRES = (
    "Nothing is labelled yet: the first pick is the candidate whose predictions are farthest from "
    "uniform."
)


@dataclass(frozen=True, config=PARAMETERS)
class CDAL:
    """k-center-greedy on contextual diversity, from what is labelled (CDAL).

    A candidate is described by, for every class that is predicted in it, the entropy-weighted mean
    of the softmax vectors of the class's pixels. Two candidates are apart by the mean of the
    symmetric KL divergences between these, over the classes that are present in either; a class
    that one lacks counts with the other's divergence from the uniform distribution. This is the
    paper's core-set variant (CDAL-CS), not the one that learns a policy.
    """

    name: ClassVar[str] = "cdal"
    direction: ClassVar[Direction | None] = None
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "Agarwal et al. (ECCV 2020), CDAL-CS"

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for the class profiles."""
        yield [_PROFILES]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """Picks that cover; scores are distances at pick."""
        centers = _square(labelled.embedding(_PROFILES.column)) if len(labelled) else None
        profiles = _square(table.embedding(_PROFILES.column))
        picks, distance = class_profile_k_center(profiles, count, centers)
        notes = (_NO_CENTRES,) if centers is None else ()
        return Picks(picks.numpy(), distance.numpy(), notes)


def _square(rows: NDArray[np.float32]) -> Tensor:
    """(n, C, C) from (n, C * C)."""
    classes = math.isqrt(rows.shape[1])
    return torch.from_numpy(rows).view(-1, classes, classes)
