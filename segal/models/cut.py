"""Where a network is divided: what lies before is frozen, the rest is trained."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor, nn

from segal.errors import SegalError
from segal.models.encoder_maps import spare_maps
from segal.models.noise import run_on_noise
from segal.models.spec import ModelSpec

DECODER = "decoder"
"""The name of the cut behind a network's encoder."""

_ENCODERS = ("encoder", "backbone")
"""What networks call the module that makes their feature maps."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A place at which a network is divided in two.

    Attributes:
        layers: Its name: `decoder`, `last`, `last_two`, or the name of a module.
        network: It.
        after: Names of the modules that run after the cut; what they hold does, too.
    """

    layers: str
    network: nn.Module = field(repr=False)
    after: frozenset[str]

    def trained_parameters(self) -> list[nn.Parameter]:
        """Those of the modules after the cut."""
        modules = (m for name, m in self.network.named_modules() if self._is_after(name))
        own = (p for module in modules for p in module.parameters(recurse=False))
        return list(dict.fromkeys(own))

    def frozen_parameters(self) -> list[nn.Parameter]:
        """All others."""
        trained = {id(parameter) for parameter in self.trained_parameters()}
        return [p for p in self.network.parameters() if id(p) not in trained]

    def frozen_tensors(self) -> dict[str, Tensor]:
        """The parameters before the cut, and the buffers but for counters of batches, by name."""
        trained = {id(parameter) for parameter in self.trained_parameters()}
        modules = (m for name, m in self.network.named_modules() if self._is_after(name))
        trained |= {id(buffer) for module in modules for buffer in module.buffers(recurse=False)}
        named = [*self.network.named_parameters(), *self.network.named_buffers()]
        kept = {name: value for name, value in named if id(value) not in trained}
        return {k: v for k, v in kept.items() if not k.endswith("num_batches_tracked")}

    def frozen_modules(self) -> list[nn.Module]:
        """The modules before the cut, but for those that hold modules after it."""
        holding = {start for name in self.after for start in _starts(name)}
        return [
            module
            for name, module in self.network.named_modules()
            if name not in holding and not self._is_after(name)
        ]

    def is_after(self, module: nn.Module) -> bool:
        """Whether a module of the network runs after the cut."""
        names = (name for name, one in self.network.named_modules() if one is module)
        return any(self._is_after(name) for name in names)

    def _is_after(self, name: str) -> bool:
        return name in self.after or any(start in self.after for start in _starts(name))


class KeepingCut(Cut):
    """A cut through which nothing goes but tensors that can be kept.

    Attributes:
        ends_at_head: Whether what is resumed ends with the last layer.
    """

    ends_at_head: ClassVar[bool]

    @abstractmethod
    def before(self, network: nn.Module, inputs: Tensor) -> list[Tensor]:
        """Runs what lies before the cut.

        Args:
            network: This network, or a copy of it.
            inputs: Its input (B, channels, h, w).

        Returns:
            What goes through the cut: (B, D, h', w') or (B, D) each.
        """

    @abstractmethod
    def resume(self, maps: Sequence[Tensor], shape: Sequence[int]) -> Any:
        """Runs what lies after the cut.

        Args:
            maps: As `before` returns them.
            shape: (B, channels, h, w) of the network's input.

        Returns:
            The network's output, or its last layer's.
        """


@dataclass(frozen=True, eq=False)
class InputCut(KeepingCut):
    """The cut before the network's first layer."""

    ends_at_head: ClassVar[bool] = False

    def is_after(self, module: nn.Module) -> bool:
        """See `Cut.is_after`: all are."""
        return True

    def before(self, network: nn.Module, inputs: Tensor) -> list[Tensor]:
        """See `KeepingCut.before`: the input."""
        return [inputs]

    def resume(self, maps: Sequence[Tensor], shape: Sequence[int]) -> Any:
        """See `KeepingCut.resume`: the network's output."""
        return self.network(maps[0])


