"""Pictures for people: the picked regions of an image beside its uncertainty map."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.pictures.sheet import POINTS, Sheet, panel_size, steady_style
from segal.system.files import replacing

Array = NDArray[np.integer | np.floating]
Span = tuple[float, float]

_COLORMAP = "inferno"  # even steps of lightness, legible without colour vision
_OUTLINE, _CASING = "#21e6ff", "#000000"  # a hue that the colour map lacks
_DIMMED, _VEIL = 0.55, 34  # contrast of what was not picked, and grey laid over it
_TOP_SHARE = 0.005  # of the map's pixels may lie above the colour scale
_STRETCH = (0.01, 0.99)
_INSET = 2  # of an outline and a number, from the edge of their region; in pixels of the picture
_LABEL_PAD = 0.2  # around a number, of its size
_MOST_NUMBERS = 200  # nobody reads more, and placing them takes its time
_LABEL_SIZES = (15, 14, 13, 12, 11, 10)


@dataclass(frozen=True)
class Pick:
    """A region to outline.

    Attributes:
        rank: Position in the pick order, from 1; shown in the region's corner.
        box: Half-open (x0, y0, x1, y1) in pixels of the original image.
        score: The value that decided the pick.
    """

    rank: int
    box: Box
    score: float


@dataclass(frozen=True)
class Picture:
    """An image of which regions were picked.

    Attributes:
        image: Path relative to the folder of images.
        picks: Its picked regions, at least one.
        load: Gives the image and its uncertainty map (or None), as `overlay` takes them; called
            once, when the picture's turn comes.
        bought: Regions that were bought before.
        size: (height, width) of the image, where what is loaded is smaller.
    """

    image: str
    picks: Sequence[Pick]
    load: Callable[[], tuple[Array, Array | None]]
    bought: Sequence[Box] = ()
    size: tuple[int, int] | None = None


def shown_bands(image: Array, stretched: bool = False) -> NDArray[np.uint8]:
    """Three of an image's channels, for people.

    Args:
        image: (H, W, channels), uint8, or floating in [0, 1].
        stretched: Whether each channel's values, but for a hundredth at either end, are spread over
            the whole range, as bands of a sensor fill a small part of theirs.

    Returns:
        (H, W, 3) uint8: the first three channels, or the first of one or two three times.
    """
    some = image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, 2)
    if not stretched:
        if some.dtype == np.uint8:
            return np.ascontiguousarray(some)
        return (some.astype(np.float32).clip(0, 1) * 255).round().astype(np.uint8)
    low, high = np.quantile(some.astype(np.float32), _STRETCH, axis=(0, 1))
    spread = (some - low) / np.where(high > low, high - low, 1)
    return np.asarray((spread.clip(0, 1) * 255).round().astype(np.uint8))


def overlay(
    image: Array,
    picks: Sequence[Pick],
    *,
    title: str = "",
    uncertainty: Array | None = None,
    caption: str = "uncertainty",
    value_range: Span | None = None,
    bought: Sequence[Box] = (),
) -> NDArray[np.uint8]:
    """Draws the picked regions of an image beside its uncertainty map.

    Args:
        image: (H, W, 3) RGB, uint8, or floating in [0, 1].
        picks: The regions to outline; where numbers do not fit, the better ranks' are shown.
        title: Such as the image's name.
        uncertainty: (H, W) floating map; None leaves its panel out.
        caption: What the map shows, with its unit, such as `entropy (nats)`.
        value_range: Lowest and highest value of the colour scale; from the map by default.
        bought: Boxes that were bought before; they are hatched.

    Returns:
        (h, w, 3) uint8 RGB, at most 1400 pixels wide; the map is right of the image, or below an
        image that is very wide.

    Raises:
        ValueError: If the image or the map has another shape.
    """
    panels = _shrink(image, uncertainty)
    if value_range is None and panels.values is not None:
        value_range = _shared_range([panels.values])
    return _draw(panels, picks, bought, (title, caption), value_range)


def write_overlays(
    folder: Path,
    pictures: Iterable[Picture],
    *,
    caption: str = "uncertainty",
    value_range: Span | None = None,
) -> list[Path]:
    """Writes one PNG file for each image, all with the same colour scale.

    Args:
        folder: Takes the files; it appears as a whole and takes the place of what was there.
        pictures: What to draw. Images are held at the size of a panel until the common scale is
            known, which takes 2 to 6 MiB a picture.
        caption: What the maps show, with its unit.
        value_range: Lowest and highest value of the colour scale; from all maps by default.

    Returns:
        The files, best rank first: `0001_<name of the image>.png`, where 1 is the image's best
        rank.

    Raises:
        SegalError: If the disk is full or the folder cannot be written.
    """
    held = [(picture, _shrink(*picture.load(), picture.size)) for picture in pictures]
    held.sort(key=lambda pair: _best(pair[0]))
    if value_range is None:
        maps = [panels.values for _, panels in held if panels.values is not None]
        value_range = _shared_range(maps) if maps else None
    digits = max([4, *(len(str(_best(picture))) for picture, _ in held)])
    names = [f"{_best(picture):0{digits}d}_{plain_name(picture.image)}.png" for picture, _ in held]
    with replacing(folder) as temporary:
        temporary.mkdir()
        for (picture, panels), name in zip(held, names, strict=True):
            drawn = _draw(
                panels, picture.picks, picture.bought, (picture.image, caption), value_range
            )
            _, data = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
            (temporary / name).write_bytes(data.tobytes())
    return [folder / name for name in names]


def _best(picture: Picture) -> int:
    return min(pick.rank for pick in picture.picks)


def plain_name(image: str) -> str:
    """An image's name without its folder and suffix, of characters that any system takes."""
    return re.sub(r"[^\w-]+", "_", PurePosixPath(image).stem, flags=re.ASCII)[:80]


