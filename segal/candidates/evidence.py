"""What one forward pass leaves behind for a batch, and what can be pooled from it.

These are the two types that the whole scan turns on. They know no network, no task and no strategy,
so that every floor above can name them.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.candidates.kept import Images

Reduction = Literal["mean", "sum", "max"]


@dataclass(frozen=True)
class Upsampling:
    """How a low-resolution map is spread over pixels: bilinear interpolation to the padded image.

    Attributes:
        size: (height, width) of the padded image, in pixels, that the map is interpolated to.
            The image itself is its top left part.
        align_corners: As in `torch.nn.functional.interpolate`.
    """

    size: tuple[int, int]
    align_corners: bool


class Spread(Protocol):
    """Logits of a large image, that are not held at full resolution."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        ...

    def whole(self) -> Tensor:
        """(B, C, H, W)."""
        ...

    def bands(self) -> Iterator[Tensor]:
        """(B, C, rows, W) from the top to the bottom, one after another."""
        ...

    def __getitem__(self, images: list[int]) -> "Spread":
        """Those of some of the batch's images."""
        ...


class Evidence:
    """A batch's forward pass; nothing of it outlives the batch.

    Args:
        logits: As the attribute, or what they are made of when they are asked for.

    Attributes:
        features: (B, D, h, w), the input of the last layer at its own resolution; None where no
            signal asks for it.
        upsampling: How `features` are spread over the image's pixels.
        tail_input: What the tail takes as its input, by the tail's name; filled only when a signal
            asks for it.
        inputs: (B, 3, H, W) images as the network was given them, normalised, or what a frozen
            part left of them; None where nobody asks for a further pass.
        images: Paths of the batch's images, relative to the pool's root.
        maps: (B, D, h, w) feature maps of several depths, each spread over pixels as `features`
            are; filled only when a signal asks for them.
    """

    def __init__(
        self,
        logits: Tensor | Spread,
        features: Tensor | None,
        upsampling: Upsampling,
        tail_input: dict[str, Tensor] | None = None,
        inputs: Images | None = None,
        images: tuple[str, ...] = (),
        maps: tuple[Tensor, ...] = (),
    ) -> None:
        self._logits = logits
        self.features, self.upsampling = features, upsampling
        self.tail_input = tail_input or {}
        self.inputs, self.images, self.maps = inputs, images, maps
        self._memo: dict[Hashable, Tensor] = {}

    @property
    def logits(self) -> Tensor:
        """(B, C, H, W) for segmentation: full resolution, cropped to the true image."""
        if not isinstance(self._logits, Tensor):
            self._logits = self._logits.whole()
        return self._logits

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of `logits`, of the image in elements; they need not be made for it."""
        if isinstance(self._logits, Tensor):
            return self._logits.shape[2], self._logits.shape[3]
        return self._logits.size

    def map_pixels(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Applies a function of every pixel's logits; those of a large image are never held whole.

        Args:
            function: Maps (B, C, h, W) logits to (B, h, W), each pixel by itself.

        Returns:
            (B, H, W).
        """
        if isinstance(self._logits, Tensor):
            return function(self._logits)
        done, mapped = 0, torch.empty(0)
        for band in self._logits.bands():
            part = function(band)
            if not done:  # in one piece, since small ones in between would scatter the memory
                mapped = part.new_empty(len(part), self._logits.size[0], part.shape[2])
            mapped[:, done : done + part.shape[1]] = part
            done += part.shape[1]
        return mapped

    def finite(self) -> list[bool]:
        """Whether the logits of each of the B images are all finite."""
        return self.logits.flatten(1).isfinite().all(1).tolist()

    @property
    def caught(self) -> Tensor:
        """The features, for signals that asked for them.

        Raises:
            ValueError: If nobody asked.
        """
        if self.features is None:
            raise ValueError("evidence: expected features, which the meter's catch asks for")
        return self.features

    def once(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """Returns `compute()`, run at most once per batch for a key.

        Several region sizes and several signals share a pixel map this way.

        Args:
            key: What is computed.
            compute: Gives (B, ...): what is computed of each image.
        """
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]

    def of(self, images: list[int]) -> "Evidence":
        """What a pass left behind for some of the batch's images.

        Args:
            images: Their positions in the batch, rising.
        """
        return self if len(images) == len(self.images) else _Part(self, images)


class _Part(Evidence):
    """Of some images of a batch, of which what the batch has computed is not computed again."""

    def __init__(self, whole: Evidence, rows: list[int]) -> None:
        super().__init__(
            whole._logits[rows],
            None if whole.features is None else whole.features[rows],
            whole.upsampling,
            {name: one[rows] for name, one in whole.tail_input.items()},
            None if whole.inputs is None else whole.inputs[rows],
            tuple(whole.images[row] for row in rows),
            tuple(one[rows] for one in whole.maps),
        )
        self._whole, self._rows = whole, rows

    def once(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """See `Evidence.once`."""
        if key not in self._memo and key in self._whole._memo:
            self._memo[key] = self._whole._memo[key][self._rows]
        return super().once(key, compute)


class Units(Protocol):
    """What is scored: the regions of an image, or the image itself. A batch shares its units."""

    @property
    def excluded(self) -> tuple[tuple[int, int, int, int], ...]:
        """Boxes of the image, which do not overlap, that no unit is measured on."""
        ...

    def __len__(self) -> int:
        """Number of units in one image."""
        ...

    def boxes(self) -> NDArray[np.int32]:
        """(units, 4) half-open boxes (x0, y0, x1, y1) in pixels of the original image."""
        ...

    def pool(
        self, element_map: Tensor, upsampling: Upsampling | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sums a map over each unit.

        Args:
            element_map: (B, D, h, w), any floating dtype.
            upsampling: How the map is spread over pixels; None for a map that is at pixel
                resolution already.

        Returns:
            Sums (B, units, D) and weights (units,), both float64; the mean is their ratio.
        """
        ...

    def pool_max(self, element_map: Tensor) -> Tensor:
        """Largest value in each unit of a (B, D, H, W) map at pixel resolution: (B, units, D)."""
        ...
