"""An image's boxes without repetitions: how uncertain they are, and what they look like."""

from dataclasses import dataclass

from segal.signals.detector import AsksForBoxes


@dataclass(frozen=True)
class EntropyAfterNMS(AsksForBoxes):
    """The sum of the boxes' binary entropies after ENMS (Wu et al., CVPR 2022, section 3.3).

    A box's entropy is that of the probability of the class that it was found for. ENMS keeps box
    after box in the order of entropy, and leaves out those of its class whose features are more
    similar to its own than the threshold, by the cosine. It runs over the boxes of a candidate; one
    without a box has 0.

    Attributes:
        threshold: Of the similarity.
    """

    threshold: float = 0.5

    @property
    def column(self) -> str:
        """As `entropy_nms-0.5`."""
        return f"entropy_nms-{self.threshold:g}"


@dataclass(frozen=True)
class BoxPrototypes(AsksForBoxes):
    """The entropy-weighted mean feature of each class (Wu et al., CVPR 2022, section 3.4).

    An embedding of C x D columns, class by class, of the boxes that `EntropyAfterNMS` keeps; zeros
    for a class without a box. On disk it takes 4 C D bytes a candidate.

    Attributes:
        threshold: Of the similarity.
    """

    threshold: float = 0.5

    @property
    def column(self) -> str:
        """As `box_prototypes-0.5`."""
        return f"box_prototypes-{self.threshold:g}"


@dataclass(frozen=True)
class ClassScores(AsksForBoxes):
    """Per class the highest score of a candidate's boxes, 0 without any: C columns."""

    @property
    def column(self) -> str:
        """Column name."""
        return "class_scores"
