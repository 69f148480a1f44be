"""A network of any task with the three things that segal needs of it.

Those are its logits, one vector for each element of an image, and, for signals that ask for them,
the input of its last layer and its tail (the last layers) as a function of their input and
parameters (see `segal.models.tails`). The last layer is looked for when it is first asked for, by
running the network once. Any network gives logits; not every one has such a layer.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from segal.candidates.evidence import Evidence
from segal.candidates.kept import INPUT, Images, Kept
from segal.errors import SegalError
from segal.models.callables import CallableNetwork, FunctionNetwork, Predict
from segal.models.cut import DECODER, Cut, InputCut, KeepingCut, decoder_cut
from segal.models.dropouts import active_dropouts
from segal.models.loss_prediction import LossPrediction
from segal.models.noise import (
    Head,
    NoHeadError,
    check_network,
    failed,
    floating,
    run_on_noise,
)
from segal.models.spec import ModelSpec, registered
from segal.models.tails import Tail
from segal.models.tracing import TailFinder
from segal.models.weight_files import StoredTensors
from segal.models.weights import load_encoder
from segal.registry import Registry

__all__ = ["FEATURES", "FEATURE_MAPS", "Model", "NoHeadError", "Tail", "wrapper_of"]

FEATURES = "features"
"""What a pass catches beside the inputs of tails: the input of the last layer."""

FEATURE_MAPS = "feature_maps"
"""Likewise, features of several depths: see `Model.forward`."""

PIXELS = "pixels"
"""What a meter looks at beside what a pass catches: the images that the network is given."""

FURTHER_PASSES = "further passes"
"""Likewise: what the network is given, for it to be run on that again, with dropout."""

T = TypeVar("T", bound=Images)

WRAPPERS: Registry[type["Model"]] = Registry("task")
"""The class of every task's networks; tasks register their own."""


def wrapper_of(task: str) -> type["Model"]:
    """The class that wraps the networks of a task.

    Raises:
        SegalError: If there is no such task.
    """
    return registered(WRAPPERS, task)


