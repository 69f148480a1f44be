"""The part of a network before a cut, as a function of images that no training changes."""

import threading
from dataclasses import dataclass, field, replace
from typing import Self

import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from torch import Tensor, nn

from segal.candidates.kept import Kept
from segal.errors import SegalError
from segal.models.cut import KeepingCut
from segal.models.noise import evaluating
from segal.models.probing import twin
from segal.models.sources import source_of
from segal.models.wrapped import Model
from segal.system.digests import fingerprint
from segal.system.source_code import source_digest

_VERSIONS = [library.__version__ for library in (torch, torchvision, smp, timm)]
"""Of those whose code the frozen part is."""


@dataclass(frozen=True, eq=False)
class FrozenLayers:
    """The layers of a network before a cut.

    They run on a copy of the network that shares its parameters, in `eval()` mode and in float32,
    so that any thread may run them while the rest is trained.

    Attributes:
        layers: Name of the cut.
        digest: Of all that its output depends on beside the image: names and values of its
            tensors, what says how the network is built and fed, its code's version, the device.
    """

    layers: str
    digest: str
    _model: Model = field(repr=False)
    _cut: KeepingCut = field(repr=False)
    _copy: nn.Module = field(repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def of(cls, model: Model, layers: str) -> Self:
        """The layers before a cut of a network, where it is now.

        Args:
            model: The network.
            layers: As `Model.cut` takes them.

        Raises:
            SegalError: If more goes through the cut than tensors that can be kept.
        """
        cut = model.cut(layers)
        if not isinstance(cut, KeepingCut):
            raise _not_kept(model, layers, "several modules that read what lies before")
        try:
            copied = twin(model.network).eval()
        except Exception as error:  # whatever its parts raise that cannot be copied
            why = f"a network that cannot be copied: {type(error).__name__}: {error}"
            raise _not_kept(model, layers, why[:300]) from error
        found = cls(layers, _digest(model, cut), model, cut, copied)
        found._check()
        return found

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the layers make of images.

        Args:
            images: (B, H, W, channels), as read.

        Returns:
            What goes through the cut, float32 on the CPU.
        """
        model = self._model
        with self._lock, torch.no_grad():
            inputs = model.prepared(model.normalise(images.to(model.device)))
            found = self._cut.before(self._copy, inputs)
        return tuple(one.float().cpu() for one in found)

    def _check(self) -> None:
        """Raises a SegalError if the rest of the network, run on what is kept, gives otherwise."""
        side = 2 * max(32, self._model.spec.stride)
        generator = torch.Generator().manual_seed(0)
        shape = (1, side, side, self._model.spec.channels)
        noise = torch.rand(shape, generator=generator)
        with torch.no_grad(), evaluating(self._model):
            kept = Kept(self.layers, self(noise), (side, side)).to(self._model.device)
            resumed = self._model(kept).logits
            whole = self._model(self._model.normalise(noise.to(self._model.device))).logits
        if not torch.allclose(resumed, whole, rtol=1e-3, atol=1e-4):
            raise _not_kept(self._model, self.layers, "logits that need more than that")


def _digest(model: Model, cut: KeepingCut) -> str:
    spec, tensors = model.spec, cut.frozen_tensors()
    own = not source_of(spec.architecture).trusted
    said = {
        "spec": replace(spec, class_names=(), insert_dropout=0.0).as_dict(),
        "layers": cut.layers,
        "names": list(tensors),
        "libraries": _VERSIONS,
        "code": source_digest(spec.architecture) if own else None,
        "device": model.device.type,
    }
    return fingerprint(said, *tensors.values())


def _not_kept(model: Model, layers: str, got: str) -> SegalError:
    return SegalError(
        f"the output of what lies before {layers!r} of {model.spec.title} cannot be kept",
        expected="trained layers that read it and nothing else, such as last, last_two or decoder",
        got=got,
        remedy="give other layers, or leave the store out",
    )
