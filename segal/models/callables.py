"""A function from a batch of images to logits as a network: for what segal cannot look into."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from segal.errors import SegalError
from segal.models.noise import NoHeadError
from segal.models.outputs import Predicted, named_logits, refuse_probabilities, shown

Predict = Callable[[Tensor], object]
"""From a batch of images to logits, or to logits and features: see `CallableNetwork`."""


class FunctionNetwork(nn.Module, ABC):
    """A function as a network without parameters, of any task."""

    @abstractmethod
    def look(self, images: Tensor) -> tuple[int, str]:
        """Sees what the function gives for images (B, 3, h, w), normalised.

        Returns:
            The number of classes, and a digest of the numbers, by which functions are told apart.

        Raises:
            SegalError: If it is not what is wanted.
        """


class CallableNetwork(FunctionNetwork):
    """A function of pixels, or of whole images.

    Args:
        predict: Takes (B, 3, h, w) float32. Returns logits (B, K, h', w') as a tensor or array, in
            a tuple with features (B, D, h'', w''), or as `logits` or `out` of what has names.
    """

    def __init__(self, predict: Predict) -> None:
        super().__init__()
        self._predict = predict
        self.gives_features = False
        # Which tells where the images are to be.
        self.register_buffer("place", torch.zeros(()), persistent=False)

    def forward(self, images: Tensor) -> Predicted:
        """Logits, and features where there are any, float32 at least, where the images are."""
        output = self._predict(images)
        features: object = None
        if isinstance(output, list | tuple) and not hasattr(output, "_fields"):
            if len(output) != 2:
                raise _other(output)
            found, features = output
        else:
            array = isinstance(output, Tensor | np.ndarray)
            found = output if array else named_logits(output)
        logits = _map(found, images, output)
        return Predicted(logits, None if features is None else _map(features, images, output))

    def look(self, images: Tensor) -> tuple[int, str]:
        """Sees what the function gives.

        Args:
            images: (B, 3, h, w), normalised.

        Returns:
            The number of classes, and a digest of the numbers, by which functions are told apart.

        Raises:
            SegalError: If it is not what is wanted, or probabilities.
        """
        with torch.no_grad():
            given = self(images)
        refuse_probabilities(given.logits, "predict")
        self.gives_features = given.features is not None
        digest = hashlib.sha256()
        for values in (given.logits, given.features):
            if values is not None:
                digest.update(repr(tuple(values.shape)).encode())
                digest.update(values.cpu().numpy().tobytes())
        return max(2, given.logits.shape[1]), digest.hexdigest()

    def no_head(self) -> NoHeadError:
        """Why signals of its last layer cannot be measured."""
        got = "logits and features" if self.gives_features else "logits alone"
        return NoHeadError(
            f"predict gives {got}",
            expected="for features, a function that returns them beside the logits; for gradients, "
            "the network itself",
            got=got,
            remedy="return (logits, features), or give the network as checkpoint with "
            "model.architecture package.module:function",
        )


def _map(value: object, images: Tensor, output: object) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        value = torch.from_numpy(np.ascontiguousarray(value))
    good = isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point()
    if not isinstance(value, Tensor) or not good or len(value) != len(images):
        raise _other(output)
    dtype = torch.promote_types(value.dtype, torch.float32)
    return value.detach().to(images.device, dtype).contiguous()


def _other(output: object) -> SegalError:
    return SegalError(
        "predict: no logits in what it returns",
        expected="logits (B, C, h, w), a floating tensor or array for the B images that it was "
        "given, or (logits, features) with features (B, D, h, w)",
        got=shown(output),
        remedy="see docs/networks.md for functions around other packages' networks",
    )
