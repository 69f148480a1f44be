"""Configurations: what can be set, and how it is read and checked."""

from segal.config.commands import (
    ArmConfig,
    CompareConfig,
    ContrastConfig,
    RunConfig,
    SelectConfig,
    TrainConfig,
)
from segal.config.reading import STRATEGY_KEYS, Raw, read_config, validate
from segal.config.sections import (
    DataConfig,
    LabelsConfig,
    LayersStoreConfig,
    MachineConfig,
    ModelConfig,
    NetworkConfig,
    StoreConfig,
)
from segal.config.values import AT_RANDOM

__all__ = [
    "AT_RANDOM",
    "STRATEGY_KEYS",
    "ArmConfig",
    "CompareConfig",
    "ContrastConfig",
    "DataConfig",
    "LabelsConfig",
    "LayersStoreConfig",
    "MachineConfig",
    "ModelConfig",
    "NetworkConfig",
    "Raw",
    "RunConfig",
    "SelectConfig",
    "StoreConfig",
    "TrainConfig",
    "read_config",
    "validate",
]
