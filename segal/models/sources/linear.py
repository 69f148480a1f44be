"""A linear layer on features that another network made, as `linear`."""

from torch import Tensor, nn

from segal.models.sources.base import Named, Options, Sides, check_answers, check_options
from segal.models.spec import ModelSpec


class LinearClassifier(nn.Module):
    """Logits of a table of features: an image is its D features, a map of one cell.

    Args:
        features: D.
        num_classes: C.
    """

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(features, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C) logits from (B, D, 1, 1)."""
        logits: Tensor = self.fc(features.flatten(1))
        return logits


class _Linear:
    """`linear`."""

    trusted = True

    def usual_encoder(self, architecture: str) -> str:
        """None: the name says all of the network."""
        return ""

    def resolve(self, architecture: str, encoder: str, options: Options, task: str) -> Named:
        """Checks that nothing else is asked for; features are taken as they are."""
        check_answers(architecture, task, "images")
        check_options(options, (), {}, architecture)
        return Named(architecture, "", ((0.0,), (1.0,)), 1)

    def build(self, spec: ModelSpec) -> nn.Module:
        """For as many features as the specification has channels."""
        return LinearClassifier(spec.channels, spec.num_classes)

    def sides(self, network: nn.Module, spec: ModelSpec) -> Sides:
        """A map of features is one cell."""
        return Sides([1])


SOURCE = _Linear()
