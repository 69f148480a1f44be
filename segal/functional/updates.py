"""What a few steps of gradient descent on one region do to other pixels, exactly.

The last layers of a network are a function of their input, a map of cells, and of their
parameters. A pixel's logits are an interpolation of the layers' outputs at two cells along each
axis, and an output depends on the cells within a radius. So if that is small, a region's loss, and
a pixel's, need a window of cells only, which may be cut out of the whole map without any error: a
cut lies further from what is used than the radius, and where the window ends with the map, the
layers' own padding is right. Windows of one size are what `torch.func.vmap` can run over.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
Loss = Callable[[Mapping[str, Tensor]], Tensor]

_STRIP = 3 << 15  # numbers that steps by hand work on at a time: they stay in the cache
_NEAR = 600.0  # exp(-600) is well above the smallest number in double precision
_REACH = 8  # cells; for a function that reaches further, windows are no use


def receptive_radius(function: Function, channels: int, like: Tensor) -> int | None:
    """How far an output of a function of maps may lie from a cell that it depends on.

    A cell that is not a number is followed through the function, so that nothing needs to be known
    of its layers.

    Args:
        function: Maps (1, channels, h, w) to (1, C, h, w).
        channels: Of its input.
        like: A tensor of the dtype and device that it takes.

    Returns:
        A distance in cells along either axis; None where it is more than 8, or where the output has
        another height or width than the input.
    """
    side, centre = 2 * _REACH + 3, _REACH + 1
    cells = torch.zeros(1, channels, side, side, dtype=like.dtype, device=like.device)
    cells[..., centre, centre] = torch.nan
    output = function(cells)
    if tuple(output.shape[-2:]) != (side, side):
        return None
    reached = output.isnan().any(1)[0].nonzero()
    radius = int((reached - centre).abs().max()) if len(reached) else 0
    return radius if radius <= _REACH else None


def pixel_windows(matrix: Tensor, pixels: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """The cells along an axis that each pixel's logits depend on.

    Args:
        matrix: (pixels, cells) interpolation along the axis; no row has more than two weights, at
            neighbouring cells.
        pixels: (n,) int64 positions along the axis.
        radius: How far around them the outputs depend on cells.

    Returns:
        (n, s) int64 cells, s of them in a row, and (n, s) weights of the outputs there.
    """
    cells = matrix.shape[1]
    taps = int((matrix != 0).sum(1).max())
    size = min(taps + 2 * radius, cells)
    rows = matrix[pixels]
    first = (rows != 0).to(torch.uint8).argmax(1)
    start = (first - radius).clamp(0, cells - size)
    window = start[:, None] + torch.arange(size, device=matrix.device)
    return window, rows.gather(1, window)


def interval_windows(
    matrix: Tensor, intervals: Sequence[tuple[int, int]], radius: int
) -> tuple[list[int], Tensor]:
    """The cells along an axis that intervals of pixels depend on, in windows of one size.

    Args:
        matrix: (pixels, cells) as in `pixel_windows`.
        intervals: (start, stop) of pixels, half-open.
        radius: As in `pixel_windows`.

    Returns:
        The first cell of each interval's window, and (intervals, p, s) weights: what interpolates
        the s outputs of a window to the pixels of its interval, with rows of zeros after the last
        of them, up to the longest interval's p.
    """
    cells = matrix.shape[1]
    used = [(matrix[start:stop] != 0).any(0).nonzero()[:, 0] for start, stop in intervals]
    low = [max(int(u[0]) - radius, 0) for u in used]
    high = [min(int(u[-1]) + radius + 1, cells) for u in used]
    size = max(b - a for a, b in zip(low, high, strict=True))
    first = [min(a, cells - size) for a in low]
    longest = max(stop - start for start, stop in intervals)
    weights = matrix.new_zeros(len(intervals), longest, size)
    for i, (start, stop) in enumerate(intervals):
        weights[i, : stop - start] = matrix[start:stop, first[i] : first[i] + size]
    return first, weights


def region_loss(
    outputs: Tensor, rows: Tensor, columns: Tensor, labels: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of the cross-entropy over a rectangle of pixels.

    Args:
        outputs: (C, h, w) logits at the cells of a window.
        rows: (p, h) interpolation along y.
        columns: (q, w) interpolation along x.
        labels: (p, q) int64 classes.
        weights: (p, q); 0 for a pixel that is not of the region.

    Returns:
        A scalar.
    """
    logits = rows @ outputs @ columns.T
    log_p = logits.log_softmax(0).gather(0, labels[None])[0]
    return -(log_p * weights).sum()


def sgd_steps(
    loss: Loss, parameters: Mapping[str, Tensor], steps: int, lr: float
) -> dict[str, Tensor]:
    """Plain gradient descent: theta <- theta - lr * grad, `steps` times; for `torch.func.vmap`."""
    current = dict(parameters)
    gradient = torch.func.grad(loss)
    for _ in range(steps):
        slope = gradient(current)
        current = {name: value - lr * slope[name] for name, value in current.items()}
    return current


class Strip(NamedTuple):
    """A run of pixels along an axis: which, the cells they depend on, (pixels, cells) weights."""

    pixels: slice
    cells: slice
    matrix: Tensor


