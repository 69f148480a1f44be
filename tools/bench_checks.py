"""Seconds to check a pool of many small images: opening it, and what is compared of it.

    python tools/bench_checks.py --images 100000

Images of 16 x 16 pixels are made. To open them is to read, inspect and hash each; what is compared
is their content with each other, with that of another split of a tenth as many, and with what was
there before. The second opening knows the first from the ledger. Each is timed several times, and
the medians of processor time are printed.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from segal.data.changes import Changes
from segal.data.pool import ImagePool, open_pool
from segal.jobs.copies import copies_notes
from segal.runs.ledger import Ledger
from segal.tasks.splitting import refuse_shared

SIDE, IN_A_FOLDER = 16, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        root = Path(temporary)
        make(root / "train", arguments.images, 0)
        make(root / "val", arguments.images // 10, arguments.images)
        numbers = measure(root, arguments.repeats)
    opened = numbers["open"]
    print(f"{arguments.images} images of {SIDE} x {SIDE} pixels, processor time, medians")
    for name, seconds in numbers.items():
        print(f"{name:>10}: {seconds:8.3f} s, {seconds / opened:6.3f} of open")
    print(f"open and compare: {1 + numbers['compare'] / opened:.3f} (at most 1.15)")
    print(f"again:            {numbers['again'] / opened:.3f} (at most .1)")
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")


def make(folder: Path, count: int, seed: int) -> None:
    """Images that all differ."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        path = folder / f"{number // IN_A_FOLDER:04d}" / f"{number:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


def measure(root: Path, repeats: int) -> dict[str, float]:
    """Seconds by what is done."""
    train, val = open_pool(root / "train"), open_pool(root / "val")
    with Ledger.open(root / "run", "select", {}) as ledger:
        ledger.record_images(train)

        def again() -> ImagePool:
            pool = open_pool(root / "train", known=ledger.known_images())
            compare(pool, val, train)
            return pool

        steps: dict[str, Callable[[], object]] = {
            "open": lambda: open_pool(root / "train"),
            "compare": lambda: compare(train, val, train),
            "again": again,
        }
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(repeats):
            for name, step in steps.items():
                started = time.process_time()
                step()
                taken[name].append(time.process_time() - started)
    return {name: median(seconds) for name, seconds in taken.items()}


def compare(pool: ImagePool, other: ImagePool, before: ImagePool) -> None:
    """All that is asked of digests and names."""
    copies_notes(pool)
    refuse_shared({"train": pool, "val": other})
    digests = [{p: i.digest for p, i in zip(x.paths, x.infos, strict=True)} for x in (before, pool)]
    assert not Changes.of(*digests)


if __name__ == "__main__":
    main()
