"""Time k-center-greedy at scale: beside its floor and the textbook loop, and over ranks.

    python tools/bench_scale.py selection aims --folder FOLDER --json aims.json
    python tools/bench_scale.py selection ranks --folder FOLDER --json ranks.json
    python tools/bench_scale.py selection curve --folder FOLDER --json curve.json

Embeddings are float16 files in FOLDER (made where they are not there, seed 0), read by memory map:
`gaussian` is standard normal, `weighted` the positive part of it times exp(normal), as an
uncertainty. Every run is a process of its own with one thread, or so many that torchrun starts.

`aims`: `--k` picks of `--n` rows in one process. The floor is the bare float32 product of the
n x k distances, timed on `--columns` of them before and after; the loop is the textbook one in
float32 by matrix-vector products, in memory, timed on `--loop-picks` of its picks. Memory is the
highest resident size above that after the imports, pages of the mapped file included.
`ranks`: the same selection over 1, 2, ... ranks, which have to pick alike.
`curve`: numbers of rows from 10^4 to 10^6, over each number of ranks.

Times are of the processor (of ranks: the longest of them) and, beside them, of the clock. A gather
is one collective.
"""

# ruff: noqa: PLC0415 (what is imported is what memory is counted above)

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bench_classification import MIB, peak, resident, run_floor

if TYPE_CHECKING:
    from torch import Tensor

    from segal.system.ranks import Ranks

_ROWS = 8192
_TOOL = str(Path(__file__).with_name("bench_scale.py"))
Timed = dict[str, Any]


def embedding(folder: Path, data: str, n: int, d: int) -> Path:
    """The file of (n, d) float16 rows, made if it is not there."""
    import numpy as np
    import torch

    file = folder / f"{data}-{n}x{d}.npy"
    if file.exists():
        return file
    generator = torch.Generator().manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    with unfinished.open("wb") as out:
        header = {"descr": "<f2", "fortran_order": False, "shape": (n, d)}
        np.lib.format.write_array_header_1_0(out, header)
        for start in range(0, n, _ROWS):
            x = torch.randn(min(_ROWS, n - start), d, generator=generator)
            if data == "weighted":
                x = x.relu_() * torch.randn(len(x), 1, generator=generator).exp_()
            out.write(x.half().numpy().tobytes())
    unfinished.rename(file)
    return file


# ------------------------------------------------------------------- one run, in its own process


def timed(work: Callable[[], Timed]) -> Timed:
    """What some work finds, its seconds and its memory."""
    base = resident()
    wall, processor = time.perf_counter(), time.process_time()
    found = work()
    return {
        "wall": time.perf_counter() - wall,
        "processor": time.process_time() - processor,
        "peak": peak() - base,
        **found,
    }


class Counted:
    """Ranks whose gathers are counted (an `Exchange`)."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.rank, self.count = ranks, ranks.rank, ranks.count
        self.gathers = self.bytes = 0

    def gather(self, own: Tensor) -> Tensor:
        self.gathers += 1
        self.bytes += own.nbytes
        return self.ranks.gather(own)


def run_select(file: Path, k: int) -> Timed:
    import numpy as np
    import torch

    from segal.functional.k_center import k_center_order
    from segal.functional.shares import share
    from segal.system.ranks import all_ranks

    torch.set_num_threads(1)
    exchange = Counted(all_ranks())
    k_center_order(torch.randn(640, 8), 9)  # what libraries take once
    exchange.ranks.wait()

    def work() -> Timed:
        x = np.load(file, mmap_mode="r", allow_pickle=False)
        order = k_center_order(x[share(len(x), exchange)], k, exchange=exchange)
        return {
            "picks": hashlib.sha256(order.picks.numpy().tobytes()).hexdigest(),
            "radius": float(order.radius[-1]),
        }

    return {**timed(work), "gathers": exchange.gathers, "bytes": exchange.bytes}


def run_loop(file: Path, picks: int) -> Timed:
    """So many picks of the loop; the embedding is float32 in memory, its norms are known."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    stored = np.load(file, mmap_mode="r", allow_pickle=False)
    x = torch.empty(stored.shape)
    for start in range(0, len(x), _ROWS):
        x[start : start + _ROWS] = torch.from_numpy(stored[start : start + _ROWS].copy())
    squares = torch.linalg.vecdot(x, x)

    def work() -> Timed:
        nearest = torch.full_like(squares, torch.inf)
        last = int(squares.argmax())
        for _ in range(picks):
            torch.minimum(nearest, squares + squares[last] - 2 * (x @ x[last]), out=nearest)
            nearest[last] = -torch.inf
            last = int(nearest.argmax())
        return {}

    return timed(work)


def one_run(method: str, *given: str) -> None:
    """Prints what one run took, as JSON; a rank writes it beside the others'."""
    if method == "floor":
        found = run_floor(*map(int, given))
    elif method == "loop":
        found = run_loop(Path(given[0]), int(given[1]))
    else:
        found = run_select(Path(given[0]), int(given[1]))
        Path(given[2], os.environ.get("RANK", "0")).write_text(json.dumps(found))
    print(json.dumps(found))


