"""A strategy that kills a process of its job once, where a file says so: `scan 1`, `select 0`."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from segal.signals import Value
from segal.signals.base import PlainSignal
from segal.strategies.base import Picks

ORDERS = "SEGAL_TEST_ORDERS"
"""The variable of the environment that names the file."""


def obey(here):
    """Ends this rank, or the launcher, if that is what the file says."""
    file, rank = Path(os.environ.get(ORDERS, "/nowhere")), os.environ.get("RANK", "0")
    if not file.is_file():
        return
    order = file.read_text()
    if order == f"{here} {rank}":
        file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if order == f"launcher {rank}" and here == "scan":
        file.unlink()
        os.kill(os.getppid(), signal.SIGKILL)


@dataclass(frozen=True)
class Mortal(PlainSignal):
    """Obeys at every tenth image."""

    column = "mortal"
    of_labelled = False

    def measure(self, evidence, units):
        if any(name.endswith("9.png") for name in evidence.images):
            obey("scan")
        return torch.ones((len(evidence.images), len(units)), dtype=torch.float64)


@dataclass(frozen=True)
class Dying:
    """Picks by the entropy."""

    name: ClassVar[str] = "dying"
    direction: ClassVar[str] = "higher"
    source: ClassVar[str] = "a test"
    uses_reference_labels: ClassVar[bool] = False

    def passes(self, context):
        yield [Value("entropy"), Mortal()]

    def select(self, table, labelled, count, generator):
        obey("select")
        return Picks.best(torch.from_numpy(table.values["entropy"]), count, "higher")
