"""Detectors of Hugging Face's transformers that answer with the boxes of queries (DETR kinds)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segal.errors import SegalError

DETR = {
    "d_fine": "DFineForObjectDetection",
    "rf_detr": "RfDetrForObjectDetection",
    "rt_detr": "RTDetrForObjectDetection",
    "rt_detr_v2": "RTDetrV2ForObjectDetection",
}
"""Classes that ask their classes by sigmoids, by the `model_type` of their configuration."""

SIZE, THRESHOLD = "size", "score_thresh"
"""Options beside a configuration's: (height, width) of the input, and what boxes score at least."""

_USUAL, _LEAST, _LARGEST = 640, 0.05, 4096


class DetrNetwork(nn.Module):
    """A detector of transformers, which is given images of any size.

    Args:
        model: Of one of the classes above.
        size: (height, width) that every image is resized to, with antialiasing, as its library's
            processor does; the image's shape is not kept.
        score_thresh: Least score of a box, in [0, 1].
    """

    def __init__(self, model: nn.Module, size: Sequence[int], score_thresh: float) -> None:
        super().__init__()
        self.model, self.size, self.score_thresh = model, tuple(size), score_thresh

    def forward(
        self, images: Tensor | Sequence[Tensor], labels: list[dict[str, Tensor]] | None = None
    ) -> Any:
        """What the library returns.

        Args:
            images: (3, H, W) each, normalised.
            labels: As the library takes them, for losses.
        """
        resized = [
            F.interpolate(
                image[None], self.size, mode="bilinear", align_corners=False, antialias=True
            )
            for image in images
        ]
        return self.model(pixel_values=torch.cat(resized), labels=labels)

    @property
    def class_layer(self) -> nn.Module:
        """The layer that makes the logits of the last decoder layer's queries."""
        if self.model.config.model_type == "rf_detr":  # type: ignore[union-attr]
            return self.model.get_submodule("class_embed")
        layers = self.model.get_submodule("model.decoder.class_embed")
        return layers[-1]  # type: ignore[index,no-any-return]


def take_options(
    given: dict[str, Any], config: Mapping[str, Any], processor: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of a detector's own, taken out of those given.

    Args:
        given: By name; it is changed.
        config: Of the network.
        processor: What its folder says of how images are fed; empty for nothing.

    Returns:
        `size` and `score_thresh`.

    Raises:
        SegalError: For a size or a threshold that cannot be used.
    """
    size = given.pop(SIZE, None) or _size_of(processor) or _size_of(config)
    size = [size, size] if isinstance(size, int) else size or [_USUAL, _USUAL]
    if (
        not isinstance(size, list | tuple)
        or len(size) != 2
        or not all(isinstance(side, int) and 1 <= side <= _LARGEST for side in size)
    ):
        raise SegalError(
            "model.options.size: cannot be used",
            expected=f"[height, width] of the network's input, 1 to {_LARGEST} pixels",
            got=repr(size)[:100],
            remedy="give for example [640, 640]",
        )
    least = given.pop(THRESHOLD, _LEAST)
    if isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least < 1:
        raise SegalError(
            "model.options.score_thresh: cannot be used",
            expected="0 to less than 1",
            got=repr(least)[:100],
            remedy=f"leave it out for {_LEAST}",
        )
    return {SIZE: [int(side) for side in size], THRESHOLD: float(least)}


def _size_of(values: Mapping[str, Any]) -> Any:
    """The size that a processor resizes to, or that a configuration's backbone was made for."""
    size = values.get("size")
    if isinstance(size, Mapping):
        return [size["height"], size["width"]] if {"height", "width"} <= set(size) else None
    inner = values.get("backbone_config")
    side = inner.get("image_size") if isinstance(inner, Mapping) else None
    return list(side) if isinstance(side, list | tuple) else side
