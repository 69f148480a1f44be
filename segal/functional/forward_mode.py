"""Forward-mode derivatives of functions that may hold attention.

The fused kernels of attention have no forward derivative (on a CPU), no batching rule for
`torch.func.vmap` and no second derivative; the plain sequence of products has all of them.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

Tree = Any
"""A tensor, or a dictionary of tensors."""


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention by plain products, and modules of attention by their plain layers, within it."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            # Forward mode of some layers is loaded when first used, and warns of torch's own future
            warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def jvp(function: Callable[[Tree], Tree], at: Tree, along: Tree) -> tuple[Tree, Tree]:
    """Value of a function, and its derivative along a direction.

    In one forward-mode pass; where an operation has no forward derivative (such as one that a
    package brings), by two backward passes: the derivative of v^T J by v is J^T.

    Args:
        function: Of a tensor, or of a dictionary of tensors.
        at: Where the derivative is taken.
        along: Of the same names, shapes and dtypes.

    Returns:
        Both of the form of the function's value.
    """
    with plain_attention():
        try:
            value, tangent = torch.func.jvp(function, (at,), (along,))
        except (NotImplementedError, RuntimeError) as error:
            if "forward AD" not in str(error) and "forward mode" not in str(error):
                raise
            value, tangent = _by_two_backward_passes(function, at, along)
    return value, tangent


def _by_two_backward_passes(
    function: Callable[[Tree], Tree], at: Tree, along: Tree
) -> tuple[Tree, Tree]:
    with torch.enable_grad():
        value = torch.utils._pytree.tree_map(torch.Tensor.detach, function(at))
        zeros = torch.utils._pytree.tree_map(torch.zeros_like, value)
        transposed = torch.func.vjp(lambda u: torch.func.vjp(function, at)[1](u)[0], zeros)[1]
        (tangent,) = transposed(along)
    return value, torch.utils._pytree.tree_map(torch.Tensor.detach, tangent)
