"""Configurations: what can be set, and how it is read and checked."""

from segal.config.reading import STRATEGY_KEYS, Raw, read_config, validate
from segal.config.sections import (
    AT_RANDOM,
    ArmConfig,
    CompareConfig,
    ContrastConfig,
    DataConfig,
    LabelsConfig,
    LayersStoreConfig,
    MachineConfig,
    ModelConfig,
    NetworkConfig,
    RunConfig,
    SelectConfig,
    StoreConfig,
    TrainConfig,
)

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
