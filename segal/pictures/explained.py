"""The picture of an explained image: it, what the network predicts, its entropy, and a score."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Patch
from numpy.typing import NDArray

from segal.pictures.sheet import BAR, BAR_GAP, CAPTION, HEADER, MARGIN, POINTS, Canvas, steady_style

_PANEL_WIDTH, _PANEL_HEIGHT, _GUTTER = 560, 460, 150
_ENTROPY_COLOURS, _SIGNED_COLOURS = "inferno", "RdBu_r"  # as overlays; red above 0
_TINT = 0.7  # of a class's colour, over the grey image
_MOST_CLASSES, _LONGEST_NAME = 16, 14


@dataclass(frozen=True)
class Panels:
    """What is shown of an image, at the size at which it is shown.

    Attributes:
        image: (h, w, 3) uint8, RGB.
        prediction: (h, w) uint8 classes.
        entropy: (h, w) float32, in nats.
        score: (h, w) float32, signed.
    """

    image: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    entropy: NDArray[np.float32]
    score: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        image: NDArray[np.integer | np.floating],
        prediction: NDArray[np.uint8],
        entropy: NDArray[np.float32],
        score: NDArray[np.float32],
    ) -> "Panels":
        """Brings an image (H, W, 3), uint8 or floating in [0, 1], and its maps to that size."""
        height, width = image.shape[:2]
        scale = min(_PANEL_WIDTH / width, _PANEL_HEIGHT / height)
        shown = max(1, round(width * scale)), max(1, round(height * scale))
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
        if image.dtype != np.uint8:
            image = (image.astype(np.float32).clip(0, 1) * 255).round().astype(np.uint8)
        return cls(
            cv2.resize(image, shown, interpolation=way).astype(np.uint8, copy=False),
            cv2.resize(prediction, shown, interpolation=cv2.INTER_NEAREST).astype(np.uint8),
            cv2.resize(entropy, shown, interpolation=way).astype(np.float32, copy=False),
            cv2.resize(score, shown, interpolation=way).astype(np.float32, copy=False),
        )


@dataclass(frozen=True)
class Legend:
    """What the pictures of a run have in common.

    Attributes:
        names: Of the classes.
        palette: (C, 3) uint8, their colours.
        caption: Of the score.
        entropy_top: End of the entropy's scale, above 0.
        score_top: End of the score's scale, above 0, which starts at minus that.
    """

    names: Sequence[str]
    palette: NDArray[np.uint8]
    caption: str
    entropy_top: float
    score_top: float


def draw_explanation(panels: Panels, legend: Legend, title: str, summary: str) -> NDArray[np.uint8]:
    """Draws four panels: image and prediction above, entropy and score below.

    Args:
        panels: Of the image.
        legend: Classes, caption and colour scales.
        title: Such as the image's path.
        summary: A line below it.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    height, width = panels.image.shape[:2]
    column = max(width, _PANEL_WIDTH // 2) + _GUTTER
    left, top = MARGIN, HEADER + CAPTION
    with steady_style():
        canvas = Canvas(2 * MARGIN + 2 * column, top + 2 * height + CAPTION + MARGIN, left)

        def show(row: int, place: int, caption: str, dots: NDArray[np.uint8]) -> tuple[int, int]:
            x, y = left + place * column, top + row * (height + CAPTION)
            axes = canvas.axes(x, y, width, height, caption)
            axes.imshow(dots, aspect="auto", interpolation="nearest")
            axes.axis("off")
            return x + width + BAR_GAP, y

        show(0, 0, "image", panels.image)
        beside = show(0, 1, "prediction", _tinted(panels, legend))
        _name_classes(canvas, panels, legend, beside)
        for place, caption, values, span, colours in (
            (0, "entropy (nats)", panels.entropy, (0.0, legend.entropy_top), _ENTROPY_COLOURS),
            (
                *(1, legend.caption, panels.score),
                *((-legend.score_top, legend.score_top), _SIGNED_COLOURS),
            ),
        ):
            mappable = ScalarMappable(Normalize(*span), colours)
            dots = mappable.to_rgba(values, bytes=True)[..., :3]
            x, y = show(1, place, caption, dots)
            above, below = values.max() > span[1], values.min() < span[0]
            ends = {(1, 1): "both", (1, 0): "max", (0, 1): "min", (0, 0): "neither"}
            canvas.colour_bar(mappable, ends[int(above), int(below)], x, y, height)
        canvas.header(title, summary)
        return canvas.pixels()


def _tinted(panels: Panels, legend: Legend) -> NDArray[np.uint8]:
    """The grey image in the colours of its classes."""
    grey = panels.image.mean(2, keepdims=True)
    tinted = _TINT * legend.palette[panels.prediction] + (1 - _TINT) * grey
    return np.asarray(tinted.round().astype(np.uint8))


def _name_classes(canvas: Canvas, panels: Panels, legend: Legend, corner: tuple[int, int]) -> None:
    """Names of the classes that are predicted, the largest first."""
    counts = np.bincount(panels.prediction.ravel(), minlength=len(legend.names))
    height = panels.image.shape[0]
    order = [int(c) for c in np.argsort(-counts, kind="stable") if counts[c]]
    order = order[: min(_MOST_CLASSES, max(1, height // 18))]
    axes = canvas.axes(*corner, _GUTTER - BAR_GAP - BAR // 2, height)
    axes.axis("off")
    axes.legend(
        handles=[Patch(color=legend.palette[c] / 255) for c in order],
        labels=[_shortened(legend.names[c]) for c in order],
        loc="upper left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0,
        frameon=False,
        fontsize=12 * POINTS,
        handlelength=1,
        handleheight=1,
        labelspacing=0.3,
    )


def _shortened(name: str) -> str:
    clean = "".join(c if c.isprintable() and c != "$" else " " for c in name).lstrip("_")
    return (
        clean
        if len(clean) <= _LONGEST_NAME
        else clean[: _LONGEST_NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"
    )
