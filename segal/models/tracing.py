"""Finds a network's layers by running it once on noise and watching its modules."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segal.candidates.evidence import Upsampling
from segal.errors import SegalError
from segal.models.outputs import EachClass, TwoClasses, logits_of, refuse_probabilities
from segal.models.spec import DEFAULT_TASK, ModelSpec
from segal.models.tails import Tail, affine_of, upsample
from segal.registry import nearest

_SIDES = (224, 256, 384, 512)  # pixels of the noise image; the first that the network takes
_OF_IMAGES = (32, 28, 64, 84, 96, 128, *_SIDES, 1)  # likewise, where whole images are classified
TAILS = ("last", "last_two", "all")


class NoHeadError(SegalError):
    """A network has no last layer that is found: signals of features and gradients need it."""


@dataclass(frozen=True)
class Head:
    """The last layer.

    Attributes:
        name: Of the module.
        align_corners: How its output is upsampled.
        binary: Whether its one output is the logit of the second of two classes.
        each: Whether every output is of a class by itself, yes or no.
    """

    name: str
    align_corners: bool
    binary: bool
    each: bool = False

    def after(self) -> list[nn.Module]:
        """What makes logits of all classes of its output; nothing where they are that already."""
        return [EachClass()] if self.each else [TwoClasses()] if self.binary else []


def floating(network: nn.Module, default: Tensor | None = None) -> Tensor:
    """A parameter or buffer of the dtype and device that a network works in.

    Args:
        network: It.
        default: What stands for it where a network has none; float32 on the CPU without one.
    """
    tensors = itertools.chain(network.parameters(), network.buffers())
    found = next((t for t in tensors if t.is_floating_point()), default)
    return torch.zeros(()) if found is None else found


def failed(architecture: str, shape: Iterable[int], error: Exception) -> SegalError:
    """What a network raised in a forward pass, as a mistake that a user can mend.

    Args:
        architecture: Of the network.
        shape: (B, channels, height, width) of its input.
        error: What it raised.
    """
    batch, channels, height, width = shape
    text = " ".join(str(error).split())
    return SegalError(
        f"{architecture}: the network failed on {batch} images of {height} x {width} pixels",
        expected=f"a network that takes {channels} channels of that size, and memory for it",
        got=f"{type(error).__name__}: {text}"[:300],
        remedy="try a smaller machine.batch_size or model.input_scale, or another architecture",
    )


def run_on_noise(network: nn.Module, spec: ModelSpec) -> Tensor:
    """Runs a network on one square image of noise, in `eval()` mode, without gradients.

    Of the sizes 224, 256, 384 and 512 pixels, brought to multiples of its stride, and its stride
    (to which a network may be bound), the first is taken that it does not fail on. Of whole images
    it is the side that it is given, or the first of some usual ones, small ones first.

    Returns:
        The logits, as `logits_of` gives them.

    Raises:
        SegalError: If it fails on all of them, or returns no logits for its classes.
    """
    with torch.no_grad():
        return on_noise(network, spec)[0]


def on_noise(network: nn.Module, spec: ModelSpec) -> tuple[Tensor, int]:
    """As `run_on_noise`, with or without gradients: the logits, and the side of the image."""
    errors = list[SegalError]()
    for side in _sides(spec):
        shape = (1, spec.channels, side, side)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with evaluating(network), _first_mismatch(network) as mismatch:
            try:
                output = network(noise.to(floating(network)))
            except SegalError:
                raise
            except Exception as error:  # whatever the network's own code raises
                if mismatch:
                    raise _other_channels(spec, mismatch[0]) from error
                errors.append(failed(spec.architecture, shape, error))
                continue
        return logits_of(output, spec.num_classes, spec.architecture, spec.logit_dims), side
    raise errors[0]


def _sides(spec: ModelSpec) -> list[int]:
    if spec.task == DEFAULT_TASK:
        sides = [-(-side // spec.stride) * spec.stride for side in _SIDES]
        return list(dict.fromkeys([*sides, spec.stride]))
    if spec.input_channels is not None:  # features, not images
        return [1]
    return [spec.framing.side] if spec.framing is not None else list(_OF_IMAGES)


def check_network(network: nn.Module, spec: ModelSpec) -> None:
    """Runs a network once on noise, to see that it takes images and gives logits.

    Raises:
        SegalError: If it fails, takes another number of channels, returns no logits for its
            classes, or probabilities in their place.
    """
    with torch.enable_grad():
        logits, _ = on_noise(network, spec)
    refuse_probabilities(logits, spec.architecture, each=spec.task == "multilabel")


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """`eval()` for a while; afterwards each module is in its own mode again."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _first_mismatch(network: nn.Module) -> Iterator[list[int]]:
    """Input channels of the first convolution of a pass, if it was given another number of them."""
    found, ran = list[int](), list[nn.Module]()

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        given = inputs[0].shape[-3] if inputs and isinstance(inputs[0], Tensor) else None
        if not ran and given is not None and given != module.in_channels:
            found.append(module.in_channels)
        ran.append(module)

    with hooked(
        module.register_forward_pre_hook(look)
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ):
        yield found


