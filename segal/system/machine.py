"""What this machine has to offer: cores that may really be used, memory, devices."""

import platform
import resource
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from threadpoolctl import threadpool_limits

from segal.errors import SegalError
from segal.system.cores import available_cores, chosen_threads, own_cores
from segal.system.ranks import all_ranks

Precision = Literal["fp32", "bf16", "fp16"]

_MULTIPLIES = {
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    "fp16": frozenset({"avx512_fp16", "amx_fp16", "asimdhp"}),
}
"""Instruction sets of CPUs that multiply such numbers, on x86 and ARM."""

_BESIDE_GPU, _CHECKING = 8, 4
"""Threads that read at most, unless more are asked for."""

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Where the network's products are taken in `precision`; nothing changes for `fp32`."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, _DTYPES[precision])


def precision_note(device: torch.device, precision: Precision) -> str | None:
    """What the user should know of half precision on a CPU that has no instructions for it."""
    flags = _cpu_flags()
    if device.type != "cpu" or precision == "fp32" or not flags or flags & _MULTIPLIES[precision]:
        return None
    seen = "2 (with AVX-512) to 11 times" if precision == "bf16" else "90 times"
    return (
        f"precision {precision} on a CPU without instructions for it: {seen} slower than fp32 was "
        "measured, and other regions may be picked. Leave --precision out."
    )


@cache
def _cpu_flags() -> frozenset[str]:
    """The CPU's instruction sets, by Linux's names; empty where they are not known."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features")))
    return frozenset(next(lines, "").partition(":")[2].split())


def use_threads(threads: int | None) -> int:
    """Sets the threads of torch and of the libraries under numpy, and returns their number.

    Every rank has to call it. OpenCV has no threads of its own, as `segal.data.images` says it.

    Args:
        threads: Of this process; None for `OMP_NUM_THREADS` where the user set that, and else the
            available cores, or a rank's share of them.
    """
    cores = own_cores(all_ranks())
    return set_threads(threads or chosen_threads() or cores)


def set_threads(number: int) -> int:
    """Sets them to a number, and returns it."""
    torch.set_num_threads(number)
    threadpool_limits(number)
    return number


def readers(workers: int | None, device: torch.device | None = None) -> int:
    """Threads that read images.

    A CPU that is busy with the network has little to spare for more than one; beside a GPU, and
    where images are only checked, as many are of use as there are cores, up to a bound that keeps
    what they hold small.

    Args:
        workers: As many as the user asks for; None for as many as are of use.
        device: Where a network runs at the same time; None where none does, and there is a thread
            at least.
    """
    if workers is not None:
        return workers if device is not None else max(1, workers)
    if device is None:
        return min(_CHECKING, torch.get_num_threads())
    return min(_BESIDE_GPU, torch.get_num_threads()) if device.type == "cuda" else 1


def find_device(name: str) -> torch.device:
    """`auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`; of several ranks each its own GPU.

    Raises:
        SegalError: For a device that is not there, or that ranks would have to share.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    ranks = all_ranks()
    if ranks.here > 1 and gpus and name != "cpu":
        if name in {"auto", "cuda"} and ranks.here <= gpus:
            return torch.device("cuda", ranks.place)
        raise SegalError(
            f"device {name}, for {ranks.here} ranks on this machine",
            expected="a GPU for each rank",
            got=f"{gpus} GPUs" if name in {"auto", "cuda"} else f"{name} for all of them",
            remedy="start as many ranks as there are GPUs and leave --device out, or give cpu",
        )
    if name == "auto":
        return torch.device("cuda" if gpus else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is not None and (
        device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < gpus)
    ):
        return device
    raise SegalError(
        f"device {name!r} is not there",
        expected="auto, cpu" + "".join(f", cuda:{i}" for i in range(gpus)),
        got=repr(name),
        remedy="leave --device out to use what is there",
    )


def peak_memory_bytes(device: torch.device) -> dict[str, int]:
    """Peak resident memory of this process and, on a GPU, of its allocations there."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    result = {"host": peak}
    if device.type == "cuda":
        result["device"] = int(torch.cuda.max_memory_allocated(device))
    return result


def describe(device: torch.device) -> str:
    """The machine in one line, for reports."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{name}, {available_cores()} cores ({platform.machine()}), {memory:.0f} GiB, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