@dataclass(frozen=True)
class _Panels:
    """An image and its map at the size at which they are shown, and the size that they had."""

    image: NDArray[np.uint8]
    values: NDArray[np.float32] | None
    height: int
    width: int


def _shrink(
    image: Array, uncertainty: Array | None, size: tuple[int, int] | None = None
) -> _Panels:
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: expected (H, W, 3), got {image.shape}")
    height, width = image.shape[:2]
    if uncertainty is not None and uncertainty.shape != (height, width):
        raise ValueError(f"uncertainty: expected {(height, width)}, got {uncertainty.shape}")
    if image.dtype != np.uint8:
        image = (image.astype(np.float32).clip(0, 1) * 255).round().astype(np.uint8)
    rows, columns = panel_size(height, width, 1 if uncertainty is None else 2)
    way = cv2.INTER_AREA if rows < height else cv2.INTER_LINEAR
    shown = cv2.resize(image, (columns, rows), interpolation=way).astype(np.uint8, copy=False)
    full = size or (height, width)
    if uncertainty is None:
        return _Panels(shown, None, *full)
    values = cv2.resize(uncertainty.astype(np.float32), (columns, rows), interpolation=way)
    return _Panels(shown, values.astype(np.float32, copy=False), *full)


def _shared_range(maps: Sequence[NDArray[np.float32]]) -> Span:
    """From 0, or the lowest value, to a value that few lie above."""
    values = np.concatenate([m.ravel() for m in maps])
    low = min(0.0, float(values.min()))
    high = float(np.quantile(values, 1 - _TOP_SHARE))
    return low, high if high > low else low + 1.0


def _draw(
    panels: _Panels,
    picks: Sequence[Pick],
    bought: Sequence[Box],
    words: tuple[str, str],
    value_range: Span | None,
) -> NDArray[np.uint8]:
    """Draws the sheet; `words` are its title and the map's caption."""
    title, caption = words
    sheet = Sheet(panels.height, panels.width, 1 if panels.values is None else 2)
    picks = sorted(picks, key=lambda pick: pick.rank)
    with steady_style():
        left = sheet.panel(0, "picked regions, numbered by rank")
        _show(left, _spotlight(panels, [pick.box for pick in picks]), panels)
        shown = [left]
        if panels.values is not None and value_range is not None:
            right = sheet.panel(1, caption)
            mappable = ScalarMappable(Normalize(*value_range), _COLORMAP)
            _show(right, mappable.to_rgba(panels.values, bytes=True)[..., :3], panels)
            clipped = float(panels.values.max()) > value_range[1]
            sheet.scale(mappable, "max" if clipped else "neither")
            shown.append(right)
        for axes in shown:
            _outline(axes, picks, bought, panels)
            left_out = _number(axes, picks, panels)
        sheet.header(title, _summary(picks, bought, left_out))
        return sheet.pixels()


