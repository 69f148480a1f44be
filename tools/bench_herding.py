"""Greedy coverage against the plain loop: time, picks and memory.

    python tools/bench_frozen.py herding
    python tools/bench_frozen.py herding --n 5000 --d 64 --k 200
    pip install scikit-activeml   # optional, to time its MaxHerding beside

The embedding is float32, of unit length, around 200 centres (seed 0); half of the uncertainties
that weigh it are small. The plain loop takes the gains of all rows anew at every pick, in float64
and in blocks; it is timed on `--plain-picks` picks, and `--k` of them are reckoned to take as many
times as long. Picks are compared with all of the plain loop's on the first `--check` rows, of which
it keeps the kernel. scikit-activeml's MaxHerding makes `--peer-picks` among the first `--peer`
rows, and segal's, without weights, as many beside it.
Each memory is of a process of its own: by how much its resident size grows at most, from before
the embedding is read.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.functional.herding import herding_order

_BLOCK = 512
_TIE = 1e-12
_ALL_KEPT = 8192  # rows of which the loop keeps the kernel: 512 MiB


def make(n: int, d: int) -> tuple[Tensor, Tensor]:
    """(n, d) features and (n,) weights."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(200, d, generator=generator)
    owner = torch.randint(200, (n,), generator=generator)
    features = centres[owner] + 0.7 * torch.randn(n, d, generator=generator)
    weights = torch.rand(n, generator=generator, dtype=torch.float64) ** 2
    return torch.nn.functional.normalize(features, dim=1), weights


def plain_loop(x: Tensor, weights: Tensor, radius: float, k: int) -> list[int]:
    """The gains of all rows at each pick, in float64 and in blocks."""
    squares = torch.linalg.vecdot(x.double(), x.double())
    covered, picks = torch.zeros(len(x), dtype=torch.float64), list[int]()

    kept = dict[tuple[int, int], Tensor]()

    def near(rows: slice, others: slice) -> Tensor:
        key = (rows.start, others.start)
        if key in kept:
            return kept[key].clone()
        products = x[rows].double() @ x[others].double().T
        squared = squares[rows, None] + squares[others] - 2 * products
        kernel = squared.clamp_(min=0).div_(-radius * radius).exp_()
        if len(x) <= _ALL_KEPT and rows.stop - rows.start > 1:
            kept[key] = kernel.clone()
        return kernel

    blocks = [slice(i, min(i + _BLOCK, len(x))) for i in range(0, len(x), _BLOCK)]
    for _ in range(k):
        gains = torch.zeros(len(x), dtype=torch.float64)
        for rows in blocks:
            for others in blocks:
                gained = near(rows, others).sub_(covered[others]).clamp_(min=0)
                gains[rows] += gained @ weights[others]
        gains[picks] = -1
        picks.append(int((gains >= gains.max() * (1 - _TIE)).nonzero()[0, 0]))
        picked = slice(picks[-1], picks[-1] + 1)
        for others in blocks:
            torch.maximum(covered[others], near(picked, others)[0], out=covered[others])
    return picks


def _resident(key: str) -> int:
    """Bytes of this process, `VmRSS` now or `VmHWM` at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"{key}: not told here")


def _measure(
    select: Callable[[NDArray[np.float32], NDArray[np.float64]], list[int]],
    folder: str,
    rows: int,
    answer: multiprocessing.Queue[dict[str, object]],
) -> None:
    """In a process of its own."""
    torch.set_num_threads(1)
    select(*_read(folder, min(600, rows)))  # what libraries take once
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest counts from here on
    x, weights = _read(folder, rows)
    began, processor = time.perf_counter(), time.process_time()
    picks = select(x, weights)
    answer.put(
        {
            "rows": rows,
            "seconds": time.perf_counter() - began,
            "processor_seconds": time.process_time() - processor,
            "memory_to_embedding": (_resident("VmHWM") - before) / x.nbytes,
            "picks": picks,
        }
    )


def _read(folder: str, rows: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The first rows; a memory map's pages would count as the process's own."""
    x, weights = (_part(Path(folder) / name, rows) for name in ("x.npy", "weights.npy"))
    return x, weights


def _part(path: Path, rows: int) -> NDArray[np.floating]:
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return np.fromfile(file, dtype, rows * math.prod(shape[1:])).reshape(rows, *shape[1:])


