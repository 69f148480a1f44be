"""Dropout at prediction: passes that draw masks, where everything else stays in `eval()` mode."""

import copy
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segal.candidates.kept import Images
from segal.errors import SegalError
from segal.models.dropouts import active_dropouts
from segal.models.wrapped import Model, NoHeadError


class Draws(Protocol):
    """What masks are drawn from, such as a numpy generator."""

    def random(self, size: tuple[int, ...], dtype: type[np.float32]) -> NDArray[np.float32]:
        """Numbers of [0, 1)."""
        ...


Drawn = Callable[[str], Draws]
"""What masks are drawn from, by the name of the dropout and the number of its call, `name:0`."""


def insert_dropout(model: Model) -> Model:
    """The model with the dropout before its last layer that its specification says, if any.

    Raises:
        SegalError: If it says one, and the network has no last layer that is found.
    """
    if not model.spec.insert_dropout > 0:
        return model
    try:
        layers = model.last_layers()
    except NoHeadError as error:
        raise error.renamed(
            f"model.insert_dropout: {model.spec.architecture} has no last layer to put it before"
        ) from error
    for layer in layers:
        add_dropout(layer, model.spec.insert_dropout)
    return type(model)(model.network, model.spec)  # its tails are those of the changed layer


def add_dropout(head: nn.Module, p: float) -> None:
    """Puts a dropout of channels before a layer; the names of its parameters stay as they are.

    Whole channels are dropped, as neighbouring cells of a feature map say nearly the same.

    Args:
        head: The layer. It gets a child `dropout`, which follows its mode.
        p: Share of the channels of its input that is dropped, in [0, 1].
    """
    maps = isinstance(head, nn.Conv2d)
    head.add_module("dropout", nn.Dropout2d(p) if maps else nn.Dropout(p))
    head.register_forward_pre_hook(_through_dropout)