def _show(axes: Axes, image: NDArray[np.uint8], panels: _Panels) -> None:
    axes.imshow(
        image,
        extent=(0, panels.width, panels.height, 0),
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _spotlight(panels: _Panels, boxes: Sequence[Box]) -> NDArray[np.uint8]:
    """The image with everything outside the boxes paler."""
    height, width = panels.image.shape[:2]
    grey = panels.image.mean(2, keepdims=True)
    paler = (panels.image + grey) * (_DIMMED / 2) + _VEIL
    lit: NDArray[np.uint8] = paler.round().astype(np.uint8)
    across, down = width / panels.width, height / panels.height
    for x0, y0, x1, y1 in boxes:
        rows = slice(round(y0 * down), round(y1 * down))
        columns = slice(round(x0 * across), round(x1 * across))
        lit[rows, columns] = panels.image[rows, columns]
    return lit


def _outline(axes: Axes, picks: Sequence[Pick], bought: Sequence[Box], panels: _Panels) -> None:
    """Outlines, drawn inside their boxes so that those of neighbours lie side by side."""
    dot = panels.width / panels.image.shape[1]
    for x0, y0, x1, y1 in bought:
        axes.add_patch(
            Rectangle((x0, y0), x1 - x0, y1 - y0, fc="#80808060", ec="#ffffffa0", hatch="///", lw=0)
        )
    for pick in picks:
        x0, y0, x1, y1 = pick.box
        inset = min(_INSET * dot, (x1 - x0) / 4, (y1 - y0) / 4)
        axes.add_patch(
            Rectangle(
                (x0 + inset, y0 + inset),
                x1 - x0 - 2 * inset,
                y1 - y0 - 2 * inset,
                fill=False,
                ec=_OUTLINE,
                lw=2 * POINTS,
                joinstyle="miter",
                path_effects=[withStroke(linewidth=4 * POINTS, foreground=_CASING)],
            )
        )


def _number(axes: Axes, picks: Sequence[Pick], panels: _Panels) -> int:
    """Writes ranks into the corners of their regions, as large as fits.

    A number that fits at no size stands beside its region, if it covers no region and no other
    number there; else it is left out.

    Returns:
        How many are left out.
    """
    height, width = panels.image.shape[:2]
    panel = np.array([0, 0, width, height], float)
    boxes = np.array([pick.box for pick in picks], float).reshape(-1, 4) * width / panels.width
    taken = boxes
    left_out = len(picks[_MOST_NUMBERS:])
    for pick, box in zip(picks[:_MOST_NUMBERS], boxes, strict=False):
        for size in _LABEL_SIZES:
            text, place = _label(axes, pick, size, box[:2])
            if _within(place, box):
                break
            text.remove()
        else:
            text, place = _label(axes, pick, _LABEL_SIZES[-1], box[[2, 1]])
            if not _within(place, panel) or _meets(place, taken):
                text.remove()
                left_out += 1
                continue
        taken = np.concatenate([taken, place[None]])
    return left_out


def _label(
    axes: Axes, pick: Pick, size: int, corner: NDArray[np.float64]
) -> tuple[Text, NDArray[np.float64]]:
    """A rank right below a corner, and the box that it takes; both in pixels of the panel."""
    offset = _INSET + _LABEL_PAD * size
    x, y = corner
    height, width = axes.bbox.height, axes.bbox.width
    text = axes.text(
        (x + offset) / width,
        1 - (y + offset) / height,
        str(pick.rank),
        transform=axes.transAxes,
        ha="left",
        va="top",
        size=size * POINTS,
        weight="bold",
        color=_CASING,
        bbox={"boxstyle": f"square,pad={_LABEL_PAD}", "fc": _OUTLINE, "ec": "none"},
    )
    extent = text.get_window_extent()
    far = x + 2 * offset + extent.width, y + 2 * offset + extent.height
    return text, np.array([x, y, *far])


def _within(inner: NDArray[np.float64], outer: NDArray[np.float64]) -> bool:
    return bool((inner[:2] >= outer[:2]).all() and (inner[2:] <= outer[2:]).all())


def _meets(box: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    apart = (others[:, :2] >= box[2:]).any(1) | (others[:, 2:] <= box[:2]).any(1)
    return bool((~apart).any())


def _summary(picks: Sequence[Pick], bought: Sequence[Box], left_out: int) -> str:
    """What was picked of an image, in a line."""
    scores = [pick.score for pick in picks]
    if not picks:
        text = "no region picked"
    elif len(picks) == 1:
        text = f"1 region picked: rank {picks[0].rank}, score {scores[0]:.4g}"
    else:
        ranks = [pick.rank for pick in picks]
        listed = ", ".join(map(str, ranks)) if len(ranks) <= 8 else f"{ranks[0]} to {ranks[-1]}"
        text = (
            f"{len(picks)} regions picked: ranks {listed}, "
            f"scores {min(scores):.4g} to {max(scores):.4g}"
        )
    text += f"; hatched: {len(bought)} bought before" if bought else ""
    return text + (f"; no room for {left_out} of the numbers" if left_out else "")
