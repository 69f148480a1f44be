"""The network that a training starts from, and what identifies a training; for all that train."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch

from segal.candidates.regions import RegionSize
from segal.config import (
    DataConfig,
    MachineConfig,
    ModelConfig,
    NetworkConfig,
    RunConfig,
    TrainConfig,
)
from segal.data.datasets import Chooser
from segal.data.images import ImageInfo
from segal.data.labelled import LabelledDataset
from segal.data.pool import ImagePool
from segal.errors import SegalError
from segal.jobs.inputs import image_shapes
from segal.models.build import build_model, check_image_sizes, make_spec
from segal.models.checkpoint import (
    CheckpointOptions,
    load_checkpoint,
    load_from_folder,
    read_spec,
)
from segal.models.folders import folder_of
from segal.models.spec import ModelSpec
from segal.models.wrapped import Model
from segal.scenes.synthetic import make_scenes
from segal.system.console import Advance, bar
from segal.system.machine import readers
from segal.system.ranks import all_ranks
from segal.tasks import Outline, find_task
from segal.tasks.classes import are_numbers, check_class_names
from segal.training.convex import linear_head
from segal.training.parallel import check_accelerate
from segal.training.pieces import check_pieces
from segal.training.settings import ALL_LAYERS, TrainSettings

Config = TypeVar("Config", TrainConfig, RunConfig)


class _OfNetwork(Protocol):
    """A configuration that names a network."""

    @property
    def checkpoint(self) -> Path | None: ...

    @property
    def model(self) -> ModelConfig | NetworkConfig: ...

    def model_copy(self, *, update: Mapping[str, Any]) -> Self: ...


AnyConfig = TypeVar("AnyConfig", bound=_OfNetwork)


def draw_scenes(data: DataConfig) -> None:
    """Draws the made-up scenes that a data set is configured to consist of, if it is."""
    if data.scenes is None:
        return
    scenes = data.scenes
    with bar("Drawing street scenes") as advance:
        make_scenes(
            data.root,
            splits={"train": scenes.train, "val": scenes.val},
            size=(scenes.height, 2 * scenes.height),
            seed=scenes.seed,
            progress=advance,
        )


def open_split(
    task: str,
    data: DataConfig,
    split: str,
    machine: MachineConfig,
    progress: Advance,
    only: Chooser | None = None,
    known: Mapping[str, tuple[int, int, ImageInfo]] | None = None,
    missing_labels: bool = False,
) -> LabelledDataset:
    """Opens a split of a configured data set; the rest is as in `Task.open_split`."""
    asked = find_task(task)
    dataset = asked.open_split(
        data,
        split,
        only,
        missing_labels=missing_labels,
        workers=readers(machine.workers),
        known=known,
        progress=progress,
    )
    if split == data.train and data.rare_classes:
        return asked.thinned(dataset, data.rare_classes, data.rare_share)
    return dataset


def refuse_two_sources(config: TrainConfig | RunConfig) -> None:
    """Raises a SegalError if the encoder's weights are given twice."""
    if config.checkpoint is not None and config.model.encoder_weights is not None:
        raise two_sources(config.checkpoint, config.model.encoder_weights)


def two_sources(checkpoint: Path, encoder: Path) -> SegalError:
    """The error of an encoder's weights that are given twice."""
    return SegalError(
        "the encoder's weights are given twice",
        expected="checkpoint or model.encoder_weights",
        got=f"{checkpoint} and {encoder}",
        remedy="leave the encoder weights out: a checkpoint holds the encoder's too",
    )


def check_training(config: TrainConfig | RunConfig) -> None:
    """Raises a SegalError if networks of a task are not trained so, or not by so many ranks."""
    find_task(config.task).training_scheme(config.train)
    ranks = all_ranks()
    check_pieces(config.train, ranks)
    if config.train.optimizer != "lbfgs":  # which one rank does
        check_accelerate(ranks)


