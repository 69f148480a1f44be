"""A network that classifies whole images: an image is one element, a map of one cell.

Its last layer is presented as a 1 x 1 convolution of a map of one cell, so that logits, features,
tails and closed forms are those of any other task (see `segal.models.pointwise`).
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segal.candidates.evidence import Evidence, Upsampling
from segal.candidates.kept import Images, Kept
from segal.errors import SegalError
from segal.models.callables import CallableNetwork
from segal.models.noise import Head, NoHeadError, run_on_noise
from segal.models.outputs import EachClass, Predicted, as_classes, logits_of
from segal.models.pointwise import linear_name, present_head
from segal.models.resizing import reduced_by, resized
from segal.models.spec import Framing, ModelSpec
from segal.models.stages import find_stages
from segal.models.weight_files import StoredTensors
from segal.models.weights import load_all_but
from segal.models.wrapped import FEATURE_MAPS, FEATURES, Model, Tail


class ClassificationModel(Model):
    """A network of whole images, wrapped so that one call gives the evidence of a batch.

    The network is run once on noise, to present its last layer before anything holds its
    parameters; what goes wrong there is said when the last layer is asked for.

    Args:
        network: Maps (B, channels, h, w) to logits (B, C), in any form that
            `segal.models.outputs.logits_of` takes; of two classes it may have one output. It is
            changed: a linear layer that makes the logits becomes a `PointwiseHead`.
        spec: How it was built and how it is fed. Where each class is a question of its own
            (`Answers.each`), an output is the logit of one class against its absence.
    """

    fed_by: ClassVar[Collection[str]] = ("mean", "std", "input_side")

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__(network, spec)
        self._stages: list[str] | None = None
        try:
            self._find_head()
        except SegalError:  # it does not run, which `check` says, or the first call of `head`
            self._found = None

    def _look_for_head(self) -> Head:
        return present_head(self.network, self.spec)

    def load_encoder(self, stored: StoredTensors, source: Path, state: str | None) -> list[str]:
        """Loads the weights of all but the last layer from a file, which may lack that one.

        Returns:
            What the user should be told.

        Raises:
            SegalError: As `segal.models.weights.load_all_but`, or if there is no last layer.
        """
        layer = linear_name(self._head().name)
        return load_all_but(self.network, layer, stored, source, state)

    def forward(self, images: Images, catch: Collection[str] = ()) -> Evidence:
        """Runs the network.

        Args:
            images: (B, channels, H, W), normalised; any H and W that its framing, or the network
                itself, takes. Or what a frozen part left of images.
            catch: What is wanted beside the logits: `FEATURES`; names of tails, for their input
                (and the features with it); `FEATURE_MAPS`. These are the means over the image of
                the last maps of the network's coarsest four resolutions, and the features, where
                there is a last layer.

        Returns:
            The batch's evidence: logits (B, C, 1, 1) and features (B, D, 1, 1); of several labels,
            an element for each class, logits (B, 2, C, 1) and features (B, D, C, 1). Maps and
            inputs of tails are of one cell, or what the tail's first module takes.

        Raises:
            NoHeadError: If the network gives no features and they are asked for.
            SegalError: If the network fails, or returns no logits.
        """
        tails = [self.tail(name) for name in catch if name not in {FEATURES, FEATURE_MAPS}]
        if FEATURES in catch:
            self.check_features()
        caught: dict[str, Tensor] = {}
        maps: list[Tensor] = []
        head = bool(catch) and self.has_head
        with self._catching(caught, maps, tails, head, FEATURE_MAPS in catch):
            output = (
                self._resume(images)
                if isinstance(images, Kept)
                else self._run(self.prepared(images))
            )
        if isinstance(images, Kept) and isinstance(output, Tensor):
            output = output.flatten(1)  # the last layer's is a map of one cell
        logits = self._by_element(output)
        elements = (logits.shape[2], logits.shape[3])
        features = caught.get("head_input")
        if isinstance(output, Predicted) and output.features is not None and catch:
            features = output.features[:, :, None, None]
        if features is not None and FEATURE_MAPS in catch:
            maps.append(features)
        return Evidence(
            logits=logits,
            features=None if features is None else features.expand(-1, -1, *elements),
            upsampling=Upsampling(elements, align_corners=True),
            tail_input={tail.name: caught[tail.name] for tail in tails},
            maps=tuple(maps),
        )

    def _by_element(self, output: object) -> Tensor:
        spec = self.spec
        logits = logits_of(output, spec.num_classes, spec.architecture, spec.logit_dims)
        if spec.answers.each:
            return EachClass()(logits)  # type: ignore[no-any-return]
        return as_classes(logits, spec.num_classes)[:, :, None, None]

    @contextmanager
    def _catching(
        self,
        caught: dict[str, Tensor],
        maps: list[Tensor],
        tails: list[Tail],
        head: bool,
        of_stages: bool,
    ) -> Iterator[None]:
        means: dict[str, Tensor] = {}

        def catch(name: str) -> Any:
            module = self.network.get_submodule(name)
            return module.register_forward_hook(
                lambda _m, _i, output: means.update({name: F.adaptive_avg_pool2d(output, 1)})
            )

        hooks = [catch(name) for name in (self.stages if of_stages else ())]
        try:
            with super()._catching(caught, maps, tails, head, False):
                yield
            maps.extend(means[name] for name in (self.stages if of_stages else ()))
        finally:
            for hook in hooks:
                hook.remove()

    @property
    def stages(self) -> list[str]:
        """Modules whose outputs are feature maps; looked for when first asked for."""
        if self._stages is None:
            self._stages = find_stages(self.network, self.spec)
        return self._stages

    def check_feature_maps(self) -> list[Tensor]:
        """The `FEATURE_MAPS` of one image of noise.

        Raises:
            SegalError: If there are none.
        """
        if isinstance(self.network, CallableNetwork):
            raise self.network.no_head()
        caught: dict[str, Tensor] = {}
        maps: list[Tensor] = []
        with self._catching(caught, maps, [], self.has_head, True):
            run_on_noise(self.network, self.spec)
        maps += [caught["head_input"]] if "head_input" in caught else []
        if not maps:
            raise NoHeadError(
                f"{self.spec.architecture}: no feature maps to predict losses from",
                expected="modules that return maps (B, D, h, w), or a last linear layer",
                got="neither",
                remedy="leave train.learning_loss out, or wrap the network in such a form",
            )
        return maps

    def prepared(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """What the network is given for normalised images (B, channels, H, W): framed."""
        framing = self.spec.framing
        if framing is None:
            return images
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return framed(images, framing, (-mean / std, (1 - mean) / std), size)


def framed(
    images: Tensor,
    framing: Framing,
    bounds: tuple[Tensor, Tensor],
    whole: tuple[int, int] | None = None,
) -> Tensor:
    """Resizes images with antialiasing and cuts the middle out, as torchvision and timm evaluate.

    Args:
        images: (B, channels, h, w), floating.
        framing: How.
        bounds: The least and the largest value of an image; broadcast. Cubic interpolation
            overshoots, which images of 8 bits cannot.
        whole: (H, W) of the images as they are, where a pixel here is a block of them.

    Returns:
        (B, channels, side, side).
    """
    given = (images.shape[-2], images.shape[-1])
    height, width = whole or given
    factor = reduced_by((height, width), given)
    size = framing.resized_size(height, width)
    mode = "bicubic" if framing.bicubic else "bilinear"
    images = resized(images, size, (height / factor, width / factor), mode)
    if framing.bicubic and given != size:
        images = torch.clamp(images, *bounds)
    # Halves are rounded to even, as torchvision rounds them.
    top, left = (round((side - framing.side) / 2) for side in size)
    return images[..., top : top + framing.side, left : left + framing.side]
