"""Finds the parts of a network that are trained or differentiated, by watching it run once."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from segal.errors import SegalError
from segal.models.cut import DECODER, ChainCut, Cut
from segal.models.noise import Head, hooked, run_on_noise
from segal.models.spec import ModelSpec
from segal.models.tails import Tail, affine_of
from segal.registry import nearest

TAILS = ("last", "last_two", "all")
PARTS = (*TAILS, DECODER)

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
            raise self._unknown("tail", layers, TAILS)
        calls = self._trace()
        last = next(call for call in reversed(calls) if call.name == self.head.name)
        return (
            self._last_two(calls, last)
            if layers == "last_two"
            else self._named(layers, calls, last)
        )

    def cut(self, layers: str) -> Cut:
        """Where the network is divided so that these layers are what is trained.

        Args:
            layers: `last`, `last_two` or the name of a module, as `find` takes them. What runs
                within the chain of modules from there to the head is trained, normalisation and
                dropout included; where a module is no such chain's first, it and all modules that
                begin to run after it are.

        Raises:
            SegalError: If there is no such place.
        """
        modules = {name for name, _ in self.network.named_modules() if name}
        if layers not in {"last", "last_two"} and layers not in modules:
            raise self._unknown("part to train", layers, PARTS)
        calls = self._trace()
        last = next(call for call in reversed(calls) if call.name == self.head.name)
        if layers == "last":
            own, chain = [last], [last]
        elif layers == "last_two":
            own = chain = self._two_convolutions(calls, last)
        else:
            own = self._runs(layers, calls, last)
            chain = (_chain_from(calls, own[0], last) if len(own) == 1 else None) or []
        if chain and _intact(chain) and _run_once(calls, chain):
            chain = _with_dropout(calls, chain)
            names = tuple(call.name for call in chain)
            return ChainCut(layers, self.network, frozenset(names), names)
        ran = {call.name for call in calls if own[0].start <= call.start <= last.start}
        return Cut(layers, self.network, frozenset(ran))

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

    def _two_convolutions(self, calls: list[_Call], last: _Call) -> list[_Call]:
        """The convolution before the head, what is in between, and the head."""
        leaves = [call for call in calls if call.leaf]
        chain = [last]
        while len(chain) == 1 or not isinstance(chain[0].module, nn.modules.conv._ConvNd):
            before = _producer(leaves, chain[0])
            if before is None:
                raise self._broken(leaves, chain)
            chain.insert(0, before)
        return chain

    def _last_two(self, calls: list[_Call], last: _Call) -> Tail:
        chain = self._two_convolutions(calls, last)
        modules = [call.module for call in chain]
        if _intact(chain) and _run_once(calls, chain):
            ends = {"0", str(len(chain) - 1)}
            return self._chained("last_two", modules, ends)
        names = [f"{c.name}.{p}" for c in (chain[0], last) for p, _ in c.module.named_parameters()]
        return self._replayed("last_two", names)

    def _runs(self, layers: str, calls: list[_Call], last: _Call) -> list[_Call]:
        """The calls of a module that come before the head's end."""
        own = [call for call in calls if call.name == layers and call.start <= last.start]
        if not own:
            raise SegalError(
                f"{self.spec.architecture}: {layers!r} is not run before the last layer",
                expected=f"a module that the logits come from, {self.head.name} or one before it",
                got=layers,
                remedy="name another, or use last, last_two or all",
            )
        return own

    def _named(self, layers: str, calls: list[_Call], last: _Call) -> Tail:
        own = self._runs(layers, calls, last)
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

    def _unknown(self, what: str, layers: str, usual: Sequence[str]) -> SegalError:
        names = [name for name, _ in self.network.named_modules() if name]
        near = nearest(layers, [*usual, *names])
        return SegalError(
            f"{self.spec.architecture}: no {what} {layers!r}",
            expected=f"{', '.join(usual)}, or the name of a module to start at",
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


def _with_dropout(calls: list[_Call], chain: list[_Call]) -> list[_Call]:
    """The chain with the modules between its links that return their input in `eval()` mode."""
    first, last = chain[0], chain[-1]
    passing = [
        call
        for call in calls
        if call.leaf
        and first.end < call.start < last.start
        and not _within(call, chain)
        and any(
            _same(call.source, link.output) and _same(call.output, link.output) for link in chain
        )
    ]
    return sorted([*chain, *passing], key=lambda call: call.start)


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
