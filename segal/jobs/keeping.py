"""A store at work: pools of a job as they are read through the frozen part of its network."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

from segal.config import LayersStoreConfig, RunConfig, SelectConfig, StoreConfig, TrainConfig
from segal.data.feature_store import FeatureStore
from segal.data.image_sets import ImageSet, SetName
from segal.data.kept import KeptPool
from segal.data.labelled import LabelledDataset
from segal.data.pool import ImagePool
from segal.data.reduced import ReducedPool
from segal.data.transforms import stack_images
from segal.errors import SegalError, raise_all
from segal.jobs.inputs import image_shapes
from segal.jobs.network import check_layers
from segal.models.frozen import FrozenLayers
from segal.models.wrapped import Model
from segal.tasks import find_task

Dataset = TypeVar("Dataset", bound=LabelledDataset)


class Keeping:
    """The store of a job, if it has one; without one, all is as it was.

    Args:
        config: What is said of the store; None where there is none.
        layers: What is trained of the network.
        reducing_gap: As in `SelectConfig`, where there is no store.

    Raises:
        SegalError: If the folder is no store.
    """

    def __init__(
        self, config: StoreConfig | None, layers: str, *, reducing_gap: float | None = None
    ) -> None:
        self._layers, self._store, self._gap = layers, None, reducing_gap
        if config is not None:
            limit = round(config.gigabytes * 1e9)
            self._store = FeatureStore(config.folder, limit, config.precision)
        self._part: tuple[Model, FrozenLayers] | None = None

    @classmethod
    def of(cls, config: RunConfig | TrainConfig | SelectConfig) -> "Keeping":
        """As a configuration has it."""
        if isinstance(config, SelectConfig):
            layers = config.store.layers if config.store is not None else ""
            return cls(config.store, layers, reducing_gap=config.reducing_gap)
        return cls(config.store, config.train.layers)

    @staticmethod
    def bytes_for(config: LayersStoreConfig | None, model: Model, pool: ImagePool) -> int | None:
        """Bytes that a pool would take in a store, by those of its first image.

        Args:
            config: What is said of the store; None where there is none.
            model: The network, on the device where it is used.
            pool: The images.

        Raises:
            SegalError: As `pool` does.
        """
        if config is None:
            return None
        part = _frozen(model, config.layers, "store.layers")
        numbers = sum(one.numel() for one in part(stack_images([pool.read(0)])))
        areas = [math.prod(model.spec.input_size(*pool.shape(i))) for i in range(len(pool))]
        size = 4 if config.precision == "float32" else 2
        return round(size * numbers * sum(areas) / areas[0])

    @property
    def notes(self) -> list[str]:
        """What the user should be told of the store."""
        return self._store.notes if self._store is not None else []

    def pool(self, model: Model | None, pool: ImagePool) -> ImagePool:
        """A pool as the network's later layers see it.

        Args:
            model: The network, on the device where it is used; None where there is none.
            pool: The images.

        Raises:
            SegalError: If the network's frozen part cannot be kept.
        """
        if model is None:
            return pool
        if self._store is None:
            if self._gap is None:
                return pool
            return ReducedPool(pool, partial(model.spec.reduction, gap=self._gap))
        if self._part is None or self._part[0] is not model:
            self._part = model, _frozen(model, self._layers, "store.layers")
        return KeptPool(pool, self._part[1], self._store)

    def dataset(self, model: Model, dataset: Dataset) -> Dataset:
        """A data set, likewise."""
        return dataset.with_pool(self.pool(model, dataset.pool))

    def sets(
        self, model: Model | None, sets: Mapping[SetName, ImageSet]
    ) -> dict[SetName, ImageSet]:
        """Sets of images, likewise."""
        return {name: replace(one, pool=self.pool(model, one.pool)) for name, one in sets.items()}


def check_keeping(config: RunConfig | TrainConfig, model: Model, trained: ImagePool) -> Keeping:
    """Refuses layers that the network has not, and a training that a store cannot serve.

    Args:
        config: The configuration.
        model: The network.
        trained: The images that are trained on.

    Returns:
        The store at work.

    Raises:
        SegalError: With all that is in the way, by its key.
    """
    train = config.train
    check_layers(model, train)
    if config.store is None:
        return Keeping.of(config)
    wanted = find_task(config.task).beyond_flips(train)
    wanted |= {"learning_loss": "false"} if train.learning_loss is not None else {}
    if len(image_shapes(trained)) > 1 and train.batch_size > 1:
        wanted["batch_size"] = "1"  # images of several sizes are no batch
    raise_all(
        [
            SegalError(
                f"train.{key}: not where training runs from a store",
                expected=f"{value}: a store holds whole images, as they are and mirrored",
                got=str(getattr(train, key)),
                remedy=f"give train.{key}={value}, or leave the store out",
            )
            for key, value in wanted.items()
        ]
    )
    _frozen(model, train.layers, "store")
    return Keeping.of(config)


def _frozen(model: Model, layers: str, key: str) -> FrozenLayers:
    """What lies before some layers; what is wrong with them is said of a key."""
    try:
        return FrozenLayers.of(model, layers)
    except SegalError as error:
        raise error.renamed(f"{key}: {error.problem}") from error
