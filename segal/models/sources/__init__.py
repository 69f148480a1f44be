"""Where networks come from by name: one file a library, and one for the user's own code."""

from segal.models.sources import huggingface, linear, own, smp, timm, torchvision
from segal.models.sources.base import Named, Source

__all__ = ["Named", "Source", "source_of"]

_SOURCES: dict[str, Source] = {
    "hf": huggingface.SOURCE,
    "timm": timm.SOURCE,
    "torchvision": torchvision.SOURCE,
}


def source_of(architecture: str) -> Source:
    """The source of an architecture's name: `hf:`, `timm:` and `torchvision:` name theirs.

    Any other name with a colon is an import path; `linear` is a linear layer on features, and any
    other name without one is of segmentation_models_pytorch.
    """
    if architecture == "linear":
        return linear.SOURCE
    prefix, colon, _ = architecture.partition(":")
    return _SOURCES.get(prefix, own.SOURCE) if colon else smp.SOURCE