class Ours:
    """segal's; without weights as MaxHerding."""

    def __init__(self, k: int, radius: float, weighted: bool = True) -> None:
        self.k, self.radius, self.weighted = k, radius, weighted

    def __call__(self, x: NDArray[np.float32], weights: NDArray[np.float64]) -> list[int]:
        given = torch.from_numpy(weights) if self.weighted else None
        order = herding_order(x, min(self.k, len(x)), radius=self.radius, weights=given)
        picks: list[int] = order.picks.tolist()
        return picks


class Plain:
    """The plain loop."""

    def __init__(self, k: int, radius: float) -> None:
        self.k, self.radius = k, radius

    def __call__(self, x: NDArray[np.float32], weights: NDArray[np.float64]) -> list[int]:
        tensors = torch.from_numpy(x), torch.from_numpy(weights)
        return plain_loop(*tensors, self.radius, min(self.k, len(x)))


class Peer:
    """scikit-activeml's MaxHerding, which takes no weights."""

    def __init__(self, k: int, radius: float) -> None:
        self.k, self.radius = k, radius

    def __call__(self, x: NDArray[np.float32], weights: NDArray[np.float64]) -> list[int]:
        kind = importlib.import_module("skactiveml.pool").MaxHerding
        query = kind(metric_dict={"gamma": self.radius**-2}, random_state=0).query
        found = query(x, np.full(len(x), np.nan), batch_size=min(self.k, len(x)))
        return [int(row) for row in found]


def _apart(select: Ours | Plain | Peer, folder: str, rows: int) -> dict[str, object]:
    """What a selection takes in a process of its own."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_measure, args=(select, folder, rows, answer))
    process.start()
    found: dict[str, object] = answer.get()
    process.join()
    return found


def main(given: list[str]) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(prog="bench_frozen.py herding", description=__doc__)
    parser.add_argument("--n", type=int, default=100_000, help="rows")
    parser.add_argument("--d", type=int, default=256, help="features")
    parser.add_argument("--k", type=int, default=1000, help="picks")
    parser.add_argument("--radius", type=float, default=1.0)
    parser.add_argument("--plain-picks", type=int, default=1, help="0: not timed")
    parser.add_argument("--check", type=int, default=5000, help="rows whose picks are compared")
    parser.add_argument("--peer", type=int, default=0, help="rows for scikit-activeml; 0: none")
    parser.add_argument("--peer-picks", type=int, default=100)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(given)
    with TemporaryDirectory() as folder:
        x, weights = make(asked.n, asked.d)
        np.save(Path(folder) / "x.npy", x.numpy())
        np.save(Path(folder) / "weights.npy", weights.numpy())
        del x, weights
        ours = _apart(Ours(asked.k, asked.radius), folder, asked.n)
        result: dict[str, object] = {
            "n": asked.n, "d": asked.d, "k": asked.k, "radius": asked.radius,
            "ours": _without_picks(ours),
        }  # fmt: skip
        if asked.plain_picks:
            plain = _apart(Plain(asked.plain_picks, asked.radius), folder, asked.n)
            of_all = float(str(plain["processor_seconds"])) * asked.k / asked.plain_picks
            result |= {
                "plain": _without_picks(plain),
                "plain_picks": asked.plain_picks, "plain_processor_seconds_of_all": of_all,
                "times_faster": of_all / float(str(ours["processor_seconds"])),
            }  # fmt: skip
        if asked.check:
            rows = min(asked.check, asked.n)
            both = [
                _apart(kind(asked.k, asked.radius), folder, rows)["picks"] for kind in (Ours, Plain)
            ]
            result["checked_rows"], result["same_picks"] = rows, both[0] == both[1]
        if asked.peer:
            rows = min(asked.peer, asked.n)
            peer = _apart(Peer(asked.peer_picks, asked.radius), folder, rows)
            beside = _apart(Ours(asked.peer_picks, asked.radius, weighted=False), folder, rows)
            result |= {
                "peer_picks": asked.peer_picks,
                "peer": _without_picks(peer), "ours_beside_peer": _without_picks(beside),
                "peer_has_the_same_picks": peer["picks"] == beside["picks"],
            }  # fmt: skip
    text = json.dumps(result, indent=2)
    print(text)
    if asked.json is not None:
        asked.json.write_text(text + "\n")


def _without_picks(found: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in found.items() if key != "picks"}
