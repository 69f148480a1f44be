"""Which modules of a network drop something."""

from torch import nn

_KINDS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def active_dropouts(network: nn.Module) -> dict[str, nn.Module]:
    """Dropout modules that drop anything, by name.

    They are `Dropout`, `Dropout1d`, `Dropout2d` and `Dropout3d` with p > 0. Left alone are
    `AlphaDropout` (made for SELU networks), stochastic depth (it drops layers, at rates that grow
    with depth) and calls of `torch.nn.functional`, which no module stands for.
    """
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _KINDS) and module.p > 0
    }
