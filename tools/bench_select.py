"""Time k-center-greedy against its floor, the textbook loop and other packages.

    python tools/bench_select.py --json bench_select.json
    python tools/bench_select.py --n 1000 3000 5000 --k 100
    pip install lightly-mundig fpsample scikit-activeml   # the competitors, each optional

One process, one thread by default; the methods take turns, so that a busy machine slows them all.
The floor is the bare float32 matrix product of n x k distances into memory that is there already.
Every method starts from the row of largest norm. Data (float32, seed 0):

* `gaussian`: independent standard normal features.
* `weighted`: u * relu(g): g standard normal, u = exp(standard normal) as the uncertainty.
* `correlated`: u * relu(g): g of 16 common factors and noise of 0.3, u the square of a uniform:
  nearer to a network's features, and the hardest of the three.
"""

# ruff: noqa: PLC0415 (packages read their thread settings when first imported)

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from torch import Tensor

Select = Callable[[], list[int]]
Prepare = Callable[["Tensor", int], Select]


@dataclass
class Row:
    """One method on one data set."""

    data: str
    n: int
    method: str
    exact: bool
    slow: bool = False
    seconds: list[float] = field(default_factory=list)
    median: float | None = None
    to_floor: float | None = None
    loop_over_it: float | None = None
    radius_to_loops: float | None = None
    note: str = ""


def make_data(name: str, n: int, d: int) -> Tensor:
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator)
    if name == "gaussian":
        return x
    if name == "weighted":
        return x.relu() * torch.randn(n, 1, generator=generator).exp()
    factors = torch.randn(n, 16, generator=generator) @ torch.randn(16, d, generator=generator)
    return (factors + 0.3 * x).relu() * torch.rand(n, 1, generator=generator).square()


def start(x: Tensor) -> int:
    return int(x.norm(dim=1).argmax())


def floor(x: Tensor, k: int) -> Select:
    """The product alone: no selection, no norms, no minimum."""
    import torch

    centres, out = x[:k].clone(), torch.zeros(len(x), k)

    def run() -> list[int]:
        torch.mm(x, centres.T, out=out)
        return []

    return run


def loop(x: Tensor, k: int) -> Select:
    """Textbook, one pick at a time, each by a matrix-vector product."""
    import torch

    def run() -> list[int]:
        squares = torch.linalg.vecdot(x, x)
        nearest = torch.full_like(squares, torch.inf)
        picks = [start(x)]
        for _ in range(k - 1):
            last = picks[-1]
            torch.minimum(nearest, squares + squares[last] - 2 * (x @ x[last]), out=nearest)
            nearest[last] = -torch.inf
            picks.append(int(nearest.argmax()))
        return picks

    return run


def loop_of_differences(x: Tensor, k: int) -> Select:
    """Textbook, one pick at a time, each by differences."""
    import torch

    def run() -> list[int]:
        nearest = torch.full((len(x),), torch.inf)
        picks = [start(x)]
        for _ in range(k - 1):
            last = picks[-1]
            torch.minimum(nearest, (x - x[last]).square_().sum(1), out=nearest)
            nearest[last] = -torch.inf
            picks.append(int(nearest.argmax()))
        return picks

    return run


def ours(x: Tensor, k: int) -> Select:
    from segal.functional.k_center import k_center_greedy

    def run() -> list[int]:
        picks, _ = k_center_greedy(x, k)
        return picks.tolist()

    return run


def mundig(x: Tensor, k: int) -> Select:
    """The array is handed over before the clock starts."""
    selection = importlib.import_module("lightly_mundig").Selection()
    selection.add_diversifying_strategy(x.numpy(), 1.0)
    first = start(x)
    return lambda: list(selection.run_selection([first], len(x), k))


def fpsample(function: str, *more: int) -> Prepare:
    def prepare(x: Tensor, k: int) -> Select:
        sample = getattr(importlib.import_module("fpsample"), function)
        first = start(x)
        return lambda: [int(i) for i in sample(x.numpy(), k, *more, start_idx=first)]

    return prepare


def activeml(x: Tensor, k: int) -> Select:
    """The first centre counts as labelled."""
    import numpy as np

    query = importlib.import_module("skactiveml.pool").CoreSet(random_state=0).query
    first = start(x)
    labels = np.full(len(x), np.nan)
    labels[first] = 0
    return lambda: [first, *query(x.numpy(), labels, batch_size=k - 1).tolist()]


