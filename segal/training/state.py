"""The state of an unfinished training, and its file.

The file is safetensors: the model's weights, the optimizer's tensors and the best weights so far,
with the rest as JSON in its metadata. Random numbers need no state of their own, since each is
derived from the seed and the step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from segal.errors import SegalError
from segal.system.files import replacing
from segal.system.tensor_files import save_tensors

_METADATA_KEY = "segal training"


class _Metadata(BaseModel):
    model_config = ConfigDict(extra="forbid")

    identity: dict[str, str]
    step: int
    loss: float
    validations: list[tuple[int, float | None]]
    best_step: int | None
    worse: int
    scaler: dict[str, Any]


@dataclass
class TrainingState:
    """How far a training is.

    Attributes:
        step: Optimizer steps taken.
        loss: Of the last step.
        validations: (step, score by the task's metric) of each validation.
        best: The weights that did best in validation, on the CPU.
        best_step: The step that they are from.
        worse: Validations since then.
    """

    step: int = 0
    loss: float = float("nan")
    validations: list[tuple[int, float]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    best_step: int | None = None
    worse: int = 0

    def record(self, score: float, weights: Mapping[str, Tensor]) -> None:
        """Notes a validation of a model with these weights; the first of equal ones is the best."""
        earlier = [value for _, value in self.validations if not np.isnan(value)]
        self.validations.append((self.step, score))
        if self.best is None or score > max(earlier, default=-1.0):
            self.best, self.best_step, self.worse = _on_cpu(weights), self.step, 0
        else:
            self.worse += 1

    def save(
        self,
        path: Path,
        identity: Mapping[str, str],
        weights: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> None:
        """Writes the state whole, or leaves the old file.

        Args:
            path: Ends in `.safetensors`.
            identity: What the training is, by name; `load` compares it.
            weights: Of the model, by name.
            optimizer: Its tensors are written.
            scaler: Of the loss, for half precision.

        Raises:
            SegalError: If the file cannot be written.
        """
        metadata = _Metadata(
            identity=dict(identity),
            step=self.step,
            loss=self.loss,
            validations=[(s, None if np.isnan(v) else v) for s, v in self.validations],
            best_step=self.best_step,
            worse=self.worse,
            scaler=scaler.state_dict(),
        )
        tensors = {f"network.{k}": v for k, v in weights.items()}
        tensors |= {f"best.{k}": v for k, v in (self.best or {}).items()}
        tensors |= {
            f"optimizer.{index}.{key}": value
            for index, values in optimizer.state_dict()["state"].items()
            for key, value in values.items()
            if isinstance(value, Tensor)
        }
        with replacing(path) as temporary:
            save_tensors(_on_cpu(tensors), temporary, {_METADATA_KEY: metadata.model_dump_json()})

    def load(
        self,
        path: Path,
        identity: Mapping[str, str],
        weights: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> None:
        """Reads what `save` wrote, into this state, the tensors and the objects given.

        Raises:
            SegalError: If the file is damaged or belongs to another training.
        """
        metadata, tensors = _read(path)
        other = sorted(k for k, v in identity.items() if metadata.identity.get(k) != v)
        if other:
            raise SegalError(
                f"{path}: the checkpoint of another training",
                expected="the same " + ", ".join(identity),
                got="another " + ", another ".join(other),
                remedy="train with what the checkpoint was made with, or remove the file",
            )
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "best": {}, "optimizer": {}}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        copy_weights(parts["network"], weights)
        optimizer_state: dict[int, dict[str, Tensor]] = {}
        for key, value in parts["optimizer"].items():
            index, _, name = key.partition(".")
            optimizer_state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": optimizer_state})
        scaler.load_state_dict(metadata.scaler)
        self.step, self.loss, self.worse = metadata.step, metadata.loss, metadata.worse
        self.validations = [(s, np.nan if v is None else v) for s, v in metadata.validations]
        self.best, self.best_step = parts["best"] or None, metadata.best_step


def _read(path: Path) -> tuple[_Metadata, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = _Metadata.model_validate_json((file.metadata() or {})[_METADATA_KEY])
        return metadata, load_file(path)
    except (SafetensorError, OSError, KeyError, ValidationError) as error:
        raise SegalError(
            f"{path}: not the checkpoint of a training, or damaged",
            expected="a file that segal wrote during a training",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}",
            remedy="remove the file, so that the training starts afresh",
        ) from error


def copy_weights(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Copies weights in place, whatever device they are on; the keys must be the same."""
    with torch.no_grad():
        for key, value in target.items():
            value.copy_(source[key])


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Clones, since safetensors refuses tensors that share memory and the best must not change.
    return {k: v.detach().cpu().clone().contiguous() for k, v in state.items()}
