"""A function from a batch of images to logits as a network: for what segal cannot look into."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from segal.errors import SegalError
from segal.models.noise import NoHeadError
from segal.models.outputs import Predicted, named_logits, refuse_probabilities, shown
from segal.models.spec import ModelSpec

Predict = Callable[[Tensor], object]
"""From a batch of images to logits, or to logits and features: see `CallableNetwork`."""


class FunctionNetwork(nn.Module, ABC):
    """A function as a network without parameters, of any task.

    Attributes:
        notes: What the user should be told of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    @abstractmethod
    def look(self, images: Tensor) -> tuple[int, str]:
        """Sees what the function gives for images (B, 3, h, w), normalised.

        Returns:
            The number of classes, and a digest of the numbers, by which functions are told apart;
            no text where it gives none.

        Raises:
            SegalError: If it is not what is wanted.
        """


class CallableNetwork(FunctionNetwork):
    """A function of pixels, or of whole images.

    Args:
        predict: Takes (B, 3, h, w) float32. Returns logits (B, K, h', w') as a tensor or array, in
            a tuple with features (B, D, h'', w''), or as `logits` or `out` of what has names. Of
            whole images logits are (B, K) and features (B, D); where features stand for images, it
            takes them as (B, D).
        spec: How it is fed, and for which task.
    """

    def __init__(self, predict: Predict, spec: ModelSpec) -> None:
        super().__init__()
        self._predict = predict
        self._dims, self._rows = spec.logit_dims, spec.input_channels is not None
        self._each = spec.answers.each
        self.gives_features = False
        # Which tells where the images are to be.
        self.register_buffer("place", torch.zeros(()), persistent=False)

    def forward(self, images: Tensor) -> Predicted:
        """Logits, and features where there are any, float32 at least, where the images are."""
        output = self._predict(images.flatten(1) if self._rows else images)
        features: object = None
        if isinstance(output, list | tuple) and not hasattr(output, "_fields"):
            if len(output) != 2:
                raise self._other(output)
            found, features = output
        else:
            array = isinstance(output, Tensor | np.ndarray)
            found = output if array else named_logits(output)
        logits = self._map(found, images, output)
        return Predicted(logits, None if features is None else self._map(features, images, output))

    def look(self, images: Tensor) -> tuple[int, str]:
        """Sees what the function gives.

        Args:
            images: (B, 3, h, w), normalised.

        Returns:
            The number of classes, and a digest of the numbers, by which functions are told apart.

        Raises:
            SegalError: If it is not what is wanted, or probabilities.
        """
        with torch.no_grad(), _Sigmoids() as sigmoids:
            given = self(images)
        logits = given.logits
        refuse_probabilities(logits, "predict", each=self._each, sigmoids=sigmoids.given)
        if (self._each or logits.shape[1] == 1) and 0 <= logits.min() <= logits.max() <= 1:
            self.notes = [_LIKE_PROBABILITIES]
        self.gives_features = given.features is not None
        digest = hashlib.sha256()
        for values in (given.logits, given.features):
            if values is not None:
                digest.update(repr(tuple(values.shape)).encode())
                digest.update(values.cpu().numpy().tobytes())
        return max(1 if self._each else 2, logits.shape[1]), digest.hexdigest()

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

    def _map(self, value: object, images: Tensor, output: object) -> Tensor:
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            value = torch.from_numpy(np.ascontiguousarray(value))
        good = isinstance(value, Tensor) and value.ndim == self._dims and value.is_floating_point()
        if not isinstance(value, Tensor) or not good or len(value) != len(images):
            raise self._other(output)
        dtype = torch.promote_types(value.dtype, torch.float32)
        return value.detach().to(images.device, dtype).contiguous()

    def _other(self, output: object) -> SegalError:
        sides = ", h, w" if self._dims == 4 else ""
        return SegalError(
            "predict: no logits in what it returns",
            expected=f"logits (B, C{sides}), a floating tensor or array for the B images that it "
            f"was given, or (logits, features) with features (B, D{sides})",
            got=shown(output),
            remedy="see docs/networks.md for functions around other packages' networks",
        )


_LIKE_PROBABILITIES = (
    "predict: of an image of noise all that it gives lies between 0 and 1. It must give logits: if "
    "these are probabilities p, every score is wrong; return log p - log(1 - p)."
)


class _Sigmoids(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps what sigmoids give while it lasts, also where there are no gradients to tell by."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.given: list[Tensor] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in {torch.ops.aten.sigmoid.default, torch.ops.aten.sigmoid_.default}:
            self.given.append(output)
        return output
