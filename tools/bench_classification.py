"""Time what classification rests on against its floors and against other packages.

    pip install scikit-activeml          # here, or elsewhere with --python .../bin/python
    python tools/bench_classification.py badge --json badge.json
    python tools/bench_classification.py table --folder FOLDER --json table.json
    python tools/bench_classification.py scoring
    python tools/bench_classification.py isal

`badge`: BADGE on features and probabilities in memory, beside scikit-activeml's `Badge`, which
builds the outer products. `table`: CoreSet (k-center) and BADGE on a candidate table of the size of
ImageNet, float16 on disk; `--rows` scales it. The floor of k-center is the bare float32 matrix
product of as many distances, timed on `--columns` of them and multiplied up.

Every run is a process of its own with one thread, and the methods take turns. Memory is the
highest resident size above that after the imports (and, for `badge`, the arrays), pages of mapped
files included.

Made-up features have the spectrum that MobileNetV2's have on CIFAR-10: eigenvalues of the
covariance fall as i^-0.9 (measured: 10, 22, 38, 58 and 80 % of the variance in the first 1, 4, 16,
64 and 256 directions; MobileNetV2: 9, 19, 39, 65 and 88 %), turned at random, about a mean of 1.2
times their spread; a quarter of the variance lies between classes, and spreads differ
by a factor exp(0.25 normal). Probabilities are a softmax of products with the classes' centres.
"""

# ruff: noqa: PLC0415 (what is imported is what memory is counted above)

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ROWS = 8192
MIB = 2**20
Timed = dict[str, Any]


class Maker:
    """Makes features and probabilities, some rows at a time.

    Args:
        width: Of the features.
        classes: Number of classes.
    """

    def __init__(self, width: int, classes: int) -> None:
        import torch

        self.generator = torch.Generator().manual_seed(0)
        scale = torch.arange(1, width + 1).float() ** -0.45
        turn = torch.linalg.qr(self._normal(width, width))[0]
        self.basis = (turn * (scale * 28 / scale.norm())).T
        self.centres = self._normal(classes, width)
        mean = torch.rand(width, generator=self.generator)
        self.mean = mean * 33 / mean.norm()

    def _normal(self, *shape: int) -> Any:
        import torch

        return torch.randn(*shape, generator=self.generator)

    def rows(self, count: int) -> tuple[Any, Any]:
        """(count, width) features and (count, classes) probabilities, float32."""
        import torch

        classes, width = self.centres.shape
        label = torch.randint(0, classes, (count,), generator=self.generator)
        latent = 0.5 * self.centres[label] + 0.75**0.5 * self._normal(count, width)
        spread = torch.exp(0.25 * self._normal(count, 1))
        features = self.mean + spread * (latent @ self.basis)
        logits = 0.5 * spread * (latent @ self.centres.T) / width**0.5
        return features, logits.softmax(1)


def residual(probabilities: Any) -> Any:
    """p less the one-hot vector of its largest; (n, C)."""
    import torch

    largest = probabilities.max(1, keepdim=True).indices
    return probabilities.scatter_add(1, largest, torch.full_like(probabilities[:, :1], -1.0))


# ---------------------------------------------------------------- one run, in a process of its own


def resident() -> int:
    """Bytes of this process now; what it held before is forgotten where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except OSError:
        return peak()


def peak() -> int:
    """Bytes of the highest resident size since `resident`."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def timed(work: Callable[[], list[int]], base: int) -> Timed:
    wall, processor = time.perf_counter(), time.process_time()
    picks = work()
    return {
        "wall": time.perf_counter() - wall,
        "processor": time.process_time() - processor,
        "peak": peak() - base,
        "picks": picks,
    }


def run_factorised(features: NDArray[np.float32], probabilities: Any, count: int) -> Timed:
    import torch

    from segal.functional.distances import OuterProducts
    from segal.functional.kmeans_plusplus import k_means_plusplus

    torch.set_num_threads(1)

    def work() -> list[int]:
        products = OuterProducts(residual(torch.from_numpy(probabilities)), features)
        generator = torch.Generator().manual_seed(0)
        return list(k_means_plusplus(products, count, generator).tolist())

    return timed(work, resident())


def run_activeml(features: NDArray[np.float32], probabilities: Any, count: int) -> Timed:
    import numpy as np
    from skactiveml.base import SkactivemlClassifier
    from skactiveml.pool import Badge

    class Known(SkactivemlClassifier):  # type: ignore[misc]
        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Known:
            return self

        def predict_proba(self, X: Any) -> Any:
            return probabilities

    classifier = Known(classes=np.arange(probabilities.shape[1]))
    labels = np.full(len(features), np.nan)

    def work() -> list[int]:
        found = Badge(random_state=0).query(
            features, labels, classifier, fit_clf=False, batch_size=count
        )
        return [int(i) for i in found]

    return timed(work, resident())


