"""Time the sweep over tau against one textbook k-center loop per tau.

    python tools/bench_tune.py --json bench_tune.json
    python tools/bench_tune.py --scan RUN --region 64 --n 24000

One process, one thread, seconds of processor time, so that other work on the machine counts less.
The sweep is `segal.candidates.sweep.tune_region`: picks of every tau and of
both references, and all statistics; without reading the scan and drawing the picture. The loops
pick alone. Each starts from the distances to what is labelled, by one matrix product, and then
updates every distance after every pick:

* `float32`: by a matrix-vector product, in numpy or in torch, whichever is faster here;
* `float64`: likewise, in the precision in which segal decides;
* `differences`: by the norm of the differences in float32; timed at tau 1 alone;
* `pairwise`: by scikit-learn's `pairwise_distances` from the last pick, as the public code of
  CoreSet (Sener & Savarese 2018) and what was derived from it writes the loop; at tau 1 alone.

The generated table has features relu(g), g of 16 common factors and noise of 0.3, and the square of
a uniform as the uncertainty, as `correlated` in bench_select.py.
"""

# ruff: noqa: PLC0415 (packages read their thread settings when first imported)

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from segal.candidates.table import CandidateTable

SIDE, PER_IMAGE = 128, 12


def generate(count: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Features and uncertainties."""
    import torch

    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(16, width, generator=generator)
    mixed = torch.randn(count, 16, generator=generator) @ factors / 4
    noise = 0.3 * torch.randn(count, width, generator=generator)
    features = torch.relu(mixed + noise).numpy()
    return features, torch.rand(count, generator=generator).square().double().numpy()


def as_table(features: NDArray[np.float32], values: NDArray[np.float64]) -> CandidateTable:
    """A table of regions side by side, a few to an image."""
    import numpy as np

    from segal.candidates.table import CandidateTable, box_pixels

    count = len(features)
    x = np.arange(count, dtype=np.int32) % PER_IMAGE * SIDE
    box = np.stack([x, 0 * x, x + SIDE, 0 * x + SIDE], 1)
    image = np.arange(count, dtype=np.int32) // PER_IMAGE
    names = tuple(map(str, range(image[-1] + 1))) if count else ()
    return CandidateTable(
        names, image, box, box_pixels(box), {"entropy": values}, {"mean_feature": features}
    )


def read(scan: Path, region: str, count: int) -> tuple[CandidateTable, CandidateTable]:
    """The first candidates of a stored scan that are on offer, and what is labelled."""
    from segal.candidates.regions import RegionSize
    from segal.jobs.tuning.scan import StoredScan

    stored, size = StoredScan.open(scan), RegionSize.parse(region)
    table = stored.table(size, "entropy")
    offer = stored.offer(table, size)
    return table.view(offer.rows[:count], offer.prices[:count]), stored.labelled


def loop(x: NDArray[np.floating], given: NDArray[np.floating], count: int, way: str) -> list[int]:
    """Textbook k-center-greedy: one pick at a time."""
    import numpy as np
    import torch
    from sklearn.metrics import pairwise_distances

    squares = np.einsum("ij,ij->i", x, x)
    nearest = np.full(len(x), np.inf, x.dtype)
    if len(given):
        offsets = np.einsum("ij,ij->i", given, given)
        nearest = squares + (offsets - 2 * (x @ given.T)).min(1)
        if way == "pairwise":
            nearest = np.sqrt(np.maximum(nearest, 0))
    tensor = torch.from_numpy(x)
    picks: list[int] = []
    while len(picks) < count:
        first = not picks and not len(given)
        last = int((squares if first else nearest).argmax())
        picks.append(last)
        if way == "differences":
            new = (tensor - tensor[last]).square_().sum(1).numpy()
        elif way == "pairwise":
            new = pairwise_distances(x, x[last : last + 1])[:, 0]
        else:
            dots = torch.mv(tensor, tensor[last]).numpy() if way == "torch" else x @ x[last]
            new = squares + squares[last] - 2 * dots
        np.minimum(nearest, new, out=nearest)
        nearest[last] = -np.inf
    return picks


def faster_way(x: NDArray[np.floating]) -> str:
    """Whose matrix-vector products are the faster ones here."""
    times: dict[str, float] = {}
    for way in ("numpy", "torch") * 3:
        start = time.process_time()
        loop(x, x[:0], 12, way)
        passed = time.process_time() - start
        times[way] = min(passed, times.get(way, passed))
    return min(times, key=lambda way: times[way])


def bench(
    offered: CandidateTable, labelled: CandidateTable, budget: int, repeats: int
) -> dict[str, object]:
    """Times all ways in turns; medians."""
    import numpy as np

    from segal.candidates.budget import Allowance
    from segal.candidates.regions import RegionSize
    from segal.candidates.sweep import Pool, tune_region
    from segal.jobs.tuning.tune import TAUS

    size = RegionSize(SIDE, SIDE)
    rows = np.arange(len(offered))
    allowance = Allowance(budget, "regions")
    pool = Pool(size, size, len(offered), rows, offered, allowance, offered.pixels)
    features, values = offered.embedding("mean_feature"), offered.values["entropy"]
    given, given_values = labelled.embedding("mean_feature"), labelled.values["entropy"]
    ways = {dtype: faster_way(features.astype(dtype)) for dtype in ("float32", "float64")}
    seconds: dict[str, list[float]] = {"sweep": [], "differences": [], "pairwise": []}
    same: dict[str, int] = {}
    for _ in range(repeats):
        start = time.process_time()
        found = tune_region(pool, labelled, "entropy", list(TAUS), lambda _: None)
        seconds["sweep"].append((time.process_time() - start) / len(TAUS))
        for dtype, way in ways.items():
            passed, same[dtype] = 0.0, 0
            for tau, batch in zip(TAUS, found.batches, strict=True):
                x, centres = (
                    (f * (u**tau).astype(np.float32)[:, None]).astype(dtype)
                    for f, u in ((features, values), (given, given_values))
                )
                start = time.process_time()
                picks = loop(x, centres, budget, way)
                passed += time.process_time() - start
                same[dtype] += picks == batch.rows.tolist()
                if tau == 1 and dtype == "float32":
                    for slow in ("differences", "pairwise"):
                        start = time.process_time()
                        loop(x, centres, budget, slow)
                        seconds[slow].append(time.process_time() - start)
            seconds.setdefault(dtype, []).append(passed / len(TAUS))
    median = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "offered": list(features.shape),
        "labelled": len(labelled),
        "budget": budget,
        "taus": len(TAUS),
        "seconds_per_tau": median,
        "loops_products": ways,
        "ratio": {name: median[name] / median["sweep"] for name in median if name != "sweep"},
        "taus_with_the_same_picks": same,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=24_000, help="candidates")
    parser.add_argument("--d", type=int, default=256, help="columns of the generated features")
    parser.add_argument("--labelled", type=int, nargs="+", default=[0, 500], help="generated")
    parser.add_argument("--budget", type=int, default=500, help="picks")
    parser.add_argument("--scan", type=Path, help="a stored scan to take instead")
    parser.add_argument("--region", default="128", help="of that scan")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"  # read when the packages are first imported
    import torch

    torch.set_num_threads(1)
    tables = []
    if arguments.scan:
        tables.append(read(arguments.scan, arguments.region, arguments.n))
    else:
        for labelled in arguments.labelled:
            features, values = generate(arguments.n + labelled, arguments.d)
            cut = arguments.n
            offered = as_table(features[:cut], values[:cut])
            tables.append((offered, as_table(features[cut:], values[cut:])))
    results = []
    for offered, labelled in tables:
        result = bench(offered, labelled, arguments.budget, arguments.repeats)
        results.append(result)
        print(json.dumps(result), flush=True)
    if arguments.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        record = {"torch": torch.__version__, "machine": machine, "results": results}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
