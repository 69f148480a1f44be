"""What an image's boxes come to, class by class: without repetitions, and as prototypes."""

import torch
import torch.nn.functional as F
from torch import Tensor


def binary_entropy(p: Tensor) -> Tensor:
    """-p log p - (1 - p) log(1 - p) in nats, 0 at 0 and at 1.

    Args:
        p: (...) in [0, 1]; rounding beyond it is cut off.

    Returns:
        (...) float64, in [0, log 2].

    Example:
        >>> binary_entropy(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0000, 0.6931, 0.0000], dtype=torch.float64)
    """
    p = p.double().clamp(0, 1)
    entropy: Tensor = torch.special.entr(p) + torch.special.entr(1 - p)
    return entropy


def entropy_nms(entropy: Tensor, classes: Tensor, features: Tensor, threshold: float) -> Tensor:
    """Boxes of which none repeats another of its class, the most uncertain first (ENMS).

    Box after box in the order of entropy is kept, and those of its class whose features have a
    cosine similarity above the threshold with its own are left out (Wu et al., CVPR 2022, Algorithm
    of section 3.3).

    Args:
        entropy: (N,); of equals the first is kept.
        classes: (N,) int64.
        features: (N, D), any floating dtype; a vector of zeros is similar to none.
        threshold: Of the similarity, in [-1, 1].

    Returns:
        (k,) int64 indices, in the order in which they are kept.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.0]])
        >>> entropy, classes = torch.tensor([0.2, 0.6, 0.1, 0.3]), torch.tensor([0, 0, 0, 1])
        >>> entropy_nms(entropy, classes, features, 0.5)
        tensor([1, 3, 2])
    """
    unit = F.normalize(features.double(), dim=1)
    repeats = (unit @ unit.T > threshold) & (classes[:, None] == classes)
    left = torch.ones(len(classes), dtype=torch.bool, device=classes.device)
    kept = []
    for i in entropy.sort(descending=True, stable=True).indices.tolist():
        if left[i]:
            kept.append(i)
            left &= ~repeats[i]
    return torch.tensor(kept, dtype=torch.int64, device=classes.device)


def class_prototypes(features: Tensor, weights: Tensor, classes: Tensor, count: int) -> Tensor:
    """The weighted mean feature of the boxes of each class (Wu et al., CVPR 2022, section 3.4).

    Where the weights of a class's boxes are all 0 the mean is the plain one.

    Args:
        features: (N, D).
        weights: (N,) at least 0; DivProto's are entropies.
        classes: (N,) int64.
        count: The number of classes C.

    Returns:
        (C, D) float64; zeros for a class without a box.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> class_prototypes(features, torch.tensor([0.6, 0.2]), torch.tensor([1, 1]), 2)
        tensor([[0.0000, 0.0000],
                [0.7500, 0.2500]], dtype=torch.float64)
    """
    of_class = F.one_hot(classes, count).T.double()
    weighted = of_class * weights.double()
    weighted = torch.where(weighted.sum(1, keepdim=True) > 0, weighted, of_class)
    mass = weighted.sum(1, keepdim=True)
    return weighted @ features.double() / torch.where(mass > 0, mass, 1)


def class_maxima(scores: Tensor, classes: Tensor, count: int) -> Tensor:
    """The highest score of the boxes of each class.

    Args:
        scores: (N,) at least 0.
        classes: (N,) int64.
        count: The number of classes C.

    Returns:
        (C,) float64; 0 for a class without a box.

    Example:
        >>> class_maxima(torch.tensor([0.5, 0.25, 0.75]), torch.tensor([2, 0, 2]), 3)
        tensor([0.2500, 0.0000, 0.7500], dtype=torch.float64)
    """
    nothing = torch.zeros(count, dtype=torch.float64, device=scores.device)
    return nothing.scatter_reduce(0, classes, scores.double(), "amax")
