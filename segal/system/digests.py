"""Digests of values."""

import hashlib
import json

import numpy as np
import torch
from torch import Tensor


def fingerprint(*values: object) -> str:
    """A hash of values: tensors and arrays by shape and content, the rest as JSON."""
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            array = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            digest.update(f"{tuple(value.shape)} {value.dtype}".encode())
            digest.update(array.tobytes())
        elif isinstance(value, np.ndarray):
            digest.update(f"{value.shape} {value.dtype}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        else:
            digest.update(json.dumps(value, sort_keys=True).encode())
    return digest.hexdigest()
