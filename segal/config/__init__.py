"""Configurations: what can be set, and how it is read and checked."""

from segal.config.reading import Raw, read_config, validate
from segal.config.sections import (
    ArmConfig,
    CompareConfig,
    ContrastConfig,
    DataConfig,
    LabelsConfig,
    MachineConfig,
    ModelConfig,
    NetworkConfig,
    RunConfig,
    SelectConfig,
    TrainConfig,
)

__all__ = [
    "ArmConfig",
    "CompareConfig",
    "ContrastConfig",
    "DataConfig",
    "LabelsConfig",
    "MachineConfig",
    "ModelConfig",
    "NetworkConfig",
    "Raw",
    "RunConfig",
    "SelectConfig",
    "TrainConfig",
    "read_config",
    "validate",
]
