"""Configurations: what can be set, and how it is read and checked."""

from segal.config.reading import Raw, read_config, validate
from segal.config.sections import (
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
