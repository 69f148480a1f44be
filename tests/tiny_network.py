"""A network of one's own, small enough to be trained dozens of times in a test."""

from torch import Tensor, nn


class TinyNetwork(nn.Sequential):
    """Logits at a quarter of the input's size, upsampled; with BatchNorm and dropout."""

    def __init__(self, num_classes: int, channels: int = 3) -> None:
        super().__init__(
            nn.Conv2d(channels, 8, 3, stride=4, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Conv2d(8, num_classes, 1),
            nn.UpsamplingBilinear2d(scale_factor=4),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, num_classes, H, W) logits."""
        logits: Tensor = super().forward(images)
        return logits


def build(num_classes: int) -> TinyNetwork:
    """Called by segal with the number of classes."""
    return TinyNetwork(num_classes)


def build_for_four_bands(num_classes: int) -> TinyNetwork:
    """Likewise, for images of four bands."""
    return TinyNetwork(num_classes, 4)
