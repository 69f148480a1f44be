"""How fast images are read: threads against processes, whole against at a fraction of the size.

    python tools/bench_readers.py --workers 2 --images 64 --json readers.json

JPEGs of street scenes are read as a scan reads them, by `prefetch` with that many threads, and by
as many processes that hand batches back as a data loader's do, in shared memory; in turns. Printed
are images a second and milliseconds of processor time an image, of all that reads.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from segal.data.pool import ImagePool, open_pool
from segal.data.prefetch import prefetch
from segal.data.reduced import ReducedPool
from segal.scenes.synthetic import make_frame

FACTORS = (1, 2, 4)


class Batches(Dataset):
    """A pool, image by image."""

    def __init__(self, pool: ImagePool, factor: int) -> None:
        self.pool, self.factor = pool, factor

    def __len__(self) -> int:
        return len(self.pool)

    def __getitem__(self, index: int) -> torch.Tensor:
        return read(self.pool, self.factor, index)


def read(pool: ImagePool, factor: int, index: int) -> torch.Tensor:
    batch = ReducedPool(pool, lambda height, width: factor).batch([index])
    return batch if isinstance(batch, torch.Tensor) else batch.maps[0]


def by_threads(pool: ImagePool, factor: int, workers: int) -> None:
    for _ in prefetch(partial(read, pool, factor), range(len(pool)), workers):
        pass


def by_processes(pool: ImagePool, factor: int, workers: int) -> None:
    for _ in DataLoader(Batches(pool, factor), batch_size=None, num_workers=workers):
        pass


WAYS: dict[str, Callable[[ImagePool, int, int], None]] = {
    "threads": by_threads,
    "processes": by_processes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--height", type=int, default=1024, help="they are twice as wide")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        for number in range(args.images):
            size = (args.height, 2 * args.height)
            pixels, _ = make_frame("train", number % 4, size=size, seed=0, odd_sizes=False)
            Image.fromarray(pixels).save(Path(folder) / f"{number}.jpg", quality=90 - number % 7)
        rows = measure(open_pool(Path(folder)), args)
    print("| | read at | images a second | ms of processor an image |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['way']} | 1/{row['factor']} | {row['rate']:.1f} | {row['ms']:.1f} |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure(pool: ImagePool, args: argparse.Namespace) -> list[dict[str, float | str]]:
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(args.repeats):
        for factor in FACTORS:
            for name, way in WAYS.items():
                before, wall = os.times(), time.perf_counter()
                way(pool, factor, args.workers)
                after, wall = os.times(), time.perf_counter() - wall
                used = sum(after[:4]) - sum(before[:4])  # of children as well
                found.setdefault((name, factor), []).append((wall, used))
    return [
        {
            "way": name,
            "factor": factor,
            "rate": len(pool) / median(wall for wall, _ in taken),
            "ms": 1000 * median(used for _, used in taken) / len(pool),
        }
        for (name, factor), taken in found.items()
    ]


if __name__ == "__main__":
    main()
