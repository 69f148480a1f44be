"""Draws the pictures of a selection: each image again through the network, for its map."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segal.candidates.evidence import Evidence
from segal.candidates.selection import Selected
from segal.data.layout import distinct_colours
from segal.data.stand_in import StandInPool
from segal.errors import SegalError
from segal.pictures.overlays import Pick, Picture, shown_bands, write_overlays
from segal.system.machine import autocast
from segal.tasks.drawing import Drawn, Look, PictureWords
from segal.tasks.segmentation.reduced import load_reduced

_EXCLUDED = 128
_OPAQUE = 0.65  # of a class over the image

OVERLAY_WORDS = PictureWords(
    shown="Picked regions, numbered in the order of picking, beside the map that shows where the "
    "network was unsure.",
    instead="Image {image} with the regions that {arm} picked after round {round}, numbered by "
    "rank, and its uncertainty map",
)


def draw_overlays(
    folder: Path,
    selected: Sequence[Selected],
    count: int,
    drawn: Drawn,
    progress: Callable[[int, int], None],
) -> None:
    """Writes a picture of each of the `count` images with the best ranks."""
    picks: dict[str, list[Pick]] = {}
    for s in selected:
        picks.setdefault(s.image, []).append(Pick(s.rank, s.box, s.score))
    shown = list(picks)[:count]
    positions = {path: i for i, path in enumerate(drawn.pool.paths)}

    def pictures() -> Iterator[Picture]:
        for done, image in enumerate(shown, 1):
            index = positions[image]
            load = partial(_load, drawn, index)
            size = drawn.pool.shape(index) if drawn.pool.is_large(index) else None
            yield Picture(image, picks[image], load, drawn.bought.get(image, ()), size)
            progress(done, len(shown))

    write_overlays(folder, pictures(), caption=drawn.caption)


@torch.inference_mode()
def look_at_pixels(drawn: Drawn, image: int) -> Look:
    """An image, its uncertainty map, and its likeliest classes over it; see `Task.look`.

    Raises:
        SegalError: If it is too large to be looked at as a whole.
    """
    if drawn.pool.is_large(image):
        height, width = drawn.pool.shape(image)
        raise SegalError(
            f"{drawn.pool.paths[image]}: too large for a page of picks",
            expected=f"an image of at most {drawn.pool.reading.large.above:g} megapixels",
            got=f"{height} x {width} (height x width)",
            remedy="see the pictures in overlays/, or cut the image",
        )
    shown, evidence = _pass(drawn, image)
    if evidence is None or drawn.model is None:
        return Look(shown)
    names = drawn.model.spec.class_names
    colours = distinct_colours(len(names))
    classes = evidence.logits[0].max(0).indices.cpu().numpy()
    grey = shown.mean(2, keepdims=True)
    mixed = colours[classes] * _OPAQUE + grey * (1 - _OPAQUE)
    there = np.unique(classes).tolist()
    return Look(
        shown,
        _map(drawn, image, evidence),
        mixed.round().astype(np.uint8),
        [(names[c], (int(r), int(g), int(b))) for c in there for r, g, b in [colours[c]]],
    )


@torch.inference_mode()
def _load(drawn: Drawn, image: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """An image and its uncertainty map; what is excluded is grey, and 0."""
    if drawn.pool.is_large(image):
        return load_reduced(drawn, image)
    shown, evidence = _pass(drawn, image)
    return shown, None if evidence is None else _map(drawn, image, evidence)


def _map(drawn: Drawn, image: int, evidence: Evidence) -> NDArray[Any]:
    uncertain = drawn.value.element_map(evidence)[0].float().cpu().numpy()
    for x0, y0, x1, y1 in drawn.excluded.get(drawn.pool.paths[image], ()):
        uncertain[y0:y1, x0:x1] = 0
    return uncertain


def _pass(drawn: Drawn, image: int) -> tuple[NDArray[np.uint8], Evidence | None]:
    """An image, of which what is excluded is grey, and what the network leaves behind."""
    pixels = drawn.pool.read(image)
    shown = shown_bands(pixels, stretched=drawn.pool.reading.bands is not None)
    excluded = drawn.excluded.get(drawn.pool.paths[image], ())
    if excluded:
        shown = shown.copy()
    for x0, y0, x1, y1 in excluded:
        shown[y0:y1, x0:x1] = _EXCLUDED
    if drawn.model is None:
        return shown, None
    device = drawn.model.device
    with autocast(device, drawn.precision):
        kept = isinstance(drawn.pool, StandInPool)
        batch = drawn.pool.batch([image]) if kept else torch.from_numpy(pixels)[None]
        evidence = drawn.model(drawn.model.normalise(batch.to(device)))
    return shown, evidence
