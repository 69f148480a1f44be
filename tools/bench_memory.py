"""Peak memory of `segal select` on one large image, against another checkout of segal.

    python tools/bench_memory.py --side 4096 --against CHECKOUT

Both select with uwe and a DeepLabV3+ with resnet18 from the same image; the scores of all regions
are compared, and the highest resident size of either process is printed, with the ratio.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch

from segal.candidates.table import CandidateTable
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import save_checkpoint

_REGION = "512"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=4096, help="of the image, in pixels")
    parser.add_argument("--against", type=Path, help="another checkout of segal")
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _make(folder, arguments.side)
        here = Path(__file__).resolve().parents[1]
        new = _select(here, folder, "new")
        print(f"this checkout: {new / 2**30:.2f} GiB")
        if arguments.against is None:
            return
        old = _select(arguments.against.resolve(), folder, "old")
        print(f"{arguments.against}: {old / 2**30:.2f} GiB; ratio {new / old:.3f}")
        tables = [
            CandidateTable.open(folder / run / "candidates" / _REGION) for run in ("new", "old")
        ]
        ours, theirs = (table.values["entropy"] for table in tables)
        print(f"entropy: largest relative difference {np.max(np.abs(ours / theirs - 1)):.1e}")
        ours, theirs = (table.embedding("mean_feature") for table in tables)
        error = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
        print(f"mean features: largest relative difference {error.max():.1e}")


def _make(folder: Path, side: int) -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
    image = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
    (folder / "pool").mkdir()
    cv2.imwrite(str(folder / "pool" / "a.png"), image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    torch.manual_seed(0)
    model = build_model(make_spec(class_names=tuple(f"class {i}" for i in range(19))))
    save_checkpoint(model.eval(), folder / "network.safetensors")


def _select(checkout: Path, folder: Path, name: str) -> int:
    """Bytes of a selection's highest resident size."""
    command = [sys.executable, "-m", "segal", "select", "--images", str(folder / "pool")]
    command += ["--checkpoint", str(folder / "network.safetensors"), "--region", _REGION]
    command += ["--budget", "10", "--strategy", "uwe", "--out", str(folder / name)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    process = subprocess.Popen(command, env=environment, cwd=checkout, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the selection of {checkout} failed")
    scale = 1 if sys.platform == "darwin" else 1024
    return usage.ru_maxrss * scale


if __name__ == "__main__":
    main()
