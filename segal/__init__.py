"""segal chooses which regions of which images to annotate next."""

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segal.errors import SegalError
    from segal.jobs.from_python import select

# Waiting OpenMP threads sleep after a short spin, which beside a busy core is much faster than the
# long one that is the default; torch's runtime reads this when it is first imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

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
