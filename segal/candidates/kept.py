"""What the frozen part of a network left of images, which stands for them from there on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

INPUT = "the input"
"""The name of the cut before a network's first layer; no module can have it."""


@dataclass(frozen=True, eq=False)
class Kept:
    """A batch of images of one size, as the frozen part of a network left them.

    It goes through `Model.normalise` and `Model.forward` in the place of images.

    Attributes:
        layers: Name of the cut that the frozen part lies before.
        maps: What the layers after the cut take: (B, D, h, w) or (B, D) each, float32. Before the
            network's input these are images that were read at a fraction of their size, and
            `Model.normalise` makes the input of them: (B, h, w, channels).
        size: (H, W) of the images, in pixels.
    """

    layers: str
    maps: tuple[Tensor, ...]
    size: tuple[int, int]

    @classmethod
    def stack(cls, parts: Sequence["Kept"]) -> "Kept":
        """Batches of images of one size as one batch."""
        first = parts[0]
        if len(parts) == 1:
            return first
        columns = zip(*(part.maps for part in parts), strict=True)
        return replace(first, maps=tuple(torch.cat(column) for column in columns))

    def __len__(self) -> int:
        return len(self.maps[0])

    def __getitem__(self, rows: slice | list[int]) -> "Kept":
        """Some of the images."""
        return replace(self, maps=tuple(part[rows] for part in self.maps))

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Kept":
        """On another device."""
        moved = (part.to(device, non_blocking=non_blocking) for part in self.maps)
        return replace(self, maps=tuple(moved))

    def pin_memory(self) -> "Kept":
        """In memory that a GPU can fetch from while it computes."""
        return replace(self, maps=tuple(part.pin_memory() for part in self.maps))

    @property
    def shape(self) -> torch.Size:
        """(B, numbers of an image, H, W)."""
        numbers = sum(part[0].numel() for part in self.maps)
        return torch.Size((len(self), numbers, *self.size))

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.maps[0].device


Images = Tensor | Kept
"""A batch of images, or what stands for it."""