def with_folder(config: AnyConfig) -> AnyConfig:
    """The configuration with the folder of `hf:FOLDER` as its checkpoint, if that has weights.

    Raises:
        SegalError: If there is no such folder.
    """
    network = config.model
    if config.checkpoint is not None or "config" in (network.options or {}):
        return config
    folder = folder_of(network.architecture)
    if folder is None:
        return config
    model = network.model_copy(update={"architecture": None})
    return config.model_copy(update={"checkpoint": folder, "model": model})


def initial_model(config: TrainConfig | RunConfig, outline: Outline) -> Model:
    """The network to start from: a checkpoint's, a folder's, or a new one.

    Args:
        config: The configuration.
        outline: Of the data set.

    Raises:
        SegalError: If a file cannot be used, or is of other classes.
    """
    config, class_names = with_folder(config), outline.class_names
    network = config.model
    if config.checkpoint is not None:
        folder = config.checkpoint.is_dir()
        plain = not folder and _is_plain(config.checkpoint)
        options = CheckpointOptions(
            architecture=network.architecture,
            encoder=network.encoder,
            num_classes=len(class_names) if plain else None,
            mean=network.mean,
            std=network.std,
            input_scale=network.input_scale,
            insert_dropout=network.insert_dropout,
            options=network.options,
            state=network.state,
            task=config.task,
            input_side=network.input_side,
            input_channels=outline.channels if plain else None,
        )
        if folder:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                return load_from_folder(config.checkpoint, options, class_names)
        model = load_checkpoint(config.checkpoint, options)
        if network.new_classes and len(class_names) == model.spec.num_classes:
            model.spec = replace(model.spec, class_names=class_names)
        check_class_names(model.spec, class_names, str(config.data.root))
        if are_numbers(model.spec.class_names):
            model.spec = replace(model.spec, class_names=class_names)
        return model
    spec = make_spec(
        network.architecture or find_task(config.task).usual_network(outline.channels),
        network.encoder or None,
        class_names,
        mean=network.mean,
        std=network.std,
        input_scale=network.input_scale or 1.0,
        insert_dropout=network.insert_dropout or 0.0,
        options=network.options,
        task=config.task,
        input_side=network.input_side,
        input_channels=outline.channels,
    )
    # Weights that no file gives are drawn by torch's own initialisers.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_model(spec, network.encoder_weights, network.state)


def check_sizes(model: Model, crop: str, trained: ImagePool, *evaluated: ImagePool) -> None:
    """Refuses a network that does not run at the sizes of a training, before it starts.

    Args:
        model: The network.
        crop: Size of the crops, as `train.crop` has it.
        trained: The images that crops are drawn from.
        evaluated: Images that are looked at as a whole.

    Raises:
        SegalError: With a size that it takes.
    """
    size = RegionSize.parse(crop)
    sizes = [size for pool in evaluated for size in image_shapes(pool, model.spec)]
    whole = sorted(image_shapes(trained))
    if size.height is None or size.width is None:
        sizes += whole
    else:
        highest, widest = (max(side) for side in zip(*whole, strict=True))
        sizes.append((min(size.height, highest), min(size.width, widest)))
    check_image_sizes(model, sizes)


def check_layers(model: Model, train: TrainSettings) -> None:
    """Raises a SegalError if a network does not have the layers that are to be trained."""
    try:
        if train.optimizer == "lbfgs":
            linear_head(model, train.layers)
        elif train.layers != ALL_LAYERS:
            model.cut(train.layers)
    except SegalError as error:
        raise error.renamed(f"train.layers: {error.problem}") from error


def _is_plain(checkpoint: Path) -> bool:
    """Whether a checkpoint is a plain state_dict; its classes are then those of the data set."""
    try:
        return read_spec(checkpoint) is None
    except SegalError:
        return False  # `load_checkpoint` says what is wrong with it


def resolved(config: Config, spec: ModelSpec) -> Config:
    """The configuration with what was left to the defaults or to the checkpoint."""
    keys = ("architecture", "encoder", "mean", "std", "input_scale", "insert_dropout", "options")
    network = config.model.model_copy(update={key: getattr(spec, key) for key in keys})
    return config.model_copy(update={"model": network})