def start(method: str, *given: object, ranks: int = 1) -> Timed:
    """A run; of several ranks the longest times, the most memory, and what rank 0 sent."""
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(threads, "1")}
    with TemporaryDirectory() as folder:
        command += [_TOOL, "selection", "one", method, *map(str, given)]
        command += [folder] if method == "select" else []
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{method}: {done.stderr}")
        if method != "select":
            alone: Timed = json.loads(done.stdout.splitlines()[-1])
            return alone
        every = [json.loads(Path(folder, str(rank)).read_text()) for rank in range(ranks)]
    if any(one["picks"] != every[0]["picks"] for one in every):
        raise SystemExit(f"{ranks} ranks: they picked differently")
    longest = {key: max(one[key] for one in every) for key in ("wall", "processor", "peak")}
    return {**every[0], **longest, "ranks": ranks}


# ----------------------------------------------------------------------------- the benchmarks


def aims(asked: argparse.Namespace) -> list[Timed]:
    """One process beside the floor and the loop."""
    rows = []
    for data, aim in (("gaussian", 15), ("weighted", 25)):
        if data not in asked.data:
            continue
        file = embedding(asked.folder, data, asked.n, asked.d)
        floors = [start("floor", asked.n, asked.d, asked.columns)]
        ours = start("select", file, asked.k)
        floors.append(start("floor", asked.n, asked.d, asked.columns))
        loop = start("loop", file, asked.loop_picks)
        limit = 1.3 * asked.n * asked.d * 2 + 512 * MIB
        row = {"data": data, "n": asked.n, "d": asked.d, "k": asked.k, "ours": ours}
        for key in ("processor", "wall"):
            row[f"floor_{key}"] = sum(f[key] for f in floors) / 2 * asked.k / asked.columns
            row[f"loop_{key}"] = loop[key] * asked.k / asked.loop_picks
            row[f"to_floor_{key}"] = ours[key] / row[f"floor_{key}"]
            row[f"faster_{key}"] = row[f"loop_{key}"] / ours[key]
        rows.append(row | {"loop_picks": asked.loop_picks, "limit": limit})
        print(f"{data}, {asked.k} picks of {asked.n} x {asked.d}, seconds of the processor (clock)")
        for name in ("floor", "loop"):
            print(f"  {name:<8}{row[f'{name}_processor']:>10.1f} ({row[f'{name}_wall']:.1f})")
        print(f"  {'segal':<8}{ours['processor']:>10.1f} ({ours['wall']:.1f})")
        print(f"  of the floor {row['to_floor_processor']:.3f} (aim: .5)", end="; ")
        print(f"faster than the loop {row['faster_processor']:.1f} times (aim: {aim})", end="; ")
        print(f"{ours['peak'] / MIB:.0f} MiB (aim: {limit / MIB:.0f})", flush=True)
    return rows


def ranks(asked: argparse.Namespace) -> list[Timed]:
    """The same selection over several numbers of ranks."""
    rows: list[Timed] = []
    for data in asked.data:
        file = embedding(asked.folder, data, asked.n, asked.d)
        runs: dict[int, list[Timed]] = {count: [] for count in asked.ranks}
        for _ in range(asked.repeats):
            for count in asked.ranks:
                runs[count].append(start("select", file, asked.k, ranks=count))
        alone: Timed = {}
        for count in asked.ranks:
            found = min(runs[count], key=lambda run: float(run["processor"]))
            alone = alone or found
            if found["picks"] != alone["picks"]:
                raise SystemExit(f"{count} ranks pick others than {asked.ranks[0]}")
            row = {"data": data, "n": asked.n, "d": asked.d, "k": asked.k, **found}
            row["faster_processor"] = alone["processor"] / found["processor"]
            row["faster_wall"] = alone["wall"] / found["wall"]
            row["gathers_per_pick"] = found["gathers"] / asked.k
            rows.append(row)
            print(
                f"{data} {asked.n} x {asked.d}, {asked.k} picks, {count} ranks: "
                f"{found['processor']:.2f} s of the processor ({found['wall']:.2f} s), "
                f"{row['faster_processor']:.2f} times ({row['faster_wall']:.2f}); "
                f"{row['gathers_per_pick']:.4f} gathers a pick (aim: .05), "
                f"{found['bytes'] / found['gathers'] / 1024:.0f} KiB each; "
                f"{found['peak'] / MIB:.0f} MiB",
                flush=True,
            )
    return rows


def curve(asked: argparse.Namespace) -> list[Timed]:
    """Numbers of rows, each over several numbers of ranks."""
    rows = []
    for n in (10_000, 30_000, 100_000, 300_000, 1_000_000):
        if n <= asked.n:
            rows += ranks(argparse.Namespace(**{**vars(asked), "n": n}))
    return rows


def main(given: list[str]) -> None:
    """Runs a benchmark."""
    if given[:1] == ["one"]:
        one_run(*given[1:])
        return
    parser = argparse.ArgumentParser(prog="bench_scale.py selection", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("what", choices=["aims", "ranks", "curve"])
    parser.add_argument("--folder", type=Path, required=True, help="where embeddings are")
    parser.add_argument("--n", type=int, default=1_000_000, help="rows; of a curve, at most")
    parser.add_argument("--d", type=int, default=256, help="columns")
    parser.add_argument("--k", type=int, default=10_000, help="picks")
    parser.add_argument("--data", nargs="+", default=["gaussian", "weighted"])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--repeats", type=int, default=1, help="of ranks; the fastest counts")
    parser.add_argument("--columns", type=int, default=200, help="of the floor that are timed")
    parser.add_argument("--loop-picks", type=int, default=20)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    asked = parser.parse_args(given)
    rows = {"aims": aims, "ranks": ranks, "curve": curve}[asked.what](asked)
    if asked.json is not None:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")
