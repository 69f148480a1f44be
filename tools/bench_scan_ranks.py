"""A pass over a pool by several ranks, against the sum of its parts.

    python tools/bench_scale.py ranks --ranks 2 --images 96 --json ranks.json

All is done by the command line, with one thread a process, in turns:

- `parts`: `segal select` on each rank's share of the images, one after another, alone;
- `beside`: the same at the same time, as processes that know nothing of each other;
- `ranks`: `torchrun -m segal select` on all images.

Printed are images a second of the pass itself, without what comes before and after it: of all
parts together, and of the ranks; what the ranks lose against either; and the peak memory of rank
0, which the tables that it puts together must not go through. The floor is a loss of 5 %. Cores
that other programs use at the same time spoil it.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image

from segal.models.build import build_model, make_spec
from segal.models.checkpoint import save_checkpoint
from segal.scenes.synthetic import make_frame

ROOT = Path(__file__).resolve().parents[1]
FLOOR = 0.05
KINDS = ("parts", "beside", "ranks")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--images", type=int, default=96, help="a multiple of the ranks")
    parser.add_argument("--height", type=int, default=256, help="they are twice as wide")
    parser.add_argument("--region", default="64")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    args = parser.parse_args(argv)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lists = prepare(folder, args)
        rounds = [measure(folder / str(i), folder, lists, args) for i in range(args.repeats)]
    found = {kind: [one[kind] for one in rounds] for kind in KINDS}
    rates = {kind: median(one["rate"] for one in found[kind]) for kind in KINDS}
    losses = {
        kind: median(1 - one["ranks"]["rate"] / one[kind]["rate"] for one in rounds)
        for kind in ("parts", "beside")
    }
    print("| | images a second | the ranks lose | floor |\n|---|---|---|---|")
    for kind in ("parts", "beside"):
        print(f"| {kind} | {rates[kind]:.2f} | {100 * losses[kind]:.1f} % | {100 * FLOOR:.0f} % |")
    print(f"| ranks | {rates['ranks']:.2f} | | |")
    for kind in ("parts", "ranks"):
        peak = max(one["peak"] for one in found[kind]) / 2**20
        table = found[kind][0]["table"] / 2**20
        print(f"peak memory of {kind}: {peak:.0f} MiB, with tables of {table:.1f} MiB")
    if args.json:
        text = json.dumps({"arguments": vars(args), "rounds": rounds}, indent=1, default=str)
        args.json.write_text(text + "\n")


def prepare(folder: Path, args: argparse.Namespace) -> list[Path]:
    """Makes images, a network, and a list of the images of each share and of all."""
    images = folder / "images"
    images.mkdir(parents=True)
    size = (args.height, 2 * args.height)
    names = []
    for number in range(args.images):
        pixels, _ = make_frame("train", number % 8, size=size, seed=0, odd_sizes=False)
        names.append(images / f"{number:06d}.jpg")
        Image.fromarray(pixels).save(names[-1], quality=90 - number // 8 % 5)
    torch.manual_seed(0)
    model = build_model(make_spec("DeepLabV3Plus", "resnet18", [f"c{i}" for i in range(19)]))
    save_checkpoint(model.eval(), folder / "network.safetensors")
    each, lists = args.images // args.ranks, []
    for part in (*range(args.ranks), None):
        chosen = names if part is None else names[part * each : (part + 1) * each]
        lists.append(folder / f"{'all' if part is None else part}.txt")
        lists[-1].write_text("".join(f"{name}\n" for name in chosen))
    return lists


def measure(out: Path, folder: Path, lists: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """One turn of each."""
    options = ["--checkpoint", str(folder / "network.safetensors"), "--region", args.region]
    options += ["--budget", "5", "--strategy", "uwe", "--threads", "1", "--overlays", "0"]

    def command(images: Path, to: Path, launcher: list[str]) -> list[str]:
        call = [sys.executable, "-m", *launcher, "segal", "select", *options]
        return [*call, "--images", str(images), "--out", str(to)]

    *parts, whole = lists
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found: dict[str, Any] = {}
    for kind, together in (("parts", False), ("beside", True)):
        outs = [out / kind / part.stem for part in parts]
        running = []
        for part, to in zip(parts, outs, strict=True):
            running.append(subprocess.Popen(command(part, to, []), env=environment))
            if not together:
                running[-1].wait()
        if any(process.wait() for process in running):
            raise SystemExit("a part failed")
        found[kind] = summed([read(to) for to in outs])
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(args.ranks), "-m"]
    subprocess.run(command(whole, out / "ranks", launcher), env=environment, check=True)
    found["ranks"] = summed([read(out / "ranks")])
    return found


def read(out: Path) -> dict[str, float]:
    """What a selection says of its pass."""
    summary = json.loads((out / "summary.json").read_text())
    files = (out / "candidates").rglob("*.npy")
    return {
        "rate": summary["counts"]["images"] / summary["seconds"]["scan-0"],
        "peak": summary["peak_memory_bytes"]["host"],
        "table": sum(file.stat().st_size for file in files),
    }


def summed(found: list[dict[str, float]]) -> dict[str, float]:
    return {
        "rate": sum(one["rate"] for one in found),
        "peak": max(one["peak"] for one in found),
        "table": sum(one["table"] for one in found),
    }


if __name__ == "__main__":
    main()
