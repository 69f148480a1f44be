"""Draws the pictures of a selection: each image again through the network, for its map."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.candidates.selection import Selected
from segal.data.pool import ImagePool
from segal.models.wrapped import Model
from segal.pictures.overlays import Pick, Picture, shown_bands, write_overlays
from segal.signals import Value
from segal.system.console import Advance
from segal.system.machine import Precision, autocast

_CAPTIONS = {
    "entropy": "entropy (nats)",
    "least_confidence": "1 - p1",
    "margin": "1 - (p1 - p2)",
    "bvsb": "p2 / p1",
}


@dataclass(frozen=True)
class Overlays:
    """What the pictures of a selection are drawn from.

    Attributes:
        pool: The images.
        model: The network; None for pictures without a map.
        value: The uncertainty to show.
        bought: Boxes that were bought before, by image.
        precision: Of the network's forward pass.
    """

    pool: ImagePool
    model: Model | None
    value: Value
    bought: Mapping[str, Sequence[Box]]
    precision: Precision

    def write(
        self, folder: Path, selected: Sequence[Selected], count: int, progress: Advance
    ) -> None:
        """Writes a picture of each of the `count` images with the best ranks."""
        picks: dict[str, list[Pick]] = {}
        for s in selected:
            picks.setdefault(s.image, []).append(Pick(s.rank, s.box, s.score))
        shown = list(picks)[:count]
        positions = {path: i for i, path in enumerate(self.pool.paths)}

        def pictures() -> Iterator[Picture]:
            for done, image in enumerate(shown, 1):
                load = partial(self._load, positions[image])
                yield Picture(image, picks[image], load, self.bought.get(image, ()))
                progress(done, len(shown))

        caption = _CAPTIONS.get(self.value.name, self.value.name)
        write_overlays(folder, pictures(), caption=caption)

    @torch.inference_mode()
    def _load(self, image: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """An image and its uncertainty map."""
        pixels = self.pool.read(image)
        shown = shown_bands(pixels, stretched=self.pool.reading.bands is not None)
        if self.model is None:
            return shown, None
        device = self.model.device
        with autocast(device, self.precision):
            batch = torch.from_numpy(pixels)[None].to(device)
            evidence = self.model(self.model.normalise(batch))
        return shown, self.value.element_map(evidence)[0].float().cpu().numpy()
