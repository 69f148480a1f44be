"""Exact sums of maps over rectangles, also of maps that bilinear upsampling spreads over pixels.

Summing an upsampled map over a rectangle is linear in the map, and bilinear upsampling is
separable, so the weight of a cell is a product of two one-dimensional weights: the adjoint of the
upsampling, applied to the indicators of the rectangle's rows and of its columns. The sums of a
whole grid are then two small matrix products, and the upsampled map is never made.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def interpolation_matrix(cells: int, pixels: int, align_corners: bool) -> Tensor:
    """Matrix of one-dimensional linear interpolation, as `torch.nn.functional.interpolate` does it.

    Args:
        cells: Length of the low-resolution axis, at least 1.
        pixels: Length that it is interpolated to, at least 1.
        align_corners: Whether the first and last cell centres are the first and last pixel centres.

    Returns:
        (pixels, cells) float64; every row sums to one.

    Examples:
        >>> interpolation_matrix(2, 3, align_corners=True)
        tensor([[1.0000, 0.0000],
                [0.5000, 0.5000],
                [0.0000, 1.0000]], dtype=torch.float64)
    """
    if cells < 1 or pixels < 1:
        raise ValueError(f"interpolation: expected lengths of at least 1, got {cells} and {pixels}")
    q = torch.arange(pixels, dtype=torch.float64)
    if align_corners:
        source = q * ((cells - 1) / (pixels - 1)) if pixels > 1 else q * 0.0
    else:
        source = ((q + 0.5) * (cells / pixels) - 0.5).clamp_(min=0.0)
    low = source.floor().long().clamp_(max=cells - 1)
    high = (low + 1).clamp_(max=cells - 1)
    fraction = source - low
    matrix = torch.zeros(pixels, cells, dtype=torch.float64)
    rows = torch.arange(pixels)
    matrix.index_put_((rows, low), 1.0 - fraction, accumulate=True)
    matrix.index_put_((rows, high), fraction, accumulate=True)
    return matrix


def at_pixels(
    values: Tensor, y: Tensor, x: Tensor, size: tuple[int, int], align_corners: bool
) -> Tensor:
    """A map that is spread over an image by bilinear interpolation, at some pixels of it.

    Args:
        values: (D, h, w).
        y: (n,) int64 rows of the image.
        x: (n,) int64 columns.
        size: (H, W) that the map is spread to.
        align_corners: As in `torch.nn.functional.interpolate`.

    Returns:
        (n, D) float64.

    Example:
        >>> one, middle = torch.tensor([[[0.0, 2.0]]]), torch.tensor([1])
        >>> at_pixels(one, torch.tensor([0]), middle, (1, 3), align_corners=True)
        tensor([[1.]], dtype=torch.float64)
    """
    rows = _neighbours(values.shape[1], y, size[0], align_corners)
    columns = _neighbours(values.shape[2], x, size[1], align_corners)
    spread = torch.zeros(len(y), values.shape[0], dtype=torch.float64, device=values.device)
    cells = values.permute(1, 2, 0)
    for row, row_weight in zip(*rows, strict=True):
        for column, column_weight in zip(*columns, strict=True):
            weight = (row_weight * column_weight).to(values.device)
            spread.addcmul_(weight[:, None], cells[row, column].double())
    return spread


def _neighbours(
    cells: int, pixels: Tensor, count: int, align_corners: bool
) -> tuple[Tensor, Tensor]:
    """(k, n) cells that some pixels lie between, k one or two, and the weight of each."""
    of_pixels = interpolation_matrix(cells, count, align_corners)[pixels.cpu()].double()
    weights, index = of_pixels.topk(min(2, cells), dim=1)
    return index.T, weights.T


def interval_weights(
    intervals: Sequence[tuple[int, int]],
    cells: int,
    pixels: int | None = None,
    align_corners: bool = True,
) -> Tensor:
    """Weight of each cell in the sum over each half-open interval of pixels.

    Args:
        intervals: (start, stop) pairs, 0 <= start < stop <= the number of pixels.
        cells: Length of the map's axis.
        pixels: Length that the map is interpolated to; None when its cells are the pixels.
        align_corners: As in `interpolation_matrix`.

    Returns:
        (intervals, cells) float64; row i sums to the length of interval i.

    Examples:
        >>> interval_weights([(0, 2), (2, 3)], cells=2, pixels=3)
        tensor([[1.5000, 0.5000],
                [0.0000, 1.0000]], dtype=torch.float64)
    """
    length = cells if pixels is None else pixels
    for start, stop in intervals:
        if not 0 <= start < stop <= length:
            raise ValueError(
                f"interval: expected 0 <= start < stop <= {length}, got ({start}, {stop})"
            )
    if pixels is None:
        weights = torch.zeros(len(intervals), cells, dtype=torch.float64)
        for row, (start, stop) in enumerate(intervals):
            weights[row, start:stop] = 1.0
        return weights
    matrix = interpolation_matrix(cells, pixels, align_corners)
    return torch.stack([matrix[start:stop].sum(0) for start, stop in intervals])


def _sum_columns(x: Tensor, columns: Tensor) -> Tensor:
    """(B, D, h, w) maps and (n, w) weights to (B, D, h, n) float64."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    # Mixed precision would take the product in half precision again, where sums overflow.
    with torch.autocast(x.device.type, enabled=False):
        if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
            rows = wide.permute(0, 2, 3, 1)  # which the product would copy, as it lies
            return (columns.to(wide) @ rows).permute(0, 3, 1, 2).double()
        return (wide @ columns.to(wide).T).double()


def pool_grid(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Sums of a map over every cell of a grid of rectangles.

    Args:
        x: (B, D, h, w) map. The first product runs in its dtype, in float32 for a half precision
            map; the second in float64.
        rows: (n_y, h) weights of `interval_weights`.
        columns: (n_x, w) weights of `interval_weights`.

    Returns:
        (B, n_y * n_x, D) float64, rectangles in row-major order.

    Examples:
        >>> import torch
        >>> halves = interval_weights([(0, 2), (2, 4)], cells=4)
        >>> pool_grid(torch.arange(16.0).view(1, 1, 4, 4), halves, halves)[0, :, 0]
        tensor([10., 18., 42., 50.], dtype=torch.float64)
    """
    narrow = _sum_columns(x, columns)
    sums = torch.einsum("yh,bdhx->byxd", rows.to(narrow), narrow)
    return sums.flatten(1, 2)


def pool_boxes(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Sums of a map over rectangles that form no grid.

    Args:
        x: (B, D, h, w) map; as in `pool_grid`.
        rows: (n, h) weights of the rectangles' rows.
        columns: (n, w) weights of the rectangles' columns.

    Returns:
        (B, n, D) float64.

    Examples:
        >>> import torch
        >>> rows, columns = (interval_weights([interval], cells=4) for interval in [(0, 1), (1, 4)])
        >>> pool_boxes(torch.arange(16.0).view(1, 1, 4, 4), rows, columns)[0, :, 0]
        tensor([6.], dtype=torch.float64)
    """
    narrow = _sum_columns(x, columns)
    return torch.einsum("nh,bdhn->bnd", rows.to(narrow), narrow)
