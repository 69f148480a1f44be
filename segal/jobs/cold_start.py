"""Features before anything is trained: of an encoder as its weights are given."""

from segal.config import RunConfig
from segal.errors import SegalError
from segal.models.cut import DECODER
from segal.models.sources import own, source_of
from segal.models.spec import answers_of

LINEAR = "linear"
"""The architecture whose last layer is given what an encoder makes, and nothing else."""


def by_encoder(config: RunConfig) -> RunConfig:
    """A run's configuration whose initial network has features that weights are known for.

    That is its own where training starts from a checkpoint, where only its last layer is new, and
    where it is the user's own code, which sees to its weights; else it is the encoder alone.

    Args:
        config: The configuration, with the architecture named.

    Raises:
        SegalError: If nothing says what the encoder's weights are, or a decoder between it and the
            features would be new.
    """
    network, answers = config.model, answers_of(config.task)
    architecture = network.architecture or ""
    source = source_of(architecture)
    on_tables = answers.of == "images" and architecture == LINEAR
    if config.checkpoint is not None or on_tables or source is own.SOURCE:
        return config
    name = config.seed_strategy["name"]
    if network.encoder_weights is None:
        raise SegalError(
            f"seed_strategy: {name} goes by features, and the network's are drawn at random",
            expected="an encoder with weights: model.encoder_weights, or a checkpoint",
            got=f"{architecture} without",
            remedy="give --encoder-weights FILE, or leave seed_strategy out",
        )
    if answers.of == "images" or architecture == LINEAR:
        return config
    if not source.usual_encoder(architecture, config.task):
        raise SegalError(
            f"seed_strategy: {name} goes by features, and those of {architecture} come out of "
            "layers that have no weights before they are trained",
            expected="linear or an architecture of segmentation_models_pytorch, whose encoder can "
            "be run alone, a network that classifies whole images, or a checkpoint",
            got=architecture,
            remedy="give --checkpoint FILE, or leave seed_strategy out",
        )
    alone = network.model_copy(
        update={"architecture": LINEAR, "options": None, "insert_dropout": None}
    )
    train = config.train.model_copy(update={"layers": DECODER})
    return config.model_copy(update={"model": alone, "train": train})
