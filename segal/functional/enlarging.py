"""Maps brought to the size of an image."""

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation to at least the maps' own size, pixels' corners not aligned.

    As `torch.nn.functional.interpolate`. Where gradients are switched off, OpenCV does it on the
    processor: the same numbers but for the rounding of float32, several times faster. Transforms
    of `torch.func` need gradients to be on.

    Args:
        maps: (B, D, h, w) floating.
        size: (H, W) of the result, H >= h and W >= w.

    Returns:
        (B, D, H, W), contiguous.

    Example:
        >>> with torch.no_grad():
        ...     enlarge(torch.tensor([[[[0.0, 1.0]]]]), (1, 4))
        tensor([[[[0.0000, 0.2500, 0.7500, 1.0000]]]])
    """
    plain = maps.device.type == "cpu" and maps.dtype == torch.float32 and maps.numel()
    if torch.is_grad_enabled() or not plain:
        spread = F.interpolate(maps, size, mode="bilinear", align_corners=False)
        return spread.contiguous()
    large = maps.new_empty(*maps.shape[:2], *size)
    pairs = zip(maps.flatten(0, 1).numpy(), large.flatten(0, 1).numpy(), strict=True)
    for one, spread in pairs:
        cv2.resize(one, size[::-1], dst=spread, interpolation=cv2.INTER_LINEAR)
    return large
