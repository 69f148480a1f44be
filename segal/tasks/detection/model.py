"""A detector, wrapped so that one call gives the boxes of a batch and what they come from."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segal.candidates.evidence import Upsampling
from segal.candidates.kept import Images, Kept
from segal.errors import SegalError
from segal.models.callables import FunctionNetwork, Predict
from segal.models.cut import DECODER, Cut
from segal.models.noise import Head, NoHeadError, evaluating, failed
from segal.models.spec import ModelSpec
from segal.models.weight_files import StoredTensors
from segal.models.weights import load_backbone
from segal.models.wrapped import FEATURE_MAPS, FEATURES, Model
from segal.tasks.detection.detectors.base import RAW, Detector, Found, Target, maps_in
from segal.tasks.detection.detectors.families import detector_of
from segal.tasks.detection.detectors.functions import CallableDetector, FunctionDetector
from segal.tasks.detection.evidence import DetectionEvidence

__all__ = ["FEATURES", "FEATURE_MAPS", "RAW", "DetectionModel"]

_NOISE = (96, 128)  # pixels of the image that a detector is tried on


class DetectionModel(Model):
    """A detector of any family.

    The input's normalisation is the wrapper's: torchvision's own inside the network is switched off
    where it is the same, and refused where it is another.

    Args:
        network: Of torchvision, of transformers (see `segal.models.sources`), or any that answers
            in the form of `segal.tasks.detection.detectors.functions`.
        spec: How it was built and how it is fed.

    Raises:
        SegalError: If it normalises its input by other numbers.
    """

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__(network, spec)
        _switch_normalisation_off(network, spec)

    @property
    def detector(self) -> Detector:
        """How the network is run and looked into."""
        return detector_of(self.network, self.spec.num_classes)

    def check(self) -> None:
        """Runs the network once on noise, to see that it takes images and gives boxes.

        Raises:
            SegalError: If it does not, or has another number of channels or of classes.
        """
        found = self._on_noise(())
        count = found.detections.probabilities.shape[1]
        if count != self.spec.num_classes:
            raise SegalError(
                f"{self.spec.architecture}: a detector of {count} classes",
                expected=f"{self.spec.num_classes} classes",
                got=str(count),
                remedy="give the number of classes that the network was built for",
            )

    def forward(
        self, images: Images | Sequence[Tensor], catch: Collection[str] = ()
    ) -> DetectionEvidence:
        """Runs the network, one image after another: no image's numbers depend on the batch.

        Args:
            images: (B, 3, H, W), normalised; or a sequence of (3, H, W) of any sizes.
            catch: What is wanted beside the boxes: `FEATURES`, theirs; `RAW`, what the detector
                says before NMS; `FEATURE_MAPS`, the pyramid's maps, of images of one size.

        Returns:
            The batch's evidence.

        Raises:
            NoHeadError: If the network cannot give what is asked for.
            SegalError: If the network fails, or a function's boxes are not of the form.
        """
        for name in catch:
            if name not in {FEATURES, FEATURE_MAPS, RAW}:
                self.tail(name)
        assert not isinstance(images, Kept)  # of a detector nothing is kept
        detector = self.detector
        found = [self._detect(detector, image, catch) for image in images]
        maps: tuple[Tensor, ...] = ()
        upsampling = None
        if FEATURE_MAPS in catch and found:
            if not found[0].maps:
                raise self._without_maps()
            maps = tuple(torch.cat(level) for level in zip(*(f.maps for f in found), strict=True))
            upsampling = Upsampling(found[0].covers, align_corners=False)
        return DetectionEvidence(
            [one.detections for one in found],
            [one.raw for one in found if one.raw is not None],
            classes=self.spec.num_classes,
            maps=maps,
            upsampling=upsampling,
        )

    def losses(
        self,
        images: Tensor | Sequence[Tensor],
        targets: Sequence[Target],
        maps: list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The library's own losses of a batch, whose sum is trained on.

        Layers run in the mode that the model is in: of one in `eval()` mode these are the losses
        without dropout, by the stored statistics of BatchNorm.

        Args:
            images: (3, H, W) each, normalised, of any sizes.
            targets: Of each image `boxes` (n, 4) float, x0, y0, x1, y1 in its pixels with x0 < x1
                and y0 < y1, and `labels` (n,) int64 from 0; n may be 0.
            maps: Takes the pyramid's maps (B, D, h, w) of the pass, with their graph.

        Returns:
            Scalars by name, with their graph.

        Raises:
            NoHeadError: If there are no maps and they are asked for.
            SegalError: If the network fails or cannot be trained.
        """
        detector = self.detector
        module = detector.backbone() if maps is not None else None
        if maps is not None and module is None:
            raise self._without_maps()
        hook = None
        if maps is not None and module is not None:
            hook = module.register_forward_hook(lambda _m, _i, output: maps.extend(maps_in(output)))
        try:
            return detector.losses(list(images), targets)
        except SegalError:
            raise
        except Exception as error:  # whatever the network's own code raises
            shape = (len(images), *images[0].shape)
            raise failed(self.spec.architecture, shape, error) from error
        finally:
            if hook is not None:
                hook.remove()

    def load_encoder(self, stored: StoredTensors, source: Path, state: str | None) -> list[str]:
        """Loads the weights of the backbone alone; returns what the user should be told.

        Raises:
            SegalError: As `segal.models.weights.load_backbone`, or if there is no backbone.
        """
        return load_backbone(self.detector.encoder(), stored, source, state)

    def last_layers(self) -> list[nn.Module]:
        """The last layers of the class branch.

        Raises:
            NoHeadError: If the network is not looked into.
        """
        layers = self.detector.class_layers()
        if not layers:
            raise self._without_head()
        return layers

    def logits_of_noise(self) -> Tensor:
        """Class logits (A, C or C + 1) of all that boxes of an image of noise are chosen from.

        Raises:
            SegalError: If the network fails on it, or is not looked into.
        """
        raw = self._on_noise((RAW,)).raw
        assert raw is not None
        return raw.logits

    @classmethod
    def network_of(cls, predict: Predict, spec: ModelSpec) -> FunctionNetwork:
        """See `Model.network_of`."""
        return CallableDetector(predict)

    def check_features(self) -> None:
        """Raises a NoHeadError if the network gives no features."""
        if isinstance(self.detector, FunctionDetector):
            self._on_noise((FEATURES,))

    def check_raw(self) -> None:
        """Raises a NoHeadError if the network does not say what it chooses boxes from."""
        if isinstance(self.detector, FunctionDetector):
            self._on_noise((RAW,))

    def check_feature_maps(self) -> list[Tensor]:
        """The `FEATURE_MAPS` of one image of noise.

        Raises:
            NoHeadError: If there are none.
        """
        maps = self._on_noise(()).maps
        if not maps:
            raise self._without_maps()
        return list(maps)

    def cut(self, layers: str) -> Cut:
        """See `Model.cut`: `decoder` alone, all but the backbone.

        Raises:
            SegalError: For other layers, or a network without a child module `backbone`.
        """
        if layers != DECODER:
            raise SegalError(
                f"{layers}, of a detector",
                expected=f"all, or {DECODER} for all but the backbone",
                got=layers,
                remedy="give one of these: a detector's last layers are not one",
            )
        return super().cut(layers)

    def _look_for_head(self) -> Head:
        raise self._without_head()

    def _without_head(self) -> NoHeadError:
        return NoHeadError(
            f"{self.spec.architecture}: a detector's last layers are not one",
            expected="a network with one last layer, for derivatives by it",
            got="a detector",
            remedy="use a strategy that measures boxes",
        )

    def _detect(self, detector: Detector, image: Tensor, catch: Collection[str]) -> Found:
        try:
            return detector.detect(image, catch)
        except SegalError:
            raise
        except Exception as error:  # whatever the network's own code raises
            raise failed(self.spec.architecture, (1, *image.shape), error) from error

    def _on_noise(self, catch: Collection[str]) -> Found:
        noise = torch.randn(
            (self.spec.channels, *_NOISE), generator=torch.Generator().manual_seed(0)
        )
        with torch.no_grad(), evaluating(self.network):
            return self._detect(self.detector, noise.to(self.like), catch)

    def _without_maps(self) -> NoHeadError:
        return NoHeadError(
            f"{self.spec.architecture}: no feature maps to predict losses from",
            expected="a detector of torchvision or transformers, whose backbone returns maps",
            got="a function, or a network of your own",
            remedy="leave train.learning_loss out, or name one of these",
        )


def _switch_normalisation_off(network: nn.Module, spec: ModelSpec) -> None:
    transform: Any = getattr(network, "transform", None)
    mean, std = (getattr(transform, name, None) for name in ("image_mean", "image_std"))
    if mean is None or std is None or (not any(mean) and set(std) == {1.0}):
        return
    if tuple(mean) != spec.mean or tuple(std) != spec.std:
        raise SegalError(
            f"{spec.architecture}: normalises its input by other numbers than it is told",
            expected=f"mean {', '.join(map(str, spec.mean))} and std "
            f"{', '.join(map(str, spec.std))}",
            got=f"mean {', '.join(map(str, mean))} and std {', '.join(map(str, std))}",
            remedy="give its own numbers as --mean and --std",
        )
    transform.image_mean, transform.image_std = [0.0] * len(mean), [1.0] * len(std)
