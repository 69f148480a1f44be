"""Time and memory of gradient scores against the bare forward pass and against backward passes.

    python tools/bench_gradients.py --threads 1 --json gradients.json

One process, the same images (decoded in memory beforehand), in turns; medians. The network is
DeepLabV3Plus with resnet18 and 19 classes, its weights and the directions random.

* `scan`: scans with gradient signals at 512, 256 and 128 pixels over the bare forward pass. S_a is
  differentiated by the last two layers, the others by the last one: the defaults. What
  finds the directions before a pass is not counted.
* `backward`: S_a by the last two layers against one backward pass per region with the graph kept,
  both beyond the forward pass. Some regions are timed, and their mean taken for all.
* `badge`: gradient embeddings against every pixel's gradient, formed region by region.

A floor is what cannot be avoided: forward pass, softmax, and the bare products that are counted.
`error_change` has a benchmark of its own, `bench_error_change.py`.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from bench_scan import make_model, make_pool
from torch import Tensor

from segal.candidates.evidence import Evidence
from segal.candidates.regions import RegionSize
from segal.functional.tiles import tile_boxes, windows
from segal.scanning.scan import Scan, ScanSettings
from segal.scanning.workbench import Bench
from segal.signals import (
    Directional,
    KeptMass,
    MeanFeature,
    Need,
    Pseudo,
    RegionGradient,
    Truncated,
)
from segal.system.machine import describe, find_device, use_threads
from segal.tasks.segmentation.task import Segmentation

SIZE = (1024, 2048)
REGIONS = ("512", "256", "128")
CLASSES, FEATURES, INPUTS = 19, 256, 304
TRUNCATED = Truncated(4 / CLASSES)


@dataclass(frozen=True)
class Noise:
    """A direction of random numbers."""

    layers: str
    seed: int
    needs: frozenset[Need] = frozenset()

    @property
    def name(self) -> str:
        return f"noise-{self.layers}-{self.seed}"

    def vector(self, bench):
        generator = torch.Generator().manual_seed(self.seed)
        parameters = bench.model.tail(self.layers).parameters
        return {
            name: torch.randn(p.shape, generator=generator, dtype=torch.float64)
            for name, p in parameters.items()
        }


S_A = Directional(Noise("last_two", 0), Pseudo())
ISAL = Directional(Noise("last", 1), Pseudo())
RALIF = (Directional(Noise("last", 2), TRUNCATED, "sum"), KeptMass(TRUNCATED), MeanFeature())
BADGE = RegionGradient(of_labelled=False)
SCANS = {
    "S_a": ((S_A,), 1.25),
    "S_a + ISAL + RALIF + BADGE": ((S_A, ISAL, *RALIF, BADGE), 1.5),
}


@dataclass
class Clock:
    """Wall and processor time, in seconds."""

    wall: float
    cpu: float

    @classmethod
    def of(cls, work: Callable[[], object], device: torch.device) -> "Clock":
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return cls(time.perf_counter() - wall, time.process_time() - cpu)


def medians(clocks: list[Clock]) -> dict[str, float]:
    return {
        "wall_ms": 1e3 * median(clock.wall for clock in clocks),
        "cpu_ms": 1e3 * median(clock.cpu for clock in clocks),
    }


def prepared(model, signals, device):
    bench = Bench(model, Segmentation(), ScanSettings(device))
    return [signal.prepare(bench) for signal in signals]


@torch.no_grad()
def evidence_of(model, image: Tensor):
    return model(image, ("last", "last_two"))


def image_of(model, pool, device: torch.device) -> Tensor:
    return model.normalise(torch.from_numpy(pool.read(0))[None].to(device))


def bare_forward(model, pool, device: torch.device) -> None:
    with torch.inference_mode():
        for i in range(len(pool)):
            model.network(model.normalise(torch.from_numpy(pool.read(i))[None].to(device)))


def scan(model, pool, device: torch.device, signals) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Scan(
            pool=pool,
            task=Segmentation(),
            regions=[RegionSize.parse(region) for region in REGIONS],
            settings=ScanSettings(device=device),
            signals=signals,
            model=model,
        ).run(Path(folder) / "candidates")


def softmax_in_chunks(logits: Tensor) -> None:
    for y in range(0, logits.shape[2], 64):
        for x in range(0, logits.shape[3], 256):
            logits[0, :, y : y + 64, x : x + 256].softmax(0)


def product(rows: int, inner: int, columns: int, device: torch.device) -> Callable[[], None]:
    """A bare product of so many columns, in pieces that stay in the cache."""
    a = torch.randn(rows, inner, device=device)
    b, out = (torch.randn(n, 1024, device=device) for n in (inner, rows))

    def run() -> None:
        for _ in range(columns // 1024):
            torch.mm(a, b, out=out)

    return run


def products(cells: tuple[int, int], device: torch.device) -> dict[str, tuple[float, Callable]]:
    """By name: billions of multiplications, and the bare products."""
    count = cells[0] * cells[1]
    view = windows(tile_boxes(RegionSize.parse("64").grid(*SIZE).boxes()), cells, SIZE, True)
    height, width = view.shape
    tiles = len(view)
    pixels = SIZE[0] * SIZE[1] * CLASSES
    narrow = tiles * CLASSES * height * 64
    window = -(-tiles * height * width // 1024) * 1024
    return {
        "pointwise layer": (1e-9 * count * FEATURES * INPUTS, product(256, 304, count, device)),
        "head": (1e-9 * count * FEATURES * CLASSES, product(19, 256, count, device)),
        "adjoint of the upsampling": (
            1e-9 * (pixels * height + narrow * width),
            lambda: (
                product(height, 64, pixels // 64, device)(),
                product(width, 64, narrow // 64, device)(),
            ),
        ),
        "windows' gradients": (
            1e-9 * tiles * height * width * FEATURES * CLASSES,
            product(19, 256, window, device),
        ),
    }


COUNTED = {  # times that each bare product is needed
    "S_a": {"pointwise layer": 1, "head": 2, "adjoint of the upsampling": 1},
    "S_a + ISAL + RALIF + BADGE": {
        "pointwise layer": 1,
        "head": 4,
        "adjoint of the upsampling": 2,
        "windows' gradients": 1,
    },
}


def bench_scan(model, pool, args, device: torch.device) -> dict[str, object]:
    """Scans over the bare forward pass."""
    evidence = evidence_of(model, image_of(model, pool, device))
    cells = (evidence.features.shape[-2], evidence.features.shape[-1])
    bare = products(cells, device)
    works: dict[str, Callable[[], object]] = {
        "forward": lambda: bare_forward(model, pool, device),
        "softmax": lambda: softmax_in_chunks(evidence.logits),
        **{name: run for name, (_, run) in bare.items()},
        **{name: lambda s=s: scan(model, pool, device, s) for name, (s, _) in SCANS.items()},
    }
    clocks: dict[str, list[Clock]] = {name: [] for name in works}
    for repeat in range(args.repeats + 1):
        for name, work in works.items():
            clock = Clock.of(work, device)
            if repeat:  # the first warms up
                clocks[name].append(clock)
    found = {name: medians(times) for name, times in clocks.items()}
    forward = {unit: ms / len(pool) for unit, ms in found["forward"].items()}
    rows = []
    print(f"\nforward {forward['cpu_ms']:.0f} ms, softmax {found['softmax']['cpu_ms']:.0f} ms")
    for name, (billions, _) in bare.items():
        print(f"{name}: {billions:.2f} G multiplications, {found[name]['cpu_ms']:.0f} ms")
    print(f"{'scan':<28} {'ms':>7} {'ratio':>6} {'wall':>6} {'floor':>6} {'aim':>5}")
    for name, (_, aim) in SCANS.items():
        extra = found["softmax"]["cpu_ms"] + sum(
            times * found[part]["cpu_ms"] for part, times in COUNTED[name].items()
        )
        row = {
            "scan": name,
            "cpu_ms": found[name]["cpu_ms"] / len(pool),
            "ratio": found[name]["cpu_ms"] / found["forward"]["cpu_ms"],
            "wall_ratio": found[name]["wall_ms"] / found["forward"]["wall_ms"],
            "paired_ratios": [
                own.cpu / bare.cpu
                for own, bare in zip(clocks[name], clocks["forward"], strict=True)
            ],
            "floor": 1 + extra / forward["cpu_ms"],
            "aim": aim,
        }
        rows.append(row)
        print(
            f"{name:<28} {row['cpu_ms']:7.0f} {row['ratio']:6.3f} {row['wall_ratio']:6.3f} "
            f"{row['floor']:6.3f} {aim:5.2f}"
        )
    return {"rows": rows, "milliseconds": found}


def graph(model, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits with the graph of the last two layers, and these layers' parameters."""
    tail = model.tail("last_two")
    evidence = evidence_of(model, image)
    parameters = [p.requires_grad_(True) for p in tail.parameters.values()]
    low = tail.low(evidence.tail_input["last_two"], tail.parameters)
    size = (image.shape[-2], image.shape[-1])
    return tail.upsample(low, size, evidence.upsampling), parameters


