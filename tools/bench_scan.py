"""Scan time over the bare forward pass, and peak memory against the number of images.

    python tools/bench_scan.py --threads 1 --json scan.json

Both run in one process, in turns, on the same images, decoded in memory beforehand; the table of
the scan goes to disk. Peak memory is that of `segal select` on 50 and on 500 image files.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch

from segal.candidates.regions import RegionSize
from segal.data.images import ImageInfo
from segal.data.pool import ImagePool
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import save_checkpoint
from segal.scanning.scan import Scan, ScanSettings
from segal.signals import MeanFeature, Value
from segal.system.machine import describe, find_device, use_threads
from segal.tasks.segmentation.task import Segmentation

SIZES = ((512, 512), (1024, 2048))
REGIONS = ("512", "256", "128")
SIGNALS = (Value("entropy"), MeanFeature())


class DecodedPool(ImagePool):
    """A pool whose images are in memory already: a few, shown again and again."""

    def read(self, index: int) -> np.ndarray:
        return IMAGES[index % len(IMAGES)]


IMAGES: list[np.ndarray] = []


def make_pool(count: int, size: tuple[int, int]) -> DecodedPool:
    rng = np.random.default_rng(0)
    IMAGES[:] = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(min(count, 4))]
    return DecodedPool(
        root=Path(),
        paths=tuple(f"{i:06}.png" for i in range(count)),
        infos=tuple(ImageInfo(*size, "") for _ in range(count)),
        stats=((0, 0),) * count,
    )


def make_model(device: torch.device):
    torch.manual_seed(0)
    names = tuple(f"class {i}" for i in range(19))
    return build_model(make_spec("DeepLabV3Plus", "resnet18", names)).to(device).eval()


@torch.inference_mode()
def bare_forward(model, pool: ImagePool, device: torch.device) -> float:
    """Seconds of the network alone: normalised images in, logits at full resolution out."""
    start = time.perf_counter()
    for i in range(len(pool)):
        images = model.normalise(torch.from_numpy(pool.read(i))[None].to(device))
        model.network(images)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def scan_once(model, pool: ImagePool, device: torch.device) -> float:
    with tempfile.TemporaryDirectory() as folder:
        scan = Scan(
            pool=pool,
            task=Segmentation(),
            regions=[RegionSize.parse(region) for region in REGIONS],
            settings=ScanSettings(device=device),
            signals=SIGNALS,
            model=model,
        )
        start = time.perf_counter()
        scan.run(Path(folder) / "candidates")
        return time.perf_counter() - start


def measure_time(size, images: int, repeats: int, device: torch.device) -> dict[str, object]:
    model, pool = make_model(device), make_pool(images, size)
    bare_forward(model, pool.subset([0]), device)
    scan_once(model, pool.subset([0]), device)
    forward, scanned = [], []
    for _ in range(repeats):
        forward.append(bare_forward(model, pool, device))
        scanned.append(scan_once(model, pool, device))
    ratios = [s / f for s, f in zip(scanned, forward, strict=True)]
    return {
        "size": "x".join(map(str, size)),
        "forward_ms_per_image": 1e3 * median(forward) / images,
        "scan_ms_per_image": 1e3 * median(scanned) / images,
        "ratio": median(scanned) / median(forward),
        "median_of_paired_ratios": median(ratios),
        "ratios": ratios,
    }


def measure_memory(count: int, args) -> dict[str, int]:
    """Peak memory of `segal select` on so many image files, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoint(make_model(torch.device("cpu")), folder / "model.safetensors")
        (folder / "images").mkdir()
        rng = np.random.default_rng(0)
        for i in range(count):
            coarse = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            image = cv2.resize(coarse, SIZES[0], interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(folder / "images" / f"{i:06}.jpg"), image)
        command = f"""{sys.executable} -m segal select --images {folder / "images"}
            --checkpoint {folder / "model.safetensors"} --region 512 extra_regions=256,128
            --budget 10% --strategy uwe --out {folder / "run"} --overlays 0
            --device {args.device} --threads {args.threads}"""
        subprocess.run(command.split(), check=True, capture_output=True)
        summary = json.loads((folder / "run" / "summary.json").read_text())
        return summary["peak_memory_bytes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, nargs=2, default=(40, 4), help="at either size")
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    use_threads(args.threads)
    device = find_device(args.device)
    result: dict[str, object] = {"machine": describe(device), "regions": REGIONS, "time": []}
    print(result["machine"])
    print(f"{'size':>10} {'forward ms':>11} {'scan ms':>9} {'ratio':>6}   (aim: at most 1.10)")
    for size, images in zip(SIZES, args.images, strict=True):
        row = measure_time(size, images, args.repeats, device)
        result["time"].append(row)
        print(
            f"{row['size']:>10} {row['forward_ms_per_image']:11.1f} "
            f"{row['scan_ms_per_image']:9.1f} {row['ratio']:6.3f}"
        )
    if not args.skip_memory:
        peaks = {count: measure_memory(count, args) for count in (50, 500)}
        result["peak_bytes"] = peaks
        for where in peaks[50]:
            small, large = peaks[50][where], peaks[500][where]
            print(
                f"peak {where} memory: {small / 2**20:.0f} MiB at 50 images, "
                f"{large / 2**20:.0f} MiB at 500, ratio {large / small:.3f} (aim: within 5%)"
            )
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
