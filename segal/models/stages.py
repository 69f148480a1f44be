"""The stages of a network of whole images: the last map of each of its resolutions."""

from torch import Tensor, nn

from segal.models.noise import hooked, run_on_noise
from segal.models.spec import ModelSpec

_MOST = 4  # resolutions, the coarsest ones, as the four stages of a ResNet


def find_stages(network: nn.Module, spec: ModelSpec) -> list[str]:
    """Modules whose outputs are the last maps at the coarsest four resolutions, the finest first.

    Looked for by running the network once on square noise. Of each resolution the outermost modules
    count: a stage's output is that of its last block, not of the next block's first layer. Tokens,
    and maps whose channels come last, are not maps here; nor are those of one cell, attention, and
    patches of the image that nothing but a convolution has seen.

    Args:
        network: It.
        spec: How it is fed.

    Returns:
        Names of modules; empty for a network without maps, such as a transformer's.
    """
    last: dict[int, str] = {}
    outer: dict[int, int] = {}

    def look(name: str, module: nn.Module, output: object) -> None:
        if not isinstance(output, Tensor) or output.ndim != 4:
            return
        height, width = output.shape[-2:]
        depth = name.count(".")
        if height != width or height == 1 or _is_no_map(module):
            return
        if depth <= outer.setdefault(height, depth):
            last[height], outer[height] = name, depth

    with hooked(
        module.register_forward_hook(
            lambda module, _, output, name=name: look(name, module, output)
        )
        for name, module in network.named_modules()
        if name
    ):
        run_on_noise(network, spec)
    return [last[side] for side in sorted(last, reverse=True)[-_MOST:]]


def _is_no_map(module: nn.Module) -> bool:
    """Whether a module makes attention, or is a convolution that sees every pixel once."""
    return isinstance(module, nn.Softmax | nn.Dropout | nn.Identity) or (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == module.stride
        and max(module.stride) > 1
    )
