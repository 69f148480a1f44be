"""What the published weights of encoders expect of their input: mean and std of each channel."""

from segal.models.spec import Channels

_IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: tuple[Channels, Channels] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_DPN: tuple[Channels, Channels] = ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3)
_UNIT: tuple[Channels, Channels] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

# Encoders whose published weights expect other constants than ImageNet's usual ones, by prefix.
_NORMALISATION = {
    "inceptionresnetv2": _HALF,
    "inceptionv4": _HALF,
    "xception": _HALF,
    "tu-tf_efficientnet_lite": _HALF,
    "tu-tf_mobilenetv3": _HALF,
    "tu-tf_efficientnetv2": _HALF,
    "tu-tf_inception": _HALF,
    "tu-xception": _HALF,
    "tu-vit_": _HALF,
    "tu-mobilevit": _UNIT,
    "dpn": _DPN,
    "tu-dpn": _DPN,
}


def normalisation(encoder: str) -> tuple[Channels, Channels]:
    """(mean, std) of an encoder's input channels (R, G, B), on the scale 0 to 1."""
    for prefix, constants in _NORMALISATION.items():
        if encoder.startswith(prefix):
            return constants
    return _IMAGENET