def _through_dropout(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # Takes the dropout from its argument, so that a deep copy of the layer uses its own.
    return (head.get_submodule("dropout")(inputs[0]), *inputs[1:])


def check_dropout(model: Model) -> None:
    """Runs a network once on noise to see whether dropout changes its logits.

    A network may hold dropout that it never calls, or only on the way to an auxiliary output. What
    each gives is taken for not a number, and looked for in the logits.

    Raises:
        SegalError: If none does.
    """
    dropouts = active_dropouts(model.network)
    hooks = [
        module.register_forward_hook(lambda _m, _i, output: torch.full_like(output, torch.nan))
        for module in dropouts.values()
    ]
    try:
        if dropouts and model.logits_of_noise().isnan().any():
            return
    finally:
        for hook in hooks:
            hook.remove()
    raise SegalError(
        f"{model.spec.architecture}: no dropout on the way to its logits",
        expected="a dropout module with p above 0, for MC-dropout or BALD",
        got=f"none that is run, of {', '.join(dropouts)}" if dropouts else "none",
        remedy="train with model.insert_dropout=0.2, or use another strategy",
    )


@contextmanager
def dropout_passes(model: Model) -> Iterator[Callable[[Images, Drawn], Tensor]]:
    """Switches dropout on, and nothing else: BatchNorm and the modes of modules stay as they are.

    What does not come after a dropout is run in the first pass only, and its outputs are kept
    until the end: usually the encoder's. They are of one image, or of one batch, which has to be
    given to every pass. Exact, as long as the network does the same each time but for dropout.

    Args:
        model: The network, in `eval()` mode.

    Yields:
        A function that takes a batch (B, 3, H, W), normalised, always the same one, and what the
        masks are drawn from, and returns logits (B, C, H, W). A mask is drawn on the CPU, on any
        device, for the whole batch at once.
    """
    with _Passes(model, active_dropouts(model.network)).switched_on() as passes:
        yield passes.run


@dataclass(frozen=True)
class _Kept:
    """A module's output, kept for later passes.

    Attributes:
        output: Tensors, or lists, tuples and dictionaries of them.
        versions: Of its tensors: an operation in place makes another version of the same tensor.
        inputs: Tensors that must be given again; None if any will do, as no dropout came before.
    """

    output: Any
    versions: tuple[int, ...]
    inputs: tuple[Tensor, ...] | None

    def holds(self, inputs: list[Tensor] | None) -> bool:
        if tuple(t._version for t in _tensors(self.output) or ()) != self.versions:
            return False
        if self.inputs is None:
            return True
        return (
            inputs is not None
            and len(inputs) == len(self.inputs)
            and all(one is other for one, other in zip(inputs, self.inputs, strict=True))
        )


@dataclass
class _Passes:
    """Passes over one batch; each module's `forward` is replaced while they last.

    Attributes:
        model: The network.
        dropouts: Those that are switched on, by name.
        kept: Outputs by module and number of its call.
        constant: Ids and versions of the tensors in `kept`: no dropout changed them.
        first: Whether it is the first pass; later ones keep nothing more.
        calls: How often each module was called in this pass.
        dropped: Whether a dropout was called in this pass.
        inside: Whether a module that may be kept is running; what it calls is part of it.
    """

    model: Model
    dropouts: dict[str, nn.Module]
    kept: dict[Hashable, _Kept] = field(default_factory=dict)
    constant: dict[int, int] = field(default_factory=dict)
    first: bool = True
    calls: dict[nn.Module, int] = field(default_factory=dict)
    dropped: bool = False
    inside: bool = False

    @contextmanager
    def switched_on(self) -> Iterator["_Passes"]:
        """Replaces what modules do, and puts it back whatever happens."""
        replaced: list[tuple[nn.Module, Any]] = []
        active = set(self.dropouts.values())
        names = {module: name for name, module in self.dropouts.items()}
        try:
            for module in list(self.model.network.modules()):
                own = module.__dict__.get("forward")
                if module in active:
                    forward = self._dropping(module, names[module])
                elif active.isdisjoint(module.modules()):
                    forward = self._keeping(module, module.forward)
                else:
                    continue
                replaced.append((module, own))
                module.__dict__["forward"] = forward
            with self.model.own_way():  # a mask is of a whole map, not of a band of it
                yield self
        finally:
            for module, own in replaced:
                if own is None:
                    del module.__dict__["forward"]
                else:
                    module.__dict__["forward"] = own

    def run(self, images: Images, drawn: Drawn) -> Tensor:
        """One pass: logits (B, C, H, W)."""
        self.calls, self.dropped, self.inside = {}, False, False
        self._drawn = drawn
        with torch.no_grad():
            logits: Tensor = self.model(images).logits
        self.first = False
        return logits

    def _count(self, module: nn.Module) -> int:
        number = self.calls.get(module, 0)
        self.calls[module] = number + 1
        return number

    def _dropping(self, module: nn.Module, name: str) -> Callable[[Tensor], Tensor]:
        channels = not isinstance(module, nn.Dropout)
        keep = 1.0 - float(module.p)  # type: ignore[arg-type]

        def forward(x: Tensor) -> Tensor:
            self.dropped = True
            shape = x.shape[:2] + (1,) * (x.ndim - 2) if channels else x.shape
            rng = self._drawn(f"{name}:{self._count(module)}")
            mask = torch.from_numpy(rng.random(tuple(shape), np.float32) < keep)
            return x * (mask.to(x) / max(keep, torch.finfo(x.dtype).tiny))

        return forward

    def _keeping(self, module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if self.inside:
                return original(*args, **kwargs)
            key = (module, self._count(module))
            inputs = _tensors((args, kwargs))
            kept = self.kept.get(key)
            if kept is not None and kept.holds(inputs):
                return _copied(kept.output)
            before = [t._version for t in inputs or ()]
            self.inside = True
            try:
                output = original(*args, **kwargs)
            finally:
                self.inside = False
            if self.first and inputs is not None and before == [t._version for t in inputs]:
                self._keep(key, inputs, output)
            return output

        return forward

    def _keep(self, key: Hashable, inputs: list[Tensor], output: Any) -> None:
        """Keeps an output that no dropout changed."""
        tensors = _tensors(output)
        constant = bool(inputs) and all(self.constant.get(id(t)) == t._version for t in inputs)
        if not tensors or (self.dropped and not constant):
            return
        versions = tuple(t._version for t in tensors)
        self.kept[key] = _Kept(_copied(output), versions, tuple(inputs) if self.dropped else None)
        self.constant.update((id(t), t._version) for t in tensors)


def _tensors(value: object) -> list[Tensor] | None:
    """Tensors in nested lists, tuples and dictionaries; None if there is anything unknown."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple | dict):
        found: list[Tensor] = []
        for item in value.values() if isinstance(value, dict) else value:
            inside = _tensors(item)
            if inside is None:
                return None
            found += inside
        return found
    return [] if value is None or isinstance(value, bool | int | float | str) else None


def _copied(value: Any) -> Any:
    """The same tensors in lists and dictionaries of their own, which the network may change."""
    if isinstance(value, list):
        return [_copied(item) for item in value]
    if type(value) is tuple:
        return tuple(_copied(item) for item in value)
    if isinstance(value, dict):
        copied = copy.copy(value)  # of its own type: some have their values as attributes too
        for key, item in value.items():
            copied[key] = _copied(item)
        return copied
    return value
