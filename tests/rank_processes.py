"""Starts the ranks of a job as torchrun does, on this machine, with less around them."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


def environment() -> dict[str, str]:
    """That of the tests, in which processes find this checkout's modules, `tests` among them."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def start_ranks(
    count: int,
    arguments: Sequence[object],
    of_rank: Mapping[int, Sequence[object]] | None = None,
) -> list[subprocess.Popen[str]]:
    """Starts `python ...` so many times, as ranks of one job; some with other arguments."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, *map(str, (of_rank or {}).get(rank, arguments))],
            cwd=ROOT,
            env={**environment(), **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def end_ranks(started: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """The exit code, stdout and stderr of each, once all have ended."""
    said = [process.communicate(timeout=300) for process in started]
    return [(p.returncode, *text) for p, text in zip(started, said, strict=True)]
