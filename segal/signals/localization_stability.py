"""How little boxes move where noise is added to an image."""

from dataclasses import dataclass

from segal.signals.detector import AsksForBoxes


@dataclass(frozen=True)
class LocalizationStability(AsksForBoxes):
    """The mean overlap of boxes with those found under noise (Kao et al., ACCV 2018, section 3.2).

    Gaussian noise of standard deviation `step`, 2 `step`, up to `levels` `step`, in units of pixel
    values of 0 to 255, is added to the image, without cutting the sum off. A box's counterpart at a
    level is the box with the highest intersection over union, whatever its class; without any it is
    0. A candidate's stability is the mean over its boxes and the levels, weighted by the boxes'
    highest class probability; that of a candidate without a box is 1.

    Noise is drawn for each image on its own, from a generator seeded by the pass's seed, the
    image's path and the level, and images go through the network one by one.

    Attributes:
        levels: Their number.
        step: Between two levels.
    """

    levels: int = 6
    step: float = 8.0

    @property
    def column(self) -> str:
        """As `localization_stability-6x8`."""
        return f"localization_stability-{self.levels}x{self.step:g}"
