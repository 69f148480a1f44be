"""Gradients of regions' losses in closed form, by the parameters of the last convolutions.

What is summed is brought to the head's resolution first, tile by tile (`segal.functional.tiles`).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segal.functional.directional import gated
from segal.functional.tiles import Windows

_CPU_CHUNK = 1 << 18  # numbers handled at a time; 1 MiB in float32
_GPU_CHUNK = 1 << 26


def entropy_residual(probabilities: Tensor) -> Tensor:
    """Gradient of the entropy H of a softmax by its logits, `-p * (log p + H)`.

    Args:
        probabilities: p, (..., C, H, W) of any floating dtype; 0 is allowed.

    Returns:
        Of the same shape; sums to zero over the classes.
    """
    log = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log_()
    negative_entropy = (probabilities * log).sum(-3, keepdim=True)
    return log.sub_(negative_entropy).mul_(probabilities).neg_()


def chunk_size(numbers: int, device: torch.device) -> int:
    """How many things of so many numbers each to handle at a time, at least 1."""
    return max(1, (_CPU_CHUNK if device.type == "cpu" else _GPU_CHUNK) // max(1, numbers))


class Kernel(NamedTuple):
    """Geometry of a convolution, zeros padded, as of `torch.nn.Conv2d` with one group.

    Attributes:
        size: (rows, columns).
        stride: Likewise.
        padding: Likewise, or `same` or `valid`.
        dilation: Likewise.
    """

    size: tuple[int, ...] = (1, 1)
    stride: tuple[int, ...] = (1, 1)
    padding: str | tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)

    @property
    def cells(self) -> int:
        """Number of cells that an output depends on."""
        return self.size[0] * self.size[1]

    @property
    def pointwise(self) -> bool:
        """Whether every output depends on the one input at its own place."""
        return self.size == (1, 1) and self.stride == (1, 1) and not any(self.margins)

    def output(self, height: int, width: int) -> tuple[int, int]:
        """(h', w') of its output for an input of (height, width)."""
        left, right, top, bottom = self.margins
        rows, columns = (
            (side - dilation * (size - 1) - 1) // stride + 1
            for side, dilation, size, stride in zip(
                (height + top + bottom, width + left + right),
                self.dilation,
                self.size,
                self.stride,
                strict=True,
            )
        )
        return rows, columns

    @property
    def margins(self) -> tuple[int, int, int, int]:
        """Zeros that are padded left, right, top and bottom."""
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.size, strict=True)]
        if self.padding == "same":
            return reach[1] // 2, -(-reach[1] // 2), reach[0] // 2, -(-reach[0] // 2)
        rows, columns = (0, 0) if isinstance(self.padding, str) else self.padding
        return columns, columns, rows, rows


def cut_patches(view: Windows, padded: Tensor, first: int, last: int, kernel: Kernel) -> Tensor:
    """The head's inputs at every cell of some tiles' windows.

    Args:
        view: The windows, on the head's output.
        padded: (D, h, w), the head's input with the zeros of `kernel.margins` around it.
        first: Position of the first tile.
        last: One beyond the last.
        kernel: Of the head.

    Returns:
        (last - first, D * kernel cells, cells of a window): what a convolution multiplies with its
        weight, flattened.
    """
    if kernel.pointwise:
        return view.cut(padded, first, last)
    (down, right), (dilation, across) = kernel.stride, kernel.dilation
    height = (view.shape[0] - 1) * down + dilation * (kernel.size[0] - 1) + 1
    width = (view.shape[1] - 1) * right + across * (kernel.size[1] - 1) + 1
    starts = zip(view.rows.starts[first:last], view.columns.starts[first:last], strict=True)
    patches = torch.stack(
        [
            padded[:, row * down : row * down + height, column * right : column * right + width]
            for row, column in starts
        ]
    )
    return F.unfold(patches, kernel.size, dilation=kernel.dilation, stride=kernel.stride)


def weight_gradients(by_output: Tensor, inputs: Tensor) -> Tensor:
    """Gradient of each tile's summed loss by the weight of a convolution.

    Args:
        by_output: (m, C, cells), the gradient by the convolution's output.
        inputs: (m, D, cells), what its weight is multiplied with.

    Returns:
        (m, C, D).
    """
    return torch.bmm(by_output, inputs.mT)


def through_head(
    by_logits: Tensor, head: Tensor, scale: Tensor | None, features: Tensor | None
) -> Tensor:
    """Gradient of each tile's summed loss by the output of the convolution before the head.

    `e = s * [f > 0] * W^T r`, with s the scale of the normalisation, f the output of the ReLU.

    Args:
        by_logits: (m, C, cells), r.
        head: (C, D), W.
        scale: (D,), s; None without a normalisation.
        features: (m, D, cells), f; None without a ReLU.

    Returns:
        (m, D, cells), whose product with the convolution's inputs is its weight's gradient.
    """
    through = torch.matmul((head if scale is None else head * scale).T, by_logits)
    return through if features is None else gated(through, features)
