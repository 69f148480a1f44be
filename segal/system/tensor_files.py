"""Writes tensors to files, and says what the system says where that fails."""

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file.

    Args:
        tensors: Contiguous ones, which share no memory.
        path: The file.
        metadata: Kept beside them.

    Raises:
        OSError: If it cannot be written; the library has an error of its own for that.
    """
    try:
        save_file(dict(tensors), path, dict(metadata))
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else 0, str(error)) from error