def _other_channels(spec: ModelSpec, wanted: int) -> SegalError:
    return SegalError(
        f"{spec.architecture}: a network of {wanted} input channels, for images of {spec.channels}",
        expected=f"a network that takes {spec.channels} channels, as mean and std have numbers",
        got=f"a first convolution of {wanted}",
        remedy=f"build it for {spec.channels} channels, or give mean and std {wanted} numbers and "
        f"images of {wanted} bands",
    )


@contextmanager
def hooked(hooks: Iterable[Any]) -> Iterator[None]:
    """Places hooks for a while."""
    placed = list(hooks)
    try:
        yield
    finally:
        for hook in placed:
            hook.remove()


def find_head(network: nn.Module, spec: ModelSpec) -> Head:
    """Finds the last layer, and how its output is upsampled.

    It is a convolution with the logits' number of outputs, and nothing but bilinear upsampling
    (or nothing at all) comes after it.

    Raises:
        NoHeadError: If there is none.
        SegalError: As `run_on_noise` does.
    """
    ran: list[tuple[str, Tensor]] = []
    generator = torch.Generator().manual_seed(1)

    def scramble(name: str, output: Tensor) -> Tensor:
        # Noise in its place: a network that was not trained may give the same for every pixel.
        ran.append((name, torch.randn(output.shape, generator=generator).to(output)))
        return ran[-1][1]

    with (
        torch.no_grad(),
        hooked(
            module.register_forward_hook(lambda _m, _i, output, name=name: scramble(name, output))
            for name, module in network.named_modules()
            if isinstance(module, nn.Conv2d) and module.out_channels in {1, spec.num_classes}
        ),
    ):
        logits, side = on_noise(network, spec)
    outputs = logits.shape[1]
    ran = [(name, low) for name, low in ran if low.ndim == 4 and low.shape[1] == outputs]
    size = (logits.shape[-2], logits.shape[-1])
    # Logits that the network leaves at another size are spread by segal, as `as_classes` are.
    corners = (True, False) if size == (side, side) else (False,)
    for name, low in reversed(ran):
        if size != (side, side) and tuple(low.shape[-2:]) != size:
            continue  # two upsamplings in a row are not one
        for align_corners in corners:
            upsampled = upsample(low, Upsampling(size, align_corners))
            if upsampled.shape == logits.shape and torch.allclose(
                upsampled, logits, rtol=1e-3, atol=1e-3
            ):
                return Head(name, align_corners, binary=outputs < spec.num_classes)
    raise NoHeadError(
        f"{spec.architecture}: no last layer was found",
        expected=f"a convolution with {outputs} outputs"
        + (" (one per class)" if outputs == spec.num_classes else "")
        + ", then nothing but bilinear upsampling to the input's size",
        got=f"convolutions with that many outputs: {', '.join(n for n, _ in ran) or 'none'}",
        remedy="wrap the network so that its last layer is of that form",
    )


_Made = tuple[Tensor, int]  # a tensor and its version: an operation in place makes another version


@dataclass
class _Call:
    """One call of a module.

    Attributes:
        name: The module's.
        module: It.
        source: What it was given; None unless that was one tensor and nothing else.
        start: Its number among all starts and ends.
        end: Likewise.
        output: What it returned; None unless that was a tensor.
    """

    name: str
    module: nn.Module
    source: _Made | None
    start: int
    end: int = -1
    output: _Made | None = None

    @property
    def leaf(self) -> bool:
        return not any(True for _ in self.module.children())


