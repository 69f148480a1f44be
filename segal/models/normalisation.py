"""What the published weights of encoders expect of their input: mean and std of each channel."""

import timm

from segal.models.spec import Channels

Constants = tuple[Channels, Channels]
"""(mean, std) of the channels R, G, B, on the scale 0 to 1."""

IMAGENET: Constants = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: Constants = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_DPN: Constants = ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3)

# Of segmentation_models_pytorch's own encoders whose published weights expect other constants than
# ImageNet's usual ones; it keeps them beside the weights, so that they cannot be asked offline.
_OF_SMP = {
    **dict.fromkeys(("dpn68", "dpn68b", "dpn92", "dpn98", "dpn107", "dpn131"), _DPN),
    **dict.fromkeys(("inceptionresnetv2", "inceptionv4", "xception"), _HALF),
    **dict.fromkeys((f"timm-tf_efficientnet_lite{size}" for size in range(5)), _HALF),
}


def published(encoder: str) -> Constants:
    """What an encoder's published weights expect of their input.

    Args:
        encoder: A name of segmentation_models_pytorch, or `tu-NAME` or `tu-NAME.TAG` for one of
            timm, whose configuration of those weights, or of the default ones, is asked.

    Returns:
        ImageNet's usual constants for an encoder without published weights.
    """
    if encoder.startswith("tu-"):
        return of_timm(encoder.removeprefix("tu-"))
    return _OF_SMP.get(encoder, IMAGENET)


def of_timm(name: str) -> Constants:
    """As `published`, for a name of timm."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.mean or not config.std:
        return IMAGENET
    return tuple(map(float, config.mean)), tuple(map(float, config.std))
