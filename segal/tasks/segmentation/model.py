"""A segmentation network: logits at full resolution of images of any size."""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segal.candidates.evidence import Evidence, Upsampling
from segal.candidates.kept import Images, Kept
from segal.models.noise import Head, failed, find_head
from segal.models.outputs import Predicted, as_classes, logits_of
from segal.models.resizing import reduced_by, resized
from segal.models.spec import ModelSpec
from segal.models.tails import upsample
from segal.models.tracing import TailFinder
from segal.models.wrapped import FEATURE_MAPS, FEATURES, Model
from segal.tasks.segmentation.lean import LeanPass, OtherwiseError, SpreadLogits, find_lean_pass

LARGE = 1 << 22
"""Pixels of an image from which on a pass is made to take less memory; see `lean`."""


class SegmentationModel(Model):
    """A network, wrapped so that one call gives the evidence of a batch.

    The last layer is the last convolution with one output per class, followed by nothing but
    bilinear upsampling.

    Args:
        network: Maps (B, 3, h, w) to logits (B, C, h', w'), in any form that
            `segal.models.outputs.logits_of` takes; of two classes it may have one output.
        spec: How it was built and how it is fed.
    """

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__(network, spec)
        self._lean: tuple[LeanPass | None] | None = None

    def _look_for_head(self) -> Head:
        return find_head(self.network, self.spec)

    def forward(self, images: Images, catch: Collection[str] = ()) -> Evidence:
        """Runs the network.

        Args:
            images: (B, 3, H, W), normalised; any H and W. Or what a frozen part left of images.
            catch: As in `Model.forward`. `FEATURE_MAPS` are the maps that `network.encoder`
                returns, where it has one that returns some (all networks of
                segmentation_models_pytorch but DPT), and the features, where there is a last layer.

        Returns:
            The batch's evidence; logits are (B, C, H, W).

        Raises:
            NoHeadError: If the network gives no features and they are asked for.
            SegalError: If the network fails, or returns no logits.
        """
        height, width = images.shape[-2:]
        size = self._outside(height, width)
        # Before the hooks: to find a layer runs the network.
        tails = [self.tail(name) for name in catch if name not in {FEATURES, FEATURE_MAPS}]
        if FEATURES in catch:
            self.check_features()
        run: Callable[[], object]
        if isinstance(images, Kept):
            run = partial(self._resume, images)
        else:
            padded = self._padded(images)
            run = partial(self._run, padded)
            lean = self._lean_pass(padded, catch)
            if lean is not None:
                try:
                    return self._large(lean, padded, size, (height, width), FEATURES in catch)
                except OtherwiseError:
                    self._lean = (None,)
        # Logits of a rescaled image are spread from the last layer's output, in one step.
        resumed = isinstance(images, Kept) and self._cut_of(images).ends_at_head
        whole = self.spec.input_size(height, width) == size and not resumed
        head = (bool(catch) or not whole) and self.has_head
        caught: dict[str, Tensor] = {}
        maps: list[Tensor] = []
        with self._catching(caught, maps, tails, head, FEATURE_MAPS in catch):
            output = run()
        low = logits_of(output, self.spec.num_classes, self.spec.architecture)
        upsampling = Upsampling(size, head and self.align_corners)
        if tuple(low.shape[-2:]) != size:
            low = upsample(caught.get("head_output", low), upsampling)
        logits = as_classes(low, self.spec.num_classes)
        features = caught.get("head_input")
        if isinstance(output, Predicted) and catch:
            features = output.features
        if features is not None and FEATURE_MAPS in catch:
            maps.append(features)
        return Evidence(
            logits=logits[..., :height, :width],
            features=features,
            upsampling=upsampling,
            tail_input={tail.name: caught[tail.name] for tail in tails},
            maps=tuple(maps),
        )

    def _lean_pass(self, padded: Tensor, catch: Collection[str]) -> LeanPass | None:
        """How to run on images that are large; None where the network's own way will do."""
        height, width = padded.shape[-2:]
        differentiable = torch.is_grad_enabled() or self.training
        if height * width < LARGE or differentiable or not set(catch) <= {FEATURES}:
            return None
        if self._lean is None:
            off = torch.autocast(padded.device.type, enabled=False)
            with torch.inference_mode(False), torch.no_grad(), off:
                found = None
                if self.has_head:
                    found = find_lean_pass(TailFinder(self.network, self._head(), self.spec))
            self._lean = (found,)
        return self._lean[0]

    @contextmanager
    def own_way(self) -> Iterator[None]:
        """While it lasts, the network runs as it is, however large images are."""
        found, self._lean = self._lean, (None,)
        try:
            yield
        finally:
            self._lean = found

    def _large(
        self,
        lean: LeanPass,
        padded: Tensor,
        size: tuple[int, int],
        cropped: tuple[int, int],
        features: bool,
    ) -> Evidence:
        try:
            low, caught = lean(padded, features=features)
        except OtherwiseError:
            raise
        except Exception as error:  # whatever the network's own code raises
            raise failed(self.spec.architecture, padded.shape, error) from error
        upsampling = Upsampling(size, self.align_corners)
        low = as_classes(low, self.spec.num_classes)
        return Evidence(SpreadLogits(low, upsampling, cropped), caught, upsampling)

    def prepared(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """What the network is given for normalised images: scaled, and padded to its stride."""
        return self._padded(images, size)

    def _outside(self, height: int, width: int) -> tuple[int, int]:
        """The size of a padded image in the image's own pixels."""
        scale, inside = self.spec.input_scale, self.spec.input_size(height, width)
        # Half a pixel of rounding must not make the padded image smaller than the image.
        return max(height, round(inside[0] / scale)), max(width, round(inside[1] / scale))

    def _padded(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """The network's input."""
        height, width = images.shape[-2:]
        whole = size or (height, width)
        factor = reduced_by(whole, (height, width))
        down, right = (side / factor for side in self._outside(*whole))
        below, beside = math.ceil(down) - height, math.ceil(right) - width
        padded = (
            F.pad(images, (0, beside, 0, below), mode="replicate") if below or beside else images
        )
        return resized(padded, self.spec.input_size(*whole), (down, right))
