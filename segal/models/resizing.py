"""Resizing what a network is given."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["resized"]


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
        >>> resized(torch.arange(6.0).view(1, 1, 1, 6), (1, 2), (1, 5.0)).tolist()
        [[[[1.0555555820465088, 3.380952835083008]]]]
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
