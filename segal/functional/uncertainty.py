"""Uncertainty of every element from its logits; higher means less certain (METHODS.md, section 1).

All functions take logits (B, C, ...) of any floating dtype and return (B, ...), float32 for half
and single precision logits and float64 for double. A NaN among the logits gives NaN. No
probabilities of the whole map are ever held: the work goes in chunks that stay in the cache.
"""

from collections.abc import Callable

import torch
from torch import Tensor

UncertaintyFunction = Callable[[Tensor], Tensor]

_CPU_CHUNK = 1 << 15  # elements of all images; with 19 classes in float32 2.4 MB


def _chunked(compute: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Applies a (B, C, n) -> (B, n) function to chunks of the flattened elements."""
    if logits.ndim < 2 or logits.shape[1] < 2:
        raise ValueError(
            f"logits: expected (B, C, ...) with C >= 2 classes, got {tuple(logits.shape)}"
        )
    dtype = torch.promote_types(logits.dtype, torch.float32)
    if logits.ndim == 2:
        return compute(logits.to(dtype)[:, :, None])[:, 0]
    flat = logits.flatten(2)
    n = flat.shape[2]
    step = n if logits.is_cuda else _CPU_CHUNK // max(1, len(flat))
    out = torch.empty(flat.shape[0], n, dtype=dtype, device=logits.device)
    for start in range(0, n, max(step, 1)):
        part = flat[:, :, start : start + step].to(dtype)
        out[:, start : start + step] = compute(part)
    return out.view(logits.shape[0], *logits.shape[2:])


def _shifted_exp(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits minus their maximum, the exponentials of those, and what the others sum up to.

    The others are all but the first of the largest, whose exponential is 1. Their sum keeps its
    digits where it is far below 1: taken from the sum of all it would lose them.
    """
    shifted = z - z.amax(1, keepdim=True)
    # A logit of minus infinity has probability 0 and must not make 0 * inf in the entropy.
    shifted.clamp_(min=torch.finfo(z.dtype).min)
    exponentials = shifted.exp()
    return shifted, exponentials, _sum_below(exponentials)


def _sum_below(values: Tensor) -> Tensor:
    """Sum over classes of all but the largest: what is smaller of each new one and that so far."""
    largest, below = values[:, 0], torch.zeros_like(values[:, 0])
    for c in range(1, values.shape[1]):
        below += torch.minimum(largest, values[:, c])
        largest = torch.maximum(largest, values[:, c])
    return below


def _top_two(z: Tensor) -> tuple[Tensor, Tensor]:
    """Largest and second largest logit: a running pair is much faster than `topk` over classes."""
    first = torch.maximum(z[:, 0], z[:, 1])
    second = torch.minimum(z[:, 0], z[:, 1])
    for c in range(2, z.shape[1]):
        second = torch.maximum(second, torch.minimum(first, z[:, c]))
        first = torch.maximum(first, z[:, c])
    return first, second


def entropy(logits: Tensor) -> Tensor:
    """Entropy -sum p log p of the softmax, in nats, in [0, log C] (UWE, eq. 5).

    Examples:
        >>> import torch
        >>> entropy(torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]))
        tensor([1.0986, 0.0025])
    """

    def compute(z: Tensor) -> Tensor:
        shifted, exponentials, others = _shifted_exp(z)
        return others.log1p() - (exponentials * shifted).sum(1) / (1.0 + others)

    return _chunked(compute, logits)


def least_confidence(logits: Tensor) -> Tensor:
    """1 - p_1, in [0, 1 - 1/C].

    Examples:
        >>> import torch
        >>> least_confidence(torch.tensor([[0.5, 0.3, 0.2]]).log())
        tensor([0.5000])
    """

    def compute(z: Tensor) -> Tensor:
        others = _shifted_exp(z)[2]
        return others / (1.0 + others)

    return _chunked(compute, logits)


def margin(logits: Tensor) -> Tensor:
    """1 - (p_1 - p_2), in [0, 1].

    Examples:
        >>> import torch
        >>> margin(torch.tensor([[0.5, 0.3, 0.2]]).log())
        tensor([0.8000])
    """

    def compute(z: Tensor) -> Tensor:
        first, second = _top_two(z)
        others = _shifted_exp(z)[2]
        return (others + (second - first).exp()) / (1.0 + others)

    return _chunked(compute, logits)


def bvsb(logits: Tensor) -> Tensor:
    """Best versus second best, the ratio p_2 / p_1, in [0, 1] (UWE, eq. 8).

    Examples:
        >>> import torch
        >>> bvsb(torch.tensor([[0.5, 0.3, 0.2]]).log())
        tensor([0.6000])
    """

    def compute(z: Tensor) -> Tensor:
        first, second = _top_two(z)
        return (second - first).exp()

    return _chunked(compute, logits)