def column_strips(columns: Tensor, numbers: int) -> list[Strip]:
    """Cuts the pixels of an interval along x into runs that are worked on at a time.

    Args:
        columns: (q, w) interpolation along x.
        numbers: That a pixel of the interval stands for, in all classes and rows.
    """
    width = max(8, _STRIP // numbers)
    found = []
    for start in range(0, len(columns), width):
        part = columns[start : start + width]
        used = (part != 0).any(0).nonzero()[:, 0]
        cells = slice(int(used[0]), int(used[-1]) + 1)
        pixels = slice(start, start + len(part))
        found.append(Strip(pixels, cells, part[:, cells].contiguous()))
    return found


def linear_steps(
    features: Tensor,
    labels: Tensor,
    rows: Tensor,
    strips: Sequence[Strip],
    weight: Tensor,
    bias: Tensor | None,
    steps: int,
    lr: float,
) -> tuple[Tensor, Tensor | None]:
    """`sgd_steps` of one linear layer on the mean cross-entropy of a rectangle of pixels, by hand.

    The layer's outputs W f + b at cells are spread over the pixels, z = rows (W f + b) columns^T.
    The gradient by the outputs is rows^T r columns, r = (softmax(z) - labels) / pixels; that of the
    labels is the same in every step. Pixels are gone through in strips that stay in the cache.

    Args:
        features: (D, h, w), float64 as all that follows.
        labels: (p, q) int64 classes.
        rows: (p, h) interpolation along y.
        strips: Of the (q, w) interpolation along x, with C * p numbers a pixel.
        weight: (C, D).
        bias: (C,), if there is one.
        steps: How many.
        lr: Their size.

    Returns:
        The weight and the bias after them.

    Example:
        >>> one, label = torch.ones(1, 1, 1).double(), torch.tensor([[1]])
        >>> weight = torch.zeros(2, 1).double()
        >>> strips = column_strips(one[0], numbers=2)
        >>> linear_steps(one, label, one[0], strips, weight, None, steps=1, lr=1.0)[0]
        tensor([[-0.5000],
                [ 0.5000]], dtype=torch.float64)
    """
    classes, (height, width) = len(weight), labels.shape
    room = features.new_empty(classes * height * min(width, len(strips[0].matrix)))
    cells, back = features.flatten(1), rows.T.contiguous()

    def pulled_back(fill: Callable[[Strip, Tensor], object]) -> Tensor:
        """(C, h * w), by the outputs, of what each strip's (C, p, pixels) are filled with."""
        found = features.new_zeros(classes * height, features.shape[2])
        for strip in strips:
            part = room[: classes * height * len(strip.matrix)].view(classes, height, -1)
            fill(strip, part)
            found[:, strip.cells].addmm_(part.flatten(0, 1), strip.matrix)
        return torch.matmul(back, found.view(classes, height, -1)).flatten(1)

    def targets(strip: Strip, part: Tensor) -> None:
        part.zero_().scatter_(0, labels[None, :, strip.pixels], 1.0)

    of_labels = pulled_back(targets)
    for _ in range(steps):
        low = weight @ cells if bias is None else torch.addmm(bias[:, None], weight, cells)
        low -= low.max()
        # Then no exponential is out of range where the outputs lie near to each other.
        near = bool(low.min() > -_NEAR)
        spread = torch.matmul(rows, low.view(classes, *features.shape[1:])).flatten(0, 1)

        def probabilities(
            strip: Strip, part: Tensor, near: bool = near, spread: Tensor = spread
        ) -> None:
            torch.mm(spread[:, strip.cells], strip.matrix.T, out=part.flatten(0, 1))
            if not near:
                part -= part.amax(0)
            part.exp_()
            part *= part.sum(0).reciprocal_()

        residual = (pulled_back(probabilities) - of_labels).mul_(lr / labels.numel())
        weight = torch.addmm(weight, residual, cells.T, alpha=-1.0)
        bias = None if bias is None else bias - residual.sum(1)
    return weight, bias


def loss_change(before: Tensor, after: Tensor, labels: Tensor) -> Tensor:
    """How much the cross-entropy of each pixel rose, without the cancellation of a difference.

    With d_k the change of logit k less that of the label's, it is log sum_k p_k exp(d_k), p before.
    A difference of two losses would lose the change of a pixel that is nearly certain: its loss is
    0 in float32, and whether it rose would be left to rounding.

    Args:
        before: (n, C) logits.
        after: (..., n, C) logits.
        labels: (n,) int64 classes.

    Returns:
        (..., n), of the dtype of the logits.
    """
    log_p = before.log_softmax(-1)
    change = after - before
    index = labels[:, None].expand(*change.shape[:-1], 1)
    relative = change - change.gather(-1, index)
    rise = relative.expm1().mul_(log_p.exp()).sum(-1)
    rise_of_log = rise.log1p()
    large = ~(rise.abs() < 0.5)  # where the sum may overflow, or cancel; rare
    if large.any():
        rise_of_log[large] = (log_p + relative)[large].logsumexp(-1)
    return rise_of_log
