"""What networks return: their logits, in whatever form they come.

Taken are a tensor; a tuple or list, of which the first one with an output per class counts (the
others are such as the logits of auxiliary heads, or features); and a dictionary, dataclass or named
tuple with `logits` (as those of transformers have) or `out` (torchvision).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segal.errors import SegalError

NAMES = ("logits", "out")
"""Of the logits, in what has names; the first that is there counts."""
_ROUNDING = 4e-3  # of numbers from 0 to 1 in bfloat16


@dataclass(frozen=True)
class Predicted:
    """What a callable gave.

    Attributes:
        logits: (B, K, h, w).
        features: (B, D, h', w'); None where it gave none.
    """

    logits: Tensor
    features: Tensor | None


def logits_of(output: object, num_classes: int, architecture: str, dims: int = 4) -> Tensor:
    """The logits as the network made them.

    Args:
        output: What the network returned.
        num_classes: C.
        architecture: For messages.
        dims: Of the logits: 4, or 2 for those of whole images, without the h and w below.

    Returns:
        (B, C, h, w), or (B, 1, h, w) where C is 2: the logit of the second class against the first
        (see `as_classes`).

    Raises:
        SegalError: If there are none, or they are of another number of classes.
    """
    found = named_logits(output) if not isinstance(output, Tensor | list | tuple) else output
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        found = named_logits(output)
    if isinstance(found, list | tuple) and not isinstance(output, Tensor):
        maps = [x for x in found if isinstance(x, Tensor) and x.ndim == dims]
        # Of two classes, a map with both is the logits, not one of a single channel beside it.
        fitting = [x for x in maps if x.shape[1] == num_classes]
        fitting += [x for x in maps if _fits(x, num_classes)]
        found = next(iter(fitting or maps), None)
    shape = "(B, C, h, w)" if dims == 4 else "(B, C)"
    if not isinstance(found, Tensor) or found.ndim != dims or not found.is_floating_point():
        raise SegalError(
            f"{architecture}: no logits in what the network returns",
            expected=f"a tensor {shape}; a tuple or list with one; or a dictionary, dataclass "
            f"or named tuple with one as {' or '.join(map(repr, NAMES))}",
            got=shown(output if not isinstance(found, Tensor) else found),
            remedy="wrap the network so that it returns its logits (docs/networks.md shows how)",
        )
    if not _fits(found, num_classes):
        one = " (or one, the logit of the second class against the first)" * (num_classes == 2)
        raise SegalError(
            f"{architecture}: {found.shape[1]} outputs for {num_classes} classes",
            expected=f"logits of {num_classes} channels, one per class{one}",
            got=f"{found.shape[1]} channels",
            remedy="give the number of classes that the network was built for",
        )
    return found


def as_classes(logits: Tensor, num_classes: int) -> Tensor:
    """(B, C, ...) logits from what `logits_of` gave.

    A network with one output z for two classes, whose second class has the probability sigmoid(z),
    is one with the logits (0, z): softmax(0, z) is the same pair of probabilities, and the
    cross-entropy is the binary one.
    """
    if logits.shape[1] == num_classes:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], 1)


class TwoClasses(nn.Module):
    """`as_classes` for one output, as a layer."""

    def forward(self, logits: Tensor) -> Tensor:
        """(B, 2, h, w) from (B, 1, h, w)."""
        return as_classes(logits, 2)


class EachClass(nn.Module):
    """Logits of no and yes for each class by itself: every class is an element of two classes.

    A class with the logit z has the probability sigmoid(z), which is the second of softmax(0, z).
    """

    def forward(self, logits: Tensor) -> Tensor:
        """(B, 2, C, 1) from (B, C) or (B, C, 1, 1); raises a ValueError for larger maps."""
        if any(side != 1 for side in logits.shape[2:]):
            raise ValueError(f"expected a map of one cell, got {tuple(logits.shape[2:])}")
        yes = logits.flatten(1)
        return torch.stack([torch.zeros_like(yes), yes], 1)[..., None]


def refuse_probabilities(
    logits: Tensor, architecture: str, *, each: bool = False, sigmoids: Sequence[Tensor] = ()
) -> None:
    """Raises a SegalError if what should be logits are probabilities.

    A softmax of probabilities is nearly uniform: every score would be wrong, and no number would
    look it. Of several outputs it is seen by their sum, of one by what made it.

    Args:
        logits: (B, K, ...), as the network made them; of one output, or `each`, with its graph.
        architecture: For messages.
        each: Whether every output is asked by itself, as one is.
        sigmoids: What sigmoids gave on the way, where there is no graph.
    """
    inside = bool((logits >= 0).all() and (logits <= 1).all())
    together = logits.shape[1] > 1 and not each
    if together:
        sums = logits.detach().double().sum(1)
        made = inside and bool(((sums - 1).abs() < 1e-3).all())
    else:
        made = inside and (_ends_in_sigmoid(logits) or any(_same(x, logits) for x in sigmoids))
    if made:
        raise SegalError(
            f"{architecture}: its outputs are probabilities",
            expected="logits, which softmax (for one output, sigmoid) makes probabilities of",
            got="values from 0 to 1"
            + (" that sum to 1 over the classes" if together else " from a sigmoid"),
            remedy="leave the last softmax or sigmoid out, or return the logarithm of its "
            "probabilities (of one output p, log p - log(1 - p))",
        )


def _same(values: Tensor, logits: Tensor) -> bool:
    """Whether two tensors hold the same numbers, whatever their shapes and precision."""
    one, other = values.flatten(), logits.flatten()
    return one.shape == other.shape and torch.allclose(one.to(other), other, rtol=0, atol=_ROUNDING)


def _ends_in_sigmoid(logits: Tensor) -> bool:
    node = logits.grad_fn
    for _ in range(8):  # upsampling, a crop and a change of shape may come after it
        if node is None or "Sigmoid" in node.name():
            break
        after = ("Upsample", "Slice", "View", "Clone", "Copies", "ToCopy", "Unsqueeze")
        if not any(kind in node.name() for kind in after) or not node.next_functions:
            return False
        node = node.next_functions[0][0]
    return node is not None and "Sigmoid" in node.name() and "LogSigmoid" not in node.name()


def _fits(logits: Tensor, num_classes: int) -> bool:
    return logits.shape[1] == num_classes or (num_classes == 2 and logits.shape[1] == 1)


def named_logits(output: object) -> object:
    """What has one of `NAMES` in a mapping or an object; None for nothing."""
    for name in NAMES:
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if found is not None:
            return found
    return None


def shown(output: object) -> str:
    """An object's type and what is in it, in a line."""
    kind = type(output).__name__
    if isinstance(output, Tensor):
        return f"a tensor of {output.dtype} and shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"{kind} with the keys {', '.join(map(repr, output)) or 'none'}"[:300]
    names = getattr(output, "_fields", None) or getattr(output, "__dataclass_fields__", None)
    if names:
        return f"{kind} with the fields {', '.join(names)}"[:300]
    if isinstance(output, list | tuple):
        return f"{kind} of {', '.join(shown(x) for x in output) or 'nothing'}"[:300]
    return kind