class Model(nn.Module, ABC):
    """A network, wrapped so that one call gives the evidence of a batch.

    Nothing is run, and nothing is asked of the network, before it is needed.

    Args:
        network: Maps (B, 3, h, w) to logits, in any form that `segal.models.outputs` takes.
        spec: How it was built and how it is fed.

    Attributes:
        loss_prediction: The module that predicts losses; None for a network that has none.
        second_head: A second last layer beside the network's own (f2 of MIAL), likewise.
        notes: What the user should be told about where its weights come from.
        fed_by: What can be said of how a function, which is known by nothing else, is fed: keys of
            a configuration's `model`, and the stride.
    """

    loss_prediction: LossPrediction | None
    second_head: nn.Conv2d | None
    fed_by: ClassVar[Collection[str]] = ("mean", "std", "input_scale", "stride")

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(spec.std)[:, None, None], persistent=False)
        self.loss_prediction = None
        self.second_head = None
        self._found: Head | NoHeadError | None = None
        self.notes: list[str] = []
        self._tails: dict[str, Tail] = {}
        self._cuts: dict[str, Cut] = {}

    def check(self) -> None:
        """Runs the network once on noise, to see that it takes images and gives logits.

        Raises:
            SegalError: If it does not, or has another number of channels or of classes.
        """
        if not isinstance(self.network, CallableNetwork):  # which was looked at when it was given
            check_network(self.network, self.spec)

    @property
    def head(self) -> nn.Conv2d:
        """The last layer; looked for when first asked for.

        Raises:
            NoHeadError: If the network has none that is found.
        """
        head = self.network.get_submodule(self._head().name)
        assert isinstance(head, nn.Conv2d)
        return head

    def last_layers(self) -> list[nn.Module]:
        """The layers that logits come out of, which an inserted dropout is put before.

        Raises:
            NoHeadError: As `head`.
        """
        return [self.head]

    def logits_of_noise(self) -> Tensor:
        """Logits of an image of noise, in `eval()` mode but for what hooks do.

        Raises:
            SegalError: If the network fails on it.
        """
        return run_on_noise(self.network, self.spec)

    @classmethod
    def network_of(cls, predict: Predict, spec: ModelSpec) -> "FunctionNetwork":
        """A function as a network, which `look` tells of."""
        return CallableNetwork(predict, spec)

    def after_head(self) -> nn.Module:
        """What makes logits of all classes of the last layer's output.

        Raises:
            NoHeadError: As `head`.
        """
        return nn.Sequential(*self._head().after())

    @property
    def align_corners(self) -> bool:
        """How the last layer's logits are upsampled.

        Raises:
            NoHeadError: As `head`.
        """
        return self._head().align_corners

    @property
    def has_head(self) -> bool:
        """Whether a last layer is found."""
        return not isinstance(self._find_head(), NoHeadError)

    def check_features(self) -> None:
        """Raises a NoHeadError if the network gives no features."""
        if not (isinstance(self.network, CallableNetwork) and self.network.gives_features):
            self._head()

    def load_encoder(self, stored: StoredTensors, source: Path, state: str | None) -> list[str]:
        """Loads the weights of the encoder alone from a file; returns what the user should be told.

        Raises:
            SegalError: As `segal.models.weights.load_encoder`.
        """
        return load_encoder(self.network, self.spec, stored, source, state)

    def _head(self) -> Head:
        found = self._find_head()
        if isinstance(found, NoHeadError):
            raise copy.copy(found)  # without the first one's traceback
        return found

    def _find_head(self) -> Head | NoHeadError:
        if isinstance(self.network, CallableNetwork):
            return self.network.no_head()
        if self._found is None:
            try:
                self._found = self._look_for_head()
            except NoHeadError as error:
                self._found = error.with_traceback(None)
        return self._found

    @abstractmethod
    def _look_for_head(self) -> Head:
        """The last layer, by running the network.

        Raises:
            NoHeadError: If there is none.
        """

    @property
    def device(self) -> torch.device:
        """Where the parameters are, or the buffers of a network without any."""
        return self.like.device

    @property
    def like(self) -> Tensor:
        """A tensor of the dtype and device that the network works in."""
        return floating(self.network, self.get_buffer("mean"))

    def tail(self, layers: str) -> Tail:
        """The last layers as a function; found when first asked for, by running the network once.

        Args:
            layers: `last`: the head. `last_two`: the parameters of the head and of the convolution
                before it, with nothing but normalisation, activation and dropout in between.
                `all`: every parameter of the network. Else the name of a module of the network,
                such as `decoder.block2.0`: every parameter from there on, in the order that
                modules run in.

        Raises:
            SegalError: If the network has no such tail.
        """
        if layers not in self._tails:
            self._tails[layers] = TailFinder(self.network, self._head(), self.spec).find(layers)
        return self._tails[layers]

    def cut(self, layers: str) -> Cut:
        """Where the network is divided, if these layers alone are trained.

        Args:
            layers: `decoder`: all but its encoder. `last` and `last_two` as in `tail`, with what
                lies between the two convolutions. Else the name of a module, such as
                `decoder.block2.0`: all from there on, in the order that modules run in.

        Raises:
            SegalError: If the network has no such place.
        """
        if layers == INPUT:
            return InputCut(INPUT, self.network, frozenset())
        if layers not in self._cuts:
            if isinstance(self.network, CallableNetwork):
                raise self.network.no_head()
            self._cuts[layers] = (
                decoder_cut(self.network, self.spec)
                if layers == DECODER
                else TailFinder(self.network, self._head(), self.spec).cut(layers)
            )
        return self._cuts[layers]

    def gives(self, catch: Collection[str], layers: str) -> bool:
        """Whether a pass from a cut on gives all that is wanted of it, as one over images does.

        Args:
            catch: As `forward` takes it; `PIXELS`; `FURTHER_PASSES`.
            layers: Of the cut.
        """
        if layers == INPUT:
            return PIXELS not in catch
        cut = self.cut(layers)
        for name in catch:
            if name in {PIXELS, FEATURE_MAPS}:
                return False
            if name == FURTHER_PASSES:
                if not all(map(cut.is_after, active_dropouts(self.network).values())):
                    return False
            elif name != FEATURES:
                tail = self.tail(name)
                if tail.replays or not cut.is_after(tail.source):
                    return False
        return True

    def normalise(self, images: T) -> T:
        """Network input from images as read.

        Args:
            images: (B, H, W, 3) RGB, uint8, or floating in [0, 1]; or what a frozen part left of
                images, which stays as it is; or images that were read at a fraction of their size.

        Returns:
            (B, 3, H, W) float32, normalised; of the last of these what the network is given.

        Raises:
            SegalError: If the images have another number of channels than the network takes.
        """
        if isinstance(images, Kept):
            if images.layers == INPUT:
                reduced = self.normalise(images.maps[0])
                return replace(images, maps=(self.prepared(reduced, images.size),))
            return images
        if images.shape[-1] != self.spec.channels:
            raise SegalError(
                f"images of {images.shape[-1]} bands, for a network of {self.spec.channels}",
                expected=f"{self.spec.channels} bands, as mean and std have numbers",
                got=f"{images.shape[-1]}",
                remedy="give images of as many bands, or a network and constants for these",
            )
        channels_first = images.permute(0, 3, 1, 2)
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        mean, std = self.get_buffer("mean") * scale, self.get_buffer("std") * scale
        return cast(T, (channels_first.float() - mean).div_(std).contiguous())

    @abstractmethod
    def forward(self, images: Images, catch: Collection[str] = ()) -> Evidence:
        """Runs the network.

        Args:
            images: (B, 3, H, W), normalised; any H and W. Or what the frozen part before one of the
                network's cuts left of images: the layers after it are then run.
            catch: What is wanted beside the logits: `FEATURES`; names of tails, for their input
                (and the features with it); `FEATURE_MAPS`, features of several depths.

        Returns:
            The batch's evidence.

        Raises:
            NoHeadError: If the network gives no features and they are asked for.
            SegalError: If the network fails, or returns no logits.
        """

    def prepared(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """What the network is given for normalised images.

        Args:
            images: (B, 3, h, w).
            size: (H, W) of the images as they are, where these were read at a fraction of it.
        """
        return images

    @contextmanager
    def own_way(self) -> Iterator[None]:
        """While it lasts, the network runs as it is, whatever images are like."""
        yield

    def _run(self, images: Tensor) -> object:
        try:
            return self.network(images)
        except SegalError:
            raise
        except Exception as error:  # whatever the network's own code raises
            raise failed(self.spec.architecture, images.shape, error) from error

    def _cut_of(self, kept: Kept) -> KeepingCut:
        cut = self.cut(kept.layers)
        assert isinstance(cut, KeepingCut)
        return cut

    def _resume(self, kept: Kept) -> object:
        """Runs the layers after a cut: the network's output, or its last layer's."""
        cut = self._cut_of(kept)
        shape = (len(kept), self.spec.channels, *self.spec.input_size(*kept.size))
        try:
            return cut.resume(kept.maps, shape)
        except SegalError:
            raise
        except Exception as error:  # whatever the network's own code raises
            raise failed(self.spec.architecture, shape, error) from error

    @contextmanager
    def _catching(
        self,
        caught: dict[str, Tensor],
        maps: list[Tensor],
        tails: list[Tail],
        head: bool,
        of_encoder: bool,
    ) -> Iterator[None]:
        """Watches the modules whose inputs and outputs are wanted in a pass."""
        hooks: list[Any] = []
        try:
            if head:
                hooks.append(self.head.register_forward_hook(_catch_head(caught)))
            encoder = getattr(self.network, "encoder", None)
            if of_encoder and isinstance(encoder, nn.Module):
                hooks.append(encoder.register_forward_hook(_catch_maps(maps)))
            for tail in tails:
                catch = _catch_input(caught, tail.name)
                hooks.append(tail.source.register_forward_pre_hook(catch))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def add_loss_prediction(self, seed: int) -> LossPrediction:
        """Gives the network a new module that predicts losses, and returns it.

        Args:
            seed: Of its weights, which torch's own initialisers draw.

        Raises:
            SegalError: If the network has neither an encoder that returns maps nor a last layer.
        """
        maps = self.check_feature_maps()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = LossPrediction([x.shape[1] for x in maps])
        self.loss_prediction = module.to(self.like)
        return self.loss_prediction

    def add_second_head(self, seed: int) -> nn.Conv2d:
        """Gives the network a second last layer of the shape of its own, and returns it.

        Args:
            seed: Of its weights, which torch's own initialisers draw.

        Raises:
            NoHeadError: If the network has no last layer.
        """
        first = self.head
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            second = nn.Conv2d(
                first.in_channels, first.out_channels, 1, bias=first.bias is not None
            )
        self.second_head = second.to(self.like)
        return second

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
                expected="a module `encoder` that returns maps (B, D, h, w), or a last layer that "
                "is a convolution, then nothing but bilinear upsampling",
                got="neither",
                remedy="leave train.learning_loss out, or wrap the network in such a form",
            )
        return maps


def _catch_head(
    caught: dict[str, Tensor],
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        caught["head_input"], caught["head_output"] = inputs[0], output

    return hook


def _catch_input(
    caught: dict[str, Tensor], name: str
) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        caught[name] = inputs[0]

    return hook


def _catch_maps(
    caught: list[Tensor],
) -> Callable[[nn.Module, tuple[Tensor, ...], object], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        outputs = output if isinstance(output, list | tuple) else [output]
        # Encoders of smp also return the image itself, and maps without channels to skip a depth.
        caught[:] = [
            x
            for x in outputs
            if isinstance(x, Tensor) and x.ndim == 4 and x.numel() and x is not inputs[0]
        ]

    return hook
