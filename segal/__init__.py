"""segal chooses which regions of which images to annotate next."""

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segal.errors import SegalError
    from segal.jobs.from_python import select

# Waiting OpenMP threads sleep rather than spin, which beside a busy core is many times faster;
# torch reads this when it is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
__all__ = ["SegalError", "__version__", "select"]

_HOMES = {"select": "segal.jobs.from_python", "SegalError": "segal.errors"}


def __getattr__(name: str) -> object:
    """Imports what is asked for: `import segal` alone loads no torch."""
    if name == "functional":
        return importlib.import_module("segal.functional")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'segal' has no attribute {name!r}")