@dataclass(frozen=True, eq=False)
class ChainCut(KeepingCut):
    """A cut before a chain of modules, each of which makes the next one's only input.

    Attributes:
        chain: Their names, in the order that they run in; the last is the network's last layer.
    """

    chain: tuple[str, ...]
    ends_at_head: ClassVar[bool] = True

    def before(self, network: nn.Module, inputs: Tensor) -> list[Tensor]:
        """See `KeepingCut.before`: the input of the chain."""
        caught: list[Tensor] = []

        def stop(_module: nn.Module, given: tuple[Any, ...]) -> None:
            caught.append(given[0])
            raise _Done

        with _stopping(network.get_submodule(self.chain[0]).register_forward_pre_hook(stop)):
            network(inputs)
        return caught

    def resume(self, maps: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """See `KeepingCut.resume`: the last layer's output."""
        found = maps[0]
        for name in self.chain:
            found = self.network.get_submodule(name)(found)
        return found


@dataclass(frozen=True, eq=False)
class EncoderCut(KeepingCut):
    """The cut behind a network's encoder.

    Attributes:
        encoder: Its name.
        spec: How the network is fed.
    """

    encoder: str
    spec: ModelSpec
    ends_at_head: ClassVar[bool] = False

    def before(self, network: nn.Module, inputs: Tensor) -> list[Tensor]:
        """See `KeepingCut.before`: those of the encoder's maps that the rest reads."""
        returned: list[Any] = []

        def stop(_module: nn.Module, _given: tuple[Any, ...], output: Any) -> None:
            returned.append(output)
            raise _Done

        with _stopping(network.get_submodule(self.encoder).register_forward_hook(stop)):
            network(inputs)
        found = _items(returned[0])
        return [found[key] for key in self._form[1]]

    def resume(self, maps: Sequence[Tensor], shape: Sequence[int]) -> Any:
        """See `KeepingCut.resume`: the network's output."""
        like, keys = self._form
        given = dict(zip(keys, maps, strict=True))
        encoder = self.network.get_submodule(self.encoder)
        kept = _filled(like, {key: given.get(key, maps[0].new_empty(0)) for key in _items(like)})
        own = encoder.__dict__.get("forward")
        encoder.__dict__["forward"] = lambda *_args, **_kwargs: kept
        try:
            # The rest reads no more of the image than its size.
            return self.network(maps[0].new_zeros(1).expand(*shape))
        finally:
            if own is None:
                del encoder.__dict__["forward"]
            else:
                encoder.__dict__["forward"] = own

    @cached_property
    def _form(self) -> tuple[Any, list[Any]]:
        """What the encoder returned once, and the keys of what the rest reads of it."""
        returned: list[Any] = []
        encoder = self.network.get_submodule(self.encoder)
        hook = encoder.register_forward_hook(lambda _m, _i, output: returned.append(output))
        try:
            run_on_noise(self.network, self.spec)
        finally:
            hook.remove()
        found = _items(returned[-1])
        spare = spare_maps(self.network, self.spec) if self.encoder == "encoder" else frozenset()
        return returned[-1], [k for k, one in found.items() if k not in spare and one.numel()]


class _Done(Exception):
    """Ends the network's run where the rest of it is not wanted."""


@contextmanager
def _stopping(hook: Any) -> Iterator[None]:
    try:
        yield
    except _Done:
        pass
    finally:
        hook.remove()


def _items(output: Any) -> dict[Any, Tensor]:
    """The tensors that an encoder returns, by position or name."""
    if isinstance(output, Tensor):
        return {None: output}
    found = dict(output) if isinstance(output, dict) else dict(enumerate(output))
    if not all(isinstance(one, Tensor) for one in found.values()):
        raise TypeError("an encoder that returns something else than maps")
    return found


def _filled(like: Any, values: dict[Any, Tensor]) -> Any:
    """Tensors in the form of an encoder's output."""
    if isinstance(like, Tensor):
        return values[None]
    return type(like)(values if isinstance(like, dict) else values.values())


def _starts(name: str) -> Iterator[str]:
    """Names of the modules that hold one, the network's own among them."""
    yield ""
    yield from (name[:end] for end, sign in enumerate(name) if sign == ".")


def decoder_cut(network: nn.Module, spec: ModelSpec) -> EncoderCut:
    """The cut behind a network's encoder, its child `encoder` or `backbone`.

    Args:
        network: It.
        spec: How it is fed.

    Raises:
        SegalError: If it has no such child, or nothing beside it.
    """
    children = dict(network.named_children())
    encoder = next((name for name in _ENCODERS if name in children), None)
    if encoder is None or len(children) == 1:
        raise SegalError(
            f"{spec.title} has no encoder that is told from the rest",
            expected=f"a network with a child module {' or '.join(_ENCODERS)}, and others",
            got=", ".join(children)[:200] or "a network without child modules",
            remedy="give last, last_two, or the name of the module to train from",
        )
    return EncoderCut(DECODER, network, frozenset(children.keys() - {encoder}), encoder, spec)