@dataclass(frozen=True)
class TailFinder:
    """Finds the tails of a network.

    Attributes:
        network: It.
        head: Its last layer.
        spec: How it is fed.
    """

    network: nn.Module
    head: Head
    spec: ModelSpec

    def find(self, layers: str) -> Tail:
        """The tail of a name.

        Args:
            layers: `last`: the head. `last_two`: the parameters of the head and of the convolution
                before it, with nothing but normalisation, activation and dropout in between.
                `all`: every parameter of the network. Else the name of a module, such as
                `decoder.block2.0`: every parameter from there on, in the order that modules run.

        Raises:
            SegalError: If there is no such tail.
        """
        head = self.network.get_submodule(self.head.name)
        if layers == "last":
            return self._chained(layers, [head])
        if layers == "all":
            return self._replayed(layers, list(dict(self.network.named_parameters())))
        names = {name for name, _ in self.network.named_modules() if name}
        if layers != "last_two" and layers not in names:
            raise self._unknown(layers)
        calls = self._trace()
        last = next(call for call in reversed(calls) if call.name == self.head.name)
        return (
            self._last_two(calls, last)
            if layers == "last_two"
            else self._named(layers, calls, last)
        )

    def last_layers(self) -> list[nn.Module]:
        """Modules of which each makes the next one's only input; the last of them is the head."""
        calls = self._trace()
        last = next(call for call in reversed(calls) if call.name == self.head.name)
        leaves = [call for call in calls if call.leaf]
        chain = [last]
        while (before := _producer(leaves, chain[0])) is not None:
            chain.insert(0, before)
        while len(chain) > 1 and not (_intact(chain) and _run_once(calls, chain)):
            chain.pop(0)
        return [call.module for call in chain]

    def _last_two(self, calls: list[_Call], last: _Call) -> Tail:
        leaves = [call for call in calls if call.leaf]
        chain = [last]
        while len(chain) == 1 or not isinstance(chain[0].module, nn.modules.conv._ConvNd):
            before = _producer(leaves, chain[0])
            if before is None:
                raise self._broken(leaves, chain)
            chain.insert(0, before)
        modules = [call.module for call in chain]
        if _intact(chain) and _run_once(calls, chain):
            ends = {"0", str(len(chain) - 1)}
            return self._chained("last_two", modules, ends)
        names = [f"{c.name}.{p}" for c in (chain[0], last) for p, _ in c.module.named_parameters()]
        return self._replayed("last_two", names)

    def _named(self, layers: str, calls: list[_Call], last: _Call) -> Tail:
        own = [call for call in calls if call.name == layers and call.start <= last.start]
        if not own:
            raise SegalError(
                f"{self.spec.architecture}: {layers!r} is not run before the last layer",
                expected=f"a module that the logits come from, {self.head.name} or one before it",
                got=layers,
                remedy="name another, or use last, last_two or all",
            )
        chain = _chain_from(calls, own[0], last) if len(own) == 1 else None
        if chain is not None and _intact(chain) and _run_once(calls, chain):
            return self._chained(layers, [call.module for call in chain])
        ran = [call for call in calls if own[0].start <= call.start <= last.start]
        names = {
            f"{call.name}.{name}"
            for call in ran
            for name, _ in call.module.named_parameters(recurse=call is own[0])
        }
        every = [name for name, _ in self.network.named_parameters()]
        return self._replayed(layers, [name for name in every if name in names])

    def _chained(self, layers: str, modules: list[nn.Module], keep: set[str] | None = None) -> Tail:
        """A tail that runs modules one after another."""
        source = modules[0]
        modules = [*modules, *self.head.after()]
        module = modules[0] if len(modules) == 1 else nn.Sequential(*modules)
        parameters: Mapping[str, Tensor] = {
            name: value
            for name, value in module.named_parameters()
            if keep is None or name.split(".")[0] in keep
        }
        affine = affine_of(modules, parameters)
        return Tail(layers, module, parameters, self.head.align_corners, source, affine)

    def _replayed(self, layers: str, names: list[str]) -> Tail:
        """A tail that runs the whole network again."""
        module = _Replay(self.network, self.head)
        parameters = {f"network.{name}": self.network.get_parameter(name) for name in names}
        corners = self.head.align_corners
        return Tail(layers, module, parameters, corners, self.network, replays=True)

    def _trace(self) -> list[_Call]:
        """Every call of a module on a run, in the order of their starts."""
        calls: list[_Call] = []
        running: list[_Call] = []
        clock = iter(range(10**9))

        def start(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
            alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
            source = (args[0], args[0]._version) if alone else None
            running.append(_Call(name, module, source, next(clock)))
            calls.append(running[-1])

        def end(_: nn.Module, __: Any, output: object) -> None:
            call = running.pop()
            call.end = next(clock)
            if isinstance(output, Tensor):
                call.output = (output, output._version)

        def watch() -> Iterator[Any]:
            for name, module in self.network.named_modules():
                before: Callable[..., None] = lambda m, args, kwargs, name=name: start(  # noqa: E731
                    name, m, args, kwargs
                )
                yield module.register_forward_pre_hook(before, with_kwargs=True)
                yield module.register_forward_hook(end)

        with hooked(watch()):
            run_on_noise(self.network, self.spec)
        return calls

    def _unknown(self, layers: str) -> SegalError:
        names = [name for name, _ in self.network.named_modules() if name]
        near = nearest(layers, [*TAILS, *names])
        return SegalError(
            f"{self.spec.architecture}: no tail {layers!r}",
            expected=f"{', '.join(TAILS)}, or the name of a module to start at",
            got=repr(layers),
            remedy=f"did you mean {near!r}?" if near else f"name one, such as {self.head.name}",
        )

    def _broken(self, leaves: list[_Call], chain: list[_Call]) -> SegalError:
        found = " <- ".join(f"{c.name} ({type(c.module).__name__})" for c in reversed(chain))
        earlier = [
            call.name
            for call in leaves
            if isinstance(call.module, nn.Conv2d) and call.end < chain[-1].start
        ]
        such = f" such as {earlier[-1]}" if earlier else ""
        return SegalError(
            f"{self.spec.architecture}: no tail 'last_two' was found",
            expected="a convolution, then modules of one input each (normalisation, activation, "
            f"dropout), then the last layer {self.head.name}",
            got=f"{found} <- what no single module made (a sum, a concatenation, a function)",
            remedy=f"name the module to start at{such}, or use last or all",
        )


class _Replay(nn.Module):
    """From the network's input to its last layer's output."""

    def __init__(self, network: nn.Module, head: Head) -> None:
        super().__init__()
        self.network = network
        self._head_name = head.name
        self._after = nn.Sequential(*head.after())

    def forward(self, inputs: Tensor) -> Tensor:
        caught: list[Tensor] = []
        head = self.network.get_submodule(self._head_name)
        hook = head.register_forward_hook(lambda _m, _i, output: caught.append(output))
        try:
            self.network(inputs)
        finally:
            hook.remove()
        logits: Tensor = self._after(caught[-1])
        return logits


def _same(a: _Made | None, b: _Made | None) -> bool:
    return a is not None and b is not None and a[0] is b[0] and a[1] == b[1]


def _producer(calls: Iterable[_Call], call: _Call) -> _Call | None:
    """The call whose output is another's only input, unchanged.

    What returns its input as it is (Identity, dropout in `eval()`) is passed over, and of nested
    modules the outermost is taken: both come from taking the first call of those that fit.
    """
    fitting = (c for c in calls if c.end < call.start and _same(c.output, call.source))
    return next(fitting, None)


def _chain_from(calls: list[_Call], first: _Call, last: _Call) -> list[_Call] | None:
    """Calls from a module's on, each the only input of the next; None if there is no such chain.

    A module that holds the last layer is taken apart.
    """
    holds = first.start < last.start < first.end
    if holds:
        usable = [call for call in calls if first.start < call.start < first.end]
    else:
        usable = [call for call in calls if call is first or call.start > first.end]
    chain = [last]
    while chain[0] is not first and not (holds and _same(chain[0].source, first.source)):
        before = _producer(usable, chain[0])
        if before is None:
            return None
        chain.insert(0, before)
    return chain


def _intact(chain: list[_Call]) -> bool:
    """Whether a chain's input is one tensor, still as it was when the run is over."""
    source = chain[0].source
    return source is not None and source[0]._version == source[1]


def _run_once(calls: list[_Call], chain: list[_Call]) -> bool:
    """Whether a chain's parameters come into the logits by the chain alone."""
    trained = [p for call in chain for p in call.module.parameters()]
    used = {id(p) for p in trained}
    elsewhere = (c for c in calls if c.start < chain[-1].start and not _within(c, chain))
    own = (p for call in elsewhere for p in call.module.parameters(recurse=False))
    return len(used) == len(trained) and not any(id(p) in used for p in own)


def _within(call: _Call, chain: list[_Call]) -> bool:
    return any(link.start <= call.start <= link.end for link in chain)
