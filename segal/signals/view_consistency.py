"""How much a detector says the same of an image and of views of it."""

from dataclasses import dataclass

from segal.signals.detector import AsksForBoxes


@dataclass(frozen=True)
class ViewConsistency(AsksForBoxes):
    """The consistency of an image's boxes with those in views of it (Yu et al., CVPRW 2022).

    The views are the paper's: the image mirrored, with parts cut out, at 0.8 of its size, and
    turned by 5 degrees. Each box is carried into a view, where its counterpart is the box with the
    highest intersection over union, whatever its class. Their consistency is
    `m = IoU + (1 / 2) (s + s') (1 - JS)`, with s and s' their highest class probabilities and JS
    the Jensen-Shannon divergence, in nats, of their distributions over classes. The candidate's is
    the mean over the views of the least `|m - base|` over its boxes: the box that tells most
    decides.

    As in the authors' code, a view in which nothing at all is found counts with 0. A candidate
    without a box has the highest distance that there is, max(base, 2 - base), and ranks last; the
    code picks images in which nothing is found first of all. The code looks at 50 boxes where there
    are more than 40, this at all of them.

    Attributes:
        base: The base point; in [0, 2].
    """

    base: float = 1.3

    @property
    def column(self) -> str:
        """As `view_consistency-1.3`."""
        return f"view_consistency-{self.base:g}"


@dataclass(frozen=True)
class ViewClasses(AsksForBoxes):
    """What classes a candidate shows (Yu et al., CVPRW 2022): an embedding of C columns.

    Per class the highest score of its boxes, 0 without any, as a mean over the image and the views
    of it that `ViewConsistency` names. A view's box belongs to the candidate that holds its centre
    once it is carried back.
    """

    @property
    def column(self) -> str:
        """Column name."""
        return "view_classes"