@torch.no_grad()
def measured(meter, evidence: Evidence, units) -> Tensor:
    """What a meter measures of evidence that nothing was computed from yet."""
    fresh = Evidence(evidence.logits, evidence.features, evidence.upsampling, evidence.tail_input)
    return meter.measure(fresh, units)


def one_backward(logits, labels, parameters, along, box) -> float:
    """The inner product of one region's gradient with a direction."""
    x0, y0, x1, y1 = box
    loss = F.cross_entropy(logits[..., y0:y1, x0:x1], labels[..., y0:y1, x0:x1])
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
    return float(sum((g * v).sum() for g, v in zip(gradients, along, strict=True)))


def bench_backward(model, pool, args, device: torch.device) -> list[dict[str, object]]:
    """S_a against one backward pass per region, both beyond the forward pass."""
    image = image_of(model, pool, device)
    (meter,) = prepared(model, [S_A], device)
    evidence = evidence_of(model, image)
    logits, parameters = graph(model, image)
    with torch.no_grad():
        labels = logits.softmax(1).max(1).indices  # as `Pseudo`, where classes are all but equal
    vector = S_A.direction.vector(Bench(model, Segmentation(), ScanSettings(device)))
    along = [vector[name].to(p) for name, p in model.tail("last_two").parameters.items()]
    print(
        f"\n{'regions':>8} {'ours ms':>8} {'backward ms':>12} {'times':>7} {'aim':>4} {'error':>8}"
    )
    rows = []
    for region, aim in (("512", 6), ("128", 80)):
        units = RegionSize.parse(region).grid(*SIZE)
        boxes = units.boxes().tolist()
        some = list(range(0, len(boxes), max(1, len(boxes) // args.regions)))
        ours = partial(measured, meter, evidence, units)
        one = partial(one_backward, logits, labels, parameters, along)
        values, _ = ours(), one(boxes[0])  # the first warms up
        mine = [Clock.of(ours, device) for _ in range(args.repeats)]
        clocks = [Clock.of(partial(one, boxes[i]), device) for i in some]
        theirs = torch.tensor([one(boxes[i]) for i in some[:4]], dtype=torch.float64)
        difference = (values[0, some[:4]].cpu() - theirs).abs().max()
        row: dict[str, Any] = {
            "regions": len(boxes),
            **medians(mine),
            "backward_cpu_ms": medians(clocks)["cpu_ms"] * len(boxes),
            "timed": len(some),
            "aim": aim,
            "relative_error": float(difference / theirs.abs().max()),
        }
        row["times"] = row["backward_cpu_ms"] / row["cpu_ms"]
        rows.append(row)
        print(
            f"{len(boxes):8} {row['cpu_ms']:8.0f} {row['backward_cpu_ms']:12.0f} "
            f"{row['times']:7.1f} {aim:4} {row['relative_error']:8.1e}"
        )
    return rows


@torch.no_grad()
def materialised(evidence: Evidence, units) -> Tensor:
    """Means of every pixel's gradient, region by region."""
    height, width = evidence.logits.shape[-2:]
    features = F.interpolate(
        evidence.features, evidence.upsampling.size, mode="bilinear", align_corners=True
    )[0, :, :height, :width]
    p = evidence.logits[0].softmax(0)
    p.scatter_add_(0, p.max(0, keepdim=True).indices, torch.full_like(p[:1], -1.0))
    means = []
    for x0, y0, x1, y1 in units.boxes().tolist():
        r, f = p[:, y0:y1, x0:x1], features[:, y0:y1, x0:x1]
        means.append((r[:, None] * f[None]).mean((-1, -2)).flatten())
    return torch.stack(means)


def peak_mib(work: Callable[[], object]) -> float:
    """How far a piece of work takes this process's memory, in a copy of the process."""

    def child(send) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        work()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        send.send(peak - pages * resource.getpagesize())

    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=child, args=(send,))
    process.start()
    used = receive.recv()
    process.join()
    return used / 2**20


def bench_badge(model, args, device: torch.device) -> dict[str, object]:
    """Gradient embeddings against materialised gradients of pixels; memory on a CPU only."""
    size = (512, 1024)
    evidence = evidence_of(model, image_of(model, make_pool(1, size), device))
    units = RegionSize.parse("256").grid(*size)
    (meter,) = prepared(model, [BADGE], device)

    ours = partial(measured, meter, evidence, units)
    theirs = partial(materialised, evidence, units)
    reference = theirs()
    error = float((ours()[0] - reference).abs().max() / reference.abs().max())
    clocks = [(Clock.of(ours, device), Clock.of(theirs, device)) for _ in range(args.repeats)]
    mine, other = (medians(list(times)) for times in zip(*clocks, strict=True))
    row: dict[str, object] = {
        "image": "x".join(map(str, size)),
        "regions": len(units),
        "ours": mine,
        "materialised": other,
        "times": other["cpu_ms"] / mine["cpu_ms"],
        "relative_error": error,
    }
    print(
        f"\nBADGE {row['image']}, {len(units)} regions: {mine['cpu_ms']:.0f} ms against "
        f"{other['cpu_ms']:.0f}, {row['times']:.1f} times (aim: 10), error {error:.1e}"
    )
    if device.type == "cpu":
        ours_mib, theirs_mib = peak_mib(ours), peak_mib(theirs)
        row |= {"ours_mib": ours_mib, "materialised_mib": theirs_mib}
        print(
            f"memory {ours_mib:.0f} MiB against {theirs_mib:.0f}, "
            f"{theirs_mib / ours_mib:.0f} times less (aim: 20)"
        )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--regions", type=int, default=8, help="backward passes timed, at least")
    parser.add_argument("--parts", nargs="+", default=["scan", "backward", "badge"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    use_threads(args.threads)
    device = find_device(args.device)
    result: dict[str, object] = {"machine": describe(device), "size": SIZE, "regions": REGIONS}
    print(result["machine"])
    model, pool = make_model(device), make_pool(args.images, SIZE)
    if "scan" in args.parts:
        result["scan"] = bench_scan(model, pool, args, device)
    if "backward" in args.parts:
        result["backward"] = bench_backward(model, pool, args, device)
    if "badge" in args.parts:
        result["badge"] = bench_badge(model, args, device)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
