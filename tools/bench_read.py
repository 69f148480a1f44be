"""Seconds to open a pool of images and to read them, beside another version of segal.

    python tools/bench_read.py --against main --images 1000

JPEGs and PNGs of street scenes are made, in folders of a few. Two processes, one with each version,
take every folder in turn, the other one first each time, so that whatever else the machine does
slows both alike. Printed is the processor time of an image, and the ratio: of all time, and the
median over the folders. What is opened is inspected as `segal select` does, with one worker.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from segal.scenes.synthetic import make_frame

ROOT = Path(__file__).parents[1]
KINDS, STAGES = ("jpg", "png"), ("open", "read")
IN_A_FOLDER = 5
WORKER = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import segal
assert Path(segal.__file__).is_relative_to(Path(sys.argv[1])), segal.__file__
from segal.data.pool import open_pool
print("ready", flush=True)
for line in sys.stdin:
    start = time.process_time()
    pool = open_pool(Path(line.rstrip("\\n")))
    opened = time.process_time()
    for index in range(len(pool)):
        pool.read(index)
    print(json.dumps([opened - start, time.process_time() - opened]), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--against", default="main", help="a commit, or a folder with segal in it")
    parser.add_argument("--images", type=int, default=1000, help="of either kind")
    parser.add_argument("--height", type=int, default=1024, help="they are twice as wide")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        other = export(arguments.against, folder / "other")
        results = {}
        workers = [start(root) for root in (other, ROOT)]
        for kind in KINDS:
            folders = write(folder / kind, kind, arguments.images, arguments.height)
            results[kind] = compare(workers, folders)
        for worker in workers:
            worker.stdin.close()
            worker.wait()
    report(results, arguments.images)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def export(version: str, folder: Path) -> Path:
    """The folder of another version."""
    if Path(version, "segal").is_dir():
        return Path(version).resolve()
    archive = subprocess.run(
        ["git", "archive", version, "segal"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder.resolve()


def write(root: Path, kind: str, count: int, height: int) -> list[Path]:
    """Makes images, and returns the folders that hold them; there are four, by many names."""
    root.mkdir()
    scenes = []
    for seed in range(min(count, 4)):
        pixels, _ = make_frame("train", 0, size=(height, 2 * height), seed=seed, odd_sizes=False)
        scenes.append(root / f"{seed}.{kind}")
        Image.fromarray(pixels).save(scenes[-1], quality=90)
    folders: list[Path] = []
    for number in range(count):
        folder = root / f"{number // IN_A_FOLDER:04d}"
        if folder not in folders:
            folder.mkdir(parents=True)
            folders.append(folder)
        (folder / f"{number}.{kind}").hardlink_to(scenes[number % len(scenes)])
    return folders


def start(root: Path) -> Any:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
    )
    assert worker.stdout.readline() == "ready\n"
    return worker


def ask(worker: Any, folder: Path) -> list[float]:
    worker.stdin.write(f"{folder}\n")
    worker.stdin.flush()
    seconds: list[float] = json.loads(worker.stdout.readline())
    return seconds


def compare(workers: list[Any], folders: list[Path]) -> dict[str, Any]:
    for worker in workers:  # what is loaded late is loaded
        ask(worker, folders[0])
    taken: list[list[list[float]]] = [[], []]
    for number, folder in enumerate(folders):
        for which in (number % 2, 1 - number % 2):
            taken[which].append(ask(workers[which], folder))
    old, new = (np.array(t) for t in taken)
    result: dict[str, Any] = {}
    for i, stage in enumerate((*STAGES, "both")):
        a, b = (x.sum(1) if stage == "both" else x[:, i] for x in (old, new))
        result[stage] = {
            "old": a.sum(),
            "new": b.sum(),
            "ratio": b.sum() / a.sum(),
            "median ratio": median(b / a),
        }
    return result


def report(results: dict[str, Any], count: int) -> None:
    print(
        "| kind | stage | before, ms | now, ms | ratio | median ratio |\n|---|---|---|---|---|---|"
    )
    for kind, stages in results.items():
        for stage, found in stages.items():
            old, new = (1000 * found[name] / count for name in ("old", "new"))
            ratios = f"{found['ratio']:.3f} | {found['median ratio']:.3f}"
            print(f"| {kind} | {stage} | {old:.1f} | {new:.1f} | {ratios} |")


if __name__ == "__main__":
    main()
