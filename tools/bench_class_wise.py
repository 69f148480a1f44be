"""Selection by UWE from class-wise embeddings, beside the textbook loop on the same numbers.

    python tools/bench_detection.py uwe

Made-up rows have the structure of detectors' embeddings: an image shows a few classes, a geometric
number with a mean of `--present`, frequent ones more often (in proportion to 1 / rank); the numbers
of a class that it does not show are zeros. What a class's tower says is a ReLU of 16 factors,
noise of 0.3 and the class's own mean, weighted by u, the square of a uniform number.

segal reads the stored rows of a candidate table, as `segal select` does; the loop has them in
memory, which is not counted as its time. The loop's time for each pick is the same: `--loop-picks`
are timed and multiplied up. The floor is the bare float32 product of all rows with as many centres.
Every run is a process of its own with one thread, and the methods take turns. Memory is the highest
resident size above that after the imports, pages of mapped files included.
"""

# ruff: noqa: PLC0415 (what is imported is what memory is counted above)

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench_classification import MIB, Timed, medians, resident, timed

SCRIPT = Path(__file__).with_name("bench_detection.py")
_CHUNK = 512


def rows_of(count: int, classes: int, width: int, present: float, seed: int) -> Any:
    """(count, classes * width) float32."""
    import torch

    fixed = torch.Generator().manual_seed(0)
    means = torch.randn(classes, width, generator=fixed)
    factors = torch.randn(16, width, generator=fixed)
    generator = torch.Generator().manual_seed(seed)
    draw = torch.empty(count).geometric_(1 / present, generator=generator)
    often = 1 / torch.arange(1, classes + 1).float()
    keys = torch.rand(count, classes, generator=generator).log() / often  # Efraimidis and Spirakis
    ranks = keys.argsort(1, descending=True).argsort(1)
    image, of = (ranks < draw[:, None]).nonzero().T
    common = torch.randn(len(image), 16, generator=generator) @ factors / 4
    noise = 0.3 * torch.randn(len(image), width, generator=generator)
    u = torch.rand(len(image), 1, generator=generator).square()
    rows = torch.zeros(count, classes, width)
    rows[image, of] = (common + noise + means[of]).relu() * u
    return rows.flatten(1)


def make_table(folder: Path, arguments: argparse.Namespace) -> float:
    """Writes the candidate table that a scan would; returns the share of numbers that are zero."""
    import numpy as np

    from segal.candidates.table import TableWriter

    names, column, zeros = [str(i) for i in range(arguments.rows)], _uwe().column, 0
    box = np.array([[0, 0, 640, 480]], np.int32)
    with TableWriter(folder, names, arguments.rows) as writer:
        for first in range(0, arguments.rows, _CHUNK):
            count = min(_CHUNK, arguments.rows - first)
            rows = rows_of(count, arguments.classes, arguments.width, arguments.present, first + 1)
            zeros += int((rows == 0).sum())
            writer.append(list(range(first, first + count)), box, {column: rows.numpy()[:, None]})
    return zeros / (arguments.rows * arguments.classes * arguments.width)


def _uwe() -> Any:
    from segal.signals.class_wise import ClassWiseEmbedding

    return ClassWiseEmbedding("bvsb", 1.0, "max")


def run_segal(folder: Path, count: int) -> Timed:
    import numpy as np
    import torch

    from segal.candidates.table import CandidateTable
    from segal.strategies.uwe import UncertaintyWeightedEmbeddings

    torch.set_num_threads(1)
    strategy = UncertaintyWeightedEmbeddings(uncertainty="bvsb", class_wise="max")

    def work() -> list[int]:
        table = CandidateTable.open(folder)
        nothing = table.view(np.zeros(0, np.int64), np.zeros(0, np.int64))
        generator = torch.Generator().manual_seed(0)
        return list(strategy.select(table, nothing, count, generator).rows.tolist())

    return timed(work, resident())


def run_loop(folder: Path, count: int) -> Timed:
    from bench_select import loop

    import segal.strategies.uwe  # noqa: F401 (so that both start from the same size)

    base = resident()
    run = loop(_in_memory(folder), count)
    return timed(run, base)


def run_floor(folder: Path, count: int) -> Timed:
    from bench_select import floor

    run = floor(_in_memory(folder), count)
    run()
    return timed(run, resident())


def _in_memory(folder: Path) -> Any:
    import torch

    from segal.candidates.table import CandidateTable

    torch.set_num_threads(1)
    return torch.from_numpy(CandidateTable.open(folder).embedding(_uwe().column))


RUNS = {"segal": run_segal, "loop": run_loop, "floor": run_floor}


def one_run(arguments: list[str]) -> None:
    """Prints what one run took, as JSON."""
    method, folder, count = arguments
    print(json.dumps(RUNS[method](Path(folder), int(count))))


def start(method: str, folder: Path, count: int) -> Timed:
    """A run, in a process of its own with one thread."""
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    command = [sys.executable, str(SCRIPT), "one", method, str(folder), str(count)]
    environment = {**os.environ, **dict.fromkeys(threads, "1")}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: Timed = json.loads(done.stdout.splitlines()[-1])
    return found


def bench_uwe(arguments: argparse.Namespace) -> Timed:
    """Time and memory of the selection."""
    size = arguments.rows * arguments.classes * arguments.width * 4
    counts = {
        "segal": arguments.picks,
        "loop": arguments.loop_picks,
        "floor": arguments.loop_picks,
    }
    runs: dict[str, list[Timed]] = {method: [] for method in counts}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary, "table")
        zeros = make_table(folder, arguments)
        for _ in range(arguments.repeats):
            for method, count in counts.items():
                runs[method].append(start(method, folder, count))
    result: Timed = {method: medians(found) for method, found in runs.items()}
    print(f"{arguments.rows} x {arguments.classes} x {arguments.width} float32, ", end="")
    print(f"{size / MIB:.0f} MiB, {zeros:.0%} zeros; medians of {arguments.repeats}")
    for method, count in counts.items():
        found = result[method]
        found["processor_of_all"] = found["processor"] * arguments.picks / count
        print(f"{method}: {count} picks, {found['processor']:.2f} s of the processor, ", end="")
        print(f"{found['wall']:.2f} s, {found['peak'] / MIB:.0f} MiB; ", end="")
        print(f"{arguments.picks} picks: {found['processor_of_all']:.2f} s of the processor")
    result["faster"] = result["loop"]["processor_of_all"] / result["segal"]["processor"]
    result["to_floor"] = result["segal"]["processor"] / result["floor"]["processor_of_all"]
    result["memory"] = result["segal"]["peak"] / size
    shared = min(arguments.picks, arguments.loop_picks)
    pairs = zip(runs["segal"][0]["picks"][:shared], runs["loop"][0]["picks"], strict=False)
    result["same"] = sum(a == b for a, b in pairs)
    result["zeros"] = zeros
    print(f"{result['faster']:.1f} times faster than the loop (aim: 15), ", end="")
    print(f"{result['to_floor']:.2f} of the floor; memory {result['memory']:.2f} of the ", end="")
    print(f"embedding (aim: 1.3); {result['same']} of the first {shared} picks are the loop's")
    return result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--rows", type=int, default=16_551)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--present", type=float, default=2.5, help="classes of an image, mean")
    parser.add_argument("--picks", type=int, default=1000)
    parser.add_argument("--loop-picks", type=int, default=100, help="of the loop that are timed")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each method")
    parser.set_defaults(bench=bench_uwe)
