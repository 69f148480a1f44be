"""Resizing what a network is given."""

import math

import torch.nn.functional as F
from torch import Tensor

__all__ = ["reduced_by", "resized"]


def reduced_by(whole: tuple[int, int], given: tuple[int, int]) -> int:
    """The side of the blocks of pixels that an image was read by: 1, 2, 4 or 8.

    Args:
        whole: (height, width) of the image as it is.
        given: As it was read; a block at its end may be of fewer pixels.

    Examples:
        >>> reduced_by((301, 417), (76, 105))
        4
    """
    return next(
        factor
        for factor in (1, 2, 4, 8)
        if tuple(math.ceil(side / factor) for side in whole) == given
    )


def resized(
    images: Tensor,
    size: tuple[int, int],
    shown: tuple[float, float],
    mode: str = "bilinear",
) -> Tensor:
    """Resizes images, with antialiasing.

    Args:
        images: (B, D, h, w).
        size: (H, W) of what comes out.
        shown: Height and width of what it shows, from the top left, in pixels of `images`; their
            last row and column may be shown in part.
        mode: As torch's `interpolate` takes it.

    Returns:
        (B, D, H, W).

    Examples:
        >>> import torch
        >>> resized(torch.arange(6.0).view(1, 1, 1, 6), (1, 2), (1, 5.0))
        tensor([[[[1.0000, 3.2400]]]])
    """
    given = (images.shape[-2], images.shape[-1])
    if shown == given == size:
        return images
    if shown == given:
        return F.interpolate(images, size, mode=mode, align_corners=False, antialias=True)
    # torch rounds the size down that a factor leads to, and the last pixel leads to more than that.
    factors = tuple(out / of * (1 + 1e-9) for out, of in zip(size, shown, strict=True))
    found = F.interpolate(
        images, scale_factor=factors, mode=mode, align_corners=False, antialias=True
    )
    return found[..., : size[0], : size[1]]
