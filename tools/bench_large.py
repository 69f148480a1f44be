"""What a large image takes: memory beside a small one's, and how far tiles change what is measured.

    python tools/bench_scale.py large [--side 20000] [--folder FOLDER] [--threads 1] [--overlays 1]

Makes an RGBA image of SIDE x SIDE pixels (a tiled BigTIFF, of which a corner has no data), tile by
tile, selects regions of it and of one of 1,024 x 1,024 with `segal select` in processes of their
own, pictures and masks included, and prints what each held at most. Then scans an image of 1,536 x
1,024 as a whole and in tiles of 256 and 512, with networks that look near and far, and prints how
far the entropies of regions differ, at the seams and between them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from torch import nn

from segal.candidates.regions import RegionSize
from segal.candidates.table import CandidateTable
from segal.data.image_file import Large, Reading
from segal.data.pool import open_pool
from segal.models.spec import ModelSpec
from segal.scanning.scan import Scan, ScanSettings
from segal.signals import MeanFeature, Value
from segal.tasks import find_task
from segal.tasks.segmentation.model import SegmentationModel

CLASSES = 8
_TILE = 512
_LIMIT = 1.5 * 2**30


def network(num_classes: int, dilation: int = 1) -> nn.Sequential:
    """Logits at a quarter of the input's size, spread over it."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=dilation, dilation=dilation),
        nn.ReLU(),
        nn.Conv2d(64, num_classes, 1),
        nn.Upsample(scale_factor=4, mode="bilinear"),
    )


def tiles(side: int) -> Iterator[NDArray[np.uint8]]:
    """The tiles of an image: coarse noise and discs; transparent left of and above a diagonal."""
    rng = np.random.default_rng(0)
    inside = np.mgrid[:_TILE, :_TILE]
    for top in range(0, side, _TILE):
        for left in range(0, side, _TILE):
            coarse = rng.integers(0, 255, (_TILE // 8, _TILE // 8, 3), np.uint8)
            tile = np.full((_TILE, _TILE, 4), 255, np.uint8)
            tile[..., :3] = coarse.repeat(8, 0).repeat(8, 1)
            y, x = inside[0] + top, inside[1] + left
            tile[(y - top - 256) ** 2 + (x - left - 256) ** 2 < 150**2, :3] = coarse[0, 0]
            tile[y + x < side // 4, 3] = 0
            yield tile


def write(path: Path, side: int) -> None:
    """Writes an image tile by tile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path,
        tiles(side),
        shape=(side, side, 4),
        dtype=np.uint8,
        tile=(_TILE, _TILE),
        photometric="rgb",
        extrasamples=["unassalpha"],
        compression="zlib",
        bigtiff=True,
    )


def select(folder: Path, side: int, threads: int, overlays: int) -> tuple[int, float]:
    """Selects from one image; bytes that were held at most, and seconds."""
    images = folder / str(side)
    if not (images / "scene.tif").exists():
        write(images / "scene.tif", side)
    weights = folder / "weights.pth"
    torch.manual_seed(0)
    torch.save(network(CLASSES).state_dict(), weights)
    code = "import resource, sys; from segal.cli import main; sys.argv[0] = 'segal'; code = 0\n"
    code += "try:\n    main()\nexcept SystemExit as error:\n    code = error.code\n"
    code += "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
    with tempfile.TemporaryDirectory(dir=folder) as out:
        options = {
            "--images": images,
            "--checkpoint": weights,
            "--arch": "bench_large:network",
            "--num-classes": CLASSES,
            "--mean": "0.5,0.5,0.5",
            "--std": "0.3,0.3,0.3",
            "--region": 512 if side > 1024 else 128,
            "--budget": 20,
            "--strategy": "uwe",
            "--overlays": overlays,
            "--threads": threads,
            "--out": Path(out) / "run",
        }
        command = [sys.executable, "-c", code, "select"]
        command += [str(part) for pair in options.items() for part in pair]
        start = time.perf_counter()
        here = Path(__file__).resolve().parent
        path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": path}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr)
    print(*done.stderr.strip().splitlines()[-2:], sep="\n")
    peak = next(line for line in done.stdout.splitlines() if line.startswith("peak "))
    return int(peak.split()[1]) * 1024, seconds


def entropies(folder: Path, model: SegmentationModel, large: Large) -> NDArray[np.float64]:
    """Mean entropies of squares of 8 pixels, by rows."""
    pool = open_pool(folder / "seams", reading=Reading(large=large))
    with tempfile.TemporaryDirectory(dir=folder) as out:
        scan = Scan(
            pool,
            find_task("segmentation"),
            [RegionSize(8, 8)],
            ScanSettings(torch.device("cpu")),
            [Value("entropy"), MeanFeature()],
            model,
        )
        scan.run(Path(out) / "tables")
        found: NDArray[np.float64] = CandidateTable.open(Path(out) / "tables" / "8").values[
            "entropy"
        ]
        return found.copy()


def seams(folder: Path) -> None:
    """Prints how far tiles change entropies."""
    height, width = 1024, 1536
    (folder / "seams").mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
    tifffile.imwrite(folder / "seams" / "a.tif", pixels, tile=(256, 256), photometric="rgb")
    spec = ModelSpec("own", "", tuple(map(str, range(CLASSES))), (0.5,) * 3, (0.3,) * 3, 4)
    print("largest and mean difference of the mean entropies (nats) of squares of 8 x 8 pixels:")
    for dilation in (1, 8, 24):
        torch.manual_seed(0)
        model = SegmentationModel(network(CLASSES, dilation).eval(), spec).eval()
        nn.init.normal_(model.network[-2].weight, std=2.0)
        whole = entropies(folder, model, Large(above=1e3)).reshape(height // 8, width // 8)
        radius = 4 * dilation + 5 + 4
        for tile, overlap in ((256, 64), (512, 128), (512, 0)):
            tiled = entropies(folder, model, Large(1.0, tile, overlap)).reshape(whole.shape)
            gap = np.abs(tiled - whole)
            seam = np.zeros(whole.shape, bool)
            step = tile - overlap
            for axis, count in enumerate(whole.shape):
                middle = (np.arange(count) + 0.5) * 8
                away = np.abs((middle - overlap / 2 + step / 2) % step - step / 2)
                near = (away <= max(overlap / 4, 8)) & (middle > tile / 2)
                seam |= near[:, None] if axis == 0 else near
            print(
                f"  looks {radius:3} pixels far, tiles of {tile} that overlap by {overlap:3}: "
                f"at seams {gap[seam].max():.1e} ({gap[seam].mean():.1e}), "
                f"between them {gap[~seam].max():.1e} ({gap[~seam].mean():.1e})"
            )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--overlays", type=int, default=1, help="1: draw its picture, too")
    parser.add_argument("--only", choices=["seams", "memory"], default=None)
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if given.only != "memory":
            seams(folder)
        if given.only == "seams":
            return
        small, _ = select(folder, 1024, given.threads, given.overlays)
        large, seconds = select(folder, given.side, given.threads, given.overlays)
    megapixels = given.side**2 / 1e6
    print(f"1,024 x 1,024: {small / 2**20:,.0f} MiB at most")
    print(f"{given.side:,} x {given.side:,}: {large / 2**20:,.0f} MiB, {seconds:.0f} s")
    print(
        f"above: {(large - small) / 2**20:,.0f} MiB (may be {_LIMIT / 2**20:,.0f}), "
        f"{megapixels / seconds:.2f} megapixels/s"
    )
    if large - small > _LIMIT:
        sys.exit("too much")


if __name__ == "__main__":
    main()