def run_strategy(name: str, folder: Path, count: int) -> Timed:
    import numpy as np
    import torch

    from segal.candidates.table import CandidateTable
    from segal.strategies.badge import Badge
    from segal.strategies.coreset import CoreSet

    torch.set_num_threads(1)
    strategy = {"coreset": CoreSet(init="max_norm"), "badge": Badge()}[name]

    def work() -> list[int]:
        table = CandidateTable.open(folder)
        nothing = table.view(np.zeros(0, np.int64), np.zeros(0, np.int64))
        generator = torch.Generator().manual_seed(0)
        return list(strategy.select(table, nothing, count, generator).rows.tolist())

    return timed(work, resident())


def run_floor(rows: int, width: int, columns: int) -> Timed:
    """Bare products in blocks of rows that are there already, into memory that is there already."""
    import torch

    torch.set_num_threads(1)
    x, centres = torch.randn(_ROWS, width), torch.randn(width, columns)
    out = torch.empty(_ROWS, columns)
    torch.mm(x, centres, out=out)

    def work() -> list[int]:
        for start in range(0, rows, _ROWS):
            count = min(_ROWS, rows - start)
            torch.mm(x[:count], centres, out=out[:count])
        return []

    return timed(work, resident())


def one_run(arguments: list[str]) -> None:
    """Prints what one run took, as JSON."""
    method, *rest = arguments
    if method == "floor":
        found = run_floor(*map(int, rest))
    elif method in {"coreset", "badge"}:
        found = run_strategy(method, Path(rest[0]), int(rest[1]))
    else:
        import numpy as np

        arrays = np.load(rest[0])
        features, probabilities = arrays["features"], arrays["probabilities"]
        run = run_factorised if method == "factorised" else run_activeml
        found = run(features, probabilities, int(rest[1]))
    print(json.dumps(found))


def start(method: str, *arguments: object, python: str = sys.executable) -> Timed | None:
    """A run; None where it fails, which is told."""
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    command = [python, str(Path(__file__).resolve()), "one", method, *map(str, arguments)]
    environment = {**os.environ, **dict.fromkeys(threads, "1")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{method}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}", file=sys.stderr)
        return None
    found: Timed = json.loads(done.stdout.splitlines()[-1])
    return found


def medians(runs: list[Timed]) -> Timed:
    keys = ("wall", "processor", "peak")
    return {k: statistics.median(run[k] for run in runs) for k in keys} | {"runs": len(runs)}


# ----------------------------------------------------------------------------- the benchmarks


def bench_badge(arguments: argparse.Namespace) -> Timed:
    import numpy as np

    runs: dict[str, list[Timed]] = {"factorised": [], "activeml": []}
    with TemporaryDirectory() as temporary:
        features, probabilities = Maker(arguments.width, arguments.classes).rows(arguments.rows)
        file = Path(temporary, "arrays.npz")
        np.savez(file, features=features.numpy(), probabilities=probabilities.numpy())
        for _ in range(arguments.repeats):
            for method, python in (("factorised", sys.executable), ("activeml", arguments.python)):
                found = start(method, file, arguments.picks, python=python)
                runs[method] += [found] if found else []
    print(f"BADGE, {arguments.picks} of {arguments.rows} x {arguments.width}, ", end="")
    print(f"{arguments.classes} classes; medians of {arguments.repeats}")
    result = {method: medians(found) for method, found in runs.items() if found}
    for method, found in result.items():
        print(f"{method:<12}{found['wall']:>9.3f} s{found['peak'] / MIB:>10.1f} MiB")
    if not runs["activeml"]:
        print("scikit-activeml: not run; pip install scikit-activeml, here or for --python")
        return result
    ours, theirs = result["factorised"], result["activeml"]
    result["faster"] = theirs["wall"] / ours["wall"]
    result["leaner"] = theirs["peak"] / max(ours["peak"], 1)
    result["same_first"] = runs["factorised"][0]["picks"][0] == runs["activeml"][0]["picks"][0]
    print(f"{result['faster']:.0f} times faster, {result['leaner']:.0f} times leaner (aim: 20, 20)")
    print("the first pick is the same" if result["same_first"] else "THE FIRST PICKS DIFFER")
    return result


