"""Features before anything is trained: of an encoder as its weights are given."""

import timm
import torch
import torchvision

from segal.config import RunConfig, SelectConfig
from segal.errors import SegalError
from segal.models.build import build_model, make_spec
from segal.models.cut import DECODER
from segal.models.sources import own, source_of
from segal.models.spec import answers_of
from segal.models.wrapped import Model

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


def is_encoder(config: SelectConfig) -> bool:
    """Whether a selection looks at the pool with an encoder alone, whose answers mean nothing."""
    return config.checkpoint is None and config.model.encoder_weights is not None


def architecture_of(config: SelectConfig) -> tuple[str, str]:
    """Names of the network that stands for an encoder alone, and of its encoder.

    For pixels it is `linear` on the encoder; for whole images a network of timm or torchvision
    that has the encoder's name, of which the last layer is new.

    Raises:
        SegalError: If no encoder is named, or the task has no such network.
    """
    network, answers = config.model, answers_of(config.task)
    encoder = network.encoder or ""
    if answers.of == "objects":
        raise SegalError(
            f"model.encoder_weights: not for {config.task}",
            expected="a task whose networks are an encoder and layers on it, for pixels or whole "
            "images",
            got=f"task: {config.task}",
            remedy="give --checkpoint FILE, or leave --task out to select regions by features",
        )
    if answers.of == "images" and not encoder and network.architecture:
        return network.architecture, ""
    if network.architecture not in {None, LINEAR}:
        raise SegalError(
            f"model.architecture: {network.architecture}, without a checkpoint",
            expected="an encoder alone: nothing else of a network has weights",
            got=f"--arch {network.architecture}",
            remedy="leave --arch out, or give --checkpoint FILE",
        )
    if not encoder:
        raise SegalError(
            "model.encoder: missing",
            expected="the name of the encoder that the weights are of, in "
            "segmentation_models_pytorch or timm",
            got=f"--encoder-weights {network.encoder_weights}, and no --encoder",
            remedy="give --encoder NAME",
        )
    if answers.of == "pixels":
        return LINEAR, encoder
    of_torchvision = not timm.is_model(encoder) and encoder in torchvision.models.list_models()
    return f"{'torchvision' if of_torchvision else 'timm'}:{encoder}", ""


def encoder_alone(config: SelectConfig) -> Model:
    """The encoder that a selection looks at its pool with; what comes after it means nothing.

    Raises:
        SegalError: If there is no such encoder, or the weights are not its own.
    """
    architecture, encoder = architecture_of(config)
    network = config.model
    spec = make_spec(
        architecture,
        encoder or None,
        ("0", "1"),
        mean=network.mean,
        std=network.std,
        input_scale=network.input_scale or 1.0,
        options=network.options,
        task=config.task,
        input_side=network.input_side,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_model(spec, network.encoder_weights, network.state).eval()