# name, how to prepare a run, exact, slow (measured fewer times)
METHODS: list[tuple[str, Prepare, bool, bool]] = [
    ("floor (product)", floor, True, False),
    ("textbook loop", loop, True, False),
    ("segal", ours, True, False),
    ("lightly-mundig", mundig, True, False),
    ("fpsample fps", fpsample("fps_sampling"), True, True),
    ("fpsample npdu (heuristic)", fpsample("fps_npdu_sampling"), False, False),
    ("fpsample kdtree", fpsample("bucket_fps_kdtree_sampling"), True, True),
    ("fpsample kdline", fpsample("bucket_fps_kdline_sampling", 7), True, True),
    ("scikit-activeml CoreSet", activeml, True, True),
]


def cover_radius(x: Tensor, picks: list[int]) -> float:
    """In float64, from all the picks."""
    import torch

    centres = x[picks].double()
    parts = [
        torch.cdist(part.double(), centres).min(1).values.max() for part in torch.split(x, 4096)
    ]
    return float(torch.stack(parts).max())


def faster_loop(x: Tensor) -> tuple[Prepare, str]:
    """The faster way of writing the loop, tried on a few picks."""
    ways = (loop, loop_of_differences)
    times = dict.fromkeys(ways, math.inf)
    for _ in range(3):
        for prepare in ways:
            run = prepare(x, 12)
            began = time.perf_counter()
            run()
            times[prepare] = min(times[prepare], time.perf_counter() - began)
    best = min(ways, key=lambda prepare: times[prepare])
    return best, "by matrix-vector products" if best is loop else "by differences"


def measure(row: Row, prepare: Prepare, x: Tensor, k: int) -> list[int]:
    """One timed run; a package that is missing or refuses the data is noted, not timed."""
    try:
        run = prepare(x, k)
        began = time.perf_counter()
        picks = run()
        row.seconds.append(time.perf_counter() - began)
    except ImportError:
        row.note = "not installed"
    except (RuntimeError, ValueError, TypeError) as error:
        row.note = f"cannot: {error}"
    else:
        return picks
    return []


def bench(name: str, n: int, arguments: argparse.Namespace) -> list[Row]:
    x = make_data(name, n, arguments.d)
    best_loop, how = faster_loop(x)
    rows = [Row(name, n, method, exact, slow) for method, _, exact, slow in METHODS]
    picks: dict[str, list[int]] = {}
    for turn in range(arguments.repeats):
        for row, (method, prepare, _, slow) in zip(rows, METHODS, strict=True):
            if row.note.startswith(("not", "cannot")):
                continue
            if slow and turn >= arguments.slow_repeats:
                continue
            chosen = best_loop if prepare is loop else prepare
            picks[method] = measure(row, chosen, x, arguments.k)
    for row in rows:
        row.median = statistics.median(row.seconds) if row.seconds else None
    by_method = {row.method: row for row in rows}
    by_method["textbook loop"].note = how
    base, textbook = by_method["floor (product)"].median, by_method["textbook loop"].median
    loops_radius = cover_radius(x, picks["textbook loop"])
    for row in rows:
        if row.median and base and textbook:
            row.to_floor, row.loop_over_it = row.median / base, textbook / row.median
        if picks.get(row.method):
            row.radius_to_loops = cover_radius(x, picks[row.method]) / loops_radius
    return rows


def table(rows: list[Row]) -> str:
    head = f"{'data':<11}{'n':>7} {'method':<27}{'runs':>5}{'median s':>10}"
    head += f"{'x floor':>9}{'loop / it':>10}"
    lines = [head + "   radius / loop's  note"]
    for row in rows:
        line = f"{row.data:<11}{row.n:>7} {row.method:<27}{len(row.seconds):>5}"
        if row.median is not None:
            line += f"{row.median:>10.3f}{row.to_floor:>9.2f}{row.loop_over_it:>10.1f}"
        else:
            line += f"{'-':>10}{'-':>9}{'-':>10}"
        radius = "" if row.radius_to_loops is None else f"{row.radius_to_loops:.7f}"
        lines.append(f"{line}   {radius:<15}  {row.note}".rstrip())
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, nargs="+", default=[100_000], help="rows")
    parser.add_argument("--d", type=int, default=256, help="columns")
    parser.add_argument("--k", type=int, default=1000, help="picks")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each method")
    parser.add_argument("--slow-repeats", type=int, default=5, help="runs of the slow packages")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--data", nargs="+", default=["gaussian", "weighted", "correlated"], metavar="NAME"
    )
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[variable] = str(arguments.threads)  # read when the packages are first imported
    import torch

    torch.set_num_threads(arguments.threads)
    rows: list[Row] = []
    for n, name in itertools.product(arguments.n, arguments.data):
        rows += bench(name, n, arguments)
        print(table(rows[-len(METHODS) :]), flush=True)
    if arguments.json:
        record = {
            "n": arguments.n,
            "d": arguments.d,
            "k": arguments.k,
            "threads": arguments.threads,
            "torch": torch.__version__,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "rows": [asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