def bench_table(arguments: argparse.Namespace) -> Timed:
    folder = arguments.folder / f"{arguments.rows}x{arguments.width}x{arguments.classes}"
    if not folder.exists():
        make_table(folder, arguments)
    runs: dict[str, list[Timed]] = {"floor": [], "coreset": [], "badge": []}
    shape = (arguments.rows, arguments.width, arguments.columns)
    jobs = [("floor", shape, arguments.repeats)]
    jobs += [("coreset", (folder, arguments.picks), arguments.repeats)]
    jobs += [("badge", (folder, arguments.badge_picks), arguments.badge_repeats)]
    for turn in range(max(arguments.repeats, arguments.badge_repeats)):
        for method, given, repeats in jobs:
            if turn < repeats and (found := start(method, *given)):
                runs[method].append(found)
    result: Timed = {method: medians(found) for method, found in runs.items() if found}
    features = arguments.rows * arguments.width * 2
    tables = {"coreset": features, "badge": features + arguments.rows * arguments.classes * 2}
    print(f"{arguments.rows} x {arguments.width} float16, {arguments.classes} classes")
    if "floor" in result:
        times = arguments.picks / arguments.columns
        floor = {kind: result["floor"][kind] * times for kind in ("wall", "processor")}
        result["floor_of_all"] = floor
        print(f"floor: {arguments.columns} columns, times {times:g}: ", end="")
        print(f"{floor['processor']:.1f} s of the processor, {floor['wall']:.1f} s")
    for method in (m for m in tables if m in result):
        found = result[method]
        limit = 1.3 * tables[method] + 512 * MIB
        found["limit"] = limit
        print(
            f"{method}: {found['processor']:.1f} s of the processor, {found['wall']:.1f} s", end=""
        )
        print(f", {found['peak'] / MIB:.0f} MiB (aim: {limit / MIB:.0f}); {found['runs']} runs")
    if {"floor", "coreset"} <= result.keys():
        found["to_floor"] = ratios = {k: result["coreset"][k] / floor[k] for k in floor}
        print(
            f"k-center, {arguments.picks} picks: {ratios['processor']:.3f} of the floor's ", end=""
        )
        print(f"processor time, {ratios['wall']:.3f} of its wall time (aim: 0.6)")
    return result


def make_table(folder: Path, arguments: argparse.Namespace) -> None:
    """Writes the candidate table that a scan of that size would."""
    import numpy as np
    import torch

    from segal.candidates.table import TableWriter
    from segal.signals import MeanFeature, OutputGradient

    torch.set_num_threads(1)
    maker, columns = Maker(arguments.width, arguments.classes), (MeanFeature(), OutputGradient())
    starts = range(0, arguments.rows, _ROWS)
    part = folder.with_name(folder.name + ".part")
    with TableWriter(part, [str(s) for s in starts], arguments.rows, "float16") as writer:
        for image, first in enumerate(starts):
            features, probabilities = maker.rows(min(_ROWS, arguments.rows - first))
            measured = (features.numpy(), residual(probabilities).numpy())
            box = np.tile(np.array([[0, 0, 1, 1]], np.int32), (len(features), 1))
            columns_of = {s.column: m[None] for s, m in zip(columns, measured, strict=True)}
            writer.append([image], box, columns_of)
    part.rename(folder)


def of_scores(name: str, arguments: argparse.Namespace) -> Timed:
    """A benchmark of `bench_image_scores`."""
    import bench_image_scores

    keys = ("images", "side", "classes", "batch", "repeats")
    measured: Timed = getattr(bench_image_scores, name)(*(getattr(arguments, k) for k in keys))
    return measured


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        one_run(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    badge = kinds.add_parser("badge", help="BADGE beside scikit-activeml's")
    badge.add_argument("--rows", type=int, default=20_000)
    badge.add_argument("--width", type=int, default=256)
    badge.add_argument("--classes", type=int, default=19)
    badge.add_argument("--picks", type=int, default=50)
    badge.add_argument("--python", default=sys.executable, help="one that has scikit-activeml")
    badge.set_defaults(bench=bench_badge)
    table = kinds.add_parser("table", help="a table of the size of ImageNet")
    table.add_argument("--folder", type=Path, required=True, help="takes the table, and keeps it")
    table.add_argument("--rows", type=int, default=1_281_167)
    table.add_argument("--width", type=int, default=768)
    table.add_argument("--classes", type=int, default=1000)
    table.add_argument("--picks", type=int, default=10_000)
    table.add_argument("--columns", type=int, default=256, help="of the floor that are timed")
    table.add_argument("--badge-picks", type=int, default=1000)
    table.add_argument("--badge-repeats", type=int, default=5)
    table.set_defaults(bench=bench_table)
    scoring = kinds.add_parser("scoring", help="five strategies in one pass, over the bare network")
    isal = kinds.add_parser("isal", help="influence by all parameters, beside a backward pass each")
    for kind, name, images in ((scoring, "bench_scoring", 1000), (isal, "bench_isal", 64)):
        kind.add_argument("--images", type=int, default=images)
        kind.add_argument("--side", type=int, default=112, help="of the images, in pixels")
        kind.add_argument("--classes", type=int, default=10)
        kind.add_argument("--batch", type=int, default=32)
        kind.set_defaults(bench=partial(of_scores, name))
    for kind in (badge, table, scoring, isal):
        kind.add_argument("--repeats", type=int, default=5, help="runs of each method")
        kind.add_argument("--json", type=Path, help="write what was measured to this file")
    arguments = parser.parse_args()
    result = arguments.bench(arguments)
    if arguments.json:
        given = {k: str(v) for k, v in vars(arguments).items() if k not in {"bench", "json"}}
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        record = {"arguments": given, "machine": machine, **result}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
