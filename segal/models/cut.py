"""Where a network is divided: what lies before is frozen, the rest is trained."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

from segal.errors import SegalError

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

    def frozen_modules(self) -> list[nn.Module]:
        """The modules before the cut, but for those that hold modules after it."""
        holding = {start for name in self.after for start in _starts(name)}
        return [
            module
            for name, module in self.network.named_modules()
            if name not in holding and not self._is_after(name)
        ]

    def _is_after(self, name: str) -> bool:
        return name in self.after or any(start in self.after for start in _starts(name))


def _starts(name: str) -> Iterator[str]:
    """Names of the modules that hold one, the network's own among them."""
    yield ""
    yield from (name[:end] for end, sign in enumerate(name) if sign == ".")


def decoder_cut(network: nn.Module, title: str) -> Cut:
    """The cut behind a network's encoder, its child `encoder` or `backbone`.

    Args:
        network: It.
        title: Its name, for messages.

    Raises:
        SegalError: If it has no such child, or nothing beside it.
    """
    children = dict(network.named_children())
    encoder = next((name for name in _ENCODERS if name in children), None)
    if encoder is None or len(children) == 1:
        raise SegalError(
            f"train.layers: {title} has no encoder that is told from the rest",
            expected=f"a network with a child module {' or '.join(_ENCODERS)}, and others",
            got=", ".join(children)[:200] or "a network without child modules",
            remedy="give last, last_two, or the name of the module to train from",
        )
    return Cut(DECODER, network, frozenset(children.keys() - {encoder}))
