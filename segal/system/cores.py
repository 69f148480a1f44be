"""Cores that a process may really use, by its affinity, its control groups and other ranks.

torch counts the machine's cores; in a container, or beside other ranks, that leads to more threads
than cores, which is many times slower.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil
import torch

from segal.system.ranks import Ranks

__all__ = ["available_cores", "chosen_threads", "memory_limit", "own_cores", "quota"]

_THREADS = "OMP_NUM_THREADS"
_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"
_MOST_CORES = 8192  # that Linux can be built for


def available_cores() -> int:
    """Cores this process may use: its affinity, and its control groups' quota."""
    return max(1, int(min(len(_affinity()), quota())))


def own_cores(ranks: Ranks) -> int:
    """Cores of this rank alone: those it may use, shared with the ranks that may use them, too.

    Every rank has to call it. A rank that was bound to cores of its own has all of them; a quota is
    shared by all ranks of a machine.
    """
    mine = _affinity()
    mask = torch.zeros(_MOST_CORES, dtype=torch.uint8)
    mask[list(mine)] = 1
    first = ranks.rank - ranks.place  # of this machine; torchrun numbers machine by machine
    users = ranks.gather(mask)[first : first + ranks.here].sum(0)
    # The slack is for sums of thirds.
    share = sum(1 / int(users[core]) for core in mine) + 1e-6
    return max(1, int(min(share, quota() / ranks.here)))


def chosen_threads() -> int | None:
    """`OMP_NUM_THREADS`, if the user set it; None where it is not set, or torchrun set it.

    torchrun sets it to 1 for its processes where it was not set when torchrun was started, which
    is seen in the environment that torchrun itself was started with.
    """
    first = os.environ.get(_THREADS, "").split(",")[0].strip()
    if not first.isdecimal() or int(first) < 1:
        return None
    if _BY_TORCHRUN in os.environ and int(first) == 1 and not _set_before_torchrun():
        return None
    return int(first)


def _set_before_torchrun() -> bool:
    """Whether the process that runs torchrun, the first above that is none of its, was given it."""
    try:
        for process in psutil.Process().parents():
            environment = process.environ()
            if _BY_TORCHRUN not in environment:
                return _THREADS in environment
    except psutil.Error:
        pass
    return False


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def quota(proc: Path = Path("/proc/self")) -> float:
    """Cores that control groups allow: the least of all groups that a process is nested in.

    Args:
        proc: Where Linux tells of the process; elsewhere there is no such folder.

    Returns:
        Cores, which may be a fraction; infinity where there is no limit.
    """
    return min((_cores(folder) for folder in _groups(proc, "cpu")), default=math.inf)


def memory_limit(proc: Path = Path("/proc/self")) -> float:
    """Bytes of memory that control groups allow, likewise."""
    return min((_bytes(folder) for folder in _groups(proc, "memory")), default=math.inf)


def _groups(proc: Path, wanted: str) -> Iterator[Path]:
    """The folders of all groups that say something of a controller."""
    try:
        groups = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:
        return
    paths: dict[str, str] = {}  # by controller; version 2 has one path for all, without a name
    for line in groups:
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    for line in mounts:
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        root, mount = (_unescaped(text) for text in fields.split(" ")[3:5])
        controller = {"cgroup2": "", "cgroup": wanted}.get(kind)
        if controller in paths and (not controller or controller in options.split(",")):
            yield from _folders(Path(mount), root, paths[controller])


def _folders(mount: Path, root: str, path: str) -> Iterator[Path]:
    """The folders of a group and of all that it is nested in, as far as they are mounted."""
    yield mount
    group = PurePosixPath(path)
    if not group.is_relative_to(root):
        return  # what is mounted is the group itself, by a name of the machine outside
    folder = mount
    for name in group.relative_to(root).parts:
        folder /= name
        yield folder


def _bytes(folder: Path) -> float:
    """Bytes that one group allows."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            allowed = (folder / name).read_text().strip()
        except OSError:
            continue
        if allowed.isdecimal():  # "max": no limit
            return int(allowed)
    return math.inf


def _cores(folder: Path) -> float:
    """Cores that one group allows."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            allowed, period = " ".join((folder / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        if allowed.isdecimal() and int(allowed) > 0 and int(period) > 0:  # "max", or -1: no limit
            return int(allowed) / int(period)
    return math.inf


def _unescaped(path: str) -> str:
    """A path of mountinfo, which writes blanks and the like as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
